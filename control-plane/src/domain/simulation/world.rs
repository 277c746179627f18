//! The cloud, the rows and the time, with what must never be so.

use std::collections::HashMap;
use std::time::Duration;

use browserfleet_proto::ids::{InstanceId, UserId};
use browserfleet_proto::ladder;

use super::super::instance::{Instance, Status};
use super::super::pool::Target;
use super::super::time::Timestamp;
use super::cloud::{Agent, Cloud, Made};
use super::leader::PATIENCE;
use super::rows::{Rows, Unless};

pub(super) const BEGIN: Timestamp = Timestamp(1_700_000_000_000_000);
/// How long an agent that was told to start anew is away.
const RESTART_TAKES: Duration = Duration::from_secs(20);
/// How long an agent without a control plane keeps its machine.
const DEAD_MAN: Duration = Duration::from_secs(15 * 60);

/// Everything.
#[derive(Debug)]
pub(super) struct World {
    pub(super) now: Timestamp,
    pub(super) cloud: Cloud,
    pub(super) rows: Rows,
    pub(super) target: Target,
    pub(super) reuses: bool,
    /// Machines more than one that a row may have, since calls came late.
    late: HashMap<InstanceId, usize>,
    broken: Option<String>,
}

impl World {
    pub(super) fn new(target: Target, reuses: bool) -> Self {
        Self {
            now: BEGIN,
            cloud: Cloud::default(),
            rows: Rows::default(),
            target,
            reuses,
            late: HashMap::new(),
            broken: None,
        }
    }

    fn made_of(&self, row: &Instance) -> Option<&Made> {
        let reference = row.reference.as_deref()?;
        self.cloud
            .made
            .iter()
            .find(|it| it.reference() == reference)
    }

    pub(super) fn agent_of(&self, row: &Instance) -> Option<Agent> {
        self.made_of(row)
            .filter(|it| it.runs(self.now))
            .map(|it| it.agent)
    }

    pub(super) fn is_impaired(&self, row: &Instance) -> bool {
        self.made_of(row).is_some_and(|it| it.impaired)
    }

    pub(super) fn restart_agent(&mut self, row: &Instance, reboot: bool) {
        let now = self.now;
        let Some(reference) = &row.reference else {
            return;
        };
        if let Some(made) = self.cloud.by_name(reference) {
            let revives = reboot || !matches!(made.agent, Agent::Dead(_));
            if revives && made.agent != Agent::Waiting {
                made.agent = Agent::Restarting(now.plus(RESTART_TAKES));
            }
        }
    }

    /// Begins to end an instance, and judges whether that was right.
    pub(super) fn end(
        &mut self,
        id: InstanceId,
        reason: &str,
        unless: Unless,
        looked: Option<Timestamp>,
    ) -> bool {
        let before = self.rows.row(id).cloned();
        if !self.rows.end_instance(id, reason, unless, self.now) {
            return false;
        }
        if let Some(before) = before
            && let Some(wrong) = self.wronged(&before, reason, looked)
        {
            self.broken.get_or_insert(wrong);
        }
        self.rows.sessions_lost(id);
        true
    }

    /// Why an instance should not have been ended, if that is so.
    fn wronged(&self, row: &Instance, reason: &str, looked: Option<Timestamp>) -> Option<String> {
        let held = row.status == Status::Running && row.assigned_to.is_some();
        let well = self.agent_of(row) == Some(Agent::Up);
        let idle = row.sessions == 0;
        let excused = match reason {
            "deleted" => true,
            "drained" | "stopped_at_start" => row.draining.is_some(),
            "idle" => idle && self.now.since(row.last_activity_at) >= PATIENCE,
            "recycle_failed" => idle && row.recycling_since.is_some(),
            "unhealthy" => idle && row.unhealthy.is_some(),
            "restart_failed" => row.restart.is_some(),
            // Its browsers were killed long before, and nobody has got it since.
            "agent_lost" => looked.is_some_and(|at| row.last_activity_at <= at),
            _ => false,
        };
        (held && well && !excused).then(|| format!("ended for {reason}, and was well: {row:?}"))
    }

    /// A call for a row reaches the cloud after others may have gone on from there.
    pub(super) fn came_late(&mut self, id: InstanceId) {
        *self.late.entry(id).or_default() += 1;
    }

    /// Somebody takes each instance that is to be had.
    pub(super) fn lease_all(&mut self) {
        for row in self.rows.instances() {
            if self.agent_of(&row) == Some(Agent::Up)
                && let Err(wrong) = self.rows.place_on_free(row.id, UserId::new(), self.now)
            {
                self.broken.get_or_insert(wrong);
            }
        }
    }

    pub(super) fn pass(&mut self, duration: Duration) {
        self.now = self.now.plus(duration);
        let now = self.now;
        for at in 0..self.cloud.made.len() {
            let made = &self.cloud.made[at];
            if !made.runs(now) {
                continue;
            }
            let Some(id) = made.instance() else { continue };
            match made.agent {
                Agent::Waiting => self.join(at, id),
                Agent::Restarting(until) if until <= now => {
                    self.cloud.made[at].agent = Agent::Up;
                    self.rows.came_up(id, true, now);
                }
                Agent::Up => {
                    self.rows.seen(id, now);
                    self.rows.recycled(id, now);
                }
                Agent::Away(since) | Agent::Dead(since) if now.since(since) >= DEAD_MAN => {
                    self.cloud.made[at].end(now, Duration::ZERO);
                }
                Agent::Away(_) | Agent::Dead(_) | Agent::Restarting(_) => {}
            }
        }
    }

    /// An agent joins where it finds a token that is good, and its row waits for it.
    fn join(&mut self, at: usize, id: InstanceId) {
        let now = self.now;
        let good = self.cloud.made[at]
            .token_at
            .is_some_and(|it| now.since(it) < ladder::JOIN_TOKEN);
        let waits = self.rows.row(id).is_some_and(|it| {
            it.status == Status::Provisioning
                && it.reference.as_deref() == Some(self.cloud.made[at].reference())
        });
        if good && waits {
            self.cloud.made[at].agent = Agent::Up;
            self.rows.enrolled(id, now);
            self.rows.came_up(id, true, now);
        }
    }

    pub(super) fn check(&self) -> Result<(), String> {
        if let Some(broken) = &self.broken {
            return Err(broken.clone());
        }
        let mut alive: HashMap<InstanceId, usize> = HashMap::new();
        for made in self.cloud.made.iter().filter(|it| it.is_alive(self.now)) {
            if let Some(id) = made.instance() {
                *alive.entry(id).or_default() += 1;
            }
        }
        for (id, count) in alive {
            let most = 1 + self.late.get(&id).copied().unwrap_or(0);
            if count > most {
                return Err(format!("{count} machines of {id} at once"));
            }
        }
        let there = self.rows.all.iter().filter(|it| it.counts()).count();
        if there > self.target.max as usize {
            return Err(format!(
                "{there} instances, and the most is {}",
                self.target.max
            ));
        }
        Ok(())
    }
}
