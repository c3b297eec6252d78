//! Two nodes in one process that have found each other in memory, and the packets that they carry: what the benches of the whole path share.

// Each bench uses a part of it.
#![allow(dead_code)]

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use annulus_core::batch::Slot;
use annulus_core::config::Config;
use annulus_core::events::Event;
use annulus_core::group::{Authority, Parameters, Profile};
use annulus_core::io::{Endpoint, RealmSlot, ShardId, TableUpdate, TrafficClass};
use annulus_core::node::Node;
use annulus_core::pump::{Driver, Pump, Received, Scratch};
use annulus_core::rng::Rng;
use annulus_core::shard::table::Prefix;
use annulus_core::shard::{Shard, ShardSettings};
use annulus_core::time::{Instant, UnixTime};
use annulus_core::wire::packet::{RELAY_HEADER_LEN, RelayHeader};
use annulus_tun_bridge::offload::{Merge, split};

/// Bytes of the packets of a bulk transfer: the tunnel's MTU.
pub(crate) const PACKET: usize = 1_400;
/// Segments of a super-packet: as many of that size as one send carries.
pub(crate) const SEGMENTS: usize = 45;
/// Packets that come one by one in a batch.
pub(crate) const SINGLES: usize = 64;
/// Bytes that the receive buffer keeps for each message.
const REGION: usize = 65_536;
/// The circuit through the relay, which is its last hop.
pub(crate) const CIRCUIT: u32 = 77;
/// Another one, which leads on to the next relay.
pub(crate) const ONWARD_CIRCUIT: u32 = 78;
const WALL: UnixTime = UnixTime(1_800_000_000);

/// What a host's kernel hands the node within one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Load {
    /// A TCP super-packet of [`SEGMENTS`] segments.
    Bulk,
    /// [`SINGLES`] full packets of one TCP flow.
    OneFlow,
    /// [`SINGLES`] full packets of as many of 1,000 TCP flows.
    ManyFlows,
    /// [`SINGLES`] UDP packets with 64 bytes each, of one flow.
    Small,
    /// One full packet alone.
    Alone,
}

impl Load {
    /// Packets in one batch.
    pub(crate) const fn packets(self) -> usize {
        match self {
            Self::Bulk => SEGMENTS,
            Self::OneFlow | Self::ManyFlows | Self::Small => SINGLES,
            Self::Alone => 1,
        }
    }
}

/// A driver without a system: while nodes talk it queues copies, while packets are measured it only notes where datagrams lie, and merges what arrives.
#[derive(Debug)]
pub(crate) struct Wire {
    pub(crate) measuring: bool,
    queue: VecDeque<(SocketAddr, Vec<u8>)>,
    /// Runs of datagrams that left together, each with the number of its slots.
    pub(crate) runs: Vec<usize>,
    pub(crate) slots: Vec<Slot>,
    merge: Merge,
    /// Packets that were written to the host, and the writes that it took.
    pub(crate) written: (usize, usize),
    pub(crate) bytes: usize,
}

impl Driver for Wire {
    fn transmit(&mut self, to: Endpoint, buf: &[u8], slots: &[Slot]) {
        if self.measuring {
            self.runs.push(slots.len());
            self.slots.extend_from_slice(slots);
        } else if let Endpoint::Udp { remote, .. } = to {
            self.queue.extend(slots.iter().map(|slot| (remote, buf[slot.range()].to_vec())));
        }
    }

    fn deliver(&mut self, _: RealmSlot, buf: &[u8], slots: &[Slot]) {
        let (writes, bytes) = (&mut self.written.1, &mut self.bytes);
        self.written.0 += self.merge.merge(buf, slots, |parts, _| {
            *writes += 1;
            *bytes += parts.iter().map(|part| part.len()).sum::<usize>();
            Ok(())
        });
    }

    fn event(&mut self, _: RealmSlot, _: Event) {}
}

/// A node with its surroundings.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) pump: Pump,
    pub(crate) wire: Wire,
    pub(crate) scratch: Scratch,
    outer: SocketAddr,
}

