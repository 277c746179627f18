//! The rows, changed as the statements of the store change them: each method is
//! one of those, with the same condition.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use browserfleet_proto::ids::{InstanceId, UserId};

use super::super::instance::{
    Attempt, AttemptState, Instance, Parking, Restart, RestartMode, Since, Stage, Status,
};
use super::super::machine::{Machine, Offering};
use super::super::pool::{Launches, REPLACEMENT_WINDOW};
use super::super::time::Timestamp;
use super::cloud::Request;

/// How long the lead lasts.
const LEAD: Duration = Duration::from_secs(15);
/// Rows that are looked at for how launches went.
const STARTS_MAX: usize = 50;

/// When an instance may be ended, as the store has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unless {
    Nothing,
    Held,
    UsedSince(Timestamp),
    /// Not if it has another status or another holder than when it was looked at.
    Moved(Status, i64),
}

#[derive(Debug, Clone, Copy)]
struct Lead {
    holder: usize,
    epoch: i64,
    until: Timestamp,
}

/// All rows, and who leads.
#[derive(Debug, Default)]
pub(super) struct Rows {
    pub(super) all: Vec<Instance>,
    requests: HashMap<InstanceId, Request>,
    tried: HashMap<InstanceId, Vec<Offering>>,
    lead: Option<Lead>,
    /// Who got which instance under which epoch.
    leases: HashMap<(InstanceId, i64), UserId>,
}

impl Rows {
    pub(super) fn row(&self, id: InstanceId) -> Option<&Instance> {
        self.all.iter().find(|it| it.id == id)
    }

    /// Changes a row where it is so; gives whether it was.
    fn change(
        &mut self,
        id: InstanceId,
        so: impl FnOnce(&Instance) -> bool,
        change: impl FnOnce(&mut Instance),
    ) -> bool {
        let row = self.all.iter_mut().find(|it| it.id == id);
        match row.filter(|it| so(it)) {
            Some(row) => {
                change(row);
                true
            }
            None => false,
        }
    }

    /// All that are not terminated.
    pub(super) fn instances(&self) -> Vec<Instance> {
        let all = self.all.iter();
        all.filter(|it| it.status != Status::Terminated)
            .cloned()
            .collect()
    }

    pub(super) fn ended_among(&self, ids: &[InstanceId]) -> HashSet<InstanceId> {
        let over = self.all.iter().filter(|it| it.status == Status::Terminated);
        over.map(|it| it.id).filter(|id| ids.contains(id)).collect()
    }

    pub(super) fn take_lead(&mut self, holder: usize, now: Timestamp) -> Option<i64> {
        let epoch = match self.lead {
            Some(lead) if lead.until > now && lead.holder != holder => return None,
            Some(lead) if lead.until > now => lead.epoch,
            Some(lead) => lead.epoch + 1,
            None => 1,
        };
        self.lead = Some(Lead {
            holder,
            epoch,
            until: now.plus(LEAD),
        });
        Some(epoch)
    }

    fn leads(&self, epoch: i64, now: Timestamp) -> bool {
        self.lead
            .is_some_and(|it| it.epoch == epoch && it.until > now)
    }

    pub(super) fn want_instance(
        &mut self,
        max: u32,
        holder: Option<UserId>,
        lead: Option<i64>,
        parks: bool,
        now: Timestamp,
    ) -> bool {
        let there = self.all.iter().filter(|it| it.counts()).count();
        if lead.is_some_and(|epoch| !self.leads(epoch, now)) || there >= max as usize {
            return false;
        }
        let row = Instance {
            assigned_to: holder,
            asked_for: holder.is_some(),
            epoch: i64::from(holder.is_some()),
            uses: i64::from(holder.is_some()),
            parking: parks.then_some(Parking {
                stage: Stage::Wanted,
                at: now,
                told_at: None,
            }),
            ..Instance::fresh(now)
        };
        if let Some(holder) = holder {
            self.leases.insert((row.id, row.epoch), holder);
        }
        self.all.push(row);
        true
    }

    pub(super) fn write_request(&mut self, request: Request, lead: i64, now: Timestamp) -> bool {
        if !self.leads(lead, now) {
            return false;
        }
        let open = |it: &Instance| {
            it.attempt.number == request.attempt - 1
                && matches!(
                    it.attempt.state,
                    AttemptState::Wanted | AttemptState::Refused
                )
                && it.status == Status::Provisioning
        };
        let written = self.change(request.instance, open, |it| {
            it.offering = Some(request.offering.clone());
            it.attempt = Attempt {
                number: request.attempt,
                state: AttemptState::Unsent,
                at: now,
                sends: 0,
            };
        });
        if written {
            self.requests.insert(request.instance, request);
        }
        written
    }

