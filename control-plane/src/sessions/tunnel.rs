//! Clients of CDP on a session's browser.

use std::sync::Arc;
use std::time::Duration;

use browserfleet_proto::agent::v1::TunnelJoined;
use browserfleet_proto::ids::InstanceId;
use browserfleet_proto::limits::{TUNNEL_OPENS_WITHIN, TUNNELS_MAX};
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::registry::{Held, Phase};
use super::{OwnedSession, Sessions};
use crate::clock;
use crate::error::Error;
use crate::relay::{Hearing, Pieces, Refused, Saying, Ups};
use crate::telemetry::metrics;

/// How long the browser may take to answer a question of ours.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// How a client of CDP wants to join.
#[derive(Debug, Clone, Default)]
pub struct TunnelWish {
    /// Chrome's name for a page; `None`: the browser.
    pub target: Option<String>,
    /// `Browser.close` ends the tunnel and nothing else.
    pub keeps_browser: bool,
}

/// A client of CDP that has joined.
#[derive(Debug)]
pub struct Tunnel {
    held: Arc<Held>,
    /// What the browser says.
    pub hearing: Hearing,
    /// What is said to it.
    pub saying: Saying,
    _counted: Counted,
}

#[derive(Debug)]
struct Counted;

impl Counted {
    fn one() -> Self {
        metrics::tunnels(1);
        Self
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        metrics::tunnels(-1);
    }
}

impl Tunnel {
    /// The client did something.
    pub fn touch(&self) {
        self.held.touch(clock::now());
    }

    /// What notes that the client did something.
    #[must_use]
    pub fn held(&self) -> Arc<Held> {
        Arc::clone(&self.held)
    }
}

impl Held {
    /// Resolves once the session is over, with the reason.
    pub async fn over(&self) -> String {
        let mut phase = self.follow();
        let over = phase.wait_for(|it| matches!(it, Phase::Ended { .. }));
        match over.await.map(|it| it.clone()) {
            Ok(Phase::Ended { reason, .. }) => reason,
            _ => "ended".to_owned(),
        }
    }
}

impl Sessions {
    /// Lets a client of CDP join a session, beside all else that goes on in it.
    ///
    /// # Errors
    /// Where it takes no commands either, [`Error::NotFound`] where there is no such
    /// page, and [`Error::QuotaReached`].
    pub async fn tunnel(&self, session: &OwnedSession, wish: TunnelWish) -> Result<Tunnel, Error> {
        self.admit_client(session)?;
        self.join(session.held()?, wish).await
    }

    async fn join(&self, held: Arc<Held>, wish: TunnelWish) -> Result<Tunnel, Error> {
        let asked = self
            .relay
            .ask_for_tunnel(held.place(), wish.target, wish.keeps_browser)?;
        match timeout(TUNNEL_OPENS_WITHIN, asked.joined()).await {
            Ok(Ok(tunnel)) => {
                held.touch(clock::now());
                tracing::debug!(tunnel.id = %tunnel.id, session.id = %held.id, "a client of CDP joined");
                Ok(Tunnel {
                    held,
                    hearing: tunnel.hearing,
                    saying: tunnel.saying,
                    _counted: Counted::one(),
                })
            }
            Ok(Err(Refused::NotFound)) => Err(Error::NotFound("page")),
            Ok(Err(Refused::TooMany)) => Err(Error::QuotaReached {
                name: "tunnels",
                limit: u32::try_from(TUNNELS_MAX).unwrap_or(u32::MAX),
                retry_after: None,
            }),
            Ok(Err(Refused::BrowserGone)) => Err(Error::SessionGone {
                reason: "browser_gone".into(),
            }),
            Err(_) => Err(Error::NotSent),
        }
    }

    /// Asks a session's browser something over CDP, as a client of its own.
    ///
    /// # Errors
    /// What [`Sessions::tunnel`] gives, and [`Error::Invalid`] with what the browser says.
    pub async fn ask_browser(
        &self,
        session: &OwnedSession,
        method: &str,
        params: Value,
    ) -> Result<Value, Error> {
        let wish = TunnelWish {
            target: None,
            keeps_browser: true,
        };
        let mut tunnel = self.join(session.held()?, wish).await?;
        let question = json!({ "id": 1, "method": method, "params": params });
        let answered = async {
            if !tunnel.saying.say(Bytes::from(question.to_string())).await {
                return Err(Error::NotSent);
            }
            loop {
                let message = tunnel.hearing.next().await.map_err(|_| Error::NotSent)?;
                let mut message: Value = serde_json::from_slice(&message)
                    .map_err(|error| Error::Internal(error.into()))?;
                if message["id"] != 1 {
                    continue;
                }
                return match message["error"]["message"].as_str() {
                    Some(error) => Err(Error::invalid("query", error)),
                    None => Ok(message["result"].take()),
                };
            }
        };
        timeout(ANSWER_WITHIN, answered)
            .await
            .map_err(|_| Error::NotSent)?
    }

    /// An agent opened the stream of a tunnel that it was asked for. `None`: nobody wants
    /// it any more.
    pub fn tunnel_joined(
        &self,
        instance: InstanceId,
        joined: &TunnelJoined,
        ups: Ups,
    ) -> Option<Pieces> {
        self.relay.tunnel_joined(instance, joined, ups)
    }
}
