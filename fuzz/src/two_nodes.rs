//! Two or three whole nodes, and a network between them that the input controls.

use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use annulus_sim::core::config::CryptoMode;
use annulus_sim::core::events::{Command, Event};
use annulus_sim::core::id::NodeId;
use annulus_sim::core::io::ShardId;
use annulus_sim::core::node::Node;
use annulus_sim::core::pump::Scratch;
use annulus_sim::core::shard::{Shard, ShardSettings};
use annulus_sim::core::time::Instant;
use annulus_sim::host::{Effects, Host};
use annulus_sim::world::{WALL_START, World};

use crate::input::{Input, edit};
use crate::ip;
use crate::member::group;

/// Operations of one input.
const MAX_OPERATIONS: usize = 24;
/// How long a datagram takes when nothing happens to it.
const ONE_WAY: Duration = Duration::from_millis(20);
/// Within this time after the last fault the ring is right again. Mostly it is within a minute; but parts of a torn ring that are each consistent look
/// for each other after waits that grow to half an hour.
const HEAL: Duration = Duration::from_secs(3_000);
/// Packets that are sent through the healed ring, one per second, until one arrives.
const PACKETS: u32 = 60;
/// Events per second of virtual time and host beyond which two machines must be answering each other without an end.
const MAX_EVENTS_PER_SECOND: u64 = 400;

thread_local! {
    /// Two buffers of 64 kB that need not be made anew.
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

enum What {
    Arrive { from: SocketAddr, bytes: Vec<u8> },
    Wake,
}

struct Net<'a> {
    hosts: Vec<Host>,
    ids: Vec<NodeId>,
    addresses: Vec<BTreeSet<IpAddr>>,
    queue: BTreeMap<(Instant, u64), (usize, What)>,
    sequence: u64,
    events: u64,
    now: Instant,
    /// Decides what happens to each datagram, until it is used up.
    fates: Input<'a>,
    /// Packets that hosts have sent, by their numbers, and which of them arrived.
    sent: BTreeMap<u32, (Vec<u8>, usize)>,
    arrived: BTreeSet<u32>,
    born: u8,
}

/// Runs nodes over a network in which datagrams are lost, delayed, doubled, changed or come from elsewhere, then over one in which they are not.
///
/// # Panics
/// When a property in the table of the crate does not hold.
pub fn two_nodes(data: &[u8]) {
    let mut input = Input::new(data);
    let count = 2 + usize::from(input.flag());
    let mut program = Input::new(input.chunk());
    SCRATCH.with_borrow_mut(|scratch| {
        let mut net = Net::new(count, input);
        for _ in 0..MAX_OPERATIONS {
            if program.is_empty() {
                break;
            }
            net.operate(&mut program, scratch);
        }
        net.fates = Input::new(&[]);
        net.heal(scratch);
    });
}

impl<'a> Net<'a> {
    fn new(count: usize, fates: Input<'a>) -> Self {
        let now = Instant::from_secs(1);
        let mut net = Net {
            hosts: Vec::new(),
            ids: Vec::new(),
            addresses: vec![BTreeSet::new(); count],
            queue: BTreeMap::new(),
            sequence: 0,
            events: 0,
            now,
            fates,
            sent: BTreeMap::new(),
            arrived: BTreeSet::new(),
            born: 0,
        };
        for number in 0..count {
            let host = net.host(number, count);
            net.ids.push(host.node().node_id());
            net.hosts.push(host);
            net.schedule(now, number, What::Wake);
        }
        net
    }

    fn host(&mut self, number: usize, count: usize) -> Host {
        let group = group();
        self.born += 1;
        let mut config = group.config.clone();
        config.crypto = CryptoMode::StandIn;
        config.bootstrap = (0..count as u32).filter(|other| *other != number as u32).map(World::address_of).collect();
        let shard = ShardSettings { flows: 64, ..ShardSettings::new(ShardId(0), config.realm, config.workers, 5) };
        let identity = group.members[number].clone();
        let node = Node::new(config, identity, group.trust.clone(), [self.born; 32], self.now, WALL_START);
        Host::new(World::address_of(number as u32), node, Shard::new(shard))
    }

