//! A tiny network of DHTs over an idealised ring, in virtual time.

use std::collections::BTreeMap;

use super::*;
use crate::dht::claim::{sign_grant, sign_record};
use crate::group::{Authority, Parameters, Profile, Roles, Trust};
use crate::shard::table::Prefix;
use crate::wire::dht::{Answer, Found, Offer};

/// Wall-clock time at the start of every test network.
pub(crate) const WALL: UnixTime = UnixTime(1_800_000_000);

fn authority() -> &'static Authority {
    static AUTHORITY: std::sync::OnceLock<Authority> = std::sync::OnceLock::new();
    AUTHORITY.get_or_init(|| Authority::init(&Parameters::new("test"), &mut Rng::new([9; 32]), UnixTime(WALL.0 - 2 * 365 * 24 * 3_600)).expect("valid"))
}

pub(crate) fn trust() -> Trust {
    authority().trust()
}

pub(crate) fn config() -> Config {
    Config { ipv4_network: Some(Prefix::new([10, 200, 0, 0].into(), 16)), ..Config::new(Prefix::new("fd12:3456:789a::".parse().expect("valid"), 64)) }
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
}

enum Message {
    Request { from: usize, token: u64, to: usize, method: u8, body: Bytes },
    Reply { to: usize, token: u64, result: Result<(NodeId, Bytes), RequestError> },
}

pub(crate) struct Net {
    pub hosts: Vec<Host>,
    pub now: Instant,
    rng: Rng,
    queue: BTreeMap<(Instant, u64), Message>,
    sent: u64,
    /// Who asked, by the number of the reply.
    waiting: Vec<(ReplyTo, usize, u64)>,
    pub requests: u64,
    /// Which ring each host is in.
    pub rings: Vec<u8>,
}

impl Net {
    pub(crate) fn new(count: u64) -> Self {
        Self::of((0..count).map(Member::new).collect())
    }

    pub(crate) fn of(members: Vec<Member>) -> Self {
        let mut net = Self {
            hosts: Vec::new(),
            now: Instant::from_secs(100),
            rng: Rng::new([3; 32]),
            queue: BTreeMap::new(),
            sent: 0,
            waiting: Vec::new(),
            requests: 0,
            rings: Vec::new(),
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
        let dht = Dht::new(&config(), identity.clone(), Rng::new(seed));
        self.hosts.push(Host { identity, dht, alive: true, lie: None, done: Vec::new(), clock_offset: 0 });
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
        let mut others: Vec<NodeId> = self.members(self.rings[host]).map(|other| self.hosts[other].identity.node_id()).filter(|id| *id != me).collect();
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

    fn drain(&mut self, host: usize) {
        while let Some(action) = self.hosts[host].dht.poll_action() {
            match action {
                DhtAction::Request { token, point, exact, method, body } => {
                    assert!(body.len() <= wire::MAX_BODY, "a body of {} bytes", body.len());
                    self.requests += 1;
                    let ring = self.rings[host];
                    let to = if exact {
                        self.members(ring).find(|&other| self.hosts[other].identity.node_id() == point)
                    } else {
                        self.members(ring).min_by(|a, b| point.closer(&self.hosts[*a].identity.node_id(), &self.hosts[*b].identity.node_id()))
                    };
                    let delay = Duration::from_micros(5_000 + self.rng.below(20_000));
                    let (delay, message) = match to {
                        Some(to) => (delay, Message::Request { from: host, token, to, method, body }),
                        None => (Duration::from_secs(3), Message::Reply { to: host, token, result: Err(RequestError::Timeout) }),
                    };
                    self.send(delay, message);
                }
                DhtAction::Reply { to, body } => {
                    let place = self.waiting.iter().position(|(reply, ..)| *reply == to).expect("replied once");
                    let (_, asker, token) = self.waiting.swap_remove(place);
                    let body = body.map(|body| self.falsify(host, body)).map_err(RequestError::Remote);
                    assert!(body.as_ref().map_or(0, Bytes::len) <= wire::MAX_BODY + 1);
                    let node = self.hosts[host].identity.node_id();
                    let delay = Duration::from_micros(5_000 + self.rng.below(20_000));
                    self.send(delay, Message::Reply { to: asker, token, result: body.map(|body| (node, body)) });
                }
                DhtAction::Done { op, result } => self.hosts[host].done.push((op, result)),
            }
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
            let timer = (0..self.hosts.len()).filter(|&host| self.hosts[host].alive).filter_map(|host| Some((self.hosts[host].dht.poll_timeout()?.0, host))).min();
            let message = self.queue.keys().next().map(|(due, _)| *due);
            match (timer, message) {
                (Some((due, host)), message) if due <= end && message.is_none_or(|other| due < other) => {
                    self.now = self.now.max(due);
                    self.with(host, |dht, at| dht.handle_timeout(at));
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

    fn deliver(&mut self, message: Message) {
        match message {
            Message::Request { from, token, to, method, body } => {
                if !self.hosts[to].alive || self.rings[to] != self.rings[from] {
                    return self.send(Duration::from_secs(3), Message::Reply { to: from, token, result: Err(RequestError::Timeout) });
                }
                let node = self.hosts[from].identity.node_id();
                if let Some(reply) = self.lie(to, method, &body) {
                    let me = self.hosts[to].identity.node_id();
                    return self.send(Duration::from_millis(1), Message::Reply { to: from, token, result: Ok((me, reply)) });
                }
                self.sent += 1;
                let reply = ReplyTo::new(node, self.sent as u32);
                self.waiting.push((reply, from, token));
                self.with(to, |dht, at| dht.handle_request(node, method, &body, reply, at));
            }
            Message::Reply { to, token, result } => {
                if self.hosts[to].alive {
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
        let record = sign_record(&self.hosts[host].identity, key.clone(), Bytes::from_static(b"forged"), sequence, self.wall(host).plus_secs(3_600), false);
        let mut grants: Vec<_> = signers.iter().map(|&signer| sign_grant(&self.hosts[signer].identity, &record, UnixTime(1), self.wall(host))).collect();
        grants.sort_by_key(|grant| grant.node);
        Bundle { record, grants }
    }
}
