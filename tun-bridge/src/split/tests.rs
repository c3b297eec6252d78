//! Super-packets as the kernel hands them out, cut and verified by another implementation of the headers.

use etherparse::{IpSlice, SlicedPacket, TransportSlice};
use proptest::prelude::*;

use super::*;

/// What a packet is built from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flow {
    pub(crate) v6: bool,
    pub(crate) tcp: bool,
    pub(crate) port: u16,
    pub(crate) options: bool,
}

/// A packet with `payload` bytes, all checksums right.
pub(crate) fn packet(flow: Flow, sequence: u32, id: u16, flags: u8, payload: &[u8]) -> Vec<u8> {
    let own = if !flow.tcp {
        8
    } else if flow.options {
        32
    } else {
        20
    };
    let transport_len = own + payload.len();
    let mut packet = if flow.v6 {
        let mut ip = vec![0x60, 0x10, 0, 7, 0, 0, if flow.tcp { TCP } else { UDP }, 64];
        ip[4..6].copy_from_slice(&(transport_len as u16).to_be_bytes());
        ip.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        ip.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
        ip
    } else {
        let mut ip = vec![0x45, 0x01, 0, 0, 0, 0, 0, 0, 64, if flow.tcp { TCP } else { UDP }, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        ip[2..4].copy_from_slice(&((20 + transport_len) as u16).to_be_bytes());
        ip[4..6].copy_from_slice(&id.to_be_bytes());
        let checksum = !fold(sum(&ip, 0));
        ip[10..12].copy_from_slice(&checksum.to_ne_bytes());
        ip
    };
    let transport = packet.len();
    packet.extend(flow.port.to_be_bytes());
    packet.extend(443u16.to_be_bytes());
    if flow.tcp {
        packet.extend(sequence.to_be_bytes());
        packet.extend([0, 0, 0, 9, (own as u8 / 4) << 4, flags, 0x10, 0, 0, 0, 0, 0]);
        packet.extend(if flow.options { &[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2][..] } else { &[] });
    } else {
        packet.extend((transport_len as u16).to_be_bytes());
        packet.extend([0, 0]);
    }
    packet.extend(payload);
    let field = transport + if flow.tcp { 16 } else { 6 };
    let checksum = !fold(sum(&packet[transport..], pseudo_header(&packet, flow.v6, if flow.tcp { TCP } else { UDP }, transport_len)));
    packet[field..field + 2].copy_from_slice(&checksum.to_ne_bytes());
    packet
}

/// The virtio header of a super-packet of that flow; with `partial` its checksum is left to us as the kernel leaves it.
fn super_header(flow: Flow, packet: &mut [u8], segment: u16, partial: bool) -> Header {
    let transport = if flow.v6 { 40 } else { 20 };
    let (kind, offset, protocol) = match (flow.tcp, flow.v6) {
        (true, false) => (GSO_TCP4, 16, TCP),
        (true, true) => (GSO_TCP6, 16, TCP),
        (false, _) => (GSO_UDP, 6, UDP),
    };
    let mut header = Header { kind, segment, ..Header::default() };
    if partial {
        header.flags = NEEDS_CHECKSUM;
        header.checksum_start = transport;
        header.checksum_offset = offset;
        let at = usize::from(transport + offset);
        let sum = fold(pseudo_header(packet, flow.v6, protocol, packet.len() - usize::from(transport)));
        packet[at..at + 2].copy_from_slice(&sum.to_ne_bytes());
    }
    header
}

pub(crate) fn split_all(header: &Header, packet: &mut [u8]) -> Result<Vec<Vec<u8>>, Malformed> {
    let mut split = Split::new(header, packet)?;
    let mut out = vec![0; split.longest()];
    let mut packets = Vec::new();
    while !split.is_done() {
        let len = split.next(packet, &mut out);
        packets.push(out[..len].to_vec());
    }
    Ok(packets)
}

/// Parses with etherparse and verifies every length and checksum; returns the transport header.
fn verify(packet: &[u8]) -> (Option<u32>, u8, Vec<u8>) {
    let sliced = SlicedPacket::from_ip(packet).expect("headers are consistent");
    let ip = match sliced.net.expect("an IP packet") {
        etherparse::NetSlice::Ipv4(v4) => {
            assert_eq!(usize::from(v4.header().total_len()), packet.len());
            assert_eq!(v4.header().header_checksum(), v4.header().to_header().calc_header_checksum());
            IpSlice::Ipv4(v4)
        }
        etherparse::NetSlice::Ipv6(v6) => {
            assert_eq!(usize::from(v6.header().payload_length()) + 40, packet.len());
            IpSlice::Ipv6(v6)
        }
        other => panic!("{other:?}"),
    };
    match sliced.transport.expect("a transport header") {
        TransportSlice::Tcp(tcp) => {
            let right = match &ip {
                IpSlice::Ipv4(v4) => tcp.calc_checksum_ipv4(v4.header().source(), v4.header().destination()).unwrap(),
                IpSlice::Ipv6(v6) => tcp.calc_checksum_ipv6(v6.header().source(), v6.header().destination()).unwrap(),
            };
            assert_eq!(tcp.checksum(), right);
            (Some(tcp.sequence_number()), tcp.slice()[13], tcp.payload().to_vec())
        }
        TransportSlice::Udp(udp) => {
            assert_eq!(usize::from(udp.length()), udp.payload().len() + 8);
            let right = match &ip {
                IpSlice::Ipv4(v4) => udp.to_header().calc_checksum_ipv4(&v4.header().to_header(), udp.payload()).unwrap(),
                IpSlice::Ipv6(v6) => udp.to_header().calc_checksum_ipv6(&v6.header().to_header(), udp.payload()).unwrap(),
            };
            assert_eq!(udp.checksum(), right);
            (None, 0, udp.payload().to_vec())
        }
        other => panic!("{other:?}"),
    }
}

pub(crate) fn any_flow() -> impl Strategy<Value = Flow> {
    (any::<bool>(), any::<bool>(), 1000u16..1004, any::<bool>()).prop_map(|(v6, tcp, port, options)| Flow { v6, tcp, port, options })
}

proptest! {
    #[test]
    fn super_packets_become_packets_with_right_headers(
        flow in any_flow(), len in 1usize..20_000, segment in 16u16..1400, sequence: u32, id: u16, partial: bool, seed: u8,
        flags in prop_oneof![Just(ACK), Just(ACK | PSH), Just(ACK | PSH | FIN | CWR), Just(ACK | CWR)],
    ) {
        let payload: Vec<u8> = (0..len).map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed)).collect();
        let mut whole = packet(flow, sequence, id, flags, &payload);
        let header = super_header(flow, &mut whole, segment, partial);
        let packets = split_all(&header, &mut whole).unwrap();
        prop_assert_eq!(packets.len(), len.div_ceil(usize::from(segment)));
        let mut joined = Vec::new();
        for (index, packet) in packets.iter().enumerate() {
            let (seen, seen_flags, part) = verify(packet);
            let (first, last) = (index == 0, index + 1 == packets.len());
            if flow.tcp {
                prop_assert_eq!(seen, Some(sequence.wrapping_add(joined.len() as u32)));
                let mut expected = flags;
                if !last { expected &= !(PSH | FIN); }
                if !first { expected &= !CWR; }
                prop_assert_eq!(seen_flags, expected);
            }
            if !flow.v6 {
                prop_assert_eq!(u16::from_be_bytes([packet[4], packet[5]]), id.wrapping_add(index as u16));
            }
            prop_assert!(last || part.len() == usize::from(segment));
            joined.extend(part);
        }
        prop_assert!(joined == payload);
    }

    #[test]
    fn packets_whose_checksum_was_left_out_are_completed(flow in any_flow(), len in 0usize..1400, partial: bool) {
        let mut whole = packet(flow, 1, 2, ACK, &vec![0xa5; len]);
        let right = whole.clone();
        let header = Header { kind: GSO_NONE, ..super_header(flow, &mut whole, 0, partial) };
        let packets = split_all(&header, &mut whole).unwrap();
        prop_assert_eq!(packets, vec![right]);
    }

    #[test]
    fn arbitrary_bytes_never_panic(flags: u8, kind: u8, segment: u16, start in 0u16..80, offset in 0u16..40, mut bytes in prop::collection::vec(any::<u8>(), 0..200), first in prop_oneof![Just(0x45u8), Just(0x60), any::<u8>()]) {
        if let Some(byte) = bytes.first_mut() { *byte = first; }
        let header = Header { flags, kind: kind & 7, header_len: 0, segment, checksum_start: start, checksum_offset: offset };
        let len = bytes.len();
        if let Ok(packets) = split_all(&header, &mut bytes) {
            prop_assert!(packets.len() <= len.max(1));
        }
    }
}

