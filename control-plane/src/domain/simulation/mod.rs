//! The rules of the pool together, against a model cloud and under whatever may
//! happen: replicas that die between any two writes or calls, calls that are
//! refused, lost or late, lists that lag, machines that end by themselves, agents
//! that go silent, users who come and go, two leaders at once.
//!
//! ```text
//! events ──▶ World ◀── Leader: look ─▶ next, matched, judge, plan ─▶ act
//!             ├ Cloud  machines, as they are and as they are shown
//!             └ Rows   each statement of the store, with its condition
//! ```

mod cloud;
mod events;
mod leader;
mod rows;
mod world;

use std::time::Duration;

use browserfleet_proto::ids::{InstanceId, UserId};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::TestCaseError;

use super::instance::{Instance, RestartMode, Stage, Status};
use super::pool::Target;
use cloud::{Agent, Made};
use events::{Event, event};
use leader::{Died, Done, Interlude, Leader, Life};
use rows::Unless;
use world::{BEGIN, World};

/// Schedules that are played, in some ten seconds; `PROPTEST_CASES` asks for others.
const SCHEDULES: u32 = 2_000;
/// Rounds after which everything has to be as wanted once nothing happens any more:
/// what ends is looked at every 2 s, for as long as lists may be old, several times.
const ROUNDS_MAX: usize = 2_000;
/// How long nothing may be due where everything is as wanted. Instances grow too old
/// in a day; nothing else takes that long.
const QUIET: Duration = Duration::from_secs(2 * 60 * 60);
/// Longest time between two rounds, so that what is due has to be known.
const PERIOD: Duration = Duration::from_secs(10 * 60);

/// A world under a schedule.
struct Play {
    world: World,
    leaders: [Leader; 2],
    strangers: usize,
}

impl Play {
    fn new(target: Target, reuses: bool) -> Self {
        Self {
            world: World::new(target, reuses),
            leaders: [Leader::new(0, BEGIN), Leader::new(1, BEGIN)],
            strangers: 0,
        }
    }

    fn row(&self, which: &Index) -> Option<InstanceId> {
        let there: Vec<InstanceId> = self.world.rows.instances().iter().map(|it| it.id).collect();
        (!there.is_empty()).then(|| *which.get(&there))
    }

    fn made(&mut self, which: &Index) -> Option<&mut Made> {
        let now = self.world.now;
        let made = self.world.cloud.made.iter_mut();
        let mut alive: Vec<&mut Made> = made.filter(|it| it.is_alive(now)).collect();
        (!alive.is_empty()).then(|| alive.swap_remove(which.index(alive.len())))
    }

    fn act(&mut self, which: usize, mut life: Life<'_>) -> Done {
        let leader = &mut self.leaders[which];
        match leader.act(&mut self.world, &mut life) {
            Ok(done) => done,
            Err(Died) => {
                self.leaders[which] = Leader::new(which, self.world.now);
                Done::default()
            }
        }
    }

    /// A round with an interlude of the other replica.
    fn suspended(&mut self, which: usize, before: u32, seconds: u64) {
        let [first, second] = &mut self.leaders;
        let (leader, other) = match which {
            0 => (first, second),
            _ => (second, first),
        };
        leader.look(&mut self.world);
        let interlude = Interlude {
            before,
            seconds,
            other,
        };
        let whole = leader.act(&mut self.world, &mut Life::suspended(interlude));
        drop(whole.expect("it has no end"));
    }

    fn round(&mut self, which: usize, life: Option<u32>) -> Done {
        self.leaders[which].look(&mut self.world);
        self.act(which, Life::until(life))
    }

