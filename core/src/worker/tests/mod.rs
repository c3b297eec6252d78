//! Workers beside their control plane.

mod net;

use core::net::IpAddr;
use core::num::NonZeroU8;
use core::time::Duration;
use std::collections::BTreeSet;

use self::net::{Effects, Flow, Net, REALM, is_barrier, is_data};
use super::*;
use crate::batch::{HEADROOM, TAILROOM};
use crate::crypto::Cipher;
use crate::io::Punt;
use crate::shard::ShardSettings;
use crate::shard::table::{DataKeys, Install, PeerId, Prefix, Removal, SessionId, Way};

#[test]
fn flows_stay_in_order_and_no_nonce_comes_twice_while_sessions_come_and_go() {
    for workers in 2..=4 {
        let mut net = Net::new(workers, workers);
        let flows = net.flows();
        // They begin before anybody knows the destination.
        net.run(1_500, &flows);
        assert!(net.arrived.len() > flows.len() / 2, "{:?}", net.arrived);
        net.calm(Duration::from_secs(1));
        let lost = net.lost();
        net.run(3_000, &flows);
        assert_eq!(net.lost(), lost, "once there is a session nothing is lost");
        let first = net.indices.clone();
        // A session with data is renewed every two minutes; the old one goes some time later.
        net.pace = 20_000;
        net.run(40_000, &flows);
        let sent: u32 = net.sent.values().sum();
        // Threads that pause for a quarter of a second may come too late for what was early.
        assert!(net.lost() - lost < sent / 1_000, "{} of {sent} lost", net.lost() - lost);
        assert!(net.indices.len() >= 3 * first.len(), "{:?}", net.indices);
        for sender in 0..2 {
            let of = |indices: &BTreeSet<(usize, u32)>| -> BTreeSet<u32> {
                indices.iter().filter(|(from, _)| *from == sender).map(|(_, index)| index % u32::from(workers)).collect()
            };
            assert_eq!(of(&net.indices), of(&first), "a session's successor stays on its worker");
        }
        assert_eq!(net.arrived.len(), flows.len());
        assert!(net.hosts.iter().all(|host| host.effects.refused > 0), "no ring was ever full");
    }
}

#[test]
fn lanes_of_different_workers_are_all_used() {
    let mut net = Net::new(9, 3);
    let flows = net.flows();
    net.run(600, &flows);
    net.run(600, &flows);
    let lanes: BTreeSet<u8> = net.sealed.iter().map(|(_, _, lane, _)| lane % 3).collect();
    assert_eq!(lanes.len(), 3);
}

#[test]
fn a_datagram_that_reaches_another_workers_socket_arrives_all_the_same() {
    for steer in 0..3 {
        let mut net = Net::new(5, 3);
        let flows = net.flows();
        net.run(300, &flows);
        net.calm(Duration::from_secs(1));
        let lost = net.lost();
        // Nothing is steered any more: also handshakes and control packets come to this worker.
        net.steer = Some(steer);
        for _ in 0..20 {
            for _ in 0..10 {
                net.calm(Duration::from_secs(1));
            }
            for flow in &flows {
                net.send(*flow);
                net.calm(Duration::from_millis(1));
            }
        }
        assert_eq!(net.lost(), lost, "steered to {steer}");
        assert!(net.indices.len() >= 4, "sessions were renewed: {:?}", net.indices);
    }
}

#[test]
fn a_path_moves_after_a_worker_has_seen_its_packets_come_from_elsewhere() {
    // Some session index of host 0's belongs to a further worker for one of these seeds.
    for seed in 20..40 {
        let mut net = Net::new(seed, 2);
        let flows = net.flows();
        net.run(300, &flows);
        net.calm(Duration::from_secs(1));
        if net.indices.iter().any(|(from, index)| *from == 0 && index % 2 == 0) {
            continue;
        }
        assert_eq!(net.hosts[1].moved, 0);
        net.hosts[0].address = ([198, 51, 100, 7], 999).into();
        net.reached[0] = false;
        // Only data comes from the new address until somebody has sent there: so only the worker can have noticed.
        net.lose = |net, from, datagram| from == 0 && !net.reached[0] && !is_data(datagram);
        let flow = Flow { from: 0, queue: 1, port: 1 };
        let back = Flow { from: 1, queue: 1, port: 1 };
        let before = net.arrived[&back];
        for _ in 0..100 {
            net.send(flow);
            net.calm(Duration::from_millis(20));
        }
        assert!(net.hosts[1].moved > 0);
        assert!(net.reached[0], "a challenge went to the new address");
        net.send(back);
        net.calm(Duration::from_millis(20));
        assert_eq!(net.arrived[&back].1, before.1 + 1);
        return;
    }
    panic!("no seed gives host 0's session to worker 1");
}

