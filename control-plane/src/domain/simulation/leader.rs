//! A replica that brings the pool to what is wanted, write by write and call by
//! call as the fleet does it. It may die before each of them, and be suspended
//! between its look and what it does.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use browserfleet_proto::ids::InstanceId;

use super::super::health::{self, Signs};
use super::super::instance::{Instance, RestartMode, Stage, Status};
use super::super::machine::{Machine, Offering};
use super::super::offering::{Cooldowns, Shortage};
use super::super::pool::{self, Demand};
use super::super::reconcile::{self, Rules, Sightings, Step, View};
use super::super::time::Timestamp;
use super::World;
use super::cloud::{Agent, BOOT_MAX, Cloud, LAG, Launched, Request};
use super::rows::Unless;

/// What the cloud's pause lasts.
const PAUSE: Duration = Duration::from_secs(20);
/// How long something that was just made may take to be seen everywhere.
const NOT_YET_LASTS: Duration = Duration::from_secs(2 * 60);
/// How long holders may leave an instance idle.
pub(super) const PATIENCE: Duration = Duration::from_secs(5 * 60);
/// Rounds of the other replica while one is suspended: a machine may boot meanwhile.
const INTERLUDE_ROUNDS: usize = 4;
const INTERLUDE_WAIT: Duration = Duration::from_secs(15);
/// How often the lead is renewed.
const RENEW_EVERY: Duration = Duration::from_secs(5);

/// It is gone, in the middle of something.
#[derive(Debug)]
pub(super) struct Died;

/// What happens while a replica is suspended: another leads, and users come.
#[derive(Debug)]
pub(super) struct Interlude<'a> {
    /// Before which write or call of the one that is suspended.
    pub(super) before: u32,
    /// How long before the other one looks.
    pub(super) seconds: u64,
    pub(super) other: &'a mut Leader,
}

impl Interlude<'_> {
    fn play(self, world: &mut World) {
        world.pass(Duration::from_secs(self.seconds));
        for _ in 0..INTERLUDE_ROUNDS {
            self.other.look(world);
            let whole = self.other.act(world, &mut Life::default());
            drop(whole.expect("it has no end"));
            world.pass(INTERLUDE_WAIT);
        }
        world.lease_all();
    }
}

/// A replica's life during one round.
#[derive(Debug, Default)]
pub(super) struct Life<'a> {
    /// Writes and calls until it dies.
    pub(super) left: Option<u32>,
    pub(super) interlude: Option<Interlude<'a>>,
    lived: u32,
}

impl<'a> Life<'a> {
    pub(super) fn until(left: Option<u32>) -> Self {
        Self {
            left,
            ..Self::default()
        }
    }

    pub(super) fn suspended(interlude: Interlude<'a>) -> Self {
        Self {
            interlude: Some(interlude),
            ..Self::default()
        }
    }

    fn one_more(&mut self, world: &mut World) -> Result<(), Died> {
        if self.left.is_some_and(|left| self.lived >= left) {
            return Err(Died);
        }
        if let Some(interlude) = self.interlude.take_if(|it| it.before <= self.lived) {
            interlude.play(world);
        }
        self.lived += 1;
        Ok(())
    }
}

/// What it saw, when.
#[derive(Debug, Clone)]
pub(super) struct Look {
    at: Timestamp,
    epoch: i64,
    machines: Vec<Machine>,
    rows: Vec<Instance>,
    silences: HashMap<InstanceId, Option<Duration>>,
}

/// What a round did, and when the next is due.
#[derive(Debug, Default)]
pub(super) struct Done {
    pub(super) led: bool,
    pub(super) steps: Vec<String>,
    pub(super) due: Option<Timestamp>,
    pub(super) mismatch: bool,
}

/// One replica.
#[derive(Debug)]
pub(super) struct Leader {
    number: usize,
    started_at: Timestamp,
    held: Option<(i64, Timestamp)>,
    cooldowns: Cooldowns,
    sightings: Sightings,
    surplus_since: Option<Timestamp>,
    paused_until: Option<Timestamp>,
    pub(super) look: Option<Look>,
}

impl Leader {
    pub(super) fn new(number: usize, now: Timestamp) -> Self {
        Self {
            number,
            started_at: now,
            held: None,
            cooldowns: Cooldowns::default(),
            sightings: Sightings::default(),
            surplus_since: None,
            paused_until: None,
            look: None,
        }
    }

    fn rules() -> Rules {
        Rules {
            lag: LAG,
            boot: BOOT_MAX,
        }
    }

