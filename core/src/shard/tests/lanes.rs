use super::*;
use crate::rng::Rng;
use std::collections::BTreeSet;

const SESSION_ID: SessionId = SessionId(16);

fn lane(datagram: &[u8]) -> u8 {
    SealedHeader::parse(datagram).expect("it was sealed").lane
}

fn set_path(host: &mut Host, way: Way, at_once: bool, now: Instant) {
    host.apply(TableUpdate::SetPath { session: SESSION_ID, way, at_once }, now);
}

#[test]
fn a_path_move_takes_a_fresh_lane_and_drops_nothing_that_is_still_on_its_way() {
    let (mut a, mut b) = pair();
    let many = WINDOW as u16 + 500;
    let slow: Vec<_> = (0..many).map(|_| a.sent(&a_to_b(1), ms(0))).collect();
    set_path(&mut a, way(path(2)), false, ms(1));
    let fast: Vec<_> = (0..many).map(|_| a.sent(&a_to_b(2), ms(1))).collect();
    assert!(slow.iter().all(|(to, datagram)| (*to, lane(datagram)) == (path(1), 0)));
    assert!(fast.iter().all(|(to, datagram)| (*to, lane(datagram)) == (path(2), 1)));
    for (from, datagram) in fast.iter().chain(&slow) {
        assert_eq!(b.open(*from, datagram, ms(2)).0.verdict, Verdict::Deliver);
    }
}

#[test]
fn a_flow_moves_at_its_first_gap_and_a_new_one_at_once() {
    let (mut a, _) = pair();
    set_path(&mut a, Way { rtt: Some(Duration::from_millis(50)), ..way(path(1)) }, false, ms(0));
    a.sent(&a_to_b(1), ms(0));
    a.sent(&a_to_b(2), ms(0));
    set_path(&mut a, way(path(2)), false, ms(10));
    assert_eq!(a.sent(&a_to_b(3), ms(10)).0, path(2), "a new flow");
    assert_eq!(a.sent(&a_to_b(1), ms(40)).0, path(1));
    assert_eq!(a.sent(&a_to_b(1), ms(90)).0, path(1), "50 ms are no gap where the round trip takes 50");
    assert_eq!(a.sent(&a_to_b(2), ms(91)).0, path(2), "it paused for 91 ms");
    assert_eq!(a.sent(&a_to_b(2), ms(92)).0, path(2), "it does not go back");
    assert_eq!(a.sent(&a_to_b(1), ms(141)).0, path(2));
    // One without any gap moves in the end.
    a.sent(&a_to_b(4), ms(150));
    set_path(&mut a, way(path(3)), false, ms(150));
    let moved = (150..10_000).step_by(10).find(|now| a.sent(&a_to_b(4), ms(*now)).0 == path(3));
    assert_eq!(moved, Some(150 + MAX_LINGER.as_millis() as u64));
}

#[test]
fn without_a_known_round_trip_20_ms_are_a_gap() {
    let (mut a, _) = pair();
    a.sent(&a_to_b(1), ms(0));
    set_path(&mut a, way(path(2)), false, ms(1));
    assert_eq!(a.sent(&a_to_b(1), ms(20)).0, path(1));
    assert_eq!(a.sent(&a_to_b(1), ms(41)).0, path(2));
}

#[test]
fn all_flows_leave_a_dead_way_at_once_and_a_packet_leaves_one_that_is_too_small() {
    let (mut a, _) = pair();
    a.sent(&a_to_b(1), ms(0));
    set_path(&mut a, way(path(2)), true, ms(1));
    assert_eq!(a.sent(&a_to_b(1), ms(1)).0, path(2));
    set_path(&mut a, Way { mtu: 40, ..way(path(3)) }, true, ms(2));
    let mut small = udp(a.address, B.parse().expect("it is an address"), 1, b"");
    assert_eq!(a.sent(&small, ms(2)).0, path(3));
    set_path(&mut a, way(path(4)), false, ms(3));
    assert_eq!(a.sent(&small, ms(3)).0, path(3));
    small = udp(a.address, B.parse().expect("it is an address"), 1, &[0; 100]);
    assert_eq!(a.sent(&small, ms(3)).0, path(4));
}