#[test]
fn a_barrier_is_passed_only_when_no_worker_opens_the_sessions_packets_any_more() {
    let mut net = Net::new(3, 4);
    let flows = net.flows();
    net.run(400, &flows);
    net.calm(Duration::from_secs(1));
    let sessions: Vec<u32> = net.indices.iter().filter(|(from, _)| *from == 0).map(|(_, index)| *index).collect();
    let host = &mut net.hosts[1];
    // One worker is busy with other things.
    host.thread(3).jammed = true;
    for session in sessions {
        host.pump.publish(REALM, TableUpdate::Remove(Removal::Session(SessionId(session))));
    }
    host.pump.publish(REALM, TableUpdate::Barrier(77));
    for round in 0..300 {
        // It has no turn even when its ring has room again.
        net.hosts[1].thread(3).jammed = round < 100;
        net.now += Duration::from_micros(100);
        for worker in [0, 1, 2] {
            net.turn(1, worker);
        }
        assert!(net.passed(1).is_empty(), "a worker has not said yet that it is applied");
    }
    for _ in 0..1_000 {
        let flow = flows[net.rng.below(flows.len() as u64) as usize];
        net.send(Flow { from: 0, ..flow });
        net.step();
        if !net.passed(1).is_empty() {
            break;
        }
    }
    assert_eq!(net.passed(1), [77]);
    // What was delivered before the barrier was passed counts; after it nothing is.
    let passed = net.arrived.clone();
    net.lose = |_, _, datagram| !is_data(datagram);
    net.run(500, &flows.iter().copied().filter(|flow| flow.from == 0).collect::<Vec<_>>());
    for flow in flows.iter().filter(|flow| flow.from == 0) {
        assert_eq!(net.arrived.get(flow), passed.get(flow), "{flow:?} was opened after the barrier");
    }
}

/// A worker of two with a session to peer 1 at 10.0.0.2, whose host has 10.0.0.1.
struct Bench {
    worker: Worker,
    paths: PathTable,
    effects: Effects,
    scratch: Scratch,
}

fn endpoint(port: u16) -> Endpoint {
    Endpoint::Udp { socket: 0, remote: ([192, 0, 2, 1], port).into() }
}

fn address(last: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, last])
}

impl Bench {
    fn new() -> Self {
        let workers = NonZeroU8::new(2).expect("two");
        let mut worker = Worker::new(ShardId(1), workers, 1);
        assert!(worker.add(Shard::new(ShardSettings::new(ShardId(1), REALM, workers, 1))));
        let paths = PathTable::new(&mut Rng::new([1; 32]));
        Self { worker, paths, effects: Effects::default(), scratch: Scratch::default() }
    }

    fn table(&mut self, update: &TableUpdate, now: Instant) {
        let parcel = Parcel::table(update, &self.paths);
        self.worker.parcel(REALM, parcel, &mut self.scratch, &mut self.effects, now);
    }

    fn way(&mut self, port: u16) -> Way {
        Way { path: self.paths.intern(endpoint(port)), circuit: None, routed: false, whole: u16::MAX, mtu: 1400, rtt: None }
    }

    fn install(&mut self, session: u32, now: Instant) {
        let way = self.way(session as u16);
        let update = TableUpdate::Install(Box::new(Install {
            session: SessionId(session),
            peer: PeerId(session),
            remote_index: session,
            keys: DataKeys { send: [session as u8; 32], receive: [session as u8; 32] },
            cipher: Cipher::Aes256Gcm,
            way,
            rekey_at: Instant::from_secs(3_600),
        }));
        self.table(&update, now);
    }

