//! Three nodes' sessions behind a network that the input controls, and a member among them that forges.

use core::time::Duration;
use std::collections::{BTreeSet, VecDeque};

use annulus_sim::core::config::CryptoMode;
use annulus_sim::core::id::NodeId;
use annulus_sim::core::io::{DropReason, Endpoint, Path};
use annulus_sim::core::session::{HandshakeId, Origin, SessionEvent, Sessions};
use annulus_sim::core::shard::table::SessionId;
use annulus_sim::core::time::Instant;
use annulus_sim::core::wire::handshake::{Abilities, HandshakeHeader, Kind, M1_LEN};
use annulus_sim::world::{WALL_START, World};

use crate::input::{Input, edit};
use crate::member::{self, Group, group, paths, span};

/// Operations of one input: enough for several handshakes with all that can happen to them.
const MAX_OPERATIONS: usize = 48;
/// Datagrams under way; what comes beyond it is lost.
const MAX_UNDER_WAY: usize = 64;
/// Sides, and addresses at which none of them is.
const SIDES: usize = 3;
const ADDRESSES: u32 = 6;
/// How often a due deadline may be looked after at one instant.
const MAX_ROUNDS: usize = 64;

struct Side {
    sessions: Sessions,
    id: NodeId,
    /// Sessions that were established and not ended, with whom.
    live: Vec<(SessionId, NodeId)>,
    won: BTreeSet<HandshakeId>,
    tried: Vec<HandshakeId>,
}

struct Datagram {
    from: usize,
    to: usize,
    bytes: Vec<u8>,
}

struct Net {
    group: &'static Group,
    sides: Vec<Side>,
    paths: Vec<Path>,
    under_way: VecDeque<Datagram>,
    now: Instant,
    wall_offset: u64,
}

/// Runs three `Sessions` (the last with a certificate that ends soon) as the input says, then a handshake without disturbance.
///
/// # Panics
/// When a property in the table of the crate does not hold.
pub fn handshake(data: &[u8]) {
    let mut input = Input::new(data);
    let crypto = if input.flag() { CryptoMode::StandIn } else { CryptoMode::Real };
    let mut net = Net::new(crypto);
    let mut flooded = crypto == CryptoMode::Real;
    for _ in 0..MAX_OPERATIONS {
        if input.is_empty() {
            break;
        }
        net.operate(&mut input, &mut flooded);
        net.collect();
    }
    net.settle();
}

impl Net {
    fn new(crypto: CryptoMode) -> Self {
        let group = group();
        let now = Instant::from_secs(1);
        let identities = [&group.members[0], &group.members[1], &group.brief];
        let sides = identities.into_iter().zip(1..).map(|(identity, seed)| Side {
            sessions: group.sessions(identity, crypto, seed, now),
            id: identity.node_id(),
            live: Vec::new(),
            won: BTreeSet::new(),
            tried: Vec::new(),
        });
        Self { group, sides: sides.collect(), paths: paths(ADDRESSES).1, under_way: VecDeque::new(), now, wall_offset: 0 }
    }

    fn operate(&mut self, input: &mut Input<'_>, flooded: &mut bool) {
        match input.u8() % 16 {
            0 => {
                let (from, to) = (input.below(SIDES), input.below(SIDES));
                let expected = if input.flag() { Some(self.sides[input.below(SIDES)].id) } else { None };
                self.connect(from, to, expected);
            }
            1 | 2 => {
                let at = input.below(self.under_way.len());
                if let Some(datagram) = self.under_way.remove(at) {
                    let _ = self.deliver(datagram, None);
                }
            }
            3 => {
                let at = input.below(self.under_way.len());
                self.under_way.remove(at);
            }
            4 | 5 => self.forge(input),
            6 => self.invent(input),
            7 => self.pass(span(input.u8())),
            8 => self.deliver_all(),
            9 => self.on_session(input),
            10 => self.exchange(input),
            11 => {
                let side = &mut self.sides[input.below(SIDES)];
                if let Some(handshake) = side.tried.pop() {
                    side.sessions.abandon(handshake);
                }
            }
            12 => {
                let wall = UnixOffset(input.u16()).seconds();
                self.wall_offset = wall;
                let (now, wall) = (self.now, self.wall());
                self.sides[input.below(SIDES)].sessions.recheck(wall, now);
            }
            13 => {
                let side = &mut self.sides[input.below(SIDES)];
                let identity = side.sessions.identity().clone();
                side.sessions.set_identity(identity);
            }
            14 => self.sides[input.below(SIDES)].sessions.set_introduction(input.chunk().to_vec().into()),
            _ if !*flooded => {
                *flooded = true;
                self.flood();
            }
            _ => self.pass(Duration::from_millis(100)),
        }
    }

