use super::*;
use crate::wire::ip::{ECN_CE, IpHeader, set_ecn};
use proptest::prelude::*;

fn dropped(host: &mut Host, datagram: &[u8]) -> DropReason {
    match host.open(path(1), datagram, ms(1)).0.verdict {
        Verdict::Drop(reason) => reason,
        other => panic!("not dropped: {other:?}"),
    }
}

fn delivered(host: &mut Host, from: Path, datagram: &[u8]) -> Vec<u8> {
    let (slot, packet) = host.open(from, datagram, ms(1));
    assert_eq!(slot.verdict, Verdict::Deliver);
    packet
}

#[test]
fn a_replayed_packet_is_dropped_and_a_reordered_one_is_not() {
    let (mut a, mut b) = pair();
    let datagrams: Vec<_> = (0..WINDOW + 2).map(|n| a.sent(&a_to_b(n as u16), ms(1)).1).collect();
    assert_eq!(delivered(&mut b, path(1), &datagrams[5]), a_to_b(5));
    assert_eq!(delivered(&mut b, path(1), &datagrams[0]), a_to_b(0));
    assert_eq!(dropped(&mut b, &datagrams[5]), DropReason::Replayed);
    assert_eq!(dropped(&mut b, &datagrams[0]), DropReason::Replayed);
    delivered(&mut b, path(1), &datagrams[WINDOW as usize + 1]);
    assert_eq!(dropped(&mut b, &datagrams[1]), DropReason::TooOld);
    assert_eq!(delivered(&mut b, path(1), &datagrams[2]), a_to_b(2));
}

#[test]
fn a_source_that_is_not_the_peers_is_dropped_and_counted() {
    let (mut a, mut b) = pair();
    let own = B.parse().expect("it is an address");
    let spoofed = udp("10.0.0.9".parse().expect("it is an address"), own, 1, b"x");
    let datagram = a.sent(&spoofed, ms(1)).1;
    assert_eq!(dropped(&mut b, &datagram), DropReason::SpoofedSource);
    // In one batch, behind a permitted source of the same session.
    let (one, two) = (a.sent(&a_to_b(1), ms(1)).1, a.sent(&spoofed, ms(1)).1);
    let mut buf = [one.clone(), two.clone()].concat();
    let slot = |start: usize, len: usize| Slot { start: start as u32, len: len as u16, from: path(1), ..Default::default() };
    let mut slots = [slot(0, one.len()), slot(one.len(), two.len())];
    b.shards[0].open(&mut Batch { buf: &mut buf, slots: &mut slots }, ms(1));
    assert_eq!(slots.map(|slot| slot.verdict), [Verdict::Deliver, Verdict::Drop(DropReason::SpoofedSource)]);
    // Another address of the peer, by a prefix of its own, until that is taken back.
    let net = Prefix::new("10.0.0.8".parse().expect("it is an address"), 29);
    b.apply(TableUpdate::Source { prefix: net, peer: PeerId(7) }, ms(1));
    let datagram = a.sent(&spoofed, ms(1)).1;
    assert_eq!(delivered(&mut b, path(1), &datagram), spoofed);
    b.apply(TableUpdate::Remove(Removal::Source(PeerId(7), net)), ms(1));
    let datagram = a.sent(&spoofed, ms(1)).1;
    assert_eq!(dropped(&mut b, &datagram), DropReason::SpoofedSource);
    assert_eq!(b.shards[0].stats().drops(DropReason::SpoofedSource), 3);
}