    fn packets(&mut self, count: usize, to: IpAddr, now: Instant) {
        let (IpAddr::V4(from), IpAddr::V4(to)) = (address(1), to) else { panic!("tests use IPv4") };
        let mut packet = Vec::new();
        etherparse::PacketBuilder::ipv4(from.octets(), to.octets(), 64).udp(1, 2).write(&mut packet, b"hello").expect("a Vec takes it");
        let stride = HEADROOM + packet.len() + TAILROOM;
        let mut buf = vec![0; stride * count];
        let mut slots = Vec::new();
        for n in 0..count {
            let start = n * stride + HEADROOM;
            buf[start..start + packet.len()].copy_from_slice(&packet);
            slots.push(Slot { start: start as u32, len: packet.len() as u16, ..Slot::default() });
        }
        self.worker.packets(REALM, &mut self.scratch, &mut buf, &mut slots, &mut self.effects, now);
    }

    /// Lets packets for 10.0.0.2 be sealed on a session, opened from it, and delivered.
    fn promote(&mut self, session: u32, now: Instant) {
        let (peer, prefix) = (PeerId(session), Prefix::host(address(2)));
        self.table(&TableUpdate::Local { host: vec![Prefix::host(address(1)), prefix], service: Vec::new() }, now);
        self.table(&TableUpdate::Source { prefix: Prefix::host(address(1)), peer }, now);
        self.table(&TableUpdate::Promote { peer, session: SessionId(session) }, now);
        self.table(&TableUpdate::Route { prefix: Prefix::new(address(2), 30), peer }, now);
    }

    fn datagram(&mut self, datagram: &[u8], now: Instant) {
        let mut buf = datagram.to_vec();
        let received = Received { start: 0, len: buf.len(), stride: buf.len(), from: endpoint(3), class: Default::default() };
        self.worker.datagrams(&mut self.scratch, &mut buf, &[received], &mut self.effects, now);
    }

    fn sent(&mut self) -> Vec<Vec<u8>> {
        core::mem::take(&mut self.effects.sent).into_iter().map(|(_, datagram)| datagram).collect()
    }

    fn reports(&mut self, now: Instant) -> Vec<Report> {
        core::iter::from_fn(|| self.worker.poll_report(now)).map(|(_, report)| report).collect()
    }
}

#[test]
fn data_packets_that_outrun_their_session_are_opened_once_it_is_installed() {
    let at = Instant::from_secs(1);
    let mut near = Bench::new();
    near.install(3, at);
    near.promote(3, at);
    near.packets(40, address(3), at);
    let sent = near.sent();
    assert_eq!(sent.len(), 40);
    for (wait, expected) in [(100, 32), (300, 0)] {
        let mut far = Bench::new();
        far.promote(3, at);
        far.table(&TableUpdate::Local { host: vec![Prefix::host(address(3))], service: Vec::new() }, at);
        for datagram in &sent {
            far.datagram(datagram, at);
            far.datagram(&[0xc0, 0, 0, 9], at);
        }
        assert!(far.effects.delivered.is_empty());
        for _ in 0..2 {
            far.install(3, at + Duration::from_millis(wait));
            assert_eq!(far.effects.delivered.len(), expected, "the latest, once, if it is not too late");
        }
    }
}

#[test]
fn packets_do_not_overtake_those_of_their_destination_that_wait_in_the_control_plane() {
    let at = Instant::from_secs(1);
    let mut bench = Bench::new();
    bench.install(3, at);
    bench.packets(2, address(3), at);
    bench.promote(3, at);
    let reports = bench.reports(at);
    let places = reports.iter().filter_map(|report| match report.0 {
        News::Punt { why: Punt::NoAddress, .. } => Some(false),
        News::Fence(1) => Some(true),
        _ => None,
    });
    assert_eq!(places.collect::<Vec<_>>(), [false, false, true], "the fence stands behind the punts");
    bench.packets(1, address(0), at);
    assert_eq!(bench.sent().len(), 1, "another destination is not concerned");
    bench.packets(100, address(3), at);
    assert_eq!(bench.sent().len(), 0);
    let fence = |bench: &mut Bench, number| bench.worker.parcel(REALM, Parcel::fence(number), &mut bench.scratch, &mut bench.effects, at);
    fence(&mut bench, 2);
    assert_eq!(bench.sent().len(), 0, "not this one");
    fence(&mut bench, 1);
    assert_eq!(bench.sent().len(), 64, "what was held");
    bench.packets(1, address(3), at);
    assert_eq!(bench.sent().len(), 1);
    let later = at + STATS_INTERVAL;
    let lost = bench.reports(later).iter().find_map(|report| match &report.0 {
        News::Stats(stats) => Some(stats.drops(DropReason::QueueFull)),
        _ => None,
    });
    assert_eq!(lost, Some(36));
}

