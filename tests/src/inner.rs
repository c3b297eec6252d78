//! Packets inside of the tunnel as a host sees them on its TUN device: what may be there, and what may not.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{Result, bail, ensure};
use etherparse::{NetSlice, SlicedPacket, TransportSlice};

/// What was seen of packets from one address to another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Packets.
    pub packets: usize,
    /// Those longer than the device's largest packet: merged ones.
    pub merged: usize,
    /// Bytes of TCP payload.
    pub bytes: usize,
}

/// Checks all packets from one address to another: lengths, header checksums, transport checksums, flags, and that each TCP payload is the part of
/// `content` that its sequence number says.
///
/// The checksum of a merged packet holds the pseudo header's sum only, as behind the kernel's own receive offload; that of any other must be complete.
///
/// # Errors
/// Names the first packet that is impossible.
pub fn check(packets: &[Vec<u8>], from: IpAddr, to: IpAddr, mtu: usize, content: impl Fn(usize) -> u8) -> Result<Seen> {
    let mut seen = Seen::default();
    // The first sequence number of each connection, by its ports.
    let mut starts = BTreeMap::new();
    for packet in packets {
        let Ok(sliced) = SlicedPacket::from_ip(packet) else { continue };
        let (addresses, pseudo) = match sliced.net {
            Some(NetSlice::Ipv4(ref v4)) if v4.header().source_addr() == from && v4.header().destination_addr() == to => {
                ensure!(usize::from(v4.header().total_len()) == packet.len(), "length of {}", hex(packet));
                ensure!(
                    v4.header().header_checksum() == v4.header().to_header().calc_header_checksum(),
                    "header checksum of {}",
                    hex(packet)
                );
                ([v4.header().source().to_vec(), v4.header().destination().to_vec()].concat(), 20)
            }
            Some(NetSlice::Ipv6(ref v6)) if v6.header().source_addr() == from && v6.header().destination_addr() == to => {
                ensure!(usize::from(v6.header().payload_length()) + 40 == packet.len(), "length of {}", hex(packet));
                ([v6.header().source().to_vec(), v6.header().destination().to_vec()].concat(), 40)
            }
            _ => continue,
        };
        seen.packets += 1;
        let merged = packet.len() > mtu;
        seen.merged += usize::from(merged);
        let protocol = match &sliced.transport {
            Some(TransportSlice::Tcp(_)) => 6,
            Some(TransportSlice::Udp(_)) => 17,
            _ => continue,
        };
        let transport = &packet[pseudo..];
        let field = if protocol == 6 { 16 } else { 6 };
        let head = sum(&addresses) + protocol + transport.len() as u64;
        let stored = u16::from_be_bytes([transport[field], transport[field + 1]]);
        let right = if merged { stored == fold(head) } else { fold(head + sum(transport)) == u16::MAX };
        ensure!(right, "transport checksum of {}", hex(packet));
        if let Some(TransportSlice::Tcp(tcp)) = &sliced.transport {
            ensure!(!merged || (!tcp.syn() && !tcp.rst() && !tcp.urg() && tcp.ack()), "flags of {}", hex(packet));
            let ports = (tcp.source_port(), tcp.destination_port());
            if tcp.syn() {
                starts.insert(ports, tcp.sequence_number().wrapping_add(1));
            }
            let Some(start) = starts.get(&ports) else { bail!("a segment before its SYN: {}", hex(packet)) };
            let at = tcp.sequence_number().wrapping_sub(*start) as usize;
            let wrong = tcp.payload().iter().enumerate().find(|(index, byte)| content(at + index) != **byte);
            ensure!(wrong.is_none(), "byte {wrong:?} behind {at} in {}", hex(packet));
            seen.bytes += tcp.payload().len();
        }
    }
    Ok(seen)
}

fn sum(bytes: &[u8]) -> u64 {
    bytes.chunks(2).map(|pair| u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]))).sum()
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The headers of a packet.
fn hex(packet: &[u8]) -> String {
    packet.iter().take(80).map(|byte| format!("{byte:02x}")).collect()
}
