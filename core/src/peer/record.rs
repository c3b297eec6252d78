//! What is remembered about one remote node, and what happens when something of it is heard.

use core::net::SocketAddr;
use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};

use smallvec::SmallVec;

use super::action::{Gone, PeerAction};
use super::cadence::{Cadence, IN_USE_HOLD, Use};
use super::path::{PathKind, PathState};
use super::probing::{Episode, Probe};
use super::rivals::Rivals;
use super::session::{GRACE, MAX_SESSIONS, SESSION_DOUBT, SESSION_PING, SESSION_QUIET, SessionSlot, ours_is_preferred};
use crate::id::NodeId;
use crate::io::{Path, TimerKind};
use crate::rng::Rng;
use crate::shard::table::{PeerId, SessionId};
use crate::time::Instant;
use crate::timers::earlier;
use crate::wire::link::{CloseReason, LinkMessage};

/// Data that arrives within this time of a packet from elsewhere says nothing about the active path: shards tell how much came, not by which way.
const STRAY: Duration = Duration::from_secs(1);
/// Address reports on one path. They are not acknowledged: with two, one arrives with 91 % even at 30 % loss.
const REPORTS: u8 = 2;

/// What the peers share and lend to the one that is being looked after.
pub(super) struct Desk<'a> {
    pub(super) id: PeerId,
    pub(super) local: NodeId,
    /// The largest inner packet that paths are probed for.
    pub(super) full: u16,
    pub(super) now: Instant,
    /// Nobody is given up before (after a suspend).
    pub(super) grace_until: Instant,
    pub(super) rng: &'a mut Rng,
    pub(super) actions: &'a mut VecDeque<PeerAction>,
    pub(super) by_session: &'a mut BTreeMap<SessionId, PeerId>,
}

impl Desk<'_> {
    pub(super) fn send(&mut self, session: SessionId, path: Path, message: LinkMessage<'_>) {
        self.actions.push_back(PeerAction::Send { session, path, payload: message.to_payload() });
    }

    fn close_session(&mut self, session: SessionId) {
        self.by_session.remove(&session);
        self.actions.push_back(PeerAction::CloseSession(session));
    }
}

/// The peer seems to use `path`; decided at `at`, by whether the active path was heard since `since`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Roam {
    pub(super) path: Path,
    pub(super) since: Instant,
    pub(super) at: Instant,
}

/// One remote node.
///
/// There is always at least one session, the first of which is in use, and always the active path among the paths.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) node: NodeId,
    pub(super) sessions: SmallVec<[SessionSlot; 1]>,
    pub(super) paths: SmallVec<[PathState; 1]>,
    pub(super) active: Path,
    /// Why the active path is the active one.
    pub(super) reason: &'static str,
    pub(super) use_: Use,
    pub(super) in_use_until: Instant,
    /// Last authenticated packet on any path and session.
    pub(super) heard: Instant,
    /// Silence of the active path is not counted from before.
    pub(super) quiet_from: Instant,
    /// Last new packet that came by another path than the active one.
    pub(super) strayed: Instant,
    /// Last change of the active path.
    pub(super) switched: Instant,
    pub(super) episode: Option<Episode>,
    pub(super) probes: SmallVec<[Probe; 1]>,
    pub(super) roam: Option<Roam>,
    /// Challenges to unproven paths that may be sent at once; see [`Self::take_credit`].
    pub(super) credit: u8,
    pub(super) credit_at: Instant,
    /// Jitter of the current silence, permille.
    pub(super) quiet_jitter: i16,
    /// Jitter of the current keep-alive, 0 to 1000.
    pub(super) phase: u16,
    pub(super) rx_bytes: u64,
    pub(super) tx_bytes: u64,
    pub(super) rivals: Rivals,
    /// The deadline in the heap.
    pub(super) armed: Option<Instant>,
}

impl Peer {
    /// A peer with its first session, which came about on `path`.
    pub(super) fn new(node: NodeId, slot: SessionSlot, path: Path, kind: PathKind, desk: &mut Desk<'_>) -> Self {
        let now = desk.now;
        let mut peer = Self {
            node,
            sessions: SmallVec::from_buf([slot]),
            paths: SmallVec::from_buf([PathState::new(path, kind, true, now)]),
            active: path,
            reason: "first session",
            use_: Use::default(),
            in_use_until: Instant::ZERO,
            heard: now,
            quiet_from: now,
            strayed: Instant::ZERO,
            switched: now,
            episode: None,
            probes: SmallVec::new(),
            roam: None,
            credit: super::moving::CHALLENGE_BURST,
            credit_at: now,
            quiet_jitter: 0,
            phase: 0,
            rx_bytes: 0,
            tx_bytes: 0,
            rivals: Rivals::default(),
            armed: None,
        };
        peer.draw(desk.rng);
        if !slot.initiator && slot.resumed_from.is_none() {
            peer.rivals.note(path, now);
        }
        desk.actions.push_back(PeerAction::Keep(path));
        desk.actions.push_back(PeerAction::SessionChanged { peer: desk.id, session: slot.id });
        desk.actions.push_back(PeerAction::PathChanged { peer: desk.id, path, kind, reason: peer.reason });
        peer.ping(path, desk);
        peer
    }

