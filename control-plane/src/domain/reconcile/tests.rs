//! Each rule by itself. What they amount to together is shown by
//! [`simulation`](crate::domain::simulation).

use browserfleet_proto::ids::UserId;

use super::super::instance::{Attempt, Restart, Since};
use super::super::machine::Addresses;
use super::*;

const NOW: Timestamp = Timestamp(1_700_000_000_000_000);
const LAG: Duration = Duration::from_secs(5 * 60);
const BOOT: Duration = Duration::from_secs(10 * 60);
/// A provider whose lists may be old.
const CLOUD: Rules = Rules {
    lag: LAG,
    boot: BOOT,
};
/// One whose lists are exact.
const LOCAL: Rules = Rules {
    lag: Duration::ZERO,
    boot: BOOT,
};
const PATIENCE: Duration = Duration::from_secs(10 * 60);
const SECOND: Duration = Duration::from_secs(1);

fn ago(age: Duration) -> Timestamp {
    Timestamp(NOW.0 - i64::try_from(age.as_micros()).expect("no test is that long ago"))
}

fn minutes(count: u64) -> Duration {
    Duration::from_secs(60 * count)
}

fn machine(state: MachineState) -> Machine {
    Machine {
        reference: "m-1".into(),
        instance: None,
        attempt: 1,
        state,
        launched_at: ago(minutes(1)),
        reason: None,
        addresses: Addresses::default(),
        kind: "large".into(),
        zone: "a".into(),
    }
}

/// A row whose newest request is this far, since then.
fn asked(state: AttemptState, age: Duration, sends: i64) -> Instance {
    let at = ago(age);
    Instance {
        attempt: Attempt {
            number: 1,
            state,
            at,
            sends,
        },
        ..Instance::fresh(at)
    }
}

/// A row whose machine was made then, and whose agent has not said anything yet.
fn booting(age: Duration) -> Instance {
    Instance {
        reference: Some("m-1".into()),
        launched_at: Some(ago(age)),
        token_at: Some(ago(age)),
        kind: Some("large".into()),
        zone: Some("a".into()),
        ..asked(AttemptState::Accepted, age, 1)
    }
}

/// A row that has run for that long, with its machine's kind and zone known.
fn running(age: Duration) -> Instance {
    Instance {
        kind: Some("large".into()),
        zone: Some("a".into()),
        ..Instance::ready(ago(age))
    }
}

fn held(age: Duration, sessions: i64) -> Instance {
    Instance {
        assigned_to: Some(UserId::new()),
        sessions,
        ..running(age)
    }
}

fn stopping(asked_to_end: Option<Duration>) -> Instance {
    Instance {
        status: Status::Stopping,
        end_asked_at: asked_to_end.map(ago),
        ..running(minutes(60))
    }
}

fn with(mut row: Instance, change: impl FnOnce(&mut Instance)) -> Instance {
    change(&mut row);
    row
}

fn draining(row: Instance, until: Option<Timestamp>) -> Instance {
    with(row, |row| {
        row.draining = Some(Since {
            reason: "rebalance".into(),
            at: ago(SECOND),
        });
        row.drain_until = until;
    })
}

fn restarting(row: Instance, age: Duration, told: bool) -> Instance {
    with(row, |row| {
        row.restart = Some(Restart {
            mode: RestartMode::Reboot,
            at: ago(age),
            told_at: told.then(|| ago(age)),
        });
    })
}

/// What is next for a row whose agent has been silent for that long.
fn next_with(
    row: &Instance,
    machine: Option<&Machine>,
    silence: Option<Duration>,
    rules: Rules,
) -> Next {
    let view = View {
        row,
        machine,
        silence,
        patience: PATIENCE,
    };
    next(&view, rules, NOW)
}

fn step_of(row: &Instance, state: Option<MachineState>, silence: Option<Duration>) -> Option<Step> {
    let machine = state.map(machine);
    next_with(row, machine.as_ref(), silence, CLOUD).step
}

const UP: Option<Duration> = None;
const SILENT: Option<Duration> = Some(Duration::from_secs(3600));