#[test]
fn a_source_of_one_peer_is_not_another_peers_in_the_same_batch() {
    let (mut a, mut b) = pair();
    let mut c = Host::new("10.0.0.3", 1);
    let install = |swapped| {
        let (session, peer, keys, way) = (SessionId(17), PeerId(8), keys(17, swapped), way(path(1)));
        let cipher = Cipher::Aes256Gcm;
        TableUpdate::Install(Box::new(Install { session, peer, remote_index: 17, keys, cipher, way, rekey_at: ms(9_000) }))
    };
    b.apply(install(true), ms(0));
    b.apply(TableUpdate::Source { prefix: Prefix::host(c.address), peer: PeerId(8) }, ms(0));
    c.apply(install(false), ms(0));
    c.apply(TableUpdate::Promote { peer: PeerId(8), session: SessionId(17) }, ms(0));
    c.apply(TableUpdate::Route { prefix: Prefix::host(b.address), peer: PeerId(8) }, ms(0));
    let own = udp(c.address, b.address, 1, b"x");
    let datagrams = [a.sent(&a_to_b(1), ms(1)).1, c.sent(&a_to_b(1), ms(1)).1, c.sent(&own, ms(1)).1, a.sent(&own, ms(1)).1];
    let mut start = 0;
    let mut slots = datagrams.each_ref().map(|datagram| {
        let slot = Slot { start, len: datagram.len() as u16, from: path(1), ..Default::default() };
        start += datagram.len() as u32;
        slot
    });
    b.shards[0].open(&mut Batch { buf: &mut datagrams.concat(), slots: &mut slots }, ms(1));
    let spoofed = Verdict::Drop(DropReason::SpoofedSource);
    assert_eq!(slots.map(|slot| slot.verdict), [Verdict::Deliver, spoofed, Verdict::Deliver, spoofed]);
}

#[test]
fn a_packet_for_somebody_else_or_no_packet_at_all_is_dropped() {
    let (mut a, mut b) = pair();
    let elsewhere: IpAddr = "10.0.0.77".parse().expect("it is an address");
    a.apply(TableUpdate::Route { prefix: Prefix::host(elsewhere), peer: PeerId(7) }, ms(0));
    let datagram = a.sent(&udp(a.address, elsewhere, 1, b"x"), ms(1)).1;
    assert_eq!(dropped(&mut b, &datagram), DropReason::NotOurs);

    // Sealed by the peer itself, but not IP.
    let header = SealedHeader { kind: crate::wire::TYPE_DATA, lane: 9, receiver: 16, counter: 0 }.bytes();
    for text in [&b""[..], b"no packet"] {
        let counter = u32::from(!text.is_empty());
        let header = SealedHeader { counter, ..SealedHeader::parse(&[&header[..], &[0; 16]].concat()).expect("it is one") }.bytes();
        let mut sealed = text.to_vec();
        let tag = a.session(0, 16).seal_key.seal(crate::crypto::nonce(9, u64::from(counter)), &header, &mut sealed);
        assert_eq!(dropped(&mut b, &[&header[..], &sealed, &tag].concat()), DropReason::NotIp);
    }
    assert_eq!(b.shards[0].stats().opened, 0);
}

#[test]
fn other_datagrams_are_for_the_control_plane_or_dropped_in_silence() {
    let (_, mut b) = pair();
    for first in 0..=255u8 {
        let datagram = [&[first, 0, 0, 99], &[0; 40][..]].concat();
        let (slot, bytes) = b.open(path(1), &datagram, ms(1));
        let expected = match first {
            0x90 | 0xa0..=0xaf => Verdict::Punt(Punt::Control),
            0xb0..=0xbf => Verdict::Drop(DropReason::UnknownIndex),
            0xc0..=0xc7 => Verdict::Punt(Punt::NewCircuit),
            0xc8..=0xcf => Verdict::Drop(DropReason::UnknownCircuit),
            _ => Verdict::Drop(DropReason::UnknownType),
        };
        assert_eq!(slot.verdict, expected, "{first:#x}");
        assert_eq!(bytes, datagram);
    }
    assert_eq!(dropped(&mut b, b""), DropReason::Malformed);
    assert_eq!(dropped(&mut b, &[0xb0, 0, 0, 16]), DropReason::Malformed);
    assert_eq!(dropped(&mut b, &[0xc0, 0, 0, 16]), DropReason::Malformed);
    let mut slots = [Slot { start: 10, len: 10, ..Default::default() }];
    b.shards[0].open(&mut Batch { buf: &mut [0; 15], slots: &mut slots }, ms(1));
    assert_eq!(slots[0].verdict, Verdict::Drop(DropReason::Malformed));
}

#[test]
fn only_an_authentic_packet_gives_a_lane_its_window() {
    let (mut a, mut b) = pair();
    let datagram = a.sent(&a_to_b(1), ms(1)).1;
    let windows = |b: &mut Host| b.session(0, 16).receiver.windows.iter().flatten().count();
    for lane in 0..LANES {
        let mut forged = datagram.clone();
        forged[0] ^= lane;
        forged[20] ^= 1;
        assert_eq!(dropped(&mut b, &forged), DropReason::Forged);
    }
    assert_eq!(windows(&mut b), 0);
    assert_eq!(b.open(path(1), &datagram, ms(1)).0.verdict, Verdict::Deliver);
    assert_eq!(windows(&mut b), 1);
}