    /// Takes in another session, which came about on `path`.
    pub(super) fn session_up(&mut self, slot: SessionSlot, path: Path, kind: PathKind, desk: &mut Desk<'_>) {
        let now = desk.now;
        self.heard = now;
        let takes_over = slot.replaces(&self.sessions[0], &desk.local, &self.node);
        let awaited = takes_over && slot.initiator && slot.resumed_from.is_none();
        self.sessions.push(SessionSlot { retire_at: Some(now + GRACE), awaited, ..slot });
        if takes_over && !awaited {
            self.prefer(slot.id, desk);
        }
        self.trim_sessions(desk);
        if !slot.initiator && slot.resumed_from.is_none() && self.rivals.note(path, now) {
            desk.actions.push_back(PeerAction::DuplicateIdentity { peer: desk.id, node: self.node, path });
        }
        if !self.learn_proven(path, kind, desk) {
            return;
        }
        let lately = self.active().heard + STRAY >= now;
        if path != self.active && slot.resumed_from.is_none() && !lately && kind.rank() <= self.active().kind.rank() {
            self.switch(path, "new session", desk);
        } else {
            self.consider(path, desk);
        }
        if let Some(state) = self.path_mut(path) {
            state.hinted = true;
        }
        self.ping(path, desk);
        if path != self.active {
            self.ping(self.active, desk);
        }
    }

    /// Forgets a session that has ended by itself. Tells whether it was the last.
    pub(super) fn session_ended(&mut self, session: SessionId, desk: &mut Desk<'_>) -> Option<Gone> {
        let index = self.sessions.iter().position(|slot| slot.id == session)?;
        desk.by_session.remove(&session);
        if self.sessions.len() == 1 {
            self.sessions.clear();
            return Some(Gone::SessionEnded);
        }
        if index == 0 {
            let next = self.newest_spare_session();
            self.prefer(next, desk);
        }
        self.sessions.retain(|slot| slot.id != session);
        None
    }

    /// Notes an authenticated packet.
    pub(super) fn receive(&mut self, session: SessionId, from: Path, kind: PathKind, newest: bool, bytes: usize, desk: &mut Desk<'_>) {
        self.rx_bytes += bytes as u64;
        self.hear_session(session, desk);
        if let Some(state) = self.path_mut(from) {
            state.hear(desk.now);
        }
        if from == self.active {
            self.end_episode(desk.rng);
        } else if newest {
            self.strayed = desk.now;
            self.hint(from, kind, desk);
        }
    }

    /// Notes traffic that shards have carried.
    pub(super) fn activity(&mut self, session: SessionId, rx_bytes: u64, tx_bytes: u64, desk: &mut Desk<'_>) {
        self.rx_bytes += rx_bytes;
        self.tx_bytes += tx_bytes;
        if rx_bytes > 0 {
            self.hear_session(session, desk);
            if self.strayed + STRAY <= desk.now {
                let now = desk.now;
                self.active_mut().hear(now);
                self.end_episode(desk.rng);
            }
        }
        if tx_bytes > 0 {
            let now = desk.now;
            self.active_mut().sent = now;
            self.note_data(desk);
        }
        self.hurry(desk.now + IN_USE_HOLD, desk.now);
    }

