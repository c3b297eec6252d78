//! Joining the segments of a flow again, over a whole batch, into super-packets that the kernel takes in one write.
//!
//! The rules are those of the kernel's own receive offload: what was merged can be split again into the very same packets.

use std::io::{self, IoSlice};

use annulus_core::batch::Slot;

use crate::checksum::{fold, pseudo_header, sum};
use crate::split::{ACK, CWR, FIN, PSH, TCP, UDP};
use crate::virtio::{self, GSO_ECN, GSO_TCP4, GSO_TCP6, GSO_UDP, NEEDS_CHECKSUM};

/// Packets in one super-packet: 64 KB hold 47 of usual size; beyond 64 the kernel's UDP offload refuses before Linux 6.9.
const MAX_RUN: usize = 64;
/// Flows that are open at once within a batch. A power of two; a flow that meets a taken place pushes the older one out, which then merges no
/// further but keeps its order. Far more than the flows that share one batch and are worth merging.
const FLOWS: usize = 128;
/// Largest IP and TCP headers that are merged: IPv6 without extension headers, TCP with all options.
const HEADER_MAX: usize = 40 + 60;
/// Bytes of an IP packet at most.
const PACKET_MAX: u32 = 65_535;
/// End of a chain of slots, or no run.
const NONE: u32 = u32::MAX;

/// The virtio header and the patched headers of one super-packet.
type Front = [u8; virtio::LEN + HEADER_MAX];

/// Packets that go to the device in one write: a single one, or neighbours of one flow.
#[derive(Clone, Copy, Debug)]
struct Run {
    first: u32,
    last: u32,
    count: u32,
    /// Bytes of the IP packet so far.
    total: u32,
    shape: Shape,
    /// Nothing may join any more.
    closed: bool,
    /// The first packet's transport checksum is known to be right.
    verified: bool,
    /// Whether IPv4 IDs stand still (`true`) or count (`false`); undecided until the second packet.
    fixed_id: Option<bool>,
    /// Place of the super-packet's front, if it is one.
    front: u32,
    /// The only packet of its flow in the batch, or of no flow: it is written before all that is not.
    sparse: bool,
}

/// What the headers say of a packet that may be merged; `mergeable` is false for all others.
#[derive(Clone, Copy, Debug, Default)]
struct Shape {
    mergeable: bool,
    v6: bool,
    protocol: u8,
    /// Offset of the transport header.
    transport: u8,
    /// Bytes of all headers.
    header: u8,
    /// Payload bytes.
    payload: u16,
    /// IPv4 ID of the newest packet.
    id: u16,
    /// TCP sequence number after the newest packet.
    next: u32,
    /// TCP flags of the newest packet.
    flags: u8,
    /// Which place of the flow table; [`NONE`] for packets that belong to no TCP or UDP flow.
    place: u32,
}

/// Plans and does the merging; its tables are reused from batch to batch.
#[derive(Debug)]
pub(crate) struct Merger {
    runs: Vec<Run>,
    /// The slot that follows a slot in its run.
    chain: Vec<u32>,
    /// The newest run of a flow.
    flows: Box<[u32; FLOWS]>,
    fronts: Vec<Front>,
    /// Whether there are both sparse runs and others, and none that must keep its place.
    sorted: bool,
}

/// What is merged at all: what the device has been told that it may be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Allowed {
    pub(crate) tcp: bool,
    pub(crate) udp: bool,
}

impl Merger {
    pub(crate) fn new() -> Self {
        Self { runs: Vec::new(), chain: Vec::new(), flows: Box::new([NONE; FLOWS]), fronts: Vec::new(), sorted: false }
    }