#[test]
fn the_wrong_shard_passes_a_datagram_on_untouched() {
    let (mut a, mut b) = pair_of(3);
    let datagram = a.sent(&a_to_b(1), ms(1)).1;
    let right = usize::from(owner(&datagram, NonZeroU8::new(3).expect("it is 3")).expect("it is a data packet").0);
    assert_eq!(right, usize::from(SESSION) % 3);
    for shard in 0..3 {
        let (slot, bytes) = b.open_with(shard, path(1), TrafficClass(0), &datagram, ms(1));
        if shard == right {
            assert_eq!(slot.verdict, Verdict::Deliver);
        } else {
            assert_eq!((slot.verdict, &bytes), (Verdict::Punt(Punt::WrongShard), &datagram));
            assert!(b.session(shard, 16).receiver.windows.iter().all(Option::is_none));
        }
    }
    // An index that nobody has is dropped by any shard, not handed round.
    let mut unknown = datagram;
    unknown[3] = 200;
    for shard in 0..3 {
        assert_eq!(b.open_with(shard, path(1), TrafficClass(0), &unknown, ms(1)).0.verdict, Verdict::Drop(DropReason::UnknownIndex));
    }
    assert_eq!(owner(&[0xa0, 0, 0, 1], NonZeroU8::MIN), None);
    assert_eq!(owner(&[0xb0, 0, 0], NonZeroU8::MIN), None);
}

#[test]
fn congestion_marks_reach_the_inside_and_its_checksum_stays_right() {
    let (mut a, mut b) = pair();
    let mut marked = a_to_b(1);
    set_ecn(&mut marked, Ecn(2));
    let datagram = a.sent(&marked, ms(1)).1;
    let (slot, packet) = b.open_with(0, path(1), TrafficClass(0b11), &datagram, ms(1));
    assert_eq!(slot.verdict, Verdict::Deliver);
    set_ecn(&mut marked, ECN_CE);
    assert_eq!(packet, marked);
    let (header, _) = etherparse::Ipv4Header::from_slice(&packet).expect("it is a packet");
    assert_eq!(header.header_checksum, header.calc_header_checksum());
    // Who understands no mark is told by a loss.
    let datagram = a.sent(&a_to_b(1), ms(1)).1;
    assert_eq!(b.open_with(0, path(1), TrafficClass(0b11), &datagram, ms(1)).0.verdict, Verdict::Drop(DropReason::Congested));
}

#[test]
fn a_forged_packet_with_a_far_counter_moves_no_window_and_tells_nothing() {
    let (mut a, mut b) = pair();
    let good = a.sent(&a_to_b(1), ms(1)).1;
    for counter in [1u32, 2_000, 1 << 20, u32::MAX] {
        for lane in [0u8, 7] {
            let mut forged = good.clone();
            forged[0] = 0xb0 | lane;
            forged[4..8].copy_from_slice(&counter.to_be_bytes());
            assert_eq!(b.open(path(66), &forged, ms(1)).0.verdict, Verdict::Drop(DropReason::Forged));
        }
    }
    assert_eq!(b.events(), []);
    assert_eq!(delivered(&mut b, path(1), &good), a_to_b(1));
}

