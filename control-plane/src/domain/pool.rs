//! How large the pool is to be: a pure function of what there is, what is wanted
//! and what has been asked for of late. Applied once, it has nothing more to say
//! until something changes.
//!
//! ```text
//! ready    running, healthy, nobody's        warm  = max(wanted, what arrives while one boots)
//! coming   provisioning, nobody's            launch  up to   warm + waiting - ready - coming
//! held     somebody's                        retire  what is ready and too much, for two minutes
//! parked   stopped, or on its way to be      wake    those first, launch what is missing then
//! ```

use std::time::Duration;

use browserfleet_proto::ids::InstanceId;
use serde::{Deserialize, Serialize};

use super::instance::{Instance, Stage, Status};
use super::time::Timestamp;

/// How long there has to be too much of something before any of it ends: demand
/// that dips for a moment must not cost a boot.
const SURPLUS_LASTS: Duration = Duration::from_secs(2 * 60);
/// Ready instances that end in one round because there are too many: this part of
/// the pool, but one at the least.
const SURPLUS_PART: usize = 10;
/// Ready instances that are replaced for their health in
/// [`REPLACEMENT_WINDOW`]: this part of the pool, but one at the least. Where a
/// whole zone is sick, replacing all of it makes it worse.
const REPLACEMENT_PART: usize = 5;
/// See [`REPLACEMENT_PART`].
pub const REPLACEMENT_WINDOW: Duration = Duration::from_secs(10 * 60);
/// How long an instance has to be unhealthy before it is replaced.
const UNHEALTHY_LASTS: Duration = Duration::from_secs(2 * 60);
/// Oldest that an instance gets: images and browsers are mended every day.
const AGE_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Launches in one round.
pub const LAUNCHES_PER_ROUND: u32 = 20;
/// Launches that failed in a row, after which one at a time is tried.
const FAILURES_MAX: u32 = 3;
/// First wait of a pool whose launches fail; it doubles with each more.
const PROBE_WAIT_MIN: Duration = Duration::from_secs(60);
/// Longest wait between two tries of a pool whose launches fail.
const PROBE_WAIT_MAX: Duration = Duration::from_secs(10 * 60);
/// What arrives while one instance boots, and this much more.
const FORESIGHT: f64 = 1.2;

/// What becomes of an instance that somebody held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reuse {
    /// Its machine ends.
    Terminate,
    /// Another gets it once its agent has shown that nothing is left of the first.
    ProvenClean,
}

impl std::str::FromStr for Reuse {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "terminate" => Ok(Self::Terminate),
            "proven-clean" => Ok(Self::ProvenClean),
            _ => Err("`terminate` or `proven-clean`"),
        }
    }
}

/// What is wanted of the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// Instances that are ready and nobody's.
    pub warm: u32,
    /// Instances that are stopped and can be started again.
    pub stopped: u32,
    /// How old a stopped one gets: its agent has to be known still when it starts.
    pub stopped_age: Duration,
    /// Instances at the most.
    pub max: u32,
    /// How long one that is too much is kept.
    pub idle: Duration,
    /// What instances are made like now.
    pub generation: i64,
}

/// What has been asked for of late.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Demand {
    /// Instances that queued sessions wait for.
    pub waiting: u32,
    /// Instances that got a holder, in a second, of late.
    pub arrivals_per_second: f64,
    /// How long nine in ten take from their row until they are ready.
    pub boot: Duration,
}

/// How launches went of late.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Launches {
    /// How many failed since the last that did not.
    pub failures_in_a_row: u32,
    /// When the last one failed.
    pub failed_at: Option<Timestamp>,
    /// Until when every offering is left alone.
    pub exhausted_until: Option<Timestamp>,
    /// Until when no stopped one is started: there was no room for one.
    pub starts_paused_until: Option<Timestamp>,
    /// Instances that were ended for their health within [`REPLACEMENT_WINDOW`].
    pub replaced: u32,
    /// Whether one of the target's generation was ever ready.
    pub generation_proven: bool,
}