#[test]
fn what_is_wanted_is_asked_for_and_what_is_written_is_sent() {
    let steps = [
        (AttemptState::Wanted, 0, Step::Request),
        (AttemptState::Unsent, 0, Step::Send),
    ];
    for (state, sends, step) in steps {
        let row = asked(state, Duration::ZERO, sends);
        assert_eq!(step_of(&row, None, SILENT), Some(step), "{state:?}");
    }
}

#[test]
fn a_refusal_is_followed_by_the_next_request_after_a_while() {
    let fresh = next_with(&asked(AttemptState::Refused, SECOND, 1), None, UP, CLOUD);
    let due = ago(SECOND).plus(NOT_YET_WAIT);
    assert_eq!((fresh.step, fresh.due), (None, Some(due)));
    let old = asked(AttemptState::Refused, NOT_YET_WAIT, 1);
    assert_eq!(step_of(&old, None, SILENT), Some(Step::Request));
}

#[test]
fn what_is_not_known_is_sent_again_after_waits_that_grow_to_a_minute() {
    // Sent once at 0 s; each send that came to nothing is followed by a longer wait.
    let waits = [1, 2, 4, 8, 16, 32, 60, 60, 60];
    let mut since_first = Duration::ZERO;
    for (sends, wait) in (1..).zip(waits) {
        since_first += Duration::from_secs(wait);
        let early = asked(AttemptState::Sent, since_first - SECOND, sends);
        let early = next_with(&early, None, SILENT, CLOUD);
        assert_eq!(early, Next::at(NOW.plus(SECOND)), "after {sends}");
        let due = asked(AttemptState::Sent, since_first, sends);
        assert_eq!(step_of(&due, None, SILENT), Some(Step::Send), "{sends}");
    }
}

#[test]
fn what_is_never_known_is_given_up_before_its_token_is_forgotten() {
    let row = asked(AttemptState::Sent, UNKNOWN_LASTS, 20);
    let end = Some(Step::End("launch_unknown"));
    assert_eq!(step_of(&row, None, SILENT), end);
}

#[test]
fn a_machine_of_the_newest_attempt_is_taken_whatever_was_answered() {
    let found = machine(MachineState::Pending);
    let adopt = Some(Step::Adopt(Box::new(found.clone())));
    for state in [AttemptState::Sent, AttemptState::Refused] {
        let row = asked(state, minutes(1), 1);
        let next = next_with(&row, Some(&found), SILENT, CLOUD);
        assert_eq!(next.step, adopt, "{state:?}");
    }
}

#[test]
fn one_that_is_not_wanted_any_more_ends_before_it_is_asked_for_again() {
    let ended = Some(Step::End("deleted"));
    for state in [
        AttemptState::Wanted,
        AttemptState::Unsent,
        AttemptState::Refused,
    ] {
        let row = draining(asked(state, minutes(1), 1), None);
        assert_eq!(step_of(&row, None, SILENT), ended, "{state:?}");
    }
    // What became of this one has to be known first.
    let row = draining(asked(AttemptState::Sent, minutes(1), 1), None);
    assert_eq!(step_of(&row, None, SILENT), Some(Step::Send));
    let row = draining(booting(SECOND), None);
    assert_eq!(step_of(&row, Some(MachineState::Pending), SILENT), ended);
}

#[test]
fn a_machine_that_boots_gets_a_token_and_another_where_that_ran_out() {
    let pending = Some(MachineState::Pending);
    let fresh = with(booting(SECOND), |row| row.token_at = None);
    assert_eq!(step_of(&fresh, pending, SILENT), Some(Step::HandToken));
    let handed = booting(SECOND);
    assert_eq!(step_of(&handed, pending, SILENT), None);
    let ran_out = with(booting(minutes(9)), |row| {
        row.token_at = Some(ago(ladder::JOIN_TOKEN));
    });
    assert_eq!(step_of(&ran_out, pending, SILENT), Some(Step::HandToken));
    let joined = with(ran_out, |row| row.enrolled_at = Some(ago(minutes(1))));
    assert_eq!(step_of(&joined, pending, SILENT), None);
}

