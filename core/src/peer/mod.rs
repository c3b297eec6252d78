//! Remote nodes: liveness, paths, roaming, and which of several sessions to use. No knowledge of the overlay.
//!
//! # Moving
//!
//! A path carries nothing of ours before it was *proven*: by a handshake that came about on it, or by the answer to a challenge, a ping with a fresh random
//! 64-bit token, sealed in the session, that must come back by the same path. An authenticated packet with a new highest counter that comes from elsewhere
//! only makes that path a *candidate*. So a copied packet moves nothing, from however many addresses it is repeated: candidates per peer are bounded,
//! challenges cost credit. When the candidate answers and the active path, pinged in the same instant, does not, the peer has moved: about one round trip.
//!
//! Among proven paths direct beats relay beats routed; among equals the one with the clearly lower round-trip time (loss priced in) wins, at most every
//! 10 s; on a tie IPv6. A path on which a quarter of a deadly series of probes stayed unanswered is left for any other that was heard meanwhile.
//!
//! # Keeping alive
//!
//! A direct or relayed path on which nothing was *sent* for 20 to 25 s (drawn anew each time) gets a packet: the active one a keep-alive of one byte, a
//! spare one a ping.
//!
//! # Death
//!
//! Any authenticated packet on the active path is life. When it was *quiet* for long, a series of pings begins: the second when the answer to the first is
//! overdue, all others evenly spaced, so that neither a burst of loss nor a second of congestion takes them all. The peer is dead when every one of *n*
//! stayed unanswered and nothing was heard by any other way, either.
//!
//! | the peer is | quiet, ±6 % | longest until noticed | spacing of 16 / 32 probes at an RTT below 100 ms |
//! | --- | --- | --- | --- |
//! | in use: traffic in the last 10 s, or suspected | 1 s | 4.8 s | 240 / 110 ms |
//! | a ring neighbour ([`Use::Near`]) | 8.5 s | 14.7 s | 380 / 180 ms |
//! | another link ([`Use::Link`]) | 30 s | 58 s | 1.8 / 0.8 s |
//! | neither ([`Use::Idle`]) | 60 s | 117 s | 3.8 / 1.8 s |
//!
//! "Longest" holds while answers are overdue after 1 s at most (smoothed RTT and four deviations); beyond, twice the excess comes on top.
//!
//! How many: at a loss of *p* in each direction a probe stays unanswered with `q = 1 - (1 - p)^2`, and a whole series with `q^n`; *n* is chosen so that
//! this is at most 1e-9, from 16 up to 32. The estimate of *q* behind it rises fast and falls slowly, and starts at that of 30 % loss.
//!
//! | loss each way | q | n | a whole series is lost with |
//! | --- | --- | --- | --- |
//! | 0 | 0 | 16 | 0 (2e-5 if the loss jumps to 30 % in this moment) |
//! | 5 % | 0.0975 | 16 to 24 | below 1e-16 |
//! | 20 % | 0.36 | 28 to 32 | 4e-13 |
//! | 30 % | 0.51 | 32; in a million simulated probes never below 24 | 4e-10; 1e-7 with 24 |
//!
//! An idle neighbour is checked 10,000 times a day, so at 30 % loss a false alarm comes about every 500 years of one link; a peer in use that sends nothing
//! at all back is checked 86,400 times, so every 50 years. An outage shorter than the window (3.5 s in use, 5.5 s idle) is never taken for death.
//!
//! The host's own sleep kills nobody: a probe that leaves late begins the series anew, and after [`Peers::resumed`] nobody is given up for 10 s.
//!
//! # Size
//!
//! Of the path that carries data it is found out how large a packet it carries whole, by padded pings of their own (RFC 8899): first whether the tunnel's MTU
//! passes, and only where it does not, how much does; again every 3 s while data is sent, upwards every 600 s, and at once when path or network change.
//!
//! # Sessions
//!
//! A newer session takes the place of an older one. Of two opened at the same time from both ends both take the one whose initiator has the lower node ID.
//! The other one opens packets for 30 s more, and longer while the peer is heard on it; then it is closed, and the other end is told.

mod action;
mod cadence;
mod loss;
mod moving;
mod path;
mod probing;
mod record;
mod rivals;
mod rtt;
mod search;
mod session;
mod sizing;
mod slab;
#[cfg(test)]
mod tests;
mod view;

use core::fmt;
use core::net::SocketAddr;
use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};

pub use action::{Gone, PeerAction};
pub use cadence::Use;
pub use path::PathKind;
pub use session::ours_is_preferred;
pub use view::{PathView, PeerView};