/// What is to be done, and since when there is too much.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Which stopped ones are to be started.
    pub wake: Vec<InstanceId>,
    /// How many more are to be launched.
    pub launch: u32,
    /// How many more are to be launched to be stopped.
    pub park: u32,
    /// Which are to end, and why.
    pub retire: Vec<(InstanceId, &'static str)>,
    /// Since when there are too many.
    pub surplus_since: Option<Timestamp>,
    /// When the plan would be another one although nothing happened.
    pub due: Option<Timestamp>,
    /// Why fewer are launched than are wanted.
    pub held_back: Option<&'static str>,
}

/// Makes the plan. `surplus_since` is that of the plan before.
#[must_use]
pub fn plan(
    rows: &[Instance],
    target: &Target,
    demand: &Demand,
    launches: &Launches,
    surplus_since: Option<Timestamp>,
    now: Timestamp,
) -> Plan {
    let count = |passes: &dyn Fn(&Instance) -> bool| rows.iter().filter(|it| passes(it)).count();
    let is_ready = |it: &Instance| it.takes_work() && it.assigned_to.is_none();
    let there = size(count(&Instance::counts));
    let ready = size(count(&is_ready));
    let coming = size(count(&Instance::is_coming));
    let held = size(count(&|it| it.counts() && it.assigned_to.is_some()));
    let warm = warm(target, demand, held);

    let mut plan = Plan::default();
    let missing = (warm + demand.waiting).saturating_sub(ready + coming);
    wake(&mut plan, rows, target, launches, missing, now);
    let missing = missing - size(plan.wake.len());
    let room = target.max.saturating_sub(there);
    plan.launch = missing.min(room).min(LAUNCHES_PER_ROUND);
    // What is needed now comes before what may be needed later. One that is being
    // started has its place until it runs: it may find no room, and be stopped still.
    let parked = size(count(&|it| it.is_parked() || it.is_starting()));
    plan.park = target
        .stopped
        .saturating_sub(parked)
        .min(room - plan.launch)
        .min(LAUNCHES_PER_ROUND - plan.launch);
    if missing > room {
        plan.held_back = Some("maximum");
    }
    let booting = size(count(&Instance::is_booting));
    // A pool that misses nothing would never see the new making: one more is launched.
    let begun = plan.launch + plan.park > 0 || !plan.wake.is_empty() || booting > 0;
    let is_full = missing == 0 && ready <= warm + demand.waiting;
    let probes = is_full && !begun && is_outdated(rows, target, launches);
    if probes && room > 0 {
        plan.launch = 1;
    } else if probes {
        plan.held_back = Some("maximum");
    }
    hold_back(&mut plan, booting, launches, now);
    if plan.launch + plan.park > 1 && !launches.generation_proven && ready > 0 {
        // One of a new making first, as long as there are others to live on.
        plan.launch_at_most(u32::from(booting == 0));
    }

    retire_parked(&mut plan, rows, target, now);
    replace_unhealthy(&mut plan, rows, launches, there, now);
    retire_surplus(
        &mut plan,
        rows,
        target,
        warm + demand.waiting,
        surplus_since,
        now,
    );
    renew(&mut plan, rows, target, launches, now);
    plan
}

impl Plan {
    fn launch_at_most(&mut self, most: u32) {
        self.launch = self.launch.min(most);
        self.park = self.park.min(most - self.launch);
    }
}

/// Starts stopped ones where some are missing, the newest first.
fn wake(
    plan: &mut Plan,
    rows: &[Instance],
    target: &Target,
    launches: &Launches,
    missing: u32,
    now: Timestamp,
) {
    let mut stopped: Vec<&Instance> = rows
        .iter()
        .filter(|it| it.is_parked_at(Stage::Stopped) && parked_until(it, target) > now)
        .collect();
    if missing == 0 || stopped.is_empty() {
        return;
    }
    if let Some(until) = launches.starts_paused_until.filter(|until| *until > now) {
        note_due(plan, until);
        return;
    }
    stopped.sort_by_key(|it| std::cmp::Reverse((it.generation, it.created_at, it.id)));
    let most = missing.min(LAUNCHES_PER_ROUND) as usize;
    plan.wake = stopped.iter().take(most).map(|it| it.id).collect();
}

/// When a parked one is too old: it counts from the proof that its agent was given.
fn parked_until(row: &Instance, target: &Target) -> Timestamp {
    row.enrolled_at
        .unwrap_or(row.created_at)
        .plus(target.stopped_age)
}

