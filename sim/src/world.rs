//! All hosts, one clock, one event queue.

use core::cmp::Reverse;
use core::net::{Ipv4Addr, SocketAddr};
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use annulus_core::events::{Command, Event};
use annulus_core::pump::Scratch;
use annulus_core::rng::Rng;
use annulus_core::time::{Instant, UnixTime};
use sha2::{Digest, Sha256};

use crate::host::{Effects, Host};
use crate::net::{Narrow, Network};

/// Wall-clock time at the start of each simulation: 2026-11-22 00:00 UTC.
pub const WALL_START: UnixTime = UnixTime(1_795_305_600);

/// UDP port of every simulated host.
pub const PORT: u16 = 4242;

/// Bytes of the IPv4 and UDP header around a datagram.
const OUTER: usize = 28;

/// Number of a host in its world.
pub type HostId = u32;

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Scheduled {
    at: Instant,
    /// Breaks ties in the order of scheduling, so that a run is reproducible.
    sequence: u64,
    host: HostId,
    what: What,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Arrive {
        from: SocketAddr,
        bytes: Vec<u8>,
    },
    Wake,
    /// An ICMP message: the way to that host carries packets of so many bytes only.
    TooBig(HostId, usize),
}

/// A simulated network with its hosts.
#[derive(Debug)]
pub struct World {
    now: Instant,
    queue: BinaryHeap<Reverse<Scheduled>>,
    sequence: u64,
    hosts: Vec<Host>,
    by_address: BTreeMap<SocketAddr, HostId>,
    network: Network,
    /// Pairs between which nothing arrives, the smaller number first.
    broken: BTreeSet<(HostId, HostId)>,
    rng: Rng,
    scratch: Scratch,
    effects: Effects,
    trace: Sha256,
    events: u64,
    /// IP packets that hosts' VPNs delivered, since the last [`World::take_delivered`].
    delivered: Vec<(HostId, Vec<u8>)>,
    /// What nodes told their daemons, since the last [`World::take_events`].
    told: Vec<(HostId, Event)>,
    /// Datagrams sent to addresses that no host has.
    undeliverable: u64,
    /// Ways that carry less than 1,500 bytes, by sender and receiver.
    narrow: BTreeMap<(HostId, HostId), Narrow>,
    /// What ICMP messages have told a host's system of the way to another: larger packets are refused.
    learned: BTreeMap<(HostId, HostId), usize>,
    /// Datagrams that did not fit their way.
    too_big: u64,
    /// Datagrams that a host's system has refused, to be told to its node: by whom, to whom, how long.
    refused: Vec<(HostId, SocketAddr, u16)>,
}

impl World {
    /// An empty world.
    #[must_use]
    pub fn new(network: Network, rng: &Rng) -> Self {
        Self {
            now: Instant::from_secs(1),
            queue: BinaryHeap::new(),
            sequence: 0,
            hosts: Vec::new(),
            by_address: BTreeMap::new(),
            network,
            broken: BTreeSet::new(),
            rng: rng.fork("network"),
            scratch: Scratch::default(),
            effects: Effects::default(),
            trace: Sha256::new(),
            events: 0,
            delivered: Vec::new(),
            told: Vec::new(),
            undeliverable: 0,
            narrow: BTreeMap::new(),
            learned: BTreeMap::new(),
            too_big: 0,
            refused: Vec::new(),
        }
    }

    /// The address that the host with number `id` has at first.
    #[must_use]
    pub fn address_of(id: HostId) -> SocketAddr {
        let [_, a, b, c] = id.to_be_bytes();
        SocketAddr::from((Ipv4Addr::new(1, a, b, c), PORT))
    }

    /// Adds a host that is started at `start`.
    pub fn add(&mut self, host: Host, start: Instant) -> HostId {
        let id = self.hosts.len() as HostId;
        self.by_address.insert(host.address, id);
        self.hosts.push(host);
        self.schedule(start, id, What::Wake);
        let host = &mut self.hosts[id as usize];
        host.wake = Some(start);
        host.scheduled = Some(start);
        id
    }

    /// The time in this world.
    #[must_use]
    pub const fn now(&self) -> Instant {
        self.now
    }

    /// How many events happened.
    #[must_use]
    pub const fn events(&self) -> u64 {
        self.events
    }

    /// All hosts, dead ones included.
    #[must_use]
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// The network, to change its faults.
    pub const fn network_mut(&mut self) -> &mut Network {
        &mut self.network
    }

    /// A hash over all events: when, to whom, from whom, how long and of which type. Contents do not count, so that stand-in crypto hashes alike.
    #[must_use]
    pub fn trace_hash(&self) -> String {
        self.trace.clone().finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
    }

    /// IP packets delivered since the last call.
    pub fn take_delivered(&mut self) -> Vec<(HostId, Vec<u8>)> {
        core::mem::take(&mut self.delivered)
    }

    /// What nodes told their daemons since the last call.
    pub fn take_events(&mut self) -> Vec<(HostId, Event)> {
        core::mem::take(&mut self.told)
    }

    /// How many datagrams were sent to addresses that no host has.
    #[must_use]
    pub const fn undeliverable(&self) -> u64 {
        self.undeliverable
    }

    /// Makes the way between two hosts narrow in both directions, or as wide as others again; what ICMP messages have told of it is forgotten.
    pub fn narrow(&mut self, one: HostId, other: HostId, narrow: Option<Narrow>) {
        for way in [(one, other), (other, one)] {
            self.learned.remove(&way);
            match narrow {
                Some(narrow) => self.narrow.insert(way, narrow),
                None => self.narrow.remove(&way),
            };
        }
    }

    /// How many datagrams did not fit their way.
    #[must_use]
    pub const fn too_big(&self) -> u64 {
        self.too_big
    }

