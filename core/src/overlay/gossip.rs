//! Statuses: what links' ends tell each other. Sent on change only, coalesced, and repeated until acknowledged.

use core::time::Duration;

use smallvec::SmallVec;

use super::geometry::{SIDES, Side};
use super::hint::{Hint, join_addresses};
use super::known::{Heard, Known};
use super::links::Link;
use super::types::{OverlayAction, Roles};
use super::{MAX_REFUSED, Overlay, REFUSED_LIFE};
use crate::config::GeometryKind;
use crate::id::NodeId;
use crate::io::DropReason;
use crate::time::Instant;
use crate::wire::overlay::{Entry, MAX_FURTHER, MAX_NEAR, MAX_PREFIXES, Status, StatusMessage, acknowledgement};

/// How long news about near neighbours wait for more of them.
pub(super) const NEAR_DELAY: Duration = Duration::from_millis(20);
/// How long news about a link's roles wait: nothing hurries.
pub(super) const ROLE_DELAY: Duration = Duration::from_millis(500);
/// How long news wait that only help far nodes to look ahead.
const FAR_DELAY: Duration = Duration::from_secs(5);
/// Statuses over one link are at least this far apart.
const MIN_GAP: Duration = Duration::from_millis(200);
/// Wait for an acknowledgement where the link's round-trip time is not known.
const ACK_WAIT: Duration = Duration::from_millis(300);
const ACK_WAIT_MIN: Duration = Duration::from_millis(100);
/// Longest wait for an acknowledgement: the wait doubles up to it, and the status is repeated as long as the link lives. A link whose session was in doubt
/// for a while must not leave its ends with different views of the ring.
const ACK_WAIT_MAX: Duration = Duration::from_secs(10);
/// Addresses per neighbour in a status.
const ENTRY_ADDRESSES: usize = 2;
/// Nodes per side around the receiver's own position.
const AROUND_RECEIVER: usize = 2;
/// Passive nodes per side.
const PASSIVE_TOLD: usize = 4;

impl Overlay {
    /// Notes that the link's other end should hear news within `delay`.
    pub(super) fn want_status(&mut self, index: usize, delay: Duration, now: Instant) {
        let gossip = &mut self.links[index].gossip;
        let earliest = gossip.sent.map_or(now, |sent| sent + MIN_GAP);
        let at = (now + delay).max(earliest);
        gossip.acknowledged = false;
        gossip.tries = 0;
        if gossip.due.is_none_or(|due| due > at) {
            gossip.due = Some(at);
        }
        if self.gossip_due.is_none_or(|due| due > at) {
            self.gossip_due = Some(at);
        }
    }

    /// The near neighbours are others than before: near links hear it at once, the others when it suits.
    pub(super) fn neighbours_changed(&mut self, now: Instant) {
        for index in 0..self.links.len() {
            let link = &self.links[index];
            let hurry =
                link.roles.has(Roles::NEAR) || link.remote_roles.has(Roles::NEAR) || link.remote_roles.has(Roles::LEAF) || !link.joined;
            self.want_status(index, if hurry { NEAR_DELAY } else { FAR_DELAY }, now);
        }
    }

    /// Sends what is due.
    pub(super) fn gossip_due(&mut self, now: Instant) {
        if self.gossip_due.is_none_or(|due| due > now) {
            return;
        }
        for index in 0..self.links.len() {
            if self.links[index].gossip.due.is_some_and(|due| due <= now) {
                self.send_status(index, now);
            }
        }
        self.gossip_due = self.links.iter().filter_map(|link| link.gossip.due).min();
    }

