//! Sealed packets on their way to `Sessions::open` and `Shard::open`, with real crypto.

use core::net::IpAddr;
use core::num::NonZeroU8;
use std::collections::BTreeSet;
use std::sync::OnceLock;

use annulus_core::batch::{Batch, HEADROOM, Slot, TAILROOM};
use annulus_core::config::CryptoMode;
use annulus_core::crypto::Cipher;
use annulus_core::group::{Authority, Identity, Parameters, Profile, Trust};
use annulus_core::io::{DropReason, Endpoint, Path, RealmSlot, ShardId, TrafficClass, Verdict};
use annulus_core::paths::PathTable;
use annulus_core::rng::Rng;
use annulus_core::session::{Origin, SessionEvent, SessionSettings, Sessions};
use annulus_core::shard::table::{DataKeys, Install, PeerId, Prefix, Removal, SessionId, TableUpdate, Way};
use annulus_core::shard::{Shard, ShardSettings};
use annulus_core::time::{Instant, UnixTime};

use crate::input::{Input, edit};
use crate::ip;

const NOW: UnixTime = UnixTime(1_795_334_903);
/// Packets that an input may seal and keep.
const MAX_SEALED: usize = 32;
/// Steps of one input.
const MAX_STEPS: usize = 96;
/// Counters by which a packet may be late and still opens for certain.
const CONTROL_WINDOW: usize = 100;
const DATA_WINDOW: usize = 2_000;

/// Seals packets, and opens them in the order and form that the input chooses.
///
/// # Panics
/// When a packet that was sealed does not open, opens twice or changed, or one opens that was not sealed.
pub fn session_open(data: &[u8]) {
    let mut input = Input::new(data);
    let how = input.u8();
    if how & 1 == 0 { control(&mut input, how & 2 == 0) } else { DataPair::new(how & 2 == 0).run(&mut input) }
}

fn identities() -> &'static (Trust, [Identity; 2]) {
    static GROUP: OnceLock<(Trust, [Identity; 2])> = OnceLock::new();
    GROUP.get_or_init(|| {
        let mut rng = Rng::new([41; 32]);
        let authority = Authority::init(&Parameters::new("lab"), &mut rng, NOW).expect("the name is allowed");
        let identities =
            ["a", "b"].map(|name| authority.enrol(&Profile::new("alice", name, NOW), &mut rng).expect("the profile is allowed"));
        (authority.trust(), identities)
    })
}

/// Two ends of one session, made by a handshake.
fn established(aes: bool, now: Instant) -> ([Sessions; 2], [SessionId; 2]) {
    let (trust, identities) = identities();
    let mut paths = PathTable::new(&mut Rng::new([3; 32]));
    let endpoint = Endpoint::Udp { socket: 0, remote: ([192, 0, 2, 1], 1).into() };
    let path = paths.intern(endpoint);
    let settings = SessionSettings { realm: RealmSlot(0), workers: NonZeroU8::MIN, hardware_aes: aes, crypto: CryptoMode::Real };
    let mut seed = 0;
    let mut ends = identities.each_ref().map(|identity| {
        seed += 1;
        Sessions::new(settings, identity.clone(), trust.clone(), Rng::new([seed; 32]), now)
    });
    ends[0].connect(path, None, now).expect("the first handshake");
    let mut sessions = [SessionId(0); 2];
    let mut datagram = Vec::new();
    for turn in 0..6 {
        let (from, to) = (turn % 2, 1 - turn % 2);
        while ends[from].poll_transmit(&mut datagram).is_some() {
            if datagram[0] == 0x90 {
                ends[to].handle_handshake(path, Origin::of(&endpoint), &mut datagram, now, NOW).expect("genuine");
            } else {
                ends[to].open(&mut datagram, now).expect("genuine");
            }
            datagram.clear();
        }
        while let Some(event) = ends[to].poll_event() {
            if let SessionEvent::Established { session, .. } = event {
                sessions[to] = session;
            }
        }
    }
    assert!(sessions.iter().all(|session| session.0 != 0), "a handshake without disturbance makes a session");
    (ends, sessions)
}

/// What was sealed in one direction, and what became of it.
#[derive(Default)]
struct Log {
    /// Number of the packet in its direction, its bytes, what is in it.
    sealed: Vec<(usize, Vec<u8>, Vec<u8>)>,
    opened: BTreeSet<usize>,
    count: usize,
    newest: usize,
}

