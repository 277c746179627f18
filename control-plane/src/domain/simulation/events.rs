//! What may happen.

use proptest::prelude::*;
use proptest::sample::Index;

use super::super::offering::Shortage;
use super::cloud::{Fault, LAG};

/// What may happen.
#[derive(Debug, Clone)]
pub(super) enum Event {
    Pass(u64),
    /// A look, and what follows from it; the replica may die on the way.
    Round(usize, Option<u32>),
    /// The same; it is suspended before one of its writes or calls, for so many seconds
    /// until the other one looks.
    Suspended(usize, u32, u64),
    Look(usize),
    Act(usize, Option<u32>),
    Fails(Fault),
    Lags(u64),
    Arrives,
    Terminated(Index),
    Stopped(Index),
    Hidden(Index, u64),
    Impaired(Index),
    /// Somebody made a machine that carries our name.
    Stranger,
    LinkDown(Index),
    LinkUp(Index),
    AgentDies(Index),
    Lease(Index),
    OpenMore(Index),
    EndSession(Index),
    Want,
    Delete(Index),
    Drain(Index, Option<u64>),
    Restart(Index, bool),
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        3 => Just(Fault::LoseReply),
        1 => Just(Fault::Late),
        1 => Just(Fault::Throttle),
        2 => Just(Fault::Refuse(Shortage::Capacity)),
        1 => Just(Fault::Refuse(Shortage::Quota)),
        1 => Just(Fault::Refuse(Shortage::NotYet)),
        1 => Just(Fault::Refuse(Shortage::Request)),
        1 => Just(Fault::ListFails),
        1 => Just(Fault::TerminateFails),
        1 => Just(Fault::NeverBoots),
        1 => Just(Fault::BootsLate),
        1 => Just(Fault::DiesAtStart),
    ]
}

/// One of them.
pub(super) fn event() -> impl Strategy<Value = Event> {
    let life = || prop_oneof![2 => Just(None), 1 => (0..14u32).prop_map(Some)];
    let seconds = || prop_oneof![6 => 1..60u64, 2 => 60..700u64];
    let one = any::<Index>;
    prop_oneof![
        8 => seconds().prop_map(Event::Pass),
        12 => (0..2usize, life()).prop_map(|(which, life)| Event::Round(which, life)),
        4 => (0..2usize, 0..14u32, 1..90u64)
            .prop_map(|(which, before, seconds)| Event::Suspended(which, before, seconds)),
        2 => (0..2usize).prop_map(Event::Look),
        2 => (0..2usize, life()).prop_map(|(which, life)| Event::Act(which, life)),
        5 => fault().prop_map(Event::Fails),
        1 => (0..LAG.as_secs()).prop_map(Event::Lags),
        1 => Just(Event::Arrives),
        1 => one().prop_map(Event::Terminated),
        1 => one().prop_map(Event::Stopped),
        1 => (one(), 1..900u64).prop_map(|(which, seconds)| Event::Hidden(which, seconds)),
        1 => one().prop_map(Event::Impaired),
        1 => Just(Event::Stranger),
        2 => one().prop_map(Event::LinkDown),
        2 => one().prop_map(Event::LinkUp),
        1 => one().prop_map(Event::AgentDies),
        5 => one().prop_map(Event::Lease),
        1 => one().prop_map(Event::OpenMore),
        2 => one().prop_map(Event::EndSession),
        1 => Just(Event::Want),
        1 => one().prop_map(Event::Delete),
        1 => (one(), proptest::option::of(0..300u64))
            .prop_map(|(which, seconds)| Event::Drain(which, seconds)),
        1 => (one(), any::<bool>()).prop_map(|(which, reboot)| Event::Restart(which, reboot)),
    ]
}
