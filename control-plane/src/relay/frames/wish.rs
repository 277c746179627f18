//! What viewers want of pictures, and what suits all of them. Pure.

use browserfleet_proto::agent::v1::{LiveWish, PictureFormat};
use browserfleet_proto::frame::Format;

/// What somebody wants of the pictures that they see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ViewWish {
    /// Most pictures a second.
    pub max_fps: u32,
    /// Most pixels of a picture from left to right.
    pub max_width: u32,
    /// From 1 to 100; of a JPEG.
    pub quality: u32,
    /// What they are; who wants JPEG may get PNG where somebody else wants that.
    pub format: Format,
}

/// What the most demanding of them wants, in each respect.
pub(super) fn of_all<'a>(wishes: impl IntoIterator<Item = &'a ViewWish>) -> LiveWish {
    let mut all = LiveWish {
        format: PictureFormat::Jpeg.into(),
        ..LiveWish::default()
    };
    for wish in wishes {
        all.max_fps = all.max_fps.max(wish.max_fps);
        all.max_width = all.max_width.max(wish.max_width);
        all.quality = all.quality.max(wish.quality);
        if wish.format == Format::Png {
            all.format = PictureFormat::Png.into();
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_wants_less_than_they_get() {
        let wish = |max_fps, max_width, quality, format| ViewWish {
            max_fps,
            max_width,
            quality,
            format,
        };
        let all = of_all(&[
            wish(30, 640, 50, Format::Jpeg),
            wish(5, 1920, 80, Format::Png),
        ]);
        assert_eq!((all.max_fps, all.max_width, all.quality), (30, 1920, 80));
        assert_eq!(all.format(), PictureFormat::Png);
        assert_eq!(of_all(&[]).max_fps, 0);
    }
}
