//! Seeing a session, and acting on it as a person does.

use std::sync::Arc;
use std::time::Duration;

use browserfleet_proto::action::{Code, Rejection};
use browserfleet_proto::agent::v1::LiveOpened;
use browserfleet_proto::ids::InstanceId;
use browserfleet_proto::input::Input;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::registry::Held;
use super::{OwnedSession, Sessions, address};
use crate::domain::control::Driver;
use crate::error::Error;
use crate::relay::{Downs, Full, Keeper, Line, NotSent, Place, VIEWERS_MAX, ViewWish, Viewer};

/// How long a page may take to say what is selected in it.
const ANSWER_WITHIN: Duration = Duration::from_secs(6);

impl Held {
    pub(super) fn place(&self) -> Place {
        Place {
            session: self.id,
            instance: self.instance,
            epoch: self.epoch.unsigned_abs(),
        }
    }
}

impl Sessions {
    /// Lets somebody see a session. Looking is no activity.
    ///
    /// # Errors
    /// Where it takes no commands either, and [`Error::QuotaReached`].
    pub fn view(self: &Arc<Self>, session: &OwnedSession, wish: ViewWish) -> Result<Viewer, Error> {
        let held = session.held()?;
        let (viewer, keeper) =
            self.relay
                .look(held.place(), wish)
                .map_err(|Full| Error::QuotaReached {
                    name: "viewers",
                    limit: u32::try_from(VIEWERS_MAX).unwrap_or(u32::MAX),
                    retry_after: None,
                })?;
        self.keep(keeper);
        Ok(viewer)
    }

    /// Does what a person does who drives, after what they did before, and does not wait.
    /// There is an answer to wait for where the input asks for one.
    ///
    /// # Errors
    /// Where it takes no commands either, [`Error::ControlNotHeld`] where somebody else
    /// drives, where the input makes no sense, and [`Error::AgentBusy`] where too much
    /// waits already.
    pub fn input(
        self: &Arc<Self>,
        session: &OwnedSession,
        driver: Driver,
        input: Input,
    ) -> Result<Option<Answering>, Error> {
        let held = session.held()?;
        let input = checked(input)?;
        self.admit_input(&held, driver)?;
        let answers = matches!(input, Input::Copy {});
        let json = serde_json::to_string(&input).map_err(|error| Error::Internal(error.into()))?;
        let (answer, keeper) = self
            .relay
            .act(held.place(), json, answers)
            .map_err(|refused| match refused {
                NotSent::Busy => Error::AgentBusy,
                NotSent::NoLink => Error::NotSent,
            })?;
        self.keep(keeper);
        Ok(answer.map(Answering))
    }

    /// An agent opened the stream of a view that it was asked for. `None`: nobody wants it
    /// any more.
    pub fn live_opened(&self, instance: InstanceId, opened: &LiveOpened) -> Option<(Line, Downs)> {
        self.relay.live_opened(instance, opened)
    }

    fn keep(self: &Arc<Self>, keeper: Option<Keeper>) {
        if let Some(keeper) = keeper {
            let (relay, tasks) = (Arc::clone(&self.relay), self.tasks.clone());
            let session = keeper.session();
            self.tasks.spawn("live view", async move {
                tokio::select! {
                    () = keeper.run(&relay) => {}
                    () = tasks.stopping() => relay.end_view(session),
                }
            });
        }
    }
}

/// An answer that comes.
#[derive(Debug)]
pub struct Answering(oneshot::Receiver<String>);

impl Answering {
    /// The answer.
    ///
    /// # Errors
    /// Where the page gives none in time, or is gone.
    pub async fn text(self) -> Result<String, Error> {
        match timeout(ANSWER_WITHIN, self.0).await {
            Ok(Ok(text)) => Ok(text),
            Ok(Err(_)) => Err(Error::OutcomeUnknown),
            Err(_) => Err(Error::Rejected(Rejection::new(
                Code::CommandTimeout,
                "the page did not answer in time",
            ))),
        }
    }
}

/// Within its bounds, and to an address that sessions open.
fn checked(input: Input) -> Result<Input, Error> {
    input
        .check()
        .map_err(|error| Error::invalid(error.field, error.message))?;
    Ok(match input {
        Input::Navigate { url } => Input::Navigate {
            url: address::check(&url)?,
        },
        Input::NewTab { url: Some(url) } => Input::NewTab {
            url: Some(address::check(&url)?),
        },
        other => other,
    })
}
