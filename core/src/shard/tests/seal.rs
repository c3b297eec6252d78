use super::*;

fn verdict(host: &mut Host, packet: &[u8]) -> Verdict {
    let (slot, bytes) = host.seal(packet, ms(1));
    if !matches!(slot.verdict, Verdict::Transmit(_) | Verdict::Punt(Punt::Routed)) {
        assert_eq!(bytes, packet, "what was not sealed was not touched");
    }
    slot.verdict
}

fn to(destination: &str) -> Vec<u8> {
    let destination: IpAddr = destination.parse().expect("it is an address");
    let source = if destination.is_ipv4() { A } else { "fd00::1" };
    udp(source.parse().expect("it is an address"), destination, 1, b"x")
}

#[test]
fn what_cannot_be_decided_is_punted_with_its_reason() {
    let (mut a, _) = pair();
    a.apply(TableUpdate::Route { prefix: Prefix::host("10.0.0.3".parse().expect("it is an address")), peer: PeerId(8) }, ms(0));
    let local = [Prefix::host(a.address)];
    let service = [Prefix::new("10.0.9.0".parse().expect("it is an address"), 24)];
    a.shards[0].set_local(&local, &service);
    for (destination, why) in [
        ("10.0.0.3", Punt::NoSession),
        ("10.0.0.4", Punt::NoAddress),
        ("fd00::4", Punt::NoAddress),
        ("10.0.9.53", Punt::Service),
        (A, Punt::Service),
    ] {
        assert_eq!(verdict(&mut a, &to(destination)), Verdict::Punt(why), "{destination}");
        assert!(a.shards[0].stats().punts(why) > 0);
    }
    assert_eq!(a.shards[0].stats().sealed, 0);
}

#[test]
fn addresses_of_many_or_of_one_link_need_a_route_of_their_own() {
    let (mut a, _) = pair();
    let net = |text: &str, len| Prefix::new(text.parse().expect("it is an address"), len);
    let destinations = ["224.0.0.251", "255.255.255.255", "169.254.1.1", "127.0.0.1", "ff02::1", "fe80::1", "::1"];
    for routed in [None, Some(("0.0.0.0", 0, "::", 0)), Some(("0.0.0.0", 1, "8000::", 1))] {
        if let Some((v4, v4_len, v6, v6_len)) = routed {
            a.apply(TableUpdate::Route { prefix: net(v4, v4_len), peer: PeerId(7) }, ms(0));
            a.apply(TableUpdate::Route { prefix: net(v6, v6_len), peer: PeerId(7) }, ms(0));
        }
        for destination in destinations {
            assert_eq!(verdict(&mut a, &to(destination)), Verdict::Drop(DropReason::NoRoute), "{destination}");
        }
    }
    assert_eq!(verdict(&mut a, &to("198.51.100.1")), Verdict::Transmit(path(1)));
    a.apply(TableUpdate::Route { prefix: net("224.0.0.0", 4), peer: PeerId(7) }, ms(0));
    assert_eq!(verdict(&mut a, &to("224.0.0.251")), Verdict::Transmit(path(1)));
}

#[test]
fn a_packet_larger_than_its_way_is_punted_and_a_way_without_path_drops() {
    let (mut a, _) = pair();
    let set = |a: &mut Host, way| a.apply(TableUpdate::SetPath { session: SessionId(16), way, at_once: true }, ms(0));
    let packet = a_to_b(1);
    set(&mut a, Way { mtu: packet.len() as u16 - 1, ..way(path(1)) });
    assert_eq!(verdict(&mut a, &packet), Verdict::Punt(Punt::TooBig));
    set(&mut a, Way { mtu: packet.len() as u16, ..way(path(1)) });
    assert_eq!(verdict(&mut a, &packet), Verdict::Transmit(path(1)));
    set(&mut a, way(Path::NONE));
    assert_eq!(verdict(&mut a, &packet), Verdict::Drop(DropReason::NoPath));
}

/// An IPv4 packet from A to B of `len` bytes.
fn sized(len: usize, dont_fragment: bool) -> Vec<u8> {
    let mut packet = udp(A.parse().expect("an address"), B.parse().expect("an address"), 1, &vec![0; len - 28]);
    packet[6] = if dont_fragment { 0x40 } else { 0 };
    packet
}

fn sized_v6(len: usize) -> Vec<u8> {
    udp("fd00::1".parse().expect("an address"), "fd00::2".parse().expect("an address"), 1, &vec![0; len - 48])
}

