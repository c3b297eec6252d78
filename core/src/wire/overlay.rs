//! What overlay nodes tell each other about the ring.
//!
//! # Status (`0x10`), between the two ends of a link
//!
//! | bytes | field |
//! | --- | --- |
//! | 1 | payload kind `0x10` |
//! | 1 | bit 0 the sender has joined, bit 1 it leaves, bits 2-3 its geometry (0 Symphony, 1 Chord, 2 Pastry, 3 Kademlia), bit 7 acknowledgement (only the number follows) |
//! | 2 | number: a later status has a higher one (modulo 2^16); in an acknowledgement the number that is acknowledged |
//! | 1 | what the sender keeps the link for: bits of [`Roles`](crate::overlay::Roles) |
//! | 1 + n | own addresses: count, addresses |
//! | 1 + n | up to 4 nearest live neighbours counter-clockwise, nearest first: count, entries |
//! | 1 + n | the same clockwise; with Kademlia, which has no sides, the four closest here and the next four in the list before |
//! | 1 + n | up to 12 further nodes that the receiver may want: count, entries |
//! | 1 + 4n | first 32 bits of up to 40 linked nodes, for routing with look-ahead: count, prefixes |
//!
//! An entry is a node ID (20), a byte (bits 0-3 number of addresses, bit 7 heard from others and not linked with the sender), and the addresses.
//! An address is family 1 (4 or 6), address 4 or 16, port 2.
//!
//! # Methods (see [`rpc`](super::rpc))
//!
//! | method | request | reply |
//! | --- | --- | --- |
//! | `0x01` connect | role bits 1, own addresses (count 1, up to 12), up to 8 neighbours (count 1, entries) | the same |
//! | `0x02` trace | nothing | hops taken 1, whether the target is reached 1; from each node on the way |
//! | `0x03` echo | up to 64 bytes | the same |
//! | `0x04` neighbours | nothing | a status without its payload kind |

use core::net::SocketAddr;

use super::codec::{Reader, Write};
use super::{PayloadKind, WireError};
use crate::config::GeometryKind;
use crate::id::NodeId;
use crate::io::Candidates;

/// Ask a node to link with us, and to dial us at once.
pub const METHOD_CONNECT: u8 = 0x01;
/// Ask each node on the way for a sign.
pub const METHOD_TRACE: u8 = 0x02;
/// Ask a node to send the body back.
pub const METHOD_ECHO: u8 = 0x03;
/// Ask a node for its neighbours.
pub const METHOD_NEIGHBOURS: u8 = 0x04;

/// Addresses of one node that are ever sent: what a host with several interfaces and mappings has.
pub const MAX_CANDIDATES: usize = 12;
/// Neighbours per side in a status: the near links.
pub const MAX_NEAR: usize = 4;
/// Further nodes in a status: 4 around the receiver's own position and 4 passive ones per side.
pub const MAX_FURTHER: usize = 12;
/// Neighbours in a connect request or its answer.
pub const MAX_NEIGHBOURS: usize = 8;
/// Linked nodes' prefixes in a status: with all lists full of IPv6 addresses a status still fits one control payload.
pub const MAX_PREFIXES: usize = 40;
/// Own addresses in a status.
pub const MAX_STATUS_CANDIDATES: usize = 4;
/// Bytes that an echo carries at most: a measurement needs no more.
pub const MAX_ECHO: usize = 64;

const FLAG_JOINED: u8 = 0x01;
const FLAG_LEAVING: u8 = 0x02;
const GEOMETRY_SHIFT: u8 = 2;
const FLAG_ACK: u8 = 0x80;
const ENTRY_HEARSAY: u8 = 0x80;

/// A node and where it may be reached: a hint, never a proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The node.
    pub node: NodeId,
    /// The sender is not linked with it but heard of it.
    pub hearsay: bool,
    /// Where it may be reached.
    pub addresses: Candidates,
}

impl Entry {
    fn parse(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let node = reader.node_id()?;
        let flags = reader.u8()?;
        if flags & 0x70 != 0 {
            return Err(WireError::BadField("entry flags"));
        }
        let addresses = read_addresses(reader, usize::from(flags & 0x0f))?;
        Ok(Self { node, hearsay: flags & ENTRY_HEARSAY != 0, addresses })
    }