#[test]
fn a_machine_that_does_not_come_up_ends() {
    let cases = [
        (booting(BOOT), MachineState::Running, "boot_timeout"),
        (booting(BOOT), MachineState::Pending, "boot_timeout"),
        (
            booting(SECOND),
            MachineState::Terminated,
            "terminated_at_start",
        ),
        (
            booting(SECOND),
            MachineState::ShuttingDown,
            "terminated_at_start",
        ),
        (booting(SECOND), MachineState::Stopped, "stopped_at_start"),
    ];
    for (row, state, reason) in cases {
        assert_eq!(step_of(&row, Some(state), SILENT), Some(Step::End(reason)));
    }
    let early = booting(BOOT - SECOND);
    let next = next_with(&early, Some(&machine(MachineState::Running)), SILENT, CLOUD);
    assert_eq!(next, Next::at(NOW.plus(SECOND)));
    let process = booting(BOOT);
    let next = next_with(
        &process,
        Some(&machine(MachineState::Running)),
        SILENT,
        LOCAL,
    );
    assert_eq!(next.step, Some(Step::End("boot_timeout")));
}

/// One that is this far on its way to be stopped or back, for that long, whose machine
/// was last told so then.
fn parked(stage: Stage, age: Duration, told: Option<Duration>) -> Instance {
    with(Instance::parked(stage, ago(age)), |row| {
        row.kind = Some("large".into());
        row.zone = Some("a".into());
        row.token_at = Some(ago(age));
        row.parking = Some(Parking {
            stage,
            at: ago(age),
            told_at: told.map(ago),
        });
    })
}

#[test]
fn one_that_is_needed_later_is_told_to_stop_until_it_is_seen_stopped() {
    let runs = Some(MachineState::Running);
    let fresh = parked(Stage::Stopping, SECOND, None);
    assert_eq!(step_of(&fresh, runs, UP), Some(Step::Stop));
    let told = parked(Stage::Stopping, minutes(1), Some(STOP_AGAIN - SECOND));
    let next = next_with(&told, Some(&machine(MachineState::Running)), UP, CLOUD);
    assert_eq!(next, Next::at(NOW.plus(SECOND)), "not every second");
    let again = parked(Stage::Stopping, minutes(2), Some(STOP_AGAIN));
    assert_eq!(step_of(&again, runs, UP), Some(Step::Stop));
    let stopped = Some(MachineState::Stopped);
    assert_eq!(step_of(&told, stopped, SILENT), Some(Step::Stopped));
    let late = parked(Stage::Stopping, STOP_DEADLINE, Some(SECOND));
    let end = Some(Step::End("stop_timeout"));
    assert_eq!(step_of(&late, runs, UP), end);
}

#[test]
fn one_that_is_stopped_is_left_alone_and_told_again_where_it_runs() {
    let row = parked(Stage::Stopped, minutes(60), None);
    let there = machine(MachineState::Stopped);
    assert_eq!(
        next_with(&row, Some(&there), SILENT, CLOUD),
        Next::nothing(),
        "nobody expects to hear of its agent"
    );
    let runs = Some(MachineState::Running);
    assert_eq!(step_of(&row, runs, SILENT), Some(Step::Stop));
    let told = parked(Stage::Stopped, minutes(60), Some(SECOND));
    assert_eq!(step_of(&told, runs, SILENT), None);
}

#[test]
fn one_that_is_needed_is_told_to_start_as_long_as_it_is_stopped() {
    let stopped = Some(MachineState::Stopped);
    let fresh = parked(Stage::Starting, SECOND, None);
    assert_eq!(step_of(&fresh, stopped, SILENT), Some(Step::Start));
    let told = parked(Stage::Starting, minutes(1), Some(SECOND));
    assert_eq!(step_of(&told, stopped, SILENT), None);
    let again = parked(Stage::Starting, minutes(1), Some(START_AGAIN));
    assert_eq!(step_of(&again, stopped, SILENT), Some(Step::Start));
    // Its agent joined at its first start: it gets no other token.
    let runs = Some(MachineState::Running);
    assert_eq!(step_of(&told, runs, SILENT), None);
    // The time that it has to come up counts from when it was wanted back.
    let late = parked(Stage::Starting, BOOT, Some(SECOND));
    for state in [runs, stopped] {
        let end = Some(Step::End("boot_timeout"));
        assert_eq!(step_of(&late, state, SILENT), end, "{state:?}");
    }
}

