//! Selectors: how a caller names an element.
//!
//! ```text
//! css          #login > button            whatever no other line claims
//! text         text=Sign in               part of it, any case
//!              text="Sign in"             all of it, exactly
//! xpath        xpath=//button   //button
//! role         role=button[name="Save"][disabled=false]
//! ```
//!
//! Pure: only the prefix and the role's attributes are read here. Whether CSS and
//! XPath can be read, the page's own parser says.

use serde::Serialize;

use browserfleet_proto::limits;

/// A selector whose kind is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(super) enum Selector {
    Css {
        css: String,
    },
    Text {
        text: String,
        exact: bool,
    },
    Xpath {
        xpath: String,
    },
    Role {
        role: String,
        name: Option<Name>,
        states: Vec<State>,
    },
}

/// The accessible name that a role selector asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Name {
    text: String,
    /// All of it with its case, or a part in any case.
    exact: bool,
}

/// One more thing that a role selector asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct State {
    key: &'static str,
    value: Value,
}

/// A state is on or off; a level is a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(untagged)]
enum Value {
    Flag(bool),
    Level(u8),
}

const FLAGS: [&str; 5] = ["checked", "disabled", "expanded", "pressed", "selected"];

impl Selector {
    /// Reads a selector; the error says what is wrong with it.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        if text.len() > limits::SELECTOR_BYTES_MAX {
            return Err("the selector is too long");
        }
        let text = text.trim();
        if let Some(rest) = text.strip_prefix("text=") {
            return Self::text(rest.trim());
        }
        if let Some(rest) = text.strip_prefix("role=") {
            return Self::role(rest.trim());
        }
        if let Some(rest) = text.strip_prefix("xpath=") {
            let xpath = non_empty(rest.trim(), "the XPath is empty")?;
            return Ok(Self::Xpath { xpath });
        }
        if text.starts_with("//") {
            let xpath = text.to_owned();
            return Ok(Self::Xpath { xpath });
        }
        let css = text.strip_prefix("css=").unwrap_or(text).trim();
        let css = non_empty(css, "the selector is empty")?;
        Ok(Self::Css { css })
    }

    fn text(rest: &str) -> Result<Self, &'static str> {
        let (text, exact) = match rest.chars().next() {
            Some(quote @ ('"' | '\'')) => match unquote(rest, quote) {
                Some((text, "")) => (text, true),
                _ => return Err("the text's quotation marks do not match"),
            },
            _ => (rest.to_owned(), false),
        };
        let text = non_empty(text.trim(), "the text is empty")?;
        Ok(Self::Text { text, exact })
    }

    fn role(rest: &str) -> Result<Self, &'static str> {
        let end = rest.find('[').unwrap_or(rest.len());
        let role = rest[..end].trim().to_ascii_lowercase();
        if role.is_empty() || !role.chars().all(|it| it.is_ascii_alphabetic()) {
            return Err("the role is not a word");
        }
        let mut name = None;
        let mut states = Vec::new();
        let mut rest = rest[end..].trim_start();
        while let Some(inside) = rest.strip_prefix('[') {
            let split = inside
                .find(['=', ']'])
                .ok_or("an attribute of the role is not closed")?;
            let key = inside[..split].trim();
            let (value, behind) = role_value(&inside[split..])?;
            rest = behind.trim_start();
            if key == "name" {
                name = Some(value.ok_or("the name has no value")?);
            } else {
                states.push(State::parse(key, value.as_ref())?);
            }
        }
        if !rest.is_empty() {
            return Err("after a role come attributes in brackets");
        }
        Ok(Self::Role { role, name, states })
    }
}

impl State {
    fn parse(key: &str, value: Option<&Name>) -> Result<Self, &'static str> {
        let value = value.map(|it| it.text.as_str());
        if key == "level" {
            let level = value.and_then(|it| it.parse().ok());
            let value = Value::Level(level.ok_or("the level is not a number")?);
            return Ok(Self {
                key: "level",
                value,
            });
        }
        let key = FLAGS.iter().find(|it| **it == key);
        let key = key.ok_or("the role's attribute is not known")?;
        let value = match value {
            None | Some("true") => Value::Flag(true),
            Some("false") => Value::Flag(false),
            Some(_) => return Err("the role's attribute is neither true nor false"),
        };
        Ok(Self { key, value })
    }
}

