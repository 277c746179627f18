//! What a person does to the page that they see, in CDP's vocabulary. Bounds are
//! checked once, where the input comes in; nothing beyond them is an [`Input`].

use serde::{Deserialize, Serialize};

use crate::limits::{INPUT_TEXT_BYTES_MAX, URL_BYTES_MAX};

/// Farthest place from the view's corner, in CSS pixels: a pointer may leave the view
/// while its button is down.
const PLACE_MAX: f64 = 32_768.0;
/// Largest turn of a wheel in one event, in CSS pixels.
const WHEEL_MAX: f64 = 100_000.0;
/// CDP's modifiers: Alt, Ctrl, Meta and Shift, a bit each.
const MODIFIERS_MAX: u32 = 15;
/// CDP's buttons that are down: five, a bit each.
const BUTTONS_MAX: u32 = 31;
/// Most clicks in a row that mean something.
const CLICKS_MAX: u32 = 3;
/// Longest name or text of one key, in bytes.
const KEY_BYTES_MAX: usize = 64;
/// Most editing commands of one key.
const KEY_COMMANDS_MAX: usize = 8;
/// Most fingers at once.
const TOUCHES_MAX: usize = 16;
/// Longest name of a tab, in bytes.
const TAB_BYTES_MAX: usize = 64;

/// One thing that a person does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Input {
    /// `Input.dispatchMouseEvent`
    Mouse(Mouse),
    /// `Input.dispatchKeyEvent`
    Key(Key),
    /// `Input.dispatchTouchEvent`
    Touch(Touch),
    /// `Input.imeSetComposition`: what an input method shows and may change yet.
    Composition(Composition),
    /// `Input.insertText`: what was pasted, or what an input method decided on.
    InsertText(Text),
    /// Asks for the text that is selected.
    Copy {},
    /// Goes to an address.
    Navigate {
        /// Where to.
        url: String,
    },
    /// Goes back in the tab's history.
    Back {},
    /// Goes forward in the tab's history.
    Forward {},
    /// Loads the page anew.
    #[serde(rename_all = "camelCase")]
    Reload {
        /// Asks the server for all of it.
        #[serde(default)]
        ignore_cache: bool,
    },
    /// Loads no further.
    Stop {},
    /// Opens a tab.
    NewTab {
        /// With this address.
        #[serde(default)]
        url: Option<String>,
    },
    /// Makes a tab the active one.
    #[serde(rename_all = "camelCase")]
    ActivateTab {
        /// Its id.
        tab_id: String,
    },
    /// Closes a tab.
    #[serde(rename_all = "camelCase")]
    CloseTab {
        /// Its id.
        tab_id: String,
    },
    /// Answers the dialog that is open.
    AnswerDialog {
        /// OK, or Cancel.
        accept: bool,
        /// What to write into a prompt.
        #[serde(default)]
        text: String,
    },
}

/// Which of the mouse's events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "CDP's words")]
pub enum MouseType {
    MousePressed,
    MouseReleased,
    MouseMoved,
    MouseWheel,
}

/// A button of the mouse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "CDP's words")]
pub enum Button {
    #[default]
    None,
    Left,
    Middle,
    Right,
    Back,
    Forward,
}

/// What points.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "CDP's words")]
pub enum Pointer {
    #[default]
    Mouse,
    Pen,
}

/// An event of the mouse.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mouse {
    /// Which.
    #[serde(rename = "type")]
    pub what: MouseType,
    /// From the view's left, in CSS pixels.
    pub x: f64,
    /// From the view's top, in CSS pixels.
    pub y: f64,
    /// Alt 1, Ctrl 2, Meta 4, Shift 8.
    #[serde(default)]
    pub modifiers: u32,
    /// That is pressed or released.
    #[serde(default)]
    pub button: Button,
    /// That are down: left 1, right 2, middle 4, back 8, forward 16.
    #[serde(default)]
    pub buttons: u32,
    /// In a row.
    #[serde(default)]
    pub click_count: u32,
    /// How far the wheel turned to the right, in CSS pixels.
    #[serde(default)]
    pub delta_x: f64,
    /// How far the wheel turned down, in CSS pixels.
    #[serde(default)]
    pub delta_y: f64,
    /// What points.
    #[serde(default)]
    pub pointer_type: Pointer,
}