    /// Answers and takes in what the peer says on a session. `Some` when it is gone by it.
    pub(super) fn handle(
        &mut self,
        session: SessionId,
        from: Path,
        observed: Option<SocketAddr>,
        message: LinkMessage<'_>,
        desk: &mut Desk<'_>,
    ) -> Option<Gone> {
        if let (Some(address), Some(state)) = (observed, self.path_mut(from)) {
            state.ipv6 = Some(address.is_ipv6());
        }
        match message {
            LinkMessage::Ping { token, .. } => {
                let now = desk.now;
                if let Some(state) = self.path_mut(from) {
                    state.sent = now;
                }
                desk.send(session, from, LinkMessage::Pong { token });
            }
            LinkMessage::Pong { token } => {
                if !self.size_answered(from, token, desk) {
                    self.pong(from, token, desk);
                }
            }
            LinkMessage::AddressReport(address) => desk.actions.push_back(PeerAction::Observed { peer: desk.id, address }),
            LinkMessage::KeepAlive => {}
            // Each session has its own good-bye. On one that is not in use it says nothing about the others: the peer may have been started anew.
            LinkMessage::Close { reason, .. }
                if self.sessions.len() > 1 && (session != self.sessions[0].id || reason == CloseReason::Replaced) =>
            {
                let gone = self.session_ended(session, desk);
                desk.actions.push_back(PeerAction::CloseSession(session));
                return gone;
            }
            LinkMessage::Close { reason, .. } => return Some(Gone::ClosedByPeer(reason)),
            LinkMessage::MemberNotice { reason, time, text } => {
                desk.actions.push_back(PeerAction::Notice { peer: desk.id, node: self.node, session, reason, time, text: text.into() });
                return Some(Gone::NotAdmitted(reason));
            }
        }
        self.report(session, from, observed, desk);
        None
    }

    /// Does everything that is due. `Some` when the peer must be given up.
    pub(super) fn service(&mut self, desk: &mut Desk<'_>) -> Option<Gone> {
        self.settle_probes(desk.now);
        self.fail_over(desk);
        self.settle_roam(desk);
        self.retire_sessions(desk);
        self.challenge_candidates(desk);
        self.keep_alive(desk);
        self.run_search(desk);
        self.run_episode(desk)
    }

    /// The next thing to do and its name.
    pub(super) fn next_deadline(&self, now: Instant) -> (Instant, TimerKind) {
        let mut next = Some((self.probe_at(now), TimerKind::Probe));
        for state in &self.paths {
            let due = match state.proven {
                false => Some((state.challenge_at(), TimerKind::Probe)),
                true => state.is_kept_alive().then(|| (state.keep_alive_at(self.phase), TimerKind::KeepAlive)),
            };
            next = earlier(next, due);
        }
        next = earlier(next, self.search_at(now).map(|at| (at, TimerKind::PathSize)));
        next = earlier(next, self.roam.map(|roam| (roam.at, TimerKind::Probe)));
        for slot in &self.sessions {
            next = earlier(next, slot.retire_at.map(|at| (at, TimerKind::Housekeeping)));
        }
        next.expect("the first probe is always due at some time")
    }

    /// Says good-bye, closes everything.
    pub(super) fn dissolve(mut self, why: Gone, desk: &mut Desk<'_>) {
        let farewell = match why {
            Gone::Closed(reason) => Some(reason),
            // It may hear us although we do not hear it; then it need not find out by itself.
            Gone::Unresponsive => Some(CloseReason::Unresponsive),
            Gone::ClosedByPeer(_) | Gone::SessionEnded | Gone::NotAdmitted(_) => None,
        };
        for slot in core::mem::take(&mut self.sessions) {
            if let Some(reason) = farewell {
                desk.send(slot.id, self.active, LinkMessage::Close { reason, text: "" });
            }
            desk.close_session(slot.id);
        }
        for state in &self.paths {
            desk.actions.push_back(PeerAction::Release(state.path));
        }
        desk.actions.push_back(PeerAction::Dead { peer: desk.id, node: self.node, why });
    }

    /// Probes at the pace of traffic until `until`.
    pub(super) fn hurry(&mut self, until: Instant, now: Instant) {
        self.in_use_until = self.in_use_until.max(until);
        let rtt = self.active().rtt;
        if let Some(episode) = &mut self.episode {
            episode.hasten(&Cadence::IN_USE, &rtt, now);
        }
    }

    pub(super) fn cadence(&self, now: Instant) -> Cadence {
        if self.in_use_until > now { Cadence::IN_USE } else { Cadence::of(self.use_) }
    }

    pub(super) fn path(&self, path: Path) -> Option<&PathState> {
        self.paths.iter().find(|state| state.path == path)
    }

    pub(super) fn path_mut(&mut self, path: Path) -> Option<&mut PathState> {
        self.paths.iter_mut().find(|state| state.path == path)
    }

    pub(super) fn active(&self) -> &PathState {
        self.path(self.active).expect("the active path is never forgotten")
    }

    pub(super) fn active_mut(&mut self) -> &mut PathState {
        let active = self.active;
        self.path_mut(active).expect("the active path is never forgotten")
    }

    /// Draws the jitter of the next silence and keep-alive.
    pub(super) fn draw(&mut self, rng: &mut Rng) {
        let spread = i64::from(super::cadence::QUIET_SPREAD);
        self.quiet_jitter = (rng.below(2 * spread as u64 + 1) as i64 - spread) as i16;
        self.phase = rng.below(1001) as u16;
    }