    fn write(&self, limit: usize, out: &mut Vec<u8>) {
        let count = self.addresses.len().min(limit);
        out.put_node_id(&self.node);
        out.put_u8(count as u8 | if self.hearsay { ENTRY_HEARSAY } else { 0 });
        for address in &self.addresses[..count] {
            out.put_socket_addr(address);
        }
    }
}

/// What one end of a link tells the other about itself and its neighbours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Number of this status on this link; later ones are higher (modulo 2^16).
    pub number: u16,
    /// The sender's ring position is, or once was, consistent: messages may be routed through it.
    pub joined: bool,
    /// The sender is about to leave: the lists are those of whom it leaves behind.
    pub leaving: bool,
    /// The geometry by which the sender routes.
    pub geometry: GeometryKind,
    /// What the sender keeps the link for.
    pub roles: u8,
    /// Where the sender may be reached.
    pub candidates: Candidates,
    /// Its nearest live neighbours counter-clockwise, nearest first.
    pub predecessors: Vec<Entry>,
    /// Its nearest live neighbours clockwise, nearest first.
    pub successors: Vec<Entry>,
    /// Further nodes that the receiver may want.
    pub further: Vec<Entry>,
    /// First 32 bits of the nodes that the sender is linked with.
    pub prefixes: Vec<u32>,
}

/// What a payload of kind status is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StatusMessage {
    /// News.
    Status(Box<Status>),
    /// The status with this number has arrived.
    Ack(u16),
}

impl StatusMessage {
    /// Reads a status payload, payload kind included.
    ///
    /// # Errors
    /// [`WireError`] when it is cut, too long, or a list is longer than allowed.
    pub fn parse(bytes: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(bytes);
        if reader.u8()? != PayloadKind::Status.byte() {
            return Err(WireError::BadField("payload kind"));
        }
        if reader.rest().first().is_some_and(|flags| flags & FLAG_ACK != 0) {
            let mut reader = Reader::new(&bytes[2..]);
            let number = reader.u16()?;
            reader.finish()?;
            return Ok(Self::Ack(number));
        }
        Status::parse(&bytes[1..]).map(|status| Self::Status(Box::new(status)))
    }
}

/// The payload that acknowledges the status with this number.
#[must_use]
pub fn acknowledgement(number: u16) -> Vec<u8> {
    let [high, low] = number.to_be_bytes();
    vec![PayloadKind::Status.byte(), FLAG_ACK, high, low]
}

impl Status {
    /// Reads a status without its payload kind.
    ///
    /// # Errors
    /// [`WireError`] when it is cut, too long, or a list is longer than allowed.
    pub fn parse(bytes: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(bytes);
        let flags = reader.u8()?;
        let number = reader.u16()?;
        let roles = reader.u8()?;
        let candidates = read_candidates(&mut reader, MAX_CANDIDATES)?;
        let predecessors = read_entries(&mut reader, MAX_NEAR)?;
        let successors = read_entries(&mut reader, MAX_NEAR)?;
        let further = read_entries(&mut reader, MAX_FURTHER)?;
        let count = usize::from(reader.u8()?);
        if count > MAX_PREFIXES {
            return Err(WireError::BadField("number of prefixes"));
        }
        let mut prefixes = Vec::new();
        for _ in 0..count {
            prefixes.push(reader.u32()?);
        }
        reader.finish()?;
        let (joined, leaving) = (flags & FLAG_JOINED != 0, flags & FLAG_LEAVING != 0);
        let geometry = GeometryKind::ALL[usize::from(flags >> GEOMETRY_SHIFT & 3)];
        Ok(Self { number, joined, leaving, geometry, roles, candidates, predecessors, successors, further, prefixes })
    }

    /// The status as a payload, payload kind included. Lists are cut to their bounds, so that it always fits.
    #[must_use]
    pub fn payload(&self) -> Vec<u8> {
        let mut out = vec![PayloadKind::Status.byte()];
        self.write(&mut out);
        out
    }

