//! Whose an address or a name is.

use core::net::IpAddr;

use bytes::Bytes;

use super::icmp::Error;
use super::{ABSENT_LIFE, Call, Host, HostEntry, MAX_LOOKUPS, MAX_RESOLVES, OWNER_LIFE, Owner, Purpose, Vpn, VpnAction, wire};
use crate::dht::key::{Key, Space};
use crate::dht::{At, DhtError, Operation, Outcome};
use crate::group::Certificate;
use crate::id::NodeId;
use crate::io::DropReason;
use crate::time::Instant;

/// A running look-up of an address.
#[derive(Debug, Default)]
pub(super) struct Lookup {
    /// Questions of the daemon that it answers.
    tokens: Vec<u64>,
}

impl Vpn {
    /// Asks who has a name, an address in text form, or a node ID in hexadecimal digits; [`VpnAction::Resolved`] answers with the same `token`.
    pub fn resolve(&mut self, token: u64, name: &str, at: At<'_>) {
        let waiting = self.names.len() + self.lookups.values().map(|lookup| lookup.tokens.len()).sum::<usize>();
        if waiting >= MAX_RESOLVES {
            return self.answer(token, None);
        }
        let name = name.trim().to_ascii_lowercase();
        if let Some(host) = self.hosts().into_iter().find(|host| host.name == name || host.node.to_string() == name) {
            self.answer(token, Some(host));
        } else if let Ok(address) = name.parse::<IpAddr>() {
            self.resolve_address(token, address, at);
        } else if let Ok(node) = name.parse::<NodeId>() {
            self.names.insert(token, node);
            self.call(Call::WhoIs(token), node, true, wire::METHOD_WHO_IS, wire::who_is(&node));
        } else if let Some(key) = Key::name(&name) {
            self.names.insert(token, NodeId::default());
            self.start(Purpose::Name(token), Operation::Get { key });
        } else {
            self.answer(token, None);
        }
        self.arm();
    }

    fn resolve_address(&mut self, token: u64, address: IpAddr, at: At<'_>) {
        if self.addresses().contains(&address) {
            let own = self.hosts().into_iter().next();
            return self.answer(token, own);
        }
        if let Some(owner) = self.owner_of(address, at.now) {
            let host = owner.node.map(|node| self.host(node, address));
            return self.answer(token, host);
        }
        if self.look_up(address) {
            if let Some(lookup) = self.lookups.get_mut(&address) {
                lookup.tokens.push(token);
            }
        } else {
            self.answer(token, None);
        }
    }

    /// What is known of `node`, which has `address`.
    fn host(&self, node: NodeId, address: IpAddr) -> HostEntry {
        let known =
            self.hosts.iter().find(|(other, _)| **other == node).map(|(_, host)| host.entry(node, self.members.contains_key(&node)));
        let mut host = known.unwrap_or_else(|| HostEntry {
            node,
            name: String::new(),
            user: String::new(),
            addresses: vec![IpAddr::V6(self.networks.ipv6_of(&node))],
            connected: false,
        });
        if !host.addresses.contains(&address) {
            host.addresses.push(address);
        }
        host
    }

    /// Adds a verified address to what is known of a member.
    pub(super) fn note_address(&mut self, node: NodeId, address: IpAddr, now: Instant) {
        if let Some(mut host) = self.hosts.remove(&node) {
            if !host.fixed.contains(&address) {
                host.leased = Some(address);
            }
            self.hosts.insert(node, host, now + super::HOST_LIFE);
        }
    }

    fn answer(&mut self, token: u64, host: Option<HostEntry>) {
        self.actions.push_back(VpnAction::Resolved { token, node: host.map(|host| (host.node, host.addresses)) });
    }

