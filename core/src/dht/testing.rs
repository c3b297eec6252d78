//! A tiny network of DHTs over an idealised ring, in virtual time.

use std::collections::BTreeMap;

use super::*;
use crate::dht::claim::{sign_grant, sign_record};
use crate::group::{Authority, Parameters, Profile, Roles, Trust};
use crate::io::Punt;
use crate::shard::table::Prefix;
use crate::vpn::{Vpn, VpnAction};
use crate::wire::dht::{Answer, Found, Offer};

/// Wall-clock time at the start of every test network.
pub(crate) const WALL: UnixTime = UnixTime(1_800_000_000);

fn authority() -> &'static Authority {
    static AUTHORITY: std::sync::OnceLock<Authority> = std::sync::OnceLock::new();
    AUTHORITY.get_or_init(|| {
        Authority::init(&Parameters::new("test"), &mut Rng::new([9; 32]), UnixTime(WALL.0 - 2 * 365 * 24 * 3_600)).expect("valid")
    })
}

pub(crate) fn trust() -> Trust {
    authority().trust()
}

pub(crate) fn config() -> Config {
    Config {
        ipv4_network: Some(Prefix::new([10, 200, 0, 0].into(), 16)),
        ..Config::new(Prefix::new("fd12:3456:789a::".parse().expect("valid"), 64))
    }
}

/// What a node's certificate says.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub number: u64,
    pub user: String,
    pub name: String,
    pub roles: Roles,
    pub addresses: Vec<Prefix>,
}

impl Member {
    pub(crate) fn new(number: u64) -> Self {
        Self { number, user: format!("user{number}"), name: format!("host{number}"), roles: Roles::MEMBER, addresses: Vec::new() }
    }

    pub(crate) fn certificate(&self) -> Certificate {
        self.identity().certificate().clone()
    }

    pub(crate) fn identity(&self) -> Identity {
        let mut seed = [0x5a; 32];
        seed[..8].copy_from_slice(&self.number.to_be_bytes());
        let mut profile = Profile::new(&self.user, &self.name, UnixTime(WALL.0 - 366 * 24 * 3_600));
        profile.roles = self.roles;
        profile.addresses.clone_from(&self.addresses);
        profile.lifetime = Duration::from_secs(2 * 366 * 24 * 3_600);
        authority().enrol(&profile, &mut Rng::new(seed)).expect("within the profile's limits")
    }
}

/// How a node misbehaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lie {
    /// Says that it has nothing and has finished its hand-over, stores nothing.
    Nothing,
    /// Grants whatever it is asked, whoever owns it.
    GrantsAll,
    /// Alters the owner in every record that it shows.
    Forges,
}

pub(crate) struct Host {
    pub identity: Identity,
    pub dht: Dht,
    pub alive: bool,
    pub lie: Option<Lie>,
    pub done: Vec<(OpId, Result<Outcome, DhtError>)>,
    pub clock_offset: i64,
    pub vpn: Option<Vpn>,
    /// What the VPN told, but for what the network acts on.
    pub told: Vec<VpnAction>,
    pub routes: BTreeMap<Prefix, NodeId>,
    pub sources: BTreeSet<(Prefix, NodeId)>,
    /// Packets that came in, with who sent them.
    pub received: Vec<(usize, Bytes)>,
    /// Packets that came in from an address that is not their sender's.
    pub spoofed: usize,
    pub stored_lease: Option<Bytes>,
    /// Nobody gets a session with it.
    pub deaf: bool,
}

enum Message {
    Request { from: usize, token: u64, to: usize, method: u8, body: Bytes },
    Reply { to: usize, token: u64, vpn: bool, result: Result<(NodeId, Bytes), RequestError> },
    Session { from: usize, to: NodeId },
    Packet { from: usize, to: NodeId, packet: Bytes },
}

pub(crate) struct Net {
    pub hosts: Vec<Host>,
    pub now: Instant,
    rng: Rng,
    queue: BTreeMap<(Instant, u64), Message>,
    sent: u64,
    /// Who asked, by the number of the reply.
    waiting: Vec<(ReplyTo, usize, u64, bool)>,
    pub requests: u64,
    /// Which ring each host is in.
    pub rings: Vec<u8>,
    config: Config,
}

