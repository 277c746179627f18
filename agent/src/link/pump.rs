//! One life of a link: Hello, Welcome, then messages both ways.

use std::collections::VecDeque;
use std::time::Duration;

use browserfleet_proto::PROTOCOL_VERSION;
use browserfleet_proto::agent::v1::from_agent::Body as Said;
use browserfleet_proto::agent::v1::link_service_client::LinkServiceClient;
use browserfleet_proto::agent::v1::to_agent::Body;
use browserfleet_proto::agent::v1::{FromAgent, Heartbeat, Hello, ToAgent, Welcome};
use browserfleet_proto::{ladder, limits};
use tokio::sync::mpsc;
use tokio::time::{Instant, interval, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use super::connect::Dialer;
use super::identity::Identity;
use super::{Ended, Shared};
use crate::host::load;

/// How long the server may take for its Welcome.
const WELCOME_DEADLINE: Duration = Duration::from_secs(10);
/// Kept messages that are queued at once; the rest follows as the socket takes them.
const BATCH_MAX: usize = 64;
/// Heartbeats whose renewal is waited for. More are never under way: the link is
/// dead before.
const HEARTBEATS_MAX: usize = 16;

fn broken(reason: impl Into<String>) -> Ended {
    Ended::Broken {
        reason: reason.into(),
        retry_after: None,
    }
}

/// Holds a link on this connection until it ends.
pub(super) async fn hold(
    channel: Channel,
    dialer: &Dialer,
    identity: &Identity,
    shared: &Shared,
    may_be_lost: &mut mpsc::Receiver<FromAgent>,
) -> Ended {
    let asked_at = Instant::now();
    let (queue, messages) = mpsc::channel(limits::LINK_QUEUE_MAX);
    if queue.try_send(hello(shared)).is_err() {
        return broken("the queue took no Hello");
    }
    let mut client = LinkServiceClient::new(channel)
        .max_decoding_message_size(limits::LINK_MESSAGE_BYTES_MAX)
        .max_encoding_message_size(limits::LINK_MESSAGE_BYTES_MAX);
    let opened = timeout(WELCOME_DEADLINE, client.open(ReceiverStream::new(messages)));
    let mut answers = match opened.await {
        Ok(Ok(response)) => response.into_inner(),
        Ok(Err(status)) if status.code() == tonic::Code::PermissionDenied => {
            return Ended::Refused(status.message().to_owned());
        }
        Ok(Err(status)) => return broken(status.to_string()),
        Err(_) => return broken("no answer to Hello in time"),
    };
    let welcome = match welcome(&mut answers).await {
        Ok(welcome) => welcome,
        Err(ended) => return ended,
    };
    tracing::info!(link.id = welcome.link_id, "link up");
    shared.renewed.send_replace(asked_at);
    shared.sessions.keep_only(&welcome.kept_sessions);
    match (dialer.media(identity), dialer.media(identity)) {
        (Ok(media), Ok(live)) => {
            shared.media.send_replace(Some(media));
            shared.live.send_replace(Some(live));
        }
        (Err(reason), _) | (_, Err(reason)) => return broken(reason),
    }
    match dialer.tunnels(identity) {
        Ok(tunnels) => drop(shared.tunnels.send_replace(Some(tunnels))),
        Err(reason) => return broken(reason),
    }
    Pump {
        shared,
        queue,
        sent: 0,
        heartbeats: VecDeque::new(),
        number: 0,
    }
    .run(&mut answers, may_be_lost)
    .await
}

fn hello(shared: &Shared) -> FromAgent {
    FromAgent {
        sequence: 0,
        body: Some(Said::Hello(Hello {
            protocol_version: PROTOCOL_VERSION,
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            boot_id: shared.boot.to_string(),
            capabilities: shared.sessions.capabilities(),
            held_sessions: shared.sessions.held(),
            acknowledged_sequence: shared.outbox.acknowledged(),
            sessions_max: shared.sessions_max,
            boot_phases: shared.start.phases(shared.sessions.first_spare()),
        })),
    }
}

async fn welcome(answers: &mut Streaming<ToAgent>) -> Result<Welcome, Ended> {
    let answer = match timeout(WELCOME_DEADLINE, answers.message()).await {
        Ok(Ok(Some(answer))) => answer,
        Ok(Ok(None)) => return Err(broken("closed before the Welcome")),
        Ok(Err(status)) => return Err(broken(status.to_string())),
        Err(_) => return Err(broken("no Welcome in time")),
    };
    match answer.body {
        Some(Body::Welcome(welcome)) => Ok(welcome),
        Some(Body::Refusal(refusal)) if refusal.permanent => Err(Ended::Refused(refusal.message)),
        Some(Body::Refusal(refusal)) => Err(Ended::Broken {
            reason: refusal.message,
            retry_after: (refusal.retry_after_ms > 0)
                .then(|| Duration::from_millis(refusal.retry_after_ms.into())),
        }),
        _ => Err(broken("something other than a Welcome came first")),
    }
}

struct Pump<'a> {
    shared: &'a Shared,
    queue: mpsc::Sender<FromAgent>,
    /// The highest kept message that was queued on this link.
    sent: u64,
    /// Heartbeats under way, and when they were sent.
    heartbeats: VecDeque<(u64, Instant)>,
    number: u64,
}

