//! The few fields of an IP packet that the data path looks at, read in place.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::WireError;
use crate::io::{Ecn, TrafficClass};

/// Protocol number of ICMP.
pub const PROTOCOL_ICMP: u8 = 1;
/// Protocol number of TCP.
pub const PROTOCOL_TCP: u8 = 6;
/// Protocol number of UDP.
pub const PROTOCOL_UDP: u8 = 17;
/// Protocol number of ICMPv6.
pub const PROTOCOL_ICMPV6: u8 = 58;

/// Congestion experienced (RFC 3168).
pub const ECN_CE: Ecn = Ecn(0b11);

/// Bytes of an IPv4 header without options.
const V4_HEADER: usize = 20;
/// Bytes of the fixed IPv6 header.
const V6_HEADER: usize = 40;
/// Extension headers that are walked at most. Real packets have one or two; a longer chain counts as a protocol of its own, so that its cost is bounded.
const MAX_EXTENSIONS: usize = 8;

/// What was read of an IP packet whose headers fit its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpHeader {
    /// The source address.
    pub source: IpAddr,
    /// The destination address.
    pub destination: IpAddr,
    /// The protocol above IP: behind the extension headers, where there are any.
    pub protocol: u8,
    /// Offset in bytes of what `protocol` describes.
    pub payload: u16,
    /// The traffic class.
    pub class: TrafficClass,
    /// Whether it is a part of a larger packet; the first part counts too.
    pub fragment: bool,
    /// Source and destination port, where `protocol` has ports and this is no fragment.
    pub ports: Option<(u16, u16)>,
}

/// What makes packets one flow, which must not be reordered: the 5-tuple. Ports are 0 where there are none or where they are not in each packet (fragments).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// The source address.
    pub source: IpAddr,
    /// The destination address.
    pub destination: IpAddr,
    /// The protocol above IP.
    pub protocol: u8,
    /// Source and destination port.
    pub ports: (u16, u16),
}

impl IpHeader {
    /// Reads the headers of `packet`, which is exactly one IP packet.
    ///
    /// # Errors
    /// [`WireError::BadField`] when the version, a header length or the total length is wrong, [`WireError::Truncated`] when the headers do not fit.
    #[inline]
    pub fn parse(packet: &[u8]) -> Result<Self, WireError> {
        match packet.first().map(|first| first >> 4) {
            Some(4) => Self::parse_v4(packet),
            Some(6) => Self::parse_v6(packet),
            Some(_) => Err(WireError::BadField("ip version")),
            None => Err(WireError::Truncated),
        }
    }

    #[inline]
    fn parse_v4(packet: &[u8]) -> Result<Self, WireError> {
        let header = packet.first_chunk::<V4_HEADER>().ok_or(WireError::Truncated)?;
        let header_len = usize::from(header[0] & 0x0f) * 4;
        if header_len < V4_HEADER || header_len > packet.len() {
            return Err(WireError::BadField("ip header length"));
        }
        if usize::from(u16::from_be_bytes([header[2], header[3]])) != packet.len() {
            return Err(WireError::BadField("ip total length"));
        }
        // "More fragments" or an offset.
        let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0;
        let protocol = header[9];
        Ok(Self {
            source: IpAddr::V4(Ipv4Addr::new(header[12], header[13], header[14], header[15])),
            destination: IpAddr::V4(Ipv4Addr::new(header[16], header[17], header[18], header[19])),
            protocol,
            payload: header_len as u16,
            class: TrafficClass(header[1]),
            fragment,
            ports: if fragment { None } else { ports(protocol, &packet[header_len..]) },
        })
    }

