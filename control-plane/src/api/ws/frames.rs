//! Live views and hands on a socket.

use browserfleet_proto::browser::v1;
use browserfleet_proto::frame::Format;
use browserfleet_proto::ids::SessionId;
use browserfleet_proto::limits::{FRAMES_A_SECOND_MAX, VIEWPORT_SIDE_MAX};
use serde::Deserialize;
use serde_json::json;

use super::message::{About, unasked};
use super::outbox::{Gone, Outbox};
use crate::api::browser::chosen;
use crate::error::Error;
use crate::relay::{Over, ViewWish, Viewer};
use crate::sessions::Answering;

/// Pictures a second where nobody says otherwise: more are not seen on most pages.
const FPS_DEFAULT: u32 = 30;
/// Pixels from left to right where nobody says otherwise: the usual viewport.
const WIDTH_DEFAULT: u32 = 1280;
/// Narrowest picture that shows anything, in pixels.
const WIDTH_MIN: u32 = 16;
/// Of a JPEG, where nobody says otherwise: text is sharp, and a page takes 50 to 100 KB.
const QUALITY_DEFAULT: u32 = 70;

/// What a client wants of the pictures.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct Subscription {
    #[serde(default = "fps")]
    max_fps: u32,
    #[serde(default = "width")]
    max_width: u32,
    #[serde(default = "quality")]
    quality: u32,
    #[serde(default)]
    format: Kind,
}

fn fps() -> u32 {
    FPS_DEFAULT
}

fn width() -> u32 {
    WIDTH_DEFAULT
}

fn quality() -> u32 {
    QUALITY_DEFAULT
}

#[derive(Debug, Default, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    #[default]
    Jpeg,
    Png,
}

impl TryFrom<v1::WatchFramesRequest> for Subscription {
    type Error = Error;

    fn try_from(it: v1::WatchFramesRequest) -> Result<Self, Error> {
        let or = |said: u32, default: u32| if said == 0 { default } else { said };
        Ok(Self {
            max_fps: or(it.max_fps, FPS_DEFAULT),
            max_width: or(it.max_width, WIDTH_DEFAULT),
            quality: or(it.quality, QUALITY_DEFAULT),
            format: match chosen("format", it.format)? {
                v1::ImageFormat::Unspecified => Kind::default(),
                v1::ImageFormat::Jpeg => Kind::Jpeg,
                v1::ImageFormat::Png => Kind::Png,
                v1::ImageFormat::Webp => {
                    return Err(Error::invalid("format", "has to be JPEG or PNG"));
                }
            },
        })
    }
}

impl Subscription {
    /// # Errors
    /// The field at fault.
    pub(in crate::api) fn wish(&self) -> Result<ViewWish, Error> {
        within("max_fps", self.max_fps, 1, FRAMES_A_SECOND_MAX)?;
        within("max_width", self.max_width, WIDTH_MIN, VIEWPORT_SIDE_MAX)?;
        within("quality", self.quality, 1, 100)?;
        Ok(ViewWish {
            max_fps: self.max_fps,
            max_width: self.max_width,
            quality: self.quality,
            format: match self.format {
                Kind::Jpeg => Format::Jpeg,
                Kind::Png => Format::Png,
            },
        })
    }
}

fn within(field: &'static str, value: u32, least: u32, most: u32) -> Result<(), Error> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(Error::invalid(
        field,
        format!("has to be from {least} to {most}"),
    ))
}

/// Shows a session to a socket until either is gone. The next picture is taken once the
/// socket has the one before, so that none waits and grows old.
pub(super) async fn forward(session: SessionId, mut viewer: Viewer, outbox: Outbox) {
    loop {
        match viewer.next().await {
            Ok(frame) => {
                if outbox.show(frame.message).await == Err(Gone) {
                    return;
                }
            }
            Err(Over) => {
                let over = unasked("frames.ended", Some(session), json!({}));
                if outbox.say(over).await == Err(Gone) {
                    tracing::debug!(session.id = %session, "nobody is there to hear that a view is over");
                }
                return;
            }
        }
    }
}

/// Tells a client what an input of theirs found.
pub(super) async fn answer(about: About, answering: Answering, outbox: Outbox) {
    let answer = match answering.text().await {
        Ok(text) => about.message("input_answered", json!({ "text": text })),
        Err(error) => about.error(&error, None),
    };
    if outbox.say(answer).await == Err(Gone) {
        tracing::debug!("nobody is there for an input's answer");
    }
}
