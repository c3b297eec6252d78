//! The ring: links to the right nodes, and messages that find their way over them.
//!
//! The overlay knows links as [`PeerId`]s with node IDs. It asks for dials, never opens a socket, and believes no address before somebody
//! with the right certificate has answered there.
//!
//! # How a node joins
//!
//! ```text
//! dial bootstrap addresses -> leaf link -> connect request to the own ID through it (Bracket) -> both nodes around that place answer and
//! dial -> near links -> their statuses name nodes still closer -> dial those -> both neighbours name us as theirs: consistent
//! ```
//! A node that knows nobody, or whom nobody answered, is a ring by itself and goes on asking.
//!
//! # Who looks after what
//!
//! | file | what |
//! | --- | --- |
//! | [`geometry`] | which links are wanted, which one brings a message closer |
//! | `near` | near links, the passive list, consistency, links that nobody needs |
//! | `gossip` | statuses: sent on change, coalesced, repeated until acknowledged |
//! | `bootstrap` | first contact, and the search for other rings of the realm |
//! | `far` | shortcuts |
//! | `demand` | links that traffic asks for |
//! | `connect` | "dial me, I dial you" over the ring; dials and their results |
//! | `routing` | messages on their way |
//! | `request` | requests, replies, traces |
//!
//! # Drain contract
//!
//! Feed any number of inputs, call [`Overlay::poll_action`] until `None`, sleep until [`Overlay::poll_timeout`]. Same inputs, same seed: same actions.

pub mod geometry;

mod backoff;
mod bootstrap;
mod connect;
mod demand;
mod dial;
mod far;
mod gossip;
mod halves;
mod hint;
mod known;
mod links;
mod near;
mod request;
mod routing;
mod rpc;
mod types;

use core::net::SocketAddr;
use core::time::Duration;
use std::collections::VecDeque;

use crate::config::GeometryKind;
use crate::id::NodeId;
use crate::io::{Candidates, DropReason, TimerKind};
use crate::rng::Rng;
use crate::shard::table::PeerId;
use crate::time::Instant;
use crate::timers::earlier;
use crate::wire::overlay::MAX_CANDIDATES;
use crate::wire::{PayloadKind, WireError};

pub use bootstrap::MAX_BOOTSTRAP;
pub use dial::MAX_DIALS;
pub use halves::{HALF_LIFE, MAX_HALVES};
pub use known::{Known, PASSIVE_PER_SIDE};
pub use links::{Link, MAX_LINKS};
pub use routing::HOP_LIMIT;
pub use rpc::{MAX_ANSWERED, MAX_PENDING, MAX_TRIES, REQUEST_LIFE};
pub use types::{DialId, LinkView, Mode, OverlayAction, ReplyTo, RequestError, RequestId, RingView, Roles};

use bootstrap::Bootstrap;
use demand::Demands;
use dial::Dials;
use far::Far;
use geometry::{Geometry, Side, View};
use halves::Halves;
use known::KnownNodes;
use links::find;
use near::Near;
use routing::Router;
use rpc::Rpc;

/// Actions that wait to be polled at most. Messages beyond it are dropped and counted ([`DropReason::QueueFull`]); whoever sent them repeats
/// them. Everything but messages is bounded by the table that it comes from.
pub const MAX_ACTIONS: usize = 4096;

/// Nodes with another geometry that are remembered; beyond it the oldest is forgotten, and linked until its first status comes.
const MAX_REFUSED: usize = 64;
/// How long such a node is remembered: a link that it makes meanwhile does not disturb the ring, not even until its first status comes.
const REFUSED_LIFE: Duration = Duration::from_secs(300);

/// The overlay of one node in one realm. See the [module](self) for what it does and how it is driven.
#[derive(Debug)]
pub struct Overlay {
    local: NodeId,
    geometry: &'static dyn Geometry,
    rng: Rng,
    /// Sorted by node ID.
    links: Vec<Link>,
    known: KnownNodes,
    candidates: Candidates,
    /// Whether the position is, or once was, consistent: others may route through us.
    joined: bool,
    consistent: bool,
    leaving: bool,
    actions: VecDeque<OverlayAction>,
    dials: Dials,
    rpc: Rpc,
    router: Router,
    halves: Halves,
    bootstrap: Bootstrap,
    near: Near,
    far: Far,
    demands: Demands,
    gossip_due: Option<Instant>,
    /// Nodes that said that they route by another geometry, and until when they are not linked, oldest first.
    refused: Vec<(NodeId, Instant)>,
}

