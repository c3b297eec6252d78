//! The slow path's own look at IP packets, and the ICMP errors that a host expects of its network (RFC 792, 1191, 1812, 4443, 8201).

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::wire::ip::{PROTOCOL_ICMP, PROTOCOL_ICMPV6};

/// Longest ICMP error about an IPv4 packet, its own header included (RFC 1812, section 4.3.2.3).
const MAX_ERROR_V4: usize = 576;
/// Longest ICMPv6 error, its own header included: the smallest IPv6 MTU (RFC 4443, section 2.4 c).
const MAX_ERROR_V6: usize = 1_280;
/// Extension headers that are looked through for the upper protocol; packets with more get no error.
const MAX_EXTENSIONS: usize = 8;

/// What the slow path needs of an IP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Who sent it.
    pub source: IpAddr,
    /// Whom it is for.
    pub destination: IpAddr,
    /// Its whole length in bytes.
    pub len: usize,
    /// Whether an ICMP error may be sent about it as far as its own bytes tell: it is no ICMP error itself and no later fragment.
    pub may_be_answered: bool,
}

/// What an ICMP error says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// Nobody is responsible for the destination's network.
    NoRoute,
    /// Nobody has the address, or the member cannot be reached.
    HostUnreachable,
    /// The packet is longer than the way carries: this many bytes.
    TooBig(u16),
}

/// Reads the header of an IP packet; `None` when it is none, or its lengths contradict it.
#[must_use]
pub fn parse(packet: &[u8]) -> Option<Packet> {
    match packet.first()? >> 4 {
        4 => parse_v4(packet),
        6 => parse_v6(packet),
        _ => None,
    }
}

fn parse_v4(packet: &[u8]) -> Option<Packet> {
    let header = packet.first_chunk::<20>()?;
    let header_len = usize::from(header[0] & 0x0f) * 4;
    let len = usize::from(u16::from_be_bytes([header[2], header[3]]));
    if header_len < 20 || len < header_len || len > packet.len() {
        return None;
    }
    let offset = u16::from_be_bytes([header[6], header[7]]) & 0x1fff;
    let kind = packet.get(header_len..len).and_then(|payload| payload.first());
    // Only queries and their answers are known not to be errors.
    let is_error = header[9] == PROTOCOL_ICMP && !kind.is_some_and(|kind| matches!(kind, 0 | 8 | 9 | 10 | 13 | 14));
    Some(Packet {
        source: Ipv4Addr::new(header[12], header[13], header[14], header[15]).into(),
        destination: Ipv4Addr::new(header[16], header[17], header[18], header[19]).into(),
        len,
        may_be_answered: offset == 0 && !is_error,
    })
}

fn parse_v6(packet: &[u8]) -> Option<Packet> {
    let header = packet.first_chunk::<40>()?;
    let len = 40 + usize::from(u16::from_be_bytes([header[4], header[5]]));
    if len > packet.len() {
        return None;
    }
    let address = |from: usize| -> Option<IpAddr> { Some(Ipv6Addr::from(*header.get(from..from + 16)?.first_chunk::<16>()?).into()) };
    Some(Packet { source: address(8)?, destination: address(24)?, len, may_be_answered: !may_be_error_v6(header[6], &packet[40..len]) })
}

/// Whether the payload is, or cannot be told not to be, an ICMPv6 error.
fn may_be_error_v6(mut next: u8, mut rest: &[u8]) -> bool {
    for _ in 0..MAX_EXTENSIONS {
        let skip = match next {
            PROTOCOL_ICMPV6 => return rest.first().is_none_or(|kind| *kind < 128),
            0 | 43 | 60 => rest.get(1).map(|len| (usize::from(*len) + 1) * 8),
            44 => {
                let Some(fragment) = rest.first_chunk::<8>() else { return true };
                if u16::from_be_bytes([fragment[2], fragment[3]]) >> 3 != 0 {
                    return fragment[0] == PROTOCOL_ICMPV6;
                }
                Some(8)
            }
            _ => return false,
        };
        let Some(tail) = skip.and_then(|skip| rest.get(skip..)) else { return true };
        next = rest[0];
        rest = tail;
    }
    true
}

/// The ICMP error about `packet` for its sender; `None` when none may be sent: about errors, later fragments, or from and to anything but single hosts.
///
/// Its source is the packet's destination: that is where the host's own routes lead to the tunnel, so that no source check drops it, and a packet
/// from one of the host's own addresses would be dropped as forged.
#[must_use]
pub fn error(packet: &[u8], error: Error) -> Option<Vec<u8>> {
    let parsed = parse(packet)?;
    if !parsed.may_be_answered || !is_host(parsed.source) || !is_host(parsed.destination) {
        return None;
    }
    match (parsed.source, parsed.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => Some(error_v4(&packet[..parsed.len], error, destination, source)),
        (IpAddr::V6(source), IpAddr::V6(destination)) => Some(error_v6(&packet[..parsed.len], error, destination, source)),
        _ => None,
    }
}

