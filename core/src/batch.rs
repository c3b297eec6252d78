//! A batch of packets in one caller-owned buffer: what crosses between drivers and shards.

use crate::io::{Path, TrafficClass, Verdict};
use crate::wire::packet::RELAY_HEADER_LEN;

/// Bytes that must be free in front of an inner packet: relay header (4) and data header (8).
pub const HEADROOM: usize = 12;
/// Bytes that must be free behind an inner packet: the AEAD tag.
pub const TAILROOM: usize = 16;
/// Bytes by which the headroom of a packet may reach into the tailroom of the packet before it: the place of the relay header, which few packets get.
/// So close together, sealed packets lie back to back, and the kernel copies a whole run of them at once.
pub const OVERLAP: usize = RELAY_HEADER_LEN;

/// One packet of a batch: where it lies in the buffer, where it came from, and what shall happen to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slot {
    /// Offset of the first byte in the batch's buffer.
    pub start: u32,
    /// Length in bytes.
    pub len: u16,
    /// The path that a received datagram came in by; unset ([`Path::NONE`]) for packets from the host.
    pub from: Path,
    /// The traffic class of the outer header (received) or for it (to be sent); a shard sets it when it seals.
    pub class: TrafficClass,
    /// What the shard decided; shards touch only [`Verdict::Pending`] slots.
    pub verdict: Verdict,
}

impl Slot {
    /// The byte range of the packet in the batch's buffer.
    #[must_use]
    pub const fn range(&self) -> core::ops::Range<usize> {
        let start = self.start as usize;
        start..start + self.len as usize
    }
}

/// Packets in one buffer. Both parts are owned by the caller and reused for ever.
///
/// Packets that are to be sealed have [`HEADROOM`] bytes free in front and [`TAILROOM`] behind. Those regions must not overlap another slot, nor each other by
/// more than [`OVERLAP`] bytes, and the slots lie in the buffer in order.
#[derive(Debug)]
pub struct Batch<'a> {
    /// The bytes.
    pub buf: &'a mut [u8],
    /// The packets in it.
    pub slots: &'a mut [Slot],
}
