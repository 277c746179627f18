//! The commands that a session has seen, so that one that comes twice runs once.
//! Bounded: the oldest finished ones are forgotten first.

use std::collections::{HashMap, VecDeque};

use browserfleet_proto::ids::CommandId;
use browserfleet_proto::limits::REMEMBERED_COMMANDS_MAX;

/// What is known of a command.
#[derive(Debug, PartialEq, Eq)]
pub enum Known<'a, T> {
    /// Nothing: it may run.
    New,
    /// It waits or runs; its outcome will come.
    UnderWay,
    /// It is done; this is its outcome.
    Done(&'a T),
}

/// Command ids with their outcomes.
#[derive(Debug)]
pub struct Remembered<T> {
    outcomes: HashMap<CommandId, Option<T>>,
    finished: VecDeque<CommandId>,
}

impl<T> Default for Remembered<T> {
    fn default() -> Self {
        Self {
            outcomes: HashMap::new(),
            finished: VecDeque::new(),
        }
    }
}

impl<T> Remembered<T> {
    /// What is known of a command.
    pub fn look_up(&self, id: CommandId) -> Known<'_, T> {
        match self.outcomes.get(&id) {
            None => Known::New,
            Some(None) => Known::UnderWay,
            Some(Some(outcome)) => Known::Done(outcome),
        }
    }

    /// Notes that a command is under way.
    pub fn begin(&mut self, id: CommandId) {
        self.outcomes.entry(id).or_insert(None);
    }

    /// Notes a command's outcome; only the first one counts.
    pub fn finish(&mut self, id: CommandId, outcome: T) {
        let entry = self.outcomes.entry(id).or_insert(None);
        if entry.is_some() {
            return;
        }
        *entry = Some(outcome);
        self.finished.push_back(id);
        while self.finished.len() > REMEMBERED_COMMANDS_MAX {
            if let Some(oldest) = self.finished.pop_front() {
                self.outcomes.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Begin(usize),
        Finish(usize, u8),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (0..20usize).prop_map(Step::Begin),
            (0..20usize, any::<u8>()).prop_map(|(id, outcome)| Step::Finish(id, outcome)),
        ];
        proptest::collection::vec(step, 0..100)
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_model_that_forgets_nothing(steps in steps()) {
            let ids: Vec<CommandId> = (0..20).map(|_| CommandId::new()).collect();
            let mut remembered = Remembered::default();
            let mut model: HashMap<usize, Option<u8>> = HashMap::new();
            for step in steps {
                match step {
                    Step::Begin(id) => {
                        remembered.begin(ids[id]);
                        model.entry(id).or_insert(None);
                    }
                    Step::Finish(id, outcome) => {
                        remembered.finish(ids[id], outcome);
                        let entry = model.entry(id).or_insert(None);
                        entry.get_or_insert(outcome);
                    }
                }
            }
            for (id, command) in ids.iter().enumerate() {
                let expected = match model.get(&id) {
                    None => Known::New,
                    Some(None) => Known::UnderWay,
                    Some(Some(outcome)) => Known::Done(outcome),
                };
                prop_assert_eq!(remembered.look_up(*command), expected);
            }
        }
    }

    #[test]
    fn what_is_under_way_is_never_forgotten() {
        let mut remembered = Remembered::default();
        let first = CommandId::new();
        remembered.begin(first);
        for _ in 0..2 * REMEMBERED_COMMANDS_MAX {
            remembered.finish(CommandId::new(), ());
        }
        assert_eq!(remembered.look_up(first), Known::UnderWay);
        assert!(remembered.outcomes.len() <= REMEMBERED_COMMANDS_MAX + 1);
    }
}