    fn end_episode(&mut self, rng: &mut Rng) {
        if self.episode.take().is_some() {
            self.draw(rng);
        }
    }

    /// Tells the peer at which address we see it, once its path is proven.
    fn report(&mut self, session: SessionId, from: Path, observed: Option<SocketAddr>, desk: &mut Desk<'_>) {
        let (Some(address), Some(state)) = (observed, self.path_mut(from)) else { return };
        if state.proven && state.kind == PathKind::Direct && state.reports < REPORTS {
            state.reports += 1;
            state.sent = desk.now;
            desk.send(session, from, LinkMessage::AddressReport(address));
        }
    }

    /// Notes an authenticated packet on a session. When the peer uses another session than we do, ours is pinged, and left if it stays dumb: the peer may
    /// have been started anew and lost it.
    fn hear_session(&mut self, session: SessionId, desk: &mut Desk<'_>) {
        self.heard = desk.now;
        let Some(slot) = self.sessions.iter_mut().find(|slot| slot.id == session) else { return };
        slot.hear(desk.now);
        let awaited = core::mem::take(&mut slot.awaited);
        let ours = self.sessions[0];
        if ours.id == session {
            return;
        }
        if awaited || ours.unheard >= SESSION_DOUBT {
            self.prefer(session, desk);
        } else if ours.heard + SESSION_QUIET <= desk.now && self.active().pinged + SESSION_PING <= desk.now {
            self.ping(self.active, desk);
        }
    }

    /// Puts `session` into use; the one before it gets its grace.
    fn prefer(&mut self, session: SessionId, desk: &mut Desk<'_>) {
        let Some(index) = self.sessions.iter().position(|slot| slot.id == session) else { return };
        if index == 0 {
            return;
        }
        self.sessions[0].retire_at = Some(desk.now + GRACE);
        self.sessions[index].retire_at = None;
        self.sessions.swap(0, index);
        desk.actions.push_back(PeerAction::SessionChanged { peer: desk.id, session });
    }

    fn newest_spare_session(&self) -> SessionId {
        self.sessions[1..].iter().max_by_key(|slot| (slot.up, slot.id)).expect("called with more than one session").id
    }

    /// Closes what was replaced long enough ago.
    ///
    /// A session that the peer was heard on lately is kept: both ends may have chosen differently, and if each closed the other's choice, none would be
    /// left. To end such a disagreement the end with the higher node ID follows the other.
    fn retire_sessions(&mut self, desk: &mut Desk<'_>) {
        let due: SmallVec<[SessionSlot; 4]> =
            self.sessions[1..].iter().filter(|slot| slot.retire_at.is_some_and(|at| at <= desk.now)).copied().collect();
        if let Some(path) = self.second_path_in_use(&due, desk.now) {
            desk.actions.push_back(PeerAction::DuplicateIdentity { peer: desk.id, node: self.node, path });
        }
        for slot in due {
            if slot.heard + GRACE <= desk.now {
                self.close_spare(slot.id, desk);
            } else if slot.heard + GRACE / 2 > desk.now && !ours_is_preferred(&desk.local, &self.node) {
                self.prefer(slot.id, desk);
            } else if let Some(kept) = self.sessions.iter_mut().find(|kept| kept.id == slot.id) {
                kept.retire_at = Some(slot.heard + GRACE);
            }
        }
    }

    /// Where else the peer is heard, when it has seemed for long to be two daemons with a session each. `due` are sessions that could be closed by now.
    fn second_path_in_use(&mut self, due: &[SessionSlot], now: Instant) -> Option<Path> {
        if due.is_empty() {
            return None;
        }
        let lately = |heard: Instant| heard + GRACE > now;
        let other = self.paths.iter().find(|state| state.path != self.active && lately(state.heard)).map(|state| state.path);
        let overlap = other.is_some() && lately(self.sessions[0].heard) && due.iter().any(|slot| lately(slot.heard));
        self.rivals.note_overlap(overlap).then_some(other).flatten()
    }

    fn trim_sessions(&mut self, desk: &mut Desk<'_>) {
        while self.sessions.len() > MAX_SESSIONS {
            let oldest = self.sessions[1..].iter().min_by_key(|slot| (slot.up, slot.id)).expect("longer than 1").id;
            self.close_spare(oldest, desk);
        }
    }

    fn close_spare(&mut self, session: SessionId, desk: &mut Desk<'_>) {
        desk.send(session, self.active, LinkMessage::Close { reason: CloseReason::Replaced, text: "" });
        desk.close_session(session);
        self.sessions.retain(|slot| slot.id != session);
        if self.sessions.len() == 1 {
            self.sessions.shrink_to_fit();
        }
    }
}
