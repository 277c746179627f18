//! Between the messages of the wire and the types of [`crate::action`]. Here,
//! and nowhere else, what prost makes optional is checked and stripped.

use serde_json::value::RawValue;

use crate::action::{
    Action, Answer, AnswerDialog, Area, BrowserKind, Captured, Click, ClickTarget, Code, Dialog,
    DialogPolicy, Edge, Evaluated, Execute, ImageFormat, MouseButton, Navigate, Navigated, Outcome,
    Point, Rectangle, Rejection, Screenshot, Script, Scroll, SessionOptions, Size, State, Tab,
    Timing, Type, Typed, Viewport, WaitUntil,
};
use crate::browser::v1;

/// A message that lacks what it must have, or has what nobody knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the message has no usable `{field}`")]
pub struct Malformed {
    /// The field of the `.proto`.
    pub field: &'static str,
}

fn need<T>(value: Option<T>, field: &'static str) -> Result<T, Malformed> {
    value.ok_or(Malformed { field })
}

fn text_or_none(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

/// Between one enum of the wire and one of ours, both ways.
macro_rules! enums {
    ($($ours:ident = $wire:ident, $field:literal: $($variant:ident),+;)*) => {$(
        impl From<$ours> for v1::$wire {
            fn from(value: $ours) -> Self {
                match value { $($ours::$variant => Self::$variant,)+ }
            }
        }

        impl TryFrom<i32> for $ours {
            type Error = Malformed;

            fn try_from(number: i32) -> Result<Self, Malformed> {
                match v1::$wire::try_from(number) {
                    $(Ok(v1::$wire::$variant) => Ok(Self::$variant),)+
                    Ok(v1::$wire::Unspecified) | Err(_) => Err(Malformed { field: $field }),
                }
            }
        }
    )*};
}

enums! {
    BrowserKind = BrowserKind, "browser": Shell, Full;
    DialogPolicy = DialogPolicy, "dialogs": Dismiss, Accept, Report;
    WaitUntil = WaitUntil, "wait_until": Commit, DomContentLoaded, Load, NetworkIdle;
    MouseButton = MouseButton, "button": Left, Middle, Right;
    ImageFormat = ImageFormat, "format": Png, Jpeg, Webp;
    Edge = Edge, "edge": Top, Bottom;
}

impl From<Point> for v1::Point {
    fn from(Point { x, y }: Point) -> Self {
        Self { x, y }
    }
}

impl From<v1::Point> for Point {
    fn from(v1::Point { x, y }: v1::Point) -> Self {
        Self { x, y }
    }
}

impl From<Viewport> for v1::Viewport {
    fn from(it: Viewport) -> Self {
        Self {
            width: it.width,
            height: it.height,
            scale: it.scale,
        }
    }
}

impl From<v1::Viewport> for Viewport {
    fn from(it: v1::Viewport) -> Self {
        Self {
            width: it.width,
            height: it.height,
            scale: it.scale,
        }
    }
}

impl From<&SessionOptions> for v1::SessionOptions {
    fn from(it: &SessionOptions) -> Self {
        Self {
            browser: v1::BrowserKind::from(it.browser).into(),
            viewport: Some(it.viewport.into()),
            user_agent: it.user_agent.clone(),
            locale: it.locale.clone(),
            timezone: it.timezone.clone(),
            dialogs: v1::DialogPolicy::from(it.dialogs).into(),
        }
    }
}

impl TryFrom<v1::SessionOptions> for SessionOptions {
    type Error = Malformed;

    fn try_from(it: v1::SessionOptions) -> Result<Self, Malformed> {
        Ok(Self {
            browser: it.browser.try_into()?,
            viewport: need(it.viewport, "viewport")?.into(),
            user_agent: it.user_agent,
            locale: it.locale,
            timezone: it.timezone,
            dialogs: it.dialogs.try_into()?,
        })
    }
}

impl From<&Action> for v1::Action {
    fn from(action: &Action) -> Self {
        use v1::action::Kind;
        let kind = match action {
            Action::Navigate(it) => Kind::Navigate(v1::Navigate {
                url: it.url.clone(),
                wait_until: v1::WaitUntil::from(it.wait_until).into(),
                referer: it.referer.clone(),
            }),
            Action::Click(it) => Kind::Click(v1::Click {
                target: Some(match &it.target {
                    ClickTarget::Selector(selector) => {
                        v1::click::Target::Selector(selector.clone())
                    }
                    ClickTarget::Point(point) => v1::click::Target::Point((*point).into()),
                }),
                button: v1::MouseButton::from(it.button).into(),
                click_count: it.click_count,
                modifiers: it.modifiers,
            }),
            Action::Type(it) => Kind::Type(v1::Type {
                selector: it.selector.clone().unwrap_or_default(),
                text: it.text.clone(),
                clear: it.clear,
                delay_ms: it.delay_ms,
                submit: it.submit,
            }),
            Action::Screenshot(it) => Kind::Screenshot(screenshot_to_wire(it)),
            Action::Execute(it) => Kind::Execute(execute_to_wire(it)),
            Action::Scroll(it) => Kind::Scroll(v1::Scroll {
                to: Some(match it {
                    Scroll::Position(point) => v1::scroll::To::Position((*point).into()),
                    Scroll::Delta(point) => v1::scroll::To::Delta((*point).into()),
                    Scroll::Selector(selector) => v1::scroll::To::Selector(selector.clone()),
                    Scroll::Edge(edge) => v1::scroll::To::Edge(v1::Edge::from(*edge).into()),
                }),
            }),
            Action::State => Kind::State(v1::ReadState {}),
            Action::Dialog(it) => Kind::Dialog(v1::AnswerDialog {
                accept: it.accept,
                text: it.text.clone(),
            }),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<v1::Action> for Action {
    type Error = Malformed;

    fn try_from(action: v1::Action) -> Result<Self, Malformed> {
        use v1::action::Kind;
        Ok(match need(action.kind, "action.kind")? {
            Kind::Navigate(it) => Self::Navigate(Navigate {
                url: it.url,
                wait_until: it.wait_until.try_into()?,
                referer: it.referer,
            }),
            Kind::Click(it) => Self::Click(Click {
                target: match need(it.target, "click.target")? {
                    v1::click::Target::Selector(selector) => ClickTarget::Selector(selector),
                    v1::click::Target::Point(point) => ClickTarget::Point(point.into()),
                },
                button: it.button.try_into()?,
                click_count: it.click_count,
                modifiers: it.modifiers,
            }),
            Kind::Type(it) => Self::Type(Type {
                selector: text_or_none(it.selector),
                text: it.text,
                clear: it.clear,
                delay_ms: it.delay_ms,
                submit: it.submit,
            }),
            Kind::Screenshot(it) => Self::Screenshot(screenshot_from_wire(it)?),
            Kind::Execute(it) => Self::Execute(execute_from_wire(it)?),
            Kind::Scroll(it) => Self::Scroll(match need(it.to, "scroll.to")? {
                v1::scroll::To::Position(point) => Scroll::Position(point.into()),
                v1::scroll::To::Delta(point) => Scroll::Delta(point.into()),
                v1::scroll::To::Selector(selector) => Scroll::Selector(selector),
                v1::scroll::To::Edge(edge) => Scroll::Edge(edge.try_into()?),
            }),
            Kind::State(v1::ReadState {}) => Self::State,
            Kind::Dialog(it) => Self::Dialog(AnswerDialog {
                accept: it.accept,
                text: it.text,
            }),
        })
    }
}

fn screenshot_to_wire(it: &Screenshot) -> v1::Screenshot {
    let mut wire = v1::Screenshot {
        format: v1::ImageFormat::from(it.format).into(),
        quality: it.quality,
        scale: it.scale,
        omit_background: it.omit_background,
        ..v1::Screenshot::default()
    };
    match &it.area {
        Area::Viewport => {}
        Area::FullPage => wire.full_page = true,
        Area::Selector(selector) => wire.selector.clone_from(selector),
        Area::Clip(clip) => {
            wire.clip = Some(v1::Rectangle {
                x: clip.x,
                y: clip.y,
                width: clip.width,
                height: clip.height,
            });
        }
    }
    wire
}

fn screenshot_from_wire(it: v1::Screenshot) -> Result<Screenshot, Malformed> {
    let area = if it.full_page {
        Area::FullPage
    } else if let Some(clip) = it.clip {
        Area::Clip(Rectangle {
            x: clip.x,
            y: clip.y,
            width: clip.width,
            height: clip.height,
        })
    } else {
        text_or_none(it.selector).map_or(Area::Viewport, Area::Selector)
    };
    Ok(Screenshot {
        format: it.format.try_into()?,
        quality: it.quality,
        area,
        scale: it.scale,
        omit_background: it.omit_background,
    })
}

fn execute_to_wire(it: &Execute) -> v1::Execute {
    let (source, arguments_json) = match &it.script {
        Script::Expression(text) => (v1::execute::Source::Expression(text.clone()), String::new()),
        Script::Function { function, args } => (
            v1::execute::Source::Function(function.clone()),
            args.clone(),
        ),
    };
    v1::Execute {
        source: Some(source),
        arguments_json,
        await_promise: Some(it.await_promise),
    }
}

fn execute_from_wire(it: v1::Execute) -> Result<Execute, Malformed> {
    let script = match need(it.source, "execute.source")? {
        v1::execute::Source::Expression(text) => Script::Expression(text),
        v1::execute::Source::Function(function) => Script::Function {
            function,
            args: it.arguments_json,
        },
    };
    Ok(Execute {
        script,
        await_promise: it.await_promise.unwrap_or(true),
    })
}

impl From<&Rejection> for v1::Rejection {
    fn from(it: &Rejection) -> Self {
        Self {
            code: it.code.as_str().to_owned(),
            message: it.message.clone(),
            detail_json: it.detail.clone(),
        }
    }
}

impl From<v1::Rejection> for Rejection {
    fn from(it: v1::Rejection) -> Self {
        Self {
            code: Code::from_text(&it.code),
            message: it.message,
            detail: it.detail_json,
        }
    }
}

impl From<&Dialog> for v1::Dialog {
    fn from(it: &Dialog) -> Self {
        Self {
            kind: it.kind.clone(),
            message: it.message.clone(),
            default_text: it.default_text.clone(),
            url: it.url.clone(),
        }
    }
}

impl From<v1::Dialog> for Dialog {
    fn from(it: v1::Dialog) -> Self {
        Self {
            kind: it.kind,
            message: it.message,
            default_text: it.default_text,
            url: it.url,
        }
    }
}

/// Milliseconds as microseconds; the fraction below one is not worth a message.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "saturating is what is meant"
)]
fn microseconds(ms: f64) -> u64 {
    (ms * 1000.0) as u64
}

#[expect(
    clippy::cast_precision_loss,
    reason = "exact up to 2^53 microseconds, 285 years"
)]
fn milliseconds(us: u64) -> f64 {
    us as f64 / 1000.0
}

