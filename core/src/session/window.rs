//! The replay window of control packets.

use crate::io::DropReason;

/// Packets by which one may be late: control packets are few, so that 128 outlast any reordering of a path.
pub(super) const WINDOW: u64 = 128;

/// The highest counter seen and which of the [`WINDOW`] counters up to it were.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Window {
    /// One more than the highest authenticated counter; 0 before the first packet.
    next: u64,
    /// Bit `i` stands for counter `next - 1 - i`.
    seen: u128,
}

impl Window {
    /// The highest authenticated counter, 0 before the first.
    pub(super) const fn highest(&self) -> u64 {
        self.next.saturating_sub(1)
    }

    /// Whether `counter` may still be opened.
    pub(super) const fn check(&self, counter: u64) -> Result<(), DropReason> {
        if counter >= self.next {
            return Ok(());
        }
        let age = self.next - 1 - counter;
        if age >= WINDOW {
            Err(DropReason::TooOld)
        } else if self.seen >> age & 1 == 1 {
            Err(DropReason::Replayed)
        } else {
            Ok(())
        }
    }

    /// Marks `counter`, which was checked and authenticated; answers whether it is the newest.
    pub(super) const fn mark(&mut self, counter: u64) -> bool {
        if counter >= self.next {
            let ahead = counter + 1 - self.next;
            self.seen = if ahead >= WINDOW { 1 } else { self.seen << ahead | 1 };
            self.next = counter + 1;
            true
        } else {
            self.seen |= 1 << (self.next - 1 - counter);
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn each_counter_passes_once_and_old_ones_never(steps in proptest::collection::vec(0u64..400, 1..300)) {
            let mut window = Window::default();
            let mut seen = BTreeSet::new();
            for counter in steps {
                let highest = seen.last().copied();
                let expected = match highest {
                    Some(highest) if counter + WINDOW <= highest => Err(DropReason::TooOld),
                    _ if seen.contains(&counter) => Err(DropReason::Replayed),
                    _ => Ok(()),
                };
                prop_assert_eq!(window.check(counter), expected);
                if expected.is_ok() {
                    prop_assert_eq!(window.mark(counter), highest.is_none_or(|highest| counter > highest));
                    seen.insert(counter);
                    prop_assert_eq!(Some(&window.highest()), seen.last());
                }
            }
        }
    }
}
