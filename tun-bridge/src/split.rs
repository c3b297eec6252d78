//! Cutting the super-packets of a TUN device into packets as the wire wants them, one segment at a time.

use crate::checksum::{copy, fold, pseudo_header, sum};
use crate::device::Placer;
use crate::virtio::{GSO_ECN, GSO_NONE, GSO_TCP4, GSO_TCP6, GSO_UDP, Header, NEEDS_CHECKSUM};

/// Protocol number of TCP.
pub(crate) const TCP: u8 = 6;
/// Protocol number of UDP.
pub(crate) const UDP: u8 = 17;
/// Bits of the TCP flags byte.
pub(crate) const FIN: u8 = 0x01;
/// Push: the receiver should not wait for more.
pub(crate) const PSH: u8 = 0x08;
/// Acknowledgement field is valid.
pub(crate) const ACK: u8 = 0x10;
/// Congestion window reduced.
pub(crate) const CWR: u8 = 0x80;

/// The packet contradicts its virtio header, or is no IP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// How a packet from the device is to be cut, and how far that has got. Cutting may stop at any segment and go on later.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Split {
    /// Bytes of the packet.
    len: usize,
    /// Bytes of IP and transport header; for an uncut packet 0.
    header: usize,
    /// Payload bytes of each segment but the last; for an uncut packet all.
    segment: usize,
    /// Offset of the transport header.
    transport: usize,
    protocol: u8,
    v6: bool,
    sequence: u32,
    id: u16,
    /// Sum of the pseudo header without its length.
    pseudo: u64,
    /// Sum of an IPv4 header without what differs between segments: length, ID and checksum.
    ip_sum: u64,
    /// Payload bytes already cut off.
    done: usize,
    /// Segments already cut off.
    index: u16,
    /// Whether the (uncut) packet still has to be handed out.
    whole: bool,
}

impl Split {
    /// Looks at a packet from the device; completes the checksum of one that is not to be cut.
    pub(crate) fn new(header: &Header, packet: &mut [u8]) -> Result<Self, Malformed> {
        let v6 = match packet.first().map(|byte| byte >> 4) {
            Some(4) if packet.len() >= 20 => false,
            Some(6) if packet.len() >= 40 => true,
            _ => return Err(Malformed),
        };
        // The length of a slot is 16 bits wide.
        if header.kind == GSO_NONE && packet.len() <= usize::from(u16::MAX) {
            if header.flags & NEEDS_CHECKSUM != 0 {
                complete_checksum(header, packet)?;
            }
            return Ok(Self::whole(packet.len(), v6));
        }
        Self::cut(header, packet, v6)
    }

    const fn whole(len: usize, v6: bool) -> Self {
        Self {
            len,
            header: 0,
            segment: len,
            transport: 0,
            protocol: 0,
            v6,
            sequence: 0,
            id: 0,
            pseudo: 0,
            ip_sum: 0,
            done: 0,
            index: 0,
            whole: true,
        }
    }

