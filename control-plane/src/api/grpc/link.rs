//! The link: Hello and Welcome, then messages both ways until either end goes.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};

use browserfleet_proto::PROTOCOL_VERSION;
use browserfleet_proto::agent::v1::from_agent::Body as Said;
use browserfleet_proto::agent::v1::link_service_server::LinkService;
use browserfleet_proto::agent::v1::{self, FromAgent, Hello, ToAgent, to_agent::Body};
use browserfleet_proto::ids::{InstanceId, LinkId, SessionId};
use browserfleet_proto::{ladder, limits};
use futures_util::{Stream, StreamExt, stream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::{Code, Request, Response, Status, Streaming};

use super::{caller_of, status_of};
use crate::api::Api;
use crate::domain::health::Figures;
use crate::error::Error;
use crate::relay::{Attached, Link, Newcomer, Outgoing};
use crate::sessions::Report;
use crate::telemetry::metrics;

/// Reports that were not the agent's to make, after which its link is cut.
const STRANGE_REPORTS_MAX: u32 = 100;

pub(super) struct LinkAdapter {
    api: Api,
}

impl LinkAdapter {
    pub(super) fn new(api: Api) -> Self {
        Self { api }
    }
}

type Messages = Pin<Box<dyn Stream<Item = Result<ToAgent, Status>> + Send>>;

#[tonic::async_trait]
impl LinkService for LinkAdapter {
    type OpenStream = Messages;

    async fn open(
        &self,
        request: Request<Streaming<FromAgent>>,
    ) -> Result<Response<Messages>, Status> {
        let instance = caller_of(&request)?;
        let mut said = request.into_inner();
        let hello = hello_of(&mut said).await?;
        if let Some(refusal) = self.refusal(instance, &hello).await? {
            tracing::warn!(instance.id = %instance, refusal.code, "refused an agent");
            let message = ToAgent {
                body: Some(Body::Refusal(refusal)),
            };
            return Ok(Response::new(stream::iter([Ok(message)]).boxed()));
        }
        let boot = hello
            .boot_id
            .parse()
            .map_err(|_| Status::invalid_argument("the boot id cannot be read"))?;
        let kept = self
            .api
            .sessions
            .greet(instance, &hello.held_sessions)
            .await
            .map_err(|error| status_of(&error))?;
        let newcomer = Newcomer {
            link: LinkId::new(),
            instance,
            boot,
        };
        let Attached {
            link,
            messages,
            replaced,
        } = self
            .api
            .sessions
            .attach(newcomer, welcome(newcomer.link, &kept));
        if replaced {
            tracing::warn!(instance.id = %instance, link.id = %link.id, "a second link of the same agent; the newer one stays");
        }
        self.api.sessions.send_again(&link);
        self.api
            .fleet
            .came_up(instance, boot, &hello.boot_phases)
            .await
            .map_err(|error| status_of(&error))?;
        tracing::info!(instance.id = %instance, link.id = %link.id, sessions = kept.len(), can = hello.capabilities.join(" "), "link up");
        let farewell = Farewell::default();
        let pump = Pump {
            api: self.api.clone(),
            link,
            farewell: farewell.clone(),
        };
        self.api
            .sessions
            .tasks()
            .spawn("link", async move { pump.run(said).await });
        let last_word = stream::once(async move { farewell.get().cloned() });
        let last_word = last_word.filter_map(|it| async move { it.map(Err) });
        Ok(Response::new(messages.map(Ok).chain(last_word).boxed()))
    }
}

/// What the agent is told when its link ends by our will or its fault.
type Farewell = Arc<OnceLock<Status>>;

impl LinkAdapter {
    async fn refusal(
        &self,
        instance: InstanceId,
        hello: &Hello,
    ) -> Result<Option<v1::Refusal>, Status> {
        if hello.protocol_version != PROTOCOL_VERSION {
            return Ok(Some(v1::Refusal {
                code: "protocol_version".into(),
                message: format!(
                    "this control plane speaks protocol version {PROTOCOL_VERSION}, the agent {}; \
                     run the same release of both",
                    hello.protocol_version
                ),
                retry_after_ms: 0,
                permanent: true,
            }));
        }
        let may = self.api.fleet.may_connect(instance).await;
        if may.map_err(|error| status_of(&error))? {
            return Ok(None);
        }
        Ok(Some(v1::Refusal {
            code: "instance_ended".into(),
            message: "this instance has been ended".into(),
            retry_after_ms: 0,
            permanent: true,
        }))
    }
}

async fn hello_of(said: &mut Streaming<FromAgent>) -> Result<Hello, Status> {
    match timeout(ladder::HEARTBEAT, said.message()).await {
        Ok(Ok(Some(FromAgent {
            body: Some(Said::Hello(hello)),
            ..
        }))) => Ok(hello),
        Ok(Err(status)) => Err(status),
        Ok(_) => Err(Status::failed_precondition("say Hello first")),
        Err(_) => Err(Status::deadline_exceeded("no Hello came")),
    }
}

fn welcome(link: LinkId, kept: &[SessionId]) -> ToAgent {
    ToAgent {
        body: Some(Body::Welcome(v1::Welcome {
            protocol_version: PROTOCOL_VERSION,
            link_id: link.to_string(),
            kept_sessions: kept.iter().map(ToString::to_string).collect(),
            heartbeat_ms: u32::try_from(ladder::HEARTBEAT.as_millis()).unwrap_or(u32::MAX),
        })),
    }
}

fn push(link: &Link, body: Body) {
    let message = Outgoing::Message(ToAgent { body: Some(body) });
    if let Err(error) = link.push(message) {
        tracing::debug!(link.id = %link.id, %error, "could not queue a message");
    }
}

/// Reads what one agent says, until its link ends.
struct Pump {
    api: Api,
    link: Link,
    farewell: Farewell,
}

impl Pump {
    async fn run(self, mut said: Streaming<FromAgent>) {
        let (acknowledge, reports) = mpsc::channel(limits::LINK_QUEUE_MAX);
        let acknowledger = acknowledge_in_order(self.api.clone(), self.link.clone(), reports);
        let acknowledger = self.api.sessions.tasks().spawn("acknowledge", acknowledger);
        let ended = self.read(&mut said, &acknowledge).await;
        drop(acknowledge);
        let reason = ended.message().to_owned();
        self.farewell.get_or_init(|| ended);
        self.api.sessions.detach(&self.link);
        self.api.fleet.went_down(self.link.instance);
        tracing::info!(
            instance.id = %self.link.instance, link.id = %self.link.id, reason, "link down"
        );
        if acknowledger.await.is_err() {
            tracing::debug!("the acknowledger was ended");
        }
    }

    /// Resolves with the reason of the link's end.
    async fn read(
        &self,
        said: &mut Streaming<FromAgent>,
        acknowledge: &mpsc::Sender<(u64, Report)>,
    ) -> Status {
        let mut strange = 0;
        loop {
            let message = tokio::select! {
                message = timeout(ladder::OFFLINE, said.message()) => message,
                () = self.link.cut() => return Status::aborted("cut by the control plane"),
            };
            let message = match message {
                Ok(Ok(Some(message))) => message,
                Ok(Ok(None)) => return Status::ok("closed by the agent"),
                // What tonic calls a message over the limit.
                Ok(Err(status)) if status.code() == Code::OutOfRange => {
                    return Status::resource_exhausted(status.message());
                }
                Ok(Err(status)) => return status,
                Err(_) => return Status::deadline_exceeded("silent for too long"),
            };
            let sequence = message.sequence;
            let report = match message.body {
                Some(body) => self.take(body).await,
                // A newer agent's kind of message.
                None => Report::Taken,
            };
            if report == Report::Strange {
                strange += 1;
                metrics::strange_report();
                tracing::warn!(
                    instance.id = %self.link.instance, link.id = %self.link.id, strange,
                    "dropped a report that is not this agent's to make"
                );
                if strange >= STRANGE_REPORTS_MAX {
                    return Status::permission_denied("too many reports that are not its own");
                }
            }
            if sequence > 0 && acknowledge.send((sequence, report)).await.is_err() {
                return Status::unavailable("nothing can be acknowledged any more");
            }
        }
    }

    /// The cloud will take the machine back: its sessions are told, and end in time.
    async fn noticed(&self, notice: &v1::Notice) -> Report {
        let instance = self.link.instance;
        let told = async {
            if let Some(at) = self.api.fleet.noticed(instance, notice).await? {
                let reason = "spot_interruption";
                self.api
                    .sessions
                    .instance_ending(instance, at, reason)
                    .await?;
            }
            Ok::<(), Error>(())
        };
        if let Err(error) = told.await {
            tracing::error!(instance.id = %instance, cause = error.cause(), "could not act on a notice");
        }
        Report::Taken
    }

    async fn recycled(&self, report: &v1::Recycled) -> Report {
        let instance = self.link.instance;
        let Ok(epoch) = i64::try_from(report.epoch) else {
            return Report::Strange;
        };
        let noted = self.api.fleet.recycled(instance, epoch, &report.residue);
        if let Err(error) = noted.await {
            tracing::error!(instance.id = %instance, cause = error.cause(), "could not write down that an instance is clean");
        }
        Report::Taken
    }

    async fn take(&self, body: Said) -> Report {
        let instance = self.link.instance;
        let sessions = &self.api.sessions;
        match body {
            Said::Hello(_) => Report::Strange,
            Said::Heartbeat(heartbeat) => {
                let number = heartbeat.number;
                push(&self.link, Body::LeaseRenewed(v1::LeaseRenewed { number }));
                if let Err(error) = self.api.fleet.heard(instance, figures_of(&heartbeat)).await {
                    tracing::warn!(instance.id = %instance, cause = error.cause(), "could not write down that an agent lives");
                }
                Report::Taken
            }
            Said::SessionOpened(report) => sessions.opened(instance, report).await,
            Said::SessionEnded(report) => sessions.ended(instance, report).await,
            Said::Settled(report) => sessions.settled(instance, report).await,
            Said::PageChanged(report) => sessions.page_changed(instance, report),
            Said::Event(report) => sessions.told(instance, &report),
            Said::Notice(notice) => self.noticed(&notice).await,
            Said::Recycled(report) => self.recycled(&report).await,
        }
    }
}

fn figures_of(heartbeat: &v1::Heartbeat) -> Figures {
    Figures {
        sessions: heartbeat.sessions,
        browsers: heartbeat.browsers,
        load_percent: heartbeat.load_percent,
        processors: heartbeat.processors,
        memory_available: heartbeat.memory_available_bytes,
        disk_available: heartbeat.disk_available_bytes,
    }
}

/// Tells the agent what it may forget: reports that are durable, in their order.
async fn acknowledge_in_order(api: Api, link: Link, mut reports: mpsc::Receiver<(u64, Report)>) {
    while let Some((mut sequence, report)) = reports.recv().await {
        let mut last = report;
        // Later reports are durable later: of those that wait, the last one counts.
        while let Ok((next, report)) = reports.try_recv() {
            sequence = next;
            if matches!(report, Report::Written(_)) {
                last = report;
            }
        }
        if let Report::Written(ticket) = last
            && api.sessions.durable(ticket).await.is_err()
        {
            return;
        }
        push(&link, Body::Acknowledge(v1::Acknowledge { sequence }));
    }
}
