//! A provider that is a model of a cloud: machines with ages, tags and tokens,
//! offerings that have no capacity, lists that lag, and every way in which a call
//! can fail. Its time is the control plane's, so that a test may skip some of it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use browserfleet_control_plane::clock;
use browserfleet_control_plane::domain::machine::{
    Addresses, Draft, Machine, MachineState, Market, Offering, Trouble,
};
use browserfleet_control_plane::domain::offering::Shortage;
use browserfleet_control_plane::domain::time::Timestamp;
use browserfleet_control_plane::provider::{Answer, Error, Fault, LaunchError, Provider};
use browserfleet_proto::ids::InstanceId;
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc};
use tokio::task::yield_now;

/// The one kind of machine, and where it is to be had, best first.
pub const KIND: &str = "large";
/// See [`KIND`].
pub const PLACES: [&str; 3] = ["a", "b", "c"];
/// How long a machine takes until its agent may join.
pub const BOOT: Duration = Duration::from_secs(40);
/// How long a machine takes to end.
pub const SHUT_DOWN: Duration = Duration::from_secs(20);
/// How long lists may be old, as the control plane is told.
pub const LAG: Duration = Duration::from_secs(5 * 60);
/// How long one that is gone is still known by name.
const REMEMBERED: Duration = Duration::from_secs(60 * 60);

/// What a provider is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Call {
    /// For a machine.
    Launch,
    /// For all machines.
    List,
    /// For some by name.
    Find,
    /// What is wrong.
    Troubles,
    /// To end one.
    Terminate,
    /// To put a token where a machine finds it.
    HandToken,
    /// To take it away.
    TakeToken,
    /// For the tokens that lie there.
    Tokens,
    /// To stop one.
    Stop,
    /// To start one again.
    Start,
    /// Anything else.
    Other,
}

/// How a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// It is not done.
    Refuse(Shortage),
    /// It is done, and nobody learns of it.
    LoseReply,
    /// Nothing is looked at.
    Throttle,
    /// Nothing is done, and nobody knows that.
    Fail,
    /// It is done, and its answer comes when the test says so.
    Wait,
}

/// How the next machines start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// In [`BOOT`].
    Well,
    /// They run, and no agent ever joins.
    Silent,
    /// They are pending for ever.
    Never,
    /// They end at once.
    Dies,
}

#[derive(Debug, Clone)]
struct Made {
    machine: Machine,
    deployment: String,
    start: Start,
    shown_from: Timestamp,
    hidden: bool,
    started_at: Timestamp,
    stopped: bool,
    ended_at: Option<Timestamp>,
    token: bool,
    joined: bool,
    sick: bool,
}

impl Made {
    fn state(&self, times: &Times, now: Timestamp) -> MachineState {
        match self.ended_at {
            Some(at) if now.since(at) >= times.shut_down => MachineState::Terminated,
            Some(_) => MachineState::ShuttingDown,
            None if self.stopped => MachineState::Stopped,
            None if self.start == Start::Never => MachineState::Pending,
            None if now.since(self.started_at) >= times.boot => MachineState::Running,
            None => MachineState::Pending,
        }
    }

    fn end(&mut self) {
        self.ended_at.get_or_insert(clock::now());
    }
}

#[derive(Debug)]
struct Times {
    boot: Duration,
    shut_down: Duration,
    list_lag: Duration,
}

#[derive(Debug)]
struct State {
    made: Vec<Made>,
    /// What was asked for under which token, and the machine that it made.
    by_token: HashMap<(InstanceId, i64), (String, usize)>,
    failures: Vec<(Call, Failure, usize)>,
    calls: BTreeMap<Call, usize>,
    without_capacity: Vec<(String, Shortage)>,
    start: Start,
    image: String,
    /// What machines are told at their start.
    user_data: String,
    times: Times,
    requests: Vec<String>,
}

/// The model.
#[derive(Debug)]
pub struct ModelProvider {
    state: Mutex<State>,
    answered: Notify,
}

impl Default for ModelProvider {
    fn default() -> Self {
        Self {
            state: Mutex::new(State {
                made: Vec::new(),
                by_token: HashMap::new(),
                failures: Vec::new(),
                calls: BTreeMap::new(),
                without_capacity: Vec::new(),
                start: Start::Well,
                image: "image-1".into(),
                user_data: "start the agent".into(),
                times: Times {
                    boot: BOOT,
                    shut_down: SHUT_DOWN,
                    list_lag: Duration::ZERO,
                },
                requests: Vec::new(),
            }),
            answered: Notify::new(),
        }
    }
}

/// A machine whose agent lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Booted {
    /// The provider's name for it.
    pub reference: String,
    /// Whose it says that it is.
    pub instance: InstanceId,
}

