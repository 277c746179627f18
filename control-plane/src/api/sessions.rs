//! `/api/sessions`

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use browserfleet_proto::action::SessionOptions;
use browserfleet_proto::browser::v1;
use browserfleet_proto::ids::{CommandId, InstanceId, SessionId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::Api;
use super::body::{Body, OptionalBody};
use super::browser::{chosen, said};
use super::extract::Caller;
use super::queue;
use crate::domain::command::{self, Command};
use crate::domain::session::{Browser, Dialogs, Session, Status, WhileControlled};
use crate::domain::time::Timestamp;
use crate::error::Error;
use crate::sessions::{ControlView, HandoffView, Opened, OwnedSession, Ticket, Wish};
use crate::store::sessions::Filter;
use browserfleet_proto::limits;

/// Entries of a list where nobody says otherwise, and at the most.
const PAGE: (u32, u32) = (50, 500);
/// Labels on one session.
const METADATA_MAX: usize = 32;
/// Longest key and value of a label, and longest name, in bytes.
const LABEL_BYTES_MAX: usize = 256;
/// Longest user agent, locale or time zone, in bytes.
const SETTING_BYTES_MAX: usize = 1024;
/// Shortest life and idle time, in milliseconds: below it a session would end
/// before its first command.
const TIMEOUT_MS_MIN: u64 = 1_000;

/// Longest wait for an instance or an answer, in milliseconds: what proxies and clients have
/// patience for.
pub(super) const WAIT_MS_MAX: u64 = 300_000;

/// What a session is to be.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenRequest {
    #[serde(default)]
    browser: Browser,
    viewport: Option<ViewportRequest>,
    user_agent: Option<String>,
    #[serde(default)]
    locale: String,
    #[serde(default)]
    timezone: String,
    #[serde(default)]
    dialogs: Dialogs,
    #[serde(default)]
    while_controlled: WhileControlled,
    timeout_ms: Option<u64>,
    idle_timeout_ms: Option<u64>,
    name: Option<String>,
    #[serde(default)]
    metadata: BTreeMap<String, String>,
    #[serde(default)]
    wait_ms: u64,
}

/// The visible part of a page.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
struct ViewportRequest {
    width: u32,
    height: u32,
    scale: Option<f64>,
}

/// How much longer a session lives.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExtendRequest {
    by_ms: u64,
}

/// A session, as its owner sees it.
#[derive(Debug, Serialize)]
pub struct SessionView {
    id: SessionId,
    status: Status,
    end_reason: Option<String>,
    error_message: Option<String>,
    name: Option<String>,
    metadata: BTreeMap<String, String>,
    instance_id: Option<InstanceId>,
    browser: Browser,
    viewport: ViewportView,
    user_agent: String,
    locale: String,
    timezone: String,
    dialogs: Dialogs,
    while_controlled: WhileControlled,
    timeout_ms: u64,
    idle_timeout_ms: u64,
    created_at: Timestamp,
    started_at: Option<Timestamp>,
    expires_at: Timestamp,
    last_activity_at: Timestamp,
    ended_at: Option<Timestamp>,
    current_url: Option<String>,
    current_title: Option<String>,
    /// Why it ends at `expires_at`, where that is sooner than it was asked for.
    ending_reason: Option<String>,
    control: ControlView,
    /// The last one.
    handoff: Option<HandoffView>,
}

/// The visible part of a page.
#[derive(Debug, Serialize)]
struct ViewportView {
    width: u32,
    height: u32,
    scale: f64,
}

/// A line of the history.
#[derive(Debug, Serialize)]
pub struct CommandView {
    id: CommandId,
    session_id: SessionId,
    r#type: String,
    params: Option<Box<RawValue>>,
    status: command::Status,
    result: Option<Box<RawValue>>,
    error: Option<ErrorView>,
    started_at: Timestamp,
    ended_at: Option<Timestamp>,
}

