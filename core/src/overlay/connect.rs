//! Connect requests over the ring ("dial me, I dial you"), and dials with their results.

use super::Overlay;
use super::geometry::{SIDES, Side};
use super::hint::join_addresses;
use super::known::Heard;
use super::links::find;
use super::near::MAX_DIAL_ADDRESSES;
use super::rpc::{Purpose, Route};
use super::types::{DialId, Mode, OverlayAction, RequestId, Roles};
use crate::id::NodeId;
use crate::io::Candidates;
use crate::shard::table::PeerId;
use crate::time::Instant;
use crate::wire::overlay::{Connect, Entry, MAX_CANDIDATES, MAX_NEIGHBOURS, METHOD_CONNECT};
use crate::wire::rpc::{ERROR_BUSY, ERROR_MALFORMED, ERROR_REFUSED};

impl Overlay {
    /// The result of [`OverlayAction::Dial`]: the peer that answered ([`Self::link_up`] was called for it before), or that nobody did.
    pub fn dial_result(&mut self, dial: DialId, result: Result<PeerId, ()>, now: Instant) {
        let Some(dial) = self.dials.take(dial) else { return };
        match result.ok().and_then(|peer| self.link_index(peer)) {
            Some(index) => {
                let peer = self.links[index].peer;
                if self.is_refused(&self.links[index].node, now) {
                    return self.settle(now);
                }
                let news = dial.roles.has(Roles::LEAF) && !self.links[index].roles.has(Roles::LEAF);
                self.add_roles(index, dial.roles, now);
                if news {
                    self.ask_for_place(peer, now);
                }
            }
            None => self.dial_failed(dial, now),
        }
        self.settle(now);
    }

    /// Dials whose time is over, and those in which the other side should help.
    pub(super) fn dials_due(&mut self, now: Instant) {
        if self.dials.next_due().is_none_or(|due| due > now) {
            return;
        }
        for dial in self.dials.take_expired(now) {
            self.dial_failed(dial, now);
        }
        for (node, roles) in self.dials.take_nudges(now) {
            if let Some(known) = self.known.get_mut(&node) {
                known.slow = known.dialling;
            }
            // Who named it is linked with it and can hand our request on, even where the ring does not know it yet.
            let reporter = self.known.get(&node).and_then(|known| known.reporters.last().copied()).and_then(|peer| self.link_index(peer));
            let route = reporter.map_or(Route::Ring, |index| Route::Via(self.links[index].node));
            let _ = self.send_connect(node, Mode::Exact, roles, route, Purpose::Connect(roles), now);
        }
    }

    fn dial_failed(&mut self, dial: super::dial::Dial, now: Instant) {
        let Some(node) = dial.node else { return self.bootstrap_failed(now) };
        if self.dials.is_dialling_node(&node) || find(&self.links, &node).is_ok() {
            return;
        }
        self.known.failed(&node, &mut self.rng, now);
        // A near node comes again from the passive list; for the others the second try, over the ring, is here.
        let others = dial.roles.has(Roles::SHORTCUT) || dial.roles.has(Roles::ON_DEMAND);
        if others && !dial.routed && !self.links.is_empty() {
            let _ = self.start_dial(node, dial.addresses, true, dial.roles, now);
        }
    }

    /// Starts a dial, unless the node is linked (then it takes the role) or being dialled already; whether one is under way now.
    pub(super) fn start_dial(&mut self, node: NodeId, addresses: Candidates, routed: bool, roles: Roles, now: Instant) -> bool {
        if node == self.local {
            return false;
        }
        if let Ok(index) = find(&self.links, &node) {
            self.add_roles(index, roles, now);
            return false;
        }
        if self.dials.add_roles(&node, roles) {
            return true;
        }
        if !self.dials.has_room(roles) || addresses.is_empty() && !routed {
            return false;
        }
        let dial = self.dials.start(Some(node), addresses.clone(), routed, roles, now);
        if let Some(known) = self.known.get_mut(&node) {
            known.dialling = true;
        }
        self.actions.push_back(OverlayAction::Dial { dial, node: Some(node), addresses, routed, roles });
        true
    }

    /// Asks whoever `mode` chooses to dial us, with our addresses and neighbours.
    pub(super) fn send_connect(
        &mut self,
        to: NodeId,
        mode: Mode,
        roles: Roles,
        route: Route,
        purpose: Purpose,
        now: Instant,
    ) -> Option<RequestId> {
        let neighbours = if roles.has(Roles::NEAR) { self.neighbours_around(&to, None) } else { Vec::new() };
        let connect = Connect { roles: roles.0, candidates: self.candidates.clone(), neighbours };
        self.start_request(to, mode, METHOD_CONNECT, connect.body().into(), route, purpose, now)
    }