    /// Sends a link's other end our status now.
    pub(super) fn send_status(&mut self, index: usize, now: Instant) {
        let mut status = self.status_for(index);
        let link = &mut self.links[index];
        link.gossip.number = link.gossip.number.wrapping_add(1);
        link.gossip.tries = link.gossip.tries.saturating_add(1);
        link.gossip.acknowledged = false;
        link.gossip.sent = Some(now);
        status.number = link.gossip.number;
        let wait = link.rtt().map_or(ACK_WAIT, |rtt| (rtt * 2).max(ACK_WAIT_MIN)) * (1 << link.gossip.tries.min(10).saturating_sub(1));
        link.gossip.due = Some(now + wait.clamp(MIN_GAP, ACK_WAIT_MAX));
        let (peer, due) = (link.peer, link.gossip.due);
        self.gossip_due = self.gossip_due.into_iter().chain(due).min();
        // A full queue loses it like the network does: it is not acknowledged and comes again.
        let _ = self.send(peer, status.payload());
    }

    /// Tells everybody that we leave, and whom we leave behind.
    pub(super) fn send_farewell(&mut self) {
        for index in 0..self.links.len() {
            let mut status = self.status_for(index);
            status.leaving = true;
            status.number = self.links[index].gossip.number.wrapping_add(1);
            let peer = self.links[index].peer;
            let _ = self.send(peer, status.payload());
        }
    }

    /// Takes a status or an acknowledgement.
    pub(super) fn handle_status(&mut self, from: crate::shard::table::PeerId, payload: &[u8], now: Instant) -> Result<(), DropReason> {
        let message = StatusMessage::parse(payload)?;
        let index = self.link_index(from).ok_or(DropReason::NoPath)?;
        match message {
            StatusMessage::Ack(number) => {
                let gossip = &mut self.links[index].gossip;
                if gossip.number == number && !gossip.acknowledged && gossip.sent.is_some() {
                    gossip.acknowledged = true;
                    // News since then have set `tries` to 0: they are still to be sent.
                    if gossip.tries > 0 {
                        gossip.due = None;
                    }
                }
                Ok(())
            }
            StatusMessage::Status(status) => {
                self.send(from, acknowledgement(status.number))?;
                let received = &mut self.links[index].gossip.received;
                if received.is_some_and(|latest| status.number.wrapping_sub(latest) as i16 <= 0) {
                    return Ok(());
                }
                *received = Some(status.number);
                if status.geometry != self.geometry.kind() {
                    self.refuse_geometry(index, status.geometry, now);
                    return Ok(());
                }
                self.take_status(index, &status, now);
                Ok(())
            }
        }
    }

    /// The other end routes by another geometry: messages would go in circles between us, so the link ends before it carries any.
    fn refuse_geometry(&mut self, index: usize, theirs: GeometryKind, now: Instant) {
        let link = &mut self.links[index];
        link.leaving = true;
        let node = link.node;
        let roles = link.roles;
        // It stays for a while, unused, so that the other end hears our status as well.
        self.remove_roles(index, roles, now);
        self.actions.push_back(OverlayAction::OtherGeometry { node, theirs });
        self.refused.retain(|(refused, until)| *refused != node && *until > now);
        if self.refused.len() >= MAX_REFUSED {
            self.refused.remove(0);
        }
        self.refused.push((node, now + REFUSED_LIFE));
    }

    fn take_status(&mut self, index: usize, status: &Status, now: Instant) {
        let link = &mut self.links[index];
        let reporter = link.peer;
        link.remote_roles = Roles(status.roles);
        link.joined = status.joined;
        link.leaving = status.leaving;
        link.reported = status.predecessors.first().zip(status.successors.first()).map(|(before, after)| (before.node, after.node));
        if *link.prefixes != *status.prefixes {
            link.prefixes = status.prefixes.clone().into_boxed_slice();
        }
        if !status.candidates.is_empty() {
            link.hint = Hint::new(&status.candidates);
        }
        let ids = |entries: &[Entry]| entries.iter().map(|entry| entry.node).collect::<SmallVec<[NodeId; MAX_NEAR]>>();
        let lists = [ids(&status.predecessors), ids(&status.successors)];
        link.confirms = self.geometry.shape().confirms(&self.local, &link.node, [&lists[0], &lists[1]]);
        let entries = || status.predecessors.iter().chain(&status.successors).chain(&status.further);
        let named: Vec<NodeId> = entries().map(|entry| entry.node).collect();
        // What a leaving node says is its last word: its neighbours are not to be doubted because it goes.
        if !status.leaving {
            self.known.confirm(reporter, &named, now);
        }
        for entry in entries() {
            let heard =
                Heard { node: entry.node, addresses: entry.addresses.clone(), reporter: Some(reporter), first_hand: !entry.hearsay };
            self.known.hear(heard, &self.links, now);
        }
        if status.leaving {
            let node = self.links[index].node;
            self.known.remove(&node);
            self.bootstrap.forget(&node);
        }
    }

