//! Virtual addresses and who has them: leases, names, look-ups, waiting packets, ICMP errors.
//!
//! - [`address`]: which addresses a node may have; `lease`: getting and keeping our own, and our name.
//! - `lookup`: whose an address or a name is; `member`: sessions, and what shards may take from and send to them.
//! - `packet`: what a shard could not decide; [`icmp`], [`pool`], [`cache`]: its tools.
//!
//! What holds: a source address is published only when the certificate names it, it follows from the node ID, or a lease with enough verified grants says so;
//! a packet waits only as long as somebody is asked for, and its sender hears of it when nobody can be had.

pub mod address;
pub mod cache;
pub mod icmp;
mod lease;
mod lookup;
mod member;
mod packet;
pub mod pool;
#[cfg(test)]
mod tests;
mod types;

use core::net::IpAddr;
use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::config::Config;
use crate::dht::key::Key;
use crate::dht::ring::{ReplyTo, RequestError};
use crate::dht::{At, DhtError, OpId, Operation, Outcome};
use crate::group::{Certificate, Identity};
use crate::id::NodeId;
use crate::io::{DropReason, TimerKind};
use crate::rng::Rng;
use crate::shard::table::Prefix;
use crate::stats::Stats;
use crate::time::{Instant, UnixTime};
use crate::wire::vpn as wire;
use address::Networks;
use cache::Cache;
use lease::{Lease, Published};
use lookup::Lookup;
use member::Member;
use pool::{Buckets, Pool};
pub use types::{HostEntry, VpnAction};

/// Addresses whose owner (or that nobody has them) is remembered: 1,024 are twice what a busy member talks to, and about 100 kB.
pub const MAX_KNOWN_OWNERS: usize = 1_024;
/// Members whose name is remembered for `annulus hosts`; the least recently used makes room.
pub const MAX_KNOWN_HOSTS: usize = 1_024;
/// Look-ups that run at a time: half of what the DHT runs. Packets for further addresses are dropped.
pub const MAX_LOOKUPS: usize = 64;
/// Questions of the daemon that wait for an answer.
pub const MAX_RESOLVES: usize = 64;
/// Announcements that are being verified; further ones are refused and come again.
pub const MAX_ANNOUNCEMENTS: usize = 64;
/// Sessions that are asked for at a time.
pub const MAX_CONNECTING: usize = 256;
/// How long an owner is remembered without a session; a lease that moves is noticed after it at the latest.
const OWNER_LIFE: Duration = Duration::from_secs(300);
/// How long it is remembered that nobody has an address: a retry by hand after a few seconds asks anew.
const ABSENT_LIFE: Duration = Duration::from_secs(5);
/// How long a member's name is remembered after it was last seen.
const HOST_LIFE: Duration = Duration::from_secs(7 * 24 * 3_600);
/// How long a session may take; then its packets are unreachable.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// How often leases of peers are looked over for those that ended.
const SWEEP: Duration = Duration::from_secs(30);

/// What is remembered of a member.
#[derive(Clone, Debug)]
struct Host {
    name: String,
    user: String,
    /// Addresses that follow from the certificate.
    fixed: Vec<IpAddr>,
    /// The latest address from a lease, or from the record of the name.
    leased: Option<IpAddr>,
}

impl Host {
    fn entry(&self, node: NodeId, connected: bool) -> HostEntry {
        let addresses = self.fixed.iter().copied().chain(self.leased).collect();
        HostEntry { node, name: self.name.clone(), user: self.user.clone(), addresses, connected }
    }
}

/// What is known of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Owner {
    /// `None`: nobody has it.
    node: Option<NodeId>,
    /// End of the lease, if it is one.
    expires: Option<UnixTime>,
}

/// What a DHT operation was started for.
#[derive(Clone, Debug)]
enum Purpose {
    Lease,
    Restore,
    Published(Key),
    Lookup(IpAddr),
    Name(u64),
    Announcement { reply: ReplyTo },
}

/// What a request was sent for.
#[derive(Clone, Debug)]
enum Call {
    WhoHas(IpAddr),
    WhoIs(u64),
    Announce(NodeId),
}