    /// Groups the packets into runs, in the order of the first packet of each; the packets of a flow keep their order. Runs of a single packet that is
    /// alone of its flow are written first: an echo does not wait until a megabyte of a stream has been written that came with it.
    #[expect(clippy::cast_possible_truncation, reason = "a batch has far less than 2^32 slots")]
    pub(crate) fn plan(&mut self, buf: &[u8], slots: &[Slot], allowed: Allowed) {
        self.runs.clear();
        self.fronts.clear();
        self.chain.clear();
        self.chain.resize(slots.len(), NONE);
        self.flows.fill(NONE);
        let mut movable = true;
        for (index, slot) in slots.iter().enumerate() {
            let packet = &buf[slot.range()];
            let shape = shape(packet, allowed);
            let mut alone = true;
            if shape.place == NONE {
                if is_fragment_or_opaque(packet) {
                    // It may belong to any flow: nothing after it may be written before it.
                    self.flows.fill(NONE);
                    movable = false;
                }
            } else {
                let open = self.flows[shape.place as usize];
                if open != NONE {
                    self.runs[open as usize].sparse = false;
                    if self.join(open as usize, index as u32, buf, slots, shape) {
                        continue;
                    }
                }
                alone = open == NONE;
                self.flows[shape.place as usize] = self.runs.len() as u32;
            }
            let (index, total) = (index as u32, u32::from(slot.len));
            let closed = !shape.mergeable || (shape.protocol == TCP && shape.flags & (FIN | PSH) != 0);
            self.runs.push(Run {
                first: index,
                last: index,
                count: 1,
                total,
                shape,
                closed,
                verified: false,
                fixed_id: None,
                front: NONE,
                sparse: alone,
            });
        }
        self.sorted = movable && self.runs.iter().any(|run| run.sparse) && !self.runs.iter().all(|run| run.sparse);
        for index in 0..self.runs.len() {
            if self.runs[index].count > 1 {
                self.runs[index].front = self.fronts.len() as u32;
                self.fronts.push(front(&self.runs[index], buf, slots));
            }
        }
    }

    /// Appends slot `index` to run `open` if it is the next packet of the same flow.
    fn join(&mut self, open: usize, index: u32, buf: &[u8], slots: &[Slot], shape: Shape) -> bool {
        let run = self.runs[open];
        if run.closed || !shape.mergeable || run.count as usize >= MAX_RUN || run.total + u32::from(shape.payload) > PACKET_MAX {
            return false;
        }
        let first = &buf[slots[run.first as usize].range()];
        let packet = &buf[slots[index as usize].range()];
        let Some(fixed_id) = continues(&run, first, packet, shape) else { return false };
        if !(run.verified || is_checksum_right(first, &run.shape)) {
            self.runs[open].closed = true;
            return false;
        }
        self.runs[open].verified = true;
        if !is_checksum_right(packet, &shape) {
            return false;
        }
        self.chain[run.last as usize] = index;
        let run = &mut self.runs[open];
        run.last = index;
        run.count += 1;
        run.total += u32::from(shape.payload);
        run.fixed_id = Some(fixed_id);
        run.closed = shape.payload < run.shape.payload || shape.flags & (FIN | PSH) != 0;
        run.shape.next = shape.next;
        run.shape.id = shape.id;
        run.shape.flags |= shape.flags & (FIN | PSH);
        true
    }

    /// Number of writes that the plan needs.
    #[cfg(test)]
    pub(crate) fn writes(&self) -> usize {
        self.runs.len()
    }

