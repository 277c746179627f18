//! `/api/ec2/*`: instances and their pool. On every provider: `local` has the same
//! instances, as processes.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Json;
use axum::extract::{FromRef, FromRequestParts, Path, Query, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use browserfleet_proto::ids::{InstanceId, UserId};
use serde::{Deserialize, Serialize};

use super::Api;
use super::body::{Body, OptionalBody};
use super::etag::{etag_of, expected_of, with_etag};
use super::extract::Caller;
use super::follow::{self, Course};
use super::sessions::{ListView, cursor_of, limit_of, refuse_unknown};
use crate::domain::health::Figures;
use crate::domain::instance::{Instance, RestartMode, Status};
use crate::domain::machine::Market;
use crate::domain::pool::Reuse;
use crate::domain::time::Timestamp;
use crate::domain::user::Role;
use crate::error::Error;
use crate::fleet::{self, InstanceReport, Overrides, PoolCounts, PoolReport, phase_of};

/// An instance that its caller may see: found by id and user together.
pub struct OwnedInstance(Instance);

impl<S> FromRequestParts<S> for OwnedInstance
where
    Api: FromRef<S>,
    S: Send + Sync,
{
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        let Caller(user) = Caller::from_request_parts(parts, state).await?;
        let unknown = || Error::NotFound("instance");
        let Path(id) = Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(|_| unknown())?;
        let id: InstanceId = id.parse().map_err(|_| unknown())?;
        Ok(Self(Api::from_ref(state).fleet.owned(&user, id).await?))
    }
}

/// What an instance is to be.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateRequest {
    instance_type: Option<String>,
}

/// What is to be started anew.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestartRequest {
    #[serde(default)]
    mode: RestartMode,
}

/// An instance.
#[derive(Debug, Serialize)]
pub struct InstanceView {
    id: InstanceId,
    /// The provider's name for its machine.
    instance_id: Option<String>,
    provider: String,
    region: Option<String>,
    zone: Option<String>,
    status: Status,
    phase: &'static str,
    health_status: Option<&'static str>,
    health_reason: Option<String>,
    draining: Option<String>,
    ends_at: Option<Timestamp>,
    error_code: Option<String>,
    error_message: Option<String>,
    public_dns_name: Option<String>,
    public_ip_address: Option<String>,
    private_ip_address: Option<String>,
    instance_type: Option<String>,
    market: Option<Market>,
    image: Option<String>,
    generation: i64,
    tags: BTreeMap<&'static str, String>,
    assigned_to_user_id: Option<UserId>,
    sessions: i64,
    sessions_max: i64,
    created_at: Timestamp,
    launch_time: Option<Timestamp>,
    ready_at: Option<Timestamp>,
    last_activity_time: Timestamp,
}

impl From<Instance> for InstanceView {
    fn from(it: Instance) -> Self {
        let phase = phase_of(&it);
        let tags = BTreeMap::from([
            ("browserfleet:row", it.id.to_string()),
            ("browserfleet:generation", it.generation.to_string()),
            ("browserfleet:attempt", it.attempt.number.to_string()),
        ]);
        let health = match it.status {
            Status::Running if it.unhealthy.is_none() => Some("healthy"),
            Status::Running | Status::Error => Some("unhealthy"),
            _ => None,
        };
        Self {
            id: it.id,
            instance_id: it.reference,
            provider: it.provider,
            region: it.region,
            zone: it.zone,
            status: it.status,
            phase,
            health_status: health,
            health_reason: it.unhealthy.map(|it| it.reason),
            draining: it.draining.map(|it| it.reason),
            ends_at: it.drain_until,
            error_code: it.error_code,
            error_message: it.error_message,
            public_dns_name: it.addresses.public_dns,
            public_ip_address: it.addresses.public_ip,
            private_ip_address: it.addresses.private_ip,
            instance_type: it.kind,
            market: it.offering.map(|it| it.market),
            image: it.image,
            generation: it.generation,
            tags,
            assigned_to_user_id: it.assigned_to,
            sessions: it.sessions,
            sessions_max: it.sessions_max,
            created_at: it.created_at,
            launch_time: it.launched_at,
            ready_at: it.ready_at,
            last_activity_time: it.last_activity_at,
        }
    }
}

/// All that is known of one instance.
#[derive(Debug, Serialize)]
pub struct StatusView {
    #[serde(flatten)]
    instance: InstanceView,
    /// `up`, or `down` with how long it has been silent.
    link: &'static str,
    silent_ms: Option<u64>,
    figures: Option<FiguresView>,
    boot_phases: Vec<BootPhaseView>,
    restart: Option<RestartView>,
}