/// The virtual network of one realm, as this node takes part in it.
#[derive(Debug)]
pub struct Vpn {
    identity: Identity,
    networks: Networks,
    has_addresses: bool,
    lease_time: Duration,
    tunnel_mtu: u16,
    rng: Rng,
    consistent: bool,
    lease: Lease,
    published: BTreeMap<Key, Published>,
    reported: Option<Vec<IpAddr>>,
    members: BTreeMap<NodeId, Member>,
    routes: BTreeMap<Prefix, NodeId>,
    owners: Cache<IpAddr, Owner>,
    hosts: Cache<NodeId, Host>,
    lookups: BTreeMap<IpAddr, Lookup>,
    names: BTreeMap<u64, NodeId>,
    connecting: BTreeMap<NodeId, Instant>,
    unreachable: Cache<NodeId, ()>,
    pool: Pool,
    errors: Buckets<IpAddr>,
    reinjected: Buckets<IpAddr>,
    ops: BTreeMap<OpId, Purpose>,
    calls: BTreeMap<u64, Call>,
    next_number: u64,
    sweep_at: Option<Instant>,
    next: Option<(Instant, TimerKind)>,
    stats: Stats,
    actions: VecDeque<VpnAction>,
}

impl Vpn {
    /// A node's part in the virtual network; its addresses that need no lease are reported at once.
    #[must_use]
    pub fn new(config: &Config, identity: Identity, rng: Rng, now: Instant) -> Self {
        let mut vpn = Self {
            networks: Networks { ipv4: config.ipv4_network, ipv6: config.ipv6_network },
            has_addresses: config.has_addresses,
            lease_time: config.lease_time,
            tunnel_mtu: config.tunnel_mtu,
            identity,
            rng,
            consistent: false,
            lease: Lease::default(),
            published: BTreeMap::new(),
            reported: None,
            members: BTreeMap::new(),
            routes: BTreeMap::new(),
            owners: Cache::new(MAX_KNOWN_OWNERS),
            hosts: Cache::new(MAX_KNOWN_HOSTS),
            lookups: BTreeMap::new(),
            names: BTreeMap::new(),
            connecting: BTreeMap::new(),
            unreachable: Cache::new(MAX_CONNECTING),
            pool: Pool::default(),
            errors: Buckets::default(),
            reinjected: Buckets::reinjections(),
            ops: BTreeMap::new(),
            calls: BTreeMap::new(),
            next_number: 1,
            sweep_at: Some(now + SWEEP),
            next: None,
            stats: Stats::default(),
            actions: VecDeque::new(),
        };
        vpn.report_addresses();
        vpn.arm();
        vpn
    }

    /// Takes over a renewed certificate: fixed addresses and the name are those of the new one.
    pub fn set_identity(&mut self, identity: Identity, at: At<'_>) {
        self.identity = identity;
        self.keep_lease();
        self.report_addresses();
        self.publish(at);
        self.arm();
    }

    /// The ring position became consistent, or no longer is: addresses are leased and names published while it is.
    pub fn ring_consistent(&mut self, consistent: bool, at: At<'_>) {
        self.consistent = consistent;
        if consistent {
            self.keep_lease();
            self.publish(at);
        }
        self.arm();
    }

    /// An operation that [`VpnAction::Dht`] asked for ended, or one that is kept was renewed or lost.
    pub fn dht_done(&mut self, op: OpId, result: Result<Outcome, DhtError>, at: At<'_>) {
        let Some(purpose) = self.ops.get(&op).cloned() else { return };
        match purpose {
            Purpose::Lease => self.on_lease(op, result, at),
            Purpose::Published(key) => self.on_published(op, &key, &result, at),
            once => {
                self.ops.remove(&op);
                match once {
                    Purpose::Restore => self.ask_for_lease(),
                    Purpose::Lookup(address) => self.on_looked_up(address, result, at),
                    Purpose::Name(token) => self.on_name(token, result, at),
                    Purpose::Announcement { reply } => self.on_announcement(reply, result, at),
                    Purpose::Lease | Purpose::Published(_) => {}
                }
            }
        }
        self.arm();
    }

    /// A request of method `0x40` to `0x5f` came in.
    pub fn handle_request(&mut self, from: NodeId, method: u8, body: &[u8], reply: ReplyTo, at: At<'_>) {
        let answer = match method {
            wire::METHOD_ANNOUNCE => match self.announced(from, body, reply, at) {
                Some(answer) => answer,
                None => return self.arm(),
            },
            wire::METHOD_WHO_IS => wire::read_who_is(body).map_err(|_| crate::dht::ERROR_MALFORMED).map(|point| {
                let is_ours = point.prefix() == self.identity.node_id().prefix();
                if is_ours { self.identity.certificate().der().clone() } else { Bytes::new() }
            }),
            _ => Err(crate::dht::ERROR_UNKNOWN_METHOD),
        };
        self.actions.push_back(VpnAction::Reply { to: reply, body: answer });
        self.arm();
    }