#[test]
fn what_a_small_way_does_not_carry_whole_is_told_of_or_goes_in_parts() {
    let (mut a, _) = pair();
    a.apply(TableUpdate::Route { prefix: Prefix::host("fd00::2".parse().expect("an address")), peer: PeerId(7) }, ms(0));
    let small = Way { whole: 1228, mtu: 1228, ..way(path(1)) };
    a.apply(TableUpdate::SetPath { session: SessionId(16), way: small, at_once: true }, ms(0));
    for (packet, expected) in [
        (sized(1228, true), Verdict::Transmit(path(1))),
        (sized(1229, true), Verdict::Punt(Punt::TooBig)),
        (sized(1229, false), Verdict::Punt(Punt::Routed)),
        (sized(1400, false), Verdict::Punt(Punt::Routed)),
        (sized(1401, false), Verdict::Punt(Punt::TooBig)),
        (sized_v6(1228), Verdict::Transmit(path(1))),
        (sized_v6(1280), Verdict::Punt(Punt::Routed)),
        (sized_v6(1281), Verdict::Punt(Punt::TooBig)),
    ] {
        assert_eq!(verdict(&mut a, &packet), expected, "version {}, {} bytes", packet[0] >> 4, packet.len());
    }
    let wide = Way { whole: 1348, mtu: 1348, ..way(path(1)) };
    a.apply(TableUpdate::SetPath { session: SessionId(16), way: wide, at_once: true }, ms(0));
    assert_eq!(verdict(&mut a, &sized_v6(1348)), Verdict::Transmit(path(1)));
    assert_eq!(verdict(&mut a, &sized_v6(1349)), Verdict::Punt(Punt::TooBig));
    let unsettled = Way { whole: 1228, ..way(path(1)) };
    a.apply(TableUpdate::SetPath { session: SessionId(16), way: unsettled, at_once: true }, ms(0));
    for packet in [sized(1400, true), sized(1229, true), sized_v6(1400)] {
        assert_eq!(verdict(&mut a, &packet), Verdict::Punt(Punt::Routed), "{} bytes while it is searched for", packet.len());
    }
    assert_eq!(verdict(&mut a, &sized(1401, true)), Verdict::Punt(Punt::TooBig));
}

/// A SYN of a TCP connection from one address to another that announces segments of 1,460 bytes.
fn syn(from: &str, to: &str) -> Vec<u8> {
    let address = |text: &str| match text.parse().expect("an address") {
        IpAddr::V4(v4) => v4.octets(),
        IpAddr::V6(_) => panic!("IPv4"),
    };
    let mut out = Vec::new();
    let builder = PacketBuilder::ipv4(address(from), address(to), 64).tcp(1, 2, 3, 4).syn();
    builder.options_raw(&[2, 4, 0x05, 0xb4]).expect("fits").write(&mut out, &[]).expect("writes to memory");
    out
}

fn mss_of(packet: &[u8]) -> u16 {
    u16::from_be_bytes([packet[42], packet[43]])
}

#[test]
fn new_tcp_connections_keep_to_a_small_way_from_both_of_its_ends() {
    let (mut a, mut b) = pair();
    let (there, back) = (syn(A, B), syn(B, A));
    let carry = |from: &mut Host, to: &mut Host, packet: &[u8]| {
        let (_, datagram) = from.sent(packet, ms(1));
        let (slot, packet) = to.open(path(1), &datagram, ms(1));
        assert_eq!(slot.verdict, Verdict::Deliver);
        packet
    };
    assert_eq!(carry(&mut a, &mut b, &there), there, "a way that carries everything changes nothing");
    let small = Way { whole: 1228, ..way(path(1)) };
    a.apply(TableUpdate::SetPath { session: SessionId(16), way: small, at_once: true }, ms(0));
    assert_eq!(mss_of(&carry(&mut a, &mut b, &there)), 1188, "what the other end sends");
    assert_eq!(mss_of(&carry(&mut b, &mut a, &back)), 1188, "what this end sends");
}

#[test]
fn a_shard_that_keeps_the_dscp_to_itself_shows_the_congestion_marks_only() {
    for (mask, outer) in [(u8::MAX, 0xba), (ECN_ONLY, 0x02)] {
        let (mut a, _) = pair();
        a.shards[0].settings.class_mask = mask;
        let mut packet = a_to_b(1);
        packet[1] = 0xba;
        assert_eq!(a.seal(&packet, ms(1)).0.class, TrafficClass(outer));
    }
}