    /// Gives each run to `write` as virtio header and packet in parts, together with its number of packets. A super-packet that `write` refuses
    /// as invalid is given again packet by packet. Returns packets written and refused.
    pub(crate) fn write(
        &self,
        buf: &[u8],
        slots: &[Slot],
        mut write: impl FnMut(&[IoSlice<'_>], usize) -> io::Result<()>,
    ) -> (usize, usize) {
        const PLAIN: [u8; virtio::LEN] = [0; virtio::LEN];
        let mut parts = [IoSlice::new(&PLAIN); MAX_RUN + 1];
        let (mut written, mut refused) = (0, 0);
        let first = self.runs.iter().filter(|run| self.sorted && run.sparse);
        for run in first.chain(self.runs.iter().filter(|run| !(self.sorted && run.sparse))) {
            let count = run.count as usize;
            if let Some(front) = self.fronts.get(run.front as usize) {
                let header = usize::from(run.shape.header);
                parts[0] = IoSlice::new(&front[..virtio::LEN + header]);
                let mut slot = run.first;
                for part in &mut parts[1..=count] {
                    *part = IoSlice::new(&buf[slots[slot as usize].range()][header..]);
                    slot = self.chain[slot as usize];
                }
                match write(&parts[..=count], count) {
                    Ok(()) => {
                        written += count;
                        continue;
                    }
                    Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
                    Err(_) => {
                        refused += count;
                        continue;
                    }
                }
            }
            let mut slot = run.first;
            while slot != NONE {
                let packet = &buf[slots[slot as usize].range()];
                match write(&[IoSlice::new(&PLAIN), IoSlice::new(packet)], 1) {
                    Ok(()) => written += 1,
                    Err(_) => refused += 1,
                }
                slot = self.chain[slot as usize];
            }
        }
        (written, refused)
    }
}

/// Whether `packet` continues the run; if so, whether IPv4 IDs stand still.
fn continues(run: &Run, first: &[u8], packet: &[u8], shape: Shape) -> Option<bool> {
    let head = &run.shape;
    if head.v6 != shape.v6
        || head.protocol != shape.protocol
        || head.header != shape.header
        || shape.payload > head.payload
        || shape.payload == 0
    {
        return None;
    }
    let fixed_id = if shape.v6 {
        // Version, traffic class, flow label; next header, hop limit, addresses.
        if first[..4] != packet[..4] || first[6..40] != packet[6..40] {
            return None;
        }
        false
    } else {
        // Version, length, traffic class; fragment flags, time to live, protocol; addresses.
        if first[..2] != packet[..2] || first[6..10] != packet[6..10] || first[12..20] != packet[12..20] {
            return None;
        }
        let counts = shape.id == head.id.wrapping_add(1);
        // A constant ID means nothing where "don't fragment" is set (RFC 6864).
        let stands = shape.id == head.id && packet[6] & 0x40 != 0;
        match run.fixed_id {
            _ if !counts && !stands => return None,
            Some(fixed) if fixed != stands => return None,
            _ => stands,
        }
    };
    let transport = usize::from(shape.transport);
    let (a, b) = (&first[transport..usize::from(head.header)], &packet[transport..usize::from(shape.header)]);
    if a[..4] != b[..4] {
        return None;
    }
    if shape.protocol == TCP {
        let sequence = u32::from_be_bytes(*b[4..].first_chunk()?);
        let flags_differ = (a[13] ^ b[13]) & !(CWR | FIN | PSH) != 0;
        // Acknowledgement, header length, window, urgent pointer, options.
        let fields_differ = a[8..13] != b[8..13] || a[14..16] != b[14..16] || a[18..] != b[18..];
        if sequence != head.next || flags_differ || fields_differ || b[13] & CWR != 0 {
            return None;
        }
    }
    Some(fixed_id)
}

/// The super-packet's virtio header and its first packet's headers, patched to cover all of it.
#[expect(clippy::cast_possible_truncation, reason = "a run is at most 65,535 bytes long")]
fn front(run: &Run, buf: &[u8], slots: &[Slot]) -> Front {
    let shape = &run.shape;
    let (header, transport) = (usize::from(shape.header), usize::from(shape.transport));
    let mut front = [0; virtio::LEN + HEADER_MAX];
    let (vnet, packet) = front.split_at_mut(virtio::LEN);
    let packet = &mut packet[..header];
    packet.copy_from_slice(&buf[slots[run.first as usize].range()][..header]);
    if shape.v6 {
        packet[4..6].copy_from_slice(&((run.total - 40) as u16).to_be_bytes());
    } else {
        packet[2..4].copy_from_slice(&(run.total as u16).to_be_bytes());
        packet[10..12].fill(0);
        let checksum = !fold(sum(&packet[..transport], 0));
        packet[10..12].copy_from_slice(&checksum.to_ne_bytes());
    }
    let length = run.total as usize - transport;
    let partial = fold(pseudo_header(packet, shape.v6, shape.protocol, length));
    let segment = &mut packet[transport..];
    let (kind, field) = if shape.protocol == TCP {
        segment[13] |= shape.flags & (FIN | PSH);
        let ecn = if segment[13] & CWR == 0 { 0 } else { GSO_ECN };
        (if shape.v6 { GSO_TCP6 } else { GSO_TCP4 } | ecn, 16)
    } else {
        segment[4..6].copy_from_slice(&(length as u16).to_be_bytes());
        (GSO_UDP, 6)
    };
    segment[field..field + 2].copy_from_slice(&partial.to_ne_bytes());
    let header = virtio::Header {
        flags: NEEDS_CHECKSUM,
        kind,
        header_len: u16::from(shape.header),
        segment: shape.payload,
        checksum_start: u16::from(shape.transport),
        checksum_offset: field as u16,
    };
    header.write(vnet);
    front
}

/// Reads the headers of a packet.
fn shape(packet: &[u8], allowed: Allowed) -> Shape {
    let none = Shape { place: NONE, ..Shape::default() };
    let (v6, transport, protocol, whole, id) = match packet.first() {
        // Without options; not a fragment; the length field agrees with the slot.
        Some(0x45) if packet.len() >= 28 && packet[6] & 0x3f == 0 && packet[7] == 0 => {
            let whole = usize::from(u16::from_be_bytes([packet[2], packet[3]])) == packet.len();
            (false, 20, packet[9], whole, u16::from_be_bytes([packet[4], packet[5]]))
        }
        Some(first) if first >> 4 == 6 && packet.len() >= 48 => {
            (true, 40, packet[6], usize::from(u16::from_be_bytes([packet[4], packet[5]])) + 40 == packet.len(), 0)
        }
        _ => return none,
    };
    let (header, flags, next, candidate) = match protocol {
        TCP if packet.len() >= transport + 20 => {
            let header = transport + usize::from(packet[transport + 12] >> 4) * 4;
            let flags = packet[transport + 13];
            let sequence = packet[transport + 4..].first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes));
            // Acknowledging data; ECN echo and CWR are compared later; SYN, RST and URG always travel alone.
            (header, flags, sequence, allowed.tcp && header >= transport + 20 && flags & 0x26 == 0 && flags & ACK != 0)
        }
        UDP => {
            let whole = usize::from(u16::from_be_bytes([packet[transport + 4], packet[transport + 5]])) == packet.len() - transport;
            // Without a checksum nothing says that the bytes are right, and the kernel would have to make one up.
            (transport + 8, 0, 0, allowed.udp && whole && packet[transport + 6..transport + 8] != [0, 0])
        }
        _ => return none,
    };
    let payload = packet.len().saturating_sub(header);
    #[expect(clippy::cast_possible_truncation, reason = "headers have at most 100 bytes, a packet at most 65,535")]
    Shape {
        mergeable: candidate && whole && payload > 0 && (v6 || fold(sum(&packet[..20], 0)) == u16::MAX),
        v6,
        protocol,
        transport: transport as u8,
        header: header as u8,
        payload: payload as u16,
        id,
        next: next.wrapping_add(payload as u32),
        flags,
        place: place(packet, v6, transport),
    }
}