#[test]
fn a_parked_one_that_is_gone_or_not_wanted_ends() {
    for stage in [Stage::Stopping, Stage::Stopped] {
        let row = parked(stage, minutes(9), Some(SECOND));
        for state in [MachineState::Terminated, MachineState::ShuttingDown] {
            let end = Some(Step::End("instance_terminated"));
            assert_eq!(step_of(&row, Some(state), SILENT), end, "{stage:?}");
        }
        assert_eq!(step_of(&row, None, SILENT), Some(Step::Missing(true)));
        let missing = with(row.clone(), |row| row.missing_since = Some(ago(minutes(9))));
        let end = Some(Step::End("instance_lost"));
        assert_eq!(step_of(&missing, None, SILENT), end, "{stage:?}");
        let deleted = draining(row, None);
        let end = Some(Step::End("deleted"));
        assert_eq!(step_of(&deleted, Some(MachineState::Stopped), SILENT), end);
    }
    // What boots for the first time was never told to stop.
    let boots = parked(Stage::Wanted, SECOND, None);
    let end = Some(Step::End("stopped_at_start"));
    assert_eq!(step_of(&boots, Some(MachineState::Stopped), SILENT), end);
}

#[test]
fn what_ended_outside_ends_here_at_once_even_with_a_link() {
    let cases = [
        (MachineState::Terminated, "instance_terminated"),
        (MachineState::ShuttingDown, "instance_terminated"),
        (MachineState::Stopped, "instance_stopped"),
    ];
    for (state, reason) in cases {
        let row = held(minutes(9), 1);
        assert_eq!(step_of(&row, Some(state), UP), Some(Step::End(reason)));
    }
}

#[test]
fn an_agent_that_is_silent_too_long_is_lost_and_not_before() {
    let alive = machine(MachineState::Running);
    let row = held(minutes(9), 1);
    let early = Some(ladder::GIVE_AWAY - SECOND);
    let next = next_with(&row, Some(&alive), early, CLOUD);
    assert_eq!(next, Next::at(NOW.plus(SECOND)));
    let late = Some(ladder::GIVE_AWAY);
    let next = next_with(&row, Some(&alive), late, CLOUD);
    assert_eq!(next.step, Some(Step::End("agent_lost")));
}

#[test]
fn a_machine_that_is_not_shown_is_gone_after_two_looks_and_never_against_its_agent() {
    let lost = Some(Step::End("instance_lost"));
    let old = running(LAG);
    let silent = Some(ladder::OFFLINE);
    assert_eq!(step_of(&old, None, silent), Some(Step::Missing(true)));
    let missing = |row: Instance, age| with(row, |row| row.missing_since = Some(ago(age)));
    let just = missing(old.clone(), LOOKS_APART - SECOND);
    assert_eq!(step_of(&just, None, silent), None);
    let long = missing(old, LOOKS_APART);
    assert_eq!(step_of(&long, None, silent), lost);
    for heard in [UP, Some(ladder::OFFLINE - SECOND)] {
        assert_eq!(step_of(&long, None, heard), None, "{heard:?}");
    }
    // Lists may not show it yet.
    let young = missing(running(LAG - SECOND), LOOKS_APART);
    assert_eq!(step_of(&young, None, silent), None);
    let again = step_of(&long, Some(MachineState::Running), UP);
    assert_eq!(again, Some(Step::Missing(false)));
    // Where lists are exact, one look is enough.
    let row = running(SECOND);
    assert_eq!(next_with(&row, None, UP, LOCAL).step, lost);
}

#[test]
fn one_that_drains_ends_with_its_last_session_or_at_its_deadline() {
    let drained = Some(Step::End("drained"));
    let alive = Some(MachineState::Running);
    let empty = draining(held(minutes(9), 0), None);
    assert_eq!(step_of(&empty, alive, UP), drained);
    let busy = draining(held(minutes(9), 1), None);
    assert_eq!(step_of(&busy, alive, UP), None);
    let soon = draining(held(minutes(9), 1), Some(NOW.plus(SECOND)));
    let next = next_with(&soon, Some(&machine(MachineState::Running)), UP, CLOUD);
    assert_eq!(next, Next::at(NOW.plus(SECOND)));
    let late = draining(held(minutes(9), 1), Some(NOW));
    assert_eq!(step_of(&late, alive, UP), drained);
}