    fn hold(&mut self, world: &mut World) -> Option<i64> {
        let now = world.now;
        if let Some((epoch, asked_at)) = self.held
            && now.since(asked_at) < RENEW_EVERY
        {
            return Some(epoch);
        }
        let epoch = world.rows.take_lead(self.number, now);
        self.held = epoch.map(|epoch| (epoch, now));
        epoch
    }

    /// Machines, then rows, then links.
    pub(super) fn look(&mut self, world: &mut World) {
        self.look = None;
        let Some(epoch) = self.hold(world) else {
            return;
        };
        let now = world.now;
        let Some(mut machines) = world.cloud.list(now) else {
            return;
        };
        let rows = world.rows.instances();
        let listed: HashSet<&str> = machines.iter().map(|it| it.reference.as_str()).collect();
        let unlisted: Vec<String> = rows
            .iter()
            .filter_map(|it| it.reference.clone())
            .filter(|it| !listed.contains(it.as_str()))
            .collect();
        machines.extend(world.cloud.find(&unlisted, now));
        let silences = rows
            .iter()
            .map(|row| (row.id, self.silence(world, row)))
            .collect();
        self.look = Some(Look {
            at: now,
            epoch,
            machines,
            rows,
            silences,
        });
    }

    fn silence(&self, world: &World, row: &Instance) -> Option<Duration> {
        if world.agent_of(row) == Some(Agent::Up) {
            return None;
        }
        let here = world.now.since(self.started_at);
        let elsewhere = row.seen_at.map(|at| world.now.since(at));
        Some(elsewhere.map_or(here, |it| it.min(here)))
    }

    /// Does what follows from the last look, if it still leads under the same epoch.
    pub(super) fn act(&mut self, world: &mut World, life: &mut Life<'_>) -> Result<Done, Died> {
        let mut done = Done::default();
        let Some(look) = self.look.take() else {
            return Ok(done);
        };
        if self.hold(world) != Some(look.epoch) {
            return Ok(done);
        }
        done.led = true;
        Self::judge_health(world, &look, life)?;
        let matched = reconcile::matched(&look.machines, &look.rows);
        let mut steps = Vec::new();
        for row in &look.rows {
            let view = View {
                row,
                machine: matched.of_rows.get(&row.id).copied(),
                silence: look.silences.get(&row.id).copied().flatten(),
                patience: PATIENCE,
            };
            let next = reconcile::next(&view, Self::rules(), look.at);
            steps.extend(next.step.map(|step| (row, step)));
            done.due = [done.due, next.due].into_iter().flatten().min();
        }
        steps.sort_by_key(|(_, step)| match step {
            Step::End(_) | Step::Gone(_) | Step::Release => 0,
            Step::Adopt(_) | Step::Note(_) | Step::Missing(_) => 1,
            Step::Terminate => 2,
            Step::Stopped => 1,
            Step::HandToken | Step::Restart(_) | Step::Stop | Step::Start => 3,
            Step::Send => 4,
            Step::Request => 5,
        });
        for (row, step) in steps {
            done.steps.push(format!("{}: {step:?}", row.id));
            self.take_step(world, &look, row, step, life)?;
        }
        if self.hold(world) != Some(look.epoch) {
            return Ok(done);
        }
        self.end_strangers(world, &look, &matched, life, &mut done)?;
        self.size(world, look.epoch, life, &mut done)?;
        Ok(done)
    }

    fn judge_health(world: &mut World, look: &Look, life: &mut Life<'_>) -> Result<(), Died> {
        let running = look.rows.iter().filter(|it| it.status == Status::Running);
        for row in running.filter(|it| it.restart.is_none()) {
            let signs = Signs {
                silence: look.silences.get(&row.id).copied().flatten(),
                figures: None,
                trouble: world.is_impaired(row).then_some("status_check_failed"),
            };
            let judged = health::judge(&signs);
            if judged != row.unhealthy.as_ref().map(|it| it.reason.as_str()) {
                life.one_more(world)?;
                world.rows.note_health(row.id, judged, look.at);
            }
        }
        Ok(())
    }