/// The flow's place in the table: a cheap mix of addresses, ports and protocol. Collisions cost merging, never order.
fn place(packet: &[u8], v6: bool, transport: usize) -> u32 {
    let word = |at: usize| packet[at..].first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes));
    let addresses = if v6 { word(20) ^ word(36).rotate_left(7) } else { word(12) ^ word(16).rotate_left(7) };
    let mixed = (addresses ^ word(transport).rotate_left(13)).wrapping_mul(0x9e37_79b1);
    mixed >> (32 - FLOWS.trailing_zeros())
}

/// Whether a packet may belong to a flow although its ports cannot be seen: fragments, options, extension headers.
fn is_fragment_or_opaque(packet: &[u8]) -> bool {
    match packet.first() {
        Some(first) if first >> 4 == 4 && packet.len() >= 20 => matches!(packet[9], TCP | UDP),
        // Hop-by-hop, routing, fragment, destination options.
        Some(first) if first >> 4 == 6 && packet.len() >= 40 => matches!(packet[6], TCP | UDP | 0 | 43 | 44 | 60),
        _ => false,
    }
}

/// Verifies the transport checksum: a merged packet gets a new one, which must not hide that the old one was wrong.
fn is_checksum_right(packet: &[u8], shape: &Shape) -> bool {
    let transport = usize::from(shape.transport);
    fold(sum(&packet[transport..], pseudo_header(packet, shape.v6, shape.protocol, packet.len() - transport))) == u16::MAX
}

#[cfg(test)]
mod tests;