    /// Somebody wants a link: answers with our addresses and his neighbours among our links, and dials him at once.
    pub(super) fn handle_connect(&mut self, from: NodeId, body: &[u8], now: Instant) -> Result<Vec<u8>, u8> {
        let Ok(connect) = Connect::parse(body) else { return Err(ERROR_MALFORMED) };
        let roles = Roles(connect.roles);
        if self.leaving || from == self.local {
            return Err(ERROR_REFUSED);
        }
        if find(&self.links, &from).is_err() {
            let addresses: Candidates = connect.candidates.iter().copied().take(MAX_DIAL_ADDRESSES).collect();
            let routed = addresses.is_empty();
            if roles.has(Roles::NEAR) {
                self.hear_of(from, &connect.candidates, &connect.neighbours, now);
                if self.would_be_near(&from) {
                    let _ = self.start_dial(from, addresses, routed, Roles::NEAR, now);
                }
            } else {
                if roles.has(Roles::SHORTCUT) && self.incoming_shortcuts() >= self.geometry.max_incoming(&self.geometry_view()) {
                    return Err(ERROR_REFUSED);
                }
                if !self.dials.has_room(roles) {
                    return Err(ERROR_BUSY);
                }
                let _ = self.start_dial(from, addresses, routed, Roles::NONE, now);
            }
            // He dials us already: no need to ask him.
            self.dials.calm(&from);
        }
        let neighbours = self.neighbours_around(&from, Some(&from));
        Ok(Connect { roles: 0, candidates: self.candidates.clone(), neighbours }.body())
    }

    /// The answer to a connect request of ours.
    pub(super) fn connect_answered(&mut self, from: NodeId, body: &[u8], purpose: &Purpose, now: Instant) {
        let Ok(connect) = Connect::parse(body) else { return };
        let addresses: Candidates = connect.candidates.iter().copied().take(MAX_DIAL_ADDRESSES).collect();
        match *purpose {
            Purpose::Join => {
                self.hear_of(from, &connect.candidates, &connect.neighbours, now);
                self.settle(now);
                self.dials.calm(&from);
            }
            Purpose::Shortcut => {
                self.far_found(from, addresses, now);
                self.dials.calm(&from);
            }
            Purpose::Connect(roles) => {
                if roles.has(Roles::NEAR) {
                    self.hear_of(from, &connect.candidates, &connect.neighbours, now);
                }
                self.answered_directly(from, addresses, roles, now);
            }
            Purpose::User | Purpose::Trace(_) => {}
        }
    }

    /// A node that we asked by name has answered, and dials us. Where a dial of ours is under way it has not succeeded so far: the
    /// addresses that we had may be wrong, so it is tried again with those that the node gives itself, and over the ring.
    fn answered_directly(&mut self, node: NodeId, addresses: Candidates, roles: Roles, now: Instant) {
        if let Ok(index) = find(&self.links, &node) {
            self.add_roles(index, roles, now);
            return;
        }
        let stuck = self.dials.take_stuck(&node);
        let routed = stuck.is_some() || addresses.is_empty();
        let roles = stuck.map_or(roles, |before| before.with(roles));
        let _ = self.start_dial(node, addresses, routed, roles, now);
        self.dials.calm(&node);
    }

    /// Notes a node that spoke to us over the ring, and the neighbours that it names.
    fn hear_of(&mut self, node: NodeId, candidates: &Candidates, neighbours: &[Entry], now: Instant) {
        let addresses = join_addresses(None, candidates.clone());
        self.known.hear(Heard { node, addresses, reporter: None, first_hand: true }, &self.links, now);
        for entry in neighbours {
            let heard = Heard { node: entry.node, addresses: entry.addresses.clone(), reporter: None, first_hand: false };
            self.known.hear(heard, &self.links, now);
        }
    }

    /// Our linked nodes around `point`, nearest first on alternating sides.
    fn neighbours_around(&self, point: &NodeId, but: Option<&NodeId>) -> Vec<Entry> {
        let wanted = |link: &&super::Link| !link.leaving && Some(&link.node) != but;
        let shape = self.geometry.shape();
        let mut sides = SIDES.map(|side| shape.side(side, &self.links, point).filter(wanted));
        let mut out: Vec<Entry> = Vec::new();
        for turn in 0..MAX_NEIGHBOURS {
            // Turn by turn on both sides; in a tree there is one.
            let side = if shape.places(1)[Side::Behind as usize] == 0 { 0 } else { turn % 2 };
            if let Some(link) = sides[side].next()
                && !out.iter().any(|entry| entry.node == link.node)
            {
                out.push(super::gossip::entry_of(link, 2));
            }
        }
        out
    }

    fn incoming_shortcuts(&self) -> usize {
        self.links.iter().filter(|link| link.roles.is_none() && link.remote_roles.has(Roles::SHORTCUT)).count()
    }
}

const _: () = assert!(MAX_DIAL_ADDRESSES <= MAX_CANDIDATES);
