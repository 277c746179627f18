//! Takes a picture. How large it would be is known before Chrome is asked.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use browserfleet_proto::action::{
    Area, Captured, Code, ImageFormat, Rectangle, Rejection, Screenshot,
};
use browserfleet_proto::limits::{IMAGE_PIXELS_MAX, IMAGE_SIDE_PIXELS_MAX, PAYLOAD_BYTES_MAX};
use bytes::Bytes;
use headless_chrome::protocol::cdp::{DOM, Emulation, Page as page_domain};
use serde::Deserialize;
use tokio::time::Instant;

use super::engine::{Purpose, Reach};
use super::{picture, rejection, state};
use crate::browser::page::{Page, decode};

/// Largest answer that is decoded where it arrives. Pictures of a usual viewport are
/// below it; a full page's, of many megabytes, are not.
const READ_AT_ONCE_BYTES_MAX: usize = 512 * 1024;

pub(super) async fn perform(
    page: &Page,
    screenshot: &Screenshot,
    deadline: Instant,
) -> Result<(Captured, Bytes), Rejection> {
    let clip = match clip(page, screenshot, deadline).await? {
        Some(rectangle) => {
            check_size(rectangle, screenshot.scale)?;
            Some(page_domain::Viewport {
                x: rectangle.x,
                y: rectangle.y,
                width: rectangle.width,
                height: rectangle.height,
                // Chrome counts from device pixels.
                scale: screenshot.scale / page.scale(),
            })
        }
        None => None,
    };
    let transparent = screenshot.omit_background.then(|| Transparent::of(page));
    let call = page_domain::CaptureScreenshot {
        format: Some(match screenshot.format {
            ImageFormat::Png => page_domain::CaptureScreenshotFormatOption::Png,
            ImageFormat::Jpeg => page_domain::CaptureScreenshotFormatOption::Jpeg,
            ImageFormat::Webp => page_domain::CaptureScreenshotFormatOption::Webp,
        }),
        quality: screenshot.quality,
        capture_beyond_viewport: Some(clip.is_some()),
        clip,
        from_surface: Some(true),
        // Compresses PNG less, which takes a third of the time.
        optimize_for_speed: Some(true),
    };
    let frame = page.exchange(call, deadline).await.map_err(rejection)?;
    drop(transparent);
    let image = read_aside(frame).await?;
    let (width, height) = picture::size(&image)
        .ok_or_else(|| Rejection::new(Code::BrowserError, "the browser gave no picture"))?;
    let captured = Captured {
        format: screenshot.format,
        width,
        height,
    };
    Ok((captured, image))
}

#[derive(Deserialize)]
struct Data<'a> {
    data: &'a str,
}

/// A large picture takes milliseconds to decode, in which others would wait.
async fn read_aside(frame: Vec<u8>) -> Result<Bytes, Rejection> {
    if frame.len() <= READ_AT_ONCE_BYTES_MAX {
        return read(&frame);
    }
    tokio::task::spawn_blocking(move || read(&frame))
        .await
        .unwrap_or_else(|error| Err(Rejection::new(Code::BrowserError, error.to_string())))
}

/// Decodes the picture right out of the answer's frame.
fn read(frame: &[u8]) -> Result<Bytes, Rejection> {
    let answer: Data<'_> = decode(frame).map_err(rejection)?;
    if answer.data.len() / 4 * 3 > PAYLOAD_BYTES_MAX {
        return Err(Rejection::new(
            Code::ImageTooLarge,
            format!("the picture is larger than {PAYLOAD_BYTES_MAX} bytes"),
        ));
    }
    STANDARD
        .decode(answer.data)
        .map(Bytes::from)
        .map_err(|error| Rejection::new(Code::BrowserError, error.to_string()))
}

/// What is shown, in CSS pixels of the document; `None`: exactly the viewport.
async fn clip(
    page: &Page,
    screenshot: &Screenshot,
    deadline: Instant,
) -> Result<Option<Rectangle>, Rejection> {
    let rectangle = match &screenshot.area {
        #[expect(clippy::float_cmp, reason = "both were written by the same caller")]
        Area::Viewport if screenshot.scale == page.scale() => return Ok(None),
        Area::Viewport => {
            let document = state::document(page, deadline).await?;
            let (x, y) = document.scrolled_to();
            Rectangle {
                x,
                y,
                width: document.viewport.width,
                height: document.viewport.height,
            }
        }
        Area::FullPage => {
            let document = state::document(page, deadline).await?;
            Rectangle {
                x: 0.0,
                y: 0.0,
                width: document.document.width,
                height: document.document.height,
            }
        }
        Area::Clip(rectangle) => *rectangle,
        Area::Selector(selector) => {
            let reach = Reach::new(selector, Purpose::Look)?;
            let seen: Seen = reach.ask(page, deadline).await?;
            Rectangle {
                x: seen.x,
                y: seen.y,
                width: seen.width,
                height: seen.height,
            }
        }
    };
    Ok(Some(rectangle))
}

#[derive(Deserialize)]
struct Seen {
    x: f64,
    y: f64,
    width: f64,
    height: f64,
}

fn check_size(rectangle: Rectangle, scale: f64) -> Result<(), Rejection> {
    let (width, height) = (rectangle.width * scale, rectangle.height * scale);
    let side_max = f64::from(IMAGE_SIDE_PIXELS_MAX);
    // Exact below 2^53.
    let pixels_max = IMAGE_PIXELS_MAX as f64;
    if width > side_max || height > side_max || width * height > pixels_max {
        return Err(Rejection::new(
            Code::ImageTooLarge,
            format!(
                "the picture would be {width:.0} x {height:.0} pixels; at most {IMAGE_SIDE_PIXELS_MAX} a side and {IMAGE_PIXELS_MAX} in all"
            ),
        ));
    }
    if width < 1.0 || height < 1.0 {
        return Err(Rejection::new(
            Code::ElementNotActionable,
            "there is nothing to take a picture of: it is less than a pixel",
        ));
    }
    Ok(())
}

/// The page's default white is transparent while this lives.
struct Transparent<'a>(&'a Page);

impl<'a> Transparent<'a> {
    fn of(page: &'a Page) -> Self {
        page.post(Emulation::SetDefaultBackgroundColorOverride {
            color: Some(DOM::RGBA {
                r: 0,
                g: 0,
                b: 0,
                a: Some(0.0),
            }),
        });
        Self(page)
    }
}

impl Drop for Transparent<'_> {
    fn drop(&mut self) {
        self.0
            .post(Emulation::SetDefaultBackgroundColorOverride { color: None });
    }
}
