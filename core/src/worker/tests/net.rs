//! Two hosts with W workers each, carried by rings that are short and often full, under a seeded interleaving.

use core::net::{IpAddr, SocketAddr};
use core::num::NonZeroU8;
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::batch::{HEADROOM, Slot, TAILROOM};
use crate::config::Config;
use crate::events::Event;
use crate::group::{Authority, Parameters, Profile};
use crate::io::{Endpoint, RealmSlot, ShardId};
use crate::node::Node;
use crate::pump::{Driver, PUBLISH_RETRY, Pump, Received, Scratch};
use crate::rng::Rng;
use crate::shard::table::{Prefix, ShardEvent};
use crate::shard::{Shard, ShardSettings, owner};
use crate::time::{Instant, UnixTime};
use crate::wire::packet::SealedHeader;
use crate::wire::{DatagramType, classify};
use crate::worker::{News, Parcel, Report, Worker};

pub(super) const REALM: RealmSlot = RealmSlot(0);

/// What a ring between two threads holds: far less than in a daemon, so that they fill.
const RING: usize = 6;

/// One thread's surroundings.
#[derive(Default)]
pub(super) struct Thread {
    /// Datagrams that arrived at its socket.
    inbox: VecDeque<(SocketAddr, Vec<u8>)>,
    /// Packets that its TUN queue gives.
    queue: VecDeque<Vec<u8>>,
    /// The ring to it; parcels for workers only.
    down: VecDeque<(RealmSlot, Parcel)>,
    /// The ring from it.
    up: VecDeque<(RealmSlot, Report)>,
    /// Whether its ring takes nothing for now, whatever it holds.
    pub(super) jammed: bool,
}

/// What a host did since it was looked at last.
#[derive(Default)]
pub(super) struct Effects {
    threads: Vec<Thread>,
    pub(super) sent: Vec<(SocketAddr, Vec<u8>)>,
    pub(super) delivered: Vec<Vec<u8>>,
    /// Parcels that found a ring full.
    pub(super) refused: u64,
    /// Decides when a ring is full for no other reason.
    whim: Option<Rng>,
}

impl Driver for Effects {
    fn transmit(&mut self, to: Endpoint, buf: &[u8], slots: &[Slot]) {
        if let Endpoint::Udp { remote, .. } = to {
            self.sent.extend(slots.iter().map(|slot| (remote, buf[slot.range()].to_vec())));
        }
    }

    fn deliver(&mut self, _: RealmSlot, buf: &[u8], slots: &[Slot]) {
        self.delivered.extend(slots.iter().map(|slot| buf[slot.range()].to_vec()));
    }

    fn event(&mut self, _: RealmSlot, _: Event) {}

    fn publish(&mut self, worker: ShardId, realm: RealmSlot, parcel: Parcel) -> Result<(), Parcel> {
        let thread = &mut self.threads[usize::from(worker.0)];
        let whim = self.whim.as_mut().is_some_and(|rng| rng.below(3) == 0);
        if whim || thread.jammed || thread.down.len() >= RING {
            self.refused += 1;
            return Err(parcel);
        }
        thread.down.push_back((realm, parcel));
        Ok(())
    }
}

pub(super) struct Host {
    pub(super) address: SocketAddr,
    pub(super) pump: Pump,
    pub(super) workers: Vec<Worker>,
    pub(super) effects: Effects,
    due: Option<Instant>,
    /// Where workers have said that a session's packets come from.
    pub(super) moved: u64,
}

impl Host {
    pub(super) fn node(&self) -> &Node {
        &self.pump.realms()[0].node
    }

    /// Its first IPv6 address in the group.
    pub(super) fn virtual_address(&self, now: Instant) -> IpAddr {
        self.node().status(now).addresses.into_iter().find(IpAddr::is_ipv6).expect("it has a certificate")
    }

    pub(super) fn thread(&mut self, worker: usize) -> &mut Thread {
        &mut self.effects.threads[worker]
    }

    pub(super) fn settle(&mut self, scratch: &mut Scratch, now: Instant) {
        self.due = self.pump.settle(scratch, &mut self.effects, now).map(|(due, _)| due);
    }

