//! Deadlines: the owner's `Option<Instant>` is the truth, the heap is only an index to it.

use core::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::time::Instant;

/// A min-heap of `(deadline, key)` with lazy deletion.
///
/// Owners keep their own deadline; [`TimerHeap::pop_due`] asks them whether an entry still holds. An entry whose owner moved its deadline
/// later is dropped when it surfaces, so owners call [`TimerHeap::arm`] at every change.
#[derive(Clone, Debug)]
pub struct TimerHeap<K> {
    heap: BinaryHeap<Reverse<(Instant, K)>>,
}

impl<K> Default for TimerHeap<K>
where
    K: Ord + Copy,
{
    fn default() -> Self {
        Self { heap: BinaryHeap::new() }
    }
}

impl<K> TimerHeap<K>
where
    K: Ord + Copy,
{
    /// Indexes a deadline that the owner has just set.
    pub fn arm(&mut self, deadline: Instant, key: K) {
        self.heap.push(Reverse((deadline, key)));
    }

    /// The next deadline that is due at `now` and that `still_holds(key, deadline)` confirms; call until `None`.
    pub fn pop_due(&mut self, now: Instant, mut still_holds: impl FnMut(K, Instant) -> bool) -> Option<K> {
        while let Some(&Reverse((deadline, key))) = self.heap.peek() {
            if deadline > now {
                return None;
            }
            self.heap.pop();
            if still_holds(key, deadline) {
                return Some(key);
            }
        }
        None
    }

    /// The earliest indexed deadline. It may be stale (early), never late: a wake-up for nothing is harmless.
    #[must_use]
    pub fn next(&self) -> Option<(Instant, K)> {
        self.heap.peek().map(|&Reverse(entry)| entry)
    }

    /// Drops stale entries when they outnumber the live ones; call it when owners were removed in bulk.
    pub fn compact(&mut self, mut still_holds: impl FnMut(K, Instant) -> bool) {
        self.heap.retain(|&Reverse((deadline, key))| still_holds(key, deadline));
    }

    /// Number of indexed deadlines, stale ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Whether nothing is indexed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }
}

/// The earlier of two optional deadlines with their names.
#[must_use]
pub fn earlier<T: Copy>(a: Option<(Instant, T)>, b: Option<(Instant, T)>) -> Option<(Instant, T)> {
    match (a, b) {
        (Some(x), Some(y)) => Some(if y.0 < x.0 { y } else { x }),
        (x, y) => x.or(y),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_whose_owner_moved_on_does_not_fire() {
        let mut timers = TimerHeap::default();
        let moved = Instant::from_secs(9);
        timers.arm(Instant::from_secs(1), 'a');
        timers.arm(moved, 'a');
        timers.arm(Instant::from_secs(2), 'b');
        let holds = |key, deadline| key != 'a' || deadline == moved;
        assert_eq!(timers.pop_due(Instant::from_secs(5), holds), Some('b'));
        assert_eq!(timers.pop_due(Instant::from_secs(5), holds), None);
        assert_eq!(timers.next(), Some((moved, 'a')));
        assert_eq!(timers.pop_due(moved, holds), Some('a'));
        assert!(timers.is_empty());
    }
}