impl Log {
    /// What must become of the kept packet `at`: `Some(true)` it opens, `Some(false)` it does not, `None` it is at the edge of the window.
    fn expected(&self, at: usize, window: usize) -> Option<bool> {
        let number = self.sealed[at].0;
        let late = self.newest.saturating_sub(number);
        match () {
            () if self.opened.contains(&number) => Some(false),
            () if late < window => Some(true),
            () => None,
        }
    }

    /// Whether the kept packet `at` is later than any window of one lane.
    fn is_ancient(&self, at: usize) -> bool {
        self.newest.saturating_sub(self.sealed[at].0) > 2 * CONTROL_WINDOW
    }

    fn mark(&mut self, at: usize) {
        let number = self.sealed[at].0;
        assert!(self.opened.insert(number), "a packet opens twice");
        self.newest = self.newest.max(number);
    }

    fn keep(&mut self, bytes: Vec<u8>, content: Vec<u8>) {
        self.count += 1;
        if self.sealed.len() < MAX_SEALED {
            self.sealed.push((self.count, bytes, content));
        }
    }

    /// A packet that nobody sealed: a genuine one edited, the front of one on the back of another, or any bytes.
    fn forged(&self, input: &mut Input<'_>) -> Option<Vec<u8>> {
        let any = |input: &mut Input<'_>| self.sealed.get(input.below(self.sealed.len())).map(|(_, bytes, _)| bytes.clone());
        let bytes = match input.u8() % 4 {
            0 => input.chunk().to_vec(),
            1 => {
                let (mut front, back) = (any(input)?, any(input)?);
                let at = input.below(front.len().min(back.len()) + 1);
                front.truncate(at);
                front.extend_from_slice(&back[at.min(back.len())..]);
                front
            }
            _ => {
                let mut bytes = any(input)?;
                edit(&mut bytes, input);
                bytes
            }
        };
        (!self.sealed.iter().any(|(_, genuine, _)| *genuine == bytes)).then_some(bytes)
    }
}

fn control(input: &mut Input<'_>, aes: bool) {
    let now = Instant::from_secs(1);
    let (mut ends, sessions) = established(aes, now);
    let mut logs = [Log::default(), Log::default()];
    for _ in 0..MAX_STEPS {
        if input.is_empty() {
            break;
        }
        let choice = input.u8();
        let (from, to) = (usize::from(choice >> 7), 1 - usize::from(choice >> 7));
        let log = &mut logs[from];
        match choice % 8 {
            0 | 1 => {
                let content = input.chunk().to_vec();
                let mut bytes = Vec::new();
                ends[from].seal(sessions[from], &content, &mut bytes, now).expect("a fresh session seals");
                assert_eq!(bytes.len(), content.len() + 24);
                log.keep(bytes, content);
            }
            2 => {
                // Lost packets: the window moves on.
                let mut bytes = Vec::new();
                for _ in 0..input.u8() {
                    ends[from].seal(sessions[from], b"", &mut bytes, now).expect("a fresh session seals");
                    log.count += 1;
                    bytes.clear();
                }
            }
            3..=5 if !log.sealed.is_empty() => {
                let at = input.below(log.sealed.len());
                let (expected, mut bytes) = (log.expected(at, CONTROL_WINDOW), log.sealed[at].1.clone());
                match ends[to].open(&mut bytes, now) {
                    Ok(opened) => {
                        assert!(expected != Some(false) && !log.is_ancient(at), "replayed");
                        assert_eq!((&bytes[opened.payload], opened.session), (&log.sealed[at].2[..], sessions[to]));
                        log.mark(at);
                    }
                    Err(why) => {
                        assert_ne!(expected, Some(true), "{why:?}");
                        assert!(matches!(why, DropReason::Replayed | DropReason::TooOld), "{why:?}");
                    }
                }
            }
            _ => {
                if let Some(mut bytes) = log.forged(input) {
                    let forged = bytes.clone();
                    assert!(ends[to].open(&mut bytes, now).is_err(), "opened: {forged:02x?}");
                }
            }
        }
        for end in &mut ends {
            let mut datagram = Vec::new();
            while end.poll_transmit(&mut datagram).is_some() {}
            assert!(end.poll_event().is_none(), "packets make no news");
        }
    }
    // Whatever came in between, the next packet opens.
    for (from, to) in [(0, 1), (1, 0)] {
        let mut bytes = Vec::new();
        ends[from].seal(sessions[from], b"last", &mut bytes, now).expect("a fresh session seals");
        assert!(ends[to].open(&mut bytes, now).is_ok_and(|opened| bytes[opened.payload] == *b"last"));
    }
}

/// Two shards with one session.
struct DataPair {
    shards: [Shard; 2],
    paths: Vec<Path>,
    logs: [Log; 2],
    now: Instant,
}