    fn happens(&mut self, event: &Event) -> Result<(), String> {
        let now = self.world.now;
        let seconds = Duration::from_secs;
        match event {
            Event::Pass(length) => self.world.pass(seconds(*length)),
            Event::Round(which, life) => drop(self.round(*which, *life)),
            Event::Look(which) => self.leaders[*which].look(&mut self.world),
            Event::Act(which, life) => drop(self.act(*which, Life::until(*life))),
            Event::Suspended(which, before, seconds) => self.suspended(*which, *before, *seconds),
            Event::Fails(fault) => self.world.cloud.will_fail(*fault),
            Event::Lags(length) => self.world.cloud.lag = seconds(*length),
            Event::Arrives => {
                if let Some(id) = self.world.cloud.arrive(now) {
                    self.world.came_late(id);
                }
            }
            Event::Stranger if self.strangers == 0 => {
                self.strangers += 1;
                self.world.cloud.make(Some(InstanceId::new()), 1, now);
            }
            Event::Stranger => {}
            Event::Terminated(which) => {
                if let Some(made) = self.made(which) {
                    made.end(now, seconds(0));
                }
            }
            Event::Stopped(which) => {
                if let Some(made) = self.made(which) {
                    made.stop();
                }
            }
            Event::Hidden(which, length) => {
                if let Some(made) = self.made(which) {
                    made.hide(now.plus(seconds(*length)));
                }
            }
            Event::Impaired(which) => {
                if let Some(made) = self.made(which) {
                    made.impaired = true;
                }
            }
            Event::LinkDown(which) => {
                if let Some(made) = self.made(which).filter(|it| it.agent == Agent::Up) {
                    made.agent = Agent::Away(now);
                }
            }
            Event::LinkUp(which) => {
                let away = |it: &&mut Made| matches!(it.agent, Agent::Away(_));
                let back = self.made(which).filter(away);
                let id = back.and_then(|it| {
                    it.agent = Agent::Up;
                    it.instance()
                });
                if let Some(id) = id {
                    self.world.rows.came_up(id, false, now);
                }
            }
            Event::AgentDies(which) => {
                if let Some(made) = self.made(which).filter(|it| it.agent != Agent::Waiting) {
                    made.agent = Agent::Dead(now);
                }
            }
            Event::Want => {
                let max = self.world.target.max;
                let holder = Some(UserId::new());
                self.world.rows.want_instance(max, holder, None, false, now);
            }
            other => return self.user(other),
        }
        Ok(())
    }

    /// What is done to one row, by those who may.
    fn user(&mut self, event: &Event) -> Result<(), String> {
        let now = self.world.now;
        let (Event::Lease(which)
        | Event::OpenMore(which)
        | Event::EndSession(which)
        | Event::Delete(which)
        | Event::Drain(which, _)
        | Event::Restart(which, _)) = event
        else {
            return Ok(());
        };
        let Some(id) = self.row(which) else {
            return Ok(());
        };
        let row = self.world.rows.row(id).cloned();
        let reachable = row.is_some_and(|it| self.world.agent_of(&it) == Some(Agent::Up));
        let rows = &mut self.world.rows;
        match event {
            // Places are given where the link is.
            Event::Lease(_) if reachable => rows.place_on_free(id, UserId::new(), now)?,
            Event::OpenMore(_) if reachable => rows.place_on_own(id, now),
            Event::EndSession(_) => rows.end_session(id, now),
            Event::Delete(_) => {
                self.world.end(id, "deleted", Unless::Nothing, None);
            }
            Event::Drain(_, length) => {
                let until = length.map(|it| now.plus(Duration::from_secs(it)));
                rows.drain_instance(id, until, now);
            }
            Event::Restart(_, reboot) => {
                let mode = if *reboot {
                    RestartMode::Reboot
                } else {
                    RestartMode::Agent
                };
                rows.ask_restart(id, mode, now);
            }
            _ => {}
        }
        Ok(())
    }