/// Reads `="value"]`, `=value]` or `]`; gives what comes after it too.
fn role_value(text: &str) -> Result<(Option<Name>, &str), &'static str> {
    const OPEN: &str = "an attribute of the role is not closed";
    let Some(value) = text.strip_prefix('=') else {
        return Ok((None, text.strip_prefix(']').ok_or(OPEN)?));
    };
    let value = value.trim_start();
    if let Some(quote @ ('"' | '\'')) = value.chars().next() {
        let (text, behind) = unquote(value, quote).ok_or(OPEN)?;
        let behind = behind.trim_start();
        let (exact, behind) = match behind.strip_prefix('i') {
            Some(behind) => (false, behind.trim_start()),
            None => (true, behind),
        };
        let behind = behind.strip_prefix(']').ok_or(OPEN)?;
        return Ok((Some(Name { text, exact }), behind));
    }
    let (text, behind) = value.split_once(']').ok_or(OPEN)?;
    let text = text.trim().to_owned();
    Ok((Some(Name { text, exact: false }), behind))
}

/// Takes a quoted text off the front; a backslash keeps the next character.
fn unquote(text: &str, quote: char) -> Option<(String, &str)> {
    let mut inside = String::new();
    let mut characters = text.char_indices().skip(1);
    while let Some((at, it)) = characters.next() {
        match it {
            '\\' => inside.push(characters.next()?.1),
            it if it == quote => return Some((inside, &text[at + it.len_utf8()..])),
            it => inside.push(it),
        }
    }
    None
}

fn non_empty(text: &str, otherwise: &'static str) -> Result<String, &'static str> {
    if text.is_empty() {
        Err(otherwise)
    } else {
        Ok(text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn json(text: &str) -> String {
        serde_json::to_string(&Selector::parse(text).expect("a selector")).expect("JSON")
    }

    #[test]
    fn the_prefix_decides_the_kind() {
        assert_eq!(json(" #a > b "), r##"{"kind":"css","css":"#a > b"}"##);
        assert_eq!(json("css=a"), r#"{"kind":"css","css":"a"}"#);
        assert_eq!(json("//a[1]"), r#"{"kind":"xpath","xpath":"//a[1]"}"#);
        assert_eq!(
            json("xpath=id('x')"),
            r#"{"kind":"xpath","xpath":"id('x')"}"#
        );
        assert_eq!(
            json("text= Sign in "),
            r#"{"kind":"text","text":"Sign in","exact":false}"#
        );
        assert_eq!(
            json("text='It\\'s'"),
            r#"{"kind":"text","text":"It's","exact":true}"#
        );
    }

    #[test]
    fn a_role_takes_a_name_and_states() {
        assert_eq!(
            json(r#"role=Button[name="Save ]"] [disabled=false][checked]"#),
            r#"{"kind":"role","role":"button","name":{"text":"Save ]","exact":true},"states":[{"key":"disabled","value":false},{"key":"checked","value":true}]}"#
        );
        assert_eq!(
            json("role=heading[level=2][name=intro]"),
            r#"{"kind":"role","role":"heading","name":{"text":"intro","exact":false},"states":[{"key":"level","value":2}]}"#
        );
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        for text in [
            "",
            "  ",
            "text=",
            "text=\"",
            "text=\"a\"b",
            "xpath=",
            "role=",
            "role=a b",
            "role=button[",
            "role=button[name]",
            "role=button[name=\"a\"",
            "role=button[colour=red]",
            "role=button]",
            "role=button[disabled=perhaps]",
            "role=heading[level=x]",
        ] {
            assert!(Selector::parse(text).is_err(), "{text}");
        }
        assert!(Selector::parse(&"a".repeat(limits::SELECTOR_BYTES_MAX + 1)).is_err());
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(prefix in "(text=|role=|xpath=|role=a\\[name=|//)?", text in "\\PC*|[\\u{0}-\\u{2f}\\u{202e}\\[\\]=\"'\\\\]*") {
            let _ = Selector::parse(&format!("{prefix}{text}"));
        }
    }
}