fn packets() -> impl Strategy<Value = (bool, bool, Vec<u8>)> {
    (any::<bool>(), any::<bool>(), proptest::collection::vec(any::<u8>(), 0..1_352))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_sealed_opens_to_the_same_packet(batch in proptest::collection::vec(packets(), 1..20), chacha in any::<bool>()) {
        let (mut a, mut b) = (Host::new("fd00::1", 1), Host::new("fd00::2", 1));
        let cipher = if chacha { Cipher::ChaCha20Poly1305 } else { Cipher::Aes256Gcm };
        connect(&mut a, &mut b, 5, cipher, Instant::ZERO);
        let v4 = |text: &str| text.parse::<IpAddr>().expect("it is an address");
        for (host, mine, theirs) in [(&mut a, A, B), (&mut b, B, A)] {
            let hosts = vec![Prefix::host(host.address), Prefix::host(v4(mine))];
            host.apply(TableUpdate::Local { host: hosts, service: vec![] }, ms(0));
            host.apply(TableUpdate::Route { prefix: Prefix::host(v4(theirs)), peer: PeerId(7) }, ms(0));
            host.apply(TableUpdate::Source { prefix: Prefix::host(v4(theirs)), peer: PeerId(7) }, ms(0));
        }
        let (mut buf, mut slots, mut inner) = (Vec::new(), Vec::new(), Vec::new());
        for (six, _, payload) in &batch {
            let packet = if *six { udp(a.address, b.address, 1, payload) } else { udp(v4(A), v4(B), 1, payload) };
            buf.resize(buf.len() + HEADROOM, 0);
            slots.push(Slot { start: buf.len() as u32, len: packet.len() as u16, ..Default::default() });
            buf.extend_from_slice(&packet);
            buf.resize(buf.len() + TAILROOM, 0);
            inner.push(packet);
        }
        a.shards[0].seal(&mut Batch { buf: &mut buf, slots: &mut slots }, ms(1));
        for (slot, packet) in slots.iter_mut().zip(&inner) {
            prop_assert_eq!(slot.verdict, Verdict::Transmit(path(1)));
            prop_assert_eq!(usize::from(slot.len), packet.len() + crate::wire::packet::SEALED_OVERHEAD);
            *slot = Slot { from: path(1), verdict: Verdict::Pending, ..*slot };
        }
        b.shards[0].open(&mut Batch { buf: &mut buf, slots: &mut slots }, ms(1));
        for (slot, packet) in slots.iter().zip(&inner) {
            prop_assert_eq!(slot.verdict, Verdict::Deliver);
            prop_assert_eq!(&buf[slot.range()], &packet[..]);
        }
        prop_assert_eq!(b.shards[0].stats().opened, batch.len() as u64);
    }

    #[test]
    fn a_mutated_packet_never_opens(payload in proptest::collection::vec(any::<u8>(), 0..100), at in any::<proptest::sample::Index>(), flip in 1u8..) {
        let (mut a, mut b) = pair();
        let packet = udp(a.address, b.address, 1, &payload);
        let datagram = a.sent(&packet, ms(1)).1;
        let mut mutated = datagram.clone();
        mutated[at.index(datagram.len())] ^= flip;
        prop_assert_ne!(b.open(path(1), &mutated, ms(1)).0.verdict, Verdict::Deliver);
        prop_assert_ne!(b.open(path(1), &datagram[..at.index(datagram.len())], ms(1)).0.verdict, Verdict::Deliver);
        prop_assert_eq!(delivered(&mut b, path(1), &datagram), packet);
    }

    #[test]
    fn any_bytes_are_handled_without_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0u8..4, len in any::<u16>(), start in 0u32..300) {
        let (mut a, mut b) = pair();
        b.apply(TableUpdate::Circuit { index: 16, from: path(1), to: path(2), next_index: None, rate: 1_000 }, ms(0));
        b.apply(TableUpdate::CircuitEnd { index: 17, from: path(1), arrives_by: path(3) }, ms(0));
        if let [first, i0, i1, i2, ..] = bytes.as_mut_slice() {
            *first = [*first, 0xb0 | *first & 15, 0xc0 | *first & 15, 0x45][usize::from(kind)];
            [*i0, *i1, *i2] = [0, 0, 16 + (*i2 & 1)];
        }
        for (start, len) in [(0, bytes.len() as u16), (start, len)] {
            let mut slots = [Slot { start, len, from: path(1), ..Default::default() }];
            b.shards[0].open(&mut Batch { buf: &mut bytes.clone(), slots: &mut slots }, ms(1));
            prop_assert!(slots[0].verdict != Verdict::Deliver && slots[0].verdict != Verdict::Pending);
            let mut slots = [Slot { start, len, ..Default::default() }];
            a.shards[0].seal(&mut Batch { buf: &mut bytes.clone(), slots: &mut slots }, ms(1));
            prop_assert_ne!(slots[0].verdict, Verdict::Pending);
        }
        let _ = IpHeader::parse(&bytes);
    }
}