/// Which of a key's events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "CDP's words")]
pub enum KeyType {
    KeyDown,
    KeyUp,
    RawKeyDown,
    Char,
}

/// An event of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Key {
    /// Which.
    #[serde(rename = "type")]
    pub what: KeyType,
    /// Alt 1, Ctrl 2, Meta 4, Shift 8.
    #[serde(default)]
    pub modifiers: u32,
    /// What it writes.
    #[serde(default)]
    pub text: String,
    /// What it writes without modifiers.
    #[serde(default)]
    pub unmodified_text: String,
    /// `KeyboardEvent.code`
    #[serde(default)]
    pub code: String,
    /// `KeyboardEvent.key`
    #[serde(default)]
    pub key: String,
    /// `KeyboardEvent.keyCode`
    #[serde(default)]
    pub windows_virtual_key_code: u32,
    /// `KeyboardEvent.repeat`
    #[serde(default)]
    pub auto_repeat: bool,
    /// Whether it is on the number pad.
    #[serde(default)]
    pub is_keypad: bool,
    /// `KeyboardEvent.location`
    #[serde(default)]
    pub location: u32,
    /// Editing commands that it stands for, for example `selectAll`.
    #[serde(default)]
    pub commands: Vec<String>,
}

/// Which of the events of touching.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "CDP's words")]
pub enum TouchType {
    TouchStart,
    TouchEnd,
    TouchMove,
    TouchCancel,
}

/// An event of touching.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Touch {
    /// Which.
    #[serde(rename = "type")]
    pub what: TouchType,
    /// The fingers that touch; none at the end.
    #[serde(default)]
    pub touch_points: Vec<TouchPoint>,
    /// Alt 1, Ctrl 2, Meta 4, Shift 8.
    #[serde(default)]
    pub modifiers: u32,
}

/// A finger.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TouchPoint {
    /// From the view's left, in CSS pixels.
    pub x: f64,
    /// From the view's top, in CSS pixels.
    pub y: f64,
    /// Which finger.
    #[serde(default)]
    pub id: u32,
    /// Half of what it covers, in CSS pixels.
    #[serde(default = "one")]
    pub radius_x: f64,
    /// Half of what it covers, in CSS pixels.
    #[serde(default = "one")]
    pub radius_y: f64,
    /// From 0 to 1.
    #[serde(default = "one")]
    pub force: f64,
}

fn one() -> f64 {
    1.0
}

/// What an input method shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Composition {
    /// All of it.
    pub text: String,
    /// From where it is selected, in UTF-16 units.
    #[serde(default)]
    pub selection_start: u32,
    /// To where.
    #[serde(default)]
    pub selection_end: u32,
}

/// A text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Text {
    /// All of it.
    pub text: String,
}

/// What of an input is beyond its bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct OutOfBounds {
    /// The field, in CDP's words.
    pub field: &'static str,
    /// Why not.
    pub message: &'static str,
}

impl Input {
    /// Whether all of it is within its bounds.
    ///
    /// # Errors
    /// [`OutOfBounds`]
    pub fn check(&self) -> Result<(), OutOfBounds> {
        match self {
            Self::Mouse(it) => it.check(),
            Self::Key(it) => it.check(),
            Self::Touch(it) => it.check(),
            Self::Composition(it) => it.check(),
            Self::InsertText(it) => long("text", &it.text, INPUT_TEXT_BYTES_MAX),
            Self::Navigate { url } => long("url", url, URL_BYTES_MAX),
            Self::NewTab { url } => url
                .as_ref()
                .map_or(Ok(()), |url| long("url", url, URL_BYTES_MAX)),
            Self::ActivateTab { tab_id } | Self::CloseTab { tab_id } => {
                long("tabId", tab_id, TAB_BYTES_MAX)
            }
            Self::AnswerDialog { text, .. } => long("text", text, INPUT_TEXT_BYTES_MAX),
            Self::Copy {}
            | Self::Back {}
            | Self::Forward {}
            | Self::Reload { .. }
            | Self::Stop {} => Ok(()),
        }
    }

