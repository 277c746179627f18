//! Which instance a session goes to, and which of those that wait is next.
//!
//! Whoever has the fewest sessions goes first, then who was served the longest ago,
//! and each user's own wait in the order in which they came: a hundred of one user
//! hold up nobody else's first.

use std::collections::HashMap;

use browserfleet_proto::ids::{InstanceId, SessionId, UserId};

use super::instance::{Instance, Status};
use super::time::Timestamp;

/// A session that waits for an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// Which.
    pub session: SessionId,
    /// Whose.
    pub user: UserId,
    /// When it came.
    pub since: Timestamp,
    /// When a session of its user last began; `None`: none did.
    pub served_at: Option<Timestamp>,
    /// How many instances its user may hold.
    pub instances_max: u32,
    /// The kind of machine that its user prefers.
    pub kind: Option<String>,
}

/// Where a session goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// To an instance that its user holds already, under this epoch.
    Own(InstanceId, i64),
    /// To one that nobody holds.
    Free(InstanceId),
}

/// What a session that comes now can hope for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outlook {
    /// There is a place for it.
    Now,
    /// An instance is on its way, or may be launched.
    Coming,
    /// All of those that its user may have are full.
    Enough,
    /// All are taken, and there may be no more.
    Full,
}

/// The order in which those that wait are served.
#[must_use]
pub fn in_order(queue: &[Waiting], instances: &[Instance]) -> Vec<Waiting> {
    let mut had: HashMap<UserId, i64> = HashMap::new();
    for instance in instances.iter().filter(|it| it.counts()) {
        if let Some(user) = instance.assigned_to {
            *had.entry(user).or_default() += instance.sessions;
        }
    }
    let mut queue = queue.to_vec();
    queue.sort_by_key(|it| (it.since, it.session));
    let mut turns: Vec<(i64, Waiting)> = Vec::with_capacity(queue.len());
    for waiting in queue {
        let turn = had.entry(waiting.user).or_default();
        turns.push((*turn, waiting));
        *turn += 1;
    }
    // Stable: of those with the same turn, whose user was served the longest ago, and
    // then who came first.
    turns.sort_by_key(|(turn, it)| (*turn, it.served_at));
    turns.into_iter().map(|(_, waiting)| waiting).collect()
}

/// What there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Instances.
    pub instances: u32,
    /// Sessions on one of them.
    pub sessions_per_instance: u32,
}

/// The instances as they fill up while those that wait are given places.
struct Rooms {
    rooms: Vec<Instance>,
    open: Vec<bool>,
}

impl Rooms {
    fn new(instances: &[Instance], reachable: impl Fn(InstanceId) -> bool) -> Self {
        let rooms: Vec<Instance> = instances.iter().filter(|it| it.counts()).cloned().collect();
        let open = rooms
            .iter()
            .map(|it| it.takes_work() && reachable(it.id))
            .collect();
        Self { rooms, open }
    }

    fn held_by(&self, user: UserId) -> usize {
        let held = self.rooms.iter();
        held.filter(|it| it.assigned_to == Some(user)).count()
    }

    fn place(&mut self, waiting: &Waiting) -> Option<Place> {
        let open = || (0..self.rooms.len()).filter(|at| self.open[*at]);
        let own = open()
            .filter(|at| self.rooms[*at].assigned_to == Some(waiting.user))
            .filter(|at| self.rooms[*at].sessions < self.rooms[*at].sessions_max)
            .min_by_key(|at| self.rooms[*at].sessions);
        if let Some(at) = own {
            let room = &mut self.rooms[at];
            room.sessions += 1;
            return Some(Place::Own(room.id, room.epoch));
        }
        if self.held_by(waiting.user) >= waiting.instances_max as usize {
            return None;
        }
        // The newest making first, and of it what the user prefers.
        let at = open()
            .filter(|at| self.rooms[*at].assigned_to.is_none())
            .max_by_key(|at| {
                let room = &self.rooms[*at];
                let preferred = waiting.kind.is_some() && room.kind == waiting.kind;
                (preferred, room.generation, std::cmp::Reverse(room.id))
            })?;
        let room = &mut self.rooms[at];
        room.assigned_to = Some(waiting.user);
        room.sessions = 1;
        // That is what its lease will be.
        room.epoch += 1;
        Some(Place::Free(room.id))
    }

