//! What a browser can be asked ([`Action`]) and what it answers ([`Outcome`],
//! [`Rejection`]), as Rust sees them: nothing optional that is required.
//!
//! Their JSON (`Serialize`) is what callers and the history see; `wire` turns
//! them into messages and back.

use serde::Serialize;
use serde_json::value::RawValue;

/// Which browser a session runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BrowserKind {
    /// `chromium-headless-shell`: starts and navigates about twice as fast.
    Shell,
    /// Chrome's new headless mode: extensions, managed policy.
    Full,
}

/// What becomes of a dialog that a page opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DialogPolicy {
    /// Answered with Cancel.
    Dismiss,
    /// Answered with OK.
    Accept,
    /// Left open; the command that meets it ends with `dialog_open`.
    Report,
}

/// The visible part of a page.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Viewport {
    /// CSS pixels.
    pub width: u32,
    /// CSS pixels.
    pub height: u32,
    /// Device pixels per CSS pixel.
    pub scale: f64,
}

/// How a session's browser is set up. Empty texts mean Chrome's own.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SessionOptions {
    /// Which browser.
    pub browser: BrowserKind,
    /// The first tab's and every later tab's viewport.
    pub viewport: Viewport,
    /// The `User-Agent` header and `navigator.userAgent`.
    pub user_agent: String,
    /// BCP 47, for `Accept-Language` and `Intl`.
    pub locale: String,
    /// IANA name, for `Date` and `Intl`.
    pub timezone: String,
    /// What becomes of dialogs.
    pub dialogs: DialogPolicy,
}

/// One action on a session.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Action {
    /// Goes to a URL.
    Navigate(Navigate),
    /// Clicks an element or a point.
    Click(Click),
    /// Types text.
    Type(Type),
    /// Takes a picture.
    Screenshot(Screenshot),
    /// Runs a script.
    Execute(Execute),
    /// Scrolls the page or to an element.
    Scroll(Scroll),
    /// Reads where the browser is.
    State,
    /// Answers the open dialog.
    Dialog(AnswerDialog),
}

impl Action {
    /// The name of the action in URLs, in the history and in logs.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Navigate(_) => "navigate",
            Self::Click(_) => "click",
            Self::Type(_) => "type",
            Self::Screenshot(_) => "screenshot",
            Self::Execute(_) => "execute",
            Self::Scroll(_) => "scroll",
            Self::State => "state",
            Self::Dialog(_) => "dialog",
        }
    }
}

/// The moment at which a navigation is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum WaitUntil {
    /// The new document has begun.
    Commit,
    /// `DOMContentLoaded` was fired.
    DomContentLoaded,
    /// `load` was fired.
    Load,
    /// No request was under way for 500 ms after `load`.
    NetworkIdle,
}

/// Goes to a URL.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Navigate {
    /// http, https or `about:blank`; the control plane has checked it.
    pub url: String,
    /// When it is done.
    pub wait_until: WaitUntil,
    /// The `Referer` header; empty: none.
    pub referer: String,
}

/// A position or a distance, in CSS pixels.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Point {
    /// To the right.
    pub x: f64,
    /// Down.
    pub y: f64,
}

/// What a click is aimed at.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ClickTarget {
    /// The first element that the selector finds.
    Selector(String),
    /// A point of the viewport.
    Point(Point),
}

/// A button of the mouse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MouseButton {
    /// The main one.
    Left,
    /// The wheel.
    Middle,
    /// Opens the context menu.
    Right,
}

/// Clicks an element or a point.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Click {
    /// Where.
    #[serde(flatten)]
    pub target: ClickTarget,
    /// With which button.
    pub button: MouseButton,
    /// 1 to 3: a double click is 2.
    pub click_count: u32,
    /// CDP's bit field: Alt 1, Control 2, Meta 4, Shift 8.
    pub modifiers: u32,
}

/// Types text into an element, or into what has the focus.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Type {
    /// `None`: what has the focus.
    pub selector: Option<String>,
    /// What is typed.
    pub text: String,
    /// Whether what was there is removed first.
    pub clear: bool,
    /// Milliseconds between two characters.
    pub delay_ms: u32,
    /// Whether Enter follows.
    pub submit: bool,
}

/// The encoding of a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ImageFormat {
    /// Lossless.
    Png,
    /// Small, lossy.
    Jpeg,
    /// Smaller, lossy.
    Webp,
}