impl ModelProvider {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next calls of this kind fail.
    pub fn fails(&self, call: Call, failure: Failure, times: usize) {
        self.state().failures.push((call, failure, times));
    }

    /// No call fails any more, and every place has capacity.
    pub fn is_well_again(&self) {
        let mut state = self.state();
        state.failures.clear();
        state.without_capacity.clear();
        state.start = Start::Well;
    }

    /// This place is short of something.
    pub fn is_short(&self, place: &str, of: Shortage) {
        self.state().without_capacity.push((place.to_owned(), of));
    }

    /// How long machines take to start.
    pub fn starts_in(&self, duration: Duration) {
        self.state().times.boot = duration;
    }

    /// How the next machines start.
    pub fn next_start(&self, start: Start) {
        self.state().start = start;
    }

    /// What machines are started from now.
    pub fn publishes(&self, image: &str) {
        image.clone_into(&mut self.state().image);
    }

    /// What machines are told at their start from now.
    pub fn tells(&self, user_data: &str) {
        user_data.clone_into(&mut self.state().user_data);
    }

    /// Lists show new machines, and that machines end, only after this long.
    pub fn lists_lag(&self, lag: Duration) {
        self.state().times.list_lag = lag;
    }

    /// How long machines take to end.
    pub fn shuts_down_in(&self, duration: Duration) {
        self.state().times.shut_down = duration;
    }

    /// Lists do not show a machine, or do again.
    pub fn hides(&self, reference: &str, hidden: bool) {
        self.with(reference, |made| made.hidden = hidden);
    }

    /// Something is wrong with a machine, or is not any more.
    pub fn is_sick(&self, reference: &str, sick: bool) {
        self.with(reference, |made| made.sick = sick);
    }

    /// Somebody else ends a machine.
    pub fn ends_by_itself(&self, reference: &str) {
        self.with(reference, Made::end);
    }

    fn with(&self, reference: &str, change: impl FnOnce(&mut Made)) {
        self.state().change(reference, change);
    }

    /// Somebody else makes a machine that carries this name.
    pub fn makes_by_itself(&self, deployment: &str) -> String {
        let mut state = self.state();
        let made = state.make(InstanceId::new(), 1, deployment);
        state.made[made].machine.reference.clone()
    }

    /// The answers that were kept waiting are given.
    pub fn answers(&self) {
        self.state().failures.retain(|it| it.1 != Failure::Wait);
        self.answered.notify_waiters();
    }

    /// How often it was asked this.
    #[must_use]
    pub fn calls(&self, call: Call) -> usize {
        self.state().calls.get(&call).copied().unwrap_or(0)
    }

    /// How often it was asked what.
    #[must_use]
    pub fn all_calls(&self) -> BTreeMap<Call, usize> {
        self.state().calls.clone()
    }

    /// Machines that were ever made.
    #[must_use]
    pub fn started(&self) -> usize {
        self.state().made.len()
    }

    /// Machines that run up a bill.
    #[must_use]
    pub fn alive(&self) -> Vec<String> {
        let made = &self.state().made;
        let alive = made.iter().filter(|it| it.ended_at.is_none());
        alive.map(|it| it.machine.reference.clone()).collect()
    }

    /// All requests for machines, as they came.
    #[must_use]
    pub fn requests(&self) -> Vec<String> {
        self.state().requests.clone()
    }

    /// Machines whose agents have started and found their tokens, now or before.
    #[must_use]
    pub fn booted(&self) -> Vec<Booted> {
        let now = clock::now();
        let mut state = self.state();
        let State { made, times, .. } = &mut *state;
        let mut booted = Vec::new();
        for made in made.iter_mut().filter(|it| it.start == Start::Well) {
            let runs = made.state(times, now) == MachineState::Running;
            made.joined |= runs && made.token;
            if runs && made.joined {
                booted.extend(made.machine.instance.map(|instance| Booted {
                    reference: made.machine.reference.clone(),
                    instance,
                }));
            }
        }
        booted
    }

    /// Counts a call and gives how it fails, if it does.
    fn asked(&self, call: Call) -> Option<Failure> {
        let mut state = self.state();
        *state.calls.entry(call).or_default() += 1;
        let at = state.failures.iter().position(|it| it.0 == call)?;
        let failure = state.failures[at].1;
        state.failures[at].2 -= 1;
        if state.failures[at].2 == 0 {
            state.failures.remove(at);
        }
        Some(failure)
    }