    /// Whether what a user holds may have room for one more, once it is there or can be
    /// reached.
    fn may_have_room_for(&self, user: UserId) -> bool {
        let rooms = self.rooms.iter().zip(&self.open);
        rooms
            .filter(|(it, _)| it.assigned_to == Some(user))
            .any(|(it, open)| {
                let shut = it.draining.is_some() || it.status == Status::Stopping;
                !shut && !open && it.sessions < it.sessions_max
            })
    }

    /// How many instances more there may be for those that wait, without anybody giving
    /// theirs back: those that are on their way or going, and those that are not there.
    fn to_come(&self, most: u32) -> usize {
        let rooms = self.rooms.iter().zip(&self.open);
        let changing = rooms.filter(|(it, open)| {
            let nobodys = it.assigned_to.is_none() && !**open;
            nobodys || it.status == Status::Stopping || it.recycling_since.is_some()
        });
        (most as usize).saturating_sub(self.rooms.len()) + changing.count()
    }

    /// Keeps somebody else's instance from being filled again: an empty one, or one whose
    /// holder has more waiting than it takes.
    fn claim(&mut self, user: UserId, flood: &HashMap<UserId, i64>) -> Option<InstanceId> {
        let at = (0..self.rooms.len())
            .filter(|at| {
                let room = &self.rooms[*at];
                let floods = |it: UserId| flood.get(&it).copied().unwrap_or(0) >= room.sessions_max;
                let of_another = room.assigned_to.filter(|it| *it != user);
                let spared = room.sessions == 0 && !room.asked_for;
                self.open[*at] && of_another.is_some_and(|it| spared || floods(it))
            })
            .min_by_key(|at| (self.rooms[*at].sessions, self.rooms[*at].last_activity_at))?;
        self.open[at] = false;
        Some(self.rooms[at].id)
    }
}

/// Who gets what.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Assignment {
    /// Sessions that have a place.
    pub places: Vec<(SessionId, UserId, Place)>,
    /// Instances that their holders are to give back once they are empty, for somebody
    /// whose turn it is.
    pub claims: Vec<InstanceId>,
}

/// Gives places to those that wait, as far as there are any. Where there may be no
/// more instances, whoever's turn it is and who has no place claims one: nothing is
/// placed on it any more until it is empty and taken back. So whoever floods the queue
/// keeps no instance full for ever.
#[must_use]
pub fn assign(
    queue: &[Waiting],
    instances: &[Instance],
    reachable: impl Fn(InstanceId) -> bool,
    bounds: Bounds,
) -> Assignment {
    let mut flood: HashMap<UserId, i64> = HashMap::new();
    for waiting in queue {
        *flood.entry(waiting.user).or_default() += 1;
    }
    let mut rooms = Rooms::new(instances, reachable);
    let mut to_come = rooms.to_come(bounds.instances);
    // Room on what each user will get, and how many of these there are.
    let mut promised: HashMap<UserId, (u32, usize)> = HashMap::new();
    let mut assignment = Assignment::default();
    for waiting in in_order(queue, instances) {
        if let Some(place) = rooms.place(&waiting) {
            let placed = (waiting.session, waiting.user, place);
            assignment.places.push(placed);
            continue;
        }
        let held = rooms.held_by(waiting.user);
        let (room, count) = promised.entry(waiting.user).or_default();
        if *room > 0 {
            *room -= 1;
            continue;
        }
        let may_have_more = held + *count < waiting.instances_max as usize;
        if !may_have_more || rooms.may_have_room_for(waiting.user) {
            continue;
        }
        if to_come > 0 {
            to_come -= 1;
        } else if let Some(claim) = rooms.claim(waiting.user, &flood) {
            assignment.claims.push(claim);
        } else {
            continue;
        }
        *room = bounds.sessions_per_instance.saturating_sub(1);
        *count += 1;
    }
    assignment
}