fn is_host(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !(v4.is_multicast() || v4.is_broadcast() || v4.is_unspecified() || v4.is_loopback()),
        IpAddr::V6(v6) => !(v6.is_multicast() || v6.is_unspecified() || v6.is_loopback()),
    }
}

fn error_v4(packet: &[u8], error: Error, from: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
    let (code, mtu) = match error {
        Error::NoRoute => (0, 0),
        Error::HostUnreachable => (1, 0),
        Error::TooBig(mtu) => (4, mtu),
    };
    let quoted = &packet[..packet.len().min(MAX_ERROR_V4 - 28)];
    let mut out = vec![0; 28 + quoted.len()];
    let total = out.len() as u16;
    // Precedence 6, internetwork control (RFC 1812, section 4.3.2.5).
    out[..4].copy_from_slice(&[0x45, 0xc0, (total >> 8) as u8, total as u8]);
    out[8] = 64;
    out[9] = PROTOCOL_ICMP;
    out[12..16].copy_from_slice(&from.octets());
    out[16..20].copy_from_slice(&to.octets());
    let header_sum = checksum(&[&out[..20]]);
    out[10..12].copy_from_slice(&header_sum.to_be_bytes());
    out[20] = 3;
    out[21] = code;
    out[26..28].copy_from_slice(&mtu.to_be_bytes());
    out[28..].copy_from_slice(quoted);
    let sum = checksum(&[&out[20..]]);
    out[22..24].copy_from_slice(&sum.to_be_bytes());
    out
}

fn error_v6(packet: &[u8], error: Error, from: Ipv6Addr, to: Ipv6Addr) -> Vec<u8> {
    let (kind, code, parameter) = match error {
        Error::NoRoute => (1, 0, 0),
        Error::HostUnreachable => (1, 3, 0),
        // No IPv6 way carries less than 1,280 bytes, and no host believes that one does.
        Error::TooBig(mtu) => (2, 0, u32::from(mtu).max(1_280)),
    };
    let quoted = &packet[..packet.len().min(MAX_ERROR_V6 - 48)];
    let mut out = vec![0; 48 + quoted.len()];
    let payload_len = (out.len() - 40) as u16;
    out[0] = 0x60;
    out[4..6].copy_from_slice(&payload_len.to_be_bytes());
    out[6] = PROTOCOL_ICMPV6;
    out[7] = 64;
    out[8..24].copy_from_slice(&from.octets());
    out[24..40].copy_from_slice(&to.octets());
    out[40] = kind;
    out[41] = code;
    out[44..48].copy_from_slice(&parameter.to_be_bytes());
    out[48..].copy_from_slice(quoted);
    let pseudo = [0, 0, (payload_len >> 8) as u8, payload_len as u8, 0, 0, 0, PROTOCOL_ICMPV6];
    let sum = checksum(&[&out[8..40], &pseudo, &out[40..]]);
    out[42..44].copy_from_slice(&sum.to_be_bytes());
    out
}

