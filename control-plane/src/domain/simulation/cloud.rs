//! A cloud that lags, refuses, loses replies and keeps its tokens' promise: one
//! request makes one machine.

use std::collections::HashMap;
use std::time::Duration;

use browserfleet_proto::ids::InstanceId;

use super::super::machine::{Addresses, Machine, MachineState, Market, Offering};
use super::super::offering::Shortage;
use super::super::time::Timestamp;

/// How long lists may be old; what the rules are told of this cloud.
pub(super) const LAG: Duration = Duration::from_secs(5 * 60);
/// How long a machine takes until its agent may join.
const BOOT: Duration = Duration::from_secs(40);
/// How long one is given.
pub(super) const BOOT_MAX: Duration = Duration::from_secs(10 * 60);
/// How long one takes that is slow: about as long as it may.
const LATE_BOOT: Duration = Duration::from_secs(10 * 60 - 5);
/// How long a machine takes to end.
const SHUT_DOWN: Duration = Duration::from_secs(30);
/// How long one that is gone is still known by name.
const REMEMBERED: Duration = Duration::from_secs(60 * 60);

/// How the next call of its kind fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The launch is done, and nobody learns of it.
    LoseReply,
    /// The launch is on its way for longer than anybody waits.
    Late,
    /// Nothing is looked at.
    Throttle,
    /// No machine is made.
    Refuse(Shortage),
    /// There is no list.
    ListFails,
    /// The end of a machine is refused for now.
    TerminateFails,
    /// The next machine starts for ever.
    NeverBoots,
    /// The next machine starts for as long as it may, or a little longer.
    BootsLate,
    /// The next machine ends at its start.
    DiesAtStart,
}

/// What became of a launch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Launched {
    Machine(Box<Machine>),
    Refused(Shortage),
    Throttled,
    Unknown,
    Spent,
}

/// One request, as it is written into a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) instance: InstanceId,
    pub(super) attempt: i64,
    pub(super) offering: Offering,
}

/// What an agent is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Agent {
    /// It waits for its machine's start and for a token.
    Waiting,
    /// Its link is up.
    Up,
    /// It lives, and its link is down since then.
    Away(Timestamp),
    /// It is being started anew and will be there then.
    Restarting(Timestamp),
    /// It is gone since then.
    Dead(Timestamp),
}

/// A machine that was made.
#[derive(Debug, Clone)]
pub(super) struct Made {
    machine: Machine,
    pub(super) agent: Agent,
    /// When a token was last put where its agent finds it.
    pub(super) token_at: Option<Timestamp>,
    pub(super) impaired: bool,
    boots_at: Option<Timestamp>,
    shown_from: Timestamp,
    hidden_until: Timestamp,
    ended_at: Option<Timestamp>,
    end_shown_from: Timestamp,
    stopped: bool,
}

impl Made {
    pub(super) fn reference(&self) -> &str {
        &self.machine.reference
    }

    pub(super) fn instance(&self) -> Option<InstanceId> {
        self.machine.instance
    }

    /// As it really is.
    pub(super) fn state(&self, now: Timestamp) -> MachineState {
        match self.ended_at {
            Some(at) if now.since(at) >= SHUT_DOWN => MachineState::Terminated,
            Some(_) => MachineState::ShuttingDown,
            None if self.stopped => MachineState::Stopped,
            None if self.boots_at.is_some_and(|at| at <= now) => MachineState::Running,
            None => MachineState::Pending,
        }
    }

    /// As the cloud says, if it says anything.
    fn shown(&self, now: Timestamp) -> Option<Machine> {
        if now < self.shown_from || now < self.hidden_until {
            return None;
        }
        let mut machine = self.machine.clone();
        machine.state = if self.ended_at.is_some() && now < self.end_shown_from {
            MachineState::Running
        } else {
            self.state(now)
        };
        Some(machine)
    }

    pub(super) fn is_alive(&self, now: Timestamp) -> bool {
        self.state(now).is_there()
    }

    pub(super) fn runs(&self, now: Timestamp) -> bool {
        self.state(now) == MachineState::Running
    }

    /// Ends it, with a list that shows it for a while yet.
    pub(super) fn end(&mut self, now: Timestamp, shown_after: Duration) {
        if self.ended_at.is_none() {
            self.ended_at = Some(now);
            self.end_shown_from = now.plus(shown_after);
        }
    }

    pub(super) fn stop(&mut self) {
        self.stopped = true;
    }

    /// Its power goes off or on; its disk stays, and with it what its agent is known by.
    pub(super) fn power(&mut self, on: bool, now: Timestamp) {
        if self.stopped != on {
            return;
        }
        self.stopped = !on;
        if on {
            self.boots_at = Some(now.plus(BOOT));
            if self.agent != Agent::Waiting {
                self.agent = Agent::Restarting(now.plus(BOOT));
            }
        }
    }

    pub(super) fn hide(&mut self, until: Timestamp) {
        self.hidden_until = until;
    }
}

/// The cloud.
#[derive(Debug, Default)]
pub(super) struct Cloud {
    pub(super) made: Vec<Made>,
    by_token: HashMap<(InstanceId, i64), usize>,
    on_the_way: Vec<Request>,
    faults: Vec<Fault>,
    /// How long the next machine is not shown.
    pub(super) lag: Duration,
}

impl Cloud {
    pub(super) fn will_fail(&mut self, fault: Fault) {
        self.faults.push(fault);
    }