/// Lets stopped ones go that are too old, or too many. They cost nobody a boot.
fn retire_parked(plan: &mut Plan, rows: &[Instance], target: &Target, now: Timestamp) {
    let mut kept: Vec<&Instance> = Vec::new();
    for row in rows.iter().filter(|it| it.is_parked()) {
        if plan.wake.contains(&row.id) {
            continue;
        }
        let until = parked_until(row, target);
        // One that boots has a deadline of its own.
        if row.is_parked_at(Stage::Wanted) {
            kept.push(row);
        } else if until <= now {
            plan.retire.push((row.id, "age"));
        } else {
            note_due(plan, until);
            kept.push(row);
        }
    }
    kept.sort_by_key(|it| (it.generation, it.created_at, it.id));
    let surplus = kept.len().saturating_sub(target.stopped as usize);
    let surplus = kept.iter().take(surplus).map(|it| (it.id, "surplus"));
    plan.retire.extend(surplus);
}

/// How many are to be ready: as many as are wanted, or as many as get a holder
/// while the next one boots. Who wants none ready pays for none.
fn warm(target: &Target, demand: &Demand, held: u32) -> u32 {
    if target.warm == 0 {
        return 0;
    }
    let arriving = demand.arrivals_per_second * demand.boot.as_secs_f64() * FORESIGHT;
    // Rounded: somebody who came once in ten minutes keeps no machine waiting.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a float that is out of range becomes the nearest number"
    )]
    let arriving = arriving.round() as u32;
    target
        .warm
        .max(arriving)
        .min(target.max.saturating_sub(held))
}

/// Launches fewer where launches fail, or where nothing is to be had.
fn hold_back(plan: &mut Plan, booting: u32, launches: &Launches, now: Timestamp) {
    if plan.launch + plan.park == 0 {
        return;
    }
    if let Some(until) = launches.exhausted_until.filter(|until| *until > now) {
        plan.launch_at_most(0);
        plan.held_back = Some("no_capacity");
        note_due(plan, until);
        return;
    }
    if launches.failures_in_a_row < FAILURES_MAX {
        return;
    }
    plan.held_back = Some("launches_fail");
    let more = launches.failures_in_a_row - FAILURES_MAX;
    let wait = PROBE_WAIT_MIN
        .saturating_mul(2_u32.saturating_pow(more))
        .min(PROBE_WAIT_MAX);
    let again = launches.failed_at.map_or(now, |it| it.plus(wait));
    if booting > 0 {
        plan.launch_at_most(0);
    } else if again > now {
        plan.launch_at_most(0);
        note_due(plan, again);
    } else {
        plan.launch_at_most(1);
    }
}

fn replace_unhealthy(
    plan: &mut Plan,
    rows: &[Instance],
    launches: &Launches,
    there: u32,
    now: Timestamp,
) {
    let most = part(there, REPLACEMENT_PART).saturating_sub(launches.replaced as usize);
    let mut replaced = 0;
    for row in rows {
        let Some(unhealthy) = &row.unhealthy else {
            continue;
        };
        let idle = row.status == Status::Running && row.sessions == 0 && row.restart.is_none();
        if !idle || row.recycling_since.is_some() {
            continue;
        }
        let due = unhealthy.at.plus(UNHEALTHY_LASTS);
        if due > now {
            note_due(plan, due);
        } else if replaced < most {
            plan.retire.push((row.id, "unhealthy"));
            replaced += 1;
        }
    }
}

fn retire_surplus(
    plan: &mut Plan,
    rows: &[Instance],
    target: &Target,
    needed: u32,
    surplus_since: Option<Timestamp>,
    now: Timestamp,
) {
    let mut ready: Vec<&Instance> = rows
        .iter()
        .filter(|it| it.takes_work() && it.assigned_to.is_none())
        .collect();
    let surplus = ready.len().saturating_sub(needed as usize);
    if surplus == 0 {
        return;
    }
    let since = surplus_since.unwrap_or(now);
    plan.surplus_since = Some(since);
    let lasted = since.plus(SURPLUS_LASTS);
    if lasted > now {
        note_due(plan, lasted);
        return;
    }
    // Those of an older making first, then the oldest.
    ready.sort_by_key(|it| (it.generation, it.created_at, it.id));
    let most = surplus.min(part(size(ready.len()), SURPLUS_PART));
    let mut retired = 0;
    for row in ready {
        if retired == most {
            break;
        }
        let idle_until = row.status_at.max(row.last_activity_at).plus(target.idle);
        if idle_until > now {
            note_due(plan, idle_until);
        } else {
            plan.retire.push((row.id, "surplus"));
            retired += 1;
        }
    }
}

