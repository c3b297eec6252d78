//! The wall clock as the protocol may use it.

use crate::time::{Instant, UnixTime};

/// Keeps wall-clock time between the daemon's reports, never before the latest time seen signed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    at: Instant,
    host: UnixTime,
    signed: UnixTime,
}

impl Clock {
    pub(super) const fn new(at: Instant, host: UnixTime, signed: UnixTime) -> Self {
        Self { at, host, signed }
    }

    /// The host reports its wall clock.
    pub(super) const fn set(&mut self, at: Instant, host: UnixTime) {
        self.at = at;
        self.host = host;
    }

    /// A time was seen under a signature of the group's CA; `true` when it is the latest so far.
    pub(super) fn seen_signed(&mut self, signed: UnixTime) -> bool {
        let newer = signed > self.signed;
        self.signed = self.signed.max(signed);
        newer
    }

    /// What validity is decided by.
    pub(super) fn now(&self, now: Instant) -> UnixTime {
        self.host_now(now).max(self.signed)
    }

    /// Whether the host's clock lies behind the latest signed time.
    pub(super) fn is_behind(&self, now: Instant) -> bool {
        self.host_now(now) < self.signed
    }

    fn host_now(&self, now: Instant) -> UnixTime {
        self.host.plus_secs(now.saturating_since(self.at).as_secs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_set_back_is_not_believed_before_the_latest_signed_time() {
        let start = Instant::from_secs(5);
        let mut clock = Clock::new(start, UnixTime(1_000_000), UnixTime(900_000));
        assert_eq!(clock.now(Instant::from_secs(15)), UnixTime(1_000_010));
        assert!(clock.seen_signed(UnixTime(1_000_005)) && !clock.seen_signed(UnixTime(7)));
        clock.set(Instant::from_secs(20), UnixTime(10));
        assert_eq!(clock.now(Instant::from_secs(20)), UnixTime(1_000_005));
        assert!(clock.is_behind(Instant::from_secs(20)));
    }
}
