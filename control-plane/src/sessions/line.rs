//! The order of a session's commands. Whoever stands in line does so at once, without
//! waiting for anybody; what they have to wait for comes after, and then they pass in the
//! order in which they came.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::FutureExt;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};
use tokio::task::unconstrained;

/// Those who wait to pass, one after the other.
#[derive(Debug)]
pub(super) struct Line(Arc<Semaphore>);

impl Default for Line {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }
}

type First = Result<OwnedSemaphorePermit, AcquireError>;

/// A place in a line. Dropping it is passing, or leaving.
pub(super) enum InLine {
    /// Nobody was there.
    First {
        _passing: First,
    },
    Behind(Pin<Box<dyn Future<Output = First> + Send>>),
}

impl Line {
    /// Takes the last place.
    pub(super) fn stand(&self) -> InLine {
        // A semaphore is fair from the first time that it is asked; a task that has done
        // much without a pause would be put off before it is.
        let mut first = unconstrained(Arc::clone(&self.0).acquire_owned()).boxed();
        match first.as_mut().now_or_never() {
            Some(passing) => InLine::First { _passing: passing },
            None => InLine::Behind(first),
        }
    }
}

impl InLine {
    /// Resolves once all who stood before have passed or left.
    pub(super) async fn first(&mut self) {
        if let Self::Behind(first) = self {
            let passing = first.await;
            *self = Self::First { _passing: passing };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_pass_in_the_order_in_which_they_came() {
        let line = Line::default();
        let (mut first, mut second, mut third) = (line.stand(), line.stand(), line.stand());
        assert!(third.first().now_or_never().is_none());
        assert!(second.first().now_or_never().is_none());
        assert!(first.first().now_or_never().is_some());
        drop(first);
        assert!(third.first().now_or_never().is_none());
        assert!(second.first().now_or_never().is_some());
        drop(second);
        assert!(third.first().now_or_never().is_some());
        drop(third);
        assert!(line.stand().first().now_or_never().is_some());
    }

    #[test]
    fn who_leaves_lets_nobody_pass_those_before() {
        let line = Line::default();
        let (first, leaves, mut last) = (line.stand(), line.stand(), line.stand());
        drop(leaves);
        assert!(last.first().now_or_never().is_none(), "the first is there");
        drop(first);
        assert!(last.first().now_or_never().is_some());
    }

    #[tokio::test]
    async fn a_task_that_has_done_much_has_its_place_all_the_same() {
        /// More than a task may do without a pause.
        const MANY: usize = 1000;
        let line = Line::default();
        let mut standing: Vec<_> = (0..MANY).map(|_| line.stand()).collect();
        for mut next in standing.drain(..) {
            assert!(next.first().now_or_never().is_some());
        }
    }
}
