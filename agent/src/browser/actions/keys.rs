//! Which keys a text takes on a US keyboard. Pure.
//!
//! What that keyboard has is pressed key by key; the rest (other scripts, emoji)
//! arrives as an input method gives it: a whole run at once.

/// One press of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key {
    /// What it writes; `None`: it only acts.
    pub(super) writes: Option<char>,
    /// `KeyboardEvent.key`, where it is not what the key writes.
    pub(super) name: Option<&'static str>,
    /// `KeyboardEvent.code`
    pub(super) code: Code,
    /// `windowsVirtualKeyCode`
    pub(super) virtual_code: u32,
    /// Whether Shift is down.
    pub(super) shift: bool,
}

/// `KeyboardEvent.code`: letters and digits carry theirs in their names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Code {
    Letter(char),
    Digit(char),
    Named(&'static str),
}

impl std::fmt::Display for Code {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Letter(it) => write!(out, "Key{it}"),
            Self::Digit(it) => write!(out, "Digit{it}"),
            Self::Named(it) => out.write_str(it),
        }
    }
}

pub(super) const ENTER: Key = acting("Enter", 13, Some('\r'));
pub(super) const TAB: Key = acting("Tab", 9, None);
pub(super) const DELETE: Key = acting("Delete", 46, None);

const fn acting(name: &'static str, virtual_code: u32, writes: Option<char>) -> Key {
    Key {
        writes,
        name: Some(name),
        code: Code::Named(name),
        virtual_code,
        shift: false,
    }
}

/// One step of typing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stroke {
    Press(Key),
    Insert(String),
}

/// Above this many characters a run of printable keys is inserted whole: key by
/// key a megabyte would take minutes, and no user types that much.
pub(super) const PRESSED_CHARACTERS_MAX: usize = 4096;

/// The steps that write a text.
pub(super) fn strokes(text: &str) -> Vec<Stroke> {
    let by_key = text.chars().nth(PRESSED_CHARACTERS_MAX).is_none();
    let mut strokes = Vec::new();
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        if character == '\r' && characters.peek() == Some(&'\n') {
            continue;
        }
        match key(character) {
            Some(key) if by_key || key.name.is_some() => strokes.push(Stroke::Press(key)),
            _ => match strokes.last_mut() {
                Some(Stroke::Insert(run)) => run.push(character),
                _ => strokes.push(Stroke::Insert(character.into())),
            },
        }
    }
    strokes
}

/// The key that writes a character, if the keyboard has one.
fn key(character: char) -> Option<Key> {
    const DIGITS_SHIFTED: &str = ")!@#$%^&*(";
    let (code, virtual_code, shift) = match character {
        '\n' | '\r' => return Some(ENTER),
        '\t' => return Some(TAB),
        ' ' => (Code::Named("Space"), 32, false),
        'a'..='z' | 'A'..='Z' => {
            let upper = character.to_ascii_uppercase();
            (Code::Letter(upper), upper.into(), character == upper)
        }
        '0'..='9' => (Code::Digit(character), character.into(), false),
        _ => match DIGITS_SHIFTED.find(character) {
            Some(at) => {
                let digit = char::from(b'0' + u8::try_from(at).ok()?);
                (Code::Digit(digit), digit.into(), true)
            }
            None => punctuation(character)?,
        },
    };
    Some(Key {
        writes: Some(character),
        name: None,
        code,
        virtual_code,
        shift,
    })
}

fn punctuation(character: char) -> Option<(Code, u32, bool)> {
    const KEYS: [(char, char, &str, u32); 11] = [
        (';', ':', "Semicolon", 186),
        ('=', '+', "Equal", 187),
        (',', '<', "Comma", 188),
        ('-', '_', "Minus", 189),
        ('.', '>', "Period", 190),
        ('/', '?', "Slash", 191),
        ('`', '~', "Backquote", 192),
        ('[', '{', "BracketLeft", 219),
        ('\\', '|', "Backslash", 220),
        (']', '}', "BracketRight", 221),
        ('\'', '"', "Quote", 222),
    ];
    KEYS.iter()
        .find(|(plain, shifted, ..)| [*plain, *shifted].contains(&character))
        .map(|(plain, _, code, number)| (Code::Named(code), *number, character != *plain))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_printable_ascii_character_has_a_key() {
        for character in ' '..='~' {
            assert_eq!(key(character).and_then(|it| it.writes), Some(character));
        }
    }

    #[test]
    fn shift_is_down_for_what_needs_it() {
        for character in "AZ!@#$%^&*()_+{}|:\"<>?~".chars() {
            assert!(key(character).is_some_and(|it| it.shift), "{character}");
        }
        for character in "az0123456789-=[]\\;',./` ".chars() {
            assert!(key(character).is_some_and(|it| !it.shift), "{character}");
        }
        assert_eq!(
            key('(').map(|it| it.code.to_string()).as_deref(),
            Some("Digit9")
        );
        assert_eq!(
            key('q').map(|it| it.code.to_string()).as_deref(),
            Some("KeyQ")
        );
    }

    #[test]
    fn what_the_keyboard_lacks_comes_in_runs() {
        let steps = strokes("aéü\u{1f600}b\r\n");
        assert_eq!(steps.len(), 4);
        assert_eq!(steps[1], Stroke::Insert("éü\u{1f600}".into()));
        assert_eq!(steps[3], Stroke::Press(ENTER));
    }

    #[test]
    fn a_long_text_is_inserted_between_its_lines() {
        let line = "x".repeat(PRESSED_CHARACTERS_MAX);
        assert_eq!(strokes(&line).len(), PRESSED_CHARACTERS_MAX);
        assert_eq!(strokes(&format!("{line}\n{line}")).len(), 3);
    }

    proptest! {
        #[test]
        fn nothing_of_a_text_is_lost(text in "\\PC*") {
            let typed: String = strokes(&text)
                .into_iter()
                .map(|it| match it {
                    Stroke::Press(key) => key.writes.unwrap_or('\t').to_string(),
                    Stroke::Insert(run) => run,
                })
                .collect();
            prop_assert_eq!(typed, text);
        }
    }
}
