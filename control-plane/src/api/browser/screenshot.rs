//! `POST /api/browser/screenshot`: the picture itself where the caller accepts
//! pictures, else JSON with the picture in base64. The picture's chunks go out
//! as they came in.

use std::convert::Infallible;

use axum::body::Body as ResponseBody;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use browserfleet_proto::action::{Action, Answer, Area, ImageFormat, Rectangle, Screenshot};
use browserfleet_proto::browser::v1;
use browserfleet_proto::limits;
use futures_util::stream;
use serde::Deserialize;

use super::{Asked, Done, chosen, coordinate_of, perform, said, selector_of};
use crate::api::Api;
use crate::api::body::OptionalBody;
use crate::api::extract::Caller;
use crate::error::Error;

/// Smallest and largest scale, in image pixels per CSS pixel.
const SCALE: std::ops::RangeInclusive<f64> = 0.05..=8.0;

/// What the picture shows, and how.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScreenshotRequest {
    session_id: Option<String>,
    timeout_ms: Option<u64>,
    #[serde(default)]
    format: Format,
    quality: Option<u32>,
    #[serde(default)]
    full_page: bool,
    selector: Option<String>,
    clip: Option<Clip>,
    scale: Option<f64>,
    #[serde(default)]
    omit_background: bool,
}

/// An encoding.
#[derive(Debug, Default, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Format {
    #[default]
    Png,
    Jpeg,
    Webp,
}

/// A part of the document, in CSS pixels.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
struct Clip {
    x: f64,
    y: f64,
    width: f64,
    height: f64,
}

/// Takes a picture.
pub async fn screenshot(
    State(api): State<Api>,
    caller: Caller,
    headers: HeaderMap,
    OptionalBody(request): OptionalBody<ScreenshotRequest>,
) -> Result<Response, Response> {
    let done = perform(&api, &caller, request).await?;
    Ok(if accepts_images(&headers) {
        image(done)
    } else {
        json(done)
    })
}

fn accepts_images(headers: &HeaderMap) -> bool {
    headers
        .get(header::ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .is_some_and(|accept| accept.split(',').any(|it| it.trim().starts_with("image/")))
}

fn image(mut done: Done) -> Response {
    let length: usize = done.picture.as_ref().map_or(0, crate::relay::Picture::len);
    let media_type = match &done.answer {
        Answer::Captured(captured) => captured.format.media_type(),
        _ => "application/octet-stream",
    };
    let chunks = done.picture.take().unwrap_or_default();
    let chunks = chunks.into_chunks().into_iter().map(Ok::<_, Infallible>);
    let mut response = Response::new(ResponseBody::from_stream(stream::iter(chunks)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    for (name, id) in [
        ("x-command-id", done.command.to_string()),
        ("x-session-id", done.session.to_string()),
    ] {
        if let Ok(value) = HeaderValue::from_str(&id) {
            headers.insert(name, value);
        }
    }
    response
}

fn json(done: Done) -> Response {
    let body = match done.into_text() {
        Ok(body) => body,
        Err(error) => return error.into_response(),
    };
    let mut response = Response::new(ResponseBody::from(body));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}

impl TryFrom<v1::Screenshot> for ScreenshotRequest {
    type Error = Error;

    fn try_from(it: v1::Screenshot) -> Result<Self, Error> {
        use v1::ImageFormat;
        Ok(Self {
            session_id: None,
            timeout_ms: None,
            format: match chosen("format", it.format)? {
                ImageFormat::Unspecified => Format::default(),
                ImageFormat::Png => Format::Png,
                ImageFormat::Jpeg => Format::Jpeg,
                ImageFormat::Webp => Format::Webp,
            },
            quality: it.quality,
            full_page: it.full_page,
            selector: said(it.selector),
            clip: it.clip.map(|it| Clip {
                x: it.x,
                y: it.y,
                width: it.width,
                height: it.height,
            }),
            scale: (it.scale != 0.0).then_some(it.scale),
            omit_background: it.omit_background,
        })
    }
}

impl TryFrom<ScreenshotRequest> for Asked {
    type Error = Error;

    fn try_from(mut request: ScreenshotRequest) -> Result<Self, Error> {
        Ok(Self {
            session_id: request.session_id.take(),
            timeout_ms: request.timeout_ms,
            action: action_of(&mut request)?,
        })
    }
}

fn action_of(request: &mut ScreenshotRequest) -> Result<Action, Error> {
    let format = match request.format {
        Format::Png => ImageFormat::Png,
        Format::Jpeg => ImageFormat::Jpeg,
        Format::Webp => ImageFormat::Webp,
    };
    match request.quality {
        Some(_) if format == ImageFormat::Png => {
            return Err(Error::invalid("quality", "goes with jpeg and webp"));
        }
        Some(quality) if quality > 100 => {
            return Err(Error::invalid("quality", "has to be 0 to 100"));
        }
        _ => {}
    }
    if request.omit_background && format == ImageFormat::Jpeg {
        return Err(Error::invalid("omit_background", "goes with png and webp"));
    }
    let scale = request.scale.unwrap_or(1.0);
    if !SCALE.contains(&scale) {
        return Err(Error::invalid(
            "scale",
            format!("has to be {} to {}", SCALE.start(), SCALE.end()),
        ));
    }
    Ok(Action::Screenshot(Screenshot {
        format,
        quality: request.quality,
        area: area_of(request, scale)?,
        scale,
        omit_background: request.omit_background,
    }))
}

fn area_of(request: &mut ScreenshotRequest, scale: f64) -> Result<Area, Error> {
    match (request.full_page, request.selector.take(), request.clip) {
        (false, None, None) => Ok(Area::Viewport),
        (true, None, None) => Ok(Area::FullPage),
        (false, Some(selector), None) => Ok(Area::Selector(selector_of(selector)?)),
        (false, None, Some(clip)) => clip_of(clip, scale).map(Area::Clip),
        _ => Err(Error::invalid(
            "clip",
            "give at most one of: full_page, selector, clip",
        )),
    }
}

fn clip_of(clip: Clip, scale: f64) -> Result<Rectangle, Error> {
    let rectangle = Rectangle {
        x: coordinate_of("clip.x", clip.x)?,
        y: coordinate_of("clip.y", clip.y)?,
        width: coordinate_of("clip.width", clip.width)?,
        height: coordinate_of("clip.height", clip.height)?,
    };
    for (field, side) in [
        ("clip.width", rectangle.width),
        ("clip.height", rectangle.height),
    ] {
        if side <= 0.0 || side * scale > f64::from(limits::IMAGE_SIDE_PIXELS_MAX) {
            return Err(Error::invalid(
                field,
                format!(
                    "has to be more than 0, and at most {} image pixels",
                    limits::IMAGE_SIDE_PIXELS_MAX
                ),
            ));
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "the limit is far below 2^53")]
    let most = limits::IMAGE_PIXELS_MAX as f64;
    if rectangle.width * rectangle.height * scale * scale > most {
        return Err(Error::invalid(
            "clip",
            format!("has more than {} image pixels", limits::IMAGE_PIXELS_MAX),
        ));
    }
    Ok(rectangle)
}
