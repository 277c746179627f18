//! What operators are told: the log, which is here, and the metrics.
//!
//! Logs: one line an event, ids as fields, as text for people or JSON for
//! programs. What would end a line, colour it or turn it around is escaped,
//! wherever in an event it is.

pub mod labels;
pub mod metrics;
mod process;

use std::io::{self, Write};

use tracing_subscriber::EnvFilter;

use crate::config::{LogFormat, Telemetry};

/// Starts writing the log to standard error.
pub fn start(config: &Telemetry) {
    let filter = EnvFilter::new(&config.filter);
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_writer(|| Harmless(io::stderr()));
    let started = match config.format {
        LogFormat::Text => builder.with_ansi(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    if started.is_err() {
        tracing::debug!("the log was started before");
    }
    std::panic::set_hook(Box::new(|panic| {
        tracing::error!(%panic, "a panic");
    }));
}

/// Writes events, each of them whole, and each on one line.
struct Harmless<W>(W);

impl<W: Write> Write for Harmless<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let (text, end) = match text.strip_suffix('\n') {
            Some(text) => (text, "\n"),
            None => (&*text, ""),
        };
        if text.chars().any(is_harmful) {
            let mut escaped = String::with_capacity(text.len() + end.len());
            for character in text.chars() {
                if is_harmful(character) {
                    escaped.extend(character.escape_unicode());
                } else {
                    escaped.push(character);
                }
            }
            escaped.push_str(end);
            self.0.write_all(escaped.as_bytes())?;
        } else {
            self.0.write_all(event)?;
        }
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Control characters, and those that change the direction of what follows
/// (UAX #9) or separate lines (UAX #14).
fn is_harmful(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line_that_does_nothing() {
        let mut written = Harmless(Vec::new());
        let event = "INFO a\r\nERROR forged \u{1b}[31m \u{202e}evil \u{f6}\n";
        assert_eq!(
            written.write(event.as_bytes()).expect("written"),
            event.len()
        );
        let text = String::from_utf8(written.0).expect("text");
        let line = "INFO a\\u{d}\\u{a}ERROR forged \\u{1b}[31m \\u{202e}evil \u{f6}\n";
        assert_eq!(text, line);
    }
}
