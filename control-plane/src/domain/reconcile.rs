//! Machines against rows: what has to be done next for each row, and which
//! machines have none. Pure: what was read goes in, steps come out. Each step can
//! be done again, so a round that was cut short is simply the next one's work.
//!
//! ```text
//! wanted, refused ─▶ Request        running ─ gone, stopped, silent, idle, drained ─▶ End
//! unsent, sent ────▶ Send           stopping ─ there ─▶ Terminate, again every minute
//! accepted ────────▶ HandToken      stopping, error ─ gone ─▶ Gone
//! to be stopped ───▶ Stop, again until it is seen ─▶ Stopped
//! to be started ───▶ Start, again as long as it is stopped
//! ```
//! "Gone" is believed at once where the provider says so by name, and only after
//! two looks and some minutes where it merely does not show a machine; never while
//! the agent's link is up. A machine without a row is ended only after two
//! sightings, and not if there are many of them: then it is the database that is
//! not the one that made them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use browserfleet_proto::ids::InstanceId;
use browserfleet_proto::ladder;

use super::instance::{Attempt, AttemptState, Instance, Parking, RestartMode, Stage, Status};
use super::machine::{Machine, MachineState};
use super::time::Timestamp;

/// How long a request whose outcome is not known is sent again. Tokens are
/// remembered for a day and more; this is well within it.
const UNKNOWN_LASTS: Duration = Duration::from_secs(15 * 60);
/// First wait before a request is sent again; doubles up to [`RESEND_WAIT_MAX`].
const RESEND_WAIT_MIN: Duration = Duration::from_secs(1);
/// Longest wait before a request is sent again.
const RESEND_WAIT_MAX: Duration = Duration::from_secs(60);
/// Sends whose waits are added up: more than there are within [`UNKNOWN_LASTS`].
const RESENDS_COUNTED: u32 = 64;
/// How long a definite refusal that may pass by itself is tried again, and how
/// often.
const NOT_YET_WAIT: Duration = Duration::from_secs(10);
/// How soon is looked whether a machine that was told to end has.
const END_LOOK: Duration = Duration::from_secs(2);
/// How soon a machine's end is asked for again.
const END_AGAIN: Duration = Duration::from_secs(60);
/// How soon a machine is told again to stop that runs still. It takes seconds; one
/// that hibernates takes a minute.
const STOP_AGAIN: Duration = Duration::from_secs(60);
/// How soon a machine is told again to start that is stopped still: one that is
/// just stopping cannot be started until it has.
const START_AGAIN: Duration = Duration::from_secs(5);
/// How long a machine may take to stop; it is ended where it does not.
const STOP_DEADLINE: Duration = Duration::from_secs(15 * 60);
/// How long a machine may take to end before somebody is told.
pub const END_ALARM: Duration = Duration::from_secs(15 * 60);
/// Time between the two looks that it takes to believe that something is absent,
/// or a stranger.
const LOOKS_APART: Duration = Duration::from_secs(60);
/// How long a restart may take until an agent of a new life is there.
const RESTART_DEADLINE: Duration = Duration::from_secs(5 * 60);
/// How long an agent may take to make itself clean.
const RECYCLE_DEADLINE: Duration = Duration::from_secs(60);
/// How long a row that failed and left nothing behind is shown as failed.
const ERROR_SHOWN: Duration = Duration::from_secs(60 * 60);
/// Machines without a row that are believed to be leftovers: this part of all, but
/// one at the least. More of them mean that this is another database.
const STRANGERS_PART: usize = 10;

/// What differs between providers, and between operators.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// How long a list may not show what is there; zero where lists are exact.
    pub lag: Duration,
    /// How long a machine may take until its agent says that it lives.
    pub boot: Duration,
}

impl Rules {
    fn is_exact(self) -> bool {
        self.lag.is_zero()
    }
}

/// What has to be done next for one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Write the next request, send it.
    Request,
    /// Send the request that is written (again).
    Send,
    /// The request made this machine: write that down.
    Adopt(Box<Machine>),
    /// Write down what became known of the machine.
    Note(Box<Machine>),
    /// Make a token and hand it to the machine.
    HandToken,
    /// Write down that the machine is not shown, or is again.
    Missing(bool),
    /// Tell the machine or its agent to start anew.
    Restart(RestartMode),
    /// Tell the machine to stop (again).
    Stop,
    /// Write down that it has.
    Stopped,
    /// Tell the machine to start (again).
    Start,
    /// The holder has had it long enough; make it clean or end it.
    Release,
    /// Begin to end it.
    End(&'static str),
    /// Ask for the machine's end.
    Terminate,
    /// It is gone: write that down.
    Gone(&'static str),
}

/// One row, and what else is known of it.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// The row.
    pub row: &'a Instance,
    /// Its machine, as its provider shows it.
    pub machine: Option<&'a Machine>,
    /// How long its agent has been silent; `None`: its link is up.
    pub silence: Option<Duration>,
    /// How long its holder may leave it idle.
    pub patience: Duration,
}

