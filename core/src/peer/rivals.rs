//! A hint that two daemons run with one identity.

use core::time::Duration;

use crate::io::Path;
use crate::time::Instant;

/// Handshakes closer together than this are one attempt on several paths of one daemon.
const ATTEMPT: Duration = Duration::from_secs(5);
/// Turns that count lie within this time: a rival that was replaced comes back when its session is closed, half a minute later.
const SPAN: Duration = Duration::from_secs(600);
/// Returns to the other's path that are enough: a, b, a, b. A daemon that moved does not start anew from where it was, twice.
const RETURNS: u8 = 2;

/// Looks, one every half a minute, at which a session that was replaced is still in use beside its successor. One daemon's ends agree on a session at the
/// first or second.
const OVERLAPS: u8 = 3;

/// From where a node began its last sessions, or seemed to be with one that it had: two daemons that both have a session are each heard at every keep-alive.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rivals {
    last: Path,
    before: Path,
    returns: u8,
    overlaps: u8,
    since: Instant,
    latest: Instant,
}

impl Rivals {
    /// Notes that the peer began a new session (not a resumed one) on `path`, or moved there. True when two daemons seem to take turns; then it starts over.
    pub(super) fn note(&mut self, path: Path, now: Instant) -> bool {
        if path == self.last {
            self.latest = now;
            return false;
        }
        if self.last != Path::NONE && now.saturating_since(self.latest) < ATTEMPT {
            return false;
        }
        if path != self.before || now.saturating_since(self.since) > SPAN {
            self.returns = 0;
            self.since = now;
        } else {
            self.returns += 1;
        }
        (self.before, self.last, self.latest) = (self.last, path, now);
        let caught = self.returns >= RETURNS;
        if caught {
            *self = Self::default();
        }
        caught
    }

    /// Notes whether a session that was replaced long enough ago to be closed is still in use, on another path than its successor, which is in use as well.
    /// True when two daemons seem to have one session each; then it starts over.
    pub(super) fn note_overlap(&mut self, overlap: bool) -> bool {
        self.overlaps = if overlap { self.overlaps + 1 } else { 0 };
        let caught = self.overlaps >= OVERLAPS;
        if caught {
            *self = Self::default();
        }
        caught
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn path(index: u32) -> Path {
        Path { index, generation: 0 }
    }

    fn first_alarm(turns: impl IntoIterator<Item = (u64, u32)>) -> Option<usize> {
        let mut rivals = Rivals::default();
        turns.into_iter().position(|(second, index)| rivals.note(path(index), Instant::from_secs(second)))
    }

    #[test]
    fn two_daemons_that_take_turns_are_noticed() {
        assert_eq!(first_alarm([(10, 1), (40, 2), (75, 1), (110, 2)]), Some(3));
    }

    #[test]
    fn two_daemons_that_keep_a_session_each_are_noticed_and_one_that_follows_late_is_not() {
        let first = |overlaps: &[bool]| {
            let mut rivals = Rivals::default();
            overlaps.iter().position(|overlap| rivals.note_overlap(*overlap))
        };
        assert_eq!(first(&[true, true, true]), Some(2));
        assert_eq!(first(&[true, true, false, true, true, false]), None);
    }

    #[test]
    fn a_daemon_that_moves_restarts_or_dials_on_two_paths_is_not() {
        assert_eq!(first_alarm([(10, 1), (40, 2), (75, 3), (110, 4), (130, 5)]), None);
        assert_eq!(first_alarm((0..50).map(|i| (i * 40, 1))), None);
        assert_eq!(first_alarm((0..50).flat_map(|i| [(i * 40, 1), (i * 40 + 1, 2)])), None);
        assert_eq!(first_alarm((0..20).map(|i| (i * 3600, 1 + i as u32 % 2))), None);
    }
}
