//! Members with a session: what shards may send to them and take from them, and our lease as it is shown to them.

use core::net::{IpAddr, Ipv4Addr};
use core::time::Duration;

use bytes::Bytes;

use super::{CONNECT_LIMIT, Call, MAX_ANNOUNCEMENTS, MAX_CONNECTING, OWNER_LIFE, Owner, Purpose, Vpn, VpnAction, wire};
use crate::dht::key::Space;
use crate::dht::ring::ReplyTo;
use crate::dht::{At, DhtError, ERROR_MALFORMED, Operation, Outcome};
use crate::group::Certificate;
use crate::id::NodeId;
use crate::shard::table::Prefix;
use crate::time::{Instant, UnixTime};
use crate::wire::dht::{Bundle, Offer};

/// Leased addresses that one member may use at a time: the one that it has and the one that it moves to.
const MAX_LEASES: usize = 2;
/// Pause before an announcement is tried again, doubled each time.
const AGAIN: Duration = Duration::from_millis(500);
/// How often an announcement is tried; then packets go without it, and the next session begins anew.
const TRIES: u8 = 5;

/// Whether a member knows our lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shown {
    /// No need yet.
    No,
    /// Asked; the number of tries so far.
    Asked(u8),
    /// Refused or lost; shown again then.
    Again(u8, Instant),
    /// It does, or will not.
    Done,
}

/// A member with a session.
#[derive(Debug)]
pub(super) struct Member {
    /// Prefixes that the certificate names, and the self-certifying address.
    fixed: Vec<Prefix>,
    leases: Vec<(Ipv4Addr, UnixTime)>,
    shown: Shown,
    pub(super) mtu: Option<u16>,
}

impl Member {
    pub(super) const fn deadline(&self) -> Option<Instant> {
        match self.shown {
            Shown::Again(_, at) => Some(at),
            _ => None,
        }
    }
}

impl Vpn {
    /// A session with a member is up: its addresses that need no lease are published, and what waits for it is sent.
    pub fn session_up(&mut self, certificate: &Certificate, at: At<'_>) {
        let node = certificate.node_id();
        self.remember(certificate, at.now);
        self.connecting.remove(&node);
        self.unreachable.remove(&node);
        let mut fixed: Vec<Prefix> = self.addresses_of(certificate).into_iter().map(Prefix::host).collect();
        fixed.extend(certificate.addresses().iter().filter(|prefix| !prefix.is_host()));
        let before = self.members.remove(&node);
        if let Some(before) = &before {
            // A new session of the same member: what its renewed certificate names no more is taken back.
            for prefix in before.fixed.iter().filter(|prefix| !fixed.contains(prefix)) {
                self.take_back(node, *prefix);
            }
        }
        // It may have been restarted and forgotten our lease; its routes stand, so no waiting packet would ask whether it knows.
        let knew = before.as_ref().is_some_and(|before| before.shown != Shown::No);
        let (leases, mtu) = before.map(|before| (before.leases, before.mtu)).unwrap_or_default();
        self.members.insert(node, Member { fixed: fixed.clone(), leases, shown: Shown::No, mtu });
        for prefix in fixed {
            self.actions.push_back(VpnAction::Source { prefix, node });
            self.publish_route(prefix, node);
        }
        let leased: Vec<(Ipv4Addr, UnixTime)> = self
            .owners
            .iter()
            .filter_map(|(address, owner)| match (address, owner) {
                (IpAddr::V4(v4), Owner { node: Some(other), expires: Some(expires) }) if *other == node && *expires > at.wall => {
                    Some((*v4, *expires))
                }
                _ => None,
            })
            .collect();
        leased.into_iter().for_each(|(address, expires)| self.accept_lease(node, address, expires, at));
        if knew {
            self.is_shown(node);
        }
        self.flush(node, at);
        self.arm();
    }

    /// No session with the member is left: it may send nothing, and packets for it ask for a session.
    pub fn session_down(&mut self, node: NodeId) {
        let Some(member) = self.members.remove(&node) else { return };
        let leased = member.leases.iter().map(|(address, _)| Prefix::host(IpAddr::V4(*address)));
        let prefixes: Vec<Prefix> = member.fixed.iter().copied().chain(leased).collect();
        prefixes.into_iter().for_each(|prefix| self.take_back(node, prefix));
        self.arm();
    }