/// Why a command did not do what it was asked.
#[derive(Debug, Serialize)]
struct ErrorView {
    code: String,
    message: String,
}

/// A part of a list.
#[derive(Debug, Serialize)]
pub struct ListView<T> {
    data: Vec<T>,
    next_cursor: Option<String>,
}

impl<T> ListView<T> {
    /// A list that is short enough to be given whole.
    pub fn whole(data: impl Iterator<Item = T>) -> Self {
        Self {
            data: data.collect(),
            next_cursor: None,
        }
    }

    /// The first `limit` of what was found; one more than that means that there
    /// is more.
    pub fn part<R: Into<T>>(mut found: Vec<R>, limit: u32, id: impl Fn(&R) -> String) -> Self {
        let more = found.len() > limit as usize;
        found.truncate(limit as usize);
        let next_cursor = found.last().filter(|_| more).map(id);
        Self {
            data: found.into_iter().map(Into::into).collect(),
            next_cursor,
        }
    }
}

impl From<Session> for SessionView {
    fn from(it: Session) -> Self {
        Self {
            id: it.id,
            status: it.status,
            end_reason: it.end_reason,
            error_message: it.error_message,
            name: it.name,
            metadata: it.metadata,
            instance_id: it.instance,
            browser: it.spec.browser,
            viewport: ViewportView {
                width: it.spec.width,
                height: it.spec.height,
                scale: it.spec.scale,
            },
            user_agent: it.spec.user_agent,
            locale: it.spec.locale,
            timezone: it.spec.timezone,
            dialogs: it.spec.dialogs,
            while_controlled: it.spec.while_controlled,
            timeout_ms: milliseconds(it.timeout),
            idle_timeout_ms: milliseconds(it.idle_timeout),
            created_at: it.created_at,
            started_at: it.started_at,
            expires_at: it.expires_at,
            last_activity_at: it.last_activity_at,
            ended_at: it.ended_at,
            current_url: it.current_url,
            current_title: it.current_title,
            ending_reason: it.ending_reason,
            control: ControlView::from(&it.control),
            handoff: it.control.handoff.as_ref().map(HandoffView::from),
        }
    }
}

impl From<Command> for CommandView {
    fn from(it: Command) -> Self {
        Self {
            id: it.id,
            session_id: it.session,
            r#type: it.kind,
            params: RawValue::from_string(it.params).ok(),
            status: it.status,
            result: it.result.and_then(|json| RawValue::from_string(json).ok()),
            error: it.error_code.map(|code| ErrorView {
                code,
                message: it.error_message.unwrap_or_default(),
            }),
            started_at: it.started_at,
            ended_at: it.ended_at,
        }
    }
}

impl TryFrom<v1::OpenSessionRequest> for OpenRequest {
    type Error = Error;

    fn try_from(it: v1::OpenSessionRequest) -> Result<Self, Error> {
        let options = it.options.unwrap_or_default();
        let number = |number: u64| (number > 0).then_some(number);
        Ok(Self {
            browser: match chosen("options.browser", options.browser)? {
                v1::BrowserKind::Unspecified => Browser::default(),
                v1::BrowserKind::Shell => Browser::Shell,
                v1::BrowserKind::Full => Browser::Full,
            },
            viewport: options.viewport.map(|it| ViewportRequest {
                width: it.width,
                height: it.height,
                scale: (it.scale != 0.0).then_some(it.scale),
            }),
            user_agent: said(options.user_agent),
            locale: options.locale,
            timezone: options.timezone,
            dialogs: match chosen("options.dialogs", options.dialogs)? {
                v1::DialogPolicy::Unspecified => Dialogs::default(),
                v1::DialogPolicy::Dismiss => Dialogs::Dismiss,
                v1::DialogPolicy::Accept => Dialogs::Accept,
                v1::DialogPolicy::Report => Dialogs::Report,
            },
            timeout_ms: number(it.timeout_ms),
            idle_timeout_ms: number(it.idle_timeout_ms),
            name: said(it.name),
            metadata: it.metadata.into_iter().collect(),
            wait_ms: it.wait_ms,
            while_controlled: match chosen("while_controlled", it.while_controlled)? {
                v1::WhileControlled::Unspecified => WhileControlled::default(),
                v1::WhileControlled::Reject => WhileControlled::Reject,
                v1::WhileControlled::Hold => WhileControlled::Hold,
            },
        })
    }
}

