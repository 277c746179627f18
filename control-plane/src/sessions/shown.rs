//! Control and handoffs as callers and watchers see them.

use browserfleet_proto::ids::{HandoffId, HolderId};
use serde::Serialize;

use crate::domain::control::{Control, Handoff, Person, Stage};
use crate::domain::time::Timestamp;

/// Who drives a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ControlView {
    /// `automation` or `person`.
    pub held_by: &'static str,
    /// Whether commands of the automation are held or refused.
    pub automation_parked: bool,
    /// `owner`, or a share's id.
    pub person: Option<String>,
    /// What the person's input goes with.
    pub holder_id: Option<HolderId>,
    /// Since when they hold it.
    pub since: Option<Timestamp>,
    /// When they hold it no more, unless they go on.
    pub expires_at: Option<Timestamp>,
}

impl From<&Control> for ControlView {
    fn from(control: &Control) -> Self {
        let hold = control.hold.as_ref();
        Self {
            held_by: if hold.is_some() {
                "person"
            } else {
                "automation"
            },
            automation_parked: !control.is_automations(),
            person: hold.map(|it| name_of(it.person)),
            holder_id: hold.map(|it| it.holder),
            since: hold.map(|it| it.since),
            expires_at: hold.map(|it| it.until),
        }
    }
}

/// What a session asked a person for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HandoffView {
    /// Its id.
    pub id: HandoffId,
    /// `open`, `completed`, `declined` or `expired`.
    pub status: &'static str,
    /// Why.
    pub reason: String,
    /// What is to be done.
    pub instructions: String,
    /// When it was asked for.
    pub requested_at: Timestamp,
    /// When it ends without an answer.
    pub expires_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// `owner`, or a share's id.
    pub answered_by: Option<String>,
    /// What they said to it.
    pub note: Option<String>,
}

impl HandoffView {
    /// Whether it waits for an answer.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.status == Stage::Open.as_str()
    }
}

impl From<&Handoff> for HandoffView {
    fn from(it: &Handoff) -> Self {
        Self {
            id: it.id,
            status: it.stage.as_str(),
            reason: it.reason.clone(),
            instructions: it.instructions.clone(),
            requested_at: it.requested_at,
            expires_at: it.expires_at,
            ended_at: it.ended_at,
            answered_by: it.answered_by.map(name_of),
            note: it.note.clone(),
        }
    }
}

fn name_of(person: Person) -> String {
    match person {
        Person::Owner => "owner".to_owned(),
        Person::Share(share) => share.to_string(),
    }
}
