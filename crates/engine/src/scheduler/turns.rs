//! Models that share a thread pool take turns, step by step: [`Turns`].
//!
//! Were their steps to overlap, each of their hundreds of jobs per step would wait for one of the
//! other's. In turn, each runs at full speed half of the time; and since a model knows how long the
//! others' steps take, its prompts do not hold up their writers.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// The turns at one pool: first come, first served.
#[derive(Debug, Default)]
pub struct Turns {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// The number of the turn that runs, or runs next.
    serving: u64,
    /// The number that the next one to come gets.
    next: u64,
    /// Whether each seat is taken, and how long steps of its writers take, if any write.
    seats: Vec<(bool, Option<f64>)>,
}

/// One model's place.
#[derive(Debug)]
pub struct Seat {
    turns: Arc<Turns>,
    index: usize,
}

/// The pool is its holder's until this is dropped.
#[derive(Debug)]
pub(crate) struct Turn<'a>(&'a Turns);

impl Turns {
    /// A place for one more model.
    pub fn seat(self: &Arc<Self>) -> Seat {
        let mut state = self.lock();
        let free = state.seats.iter().position(|(taken, _)| !taken);
        let index = free.unwrap_or(state.seats.len());
        if index == state.seats.len() {
            state.seats.push((false, None));
        }
        state.seats[index] = (true, None);
        Seat { turns: Arc::clone(self), index }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// Waits for its turn.
    pub(crate) fn take(&self) -> Turn<'_> {
        let mut state = self.turns.lock();
        let number = state.next;
        state.next += 1;
        while state.serving != number {
            state = self.turns.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        Turn(&self.turns)
    }

    /// Tells the others how long a step of its writers takes; `None`: nobody writes.
    pub(super) fn tell(&self, step_ms: Option<f64>) {
        self.turns.lock().seats[self.index].1 = step_ms;
    }

    /// The shortest step among the others' that have writers.
    pub(super) fn others_step_ms(&self) -> Option<f64> {
        let state = self.turns.lock();
        let others = state.seats.iter().enumerate().filter(|(index, _)| *index != self.index);
        others.filter_map(|(_, (_, step_ms))| *step_ms).min_by(f64::total_cmp)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.turns.lock().seats[self.index] = (false, None);
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.lock().serving += 1;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn turns_alternate_and_never_overlap() {
        let turns = Arc::new(Turns::default());
        let log = Mutex::new(Vec::new());
        let seats = [turns.seat(), turns.seat()];
        let first = seats[0].take();
        thread::scope(|scope| {
            for seat in &seats {
                scope.spawn(|| {
                    for _ in 0..100 {
                        let turn = seat.take();
                        log.lock().unwrap().push(seat.index);
                        thread::yield_now();
                        log.lock().unwrap().push(seat.index);
                        drop(turn);
                    }
                });
            }
            // Both wait by now, or soon: nobody can run before this one is done.
            assert!(log.lock().unwrap().is_empty());
            drop(first);
        });
        let log = log.into_inner().unwrap();
        assert!(log.chunks(2).all(|turn| turn[0] == turn[1]), "two had the turn at once");
        assert_eq!(log.iter().filter(|&&seat| seat == 0).count(), 200);
    }

    #[test]
    fn each_hears_of_the_others_writers() {
        let turns = Arc::new(Turns::default());
        let (small, large) = (turns.seat(), turns.seat());
        assert_eq!(small.others_step_ms(), None);
        large.tell(Some(17.0));
        assert_eq!((small.others_step_ms(), large.others_step_ms()), (Some(17.0), None));
        drop(large);
        assert_eq!(small.others_step_ms(), None);
        assert_eq!(turns.seat().index, 1, "a place that was left is taken again");
    }
}
