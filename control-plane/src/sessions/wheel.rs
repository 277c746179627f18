//! Who is at a session's wheel, as this process knows it: a copy of the row that every
//! command looks at, without a query and without waiting for anybody. And the commands
//! that are held while a person drives, in the order in which they came.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use browserfleet_proto::limits;
use tokio::sync::watch;

use super::line::{InLine, Line};
use crate::domain::control::Control;

/// Commands of one session that are held: as many as its agent would take.
const HELD_MAX: usize = limits::SESSION_QUEUE_MAX;

/// What is known of a row.
#[derive(Debug, Clone, Default)]
pub struct Known {
    version: i64,
    /// Times in it are on our own clock.
    pub control: Control,
}

/// One session's.
#[derive(Debug, Default)]
pub struct Wheel {
    known: watch::Sender<Known>,
    turns: Line,
    waiting: AtomicUsize,
    renewing: AtomicBool,
}

impl Wheel {
    /// As a row has it whose version was not read.
    pub(super) fn begin(&self, control: Control) {
        self.known.send_replace(Known {
            version: 0,
            control,
        });
    }

    /// As it is known here.
    pub fn control(&self) -> Control {
        self.known.borrow().control.clone()
    }

    /// Follows it.
    pub fn follow(&self) -> watch::Receiver<Known> {
        self.known.subscribe()
    }

    /// Looks at it.
    pub(super) fn look<T>(&self, at: impl FnOnce(&Control) -> T) -> T {
        at(&self.known.borrow().control)
    }

    /// Learns what a row says, and gives what was known before. `None`: that is known.
    pub(super) fn learn(&self, version: i64, control: &Control) -> Option<Control> {
        let mut before = None;
        self.known.send_if_modified(|known| {
            if known.version >= version {
                return false;
            }
            known.version = version;
            before = Some(std::mem::replace(&mut known.control, control.clone()));
            true
        });
        before
    }

    /// Whether a command of the automation goes at once: the automation drives, and no
    /// command waits that came before.
    pub(super) fn is_free(&self) -> bool {
        self.waiting.load(Ordering::Acquire) == 0 && self.look(Control::is_automations)
    }

    /// A place among those that wait for the automation to drive. `None`: too many do.
    pub(super) fn queue(&self) -> Option<Place<'_>> {
        let before = self.waiting.fetch_add(1, Ordering::AcqRel);
        let place = Place {
            wheel: self,
            standing: self.turns.stand(),
        };
        (before < HELD_MAX).then_some(place)
    }

    /// Begins to renew the hold, once at a time.
    pub(super) fn begin_renewing(&self) -> bool {
        !self.renewing.swap(true, Ordering::AcqRel)
    }

    /// The hold was renewed, or was not.
    pub(super) fn end_renewing(&self) {
        self.renewing.store(false, Ordering::Release);
    }
}

/// A place in the order of those that wait. Whoever leaves gives it up.
pub(super) struct Place<'a> {
    wheel: &'a Wheel,
    standing: InLine,
}

impl<'a> Place<'a> {
    /// Waits until all that came before have had their turn, and the automation drives.
    /// The turn lasts until it is dropped: what is done in it is done in order.
    pub(super) async fn turn(mut self) -> Turn<'a> {
        self.standing.first().await;
        let mut known = self.wheel.follow();
        let drives = known.wait_for(|it| it.control.is_automations()).await;
        debug_assert!(drives.is_ok(), "the wheel has the other end");
        drop(drives);
        Turn { _place: self }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.wheel.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The automation's turn to drive.
pub(super) struct Turn<'a> {
    _place: Place<'a>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::control::{Lease, Person};
    use crate::domain::time::Timestamp;
    use browserfleet_proto::ids::HolderId;
    use futures_util::FutureExt;
    use std::time::Duration;

    fn held() -> Control {
        let lease = Lease {
            holder: HolderId::new(),
            person: Person::Owner,
            life: Duration::from_secs(60),
            latest: None,
        };
        let held = Control::default().take(lease, false, Timestamp(0));
        held.expect("it is free")
    }

    #[tokio::test]
    async fn what_waits_has_its_turn_in_the_order_in_which_it_came() {
        let wheel = Wheel::default();
        assert!(wheel.is_free());
        assert!(wheel.learn(1, &held()).is_some());
        assert!(!wheel.is_free());
        let mut first = Box::pin(wheel.queue().expect("room").turn());
        let mut second = Box::pin(wheel.queue().expect("room").turn());
        assert!(first.as_mut().now_or_never().is_none());
        assert!(second.as_mut().now_or_never().is_none());
        assert!(wheel.learn(2, &Control::default()).is_some());
        assert!(!wheel.is_free(), "two came before");
        assert!(second.as_mut().now_or_never().is_none());
        let turn = first.now_or_never().expect("its turn");
        assert!(second.as_mut().now_or_never().is_none(), "one at a time");
        drop(turn);
        drop(second.now_or_never().expect("its turn"));
        assert!(wheel.is_free());
    }

    #[tokio::test]
    async fn who_leaves_holds_nobody_up() {
        let wheel = Wheel::default();
        wheel.learn(1, &held());
        let mut first = Box::pin(wheel.queue().expect("room").turn());
        let mut second = Box::pin(wheel.queue().expect("room").turn());
        assert!(first.as_mut().now_or_never().is_none());
        assert!(second.as_mut().now_or_never().is_none());
        drop(first);
        wheel.learn(2, &Control::default());
        drop(second.now_or_never().expect("its turn"));
        assert!(wheel.is_free());
    }

    #[test]
    fn an_older_word_changes_nothing_and_a_full_queue_takes_no_more() {
        let wheel = Wheel::default();
        wheel.learn(5, &held());
        assert_eq!(wheel.learn(5, &Control::default()), None);
        assert_eq!(wheel.learn(4, &Control::default()), None);
        let places: Vec<_> = (0..HELD_MAX).map(|_| wheel.queue()).collect();
        assert!(places.iter().all(Option::is_some));
        assert!(wheel.queue().is_none());
        drop(places);
        assert!(wheel.queue().is_some());
    }
}