/// What an agent says of its machine.
#[derive(Debug, Serialize)]
struct FiguresView {
    sessions: u32,
    browsers: u32,
    load_percent: u32,
    processors: u32,
    memory_available_bytes: u64,
    disk_available_bytes: u64,
}

/// A step of a machine's start.
#[derive(Debug, Serialize)]
struct BootPhaseView {
    name: String,
    after_ms: u32,
}

/// How far an instance is, as it is streamed.
#[derive(Debug, Serialize)]
struct PhaseView {
    id: InstanceId,
    instance_id: Option<String>,
    status: Status,
    phase: &'static str,
    error_code: Option<String>,
    error_message: Option<String>,
}

impl From<Instance> for PhaseView {
    fn from(it: Instance) -> Self {
        Self {
            phase: phase_of(&it),
            id: it.id,
            instance_id: it.reference,
            status: it.status,
            error_code: it.error_code,
            error_message: it.error_message,
        }
    }
}

/// A restart that is under way.
#[derive(Debug, Serialize)]
struct RestartView {
    mode: RestartMode,
    asked_at: Timestamp,
    told_at: Option<Timestamp>,
}

impl From<Figures> for FiguresView {
    fn from(it: Figures) -> Self {
        Self {
            sessions: it.sessions,
            browsers: it.browsers,
            load_percent: it.load_percent,
            processors: it.processors,
            memory_available_bytes: it.memory_available,
            disk_available_bytes: it.disk_available,
        }
    }
}

impl From<InstanceReport> for StatusView {
    fn from(it: InstanceReport) -> Self {
        let restart = it.row.restart.as_ref().map(|it| RestartView {
            mode: it.mode,
            asked_at: it.at,
            told_at: it.told_at,
        });
        Self {
            instance: it.row.into(),
            link: if it.silence.is_none() { "up" } else { "down" },
            silent_ms: it.silence.map(milliseconds),
            figures: it.figures.map(Into::into),
            boot_phases: it
                .boot_phases
                .into_iter()
                .map(|it| BootPhaseView {
                    name: it.name,
                    after_ms: it.after_ms,
                })
                .collect(),
            restart,
        }
    }
}

/// The pool.
#[derive(Debug, Serialize)]
pub struct PoolView {
    warm: u32,
    stopped: u32,
    max: u32,
    idle_minutes: u64,
    instance_types: Vec<String>,
    subnets: Vec<String>,
    markets: Vec<Market>,
    sessions_per_instance: u32,
    reuse: Reuse,
    generation: i64,
    image: Option<String>,
    /// What administrators want otherwise than the settings say.
    overrides: Overrides,
    instances: PoolCounts,
    sessions_waiting: usize,
    boot: BootView,
    launches: LaunchesView,
    alarm: Option<String>,
}

/// How long starts take, from their launch until the agent says that it lives.
#[derive(Debug, Serialize)]
struct BootView {
    seen: usize,
    median_ms: Option<u64>,
    p90_ms: Option<u64>,
}

/// How launches went of late.
#[derive(Debug, Serialize)]
struct LaunchesView {
    failures_in_a_row: u32,
    last_failure: Option<String>,
    last_failed_at: Option<Timestamp>,
    held_back: Option<&'static str>,
}

impl From<PoolReport> for PoolView {
    fn from(it: PoolReport) -> Self {
        fn distinct<T: PartialEq>(all: impl Iterator<Item = T>) -> Vec<T> {
            let mut distinct = Vec::new();
            for it in all {
                if !distinct.contains(&it) {
                    distinct.push(it);
                }
            }
            distinct
        }
        let offerings = || it.pool.offerings.iter();
        Self {
            warm: it.pool.warm,
            stopped: it.pool.stopped,
            max: it.pool.max,
            idle_minutes: it.pool.idle.as_secs() / 60,
            instance_types: distinct(offerings().map(|it| it.kind.clone())),
            subnets: distinct(offerings().map(|it| it.place.clone())),
            markets: distinct(offerings().map(|it| it.market)),
            sessions_per_instance: it.pool.sessions_per_instance,
            reuse: it.pool.reuse,
            generation: it.pool.generation,
            image: it.pool.image,
            overrides: it.pool.overrides,
            instances: it.counts,
            sessions_waiting: it.waiting,
            boot: BootView {
                seen: it.history.boots.len(),
                median_ms: it.history.boot(0.5).map(milliseconds),
                p90_ms: it.history.boot(0.9).map(milliseconds),
            },
            launches: LaunchesView {
                failures_in_a_row: it.history.failures_in_a_row,
                last_failure: it.history.failure,
                last_failed_at: it.history.failed_at,
                held_back: it.held_back,
            },
            alarm: it.alarm,
        }
    }
}