/// The next step for one row, if there is any, and when there may be another one
/// although nothing happened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Next {
    /// What to do now.
    pub step: Option<Step>,
    /// When to look again.
    pub due: Option<Timestamp>,
}

impl From<Step> for Next {
    fn from(step: Step) -> Self {
        Self {
            step: Some(step),
            due: None,
        }
    }
}

impl Next {
    fn nothing() -> Self {
        Self::default()
    }

    fn at(due: Timestamp) -> Self {
        Self {
            step: None,
            due: Some(due),
        }
    }

    /// This, or that later one if there is nothing to do now.
    fn or(self, other: impl FnOnce() -> Self) -> Self {
        if self.step.is_some() {
            return self;
        }
        let other = other();
        Self {
            due: [self.due, other.due].into_iter().flatten().min(),
            step: other.step,
        }
    }
}

/// What has to be done next for a row.
#[must_use]
pub fn next(view: &View<'_>, rules: Rules, now: Timestamp) -> Next {
    match view.row.status {
        Status::Provisioning => match view.row.attempt.state {
            AttemptState::Accepted => match view.row.parking {
                Some(it) if it.stage == Stage::Stopping => stopping(view, &it, rules, now),
                Some(it) if it.stage == Stage::Stopped => stopped(view, &it, rules, now),
                _ => booting(view, rules, now),
            },
            _ => launching(view, now),
        },
        Status::Running => running(view, rules, now),
        Status::Stopping => ending(view, rules, now),
        Status::Error if may_have_a_machine(view) => ending(view, rules, now),
        Status::Error => {
            let until = view.row.status_at.plus(ERROR_SHOWN);
            if until > now {
                Next::at(until)
            } else {
                Step::Gone("failed").into()
            }
        }
        Status::Terminated => Next::nothing(),
    }
}

/// A row that failed is wrong about what it left behind where that is seen.
fn may_have_a_machine(view: &View<'_>) -> bool {
    view.row.left_behind || view.machine.is_some_and(|it| it.state.is_there())
}

fn launching(view: &View<'_>, now: Timestamp) -> Next {
    let attempt = &view.row.attempt;
    if view.row.draining.is_some() && attempt.state != AttemptState::Sent {
        // Nothing was made, and nothing will be.
        return Step::End("deleted").into();
    }
    if let Some(machine) = view.machine {
        // Whatever was answered: it is there, and another one must not be made.
        return Step::Adopt(Box::new(machine.clone())).into();
    }
    match attempt.state {
        AttemptState::Sent if now.since(attempt.at) >= UNKNOWN_LASTS => {
            Step::End("launch_unknown").into()
        }
        AttemptState::Sent => due_or(resend_at(attempt), now, || Step::Send),
        AttemptState::Unsent => Step::Send.into(),
        AttemptState::Refused => due_or(attempt.at.plus(NOT_YET_WAIT), now, || Step::Request),
        AttemptState::Wanted | AttemptState::Accepted => Step::Request.into(),
    }
}

/// When a request is sent again. The row knows when it was sent first, and how
/// often since: the waits add up.
fn resend_at(attempt: &Attempt) -> Timestamp {
    let sends = u32::try_from(attempt.sends.max(1)).unwrap_or(u32::MAX);
    let waits = (0..sends.min(RESENDS_COUNTED)).map(|doublings| {
        RESEND_WAIT_MIN
            .saturating_mul(2_u32.saturating_pow(doublings))
            .min(RESEND_WAIT_MAX)
    });
    attempt.at.plus(waits.sum())
}

fn due_or(due: Timestamp, now: Timestamp, step: impl FnOnce() -> Step) -> Next {
    if due > now {
        Next::at(due)
    } else {
        step().into()
    }
}

