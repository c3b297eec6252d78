//! Candidates and their challenges, and the choice of the active path.

use core::time::Duration;

use smallvec::SmallVec;

use super::action::PeerAction;
use super::path::{MAX_CHALLENGES, PathKind, PathState};
use super::record::{Desk, Peer, Roam};
use crate::io::Path;
use crate::time::Instant;

/// Paths that are remembered per peer: the 12 candidates that a message can name, and a few proven ones. Beyond it unproven ones make room first.
pub(super) const MAX_PATHS: usize = 16;
/// Candidates per peer that came by themselves in packets: somebody who copies packets can use up these and no others.
pub(super) const MAX_UNSOLICITED: usize = 4;
/// Challenges to unproven paths that a peer may cause at once: one for each path.
pub(super) const CHALLENGE_BURST: u8 = MAX_PATHS as u8;
/// One more challenge is earned in this time: copies of packets from many addresses buy 4 small datagrams a second and no more.
const CHALLENGE_EARNED: Duration = Duration::from_millis(250);
/// Moves for speed alone are at least this far apart.
const DWELL: Duration = Duration::from_secs(10);
/// A proven path that the peer seems to use is asked at most this often: the two ends may use different ones for good.
const HINT_PAUSE: Duration = Duration::from_secs(3);
/// When the peer is heard by a worse path and the active one was silent for this long, it is checked at once instead of after its quiet time.
const SUSPICIOUS_SILENCE: Duration = Duration::from_millis(300);
/// A spare that was heard within this time may take over from a path that is heard but does not answer.
const HEARD_LATELY: Duration = Duration::from_secs(30);

impl Peer {
    /// Adds a candidate to be challenged. Nothing happens when it is known, or when no room can be made.
    pub(super) fn add_candidate(&mut self, path: Path, kind: PathKind, unsolicited: bool, desk: &mut Desk<'_>) {
        if path == Path::NONE {
            return;
        }
        if let Some(state) = self.path_mut(path) {
            if !state.proven && !unsolicited {
                // Asked for anew: it gets all its challenges again.
                (state.unsolicited, state.challenges) = (false, 0);
                state.pinged = state.challenge_at().min(desk.now);
            }
            return;
        }
        if !self.make_room(unsolicited, false, desk) {
            return;
        }
        let mut state = PathState::new(path, kind, false, desk.now);
        state.unsolicited = unsolicited;
        self.paths.push(state);
        desk.actions.push_back(PeerAction::Keep(path));
    }

    /// Remembers a path on which a handshake came about. False when it cannot be.
    pub(super) fn learn_proven(&mut self, path: Path, kind: PathKind, desk: &mut Desk<'_>) -> bool {
        if path == Path::NONE {
            return false;
        }
        let now = desk.now;
        if let Some(state) = self.path_mut(path) {
            state.proven = true;
            state.answered = now;
            state.hear(now);
            state.unanswered = 0;
            return true;
        }
        if !self.make_room(false, true, desk) {
            return false;
        }
        self.paths.push(PathState::new(path, kind, true, now));
        desk.actions.push_back(PeerAction::Keep(path));
        true
    }

    /// A new packet came by a path that is not the active one: perhaps the peer has moved. Nothing moves before a challenge was answered.
    pub(super) fn hint(&mut self, from: Path, kind: PathKind, desk: &mut Desk<'_>) {
        let (now, active) = (desk.now, self.active());
        let (active_rank, silence) = (active.kind.rank(), now.saturating_since(active.heard));
        let Some(state) = self.path_mut(from) else {
            self.add_candidate(from, kind, true, desk);
            if let Some(state) = self.path_mut(from) {
                state.hinted = true;
                if self.challenge_candidates(desk) {
                    self.ping(self.active, desk);
                }
            }
            return;
        };
        if !state.proven {
            state.hinted = true;
        } else if silence < SUSPICIOUS_SILENCE {
            // Both are in use: packets that overtook each other at a move, or copies.
        } else if state.kind.rank() <= active_rank && now.saturating_since(state.pinged) >= HINT_PAUSE {
            state.hinted = true;
            self.ping(from, desk);
            self.ping(self.active, desk);
        } else if state.kind.rank() > active_rank && self.episode.is_none() && now.saturating_since(self.quiet_from) >= HINT_PAUSE {
            self.begin_episode(now);
        }
    }

    /// Sends the challenges that are due and forgets candidates that had all theirs. Tells whether any was sent.
    pub(super) fn challenge_candidates(&mut self, desk: &mut Desk<'_>) -> bool {
        let now = desk.now;
        let due = self.paths.iter().filter(|state| !state.proven && state.challenge_at() <= now);
        let due: SmallVec<[Path; 4]> = due.map(|state| state.path).collect();
        let mut sent = false;
        for path in due {
            let spent = self.path(path).is_some_and(|state| state.challenges >= MAX_CHALLENGES);
            if spent {
                self.forget_path(path, desk);
            } else if self.take_credit(now) {
                self.ping(path, desk);
                sent = true;
                if let Some(state) = self.path_mut(path) {
                    state.challenges += 1;
                }
            } else if let Some(state) = self.path_mut(path) {
                // At its next turn; for a first challenge this is the due time itself.
                state.pinged = now + CHALLENGE_EARNED;
            }
        }
        sent
    }

