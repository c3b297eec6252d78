//! Every parser of `core::wire`.

use core::fmt::Debug;

use annulus_core::dht::key::Key;
use annulus_core::io::Ecn;
use annulus_core::wire::codec::{Reader, Write as _};
use annulus_core::wire::dht::{Abort, Answer, Bundle, COMFORTABLE_BODY, Found, Offer, Page};
use annulus_core::wire::handshake::{HandshakeHeader, Hello, MAC_AT, MAC_LEN, Resume, receiver_index, split_outer};
use annulus_core::wire::ip::{IpHeader, combine_ecn, is_local_scope, set_ecn};
use annulus_core::wire::link::LinkMessage;
use annulus_core::wire::overlay::{Connect, Status, StatusMessage, TraceAnswer, acknowledgement};
use annulus_core::wire::packet::{RELAY_HEADER_LEN, RelayHeader, SEALED_HEADER_LEN, SealedHeader, rebuild_counter};
use annulus_core::wire::routed::{MAX_CONTROL_PAYLOAD, RoutedHeader, parse_forward, wrap_forward};
use annulus_core::wire::rpc::{ErrorReply, Reply, Request};
use annulus_core::wire::vpn::{addresses_value, announce_reply, read_addresses_value, read_announce_reply, read_who_is, who_is};
use annulus_core::wire::{DatagramType, PayloadKind, classify};

use crate::ip::checksum;

/// What the first byte of an input chooses; any other first byte means all of them.
const PARSERS: [fn(&[u8]); 20] = [
    handshake, hello, resume, sealed, relay, ip, link, status, connect, trace, routed, forward, rpc, bundle, offer, answer, found, abort,
    page, vpn,
];

/// Lets the parser that the first byte chooses read the rest, and writes again what was read.
///
/// # Panics
/// When what is written is not what was read.
pub fn wire(data: &[u8]) {
    let Some((&choice, bytes)) = data.split_first() else { return };
    match PARSERS.get(usize::from(choice)) {
        Some(parser) => parser(bytes),
        None => PARSERS.iter().chain(&[codec as fn(&[u8])]).for_each(|parser| parser(bytes)),
    }
}

/// What is written reads alike, and is written alike then.
fn settles<T: Debug + PartialEq, E: Debug>(
    value: &T,
    written: &[u8],
    parse: impl Fn(&[u8]) -> Result<T, E>,
    write: impl Fn(&T) -> Vec<u8>,
) {
    let again = parse(written).unwrap_or_else(|error| panic!("{value:?} was written as {written:02x?}, which is refused: {error:?}"));
    assert_eq!(write(&again), written, "{value:?}");
}

fn handshake(bytes: &[u8]) {
    if let Ok((header, mac, body)) = HandshakeHeader::parse(bytes) {
        let mut out = Vec::new();
        header.write(&mut out);
        out[MAC_AT..MAC_AT + MAC_LEN].copy_from_slice(&mac);
        out.extend_from_slice(body);
        assert_eq!(out, bytes);
        assert_eq!(receiver_index(bytes), Some(header.receiver));
        assert!(header.part < header.parts && header.receiver < 1 << 24 && header.sender < 1 << 24);
        let common = header.abilities.common_version(&header.abilities);
        assert_eq!(common, Some(header.abilities.newest));
    }
    let _ = receiver_index(bytes);
    if let Ok((outer, noise)) = split_outer(bytes) {
        let mut out = Vec::new();
        out.put_bytes16(outer);
        out.extend_from_slice(noise);
        assert_eq!(out, bytes);
    }
}

fn hello(bytes: &[u8]) {
    if let Ok(hello) = Hello::parse(bytes) {
        assert_eq!(hello.bytes(), bytes);
    }
}

fn resume(bytes: &[u8]) {
    if let Ok(resume) = Resume::parse(bytes) {
        assert_eq!(resume.bytes(), bytes[..Resume::LEN]);
    }
}

fn sealed(bytes: &[u8]) {
    let kind = bytes.first().copied().and_then(classify);
    if let (Some(DatagramType::Control | DatagramType::Data), Ok(header)) = (kind, SealedHeader::parse(bytes)) {
        assert_eq!(header.bytes(), bytes[..SEALED_HEADER_LEN]);
    }
    if let Some((highest, low)) = bytes.first_chunk().zip(bytes.last_chunk()) {
        let (highest, low) = (u64::from_be_bytes(*highest) >> 1, u32::from_be_bytes(*low));
        let counter = rebuild_counter(highest, low);
        assert_eq!(counter as u32, low);
        // No other counter with these low bits lies nearer.
        assert!(counter.abs_diff(highest) <= 1 << 31 || counter < 1 << 32, "{highest:#x} {low:#x} {counter:#x}");
    }
}

fn relay(bytes: &[u8]) {
    if let (Some(DatagramType::Relay), Ok(header)) = (bytes.first().copied().and_then(classify), RelayHeader::parse(bytes)) {
        assert_eq!(header.bytes(), bytes[..RELAY_HEADER_LEN]);
    }
}

fn ip(bytes: &[u8]) {
    let Ok(header) = IpHeader::parse(bytes) else { return };
    assert!(usize::from(header.payload) <= bytes.len());
    assert!(header.source.is_ipv4() == header.destination.is_ipv4());
    let _ = (header.flow(), header.class.dscp(), is_local_scope(header.destination));
    let v4_header = usize::from(bytes[0] & 0x0f) * 4;
    let was_right = header.version() == 4 && checksum(&bytes[..v4_header]) == 0xffff;
    for outer in 0..4 {
        let Some(ecn) = combine_ecn(header.class.ecn(), Ecn(outer)) else { continue };
        let mut marked = bytes.to_vec();
        set_ecn(&mut marked, ecn);
        let again = IpHeader::parse(&marked).expect("a mark leaves the header's form alone");
        assert_eq!(again, IpHeader { class: header.class.with_ecn(ecn), ..header });
        assert!(!was_right || checksum(&marked[..v4_header]) == 0xffff, "the checksum is mended: {bytes:02x?}");
    }
}

