//! What happens to instances, on its way to a socket: a user's own, and all of them for
//! administrators.

use std::collections::HashMap;
use std::time::Duration;

use browserfleet_proto::ids::InstanceId;
use serde_json::Value;
use tokio::time::sleep;

use super::message::unasked;
use super::outbox::Outbox;
use crate::accounts::CurrentUser;
use crate::api::Api;
use crate::api::ec2::InstanceView;

/// Instances that are looked at: more than a fleet of one database has.
const INSTANCES_MAX: u32 = 10_000;
/// Shortest time between two looks: a fleet that starts changes all the time.
const PAUSE: Duration = Duration::from_millis(250);
/// How often is looked although nothing happened here: another replica may have done
/// something.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// What changes all the time, and says nothing of an instance's state.
const RESTLESS: &str = "last_activity_time";

/// Tells a socket how instances stand, and then what changes, until it is gone.
pub(super) async fn forward(api: Api, user: CurrentUser, outbox: Outbox) {
    let (mut rooms, mut woken) = (api.fleet.rooms(), api.fleet.woken());
    let mut told: HashMap<InstanceId, Value> = HashMap::new();
    loop {
        rooms.mark_unchanged();
        woken.mark_unchanged();
        match api.fleet.list(&user, None, INSTANCES_MAX).await {
            Ok(rows) => {
                let mut now = HashMap::with_capacity(rows.len());
                for row in rows {
                    let id = row.id;
                    let mut view =
                        serde_json::to_value(InstanceView::from(row)).unwrap_or_default();
                    if let Some(fields) = view.as_object_mut() {
                        fields.remove(RESTLESS);
                    }
                    if told.get(&id) != Some(&view)
                        && outbox
                            .say(unasked("instance.status", None, view.clone()))
                            .await
                            .is_err()
                    {
                        return;
                    }
                    now.insert(id, view);
                }
                told = now;
            }
            Err(error) => {
                tracing::warn!(
                    cause = error.cause(),
                    "could not look at instances for a socket"
                );
            }
        }
        sleep(PAUSE).await;
        tokio::select! {
            _ = rooms.changed() => {}
            _ = woken.changed() => {}
            () = sleep(LOOK_EVERY) => {}
        }
    }
}