    /// Stops a host without a word.
    pub fn crash(&mut self, id: HostId) {
        self.hosts[id as usize].alive = false;
        self.hosts[id as usize].wake = None;
    }

    /// From now on nothing arrives between these two hosts, while others reach both.
    pub fn break_pair(&mut self, a: HostId, b: HostId) {
        self.broken.insert((a.min(b), a.max(b)));
    }

    /// Gives a host another address; datagrams on their way to the old one are lost.
    pub fn roam(&mut self, id: HostId, address: SocketAddr) {
        let host = &mut self.hosts[id as usize];
        self.by_address.remove(&host.address);
        host.address = address;
        self.by_address.insert(address, id);
    }

    /// Gives a node an order.
    pub fn command(&mut self, id: HostId, command: Command) {
        self.hosts[id as usize].command(command, &mut self.scratch, &mut self.effects, self.now);
        self.carry(id);
    }

    /// Lets a host send an IP packet into its VPN.
    pub fn packet(&mut self, id: HostId, packet: &[u8]) {
        self.hosts[id as usize].packet(packet, &mut self.scratch, &mut self.effects, self.now);
        self.carry(id);
    }

    /// Lets a datagram arrive at `to` that nobody in the simulation sent.
    pub fn inject(&mut self, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        if let Some(&host) = self.by_address.get(&to) {
            self.schedule(self.now, host, What::Arrive { from, bytes: bytes.to_vec() });
        }
    }

    /// Lets `duration` pass.
    pub fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        while self.queue.peek().is_some_and(|Reverse(next)| next.at <= end) {
            self.step();
        }
        self.now = end;
    }

    fn step(&mut self) {
        let Some(Reverse(event)) = self.queue.pop() else { return };
        self.now = self.now.max(event.at);
        let host = &mut self.hosts[event.host as usize];
        if !host.alive {
            return;
        }
        match event.what {
            What::Wake => {
                if host.scheduled == Some(event.at) {
                    host.scheduled = None;
                }
                if host.wake != Some(event.at) {
                    return;
                }
                note(&mut self.trace, self.now, event.host, &[0], 0);
                host.settle(&mut self.scratch, &mut self.effects, self.now);
            }
            What::TooBig(to, mtu) => {
                self.learned.insert((event.host, to), mtu);
                return;
            }
            What::Arrive { from, mut bytes } => {
                note(&mut self.trace, self.now, event.host, &bytes[..bytes.len().min(1)], bytes.len());
                host.datagram(from, &mut bytes, &mut self.scratch, &mut self.effects, self.now);
            }
        }
        self.events += 1;
        self.carry(event.host);
    }

    /// Puts what a host just did into the network, and its next wake-up into the queue.
    fn carry(&mut self, id: HostId) {
        self.transmit(id);
        // As a daemon does: each refusal is an order to the node, which may send again. Sizes only shrink by it, so this ends.
        while let Some((host, remote, len)) = self.refused.pop() {
            self.hosts[host as usize].command(Command::PathTooSmall { remote, len }, &mut self.scratch, &mut self.effects, self.now);
            self.transmit(host);
        }
        self.delivered.extend(self.effects.delivered.drain(..).map(|packet| (id, packet)));
        self.told.extend(self.effects.events.drain(..).map(|event| (id, event)));
        let host = &mut self.hosts[id as usize];
        if let Some(wake) = host.wake {
            // A deadline that has passed would stop the clock of the whole world; the pump has counted the stall.
            let at = if wake > self.now { wake } else { self.now + Duration::from_millis(1) };
            host.wake = Some(at);
            if host.scheduled != Some(at) {
                host.scheduled = Some(at);
                self.schedule(at, id, What::Wake);
            }
        }
    }

    fn transmit(&mut self, id: HostId) {
        let from = self.hosts[id as usize].address;
        let mut datagrams = core::mem::take(&mut self.effects.datagrams);
        for (to, bytes) in datagrams.drain(..) {
            let Some(&host) = self.by_address.get(&to) else {
                self.undeliverable += 1;
                continue;
            };
            if self.broken.contains(&(id.min(host), id.max(host))) || self.is_too_big(id, host, to, bytes.len()) {
                continue;
            }
            let (delays, copies) = self.network.carry(id, host, &mut self.rng);
            for delay in &delays[..copies] {
                self.schedule(self.now + *delay, host, What::Arrive { from, bytes: bytes.clone() });
            }
        }
        self.effects.datagrams = datagrams;
    }

    /// Whether a datagram does not fit its way; lets its sender know as its system would.
    fn is_too_big(&mut self, from: HostId, to: HostId, remote: SocketAddr, len: usize) -> bool {
        let (way, packet) = ((from, to), len + OUTER);
        if self.learned.get(&way).is_some_and(|mtu| packet > *mtu) {
            self.refused.push((from, remote, len as u16));
            return true;
        }
        let Some(narrow) = self.narrow.get(&way).copied().filter(|narrow| packet > narrow.mtu) else { return false };
        self.too_big += 1;
        if narrow.tells {
            let at = self.now + self.network.one_way(from, to);
            self.schedule(at, from, What::TooBig(to, narrow.mtu));
        }
        true
    }

    fn schedule(&mut self, at: Instant, host: HostId, what: What) {
        self.sequence += 1;
        self.queue.push(Reverse(Scheduled { at, sequence: self.sequence, host, what }));
    }
}

fn note(trace: &mut Sha256, now: Instant, host: HostId, first: &[u8], len: usize) {
    trace.update(now.as_micros().to_be_bytes());
    trace.update(host.to_be_bytes());
    trace.update(first);
    trace.update((len as u32).to_be_bytes());
}