    /// Gives a thread up to `share` of each thing that waits for it.
    fn turn(&mut self, worker: usize, share: usize, scratch: &mut Scratch, now: Instant) {
        let Self { pump, workers, effects, .. } = self;
        let thread = &mut effects.threads[worker];
        let parcels: Vec<_> = thread.down.drain(..share.min(thread.down.len())).collect();
        let arrived: Vec<_> = thread.inbox.drain(..share.min(thread.inbox.len())).collect();
        let packets: Vec<_> = thread.queue.drain(..share.min(thread.queue.len())).collect();
        let (mut bytes, mut received) = (Vec::new(), Vec::new());
        for (remote, datagram) in arrived {
            let from = Endpoint::Udp { socket: 0, remote };
            received.push(Received {
                start: bytes.len(),
                len: datagram.len(),
                stride: datagram.len().max(1),
                from,
                class: Default::default(),
            });
            bytes.extend_from_slice(&datagram);
        }
        let (mut buf, mut slots) = (Vec::new(), Vec::new());
        for packet in packets {
            buf.extend_from_slice(&[0; HEADROOM]);
            slots.push(Slot { start: buf.len() as u32, len: packet.len() as u16, ..Slot::default() });
            buf.extend_from_slice(&packet);
            buf.extend_from_slice(&[0; TAILROOM]);
        }
        let Some(own) = worker.checked_sub(1) else {
            pump.datagrams(scratch, &mut bytes, &received, effects, now);
            pump.packets(REALM, scratch, &mut buf, &mut slots, effects, now);
            return self.reports(share, scratch, now);
        };
        for (realm, parcel) in parcels {
            workers[own].parcel(realm, parcel, scratch, effects, now);
        }
        workers[own].datagrams(scratch, &mut bytes, &received, effects, now);
        workers[own].packets(REALM, scratch, &mut buf, &mut slots, effects, now);
        while effects.threads[worker].up.len() < RING && !effects.threads[worker].jammed {
            let Some(report) = workers[own].poll_report(now) else { break };
            effects.threads[worker].up.push_back(report);
        }
    }

    /// The control plane's turn.
    fn reports(&mut self, share: usize, scratch: &mut Scratch, now: Instant) {
        for worker in 1..=self.workers.len() {
            let ring = &mut self.effects.threads[worker].up;
            let reports: Vec<_> = ring.drain(..share.min(ring.len())).collect();
            for (realm, report) in reports {
                self.moved += u64::from(matches!(report.0, News::Moved { .. }));
                self.pump.report(ShardId(worker as u8), realm, report, now);
            }
        }
        self.settle(scratch, now);
    }

    fn is_idle(&self, now: Instant) -> bool {
        let waits_for_room = self.due.is_some_and(|due| due <= now + PUBLISH_RETRY);
        !waits_for_room
            && self.effects.threads.iter().all(|thread| {
                thread.inbox.is_empty() && thread.queue.is_empty() && (thread.down.is_empty() || thread.jammed) && thread.up.is_empty()
            })
    }
}

/// A flow of UDP packets with numbers in them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Flow {
    /// The host that sends.
    pub(super) from: usize,
    /// The TUN queue that the kernel gives it to.
    pub(super) queue: usize,
    pub(super) port: u16,
}

pub(super) struct Net {
    pub(super) now: Instant,
    pub(super) rng: Rng,
    pub(super) hosts: Vec<Host>,
    pub(super) scratch: Scratch,
    workers: NonZeroU8,
    /// Addresses in the group.
    addresses: Vec<IpAddr>,
    pub(super) sent: BTreeMap<Flow, u32>,
    /// The last number of each flow that arrived, and how many did.
    pub(super) arrived: BTreeMap<Flow, (u32, u32)>,
    /// Each data packet that was sealed: sender, receiver index, lane, counter.
    pub(super) sealed: BTreeSet<(usize, u32, u8, u32)>,
    /// Receiver indices of data packets by sender.
    pub(super) indices: BTreeSet<(usize, u32)>,
    /// To which worker's socket a datagram is brought; `None` as its index says.
    pub(super) steer: Option<usize>,
    /// Virtual time that a turn takes at most, in µs.
    pub(super) pace: u64,
    /// What is lost on its way: sender and datagram.
    pub(super) lose: fn(&Self, usize, &[u8]) -> bool,
    /// Whether somebody has sent to a host's current address.
    pub(super) reached: [bool; 2],
}