    fn wall(&self) -> annulus_sim::core::time::UnixTime {
        WALL_START.plus_secs(self.wall_offset)
    }

    fn connect(&mut self, from: usize, to: usize, expected: Option<NodeId>) {
        let side = &mut self.sides[from];
        if let Ok(handshake) = side.sessions.connect(self.paths[to], expected, self.now) {
            side.tried.push(handshake);
        }
    }

    /// Hands a datagram over; it came from where it says, or from another address.
    fn deliver(&mut self, mut datagram: Datagram, address: Option<usize>) -> Result<(), DropReason> {
        let address = address.unwrap_or(datagram.from);
        let path = self.paths[address];
        let origin = Origin::of(&Endpoint::Udp { socket: 0, remote: World::address_of(address as u32) });
        let kind = HandshakeHeader::parse(&datagram.bytes).map(|(header, ..)| header.kind);
        let len = datagram.bytes.len();
        let (now, wall) = (self.now, self.wall());
        self.collect();
        let side = &mut self.sides[datagram.to];
        let result = if datagram.bytes.first() == Some(&0x90) {
            let claims = side.sessions.claims(&datagram.bytes);
            let result = side.sessions.handle_handshake(path, origin, &mut datagram.bytes, now, wall);
            assert!(claims || result.is_err());
            assert!(kind.is_ok() || matches!(result, Err(DropReason::Malformed)));
            result
        } else {
            side.sessions.open(&mut datagram.bytes, now).map(|_| ())
        };
        let before = self.under_way.len();
        self.collect();
        // What opens a handshake proves nothing yet: its answer goes to a source that may be forged.
        if matches!(kind, Ok(Kind::M1 | Kind::R1 | Kind::Unknown(_))) || result == Err(DropReason::WrongRealm) {
            let answer: usize = self.under_way.iter().skip(before).map(|datagram| datagram.bytes.len()).sum();
            let bound = if result == Err(DropReason::WrongRealm) { 0 } else { len };
            assert!(answer <= bound, "{answer} bytes in answer to {len} of {kind:?}: {result:?}");
        }
        result
    }

    /// Delivers a changed copy of what is under way, from anywhere, perhaps with a right MAC.
    fn forge(&mut self, input: &mut Input<'_>) {
        let how = input.u8();
        let at = input.below(self.under_way.len());
        let Some(found) = self.under_way.get(at) else { return };
        let mut copy = Datagram { from: found.from, to: found.to, bytes: found.bytes.clone() };
        if how & 1 == 1 {
            edit(&mut copy.bytes, input);
        }
        if how & 2 == 2 {
            self.group.mac.sign(&mut copy.bytes);
        }
        if how & 4 == 4 {
            copy.to = input.below(SIDES);
        }
        let address = if how & 8 == 8 { Some(input.below(ADDRESSES as usize)) } else { None };
        let _ = self.deliver(copy, address);
    }

    /// Delivers a datagram that nobody sent: a header with a body, or any bytes.
    fn invent(&mut self, input: &mut Input<'_>) {
        let (from, to) = (input.below(ADDRESSES as usize), input.below(SIDES));
        let bytes = invented(self.group, input);
        let _ = self.deliver(Datagram { from, to, bytes }, None);
    }

