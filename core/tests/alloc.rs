//! Counts heap allocations of the thread that runs a test: sealing, opening and relaying a packet makes none, within the bounds of the tables and beyond them.

mod counting;

use std::net::IpAddr;
use std::num::NonZeroU8;
use std::time::Duration;

use annulus_core::batch::{Batch, HEADROOM, Slot, TAILROOM};
use annulus_core::crypto::Cipher;
use annulus_core::events::Event;
use annulus_core::io::{DropReason, Endpoint, Path, Punt, RealmSlot, ShardId, TrafficClass, Verdict};
use annulus_core::paths::PathTable;
use annulus_core::pump::{Driver, Received, Scratch};
use annulus_core::rng::Rng;
use annulus_core::shard::table::{DataKeys, Install, PeerId, Prefix, Removal, SessionId, ShardEvent, TableUpdate, Way};
use annulus_core::shard::{LANES, MAX_CIRCUITS, MAX_ROUTES, Shard, ShardSettings};
use annulus_core::time::Instant;
use annulus_core::worker::Worker;

use counting::{allocations, bytes_in_use};

const PACKETS: usize = 64;
const INNER: usize = 1_400;
const STRIDE: usize = HEADROOM + INNER + TAILROOM;

fn address(n: u32) -> IpAddr {
    IpAddr::from((0x0a00_0000 + n).to_be_bytes())
}

fn paths() -> [Path; 2] {
    let mut table = PathTable::new(&mut Rng::new([0; 32]));
    [1, 2].map(|port| table.intern(Endpoint::Udp { socket: 0, remote: ([192, 0, 2, 1], port).into() }))
}

/// A UDP packet of [`INNER`] bytes; checksums are nobody's business here.
fn packet(from: IpAddr, to: IpAddr, port: u16) -> [u8; INNER] {
    let mut packet = [0; INNER];
    let (IpAddr::V4(from), IpAddr::V4(to)) = (from, to) else { panic!("tests use IPv4") };
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&(INNER as u16).to_be_bytes());
    packet[9] = 17;
    packet[12..16].copy_from_slice(&from.octets());
    packet[16..20].copy_from_slice(&to.octets());
    packet[20..22].copy_from_slice(&port.to_be_bytes());
    packet
}

fn way(path: Path) -> Way {
    Way { path, circuit: None, routed: false, whole: u16::MAX, mtu: 1400, rtt: None }
}

fn install(session: u32, peer: u32, swapped: bool, path: Path) -> TableUpdate {
    let (one, other) = ([session as u8; 32], [session as u8 ^ 0xff; 32]);
    TableUpdate::Install(Box::new(Install {
        session: SessionId(session),
        peer: PeerId(peer),
        remote_index: session,
        keys: if swapped { DataKeys { send: other, receive: one } } else { DataKeys { send: one, receive: other } },
        cipher: if session.is_multiple_of(2) { Cipher::Aes256Gcm } else { Cipher::ChaCha20Poly1305 },
        way: way(path),
        rekey_at: Instant::from_secs(3_600),
    }))
}

/// A shard with sessions to `peers` other nodes, whose addresses are 10.0.0.2 and following; its own is 10.0.0.1, or theirs when `mirrored`.
fn shard(peers: u32, mirrored: bool) -> Shard {
    let mut shard = Shard::new(ShardSettings::new(ShardId(0), RealmSlot(0), NonZeroU8::MIN, 7));
    let theirs: Vec<_> = (0..peers).map(|n| Prefix::host(address(n + 2))).collect();
    shard.set_local(&if mirrored { theirs.clone() } else { vec![Prefix::host(address(1))] }, &[]);
    for n in 0..peers {
        shard.apply(install(n, n, mirrored, paths()[0]), Instant::ZERO);
        shard.apply(TableUpdate::Promote { peer: PeerId(n), session: SessionId(n) }, Instant::ZERO);
        let prefix = if mirrored { Prefix::host(address(1)) } else { theirs[n as usize] };
        shard.apply(TableUpdate::Route { prefix, peer: PeerId(n) }, Instant::ZERO);
        shard.apply(TableUpdate::Source { prefix, peer: PeerId(n) }, Instant::ZERO);
    }
    shard
}

/// A batch's buffer and slots with packets of many flows to `peers` nodes; `round` varies the flows.
fn fill(buf: &mut [u8], slots: &mut [Slot], peers: u32, round: u32) {
    for (n, slot) in slots.iter_mut().enumerate() {
        let start = n * STRIDE + HEADROOM;
        let flow = round.wrapping_mul(PACKETS as u32) + n as u32;
        buf[start..start + INNER].copy_from_slice(&packet(address(1), address(flow % peers + 2), (flow / peers) as u16));
        *slot = Slot { start: start as u32, len: INNER as u16, ..Default::default() };
    }
}

