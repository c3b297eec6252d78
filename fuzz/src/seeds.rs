//! Genuine inputs, from which the corpus starts.

use annulus_core::dht::key::Key;
use annulus_core::id::NodeId;
use annulus_core::time::UnixTime;
use annulus_core::wire::dht::{Abort, Answer, Bundle, Found, Grant, Offer, Page, Record, Refusal};
use annulus_core::wire::handshake::{Abilities, HandshakeHeader, Hello, Kind, Resume};
use annulus_core::wire::link::{CloseReason, LinkMessage, NoticeReason};
use annulus_core::wire::overlay::{Connect, Entry, Status, TraceAnswer};
use annulus_core::wire::packet::{RelayHeader, SealedHeader};
use annulus_core::wire::routed::{Content, Part, RouteMode, RoutedHeader, wrap_forward};
use annulus_core::wire::rpc::Request;

use crate::certificate::fixture;
use crate::ip;

/// Target, name and content of each seed. The numbers of parsers and operations are those of the targets.
///
/// # Panics
/// When the formats of core have changed so that an example is none any more.
#[must_use]
pub fn seeds() -> Vec<(&'static str, String, Vec<u8>)> {
    let mut out = Vec::new();
    for (parser, seeds) in wire().into_iter().enumerate() {
        for (number, bytes) in seeds.into_iter().enumerate() {
            out.push(("wire", format!("genuine-{parser:02}-{number}"), [&[parser as u8], &bytes[..]].concat()));
        }
    }
    for (number, bytes) in certificates().into_iter().enumerate() {
        out.push(("certificate", format!("genuine-{number:02}"), bytes));
    }
    for (target, name, program) in PROGRAMS {
        out.push((target, (*name).to_owned(), program.to_vec()));
    }
    out
}

/// Stories: each byte is a choice of the target, see there.
const PROGRAMS: &[(&str, &str, &[u8])] = &[
    ("handshake", "one-handshake", &[0, 0, 0, 1, 0, 8, 8, 10, 0, 0, 3, 1, 2, 3, 8]),
    ("handshake", "crossing-handshakes", &[1, 0, 0, 1, 0, 0, 1, 0, 0, 8, 8, 7, 0x1c, 8]),
    ("handshake", "rekey-by-resumption", &[0, 0, 0, 1, 0, 8, 9, 0, 0, 0, 8, 7, 0x1b, 8, 7, 0x1d, 8]),
    ("handshake", "an-ended-certificate", &[1, 12, 0, 20, 2, 0, 2, 0, 0, 8, 0, 0, 2, 0, 8, 7, 0x2c]),
    ("handshake", "cookies", &[1, 15, 0, 1, 0, 0, 8, 8, 8, 7, 0x2b, 8]),
    ("handshake", "forged", &[0, 0, 0, 1, 0, 4, 3, 0, 2, 0, 9, 1, 5, 4, 11, 0, 0, 7, 0x1b, 8, 4, 1, 0, 0, 0, 50, 0, 3]),
    (
        "handshake",
        "invented",
        &[0, 6, 4, 3, 0, 0x10, 1, 0, 0, 0, 0, 0, 0, 9, 0, 32, 1, 1, 1, 1, 6, 0, 4, 1, 1, 5, 0, 0, 1, 0, 0, 0, 1, 0, 2, 9, 9],
    ),
    ("session_open", "control", &[0, 0, 3, 1, 2, 3, 3, 0, 3, 0, 128, 2, 9, 9, 131, 0, 6, 2, 0, 1, 0, 9, 0, 1]),
    ("session_open", "control-window", &[2, 0, 3, 1, 2, 3, 2, 250, 0, 1, 7, 3, 1, 3, 0, 6, 1, 0, 1, 9]),
    (
        "session_open",
        "data",
        &[1, 0, 0, 0, 5, 1, 2, 3, 4, 5, 0, 2, 1, 9, 1, 2, 3, 4, 5, 6, 7, 8, 9, 3, 0, 3, 3, 0, 0, 3, 1, 0, 8, 2, 0, 0, 12, 0, 4],
    ),
    (
        "session_open",
        "data-window-and-paths",
        &[3, 0, 0, 0, 5, 1, 2, 3, 4, 5, 2, 200, 7, 0, 1, 1, 0, 0, 0, 2, 8, 8, 3, 1, 0, 3, 0, 0, 6, 1, 2, 7, 7],
    ),
    (
        "node",
        "a-member-joins",
        &[
            0, 1, 3, 0x13, 11, 0x1b, 5, 0, 0, 0, 9, 9, 9, 9, 9, 9, 9, 9, 0, 6, 1, 0xff, 0, 1, 1, 0, 1, 2, 0, 0, 0, 11, 0x1c, 9, 0x81, 1, 0,
            8, 1, 2, 3, 4, 5, 6, 7, 8, 12, 0x25,
        ],
    ),
    (
        "node",
        "a-host-asks",
        &[
            0, 0, 3, 11, 0x1c, 10, 3, 5, 0, 9, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 0x1c, 10, 2, 77, 0, 2, 1, 1, 15, 0, 1, 1, 0, 12, 0x15, 13, 1,
            8, 6, 110, 111, 100, 101, 45, 49,
        ],
    ),
    (
        "node",
        "strangers",
        &[
            1, 0, 0, 3, 0, 20, 0x90, 1, 1, 0, 0, 1, 1, 0, 0, 0, 0, 0, 1, 9, 9, 9, 9, 9, 9, 9, 1, 4, 4, 1, 1, 0, 0, 0, 0, 0, 0, 9, 0, 8, 1,
            2, 3, 4, 5, 6, 7, 8, 2, 1, 5, 0, 0, 9, 9, 9, 11, 0x2c,
        ],
    ),
    (
        "node",
        "requests",
        &[
            0, 1, 3, 0x13, 11, 0x1c, 7, 1, 0, 0, 0, 0, 0, 0, 9, 3, 1, 0, 8, 7, 2, 1, 1, 1, 0, 0, 0, 2, 7, 1, 0, 4, 120, 47, 111, 7, 1, 0,
            1, 0, 0, 0, 5, 1, 2, 3, 11, 0x1c, 15, 1, 0, 0, 0,
        ],
    ),
    ("two_nodes", "undisturbed", &[0]),
    ("two_nodes", "three-undisturbed", &[1]),
    ("two_nodes", "packets", &[0, 18, 0, 2, 8, 0, 3, 1, 1, 0, 40, 1, 3, 0, 0, 4, 0, 0, 1, 200, 0, 3, 1]),
    ("two_nodes", "loss", &[0, 6, 0, 2, 20, 1, 3, 0, 1, 128, 0, 129, 0, 130, 0, 0, 128, 0, 128, 128, 0, 0, 128]),
    ("two_nodes", "late-and-twice", &[1, 6, 0, 2, 20, 1, 3, 0, 1, 160, 60, 160, 3, 200, 9, 200, 90, 0, 0, 192, 1, 192, 2, 160, 5]),
    (
        "two_nodes",
        "changed-and-from-elsewhere",
        &[0, 6, 0, 2, 20, 1, 3, 0, 1, 216, 1, 0, 9, 0, 3, 0, 240, 7, 220, 0, 0, 1, 1, 7, 250, 3, 217, 0, 0, 30, 2],
    ),
];

