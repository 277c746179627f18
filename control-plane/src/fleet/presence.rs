//! What agents say of themselves, and what that means for their instances.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use browserfleet_proto::agent::v1;
use browserfleet_proto::ids::{BootId, InstanceId};

use super::Fleet;
use crate::clock;
use crate::domain::health::{self, Figures, Signs};
use crate::domain::instance::{Instance, Status};
use crate::domain::time::Timestamp;
use crate::error::Error;
use crate::store::instances::{BootPhase, Seen};

/// Longest list of boot phases that is believed, and longest name of one.
const PHASES_MAX: usize = 16;
const PHASE_BYTES_MAX: usize = 32;
/// How long before a machine is taken back its sessions end: their owners and
/// Chrome have a moment to finish.
const INTERRUPTION_MARGIN: Duration = Duration::from_secs(20);

/// What was heard here and may not be in the rows yet.
#[derive(Debug, Default)]
pub(super) struct Presence(Mutex<HashMap<InstanceId, Heard>>);

#[derive(Debug, Clone, Copy)]
struct Heard {
    at: Timestamp,
    figures: Figures,
    written: bool,
    /// Whether this was said on the link that is up now.
    current: bool,
}

impl Presence {
    fn hear(&self, instance: InstanceId, figures: Figures, at: Timestamp) -> bool {
        let heard = Heard {
            at,
            figures,
            written: false,
            current: true,
        };
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = all.insert(instance, heard);
        !before.is_some_and(|it| it.current)
    }

    fn figures(&self, instance: InstanceId) -> Option<Figures> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let current = all.get(&instance).filter(|it| it.current);
        current.map(|it| it.figures)
    }

    fn heard_at(&self, instance: InstanceId) -> Option<Timestamp> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(&instance).map(|it| it.at)
    }

    fn link_changed(&self, instance: InstanceId) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(heard) = all.get_mut(&instance) {
            heard.current = false;
        }
    }

    fn all(&self) -> Vec<InstanceId> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.keys().copied().collect()
    }

    fn keep_only(&self, known: impl Fn(InstanceId) -> bool) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|instance, _| known(*instance));
    }

    /// What was heard since the last time.
    fn news(&self) -> Vec<Seen> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let news = all.iter_mut().filter(|(_, it)| !it.written);
        news.map(|(instance, it)| {
            it.written = true;
            Seen {
                instance: *instance,
                at: it.at,
                figures: it.figures,
            }
        })
        .collect()
    }
}

impl Fleet {
    /// Notes that an agent has a link here.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn came_up(
        &self,
        instance: InstanceId,
        boot: BootId,
        phases: &[v1::BootPhase],
    ) -> Result<(), Error> {
        self.presence.link_changed(instance);
        let phases: Vec<BootPhase> = phases
            .iter()
            .take(PHASES_MAX)
            .filter(|it| it.name.len() <= PHASE_BYTES_MAX)
            .map(|it| BootPhase {
                name: it.name.clone(),
                after_ms: it.after_ms,
            })
            .collect();
        let new = self
            .store
            .came_up(instance, boot, &phases, clock::now())
            .await?;
        if new {
            self.wake();
        }
        Ok(())
    }

    /// Notes that an agent lives; its first word makes its instance running.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn heard(&self, instance: InstanceId, figures: Figures) -> Result<(), Error> {
        self.relay.renewed(instance);
        let now = clock::now();
        if !self.presence.hear(instance, figures, now) {
            return Ok(());
        }
        // The first word of this link.
        if self.store.ready(instance, now).await? {
            tracing::info!(instance.id = %instance, "instance running");
        } else if self.store.park(instance, now).await? {
            tracing::info!(instance.id = %instance, "instance lives, and is to be stopped");
        }
        self.wake();
        self.room_changed();
        Ok(())
    }

    /// Notes that an agent has no link here any more.
    pub fn went_down(&self, instance: InstanceId) {
        self.presence.link_changed(instance);
        self.wake();
    }

    /// When an agent last said over a link here that it lives.
    #[must_use]
    pub fn heard_here_at(&self, instance: InstanceId) -> Option<Timestamp> {
        self.presence.heard_at(instance)
    }

    /// Writes down which agents were heard here, for the other replicas, and cuts the
    /// links of those whose instances another replica ended. How many of these were over
    /// altogether.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn write_presence(&self) -> Result<u32, Error> {
        let news = self.presence.news();
        if !news.is_empty() {
            self.store.note_seen(&news).await?;
        }
        let rows = self.store.instances().await?;
        let wanted = |it: &&Instance| matches!(it.status, Status::Provisioning | Status::Running);
        let known: HashSet<InstanceId> = rows.iter().filter(wanted).map(|it| it.id).collect();
        let mut strange = 0;
        for over in self.presence.all() {
            if !known.contains(&over) {
                self.relay.cut(over);
                strange += u32::from(rows.iter().all(|it| it.id != over));
            }
        }
        self.presence.keep_only(|it| known.contains(&it));
        Ok(strange)
    }

    /// What is wrong with an instance, as far as is known here.
    pub(super) fn judge(
        &self,
        row: &Instance,
        trouble: Option<&str>,
        now: Timestamp,
    ) -> Option<String> {
        let signs = Signs {
            silence: self.silence(row, now),
            figures: self.presence.figures(row.id),
            trouble,
        };
        health::judge(&signs).map(str::to_owned)
    }

    /// What an agent last said of its machine, here.
    pub(super) fn figures_of(&self, instance: InstanceId) -> Option<Figures> {
        self.presence.figures(instance)
    }

    /// The cloud will take a machine back. Gives when its sessions end, where that is
    /// known.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn noticed(
        &self,
        instance: InstanceId,
        notice: &v1::Notice,
    ) -> Result<Option<Timestamp>, Error> {
        let now = clock::now();
        let (reason, until) = match notice.kind() {
            v1::notice::Kind::Interruption => {
                let left = Duration::from_secs(notice.seconds_left.into());
                let left = left.saturating_sub(INTERRUPTION_MARGIN);
                ("spot_interruption", Some(now.plus(left)))
            }
            v1::notice::Kind::Rebalance => ("rebalance", None),
            v1::notice::Kind::Unspecified => return Ok(None),
        };
        tracing::warn!(instance.id = %instance, reason, seconds_left = notice.seconds_left, "the cloud will take a machine back");
        self.store
            .drain_instance(instance, reason, until, now)
            .await?;
        self.wake();
        Ok(until)
    }
}