    /// More strangers than the first side answers without a cookie.
    fn flood(&mut self) {
        for number in 0..300u32 {
            let mut bytes = Vec::new();
            let abilities = Abilities::local(true);
            HandshakeHeader { abilities, part: 0, parts: 1, kind: Kind::M1, receiver: 0, sender: number + 1 }.write(&mut bytes);
            bytes.extend_from_slice(&[number as u8; 32]);
            bytes.resize(M1_LEN, 0);
            self.group.mac.sign(&mut bytes);
            let _ = self.deliver(Datagram { from: ADDRESSES as usize - 1, to: 0, bytes }, None);
            self.under_way.retain(|datagram| datagram.to < SIDES);
        }
    }

    fn on_session(&mut self, input: &mut Input<'_>) {
        let (number, how) = (input.below(SIDES), input.u8());
        let now = self.now;
        let side = &mut self.sides[number];
        let chosen = input.below(side.live.len());
        let Some(&(session, node)) = side.live.get(chosen) else { return };
        match how % 5 {
            0 => {
                let to = self.sides.iter().position(|other| other.id == node).unwrap_or_default();
                self.sides[number].sessions.rekey(session, self.paths[to], now);
            }
            1 => side.sessions.mark_data(session),
            2 => {
                let way = annulus_sim::core::shard::table::Way {
                    path: self.paths[0],
                    circuit: None,
                    routed: false,
                    whole: u16::MAX,
                    mtu: 1400,
                    rtt: None,
                };
                let _ = side.sessions.data_install(session, Default::default(), way);
            }
            3 => side.sessions.set_path(session, self.paths[input.below(ADDRESSES as usize)]),
            _ => {
                side.sessions.close(session);
                side.live.retain(|(live, _)| *live != session);
            }
        }
    }

    /// Seals a control packet on a live session and puts it under way.
    fn exchange(&mut self, input: &mut Input<'_>) {
        let number = input.below(SIDES);
        let side = &mut self.sides[number];
        let chosen = input.below(side.live.len());
        let Some(&(session, node)) = side.live.get(chosen) else { return };
        let mut bytes = Vec::new();
        let sealed = side.sessions.seal(session, input.chunk(), &mut bytes, self.now);
        if let (Ok(()), Some(to)) = (sealed, self.sides.iter().position(|side| side.id == node)) {
            self.under_way.push_back(Datagram { from: number, to, bytes });
        }
    }

    /// Lets time pass and looks after every deadline on the way.
    fn pass(&mut self, duration: Duration) {
        let end = self.now + duration;
        for _ in 0..16 {
            let next = self.sides.iter().filter_map(|side| side.sessions.poll_timeout()).map(|(at, _)| at).min();
            self.now = next.map_or(end, |next| next.clamp(self.now, end));
            self.due();
            if self.now == end {
                return;
            }
        }
        self.now = end;
        self.due();
    }

    fn due(&mut self) {
        let (now, wall) = (self.now, self.wall());
        for side in &mut self.sides {
            let mut rounds = 0;
            while side.sessions.poll_timeout().is_some_and(|(at, _)| at <= now) {
                side.sessions.handle_timeout(now, wall);
                rounds += 1;
                assert!(rounds < MAX_ROUNDS, "a deadline that does not advance: {:?}", side.sessions.poll_timeout());
            }
        }
        self.collect();
    }

    /// Takes what the sides send and tell.
    fn collect(&mut self) {
        let ids: Vec<NodeId> = self.sides.iter().map(|side| side.id).collect();
        for (number, side) in self.sides.iter_mut().enumerate() {
            while let Some(event) = side.sessions.poll_event() {
                side.note(event, &ids);
            }
            loop {
                let mut bytes = Vec::new();
                let Some(path) = side.sessions.poll_transmit(&mut bytes) else { break };
                assert!(!bytes.is_empty() && bytes.len() <= M1_LEN, "{} bytes", bytes.len());
                let to = self.paths.iter().position(|known| *known == path).expect("only paths that were told are used");
                if self.under_way.len() < MAX_UNDER_WAY {
                    self.under_way.push_back(Datagram { from: number, to, bytes });
                }
            }
        }
        // Nobody is at the other addresses.
        self.under_way.retain(|datagram| datagram.to < SIDES || datagram.from >= SIDES);
    }