impl Host {
    fn new(authority: &Authority, rng: &mut Rng, number: u8, circuit: Option<[SocketAddr; 2]>) -> Self {
        let outer = outer(number);
        let name = format!("host{number}");
        let identity = authority.enrol(&Profile::new("somebody", &name, WALL), rng).expect("a fresh name can be enrolled");
        let mut config = Config::new(Prefix::new(IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 0]), 64));
        config.ipv4_network = Some(Prefix::new(IpAddr::from([10, 9, 0, 0]), 16));
        if number > 0 {
            config.bootstrap = vec![self::outer(0)];
        }
        let mut shard = Shard::new(ShardSettings::new(ShardId(0), config.realm, config.workers, rng.next_u64()));
        let mut node = Node::new(config, identity, authority.trust(), rng.bytes(), Instant::from_secs(1), WALL);
        if let Some(ends) = circuit {
            let [from, to] = ends.map(|remote| node.path(Endpoint::Udp { socket: 0, remote }));
            for (index, next_index) in [(CIRCUIT, None), (ONWARD_CIRCUIT, Some(5))] {
                shard.apply(TableUpdate::Circuit { index, from, to, next_index, rate: u64::MAX }, Instant::ZERO);
            }
        }
        let mut pump = Pump::new();
        assert!(pump.add(node, shard), "an empty pump takes a realm");
        let wire = Wire {
            measuring: false,
            queue: VecDeque::new(),
            runs: Vec::with_capacity(SINGLES),
            slots: Vec::with_capacity(SINGLES),
            merge: Merge::new(),
            written: (0, 0),
            bytes: 0,
        };
        Self { pump, wire, scratch: Scratch::default(), outer }
    }

    /// The node's leased IPv4 address, once it has one.
    fn inner(&self, now: Instant) -> Option<[u8; 4]> {
        let status = self.pump.realms()[0].node.status(now);
        status.addresses.iter().find_map(|address| if let IpAddr::V4(v4) = address { Some(v4.octets()) } else { None })
    }

    /// Lets the control plane do what is due; never recorded, for it sends from a buffer of its own.
    fn settle(&mut self, now: Instant) {
        self.wire.measuring = false;
        self.pump.settle(&mut self.scratch, &mut self.wire, now);
        self.wire.measuring = true;
    }
}

/// The outer address of a host: 0 and 1 are the ends, 9 is the relay.
pub(crate) fn outer(number: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, number + 1], 4242))
}

/// Two hosts with a session between them, a relay, and the batch that is on its way.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) near: Host,
    pub(crate) far: Host,
    pub(crate) relay: Host,
    pub(crate) now: Instant,
    pub(crate) addresses: [[u8; 4]; 2],
    /// Frames of the batch as the kernel gives them.
    frames: Vec<Vec<u8>>,
    /// Batches loaded so far.
    turn: usize,
    tun_buffer: Vec<u8>,
    slots: Vec<Slot>,
    /// Packets of the batch.
    count: usize,
    receive_buffer: Vec<u8>,
    received: Vec<Received>,
}

impl World {
    /// Makes the hosts and lets them find each other; the same at each call.
    pub(crate) fn new() -> Self {
        let mut rng = Rng::new([7; 32]);
        let authority = Authority::init(&Parameters::new("example"), &mut rng, WALL).expect("fixed parameters are fine");
        let [near, far] = [0, 1].map(|number| Host::new(&authority, &mut rng, number, None));
        let relay = Host::new(&authority, &mut rng, 9, Some([near.outer, far.outer]));
        let mut world = Self {
            near,
            far,
            relay,
            now: Instant::from_secs(1),
            addresses: [[0; 4]; 2],
            frames: Vec::new(),
            turn: 0,
            tun_buffer: vec![0; 320 * 1024],
            slots: vec![Slot::default(); 256],
            count: 0,
            receive_buffer: vec![0; 32 * REGION],
            received: Vec::with_capacity(64),
        };
        world.talk(60, |world| {
            let addresses = [world.near.inner(world.now), world.far.inner(world.now)];
            world.addresses = addresses.map(Option::unwrap_or_default);
            addresses.iter().all(Option::is_some)
        });
        world.talk(60, |world| {
            world.load(Load::Alone);
            world.near.wire.measuring = false;
            world.seal();
            world.far.pump.realms()[0].shard.stats().opened > 3
        });
        world.drop_queues();
        world
    }

