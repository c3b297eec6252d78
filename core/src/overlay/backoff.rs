//! Waiting longer after each failure.

use core::time::Duration;

use crate::rng::Rng;
use crate::time::Instant;

/// A wait that doubles from `first` to `max`, each time spread by 30 % so that nodes that failed together do not return together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Backoff {
    first: Duration,
    max: Duration,
    wait: Duration,
    next: Instant,
}

impl Backoff {
    /// Due at once.
    pub(super) const fn new(first: Duration, max: Duration, now: Instant) -> Self {
        Self { first, max, wait: first, next: now }
    }

    pub(super) const fn next(&self) -> Instant {
        self.next
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.next <= now
    }

    /// Waits, and longer next time.
    pub(super) fn wait(&mut self, rng: &mut Rng, now: Instant) {
        self.next = now + rng.jitter(self.wait, 300);
        self.wait = self.wait.saturating_mul(2).min(self.max);
    }

    /// Something changed: starts over, due after `delay`.
    pub(super) fn reset(&mut self, delay: Duration, now: Instant) {
        self.wait = self.first;
        self.next = now + delay;
    }

    /// Something changed: starts over, but does not come later than it would have.
    pub(super) fn hasten(&mut self, delay: Duration, now: Instant) {
        self.wait = self.first;
        self.next = self.next.min(now + delay);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_maximum_and_start_over_after_a_reset() {
        let mut rng = Rng::new([3; 32]);
        let now = Instant::from_secs(100);
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(8), now);
        assert!(backoff.is_due(now));
        for expected in [1u64, 2, 4, 8, 8] {
            backoff.wait(&mut rng, now);
            let waited = backoff.next().saturating_since(now).as_millis() as u64;
            assert!((expected * 700..=expected * 1300).contains(&waited), "{waited} ms for {expected} s");
        }
        backoff.hasten(Duration::from_secs(60), now);
        assert!(backoff.next() < now + Duration::from_secs(60));
        backoff.reset(Duration::ZERO, now);
        backoff.wait(&mut rng, now);
        assert!(backoff.next() <= now + Duration::from_millis(1300));
    }
}