    /// Whether a later one makes this one needless: the pointer only passes.
    #[must_use]
    pub fn is_overtaken_by(&self, later: &Self) -> bool {
        match (self, later) {
            (Self::Mouse(one), Self::Mouse(other)) => {
                one.what == MouseType::MouseMoved
                    && other.what == MouseType::MouseMoved
                    && one.buttons == other.buttons
                    && one.modifiers == other.modifiers
            }
            (Self::Touch(one), Self::Touch(other)) => {
                let fingers = |it: &Touch| {
                    let ids = it.touch_points.iter().map(|it| it.id);
                    ids.collect::<Vec<_>>()
                };
                one.what == TouchType::TouchMove
                    && other.what == TouchType::TouchMove
                    && one.modifiers == other.modifiers
                    && fingers(one) == fingers(other)
            }
            _ => false,
        }
    }
}

impl Mouse {
    fn check(&self) -> Result<(), OutOfBounds> {
        within("x", self.x, PLACE_MAX)?;
        within("y", self.y, PLACE_MAX)?;
        within("deltaX", self.delta_x, WHEEL_MAX)?;
        within("deltaY", self.delta_y, WHEEL_MAX)?;
        up_to("modifiers", self.modifiers, MODIFIERS_MAX)?;
        up_to("buttons", self.buttons, BUTTONS_MAX)?;
        up_to("clickCount", self.click_count, CLICKS_MAX)
    }
}

impl Key {
    fn check(&self) -> Result<(), OutOfBounds> {
        up_to("modifiers", self.modifiers, MODIFIERS_MAX)?;
        long("text", &self.text, KEY_BYTES_MAX)?;
        long("unmodifiedText", &self.unmodified_text, KEY_BYTES_MAX)?;
        long("code", &self.code, KEY_BYTES_MAX)?;
        long("key", &self.key, KEY_BYTES_MAX)?;
        up_to("windowsVirtualKeyCode", self.windows_virtual_key_code, 255)?;
        up_to("location", self.location, 3)?;
        if self.commands.len() > KEY_COMMANDS_MAX {
            return Err(OutOfBounds {
                field: "commands",
                message: "too many of them",
            });
        }
        self.commands
            .iter()
            .try_for_each(|it| long("commands", it, KEY_BYTES_MAX))
    }
}

impl Touch {
    fn check(&self) -> Result<(), OutOfBounds> {
        up_to("modifiers", self.modifiers, MODIFIERS_MAX)?;
        let ends = matches!(self.what, TouchType::TouchEnd | TouchType::TouchCancel);
        let count = self.touch_points.len();
        // Chrome says so too, but nobody hears it.
        if (ends && count > 0) || (!ends && count == 0) || count > TOUCHES_MAX {
            return Err(OutOfBounds {
                field: "touchPoints",
                message: "none where the touch ends, else 1 to 16",
            });
        }
        for point in &self.touch_points {
            within("x", point.x, PLACE_MAX)?;
            within("y", point.y, PLACE_MAX)?;
            within("radiusX", point.radius_x, PLACE_MAX)?;
            within("radiusY", point.radius_y, PLACE_MAX)?;
            within("force", point.force, 1.0)?;
            up_to("id", point.id, 255)?;
        }
        Ok(())
    }
}

impl Composition {
    fn check(&self) -> Result<(), OutOfBounds> {
        long("text", &self.text, INPUT_TEXT_BYTES_MAX)?;
        let units = u32::try_from(self.text.encode_utf16().count()).unwrap_or(u32::MAX);
        if self.selection_start > self.selection_end {
            return Err(OutOfBounds {
                field: "selectionStart",
                message: "after the selection's end",
            });
        }
        up_to("selectionEnd", self.selection_end, units)
    }
}

fn within(field: &'static str, value: f64, most: f64) -> Result<(), OutOfBounds> {
    // What is no number is not within.
    if value.abs() <= most {
        return Ok(());
    }
    let message = "not a number that makes sense here";
    Err(OutOfBounds { field, message })
}

fn up_to(field: &'static str, value: u32, most: u32) -> Result<(), OutOfBounds> {
    if value <= most {
        return Ok(());
    }
    let message = "larger than it can be";
    Err(OutOfBounds { field, message })
}