#[test]
fn a_new_round_trip_time_or_mtu_of_the_same_path_takes_no_lane() {
    let (mut a, _) = pair();
    set_path(&mut a, Way { mtu: 1300, rtt: Some(Duration::from_millis(9)), ..way(path(1)) }, false, ms(1));
    assert_eq!(lane(&a.sent(&a_to_b(1), ms(1)).1), 0);
    assert_eq!(a.seal(&udp(a.address, B.parse().expect("it is an address"), 1, &[0; 1_300]), ms(1)).0.verdict, Verdict::Punt(Punt::TooBig));
    // Another circuit by the same relay is another way.
    set_path(&mut a, Way { circuit: Some((1, 1)), ..way(path(1)) }, true, ms(1));
    assert_eq!(lane(&a.sent(&a_to_b(1), ms(1)).1[4..]), 1);
}

#[test]
fn lanes_go_round_and_a_used_up_one_is_passed_over() {
    let (mut a, _) = pair_of(4);
    let mut lanes = Vec::new();
    for n in 0..5 {
        lanes.push(lane(&a.seal_in(1, &a_to_b(1), ms(n)).1));
        set_path(&mut a, way(path(n as u32 + 2)), true, ms(n));
        a.session(1, 16).sender.set_counter(9, REKEY_PACKETS);
    }
    assert_eq!(lanes, [1, 5, 13, 1, 5]);
    // With 16 workers each has one lane, and keeps it.
    let (mut a, _) = pair_of(16);
    set_path(&mut a, way(path(2)), false, ms(1));
    assert_eq!(lane(&a.seal_in(15, &a_to_b(1), ms(1)).1), 15);
}

#[test]
fn a_lane_asks_for_its_rekey_once_and_seals_nothing_60_s_later() {
    let (mut a, mut b) = pair();
    let due = ShardEvent::RekeyDue { session: SESSION_ID };
    a.session(0, 16).sender.set_counter(0, REKEY_PACKETS - 2);
    a.sent(&a_to_b(1), ms(1_000));
    assert!(!a.events().contains(&due));
    let datagram = a.sent(&a_to_b(1), ms(1_000)).1;
    assert_eq!(b.open(path(1), &datagram, ms(1_000)).0.verdict, Verdict::Deliver);
    assert!(a.events().contains(&due));
    a.sent(&a_to_b(1), ms(60_999));
    assert!(!a.events().contains(&due), "once");
    assert_eq!(a.seal(&a_to_b(1), ms(61_000)).0.verdict, Verdict::Drop(DropReason::KeyExhausted));
    assert!(a.events().contains(&due), "a used up key asks again");
    assert_eq!(a.seal(&a_to_b(1), ms(61_001)).0.verdict, Verdict::Drop(DropReason::KeyExhausted));
    assert!(!a.events().contains(&due), "but not for each packet");
    // The next session is not concerned.
    connect(&mut a, &mut b, 17, Cipher::Aes256Gcm, ms(61_001));
    a.sent(&a_to_b(1), ms(61_001));
}

#[test]
fn a_key_seals_until_60_s_after_its_rekey_was_due() {
    let (mut a, _) = pair();
    a.sent(&a_to_b(1), ms(179_999));
    let (slot, bytes) = a.seal(&a_to_b(1), ms(180_000));
    assert_eq!((slot.verdict, bytes), (Verdict::Drop(DropReason::KeyExhausted), a_to_b(1)));
}

#[test]
fn a_lane_seals_nothing_at_its_last_number() {
    let (mut a, mut b) = pair();
    a.session(0, 16).sender.set_counter(0, MAX_PACKETS - 1);
    let datagram = a.sent(&a_to_b(1), ms(1)).1;
    assert_eq!(b.open(path(1), &datagram, ms(1)).0.verdict, Verdict::Deliver);
    assert_eq!(a.seal(&a_to_b(1), ms(1)).0.verdict, Verdict::Drop(DropReason::KeyExhausted));
}

#[test]
fn installing_the_same_keys_again_goes_on_counting() {
    let (mut a, mut b) = pair();
    let mut counters = BTreeSet::new();
    for n in 0..10 {
        let datagram = a.sent(&a_to_b(1), ms(n)).1;
        let header = SealedHeader::parse(&datagram).expect("it was sealed");
        assert!(counters.insert((header.lane, header.counter)), "a nonce was used twice");
        connect(&mut a, &mut b, SESSION, Cipher::Aes256Gcm, ms(n));
        assert_eq!(b.open(path(1), &datagram, ms(n)).0.verdict, Verdict::Deliver);
    }
    // Nor does it lengthen the life of the keys.
    connect(&mut a, &mut b, SESSION, Cipher::Aes256Gcm, ms(100_000));
    assert_eq!(a.seal(&a_to_b(1), ms(180_000)).0.verdict, Verdict::Drop(DropReason::KeyExhausted));
}