use crate::id::NodeId;
use crate::io::{Path, TimerKind};
use crate::rng::Rng;
use crate::shard::table::{PeerId, SessionId};
use crate::time::Instant;
use crate::timers::TimerHeap;
use crate::wire::WireError;
use crate::wire::link::{CloseReason, LinkMessage};
use record::{Desk, Peer};
use session::SessionSlot;
use slab::Slab;

/// After a suspend nobody is given up for this long: a Wi-Fi needs some seconds to come back.
const RESUME_GRACE: Duration = Duration::from_secs(10);
/// After a suspend all peers are probed within this time, each at its own moment.
const RESUME_SPREAD: Duration = Duration::from_millis(500);
/// A suspected peer is probed at the pace of traffic for this long: one series.
const SUSPICION: Duration = Duration::from_secs(5);
/// Stale entries in the heap per peer before it is swept.
const STALE_TIMERS: usize = 4;

/// All remote nodes with a session.
///
/// Inputs are methods with the time last; [`Self::poll_action`] is drained until `None` after any number of them.
pub struct Peers {
    local: NodeId,
    /// The tunnel's MTU: what paths that carry data are probed for.
    full: u16,
    rng: Rng,
    slab: Slab,
    by_node: BTreeMap<NodeId, PeerId>,
    by_session: BTreeMap<SessionId, PeerId>,
    timers: TimerHeap<(PeerId, TimerKind)>,
    actions: VecDeque<PeerAction>,
    grace_until: Instant,
}

impl Peers {
    /// No peers yet. `local` is this node's ID, `tunnel_mtu` the largest inner packet in bytes that paths are probed for.
    #[must_use]
    pub fn new(rng: Rng, local: NodeId, tunnel_mtu: u16) -> Self {
        Self {
            local,
            full: tunnel_mtu,
            rng,
            slab: Slab::default(),
            by_node: BTreeMap::new(),
            by_session: BTreeMap::new(),
            timers: TimerHeap::default(),
            actions: VecDeque::new(),
            grace_until: Instant::ZERO,
        }
    }

    /// A handshake came about: `session` with `node` on `path`. `resumed_from` is the session whose secret it was made from.
    ///
    /// Returns the peer, new or not. `None`: the session is closed at once, because it is one with ourselves or the table is full (16,384 peers).
    pub fn session_up(
        &mut self,
        node: NodeId,
        session: SessionId,
        path: Path,
        kind: PathKind,
        initiator: bool,
        resumed_from: Option<SessionId>,
        now: Instant,
    ) -> Option<PeerId> {
        if self.by_session.contains_key(&session) {
            self.session_ended(session, now);
        }
        let known = self.by_node.get(&node).copied();
        let id = if node == self.local { None } else { known.or_else(|| self.slab.vacant(now)) };
        let Some(id) = id else {
            self.actions.push_back(PeerAction::CloseSession(session));
            return None;
        };
        self.by_session.insert(session, id);
        let slot = SessionSlot::new(session, initiator, resumed_from, now);
        if known.is_some() {
            self.with(id, now, |peer, desk| {
                peer.session_up(slot, path, kind, desk);
                None
            });
        } else {
            let peer = self.desk(id, now, |desk| Peer::new(node, slot, path, kind, desk));
            self.slab.insert(id, peer);
            self.by_node.insert(node, id);
            self.rearm(id, now);
        }
        Some(id)
    }

    /// A session ended by itself: certificate, revocation, keys.
    pub fn session_ended(&mut self, session: SessionId, now: Instant) {
        self.with_session(session, now, |peer, desk| peer.session_ended(session, desk));
    }

    /// An authenticated control packet of `bytes` came by `from`; `newest` if its counter is a new highest. Comes before the packet's own handling.
    pub fn received(&mut self, session: SessionId, from: Path, kind: PathKind, newest: bool, bytes: usize, now: Instant) {
        self.with_session(session, now, |peer, desk| {
            peer.receive(session, from, kind, newest, bytes, desk);
            None
        });
    }

    /// A control packet of `bytes` was sent on `path` by somebody else than [`PeerAction::Send`]: it keeps the path alive, too.
    pub fn sent(&mut self, session: SessionId, path: Path, bytes: usize, now: Instant) {
        let Some(peer) = self.by_session.get(&session).and_then(|&id| self.slab.get_mut(id)) else { return };
        peer.tx_bytes += bytes as u64;
        if let Some(state) = peer.path_mut(path) {
            state.sent = now;
        }
    }

    /// Shards carried traffic of a session.
    pub fn activity(&mut self, session: SessionId, rx_bytes: u64, tx_bytes: u64, now: Instant) {
        self.with_session(session, now, |peer, desk| {
            peer.activity(session, rx_bytes, tx_bytes, desk);
            None
        });
    }

