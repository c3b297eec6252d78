//! One path to a peer: whether it is proven, how good it is, and which of two is better.

use core::time::Duration;

use super::cadence::{KEEP_ALIVE, KEEP_ALIVE_SPREAD};
use super::loss::{Loss, MAX_PROBES};
use super::rtt::Rtt;
use super::search::Search;
use crate::io::Path;
use crate::time::Instant;

/// How a path reaches the peer. A lower rank is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PathKind {
    /// Straight to the peer, by UDP or stream.
    Direct,
    /// Over a relay's circuit.
    Relay,
    /// Routed over the ring.
    Routed,
}

impl PathKind {
    /// 0 for direct, 1 for relay, 2 for routed: a usable path of a lower rank is always taken before one of a higher.
    #[must_use]
    pub const fn rank(self) -> u8 {
        match self {
            Self::Direct => 0,
            Self::Relay => 1,
            Self::Routed => 2,
        }
    }

    /// The kind's name in `status`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Relay => "relay",
            Self::Routed => "routed",
        }
    }
}

/// Challenges that a candidate gets before it is forgotten. At 30 % loss each way 5 are all lost with probability 3 %, and the next packet from
/// there makes it a candidate again.
pub(super) const MAX_CHALLENGES: u8 = 5;
/// The wait behind the first challenge; doubles with each further one: 0.3, 0.6, 1.2, 2.4, 4.8 s, in all 9.3 s, as long as a hole punch may take.
const FIRST_CHALLENGE_WAIT: Duration = Duration::from_millis(300);
/// A spare path without an answer for this long is forgotten: a Wi-Fi that comes back within it is taken again without the overlay's help.
pub(super) const SPARE_LIFE: Duration = Duration::from_secs(300);
/// Each permille of lost probes makes a path as bad as this much more round-trip time: 10 % loss like 10 ms.
const LOSS_COST: u32 = 100;
/// A path must be better by this, and by an eighth, before a move that nothing forces: estimates of equal paths differ by less.
const MARGIN: Duration = Duration::from_millis(2);
/// This part of the probes that mean death is enough to prefer another path that does answer: 4 in a row are lost with 7 % at 30 % loss each way on
/// a path that was clean so far, 8 with 0.5 % once the loss is known; a needless move costs little and is taken back.
const DOUBT: u8 = 4;
/// Answers that a path must have given before it may replace a working one for its speed.
const MIN_SAMPLES: u8 = 4;

/// What is known about one path.
#[derive(Clone, Debug)]
pub(super) struct PathState {
    pub(super) path: Path,
    pub(super) kind: PathKind,
    /// A challenge on it was answered, or a handshake came about on it.
    pub(super) proven: bool,
    /// It came by itself in an authenticated packet, not by [`Peers::add_path`](super::Peers::add_path).
    pub(super) unsolicited: bool,
    /// The peer seems to have moved here: the answer to the latest challenge decides.
    pub(super) hinted: bool,
    /// Whether the peer's address on it is IPv6, once seen.
    pub(super) ipv6: Option<bool>,
    /// Challenges sent as a candidate.
    pub(super) challenges: u8,
    /// Address reports sent.
    pub(super) reports: u8,
    /// Probes lost in a row with nothing heard on the path.
    pub(super) silent: u8,
    /// Probes lost in a row, whatever was heard.
    pub(super) unanswered: u8,
    /// [`Loss::needed`] at the last answer: what is lost since then is what has to be judged.
    needed: u8,
    pub(super) rtt: Rtt,
    pub(super) loss: Loss,
    /// What size of packet it carries; only once it has carried data.
    pub(super) search: Option<Box<Search>>,
    /// Last authenticated packet that came by it.
    pub(super) heard: Instant,
    /// Last packet sent on it.
    pub(super) sent: Instant,
    /// Last ping sent on it.
    pub(super) pinged: Instant,
    /// Last answer to a ping on it, or its handshake.
    pub(super) answered: Instant,
}

impl PathState {
    pub(super) fn new(path: Path, kind: PathKind, proven: bool, now: Instant) -> Self {
        Self {
            path,
            kind,
            proven,
            unsolicited: false,
            hinted: false,
            ipv6: None,
            challenges: 0,
            reports: 0,
            silent: 0,
            unanswered: 0,
            needed: MAX_PROBES,
            rtt: Rtt::default(),
            loss: Loss::default(),
            search: None,
            heard: now,
            sent: now,
            pinged: now,
            answered: now,
        }
    }

    /// When the next challenge of a candidate is due, or when it is forgotten.
    pub(super) fn challenge_at(&self) -> Instant {
        match self.challenges {
            0 => self.pinged,
            sent => self.pinged + FIRST_CHALLENGE_WAIT * (1 << u32::from(sent - 1).min(8)),
        }
    }

    /// Notes an authenticated packet that came by it.
    pub(super) fn hear(&mut self, now: Instant) {
        self.heard = self.heard.max(now);
        self.silent = 0;
    }

    /// Notes an answered ping; `late` if it was counted as lost before.
    pub(super) fn answer(&mut self, rtt: Duration, late: bool, now: Instant) {
        self.proven = true;
        self.challenges = 0;
        self.answered = now;
        self.silent = 0;
        self.unanswered = 0;
        self.rtt.sample(rtt, now);
        if !late {
            self.loss.answered();
        }
        self.needed = self.loss.needed();
    }