fn link(bytes: &[u8]) {
    let Ok(message) = LinkMessage::parse(bytes) else { return };
    let payload = message.to_payload();
    assert_eq!(LinkMessage::parse(&payload), Ok(message));
    assert_eq!(&payload[..], bytes);
    assert_eq!(PayloadKind::from_byte(bytes[0]).byte(), bytes[0]);
}

fn status(bytes: &[u8]) {
    if let Ok(status) = Status::parse(bytes) {
        let payload = status.payload();
        assert!(payload.len() <= MAX_CONTROL_PAYLOAD, "{} bytes", payload.len());
        settles(&status, &payload[1..], Status::parse, |status| status.payload()[1..].to_vec());
    }
    match StatusMessage::parse(bytes) {
        Ok(StatusMessage::Ack(number)) => assert_eq!(StatusMessage::parse(&acknowledgement(number)), Ok(StatusMessage::Ack(number))),
        Ok(StatusMessage::Status(status)) => assert_eq!(Status::parse(&bytes[1..]), Ok(*status)),
        Err(_) => {}
    }
}

fn connect(bytes: &[u8]) {
    if let Ok(connect) = Connect::parse(bytes) {
        settles(&connect, &connect.body(), Connect::parse, Connect::body);
    }
}

fn trace(bytes: &[u8]) {
    if let Ok(answer) = TraceAnswer::parse(bytes) {
        assert_eq!(answer.body(), bytes);
    }
}

fn routed(bytes: &[u8]) {
    let Ok((header, body)) = RoutedHeader::parse(bytes) else { return };
    let mut out = Vec::new();
    header.write(&mut out);
    let len = out.len();
    out.extend_from_slice(body);
    assert_eq!(out, bytes);
    let moved = RoutedHeader { hops: header.hops.wrapping_add(1), ..header };
    moved.rewrite(&mut out);
    assert_eq!(RoutedHeader::parse(&out), Ok((moved, &bytes[len..])));
}

fn forward(bytes: &[u8]) {
    if let Ok((via, message)) = parse_forward(bytes) {
        assert_eq!(wrap_forward(&via, message), bytes);
        routed(message);
    }
}

fn rpc(bytes: &[u8]) {
    let mut out = Vec::new();
    if let Ok(request) = Request::parse(bytes) {
        request.write(&mut out);
        assert_eq!(out, bytes);
    }
    out.clear();
    if let Ok(reply) = Reply::parse(bytes) {
        reply.write(&mut out);
        assert_eq!(out, bytes);
    }
    out.clear();
    if let Ok(error) = ErrorReply::parse(bytes) {
        error.write(&mut out);
        assert_eq!(out, bytes);
    }
}

fn bundle(bytes: &[u8]) {
    if let Ok(bundle) = Bundle::parse(bytes) {
        assert_eq!(bundle.bytes(), bytes);
        key(bundle.record.key.bytes());
        let _ = (bundle.record.digest(), bundle.certificates().count());
    }
    key(bytes);
}

fn key(bytes: &[u8]) {
    if let Some(key) = Key::parse(bytes) {
        assert_eq!(key.bytes(), bytes);
        let _ = (key.space(), key.point());
    }
}

fn offer(bytes: &[u8]) {
    let Ok(offer) = Offer::parse(bytes) else { return };
    let body = Offer::body(&offer.bundle, &offer.certificates);
    let again = Offer::parse(&body).expect("what was written reads");
    assert_eq!(again.bundle, offer.bundle);
    assert!(again.certificates.iter().all(|certificate| offer.certificates.contains(certificate)));
    assert!(bytes.len() > COMFORTABLE_BODY || body == bytes);
}

fn answer(bytes: &[u8]) {
    if let Ok(answer) = Answer::parse(bytes) {
        assert_eq!(answer.bytes(), bytes);
    }
}

fn found(bytes: &[u8]) {
    if let Ok(found) = Found::parse(bytes) {
        settles(&found, &found.body(), Found::parse, |found| found.body().to_vec());
    }
}

fn abort(bytes: &[u8]) {
    if let Ok(abort) = Abort::parse(bytes) {
        assert_eq!(abort.body(), bytes);
    }
}

fn page(bytes: &[u8]) {
    if let Ok(page) = Page::parse(bytes) {
        settles(&page, &page.body(), Page::parse, |page| page.body().to_vec());
    }
}

fn vpn(bytes: &[u8]) {
    if let Ok(addresses) = read_addresses_value(bytes) {
        assert_eq!(addresses_value(&addresses), bytes);
    }
    if let Ok(point) = read_who_is(bytes) {
        assert_eq!(who_is(&point), bytes);
    }
    if let Ok(accepted) = read_announce_reply(bytes) {
        assert_eq!(announce_reply(accepted), bytes);
    }
}

/// The fields by themselves.
fn codec(bytes: &[u8]) {
    let mut reader = Reader::new(bytes);
    let mut out = Vec::new();
    while let Ok(address) = reader.socket_addr() {
        out.put_socket_addr(&address);
    }
    assert_eq!(out, bytes[..out.len()]);
    let mut reader = Reader::new(bytes);
    out.clear();
    while let Ok(field) = reader.bytes8() {
        out.put_bytes8(field);
    }
    assert_eq!(out, bytes[..out.len()]);
    let byte = bytes.first().copied().unwrap_or_default();
    assert_eq!(PayloadKind::from_byte(byte).byte(), byte);
}
