//! Inputs as CDP's calls. Pure.

use browserfleet_proto::input::{
    Button, Composition, Key, KeyType, Mouse, MouseType, Pointer, Text, Touch, TouchPoint,
    TouchType,
};
use headless_chrome::protocol::cdp::{Input, Page};

fn filled(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

pub(super) fn mouse(it: Mouse) -> Input::DispatchMouseEvent {
    let wheel = it.what == MouseType::MouseWheel;
    Input::DispatchMouseEvent {
        Type: match it.what {
            MouseType::MousePressed => Input::DispatchMouseEventTypeOption::MousePressed,
            MouseType::MouseReleased => Input::DispatchMouseEventTypeOption::MouseReleased,
            MouseType::MouseMoved => Input::DispatchMouseEventTypeOption::MouseMoved,
            MouseType::MouseWheel => Input::DispatchMouseEventTypeOption::MouseWheel,
        },
        x: it.x,
        y: it.y,
        modifiers: Some(it.modifiers),
        timestamp: None,
        button: Some(match it.button {
            Button::None => Input::MouseButton::None,
            Button::Left => Input::MouseButton::Left,
            Button::Middle => Input::MouseButton::Middle,
            Button::Right => Input::MouseButton::Right,
            Button::Back => Input::MouseButton::Back,
            Button::Forward => Input::MouseButton::Forward,
        }),
        buttons: Some(it.buttons),
        click_count: Some(it.click_count),
        force: None,
        tangential_pressure: None,
        tilt_x: None,
        tilt_y: None,
        twist: None,
        delta_x: wheel.then_some(it.delta_x),
        delta_y: wheel.then_some(it.delta_y),
        pointer_Type: Some(match it.pointer_type {
            Pointer::Mouse => Input::DispatchMouseEventPointer_TypeOption::Mouse,
            Pointer::Pen => Input::DispatchMouseEventPointer_TypeOption::Pen,
        }),
    }
}

pub(super) fn key(it: Key) -> Input::DispatchKeyEvent {
    Input::DispatchKeyEvent {
        Type: match it.what {
            KeyType::KeyDown => Input::DispatchKeyEventTypeOption::KeyDown,
            KeyType::KeyUp => Input::DispatchKeyEventTypeOption::KeyUp,
            KeyType::RawKeyDown => Input::DispatchKeyEventTypeOption::RawKeyDown,
            KeyType::Char => Input::DispatchKeyEventTypeOption::Char,
        },
        modifiers: Some(it.modifiers),
        timestamp: None,
        text: filled(it.text),
        unmodified_text: filled(it.unmodified_text),
        key_identifier: None,
        code: filled(it.code),
        key: filled(it.key),
        windows_virtual_key_code: Some(it.windows_virtual_key_code),
        native_virtual_key_code: Some(it.windows_virtual_key_code),
        auto_repeat: Some(it.auto_repeat),
        is_keypad: Some(it.is_keypad),
        is_system_key: None,
        location: Some(it.location),
        commands: (!it.commands.is_empty()).then_some(it.commands),
    }
}

pub(super) fn touch(it: Touch) -> Input::DispatchTouchEvent {
    let point = |it: TouchPoint| Input::TouchPoint {
        x: it.x,
        y: it.y,
        radius_x: Some(it.radius_x),
        radius_y: Some(it.radius_y),
        rotation_angle: None,
        force: Some(it.force),
        tangential_pressure: None,
        tilt_x: None,
        tilt_y: None,
        twist: None,
        id: Some(it.id.into()),
    };
    Input::DispatchTouchEvent {
        Type: match it.what {
            TouchType::TouchStart => Input::DispatchTouchEventTypeOption::TouchStart,
            TouchType::TouchEnd => Input::DispatchTouchEventTypeOption::TouchEnd,
            TouchType::TouchMove => Input::DispatchTouchEventTypeOption::TouchMove,
            TouchType::TouchCancel => Input::DispatchTouchEventTypeOption::TouchCancel,
        },
        touch_points: it.touch_points.into_iter().map(point).collect(),
        modifiers: Some(it.modifiers),
        timestamp: None,
    }
}

pub(super) fn composition(it: Composition) -> Input::ImeSetComposition {
    Input::ImeSetComposition {
        text: it.text,
        selection_start: it.selection_start,
        selection_end: it.selection_end,
        replacement_start: None,
        replacement_end: None,
    }
}

pub(super) fn text(it: Text) -> Input::InsertText {
    Input::InsertText { text: it.text }
}

pub(super) fn navigate(url: String) -> Page::Navigate {
    Page::Navigate {
        url,
        referrer: None,
        transition_Type: Some(Page::TransitionType::Typed),
        frame_id: None,
        referrer_policy: None,
    }
}

pub(super) fn reload(ignore_cache: bool) -> Page::Reload {
    Page::Reload {
        ignore_cache: Some(ignore_cache),
        script_to_evaluate_on_load: None,
        loader_id: None,
    }
}