#[test]
fn a_holder_keeps_an_instance_until_it_was_idle_for_long_enough() {
    let alive = machine(MachineState::Running);
    let used = |row: Instance, age| with(row, |row| row.last_activity_at = ago(age));
    let idle = used(held(minutes(60), 0), PATIENCE);
    let next = next_with(&idle, Some(&alive), UP, CLOUD);
    assert_eq!(next.step, Some(Step::Release));
    let recent = used(held(minutes(60), 0), PATIENCE - SECOND);
    let next = next_with(&recent, Some(&alive), UP, CLOUD);
    assert_eq!(next, Next::at(NOW.plus(SECOND)));
    for row in [
        used(held(minutes(60), 1), PATIENCE),
        used(running(minutes(60)), PATIENCE),
    ] {
        assert_eq!(next_with(&row, Some(&alive), UP, CLOUD), Next::nothing());
    }
}

#[test]
fn a_restart_is_told_and_has_to_come_to_something() {
    let alive = Some(MachineState::Running);
    let asked_for = restarting(held(minutes(9), 1), SECOND, false);
    let told = Some(Step::Restart(RestartMode::Reboot));
    assert_eq!(step_of(&asked_for, alive, UP), told);
    let under_way = restarting(held(minutes(9), 1), minutes(2), true);
    assert_eq!(step_of(&under_way, alive, Some(minutes(2))), None);
    let failed = restarting(held(minutes(9), 1), RESTART_DEADLINE, true);
    let ended = Some(Step::End("restart_failed"));
    assert_eq!(step_of(&failed, alive, SILENT), ended);
}

#[test]
fn being_made_clean_has_a_deadline() {
    let alive = Some(MachineState::Running);
    let since = |age| {
        with(held(minutes(60), 0), |row| {
            row.recycling_since = Some(ago(age));
        })
    };
    assert_eq!(step_of(&since(SECOND), alive, UP), None);
    let failed = Some(Step::End("recycle_failed"));
    assert_eq!(step_of(&since(RECYCLE_DEADLINE), alive, UP), failed);
}

#[test]
fn a_machine_is_told_to_end_once_a_minute_until_it_is_gone() {
    for state in [
        MachineState::Pending,
        MachineState::Running,
        MachineState::Stopped,
        MachineState::ShuttingDown,
    ] {
        let first = step_of(&stopping(None), Some(state), SILENT);
        assert_eq!(first, Some(Step::Terminate), "{state:?}");
        let asked = stopping(Some(END_AGAIN - SECOND));
        assert_eq!(step_of(&asked, Some(state), SILENT), None, "{state:?}");
        let again = step_of(&stopping(Some(END_AGAIN)), Some(state), SILENT);
        assert_eq!(again, Some(Step::Terminate), "{state:?}");
    }
    let gone = Some(Step::Gone("terminated"));
    let terminated = Some(MachineState::Terminated);
    assert_eq!(step_of(&stopping(None), terminated, SILENT), gone);
    assert_eq!(step_of(&stopping(Some(SECOND)), None, SILENT), gone);
}

#[test]
fn what_is_not_shown_while_lists_may_be_old_is_told_to_end_and_not_called_gone() {
    let young = with(stopping(None), |row| row.launched_at = Some(ago(SECOND)));
    assert_eq!(step_of(&young, None, SILENT), Some(Step::Terminate));
    let told = with(young, |row| row.end_asked_at = Some(NOW));
    let next = next_with(&told, None, SILENT, CLOUD);
    assert_eq!(next, Next::at(ago(SECOND).plus(LAG)));
}

#[test]
fn a_request_whose_outcome_is_not_known_may_show_a_machine_for_a_while() {
    let ended = |age| {
        with(asked(AttemptState::Sent, minutes(60), 20), |row| {
            row.status = Status::Stopping;
            // The last time that it may have been sent.
            row.status_at = ago(age);
        })
    };
    let next = next_with(&ended(LAG - SECOND), None, SILENT, CLOUD);
    assert_eq!(next, Next::at(NOW.plus(SECOND)));
    let gone = Some(Step::Gone("never_launched"));
    assert_eq!(step_of(&ended(LAG), None, SILENT), gone);
    let found = machine(MachineState::Pending);
    let adopt = Some(Step::Adopt(Box::new(found.clone())));
    let next = next_with(&ended(SECOND), Some(&found), SILENT, CLOUD);
    assert_eq!(next.step, adopt);
    let never = with(ended(SECOND), |row| {
        row.attempt.state = AttemptState::Refused;
    });
    assert_eq!(step_of(&never, None, SILENT), gone);
}

