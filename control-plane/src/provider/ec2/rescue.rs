//! What is done where an agent says nothing: it is started anew past itself, and
//! its last words are looked for.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::answers::Failure;
use super::{Ec2, turn};
use crate::provider::ssm::Rescue;
use crate::provider::{Error, Fault};

/// Bytes of a machine's last words that are kept, from the end.
const JOURNAL_MAX: usize = 16 * 1024;

impl Ec2 {
    pub(super) async fn rescue(&self, what: Rescue, reference: &str) -> Result<String, Error> {
        let document = &self.pool.rescue_document;
        self.ssm
            .rescue(&self.limits, document, what, reference)
            .await
    }

    /// What the agent wrote, or what the machine's screen would show.
    pub(super) async fn last_words(&self, reference: &str) -> Result<String, Error> {
        let journal = self.rescue(Rescue::Journal, reference).await;
        if let Ok(journal) = &journal
            && !journal.trim().is_empty()
        {
            return Ok(tail(journal));
        }
        // The newest lines are had of machines of today's kinds only.
        match self.console(reference, true).await {
            Err(error) if error.fault == Fault::Refused => self.console(reference, false).await,
            console => console,
        }
    }

    async fn console(&self, reference: &str, newest: bool) -> Result<String, Error> {
        const DOING: &str = "read a console";
        turn(&self.limits.console, DOING).await?;
        let asked = self.looks.get_console_output().instance_id(reference);
        let asked = asked.set_latest(newest.then_some(true)).send().await;
        let answer = asked.map_err(|it| Failure::of(&it).of_call(DOING))?;
        let output = STANDARD.decode(answer.output().unwrap_or_default());
        let output = output.map_err(|error| Error {
            doing: DOING,
            fault: Fault::Unknown,
            reason: error.to_string(),
        })?;
        Ok(tail(&String::from_utf8_lossy(&output)))
    }
}

/// The end of a text, from a whole character on.
fn tail(text: &str) -> String {
    let least = text.len().saturating_sub(JOURNAL_MAX);
    let start = (least..text.len()).find(|it| text.is_char_boundary(*it));
    text[start.unwrap_or(text.len())..].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_long_words_the_end_is_kept_in_whole_characters() {
        assert_eq!(tail("short"), "short");
        assert_eq!(tail(""), "");
        let long = format!("{}the end", "é".repeat(JOURNAL_MAX));
        let kept = tail(&long);
        assert!(kept.ends_with("éthe end"));
        assert!(kept.len() <= JOURNAL_MAX && kept.len() > JOURNAL_MAX - 2);
    }
}
