//! The sessions with one node: which of them to send on, and when the others may go.

use core::time::Duration;

use crate::id::NodeId;
use crate::shard::table::SessionId;
use crate::time::Instant;

/// Sessions of one node at most: the one in use, one on the way out, one being made, one to spare. The oldest unused one makes room.
pub(super) const MAX_SESSIONS: usize = 4;
/// A session that was replaced still opens packets for this long: longer than anything is under way, and than the other side takes to follow.
pub(super) const GRACE: Duration = Duration::from_secs(30);
/// Two sessions with opposite initiators that came up within this time were opened at the same time: longer than a handshake may take.
const CROSSING: Duration = Duration::from_secs(10);
/// So many pings without a packet on the session in use, while another session is heard, mean that the peer does not have it any longer.
pub(super) const SESSION_DOUBT: u8 = 4;
/// The session in use is pinged when nothing came on it for this long, but something on another one.
pub(super) const SESSION_QUIET: Duration = Duration::from_secs(1);
/// Distance of those pings: a session that the peer has lost is left after 2 s.
pub(super) const SESSION_PING: Duration = Duration::from_millis(250);

/// One session.
#[derive(Clone, Copy, Debug)]
pub(super) struct SessionSlot {
    pub(super) id: SessionId,
    /// Whether we began its handshake.
    pub(super) initiator: bool,
    /// The session whose secret it was made from.
    pub(super) resumed_from: Option<SessionId>,
    /// When it came up.
    pub(super) up: Instant,
    /// Last authenticated packet on it.
    pub(super) heard: Instant,
    /// Pings sent on it since.
    pub(super) unheard: u8,
    /// When it may be closed, once it is not the one in use.
    pub(super) retire_at: Option<Instant>,
    /// It is to be used as soon as the peer was heard on it: whoever began a full handshake has its session before the other end, and what is
    /// sealed on it until then (the rest of the handshake itself, when it goes over this very link) could not be opened there.
    pub(super) awaited: bool,
}

/// Whether of two sessions opened at the same time the one that we began is to be used: both ends take the one whose initiator has the lower node ID.
#[must_use]
pub fn ours_is_preferred(local: &NodeId, remote: &NodeId) -> bool {
    crate::session::preferred(local, remote)
}

impl SessionSlot {
    pub(super) const fn new(id: SessionId, initiator: bool, resumed_from: Option<SessionId>, now: Instant) -> Self {
        Self { id, initiator, resumed_from, up: now, heard: now, unheard: 0, retire_at: None, awaited: false }
    }

    /// Whether this newer session takes the place of `older`. A newer one always does, unless both were opened at the same time from opposite ends
    /// (and from the same earlier session, if from any): then the lower initiator's wins, whichever finished first.
    pub(super) fn replaces(&self, older: &Self, local: &NodeId, remote: &NodeId) -> bool {
        let crossing =
            self.initiator != older.initiator && self.resumed_from == older.resumed_from && self.up.saturating_since(older.up) < CROSSING;
        !crossing || self.initiator == ours_is_preferred(local, remote)
    }

    /// Notes an authenticated packet on it.
    pub(super) fn hear(&mut self, now: Instant) {
        self.heard = self.heard.max(now);
        self.unheard = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOW: NodeId = NodeId([1; 20]);
    const HIGH: NodeId = NodeId([2; 20]);

    #[test]
    fn both_ends_take_the_same_of_two_crossing_sessions_in_any_order() {
        let at = Instant::from_secs;
        for (first_by_low, gap) in [(true, 0), (true, 3), (false, 0), (false, 3)] {
            // At the low end `initiator` means "begun by low", at the high end the opposite.
            let low = [
                SessionSlot::new(SessionId(1), first_by_low, None, at(10)),
                SessionSlot::new(SessionId(2), !first_by_low, None, at(10 + gap)),
            ];
            // The high end sees them finish in the opposite order.
            let high = [
                SessionSlot::new(SessionId(2), first_by_low, None, at(10)),
                SessionSlot::new(SessionId(1), !first_by_low, None, at(10 + gap)),
            ];
            let low_takes = if low[1].replaces(&low[0], &LOW, &HIGH) { low[1].id } else { low[0].id };
            let high_takes = if high[1].replaces(&high[0], &HIGH, &LOW) { high[1].id } else { high[0].id };
            assert_eq!(low_takes, high_takes);
            assert_eq!(low_takes, SessionId(if first_by_low { 1 } else { 2 }));
        }
    }

    #[test]
    fn a_later_or_resumed_session_takes_the_place_whoever_began_it() {
        let old = SessionSlot::new(SessionId(1), true, None, Instant::from_secs(10));
        for initiator in [true, false] {
            let later = SessionSlot::new(SessionId(2), initiator, None, Instant::from_secs(100));
            assert!(later.replaces(&old, &LOW, &HIGH) && later.replaces(&old, &HIGH, &LOW));
            let resumed = SessionSlot::new(SessionId(3), initiator, Some(SessionId(1)), Instant::from_secs(11));
            assert!(resumed.replaces(&old, &LOW, &HIGH) && resumed.replaces(&old, &HIGH, &LOW));
        }
    }
}