    /// A shard opened a data packet with a new highest counter that came by another path than the session's.
    pub fn moved(&mut self, session: SessionId, from: Path, kind: PathKind, now: Instant) {
        self.received(session, from, kind, true, 0, now);
    }

    /// Takes in a payload of [`wire::link`](crate::wire::link), received on `session` by `from`. `observed` is the address that it came from, if that is one.
    ///
    /// # Errors
    /// [`WireError`] when the payload is malformed; nothing has changed then.
    pub fn handle_link(
        &mut self,
        session: SessionId,
        from: Path,
        kind: PathKind,
        observed: Option<SocketAddr>,
        payload: &[u8],
        now: Instant,
    ) -> Result<(), WireError> {
        let message = LinkMessage::parse(payload)?;
        let observed = observed.filter(|_| kind == PathKind::Direct);
        self.with_session(session, now, |peer, desk| peer.handle(session, from, observed, message, desk));
        Ok(())
    }

    /// Names a path on which the peer may be reached: it is challenged, and used if it answers and is better. At most 16 per peer are remembered.
    pub fn add_path(&mut self, peer: PeerId, path: Path, kind: PathKind, now: Instant) {
        self.with(peer, now, |peer, desk| {
            peer.add_candidate(path, kind, false, desk);
            peer.challenge_candidates(desk);
            None
        });
    }

    /// Sets what the peer is to this node, and so how soon its death is noticed. Traffic shortens it by itself.
    pub fn set_use(&mut self, peer: PeerId, use_: Use, now: Instant) {
        self.with(peer, now, |peer, _| {
            peer.use_ = use_;
            None
        });
    }

    /// Somebody says that the peer is dead: it is probed at once, at the pace of traffic. Hearsay alone gives nobody up.
    pub fn suspect(&mut self, peer: PeerId, now: Instant) {
        self.with(peer, now, |peer, desk| {
            peer.hurry(now + SUSPICION, now);
            if peer.episode.is_none() {
                peer.begin_episode(now);
            }
            peer.run_episode(desk)
        });
    }

    /// Gives a peer up and tells it why. [`PeerAction::Dead`] follows.
    pub fn close(&mut self, peer: PeerId, reason: CloseReason, now: Instant) {
        self.with(peer, now, |_, _| Some(Gone::Closed(reason)));
    }

    /// The system refused a datagram around an inner packet of `size` bytes on a path of a peer: by its own interface, or by a router's message. The size of
    /// the path is lowered at once, though never below what IPv6 asks of every path.
    pub fn refused(&mut self, peer: PeerId, path: Path, size: u16, now: Instant) {
        self.with(peer, now, |peer, desk| {
            peer.size_refused(path, size, desk);
            None
        });
    }

    /// The host's addresses have changed: what paths carry is found out anew.
    pub fn readdressed(&mut self, now: Instant) {
        let ids: Vec<PeerId> = self.slab.iter().map(|(id, _)| id).collect();
        for id in ids {
            self.with(id, now, |peer, _| {
                peer.sizes_anew();
                None
            });
        }
    }

    /// The host was suspended, or its network changed: everybody is probed at once, nobody is given up for 10 s.
    pub fn resumed(&mut self, now: Instant) {
        self.grace_until = now + RESUME_GRACE;
        let ids: Vec<PeerId> = self.slab.iter().map(|(id, _)| id).collect();
        for id in ids {
            self.with(id, now, |peer, desk| {
                let delay = Duration::from_micros(desk.rng.below(RESUME_SPREAD.as_micros() as u64));
                peer.hurry(now + RESUME_GRACE, now);
                peer.restart_probing(delay, now);
                peer.sizes_anew();
                None
            });
        }
    }

    /// Does what is due. Calls for nothing are harmless.
    pub fn handle_timeout(&mut self, now: Instant) {
        loop {
            let slab = &self.slab;
            let due = self.timers.pop_due(now, |(id, _), deadline| slab.get(id).is_some_and(|peer| peer.armed == Some(deadline)));
            let Some((id, _)) = due else { break };
            if let Some(peer) = self.slab.get_mut(id) {
                peer.armed = None;
            }
            self.with(id, now, Peer::service);
        }
    }

