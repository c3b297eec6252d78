use super::*;

const RELAYED: [u8; 8] = [0xc5, 0, 0, 20, 0xb3, 1, 2, 3];

/// A relay with circuit 20, from path 1 to path 2.
fn relay(next_index: Option<u32>, rate: u64) -> Host {
    let mut host = Host::new("10.0.0.3", 1);
    host.apply(TableUpdate::Circuit { index: 20, from: path(1), to: path(2), next_index, rate }, ms(0));
    host
}

fn relayed(host: &mut Host, from: Path, datagram: &[u8]) -> (Verdict, Vec<u8>) {
    let (slot, bytes) = host.open(from, datagram, ms(1));
    (slot.verdict, bytes)
}

#[test]
fn a_datagram_leaves_with_the_next_index_and_one_hop_less() {
    let mut host = relay(Some(0x0a_bcde), 1_000);
    let (slot, bytes) = host.open_with(0, path(1), TrafficClass(0xbb), &RELAYED, ms(1));
    assert_eq!((slot.verdict, slot.class), (Verdict::Transmit(path(2)), TrafficClass(0xbb)));
    assert_eq!(bytes, [0xc4, 0x0a, 0xbc, 0xde, 0xb3, 1, 2, 3]);
    assert_eq!(host.shards[0].stats().relayed, 1);
    assert_eq!(host.events(), [], "nothing in it moves a path");
}

#[test]
fn the_last_hop_takes_the_header_off() {
    let mut host = relay(None, 1_000);
    assert_eq!(relayed(&mut host, path(1), &RELAYED), (Verdict::Transmit(path(2)), vec![0xb3, 1, 2, 3]));
}

#[test]
fn another_path_no_hop_left_or_an_unknown_inside_is_dropped() {
    let mut host = relay(None, 1_000);
    assert_eq!(relayed(&mut host, path(2), &RELAYED).0, Verdict::Drop(DropReason::UnknownCircuit));
    let with = |at: usize, byte| {
        let mut datagram = RELAYED;
        datagram[at] = byte;
        datagram
    };
    assert_eq!(relayed(&mut host, path(1), &with(0, 0xc0)).0, Verdict::Drop(DropReason::HopLimit));
    for inner in [0x00, 0x16, 0xc1, 0xff] {
        assert_eq!(relayed(&mut host, path(1), &with(4, inner)).0, Verdict::Drop(DropReason::UnknownType), "{inner:#x}");
    }
    for inner in [0x90, 0xa1, 0xb1] {
        assert_eq!(relayed(&mut host, path(1), &with(4, inner)).0, Verdict::Transmit(path(2)), "{inner:#x}");
    }
    host.apply(TableUpdate::Remove(Removal::Circuit(20)), ms(1));
    assert_eq!(relayed(&mut host, path(1), &RELAYED).0, Verdict::Punt(Punt::NewCircuit));
}

#[test]
fn a_circuit_carries_its_rate_and_repeating_the_update_refills_nothing() {
    let mut host = relay(None, 80);
    for n in 0..20 {
        let expected = if n < 10 { Verdict::Transmit(path(2)) } else { Verdict::Drop(DropReason::RateLimited) };
        assert_eq!(host.open(path(1), &RELAYED, ms(0)).0.verdict, expected);
    }
    host.apply(TableUpdate::Circuit { index: 20, from: path(1), to: path(2), next_index: None, rate: 80 }, ms(0));
    assert_eq!(host.open(path(1), &RELAYED, ms(0)).0.verdict, Verdict::Drop(DropReason::RateLimited));
    assert_eq!(host.open(path(1), &RELAYED, ms(100)).0.verdict, Verdict::Transmit(path(2)));
    assert_eq!(host.open(path(1), &RELAYED, ms(100)).0.verdict, Verdict::Drop(DropReason::RateLimited));
}

#[test]
fn unknown_circuits_are_shown_a_few_times_a_second_only() {
    let mut host = Host::new("10.0.0.3", 1);
    let shown =
        |host: &mut Host, now| (0..100).filter(|_| host.open(path(1), &RELAYED, now).0.verdict == Verdict::Punt(Punt::NewCircuit)).count();
    assert_eq!(shown(&mut host, ms(1)), NEW_CIRCUIT_RATE as usize);
    assert_eq!(shown(&mut host, ms(1)), 0);
    assert_eq!(shown(&mut host, ms(10_000)), NEW_CIRCUIT_RATE as usize);
    assert_eq!(host.shards[0].stats().drops(DropReason::UnknownCircuit), 300 - 2 * NEW_CIRCUIT_RATE);
}

#[test]
fn what_comes_through_a_circuit_that_ends_here_is_opened_as_if_by_its_path() {
    let (mut a, mut b) = pair();
    b.apply(TableUpdate::CircuitEnd { index: 20, from: path(4), arrives_by: path(9) }, ms(0));
    let wrap = |inner: &[u8]| [&[0xc0, 0, 0, 20], inner].concat();
    let datagram = a.sent(&a_to_b(1), ms(1)).1;
    assert_eq!(b.open(path(1), &wrap(&datagram), ms(1)).0.verdict, Verdict::Drop(DropReason::UnknownCircuit));
    let (slot, packet) = b.open(path(4), &wrap(&datagram), ms(1));
    assert_eq!((slot.verdict, packet), (Verdict::Deliver, a_to_b(1)));
    assert!(b.events().contains(&ShardEvent::Moved { session: SessionId(16), from: path(9) }));
    let (slot, bytes) = b.open(path(4), &wrap(&[0x90, 1, 2]), ms(1));
    assert_eq!((slot.verdict, slot.from, bytes), (Verdict::Punt(Punt::Control), path(9), vec![0x90, 1, 2]));
    assert_eq!(b.open(path(4), &wrap(&wrap(&datagram)), ms(1)).0.verdict, Verdict::Drop(DropReason::Malformed));
    assert_eq!(b.open(path(4), &wrap(&[0x16]), ms(1)).0.verdict, Verdict::Drop(DropReason::UnknownType));
}

#[test]
fn circuits_belong_to_one_shard_and_are_bounded() {
    let mut host = Host::new("10.0.0.3", 2);
    for index in 0..MAX_CIRCUITS as u32 + 5 {
        host.apply(TableUpdate::Circuit { index, from: path(1), to: path(2), next_index: None, rate: 100 }, ms(0));
    }
    assert_eq!(host.shards[0].circuits.len(), MAX_CIRCUITS);
    assert_eq!(host.shards[0].stats().drops(DropReason::QueueFull), 5);
    assert_eq!(host.open_with(0, path(1), TrafficClass(0), &RELAYED, ms(1)).0.verdict, Verdict::Transmit(path(2)));
    assert_eq!(host.open_with(1, path(1), TrafficClass(0), &RELAYED, ms(1)).0.verdict, Verdict::Punt(Punt::WrongShard));
}