    /// The largest inner packet in bytes that the way to a member carries.
    pub fn set_mtu(&mut self, node: NodeId, mtu: u16) {
        if let Some(member) = self.members.get_mut(&node) {
            member.mtu = Some(mtu);
        }
    }

    /// No session with the member could be made: what waits for it is unreachable now.
    pub fn connect_failed(&mut self, node: NodeId, at: At<'_>) {
        if self.connecting.remove(&node).is_some() {
            self.give_up(node, at.now);
        }
        self.arm();
    }

    pub(super) fn want_session(&mut self, node: NodeId, now: Instant) {
        if !self.connecting.contains_key(&node) && self.connecting.len() < MAX_CONNECTING {
            self.connecting.insert(node, now + CONNECT_LIMIT);
            self.actions.push_back(VpnAction::Connect { node });
        }
    }

    pub(super) fn expire_connecting(&mut self, at: At<'_>) {
        let late: Vec<NodeId> = self.connecting.iter().filter(|(_, until)| **until <= at.now).map(|(node, _)| *node).collect();
        for node in late {
            self.connecting.remove(&node);
            self.give_up(node, at.now);
        }
    }

    /// Takes a verified lease of a member: from now on it may send from the address.
    pub(super) fn accept_lease(&mut self, node: NodeId, address: Ipv4Addr, expires: UnixTime, at: At<'_>) {
        let ip = IpAddr::V4(address);
        let prefix = Prefix::host(ip);
        if self.addresses().contains(&ip) {
            return;
        }
        let others: Vec<NodeId> = self.holders(address).filter(|other| *other != node).collect();
        others.into_iter().for_each(|other| self.take_lease_back(other, address));
        self.owners.insert(ip, Owner { node: Some(node), expires: Some(expires) }, at.now + OWNER_LIFE);
        self.note_address(node, ip, at.now);
        let Some(member) = self.members.get_mut(&node) else { return };
        let is_new = !member.leases.iter().any(|(other, _)| *other == address);
        member.leases.retain(|(other, _)| *other != address);
        member.leases.push((address, expires));
        let oldest = (member.leases.len() > MAX_LEASES).then(|| member.leases.remove(0).0);
        if let Some(oldest) = oldest {
            self.take_back(node, Prefix::host(IpAddr::V4(oldest)));
        }
        if is_new {
            self.actions.push_back(VpnAction::Source { prefix, node });
        }
    }

    /// Members that may send from a leased address now: one, or none.
    fn holders(&self, address: Ipv4Addr) -> impl Iterator<Item = NodeId> {
        let has = move |member: &Member| member.leases.iter().any(|(other, _)| *other == address);
        self.members.iter().filter(move |(_, member)| has(member)).map(|(node, _)| *node)
    }

    /// Whether somebody but `owner` is known to have a leased address.
    fn is_contested(&mut self, address: Ipv4Addr, owner: NodeId, now: Instant) -> bool {
        let known = self.owners.get(&IpAddr::V4(address), now).and_then(|known| known.node);
        known.is_some_and(|known| known != owner) || self.holders(address).any(|holder| holder != owner)
    }

    fn take_lease_back(&mut self, node: NodeId, address: Ipv4Addr) {
        if let Some(member) = self.members.get_mut(&node)
            && let Some(place) = member.leases.iter().position(|(other, _)| *other == address)
        {
            member.leases.remove(place);
            self.take_back(node, Prefix::host(IpAddr::V4(address)));
        }
    }

    fn take_back(&mut self, node: NodeId, prefix: Prefix) {
        self.actions.push_back(VpnAction::RemoveSource { prefix, node });
        if self.routes.get(&prefix) == Some(&node) {
            self.routes.remove(&prefix);
            self.actions.push_back(VpnAction::RemoveRoute { prefix });
        }
    }

    pub(super) fn publish_route(&mut self, prefix: Prefix, node: NodeId) {
        if self.routes.insert(prefix, node) != Some(node) {
            self.actions.push_back(VpnAction::Route { prefix, node });
        }
    }

    pub(super) fn expire_leases(&mut self, at: At<'_>) {
        let mut ended: Vec<(NodeId, Ipv4Addr)> = Vec::new();
        for (node, member) in &self.members {
            ended.extend(member.leases.iter().filter(|(_, expires)| *expires <= at.wall).map(|(address, _)| (*node, *address)));
        }
        for (node, address) in ended {
            self.take_lease_back(node, address);
            self.owners.remove(&IpAddr::V4(address));
        }
    }