impl ImageFormat {
    /// The media type, for `Content-Type`.
    #[must_use]
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Png => "image/png",
            Self::Jpeg => "image/jpeg",
            Self::Webp => "image/webp",
        }
    }
}

/// A part of the page, in CSS pixels of the document.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Rectangle {
    /// Left edge.
    pub x: f64,
    /// Upper edge.
    pub y: f64,
    /// More than 0.
    pub width: f64,
    /// More than 0.
    pub height: f64,
}

/// What a picture shows.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Area {
    /// What is visible.
    Viewport,
    /// The whole document.
    FullPage,
    /// One element, scrolled into view.
    Selector(String),
    /// A rectangle of the document.
    Clip(Rectangle),
}

/// Takes a picture.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Screenshot {
    /// Encoding.
    pub format: ImageFormat,
    /// 0 to 100, for JPEG and WebP; `None`: Chrome's own.
    pub quality: Option<u32>,
    /// What it shows.
    pub area: Area,
    /// Image pixels per CSS pixel.
    pub scale: f64,
    /// Whether the page's default white is left transparent (PNG, WebP).
    pub omit_background: bool,
}

/// A script.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Script {
    /// An expression or statements; the last one's value counts.
    Expression(String),
    /// A function that is called with arguments.
    Function {
        /// `(a, b) => a + b`
        function: String,
        /// A JSON array.
        args: String,
    },
}

/// Runs a script in the page.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Execute {
    /// What.
    pub script: Script,
    /// Whether a promise is waited for.
    pub await_promise: bool,
}

/// An end of the document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Edge {
    /// The beginning.
    Top,
    /// The end.
    Bottom,
}

/// Scrolls the page or to an element.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Scroll {
    /// To a position of the document.
    Position(Point),
    /// By a distance.
    Delta(Point),
    /// Until the element is visible.
    Selector(String),
    /// To an end of the document.
    Edge(Edge),
}

/// Answers the open dialog.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AnswerDialog {
    /// OK or Cancel.
    pub accept: bool,
    /// The text for a prompt.
    pub text: String,
}

/// What a command answered.
pub type Outcome = Result<Answer, Rejection>;

/// The answer of a command that did what it was asked.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Answer {
    /// Where the navigation ended.
    Navigated(Navigated),
    /// Where the pointer hit, in CSS pixels of the viewport.
    Clicked(Point),
    /// How much was typed.
    Typed(Typed),
    /// What the picture is like; the picture itself goes beside it.
    Captured(Captured),
    /// What the script gave.
    Evaluated(Evaluated),
    /// Where the page is scrolled to.
    Scrolled(Point),
    /// Where the browser is.
    State(Box<State>),
    /// The dialog that was answered.
    DialogAnswered(Dialog),
}

/// Where a navigation ended.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Navigated {
    /// After redirects.
    pub url: String,
    /// The document's title when it was done.
    pub title: String,
    /// HTTP status; `None` where there was no HTTP response (`about:blank`).
    pub status: Option<u32>,
    /// When it happened, counted from the start of the command.
    pub timing: Timing,
}

/// Times of a navigation, in milliseconds from the start of the command.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Timing {
    /// Until the new document began.
    pub commit_ms: f64,
    /// Until what `wait_until` names.
    pub total_ms: f64,
}

/// How much was typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Typed {
    /// Unicode scalar values.
    pub characters: u32,
}

/// What a picture is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Captured {
    /// Encoding.
    pub format: ImageFormat,
    /// Image pixels.
    pub width: u32,
    /// Image pixels.
    pub height: u32,
}

/// What a script gave.
#[derive(Debug, Clone, Serialize)]
pub struct Evaluated {
    /// `string`, `number`, `undefined`, `date`, `map`, `node`, …
    #[serde(rename = "type")]
    pub kind: String,
    /// JSON, as the page made it.
    pub value: Box<RawValue>,
}

impl PartialEq for Evaluated {
    fn eq(&self, other: &Self) -> bool {
        self.kind == other.kind && self.value.get() == other.value.get()
    }
}

/// One open tab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Tab {
    /// Chrome's target id.
    pub id: String,
    /// Where it is.
    pub url: String,
    /// Its document's title.
    pub title: String,
    /// Whether commands act on it.
    pub active: bool,
}