/// How many more instances those that wait could use, which nobody holds yet. What
/// their users hold and cannot be reached just now is waited for, not replaced.
#[must_use]
pub fn instances_needed(
    queue: &[Waiting],
    instances: &[Instance],
    sessions_per_instance: u32,
) -> u32 {
    let mut by_user: HashMap<UserId, (i64, u32)> = HashMap::new();
    for waiting in queue {
        let entry = by_user.entry(waiting.user).or_default();
        entry.0 += 1;
        entry.1 = waiting.instances_max;
    }
    let each = i64::from(sessions_per_instance.max(1));
    by_user
        .into_iter()
        .map(|(user, (waiting, most))| {
            let theirs = || {
                let all = instances.iter();
                all.filter(move |it| it.counts() && it.assigned_to == Some(user))
            };
            let room: i64 = theirs()
                .filter(|it| it.takes_work() || it.status == Status::Provisioning)
                .map(|it| (it.sessions_max - it.sessions).max(0))
                .sum();
            let held = u32::try_from(theirs().count()).unwrap_or(u32::MAX);
            let missing = ((waiting - room).max(0) + each - 1) / each;
            let missing = u32::try_from(missing).unwrap_or(u32::MAX);
            missing.min(most.saturating_sub(held))
        })
        .fold(0, u32::saturating_add)
}