    /// Starts a look-up unless it runs; `false` when too many do.
    pub(super) fn look_up(&mut self, address: IpAddr) -> bool {
        if self.lookups.contains_key(&address) {
            return true;
        }
        if self.lookups.len() >= MAX_LOOKUPS {
            return false;
        }
        self.lookups.insert(address, Lookup::default());
        match self.networks.prefix_of(address) {
            Some(prefix) => {
                // The middle of the points that begin with the prefix: whoever has it is closest.
                let mut point = NodeId::default();
                point.0[..8].copy_from_slice(&prefix.to_be_bytes());
                point.0[8] = 0x80;
                self.call(Call::WhoHas(address), point, false, wire::METHOD_WHO_IS, wire::who_is(&point));
            }
            None => {
                self.start(Purpose::Lookup(address), Operation::Get { key: Key::address(address) });
            }
        }
        true
    }

    pub(super) fn on_who_has(&mut self, address: IpAddr, body: Option<Bytes>, at: At<'_>) {
        let certificate = body.and_then(|der| at.trust.verify(&der, at.wall));
        let owner = certificate.filter(|certificate| self.networks.prefix_of(address) == Some(certificate.node_id().prefix()));
        match owner {
            Some(certificate) => {
                self.remember(&certificate, at.now);
                self.looked_up(address, Some(certificate.node_id()), None, at);
            }
            // No node of that ID: perhaps a certificate names the address.
            None => {
                self.start(Purpose::Lookup(address), Operation::Get { key: Key::address(address) });
            }
        }
    }

    pub(super) fn on_looked_up(&mut self, address: IpAddr, result: Result<Outcome, DhtError>, at: At<'_>) {
        match result {
            Ok(Outcome::Found(bundle)) if bundle.record.key == Key::address(address) => {
                let record = bundle.record;
                self.looked_up(address, Some(record.owner), Some(record.expires), at);
            }
            _ => self.looked_up(address, None, None, at),
        }
    }

    fn looked_up(&mut self, address: IpAddr, node: Option<NodeId>, expires: Option<crate::time::UnixTime>, at: At<'_>) {
        let lookup = self.lookups.remove(&address).unwrap_or_default();
        let node = node.filter(|node| *node != self.identity.node_id());
        match (node, expires, address) {
            (Some(node), Some(expires), IpAddr::V4(v4)) => self.accept_lease(node, v4, expires, at),
            _ => {
                let life = if node.is_some() { OWNER_LIFE } else { ABSENT_LIFE };
                self.owners.insert(address, Owner { node, expires }, at.now + life);
            }
        }
        let host = node.map(|node| self.host(node, address));
        for token in lookup.tokens {
            self.answer(token, host.clone());
        }
        match node {
            None => self.refuse_all(address, Error::HostUnreachable, DropReason::NoRoute, at.now),
            Some(node) if self.members.contains_key(&node) => self.flush_to(address, node),
            Some(node) if self.pool.is_waiting(address) => self.want_session(node, at.now),
            Some(_) => {}
        }
    }

    pub(super) fn on_who_is(&mut self, token: u64, body: Option<Bytes>, at: At<'_>) {
        let Some(node) = self.names.remove(&token) else { return };
        let certificate: Option<Certificate> = body.and_then(|der| at.trust.verify(&der, at.wall));
        let host = certificate.filter(|certificate| certificate.node_id() == node).and_then(|certificate| {
            self.remember(&certificate, at.now);
            self.hosts.get(&node, at.now).map(|host| host.entry(node, false))
        });
        self.answer(token, host);
    }

    pub(super) fn on_name(&mut self, token: u64, result: Result<Outcome, DhtError>, at: At<'_>) {
        self.names.remove(&token);
        let Ok(Outcome::Found(bundle)) = result else { return self.answer(token, None) };
        let node = bundle.record.owner;
        let Space::Name(name) = bundle.record.key.space() else { return self.answer(token, None) };
        // The name is proven by the owner's certificate. The address in the record is a hint: packets to it are looked up by themselves.
        let listed = wire::read_addresses_value(&bundle.record.value).unwrap_or_default();
        let leased = listed.into_iter().find(|address| address.is_ipv4());
        let fixed = vec![IpAddr::V6(self.networks.ipv6_of(&node))];
        let host = Host { name: name.to_owned(), user: String::new(), fixed, leased };
        let entry = host.entry(node, false);
        if self.hosts.get(&node, at.now).is_none() {
            self.hosts.insert(node, host, at.now + super::HOST_LIFE);
        }
        self.answer(token, Some(entry));
    }
}