fn wire() -> [Vec<Vec<u8>>; 20] {
    let (a, b) = (NodeId([0x11; 20]), NodeId([0x22; 20]));
    let addresses = [([192, 0, 2, 1], 4242).into(), ([0x20; 16], 1).into()];
    let abilities = Abilities::local(true);
    let der = &fixture().certificates[0];
    let mut handshake = Vec::new();
    HandshakeHeader { abilities, part: 0, parts: 2, kind: Kind::M1, receiver: 0, sender: 0x10203 }.write(&mut handshake);
    handshake.extend([7; 40]);
    let hello = Hello { abilities, session: 9, renews: 8, certificate: der, introduction: b"here", extensions: b"later" }.bytes();
    let mut control = SealedHeader { kind: 0xa0, lane: 0, receiver: 9, counter: 7 }.bytes().to_vec();
    control.extend([1; 30]);
    let mut relay = RelayHeader { hops_left: 3, circuit: 9 }.bytes().to_vec();
    relay.extend(&control);
    let entry = Entry { node: b, hearsay: true, addresses: addresses.into_iter().collect() };
    let status = Status {
        number: 3,
        joined: true,
        roles: 1,
        candidates: addresses.into_iter().collect(),
        predecessors: vec![entry.clone()],
        successors: vec![entry.clone(), entry.clone()],
        further: vec![entry.clone()],
        prefixes: vec![1, 2],
        ..Status::default()
    };
    let connect = Connect { roles: 1, candidates: addresses.into_iter().collect(), neighbours: vec![entry] }.body();
    let mut request = Vec::new();
    Request { id: 7, method: 1, body: &connect }.write(&mut request);
    let routed = |part, agent, trace| {
        let mut out = Vec::new();
        let content = Content::Request;
        RoutedHeader { mode: RouteMode::Closest, trace, hops: 1, limit: 64, content, part, source: a, destination: b, agent }
            .write(&mut out);
        out.extend(&request);
        out
    };
    let links = [
        LinkMessage::Ping { token: 1, padding: 9 },
        LinkMessage::Pong { token: 1 },
        LinkMessage::AddressReport(addresses[1]),
        LinkMessage::Close { reason: CloseReason::Idle, text: "idle" },
        LinkMessage::KeepAlive,
        LinkMessage::MemberNotice { reason: NoticeReason::Expired, time: Some(UnixTime(5)), text: "since then" },
    ];
    let key = Key::parse(b"a/10.200.0.7").expect("an address");
    let record = Record {
        key: key.clone(),
        value: b"value"[..].into(),
        sequence: 4,
        expires: UnixTime(9),
        tombstone: false,
        owner: a,
        certificate: [3; 32],
        signature: [4; 64],
    };
    let grant = Grant { node: b, certificate: [5; 32], since: UnixTime(1), time: UnixTime(2), signature: [6; 64] };
    let bundle = Bundle { record, grants: vec![grant.clone()] };
    let found = Found {
        synced: true,
        consistent: true,
        replicas: vec![a, b],
        bundles: vec![bundle.clone()],
        certificates: vec![der.clone().into()],
    };
    let answers =
        [Answer::Done, Answer::Granted { replicas: 2, grant }, Answer::Conflict(Box::new(bundle.clone())), Answer::Refused(Refusal::Stale)];
    let packets = [false, true].map(|v6| {
        let address = |last| if v6 { core::net::IpAddr::from([last; 16]) } else { core::net::IpAddr::from([10, 1, 0, last]) };
        ip::packet(address(1), address(2), ip::UDP, 2, b"\x10\x00\x00\x35payload")
    });
    let mut extended = packets[1].clone();
    extended.splice(40..40, [44, 0, 1, 4, 0, 0, 0, 0, 17, 0, 0, 1, 0, 0, 0, 1]);
    (extended[5], extended[6]) = (extended[5] + 16, 60);
    [
        vec![handshake],
        vec![hello],
        vec![Resume { abilities, session: 7 }.bytes()],
        vec![control],
        vec![relay],
        vec![packets[0].clone(), packets[1].clone(), extended],
        links.iter().map(|message| message.to_payload().to_vec()).collect(),
        vec![status.payload()[1..].to_vec(), annulus_core::wire::overlay::acknowledgement(7), status.payload()],
        vec![connect],
        vec![TraceAnswer { hops: 3, reached: true }.body().to_vec()],
        vec![routed(Part::Whole, None, false), routed(Part::First(9), Some(b), true)],
        vec![wrap_forward(&b, &routed(Part::Whole, Some(a), false))],
        vec![request.clone()],
        vec![bundle.bytes()],
        vec![Offer::body(&bundle, &[der.clone().into()]).to_vec()],
        answers.iter().map(|answer| answer.bytes().to_vec()).collect(),
        vec![found.body().to_vec()],
        vec![Abort { key: key.clone(), digest: [1; 32], certificate: [2; 32], signature: [3; 64] }.body().to_vec()],
        vec![Page { more: true, entries: vec![(key, [8; 16])] }.body().to_vec()],
        vec![annulus_core::wire::vpn::addresses_value(&[[10, 1, 0, 1].into(), [0xfd; 16].into()]).to_vec(), vec![0], a.0.to_vec()],
    ]
}

fn certificates() -> Vec<Vec<u8>> {
    let fixture = fixture();
    let mut out = Vec::new();
    let kinds = [(0, &fixture.certificates), (1, &fixture.authorities), (2, &fixture.requests), (3, &fixture.lists)];
    for (kind, pieces) in kinds {
        for piece in pieces {
            // A list is read behind a flag and a time.
            let behind: &[u8] = if kind == 3 { &[0, 0, 0, 0, 0] } else { &[] };
            out.push([&[kind, 0], behind, piece].concat());
        }
        // Edited, edited as a tree, the same and signed again.
        out.push(vec![kind, 1, 0, 0, 0, 60, 0, 3]);
        out.push(vec![kind, 2, 0, 0, 12, 2, 0, 0, 3, 1, 9]);
        out.push(vec![kind, 3, 0, 0, 20, 2, 0, 0, 3, 1, 97]);
        out.push(vec![kind, 3, 0, 1, 30, 6, 0, 12, 3, 1, 2, 3, 9, 4, 0]);
    }
    out.extend(fixture.texts.iter().map(|text| [&[4, 0], text.as_bytes()].concat()));
    out.push(vec![4, 1, 2, 0, 0, 80, 1, 65]);
    out
}