/// What `waiting` can hope for, who comes after all of `queue`.
#[must_use]
pub fn outlook(
    waiting: &Waiting,
    queue: &[Waiting],
    instances: &[Instance],
    reachable: impl Fn(InstanceId) -> bool,
    max: u32,
) -> Outlook {
    let mut rooms = Rooms::new(instances, reachable);
    for earlier in in_order(queue, instances) {
        rooms.place(&earlier);
    }
    if rooms.place(waiting).is_some() {
        return Outlook::Now;
    }
    if rooms.may_have_room_for(waiting.user) {
        return Outlook::Coming;
    }
    if rooms.held_by(waiting.user) >= waiting.instances_max as usize {
        return Outlook::Enough;
    }
    if rooms.to_come(max) > 0 {
        Outlook::Coming
    } else {
        Outlook::Full
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: Timestamp = Timestamp(1_000_000);

    fn instance(status: Status, holder: Option<UserId>, sessions: i64) -> Instance {
        let ready = Instance::ready(NOW);
        Instance {
            status,
            assigned_to: holder,
            sessions,
            epoch: 1,
            ..ready
        }
    }

    fn waiting(user: UserId, at: i64) -> Waiting {
        Waiting {
            session: SessionId::new(),
            user,
            since: Timestamp(at),
            served_at: None,
            instances_max: 2,
            kind: None,
        }
    }

    fn bounds(instances: u32, sessions_per_instance: u32) -> Bounds {
        Bounds {
            instances,
            sessions_per_instance,
        }
    }

    #[test]
    fn a_users_own_instance_with_room_comes_first() {
        let user = UserId::new();
        let own = instance(Status::Running, Some(user), 1);
        let all = [instance(Status::Running, None, 0), own.clone()];
        let queue = [waiting(user, 1)];
        let assigned = assign(&queue, &all, |_| true, bounds(2, 2));
        assert_eq!(
            assigned.places,
            [(queue[0].session, user, Place::Own(own.id, 1))]
        );
    }

    #[test]
    fn who_queues_a_hundred_holds_up_nobody_elses_first() {
        let (alice, bob) = (UserId::new(), UserId::new());
        let mut queue: Vec<Waiting> = (0..100).map(|it| waiting(alice, it)).collect();
        queue.push(waiting(bob, 1_000));
        let order = in_order(&queue, &[]);
        assert_eq!(order[1].user, bob);
        let of_alice: Vec<SessionId> = order
            .iter()
            .filter(|it| it.user == alice)
            .map(|it| it.session)
            .collect();
        let as_they_came: Vec<SessionId> = queue[..100].iter().map(|it| it.session).collect();
        assert_eq!(of_alice, as_they_came);
    }

    #[test]
    fn who_has_sessions_already_waits_for_who_has_none() {
        let (alice, bob) = (UserId::new(), UserId::new());
        let all = [instance(Status::Running, Some(alice), 2)];
        let queue = [waiting(alice, 1), waiting(bob, 2)];
        assert_eq!(in_order(&queue, &all)[0].user, bob);
    }

    #[test]
    fn of_those_who_have_nothing_who_was_served_the_longest_ago_is_next() {
        let (alice, bob) = (UserId::new(), UserId::new());
        let served = |it: Waiting, at| Waiting {
            served_at: Some(Timestamp(at)),
            ..it
        };
        let hers = served(waiting(alice, 1), 50);
        let queue = [hers.clone(), waiting(bob, 2)];
        assert_eq!(in_order(&queue, &[])[0].user, bob);
        let queue = [hers, served(waiting(bob, 2), 60)];
        assert_eq!(in_order(&queue, &[])[0].user, alice);
    }

    #[test]
    fn who_floods_the_queue_fills_no_instance_again_that_another_waits_for() {
        let (alice, bob) = (UserId::new(), UserId::new());
        let hers = instance(Status::Running, Some(alice), 1);
        let flood = |count| {
            let mut queue: Vec<Waiting> = (0..count).map(|it| waiting(alice, it)).collect();
            queue.push(waiting(bob, 1_000));
            queue
        };
        let up = |_| true;
        let all = std::slice::from_ref(&hers);
        // As much as her instance takes: bob waits until it is empty.
        let assigned = assign(&flood(2), all, up, bounds(1, 2));
        assert_eq!((assigned.places, assigned.claims), (vec![], vec![hers.id]));
        // One more is hers to have; and there may be another instance.
        let assigned = assign(&flood(1), all, up, bounds(1, 2));
        assert_eq!((assigned.places.len(), assigned.claims), (1, vec![]));
        let assigned = assign(&flood(2), all, up, bounds(2, 2));
        assert_eq!((assigned.places.len(), assigned.claims), (1, vec![]));
        // An empty one is given back, unless its holder asked for it by itself.
        let mut empty = Instance {
            sessions: 0,
            ..hers
        };
        let queue = [waiting(bob, 1)];
        let assigned = assign(&queue, std::slice::from_ref(&empty), up, bounds(1, 2));
        assert_eq!(assigned.claims, [empty.id]);
        empty.asked_for = true;
        let assigned = assign(&queue, &[empty], up, bounds(1, 2));
        assert_eq!(assigned, Assignment::default());
    }

    #[test]
    fn no_more_is_claimed_than_those_who_wait_could_use() {
        let bob = UserId::new();
        let queue: Vec<Waiting> = (0..5).map(|it| waiting(bob, it)).collect();
        let idle = || instance(Status::Running, Some(UserId::new()), 0);
        let all: Vec<Instance> = (0..6).map(|_| idle()).collect();
        // Five sessions, two on each, and he may have two.
        let assigned = assign(&queue, &all, |_| true, bounds(6, 2));
        assert_eq!(assigned.claims.len(), 2);
        let mut going = all.clone();
        going[0].status = Status::Stopping;
        let assigned = assign(&queue, &going, |_| true, bounds(6, 2));
        assert_eq!(assigned.claims.len(), 1);
    }

    #[test]
    fn outlooks_are_told_apart() {
        let (alice, bob) = (UserId::new(), UserId::new());
        let one = Waiting {
            instances_max: 1,
            ..waiting(alice, 9)
        };
        let full = instance(Status::Running, Some(alice), 2);
        let bobs = instance(Status::Running, Some(bob), 1);
        let coming = instance(Status::Provisioning, None, 0);
        let up = |_| true;
        let look = |all: &[Instance], max| outlook(&one, &[], all, up, max);
        assert_eq!(look(&[instance(Status::Running, None, 0)], 1), Outlook::Now);
        assert_eq!(look(&[full.clone(), coming.clone()], 9), Outlook::Enough);
        assert_eq!(look(std::slice::from_ref(&bobs), 1), Outlook::Full);
        assert_eq!(look(std::slice::from_ref(&bobs), 2), Outlook::Coming);
        assert_eq!(look(&[bobs.clone(), coming], 2), Outlook::Coming);
        let unreachable = instance(Status::Running, Some(alice), 1);
        let hidden = unreachable.id;
        let outlook = outlook(&one, &[], &[unreachable, bobs], |id| id != hidden, 2);
        assert_eq!(outlook, Outlook::Coming);
    }

    #[test]
    fn no_more_instances_are_needed_than_their_users_may_have() {
        let (alice, bob) = (UserId::new(), UserId::new());
        let mut queue: Vec<Waiting> = (0..9).map(|it| waiting(alice, it)).collect();
        assert_eq!(instances_needed(&queue, &[], 2), 2);
        queue.push(waiting(bob, 1));
        assert_eq!(instances_needed(&queue, &[], 2), 3);
        let own = instance(Status::Provisioning, Some(bob), 0);
        assert_eq!(instances_needed(&queue, &[own], 2), 2);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]
        #[test]
        fn nobody_gets_an_instance_that_another_holds_or_more_than_they_may(
            kinds in proptest::collection::vec((0..5u8, 0..3u8, 0..3i64, any::<bool>(), any::<bool>()), 0..10),
            queue in proptest::collection::vec((0..2u8, 0..50i64), 0..20),
            own_max in 1..4u32,
        ) {
            let users = [UserId::new(), UserId::new()];
            let all: Vec<Instance> = kinds.iter().map(|(status, holder, sessions, _, draining)| {
                let status = [Status::Provisioning, Status::Running, Status::Stopping, Status::Terminated, Status::Error][usize::from(*status)];
                let holder = match holder { 0 => None, n => Some(users[usize::from(*n) - 1]) };
                let mut it = instance(status, holder, if holder.is_some() { *sessions } else { 0 });
                it.draining = draining.then(|| super::super::instance::Since { reason: "deleted".into(), at: NOW });
                it
            }).collect();
            let up: Vec<InstanceId> = all.iter().zip(&kinds).filter(|(_, kind)| kind.3).map(|(it, _)| it.id).collect();
            let queue: Vec<Waiting> = queue.iter().map(|(user, at)| Waiting { instances_max: own_max, ..waiting(users[usize::from(*user)], *at) }).collect();
            let mut rooms = all.clone();
            let assigned = assign(&queue, &all, |id| up.contains(&id), bounds(4, 2));
            for claim in &assigned.claims {
                let room = all.iter().find(|it| it.id == *claim).expect("one of them");
                let now_theirs = assigned.places.iter().find(|(_, _, it)| *it == Place::Free(*claim));
                let holder = room.assigned_to.or(now_theirs.map(|(_, user, _)| *user));
                let holder = holder.expect("somebody holds it");
                prop_assert!(queue.iter().any(|it| it.user != holder));
                let is_empty = room.sessions == 0 && now_theirs.is_none();
                prop_assert!(is_empty || queue.iter().any(|it| it.user == holder));
            }
            let placed = assigned.places;
            for (session, user, place) in &placed {
                prop_assert!(queue.iter().any(|it| it.session == *session && it.user == *user));
                let (Place::Own(id, _) | Place::Free(id)) = place;
                let room = rooms.iter_mut().find(|it| it.id == *id).expect("one of them");
                prop_assert!(room.takes_work() && up.contains(id));
                match place {
                    Place::Own(_, epoch) => {
                        prop_assert_eq!(room.assigned_to, Some(*user));
                        prop_assert_eq!(room.epoch, *epoch);
                    }
                    Place::Free(_) => {
                        prop_assert_eq!(room.assigned_to, None);
                        room.epoch += 1;
                    }
                }
                room.assigned_to = Some(*user);
                room.sessions += 1;
                prop_assert!(room.sessions <= room.sessions_max);
            }
            for user in users {
                let held = |rooms: &[Instance]| rooms.iter().filter(|it| it.counts() && it.assigned_to == Some(user)).count();
                prop_assert!(held(&rooms) <= held(&all).max(own_max as usize));
            }
            let mut sessions: Vec<SessionId> = placed.iter().map(|it| it.0).collect();
            sessions.sort_unstable();
            sessions.dedup();
            prop_assert_eq!(sessions.len(), placed.len());
        }
    }
}