    /// Appends the status without its payload kind.
    pub fn write(&self, out: &mut Vec<u8>) {
        let geometry = (self.geometry as u8) << GEOMETRY_SHIFT;
        out.put_u8(if self.joined { FLAG_JOINED } else { 0 } | if self.leaving { FLAG_LEAVING } else { 0 } | geometry);
        out.put_u16(self.number);
        out.put_u8(self.roles);
        write_candidates(&self.candidates, MAX_STATUS_CANDIDATES, out);
        write_entries(&self.predecessors, MAX_NEAR, 2, out);
        write_entries(&self.successors, MAX_NEAR, 2, out);
        write_entries(&self.further, MAX_FURTHER, 1, out);
        let prefixes = &self.prefixes[..self.prefixes.len().min(MAX_PREFIXES)];
        out.put_u8(prefixes.len() as u8);
        for prefix in prefixes {
            out.put_u32(*prefix);
        }
    }
}

/// A connect request or its answer: "dial me, and here is whom I know around there".
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Connect {
    /// What the sender wants the link for.
    pub roles: u8,
    /// Where the sender may be reached.
    pub candidates: Candidates,
    /// The sender's nodes nearest to the receiver.
    pub neighbours: Vec<Entry>,
}

impl Connect {
    /// Reads a connect request or answer.
    ///
    /// # Errors
    /// [`WireError`] when it is cut, too long, or a list is longer than allowed.
    pub fn parse(bytes: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(bytes);
        let roles = reader.u8()?;
        let candidates = read_candidates(&mut reader, MAX_CANDIDATES)?;
        let neighbours = read_entries(&mut reader, MAX_NEIGHBOURS)?;
        reader.finish()?;
        Ok(Self { roles, candidates, neighbours })
    }

    /// The body's bytes. Lists are cut to their bounds.
    #[must_use]
    pub fn body(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.put_u8(self.roles);
        write_candidates(&self.candidates, MAX_CANDIDATES, &mut out);
        write_entries(&self.neighbours, MAX_NEIGHBOURS, 2, &mut out);
        out
    }
}

/// One node's answer to a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceAnswer {
    /// Hops that the trace had taken when it came to this node.
    pub hops: u8,
    /// Whether this node is where the trace ends.
    pub reached: bool,
}

impl TraceAnswer {
    /// Reads an answer.
    ///
    /// # Errors
    /// [`WireError`] when it has another length or a flag that is not 0 or 1.
    pub fn parse(bytes: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(bytes);
        let hops = reader.u8()?;
        let reached = match reader.u8()? {
            0 => false,
            1 => true,
            _ => return Err(WireError::BadField("reached")),
        };
        reader.finish()?;
        Ok(Self { hops, reached })
    }

    /// The body's bytes.
    #[must_use]
    pub const fn body(&self) -> [u8; 2] {
        [self.hops, self.reached as u8]
    }
}

fn read_addresses(reader: &mut Reader<'_>, count: usize) -> Result<Candidates, WireError> {
    if count > MAX_CANDIDATES {
        return Err(WireError::BadField("number of addresses"));
    }
    let mut out = Candidates::new();
    for _ in 0..count {
        out.push(reader.socket_addr()?);
    }
    Ok(out)
}

fn read_candidates(reader: &mut Reader<'_>, limit: usize) -> Result<Candidates, WireError> {
    let count = usize::from(reader.u8()?);
    read_addresses(reader, if count > limit { usize::MAX } else { count })
}

fn read_entries(reader: &mut Reader<'_>, limit: usize) -> Result<Vec<Entry>, WireError> {
    let count = usize::from(reader.u8()?);
    if count > limit {
        return Err(WireError::BadField("number of entries"));
    }
    let mut out = Vec::new();
    for _ in 0..count {
        out.push(Entry::parse(reader)?);
    }
    Ok(out)
}

fn write_candidates(addresses: &[SocketAddr], limit: usize, out: &mut Vec<u8>) {
    let addresses = &addresses[..addresses.len().min(limit)];
    out.put_u8(addresses.len() as u8);
    for address in addresses {
        out.put_socket_addr(address);
    }
}