    fn cut(header: &Header, packet: &[u8], v6: bool) -> Result<Self, Malformed> {
        let protocol = match header.kind & !GSO_ECN {
            GSO_TCP4 if !v6 => TCP,
            GSO_TCP6 if v6 => TCP,
            GSO_UDP => UDP,
            _ => return Err(Malformed),
        };
        // Only the kernel knows how many extension headers it put before the transport header; it says so where it leaves the checksum to us.
        let transport = if header.flags & NEEDS_CHECKSUM != 0 {
            usize::from(header.checksum_start)
        } else if v6 {
            40
        } else {
            usize::from(packet[0] & 15) * 4
        };
        let ip_header_fits = if v6 { transport >= 40 } else { transport >= 20 && transport == usize::from(packet[0] & 15) * 4 };
        let claimed = if v6 { packet[6] } else { packet[9] };
        if !ip_header_fits || ((!v6 || transport == 40) && claimed != protocol) {
            return Err(Malformed);
        }
        let fixed = if protocol == TCP { 20 } else { 8 };
        if packet.len() < transport + fixed {
            return Err(Malformed);
        }
        let own = if protocol == TCP { usize::from(packet[transport + 12] >> 4) * 4 } else { 8 };
        let header_len = transport + own;
        let segment = usize::from(header.segment);
        if own < fixed || packet.len() <= header_len || segment == 0 || header_len + segment > usize::from(u16::MAX) {
            return Err(Malformed);
        }
        let pseudo = if header.flags & NEEDS_CHECKSUM == 0 {
            pseudo_header(packet, v6, protocol, 0)
        } else {
            // The kernel has left the pseudo header's sum in the field. With a routing header only the kernel knows which address went into it.
            let field = if protocol == TCP { 16 } else { 6 };
            if usize::from(header.checksum_offset) != field {
                return Err(Malformed);
            }
            let partial = u16::from_ne_bytes([packet[transport + field], packet[transport + field + 1]]);
            // Less the length of the whole: ones' complement subtraction. The low 16 bits are what the kernel added.
            #[expect(
                clippy::cast_possible_truncation,
                reason = "the sum of a length beyond 65,535 wraps as the kernel's 16-bit field does"
            )]
            let length = (packet.len() - transport) as u16;
            u64::from(partial) + u64::from(!length.to_be())
        };
        let sequence = if protocol == TCP { u32::from_be_bytes(*packet[transport + 4..].first_chunk().ok_or(Malformed)?) } else { 0 };
        Ok(Self {
            len: packet.len(),
            header: header_len,
            segment,
            transport,
            protocol,
            v6,
            sequence,
            id: u16::from_be_bytes([packet[4], packet[5]]),
            pseudo,
            ip_sum: if v6 { 0 } else { sum(&packet[12..transport], sum(&packet[6..10], sum(&packet[..2], 0))) },
            done: 0,
            index: 0,
            whole: false,
        })
    }

    /// Bytes of the longest packet that comes out.
    pub(crate) const fn longest(&self) -> usize {
        let payload = self.len - self.header;
        self.header + if payload < self.segment { payload } else { self.segment }
    }

    /// Whether everything has been handed out.
    pub(crate) const fn is_done(&self) -> bool {
        if self.whole { self.index > 0 } else { self.done + self.header >= self.len }
    }

    /// Hands out packets until there is no more room; whether all of them are out.
    pub(crate) fn place(&mut self, packet: &[u8], placer: &mut Placer<'_>) -> bool {
        let longest = self.longest();
        while !self.is_done() {
            let Some(room) = placer.room(longest) else { return false };
            let len = self.next(packet, room);
            placer.placed(len);
        }
        true
    }

    /// Writes the next packet to the front of `out`, which has [`longest`](Self::longest) bytes at least, and returns its length. This is the one
    /// copy that a packet meets between the device and the wire.
    pub(crate) fn next(&mut self, packet: &[u8], out: &mut [u8]) -> usize {
        if self.whole {
            out[..self.len].copy_from_slice(packet);
            self.index = 1;
            return self.len;
        }
        let start = self.header + self.done;
        let end = (start + self.segment).min(self.len);
        let len = self.header + end - start;
        let out = &mut out[..len];
        let (head, payload) = out.split_at_mut(self.header);
        head.copy_from_slice(&packet[..self.header]);
        let payload_sum = copy(payload, &packet[start..end], 0);
        self.patch_ip(head, len);
        self.patch_transport(head, len, payload_sum, end == self.len);
        self.done = end - self.header;
        self.index = self.index.wrapping_add(1);
        len
    }

    #[expect(clippy::cast_possible_truncation, reason = "the constructor made sure that no segment is longer than 65,535 bytes")]
    fn patch_ip(&self, head: &mut [u8], len: usize) {
        let len = len as u16;
        if self.v6 {
            head[4..6].copy_from_slice(&(len - 40).to_be_bytes());
        } else {
            let id = self.id.wrapping_add(self.index);
            head[2..4].copy_from_slice(&len.to_be_bytes());
            head[4..6].copy_from_slice(&id.to_be_bytes());
            let checksum = !fold(self.ip_sum + u64::from(len.to_be()) + u64::from(id.to_be()));
            head[10..12].copy_from_slice(&checksum.to_ne_bytes());
        }
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "lengths and offsets in a packet are below 2^17, and the sequence number wraps at 2^32"
    )]
    fn patch_transport(&self, head: &mut [u8], len: usize, payload_sum: u64, last: bool) {
        let transport = &mut head[self.transport..];
        let length = (len - self.transport) as u16;
        let field = if self.protocol == TCP {
            transport[4..8].copy_from_slice(&self.sequence.wrapping_add(self.done as u32).to_be_bytes());
            if !last {
                transport[13] &= !(FIN | PSH);
            }
            if self.index > 0 {
                transport[13] &= !CWR;
            }
            16
        } else {
            transport[4..6].copy_from_slice(&length.to_be_bytes());
            6
        };
        transport[field..field + 2].fill(0);
        // The headers have an even length, so the payload's sum counts as it is.
        let mut checksum = !fold(sum(transport, payload_sum + self.pseudo + u64::from(length.to_be())));
        if checksum == 0 && self.protocol == UDP {
            // RFC 768: zero means "no checksum".
            checksum = u16::MAX;
        }
        transport[field..field + 2].copy_from_slice(&checksum.to_ne_bytes());
    }
}

/// Adds what the kernel left out: the field holds the pseudo header's sum, the rest of the packet is summed from the transport header on.
fn complete_checksum(header: &Header, packet: &mut [u8]) -> Result<(), Malformed> {
    let start = usize::from(header.checksum_start);
    let field = start + usize::from(header.checksum_offset);
    if start < 20 || field + 2 > packet.len() {
        return Err(Malformed);
    }
    let mut checksum = !fold(sum(&packet[start..], 0));
    if checksum == 0 && header.checksum_offset == 6 {
        checksum = u16::MAX;
    }
    packet[field..field + 2].copy_from_slice(&checksum.to_ne_bytes());
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests;
