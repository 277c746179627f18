//! What happens in a session, on its way to a socket.

use browserfleet_proto::ids::SessionId;
use serde_json::{Value, json};

use super::message::unasked;
use super::outbox::Outbox;
use crate::domain::control::Control;
use crate::relay::Followed;
use crate::sessions::{ControlView, Following, HandoffView, OwnedSession};

/// How a session stands when somebody begins to watch it: its events tell what changes.
pub(in crate::api) fn standing(session: &OwnedSession, control: &Control) -> Value {
    let handoff = control.handoff.as_ref().map(HandoffView::from);
    match session {
        OwnedSession::Held(held) => {
            let page = held.page();
            json!({
                "status": held.phase().as_str(),
                "url": page.url,
                "title": page.title,
                "tabs": held.events.tabs(),
                "control": ControlView::from(control),
                "handoff": handoff,
                "dialog": held.events.dialog(),
            })
        }
        OwnedSession::Row(row) => json!({
            "status": row.status.as_str(),
            "end_reason": row.end_reason,
            "control": ControlView::from(control),
            "handoff": handoff,
        }),
    }
}

/// Tells a socket what happens, until the session is over or the socket gone. A socket
/// that is slower than the session is told that it missed something.
pub(super) async fn forward(session: SessionId, mut following: Following, outbox: Outbox) {
    loop {
        let said = match following.next().await {
            Ok(Followed::Event(event)) => outbox.say_shared(&event.text).await,
            Ok(Followed::Resync { seq }) => {
                let payload = json!({ "seq": seq });
                outbox.say(unasked("resync", Some(session), payload)).await
            }
            Ok(Followed::Over | Followed::Moved) => return,
            Err(error) => {
                tracing::warn!(session.id = %session, cause = error.cause(), "could not follow a session");
                let payload = json!({ "code": error.code() });
                outbox.say(unasked("resync", Some(session), payload)).await
            }
        };
        if said.is_err() {
            return;
        }
    }
}
