//! Messages on their way over the ring.
//!
//! # Routed (`0x11`)
//!
//! | offset | bytes | field |
//! | --- | --- | --- |
//! | 0 | 1 | payload kind `0x11` |
//! | 1 | 1 | bits 0-2 mode, bit 3 an agent follows, bit 4 trace; bits 5-7 zero |
//! | 2 | 1 | hops taken |
//! | 3 | 1 | hop limit |
//! | 4 | 1 | bits 0-5 content, bits 6-7 part (0 whole, 1 first half, 2 second half) |
//! | 5 | 20 | source |
//! | 25 | 20 | destination: a node or a point |
//! | 45 | 20 | agent, if bit 3 is set: a node that is linked with the source; answers go there, and it hands them on |
//! | 45 or 65 | 4 | number of the cut message, if it is a half |
//! | then | rest | body |
//!
//! # Forward (`0x12`)
//!
//! | offset | bytes | field |
//! | --- | --- | --- |
//! | 0 | 1 | payload kind `0x12` |
//! | 1 | 20 | via: the node to which the message is routed, and which hands it to the inner destination over a link of its own |
//! | 21 | rest | a whole routed message |

use super::codec::{Reader, Write};
use super::{PayloadKind, WireError};
use crate::id::{NODE_ID_LEN, NodeId};

/// Bytes of a control payload that fit every path: 1,280 bytes outside less IPv6 (40), UDP (8), relay header (4) and seal (24), with 4 to spare.
pub const MAX_CONTROL_PAYLOAD: usize = 1200;
/// Bytes in front of the inner message of a forward.
pub const FORWARD_HEADER_LEN: usize = 1 + NODE_ID_LEN;
/// Bytes of the longest routed header: with agent and number of a half.
pub const MAX_ROUTED_HEADER_LEN: usize = 5 + 3 * NODE_ID_LEN + 4;
/// Bytes of body that one routed message carries at most, even with agent, as a half and inside a forward.
pub const MAX_PART_LEN: usize = MAX_CONTROL_PAYLOAD - FORWARD_HEADER_LEN - MAX_ROUTED_HEADER_LEN;
/// Bytes of body that two halves carry.
pub const MAX_BODY_LEN: usize = 2 * MAX_PART_LEN;

const MODE_BITS: u8 = 0x07;
const FLAG_AGENT: u8 = 0x08;
const FLAG_TRACE: u8 = 0x10;
const FLAGS_RESERVED: u8 = 0xe0;
const OFFSET_MODE: usize = 1;
const OFFSET_HOPS: usize = 2;

/// Who delivers a routed message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum RouteMode {
    /// The destination itself, or nobody.
    Exact = 0,
    /// The node closest to the destination.
    Closest = 1,
    /// Both nodes between which the destination lies.
    Bracket = 2,
    /// Of these two the one before it (counter-clockwise): second leg of [`Self::Bracket`].
    Before = 3,
    /// Of these two the one behind it (clockwise): second leg of [`Self::Bracket`].
    After = 4,
    /// From neighbour to neighbour clockwise; the node at which the hop limit ends.
    Clockwise = 5,
    /// From neighbour to neighbour counter-clockwise; the node at which the hop limit ends.
    CounterClockwise = 6,
    /// The node closest to the destination, by the metric alone: last leg of [`Self::Closest`] where the way there follows another order.
    Final = 7,
}

impl RouteMode {
    const fn from_bits(bits: u8) -> Self {
        match bits & MODE_BITS {
            0 => Self::Exact,
            1 => Self::Closest,
            2 => Self::Bracket,
            3 => Self::Before,
            4 => Self::After,
            5 => Self::Clockwise,
            6 => Self::CounterClockwise,
            _ => Self::Final,
        }
    }

    /// Whether the message walks along the ring, so that the hop limit says who delivers.
    #[must_use]
    pub const fn is_directional(self) -> bool {
        matches!(self, Self::Clockwise | Self::CounterClockwise)
    }
}

