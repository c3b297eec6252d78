//! What a TUN device gives, cut into datagrams with room for header and tag.

use super::checksum::{fold, pseudo_header, sum};
use super::{HEADER, TAG, VNET};

const TCP: u8 = 6;
const UDP: u8 = 17;
/// The packet leaves its checksum to the reader (virtio 1.2, 5.1.6).
const NEEDS_CHECKSUM: u8 = 1;

/// How the pieces lie in the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pieces {
    /// Bytes of each datagram but the last, header and tag included.
    pub(super) stride: usize,
    /// Bytes of all together.
    pub(super) total: usize,
}

/// Cuts one read (virtio header, packet) into datagrams in `out`, each with [`HEADER`] bytes in front and [`TAG`] behind its packet. `None` for
/// what is no TCP or UDP super-packet and no plain IP packet either.
pub(super) fn split(read: &mut [u8], out: &mut [u8]) -> Option<Pieces> {
    let (vnet, packet) = read.split_at_mut_checked(VNET)?;
    let word = |at: usize| usize::from(u16::from_ne_bytes([vnet[at], vnet[at + 1]]));
    let (kind, segment, start, field) = (vnet[1] & 0x7f, word(4), word(6), word(8));
    let v6 = packet.first()? >> 4 == 6;
    if packet.len() < if v6 { 40 } else { 20 } {
        return None;
    }
    if kind == 0 {
        if vnet[0] & NEEDS_CHECKSUM != 0 {
            let checksum = !fold(sum(packet.get(start..)?, 0));
            packet.get_mut(start + field..start + field + 2)?.copy_from_slice(&checksum.to_ne_bytes());
        }
        let total = HEADER + packet.len() + TAG;
        out.get_mut(HEADER..total - TAG)?.copy_from_slice(packet);
        return Some(Pieces { stride: total, total });
    }
    let tcp = matches!(kind, 1 | 4);
    let own = if tcp { usize::from(*packet.get(start + 12)? >> 4) * 4 } else { 8 };
    let (header, payload) = packet.split_at_checked(start + own)?;
    let super_packet = Super { header, start, v6, tcp };
    let stride = HEADER + header.len() + segment + TAG;
    let count = payload.len().div_ceil(segment.max(1));
    let mut total = 0;
    for (index, part) in payload.chunks(segment.max(1)).enumerate() {
        let len = header.len() + part.len();
        let place = out.get_mut(total + HEADER..total + HEADER + len)?;
        place[..header.len()].copy_from_slice(header);
        place[header.len()..].copy_from_slice(part);
        super_packet.patch(place, index, segment, index + 1 == count)?;
        total += HEADER + len + TAG;
    }
    Some(Pieces { stride, total })
}

struct Super<'a> {
    header: &'a [u8],
    start: usize,
    v6: bool,
    tcp: bool,
}

impl Super<'_> {
    /// Makes a copy of the super-packet's headers those of one of its packets.
    fn patch(&self, packet: &mut [u8], index: usize, segment: usize, last: bool) -> Option<()> {
        let (start, len) = (self.start, packet.len());
        if self.v6 {
            packet[4..6].copy_from_slice(&((len - 40) as u16).to_be_bytes());
        } else {
            let id = u16::from_be_bytes([self.header[4], self.header[5]]).wrapping_add(index as u16);
            packet[2..4].copy_from_slice(&(len as u16).to_be_bytes());
            packet[4..6].copy_from_slice(&id.to_be_bytes());
            packet[10..12].fill(0);
            let checksum = !fold(sum(&packet[..start], 0));
            packet[10..12].copy_from_slice(&checksum.to_ne_bytes());
        }
        let field = if self.tcp {
            let sequence = u32::from_be_bytes(*self.header.get(start + 4..)?.first_chunk()?);
            packet[start + 4..start + 8].copy_from_slice(&sequence.wrapping_add((index * segment) as u32).to_be_bytes());
            // FIN and PSH belong to the last, CWR to the first.
            packet[start + 13] &= if last { 0xff } else { !0x09 } & if index == 0 { 0xff } else { !0x80 };
            start + 16
        } else {
            packet[start + 4..start + 6].copy_from_slice(&((len - start) as u16).to_be_bytes());
            start + 6
        };
        packet[field..field + 2].fill(0);
        let pseudo = pseudo_header(packet, self.v6, if self.tcp { TCP } else { UDP }, len - start);
        let checksum = !fold(sum(&packet[start..], pseudo));
        packet[field..field + 2].copy_from_slice(&checksum.to_ne_bytes());
        Some(())
    }
}
