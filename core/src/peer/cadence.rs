//! How often a peer is asked whether it is there, and by when its death is noticed.

use core::time::Duration;

use super::rtt::Rtt;

/// What a peer is to this node; decides how soon its death must be noticed. Traffic shortens it to 5 s by itself, until 10 s after
/// the last of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Use {
    /// A ring neighbour: noticed within 15 s.
    Near,
    /// Another link of the overlay: noticed within 60 s.
    #[default]
    Link,
    /// Neither link nor traffic: noticed within 120 s.
    Idle,
}

/// After the last traffic (or the last suspicion) a peer counts as in use for this long: longer than the second TCP retransmissions of a
/// connection that has just lost its peer.
pub(super) const IN_USE_HOLD: Duration = Duration::from_secs(10);
/// Longest time without a packet of ours on a path that a NAT must stay open for; the keep-alive is drawn between this less [`KEEP_ALIVE_SPREAD`] and this.
/// Many NATs forget a UDP mapping after 30 s.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(25);
/// Width of the keep-alive's jitter.
pub(super) const KEEP_ALIVE_SPREAD: Duration = Duration::from_secs(5);
/// Silence is taken up to this share (permille) earlier or later, so that the two ends of a link do not probe in the same instant.
pub(super) const QUIET_SPREAD: u16 = 60;
/// Shortest distance of two probes: 32 of them then take 1.3 s, and 25 small packets a second hurt no path.
const MIN_SPACING: Duration = Duration::from_millis(40);

/// One cadence of probing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cadence {
    /// Silence on the active path after which the first probe leaves.
    pub(super) quiet: Duration,
    /// Silence by which death is noticed, as long as [`Rtt::timeout`] is at most 1 s.
    pub(super) notice: Duration,
    /// Longest time without an answered probe, even when packets arrive: they do not prove that ours do.
    pub(super) proof: Duration,
}

impl Cadence {
    /// While traffic flows.
    pub(super) const IN_USE: Self = Self::new(1_000, 4_800, 10);
    /// [`Use::Near`].
    pub(super) const NEAR: Self = Self::new(8_500, 14_700, 30);
    /// [`Use::Link`]. Quiet is longer than a keep-alive, so that a clean idle link costs one byte each way per 22 s and a probe a minute.
    pub(super) const LINK: Self = Self::new(30_000, 58_000, 60);
    /// [`Use::Idle`].
    pub(super) const IDLE: Self = Self::new(60_000, 117_000, 120);

    const fn new(quiet_ms: u64, notice_ms: u64, proof_secs: u64) -> Self {
        Self { quiet: Duration::from_millis(quiet_ms), notice: Duration::from_millis(notice_ms), proof: Duration::from_secs(proof_secs) }
    }

    /// The cadence of a use without traffic.
    pub(super) const fn of(use_: Use) -> Self {
        match use_ {
            Use::Near => Self::NEAR,
            Use::Link => Self::LINK,
            Use::Idle => Self::IDLE,
        }
    }

    /// [`Self::quiet`] with a jitter of `permille`, which lies within ±[`QUIET_SPREAD`].
    pub(super) fn quiet_with(&self, permille: i16) -> Duration {
        self.quiet * (1000 + i32::from(permille)).max(0) as u32 / 1000
    }

    /// Distance of the second and all further of `probes` probes: what is left of [`Self::notice`] after the longest quiet, the wait for an answer to
    /// the first probe and the one to the last, in equal parts.
    pub(super) fn spacing(&self, rtt: &Rtt, probes: u8) -> Duration {
        let left = self.notice.saturating_sub(self.quiet_with(QUIET_SPREAD as i16)).saturating_sub(rtt.timeout() * 2);
        (left / u32::from(probes.max(3) - 2)).max(MIN_SPACING)
    }
}

#[cfg(test)]
mod tests {
    use super::super::loss::{MAX_PROBES, MIN_PROBES};
    use super::*;
    use crate::time::Instant;

    #[test]
    fn every_cadence_notices_in_time_for_any_number_of_probes() {
        let mut fast = Rtt::default();
        fast.sample(Duration::from_millis(30), Instant::ZERO);
        for (cadence, limit) in [(Cadence::IN_USE, 5), (Cadence::NEAR, 15), (Cadence::LINK, 60), (Cadence::IDLE, 120)] {
            for rtt in [fast, Rtt::default()] {
                for probes in MIN_PROBES..=MAX_PROBES {
                    let last =
                        cadence.quiet_with(QUIET_SPREAD as i16) + rtt.timeout() + cadence.spacing(&rtt, probes) * u32::from(probes - 2);
                    assert!(last + rtt.timeout() < Duration::from_secs(limit), "{cadence:?} {probes}");
                }
            }
        }
    }
}
