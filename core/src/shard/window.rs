//! The replay window of one lane.

use crate::io::DropReason;
use crate::wire::packet::rebuild_counter;

/// Counters behind the highest authenticated one that are still accepted: at 10 Gbit/s and 1,400 bytes 2 ms of reordering within one lane.
/// A path that is slower by more has a lane of its own.
pub const WINDOW: u64 = 2_048;

const WORDS: usize = (WINDOW / 64) as usize;

/// Which counters of a lane were seen: a ring of [`WINDOW`] bits that end at the highest authenticated counter.
#[derive(Clone, Debug)]
pub(super) struct ReplayWindow {
    /// The highest authenticated counter plus one; 0 before the first packet.
    next: u64,
    seen: [u64; WORDS],
}

impl ReplayWindow {
    pub(super) const fn new() -> Self {
        Self { next: 0, seen: [0; WORDS] }
    }

    /// The 64-bit counter whose low 32 bits a packet carries.
    #[inline]
    pub(super) const fn rebuild(&self, low: u32) -> u64 {
        rebuild_counter(self.next.saturating_sub(1), low)
    }

    /// Whether a packet with `counter` may be opened. Changes nothing: the packet is not authenticated yet.
    #[inline]
    pub(super) const fn check(&self, counter: u64) -> Result<(), DropReason> {
        if counter >= self.next {
            return Ok(());
        }
        if self.next - counter > WINDOW {
            return Err(DropReason::TooOld);
        }
        if self.seen[word(counter)] & bit(counter) != 0 {
            return Err(DropReason::Replayed);
        }
        Ok(())
    }

    /// Marks the counter of an authenticated packet as seen; true when it is the new highest one.
    #[inline]
    pub(super) fn commit(&mut self, counter: u64) -> bool {
        let newest = counter >= self.next;
        if newest {
            self.forget(counter);
            self.next = counter.saturating_add(1);
        }
        self.seen[word(counter)] |= bit(counter);
        newest
    }

    /// Clears the bits of the counters that the window moves over on its way to `counter`.
    #[inline]
    fn forget(&mut self, counter: u64) {
        if counter - self.next >= WINDOW {
            self.seen = [0; WORDS];
            return;
        }
        let mut at = self.next;
        while at <= counter {
            let end = counter.min(at | 63);
            let ones = u64::MAX >> (63 - (end - at));
            self.seen[word(at)] &= !(ones << (at % 64));
            at = end + 1;
        }
    }
}

const fn word(counter: u64) -> usize {
    (counter / 64) as usize % WORDS
}

const fn bit(counter: u64) -> u64 {
    1 << (counter % 64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn exactly_2048_counters_are_remembered() {
        let mut window = ReplayWindow::new();
        assert!(window.commit(5_000));
        assert_eq!(window.check(5_000), Err(DropReason::Replayed));
        assert_eq!(window.check(5_000 - WINDOW + 1), Ok(()));
        assert_eq!(window.check(5_000 - WINDOW), Err(DropReason::TooOld));
        assert!(!window.commit(5_000 - WINDOW + 1));
        assert!(window.commit(5_001));
        assert_eq!(window.check(5_001 - WINDOW), Err(DropReason::TooOld));
        assert_eq!(window.check(5_001 - WINDOW + 1), Ok(()));
    }

    #[test]
    fn the_first_counter_of_a_lane_is_accepted_once() {
        let mut window = ReplayWindow::new();
        assert_eq!(window.check(0), Ok(()));
        assert!(window.commit(0));
        assert_eq!(window.check(0), Err(DropReason::Replayed));
    }

    proptest! {
        #[test]
        fn the_window_agrees_with_a_set_of_all_counters(steps in proptest::collection::vec((any::<bool>(), 0u64..5_000), 1..400)) {
            let mut window = ReplayWindow::new();
            let mut seen = BTreeSet::new();
            let mut highest = 0u64;
            for (forward, distance) in steps {
                let counter = if forward { highest + distance % 3_000 } else { highest.saturating_sub(distance) };
                let expected = if seen.contains(&counter) && highest - counter < WINDOW {
                    Err(DropReason::Replayed)
                } else if counter + WINDOW <= highest && !seen.is_empty() {
                    Err(DropReason::TooOld)
                } else {
                    Ok(())
                };
                prop_assert_eq!(window.check(counter), expected, "counter {} highest {}", counter, highest);
                prop_assert_eq!(window.rebuild(counter as u32), counter);
                if expected.is_ok() {
                    prop_assert_eq!(window.commit(counter), seen.is_empty() || counter > highest);
                    seen.insert(counter);
                    highest = highest.max(counter);
                }
            }
        }
    }
}