    fn operate(&mut self, input: &mut Input<'_>, scratch: &mut Scratch) {
        let number = input.below(self.hosts.len());
        match input.u8() % 8 {
            0 | 1 => self.run(Duration::from_millis(u64::from(input.u8()) * 20), scratch),
            2 => self.run(Duration::from_millis(u64::from(input.u8()) * 500), scratch),
            3 | 4 => {
                let (to, v6, len) = (input.below(self.hosts.len()), input.flag(), usize::from(input.u16()) % 1500);
                self.send(number, to, v6, len, scratch);
            }
            5 => {
                let command = self.order(number, input);
                let mut effects = Effects::default();
                self.hosts[number].command(command, scratch, &mut effects, self.now);
                self.carry(number, effects);
            }
            // The first host stays where all the others look for it.
            6 if number > 0 => self.hosts[number].address = World::address_of(16 + u32::from(input.u8()) * 4 + number as u32),
            7 => {
                // Killed and started again, without any memory.
                let address = self.hosts[number].address;
                let mut host = self.host(number, self.hosts.len());
                host.address = address;
                self.hosts[number] = host;
                self.addresses[number].clear();
                self.schedule(self.now, number, What::Wake);
            }
            _ => self.run(Duration::from_secs(1), scratch),
        }
    }

    fn order(&self, number: usize, input: &mut Input<'_>) -> Command {
        let node = self.ids[input.below(self.ids.len())];
        match input.u8() % 6 {
            0 => Command::Ping { token: 1, node },
            1 => Command::Trace { token: 2, node },
            2 => Command::Resumed,
            3 => Command::Resolve { token: 3, name: format!("node-{}", input.u8() % 4) },
            4 => Command::LocalAddresses(vec![self.hosts[number].address]),
            _ => Command::WallClock(WALL_START.plus_secs(u64::from(input.u16()))),
        }
    }

    /// Lets a host send a packet to another one's address.
    fn send(&mut self, from: usize, to: usize, v6: bool, len: usize, scratch: &mut Scratch) -> Option<u32> {
        let of = |number: usize| self.addresses[number].iter().find(|address| address.is_ipv6() == v6).copied();
        let (source, destination) = (of(from)?, of(to)?);
        let number = self.sent.len() as u32;
        let mut payload = number.to_be_bytes().to_vec();
        payload.resize(4 + len, number as u8);
        let packet = ip::packet(source, destination, ip::UDP, 0, &payload);
        self.sent.insert(number, (packet.clone(), to));
        let mut effects = Effects::default();
        self.hosts[from].packet(&packet, scratch, &mut effects, self.now);
        self.carry(from, effects);
        Some(number)
    }

    fn run(&mut self, duration: Duration, scratch: &mut Scratch) {
        let (end, events) = (self.now + duration, self.events);
        while let Some(entry) = self.queue.first_entry() {
            if entry.key().0 > end {
                break;
            }
            let ((at, _), (number, what)) = entry.remove_entry();
            self.now = self.now.max(at);
            let host = &mut self.hosts[number];
            let mut effects = Effects::default();
            match what {
                What::Wake if host.wake.is_some_and(|wake| wake > self.now) => continue,
                What::Wake => host.settle(scratch, &mut effects, self.now),
                What::Arrive { from, mut bytes } => host.datagram(from, &mut bytes, scratch, &mut effects, self.now),
            }
            self.events += 1;
            let bound = MAX_EVENTS_PER_SECOND * self.hosts.len() as u64 * (duration.as_secs() + 2);
            assert!(self.events - events < bound, "no end of events within {duration:?}");
            self.carry(number, effects);
        }
        self.now = end;
    }

    /// Puts what a host did into the network.
    fn carry(&mut self, number: usize, effects: Effects) {
        assert_eq!(self.hosts[number].stalls(), 0, "a deadline does not advance");
        for packet in effects.delivered {
            self.delivered(number, &packet);
        }
        for event in effects.events {
            if let Event::Addresses { hosts, .. } = event {
                self.addresses[number] = hosts.into_iter().collect();
            }
        }
        for (to, bytes) in effects.datagrams {
            self.transmit(number, to, bytes);
        }
        if let Some(wake) = self.hosts[number].wake {
            assert!(wake > self.now, "a deadline lies behind");
            self.schedule(wake, number, What::Wake);
        }
    }