fn long(field: &'static str, text: &str, bytes: usize) -> Result<(), OutOfBounds> {
    if text.len() <= bytes {
        return Ok(());
    }
    let message = "too long";
    Err(OutOfBounds { field, message })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Input, String> {
        let input: Input = serde_json::from_str(text).map_err(|error| error.to_string())?;
        input.check().map_err(|error| error.to_string())?;
        Ok(input)
    }

    #[test]
    fn cdps_vocabulary_is_understood_and_nothing_else() {
        for good in [
            r#"{"kind":"mouse","type":"mousePressed","x":1.5,"y":2,"button":"left","buttons":1,"clickCount":1}"#,
            r#"{"kind":"mouse","type":"mouseWheel","x":1,"y":2,"deltaX":0,"deltaY":-120}"#,
            r#"{"kind":"key","type":"keyDown","key":"a","code":"KeyA","windowsVirtualKeyCode":65,"text":"a"}"#,
            r#"{"kind":"touch","type":"touchStart","touchPoints":[{"x":1,"y":1,"id":0}]}"#,
            r#"{"kind":"touch","type":"touchEnd"}"#,
            r#"{"kind":"composition","text":"\u304b","selectionStart":1,"selectionEnd":1}"#,
            r#"{"kind":"insert_text","text":"x"}"#,
            r#"{"kind":"copy"}"#,
            r#"{"kind":"reload","ignoreCache":true}"#,
            r#"{"kind":"activate_tab","tabId":"A"}"#,
            r#"{"kind":"answer_dialog","accept":true}"#,
        ] {
            read(good).unwrap_or_else(|error| panic!("{good}: {error}"));
        }
        for bad in [
            r#"{"kind":"mouse","type":"mousePressed","x":1,"y":2,"script":"x"}"#,
            r#"{"kind":"mouse","type":"mouseDreamt","x":1,"y":2}"#,
            r#"{"kind":"mouse","type":"mouseMoved","x":1e9,"y":2}"#,
            r#"{"kind":"mouse","type":"mouseMoved","x":null,"y":2}"#,
            r#"{"kind":"mouse","type":"mouseMoved","x":1,"y":2,"modifiers":16}"#,
            r#"{"kind":"key","type":"keyDown","windowsVirtualKeyCode":-1}"#,
            r#"{"kind":"touch","type":"touchStart","touchPoints":[]}"#,
            r#"{"kind":"composition","text":"a","selectionStart":0,"selectionEnd":2}"#,
            r#"{"kind":"copy","all":true}"#,
            r#"{"kind":"evaluate","expression":"1"}"#,
            r#"{"type":"mouseMoved","x":1,"y":2}"#,
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn numbers_that_are_none_are_refused() {
        for strange in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let mut mouse = Mouse {
                what: MouseType::MouseMoved,
                x: 0.0,
                y: 0.0,
                modifiers: 0,
                button: Button::None,
                buttons: 0,
                click_count: 0,
                delta_x: 0.0,
                delta_y: 0.0,
                pointer_type: Pointer::Mouse,
            };
            assert!(Input::Mouse(mouse).check().is_ok());
            mouse.delta_y = strange;
            assert!(Input::Mouse(mouse).check().is_err());
        }
    }

    #[test]
    fn only_moves_are_overtaken_and_only_by_moves_like_them() {
        let mouse = |what: &str, buttons: u32| {
            read(&format!(
                r#"{{"kind":"mouse","type":"{what}","x":1,"y":1,"buttons":{buttons}}}"#
            ))
            .expect("an input")
        };
        assert!(mouse("mouseMoved", 0).is_overtaken_by(&mouse("mouseMoved", 0)));
        assert!(!mouse("mouseMoved", 0).is_overtaken_by(&mouse("mouseMoved", 1)));
        assert!(!mouse("mousePressed", 1).is_overtaken_by(&mouse("mouseMoved", 1)));
        assert!(!mouse("mouseMoved", 0).is_overtaken_by(&mouse("mousePressed", 0)));
        assert!(!mouse("mouseWheel", 0).is_overtaken_by(&mouse("mouseWheel", 0)));
    }
}