    pub(super) fn is_well_again(&mut self) {
        self.faults.clear();
        for made in &mut self.made {
            made.hidden_until = Timestamp(0);
        }
    }

    /// Whether lists show everything as it is.
    pub(super) fn shows_all(&self, now: Timestamp) -> bool {
        let shown = |it: &Made| now >= it.shown_from && now >= it.end_shown_from;
        self.made.iter().all(shown)
    }

    fn takes(&mut self, is: impl Fn(Fault) -> bool) -> Option<Fault> {
        let at = self.faults.iter().position(|it| is(*it))?;
        Some(self.faults.remove(at))
    }

    pub(super) fn launch(&mut self, request: &Request, now: Timestamp) -> Launched {
        let launches = |it: Fault| {
            matches!(
                it,
                Fault::LoseReply | Fault::Late | Fault::Throttle | Fault::Refuse(_)
            )
        };
        match self.takes(launches) {
            Some(Fault::Throttle) => Launched::Throttled,
            Some(Fault::Late) => {
                self.on_the_way.push(request.clone());
                Launched::Unknown
            }
            Some(Fault::LoseReply) => {
                self.fulfil(request, now);
                Launched::Unknown
            }
            // What was made before is remembered before anything is looked at.
            Some(Fault::Refuse(shortage)) if !self.knows(request) => Launched::Refused(shortage),
            _ => self.fulfil(request, now),
        }
    }

    fn knows(&self, request: &Request) -> bool {
        self.by_token
            .contains_key(&(request.instance, request.attempt))
    }

    fn fulfil(&mut self, request: &Request, now: Timestamp) -> Launched {
        let token = (request.instance, request.attempt);
        if let Some(known) = self.by_token.get(&token) {
            let known = &self.made[*known];
            let state = known.state(now);
            return if state.is_there() {
                Launched::Machine(Box::new(Machine {
                    state,
                    ..known.machine.clone()
                }))
            } else {
                Launched::Spent
            };
        }
        self.by_token.insert(token, self.made.len());
        let made = self.make(Some(request.instance), request.attempt, now);
        Launched::Machine(Box::new(made))
    }

    /// What was on its way arrives. Gives whose machine it made.
    pub(super) fn arrive(&mut self, now: Timestamp) -> Option<InstanceId> {
        let request = self.on_the_way.pop()?;
        let made = self.made.len();
        self.fulfil(&request, now);
        (self.made.len() > made).then_some(request.instance)
    }

    /// Makes a machine, by whatever means.
    pub(super) fn make(
        &mut self,
        instance: Option<InstanceId>,
        attempt: i64,
        now: Timestamp,
    ) -> Machine {
        let boots = |it| {
            matches!(
                it,
                Fault::NeverBoots | Fault::BootsLate | Fault::DiesAtStart
            )
        };
        let fault = self.takes(boots);
        let boot = match fault {
            Some(Fault::NeverBoots) => None,
            Some(Fault::BootsLate) => Some(LATE_BOOT),
            _ => Some(BOOT),
        };
        let machine = Machine {
            reference: format!("m-{}", self.made.len()),
            instance,
            attempt,
            state: MachineState::Pending,
            launched_at: now,
            reason: None,
            addresses: Addresses::default(),
            kind: "large".into(),
            zone: "a".into(),
        };
        let dies = fault == Some(Fault::DiesAtStart);
        self.made.push(Made {
            machine: machine.clone(),
            agent: Agent::Waiting,
            token_at: None,
            impaired: false,
            boots_at: boot.map(|boot| now.plus(boot)),
            shown_from: now.plus(self.lag),
            hidden_until: Timestamp(0),
            ended_at: dies.then(|| now.plus(Duration::from_secs(1))),
            end_shown_from: now,
            stopped: false,
        });
        machine
    }

    /// All that are not gone, or no list.
    pub(super) fn list(&mut self, now: Timestamp) -> Option<Vec<Machine>> {
        if self.takes(|it| it == Fault::ListFails).is_some() {
            return None;
        }
        let shown = self.made.iter().filter_map(|it| it.shown(now));
        Some(
            shown
                .filter(|it| it.state != MachineState::Terminated)
                .collect(),
        )
    }

    pub(super) fn find(&self, references: &[String], now: Timestamp) -> Vec<Machine> {
        let remembered = |it: &&Made| it.ended_at.is_none_or(|at| now.since(at) < REMEMBERED);
        let shown = self.made.iter().filter(remembered);
        shown
            .filter(|it| references.iter().any(|name| name == it.reference()))
            .filter_map(|it| it.shown(now))
            .collect()
    }

    /// Ends a machine; `false`: not now.
    pub(super) fn terminate(&mut self, reference: &str, now: Timestamp) -> bool {
        if self.takes(|it| it == Fault::TerminateFails).is_some() {
            return false;
        }
        let lag = self.lag;
        if let Some(made) = self.by_name(reference) {
            made.end(now, lag);
        }
        true
    }

    pub(super) fn by_name(&mut self, reference: &str) -> Option<&mut Made> {
        self.made.iter_mut().find(|it| it.reference() == reference)
    }

    /// The offerings, best first.
    pub(super) fn offerings() -> Vec<Offering> {
        ["a", "b", "c"]
            .map(|place| Offering {
                kind: "large".into(),
                place: place.into(),
                market: Market::OnDemand,
            })
            .into()
    }
}
