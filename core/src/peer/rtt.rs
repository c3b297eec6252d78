//! Round-trip time of one path, in whole µs.

use core::time::Duration;

use crate::time::Instant;

/// Shortest wait for an answer: answers of an unloaded host can be this late (RFC 6298 has 1 s; a lost probe costs nothing here).
const MIN_TIMEOUT: Duration = Duration::from_millis(200);
/// Longest wait for an answer: who answers later than this is as good as gone.
const MAX_TIMEOUT: Duration = Duration::from_secs(3);
/// The wait before anything was measured (RFC 6298, 2.1).
const FIRST_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a minimum holds: two windows of this many s are kept, so that it follows a change of the route within two minutes.
const LEAST_WINDOW: u32 = 60;

/// The estimate of RFC 6298 with the lowest sample of the last one to two minutes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Rtt {
    smoothed: u32,
    variation: u32,
    least: u32,
    least_before: u32,
    window: u32,
    samples: u8,
}

impl Rtt {
    /// Takes in one measurement.
    pub(super) fn sample(&mut self, rtt: Duration, now: Instant) {
        let rtt = u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX).max(1);
        let window = u32::try_from(now.as_micros() / 1_000_000).unwrap_or(u32::MAX) / LEAST_WINDOW;
        if self.samples == 0 {
            *self = Self { smoothed: rtt, variation: rtt / 2, least: rtt, least_before: rtt, window, samples: 1 };
            return;
        }
        let off = self.smoothed.abs_diff(rtt);
        self.variation = ((u64::from(self.variation) * 3 + u64::from(off)) / 4) as u32;
        self.smoothed = ((u64::from(self.smoothed) * 7 + u64::from(rtt)) / 8) as u32;
        if window != self.window {
            self.least_before = if window == self.window.wrapping_add(1) { self.least } else { rtt };
            self.least = rtt;
            self.window = window;
        } else {
            self.least = self.least.min(rtt);
        }
        self.samples = self.samples.saturating_add(1);
    }

    /// The smoothed round-trip time; `None` before the first sample.
    pub(super) fn smoothed(&self) -> Option<Duration> {
        (self.samples > 0).then(|| Duration::from_micros(self.smoothed.into()))
    }

    /// The lowest sample of the last one to two minutes: what the path can do when no queue is in the way.
    pub(super) fn least(&self) -> Option<Duration> {
        (self.samples > 0).then(|| Duration::from_micros(self.least.min(self.least_before).into()))
    }

    /// Mean deviation of the samples.
    pub(super) fn jitter(&self) -> Option<Duration> {
        (self.samples > 0).then(|| Duration::from_micros(self.variation.into()))
    }

    /// Number of samples, up to 255.
    pub(super) const fn samples(&self) -> u8 {
        self.samples
    }

    /// How long an answer may take before its probe counts as lost; 0.2 to 3 s.
    pub(super) fn timeout(&self) -> Duration {
        if self.samples == 0 {
            return FIRST_TIMEOUT;
        }
        Duration::from_micros(u64::from(self.smoothed) + u64::from(self.variation) * 4).clamp(MIN_TIMEOUT, MAX_TIMEOUT)
    }

    /// Until when most answers are back: smoothed time and one deviation, at least 5 ms; 1 s before the first sample.
    pub(super) fn expected(&self) -> Duration {
        if self.samples == 0 {
            return FIRST_TIMEOUT;
        }
        Duration::from_micros(u64::from(self.smoothed) + u64::from(self.variation).max(5_000))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn the_estimate_follows_rfc_6298() {
        let mut rtt = Rtt::default();
        assert_eq!((rtt.smoothed(), rtt.timeout()), (None, MS(1000)));
        rtt.sample(MS(100), Instant::ZERO);
        assert_eq!((rtt.smoothed(), rtt.jitter(), rtt.timeout()), (Some(MS(100)), Some(MS(50)), MS(300)));
        rtt.sample(MS(180), Instant::ZERO);
        // RTTVAR = 3/4 * 50 + 1/4 * |100 - 180| = 57.5 ms, SRTT = 7/8 * 100 + 1/8 * 180 = 110 ms, RTO = 110 + 4 * 57.5 = 340 ms.
        assert_eq!((rtt.smoothed(), rtt.timeout()), (Some(MS(110)), MS(340)));
        assert_eq!(rtt.least(), Some(MS(100)));
    }

    #[test]
    fn the_minimum_forgets_what_is_older_than_two_windows() {
        let mut rtt = Rtt::default();
        rtt.sample(MS(10), Instant::from_secs(1));
        rtt.sample(MS(80), Instant::from_secs(61));
        assert_eq!(rtt.least(), Some(MS(10)));
        rtt.sample(MS(90), Instant::from_secs(121));
        assert_eq!(rtt.least(), Some(MS(80)));
        rtt.sample(MS(95), Instant::from_secs(600));
        assert_eq!(rtt.least(), Some(MS(95)));
    }

    #[test]
    fn extreme_samples_stay_within_the_limits() {
        let mut rtt = Rtt::default();
        for sample in [Duration::ZERO, Duration::from_secs(100_000), Duration::ZERO, Duration::MAX] {
            rtt.sample(sample, Instant::ZERO);
            assert!((MIN_TIMEOUT..=MAX_TIMEOUT).contains(&rtt.timeout()));
        }
    }
}
