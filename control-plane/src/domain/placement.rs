//! Which instance a new session goes to.

use browserfleet_proto::ids::{InstanceId, UserId};

use super::instance::{Instance, Status};

/// Where a session goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// To an instance that the user holds already.
    Own(InstanceId),
    /// To one that nobody holds.
    Free(InstanceId),
    /// Nowhere yet; one more may be launched.
    Launch,
    /// Nowhere yet; one is on its way.
    Wait,
    /// Nowhere: all of those that the user may have are full.
    Enough,
    /// Nowhere: all are taken.
    Full,
}

/// Chooses a place. `reachable` are the instances with a link; `own_max` is the
/// largest number of instances that the user may hold, `max` of all.
#[must_use]
pub fn choose(
    instances: &[Instance],
    reachable: impl Fn(InstanceId) -> bool,
    user: UserId,
    own_max: u32,
    max: u32,
) -> Place {
    let ready = |it: &&Instance| it.status == Status::Running && reachable(it.id);
    let own = instances
        .iter()
        .filter(ready)
        .filter(|it| it.assigned_to == Some(user) && it.sessions < it.sessions_max)
        .min_by_key(|it| it.sessions);
    if let Some(own) = own {
        return Place::Own(own.id);
    }
    let there = |it: &&Instance| it.status != Status::Terminated;
    let held = instances
        .iter()
        .filter(there)
        .filter(|it| it.assigned_to == Some(user));
    if held.count() >= own_max as usize {
        return Place::Enough;
    }
    let free = instances
        .iter()
        .filter(ready)
        .find(|it| it.assigned_to.is_none());
    if let Some(free) = free {
        return Place::Free(free.id);
    }
    let on_its_way = instances.iter().any(|it| {
        it.assigned_to.is_none()
            && (it.status == Status::Provisioning
                || (it.status == Status::Running && !reachable(it.id)))
    });
    if on_its_way {
        Place::Wait
    } else if instances.iter().filter(there).count() < max as usize {
        Place::Launch
    } else if instances.iter().any(|it| it.status == Status::Stopping) {
        Place::Wait
    } else {
        Place::Full
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::time::Timestamp;
    use proptest::prelude::*;

    fn instance(status: Status, holder: Option<UserId>, sessions: i64) -> Instance {
        Instance {
            id: InstanceId::new(),
            provider: "local".into(),
            reference: None,
            status,
            assigned_to: holder,
            epoch: 1,
            sessions_max: 2,
            sessions,
            created_at: Timestamp(0),
            last_activity_at: Timestamp(0),
        }
    }

    #[test]
    fn a_users_own_instance_with_room_comes_first() {
        let user = UserId::new();
        let own = instance(Status::Running, Some(user), 1);
        let all = [instance(Status::Running, None, 0), own.clone()];
        assert_eq!(choose(&all, |_| true, user, 1, 9), Place::Own(own.id));
    }

    #[test]
    fn who_has_as_many_as_they_may_gets_no_other() {
        let user = UserId::new();
        let all = [
            instance(Status::Running, None, 0),
            instance(Status::Running, Some(user), 2),
        ];
        assert_eq!(choose(&all, |_| true, user, 1, 9), Place::Enough);
        assert_eq!(choose(&all, |_| true, user, 2, 9), Place::Free(all[0].id));
    }

    proptest! {
        #[test]
        fn nobody_gets_an_instance_that_another_user_holds(
            kinds in proptest::collection::vec((0..5u8, 0..3u8, 0..3i64, any::<bool>()), 0..8),
            own_max in 1..4u32,
            max in 1..10u32,
        ) {
            let users = [UserId::new(), UserId::new()];
            let all: Vec<_> = kinds.iter().map(|(status, holder, sessions, _)| {
                let status = [Status::Provisioning, Status::Running, Status::Stopping, Status::Terminated, Status::Error][*status as usize];
                let holder = match holder { 0 => None, n => Some(users[*n as usize - 1]) };
                instance(status, holder, *sessions)
            }).collect();
            let up: Vec<_> = all.iter().zip(&kinds).filter(|(_, kind)| kind.3).map(|(it, _)| it.id).collect();
            match choose(&all, |id| up.contains(&id), users[0], own_max, max) {
                Place::Own(id) => {
                    let it = all.iter().find(|it| it.id == id).expect("one of them");
                    prop_assert_eq!(it.assigned_to, Some(users[0]));
                    prop_assert!(it.sessions < it.sessions_max && it.status == Status::Running);
                }
                Place::Free(id) => {
                    let it = all.iter().find(|it| it.id == id).expect("one of them");
                    prop_assert!(it.assigned_to.is_none() && it.status == Status::Running);
                    let held = all.iter().filter(|it| it.assigned_to == Some(users[0]) && it.status != Status::Terminated);
                    prop_assert!(held.count() < own_max as usize);
                }
                Place::Launch => {
                    let there = all.iter().filter(|it| it.status != Status::Terminated).count();
                    prop_assert!(there < max as usize);
                }
                Place::Wait | Place::Full | Place::Enough => {}
            }
        }
    }
}
