//! What was merged is split again and must be what it was.

use proptest::prelude::*;

use super::*;
use crate::split::tests::{Flow, any_flow, packet, split_all};

const ALL: Allowed = Allowed { tcp: true, udp: true };
const V4: Flow = Flow { v6: false, tcp: true, port: 1000, options: true };

/// Puts packets into a buffer as a shard leaves them: with gaps.
fn batch(packets: &[Vec<u8>]) -> (Vec<u8>, Vec<Slot>) {
    let (mut buf, mut slots) = (Vec::new(), Vec::new());
    for packet in packets {
        buf.extend([0xee; 12]);
        slots.push(Slot { start: buf.len() as u32, len: packet.len() as u16, ..Slot::default() });
        buf.extend(packet);
        buf.extend([0xdd; 16]);
    }
    (buf, slots)
}

/// Merges and splits again; packets in the order of the writes, and how many writes it took.
fn round_trip(packets: &[Vec<u8>], allowed: Allowed) -> (Vec<Vec<u8>>, usize) {
    let (buf, slots) = batch(packets);
    let mut merger = Merger::new();
    merger.plan(&buf, &slots, allowed);
    let mut result = Vec::new();
    let outcome = merger.write(&buf, &slots, |parts, count| {
        let mut bytes: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        let (head, packet) = bytes.split_at_mut(virtio::LEN);
        let header = virtio::Header::parse(head).unwrap();
        let split =
            if header.kind == virtio::GSO_NONE && header.flags == 0 { vec![packet.to_vec()] } else { split_all(&header, packet).unwrap() };
        assert_eq!(split.len(), count);
        result.extend(split);
        Ok(())
    });
    assert_eq!(outcome, (packets.len(), 0));
    (result, merger.writes())
}

/// Addresses, protocol and ports, as far as they can be seen.
fn flow_of(packet: &[u8]) -> Vec<u8> {
    match packet.first().map(|byte| byte >> 4) {
        Some(4) if packet.len() >= 24 => [&packet[9..10], &packet[12..24]].concat(),
        Some(6) if packet.len() >= 44 => [&packet[6..7], &packet[8..44]].concat(),
        _ => Vec::new(),
    }
}

/// Consecutive segments of a stream.
fn stream(flow: Flow, count: usize, len: usize) -> Vec<Vec<u8>> {
    (0..count).map(|i| packet(flow, (i * len) as u32, i as u16, ACK, &vec![i as u8; len])).collect()
}

fn writes(packets: &[Vec<u8>]) -> usize {
    let (again, writes) = round_trip(packets, ALL);
    assert!(again == packets);
    writes
}

#[derive(Clone, Debug)]
enum Change {
    Nothing,
    Flags(u8),
    Gap(u32),
    Shorter(usize),
    Flip(usize, u8),
    Raw(Vec<u8>),
}

fn any_change() -> impl Strategy<Value = Change> {
    prop_oneof![
        12 => Just(Change::Nothing),
        1 => any::<u8>().prop_map(Change::Flags),
        1 => (0u32..3000).prop_map(Change::Gap),
        1 => (0usize..1000).prop_map(Change::Shorter),
        2 => (0usize..80, 1u8..=255).prop_map(|(at, bits)| Change::Flip(at, bits)),
        1 => prop::collection::vec(any::<u8>(), 1..120).prop_map(Change::Raw),
    ]
}

proptest! {
    #[test]
    fn splitting_what_was_merged_gives_every_flow_its_packets_in_order(
        flows in prop::collection::vec(any_flow(), 1..5),
        steps in prop::collection::vec((0usize..5, any_change()), 1..150),
        len in 1usize..1000, allow_udp: bool,
    ) {
        let mut state = vec![(0u32, 0u16); flows.len()];
        let mut packets = Vec::new();
        for (which, change) in steps {
            let which = which % flows.len();
            let (sequence, id) = &mut state[which];
            let (mut flags, mut bytes) = (ACK, len);
            match &change {
                Change::Flags(bits) => flags = *bits,
                Change::Gap(gap) => *sequence = sequence.wrapping_add(*gap),
                Change::Shorter(by) => bytes = len.saturating_sub(*by),
                _ => {}
            }
            let mut packet = packet(flows[which], *sequence, *id, flags, &vec![*id as u8; bytes]);
            *sequence = sequence.wrapping_add(bytes as u32);
            *id = id.wrapping_add(1);
            match change {
                Change::Flip(at, bits) => if let Some(byte) = packet.get_mut(at) { *byte ^= bits },
                Change::Raw(bytes) => packet = bytes,
                _ => {}
            }
            packets.push(packet);
        }
        let (again, writes) = round_trip(&packets, Allowed { tcp: true, udp: allow_udp });
        prop_assert!(writes <= packets.len());
        prop_assert_eq!(again.len(), packets.len());
        let mut keys: Vec<_> = packets.iter().map(|packet| flow_of(packet)).collect();
        keys.sort();
        keys.dedup();
        for key in keys {
            let of = |all: &[Vec<u8>]| all.iter().filter(|packet| flow_of(packet) == key).cloned().collect::<Vec<_>>();
            prop_assert!(of(&again) == of(&packets));
        }
    }
}