/// The Internet checksum (RFC 1071) over parts of which all but the last are of even length.
fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u32;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
        }
    }
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{Icmpv4Type, Icmpv6Type, IpHeaders, NetSlice, PacketBuilder, SlicedPacket, TransportSlice, icmpv4, icmpv6};
    use proptest::prelude::*;

    fn udp(v6: bool, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let builder =
            if v6 { PacketBuilder::ipv6([0xfd; 16], [0xfc; 16], 60) } else { PacketBuilder::ipv4([10, 200, 1, 2], [10, 200, 3, 4], 60) };
        builder.udp(1000, 2000).write(&mut out, payload).expect("writes to memory");
        out
    }

    proptest! {
        #[test]
        fn errors_are_what_an_independent_parser_takes_for_valid(v6 in any::<bool>(), payload in proptest::collection::vec(any::<u8>(), 0..1400), mtu in 1_280u16..1_500, which in 0..3u8) {
            let packet = udp(v6, &payload);
            let said = [Error::NoRoute, Error::HostUnreachable, Error::TooBig(mtu)][usize::from(which)];
            let out = error(&packet, said).expect("an ordinary packet");
            let longest = if v6 { MAX_ERROR_V6 } else { MAX_ERROR_V4 };
            prop_assert!(out.len() <= longest);
            let sliced = SlicedPacket::from_ip(&out).expect("a valid packet");
            let quoted = match (sliced.transport, sliced.net) {
                (Some(TransportSlice::Icmpv4(icmp)), Some(NetSlice::Ipv4(ip))) => {
                    prop_assert_eq!(ip.header().header_checksum(), ip.header().to_header().calc_header_checksum());
                    let expected = match said {
                        Error::NoRoute => icmpv4::DestUnreachableHeader::Network,
                        Error::HostUnreachable => icmpv4::DestUnreachableHeader::Host,
                        Error::TooBig(mtu) => icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: mtu },
                    };
                    prop_assert_eq!(icmp.icmp_type(), Icmpv4Type::DestinationUnreachable(expected.clone()));
                    prop_assert_eq!(icmp.checksum(), Icmpv4Type::DestinationUnreachable(expected).calc_checksum(icmp.payload()));
                    prop_assert_eq!((ip.header().source(), ip.header().destination()), ([10, 200, 3, 4], [10, 200, 1, 2]));
                    icmp.payload().to_vec()
                }
                (Some(TransportSlice::Icmpv6(icmp)), Some(NetSlice::Ipv6(ip))) => {
                    let expected = match said {
                        Error::NoRoute => Icmpv6Type::DestinationUnreachable(icmpv6::DestUnreachableCode::NoRoute),
                        Error::HostUnreachable => Icmpv6Type::DestinationUnreachable(icmpv6::DestUnreachableCode::Address),
                        Error::TooBig(mtu) => Icmpv6Type::PacketTooBig { mtu: mtu.into() },
                    };
                    prop_assert_eq!(icmp.icmp_type(), expected);
                    prop_assert!(icmp.is_checksum_valid(ip.header().source(), ip.header().destination()));
                    prop_assert_eq!((ip.header().source(), ip.header().destination()), ([0xfc; 16], [0xfd; 16]));
                    icmp.payload().to_vec()
                }
                other => panic!("not ICMP: {other:?}"),
            };
            prop_assert_eq!(&packet[..quoted.len()], &quoted[..]);
            prop_assert!(quoted.len() == packet.len() || out.len() == longest);
            prop_assert_eq!(error(&out, said), None, "no error about an error");
        }

        #[test]
        fn our_parser_agrees_with_an_independent_one(v6 in any::<bool>(), payload in proptest::collection::vec(any::<u8>(), 0..200)) {
            let packet = udp(v6, &payload);
            let ours = parse(&packet).expect("valid");
            let (theirs, _) = IpHeaders::from_slice(&packet).expect("valid");
            let theirs: (IpAddr, IpAddr) = match theirs {
                IpHeaders::Ipv4(ip, _) => (ip.source.into(), ip.destination.into()),
                IpHeaders::Ipv6(ip, _) => (ip.source.into(), ip.destination.into()),
            };
            prop_assert_eq!((ours.source, ours.destination), theirs);
            prop_assert_eq!(ours.len, packet.len());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), first in prop::sample::select(vec![0x45u8, 0x4f, 0x60, 0x46])) {
            let mut bytes = bytes;
            if let Some(byte) = bytes.first_mut() {
                *byte = first;
            }
            let _ = error(&bytes, Error::HostUnreachable);
        }
    }

    #[test]
    fn echo_requests_are_answered_with_errors_and_others_are_not() {
        let icmp = |kind: Icmpv4Type| {
            let mut out = Vec::new();
            PacketBuilder::ipv4([10, 1, 1, 1], [10, 1, 1, 2], 60).icmpv4(kind).write(&mut out, &[1; 8]).expect("writes");
            out
        };
        let echo = icmp(Icmpv4Type::EchoRequest(etherparse::IcmpEchoHeader { id: 1, seq: 1 }));
        assert!(error(&echo, Error::HostUnreachable).is_some());
        let gone = icmp(Icmpv4Type::TimeExceeded(icmpv4::TimeExceededCode::TtlExceededInTransit));
        assert_eq!(error(&gone, Error::HostUnreachable), None);
        let mut fragment = echo.clone();
        fragment[7] = 5;
        assert_eq!(error(&fragment, Error::HostUnreachable), None);
        let mut echo6 = Vec::new();
        PacketBuilder::ipv6([0xfd; 16], [0xfc; 16], 60).icmpv6_echo_request(1, 2).write(&mut echo6, &[]).expect("writes");
        assert!(error(&echo6, Error::NoRoute).is_some());
    }

    #[test]
    fn nothing_is_said_about_multicast_or_to_nobody() {
        let between = |source: [u8; 4], destination: [u8; 4]| {
            let mut out = Vec::new();
            PacketBuilder::ipv4(source, destination, 60).udp(1, 2).write(&mut out, &[]).expect("writes");
            out
        };
        for (source, destination) in
            [([10, 1, 1, 1], [224, 0, 0, 251]), ([10, 1, 1, 1], [255; 4]), ([0; 4], [10, 1, 1, 1]), ([127, 0, 0, 1], [10, 1, 1, 1])]
        {
            assert_eq!(error(&between(source, destination), Error::HostUnreachable), None, "{source:?} {destination:?}");
        }
        assert!(error(&between([10, 1, 1, 1], [10, 1, 1, 2]), Error::HostUnreachable).is_some());
    }
}