    /// Whether packets to a leased or fixed IPv4 address of `node` may go: it must know our lease first, or it drops them as forged.
    pub(super) fn is_shown(&mut self, node: NodeId) -> bool {
        let Some(bundle) = self.lease.bundle().cloned() else { return true };
        let Some(member) = self.members.get_mut(&node) else { return false };
        if member.shown == Shown::No {
            member.shown = Shown::Asked(1);
            self.show(node, &bundle);
        }
        self.members.get(&node).is_some_and(|member| member.shown == Shown::Done)
    }

    fn show(&mut self, node: NodeId, bundle: &Bundle) {
        let body = Offer::body(bundle, &[self.identity.certificate().der().clone()]);
        self.call(Call::Announce(node), node, true, wire::METHOD_ANNOUNCE, body);
    }

    /// The lease is new: members that knew the one before are shown this one.
    pub(super) fn announce_again(&mut self) {
        let Some(bundle) = self.lease.bundle().cloned() else { return };
        let knew: Vec<NodeId> = self.members.iter().filter(|(_, member)| member.shown != Shown::No).map(|(node, _)| *node).collect();
        for node in knew {
            if let Some(member) = self.members.get_mut(&node) {
                member.shown = Shown::Asked(1);
            }
            self.show(node, &bundle);
        }
    }

    pub(super) fn on_announce_reply(&mut self, node: NodeId, body: Option<Bytes>, at: At<'_>) {
        let Some(member) = self.members.get_mut(&node) else { return };
        let Shown::Asked(tries) = member.shown else { return };
        let accepted = body.is_some_and(|body| wire::read_announce_reply(&body) == Ok(true));
        member.shown = if accepted || tries >= TRIES { Shown::Done } else { Shown::Again(tries, at.now + AGAIN * (1 << tries)) };
        self.flush(node, at);
    }

    pub(super) fn wake_members(&mut self, at: At<'_>) {
        let due: Vec<NodeId> =
            self.members.iter().filter(|(_, member)| member.deadline().is_some_and(|due| due <= at.now)).map(|(node, _)| *node).collect();
        for node in due {
            let bundle = self.lease.bundle().cloned();
            let Some(member) = self.members.get_mut(&node) else { continue };
            match (member.shown, bundle) {
                (Shown::Again(tries, _), Some(bundle)) => {
                    member.shown = Shown::Asked(tries + 1);
                    self.show(node, &bundle);
                }
                _ => {
                    member.shown = Shown::No;
                    self.flush(node, at);
                }
            }
        }
    }

    /// A member shows its lease. `None`: the answer follows when it was verified.
    pub(super) fn announced(&mut self, from: NodeId, body: &[u8], reply: ReplyTo, at: At<'_>) -> Option<Result<Bytes, u8>> {
        let Ok(Offer { bundle, certificates }) = Offer::parse(body) else { return Some(Err(ERROR_MALFORMED)) };
        let Space::Address(IpAddr::V4(address)) = bundle.record.key.space() else { return Some(Ok(wire::announce_reply(false))) };
        let owner = bundle.record.owner;
        let running = self.ops.values().filter(|purpose| matches!(purpose, Purpose::Announcement { .. })).count();
        if running >= MAX_ANNOUNCEMENTS {
            return Some(Ok(wire::announce_reply(false)));
        }
        if self.is_contested(address, owner, at.now) {
            // Two claim it: the replicas know who has it now. Whoever it is shows its lease again.
            self.look_up(IpAddr::V4(address));
            return Some(Ok(wire::announce_reply(false)));
        }
        self.start(Purpose::Announcement { reply }, Operation::Verify { bundle, from, certificates });
        None
    }

    pub(super) fn on_announcement(&mut self, reply: ReplyTo, result: Result<Outcome, DhtError>, at: At<'_>) {
        let mut accepted = false;
        if let Ok(Outcome::Found(Bundle { record, .. })) = result
            && let Space::Address(IpAddr::V4(address)) = record.key.space()
            && !record.tombstone
            && !self.is_contested(address, record.owner, at.now)
        {
            self.accept_lease(record.owner, address, record.expires, at);
            accepted = true;
        }
        self.actions.push_back(VpnAction::Reply { to: reply, body: Ok(wire::announce_reply(accepted)) });
    }
}