    /// A request of ours was answered, by whom, or failed.
    pub fn handle_reply(&mut self, token: u64, result: Result<(NodeId, Bytes), RequestError>, at: At<'_>) {
        let body = result.ok().map(|(_, body)| body);
        match self.calls.remove(&token) {
            Some(Call::WhoHas(address)) => self.on_who_has(address, body, at),
            Some(Call::WhoIs(token)) => self.on_who_is(token, body, at),
            Some(Call::Announce(node)) => self.on_announce_reply(node, body, at),
            None => {}
        }
        self.arm();
    }

    /// Does what is due. May be called at any time.
    pub fn handle_timeout(&mut self, at: At<'_>) {
        self.expire_packets(at);
        self.expire_connecting(at);
        self.wake_lease(at);
        self.wake_members(at);
        if self.sweep_at.is_some_and(|due| due <= at.now) {
            self.sweep_at = Some(at.now + SWEEP);
            self.expire_leases(at);
        }
        self.arm();
    }

    /// When [`Self::handle_timeout`] is wanted.
    #[must_use]
    pub const fn poll_timeout(&self) -> Option<(Instant, TimerKind)> {
        self.next
    }

    /// What is to be done next; call until `None`.
    pub fn poll_action(&mut self) -> Option<VpnAction> {
        self.actions.pop_front()
    }

    /// Counters of what was dropped on the slow path.
    #[must_use]
    pub const fn stats(&self) -> &Stats {
        &self.stats
    }

    /// The node's own addresses: IPv6, those of the certificate, the lease. Empty for nodes without virtual addresses.
    #[must_use]
    pub fn addresses(&self) -> Vec<IpAddr> {
        if !self.has_addresses {
            return Vec::new();
        }
        let mut out = self.addresses_of(self.identity.certificate());
        out.extend(self.lease.address().map(IpAddr::V4).filter(|address| !out.contains(address)));
        out
    }

    /// Known members with their names and addresses, the node itself first, then in the order of their IDs.
    #[must_use]
    pub fn hosts(&self) -> Vec<HostEntry> {
        let certificate = self.identity.certificate();
        let own = HostEntry {
            node: certificate.node_id(),
            name: certificate.node_name().to_owned(),
            user: certificate.user().to_owned(),
            addresses: self.addresses(),
            connected: true,
        };
        let others = self.hosts.iter().map(|(node, host)| host.entry(*node, self.members.contains_key(node)));
        core::iter::once(own).chain(others.filter(|host| !host.addresses.is_empty())).collect()
    }

    /// Addresses that follow from a certificate alone; none for infrastructure.
    fn addresses_of(&self, certificate: &Certificate) -> Vec<IpAddr> {
        let mut out = Vec::new();
        if !certificate.roles().contains(crate::group::Roles::INFRASTRUCTURE) {
            out.push(IpAddr::V6(self.networks.ipv6_of(&certificate.node_id())));
        }
        for prefix in certificate.addresses().iter().filter(|prefix| prefix.is_host()) {
            if !out.contains(&prefix.address) {
                out.push(prefix.address);
            }
        }
        out
    }

    /// Remembers a member's name and the addresses that its certificate names.
    fn remember(&mut self, certificate: &Certificate, now: Instant) {
        let node = certificate.node_id();
        let fixed = self.addresses_of(certificate);
        let leased = self.hosts.remove(&node).and_then(|host| host.leased).filter(|leased| !fixed.contains(leased));
        let host = Host { name: certificate.node_name().to_owned(), user: certificate.user().to_owned(), fixed, leased };
        self.hosts.insert(node, host, now + HOST_LIFE);
    }

    fn start(&mut self, purpose: Purpose, operation: Operation) -> OpId {
        let op = OpId(self.next_number);
        self.next_number += 1;
        self.ops.insert(op, purpose);
        self.actions.push_back(VpnAction::Dht { op, operation });
        op
    }

    fn call(&mut self, call: Call, point: NodeId, exact: bool, method: u8, body: Bytes) {
        let token = self.next_number;
        self.next_number += 1;
        self.calls.insert(token, call);
        self.actions.push_back(VpnAction::Request { token, point, exact, method, body });
    }

    fn dropped(&mut self, reason: DropReason) {
        self.stats.dropped(reason);
    }

    fn arm(&mut self) {
        let pending = self.pool.deadline().into_iter().chain(self.connecting.values().copied()).min();
        let lease = self.lease.wake.into_iter().chain(self.published.values().filter_map(|published| published.again)).min();
        let announces = self.members.values().filter_map(Member::deadline).min();
        let named = [
            (pending, TimerKind::Pending),
            (lease, TimerKind::Lease),
            (announces, TimerKind::Lease),
            (self.sweep_at, TimerKind::Housekeeping),
        ];
        self.next = named.into_iter().filter_map(|(due, kind)| due.map(|due| (due, kind))).min();
    }
}