    /// Notes that a ping sent at `sent` was not answered in time.
    pub(super) fn lose(&mut self, sent: Instant) {
        self.loss.lost();
        self.unanswered = self.unanswered.saturating_add(1);
        if self.heard <= sent {
            self.silent = self.silent.saturating_add(1);
        }
    }

    /// Whether it should not be trusted with packets: a quarter of a deadly series lost in silence, or a whole one although the peer is heard.
    pub(super) fn is_doubtful(&self) -> bool {
        self.silent >= self.needed / DOUBT || self.unanswered >= self.needed
    }

    /// Whether quiet must be broken to keep mappings in NATs open: not on a routed path, whose links keep themselves.
    pub(super) fn is_kept_alive(&self) -> bool {
        self.proven && self.kind != PathKind::Routed
    }

    /// When a packet must leave on it if none did; `phase` is 0 to 1000.
    pub(super) fn keep_alive_at(&self, phase: u16) -> Instant {
        self.sent + (KEEP_ALIVE - KEEP_ALIVE_SPREAD * u32::from(phase.min(1000)) / 1000)
    }

    /// Round-trip time with loss priced in, in µs; a path without a sample is worst.
    pub(super) fn cost(&self) -> u32 {
        let Some(least) = self.rtt.least() else { return u32::MAX };
        u32::try_from(least.as_micros()).unwrap_or(u32::MAX).saturating_add(u32::from(self.loss.permille()) * LOSS_COST)
    }

    /// Why this path should replace `active`, both of one rank and neither doubtful. `None` unless it is clearly better: a path that is a little
    /// faster now is a little slower next time, and each move costs reordering. On a tie IPv6 is taken: no NAT has to be kept open for it.
    pub(super) fn beats(&self, active: &Self) -> Option<&'static str> {
        if self.rtt.samples() < MIN_SAMPLES || active.rtt.samples() < MIN_SAMPLES {
            return None;
        }
        let (mine, theirs) = (self.cost(), active.cost());
        let margin = MARGIN.as_micros() as u32 + theirs / 8;
        if mine.saturating_add(margin) < theirs {
            return Some("lower round-trip time");
        }
        // Half the margin: what wins here cannot lose by the rule above at the same estimates.
        let tied = mine <= theirs.saturating_add(margin / 2);
        (tied && self.ipv6 == Some(true) && active.ipv6 == Some(false)).then_some("as fast, and IPv6")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(rtt_ms: u64, ipv6: bool) -> PathState {
        let mut state = PathState::new(Path::NONE, PathKind::Direct, true, Instant::ZERO);
        for _ in 0..10 {
            state.answer(Duration::from_millis(rtt_ms), false, Instant::ZERO);
        }
        state.ipv6 = Some(ipv6);
        state
    }

    #[test]
    fn a_little_faster_is_not_enough_and_much_faster_is() {
        assert_eq!(measured(95, false).beats(&measured(100, false)), None);
        assert_eq!(measured(80, false).beats(&measured(100, false)), Some("lower round-trip time"));
        assert_eq!(measured(1, false).beats(&measured(2, false)), None);
    }

    #[test]
    fn no_pair_of_paths_beats_each_other() {
        for a in [1, 2, 3, 5, 10, 19, 20, 21, 22, 40, 100, 101, 110, 300] {
            for b in [1, 2, 3, 5, 10, 19, 20, 21, 22, 40, 100, 101, 110, 300] {
                for (six_a, six_b) in [(false, false), (true, false), (false, true)] {
                    let (first, second) = (measured(a, six_a), measured(b, six_b));
                    assert!(first.beats(&second).is_none() || second.beats(&first).is_none(), "{a} {b} {six_a} {six_b}");
                }
            }
        }
    }

    #[test]
    fn ipv6_wins_ties_only() {
        assert_eq!(measured(100, true).beats(&measured(100, false)), Some("as fast, and IPv6"));
        assert_eq!(measured(100, false).beats(&measured(100, true)), None);
        assert_eq!(measured(120, true).beats(&measured(100, false)), None);
    }

    #[test]
    fn loss_is_priced_in() {
        let mut lossy = measured(20, false);
        for _ in 0..30 {
            lossy.answer(Duration::from_millis(20), false, Instant::ZERO);
            lossy.lose(Instant::ZERO);
        }
        assert!(measured(25, false).beats(&lossy).is_some());
    }

    #[test]
    fn what_is_heard_ends_the_silence_but_proves_nothing() {
        let mut state = measured(20, false);
        for _ in 0..100 {
            state.answer(Duration::from_millis(20), false, Instant::ZERO);
        }
        for second in 1..=4 {
            state.lose(Instant::from_secs(second));
            assert_eq!(state.is_doubtful(), second == 4);
        }
        state.hear(Instant::from_secs(5));
        assert!(!state.is_doubtful());
        for second in 6..60 {
            state.hear(Instant::from_secs(second + 1));
            state.lose(Instant::from_secs(second));
        }
        assert!(state.is_doubtful(), "the peer is heard, but nothing of ours arrives");
        state.answer(Duration::from_millis(20), false, Instant::from_secs(61));
        assert!(!state.is_doubtful());
    }
}
