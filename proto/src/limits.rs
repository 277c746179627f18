//! Every bound that both ends of a link share, or that a caller meets.

use std::time::Duration;

/// Largest message on the link, in bytes, both ways. A caller's text and a
/// script's value are below it; pictures go by media streams.
pub const LINK_MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Largest chunk on a media stream, in bytes: at 1 Gbit/s it holds the
/// connection for 2 ms.
pub const MEDIA_CHUNK_BYTES_MAX: usize = 256 * 1024;
/// Largest picture that may ride on the link itself, in bytes. Below it a
/// stream of its own costs more than it saves.
pub const LINK_PAYLOAD_BYTES_MAX: usize = 64 * 1024;
/// Largest picture of a live view, in bytes. A PNG of a large page is below it; what is
/// not is left out.
pub const FRAME_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Pictures of one live view that are on their way to the control plane at once: one that
/// is taken in while the next one travels.
pub const FRAMES_UNDER_WAY_MAX: u64 = 2;
/// Most pictures a second that a live view may have: as many as Chrome draws.
pub const FRAMES_A_SECOND_MAX: u32 = 60;
/// How many inputs of one session may wait at each step of their way: a few hundred keys
/// that a program presses at once. Only a page that is stuck is slower than a person.
pub const INPUTS_MAX: usize = 1024;
/// Bytes that they may have together there: a long text that is pasted in pieces.
pub const INPUTS_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Largest text of one input, in bytes: as JSON, with every character escaped, it still
/// fits [`MEDIA_CHUNK_BYTES_MAX`]. Who pastes more sends several.
pub const INPUT_TEXT_BYTES_MAX: usize = 32 * 1024;

/// Largest picture, in bytes.
pub const PAYLOAD_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Largest picture, in image pixels: 8 bytes a pixel in Chrome at work makes
/// this half a gigabyte.
pub const IMAGE_PIXELS_MAX: u64 = 64_000_000;
/// Longest side of a picture, in image pixels: Chrome's own texture limit.
pub const IMAGE_SIDE_PIXELS_MAX: u32 = 16_384;

/// Largest text that is typed, script that is run, or value that is returned,
/// in bytes of UTF-8. With its frame it fits [`LINK_MESSAGE_BYTES_MAX`].
pub const TEXT_BYTES_MAX: usize = 1024 * 1024;
/// Longest URL, in bytes: Chrome refuses longer ones.
pub const URL_BYTES_MAX: usize = 2 * 1024 * 1024 / 64;
/// Longest selector, in bytes.
pub const SELECTOR_BYTES_MAX: usize = 16 * 1024;
/// Largest side of a viewport, in CSS pixels.
pub const VIEWPORT_SIDE_MAX: u32 = 8192;
/// Largest payload of an event, in bytes. Longer texts in it are cut.
pub const EVENT_BYTES_MAX: usize = 16 * 1024;

/// Largest message of CDP that a client may send, in bytes: what Chrome takes.
pub const TUNNEL_MESSAGE_IN_BYTES_MAX: usize = 100 * 1024 * 1024;
/// Largest message of CDP that a client may get, in bytes: what Playwright and
/// Puppeteer take.
pub const TUNNEL_MESSAGE_OUT_BYTES_MAX: usize = 256 * 1024 * 1024;
/// What may wait for a client that does not read, in bytes. Beyond it the tunnel is cut.
pub const TUNNEL_HELD_BYTES_MAX: usize = 32 * 1024 * 1024;
/// How many tunnels one session may have.
pub const TUNNELS_MAX: usize = 20;
/// How long a tunnel may take to be there.
pub const TUNNEL_OPENS_WITHIN: Duration = Duration::from_secs(10);

/// How many outcomes a session remembers, so that a command that comes twice
/// runs once.
pub const REMEMBERED_COMMANDS_MAX: usize = 1024;
/// How many commands one session may have waiting.
pub const SESSION_QUEUE_MAX: usize = 64;
/// How many messages may wait for one link's socket.
pub const LINK_QUEUE_MAX: usize = 256;
/// How many outcomes an agent keeps until they are acknowledged.
pub const OUTBOX_MAX: usize = 4096;

/// Longest time a command may ask for.
pub const COMMAND_TIMEOUT_MAX: Duration = Duration::from_secs(300);
/// A command's time where nobody says otherwise.
pub const COMMAND_TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);
/// How long a browser may take to be there.
pub const LAUNCH_TIMEOUT: Duration = Duration::from_secs(15);