/// An outcome as the message that carries it.
#[must_use]
pub fn outcome_to_wire(outcome: &Outcome) -> v1::Outcome {
    use v1::outcome::Result as Wire;
    let result = match outcome {
        Err(rejection) => Wire::Rejection(rejection.into()),
        Ok(Answer::Navigated(it)) => Wire::Navigated(v1::Navigated {
            url: it.url.clone(),
            title: it.title.clone(),
            status: it.status.unwrap_or(0),
            commit_us: microseconds(it.timing.commit_ms),
            total_us: microseconds(it.timing.total_ms),
        }),
        Ok(Answer::Clicked(Point { x, y })) => Wire::Clicked(v1::Clicked { x: *x, y: *y }),
        Ok(Answer::Typed(it)) => Wire::Typed(v1::Typed {
            characters: it.characters,
        }),
        Ok(Answer::Captured(it)) => Wire::Captured(v1::Captured {
            format: v1::ImageFormat::from(it.format).into(),
            width: it.width,
            height: it.height,
        }),
        Ok(Answer::Evaluated(it)) => Wire::Evaluated(v1::Evaluated {
            r#type: it.kind.clone(),
            value_json: it.value.get().to_owned(),
        }),
        Ok(Answer::Scrolled(Point { x, y })) => Wire::Scrolled(v1::Scrolled { x: *x, y: *y }),
        Ok(Answer::State(it)) => Wire::State(state_to_wire(it)),
        Ok(Answer::DialogAnswered(it)) => Wire::DialogAnswered(v1::DialogAnswered {
            dialog: Some(it.into()),
        }),
    };
    v1::Outcome {
        result: Some(result),
    }
}