#[test]
fn neighbouring_segments_leave_in_one_write() {
    for v6 in [false, true] {
        for options in [false, true] {
            assert_eq!(writes(&stream(Flow { v6, options, ..V4 }, 40, 1340)), 1);
            assert_eq!(writes(&stream(Flow { v6, tcp: false, options, port: 9 }, 40, 1340)), 1);
        }
    }
}

#[test]
fn interleaved_flows_are_merged_each_for_itself() {
    let (a, b) = (stream(V4, 20, 1000), stream(Flow { port: 1001, ..V4 }, 20, 1000));
    let mixed: Vec<_> = a.iter().zip(&b).flat_map(|(a, b)| [a.clone(), b.clone()]).collect();
    let (again, writes) = round_trip(&mixed, ALL);
    assert_eq!(writes, 2);
    assert!(again == [a, b].concat());
}

#[test]
fn a_packet_that_is_alone_of_its_flow_is_written_before_streams() {
    let mut echo = packet(V4, 0, 9, ACK, &[1; 56]);
    echo[9] = 1;
    let lone = packet(Flow { port: 1003, ..V4 }, 7, 3, ACK | PSH, &[3; 100]);
    let (stream, mut short) = (stream(V4, 20, 1000), stream(Flow { port: 1001, ..V4 }, 2, 100));
    short[1] = packet(Flow { port: 1001, ..V4 }, 500, 1, ACK, &[1; 100]);
    let packets = [&stream[..], &short, &[lone.clone(), echo.clone()]].concat();
    let (again, writes) = round_trip(&packets, ALL);
    assert!(again == [&[lone, echo][..], &stream, &short].concat(), "two packets of a flow stay where they were, merged or not");
    assert_eq!(writes, 5);
}

#[test]
fn nothing_is_written_before_a_fragment_that_came_first() {
    let mut fragment = packet(Flow { tcp: false, ..V4 }, 0, 0, 0, &[1; 500]);
    fragment[6] = 0x20;
    let packets = [&stream(V4, 5, 1000)[..], &[fragment], &[packet(Flow { port: 1001, ..V4 }, 0, 1, ACK, &[1; 100])]].concat();
    assert!(round_trip(&packets, ALL).0 == packets);
}

#[test]
fn a_run_ends_at_64_kilobytes_and_at_64_packets() {
    assert_eq!(writes(&stream(V4, 60, 1340)), 2);
    assert_eq!(writes(&stream(V4, 100, 100)), 2);
}

#[test]
fn a_gap_or_a_repetition_ends_a_run() {
    let mut packets = stream(V4, 10, 1000);
    packets.remove(4);
    assert_eq!(writes(&packets), 2);
    let mut packets = stream(V4, 10, 1000);
    packets.insert(4, packets[3].clone());
    assert_eq!(writes(&packets), 2, "the repeated one begins the second run");
}

#[test]
fn push_and_fin_end_a_run_with_their_packet() {
    for flags in [PSH, FIN, PSH | FIN] {
        let mut packets = stream(V4, 10, 1000);
        packets[4] = packet(V4, 4000, 4, ACK | flags, &[4; 1000]);
        assert_eq!(writes(&packets), 2, "{flags}");
    }
}

#[test]
fn a_shorter_packet_ends_a_run_and_a_longer_one_begins_another() {
    let mut packets = stream(V4, 3, 1000);
    packets.push(packet(V4, 3000, 3, ACK, &[3; 500]));
    packets.push(packet(V4, 3500, 4, ACK, &[4; 500]));
    packets.push(packet(V4, 4000, 5, ACK, &[5; 700]));
    assert_eq!(writes(&packets), 3);
}

