//! Two nodes with W shards each, and packets between them.

mod events;
mod lanes;
mod open;
mod relay;
mod seal;

use core::net::IpAddr;
use core::num::NonZeroU8;
use core::time::Duration;

use etherparse::PacketBuilder;

use super::session::Session;
use super::table::*;
use super::*;
use crate::batch::{Batch, HEADROOM, OVERLAP, Slot, TAILROOM};
use crate::crypto::Cipher;
use crate::io::{Ecn, Punt, TrafficClass};
use crate::wire::packet::SealedHeader;

/// Where packets of tests lie in their buffers.
const START: usize = HEADROOM + 3;

fn path(n: u32) -> Path {
    Path { index: n, generation: 0 }
}

fn way(to: Path) -> Way {
    Way { path: to, circuit: None, routed: false, whole: u16::MAX, mtu: 1400, rtt: None }
}

fn ms(n: u64) -> Instant {
    Instant::from_millis(n)
}

/// A node: its shards, and what is told to all of them.
struct Host {
    shards: Vec<Shard>,
    address: IpAddr,
}

impl Host {
    fn new(address: &str, workers: u8) -> Self {
        let workers = NonZeroU8::new(workers).expect("tests have workers");
        let shards = (0..workers.get()).map(|id| Shard::new(ShardSettings::new(ShardId(id), RealmSlot(0), workers, 42))).collect();
        let address = address.parse().expect("it is an address");
        let mut host = Self { shards, address };
        host.apply(TableUpdate::Local { host: vec![Prefix::host(address)], service: Vec::new() }, Instant::ZERO);
        host
    }

    fn apply(&mut self, update: TableUpdate, now: Instant) {
        for shard in &mut self.shards {
            shard.apply(update.clone(), now);
        }
    }

    /// Seals `packet` in shard 0.
    fn seal(&mut self, packet: &[u8], now: Instant) -> (Slot, Vec<u8>) {
        self.seal_in(0, packet, now)
    }

    fn seal_in(&mut self, shard: usize, packet: &[u8], now: Instant) -> (Slot, Vec<u8>) {
        let mut buf = vec![0xee; START + packet.len() + TAILROOM];
        buf[START..START + packet.len()].copy_from_slice(packet);
        let mut slots = [Slot { start: START as u32, len: packet.len() as u16, ..Default::default() }];
        self.shards[shard].seal(&mut Batch { buf: &mut buf, slots: &mut slots }, now);
        (slots[0], buf[slots[0].range()].to_vec())
    }

    /// Seals `packet`, which must go out, and returns its path and datagram.
    fn sent(&mut self, packet: &[u8], now: Instant) -> (Path, Vec<u8>) {
        let (slot, datagram) = self.seal(packet, now);
        match slot.verdict {
            Verdict::Transmit(path) => (path, datagram),
            other => panic!("not sent: {other:?}"),
        }
    }

    /// Opens `datagram` in shard 0.
    fn open(&mut self, from: Path, datagram: &[u8], now: Instant) -> (Slot, Vec<u8>) {
        self.open_with(0, from, TrafficClass(0), datagram, now)
    }

    fn open_with(&mut self, shard: usize, from: Path, class: TrafficClass, datagram: &[u8], now: Instant) -> (Slot, Vec<u8>) {
        let mut buf = datagram.to_vec();
        let mut slots = [Slot { start: 0, len: datagram.len() as u16, from, class, verdict: Verdict::Pending }];
        self.shards[shard].open(&mut Batch { buf: &mut buf, slots: &mut slots }, now);
        (slots[0], buf[slots[0].range()].to_vec())
    }

    fn events(&mut self) -> Vec<ShardEvent> {
        let mut events = Vec::new();
        for shard in &mut self.shards {
            events.extend(core::iter::from_fn(|| shard.poll_event()));
        }
        events
    }

    fn session(&mut self, shard: usize, session: u32) -> &mut Session {
        self.shards[shard].session_mut(SessionId(session)).expect("it is installed")
    }
}

/// Keys that differ with `n`; swapped for the other side.
fn keys(n: u8, swapped: bool) -> DataKeys {
    let (one, other) = ([n; 32], [n ^ 0x80; 32]);
    if swapped { DataKeys { send: other, receive: one } } else { DataKeys { send: one, receive: other } }
}

/// Installs and promotes session `n` between two hosts, on path 1 from each.
fn connect(a: &mut Host, b: &mut Host, n: u8, cipher: Cipher, now: Instant) {
    let (of_a, of_b) = (a.address, b.address);
    for (host, peer, swapped) in [(a, of_b, false), (b, of_a, true)] {
        let install = Install {
            session: SessionId(u32::from(n)),
            peer: PeerId(7),
            remote_index: u32::from(n),
            keys: keys(n, swapped),
            cipher,
            way: way(path(1)),
            rekey_at: now + Duration::from_secs(120),
        };
        host.apply(TableUpdate::Install(Box::new(install)), now);
        host.apply(TableUpdate::Promote { peer: PeerId(7), session: SessionId(u32::from(n)) }, now);
        host.apply(TableUpdate::Route { prefix: Prefix::host(peer), peer: PeerId(7) }, now);
        host.apply(TableUpdate::Source { prefix: Prefix::host(peer), peer: PeerId(7) }, now);
    }
}

const A: &str = "10.0.0.1";
const B: &str = "10.0.0.2";

/// Two hosts with one session, number 16.
fn pair() -> (Host, Host) {
    pair_of(1)
}

fn pair_of(workers: u8) -> (Host, Host) {
    let (mut a, mut b) = (Host::new(A, workers), Host::new(B, workers));
    connect(&mut a, &mut b, SESSION, Cipher::Aes256Gcm, Instant::ZERO);
    (a, b)
}

const SESSION: u8 = 16;

/// A UDP packet.
fn udp(from: IpAddr, to: IpAddr, port: u16, payload: &[u8]) -> Vec<u8> {
    let builder = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => PacketBuilder::ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => PacketBuilder::ipv6(from.octets(), to.octets(), 64),
        _ => panic!("one family"),
    };
    let mut packet = Vec::new();
    builder.udp(port, 9).write(&mut packet, payload).expect("a Vec takes it");
    packet
}

fn a_to_b(port: u16) -> Vec<u8> {
    udp(A.parse().expect("it is an address"), B.parse().expect("it is an address"), port, b"hello")
}

fn b_to_a(port: u16) -> Vec<u8> {
    udp(B.parse().expect("it is an address"), A.parse().expect("it is an address"), port, b"hello")
}