#[test]
fn a_failure_is_shown_for_an_hour_unless_it_left_a_machine_behind() {
    let failed = |age, left_behind| {
        with(running(minutes(90)), |row| {
            row.status = Status::Error;
            row.status_at = ago(age);
            row.left_behind = left_behind;
        })
    };
    assert_eq!(step_of(&failed(SECOND, false), None, SILENT), None);
    let gone = Some(Step::Gone("failed"));
    assert_eq!(step_of(&failed(ERROR_SHOWN, false), None, SILENT), gone);
    let alive = Some(MachineState::Running);
    for left_behind in [true, false] {
        // What is there has to end, whatever the row thought.
        let step = step_of(&failed(SECOND, left_behind), alive, SILENT);
        assert_eq!(step, Some(Step::Terminate), "{left_behind}");
    }
}

#[test]
fn nothing_is_next_for_what_is_over() {
    let over = with(running(minutes(1)), |row| row.status = Status::Terminated);
    for state in [None, Some(MachineState::Running)] {
        assert_eq!(step_of(&over, state, UP), None);
    }
}

#[test]
fn what_became_known_of_a_machine_is_noted_once() {
    let mut found = machine(MachineState::Running);
    found.addresses.private_ip = Some("10.0.0.4".into());
    let row = running(minutes(1));
    let note = Some(Step::Note(Box::new(found.clone())));
    assert_eq!(next_with(&row, Some(&found), UP, CLOUD).step, note);
    let noted = with(row, |row| row.addresses = found.addresses.clone());
    let next = next_with(&noted, Some(&found), UP, CLOUD);
    assert_eq!(next, Next::nothing());
}

fn of(row: &Instance, reference: &str, attempt: i64) -> Machine {
    Machine {
        reference: reference.into(),
        instance: Some(row.id),
        attempt,
        ..machine(MachineState::Running)
    }
}

/// Names of the machines that were matched to the row, are second, and strange.
fn names<'a>(
    matched: &Matched<'a>,
    row: &Instance,
) -> (Option<&'a str>, Vec<&'a str>, Vec<&'a str>) {
    let name = |it: &&'a Machine| it.reference.as_str();
    (
        matched.of_rows.get(&row.id).map(name),
        matched.second.iter().map(|(_, it)| name(it)).collect(),
        matched.strange.iter().map(name).collect(),
    )
}

#[test]
fn a_rows_machine_is_the_one_that_it_names() {
    let row = booting(SECOND);
    let machines = [of(&row, "m-0", 1), of(&row, "m-1", 1)];
    let matched = matched(&machines, std::slice::from_ref(&row));
    assert_eq!(names(&matched, &row), (Some("m-1"), vec!["m-0"], vec![]));
}

#[test]
fn a_row_that_names_none_takes_that_of_its_newest_attempt_alone() {
    let row = asked(AttemptState::Sent, SECOND, 1);
    let stale = [of(&row, "m-0", 0), of(&row, "m-1", 1)];
    let both = matched(&stale, std::slice::from_ref(&row));
    assert_eq!(names(&both, &row), (Some("m-1"), vec!["m-0"], vec![]));
    let alone = matched(&stale[..1], std::slice::from_ref(&row));
    assert_eq!(names(&alone, &row), (None, vec!["m-0"], vec![]));
    let twice = [of(&row, "m-1", 1), of(&row, "m-2", 1)];
    let twice = matched(&twice, std::slice::from_ref(&row));
    assert_eq!(names(&twice, &row), (Some("m-1"), vec!["m-2"], vec![]));
}

#[test]
fn a_machine_of_no_row_here_is_strange() {
    let row = booting(SECOND);
    let other = booting(SECOND);
    let nobodys = Machine {
        instance: None,
        ..of(&other, "m-8", 1)
    };
    let machines = [of(&other, "m-9", 1), nobodys];
    let matched = matched(&machines, std::slice::from_ref(&row));
    assert_eq!(names(&matched, &row), (None, vec![], vec!["m-8", "m-9"]));
}