    /// Exchanges what the nodes send in steps of 10 ms until `done`, for at most `seconds`.
    fn talk(&mut self, seconds: u64, mut done: impl FnMut(&mut Self) -> bool) {
        for _ in 0..seconds * 100 {
            for _ in 0..4 {
                self.near.settle(self.now);
                self.far.settle(self.now);
                self.exchange();
            }
            if done(self) {
                return;
            }
            self.now += Duration::from_millis(10);
        }
        panic!("the nodes did not find each other");
    }

    fn exchange(&mut self) {
        pass_on(&mut self.near, &mut self.far, self.now);
        pass_on(&mut self.far, &mut self.near, self.now);
    }

    fn drop_queues(&mut self) {
        for host in [&mut self.near, &mut self.far, &mut self.relay] {
            host.wire.queue.clear();
            host.wire.runs.clear();
            host.wire.slots.clear();
            host.wire.written = (0, 0);
            host.wire.bytes = 0;
        }
    }

    /// Lets the kernel of the near host have a batch, some µs after the one before. Not measured.
    pub(crate) fn load(&mut self, load: Load) {
        // Control packets of the batch before, and what they are answered with.
        self.exchange();
        self.drop_queues();
        self.near.wire.measuring = true;
        self.far.wire.measuring = true;
        self.relay.wire.measuring = true;
        self.now += Duration::from_micros(load.packets() as u64);
        let [from, to] = self.addresses;
        self.turn += 1;
        let port = |n: usize| if load == Load::ManyFlows { (self.turn * SINGLES + n) % 1_000 } else { 0 } as u16;
        self.frames = match load {
            Load::Bulk => vec![frame(from, to, 0, true, SEGMENTS * (PACKET - 52), SEGMENTS)],
            Load::Small => (0..SINGLES).map(|n| frame(from, to, port(n), false, 64, 1)).collect(),
            Load::OneFlow | Load::ManyFlows | Load::Alone => {
                (0..load.packets()).map(|n| frame(from, to, port(n), true, PACKET - 52, 1)).collect()
            }
        };
        if load == Load::OneFlow {
            for (n, frame) in self.frames.iter_mut().enumerate() {
                follow(frame, n, PACKET - 52);
            }
        }
    }

    /// Splitting alone.
    #[inline(never)]
    pub(crate) fn split(&mut self) {
        self.count = split(&mut self.frames, &mut self.tun_buffer, &mut self.slots).expect("the buffers have room for the batch");
    }

    /// Merging alone: what was split last goes back to the kernel.
    #[inline(never)]
    pub(crate) fn merge(&mut self) {
        self.far.wire.deliver(RealmSlot(0), &self.tun_buffer, &self.slots[..self.count]);
    }

    /// The sending host: splits what its kernel gave, seals it and hands it to the driver.
    #[inline(never)]
    pub(crate) fn seal(&mut self) {
        self.split();
        let Host { pump, wire, scratch, .. } = &mut self.near;
        pump.packets(RealmSlot(0), scratch, &mut self.tun_buffer, &mut self.slots[..self.count], wire, self.now);
        self.near.settle(self.now);
    }

    /// The receiving host: opens the datagrams and writes them merged to its kernel.
    #[inline(never)]
    pub(crate) fn open(&mut self) {
        let Host { pump, wire, scratch, .. } = &mut self.far;
        pump.datagrams(scratch, &mut self.receive_buffer, &self.received, wire, self.now);
        self.far.settle(self.now);
    }

    /// The relay: passes the datagrams on.
    #[inline(never)]
    pub(crate) fn pass(&mut self) {
        let Host { pump, wire, scratch, .. } = &mut self.relay;
        pump.datagrams(scratch, &mut self.receive_buffer, &self.received, wire, self.now);
        self.relay.settle(self.now);
    }

    /// Lets the network carry what the near host sent to the far one: each run arrives merged. Not measured.
    pub(crate) fn carry(&mut self) {
        self.arrive(&[]);
    }

    /// The same to the relay.
    pub(crate) fn carry_to_relay(&mut self) {
        self.arrive(&RelayHeader { hops_left: 3, circuit: CIRCUIT }.bytes());
    }