#[test]
fn splitting_can_stop_and_go_on_at_any_packet() {
    let flow = Flow { v6: false, tcp: true, port: 1, options: true };
    let mut whole = packet(flow, 1, 1, ACK, &[7; 5000]);
    let header = super_header(flow, &mut whole, 1348, true);
    let expected = split_all(&header, &mut whole.clone()).unwrap();
    let mut split = Split::new(&header, &mut whole).unwrap();
    let mut out = [0; 1400];
    for packet in expected {
        let mut saved = split;
        let len = saved.next(&whole, &mut out);
        assert_eq!(out[..len], packet);
        split = saved;
    }
    assert!(split.is_done());
}

#[test]
fn a_routing_header_leaves_the_checksum_to_the_address_that_the_kernel_used() {
    let flow = Flow { v6: true, tcp: true, port: 1, options: false };
    let plain = packet(flow, 1, 1, ACK, &[7; 2000]);
    // Segment routing in one hop more: the destination of the header is the hop, the sum was made with the last address.
    let mut whole = plain[..40].to_vec();
    let last: [u8; 16] = plain[24..40].try_into().unwrap();
    whole[6] = 43;
    whole[24..40].copy_from_slice(&[0xfd; 16]);
    whole.extend([TCP, 2, 4, 1, 0, 0, 0, 0]);
    whole.extend(last);
    whole.extend(&plain[40..]);
    let length = plain.len() - 40;
    let partial = fold(pseudo_header(&plain, true, TCP, length));
    whole[64 + 16..64 + 18].copy_from_slice(&partial.to_ne_bytes());
    let header =
        Header { flags: NEEDS_CHECKSUM, kind: GSO_TCP6, segment: 900, checksum_start: 64, checksum_offset: 16, ..Header::default() };
    let packets = split_all(&header, &mut whole).unwrap();
    assert_eq!(packets.len(), 3);
    for packet in packets {
        let mut received = plain[..40].to_vec();
        received.extend(&packet[64..]);
        assert_eq!(fold(sum(&received[40..], pseudo_header(&received, true, TCP, received.len() - 40))), u16::MAX);
    }
    assert_eq!(split_all(&Header { checksum_offset: 6, ..header }, &mut whole), Err(Malformed), "no field of TCP");
}