    /// Lets time pass and rounds follow each other until nothing is left to do.
    fn settle(&mut self) -> Result<(), String> {
        let world = &mut self.world;
        world.cloud.is_well_again();
        let mut last = String::new();
        for _ in 0..ROUNDS_MAX {
            let done = self.round(0, None);
            self.world.check()?;
            let now = self.world.now;
            let mut wait = done.due.map_or(QUIET, |due| due.since(now));
            let over = self.world.rows.instances();
            // One that somebody has a session on is not replaced for its health.
            let at_rest = self.world.cloud.shows_all(now)
                && over.iter().all(|it| {
                    (it.status == Status::Running || it.is_parked_at(Stage::Stopped))
                        && it.missing_since.is_none()
                        && (it.unhealthy.is_none() || it.sessions > 0)
                });
            if done.led && done.steps.is_empty() && wait >= QUIET && at_rest && !done.mismatch {
                return Ok(());
            }
            wait = if done.steps.is_empty() {
                wait.clamp(Duration::from_secs(1), PERIOD)
            } else {
                Duration::from_secs(1)
            };
            last = format!("{:?}, and again in {wait:?}", done.steps);
            self.world.pass(wait);
        }
        let rows = self.world.rows.instances();
        Err(format!("it goes on for ever: {last}, with {}", told(&rows)))
    }

    /// Machines and rows are one to one, and stay so.
    fn is_as_wanted(&mut self) -> Result<(), String> {
        let now = self.world.now;
        let mut machines: Vec<&str> = self
            .world
            .cloud
            .made
            .iter()
            .filter(|it| it.is_alive(now))
            .map(Made::reference)
            .collect();
        let rows = self.world.rows.instances();
        let mut named: Vec<&str> = rows
            .iter()
            .filter_map(|it| it.reference.as_deref())
            .collect();
        machines.sort_unstable();
        named.sort_unstable();
        if machines != named || named.len() != rows.len() {
            return Err(format!("machines {machines:?}, and rows {}", told(&rows)));
        }
        let parked = rows.iter().filter(|it| it.is_parked()).count();
        let ready = rows.iter().filter(|it| it.assigned_to.is_none()).count() - parked;
        let held = rows.len() - ready - parked;
        let target = self.world.target;
        let room = (target.max as usize).saturating_sub(held + ready);
        if parked != (target.stopped as usize).min(room) {
            return Err(format!("{parked} are stopped: {}", told(&rows)));
        }
        let warm = (target.warm as usize).min((target.max as usize).saturating_sub(held));
        if ready != warm {
            return Err(format!(
                "{ready} are ready instead of {warm}: {}",
                told(&rows)
            ));
        }
        for _ in 0..3 {
            self.world.pass(Duration::from_secs(600));
            let done = self.round(1, None);
            if !done.steps.is_empty() {
                return Err(format!("it was at rest, and then: {:?}", done.steps));
            }
        }
        Ok(())
    }
}

/// Rows in few words, for who reads a failure.
fn told(rows: &[Instance]) -> String {
    let words = rows.iter().map(|it| {
        format!(
            "{} {:?}, attempt {} {:?}, machine {:?}, {} sessions, error {:?}",
            it.id,
            it.status,
            it.attempt.number,
            it.attempt.state,
            it.reference,
            it.sessions,
            it.error_code
        )
    });
    words.collect::<Vec<_>>().join("; ")
}

fn target() -> impl Strategy<Value = Target> {
    (0..4u32, 0..3u32, 1..7u32).prop_map(|(warm, stopped, max)| Target {
        warm: warm.min(max),
        stopped,
        stopped_age: Duration::from_secs(12 * 60 * 60),
        max,
        idle: Duration::from_secs(60),
        generation: 1,
    })
}

fn played(target: Target, reuses: bool, events: &[Event]) -> Result<(), TestCaseError> {
    let mut play = Play::new(target, reuses);
    for event in events {
        let happened = play.happens(event).and_then(|()| play.world.check());
        happened.map_err(|why| TestCaseError::fail(format!("{event:?}: {why}")))?;
    }
    let settled = play.settle().and_then(|()| play.is_as_wanted());
    settled.map_err(TestCaseError::fail)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(SCHEDULES))]
    #[test]
    fn whatever_happens_machines_and_rows_come_to_be_one_to_one(
        target in target(),
        reuses in any::<bool>(),
        events in proptest::collection::vec(event(), 0..80),
    ) {
        played(target, reuses, &events)?;
    }
}