/// One whose agent has said a word, and which is needed later.
fn stopping(view: &View<'_>, parking: &Parking, rules: Rules, now: Timestamp) -> Next {
    let deadline = parking.at.plus(STOP_DEADLINE);
    match at_rest(view, rules, now) {
        Ok(true) => Step::Stopped.into(),
        Err(end) => end.into(),
        Ok(false) if deadline <= now => Step::End("stop_timeout").into(),
        Ok(false) => stop_again(parking, now).or(|| noted(view)).or(|| {
            // It is looked for often where it is shown: what comes next waits for it.
            let look = view.machine.map(|_| now.plus(END_LOOK));
            Next::at(look.map_or(deadline, |it| it.min(deadline)))
        }),
    }
}

/// One that waits until it is needed. Nobody expects to hear of its agent.
fn stopped(view: &View<'_>, parking: &Parking, rules: Rules, now: Timestamp) -> Next {
    match at_rest(view, rules, now) {
        Err(end) => end.into(),
        Ok(true) => noted(view),
        // Lists lag, or somebody started it.
        Ok(false) if view.machine.is_some() => stop_again(parking, now).or(|| noted(view)),
        Ok(false) => Next::nothing(),
    }
}

/// Whether a parked one's machine has stopped; or what is to be done where it is gone.
fn at_rest(view: &View<'_>, rules: Rules, now: Timestamp) -> Result<bool, Step> {
    if view.row.draining.is_some() {
        return Err(Step::End("deleted"));
    }
    match view.machine.map(|it| it.state) {
        Some(MachineState::Terminated | MachineState::ShuttingDown) => {
            Err(Step::End("instance_terminated"))
        }
        Some(MachineState::Stopped) => Ok(true),
        Some(MachineState::Pending | MachineState::Running) => Ok(false),
        None => absent(view, rules, now).map_or(Ok(false), Err),
    }
}

fn stop_again(parking: &Parking, now: Timestamp) -> Next {
    let again = parking.told_at.map_or(now, |at| at.plus(STOP_AGAIN));
    due_or(again, now, || Step::Stop)
}

fn booting(view: &View<'_>, rules: Rules, now: Timestamp) -> Next {
    let row = view.row;
    let starting = row.parking.filter(|it| it.stage == Stage::Starting);
    let launched_at = row.launched_at.unwrap_or(row.attempt.at);
    let deadline = starting.map_or(launched_at, |it| it.at).plus(rules.boot);
    if row.draining.is_some() {
        return Step::End("deleted").into();
    }
    match view.machine.map(|it| it.state) {
        Some(MachineState::Terminated | MachineState::ShuttingDown) => {
            return Step::End("terminated_at_start").into();
        }
        Some(MachineState::Stopped) => match starting {
            Some(it) if deadline > now => {
                let again = it.told_at.map_or(now, |at| at.plus(START_AGAIN));
                return due_or(again, now, || Step::Start);
            }
            Some(_) => {}
            None => return Step::End("stopped_at_start").into(),
        },
        Some(MachineState::Pending | MachineState::Running) => {}
        // What had been there for a moment went by itself.
        None if rules.is_exact() => return Step::End("terminated_at_start").into(),
        None => {
            if let Some(step) = absent(view, rules, now) {
                return step.into();
            }
        }
    }
    if deadline <= now {
        return Step::End("boot_timeout").into();
    }
    // A token that ran out before anybody used it is followed by another.
    let token_ends = row.token_at.map(|at| at.plus(ladder::JOIN_TOKEN));
    if row.enrolled_at.is_none() && token_ends.is_none_or(|ends| ends <= now) {
        return Step::HandToken.into();
    }
    noted(view).or(|| Next::at(deadline))
}

fn running(view: &View<'_>, rules: Rules, now: Timestamp) -> Next {
    let row = view.row;
    match view.machine.map(|it| it.state) {
        Some(MachineState::Terminated | MachineState::ShuttingDown) => {
            return Step::End("instance_terminated").into();
        }
        // The disk of a machine that somebody stopped is not trusted again.
        Some(MachineState::Stopped) => return Step::End("instance_stopped").into(),
        Some(MachineState::Pending | MachineState::Running) => {}
        None => {
            if let Some(step) = absent(view, rules, now) {
                return step.into();
            }
        }
    }
    if let Some(restart) = &row.restart {
        let deadline = restart.at.plus(RESTART_DEADLINE);
        return match restart.told_at {
            None => Step::Restart(restart.mode).into(),
            Some(_) => due_or(deadline, now, || Step::End("restart_failed")),
        };
    }
    if let Some(silence) = view.silence {
        if silence >= ladder::GIVE_AWAY {
            return Step::End("agent_lost").into();
        }
        let lost_at = now.plus(ladder::GIVE_AWAY.saturating_sub(silence));
        return drained(view, now)
            .or(|| noted(view))
            .or(|| Next::at(lost_at));
    }
    if let Some(since) = row.recycling_since {
        let deadline = since.plus(RECYCLE_DEADLINE);
        return due_or(deadline, now, || Step::End("recycle_failed"));
    }
    drained(view, now).or(|| idle(view, now)).or(|| noted(view))
}