    #[inline]
    fn parse_v6(packet: &[u8]) -> Result<Self, WireError> {
        let header = packet.first_chunk::<V6_HEADER>().ok_or(WireError::Truncated)?;
        if usize::from(u16::from_be_bytes([header[4], header[5]])) + V6_HEADER != packet.len() {
            return Err(WireError::BadField("ip payload length"));
        }
        let (source, rest) = header[8..].split_first_chunk::<16>().ok_or(WireError::Truncated)?;
        let destination = rest.first_chunk::<16>().ok_or(WireError::Truncated)?;
        let Upper { protocol, payload, fragment } = skip_extensions(packet, header[6])?;
        Ok(Self {
            source: IpAddr::V6(Ipv6Addr::from(*source)),
            destination: IpAddr::V6(Ipv6Addr::from(*destination)),
            protocol,
            payload: payload as u16,
            class: TrafficClass(header[0] << 4 | header[1] >> 4),
            fragment,
            ports: if fragment { None } else { ports(protocol, &packet[payload..]) },
        })
    }

    /// 4 or 6.
    #[must_use]
    pub const fn version(&self) -> u8 {
        if self.destination.is_ipv4() { 4 } else { 6 }
    }

    /// The flow that the packet belongs to.
    #[inline]
    #[must_use]
    pub fn flow(&self) -> FlowKey {
        FlowKey { source: self.source, destination: self.destination, protocol: self.protocol, ports: self.ports.unwrap_or((0, 0)) }
    }
}

/// What follows the extension headers of an IPv6 packet.
struct Upper {
    protocol: u8,
    payload: usize,
    fragment: bool,
}

/// Walks the extension headers (RFC 8200, section 4), the first of which is of type `next`. `packet` holds the fixed header at least.
#[inline]
fn skip_extensions(packet: &[u8], mut next: u8) -> Result<Upper, WireError> {
    let mut at = V6_HEADER;
    for _ in 0..MAX_EXTENSIONS {
        let len = match next {
            // Hop-by-hop options, routing, destination options: in units of 8 bytes, the first not counted.
            0 | 43 | 60 => (usize::from(*packet.get(at + 1).ok_or(WireError::Truncated)?) + 1) * 8,
            // Authentication header: in units of 4 bytes, the first two not counted.
            51 => (usize::from(*packet.get(at + 1).ok_or(WireError::Truncated)?) + 2) * 4,
            44 => 8,
            _ => break,
        };
        let header = packet.get(at..at + len).ok_or(WireError::Truncated)?;
        let is_fragment = next == 44 && u16::from_be_bytes([header[2], header[3]]) & 0xfff9 != 0;
        next = header[0];
        at += len;
        if is_fragment {
            return Ok(Upper { protocol: next, payload: at, fragment: true });
        }
    }
    Ok(Upper { protocol: next, payload: at, fragment: false })
}

/// The ports at the start of a TCP, UDP, DCCP, SCTP or UDP-Lite header.
#[inline]
fn ports(protocol: u8, payload: &[u8]) -> Option<(u16, u16)> {
    match (protocol, payload) {
        (PROTOCOL_TCP | PROTOCOL_UDP | 33 | 132 | 136, &[s0, s1, d0, d1, ..]) => {
            Some((u16::from_be_bytes([s0, s1]), u16::from_be_bytes([d0, d1])))
        }
        _ => None,
    }
}

/// The ECN bits with which an inner packet leaves the tunnel (RFC 6040, section 4.2); `None`: it must be dropped, for its
/// sender cannot be told of congestion in any other way.
#[inline]
#[must_use]
pub const fn combine_ecn(inner: Ecn, outer: Ecn) -> Option<Ecn> {
    match (inner.0 & 0b11, outer.0 & 0b11) {
        (0b00, 0b11) => None,
        (0b00, _) => Some(inner),
        (_, 0b11) => Some(ECN_CE),
        // ECT(1) outside an ECT(0) packet is a mark of its own (pre-congestion notification).
        (0b10, 0b01) => Some(Ecn(0b01)),
        _ => Some(inner),
    }
}