/// The outcome that a message carries.
///
/// # Errors
/// [`Malformed`] where something that must be there is not.
pub fn outcome_from_wire(outcome: v1::Outcome) -> Result<Outcome, Malformed> {
    use v1::outcome::Result as Wire;
    Ok(Ok(match need(outcome.result, "outcome.result")? {
        Wire::Rejection(rejection) => return Ok(Err(rejection.into())),
        Wire::Navigated(it) => Answer::Navigated(Navigated {
            url: it.url,
            title: it.title,
            status: (it.status != 0).then_some(it.status),
            timing: Timing {
                commit_ms: milliseconds(it.commit_us),
                total_ms: milliseconds(it.total_us),
            },
        }),
        Wire::Clicked(v1::Clicked { x, y }) => Answer::Clicked(Point { x, y }),
        Wire::Typed(it) => Answer::Typed(Typed {
            characters: it.characters,
        }),
        Wire::Captured(it) => Answer::Captured(Captured {
            format: it.format.try_into()?,
            width: it.width,
            height: it.height,
        }),
        Wire::Evaluated(it) => Answer::Evaluated(Evaluated {
            kind: it.r#type,
            value: RawValue::from_string(it.value_json).map_err(|_| Malformed {
                field: "evaluated.value_json",
            })?,
        }),
        Wire::Scrolled(v1::Scrolled { x, y }) => Answer::Scrolled(Point { x, y }),
        Wire::State(it) => Answer::State(Box::new(state_from_wire(it)?)),
        Wire::DialogAnswered(it) => {
            Answer::DialogAnswered(need(it.dialog, "dialog_answered.dialog")?.into())
        }
    }))
}