#[test]
fn what_is_no_ip_packet_or_has_no_room_is_dropped() {
    let (mut a, _) = pair();
    assert_eq!(verdict(&mut a, b""), Verdict::Drop(DropReason::NotIp));
    assert_eq!(verdict(&mut a, &[0x20; 60]), Verdict::Drop(DropReason::NotIp));
    let packet = a_to_b(1);
    for (start, behind) in [(HEADROOM - 1, TAILROOM), (HEADROOM, TAILROOM - 1)] {
        let mut buf = vec![0; start + packet.len() + behind];
        buf[start..start + packet.len()].copy_from_slice(&packet);
        let mut slots = [Slot { start: start as u32, len: packet.len() as u16, ..Default::default() }];
        a.shards[0].seal(&mut Batch { buf: &mut buf, slots: &mut slots }, ms(1));
        assert_eq!(slots[0].verdict, Verdict::Drop(DropReason::Malformed));
    }
    let mut slots = [Slot { start: u32::MAX, len: u16::MAX, ..Default::default() }];
    a.shards[0].seal(&mut Batch { buf: &mut [], slots: &mut slots }, ms(1));
    assert_eq!(slots[0].verdict, Verdict::Drop(DropReason::Malformed));
}

#[test]
fn only_pending_slots_are_touched_and_the_outer_class_is_the_inner_one() {
    let (mut a, _) = pair();
    let mut packet = a_to_b(1);
    crate::wire::ip::set_ecn(&mut packet, Ecn(2));
    let stride = START + packet.len() + TAILROOM;
    let mut buf = vec![0; 2 * stride];
    let mut slots = [Slot::default(); 2];
    for (n, slot) in slots.iter_mut().enumerate() {
        let start = n * stride + START;
        buf[start..start + packet.len()].copy_from_slice(&packet);
        *slot = Slot { start: start as u32, len: packet.len() as u16, ..Default::default() };
    }
    slots[0].verdict = Verdict::Drop(DropReason::Expired);
    let untouched = slots[0];
    a.shards[0].seal(&mut Batch { buf: &mut buf, slots: &mut slots }, ms(1));
    assert_eq!(slots[0], untouched);
    assert_eq!((slots[1].verdict, slots[1].class), (Verdict::Transmit(path(1)), TrafficClass(0x02)));
    assert_eq!(a.shards[0].stats().sealed, 1);
}

#[test]
fn packets_that_share_the_place_of_the_relay_header_are_moved_apart_only_when_they_get_one() {
    for (relayed, spare) in [(false, 0), (true, 4), (true, 3)] {
        let (mut a, mut b) = pair();
        if relayed {
            let circuit = Way { circuit: Some((7, 3)), ..way(path(5)) };
            a.apply(TableUpdate::SetPath { session: SessionId(16), way: circuit, at_once: true }, ms(0));
        }
        let packets: Vec<_> = (0..5).map(|n| a_to_b(1_000 + n)).collect();
        let stride = packets[0].len() + HEADROOM - OVERLAP + TAILROOM;
        let mut buf = vec![0; HEADROOM - OVERLAP + 5 * stride + OVERLAP * (spare - usize::from(relayed))];
        let mut slots = [Slot::default(); 5];
        for (n, (slot, packet)) in slots.iter_mut().zip(&packets).enumerate() {
            *slot = Slot { start: (n * stride + HEADROOM) as u32, len: packet.len() as u16, ..Default::default() };
            buf[slot.range()].copy_from_slice(packet);
        }
        a.shards[0].seal(&mut Batch { buf: &mut buf, slots: &mut slots }, ms(1));
        for (n, slot) in slots.iter().enumerate() {
            if spare == 3 && n == 1 {
                // Four would have to move. After this one, whose place is free now, room for three is enough.
                assert_eq!(slot.verdict, Verdict::Drop(DropReason::Malformed));
                continue;
            }
            let header = if relayed { OVERLAP } else { 0 };
            assert_eq!(slot.verdict, Verdict::Transmit(path(if relayed { 5 } else { 1 })));
            assert_eq!(b.open(path(1), &buf[slot.range()][header..], ms(1)).1, packets[n], "packet {n}");
        }
        assert!(relayed || slots.windows(2).all(|two| two[0].range().end == two[1].range().start));
    }
}