/// Carries one packet to each of `peers` nodes, so that the first packet of each lane has been: it alone allocates, the lane's replay window.
fn warm_up(near: &mut Shard, far: &mut Shard, peers: u32) {
    let mut buf = vec![0; STRIDE * PACKETS];
    let mut slots = [Slot::default(); PACKETS];
    let slots = &mut slots[..peers as usize];
    fill(&mut buf, slots, peers, 0);
    near.seal(&mut Batch { buf: &mut buf, slots }, Instant::ZERO);
    let Verdict::Transmit(way) = slots[0].verdict else { panic!("{:?}", slots[0].verdict) };
    received(slots, way);
    let made = allocations(|| far.open(&mut Batch { buf: &mut buf, slots }, Instant::ZERO));
    assert_eq!(made, u64::from(peers), "one window each");
    assert!(slots.iter().all(|slot| slot.verdict == Verdict::Deliver));
    while near.poll_event().is_some() || far.poll_event().is_some() {}
}

fn received(slots: &mut [Slot], from: Path) {
    for slot in slots {
        assert_eq!(slot.verdict, Verdict::Transmit(from));
        *slot = Slot { from, verdict: Verdict::Pending, ..*slot };
    }
}

#[test]
fn the_counter_counts() {
    assert_eq!(allocations(|| drop(std::hint::black_box(vec![1u8; 100]))), 1);
}

#[test]
fn an_idle_session_takes_less_than_2_kb_and_gives_it_back() {
    let mut shard = shard(1, false);
    let before = bytes_in_use();
    for n in 1..=1_000 {
        shard.apply(install(n, n, false, paths()[0]), Instant::ZERO);
    }
    let each = (bytes_in_use() - before) / 1_000;
    // Beside it the AEAD's library has 600 bytes for each of two keys, and the first packet of each lane takes 264 for its window.
    assert!((500..1_500).contains(&each), "{each} bytes per session");
    for n in 1..=1_000 {
        shard.apply(TableUpdate::Remove(Removal::Peer(PeerId(n))), Instant::ZERO);
    }
    let each = (bytes_in_use() - before) / 1_000;
    assert!(each < 64, "{each} bytes per removed session");
}

#[test]
fn a_new_shard_has_no_heap_and_packets_without_a_session_give_it_none() {
    let [path, _] = paths();
    let mut buf = vec![0; STRIDE];
    let mut slots = [Slot::default()];
    let made = allocations(|| {
        let mut shard = Shard::new(ShardSettings::new(ShardId(0), RealmSlot(0), NonZeroU8::MIN, 7));
        shard.set_local(&[Prefix::host(address(1))], &[]);
        for first in 0..=255 {
            fill(&mut buf, &mut slots, 5, 1);
            shard.seal(&mut Batch { buf: &mut buf, slots: &mut slots }, Instant::ZERO);
            assert_eq!(slots[0].verdict, Verdict::Punt(Punt::NoAddress));
            buf[0] = first;
            slots[0] = Slot { start: 0, len: 100, from: path, ..Default::default() };
            shard.open(&mut Batch { buf: &mut buf, slots: &mut slots }, Instant::ZERO);
        }
        while shard.poll_event().is_some() {}
    });
    assert_eq!(made, 0);
}

#[test]
fn sealing_opening_and_relaying_allocate_nothing() {
    let [path, _] = paths();
    // Both ciphers, and more flows than the table has room for.
    let peers = 50;
    let (mut near, mut far) = (shard(peers, false), shard(peers, true));
    warm_up(&mut near, &mut far, peers);
    let mut relay = Shard::new(ShardSettings::new(ShardId(0), RealmSlot(0), NonZeroU8::MIN, 7));
    relay.apply(TableUpdate::Circuit { index: 9, from: path, to: path, next_index: Some(8), rate: u64::MAX }, Instant::ZERO);
    relay.apply(TableUpdate::Circuit { index: 8, from: path, to: path, next_index: None, rate: u64::MAX }, Instant::ZERO);
    let mut buf = vec![0; STRIDE * PACKETS];
    let mut slots = [Slot::default(); PACKETS];
    let mut events = 0;
    let made = allocations(|| {
        for round in 0..400 {
            let now = Instant::from_millis(u64::from(round) * 20);
            fill(&mut buf, &mut slots, peers, round);
            near.seal(&mut Batch { buf: &mut buf, slots: &mut slots }, now);
            received(&mut slots, path);
            for slot in &mut slots {
                slot.start -= 4;
                slot.len += 4;
                buf[slot.start as usize..][..4].copy_from_slice(&[0xc2, 0, 0, 9]);
            }
            for _ in 0..2 {
                relay.open(&mut Batch { buf: &mut buf, slots: &mut slots }, now);
                received(&mut slots, path);
            }
            far.open(&mut Batch { buf: &mut buf, slots: &mut slots }, now);
            assert!(slots.iter().all(|slot| slot.verdict == Verdict::Deliver));
            // Events are read in every second quarter only: a full queue allocates nothing either.
            for shard in [&mut near, &mut far, &mut relay] {
                while round / 100 % 2 == 1 && shard.poll_event().is_some() {
                    events += 1;
                }
            }
        }
    });
    assert_eq!(made, 0);
    assert_eq!((near.stats().sealed, relay.stats().relayed, far.stats().opened), (25_650, 51_200, 25_650));
    assert!(events > 100);
}