/// Machines that nobody here knows, launched that long ago.
fn strangers(count: usize, age: Duration) -> Vec<Machine> {
    (0..count)
        .map(|number| Machine {
            reference: format!("m-{number}"),
            instance: Some(InstanceId::new()),
            launched_at: ago(age),
            ..machine(MachineState::Running)
        })
        .collect()
}

fn strange(machines: &[Machine]) -> Matched<'_> {
    Matched {
        strange: machines.iter().collect(),
        ..Matched::default()
    }
}

/// What is to become of those, and of no others.
fn judged(
    sightings: &mut Sightings,
    machines: &[Machine],
    rules: Rules,
    at: Timestamp,
) -> Strangers {
    let nobody = HashSet::new();
    sightings.judge(&strange(machines), &nobody, machines.len(), rules, at)
}

#[test]
fn a_stranger_ends_after_two_looks_and_once_lists_are_right() {
    let later = NOW.plus(LOOKS_APART);
    let one = strangers(1, LAG);
    let mut sightings = Sightings::default();
    let first = judged(&mut sightings, &one, CLOUD, NOW);
    assert_eq!((first.orphans.len(), first.due), (0, Some(later)));
    let then = judged(&mut sightings, &one, CLOUD, later);
    assert_eq!(then.orphans, ["m-0"]);
    // One that was not seen in between is new again.
    let mut sightings = Sightings::default();
    judged(&mut sightings, &one, CLOUD, NOW);
    judged(&mut sightings, &[], CLOUD, NOW.plus(SECOND));
    let again = judged(&mut sightings, &one, CLOUD, later);
    assert_eq!(again.orphans.len(), 0);
    let young = strangers(1, Duration::ZERO);
    let first = judged(&mut Sightings::default(), &young, CLOUD, NOW);
    assert_eq!(first.due, Some(NOW.plus(LAG)));
    let exact = judged(&mut Sightings::default(), &young, LOCAL, NOW);
    assert_eq!(exact.orphans, ["m-0"]);
}

#[test]
fn what_is_over_or_second_ends_at_once_and_what_ends_is_left_alone() {
    let mut machines = strangers(2, Duration::ZERO);
    machines[1].state = MachineState::ShuttingDown;
    let ended: HashSet<InstanceId> = machines.iter().filter_map(|it| it.instance).collect();
    let over = strange(&machines);
    let over = Sightings::default().judge(&over, &ended, 2, CLOUD, NOW);
    assert_eq!(over.orphans, ["m-0"]);
    let second = Matched {
        second: machines.iter().map(|it| (InstanceId::new(), it)).collect(),
        ..Matched::default()
    };
    let second = Sightings::default().judge(&second, &HashSet::new(), 2, CLOUD, NOW);
    assert_eq!(second.orphans, ["m-0"]);
}

#[test]
fn a_stranger_is_told_to_end_once_a_minute() {
    let one = strangers(1, Duration::ZERO);
    let mut sightings = Sightings::default();
    let times = [0, 1, 59, 60, 61, 120].map(Duration::from_secs);
    let told = times.map(|after| judged(&mut sightings, &one, LOCAL, NOW.plus(after)));
    assert_eq!(told.map(|it| it.orphans.len()), [1, 0, 0, 1, 0, 1]);
}

#[test]
fn more_than_a_tenth_of_strangers_mean_another_database() {
    let nobody = HashSet::new();
    // Strangers, of how many machines, and whether these are believed.
    for (count, machines, believed) in [
        (1, 1, true),
        (2, 2, false),
        (2, 19, false),
        (2, 20, true),
        (100, 1000, true),
        (101, 1000, false),
    ] {
        let all = strangers(count, LAG);
        let mut sightings = Sightings::default();
        for look in [NOW, NOW.plus(LOOKS_APART)] {
            let judged = sightings.judge(&strange(&all), &nobody, machines, CLOUD, look);
            let mismatch = (!believed).then_some(count);
            assert_eq!(judged.mismatch, mismatch, "{count} of {machines}");
            let ended = if believed && look > NOW { count } else { 0 };
            assert_eq!(judged.orphans.len(), ended, "{count} of {machines}");
        }
    }
}
