//! Relay circuits: which datagram may pass, and where it goes.

use hashbrown::HashMap;

use crate::io::{DropReason, Path};
use crate::time::Instant;

/// Circuits that a shard knows at most; the control plane admits fewer. Beyond it new ones are refused and counted as
/// [`DropReason::QueueFull`]: evicting one would cut a conversation that was consented to.
pub const MAX_CIRCUITS: usize = 4_096;

/// Datagrams of unknown circuits per second that are shown to the control plane; the others are [`DropReason::UnknownCircuit`].
pub const NEW_CIRCUIT_RATE: u64 = 8;

/// Circuit by our index.
pub(super) type Circuits = HashMap<u32, Circuit, foldhash::fast::FixedState>;

/// Where the datagrams of a circuit go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leg {
    /// On to the next hop, with its index in the header, or without header.
    Onward { to: Path, next_index: Option<u32> },
    /// Nowhere: we are its end, and what is in it came by this path.
    Here(Path),
}

/// A circuit that both sides consented to.
#[derive(Clone, Debug)]
pub(super) struct Circuit {
    pub(super) from: Path,
    pub(super) leg: Leg,
    pub(super) allowance: Bucket,
}

/// A token bucket: `rate` per second, with a burst of as much.
#[derive(Clone, Debug)]
pub(super) struct Bucket {
    rate: u64,
    /// What is left, in millionths.
    level: u128,
    filled: Instant,
}

impl Bucket {
    /// A full bucket.
    pub(super) const fn new(rate: u64, now: Instant) -> Self {
        Self { rate, level: rate as u128 * MILLION, filled: now }
    }

    /// Changes the rate; what was spent stays spent.
    pub(super) fn set_rate(&mut self, rate: u64) {
        self.rate = rate;
        self.level = self.level.min(u128::from(rate) * MILLION);
    }

    /// Takes `amount` out.
    ///
    /// # Errors
    /// [`DropReason::RateLimited`] when less is left; then nothing is taken.
    #[inline]
    pub(super) fn take(&mut self, amount: u64, now: Instant) -> Result<(), DropReason> {
        let elapsed = now.as_micros().saturating_sub(self.filled.as_micros());
        self.filled = self.filled.max(now);
        self.level = self.level.saturating_add(u128::from(elapsed) * u128::from(self.rate)).min(u128::from(self.rate) * MILLION);
        let cost = u128::from(amount) * MILLION;
        self.level = self.level.checked_sub(cost).ok_or(DropReason::RateLimited)?;
        Ok(())
    }
}

const MILLION: u128 = 1_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_its_rate_and_one_burst() {
        let mut bucket = Bucket::new(1_000, Instant::ZERO);
        let mut passed = 0;
        for ms in 0..10_000 {
            if bucket.take(7, Instant::from_millis(ms)).is_ok() {
                passed += 7;
            }
        }
        assert!((10_900..=11_000).contains(&passed), "{passed} bytes in 10 s");
        assert_eq!(bucket.take(1_001, Instant::from_secs(1_000_000)), Err(DropReason::RateLimited));
        assert_eq!(bucket.take(1_000, Instant::from_secs(1_000_000)), Ok(()));
        // Time that steps back gives nothing.
        assert_eq!(bucket.take(1, Instant::ZERO), Err(DropReason::RateLimited));
    }

    #[test]
    fn the_largest_numbers_do_not_overflow() {
        let mut bucket = Bucket::new(u64::MAX, Instant::ZERO);
        assert_eq!(bucket.take(u64::MAX, Instant::from_micros(u64::MAX)), Ok(()));
        bucket.set_rate(0);
        assert_eq!(bucket.take(1, Instant::from_micros(u64::MAX)), Err(DropReason::RateLimited));
    }
}
