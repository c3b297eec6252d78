//! Packets that a shard could not decide: they wait, go on, or their sender is told why not.

use core::net::IpAddr;

use bytes::Bytes;

use super::address::is_unicast;
use super::icmp::{self, Error};
use super::{Owner, Vpn, VpnAction};
use crate::dht::At;
use crate::id::NodeId;
use crate::io::{DropReason, Punt};
use crate::shard::table::Prefix;
use crate::time::Instant;

impl Vpn {
    /// A packet of the host that a shard punted: nobody is known to have the destination, no session is installed, or the way is too small for it.
    pub fn handle_packet(&mut self, why: Punt, packet: &[u8], at: At<'_>) {
        let Some(parsed) = icmp::parse(packet) else { return self.dropped(DropReason::NotIp) };
        let destination = parsed.destination;
        let packet = &packet[..parsed.len];
        if !is_unicast(destination, &self.networks) || self.addresses().contains(&destination) {
            return self.dropped(DropReason::NotOurs);
        }
        match why {
            Punt::NoAddress | Punt::NoSession => self.send(destination, packet, at),
            Punt::TooBig => self.too_big(destination, packet, at.now),
            _ => self.dropped(DropReason::NotOurs),
        }
        self.arm();
    }

    fn send(&mut self, destination: IpAddr, packet: &[u8], at: At<'_>) {
        let owner = self.owner_of(destination, at.now);
        match owner {
            Some(Owner { node: None, .. }) => self.refuse(packet, Error::HostUnreachable, DropReason::NoRoute, at.now),
            Some(Owner { node: Some(node), .. }) if self.members.contains_key(&node) => {
                if !self.reinjected.take(destination, at.now) {
                    return self.dropped(DropReason::RateLimited);
                }
                self.wait(destination, packet, at.now);
                self.flush_to(destination, node);
            }
            Some(Owner { node: Some(node), .. }) => {
                if self.unreachable.get(&node, at.now).is_some() {
                    return self.refuse(packet, Error::HostUnreachable, DropReason::NoPath, at.now);
                }
                self.wait(destination, packet, at.now);
                self.want_session(node, at.now);
            }
            None => {
                if self.look_up(destination) {
                    self.wait(destination, packet, at.now);
                } else {
                    self.dropped(DropReason::QueueFull);
                }
            }
        }
    }

    /// Whose a destination is, as far as it is known.
    pub(super) fn owner_of(&mut self, destination: IpAddr, now: Instant) -> Option<Owner> {
        let known = |node: NodeId| Owner { node: Some(node), expires: None };
        if let Some(node) = self.routes.get(&Prefix::host(destination)) {
            return Some(known(*node));
        }
        // Among the members' networks the longest prefix counts, as in the shards' tables.
        let network =
            self.routes.iter().filter(|(prefix, _)| !prefix.is_host() && prefix.contains(destination)).max_by_key(|(prefix, _)| prefix.len);
        if let Some((_, node)) = network {
            return Some(known(*node));
        }
        self.owners.get(&destination, now).copied()
    }

    fn wait(&mut self, destination: IpAddr, packet: &[u8], now: Instant) {
        if self.pool.push(destination, packet, now) {
            self.dropped(DropReason::QueueFull);
        }
    }

    /// Sends what waits for addresses of a member with a session.
    pub(super) fn flush(&mut self, node: NodeId, at: At<'_>) {
        let waiting: Vec<IpAddr> = self.pool.destinations().collect();
        for destination in waiting {
            if self.owner_of(destination, at.now).is_some_and(|owner| owner.node == Some(node)) {
                self.flush_to(destination, node);
            }
        }
    }

    /// Sends what waits for `destination` if its owner may be sent to; its route goes first.
    pub(super) fn flush_to(&mut self, destination: IpAddr, node: NodeId) {
        if !self.members.contains_key(&node) || destination.is_ipv4() && !self.is_shown(node) {
            return;
        }
        if !self.routes.iter().any(|(prefix, owner)| *owner == node && prefix.contains(destination)) {
            self.publish_route(Prefix::host(destination), node);
        }
        for packet in self.pool.take(destination) {
            self.actions.push_back(VpnAction::Reinject { node, packet });
        }
    }

    /// Tells the senders of what waits for `destination` that nobody has it.
    pub(super) fn refuse_all(&mut self, destination: IpAddr, error: Error, reason: DropReason, now: Instant) {
        let packets: Vec<Bytes> = self.pool.take(destination).collect();
        packets.iter().for_each(|packet| self.refuse(packet, error, reason, now));
    }

    /// A member cannot be reached: what waits for it is told so, and so is what follows for a while.
    pub(super) fn give_up(&mut self, node: NodeId, now: Instant) {
        self.unreachable.insert(node, (), now + super::ABSENT_LIFE);
        let waiting: Vec<IpAddr> = self.pool.destinations().collect();
        for destination in waiting {
            if self.owner_of(destination, now).is_some_and(|owner| owner.node == Some(node)) {
                self.refuse_all(destination, Error::HostUnreachable, DropReason::NoPath, now);
            }
        }
    }

    pub(super) fn expire_packets(&mut self, at: At<'_>) {
        for (_, packet) in self.pool.expire(at.now) {
            self.refuse(&packet, Error::HostUnreachable, DropReason::Expired, at.now);
        }
    }

    fn too_big(&mut self, destination: IpAddr, packet: &[u8], now: Instant) {
        let owner = self.owner_of(destination, now).and_then(|owner| owner.node);
        let mtu = owner.and_then(|node| self.members.get(&node)).and_then(|member| member.mtu).unwrap_or(self.tunnel_mtu);
        if packet.len() > usize::from(mtu) {
            // Also without "don't fragment": the host fragments by itself once it knows.
            self.refuse(packet, Error::TooBig(mtu), DropReason::TooBig, now);
        } else {
            // The way has become large enough meanwhile, or changes: the sender repeats it.
            self.dropped(DropReason::TooBig);
        }
    }

    fn refuse(&mut self, packet: &[u8], error: Error, reason: DropReason, now: Instant) {
        self.dropped(reason);
        let Some(source) = icmp::parse(packet).map(|parsed| parsed.source) else { return };
        let Some(answer) = icmp::error(packet, error) else { return };
        if self.errors.take(source, now) {
            self.actions.push_back(VpnAction::Deliver { packet: answer.into() });
        } else {
            self.dropped(DropReason::RateLimited);
        }
    }
}