#[test]
fn congestion_window_reduced_stands_at_the_head_of_a_run_only() {
    let mut packets = stream(V4, 6, 1000);
    packets[3] = packet(V4, 3000, 3, ACK | CWR, &[3; 1000]);
    assert_eq!(writes(&packets), 2);
}

#[test]
fn packets_without_payload_or_with_other_flags_travel_alone() {
    for flags in [ACK | 0x02, ACK | 0x04, ACK | 0x20, 0] {
        let mut packets = stream(V4, 5, 100);
        packets[2] = packet(V4, 200, 2, flags, &[2; 100]);
        assert_eq!(writes(&packets), 3, "{flags}");
    }
    assert_eq!(writes(&vec![packet(V4, 0, 0, ACK, &[]); 4]), 4);
}

#[test]
fn any_other_header_field_that_differs_ends_a_run() {
    // Traffic class, fragment flags, time to live, acknowledgement, window, urgent pointer, options.
    for at in [1, 6, 8, 28, 34, 38, 45] {
        let mut packets = stream(V4, 4, 100);
        packets[2][at] ^= 0x40;
        fix_checksums(&mut packets[2]);
        assert!(writes(&packets) >= 2, "{at}");
    }
    for at in [1, 3, 7, 48, 54, 65] {
        let flow = Flow { v6: true, ..V4 };
        let mut packets = stream(flow, 4, 100);
        packets[2][at] ^= 0x04;
        fix_checksums(&mut packets[2]);
        assert!(writes(&packets) >= 2, "{at}");
    }
}

fn fix_checksums(packet: &mut [u8]) {
    let v6 = packet[0] >> 4 == 6;
    let transport = if v6 { 40 } else { 20 };
    if !v6 {
        packet[10..12].fill(0);
        let checksum = !fold(sum(&packet[..20], 0));
        packet[10..12].copy_from_slice(&checksum.to_ne_bytes());
    }
    packet[transport + 16..transport + 18].fill(0);
    let checksum = !fold(sum(&packet[transport..], pseudo_header(packet, v6, TCP, packet.len() - transport)));
    packet[transport + 16..transport + 18].copy_from_slice(&checksum.to_ne_bytes());
}

#[test]
fn a_wrong_checksum_is_passed_on_and_not_repaired() {
    for at in [0, 1, 4] {
        let mut packets = stream(V4, 5, 1000);
        packets[at][500] ^= 1;
        assert!(writes(&packets) >= 2, "{at}");
    }
    let mut packets = stream(V4, 3, 1000);
    packets[1][10] ^= 1;
    assert_eq!(writes(&packets), 3);
}

#[test]
fn standing_ids_are_merged_only_where_fragments_are_forbidden() {
    let with_df = |df: u8| {
        let mut packets: Vec<_> = (0..4).map(|i| packet(V4, i * 100, 77, ACK, &[1; 100])).collect();
        for packet in &mut packets {
            packet[6] = df;
            fix_checksums(packet);
        }
        let (buf, slots) = batch(&packets);
        let mut merger = Merger::new();
        merger.plan(&buf, &slots, ALL);
        merger.writes()
    };
    assert_eq!(with_df(0x40), 1);
    assert_eq!(with_df(0), 4);
}

#[test]
fn fragments_keep_their_place_among_all_flows() {
    let mut packets = stream(V4, 4, 100);
    packets[1][6] = 0x20;
    fix_checksums(&mut packets[1]);
    assert_eq!(writes(&packets), 3);
}

#[test]
fn udp_without_checksum_and_udp_where_the_device_cannot_split_it_is_not_merged() {
    let flow = Flow { tcp: false, ..V4 };
    let mut packets = stream(flow, 4, 100);
    assert_eq!(round_trip(&packets, Allowed { tcp: true, udp: false }).1, 4);
    for packet in &mut packets {
        packet[26..28].fill(0);
    }
    assert_eq!(writes(&packets), 4);
}

#[test]
fn a_refused_super_packet_is_written_packet_by_packet() {
    let packets = stream(V4, 10, 1000);
    let (buf, slots) = batch(&packets);
    let mut merger = Merger::new();
    merger.plan(&buf, &slots, ALL);
    let mut singles = Vec::new();
    let outcome = merger.write(&buf, &slots, |parts, count| {
        if count > 1 {
            return Err(io::Error::from_raw_os_error(22));
        }
        singles.push(parts[1].to_vec());
        Ok(())
    });
    assert_eq!(outcome, (10, 0));
    assert!(singles == packets);
}