/// What a routed message carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// An end-to-end sealed datagram or a handshake datagram.
    Datagram,
    /// A [`Request`](super::rpc::Request).
    Request,
    /// A [`Reply`](super::rpc::Reply).
    Reply,
    /// An [`ErrorReply`](super::rpc::ErrorReply).
    Error,
    /// Not known to this version: passed on, never delivered.
    Unknown(u8),
}

impl Content {
    const fn from_bits(bits: u8) -> Self {
        match bits {
            1 => Self::Datagram,
            2 => Self::Request,
            3 => Self::Reply,
            4 => Self::Error,
            other => Self::Unknown(other),
        }
    }

    const fn bits(self) -> u8 {
        match self {
            Self::Datagram => 1,
            Self::Request => 2,
            Self::Reply => 3,
            Self::Error => 4,
            Self::Unknown(other) => other & 0x3f,
        }
    }
}

/// Whether a message travels whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Whole,
    /// The first half of the cut message with this number.
    First(u32),
    /// The second half of the cut message with this number.
    Second(u32),
}

/// The header of a routed message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoutedHeader {
    /// Who delivers it.
    pub mode: RouteMode,
    /// Whether each node on the way answers the source with a line of its own.
    pub trace: bool,
    /// Hops taken.
    pub hops: u8,
    /// Hops that it may take.
    pub limit: u8,
    /// What it carries.
    pub content: Content,
    /// Whether it is whole.
    pub part: Part,
    /// Where it began. Not proven: what must be, is sealed end to end.
    pub source: NodeId,
    /// A node, or a point on the ring.
    pub destination: NodeId,
    /// A node through which the source can be reached as long as the ring does not know it.
    pub agent: Option<NodeId>,
}

impl RoutedHeader {
    /// Reads header and body of a routed message, payload kind included.
    ///
    /// # Errors
    /// [`WireError`] when it is cut, not a routed message, or has a mode, part or flag that is not allowed.
    pub fn parse(bytes: &[u8]) -> Result<(Self, &[u8]), WireError> {
        let mut reader = Reader::new(bytes);
        if reader.u8()? != PayloadKind::Routed.byte() {
            return Err(WireError::BadField("payload kind"));
        }
        let flags = reader.u8()?;
        if flags & FLAGS_RESERVED != 0 {
            return Err(WireError::BadField("flags"));
        }
        let mode = RouteMode::from_bits(flags);
        let (hops, limit, content) = (reader.u8()?, reader.u8()?, reader.u8()?);
        let (source, destination) = (reader.node_id()?, reader.node_id()?);
        let agent = if flags & FLAG_AGENT != 0 { Some(reader.node_id()?) } else { None };
        let part = match content >> 6 {
            0 => Part::Whole,
            1 => Part::First(reader.u32()?),
            2 => Part::Second(reader.u32()?),
            _ => return Err(WireError::BadField("part")),
        };
        let content = Content::from_bits(content & 0x3f);
        let header = Self { mode, trace: flags & FLAG_TRACE != 0, hops, limit, content, part, source, destination, agent };
        Ok((header, reader.rest()))
    }

    /// Appends the header, payload kind included, to `out`.
    pub fn write(&self, out: &mut Vec<u8>) {
        let agent = if self.agent.is_some() { FLAG_AGENT } else { 0 };
        let trace = if self.trace { FLAG_TRACE } else { 0 };
        out.put_u8(PayloadKind::Routed.byte());
        out.put_u8(self.mode as u8 | agent | trace);
        out.put_u8(self.hops);
        out.put_u8(self.limit);
        let part = match self.part {
            Part::Whole => 0,
            Part::First(_) => 1,
            Part::Second(_) => 2,
        };
        out.put_u8(self.content.bits() | part << 6);
        out.put_node_id(&self.source);
        out.put_node_id(&self.destination);
        if let Some(agent) = &self.agent {
            out.put_node_id(agent);
        }
        if let Part::First(number) | Part::Second(number) = self.part {
            out.put_u32(number);
        }
    }

    /// Writes hops and mode of `self` into a routed message that was parsed before: all that changes on the way.
    pub fn rewrite(&self, message: &mut [u8]) {
        if let Some(flags) = message.get_mut(OFFSET_MODE) {
            *flags = *flags & !MODE_BITS | self.mode as u8;
        }
        if let Some(hops) = message.get_mut(OFFSET_HOPS) {
            *hops = self.hops;
        }
    }
}

