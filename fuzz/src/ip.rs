//! IP packets as a host would send them.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Protocol number of UDP.
pub(crate) const UDP: u8 = 17;

/// A packet whose lengths and IPv4 header checksum are right; addresses of two families make none.
pub(crate) fn packet(source: IpAddr, destination: IpAddr, protocol: u8, traffic_class: u8, payload: &[u8]) -> Vec<u8> {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => v4(source, destination, protocol, traffic_class, payload),
        (IpAddr::V6(source), IpAddr::V6(destination)) => v6(source, destination, protocol, traffic_class, payload),
        _ => Vec::new(),
    }
}

fn v4(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, traffic_class: u8, payload: &[u8]) -> Vec<u8> {
    let len = (20 + payload.len()) as u16;
    let mut out = vec![0x45, traffic_class];
    out.extend(len.to_be_bytes());
    out.extend([0, 1, 0, 0, 64, protocol, 0, 0]);
    out.extend(source.octets());
    out.extend(destination.octets());
    let sum = !checksum(&out);
    out[10..12].copy_from_slice(&sum.to_be_bytes());
    out.extend_from_slice(payload);
    out
}

fn v6(source: Ipv6Addr, destination: Ipv6Addr, protocol: u8, traffic_class: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0x60 | traffic_class >> 4, traffic_class << 4, 0, 0];
    out.extend((payload.len() as u16).to_be_bytes());
    out.extend([protocol, 64]);
    out.extend(source.octets());
    out.extend(destination.octets());
    out.extend_from_slice(payload);
    out
}

/// The ones' complement sum of 16-bit words (RFC 1071); 0xffff over a header whose checksum is right.
pub(crate) fn checksum(header: &[u8]) -> u16 {
    let mut sum: u32 = header.chunks(2).map(|word| u32::from(word[0]) << 8 | word.get(1).copied().map_or(0, u32::from)).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}