const SESSIONS: [SessionId; 2] = [SessionId(0x101), SessionId(0x202)];
const PEER: PeerId = PeerId(7);
const CIRCUIT: u32 = 0x333;

/// The addresses of the two ends, IPv4 and IPv6.
fn address(end: usize, v6: bool) -> IpAddr {
    let last = end as u8 + 1;
    if v6 { IpAddr::from([0xfd, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]) } else { IpAddr::from([10, 1, 0, last]) }
}

impl DataPair {
    fn new(aes: bool) -> Self {
        let mut table = PathTable::new(&mut Rng::new([3; 32]));
        let paths: Vec<Path> =
            (1..4).map(|port| table.intern(Endpoint::Udp { socket: 0, remote: ([192, 0, 2, 1], port).into() })).collect();
        let cipher = if aes { Cipher::Aes256Gcm } else { Cipher::ChaCha20Poly1305 };
        let now = Instant::from_secs(1);
        let keys = [[0x11; 32], [0x22; 32]];
        let shards = [0, 1].map(|end| {
            let settings = ShardSettings { flows: 16, ..ShardSettings::new(ShardId(0), RealmSlot(0), NonZeroU8::MIN, 9) };
            let mut shard = Shard::new(settings);
            let install = Install {
                session: SESSIONS[end],
                peer: PEER,
                remote_index: SESSIONS[1 - end].0,
                keys: DataKeys { send: keys[end], receive: keys[1 - end] },
                cipher,
                way: way(paths[0]),
                rekey_at: now + core::time::Duration::from_secs(120),
            };
            shard.apply(TableUpdate::Install(Box::new(install)), now);
            shard.apply(TableUpdate::Promote { peer: PEER, session: SESSIONS[end] }, now);
            let host = [false, true].map(|v6| Prefix::host(address(end, v6)));
            shard.set_local(&host, &[]);
            for v6 in [false, true] {
                let prefix = Prefix::host(address(1 - end, v6));
                shard.apply(TableUpdate::Route { prefix, peer: PEER }, now);
                shard.apply(TableUpdate::Source { prefix, peer: PEER }, now);
            }
            shard
        });
        Self { shards, paths, logs: [Log::default(), Log::default()], now }
    }

    fn run(&mut self, input: &mut Input<'_>) {
        for _ in 0..MAX_STEPS {
            if input.is_empty() {
                break;
            }
            let choice = input.u8();
            let from = usize::from(choice >> 7);
            match choice % 10 {
                0 | 1 => self.seal(from, input),
                2 => self.lose(from, usize::from(input.u8()) * 16),
                3..=5 if !self.logs[from].sealed.is_empty() => self.deliver(from, input),
                6 => self.spoof(from, input),
                7 => self.tables(from, input),
                _ => {
                    if let Some(mut bytes) = self.logs[from].forged(input) {
                        let forged = bytes.clone();
                        let (verdict, _) = self.open(1 - from, &mut bytes, TrafficClass(0));
                        assert_ne!(verdict, Verdict::Deliver, "opened: {forged:02x?}");
                    }
                }
            }
            for shard in &mut self.shards {
                while shard.poll_event().is_some() {}
            }
        }
    }

    fn seal_packet(&mut self, from: usize, packet: &[u8]) -> (Verdict, Vec<u8>) {
        let mut buf = vec![0; HEADROOM];
        buf.extend_from_slice(packet);
        buf.resize(buf.len() + TAILROOM, 0);
        let mut slot = Slot { start: HEADROOM as u32, len: packet.len() as u16, ..Slot::default() };
        self.shards[from].seal(&mut Batch { buf: &mut buf, slots: core::slice::from_mut(&mut slot) }, self.now);
        (slot.verdict, buf[slot.range()].to_vec())
    }

    fn open(&mut self, to: usize, bytes: &mut Vec<u8>, class: TrafficClass) -> (Verdict, Slot) {
        let mut slot = Slot { start: 0, len: bytes.len() as u16, from: self.paths[0], class, verdict: Verdict::Pending };
        self.shards[to].open(&mut Batch { buf: bytes, slots: core::slice::from_mut(&mut slot) }, self.now);
        assert_ne!(slot.verdict, Verdict::Pending);
        assert!(slot.range().end <= bytes.len());
        (slot.verdict, slot)
    }