/// Reads a forward: the node that hands on, and the routed message in it.
///
/// # Errors
/// [`WireError`] when it is cut or not a forward.
pub fn parse_forward(bytes: &[u8]) -> Result<(NodeId, &[u8]), WireError> {
    let mut reader = Reader::new(bytes);
    if reader.u8()? != PayloadKind::Forward.byte() {
        return Err(WireError::BadField("payload kind"));
    }
    let via = reader.node_id()?;
    Ok((via, reader.rest()))
}

/// Puts a forward around a routed message.
#[must_use]
pub fn wrap_forward(via: &NodeId, message: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(FORWARD_HEADER_LEN + message.len());
    out.put_u8(PayloadKind::Forward.byte());
    out.put_node_id(via);
    out.put(message);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_id() -> impl Strategy<Value = NodeId> {
        any::<[u8; NODE_ID_LEN]>().prop_map(NodeId)
    }

    fn any_header() -> impl Strategy<Value = RoutedHeader> {
        let part = prop_oneof![Just(Part::Whole), any::<u32>().prop_map(Part::First), any::<u32>().prop_map(Part::Second)];
        let fixed = (0u8..8, any::<bool>(), any::<u8>(), any::<u8>(), 0u8..64);
        (fixed, part, any_id(), any_id(), proptest::option::of(any_id())).prop_map(
            |((mode, trace, hops, limit, content), part, source, destination, agent)| RoutedHeader {
                mode: RouteMode::from_bits(mode),
                trace,
                hops,
                limit,
                content: Content::from_bits(content),
                part,
                source,
                destination,
                agent,
            },
        )
    }

    proptest! {
        #[test]
        fn a_routed_header_round_trips(header in any_header(), body in proptest::collection::vec(any::<u8>(), 0..50)) {
            let mut out = Vec::new();
            header.write(&mut out);
            prop_assert!(out.len() <= MAX_ROUTED_HEADER_LEN);
            let len = out.len();
            out.extend_from_slice(&body);
            prop_assert_eq!(RoutedHeader::parse(&out), Ok((header, &body[..])));
            for cut in 0..len {
                prop_assert_eq!(RoutedHeader::parse(&out[..cut]), Err(WireError::Truncated));
            }
        }

        #[test]
        fn rewriting_changes_mode_and_hops_only(header in any_header(), hops in any::<u8>()) {
            let mut out = Vec::new();
            header.write(&mut out);
            let changed = RoutedHeader { hops, mode: RouteMode::After, ..header };
            changed.rewrite(&mut out);
            prop_assert_eq!(RoutedHeader::parse(&out), Ok((changed, &[][..])));
        }

        #[test]
        fn a_forward_round_trips(via in any_id(), message in proptest::collection::vec(any::<u8>(), 0..50)) {
            let out = wrap_forward(&via, &message);
            prop_assert_eq!(parse_forward(&out), Ok((via, &message[..])));
            prop_assert_eq!(parse_forward(&out[..20]), Err(WireError::Truncated));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = RoutedHeader::parse(&bytes);
            let _ = parse_forward(&bytes);
        }
    }

    #[test]
    fn unknown_modes_flags_and_parts_are_refused() {
        let mut good = Vec::new();
        let id = NodeId::default();
        let header = RoutedHeader {
            mode: RouteMode::Exact,
            trace: false,
            hops: 0,
            limit: 1,
            content: Content::Datagram,
            part: Part::Whole,
            source: id,
            destination: id,
            agent: None,
        };
        header.write(&mut good);
        for (offset, value, field) in [(0, 0x12, "payload kind"), (1, 0x20, "flags"), (4, 0xc1, "part")] {
            let mut bad = good.clone();
            bad[offset] = value;
            assert_eq!(RoutedHeader::parse(&bad), Err(WireError::BadField(field)));
        }
    }

    #[test]
    fn a_tunnelled_packet_of_1400_bytes_fits_two_parts() {
        const { assert!(1400 + super::super::packet::SEALED_OVERHEAD <= MAX_BODY_LEN) };
    }
}