/// One that takes no new sessions ends with its last one, or at its deadline.
fn drained(view: &View<'_>, now: Timestamp) -> Next {
    let row = view.row;
    if row.draining.is_none() {
        return Next::nothing();
    }
    match row.drain_until {
        _ if row.sessions == 0 => Step::End("drained").into(),
        Some(until) => due_or(until, now, || Step::End("drained")),
        None => Next::nothing(),
    }
}

/// One whose holder has no session on it and has not had for long enough.
fn idle(view: &View<'_>, now: Timestamp) -> Next {
    let row = view.row;
    if row.assigned_to.is_none() || row.sessions > 0 {
        return Next::nothing();
    }
    let until = row.last_activity_at.plus(view.patience);
    due_or(until, now, || Step::Release)
}

fn ending(view: &View<'_>, rules: Rules, now: Timestamp) -> Next {
    let row = view.row;
    let ask = || {
        let again = row.end_asked_at.map_or(now, |at| at.plus(END_AGAIN));
        due_or(again, now, || Step::Terminate)
    };
    if let Some(machine) = view.machine {
        return match machine.state {
            MachineState::Terminated => Step::Gone("terminated").into(),
            _ if row.reference.is_none() => Step::Adopt(Box::new(machine.clone())).into(),
            _ => ask().or(|| Next::at(now.plus(END_LOOK))),
        };
    }
    if row.reference.is_none() {
        // Only a request whose outcome is not known can still show a machine, and it
        // was sent for the last time before the row began to end.
        let silent_until = row.status_at.plus(rules.lag);
        return if row.attempt.state == AttemptState::Sent && silent_until > now {
            Next::at(silent_until)
        } else {
            Step::Gone("never_launched").into()
        };
    }
    if row.end_asked_at.is_none() {
        return Step::Terminate.into();
    }
    // What was told to end and is not shown any more is gone, unless lists lag.
    let launched_at = row.launched_at.unwrap_or(row.created_at);
    due_or(launched_at.plus(rules.lag), now, || {
        Step::Gone("terminated")
    })
}

/// A machine that is not shown.
fn absent(view: &View<'_>, rules: Rules, now: Timestamp) -> Option<Step> {
    let row = view.row;
    if rules.is_exact() {
        return Some(Step::End("instance_lost"));
    }
    let is_heard = view.silence.is_none_or(|it| it < ladder::OFFLINE);
    if is_heard && row.ready_at.is_some() {
        // Its agent says otherwise.
        return None;
    }
    let launched_at = row.launched_at.unwrap_or(row.created_at);
    match row.missing_since {
        None => Some(Step::Missing(true)),
        Some(since) if now.since(since) >= LOOKS_APART && now.since(launched_at) >= rules.lag => {
            Some(Step::End("instance_lost"))
        }
        Some(_) => None,
    }
}

/// What became known of the machine, and is not in the row yet.
fn noted(view: &View<'_>) -> Next {
    let Some(machine) = view.machine else {
        return Next::nothing();
    };
    let row = view.row;
    if row.missing_since.is_some() {
        return Step::Missing(false).into();
    }
    let same = row.addresses == machine.addresses
        && row.kind.as_deref() == Some(&machine.kind)
        && row.zone.as_deref() == Some(&machine.zone);
    if same {
        Next::nothing()
    } else {
        Step::Note(Box::new(machine.clone())).into()
    }
}

/// What a round has read.
#[derive(Debug, Default)]
pub struct Matched<'a> {
    /// The machine of each row that has one.
    pub of_rows: HashMap<InstanceId, &'a Machine>,
    /// Machines that some row names although it is of another one.
    pub second: Vec<(InstanceId, &'a Machine)>,
    /// Machines that no row here knows.
    pub strange: Vec<&'a Machine>,
}