/// The last words of an agent.
#[derive(Debug, Serialize)]
pub struct JournalView {
    text: String,
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Lists the caller's instances; all of them for an administrator.
pub async fn list(
    State(api): State<Api>,
    Caller(user): Caller,
    Query(mut parameters): Query<BTreeMap<String, String>>,
) -> Result<Json<ListView<InstanceView>>, Error> {
    let limit = limit_of(parameters.remove("limit"))?;
    let before = cursor_of(parameters.remove("cursor"))?;
    refuse_unknown(&parameters)?;
    let found = api.fleet.list(&user, before, limit + 1).await?;
    Ok(Json(ListView::part(found, limit, |it| it.id.to_string())))
}

/// Wants an instance for the caller.
pub async fn create(
    State(api): State<Api>,
    Caller(user): Caller,
    OptionalBody(request): OptionalBody<CreateRequest>,
) -> Result<(StatusCode, HeaderMap, Json<InstanceView>), Error> {
    let wish = fleet::NewInstance {
        kind: request.instance_type,
    };
    let row = api.fleet.want(user.id, wish).await?;
    let mut headers = HeaderMap::new();
    if let Ok(place) = HeaderValue::from_str(&format!("/api/ec2/instances/{}/status", row.id)) {
        headers.insert(header::LOCATION, place);
    }
    Ok((StatusCode::ACCEPTED, headers, Json(row.into())))
}

/// Ends an instance, with what is on it.
pub async fn end(
    State(api): State<Api>,
    OwnedInstance(row): OwnedInstance,
) -> Result<(StatusCode, Json<InstanceView>), Error> {
    let id = row.id;
    if row.status == Status::Terminated {
        return Ok((StatusCode::OK, Json(row.into())));
    }
    api.fleet.end(id).await?;
    api.sessions.instance_lost(id, "instance_deleted").await;
    let row = api.fleet.reread(id).await?;
    Ok((StatusCode::ACCEPTED, Json(row.into())))
}

/// Shows all that is known of an instance, or streams it until it is ready or over.
pub async fn status(
    State(api): State<Api>,
    headers: HeaderMap,
    OwnedInstance(row): OwnedInstance,
) -> Result<Response, Error> {
    if !follow::is_wanted(&headers) {
        let view = StatusView::from(api.fleet.report(row).await?);
        return Ok(Json(view).into_response());
    }
    let news = [api.fleet.rooms(), api.fleet.woken()];
    Ok(follow::stream_of(news, move || {
        let (api, id) = (api.clone(), row.id);
        async move {
            let row = api.fleet.reread(id).await?;
            let course = match phase_of(&row) {
                "ready" | "terminated" | "failed" => Course::Decided,
                _ => Course::Open,
            };
            Ok((PhaseView::from(row), course))
        }
    }))
}

/// Starts the agent, or the machine, anew.
pub async fn restart(
    State(api): State<Api>,
    OwnedInstance(row): OwnedInstance,
    OptionalBody(request): OptionalBody<RestartRequest>,
) -> Result<(StatusCode, Json<StatusView>), Error> {
    let id = row.id;
    api.fleet.ask_restart(&row, request.mode).await?;
    let row = api.fleet.reread(id).await?;
    let report = api.fleet.report(row).await?;
    Ok((StatusCode::ACCEPTED, Json(report.into())))
}

/// Takes no new sessions on an instance, and ends it with its last one.
pub async fn drain(
    State(api): State<Api>,
    OwnedInstance(row): OwnedInstance,
) -> Result<(StatusCode, Json<InstanceView>), Error> {
    let id = row.id;
    api.fleet.drain(&row).await?;
    let row = api.fleet.reread(id).await?;
    Ok((StatusCode::ACCEPTED, Json(row.into())))
}

/// Shows the last words of an instance's agent; for administrators, since other
/// users' sessions may be in it.
pub async fn journal(
    State(api): State<Api>,
    Caller(user): Caller,
    OwnedInstance(row): OwnedInstance,
) -> Result<Json<JournalView>, Error> {
    if user.role != Role::Admin {
        return Err(Error::Forbidden("this is for administrators"));
    }
    let text = api.fleet.journal(&row).await?;
    Ok(Json(JournalView { text }))
}

/// Shows the pool.
pub async fn pool(State(api): State<Api>) -> Result<Response, Error> {
    let report = api.fleet.pool_report().await?;
    let etag = etag_of(report.pool.version);
    let view = PoolView::from(report);
    Ok(with_etag(Json(view).into_response(), &etag))
}

/// Replaces what administrators want of the pool.
pub async fn change_pool(
    State(api): State<Api>,
    headers: HeaderMap,
    Body(overrides): Body<Overrides>,
) -> Result<Response, Error> {
    let expected = expected_of(&headers)?;
    api.fleet.change_pool(&overrides, expected).await?;
    pool(State(api)).await
}