    /// Datagrams that the near host sent, and the relay.
    pub(crate) fn datagrams(&self) -> [usize; 2] {
        [self.near.wire.slots.len(), self.relay.wire.slots.len()]
    }

    fn arrive(&mut self, header: &[u8]) {
        self.received.clear();
        let mut slots = self.near.wire.slots.iter();
        for (region, run) in self.near.wire.runs.iter().enumerate() {
            let start = region * REGION;
            let (mut end, mut stride) = (start, 0);
            for slot in slots.by_ref().take(*run) {
                self.receive_buffer[end..end + header.len()].copy_from_slice(header);
                end += header.len();
                self.receive_buffer[end..end + usize::from(slot.len)].copy_from_slice(&self.tun_buffer[slot.range()]);
                end += usize::from(slot.len);
                stride = stride.max(header.len() + usize::from(slot.len));
            }
            self.received.push(received(start, end - start, stride, self.near.outer));
        }
        assert!(header.len() <= RELAY_HEADER_LEN && !self.received.is_empty(), "something was sent");
    }
}

/// Hands what `one` has sent to `other`, if it is for that.
fn pass_on(one: &mut Host, other: &mut Host, now: Instant) {
    other.wire.measuring = false;
    for (to, mut bytes) in std::mem::take(&mut one.wire.queue) {
        if to == other.outer {
            let received = received(0, bytes.len(), bytes.len(), one.outer);
            other.pump.datagrams(&mut other.scratch, &mut bytes, &[received], &mut other.wire, now);
        }
    }
}

fn received(start: usize, len: usize, stride: usize, remote: SocketAddr) -> Received {
    Received { start, len, stride, from: Endpoint::Udp { socket: 0, remote }, class: TrafficClass(0) }
}

/// A packet behind its virtio header, the checksum left out, as a kernel hands it to a TUN device with offloads; a super-packet of `segments`.
fn frame(from: [u8; 4], to: [u8; 4], port: u16, tcp: bool, payload: usize, segments: usize) -> Vec<u8> {
    let own = if tcp { 32 } else { 8 };
    let total = 20 + own + payload;
    let mut packet = vec![0x45, 0, (total >> 8) as u8, total as u8, 0, 1, 0x40, 0, 64, if tcp { 6 } else { 17 }, 0, 0];
    packet.extend(from.iter().chain(&to));
    let checksum = !sum(&packet, 0);
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet.extend(port.to_be_bytes());
    packet.extend([1, 187]);
    if tcp {
        packet.extend([0, 0, 0, 1, 0, 0, 0, 9, 0x80, 0x10, 0x10, 0, 0, 0, 0, 0, 1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]);
    } else {
        packet.extend([(own + payload) as u8; 2]);
        packet[24] = ((own + payload) >> 8) as u8;
        packet.extend([0, 0]);
    }
    packet.extend((0..payload).map(|n| n as u8));
    let field = if tcp { 36 } else { 26 };
    let partial = sum(&packet[12..20], u32::from(packet[9]) + (own + payload) as u32);
    packet[field..field + 2].copy_from_slice(&partial.to_be_bytes());
    let (kind, segment) = if segments > 1 { (1, (payload / segments) as u16) } else { (0, 0) };
    let mut frame = vec![1, kind];
    for number in [20 + own as u16, segment, 20, if tcp { 16 } else { 6 }] {
        frame.extend(number.to_ne_bytes());
    }
    frame.extend(packet);
    frame
}

/// Makes a packet number `n` of its flow: sequence number and ID go on.
fn follow(frame: &mut [u8], n: usize, payload: usize) {
    let packet = &mut frame[10..];
    packet[4..6].copy_from_slice(&(1 + n as u16).to_be_bytes());
    packet[24..28].copy_from_slice(&(1 + (n * payload) as u32).to_be_bytes());
    packet[10..12].fill(0);
    let checksum = !sum(&packet[..20], 0);
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
}

/// The Internet checksum's sum of `bytes` (RFC 1071).
fn sum(bytes: &[u8], initial: u32) -> u16 {
    let mut total = initial + bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]))).sum::<u32>();
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}