    pub(super) fn request_of(&self, id: InstanceId, attempt: i64) -> Option<Request> {
        let request = self.requests.get(&id);
        request.filter(|it| it.attempt == attempt).cloned()
    }

    pub(super) fn tried(&self, id: InstanceId) -> Vec<Offering> {
        self.tried.get(&id).cloned().unwrap_or_default()
    }

    /// Gives for which time it is sent.
    pub(super) fn sending(
        &mut self,
        id: InstanceId,
        attempt: i64,
        lead: i64,
        now: Timestamp,
    ) -> Option<i64> {
        let leads = self.leads(lead, now);
        let may = |it: &Instance| {
            leads
                && it.attempt.number == attempt
                && matches!(it.attempt.state, AttemptState::Unsent | AttemptState::Sent)
                && it.status == Status::Provisioning
        };
        let sent = self.change(id, may, |it| {
            if it.attempt.state == AttemptState::Unsent {
                it.attempt.at = now;
            }
            it.attempt.state = AttemptState::Sent;
            it.attempt.sends += 1;
        });
        let sends = self.row(id).map(|it| it.attempt.sends);
        sends.filter(|_| sent)
    }

    pub(super) fn accepted(&mut self, id: InstanceId, attempt: i64, machine: &Machine) -> bool {
        let its_own = |it: &Instance| {
            it.attempt.number == attempt
                && it
                    .reference
                    .as_ref()
                    .is_none_or(|name| *name == machine.reference)
        };
        self.change(id, its_own, |it| {
            it.attempt.state = AttemptState::Accepted;
            it.reference = Some(machine.reference.clone());
            it.launched_at = Some(machine.launched_at);
            note(it, machine);
        })
    }

    pub(super) fn note_machine(&mut self, id: InstanceId, machine: &Machine) {
        self.change(id, |_| true, |it| note(it, machine));
    }

    pub(super) fn refused(
        &mut self,
        id: InstanceId,
        (attempt, send): (i64, i64),
        offering: Option<&Offering>,
        now: Timestamp,
    ) -> bool {
        let sent = |it: &Instance| {
            it.attempt.number == attempt
                && it.attempt.sends == send
                && it.attempt.state == AttemptState::Sent
        };
        let refused = self.change(id, sent, |it| {
            it.attempt.state = AttemptState::Refused;
            it.attempt.at = now;
        });
        if refused {
            self.tried.entry(id).or_default().extend(offering.cloned());
        }
        refused
    }

    pub(super) fn launch_failed(
        &mut self,
        id: InstanceId,
        attempt: i64,
        code: &str,
        now: Timestamp,
    ) -> bool {
        let open = |it: &Instance| {
            matches!(it.status, Status::Provisioning | Status::Stopping)
                && it.attempt.number == attempt
                && it.attempt.state != AttemptState::Accepted
        };
        self.change(id, open, |it| {
            it.status = Status::Error;
            it.status_at = now;
            it.error_code = Some(code.into());
        })
    }

    pub(super) fn note_missing(&mut self, id: InstanceId, since: Option<Timestamp>) {
        self.change(id, |_| true, |it| it.missing_since = since);
    }

    pub(super) fn token_handed(&mut self, id: InstanceId, now: Timestamp) {
        self.change(id, |_| true, |it| it.token_at = Some(now));
    }

    pub(super) fn enrolled(&mut self, id: InstanceId, now: Timestamp) {
        self.change(
            id,
            |_| true,
            |it| it.enrolled_at = it.enrolled_at.or(Some(now)),
        );
    }

    /// The agent's link is up, in this or a new life of it, and it said a first word.
    pub(super) fn came_up(&mut self, id: InstanceId, new_life: bool, now: Timestamp) {
        self.change(
            id,
            |_| true,
            |it| {
                it.seen_at = Some(now);
                if new_life {
                    it.restart = None;
                }
            },
        );
        let waits = |it: &Instance| it.status == Status::Provisioning && it.draining.is_none();
        let is_at = |it: &Instance, stage| it.parking.is_some_and(|it| it.stage == stage);
        let parks = |it: &Instance| waits(it) && is_at(it, Stage::Wanted);
        self.change(id, parks, |it| set_stage(it, Stage::Stopping, now));
        let runs =
            |it: &Instance| waits(it) && (it.parking.is_none() || is_at(it, Stage::Starting));
        self.change(id, runs, |it| {
            it.status = Status::Running;
            it.status_at = now;
            it.ready_at = Some(now);
            it.last_activity_at = now;
        });
    }

