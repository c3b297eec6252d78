//! Opened packets, put together again while they continue one TCP stream, and written with one call.

use std::io::IoSlice;
use std::os::fd::AsFd;

use nix::sys::uio::writev;

use super::VNET;
use super::checksum::{fold, pseudo_header, sum};

const TCP: u8 = 6;
const PSH: u8 = 8;
const ACK: u8 = 16;
/// Bytes of the longest IPv6 and TCP header together, without extension headers.
const HEADERS: usize = 40 + 60;
/// Payloads in one write; the kernel takes 1,024, but 64 KB hold fewer.
const PARTS: usize = 64;

/// Packets of a stream that wait to be written: they all lie in the same receive buffer.
pub(super) struct Merge {
    front: [u8; VNET + HEADERS],
    parts: [(u32, u32); PARTS],
    count: usize,
    /// Bytes of IP and TCP header.
    header: usize,
    /// Offset of the TCP header.
    start: usize,
    v6: bool,
    /// Payload bytes of the first packet; no other is longer.
    segment: usize,
    total: usize,
    next: u32,
    /// A short packet or PSH was the last one.
    closed: bool,
}

impl Merge {
    pub(super) const fn new() -> Self {
        Self {
            front: [0; VNET + HEADERS],
            parts: [(0, 0); PARTS],
            count: 0,
            header: 0,
            start: 0,
            v6: false,
            segment: 0,
            total: 0,
            next: 0,
            closed: false,
        }
    }

    /// Takes the packet at `at` (start, end) of `buf`; writes what cannot wait for more.
    pub(super) fn push(&mut self, device: &impl AsFd, buf: &[u8], at: (usize, usize)) {
        let packet = &buf[at.0..at.1];
        let Some((start, header, v6)) = tcp_data(packet) else {
            self.flush(device, buf);
            // A full queue of the device drops, as a full queue of a network card does.
            let _ = writev(device, &[IoSlice::new(&[0; VNET]), IoSlice::new(packet)]);
            return;
        };
        let payload = packet.len() - header;
        let sequence = u32::from_be_bytes([packet[start + 4], packet[start + 5], packet[start + 6], packet[start + 7]]);
        let fits = self.count > 0
            && self.count < PARTS
            && !self.closed
            && self.v6 == v6
            && self.header == header
            && self.next == sequence
            && payload <= self.segment
            && self.total + payload <= 65_535
            && self.continues(packet);
        if !fits {
            self.flush(device, buf);
            self.front[VNET..VNET + header].copy_from_slice(&packet[..header]);
            (self.header, self.start, self.v6, self.segment, self.total) = (header, start, v6, payload, header);
        }
        self.front[VNET + start + 13] |= packet[start + 13] & PSH;
        self.closed = payload < self.segment || packet[start + 13] & PSH != 0;
        self.parts[self.count] = ((at.0 + header) as u32, payload as u32);
        self.count += 1;
        self.total += payload;
        self.next = sequence.wrapping_add(payload as u32);
    }

    /// Whether all that must be equal is: type of service, time to live and addresses, ports, acknowledgement, window and options.
    fn continues(&self, packet: &[u8]) -> bool {
        let (head, start) = (&self.front[VNET..VNET + self.header], self.start);
        let ip = if self.v6 {
            head[..4] == packet[..4] && head[6..40] == packet[6..40]
        } else {
            head[1] == packet[1] && head[6..10] == packet[6..10] && head[12..20] == packet[12..20]
        };
        let tcp = |from: usize, to: usize| head[start + from..start + to] == packet[start + from..start + to];
        ip && tcp(0, 4) && tcp(8, 13) && tcp(14, 16) && head[start + 20..] == packet[start + 20..self.header]
    }

    /// Writes what waits.
    pub(super) fn flush(&mut self, device: &impl AsFd, buf: &[u8]) {
        if self.count == 0 {
            return;
        }
        let (vnet, packet) = self.front.split_at_mut(VNET);
        let packet = &mut packet[..self.header];
        vnet.fill(0);
        if self.count > 1 {
            if self.v6 {
                packet[4..6].copy_from_slice(&((self.total - 40) as u16).to_be_bytes());
            } else {
                packet[2..4].copy_from_slice(&(self.total as u16).to_be_bytes());
                packet[10..12].fill(0);
                let checksum = !fold(sum(&packet[..self.start], 0));
                packet[10..12].copy_from_slice(&checksum.to_ne_bytes());
            }
            let partial = fold(pseudo_header(packet, self.v6, TCP, self.total - self.start));
            packet[self.start + 16..self.start + 18].copy_from_slice(&partial.to_ne_bytes());
            vnet[0] = 1;
            vnet[1] = if self.v6 { 4 } else { 1 };
            for (at, value) in [(2, self.header), (4, self.segment), (6, self.start), (8, 16)] {
                vnet[at..at + 2].copy_from_slice(&(value as u16).to_ne_bytes());
            }
        }
        let mut slices = [IoSlice::new(&[]); PARTS + 1];
        slices[0] = IoSlice::new(&self.front[..VNET + self.header]);
        for (slice, (start, len)) in slices[1..].iter_mut().zip(&self.parts[..self.count]) {
            *slice = IoSlice::new(&buf[*start as usize..(start + len) as usize]);
        }
        // A full queue of the device drops, as a full queue of a network card does.
        let _ = writev(device, &slices[..=self.count]);
        self.count = 0;
    }
}

/// Where the TCP header begins and ends if the packet carries data and nothing unusual, and its checksum is right.
fn tcp_data(packet: &[u8]) -> Option<(usize, usize, bool)> {
    let v6 = packet.first()? >> 4 == 6;
    let start = if v6 { 40 } else { usize::from(packet[0] & 15) * 4 };
    if packet.len() < start + 20 || packet[if v6 { 6 } else { 9 }] != TCP || start < 20 {
        return None;
    }
    let header = start + usize::from(packet[start + 12] >> 4) * 4;
    let plain = packet[start + 13] & !PSH == ACK && header >= start + 20 && header <= HEADERS && packet.len() > header;
    (plain && fold(sum(&packet[start..], pseudo_header(packet, v6, TCP, packet.len() - start))) == u16::MAX).then_some((start, header, v6))
}
