//! Control payloads with right forms and any contents.

use annulus_sim::core::config::GeometryKind;
use annulus_sim::core::id::NodeId;
use annulus_sim::core::io::Candidates;
use annulus_sim::core::time::UnixTime;
use annulus_sim::core::wire::link::{CloseReason, LinkMessage, NoticeReason};
use annulus_sim::core::wire::overlay::{Connect, Entry, Status, TraceAnswer, acknowledgement};
use annulus_sim::core::wire::routed::{Content, Part, RouteMode, RoutedHeader, wrap_forward};
use annulus_sim::core::wire::rpc::{ErrorReply, Reply, Request};

use crate::input::{Input, edit};
use crate::member_node::Asked;
use crate::node::address;

/// A message between the two ends of a session.
pub(crate) fn link(input: &mut Input<'_>) -> Vec<u8> {
    let (code, len) = (input.u8(), usize::from(input.u8() % 16));
    let text = String::from_utf8_lossy(input.take(len)).into_owned();
    let message = match input.u8() % 6 {
        0 => LinkMessage::Ping { token: input.u64(), padding: usize::from(input.u8()) * 6 },
        1 => LinkMessage::Pong { token: input.u64() },
        2 => LinkMessage::AddressReport(address(input)),
        3 => LinkMessage::Close { reason: CloseReason::from_byte(code % 8), text: &text },
        4 => LinkMessage::KeepAlive,
        _ => LinkMessage::MemberNotice { reason: NoticeReason::from_byte(code % 6), time: Some(UnixTime(input.u64())), text: &text },
    };
    message.to_payload().to_vec()
}

/// A status, or its acknowledgement.
pub(crate) fn status(ids: &[NodeId], input: &mut Input<'_>) -> Vec<u8> {
    let how = input.u8();
    let number = if how & 4 == 4 { input.u16() } else { u16::from(how >> 3) };
    if how % 8 == 7 {
        return acknowledgement(number);
    }
    let status = Status {
        number,
        joined: how & 1 == 1,
        leaving: how & 0xf2 == 0xf2,
        // Mostly that of the node that hears it: another one ends the link.
        geometry: if how & 0xf0 == 0xa0 { GeometryKind::Chord } else { GeometryKind::Symphony },
        roles: input.u8(),
        candidates: candidates(input, 4),
        predecessors: entries(ids, input, 4),
        successors: entries(ids, input, 4),
        further: entries(ids, input, 12),
        prefixes: (0..input.u8() % 41).map(|_| u32::from(input.u8()) << 24).collect(),
    };
    status.payload()
}

/// A routed or forwarded message.
pub(crate) fn routed(ids: &[NodeId], asked: &[Asked], input: &mut Input<'_>) -> Vec<u8> {
    let how = input.u8();
    let (content, body) = match how % 5 {
        0 => (Content::Datagram, input.chunk().to_vec()),
        1 | 2 => (Content::Request, request(ids, input)),
        3 => (Content::Reply, reply(ids, asked, input)),
        _ => (Content::Error, error(asked, input)),
    };
    wrap(ids, how, content, &body, input)
}

/// An answer to what the node asked last, from whom it was asked.
pub(crate) fn answer(ids: &[NodeId], from: NodeId, asked: &[Asked], input: &mut Input<'_>) -> Vec<u8> {
    let body = reply(ids, asked, input);
    let destination = asked.last().map_or(ids[0], |asked| asked.source);
    let header = RoutedHeader {
        mode: RouteMode::Exact,
        trace: false,
        hops: 0,
        limit: 64,
        content: Content::Reply,
        part: Part::Whole,
        source: from,
        destination,
        agent: None,
    };
    let mut out = Vec::new();
    header.write(&mut out);
    out.extend(body);
    out
}