    /// What every call has in common: it takes a moment on the way out and on the way
    /// back, in both of which its caller may die, and it may fail.
    async fn call<T>(
        &self,
        call: Call,
        done: impl FnOnce(&mut State) -> Result<T, Error>,
    ) -> Result<T, Error> {
        yield_now().await;
        let failure = self.asked(call);
        let unknown = || error(Fault::Unknown, "no answer");
        let answer = match failure {
            None => done(&mut self.state()),
            Some(Failure::Refuse(Shortage::Capacity)) => {
                Err(error(Fault::NoCapacity, "there is no room"))
            }
            Some(Failure::Refuse(_)) => Err(error(Fault::Refused, "refused")),
            Some(Failure::Throttle) => Err(error(Fault::Throttled, "too many calls")),
            Some(Failure::Fail) => Err(unknown()),
            Some(Failure::LoseReply) => done(&mut self.state()).and_then(|_| Err(unknown())),
            Some(Failure::Wait) => {
                let answered = self.answered.notified();
                let answer = done(&mut self.state());
                answered.await;
                answer
            }
        };
        yield_now().await;
        answer
    }

    async fn launched(&self, request: &str) -> Result<Machine, LaunchError> {
        yield_now().await;
        let failure = self.asked(Call::Launch);
        let unknown = || LaunchError::Unknown("no answer".into());
        let answer = match failure {
            None => self.state().launch(request),
            Some(Failure::Refuse(shortage)) => Err(refused(shortage)),
            Some(Failure::Throttle) => Err(LaunchError::Throttled("too many calls".into())),
            Some(Failure::Fail) => Err(unknown()),
            Some(Failure::LoseReply) => {
                drop(self.state().launch(request));
                Err(unknown())
            }
            Some(Failure::Wait) => {
                let answered = self.answered.notified();
                let answer = self.state().launch(request);
                answered.await;
                answer
            }
        };
        yield_now().await;
        answer
    }
}

impl State {
    fn launch(&mut self, request: &str) -> Result<Machine, LaunchError> {
        self.requests.push(request.to_owned());
        let text: Value = serde_json::from_str(request).map_err(|_| refused(Shortage::Request))?;
        let field = |name: &str| text[name].as_str().unwrap_or_default().to_owned();
        let instance: InstanceId = field("instance")
            .parse()
            .map_err(|_| refused(Shortage::Request))?;
        let attempt = text["attempt"].as_i64().unwrap_or_default();
        let now = clock::now();
        if let Some((known, made)) = self.by_token.get(&(instance, attempt)) {
            let made = &self.made[*made];
            if known != request {
                return Err(LaunchError::Mismatch("other parameters".into()));
            }
            if made.ended_at.is_some() {
                return Err(LaunchError::Spent);
            }
            return Ok(self.shown(made, now));
        }
        let short = self.without_capacity.iter();
        if let Some((_, of)) = short.clone().find(|it| it.0 == field("place")) {
            return Err(refused(*of));
        }
        let made = self.make(instance, attempt, &field("deployment"));
        self.made[made].machine.zone = field("place");
        self.by_token
            .insert((instance, attempt), (request.to_owned(), made));
        Ok(self.shown(&self.made[made], now))
    }

    fn make(&mut self, instance: InstanceId, attempt: i64, deployment: &str) -> usize {
        let now = clock::now();
        let number = self.made.len();
        self.made.push(Made {
            machine: Machine {
                reference: format!("m-{number}"),
                instance: Some(instance),
                attempt,
                state: MachineState::Pending,
                launched_at: now,
                reason: None,
                addresses: Addresses {
                    private_ip: Some(format!("10.0.{}.{}", number / 250, number % 250)),
                    ..Addresses::default()
                },
                kind: KIND.into(),
                zone: PLACES[0].into(),
            },
            deployment: deployment.to_owned(),
            start: self.start,
            shown_from: now.plus(self.times.list_lag),
            hidden: false,
            started_at: now,
            stopped: false,
            ended_at: (self.start == Start::Dies).then_some(now),
            token: false,
            joined: false,
            sick: false,
        });
        number
    }

    fn shown(&self, made: &Made, now: Timestamp) -> Machine {
        let times = &self.times;
        let is_old = |at: Timestamp| now < at.plus(times.list_lag);
        let state = if made.start == Start::Well && made.ended_at.is_some_and(is_old) {
            MachineState::Running
        } else {
            made.state(times, now)
        };
        Machine {
            state,
            ..made.machine.clone()
        }
    }

    /// `None`: there is no such machine.
    fn change(&mut self, reference: &str, change: impl FnOnce(&mut Made)) -> Option<()> {
        let mut made = self.made.iter_mut();
        made.find(|it| it.machine.reference == reference)
            .map(change)
    }

    fn listed(&self, wanted: impl Fn(&Made) -> bool) -> Vec<Machine> {
        let now = clock::now();
        let made = self.made.iter();
        let shown = made.filter(|it| !it.hidden && it.shown_from <= now && wanted(it));
        shown.map(|it| self.shown(it, now)).collect()
    }
}

fn refused(shortage: Shortage) -> LaunchError {
    LaunchError::Refused {
        shortage,
        code: format!("{shortage:?}"),
        message: "there is none".into(),
    }
}