impl Net {
    pub(crate) fn new(count: u64) -> Self {
        Self::of((0..count).map(Member::new).collect())
    }

    pub(crate) fn of(members: Vec<Member>) -> Self {
        Self::with_config(members, config())
    }

    pub(crate) fn with_config(members: Vec<Member>, config: Config) -> Self {
        let mut net = Self {
            hosts: Vec::new(),
            now: Instant::from_secs(100),
            rng: Rng::new([3; 32]),
            queue: BTreeMap::new(),
            sent: 0,
            waiting: Vec::new(),
            requests: 0,
            rings: Vec::new(),
            config,
        };
        members.iter().for_each(|member| net.add(member));
        net.reform();
        net.run(5);
        net
    }

    pub(crate) fn add(&mut self, member: &Member) {
        let identity = member.identity();
        let mut seed = [1; 32];
        seed[..8].copy_from_slice(&member.number.to_be_bytes());
        let dht = Dht::new(&self.config, identity.clone(), Rng::new(seed));
        self.hosts.push(Host {
            identity,
            dht,
            alive: true,
            lie: None,
            done: Vec::new(),
            clock_offset: 0,
            vpn: None,
            told: Vec::new(),
            routes: BTreeMap::new(),
            sources: BTreeSet::new(),
            received: Vec::new(),
            spoofed: 0,
            stored_lease: None,
            deaf: false,
        });
        self.rings.push(0);
    }

    pub(crate) fn wall(&self, host: usize) -> UnixTime {
        let wall = WALL.0 as i64 + (self.now.as_micros() / 1_000_000) as i64 + self.hosts[host].clock_offset;
        UnixTime(wall as u64)
    }

    /// Gives every live node the right view of its ring.
    pub(crate) fn reform(&mut self) {
        for host in 0..self.hosts.len() {
            if self.hosts[host].alive {
                let view = self.view(host);
                self.with(host, |dht, at| dht.ring_changed(&view, at));
            }
        }
    }

    pub(crate) fn view(&self, host: usize) -> RingView {
        let me = self.hosts[host].identity.node_id();
        let mut others: Vec<NodeId> =
            self.members(self.rings[host]).map(|other| self.hosts[other].identity.node_id()).filter(|id| *id != me).collect();
        others.sort_unstable_by_key(|id| me.clockwise_to(id));
        let successors: Vec<NodeId> = others.iter().take(4).copied().collect();
        let predecessors: Vec<NodeId> = others.iter().rev().take(4).copied().collect();
        let known = others.iter().take(8).chain(others.iter().rev().take(8)).copied().collect();
        RingView { local: me, consistent: true, size_estimate: others.len() as u64 + 1, successors, predecessors, known }
    }

    fn members(&self, ring: u8) -> impl Iterator<Item = usize> {
        (0..self.hosts.len()).filter(move |&host| self.hosts[host].alive && self.rings[host] == ring)
    }