    /// A ping on `from` was answered. `hinted_at` is when it was sent, if the peer seemed to have moved there.
    pub(super) fn answered(&mut self, from: Path, hinted_at: Option<Instant>, desk: &mut Desk<'_>) {
        if from == self.active {
            if self.episode.take().is_some() {
                self.draw(desk.rng);
            }
            return;
        }
        let active = self.active();
        let rank = self.path(from).map_or(u8::MAX, |state| state.kind.rank());
        if let Some(since) = hinted_at.filter(|&since| rank == active.kind.rank() && active.heard < since) {
            // The active path was pinged in the same instant. It gets the time that its answer needs, then the peer has moved: about one round trip.
            let at = since + active.rtt.expected().min(Duration::from_secs(1));
            self.roam = Some(Roam { path: from, since, at });
            self.settle_roam(desk);
        } else {
            self.consider(from, desk);
        }
    }

    /// Moves to where the peer seems to be, if the active path had its time and stayed silent.
    pub(super) fn settle_roam(&mut self, desk: &mut Desk<'_>) {
        let Some(roam) = self.roam.filter(|roam| roam.at <= desk.now) else { return };
        self.roam = None;
        if self.active().heard < roam.since && self.path(roam.path).is_some_and(|state| state.proven && !state.is_doubtful()) {
            self.switch(roam.path, "the peer moved", desk);
            if self.rivals.note(roam.path, desk.now) {
                desk.actions.push_back(PeerAction::DuplicateIdentity { peer: desk.id, node: self.node, path: roam.path });
            }
        } else {
            self.consider(roam.path, desk);
        }
    }

    /// Makes a proven path the active one if that is better.
    pub(super) fn consider(&mut self, path: Path, desk: &mut Desk<'_>) {
        let Some(state) = self.path(path).filter(|state| state.proven && !state.is_doubtful()) else { return };
        let active = self.active();
        if path == self.active {
            return;
        }
        let reason = if active.is_doubtful() {
            Some("the active path is silent")
        } else if state.kind.rank() != active.kind.rank() {
            (state.kind.rank() < active.kind.rank()).then_some("a better kind of path is proven")
        } else if desk.now.saturating_since(self.switched) < DWELL {
            None
        } else {
            state.beats(active)
        };
        if let Some(reason) = reason {
            self.switch(path, reason, desk);
        }
    }

    /// Leaves a doubtful active path for the best one that was heard since the doubts began.
    pub(super) fn fail_over(&mut self, desk: &mut Desk<'_>) {
        if !self.active().is_doubtful() {
            return;
        }
        let since = self.episode.as_ref().map_or_else(|| desk.now - HEARD_LATELY, |episode| episode.started);
        let usable =
            self.paths.iter().filter(|state| state.path != self.active && state.proven && !state.is_doubtful() && state.heard >= since);
        if let Some(best) = usable.min_by_key(|state| (state.kind.rank(), state.cost(), state.path)) {
            self.switch(best.path, "the active path is silent", desk);
        }
    }

    pub(super) fn switch(&mut self, path: Path, reason: &'static str, desk: &mut Desk<'_>) {
        if path == self.active {
            return;
        }
        let Some(kind) = self.path(path).map(|state| state.kind) else { return };
        let old = core::mem::replace(&mut self.active, path);
        self.move_data(old, desk);
        self.reason = reason;
        self.switched = desk.now;
        self.episode = None;
        self.roam = None;
        self.draw(desk.rng);
        desk.actions.push_back(PeerAction::PathChanged { peer: desk.id, path, kind, reason });
    }

    pub(super) fn forget_path(&mut self, path: Path, desk: &mut Desk<'_>) {
        if path == self.active {
            return;
        }
        let before = self.paths.len();
        self.paths.retain(|state| state.path != path);
        if self.paths.len() < before {
            desk.actions.push_back(PeerAction::Release(path));
        }
        if self.paths.len() == 1 {
            self.paths.shrink_to_fit();
        }
    }

    /// Makes room for one more path. `unsolicited` ones push out only their like; `proven` ones also what is worst among proven spares.
    fn make_room(&mut self, unsolicited: bool, proven: bool, desk: &mut Desk<'_>) -> bool {
        let is_copy = |state: &&PathState| !state.proven && state.unsolicited;
        if unsolicited && self.paths.iter().filter(is_copy).count() >= MAX_UNSOLICITED {
            // The oldest that has had its chance.
            let oldest =
                self.paths.iter().filter(is_copy).filter(|state| state.challenges > 0).min_by_key(|state| (state.heard, state.path));
            let Some(oldest) = oldest.filter(|state| state.pinged + state.rtt.timeout() <= desk.now).map(|state| state.path) else {
                return false;
            };
            self.forget_path(oldest, desk);
        }
        if self.paths.len() < MAX_PATHS {
            return true;
        }
        let victim = self
            .paths
            .iter()
            .filter(|state| state.path != self.active && (proven || !state.proven) && (!unsolicited || state.unsolicited))
            .max_by_key(|state| (!state.proven, state.unsolicited, state.challenges, state.kind.rank(), state.cost(), state.path))
            .map(|state| state.path);
        if let Some(victim) = victim {
            self.forget_path(victim, desk);
        }
        victim.is_some()
    }

    fn take_credit(&mut self, now: Instant) -> bool {
        let earned = now.saturating_since(self.credit_at).as_micros() / CHALLENGE_EARNED.as_micros();
        if earned > 0 {
            self.credit = self.credit.saturating_add(u8::try_from(earned).unwrap_or(u8::MAX)).min(CHALLENGE_BURST);
            self.credit_at = now;
        }
        if self.credit == 0 {
            return false;
        }
        self.credit -= 1;
        true
    }
}