fn error(fault: Fault, reason: &str) -> Error {
    Error {
        doing: "ask the model",
        fault,
        reason: reason.to_owned(),
    }
}

impl Provider for ModelProvider {
    fn name(&self) -> &'static str {
        "model"
    }

    fn region(&self) -> &'static str {
        "nowhere"
    }

    fn lag(&self) -> Duration {
        LAG
    }

    fn outlives_us(&self) -> bool {
        true
    }

    fn offerings(&self) -> Vec<Offering> {
        PLACES
            .map(|place| Offering {
                kind: KIND.into(),
                place: place.into(),
                market: Market::OnDemand,
            })
            .into()
    }

    fn image(&self) -> Answer<'_, String> {
        Box::pin(async { Ok(self.state().image.clone()) })
    }

    fn draft(&self, draft: &Draft<'_>) -> Result<String, Error> {
        let request = json!({
            "instance": draft.instance,
            "attempt": draft.attempt,
            "deployment": draft.deployment,
            "generation": draft.generation,
            "image": draft.image,
            "user_data": self.state().user_data,
            "place": draft.offering.place,
        });
        Ok(request.to_string())
    }

    fn launch<'a>(&'a self, request: &'a str) -> Answer<'a, Machine, LaunchError> {
        Box::pin(self.launched(request))
    }

    fn list<'a>(&'a self, deployment: &'a str) -> Answer<'a, Vec<Machine>> {
        Box::pin(self.call(Call::List, move |state| {
            let mut machines = state.listed(|it| it.deployment == deployment);
            machines.retain(|it| it.state != MachineState::Terminated);
            Ok(machines)
        }))
    }

    fn find<'a>(&'a self, references: &'a [String]) -> Answer<'a, Vec<Machine>> {
        Box::pin(self.call(Call::Find, |state| {
            let now = clock::now();
            Ok(state.listed(|it| {
                references.contains(&it.machine.reference)
                    && it.ended_at.is_none_or(|at| now.since(at) < REMEMBERED)
            }))
        }))
    }

    fn troubles<'a>(&'a self, references: &'a [String]) -> Answer<'a, Vec<Trouble>> {
        Box::pin(self.call(Call::Troubles, |state| {
            let sick = state.made.iter().filter(|it| it.sick);
            let named = sick.filter(|it| references.contains(&it.machine.reference));
            let troubles = named.map(|it| Trouble {
                reference: it.machine.reference.clone(),
                reason: "status_check_failed".into(),
            });
            Ok(troubles.collect())
        }))
    }

    fn terminate<'a>(&'a self, reference: &'a str) -> Answer<'a, ()> {
        Box::pin(self.call(Call::Terminate, move |state| {
            state.change(reference, Made::end);
            Ok(())
        }))
    }

    fn stop<'a>(&'a self, reference: &'a str) -> Answer<'a, ()> {
        Box::pin(self.call(Call::Stop, move |state| {
            state.change(reference, |made| made.stopped = true);
            Ok(())
        }))
    }

    fn start<'a>(&'a self, reference: &'a str) -> Answer<'a, ()> {
        Box::pin(self.call(Call::Start, move |state| {
            state.change(reference, |made| {
                if made.stopped {
                    made.stopped = false;
                    made.started_at = clock::now();
                }
            });
            Ok(())
        }))
    }

    fn reboot<'a>(&'a self, _: &'a str) -> Answer<'a, ()> {
        Box::pin(self.call(Call::Other, |_| Ok(())))
    }

    fn restart_agent<'a>(&'a self, _: &'a str) -> Answer<'a, ()> {
        Box::pin(self.call(Call::Other, |_| Ok(())))
    }

    fn journal<'a>(&'a self, _: &'a str) -> Answer<'a, String> {
        Box::pin(self.call(Call::Other, |_| Ok("cloud-init: no network".into())))
    }

    fn hand_token<'a>(&'a self, reference: &'a str, _: &'a str) -> Answer<'a, ()> {
        Box::pin(self.call(Call::HandToken, move |state| {
            let found = state.change(reference, |made| made.token = true);
            found.ok_or_else(|| error(Fault::NotFound, "no such machine"))
        }))
    }

    fn take_token<'a>(&'a self, reference: &'a str) -> Answer<'a, ()> {
        Box::pin(self.call(Call::TakeToken, move |state| {
            state.change(reference, |made| made.token = false);
            Ok(())
        }))
    }

    fn tokens(&self) -> Answer<'_, Vec<String>> {
        Box::pin(self.call(Call::Tokens, |state| {
            let lying = state.made.iter().filter(|it| it.token);
            Ok(lying.map(|it| it.machine.reference.clone()).collect())
        }))
    }

    fn departures(&self) -> Option<mpsc::Receiver<String>> {
        None
    }
}