    /// When [`Self::handle_timeout`] wants to be called; may be early, never late.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, TimerKind)> {
        self.timers.next().map(|(deadline, (_, kind))| (deadline, kind))
    }

    /// The next thing for the node to do; call until `None`.
    pub fn poll_action(&mut self) -> Option<PeerAction> {
        self.actions.pop_front()
    }

    /// The peer with this node ID.
    #[must_use]
    pub fn by_node(&self, node: &NodeId) -> Option<PeerId> {
        self.by_node.get(node).copied()
    }

    /// The peer of a session.
    #[must_use]
    pub fn by_session(&self, session: SessionId) -> Option<PeerId> {
        self.by_session.get(&session).copied()
    }

    /// Who the peer is; `None` once it is gone.
    #[must_use]
    pub fn node(&self, peer: PeerId) -> Option<NodeId> {
        self.slab.get(peer).map(|peer| peer.node)
    }

    /// The session to send on.
    #[must_use]
    pub fn session(&self, peer: PeerId) -> Option<SessionId> {
        self.slab.get(peer).map(|peer| peer.sessions[0].id)
    }

    /// The path to send on.
    #[must_use]
    pub fn path(&self, peer: PeerId) -> Option<Path> {
        self.slab.get(peer).map(|peer| peer.active)
    }

    /// The kind of the path to send on.
    #[must_use]
    pub fn path_kind(&self, peer: PeerId) -> Option<PathKind> {
        self.slab.get(peer).map(|peer| peer.active().kind)
    }

    /// The largest inner packet in bytes that shall be sent whole on a path of a peer, and whether senders of larger ones are to be told so: not while it is
    /// still searched for. `None` where no data has flowed, and nothing is known.
    #[must_use]
    pub fn size(&self, peer: PeerId, path: Path) -> Option<(u16, bool)> {
        self.slab.get(peer)?.path(path)?.search.as_ref().map(|search| (search.size(), search.is_settled()))
    }

    /// Smoothed round-trip time of the active path; `None` before its first answer.
    #[must_use]
    pub fn rtt(&self, peer: PeerId) -> Option<Duration> {
        self.slab.get(peer).and_then(|peer| peer.active().rtt.smoothed())
    }

    /// Whether the last probes on the active path stayed unanswered: a good moment to send important things another way as well.
    #[must_use]
    pub fn is_doubtful(&self, peer: PeerId) -> bool {
        self.slab.get(peer).is_some_and(|peer| peer.active().is_doubtful())
    }

    /// A snapshot of one peer.
    #[must_use]
    pub fn view(&self, peer: PeerId, now: Instant) -> Option<PeerView> {
        self.slab.get(peer).map(|record| record.view(peer, now))
    }

    /// Snapshots of all peers in the order of their numbers.
    pub fn iter(&self, now: Instant) -> impl Iterator<Item = PeerView> {
        self.slab.iter().map(move |(id, peer)| peer.view(id, now))
    }

    /// Number of peers.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.slab.len()
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.slab.len() == 0
    }

    fn with_session(&mut self, session: SessionId, now: Instant, act: impl FnOnce(&mut Peer, &mut Desk<'_>) -> Option<Gone>) {
        if let Some(&id) = self.by_session.get(&session) {
            self.with(id, now, act);
        }
    }

    /// Lets a peer act, removes it if it is gone, and indexes its next deadline.
    fn with(&mut self, id: PeerId, now: Instant, act: impl FnOnce(&mut Peer, &mut Desk<'_>) -> Option<Gone>) {
        let Self { local, full, rng, slab, by_session, actions, grace_until, .. } = self;
        let Some(peer) = slab.get_mut(id) else { return };
        let mut desk = Desk { id, local: *local, full: *full, now, grace_until: *grace_until, rng, actions, by_session };
        match act(peer, &mut desk) {
            Some(why) => self.remove(id, why, now),
            None => self.rearm(id, now),
        }
    }

    /// Lends the desk for a peer that is not in the slab (yet, or any longer).
    fn desk<T>(&mut self, id: PeerId, now: Instant, act: impl FnOnce(&mut Desk<'_>) -> T) -> T {
        let Self { local, full, rng, by_session, actions, grace_until, .. } = self;
        act(&mut Desk { id, local: *local, full: *full, now, grace_until: *grace_until, rng, actions, by_session })
    }

    fn remove(&mut self, id: PeerId, why: Gone, now: Instant) {
        let Some(peer) = self.slab.remove(id, now) else { return };
        self.by_node.remove(&peer.node);
        self.desk(id, now, |desk| peer.dissolve(why, desk));
    }

    fn rearm(&mut self, id: PeerId, now: Instant) {
        let Some(peer) = self.slab.get_mut(id) else { return };
        let (deadline, kind) = peer.next_deadline(now);
        if peer.armed.is_none_or(|armed| deadline < armed) {
            peer.armed = Some(deadline);
            self.timers.arm(deadline, (id, kind));
        }
        if self.timers.len() > 64 + STALE_TIMERS * self.slab.len() {
            let slab = &self.slab;
            self.timers.compact(|(id, _), deadline| slab.get(id).is_some_and(|peer| peer.armed == Some(deadline)));
        }
    }
}

impl fmt::Debug for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peers").field("local", &self.local).field("len", &self.len()).finish_non_exhaustive()
    }
}