    pub(super) fn power_asked(
        &mut self,
        id: InstanceId,
        stage: Option<Stage>,
        now: Timestamp,
    ) -> bool {
        let so = |it: &Instance| {
            it.status == Status::Provisioning && it.parking.map(|it| it.stage) == stage
        };
        self.change(id, so, |it| {
            if let Some(parking) = &mut it.parking {
                parking.told_at = Some(now);
            }
        })
    }

    pub(super) fn stopped(&mut self, id: InstanceId, now: Timestamp) {
        let stops = |it: &Instance| it.is_parked_at(Stage::Stopping);
        self.change(id, stops, |it| set_stage(it, Stage::Stopped, now));
    }

    pub(super) fn unpark(&mut self, id: InstanceId, now: Timestamp) {
        let stopped = |it: &Instance| it.is_parked_at(Stage::Stopped);
        self.change(id, stopped, |it| set_stage(it, Stage::Starting, now));
    }

    pub(super) fn seen(&mut self, id: InstanceId, now: Timestamp) {
        self.change(id, |_| true, |it| it.seen_at = Some(now));
    }

    pub(super) fn note_health(&mut self, id: InstanceId, unhealthy: Option<&str>, now: Timestamp) {
        let runs = |it: &Instance| it.status == Status::Running;
        self.change(id, runs, |it| {
            it.unhealthy = unhealthy.map(|reason| Since {
                reason: reason.into(),
                at: now,
            });
        });
    }

    pub(super) fn drain_instance(
        &mut self,
        id: InstanceId,
        until: Option<Timestamp>,
        now: Timestamp,
    ) {
        let sooner = |it: &Instance| {
            matches!(it.status, Status::Provisioning | Status::Running)
                && (it.draining.is_none()
                    || until.is_some_and(|until| it.drain_until.is_none_or(|at| at > until)))
        };
        self.change(id, sooner, |it| {
            it.draining.get_or_insert(Since {
                reason: "drained".into(),
                at: now,
            });
            it.drain_until = until;
        });
    }

    pub(super) fn end_instance(
        &mut self,
        id: InstanceId,
        reason: &str,
        unless: Unless,
        now: Timestamp,
    ) -> bool {
        let may = |it: &Instance| {
            let condition = match unless {
                Unless::Nothing => true,
                Unless::Held => it.assigned_to.is_none() && it.sessions == 0,
                Unless::UsedSince(since) => it.last_activity_at <= since && it.sessions == 0,
                Unless::Moved(status, epoch) => it.status == status && it.epoch == epoch,
            };
            condition && matches!(it.status, Status::Provisioning | Status::Running)
        };
        self.change(id, may, |it| {
            it.status = Status::Stopping;
            it.status_at = now;
            let why = it.draining.as_ref().map(|it| it.reason.clone());
            it.error_code = it.error_code.take().or(why).or(Some(reason.into()));
        })
    }

    pub(super) fn end_asked(&mut self, id: InstanceId, now: Timestamp) {
        self.change(id, |_| true, |it| it.end_asked_at = Some(now));
    }

    pub(super) fn instance_gone(&mut self, id: InstanceId, reason: &str, now: Timestamp) -> bool {
        let there = |it: &Instance| it.status != Status::Terminated;
        self.change(id, there, |it| {
            it.status = Status::Terminated;
            it.status_at = now;
            it.left_behind = false;
            it.error_code.get_or_insert_with(|| reason.into());
        })
    }

    pub(super) fn ask_restart(&mut self, id: InstanceId, mode: RestartMode, now: Timestamp) {
        let may = |it: &Instance| {
            it.status == Status::Running && it.restart.is_none() && it.draining.is_none()
        };
        self.change(id, may, |it| {
            it.restart = Some(Restart {
                mode,
                at: now,
                told_at: None,
            });
        });
    }

    pub(super) fn restart_told(&mut self, id: InstanceId, now: Timestamp) {
        self.change(
            id,
            |_| true,
            |it| {
                if let Some(restart) = &mut it.restart {
                    restart.told_at = Some(now);
                }
            },
        );
    }