impl Overlay {
    /// A node that knows nobody but the addresses in `bootstrap`. It acts at the first [`Self::handle_timeout`].
    #[must_use]
    pub fn new(local: NodeId, geometry: GeometryKind, bootstrap: Vec<SocketAddr>, rng: Rng, now: Instant) -> Self {
        let geometry = geometry::of(geometry);
        let mut rng = rng;
        let rpc = Rpc::new(rng.next_u32());
        let router = Router::new(rng.next_u32(), now);
        let known = KnownNodes::new(local, geometry.shape(), geometry.near_per_side());
        Self {
            local,
            geometry,
            rng,
            links: Vec::new(),
            known,
            candidates: Candidates::new(),
            joined: false,
            consistent: false,
            leaving: false,
            actions: VecDeque::new(),
            dials: Dials::default(),
            rpc,
            router,
            halves: Halves::default(),
            bootstrap: Bootstrap::new(bootstrap, now),
            near: Near::new(now),
            far: Far::new(now),
            demands: Demands::default(),
            gossip_due: None,
            refused: Vec::new(),
        }
    }

    /// Further addresses to bootstrap from; known ones are ignored.
    pub fn add_bootstrap(&mut self, addresses: &[SocketAddr], now: Instant) {
        if self.bootstrap.add(addresses, now) {
            self.settle(now);
        }
    }

    /// The node's own addresses, best first, to be put into statuses and connect requests; at most 12 are used.
    pub fn set_candidates(&mut self, candidates: &[SocketAddr]) {
        self.candidates = candidates.iter().copied().take(MAX_CANDIDATES).collect();
    }

    /// A session with a direct or relayed path to `node` is up. Call it before [`Self::dial_result`], and before the first message of that
    /// peer is handed in. Another call for the same node (other peer number, other address) replaces the earlier one.
    pub fn link_up(&mut self, peer: PeerId, node: NodeId, direct: bool, address: Option<SocketAddr>, infrastructure: bool, now: Instant) {
        if node == self.local || self.leaving {
            let reason = if self.leaving { "leaving" } else { "our own identity" };
            self.actions.push_back(OverlayAction::Drop { peer, reason });
            return;
        }
        let index = match find(&self.links, &node) {
            Ok(index) => index,
            Err(_) if self.links.len() >= MAX_LINKS => {
                self.actions.push_back(OverlayAction::Drop { peer, reason: "too many links" });
                return;
            }
            Err(index) => {
                self.links.insert(index, Link::new(peer, node, now));
                index
            }
        };
        let hint = self.known.link_up(&node);
        let roles = self.dials.fulfil(&node, address).with(self.demands.role(&node, now));
        let link = &mut self.links[index];
        link.peer = peer;
        link.direct = direct;
        link.infrastructure = infrastructure;
        link.address = address;
        link.dropping = false;
        if let Some(hint) = hint.filter(|_| link.hint.is_empty()) {
            link.hint = hint;
        }
        if roles.has(Roles::SHORTCUT) {
            self.far_made(now);
        }
        self.bootstrap.forget(&node);
        if self.is_refused(&node, now) {
            // It shall hear why, and then goes like any link that nobody needs.
            self.links[index].leaving = true;
            self.send_status(index, now);
            self.settle(now);
            return;
        }
        self.add_roles(index, roles, now);
        self.link_is_new(peer, now);
    }

    /// The link's last direct or relayed path is gone.
    pub fn link_down(&mut self, peer: PeerId, now: Instant) {
        let Some(index) = self.link_index(peer) else { return };
        let link = self.links.remove(index);
        self.known.orphan(peer, now);
        self.link_is_gone(link, now);
        self.settle(now);
    }