/// Whether one of an older making is kept ready, and none of the new making was ever
/// seen to work.
fn is_outdated(rows: &[Instance], target: &Target, launches: &Launches) -> bool {
    let kept = |it: &Instance| is_free(it) && it.generation < target.generation;
    !launches.generation_proven && rows.iter().any(kept)
}

/// Whether it is nobody's, and could be somebody's at once or after a start.
fn is_free(row: &Instance) -> bool {
    (row.takes_work() && row.assigned_to.is_none()) || row.is_parked_at(Stage::Stopped)
}

/// Lets one instance of an older making, or one that is old itself, go at a time,
/// once there is another of the new making to take its place.
fn renew(plan: &mut Plan, rows: &[Instance], target: &Target, launches: &Launches, now: Timestamp) {
    let under_way = rows
        .iter()
        .any(|it| it.status == Status::Stopping || it.is_booting());
    let begun = plan.launch + plan.park > 0 || !plan.wake.is_empty();
    if under_way || begun || !plan.retire.is_empty() || !launches.generation_proven {
        return;
    }
    let stale = rows.iter().filter(|it| is_free(it)).find_map(|it| {
        let too_old = it.created_at.plus(AGE_MAX);
        if it.generation < target.generation {
            Some((it.id, "generation"))
        } else if too_old <= now {
            Some((it.id, "age"))
        } else {
            note_due(plan, too_old);
            None
        }
    });
    plan.retire.extend(stale);
}

fn note_due(plan: &mut Plan, at: Timestamp) {
    plan.due = Some(plan.due.map_or(at, |due| due.min(at)));
}

fn part(of: u32, part: usize) -> usize {
    (of as usize / part).max(1)
}