fn write_entries(entries: &[Entry], limit: usize, addresses: usize, out: &mut Vec<u8>) {
    let entries = &entries[..entries.len().min(limit)];
    out.put_u8(entries.len() as u8);
    for entry in entries {
        entry.write(addresses, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::routed::{MAX_CONTROL_PAYLOAD, MAX_PART_LEN};
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn any_address() -> impl Strategy<Value = SocketAddr> {
        prop_oneof![
            (any::<[u8; 4]>(), any::<u16>()).prop_map(|(ip, port)| SocketAddr::from((ip, port))),
            (any::<[u8; 16]>(), any::<u16>()).prop_map(|(ip, port)| SocketAddr::from((ip, port))),
        ]
    }

    fn any_entry(addresses: usize) -> impl Strategy<Value = Entry> {
        (any::<[u8; 20]>(), any::<bool>(), vec(any_address(), 0..=addresses)).prop_map(|(id, hearsay, addresses)| Entry {
            node: NodeId(id),
            hearsay,
            addresses: addresses.into(),
        })
    }

    fn any_status() -> impl Strategy<Value = Status> {
        let near = || vec(any_entry(2), 0..=MAX_NEAR);
        let lists = (near(), near(), vec(any_entry(1), 0..=MAX_FURTHER), vec(any::<u32>(), 0..=MAX_PREFIXES));
        let flags = (any::<u16>(), any::<bool>(), any::<bool>(), (any::<u8>(), 0usize..4), vec(any_address(), 0..=MAX_STATUS_CANDIDATES));
        (flags, lists).prop_map(
            |((number, joined, leaving, (roles, geometry), candidates), (predecessors, successors, further, prefixes))| Status {
                number,
                joined,
                leaving,
                geometry: GeometryKind::ALL[geometry],
                roles,
                candidates: candidates.into(),
                predecessors,
                successors,
                further,
                prefixes,
            },
        )
    }

    proptest! {
        #[test]
        fn a_status_round_trips_and_its_cuts_are_refused(status in any_status(), cut in any::<prop::sample::Index>()) {
            let payload = status.payload();
            prop_assert!(payload.len() <= MAX_CONTROL_PAYLOAD);
            prop_assert_eq!(StatusMessage::parse(&payload), Ok(StatusMessage::Status(Box::new(status))));
            prop_assert_eq!(StatusMessage::parse(&payload[..cut.index(payload.len())]), Err(WireError::Truncated));
        }

        #[test]
        fn a_connect_round_trips(roles in any::<u8>(), candidates in vec(any_address(), 0..=MAX_CANDIDATES), neighbours in vec(any_entry(2), 0..=MAX_NEIGHBOURS)) {
            let connect = Connect { roles, candidates: candidates.into(), neighbours };
            let body = connect.body();
            prop_assert!(body.len() <= MAX_PART_LEN);
            prop_assert_eq!(Connect::parse(&body), Ok(connect));
        }

        #[test]
        fn an_acknowledgement_round_trips(number in any::<u16>()) {
            prop_assert_eq!(StatusMessage::parse(&acknowledgement(number)), Ok(StatusMessage::Ack(number)));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in vec(any::<u8>(), 0..300)) {
            let _ = Status::parse(&bytes);
            let _ = Connect::parse(&bytes);
            let _ = TraceAnswer::parse(&bytes);
            let mut payload = vec![PayloadKind::Status.byte()];
            payload.extend_from_slice(&bytes);
            let _ = StatusMessage::parse(&payload);
        }
    }

    #[test]
    fn the_largest_status_fits_a_control_payload() {
        let address = SocketAddr::from(([0xfd; 16], 1));
        let entry = Entry { node: NodeId([7; 20]), hearsay: true, addresses: vec![address; 12].into() };
        let status = Status {
            candidates: vec![address; 12].into(),
            predecessors: vec![entry.clone(); 9],
            successors: vec![entry.clone(); 9],
            further: vec![entry; 20],
            prefixes: vec![0; 99],
            ..Status::default()
        };
        assert!(status.payload().len() <= MAX_CONTROL_PAYLOAD);
    }

    #[test]
    fn a_trace_answer_round_trips() {
        for answer in [TraceAnswer { hops: 3, reached: false }, TraceAnswer { hops: 255, reached: true }] {
            assert_eq!(TraceAnswer::parse(&answer.body()), Ok(answer));
        }
        assert_eq!(TraceAnswer::parse(&[1, 2]), Err(WireError::BadField("reached")));
    }
}