#[test]
fn refused_replayed_forged_and_punted_packets_allocate_nothing() {
    let [path, other] = paths();
    let (mut near, mut far) = (shard(2, false), shard(2, true));
    warm_up(&mut near, &mut far, 2);
    let mut buf = vec![0; STRIDE * PACKETS];
    let mut slots = [Slot::default(); PACKETS];
    let made = allocations(|| {
        for round in 0..100u32 {
            let now = Instant::from_millis(u64::from(round) * 700);
            fill(&mut buf, &mut slots, 2, round);
            near.seal(&mut Batch { buf: &mut buf, slots: &mut slots }, now);
            received(&mut slots, path);
            let from = if round.is_multiple_of(2) { path } else { other };
            for (n, slot) in slots.iter_mut().enumerate() {
                slot.from = from;
                match n % 4 {
                    0 => buf[slot.start as usize] = 0xb9,
                    1 => buf[slot.start as usize + 3] ^= 0x80,
                    2 => buf[slot.start as usize] = 0xc1,
                    _ => {}
                }
            }
            far.open(&mut Batch { buf: &mut buf, slots: &mut slots }, now);
            while far.poll_event().is_some() {}
        }
    });
    assert_eq!(made, 0);
    let stats = far.stats();
    assert!(stats.opened > 0 && stats.drops(DropReason::Forged) > 0 && stats.drops(DropReason::UnknownIndex) > 0);
    assert!(stats.drops(DropReason::UnknownCircuit) > 0 && stats.punts(Punt::NewCircuit) > 0);
}

#[test]
fn tables_beyond_their_bounds_allocate_nothing_for_packets_either() {
    let [path, other] = paths();
    let peers = 50;
    let (mut near, mut far) = (shard(peers, false), shard(peers, true));
    for lane in 0..u32::from(LANES) {
        warm_up(&mut near, &mut far, peers);
        // The next lane.
        (0..peers).for_each(|n| {
            near.apply(
                TableUpdate::SetPath { session: SessionId(n), way: way(if lane % 2 == 0 { other } else { path }), at_once: true },
                Instant::ZERO,
            )
        });
    }
    let warm = far.stats().opened;
    for n in 0..MAX_ROUTES as u32 + 1_000 {
        near.apply(TableUpdate::Route { prefix: Prefix::host(address(n + 1_000)), peer: PeerId(0) }, Instant::ZERO);
    }
    for n in 0..MAX_CIRCUITS as u32 + 100 {
        far.apply(TableUpdate::Circuit { index: n, from: path, to: other, next_index: None, rate: 1_000 }, Instant::ZERO);
    }
    let mut buf = vec![0; STRIDE * PACKETS];
    let mut slots = [Slot::default(); PACKETS];
    let mut made = 0;
    let (mut sent, mut unknown) = (0, 0);
    for round in 0..200u32 {
        let now = Instant::from_millis(u64::from(round) * 10);
        // Between batches the tables go on changing.
        let prefix = Prefix::host(address(round + 100_000));
        near.apply(TableUpdate::Route { prefix, peer: PeerId(1) }, now);
        let way = way(if round.is_multiple_of(2) { other } else { path });
        near.apply(TableUpdate::SetPath { session: SessionId(round % peers), way, at_once: false }, now);
        far.apply(TableUpdate::Barrier(u64::from(round)), now);
        made += allocations(|| {
            fill(&mut buf, &mut slots, peers * 2, round);
            near.seal(&mut Batch { buf: &mut buf, slots: &mut slots }, now);
            for slot in &mut slots {
                match slot.verdict {
                    Verdict::Transmit(from) => {
                        sent += 1;
                        *slot = Slot { from, verdict: Verdict::Pending, ..*slot };
                    }
                    // The route was replaced by others, or there never was one.
                    Verdict::Punt(Punt::NoAddress) => unknown += 1,
                    other => panic!("{other:?}"),
                }
            }
            far.open(&mut Batch { buf: &mut buf, slots: &mut slots }, now);
        });
        while let Some(event) = far.poll_event() {
            assert!(!matches!(event, ShardEvent::RekeyDue { .. }));
        }
        // What was evicted comes back, as the control plane would bring it.
        for n in 0..peers {
            near.apply(TableUpdate::Route { prefix: Prefix::host(address(n + 2)), peer: PeerId(n) }, now);
        }
    }
    assert_eq!(made, 0);
    assert!(sent > 1_000 && unknown > 1_000, "{sent} sent, {unknown} unknown");
    assert_eq!(far.stats().opened - warm, sent);
    near.apply(TableUpdate::Remove(Removal::Peer(PeerId(0))), Instant::ZERO + Duration::from_secs(2));
}