#[test]
fn a_flood_of_punts_is_bounded_and_counted_and_delays_no_barrier() {
    let mut bench = Bench::new();
    let now = Instant::from_secs(1);
    for _ in 0..100 {
        bench.packets(200, address(9), now);
    }
    bench.table(&TableUpdate::Barrier(5), now);
    assert!(bench.worker.poll_timeout().is_some());
    let reports = bench.reports(now);
    assert!(is_barrier(&reports[0]));
    let punts = reports.iter().filter(|report| matches!(report.0, News::Punt { why: Punt::NoAddress, .. })).count();
    assert_eq!(punts, MAX_REPORTS);
    let Some(News::Stats(stats)) = reports.last().map(|report| &report.0) else { panic!("no counters") };
    assert_eq!(stats.drops(DropReason::QueueFull), 20_000 - MAX_REPORTS as u64);
    assert_eq!(bench.worker.poll_timeout(), None);
}

#[test]
fn what_a_session_sends_on_stays_known_until_it_is_removed() {
    let mut bench = Bench::new();
    let mut now = Instant::from_secs(1);
    for session in 1..=10 {
        bench.install(session, now);
    }
    assert_eq!(bench.worker.paths.pins(), 10);
    for round in 0..1_000_u16 {
        now += Duration::from_millis(10);
        let way = bench.way(100 + round);
        let session = SessionId(1 + u32::from(round) % 10);
        bench.table(&TableUpdate::SetPath { session, way, at_once: round % 2 == 0 }, now);
        // Half of the ways may be lingered on for three seconds.
        assert!(bench.worker.paths.pins() <= 10 + 151);
    }
    bench.table(&TableUpdate::CircuitEnd { index: 3, from: bench.paths.find(&endpoint(1)).expect("known"), arrives_by: Path::NONE }, now);
    for session in 1..=5 {
        bench.table(&TableUpdate::Remove(Removal::Session(SessionId(session))), now);
        bench.table(&TableUpdate::Remove(Removal::Peer(PeerId(session + 5))), now);
    }
    bench.table(&TableUpdate::Remove(Removal::Circuit(3)), now + Duration::from_secs(60));
    assert_eq!(bench.worker.paths.pins(), 0);
}

#[test]
fn updates_that_find_the_ring_full_arrive_later_and_in_order() {
    let mut net = Net::new(1, 3);
    let host = &mut net.hosts[0];
    let prefix = |n: u32| Prefix::host(IpAddr::from((0x0a00_0000 + n).to_be_bytes()));
    // Each route is replaced once; in the wrong order the first owner would win.
    for n in 0..500 {
        host.pump.publish(REALM, TableUpdate::Route { prefix: prefix(n), peer: PeerId(1) });
        host.pump.publish(REALM, TableUpdate::Route { prefix: prefix(n), peer: PeerId(2) });
    }
    host.pump.publish(REALM, TableUpdate::Remove(Removal::Peer(PeerId(1))));
    for _ in 0..20_000 {
        net.step();
    }
    assert!(net.hosts[0].effects.refused > 100);
    net.calm(Duration::from_millis(1));
    for worker in &mut net.hosts[0].workers {
        let shard = &mut worker.realms[0].shard;
        assert!((0..500).all(|n| shard.route_of(prefix(n).address) == Some(PeerId(2))));
    }
}

#[test]
fn a_worker_takes_one_shard_of_its_own_per_realm() {
    let workers = NonZeroU8::new(2).expect("two");
    let shard = |id: u8, realm: u8, workers: NonZeroU8| Shard::new(ShardSettings::new(ShardId(id), RealmSlot(realm), workers, 1));
    let mut worker = Worker::new(ShardId(1), workers, 1);
    assert!(!worker.add(shard(0, 0, workers)), "worker 0's");
    assert!(!worker.add(shard(1, 0, NonZeroU8::new(3).expect("three"))), "of another number of workers");
    assert!(worker.add(shard(1, 0, workers)));
    assert!(!worker.add(shard(1, 0, workers)), "twice");
    assert!(worker.add(shard(1, 1, workers)));
    assert!(worker.poll_timeout().is_none());
}