pub(super) fn is_data(datagram: &[u8]) -> bool {
    datagram.first().and_then(|first| classify(*first)) == Some(DatagramType::Data)
}

impl Net {
    pub(super) fn new(seed: u8, workers: u8) -> Self {
        let workers = NonZeroU8::new(workers).expect("there are workers");
        let wall = UnixTime(1_800_000_000);
        let mut rng = Rng::new([seed; 32]);
        let authority = Authority::init(&Parameters::new("example"), &mut rng, wall).expect("the parameters are right");
        let network = Prefix::new(IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 0]), 64);
        let now = Instant::from_secs(1);
        let addresses: Vec<SocketAddr> = (1..=2).map(|n| SocketAddr::from(([192, 0, 2, n], 4242))).collect();
        let host = |n: usize, rng: &mut Rng| {
            let identity = authority.enrol(&Profile::new("somebody", ["ann", "bob"][n], wall), rng).expect("the profile is right");
            let mut config = Config::new(network);
            config.bootstrap = addresses[..n].to_vec();
            config.workers = workers;
            let shard = |id: u8| Shard::new(ShardSettings::new(ShardId(id), config.realm, workers, 7));
            let others = (1..workers.get()).map(|id| {
                let mut worker = Worker::new(ShardId(id), workers, 9);
                assert!(worker.add(shard(id)) && !worker.add(shard(id)) && !worker.add(shard(0)));
                worker
            });
            let others: Vec<_> = others.collect();
            let shard = shard(0);
            let mut pump = Pump::new();
            pump.add(Node::new(config, identity, authority.trust(), rng.bytes(), now, wall), shard);
            let threads = (0..workers.get()).map(|_| Thread::default()).collect();
            let effects = Effects { threads, whim: Some(rng.fork("whim")), ..Effects::default() };
            Host { address: addresses[n], pump, workers: others, effects, due: Some(now), moved: 0 }
        };
        let hosts: Vec<Host> = (0..2).map(|n| host(n, &mut rng)).collect();
        let mut net = Self {
            now,
            addresses: Vec::new(),
            rng: rng.fork("interleaving"),
            hosts,
            scratch: Scratch::default(),
            workers,
            sent: BTreeMap::new(),
            arrived: BTreeMap::new(),
            sealed: BTreeSet::new(),
            indices: BTreeSet::new(),
            steer: None,
            pace: 200,
            lose: |_, _, _| false,
            reached: [true; 2],
        };
        for _ in 0..3_000 {
            net.calm(Duration::from_millis(10));
            if net.hosts.iter().all(|host| host.node().ring_neighbours().0.is_some()) {
                break;
            }
        }
        net.addresses = net.hosts.iter().map(|host| host.virtual_address(net.now)).collect();
        net
    }

    /// Lets one thread of one host have a turn, at random, and sometimes a ring jam.
    pub(super) fn step(&mut self) {
        let host = self.rng.below(2) as usize;
        let worker = self.rng.below(u64::from(self.workers.get())) as usize;
        let share = 1 + self.rng.below(12) as usize;
        let thread = self.hosts[host].thread(worker);
        thread.jammed = if thread.jammed { self.rng.below(4) > 0 } else { self.rng.below(40) == 0 };
        self.now += Duration::from_micros(self.rng.below(self.pace));
        self.hosts[host].turn(worker, share, &mut self.scratch, self.now);
        self.collect(host);
    }

    /// Lets one thread do all that it has.
    pub(super) fn turn(&mut self, host: usize, worker: usize) {
        self.hosts[host].turn(worker, usize::MAX, &mut self.scratch, self.now);
        self.collect(host);
    }

    /// Lets time pass, with turns for all until nothing is under way; no ring is jammed for long.
    pub(super) fn calm(&mut self, time: Duration) {
        self.now += time;
        for host in &mut self.hosts {
            host.effects.threads.iter_mut().for_each(|thread| thread.jammed = false);
        }
        for _ in 0..200 {
            for host in 0..2 {
                for worker in (0..usize::from(self.workers.get())).rev() {
                    self.turn(host, worker);
                }
            }
            if self.hosts.iter().all(|host| host.is_idle(self.now)) {
                break;
            }
        }
    }

    /// Takes what a host has done to where it goes.
    pub(super) fn collect(&mut self, host: usize) {
        for (to, datagram) in core::mem::take(&mut self.hosts[host].effects.sent) {
            if is_data(&datagram) {
                let header = SealedHeader::parse(&datagram).expect("we made it");
                let fresh = self.sealed.insert((host, header.receiver, header.lane, header.counter));
                assert!(fresh, "host {host} has sealed number {} on lane {} twice", header.counter, header.lane);
                self.indices.insert((host, header.receiver));
            }
            let Some(target) = self.hosts.iter().position(|other| other.address == to) else { continue };
            self.reached[target] = true;
            if (self.lose)(self, host, &datagram) {
                continue;
            }
            let worker = self.steer.or_else(|| owner(&datagram, self.workers).map(|shard| usize::from(shard.0))).unwrap_or(0);
            let from = self.hosts[host].address;
            self.hosts[target].thread(worker).inbox.push_back((from, datagram));
        }
        for packet in core::mem::take(&mut self.hosts[host].effects.delivered) {
            let port = u16::from_be_bytes([packet[40], packet[41]]);
            let flow = Flow { from: 1 - host, queue: usize::from(packet[48]), port };
            let number = u32::from_be_bytes([packet[49], packet[50], packet[51], packet[52]]);
            let (last, count) = self.arrived.entry(flow).or_default();
            assert!(number > *last, "{flow:?}: {number} came after {last}");
            (*last, *count) = (number, *count + 1);
        }
    }

    /// Puts the next packet of a flow into its TUN queue.
    pub(super) fn send(&mut self, flow: Flow) {
        let number = self.sent.entry(flow).or_default();
        *number += 1;
        let (IpAddr::V6(from), IpAddr::V6(to)) = (self.addresses[flow.from], self.addresses[1 - flow.from]) else {
            panic!("they are IPv6")
        };
        let mut packet = Vec::new();
        let payload = [&[flow.queue as u8], &number.to_be_bytes()[..]].concat();
        etherparse::PacketBuilder::ipv6(from.octets(), to.octets(), 64)
            .udp(flow.port, 9)
            .write(&mut packet, &payload)
            .expect("a Vec takes it");
        self.hosts[flow.from].thread(flow.queue).queue.push_back(packet);
    }

    /// Steps with traffic on all `flows`, then calm.
    pub(super) fn run(&mut self, steps: u32, flows: &[Flow]) {
        for _ in 0..steps {
            if self.rng.below(2) == 0 {
                let flow = flows[self.rng.below(flows.len() as u64) as usize];
                for _ in 0..=self.rng.below(4) {
                    self.send(flow);
                }
            }
            self.step();
        }
        self.calm(Duration::from_millis(1));
    }

    /// Packets of all flows that were sent and did not arrive.
    pub(super) fn lost(&self) -> u32 {
        self.sent.iter().map(|(flow, sent)| sent - self.arrived.get(flow).map_or(0, |(_, count)| *count)).sum()
    }

    /// Some flows in both directions by each queue.
    pub(super) fn flows(&self) -> Vec<Flow> {
        let queues = 0..usize::from(self.workers.get());
        queues.flat_map(|queue| (0..2).flat_map(move |from| (1..4).map(move |port| Flow { from, queue, port }))).collect()
    }

    /// Barriers that reached a host's control plane as applied by all.
    pub(super) fn passed(&self, host: usize) -> &[u64] {
        self.hosts[host].pump.passed(REALM)
    }
}

/// What a worker's shard says about barriers.
pub(super) fn is_barrier(report: &Report) -> bool {
    matches!(report.0, News::Event(ShardEvent::Applied(_)))
}
