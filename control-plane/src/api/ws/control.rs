//! Control over a socket: whoever takes it here drives with what comes after, commands
//! and input, until they hold it no more.

use browserfleet_proto::ids::SessionId;

use super::message::Incoming;
use super::socket::Socket;
use crate::api::control::{AnswerRequest, ControlRequest};
use crate::clock;
use crate::domain::access::Right;
use crate::domain::control::Driver;
use crate::error::Error;
use crate::sessions::{Actor, ControlView, HandoffView, OwnedSession, Steer};

impl Socket {
    /// Takes, gives or lets go of a session's control.
    pub(super) async fn steer(&mut self, message: &Incoming) -> Result<String, Error> {
        let request: ControlRequest = message.payload()?;
        let session = self.session_of(message, Right::Drive).await?;
        let takes = matches!(request, ControlRequest::Take { .. });
        let control = self
            .api
            .sessions
            .steer(&session, self.actor(), Steer::try_from(request)?)
            .await?;
        let id = session.id();
        let own = control
            .hold
            .as_ref()
            .filter(|it| takes && it.person == self.pass.person());
        match own {
            Some(hold) => self.holders.insert(id, hold.holder),
            None => self.holders.remove(&id),
        };
        let about = message.about().session(id);
        Ok(about.message("controlled", ControlView::from(&control)))
    }

    /// A person answers what a session asked for.
    pub(super) async fn answer_handoff(&mut self, message: &Incoming) -> Result<String, Error> {
        let AnswerRequest { outcome, note } = message.payload()?;
        let session = self.session_of(message, Right::Drive).await?;
        let handoff = self
            .api
            .sessions
            .answer(&session, self.actor(), outcome, note)
            .await?;
        self.holders.remove(&session.id());
        let about = message.about().session(session.id());
        Ok(about.message("handoff_answered", HandoffView::from(&handoff)))
    }

    /// As whom this socket drives a session; `None`: it does not hold control.
    pub(super) fn driver_of(&self, session: &OwnedSession) -> Option<Driver> {
        let driver = Driver {
            person: self.pass.person(),
            holder: *self.holders.get(&session.id())?,
        };
        let control = self.api.sessions.control_of(session);
        control.is_held_by(driver, clock::now()).then_some(driver)
    }

    /// As whom a command on this socket is performed: whoever holds control drives; the
    /// owner's are the automation's otherwise.
    pub(super) async fn session_to_drive(
        &self,
        message: &Incoming,
    ) -> Result<(OwnedSession, Option<Driver>), Error> {
        let alone: Option<SessionId> = self.pass.session;
        let right = if alone.is_some() || message.session_id.is_some() {
            Right::Drive
        } else {
            Right::Own
        };
        let session = self.session_of(message, right).await?;
        let driver = self.driver_of(&session);
        if driver.is_none() && self.pass.right < Right::Own {
            return Err(Error::ControlNotHeld);
        }
        Ok((session, driver))
    }

    fn actor(&self) -> Actor<'_> {
        Actor {
            pass: &self.pass,
            client: &self.client,
        }
    }
}