/// Finds each row's machine: by the row's name for it, then by the machine's name
/// for the row and for the attempt that was sent last. What an earlier attempt made
/// came late, and has no place any more.
#[must_use]
pub fn matched<'a>(machines: &'a [Machine], rows: &[Instance]) -> Matched<'a> {
    let by_reference: HashMap<&str, &Instance> = rows
        .iter()
        .filter_map(|row| Some((row.reference.as_deref()?, row)))
        .collect();
    let by_id: HashMap<InstanceId, &Instance> = rows.iter().map(|row| (row.id, row)).collect();
    let mut matched = Matched::default();
    let mut oldest_first: Vec<&Machine> = machines.iter().collect();
    oldest_first.sort_by_key(|it| (it.launched_at, it.reference.clone()));
    for machine in oldest_first {
        if let Some(row) = by_reference.get(machine.reference.as_str()) {
            matched.of_rows.insert(row.id, machine);
            continue;
        }
        let named = machine.instance.and_then(|id| by_id.get(&id));
        match named {
            Some(row) if made(row, machine) && !matched.of_rows.contains_key(&row.id) => {
                matched.of_rows.insert(row.id, machine);
            }
            Some(row) => matched.second.push((row.id, machine)),
            None => matched.strange.push(machine),
        }
    }
    matched
}

/// Whether a row's newest request may have made this machine, whose name is not in
/// the row yet.
fn made(row: &Instance, machine: &Machine) -> bool {
    let attempt = &row.attempt;
    row.reference.is_none() && attempt.sends > 0 && machine.attempt == attempt.number
}

/// Machines without a row, and what is remembered of each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sightings(BTreeMap<String, Sighting>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sighting {
    first: Timestamp,
    /// When it was last to be ended.
    told: Option<Timestamp>,
}

/// What is to become of machines without a row.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Strangers {
    /// To be ended.
    pub orphans: Vec<String>,
    /// There are so many that this may be the wrong database: no stranger is ended.
    pub mismatch: Option<usize>,
    /// When to look again.
    pub due: Option<Timestamp>,
}

impl Sightings {
    /// Judges machines that are no row's. `ended` are instances whose row is known to
    /// be over: their machines are no strangers, and neither is the second one of a
    /// row; they end at once. Lists may show them for a while yet, so that they are
    /// told once a minute.
    pub fn judge(
        &mut self,
        matched: &Matched<'_>,
        ended: &HashSet<InstanceId>,
        machines: usize,
        rules: Rules,
        now: Timestamp,
    ) -> Strangers {
        let there = |it: &&Machine| it.state.is_there();
        let (mut over, unknown): (Vec<&Machine>, Vec<&Machine>) = matched
            .strange
            .iter()
            .copied()
            .filter(there)
            .partition(|it| it.instance.is_some_and(|id| ended.contains(&id)));
        over.extend(matched.second.iter().map(|(_, it)| *it).filter(there));
        let all = over.iter().chain(&unknown);
        let seen: HashSet<&str> = all.map(|it| it.reference.as_str()).collect();
        self.0
            .retain(|reference, _| seen.contains(reference.as_str()));
        let mut strangers = Strangers::default();
        for machine in over {
            self.end(machine, now, &mut strangers, now);
        }
        if unknown.len() > (machines / STRANGERS_PART).max(1) {
            strangers.mismatch = Some(unknown.len());
            return strangers;
        }
        let apart = if rules.is_exact() {
            Duration::ZERO
        } else {
            LOOKS_APART
        };
        for machine in unknown {
            let first = self.sighting(machine, now).first;
            let ripe = first.plus(apart).max(machine.launched_at.plus(rules.lag));
            self.end(machine, ripe, &mut strangers, now);
        }
        strangers
    }

    fn sighting(&mut self, machine: &Machine, now: Timestamp) -> &mut Sighting {
        let new = Sighting {
            first: now,
            told: None,
        };
        self.0.entry(machine.reference.clone()).or_insert(new)
    }

    /// Ends a machine from `ripe` on, again and again.
    fn end(
        &mut self,
        machine: &Machine,
        ripe: Timestamp,
        strangers: &mut Strangers,
        now: Timestamp,
    ) {
        let sighting = self.sighting(machine, now);
        let due = sighting
            .told
            .map_or(ripe, |at| at.plus(END_AGAIN).max(ripe));
        if due <= now {
            sighting.told = Some(now);
            strangers.orphans.push(machine.reference.clone());
        } else {
            strangers.due = Some(strangers.due.map_or(due, |it| it.min(due)));
        }
    }
}

#[cfg(test)]
mod tests;