    fn take_step(
        &mut self,
        world: &mut World,
        look: &Look,
        row: &Instance,
        step: Step,
        life: &mut Life<'_>,
    ) -> Result<(), Died> {
        if self.hold(world) != Some(look.epoch) {
            return Ok(());
        }
        let now = world.now;
        let id = row.id;
        match step {
            Step::Request => self.request(world, row, life)?,
            Step::Send => {
                let number = row.attempt.number;
                if !self.is_paused(now)
                    && let Some(request) = world.rows.request_of(id, number)
                {
                    self.try_once(world, row, &request, life)?;
                }
            }
            Step::Adopt(machine) => {
                Self::adopt(world, id, row.attempt.number, &machine, life)?;
            }
            Step::Note(machine) => {
                life.one_more(world)?;
                world.rows.note_machine(id, &machine);
            }
            Step::Missing(missing) => {
                life.one_more(world)?;
                world.rows.note_missing(id, missing.then_some(now));
            }
            Step::HandToken => {
                life.one_more(world)?;
                let reference = row.reference.as_deref().unwrap_or_default();
                if let Some(made) = world.cloud.by_name(reference) {
                    made.token_at = Some(now);
                }
                life.one_more(world)?;
                world.rows.token_handed(id, now);
            }
            Step::Restart(mode) => {
                life.one_more(world)?;
                world.rows.sessions_lost(id);
                world.restart_agent(row, mode == RestartMode::Reboot);
                life.one_more(world)?;
                world.rows.restart_told(id, now);
            }
            Step::Stop | Step::Start => {
                life.one_more(world)?;
                let stage = if step == Step::Stop {
                    row.parking.map(|it| it.stage)
                } else {
                    Some(Stage::Starting)
                };
                if !world.rows.power_asked(id, stage, now) {
                    return Ok(());
                }
                life.one_more(world)?;
                let reference = row.reference.as_deref().unwrap_or_default();
                if let Some(made) = world.cloud.by_name(reference) {
                    made.power(step == Step::Start, now);
                }
            }
            Step::Stopped => {
                life.one_more(world)?;
                world.rows.stopped(id, now);
            }
            Step::Release => Self::release(world, look, row, life)?,
            Step::End(reason) => {
                let unless = match reason {
                    "drained" if row.drain_until.is_none_or(|until| until > now) => {
                        Unless::UsedSince(now)
                    }
                    _ => Unless::Moved(row.status, row.epoch),
                };
                life.one_more(world)?;
                world.end(id, reason, unless, Some(look.at));
            }
            Step::Terminate => {
                life.one_more(world)?;
                world.rows.end_asked(id, now);
                life.one_more(world)?;
                let reference = row.reference.as_deref().unwrap_or_default();
                world.cloud.terminate(reference, now);
            }
            Step::Gone(reason) => {
                life.one_more(world)?;
                world.rows.sessions_lost(id);
                world.rows.instance_gone(id, reason, now);
            }
        }
        Ok(())
    }

    fn release(
        world: &mut World,
        look: &Look,
        row: &Instance,
        life: &mut Life<'_>,
    ) -> Result<(), Died> {
        let now = world.now;
        life.one_more(world)?;
        if world.reuses && world.agent_of(row) == Some(Agent::Up) && row.takes_work() {
            world
                .rows
                .begin_recycling(row.id, row.last_activity_at, now);
        } else {
            let unless = Unless::UsedSince(row.last_activity_at);
            world.end(row.id, "idle", unless, Some(look.at));
        }
        Ok(())
    }

    fn is_paused(&self, now: Timestamp) -> bool {
        self.paused_until.is_some_and(|until| until > now)
    }

    fn request(
        &mut self,
        world: &mut World,
        row: &Instance,
        life: &mut Life<'_>,
    ) -> Result<(), Died> {
        let now = world.now;
        if self.is_paused(now) {
            return Ok(());
        }
        let mut tried = world.rows.tried(row.id);
        let mut attempt = row.attempt.number;
        while let Some(lead) = self.hold(world) {
            let offerings = Cloud::offerings();
            let chosen = self.cooldowns.choose(&offerings, &tried, now).cloned();
            let Ok(offering) = chosen else {
                life.one_more(world)?;
                world
                    .rows
                    .launch_failed(row.id, attempt, "no_capacity", now);
                return Ok(());
            };
            let request = Request {
                instance: row.id,
                attempt: attempt + 1,
                offering: offering.clone(),
            };
            life.one_more(world)?;
            if !world.rows.write_request(request.clone(), lead, now) {
                return Ok(());
            }
            attempt += 1;
            if !self.try_once(world, row, &request, life)? {
                return Ok(());
            }
            tried.push(offering);
        }
        Ok(())
    }