/// Writes the ECN bits of `packet`, whose header was read before, and mends the checksum of an IPv4 header (RFC 1624).
#[inline]
pub fn set_ecn(packet: &mut [u8], ecn: Ecn) {
    let bits = ecn.0 & 0b11;
    let &mut [first, second, ..] = packet else { return };
    if first >> 4 == 6 {
        packet[1] = second & 0xcf | bits << 4;
        return;
    }
    let changed = second & 0xfc | bits;
    let Some(&[c0, c1]) = packet.get(10..12).and_then(|field| field.first_chunk()) else { return };
    let sum = u32::from(!u16::from_be_bytes([c0, c1]))
        + u32::from(!u16::from_be_bytes([first, second]))
        + u32::from(u16::from_be_bytes([first, changed]));
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    packet[1] = changed;
    packet[10..12].copy_from_slice(&(!(folded as u16)).to_be_bytes());
}

/// Whether `address` means several hosts or one link only (multicast, broadcast, link-local, loopback, unspecified): not carried unless routed by name.
#[inline]
#[must_use]
pub const fn is_local_scope(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_multicast() || v4.is_broadcast() || v4.is_link_local() || v4.is_loopback() || v4.is_unspecified(),
        IpAddr::V6(v6) => v6.is_multicast() || v6.is_unicast_link_local() || v6.is_loopback() || v6.is_unspecified(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{IpFragOffset, IpNumber, Ipv4Header, Ipv6Header, PacketBuilder};
    use proptest::prelude::*;

    fn v4_udp(payload: &[u8], traffic_class: u8) -> Vec<u8> {
        let mut header = Ipv4Header::new((payload.len() + 8) as u16, 64, IpNumber::UDP, [10, 0, 0, 1], [10, 0, 0, 2]).expect("it is short");
        header.dscp = (traffic_class >> 2).try_into().expect("6 bits");
        header.ecn = (traffic_class & 3).try_into().expect("2 bits");
        let mut packet = Vec::new();
        PacketBuilder::ip(etherparse::IpHeaders::Ipv4(header, Default::default()))
            .udp(1000, 2000)
            .write(&mut packet, payload)
            .expect("a Vec takes it");
        packet
    }

    fn v6(next: u8, rest: &[u8]) -> Vec<u8> {
        let header = Ipv6Header {
            traffic_class: 0x2e,
            payload_length: rest.len() as u16,
            next_header: IpNumber(next),
            hop_limit: 64,
            source: [1; 16],
            destination: [2; 16],
            ..Default::default()
        };
        let mut packet = header.to_bytes().to_vec();
        packet.extend_from_slice(rest);
        packet
    }

    #[test]
    fn addresses_ports_and_class_are_read() {
        let header = IpHeader::parse(&v4_udp(b"abc", 0xba)).expect("it is a packet");
        assert_eq!(header.source, IpAddr::from([10, 0, 0, 1]));
        assert_eq!(header.destination, IpAddr::from([10, 0, 0, 2]));
        assert_eq!((header.version(), header.protocol, header.payload), (4, PROTOCOL_UDP, 20));
        assert_eq!((header.class.dscp(), header.class.ecn(), header.ports), (0x2e, Ecn(2), Some((1000, 2000))));

        let header = IpHeader::parse(&v6(PROTOCOL_TCP, &[0x12, 0x34, 0x56, 0x78])).expect("it is a packet");
        assert_eq!(header.source, IpAddr::from([1; 16]));
        assert_eq!((header.version(), header.payload, header.class), (6, 40, TrafficClass(0x2e)));
        assert_eq!(header.ports, Some((0x1234, 0x5678)));
    }

    #[test]
    fn a_length_that_contradicts_the_header_is_refused() {
        let good = v4_udp(b"abc", 0);
        for cut in 0..good.len() {
            assert!(IpHeader::parse(&good[..cut]).is_err());
        }
        let mut long = good.clone();
        long.push(0);
        assert!(IpHeader::parse(&long).is_err());
        let mut options = good.clone();
        options[0] = 0x4f;
        assert!(IpHeader::parse(&options).is_err());
        options[0] = 0x44;
        assert!(IpHeader::parse(&options).is_err());
        let mut long = v6(PROTOCOL_UDP, &[0; 8]);
        long.push(0);
        assert!(IpHeader::parse(&long).is_err());
        assert_eq!(IpHeader::parse(&[0x50; 40]), Err(WireError::BadField("ip version")));
    }

    #[test]
    fn fragments_have_no_ports_so_that_all_parts_are_one_flow() {
        let mut first = v4_udp(b"abc", 0);
        first[6] = 0x20;
        let mut later = first.clone();
        later[6..8].copy_from_slice(&IpFragOffset::try_new(100).expect("13 bits").value().to_be_bytes());
        later[20..24].copy_from_slice(&[9; 4]);
        let first = IpHeader::parse(&first).expect("it is a packet");
        assert!(first.fragment && first.ports.is_none());
        assert_eq!(first.flow(), IpHeader::parse(&later).expect("it is a packet").flow());
    }

    #[test]
    fn extension_headers_are_walked_and_never_beyond_the_packet() {
        // Destination options of 16 bytes, then UDP.
        let mut rest = vec![17, 1];
        rest.extend_from_slice(&[0; 14]);
        rest.extend_from_slice(&[0, 53, 0, 99, 0, 8, 0, 0]);
        let header = IpHeader::parse(&v6(60, &rest)).expect("it is a packet");
        assert_eq!((header.protocol, header.payload, header.ports), (17, 56, Some((53, 99))));
        // The same, claiming 2,048 bytes.
        rest[1] = 255;
        assert_eq!(IpHeader::parse(&v6(60, &rest)), Err(WireError::Truncated));
        // A second fragment: what follows are not ports.
        let header = IpHeader::parse(&v6(44, &[17, 0, 0x01, 0x00, 0, 0, 0, 1, 0, 53, 0, 99])).expect("it is a packet");
        assert_eq!((header.protocol, header.fragment, header.ports), (17, true, None));
        // A chain without end is given up.
        let chain = [0u8; 400];
        let header = IpHeader::parse(&v6(0, &chain)).expect("it is a packet");
        assert_eq!((header.protocol, header.payload), (0, 40 + 64));
    }

    #[test]
    fn ecn_is_combined_as_rfc_6040_says() {
        let expected = [
            // outer:  Not-ECT, ECT(1), ECT(0), CE
            (0, [Some(0), Some(0), Some(0), None]),
            (1, [Some(1), Some(1), Some(1), Some(3)]),
            (2, [Some(2), Some(1), Some(2), Some(3)]),
            (3, [Some(3), Some(3), Some(3), Some(3)]),
        ];
        for (inner, row) in expected {
            for (outer, result) in row.into_iter().enumerate() {
                assert_eq!(combine_ecn(Ecn(inner), Ecn(outer as u8)), result.map(Ecn), "inner {inner} outer {outer}");
            }
        }
    }

    proptest! {
        #[test]
        fn a_changed_ecn_field_leaves_a_right_checksum(class in any::<u8>(), payload in proptest::collection::vec(any::<u8>(), 0..40), ecn in 0u8..4) {
            let mut packet = v4_udp(&payload, class);
            set_ecn(&mut packet, Ecn(ecn));
            let (header, _) = Ipv4Header::from_slice(&packet).expect("it is a packet");
            prop_assert_eq!(header.header_checksum, header.calc_header_checksum());
            prop_assert_eq!(IpHeader::parse(&packet).expect("it is a packet").class, TrafficClass(class & 0xfc | ecn));

            let mut packet = v6(17, &payload);
            set_ecn(&mut packet, Ecn(ecn));
            let read = IpHeader::parse(&packet).expect("it is a packet");
            prop_assert_eq!(read.class, TrafficClass(0x2c | ecn));
            prop_assert_eq!(read.source, IpAddr::from([1; 16]));
        }

        #[test]
        fn any_bytes_are_read_without_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), honest in any::<bool>()) {
            if honest && bytes.len() >= 40 {
                bytes[0] = 0x60 | bytes[0] & 0x0f;
                let len = (bytes.len() - 40) as u16;
                bytes[4..6].copy_from_slice(&len.to_be_bytes());
                bytes[6] = [0, 43, 44, 51, 60][usize::from(bytes[6]) % 5];
            }
            if let Ok(header) = IpHeader::parse(&bytes) {
                prop_assert!(usize::from(header.payload) <= bytes.len());
            }
        }
    }
}