fn size(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use browserfleet_proto::ids::UserId;
    use proptest::prelude::*;

    const NOW: Timestamp = Timestamp(1_000_000_000_000);

    fn target(warm: u32, max: u32) -> Target {
        Target {
            warm,
            stopped: 0,
            stopped_age: Duration::from_secs(12 * 60 * 60),
            max,
            idle: Duration::from_secs(300),
            generation: 1,
        }
    }

    fn demand(waiting: u32) -> Demand {
        Demand {
            waiting,
            arrivals_per_second: 0.0,
            boot: Duration::from_secs(40),
        }
    }

    fn fine() -> Launches {
        Launches {
            generation_proven: true,
            ..Launches::default()
        }
    }

    fn first(rows: &[Instance], target: &Target, demand: &Demand, launches: &Launches) -> Plan {
        plan(rows, target, demand, launches, None, NOW)
    }

    #[test]
    fn an_empty_pool_is_filled_to_what_is_wanted_and_waited_for() {
        let plan = first(&[], &target(2, 9), &demand(3), &fine());
        assert_eq!((plan.launch, plan.held_back), (5, None));
    }

    #[test]
    fn what_is_on_its_way_is_not_launched_twice() {
        let rows = [Instance::fresh(NOW), Instance::ready(NOW)];
        assert_eq!(first(&rows, &target(2, 9), &demand(0), &fine()).launch, 0);
    }

    #[test]
    fn the_maximum_counts_every_machine_that_may_be_there() {
        let mut stopping = Instance::ready(NOW);
        stopping.status = Status::Stopping;
        let mut failed = Instance::fresh(NOW);
        failed.status = Status::Error;
        let mut left = failed.clone();
        left.left_behind = true;
        let rows = [stopping, failed, left];
        let plan = first(&rows, &target(3, 4), &demand(0), &fine());
        assert_eq!((plan.launch, plan.held_back), (2, Some("maximum")));
    }

    #[test]
    fn who_arrives_faster_than_machines_boot_finds_more_of_them() {
        let busy = Demand {
            arrivals_per_second: 0.1,
            ..demand(0)
        };
        // 0.1 a second, 40 s each, and a fifth more: 4.8.
        assert_eq!(first(&[], &target(1, 9), &busy, &fine()).launch, 5);
        assert_eq!(first(&[], &target(1, 3), &busy, &fine()).launch, 3);
        assert_eq!(first(&[], &target(0, 9), &busy, &fine()).launch, 0);
    }

    #[test]
    fn after_three_failures_one_is_tried_at_a_time() {
        let failing = Launches {
            failures_in_a_row: 3,
            failed_at: Some(NOW),
            ..fine()
        };
        let now = first(&[], &target(5, 9), &demand(0), &failing);
        assert_eq!((now.launch, now.held_back), (0, Some("launches_fail")));
        let due = now.due.expect("it is tried again");
        assert_eq!(due, NOW.plus(Duration::from_secs(60)));
        let wanted = target(5, 9);
        let later = plan(&[], &wanted, &demand(0), &failing, None, due);
        assert_eq!(later.launch, 1);
        let probe = [Instance::fresh(due)];
        let wait = plan(&probe, &wanted, &demand(0), &failing, None, due);
        assert_eq!(wait.launch, 0);
    }

    #[test]
    fn a_surplus_has_to_last_and_then_goes_by_and_by() {
        let old = Timestamp(NOW.0 - 3_600_000_000);
        let rows: Vec<Instance> = (0..20).map(|_| Instance::ready(old)).collect();
        let wanted = target(4, 40);
        let now = first(&rows, &wanted, &demand(0), &fine());
        assert_eq!((now.retire.len(), now.surplus_since), (0, Some(NOW)));
        let later = now.due.expect("it is looked at again");
        let then = plan(
            &rows,
            &wanted,
            &demand(0),
            &fine(),
            now.surplus_since,
            later,
        );
        assert_eq!(then.retire.len(), 2);
        assert!(then.retire.iter().all(|(_, why)| *why == "surplus"));
    }

    #[test]
    fn a_sick_zone_is_not_replaced_at_once() {
        let old = Timestamp(NOW.0 - 3_600_000_000);
        let rows: Vec<Instance> = (0..20)
            .map(|_| {
                let mut row = Instance::ready(old);
                row.unhealthy = Some(super::super::instance::Since {
                    reason: "status_check_failed".into(),
                    at: old,
                });
                row
            })
            .collect();
        let launches = Launches {
            replaced: 1,
            ..fine()
        };
        let plan = first(&rows, &target(20, 40), &demand(0), &launches);
        assert_eq!(plan.retire.len(), 3);
    }

    #[test]
    fn a_new_making_is_tried_with_one_before_the_old_ones_go() {
        let rows: Vec<Instance> = (0..4).map(|_| Instance::ready(NOW)).collect();
        let wanted = Target {
            generation: 2,
            ..target(8, 40)
        };
        let unproven = Launches::default();
        let plan = first(&rows, &wanted, &demand(0), &unproven);
        assert_eq!((plan.launch, plan.retire.len()), (1, 0));
        let wanted = Target { warm: 4, ..wanted };
        let plan = first(&rows, &wanted, &demand(0), &fine());
        assert_eq!(plan.retire, [(rows[0].id, "generation")]);
    }

    #[test]
    fn a_pool_that_misses_nothing_tries_a_new_making_with_one_more() {
        let rows: Vec<Instance> = (0..4).map(|_| Instance::ready(NOW)).collect();
        let wanted = Target {
            generation: 2,
            ..target(4, 5)
        };
        let unproven = Launches::default();
        let now = first(&rows, &wanted, &demand(0), &unproven);
        assert_eq!((now.launch, now.retire.len(), now.held_back), (1, 0, None));
        // One, and none of the others goes before it is ready.
        let mut tried = rows.clone();
        tried.push(Instance::fresh(NOW));
        let now = first(&tried, &wanted, &demand(0), &unproven);
        assert_eq!((now.launch, now.retire.len()), (0, 0));
        // Where it fails time after time it is tried as any other is.
        let failing = Launches {
            failures_in_a_row: 3,
            failed_at: Some(NOW),
            ..unproven
        };
        let now = first(&rows, &wanted, &demand(0), &failing);
        assert_eq!((now.launch, now.held_back), (0, Some("launches_fail")));
        // Where there is no room for one more the operator is told.
        let tight = Target { max: 4, ..wanted };
        let now = first(&rows, &tight, &demand(0), &unproven);
        assert_eq!((now.launch, now.held_back), (0, Some("maximum")));
    }

    #[test]
    fn nobody_pays_for_a_trial_where_none_of_the_old_making_is_kept() {
        let wanted = Target {
            generation: 2,
            ..target(1, 9)
        };
        let unproven = Launches::default();
        let mut held = Instance::ready(NOW);
        held.assigned_to = Some(UserId::new());
        let new = Instance {
            generation: 2,
            ..Instance::ready(NOW)
        };
        let rows = [held, new];
        assert_eq!(first(&rows, &wanted, &demand(0), &unproven).launch, 0);
        // One that is too much goes, and need not be replaced.
        let too_much = [Instance::ready(NOW), Instance::ready(NOW)];
        assert_eq!(first(&too_much, &wanted, &demand(0), &unproven).launch, 0);
        // A stopped one is kept, too.
        let stopped = Target {
            stopped: 1,
            ..Target { warm: 0, ..wanted }
        };
        let parked = [Instance::parked(Stage::Stopped, NOW)];
        assert_eq!(first(&parked, &stopped, &demand(0), &unproven).launch, 1);
    }

    #[test]
    fn stopped_ones_are_started_before_any_is_launched_and_filled_up_last() {
        let rows = [Instance::parked(Stage::Stopped, NOW)];
        let wanted = Target {
            stopped: 2,
            ..target(1, 4)
        };
        let now = first(&rows, &wanted, &demand(1), &fine());
        assert_eq!(now.wake, [rows[0].id]);
        assert_eq!((now.launch, now.park), (1, 1));
        let under_way = [Instance::parked(Stage::Starting, NOW)];
        let now = first(&under_way, &wanted, &demand(0), &fine());
        assert_eq!((now.launch, now.park), (0, 1));
        let over = [Instance::ready(NOW)];
        let now = first(&over, &wanted, &demand(0), &fine());
        assert_eq!((now.launch, now.park), (0, 2));
        // What is needed comes first where there is little room.
        let tight = Target { max: 3, ..wanted };
        let now = first(&rows, &tight, &demand(1), &fine());
        assert_eq!((now.wake.len(), now.launch, now.park), (1, 1, 1));
        let idle = first(&rows, &target(0, 4), &demand(0), &fine());
        assert_eq!(idle.retire, [(rows[0].id, "surplus")]);
    }

    #[test]
    fn one_that_cannot_be_started_now_is_left_and_another_launched() {
        let rows = [Instance::parked(Stage::Stopped, NOW)];
        let wanted = Target {
            stopped: 1,
            ..target(1, 4)
        };
        let until = NOW.plus(Duration::from_secs(9));
        let paused = Launches {
            starts_paused_until: Some(until),
            ..fine()
        };
        let now = first(&rows, &wanted, &demand(0), &paused);
        assert_eq!((now.wake.len(), now.launch, now.due), (0, 1, Some(until)));
        let then = plan(&rows, &wanted, &demand(0), &paused, None, until);
        assert_eq!((then.wake.len(), then.launch), (1, 0));
    }

    #[test]
    fn a_stopped_one_whose_proof_grows_old_is_replaced_and_never_started() {
        let wanted = Target {
            stopped: 1,
            ..target(1, 4)
        };
        let rows = [Instance::parked(Stage::Stopped, NOW)];
        let old = NOW.plus(wanted.stopped_age);
        let plan = plan(&rows, &wanted, &demand(0), &fine(), None, old);
        assert_eq!(plan.retire, [(rows[0].id, "age")]);
        assert_eq!((plan.wake.len(), plan.launch), (0, 1));
    }

    fn row_of(kind: u8, age_seconds: u32, sessions: i64) -> Instance {
        let then = Timestamp(NOW.0 - i64::from(age_seconds) * 1_000_000);
        let mut row = Instance::ready(then);
        match kind {
            0 => row = Instance::fresh(then),
            1 => {}
            2 => {
                row.assigned_to = Some(UserId::new());
                row.sessions = sessions;
            }
            3 => row.status = Status::Stopping,
            4 => row.status = Status::Error,
            5 => {
                row.unhealthy = Some(super::super::instance::Since {
                    reason: "disk".into(),
                    at: then,
                });
            }
            6 => row.generation = 0,
            8 => row = Instance::parked(Stage::Wanted, then),
            9 => row = Instance::parked(Stage::Stopping, then),
            10 => row = Instance::parked(Stage::Stopped, then),
            11 => row = Instance::parked(Stage::Starting, then),
            _ => {
                row = Instance::fresh(then);
                row.assigned_to = Some(UserId::new());
            }
        }
        row
    }

    /// What the plan makes of the rows.
    fn apply(rows: &mut Vec<Instance>, plan: &Plan) {
        for (id, _) in &plan.retire {
            for row in rows.iter_mut().filter(|it| it.id == *id) {
                row.status = Status::Stopping;
            }
        }
        for row in rows.iter_mut().filter(|it| plan.wake.contains(&it.id)) {
            *row = Instance {
                id: row.id,
                ..Instance::parked(Stage::Starting, row.created_at)
            };
        }
        for _ in 0..plan.launch {
            rows.push(Instance::fresh(NOW));
        }
        for _ in 0..plan.park {
            rows.push(Instance {
                parking: Instance::parked(Stage::Wanted, NOW).parking,
                ..Instance::fresh(NOW)
            });
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(3_000))]
        #[test]
        fn a_plan_keeps_to_the_limits_and_applied_says_nothing_more(
            kinds in proptest::collection::vec((0..12u8, 0..200_000u32, 0..3i64), 0..40),
            warm in 0..20u32,
            stopped in 0..20u32,
            max in 1..60u32,
            waiting in 0..20u32,
            arrivals in 0.0..1.0f64,
            failures in 0..6u32,
            replaced in 0..4u32,
            proven in any::<bool>(),
        ) {
            let mut rows: Vec<Instance> = kinds.iter().map(|(kind, age, sessions)| row_of(*kind, *age, *sessions)).collect();
            let target = Target { stopped, ..target(warm.min(max), max) };
            let demand = Demand { arrivals_per_second: arrivals, ..demand(waiting) };
            let mut launches = Launches {
                failures_in_a_row: failures,
                failed_at: Some(Timestamp(NOW.0 - 700_000_000)),
                replaced,
                generation_proven: proven,
                exhausted_until: None,
                starts_paused_until: None,
            };
            let since = Some(Timestamp(NOW.0 - 200_000_000));
            let mut surplus_since = since;
            let mut rounds = 0;
            loop {
                let there_before = rows.iter().filter(|it| it.counts()).count();
                let plan = plan(&rows, &target, &demand, &launches, surplus_since, NOW);
                let more = plan.launch + plan.park;
                prop_assert!(more <= LAUNCHES_PER_ROUND);
                prop_assert!(more == 0 || there_before + more as usize <= max as usize);
                for id in &plan.wake {
                    let row = rows.iter().find(|it| it.id == *id).expect("one of them");
                    prop_assert!(row.is_parked_at(Stage::Stopped), "{row:?}");
                    prop_assert!(plan.retire.iter().all(|(retired, _)| retired != id));
                }
                for (id, why) in &plan.retire {
                    let row = rows.iter().find(|it| it.id == *id).expect("one of them");
                    let ends = row.status == Status::Running || row.is_parked();
                    prop_assert!(ends && row.sessions == 0, "{why}: {row:?}");
                    prop_assert!(row.assigned_to.is_none() || *why == "unhealthy");
                }
                if more == 0 && plan.retire.is_empty() && plan.wake.is_empty() {
                    break;
                }
                launches.replaced += size(plan.retire.iter().filter(|(_, why)| *why == "unhealthy").count());
                surplus_since = plan.surplus_since;
                apply(&mut rows, &plan);
                rounds += 1;
                prop_assert!(rounds < 200, "it goes on for ever");
            }
        }

        #[test]
        fn a_pool_that_is_as_wanted_is_left_alone(warm in 0..20u32, held in 0..20u32) {
            let mut rows: Vec<Instance> = (0..warm).map(|_| Instance::ready(NOW)).collect();
            rows.extend((0..held).map(|_| row_of(2, 60, 1)));
            let plan = first(&rows, &target(warm, 60), &demand(0), &fine());
            prop_assert_eq!((plan.launch, plan.retire), (0, vec![]));
        }
    }
}