#[test]
fn a_relayed_way_puts_its_header_in_front_and_a_routed_one_is_punted_sealed() {
    let (mut a, mut b) = pair();
    let relayed = Way { circuit: Some((0x0a_bcde, 3)), ..way(path(5)) };
    a.apply(TableUpdate::SetPath { session: SessionId(16), way: relayed, at_once: false }, ms(0));
    let (to, datagram) = a.sent(&a_to_b(1), ms(1));
    assert_eq!(to, path(5));
    assert_eq!(datagram[..4], [0xc3, 0x0a, 0xbc, 0xde]);
    assert_eq!(b.open(path(1), &datagram[4..], ms(1)).1, a_to_b(1));

    let routed = Way { routed: true, ..way(path(6)) };
    a.apply(TableUpdate::SetPath { session: SessionId(16), way: routed, at_once: true }, ms(2));
    let (slot, datagram) = a.seal(&a_to_b(1), ms(2));
    assert_eq!((slot.verdict, slot.from), (Verdict::Punt(Punt::Routed), path(6)));
    assert_eq!(b.open(path(1), &datagram, ms(2)).1, a_to_b(1));
}

#[test]
fn a_removed_session_peer_or_route_is_gone_at_once() {
    let (mut a, mut b) = pair();
    let (_, datagram) = b.sent(&b_to_a(1), ms(1));
    a.apply(TableUpdate::Remove(Removal::Session(SessionId(16))), ms(1));
    assert_eq!(verdict(&mut a, &a_to_b(1)), Verdict::Punt(Punt::NoSession));
    assert_eq!(a.open(path(1), &datagram, ms(1)).0.verdict, Verdict::Drop(DropReason::UnknownIndex));

    let (mut a, _) = pair();
    connect(&mut a, &mut b, 17, Cipher::Aes256Gcm, ms(1));
    a.apply(TableUpdate::Remove(Removal::Session(SessionId(16))), ms(1));
    assert_eq!(verdict(&mut a, &a_to_b(1)), Verdict::Transmit(path(1)), "the promoted session stays");
    a.apply(TableUpdate::Remove(Removal::Peer(PeerId(7))), ms(1));
    assert_eq!(verdict(&mut a, &a_to_b(1)), Verdict::Punt(Punt::NoAddress));
    assert_eq!(a.open(path(1), &datagram, ms(1)).0.verdict, Verdict::Drop(DropReason::UnknownIndex));
}

#[test]
fn a_session_is_promoted_only_for_its_own_peer() {
    let (mut a, _) = pair();
    a.apply(TableUpdate::Route { prefix: Prefix::host("10.0.0.3".parse().expect("it is an address")), peer: PeerId(8) }, ms(0));
    a.apply(TableUpdate::Promote { peer: PeerId(8), session: SessionId(16) }, ms(0));
    a.apply(TableUpdate::Promote { peer: PeerId(8), session: SessionId(99) }, ms(0));
    assert_eq!(verdict(&mut a, &to("10.0.0.3")), Verdict::Punt(Punt::NoSession));
}

#[test]
fn sessions_beyond_the_bound_are_refused_and_those_that_run_are_kept() {
    // A shard that the sessions do not belong to.
    let (mut a, _) = pair_of(2);
    a.shards.remove(0);
    let install = |n: u32| {
        let n = 2 * n + 100;
        let keys = keys(1, false);
        let peer = PeerId(n);
        let way = way(path(2));
        Install { session: SessionId(n), peer, remote_index: n, keys, cipher: Cipher::ChaCha20Poly1305, way, rekey_at: ms(0) }
    };
    for n in 0..MAX_SESSIONS as u32 + 10 {
        a.apply(TableUpdate::Install(Box::new(install(n))), ms(0));
    }
    assert_eq!(a.shards[0].by_index.len(), MAX_SESSIONS);
    assert_eq!(a.shards[0].stats().drops(DropReason::QueueFull), 11);
    assert_eq!(verdict(&mut a, &a_to_b(1)), Verdict::Transmit(path(1)));
    // Another realm's index, or one of more than 24 bits.
    let mut foreign = install(1);
    foreign.session = SessionId(1 << 20 | 1);
    a.apply(TableUpdate::Remove(Removal::Session(SessionId(100))), ms(0));
    a.apply(TableUpdate::Install(Box::new(foreign.clone())), ms(0));
    foreign.session = SessionId(1 << 24 | 1);
    a.apply(TableUpdate::Install(Box::new(foreign)), ms(0));
    assert_eq!(a.shards[0].by_index.len(), MAX_SESSIONS - 1);
    a.apply(TableUpdate::Install(Box::new(install(MAX_SESSIONS as u32 + 10))), ms(0));
    assert_eq!((a.shards[0].by_index.len(), a.shards[0].sessions.len()), (MAX_SESSIONS, MAX_SESSIONS));
}

#[test]
#[should_panic(expected = "a lane of its own")]
fn more_workers_than_lanes_are_refused() {
    let _ = Shard::new(ShardSettings::new(ShardId(16), RealmSlot(0), NonZeroU8::new(17).expect("it is 17"), 0));
}
