//! What the automation asks a person for, and their answer.

use std::time::Duration;

use browserfleet_proto::ids::HandoffId;
use tokio::time::{Instant, sleep, timeout_at};

use super::control::Actor;
use super::registry::Phase;
use super::{OwnedSession, Sessions};
use crate::clock;
use crate::domain::access::Right;
use crate::domain::audit::{Action, Credential};
use crate::domain::control::{Answer, Control, Handoff, Request, Stage};
use crate::error::Error;

/// Shortest time for an answer: less than this nobody reads the question in.
const TIMEOUT_MIN: Duration = Duration::from_secs(1);
/// Longest time for an answer: no session lives longer without being extended.
const TIMEOUT_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// How long the automation is parked where nobody says otherwise: a person is told,
/// comes, and does something small.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(10 * 60);
/// Longest reason, in bytes: a line.
const REASON_BYTES_MAX: usize = 256;
/// Longest instructions and longest note, in bytes: a page. Both fit into an event.
const TEXT_BYTES_MAX: usize = 4096;
/// How often the row is looked at of a session that another replica looks after.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What a person is to be asked for.
#[derive(Debug)]
pub struct Asked {
    /// Why, in a line.
    pub reason: String,
    /// What is to be done.
    pub instructions: String,
    /// How long the automation is parked for an answer.
    pub timeout: Option<Duration>,
}

impl Sessions {
    /// Parks a session's automation until a person answers.
    ///
    /// # Errors
    /// Names the field that is refused; [`Error::HandoffOpen`].
    pub async fn ask(
        &self,
        session: &OwnedSession,
        actor: Actor<'_>,
        asked: Asked,
    ) -> Result<Handoff, Error> {
        actor.pass.permit(session.id(), Right::Own)?;
        check_text("reason", &asked.reason, REASON_BYTES_MAX)?;
        check_text("instructions", &asked.instructions, TEXT_BYTES_MAX)?;
        if asked.reason.trim().is_empty() {
            return Err(Error::invalid("reason", "is empty"));
        }
        let timeout = asked.timeout.unwrap_or(TIMEOUT_DEFAULT);
        if !(TIMEOUT_MIN..=TIMEOUT_MAX).contains(&timeout) {
            let (least, most) = (TIMEOUT_MIN.as_millis(), TIMEOUT_MAX.as_millis());
            let why = format!("has to be {least} to {most}");
            return Err(Error::invalid("timeout_ms", why));
        }
        let request = Request {
            id: HandoffId::new(),
            reason: asked.reason,
            instructions: asked.instructions,
            timeout,
        };
        let detail = format!("{} {}", session.id(), request.id);
        let event = actor.did(Action::HandoffRequested, detail);
        let control = self
            .change(session.id(), Some(event), |control, _, now| {
                control.ask(request.clone(), now)
            })
            .await?;
        last(&control)
    }

    /// A person answers; the automation goes on.
    ///
    /// # Errors
    /// [`Error::Forbidden`] where the caller may only watch, or is a program;
    /// [`Error::HandoffNotOpen`], [`Error::ControlHeld`].
    pub async fn answer(
        &self,
        session: &OwnedSession,
        actor: Actor<'_>,
        answer: Answer,
        note: Option<String>,
    ) -> Result<Handoff, Error> {
        actor.pass.permit(session.id(), Right::Drive)?;
        if let Credential::Key(_) = actor.pass.user.credential {
            return Err(Error::Forbidden(
                "a person answers: sign in, or use a share's link",
            ));
        }
        check_text("note", note.as_deref().unwrap_or_default(), TEXT_BYTES_MAX)?;
        let word = match answer {
            Answer::Completed => Stage::Completed,
            Answer::Declined => Stage::Declined,
        };
        let detail = format!("{} {}", session.id(), word.as_str());
        let event = actor.did(Action::HandoffAnswered, detail);
        let by = actor.person();
        let control = self
            .change(session.id(), Some(event), |control, _, now| {
                control.answer(by, answer, note.clone(), now)
            })
            .await?;
        last(&control)
    }

    /// What a session last asked for.
    ///
    /// # Errors
    /// [`Error::NotFound`] where it asked for nothing yet.
    pub fn handoff_of(&self, session: &OwnedSession) -> Result<Handoff, Error> {
        last(&self.control_of(session))
    }

    /// Waits until a handoff has an end, for up to `wait`, and gives it as it is then.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn wait_for_answer(
        &self,
        session: &OwnedSession,
        id: HandoffId,
        wait: Duration,
    ) -> Result<Handoff, Error> {
        let latest = Instant::now() + wait;
        if let OwnedSession::Held(held) = session {
            let mut known = held.wheel.follow();
            let mut phase = held.follow();
            let answered = async {
                tokio::select! {
                    _ = known.wait_for(|it| is_over(&it.control, id)) => {}
                    _ = phase.wait_for(|it| matches!(it, Phase::Ended { .. })) => {}
                }
            };
            // In time or not: it is given as it is.
            let in_time = timeout_at(latest, answered).await;
            tracing::trace!(session.id = %held.id, answered = in_time.is_ok(), "waited for a person");
            return self.handoff_of(session);
        }
        loop {
            let row = self.store.session(session.id()).await?;
            let row = row.ok_or(Error::NotFound("session"))?;
            let control = super::control::standing_in(&row.control, row.ended_at);
            if is_over(&control, id) || Instant::now() >= latest {
                return last(&control);
            }
            sleep(LOOK_EVERY.min(latest.saturating_duration_since(Instant::now()))).await;
        }
    }
}

fn is_over(control: &Control, id: HandoffId) -> bool {
    let open = control.open_handoff();
    open.is_none_or(|it| it.id != id)
}

fn last(control: &Control) -> Result<Handoff, Error> {
    let handoff = control.clone().at(clock::now()).handoff;
    handoff.ok_or(Error::NotFound("handoff"))
}

fn check_text(field: &'static str, text: &str, bytes_max: usize) -> Result<(), Error> {
    if text.len() > bytes_max {
        let why = format!("longer than {bytes_max} bytes");
        return Err(Error::invalid(field, why));
    }
    if text.contains('\0') {
        return Err(Error::invalid(field, "has a NUL character"));
    }
    Ok(())
}