fn state_to_wire(it: &State) -> v1::State {
    v1::State {
        url: it.url.clone(),
        title: it.title.clone(),
        loading: it.loading,
        viewport: Some(it.viewport.into()),
        scroll: Some(it.scroll.into()),
        document_width: it.document.width,
        document_height: it.document.height,
        tabs: it
            .tabs
            .iter()
            .map(|tab| v1::Tab {
                id: tab.id.clone(),
                url: tab.url.clone(),
                title: tab.title.clone(),
                active: tab.active,
            })
            .collect(),
        dialog: it.dialog.as_ref().map(Into::into),
    }
}

fn state_from_wire(it: v1::State) -> Result<State, Malformed> {
    Ok(State {
        url: it.url,
        title: it.title,
        loading: it.loading,
        viewport: need(it.viewport, "state.viewport")?.into(),
        scroll: need(it.scroll, "state.scroll")?.into(),
        document: Size {
            width: it.document_width,
            height: it.document_height,
        },
        tabs: it
            .tabs
            .into_iter()
            .map(|tab| Tab {
                id: tab.id,
                url: tab.url,
                title: tab.title,
                active: tab.active,
            })
            .collect(),
        dialog: it.dialog.map(Into::into),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_action_survives_the_wire() {
        let actions = [
            Action::State,
            Action::Click(Click {
                target: ClickTarget::Selector("text=Sign in".into()),
                button: MouseButton::Right,
                click_count: 2,
                modifiers: 8,
            }),
            Action::Screenshot(Screenshot {
                format: ImageFormat::Webp,
                quality: Some(0),
                area: Area::Selector("#logo".into()),
                scale: 2.0,
                omit_background: true,
            }),
            Action::Execute(Execute {
                script: Script::Function {
                    function: "a => a".into(),
                    args: "[1]".into(),
                },
                await_promise: true,
            }),
        ];
        for action in actions {
            let there = v1::Action::from(&action);
            assert_eq!(Action::try_from(there), Ok(action));
        }
    }

    #[test]
    fn an_action_without_a_kind_is_refused() {
        assert!(Action::try_from(v1::Action { kind: None }).is_err());
    }

    #[test]
    fn an_outcome_survives_the_wire() {
        let outcome: Outcome = Ok(Answer::Evaluated(Evaluated {
            kind: "object".into(),
            value: RawValue::from_string("{\"a\": 1}".into()).expect("valid JSON"),
        }));
        assert_eq!(outcome_from_wire(outcome_to_wire(&outcome)), Ok(outcome));
    }

    #[test]
    fn every_code_reads_back() {
        for code in Code::ALL {
            assert_eq!(Code::from_text(code.as_str()), *code);
        }
    }
}
