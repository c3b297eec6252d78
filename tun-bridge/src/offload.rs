//! Splitting and merging apart from a device, for frames that come from elsewhere: what benches and instruction counts measure is the device's own code.

use std::io::{self, IoSlice};

use annulus_core::batch::Slot;

use crate::device::{Placer, no_room};
use crate::merge::{Allowed, Merger};
use crate::split::Split;
use crate::virtio::{Header, LEN};

/// Cuts `frames` (each a virtio header and an IP packet, as a TUN device gives them) into packets and places them in `buf` and `slots` as
/// [`Tun::recv`](crate::Tun::recv) does; returns their number. Completes checksums in the frames where the kernel left them out.
///
/// # Errors
/// `InvalidData` if a packet contradicts its header; `InvalidInput` if `buf` or `slots` have no room for all of them.
pub fn split(frames: &mut [impl AsMut<[u8]>], buf: &mut [u8], slots: &mut [Slot]) -> io::Result<usize> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidData);
    let mut placer = Placer::new(buf, slots);
    for frame in frames {
        let (head, packet) = frame.as_mut().split_at_mut_checked(LEN).ok_or_else(invalid)?;
        let header = Header::parse(head).ok_or_else(invalid)?;
        let mut split = Split::new(&header, packet).map_err(|_| invalid())?;
        if !split.place(packet, &mut placer) {
            return Err(no_room());
        }
    }
    Ok(placer.count)
}

/// Joins packets of a flow into super-packets, as a device does before it writes them.
#[derive(Debug)]
pub struct Merge(Merger);

impl Default for Merge {
    fn default() -> Self {
        Self::new()
    }
}

impl Merge {
    /// Merges TCP and UDP.
    #[must_use]
    pub fn new() -> Self {
        Self(Merger::new())
    }

    /// Gives what [`Tun::send`](crate::Tun::send) would write for the packets of `slots` to `write`: virtio header and packet in parts, and the number
    /// of packets in it. Returns the number of packets written.
    pub fn merge(&mut self, buf: &[u8], slots: &[Slot], write: impl FnMut(&[IoSlice<'_>], usize) -> io::Result<()>) -> usize {
        self.0.plan(buf, slots, Allowed { tcp: true, udp: true });
        self.0.write(buf, slots, write).0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::split::tests::{Flow, packet};
    use crate::virtio::{GSO_NONE, GSO_TCP4};

    /// A TCP super-packet of `payload` bytes in segments of 1,000.
    fn frame(payload: usize) -> Vec<u8> {
        let bytes: Vec<u8> = (0..payload).map(|n| n as u8).collect();
        let packet = packet(Flow { v6: false, tcp: true, port: 9, options: true }, 7, 3, 0x10, &bytes);
        let mut frame = vec![0; LEN];
        Header { kind: GSO_TCP4, segment: 1000, ..Header::default() }.write(&mut frame);
        frame.extend(packet);
        frame
    }

    #[test]
    fn what_was_split_is_merged_into_one_write_again() {
        let original = frame(4_500);
        let (mut buf, mut slots) = (vec![0; 8_192], [Slot::default(); 8]);
        let count = split(&mut [original.clone()], &mut buf, &mut slots).unwrap();
        assert_eq!(count, 5);
        let mut writes = Vec::new();
        let merged = Merge::new().merge(&buf, &slots[..count], |parts, packets| {
            writes.push((parts.iter().flat_map(|part| part.iter().copied()).collect::<Vec<u8>>(), packets));
            Ok(())
        });
        assert_eq!((merged, writes.len(), writes[0].1), (5, 1, 5));
        assert_eq!(writes[0].0[LEN + 52..], original[LEN + 52..]);
    }

    #[test]
    fn frames_that_are_too_short_contradict_themselves_or_find_no_room_are_refused() {
        let (mut buf, mut slots) = (vec![0; 8_192], [Slot::default(); 4]);
        let mut kind = |frame: &mut [u8]| split(&mut [frame], &mut buf, &mut slots).unwrap_err().kind();
        assert_eq!(kind(&mut [0; LEN - 1]), io::ErrorKind::InvalidData);
        assert_eq!(kind(&mut [GSO_NONE; LEN + 40]), io::ErrorKind::InvalidData);
        assert_eq!(kind(&mut frame(4_500)), io::ErrorKind::InvalidInput);
    }
}