    fn seal(&mut self, from: usize, input: &mut Input<'_>) {
        let (how, v6) = (input.u8(), input.flag());
        let protocol = if how & 4 == 4 { input.u8() } else { ip::UDP };
        let packet = ip::packet(address(from, v6), address(1 - from, v6), protocol, how & 3, input.chunk());
        let (verdict, bytes) = self.seal_packet(from, &packet);
        if let Verdict::Transmit(path) = verdict {
            assert!(self.paths.contains(&path));
            assert_eq!(bytes.len(), packet.len() + 24);
            assert!(packet.len() < 20 || !bytes.windows(packet.len()).any(|window| window == packet), "sent in clear");
            self.logs[from].keep(bytes, packet);
        }
    }

    /// Packets that are sealed and never arrive.
    fn lose(&mut self, from: usize, number: usize) {
        let packet = ip::packet(address(from, false), address(1 - from, false), ip::UDP, 0, b"lost");
        for _ in 0..number {
            if let (Verdict::Transmit(_), _) = self.seal_packet(from, &packet) {
                self.logs[from].count += 1;
            }
        }
    }

    fn deliver(&mut self, from: usize, input: &mut Input<'_>) {
        let at = input.below(self.logs[from].sealed.len());
        let outer = TrafficClass(input.u8());
        let expected = self.logs[from].expected(at, DATA_WINDOW);
        let (_, mut bytes, packet) = self.logs[from].sealed[at].clone();
        let (verdict, slot) = self.open(1 - from, &mut bytes, outer);
        match verdict {
            Verdict::Deliver => {
                assert_ne!(expected, Some(false), "replayed");
                let (mut got, mut sent) = (bytes[slot.range()].to_vec(), packet);
                without_ecn(&mut got);
                without_ecn(&mut sent);
                assert_eq!(got, sent);
                self.logs[from].mark(at);
            }
            // The mark of congestion cannot be handed on: opened, but not delivered.
            Verdict::Drop(DropReason::Congested) => self.logs[from].mark(at),
            Verdict::Drop(DropReason::Replayed | DropReason::TooOld) => assert!(expected != Some(true), "lost: {verdict:?}"),
            Verdict::Drop(DropReason::UnknownIndex | DropReason::SpoofedSource | DropReason::NotOurs) => {}
            other => panic!("{other:?}"),
        }
    }

    /// A packet with a source that is not the sender's: sealed by a peer that does not care.
    fn spoof(&mut self, from: usize, input: &mut Input<'_>) {
        let source = IpAddr::from([10, 1, 0, input.u8() | 4]);
        let packet = ip::packet(source, address(1 - from, false), ip::UDP, 0, input.chunk());
        if let (Verdict::Transmit(_), mut bytes) = self.seal_packet(from, &packet) {
            self.logs[from].count += 1;
            let (verdict, _) = self.open(1 - from, &mut bytes, TrafficClass(0));
            assert!(matches!(verdict, Verdict::Drop(DropReason::SpoofedSource | DropReason::UnknownIndex)), "{verdict:?}");
            self.logs[from].newest = self.logs[from].newest.max(self.logs[from].count);
        }
    }

    /// Changes of the tables while packets are under way. Keys never come again, as the control plane promises.
    fn tables(&mut self, end: usize, input: &mut Input<'_>) {
        let (how, path) = (input.u8(), self.paths[input.below(3)]);
        let update = match how % 6 {
            0 => TableUpdate::SetPath { session: SESSIONS[end], way: way(path), at_once: input.flag() },
            1 => TableUpdate::CircuitEnd { index: CIRCUIT, from: self.paths[0], arrives_by: path },
            2 => TableUpdate::Circuit { index: CIRCUIT, from: self.paths[0], to: path, next_index: None, rate: u64::from(input.u16()) },
            3 => TableUpdate::Barrier(input.u64()),
            4 => {
                self.now += crate::member::span(input.u8() % 40);
                return;
            }
            _ => TableUpdate::Remove(match input.u8() % 8 {
                0 => Removal::Session(SESSIONS[end]),
                1 => Removal::Route(Prefix::host(address(1 - end, false))),
                2 => Removal::Source(PEER, Prefix::host(address(1 - end, true))),
                _ => Removal::Circuit(CIRCUIT),
            }),
        };
        self.shards[end].apply(update, self.now);
    }
}

const fn way(path: Path) -> Way {
    Way { path, circuit: None, routed: false, whole: u16::MAX, mtu: 1400, rtt: None }
}

/// Clears what a router may change: the ECN bits, and with them the checksum of an IPv4 header.
fn without_ecn(packet: &mut [u8]) {
    match packet {
        [first, second, ..] if *first >> 4 == 6 => *second &= 0xcf,
        [_, second, _, _, _, _, _, _, _, _, high, low, ..] => {
            *second &= 0xfc;
            (*high, *low) = (0, 0);
        }
        _ => {}
    }
}