    pub(crate) fn with<R>(&mut self, host: usize, act: impl FnOnce(&mut Dht, At<'_>) -> R) -> R {
        let trust = trust();
        let at = At { trust: &trust, now: self.now, wall: self.wall(host) };
        let result = act(&mut self.hosts[host].dht, at);
        self.drain(host);
        result
    }

    pub(crate) fn start(&mut self, host: usize, op: u64, operation: Operation) {
        self.with(host, |dht, at| dht.start(OpId(op), operation, at));
    }

    /// The hosts nearest to a key's point, nearest first.
    pub(crate) fn replicas(&self, key: &Key, ring: u8) -> Vec<usize> {
        let point = key.point();
        let mut hosts: Vec<usize> = self.members(ring).collect();
        hosts.sort_by(|a, b| point.closer(&self.hosts[*a].identity.node_id(), &self.hosts[*b].identity.node_id()));
        hosts.truncate(ring::DEGREE);
        hosts
    }

    /// Gives every host a VPN.
    pub(crate) fn with_vpns(mut self) -> Self {
        (0..self.hosts.len()).for_each(|host| self.add_vpn(host));
        self.run(20);
        self
    }

    pub(crate) fn add_vpn(&mut self, host: usize) {
        let identity = self.hosts[host].identity.clone();
        let vpn = Vpn::new(&self.config, identity, Rng::new([host as u8; 32]), self.now);
        self.hosts[host].vpn = Some(vpn);
        let lease = self.hosts[host].stored_lease.clone();
        self.vpn(host, |vpn, at| {
            if let Some(lease) = lease {
                vpn.restore_lease(&lease, at);
            }
            vpn.ring_consistent(true, at);
        });
    }

    pub(crate) fn vpn<R>(&mut self, host: usize, act: impl FnOnce(&mut Vpn, At<'_>) -> R) -> R {
        let trust = trust();
        let at = At { trust: &trust, now: self.now, wall: self.wall(host) };
        let result = act(self.hosts[host].vpn.as_mut().expect("has one"), at);
        self.drain(host);
        result
    }

    fn drain(&mut self, host: usize) {
        loop {
            if let Some(action) = self.hosts[host].dht.poll_action() {
                self.on_dht(host, action);
            } else if let Some(action) = self.hosts[host].vpn.as_mut().and_then(Vpn::poll_action) {
                self.on_vpn(host, action);
            } else {
                return;
            }
        }
    }

    fn on_dht(&mut self, host: usize, action: DhtAction) {
        match action {
            DhtAction::Request { token, point, exact, method, body } => self.request(host, token, point, exact, method, body),
            DhtAction::Reply { to, body } => self.reply(host, to, body),
            DhtAction::Done { op, result } => {
                self.hosts[host].done.push((op, result.clone()));
                if self.hosts[host].vpn.is_some() {
                    self.vpn(host, |vpn, at| vpn.dht_done(op, result, at));
                }
            }
        }
    }

    fn on_vpn(&mut self, host: usize, action: VpnAction) {
        match action {
            VpnAction::Request { token, point, exact, method, body } => self.request(host, token, point, exact, method, body),
            VpnAction::Reply { to, body } => self.reply(host, to, body),
            VpnAction::Dht { op, operation } => self.with(host, |dht, at| dht.start(op, operation, at)),
            VpnAction::Cancel(op) => self.hosts[host].dht.cancel(op),
            VpnAction::Connect { node } => self.send(Duration::from_millis(50), Message::Session { from: host, to: node }),
            VpnAction::Route { prefix, node } => {
                self.hosts[host].routes.insert(prefix, node);
            }
            VpnAction::RemoveRoute { prefix } => {
                self.hosts[host].routes.remove(&prefix).expect("published before");
            }
            VpnAction::Source { prefix, node } => {
                self.hosts[host].sources.insert((prefix, node));
            }
            VpnAction::RemoveSource { prefix, node } => {
                self.hosts[host].sources.remove(&(prefix, node));
            }
            VpnAction::Reinject { node, packet } => self.send(Duration::from_millis(5), Message::Packet { from: host, to: node, packet }),
            told => {
                if let VpnAction::Lease(lease) = &told {
                    self.hosts[host].stored_lease = Some(lease.clone());
                }
                self.hosts[host].told.push(told);
            }
        }
    }

    fn request(&mut self, host: usize, token: u64, point: NodeId, exact: bool, method: u8, body: Bytes) {
        assert!(body.len() <= wire::MAX_BODY, "a body of {} bytes", body.len());
        self.requests += 1;
        let ring = self.rings[host];
        let id = |host: &usize| self.hosts[*host].identity.node_id();
        let to = if exact {
            self.members(ring).find(|other| id(other) == point)
        } else {
            self.members(ring).min_by(|a, b| point.closer(&id(a), &id(b)))
        };
        let delay = Duration::from_micros(5_000 + self.rng.below(20_000));
        let (delay, message) = match to {
            Some(to) => (delay, Message::Request { from: host, token, to, method, body }),
            None => (Duration::from_secs(3), Message::Reply { to: host, token, vpn: method >= 0x40, result: Err(RequestError::Timeout) }),
        };
        self.send(delay, message);
    }

    fn reply(&mut self, host: usize, to: ReplyTo, body: Result<Bytes, u8>) {
        let place = self.waiting.iter().position(|(reply, ..)| *reply == to).expect("replied once");
        let (_, asker, token, vpn) = self.waiting.swap_remove(place);
        let body = body.map(|body| self.falsify(host, body)).map_err(RequestError::Remote);
        assert!(body.as_ref().map_or(0, Bytes::len) <= wire::MAX_BODY + 1);
        let node = self.hosts[host].identity.node_id();
        let delay = Duration::from_micros(5_000 + self.rng.below(20_000));
        self.send(delay, Message::Reply { to: asker, token, vpn, result: body.map(|body| (node, body)) });
    }

    /// Hands a packet of the host's own to its shard.
    pub(crate) fn host_sends(&mut self, host: usize, packet: &[u8]) {
        let destination = crate::vpn::icmp::parse(packet).expect("well formed").destination;
        match self.hosts[host].routes.get(&Prefix::host(destination)).copied() {
            Some(to) => self.send(Duration::from_millis(5), Message::Packet { from: host, to, packet: Bytes::copy_from_slice(packet) }),
            None => self.vpn(host, |vpn, at| vpn.handle_packet(Punt::NoAddress, packet, at)),
        }
    }

    /// Sends an announcement as a malicious node would.
    pub(crate) fn announce(&mut self, from: usize, to: NodeId, body: Bytes) {
        self.request(from, u64::MAX, to, true, crate::wire::vpn::METHOD_ANNOUNCE, body);
    }

    fn on_session(&mut self, from: usize, to: NodeId) {
        let ring = self.rings[from];
        let other = self.members(ring).find(|&other| self.hosts[other].identity.node_id() == to && !self.hosts[other].deaf);
        let Some(other) = other else { return };
        for (a, b) in [(from, other), (other, from)] {
            let certificate = self.hosts[b].identity.certificate().clone();
            self.vpn(a, |vpn, at| vpn.session_up(&certificate, at));
        }
    }

    fn on_packet(&mut self, from: usize, to: NodeId, packet: Bytes) {
        let sender = self.hosts[from].identity.node_id();
        let Some(to) = self.hosts.iter().position(|host| host.identity.node_id() == to && host.alive) else { return };
        let source = crate::vpn::icmp::parse(&packet).expect("well formed").source;
        if self.hosts[to].sources.contains(&(Prefix::host(source), sender)) {
            self.hosts[to].received.push((from, packet));
        } else {
            self.hosts[to].spoofed += 1;
        }
    }

    fn falsify(&self, host: usize, body: Bytes) -> Bytes {
        match (self.hosts[host].lie, Found::parse(&body)) {
            (Some(Lie::Forges), Ok(mut found)) if !found.bundles.is_empty() => {
                found.bundles.iter_mut().for_each(|bundle| bundle.record.owner = self.hosts[host].identity.node_id());
                found.body()
            }
            _ => body,
        }
    }

    fn send(&mut self, delay: Duration, message: Message) {
        self.sent += 1;
        self.queue.insert((self.now + delay, self.sent), message);
    }

    pub(crate) fn run(&mut self, secs: u64) {
        self.run_for(Duration::from_secs(secs));
    }

    pub(crate) fn run_for(&mut self, duration: Duration) {
        let end = self.now + duration;
        loop {
            let timer =
                (0..self.hosts.len()).filter(|&host| self.hosts[host].alive).filter_map(|host| Some((self.deadline(host)?, host))).min();
            let message = self.queue.keys().next().map(|(due, _)| *due);
            match (timer, message) {
                (Some((due, host)), message) if due <= end && message.is_none_or(|other| due < other) => {
                    self.now = self.now.max(due);
                    self.with(host, |dht, at| dht.handle_timeout(at));
                    if self.hosts[host].vpn.is_some() {
                        self.vpn(host, |vpn, at| vpn.handle_timeout(at));
                    }
                }
                (_, Some(due)) if due <= end => {
                    self.now = self.now.max(due);
                    let (_, message) = self.queue.pop_first().expect("looked at");
                    self.deliver(message);
                }
                _ => break,
            }
        }
        self.now = end;
    }

    fn deadline(&self, host: usize) -> Option<Instant> {
        let vpn = self.hosts[host].vpn.as_ref().and_then(Vpn::poll_timeout);
        self.hosts[host].dht.poll_timeout().into_iter().chain(vpn).map(|(due, _)| due).min()
    }

    fn deliver(&mut self, message: Message) {
        match message {
            Message::Request { from, token, to, method, body } => {
                if !self.hosts[to].alive || self.rings[to] != self.rings[from] {
                    return self.send(
                        Duration::from_secs(3),
                        Message::Reply { to: from, token, vpn: method >= 0x40, result: Err(RequestError::Timeout) },
                    );
                }
                let node = self.hosts[from].identity.node_id();
                if let Some(reply) = self.lie(to, method, &body) {
                    let me = self.hosts[to].identity.node_id();
                    return self.send(Duration::from_millis(1), Message::Reply { to: from, token, vpn: false, result: Ok((me, reply)) });
                }
                self.sent += 1;
                let reply = ReplyTo::new(node, self.sent as u32);
                self.waiting.push((reply, from, token, method >= 0x40));
                if method >= 0x40 {
                    self.vpn(to, |vpn, at| vpn.handle_request(node, method, &body, reply, at));
                } else {
                    self.with(to, |dht, at| dht.handle_request(node, method, &body, reply, at));
                }
            }
            Message::Session { from, to } => self.on_session(from, to),
            Message::Packet { from, to, packet } => self.on_packet(from, to, packet),
            Message::Reply { to, token, vpn, result } => {
                if !self.hosts[to].alive {
                    return;
                }
                if vpn {
                    self.vpn(to, |vpn, at| vpn.handle_reply(token, result, at));
                } else {
                    self.with(to, |dht, at| dht.handle_reply(token, result, at));
                }
            }
        }
    }

    fn lie(&self, host: usize, method: u8, body: &[u8]) -> Option<Bytes> {
        let identity = &self.hosts[host].identity;
        match (self.hosts[host].lie?, method) {
            (Lie::Nothing, wire::METHOD_GET) => Some(Found { synced: true, consistent: true, ..Found::default() }.body()),
            (Lie::Nothing | Lie::GrantsAll, wire::METHOD_STORE) => Some(Answer::Done.bytes()),
            (Lie::GrantsAll, wire::METHOD_CREATE) => {
                let record = Offer::parse(body).expect("ours").bundle.record;
                let grant = sign_grant(identity, &record, UnixTime(1), self.wall(host));
                Some(Answer::Granted { replicas: 1, grant }.bytes())
            }
            _ => None,
        }
    }

    /// The latest end of an operation.
    pub(crate) fn result(&self, host: usize, op: u64) -> Option<&Result<Outcome, DhtError>> {
        self.hosts[host].done.iter().rev().find(|(id, _)| *id == OpId(op)).map(|(_, result)| result)
    }

    pub(crate) fn kill(&mut self, host: usize) {
        self.hosts[host].alive = false;
    }

    /// A record as `host` would sign it, with grants of `signers`.
    pub(crate) fn forge(&self, host: usize, key: &Key, sequence: u64, signers: &[usize]) -> Bundle {
        let record = sign_record(
            &self.hosts[host].identity,
            key.clone(),
            Bytes::from_static(b"forged"),
            sequence,
            self.wall(host).plus_secs(3_600),
            false,
        );
        let mut grants: Vec<_> =
            signers.iter().map(|&signer| sign_grant(&self.hosts[signer].identity, &record, UnixTime(1), self.wall(host))).collect();
        grants.sort_by_key(|grant| grant.node);
        Bundle { record, grants }
    }
}