/// A worker's surroundings that keep nothing but one batch of datagrams.
struct Bounce {
    sent: Vec<u8>,
    delivered: usize,
}

impl Driver for Bounce {
    fn transmit(&mut self, _: Endpoint, buf: &[u8], slots: &[Slot]) {
        for slot in slots {
            self.sent.extend_from_slice(&buf[slot.range()]);
        }
    }
    fn deliver(&mut self, _: RealmSlot, _: &[u8], slots: &[Slot]) {
        self.delivered += slots.len();
    }
    fn event(&mut self, _: RealmSlot, _: Event) {}
}

/// Worker 1 of 2 with a session to one peer.
fn worker(mirrored: bool) -> Worker {
    const TWO: NonZeroU8 = NonZeroU8::MIN.saturating_add(1);
    let mut shard = Shard::new(ShardSettings::new(ShardId(1), RealmSlot(0), TWO, 7));
    let (here, there) = if mirrored { (address(2), address(1)) } else { (address(1), address(2)) };
    shard.set_local(&[Prefix::host(here)], &[]);
    shard.apply(install(1, 1, mirrored, paths()[0]), Instant::ZERO);
    shard.apply(TableUpdate::Promote { peer: PeerId(1), session: SessionId(1) }, Instant::ZERO);
    shard.apply(TableUpdate::Route { prefix: Prefix::host(there), peer: PeerId(1) }, Instant::ZERO);
    shard.apply(TableUpdate::Source { prefix: Prefix::host(there), peer: PeerId(1) }, Instant::ZERO);
    let mut worker = Worker::new(ShardId(1), TWO, 7);
    assert!(worker.add(shard));
    worker
}

#[test]
fn a_workers_data_path_allocates_nothing_but_its_counters_reports() {
    let from = Endpoint::Udp { socket: 0, remote: ([192, 0, 2, 1], 1).into() };
    let (mut near, mut far) = (worker(false), worker(true));
    let mut scratch = Scratch::default();
    let mut driver = Bounce { sent: Vec::with_capacity(PACKETS * STRIDE), delivered: 0 };
    let mut buf = vec![0; STRIDE * PACKETS];
    let mut slots = [Slot::default(); PACKETS];
    const SEALED: usize = 8 + INNER + 16;
    let received = |len, stride| [Received { start: 0, len, stride, from, class: TrafficClass(0) }];
    // The first datagram makes the path known under which the session was installed, and takes the room for what is early.
    for worker in [&mut near, &mut far] {
        for _ in 0..100 {
            let mut junk = [[0xb0, 0, 0, 3].as_slice(), &[0; 60]].concat();
            worker.datagrams(&mut scratch, &mut junk, &received(64, 64), &mut driver, Instant::ZERO);
        }
    }
    let mut reports = 0;
    let made = allocations(|| {
        for round in 0..400 {
            let now = Instant::from_millis(1_000 + u64::from(round) * 20);
            fill(&mut buf, &mut slots, 1, round);
            near.packets(RealmSlot(0), &mut scratch, &mut buf, &mut slots, &mut driver, now);
            assert_eq!(driver.sent.len(), PACKETS * SEALED);
            buf[..PACKETS * SEALED].copy_from_slice(&driver.sent);
            driver.sent.clear();
            // Every fourth is somebody's who has no session.
            for stranger in buf[..PACKETS * SEALED].chunks_mut(4 * SEALED) {
                stranger[3] ^= 2;
            }
            far.datagrams(&mut scratch, &mut buf, &received(PACKETS * SEALED, SEALED), &mut driver, now);
            for worker in [&mut near, &mut far] {
                while worker.poll_report(now).is_some() {
                    reports += 1;
                }
            }
        }
    });
    assert_eq!(driver.delivered, 400 * PACKETS * 3 / 4);
    // Each worker told of traffic and of its counters ten times a second in eight seconds; counters are a box each.
    assert!((200..=400).contains(&reports), "{reports} reports");
    assert!(made <= 2 * 81, "{made} allocations");
}