    /// Our status for the other end of a link.
    pub(super) fn status_for(&self, index: usize) -> Status {
        self.status_to(&self.links[index])
    }

    /// Our status for whoever is at the other end of `receiver`.
    pub(super) fn status_to(&self, receiver: &Link) -> Status {
        let live = |link: &&Link| !link.leaving;
        let shape = self.geometry.shape();
        let near = |side: Side| -> Vec<Entry> {
            let links = shape.side(side, &self.links, &self.local).filter(live);
            links.take(shape.places(MAX_NEAR)[side as usize]).map(|link| entry_of(link, ENTRY_ADDRESSES)).collect()
        };
        let (mut successors, mut predecessors) = (near(Side::Ahead), near(Side::Behind));
        // A tree has one list of twice the length.
        predecessors.extend(successors.drain(successors.len().min(MAX_NEAR)..));
        let mut further: Vec<Entry> = Vec::new();
        let told = |further: &[Entry], node: &NodeId| {
            let lists = predecessors.iter().chain(&successors).chain(further);
            *node == receiver.node || lists.into_iter().any(|entry| entry.node == *node)
        };
        for (side, places) in SIDES.into_iter().zip(shape.places(AROUND_RECEIVER)) {
            for link in shape.side(side, &self.links, &receiver.node).filter(live).take(places) {
                if !told(&further, &link.node) {
                    further.push(entry_of(link, 1));
                }
            }
        }
        if receiver.roles.has(Roles::NEAR) || receiver.remote_roles.has(Roles::NEAR) {
            let known = self.known.entries();
            for (side, places) in SIDES.into_iter().zip(shape.places(PASSIVE_TOLD)) {
                let sure = |known: &&Known| known.first_hand && known.is_promising();
                for known in shape.side(side, known, &self.local).filter(sure).take(places) {
                    if further.len() < MAX_FURTHER && !told(&further, &known.node) {
                        further.push(Entry { node: known.node, hearsay: true, addresses: known.hint.addresses(1) });
                    }
                }
            }
        }
        let ring = Roles::NEAR.0 | Roles::SHORTCUT.0;
        let kept = |link: &&Link| link.joined && !link.leaving && (link.roles.0 | link.remote_roles.0) & ring != 0;
        let routed = self.links.iter().filter(kept).filter(|_| self.geometry.looks_ahead());
        Status {
            number: 0,
            joined: self.joined,
            leaving: self.leaving,
            geometry: self.geometry.kind(),
            roles: receiver.roles.0,
            candidates: self.candidates.clone(),
            prefixes: routed.map(|link| (link.node.prefix() >> 32) as u32).take(MAX_PREFIXES).collect(),
            predecessors,
            successors,
            further,
        }
    }
}

/// A linked node and where others may reach it: where we see it, and what it says about itself.
pub(super) fn entry_of(link: &Link, addresses: usize) -> Entry {
    let mut known = join_addresses(link.address.filter(|_| link.direct), link.hint.addresses(addresses));
    known.truncate(addresses);
    Entry { node: link.node, hearsay: false, addresses: known }
}