fn wrap(ids: &[NodeId], how: u8, content: Content, body: &[u8], input: &mut Input<'_>) -> Vec<u8> {
    const MODES: [RouteMode; 7] = [
        RouteMode::Exact,
        RouteMode::Closest,
        RouteMode::Bracket,
        RouteMode::Before,
        RouteMode::After,
        RouteMode::Clockwise,
        RouteMode::CounterClockwise,
    ];
    let mode = MODES[usize::from(input.u8()) % MODES.len()];
    let (destination, source) = (id(ids, input), id(ids, input));
    let (limit, part) = (input.u8(), input.u8());
    let part = match part % 8 {
        0..=5 => Part::Whole,
        6 => Part::First(u32::from(part >> 4)),
        _ => Part::Second(u32::from(part >> 4)),
    };
    let agent = if how & 0x20 == 0x20 { Some(id(ids, input)) } else { None };
    let hops = if how & 0x40 == 0x40 { input.u8() } else { 0 };
    let limit = if limit == 0 { 64 } else { limit };
    let header = RoutedHeader { mode, trace: how & 0x10 == 0x10, hops, limit, content, part, source, destination, agent };
    let mut out = Vec::new();
    header.write(&mut out);
    out.extend_from_slice(body);
    if how & 0x80 == 0x80 { wrap_forward(&id(ids, input), &out) } else { out }
}

fn request(ids: &[NodeId], input: &mut Input<'_>) -> Vec<u8> {
    let (method, id) = (input.u8(), u32::from(input.u8()));
    let (method, body) = match method % 8 {
        0 => (1, connect(ids, input)),
        1 => (method >> 3, input.chunk().to_vec()),
        2..=4 => (0x20 + (method >> 3) % 8, dht(input)),
        5 => (0x40 + (method >> 3) % 4, input.chunk().to_vec()),
        6 => (4, Vec::new()),
        _ => (method, input.chunk().to_vec()),
    };
    let mut out = Vec::new();
    Request { id, method, body: &body }.write(&mut out);
    out
}

fn reply(ids: &[NodeId], asked: &[Asked], input: &mut Input<'_>) -> Vec<u8> {
    let of = asked.get(asked.len().wrapping_sub(1 + input.below(asked.len()))).copied();
    let asked = of.unwrap_or_else(|| Asked { source: NodeId::default(), id: u32::from(input.u8()), method: 0 });
    let mut body = match (input.u8() % 4, asked.method) {
        (0, _) => input.chunk().to_vec(),
        (_, 1) => connect(ids, input),
        (_, 2) => TraceAnswer { hops: input.u8(), reached: input.flag() }.body().to_vec(),
        (_, 4) => status(ids, input).split_off(1),
        // "Found nothing", with two flags, is the most common answer of the DHT.
        (_, 0x20) => vec![input.u8() & 3, 0, 0, 0],
        _ => input.chunk().to_vec(),
    };
    if input.u8() == 0xff {
        edit(&mut body, input);
    }
    let mut out = Vec::new();
    Reply { id: asked.id, body: &body }.write(&mut out);
    out
}

fn error(asked: &[Asked], input: &mut Input<'_>) -> Vec<u8> {
    let id = asked.get(input.below(asked.len())).map_or(7, |asked| asked.id);
    let mut out = Vec::new();
    ErrorReply { id, code: input.u8() % 8 }.write(&mut out);
    out
}

fn connect(ids: &[NodeId], input: &mut Input<'_>) -> Vec<u8> {
    Connect { roles: input.u8(), candidates: candidates(input, 12), neighbours: entries(ids, input, 8) }.body()
}

/// A body with a key of some name space in front.
fn dht(input: &mut Input<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    if input.flag() {
        let key: &[u8] = [&b"x/one"[..], b"a/10.200.0.7", b"h/node-1", b"g/all"][usize::from(input.u8()) % 4];
        out.push(key.len() as u8);
        out.extend_from_slice(key);
    }
    out.extend_from_slice(input.chunk());
    out
}

/// One of the nodes of the story, a point near one, or any.
fn id(ids: &[NodeId], input: &mut Input<'_>) -> NodeId {
    let choice = input.u8();
    let mut id = ids[usize::from(choice) % ids.len()];
    match choice >> 5 {
        0..=4 => {}
        5 => id.0[19] ^= 1,
        6 => id.0[0] = input.u8(),
        _ => id = NodeId(input.array()),
    }
    id
}

fn candidates(input: &mut Input<'_>, most: u8) -> Candidates {
    (0..input.u8() % (most + 1)).map(|_| address(input)).collect()
}

fn entries(ids: &[NodeId], input: &mut Input<'_>, most: u8) -> Vec<Entry> {
    (0..input.u8() % (most + 1)).map(|_| Entry { node: id(ids, input), hearsay: input.flag(), addresses: candidates(input, 2) }).collect()
}