    /// The measured round-trip time of a link.
    pub fn set_rtt(&mut self, peer: PeerId, rtt: Duration) {
        if let Some(index) = self.link_index(peer) {
            self.links[index].rtt_us = u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX).max(1);
        }
    }

    /// Takes a control payload of kind status, routed or forward that came over a link.
    ///
    /// # Errors
    /// Why it was dropped: the caller counts it.
    pub fn handle_message(&mut self, from: PeerId, payload: &[u8], now: Instant) -> Result<(), DropReason> {
        let kind = payload.first().copied().map(PayloadKind::from_byte).ok_or(WireError::Truncated)?;
        let result = match kind {
            PayloadKind::Status => self.handle_status(from, payload, now),
            PayloadKind::Routed => self.handle_routed(from, payload, now),
            PayloadKind::Forward => self.handle_forward(from, payload, now),
            _ => Err(DropReason::UnknownType),
        };
        self.settle(now);
        result
    }

    /// Tells all linked nodes who their neighbours will be, so that the ring closes at once. Afterwards links only go down.
    pub fn leave(&mut self, _now: Instant) {
        if self.leaving {
            return;
        }
        self.leaving = true;
        self.send_farewell();
        self.set_consistent(false);
    }

    /// Whether [`Self::leave`] was called.
    #[must_use]
    pub const fn is_leaving(&self) -> bool {
        self.leaving
    }

    /// The node's place on the ring as it sees it.
    #[must_use]
    pub fn view(&self) -> RingView {
        let shape = self.geometry.shape();
        let places = shape.places(self.geometry.near_per_side());
        let near = |side: Side| -> Vec<NodeId> {
            let live = shape.side(side, &self.links, &self.local).filter(|link| !link.leaving);
            live.take(places[side as usize]).map(|link| link.node).collect()
        };
        RingView {
            local: self.local,
            consistent: self.consistent,
            size_estimate: self.size_estimate(),
            successors: near(Side::Ahead),
            predecessors: near(Side::Behind),
            known: self.known.entries().iter().filter(|known| !known.linked).map(|known| known.node).collect(),
        }
    }

    /// Estimated number of nodes in the ring, this one included.
    #[must_use]
    pub fn size_estimate(&self) -> u64 {
        self.geometry.estimate_size(&self.geometry_view())
    }

    /// Whether this node is the one responsible for `point`.
    #[must_use]
    pub fn is_responsible(&self, point: &NodeId) -> bool {
        self.geometry.is_responsible(&self.geometry_view(), point)
    }

    /// The up to `count` nodes responsible for `point` among this node and those it is linked with, the first one first.
    #[must_use]
    pub fn responsible_set(&self, point: &NodeId, count: usize) -> Vec<NodeId> {
        let mut out = Vec::new();
        self.geometry.responsible_set(&self.geometry_view(), point, count, &mut out);
        out
    }

    /// Divides a range of the ring among the links in it, for broadcasts: each peer with the part that it shall cover.
    #[must_use]
    pub fn split(&self, range: geometry::Range) -> Vec<(PeerId, NodeId, geometry::Range)> {
        let mut out = Vec::new();
        self.geometry.split(&self.geometry_view(), range, &mut out);
        out.into_iter().map(|(index, part)| (self.links[index].peer, self.links[index].node, part)).collect()
    }

    /// The links in the order of their node IDs.
    pub fn links(&self, now: Instant) -> impl Iterator<Item = LinkView> {
        self.links.iter().map(move |link| link.view(now))
    }

    /// The link with `node`.
    #[must_use]
    pub fn link(&self, node: &NodeId, now: Instant) -> Option<LinkView> {
        find(&self.links, node).ok().map(|index| self.links[index].view(now))
    }

    /// Addresses of linked nodes, those of the longest links first, for the next start; at most `limit`.
    #[must_use]
    pub fn addresses_to_remember(&self, limit: usize) -> Vec<SocketAddr> {
        let mut links: Vec<&Link> = self.links.iter().filter(|link| link.direct && link.address.is_some()).collect();
        links.sort_by_key(|link| (!link.infrastructure, link.since));
        links.into_iter().filter_map(|link| link.address).take(limit).collect()
    }

    /// Does what is due. May be called at any time.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.leaving {
            return;
        }
        self.requests_due(now);
        self.dials_due(now);
        self.bootstrap_due(now);
        self.join_due(now);
        self.far_due(now);
        self.demands_due(now);
        let _ = self.halves.expire(now);
        self.rpc.expire(now);
        self.settle(now);
        self.gossip_due(now);
    }

    /// When [`Self::handle_timeout`] must be called next, and what for.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, TimerKind)> {
        if self.leaving {
            return None;
        }
        let named = |at: Option<Instant>, kind: TimerKind| at.map(|at| (at, kind));
        let mut next = named(self.rpc.next_due(), TimerKind::Request);
        for other in [
            named(self.dials.next_due(), TimerKind::Near),
            named(self.gossip_due, TimerKind::Near),
            named(self.near.next_due(self.consistent, self.links.is_empty()), TimerKind::Near),
            named(self.bootstrap.next_due(), TimerKind::Bootstrap),
            named(self.far.next_due(self.consistent), TimerKind::Shortcut),
            named(self.demands.next_due(), TimerKind::OnDemand),
            named(self.halves.next_expiry(), TimerKind::Pending),
        ] {
            next = earlier(next, other);
        }
        next
    }

    /// The next thing to do; call until `None`.
    pub fn poll_action(&mut self) -> Option<OverlayAction> {
        let action = self.actions.pop_front();
        if self.actions.is_empty() && self.actions.capacity() > 64 {
            self.actions.shrink_to(16);
        }
        action
    }

    fn geometry_view(&self) -> View<'_> {
        View { local: self.local, joined: self.joined, links: &self.links, known: self.known.entries() }
    }

    /// Whether the node said lately that it routes by another geometry.
    fn is_refused(&self, node: &NodeId, now: Instant) -> bool {
        self.refused.iter().any(|(refused, until)| refused == node && *until > now)
    }

    fn link_index(&self, peer: PeerId) -> Option<usize> {
        self.links.iter().position(|link| link.peer == peer)
    }

    /// Queues a control payload for a peer.
    fn send(&mut self, peer: PeerId, payload: Vec<u8>) -> Result<(), DropReason> {
        if self.actions.len() >= MAX_ACTIONS {
            return Err(DropReason::QueueFull);
        }
        self.actions.push_back(OverlayAction::Send { peer, payload });
        Ok(())
    }
}

#[cfg(test)]
mod tests;