impl Pump<'_> {
    async fn run(
        mut self,
        answers: &mut Streaming<ToAgent>,
        may_be_lost: &mut mpsc::Receiver<FromAgent>,
    ) -> Ended {
        let mut heartbeat = interval(ladder::HEARTBEAT);
        self.send_kept();
        loop {
            // A full queue is only written to again once the socket took some.
            let room = self.queue.capacity() > 0;
            tokio::select! {
                answer = timeout(ladder::OFFLINE, answers.message()) => match answer {
                    Ok(Ok(Some(ToAgent { body: Some(Body::Refusal(refusal)) }))) => {
                        return broken(refusal.message);
                    }
                    Ok(Ok(Some(answer))) => self.take(answer),
                    Ok(Ok(None)) => return broken("closed by the control plane"),
                    Ok(Err(status)) => return broken(status.to_string()),
                    Err(_) => return broken("the control plane was silent for too long"),
                },
                () = self.shared.outbox.more() => self.send_kept(),
                Some(message) = may_be_lost.recv(), if room => self.send(message),
                _ = heartbeat.tick() => {
                    self.beat();
                    // What did not fit the queue before may fit now.
                    self.send_kept();
                }
            }
        }
    }

    /// Queues what is kept and was not queued on this link yet.
    fn send_kept(&mut self) {
        loop {
            let room = self.queue.capacity().min(BATCH_MAX);
            let batch = self.shared.outbox.after(self.sent, room);
            if batch.is_empty() {
                return;
            }
            for message in batch {
                let sequence = message.sequence;
                if self.queue.try_send(message).is_err() {
                    return;
                }
                self.sent = sequence;
            }
        }
    }

    fn send(&self, message: FromAgent) {
        if let Err(error) = self.queue.try_send(message) {
            tracing::debug!(%error, "a message that may be lost was");
        }
    }

    fn beat(&mut self) {
        self.number += 1;
        let load = load::now();
        let sessions = self.shared.sessions.held().len();
        let browsers = self.shared.sessions.browsers();
        self.send(FromAgent {
            sequence: 0,
            body: Some(Said::Heartbeat(Heartbeat {
                number: self.number,
                sessions: u32::try_from(sessions).unwrap_or(u32::MAX),
                browsers: u32::try_from(browsers).unwrap_or(u32::MAX),
                load_percent: load.load_percent,
                memory_available_bytes: load.memory_available_bytes,
                disk_available_bytes: load.disk_available_bytes,
                processors: load.processors,
            })),
        });
        self.heartbeats.push_back((self.number, Instant::now()));
        while self.heartbeats.len() > HEARTBEATS_MAX {
            self.heartbeats.pop_front();
        }
    }

    fn take(&mut self, answer: ToAgent) {
        let sessions = &self.shared.sessions;
        match answer.body {
            Some(Body::LeaseRenewed(renewed)) => self.renewed(renewed.number),
            Some(Body::Acknowledge(acknowledge)) => {
                self.shared.outbox.acknowledge(acknowledge.sequence);
                self.send_kept();
            }
            Some(Body::OpenSession(open)) => sessions.open(open),
            Some(Body::EndSession(end)) => sessions.end(&end),
            Some(Body::Command(command)) => sessions.submit(command),
            Some(Body::Cancel(cancel)) => sessions.cancel(&cancel),
            Some(Body::Drain(drain)) => sessions.drain(&drain.reason),
            Some(Body::Restart(restart)) => {
                self.shared.restart.send_replace(Some(restart.reason));
            }
            Some(Body::Recycle(recycle)) => sessions.recycle(&recycle),
            Some(Body::Watch(watch)) => sessions.watch(&watch),
            Some(Body::OpenLive(open)) => sessions.show(open),
            Some(Body::OpenTunnel(open)) => sessions.join(&open),
            Some(Body::FetchDownload(fetch)) => sessions.fetch(&fetch),
            // A newer server's kind of message, or one that was dealt with.
            Some(Body::Welcome(_) | Body::Refusal(_)) | None => {}
        }
    }

    /// The lease counts from when the heartbeat was sent: the earlier moment.
    fn renewed(&mut self, number: u64) {
        while let Some((oldest, sent_at)) = self.heartbeats.front().copied()
            && oldest <= number
        {
            self.heartbeats.pop_front();
            if oldest == number {
                self.shared.renewed.send_replace(sent_at);
            }
        }
    }
}