#[test]
#[cfg(debug_assertions)]
#[should_panic(expected = "would seal number 0 after Some(0)")]
fn a_counter_that_steps_back_is_caught_in_debug_builds() {
    let (mut a, _) = pair();
    a.sent(&a_to_b(1), ms(1));
    a.session(0, 16).sender.set_counter(0, 0);
    a.seal(&a_to_b(1), ms(1));
}

/// Runs W shards of one node in one thread in an order drawn from `seed`, with rekeys, path moves and repeated installs; returns every datagram.
fn run(workers: u8, seed: u8) -> Vec<Vec<u8>> {
    let mut rng = Rng::new([seed; 32]);
    let (mut a, mut b) = (Host::new(A, workers), Host::new(B, workers));
    let mut session = 0;
    let mut nonces = BTreeSet::new();
    let mut datagrams = Vec::new();
    let mut opened = 0;
    for step in 0..4_000u64 {
        let now = ms(step);
        if step % 700 == 0 {
            session += 1;
            connect(&mut a, &mut b, session, Cipher::Aes256Gcm, now);
        }
        match rng.below(40) {
            0 => {
                let way = way(path(rng.below(3) as u32 + 1));
                a.apply(TableUpdate::SetPath { session: SessionId(session.into()), way, at_once: rng.below(2) == 0 }, now);
            }
            1 => connect(&mut a, &mut b, session, Cipher::Aes256Gcm, now),
            2 if session > 1 => a.apply(TableUpdate::Remove(Removal::Session(SessionId(u32::from(session) - 1))), now),
            _ => {
                let shard = rng.below(workers.into()) as usize;
                let (slot, datagram) = a.seal_in(shard, &a_to_b(rng.below(30) as u16), now);
                let Verdict::Transmit(from) = slot.verdict else { panic!("not sent: {:?}", slot.verdict) };
                let header = SealedHeader::parse(&datagram).expect("it was sealed");
                assert_eq!(usize::from(header.lane % workers), shard, "another shard's lane");
                assert!(nonces.insert((header.receiver, header.lane, header.counter)), "nonce used twice: {header:?}");
                let right = owner(&datagram, NonZeroU8::new(workers).expect("it has workers")).expect("it is a data packet");
                assert_eq!(b.open_with(right.0.into(), from, TrafficClass(0), &datagram, now).0.verdict, Verdict::Deliver);
                opened += 1;
                datagrams.push(datagram);
            }
        }
    }
    assert!(opened > 3_000 && datagrams.iter().map(|datagram| lane(datagram)).collect::<BTreeSet<_>>().len() >= usize::from(workers));
    datagrams
}

#[test]
fn shards_in_any_order_never_use_a_nonce_twice_and_the_same_seed_gives_the_same_bytes() {
    for workers in [1, 2, 3, 4, 7, 16] {
        for seed in 0..3 {
            let first = run(workers, seed);
            if seed == 0 {
                assert_eq!(first, run(workers, seed));
            }
        }
    }
}

#[test]
fn a_larger_packet_of_a_flow_leaves_a_small_way_within_its_batch_too() {
    let (mut a, _) = pair();
    set_path(&mut a, Way { mtu: 60, ..way(path(1)) }, false, ms(0));
    a.sent(&a_to_b(1), ms(0));
    set_path(&mut a, way(path(2)), false, ms(1));
    let packets = [a_to_b(1), udp(a.address, B.parse().expect("it is an address"), 1, &[0; 100])];
    let mut buf = Vec::new();
    let mut slots = packets.each_ref().map(|packet| {
        buf.resize(buf.len() + HEADROOM, 0);
        let slot = Slot { start: buf.len() as u32, len: packet.len() as u16, ..Default::default() };
        buf.extend_from_slice(packet);
        buf.resize(buf.len() + TAILROOM, 0);
        slot
    });
    a.shards[0].seal(&mut Batch { buf: &mut buf, slots: &mut slots }, ms(2));
    assert_eq!(slots.map(|slot| slot.verdict), [1, 2].map(|n| Verdict::Transmit(path(n))));
}