/// A session, as the API for services has it; with its place in the queue where it waits.
pub fn message_of(it: Session, waits: Option<&Ticket>) -> v1::Session {
    let options = SessionOptions::from(&it.spec);
    v1::Session {
        id: it.id.to_string(),
        status: it.status.as_str().to_owned(),
        end_reason: it.end_reason.unwrap_or_default(),
        error_message: it.error_message.unwrap_or_default(),
        name: it.name.unwrap_or_default(),
        metadata: it.metadata.into_iter().collect(),
        instance_id: it.instance.map(|it| it.to_string()).unwrap_or_default(),
        options: Some((&options).into()),
        timeout_ms: milliseconds(it.timeout),
        idle_timeout_ms: milliseconds(it.idle_timeout),
        created_at_us: microseconds(Some(it.created_at)),
        started_at_us: microseconds(it.started_at),
        expires_at_us: microseconds(Some(it.expires_at)),
        last_activity_at_us: microseconds(Some(it.last_activity_at)),
        ended_at_us: microseconds(it.ended_at),
        current_url: it.current_url.unwrap_or_default(),
        current_title: it.current_title.unwrap_or_default(),
        ending_reason: it.ending_reason.unwrap_or_default(),
        while_controlled: match it.spec.while_controlled {
            WhileControlled::Reject => v1::WhileControlled::Reject,
            WhileControlled::Hold => v1::WhileControlled::Hold,
        }
        .into(),
        queued: waits.map(|it| v1::Queued {
            position: u32::try_from(it.position).unwrap_or(u32::MAX),
            estimate_ms: it.estimate.map_or(0, milliseconds),
            reason: it.reason.to_owned(),
            boot_phase: it.boot_phase.unwrap_or_default().to_owned(),
        }),
    }
}