    fn deliver_all(&mut self) {
        for _ in 0..MAX_UNDER_WAY {
            let Some(datagram) = self.under_way.pop_front() else { return };
            if datagram.to < SIDES {
                let _ = self.deliver(datagram, None);
            }
        }
    }

    /// After all that: the first two sides, left alone for a while, still make a session that carries a packet.
    fn settle(&mut self) {
        self.under_way.clear();
        self.wall_offset = 0;
        self.pass(Duration::from_secs(30));
        self.under_way.clear();
        for (from, to) in [(0, 1), (1, 0)] {
            let expected = Some(self.sides[to].id);
            let path = self.paths[to];
            let handshake = self.sides[from].sessions.connect(path, expected, self.now).expect("few handshakes are under way");
            for _ in 0..8 {
                self.collect();
                self.deliver_all();
                if self.sides[from].won.contains(&handshake) {
                    break;
                }
                self.pass(Duration::from_millis(600));
            }
            assert!(self.sides[from].won.contains(&handshake), "an undisturbed handshake fails");
            self.deliver_all();
            let &(session, node) = self.sides[from].live.last().expect("it was just established");
            assert_eq!(Some(node), expected);
            let mut bytes = Vec::new();
            self.sides[from].sessions.seal(session, &[0x7f; 9], &mut bytes, self.now).expect("a fresh session seals");
            let opened = self.sides[to].sessions.open(&mut bytes, self.now).expect("what a peer sealed opens");
            assert_eq!(bytes[opened.payload], [0x7f; 9]);
            self.collect();
        }
    }
}

/// A handshake datagram that nobody sent: a header with a body, or any bytes, under the realm's MAC.
pub(crate) fn invented(group: &Group, input: &mut Input<'_>) -> Vec<u8> {
    let how = input.u8();
    let mut bytes = Vec::new();
    if how & 1 == 0 {
        let mut abilities = Abilities::local(true);
        if how & 2 == 2 {
            abilities = Abilities { oldest: input.u8(), newest: input.u8(), features: input.u16() };
        }
        let part = input.u8();
        let kind = Kind::from_byte(input.u8() % 8);
        let (receiver, sender) = (input.u32() >> 8, input.u32() >> 8);
        HandshakeHeader { abilities, part: part >> 4 & 3, parts: part & 3, kind, receiver, sender }.write(&mut bytes);
    }
    bytes.extend_from_slice(input.chunk());
    if how & 4 == 4 {
        bytes.resize(M1_LEN, 0);
    }
    group.mac.sign(&mut bytes);
    bytes
}

impl Side {
    fn note(&mut self, event: SessionEvent, ids: &[NodeId]) {
        match event {
            SessionEvent::Established { session, handshake, node, resumed_from, introduction, .. } => {
                assert!(node != self.id && ids.contains(&node), "nobody is {node}");
                assert!(introduction.len() <= 256);
                let info = self.sessions.info(session).expect("what is established is known");
                assert_eq!(info.certificate.node_id(), node);
                if let Some(old) = resumed_from
                    && let Some((_, before)) = self.live.iter().find(|(live, _)| *live == old)
                {
                    assert_eq!(*before, node, "a session is resumed by whom it was made with");
                }
                assert!(self.live.iter().all(|(live, _)| *live != session), "an index is used twice");
                self.live.push((session, node));
                self.won.extend(handshake);
            }
            SessionEvent::Ended { session, node, .. } => {
                assert!(self.live.contains(&(session, node)), "a session ends once");
                self.live.retain(|(live, _)| *live != session);
            }
            SessionEvent::Failed { handshake, .. } => assert!(!self.won.contains(&handshake), "won and lost"),
            SessionEvent::Refused { node, .. } => assert!(node != Some(self.id)),
            SessionEvent::DuplicateIdentity { .. } => {}
        }
    }
}

/// A wall clock's distance from the start in s, up to 45 days: the long certificates end within it.
struct UnixOffset(u16);

impl UnixOffset {
    const fn seconds(&self) -> u64 {
        self.0 as u64 * 60
    }
}

const _: () = assert!(member::BRIEF < 65_535 * 60);