    pub(super) fn begin_recycling(
        &mut self,
        id: InstanceId,
        unused_since: Timestamp,
        now: Timestamp,
    ) -> bool {
        let idle = |it: &Instance| {
            it.status == Status::Running
                && it.assigned_to.is_some()
                && it.recycling_since.is_none()
                && it.draining.is_none()
                && it.last_activity_at <= unused_since
                && it.sessions == 0
        };
        self.change(id, idle, |it| it.recycling_since = Some(now))
    }

    pub(super) fn recycled(&mut self, id: InstanceId, now: Timestamp) {
        let waits = |it: &Instance| it.status == Status::Running && it.recycling_since.is_some();
        self.change(id, waits, |it| {
            it.assigned_to = None;
            it.asked_for = false;
            it.recycling_since = None;
            it.epoch += 1;
            it.last_activity_at = now;
        });
    }

    /// Gives an instance that nobody holds to somebody. Where the epoch was somebody
    /// else's before, that is told.
    pub(super) fn place_on_free(
        &mut self,
        id: InstanceId,
        user: UserId,
        now: Timestamp,
    ) -> Result<(), String> {
        let free = |it: &Instance| it.takes_work() && it.assigned_to.is_none();
        let leased = self.change(id, free, |it| {
            it.assigned_to = Some(user);
            it.epoch += 1;
            it.uses += 1;
            it.sessions = 1;
            it.last_activity_at = now;
        });
        let epoch = self.row(id).map_or(0, |it| it.epoch);
        match leased
            .then(|| self.leases.insert((id, epoch), user))
            .flatten()
        {
            Some(before) => Err(format!("{id} had {before} under epoch {epoch} already")),
            None => Ok(()),
        }
    }

    pub(super) fn place_on_own(&mut self, id: InstanceId, now: Timestamp) {
        let own = |it: &Instance| {
            it.takes_work() && it.assigned_to.is_some() && it.sessions < it.sessions_max
        };
        self.change(id, own, |it| {
            it.sessions += 1;
            it.last_activity_at = now;
        });
    }

    pub(super) fn end_session(&mut self, id: InstanceId, now: Timestamp) {
        self.change(
            id,
            |it| it.sessions > 0,
            |it| {
                it.sessions -= 1;
                it.last_activity_at = now;
            },
        );
    }

    pub(super) fn sessions_lost(&mut self, id: InstanceId) {
        self.change(id, |_| true, |it| it.sessions = 0);
    }

    /// How launches went of late.
    pub(super) fn launches(&self, exhausted_until: Option<Timestamp>, now: Timestamp) -> Launches {
        let wanted = ["deleted", "shutdown", "surplus", "generation"];
        let counts = |it: &&Instance| {
            let over = matches!(
                it.status,
                Status::Stopping | Status::Terminated | Status::Error
            );
            let code = it.error_code.as_deref().unwrap_or_default();
            it.ready_at.is_some() || has_parked(it) || (over && !wanted.contains(&code))
        };
        let newest = || self.all.iter().rev().filter(counts).take(STARTS_MAX);
        let failing = newest().take_while(|it| it.ready_at.is_none() && !has_parked(it));
        let replaced = |it: &&Instance| {
            it.error_code.as_deref() == Some("unhealthy")
                && now.since(it.status_at) <= REPLACEMENT_WINDOW
        };
        Launches {
            failures_in_a_row: u32::try_from(failing.clone().count()).unwrap_or(u32::MAX),
            failed_at: failing.map(|it| it.status_at).max(),
            exhausted_until,
            starts_paused_until: None,
            replaced: u32::try_from(self.all.iter().filter(replaced).count()).unwrap_or(u32::MAX),
            generation_proven: self
                .all
                .iter()
                .any(|it| it.ready_at.is_some() || has_parked(it)),
        }
    }
}

/// Whether its agent said a word before it was stopped.
fn has_parked(row: &Instance) -> bool {
    row.parking
        .is_some_and(|it| matches!(it.stage, Stage::Stopping | Stage::Stopped))
}

fn set_stage(row: &mut Instance, stage: Stage, now: Timestamp) {
    row.parking = Some(Parking {
        stage,
        at: now,
        told_at: None,
    });
}

fn note(row: &mut Instance, machine: &Machine) {
    row.kind = Some(machine.kind.clone());
    row.zone = Some(machine.zone.clone());
    row.addresses = machine.addresses.clone();
    row.missing_since = None;
}
