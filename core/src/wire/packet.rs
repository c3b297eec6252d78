//! Headers of sealed packets and relay datagrams.

use super::WireError;

/// Bytes in front of a sealed payload: type and lane 1, receiver index 3, low counter bits 4.
pub const SEALED_HEADER_LEN: usize = 8;
/// Bytes in front of a relayed datagram: type and hops left 1, circuit index 3.
pub const RELAY_HEADER_LEN: usize = 4;
/// Bytes that sealing adds: header and tag.
pub const SEALED_OVERHEAD: usize = SEALED_HEADER_LEN + crate::crypto::TAG_LEN;
/// Largest index that 24 bits hold.
pub const MAX_INDEX: u32 = (1 << 24) - 1;

/// The header of a control or data packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealedHeader {
    /// [`TYPE_CONTROL`](super::TYPE_CONTROL) or [`TYPE_DATA`](super::TYPE_DATA).
    pub kind: u8,
    /// The sender's lane, 0 to 15.
    pub lane: u8,
    /// The receiver's index for the session.
    pub receiver: u32,
    /// Low 32 bits of the packet's counter on its lane.
    pub counter: u32,
}

impl SealedHeader {
    /// Reads the header of `datagram`, whose first byte the caller has classified.
    ///
    /// # Errors
    /// [`WireError::Truncated`] when header and tag do not fit.
    pub fn parse(datagram: &[u8]) -> Result<Self, WireError> {
        let (header, sealed) = datagram.split_first_chunk::<SEALED_HEADER_LEN>().ok_or(WireError::Truncated)?;
        if sealed.len() < crate::crypto::TAG_LEN {
            return Err(WireError::Truncated);
        }
        Ok(Self {
            kind: header[0] & 0xf0,
            lane: header[0] & 0x0f,
            receiver: u32::from_be_bytes([0, header[1], header[2], header[3]]),
            counter: u32::from_be_bytes([header[4], header[5], header[6], header[7]]),
        })
    }

    /// The header's bytes: also the associated data of the packet.
    #[must_use]
    pub fn bytes(&self) -> [u8; SEALED_HEADER_LEN] {
        let [_, r0, r1, r2] = self.receiver.to_be_bytes();
        let [c0, c1, c2, c3] = self.counter.to_be_bytes();
        [self.kind | self.lane & 0x0f, r0, r1, r2, c0, c1, c2, c3]
    }
}

/// The header of a relay datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelayHeader {
    /// How many relays may still pass it on, 0 to 15.
    pub hops_left: u8,
    /// The receiver's circuit index.
    pub circuit: u32,
}

impl RelayHeader {
    /// Reads the header of `datagram`, whose first byte the caller has classified.
    ///
    /// # Errors
    /// [`WireError::Truncated`] when no datagram follows.
    pub fn parse(datagram: &[u8]) -> Result<Self, WireError> {
        let (header, inner) = datagram.split_first_chunk::<RELAY_HEADER_LEN>().ok_or(WireError::Truncated)?;
        if inner.is_empty() {
            return Err(WireError::Truncated);
        }
        Ok(Self { hops_left: header[0] & 0x0f, circuit: u32::from_be_bytes([0, header[1], header[2], header[3]]) })
    }

    /// The header's bytes.
    #[must_use]
    pub fn bytes(&self) -> [u8; RELAY_HEADER_LEN] {
        let [_, c0, c1, c2] = self.circuit.to_be_bytes();
        [super::TYPE_RELAY | self.hops_left & 0x0f, c0, c1, c2]
    }
}

/// Rebuilds a 64-bit counter from its low 32 bits and the highest authenticated one (as RFC 4304 does for ESP): the candidate nearest to `highest + 1`.
#[must_use]
pub const fn rebuild_counter(highest: u64, low: u32) -> u64 {
    const HALF: u64 = 1 << 31;
    let base = highest & !0xffff_ffff;
    let candidate = base | low as u64;
    if candidate + HALF <= highest {
        candidate + (1 << 32)
    } else if candidate > highest + HALF && candidate >= 1 << 32 {
        candidate - (1 << 32)
    } else {
        candidate
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_sealed_header_round_trips(data in any::<bool>(), lane in 0u8..16, receiver in 0..=MAX_INDEX, counter in any::<u32>()) {
            let kind = if data { super::super::TYPE_DATA } else { super::super::TYPE_CONTROL };
            let header = SealedHeader { kind, lane, receiver, counter };
            let mut datagram = header.bytes().to_vec();
            prop_assert_eq!(SealedHeader::parse(&datagram), Err(WireError::Truncated));
            datagram.extend_from_slice(&[0; 16]);
            prop_assert_eq!(SealedHeader::parse(&datagram), Ok(header));
        }

        #[test]
        fn a_relay_header_round_trips(hops_left in 0u8..16, circuit in 0..=MAX_INDEX) {
            let header = RelayHeader { hops_left, circuit };
            let mut datagram = header.bytes().to_vec();
            prop_assert_eq!(RelayHeader::parse(&datagram), Err(WireError::Truncated));
            datagram.push(0x90);
            prop_assert_eq!(RelayHeader::parse(&datagram), Ok(header));
        }

        #[test]
        fn a_counter_within_half_the_range_is_rebuilt(highest in 0u64..1 << 40, ahead in 0u64..1 << 31, behind in 0u64..1 << 31) {
            let later = highest + ahead;
            prop_assert_eq!(rebuild_counter(highest, later as u32), later);
            let earlier = highest.saturating_sub(behind);
            prop_assert_eq!(rebuild_counter(highest, earlier as u32), earlier);
        }
    }
}