    /// Sends a request. Gives whether another offering may do.
    fn try_once(
        &mut self,
        world: &mut World,
        row: &Instance,
        request: &Request,
        life: &mut Life<'_>,
    ) -> Result<bool, Died> {
        let now = world.now;
        let Some(lead) = self.hold(world) else {
            return Ok(false);
        };
        let (id, attempt) = (row.id, request.attempt);
        life.one_more(world)?;
        let Some(send) = world.rows.sending(id, attempt, lead, now) else {
            return Ok(false);
        };
        life.one_more(world)?;
        if world.now > now {
            // Whoever led meanwhile may have learned that it was refused.
            world.came_late(id);
        }
        let answer = world.cloud.launch(request, world.now);
        life.one_more(world)?;
        let now = world.now;
        match answer {
            Launched::Machine(machine) => {
                Self::adopt(world, id, attempt, &machine, life)?;
            }
            Launched::Refused(shortage) => {
                self.cooldowns.refused(&request.offering, shortage, now);
                return Self::refused(world, row, (request, send), shortage, life);
            }
            Launched::Throttled => self.paused_until = Some(now.plus(PAUSE)),
            Launched::Unknown => {}
            Launched::Spent => {
                world
                    .rows
                    .launch_failed(id, attempt, "terminated_at_start", now);
            }
        }
        Ok(false)
    }

    fn refused(
        world: &mut World,
        row: &Instance,
        (request, send): (&Request, i64),
        shortage: Shortage,
        life: &mut Life<'_>,
    ) -> Result<bool, Died> {
        let now = world.now;
        let (id, attempt) = (row.id, request.attempt);
        let another_may_do = matches!(
            shortage,
            Shortage::Capacity | Shortage::Addresses | Shortage::Quota
        );
        let offering: Option<&Offering> = another_may_do.then_some(&request.offering);
        let noted = world.rows.refused(id, (attempt, send), offering, now);
        let waits = shortage == Shortage::NotYet && now.since(row.created_at) < NOT_YET_LASTS;
        if noted && !another_may_do && !waits {
            life.one_more(world)?;
            world.rows.launch_failed(id, attempt, "launch_refused", now);
        }
        Ok(noted && another_may_do)
    }

    fn adopt(
        world: &mut World,
        id: InstanceId,
        attempt: i64,
        machine: &Machine,
        life: &mut Life<'_>,
    ) -> Result<(), Died> {
        life.one_more(world)?;
        if !world.rows.accepted(id, attempt, machine) {
            life.one_more(world)?;
            world.cloud.terminate(&machine.reference, world.now);
        }
        Ok(())
    }

    fn end_strangers(
        &mut self,
        world: &mut World,
        look: &Look,
        matched: &reconcile::Matched<'_>,
        life: &mut Life<'_>,
        done: &mut Done,
    ) -> Result<(), Died> {
        let now = world.now;
        let strange = &matched.strange;
        let named: Vec<InstanceId> = strange.iter().filter_map(|it| it.instance).collect();
        let ended = world.rows.ended_among(&named);
        let machines = look.machines.len();
        let judged = self
            .sightings
            .judge(matched, &ended, machines, Self::rules(), now);
        done.mismatch = judged.mismatch.is_some();
        done.due = [done.due, judged.due].into_iter().flatten().min();
        for reference in judged.orphans {
            done.steps.push(format!("{reference}: a stranger"));
            life.one_more(world)?;
            world.cloud.terminate(&reference, now);
        }
        Ok(())
    }

    fn size(
        &mut self,
        world: &mut World,
        epoch: i64,
        life: &mut Life<'_>,
        done: &mut Done,
    ) -> Result<(), Died> {
        let now = world.now;
        let rows = world.rows.instances();
        let exhausted = match self.cooldowns.choose(&Cloud::offerings(), &[], now) {
            Ok(_) => self.paused_until.filter(|until| *until > now),
            Err(exhausted) => exhausted.until,
        };
        let demand = Demand {
            waiting: 0,
            arrivals_per_second: 0.0,
            boot: Duration::from_secs(60),
        };
        let launches = world.rows.launches(exhausted, now);
        let plan = pool::plan(
            &rows,
            &world.target,
            &demand,
            &launches,
            self.surplus_since,
            now,
        );
        self.surplus_since = plan.surplus_since;
        done.due = [done.due, plan.due].into_iter().flatten().min();
        for (id, reason) in &plan.retire {
            life.one_more(world)?;
            let unless = match *reason {
                "unhealthy" => Unless::UsedSince(now),
                _ => Unless::Held,
            };
            if world.end(*id, reason, unless, None) {
                done.steps.push(format!("{id}: {reason}"));
            }
        }
        for id in &plan.wake {
            life.one_more(world)?;
            world.rows.unpark(*id, now);
            done.steps.push(format!("{id}: is needed"));
        }
        for number in 0..plan.launch + plan.park {
            life.one_more(world)?;
            let max = world.target.max;
            let parks = number >= plan.launch;
            if !world.rows.want_instance(max, None, Some(epoch), parks, now) {
                break;
            }
            done.steps.push("one more is wanted".into());
        }
        Ok(())
    }
}