    fn transmit(&mut self, number: usize, to: SocketAddr, bytes: Vec<u8>) {
        let Some(receiver) = self.hosts.iter().position(|host| host.address == to) else { return };
        let (mut from, mut bytes, at) = (self.hosts[number].address, bytes, self.now + ONE_WAY);
        match self.fates.u8() {
            0..=127 => {}
            128..=159 => return,
            160..=191 => {
                let late = Duration::from_millis(u64::from(self.fates.u8()) * 40);
                self.schedule(at + late, receiver, What::Arrive { from, bytes });
                return;
            }
            192..=215 => {
                let late = Duration::from_millis(u64::from(self.fates.u8()) * 40);
                self.schedule(at + late, receiver, What::Arrive { from, bytes: bytes.clone() });
            }
            216..=239 => edit(&mut bytes, &mut self.fates),
            240.. => from = World::address_of(u32::from(self.fates.u8())),
        }
        self.schedule(at, receiver, What::Arrive { from, bytes });
    }

    fn delivered(&mut self, number: usize, packet: &[u8]) {
        // Errors about packets are the node's own (ICMP); hosts send nothing but UDP here.
        let v6 = packet[0] >> 4 == 6;
        let (protocol, header) = if v6 { (packet[6], 40) } else { (packet[9], 20) };
        if protocol != ip::UDP {
            assert!(matches!(protocol, 1 | 58), "nobody sent this: {packet:02x?}");
            return;
        }
        let id =
            packet.get(header..header + 4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes).expect("nobody sends as little");
        let (sent, to) = self.sent.get(&id).expect("nobody sent this");
        assert_eq!(packet, sent, "changed on its way");
        assert_eq!(number, *to, "it was for another host");
        assert!(self.arrived.insert(id), "it arrives twice");
    }

    /// The faults are over.
    fn heal(&mut self, scratch: &mut Scratch) {
        let end = self.now + HEAL;
        while !self.is_right() {
            assert!(self.now < end, "the ring is not right again after {HEAL:?}: {}", self.describe());
            self.run(Duration::from_millis(500), scratch);
        }
        if self.addresses.iter().any(BTreeSet::is_empty) {
            return;
        }
        for (from, to) in [(0, 1), (1, 0)] {
            let mut numbers = Vec::new();
            while !numbers.iter().any(|number| self.arrived.contains(number)) {
                assert!(numbers.len() < PACKETS as usize, "no packet arrives from host {from} at host {to}: {}", self.describe());
                numbers.extend(self.send(from, to, true, 10, scratch));
                self.run(Duration::from_secs(1), scratch);
            }
        }
    }

    fn is_right(&self) -> bool {
        let mut order = self.ids.clone();
        order.sort_unstable();
        order.iter().enumerate().all(|(place, id)| {
            let host = self.hosts.iter().find(|host| host.node().node_id() == *id).expect("each host has its ID");
            let next = |step: usize| Some(order[(place + step) % order.len()]);
            host.node().is_joined() && host.node().ring_neighbours() == (next(1), next(order.len() - 1))
        })
    }

    fn describe(&self) -> String {
        let one = |host: &Host| {
            let node = host.node();
            let peers: Vec<String> =
                node.status(self.now).peers.iter().map(|peer| format!("{:?} {:?}", peer.node_id, peer.paths)).collect();
            format!(
                "{:?} at {} joined {} neighbours {:?} peers {peers:?}",
                node.node_id(),
                host.address,
                node.is_joined(),
                node.ring_neighbours()
            )
        };
        self.hosts.iter().map(one).collect::<Vec<_>>().join("; ")
    }

    fn schedule(&mut self, at: Instant, number: usize, what: What) {
        self.sequence += 1;
        self.queue.insert((at, self.sequence), (number, what));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_arrive_in_an_undisturbed_network() {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut net = Net::new(2, Input::new(&[]));
            net.run(Duration::from_secs(3), scratch);
            net.heal(scratch);
            assert!(net.addresses.iter().all(|addresses| addresses.len() == 2) && net.arrived.len() >= 2);
        });
    }
}
