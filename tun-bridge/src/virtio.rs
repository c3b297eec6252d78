//! The 10-byte header in front of each packet of a TUN device with `IFF_VNET_HDR` (virtio 1.2, section 5.1.6), in the host's byte order.

/// Bytes of the header.
pub(crate) const LEN: usize = 10;

/// Flag: the checksum field holds the pseudo header's sum, the rest is to be added from `checksum_start` on.
pub(crate) const NEEDS_CHECKSUM: u8 = 1;
/// Not a super-packet.
pub(crate) const GSO_NONE: u8 = 0;
/// TCP over IPv4.
pub(crate) const GSO_TCP4: u8 = 1;
/// TCP over IPv6.
pub(crate) const GSO_TCP6: u8 = 4;
/// UDP, to be cut into datagrams (not into IP fragments).
pub(crate) const GSO_UDP: u8 = 5;
/// Added to a TCP kind: CWR is set, and belongs to the first segment only.
pub(crate) const GSO_ECN: u8 = 0x80;

/// The header's fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Header {
    /// `NEEDS_CHECKSUM` or 0; other bits are ignored.
    pub(crate) flags: u8,
    /// A `GSO_*` kind, maybe with [`GSO_ECN`].
    pub(crate) kind: u8,
    /// Bytes of all headers of the packet; a hint.
    pub(crate) header_len: u16,
    /// Payload bytes of each segment but the last.
    pub(crate) segment: u16,
    /// Offset of the transport header.
    pub(crate) checksum_start: u16,
    /// Offset of the checksum field in the transport header.
    pub(crate) checksum_offset: u16,
}

impl Header {
    /// Reads the header; `None` if `bytes` is too short.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; LEN] = bytes.first_chunk()?;
        let word = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        Some(Self {
            flags: bytes[0],
            kind: bytes[1],
            header_len: word(2),
            segment: word(4),
            checksum_start: word(6),
            checksum_offset: word(8),
        })
    }

    /// Writes the header to the front of `out`, which has at least [`LEN`] bytes.
    pub(crate) fn write(&self, out: &mut [u8]) {
        out[0] = self.flags;
        out[1] = self.kind;
        out[2..4].copy_from_slice(&self.header_len.to_ne_bytes());
        out[4..6].copy_from_slice(&self.segment.to_ne_bytes());
        out[6..8].copy_from_slice(&self.checksum_start.to_ne_bytes());
        out[8..10].copy_from_slice(&self.checksum_offset.to_ne_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_survives_writing_and_parsing() {
        let header = Header { flags: 1, kind: GSO_TCP6, header_len: 72, segment: 1328, checksum_start: 40, checksum_offset: 16 };
        let mut bytes = [0; LEN];
        header.write(&mut bytes);
        assert_eq!(Header::parse(&bytes), Some(header));
        assert_eq!(Header::parse(&bytes[..9]), None);
    }
}