#[test]
fn super_packets_in_tunnels_of_the_kernel_are_refused() {
    let flow = Flow { v6: false, tcp: false, port: 1, options: false };
    let mut whole = packet(flow, 1, 1, 0, &[7; 3000]);
    let good = super_header(flow, &mut whole, 1000, true);
    // VIRTIO_NET_HDR_GSO_UDP_TUNNEL_IPV4 and _IPV6: nobody asked for them.
    for tunnel in [0x20, 0x40, 0x60] {
        assert_eq!(split_all(&Header { kind: good.kind | tunnel, ..good }, &mut whole.clone()), Err(Malformed));
    }
}

#[test]
fn options_and_extension_headers_are_in_every_segment() {
    let flow = Flow { v6: false, tcp: false, port: 1, options: false };
    let mut whole = packet(flow, 1, 0xffff, 0, &[7; 2500]);
    whole.splice(20..20, [1, 1, 1, 0]);
    whole[0] = 0x46;
    let header = Header { checksum_start: 24, ..super_header(flow, &mut whole.clone(), 1000, true) };
    let partial = fold(pseudo_header(&whole, false, UDP, whole.len() - 24));
    whole[30..32].copy_from_slice(&partial.to_ne_bytes());
    let packets = split_all(&header, &mut whole).unwrap();
    assert_eq!(packets.iter().map(|packet| packet[4..6].to_vec()).collect::<Vec<_>>(), [[0xff, 0xff], [0, 0], [0, 1]]);
    for packet in packets {
        assert_eq!(packet[20..24], [1, 1, 1, 0]);
        assert_eq!(fold(sum(&packet[..24], 0)), u16::MAX);
        verify(&packet);
    }
}

#[test]
fn contradicting_headers_are_refused() {
    let flow = Flow { v6: false, tcp: true, port: 1, options: false };
    let mut whole = packet(flow, 1, 1, ACK, &[7; 3000]);
    let good = super_header(flow, &mut whole, 1000, true);
    for bad in [
        Header { kind: GSO_TCP6, ..good },
        Header { kind: GSO_UDP, ..good },
        Header { kind: 3, ..good },
        Header { segment: 0, ..good },
        Header { checksum_start: 24, ..good },
        Header { checksum_start: 3010, ..good },
    ] {
        assert_eq!(split_all(&bad, &mut whole.clone()), Err(Malformed), "{bad:?}");
    }
    let late = Header { kind: GSO_NONE, checksum_offset: 3030, ..good };
    assert_eq!(split_all(&late, &mut whole), Err(Malformed));
    assert_eq!(split_all(&Header::default(), &mut [0x45; 10]), Err(Malformed));
    assert_eq!(split_all(&Header::default(), &mut [0x15; 60]), Err(Malformed));
}