fn microseconds(at: Option<Timestamp>) -> u64 {
    at.and_then(|it| u64::try_from(it.0).ok()).unwrap_or(0)
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Opens a session, or says where to ask after it.
pub async fn open(
    State(api): State<Api>,
    Caller(user): Caller,
    OptionalBody(request): OptionalBody<OpenRequest>,
) -> Result<Response, Error> {
    let (wish, wait) = request.wish()?;
    Ok(match api.sessions.open(&user, wish, wait).await? {
        Opened::Live(session) => {
            let view = SessionView::from(*session);
            (StatusCode::CREATED, Json(view)).into_response()
        }
        Opened::Queued(ticket) => queue::accepted(ticket).into_response(),
    })
}

/// Lists the caller's sessions.
pub async fn list(
    State(api): State<Api>,
    Caller(user): Caller,
    Query(parameters): Query<BTreeMap<String, String>>,
) -> Result<Json<ListView<SessionView>>, Error> {
    let page = api.sessions.list(&user, filter_of(parameters)?).await?;
    Ok(Json(ListView {
        data: page.data.into_iter().map(Into::into).collect(),
        next_cursor: page.next.map(|id| id.to_string()),
    }))
}

/// Shows a session.
pub async fn show(
    State(api): State<Api>,
    session: OwnedSession,
) -> Result<Json<SessionView>, Error> {
    Ok(Json(api.sessions.show(&session).await?.into()))
}

/// Ends a session.
pub async fn end(
    State(api): State<Api>,
    session: OwnedSession,
) -> Result<Json<SessionView>, Error> {
    Ok(Json(api.sessions.end(&session, "ended").await?.into()))
}

/// Moves a session's end.
pub async fn extend(
    State(api): State<Api>,
    session: OwnedSession,
    Body(request): Body<ExtendRequest>,
) -> Result<Json<SessionView>, Error> {
    let by = duration_of("by_ms", Some(request.by_ms))?.unwrap_or_default();
    Ok(Json(api.sessions.extend(&session, by).await?.into()))
}

/// Lists a session's commands.
pub async fn commands(
    State(api): State<Api>,
    session: OwnedSession,
    Query(mut parameters): Query<BTreeMap<String, String>>,
) -> Result<Json<ListView<CommandView>>, Error> {
    let limit = limit_of(parameters.remove("limit"))?;
    let before = cursor_of(parameters.remove("cursor"))?;
    refuse_unknown(&parameters)?;
    let page = api.sessions.commands(&session, before, limit).await?;
    Ok(Json(ListView {
        data: page.data.into_iter().map(Into::into).collect(),
        next_cursor: page.next.map(|id| id.to_string()),
    }))
}

impl OpenRequest {
    /// What a service is asked for, and how long to wait for it.
    ///
    /// # Errors
    /// The field at fault.
    pub fn wish(self) -> Result<(Wish, Duration), Error> {
        if self.wait_ms > WAIT_MS_MAX {
            return Err(Error::invalid(
                "wait_ms",
                format!("has to be 0 to {WAIT_MS_MAX}"),
            ));
        }
        let wait = Duration::from_millis(self.wait_ms);
        Ok((wish_of(self)?, wait))
    }
}

fn wish_of(request: OpenRequest) -> Result<Wish, Error> {
    if let Some(viewport) = request.viewport {
        for (field, side) in [
            ("viewport.width", viewport.width),
            ("viewport.height", viewport.height),
        ] {
            if !(1..=limits::VIEWPORT_SIDE_MAX).contains(&side) {
                return Err(Error::invalid(
                    field,
                    format!("has to be 1 to {}", limits::VIEWPORT_SIDE_MAX),
                ));
            }
        }
    }
    let scale = request.viewport.and_then(|it| it.scale);
    if scale.is_some_and(|it| !(0.25..=4.0).contains(&it)) {
        return Err(Error::invalid("viewport.scale", "has to be 0.25 to 4"));
    }
    if request.metadata.len() > METADATA_MAX {
        return Err(Error::invalid(
            "metadata",
            format!("has more than {METADATA_MAX} entries"),
        ));
    }
    for (key, value) in &request.metadata {
        let field = format!("metadata.{key}");
        if key.is_empty() {
            return Err(Error::invalid("metadata", "has an empty key"));
        }
        short_text(&field, key, LABEL_BYTES_MAX)?;
        short_text(&field, value, LABEL_BYTES_MAX)?;
    }
    for (field, text) in [
        ("user_agent", request.user_agent.as_deref()),
        ("locale", Some(request.locale.as_str())),
        ("timezone", Some(request.timezone.as_str())),
    ] {
        header_text(field, text.unwrap_or_default())?;
    }
    if let Some(name) = &request.name {
        short_text("name", name, LABEL_BYTES_MAX)?;
    }
    Ok(Wish {
        browser: request.browser,
        viewport: request.viewport.map(|it| (it.width, it.height)),
        scale,
        user_agent: request.user_agent,
        locale: request.locale,
        timezone: request.timezone,
        dialogs: request.dialogs,
        while_controlled: request.while_controlled,
        timeout: duration_of("timeout_ms", request.timeout_ms)?,
        idle_timeout: duration_of("idle_timeout_ms", request.idle_timeout_ms)?,
        name: request.name,
        metadata: request.metadata,
    })
}

fn duration_of(field: &'static str, value: Option<u64>) -> Result<Option<Duration>, Error> {
    let most = milliseconds(crate::sessions::TIMEOUT_MAX);
    match value {
        None => Ok(None),
        Some(value) if (TIMEOUT_MS_MIN..=most).contains(&value) => {
            Ok(Some(Duration::from_millis(value)))
        }
        Some(_) => Err(Error::invalid(
            field,
            format!("has to be {TIMEOUT_MS_MIN} to {most}"),
        )),
    }
}

fn short_text(field: &str, text: &str, bytes_max: usize) -> Result<(), Error> {
    if text.len() > bytes_max {
        return Err(Error::invalid(
            field,
            format!("longer than {bytes_max} bytes"),
        ));
    }
    if text.contains('\0') {
        return Err(Error::invalid(field, "has a NUL character"));
    }
    Ok(())
}

/// What Chrome puts into headers.
fn header_text(field: &str, text: &str) -> Result<(), Error> {
    short_text(field, text, SETTING_BYTES_MAX)?;
    if text.chars().any(char::is_control) {
        return Err(Error::invalid(field, "has a control character"));
    }
    Ok(())
}

/// Which sessions a list is to have, where a message asks for it.
///
/// # Errors
/// The field at fault.
pub fn filter_by(request: v1::ListSessionsRequest) -> Result<Filter, Error> {
    let limit = (request.limit > 0).then(|| request.limit.to_string());
    let mut parameters: BTreeMap<String, String> = request
        .metadata
        .into_iter()
        .map(|(key, value)| (format!("metadata.{key}"), value))
        .collect();
    let others = [
        ("status", said(request.status)),
        ("limit", limit),
        ("cursor", said(request.cursor)),
    ];
    for (name, value) in others {
        parameters.extend(value.map(|it| (name.to_owned(), it)));
    }
    filter_of(parameters)
}

fn filter_of(mut parameters: BTreeMap<String, String>) -> Result<Filter, Error> {
    let status = match parameters.remove("status") {
        None => None,
        Some(text) => Some(Status::from_text(&text).ok_or_else(|| {
            let known = Status::ALL.map(Status::as_str).join(", ");
            Error::invalid("status", format!("has to be one of: {known}"))
        })?),
    };
    let limit = limit_of(parameters.remove("limit"))?;
    let before = cursor_of(parameters.remove("cursor"))?;
    let mut metadata = BTreeMap::new();
    parameters.retain(|key, value| match key.strip_prefix("metadata.") {
        Some(key) => {
            metadata.insert(key.to_owned(), std::mem::take(value));
            false
        }
        None => true,
    });
    refuse_unknown(&parameters)?;
    if metadata.len() > METADATA_MAX {
        return Err(Error::invalid("metadata", "has too many entries"));
    }
    for (key, value) in &metadata {
        short_text("metadata", key, LABEL_BYTES_MAX)?;
        short_text("metadata", value, LABEL_BYTES_MAX)?;
    }
    Ok(Filter {
        status,
        metadata,
        before,
        limit,
    })
}

pub(super) fn limit_of(text: Option<String>) -> Result<u32, Error> {
    let (default, most) = PAGE;
    let Some(text) = text else { return Ok(default) };
    match text.parse() {
        Ok(limit) if (1..=most).contains(&limit) => Ok(limit),
        _ => Err(Error::invalid("limit", format!("has to be 1 to {most}"))),
    }
}

pub(super) fn cursor_of<T: std::str::FromStr>(text: Option<String>) -> Result<Option<T>, Error> {
    text.map(|text| {
        text.parse()
            .map_err(|_| Error::invalid("cursor", "is not one that a list gave"))
    })
    .transpose()
}

pub(super) fn refuse_unknown(parameters: &BTreeMap<String, String>) -> Result<(), Error> {
    match parameters.keys().next() {
        Some(key) => Err(Error::invalid(
            key.as_str(),
            "is not a parameter of this list",
        )),
        None => Ok(()),
    }
}