/// An open JavaScript dialog.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Dialog {
    /// `alert`, `confirm`, `prompt`, `beforeunload`
    #[serde(rename = "type")]
    pub kind: String,
    /// What it says.
    pub message: String,
    /// What a prompt offers.
    pub default_text: String,
    /// The page that opened it.
    pub url: String,
}

/// A width and a height, in CSS pixels.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Size {
    /// CSS pixels.
    pub width: f64,
    /// CSS pixels.
    pub height: f64,
}

/// Where the browser is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct State {
    /// The active tab's address.
    pub url: String,
    /// The active tab's title.
    pub title: String,
    /// Whether the document is still loading.
    pub loading: bool,
    /// The active tab's viewport.
    pub viewport: Viewport,
    /// Scroll position, in CSS pixels of the document.
    pub scroll: Point,
    /// The whole document.
    pub document: Size,
    /// All tabs.
    pub tabs: Vec<Tab>,
    /// The dialog that is open, if one is.
    pub dialog: Option<Dialog>,
}

/// Why a command did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rejection {
    /// Which of the known reasons.
    pub code: Code,
    /// For the caller, in the caller's words.
    pub message: String,
    /// A JSON object with more, for some codes; empty for most.
    #[serde(skip)]
    pub detail: String,
}

impl Rejection {
    /// A rejection without detail.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            detail: String::new(),
        }
    }
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// Why an agent rejects a command or a session. The text is stable and is
        /// what the caller reads.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
        pub enum Code {$(
            $(#[$doc])*
            #[serde(rename = $text)]
            $name,
        )*}

        impl Code {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The stable text.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {$(Self::$name => $text,)*}
            }

            /// The code that a text names. A newer agent's unknown code is
            /// [`Code::BrowserError`].
            #[must_use]
            pub fn from_text(text: &str) -> Self {
                match text {
                    $($text => Self::$name,)*
                    _ => Self::BrowserError,
                }
            }
        }
    };
}

codes! {
    /// No element was found before the deadline.
    SelectorNotFound = "selector_not_found",
    /// The selector cannot be read.
    SelectorInvalid = "selector_invalid",
    /// The element is there, but hidden, moving, disabled or covered.
    ElementNotActionable = "element_not_actionable",
    /// The script threw.
    ScriptError = "script_error",
    /// The value is larger than may be returned.
    ResultTooLarge = "result_too_large",
    /// The host's name is not known.
    NameNotResolved = "dns_failure",
    /// Nobody listens there.
    ConnectionRefused = "connection_refused",
    /// The connection broke, or there is no way to the host.
    ConnectionFailed = "connection_failed",
    /// The server's certificate or its TLS is not in order.
    TlsError = "tls_error",
    /// The server redirects in a circle.
    TooManyRedirects = "too_many_redirects",
    /// The URL is a download, not a page.
    NavigationDownload = "navigation_download",
    /// The navigation was given up for another one.
    NavigationAborted = "navigation_aborted",
    /// The page did not get there in time.
    NavigationTimeout = "navigation_timeout",
    /// The address is not one that a session may open.
    UrlBlocked = "url_blocked",
    /// Any other error of the network.
    NavigationFailed = "navigation_failed",
    /// The picture would be larger than the limit.
    ImageTooLarge = "image_too_large",
    /// A dialog is open and the session asked to be told.
    DialogOpen = "dialog_open",
    /// There is no dialog to answer.
    NoDialog = "no_dialog",
    /// The deadline passed.
    CommandTimeout = "command_timeout",
    /// The caller cancelled the command.
    Cancelled = "cancelled",
    /// The page's process crashed.
    PageCrashed = "page_crashed",
    /// The browser is gone.
    BrowserCrashed = "browser_crashed",
    /// The session is not on this agent, or has ended.
    SessionGone = "session_gone",
    /// The agent's lease ended, or the command's epoch is over.
    NotLeased = "not_leased",
    /// The agent is at its limit.
    AgentBusy = "agent_busy",
    /// The browser could not be started.
    LaunchFailed = "launch_failed",
    /// Chrome does not take the session's viewport.
    ViewportRefused = "viewport_refused",
    /// Chrome does not take the session's user agent.
    UserAgentRefused = "user_agent_refused",
    /// Chrome does not know the session's time zone.
    TimezoneRefused = "timezone_refused",
    /// Chrome does not know the session's locale.
    LocaleRefused = "locale_refused",
    /// Chrome answered with an error that has no code of its own.
    BrowserError = "browser_error",
}
