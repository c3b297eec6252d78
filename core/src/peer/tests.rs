//! Two nodes and the wires between them, in virtual time.

use super::*;
use crate::config::TUNNEL_MTU;
use crate::wire::link::LinkPayload;

mod choice;
mod liveness;
mod paths;
mod sessions;
mod size;

const A: usize = 0;
const B: usize = 1;
const LOW: NodeId = NodeId([1; 20]);
const HIGH: NodeId = NodeId([9; 20]);

const fn path(index: u32) -> Path {
    Path { index, generation: 0 }
}

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A way between the two: each end has its own name for it.
#[derive(Clone, Copy, Debug)]
struct Wire {
    ends: [Path; 2],
    kind: PathKind,
    delay: Duration,
    /// Permille lost of what A and what B sends.
    loss: [u64; 2],
    ipv6: bool,
    /// Longest payload of a control packet that passes.
    carries: usize,
}

impl Wire {
    fn new(index: u32, kind: PathKind, delay_ms: u64) -> Self {
        Self { ends: [path(index), path(index)], kind, delay: ms(delay_ms), loss: [0, 0], ipv6: false, carries: usize::MAX }
    }
}

/// What is under way to one end.
#[derive(Debug)]
struct Datagram {
    to: usize,
    session: u32,
    counter: u64,
    from: Path,
    kind: PathKind,
    observed: Option<SocketAddr>,
    payload: LinkPayload,
}

/// Two [`Peers`] and a network. Session `s` is `SessionId(s)` at A and `SessionId(s + 1000)` at B.
struct World {
    now: Instant,
    nodes: [Peers; 2],
    dead: [bool; 2],
    wires: Vec<Wire>,
    flying: BTreeMap<(Instant, u64), Datagram>,
    sequence: u64,
    counters: BTreeMap<(usize, u32), u64>,
    highest: BTreeMap<(usize, u32), u64>,
    rng: Rng,
    /// Everything but sends, by whom and when.
    log: Vec<(Instant, usize, PeerAction)>,
    /// Every payload sent, by whom, when and where.
    sent: Vec<(Instant, usize, Path, LinkPayload)>,
    keep_sent: bool,
}

impl World {
    fn new(seed: u8, wires: &[Wire]) -> Self {
        let rng = Rng::new([seed; 32]);
        Self {
            now: Instant::from_secs(100),
            nodes: [Peers::new(rng.fork("a"), LOW, TUNNEL_MTU), Peers::new(rng.fork("b"), HIGH, TUNNEL_MTU)],
            dead: [false; 2],
            wires: wires.to_vec(),
            flying: BTreeMap::new(),
            sequence: 0,
            counters: BTreeMap::new(),
            highest: BTreeMap::new(),
            rng: rng.fork("net"),
            log: Vec::new(),
            sent: Vec::new(),
            keep_sent: true,
        }
    }

    /// A world with session 1, begun by A, up at both ends on the first wire.
    fn linked(seed: u8, wires: &[Wire]) -> Self {
        let mut world = Self::new(seed, wires);
        world.session_up(1, A, None, 0);
        world
    }

    fn session_up(&mut self, session: u32, initiator: usize, resumed_from: Option<u32>, wire: usize) {
        for end in [A, B] {
            self.session_up_at(end, session, initiator, resumed_from, wire);
        }
    }

    fn session_up_at(&mut self, end: usize, session: u32, initiator: usize, resumed_from: Option<u32>, wire: usize) {
        let wire = self.wires[wire];
        let node = [HIGH, LOW][end];
        let resumed = resumed_from.map(|number| Self::id(end, number));
        self.nodes[end].session_up(node, Self::id(end, session), wire.ends[end], wire.kind, initiator == end, resumed, self.now);
        self.drain();
    }

    const fn id(end: usize, session: u32) -> SessionId {
        SessionId(session + 1000 * end as u32)
    }

    fn peer(&self, end: usize) -> Option<PeerId> {
        self.nodes[end].by_node(&[HIGH, LOW][end])
    }

    fn view(&self, end: usize) -> PeerView {
        self.nodes[end].view(self.peer(end).expect("still there"), self.now).expect("still there")
    }

    fn active(&self, end: usize) -> Path {
        self.nodes[end].path(self.peer(end).expect("still there")).expect("still there")
    }

    fn in_use(&self, end: usize) -> Option<u32> {
        self.nodes[end].session(self.peer(end)?).map(|session| session.0 % 1000)
    }

    fn set_use(&mut self, use_: Use) {
        for end in [A, B] {
            let peer = self.peer(end).expect("still there");
            self.nodes[end].set_use(peer, use_, self.now);
        }
    }

    /// Traffic between the two in the last instant.
    fn traffic(&mut self, session: u32, arrives: bool) {
        for end in [A, B] {
            if !self.dead[end] {
                self.nodes[end].activity(Self::id(end, session), if arrives { 1000 } else { 0 }, 1000, self.now);
            }
        }
        self.drain();
    }

    fn drain(&mut self) {
        for end in [A, B] {
            while let Some(action) = self.nodes[end].poll_action() {
                match action {
                    PeerAction::Send { session, path, payload } => {
                        if self.keep_sent {
                            self.sent.push((self.now, end, path, payload.clone()));
                        }
                        self.transmit(end, session.0 % 1000, path, payload);
                    }
                    other => self.log.push((self.now, end, other)),
                }
            }
        }
    }

    fn transmit(&mut self, end: usize, session: u32, by: Path, payload: LinkPayload) {
        let counter = self.counters.entry((end, session)).or_default();
        *counter += 1;
        let counter = *counter;
        let Some(wire) = self.wires.iter().find(|wire| wire.ends[end] == by) else { return };
        if self.dead[end] || payload.len() > wire.carries || self.rng.below(1000) < wire.loss[end] {
            return;
        }
        let to = 1 - end;
        let host = wire.ends[to].index as u8;
        let observed = if wire.ipv6 {
            SocketAddr::from(([0xfd00, 0, 0, 0, 0, 0, 0, u16::from(host)], 7))
        } else {
            SocketAddr::from(([192, 0, 2, host], 7))
        };
        self.sequence += 1;
        let datagram = Datagram { to, session, counter, from: wire.ends[to], kind: wire.kind, observed: Some(observed), payload };
        self.flying.insert((self.now + wire.delay, self.sequence), datagram);
    }

    fn deliver(&mut self, datagram: Datagram) {
        if self.dead[datagram.to] {
            return;
        }
        let session = Self::id(datagram.to, datagram.session);
        let highest = self.highest.entry((datagram.to, datagram.session)).or_default();
        let newest = datagram.counter > *highest;
        *highest = datagram.counter.max(*highest);
        let node = &mut self.nodes[datagram.to];
        node.received(session, datagram.from, datagram.kind, newest, datagram.payload.len(), self.now);
        node.handle_link(session, datagram.from, datagram.kind, datagram.observed, &datagram.payload, self.now).unwrap();
        self.drain();
    }

    fn next_at(&self) -> Option<Instant> {
        let mut next = self.flying.first_key_value().map(|(&(at, _), _)| at);
        for end in [A, B] {
            if !self.dead[end] {
                let timer = self.nodes[end].poll_timeout().map(|(at, _)| at);
                next = next.into_iter().chain(timer).min();
            }
        }
        next
    }

    fn run_until(&mut self, end: Instant) {
        let mut stuck = 0;
        self.drain();
        while let Some(at) = self.next_at().filter(|&at| at <= end) {
            stuck = if at <= self.now { stuck + 1 } else { 0 };
            assert!(stuck < 1000, "no progress at {}", self.now);
            self.now = self.now.max(at);
            while let Some(entry) = self.flying.first_entry().filter(|entry| entry.key().0 <= self.now) {
                let datagram = entry.remove();
                self.deliver(datagram);
            }
            for node in [A, B] {
                if !self.dead[node] {
                    self.nodes[node].handle_timeout(self.now);
                }
            }
            self.drain();
        }
        self.now = self.now.max(end);
    }

    fn run(&mut self, time: Duration) {
        self.run_until(self.now + time);
    }

    fn deaths(&self) -> usize {
        self.log.iter().filter(|(_, _, action)| matches!(action, PeerAction::Dead { .. })).count()
    }

    fn died_at(&self, end: usize) -> Option<Instant> {
        self.log.iter().find(|(_, who, action)| *who == end && matches!(action, PeerAction::Dead { .. })).map(|(at, ..)| *at)
    }

    fn moves(&self, end: usize) -> Vec<(Instant, Path, &'static str)> {
        let moves = self.log.iter().filter(|(_, who, _)| *who == end);
        moves
            .filter_map(
                |(at, _, action)| {
                    if let PeerAction::PathChanged { path, reason, .. } = action { Some((*at, *path, *reason)) } else { None }
                },
            )
            .collect()
    }

    fn sent_kind(&self, end: usize, kind: u8) -> Vec<(Instant, Path)> {
        self.sent.iter().filter(|(_, who, _, payload)| *who == end && payload[0] == kind).map(|(at, _, path, _)| (*at, *path)).collect()
    }
}

const PING: u8 = 0x01;
const REPORT: u8 = 0x03;
const CLOSE: u8 = 0x04;
const KEEP_ALIVE: u8 = 0x05;

#[test]
fn the_same_inputs_give_the_same_outputs() {
    let run = |seed| {
        let mut wire = Wire::new(1, PathKind::Direct, 20);
        wire.loss = [200, 200];
        let mut world = World::linked(seed, &[wire, Wire::new(2, PathKind::Relay, 50)]);
        world.run(Duration::from_secs(600));
        format!("{:?} {:?}", world.log, world.sent)
    };
    assert_eq!(run(3), run(3));
    assert_ne!(run(3), run(4));
}

#[test]
fn an_idle_peer_costs_a_few_hundred_bytes() {
    assert!(size_of::<Peer>() <= 448, "{} bytes", size_of::<Peer>());
    assert!(size_of::<path::PathState>() <= 88, "{} bytes", size_of::<path::PathState>());
    let mut world = World::linked(1, &[Wire::new(1, PathKind::Direct, 20)]);
    world.run(Duration::from_secs(3600));
    let id = world.peer(A).unwrap();
    let peer = world.nodes[A].slab.get(id).unwrap();
    assert!(!peer.sessions.spilled() && !peer.paths.spilled() && !peer.probes.spilled(), "nothing on the heap behind it");
    assert!(world.nodes[A].timers.len() < 64);
}

/// Throws everything at one machine in random order, payloads of any kind included, and checks what must always hold.
#[test]
fn no_order_of_inputs_breaks_the_bounds_or_loses_a_pin() {
    for seed in 0..12 {
        let mut rng = Rng::new([seed; 32]);
        let mut peers = Peers::new(rng.fork("peers"), LOW, TUNNEL_MTU);
        let mut now = Instant::from_secs(5);
        let mut pins: BTreeMap<Path, i64> = BTreeMap::new();
        let mut tokens: VecDeque<(SessionId, Path, u64)> = VecDeque::new();
        for _ in 0..8_000 {
            now += Duration::from_micros(rng.below(2_000_000) * rng.below(2) * rng.below(2));
            let (session, by) = (SessionId(rng.below(40) as u32), path(rng.below(30) as u32));
            let kind = [PathKind::Direct, PathKind::Relay, PathKind::Routed][rng.below(3) as usize];
            let peer = PeerId(rng.below(6) as u32);
            match rng.below(14) {
                0 => {
                    let node = NodeId([rng.below(5) as u8; 20]);
                    let resumed = (rng.below(2) == 0).then(|| SessionId(rng.below(40) as u32));
                    peers.session_up(node, session, by, kind, rng.below(2) == 0, resumed, now);
                }
                1 if rng.below(8) == 0 => peers.session_ended(session, now),
                2 | 3 => peers.received(session, by, kind, rng.below(2) == 0, 50, now),
                4 => peers.activity(session, rng.below(2) * 1000, rng.below(2) * 1000, now),
                5 => peers.moved(session, by, kind, now),
                6 => peers.add_path(peer, by, kind, now),
                7 => peers.set_use(peer, [Use::Near, Use::Link, Use::Idle][rng.below(3) as usize], now),
                8 if rng.below(30) == 0 => peers.close(peer, CloseReason::Surplus, now),
                9 if rng.below(30) == 0 => peers.resumed(now),
                10 => peers.suspect(peer, now),
                11 => {
                    let mut payload = rng.bytes::<24>();
                    payload[0] = 1 + rng.below(6) as u8;
                    let len = rng.below(25) as usize;
                    let _ = peers.handle_link(session, by, kind, None, &payload[..len], now);
                }
                _ => {
                    if let Some((session, by, token)) = tokens.pop_front() {
                        let pong = LinkMessage::Pong { token }.to_payload();
                        peers.received(session, by, kind, true, 9, now);
                        peers.handle_link(session, by, kind, Some(SocketAddr::from(([192, 0, 2, 1], 7))), &pong, now).unwrap();
                    }
                }
            }
            if rng.below(3) > 0 {
                peers.handle_timeout(now);
                assert!(peers.poll_timeout().is_none_or(|(at, _)| at > now), "what was due is done");
            }
            while let Some(action) = peers.poll_action() {
                match action {
                    PeerAction::Keep(path) => *pins.entry(path).or_default() += 1,
                    PeerAction::Release(path) => *pins.entry(path).or_default() -= 1,
                    PeerAction::Send { session, path, payload } if payload[0] == PING && tokens.len() < 50 => {
                        tokens.push_back((session, path, u64::from_be_bytes(payload[1..9].try_into().unwrap())));
                    }
                    _ => {}
                }
            }
            let mut held: BTreeMap<Path, i64> = pins.keys().map(|path| (*path, 0)).collect();
            let mut sessions = 0;
            for (id, peer) in peers.slab.iter() {
                assert!(peer.paths.len() <= moving::MAX_PATHS && (1..=session::MAX_SESSIONS).contains(&peer.sessions.len()));
                assert!(peer.active().proven && peer.sessions[0].retire_at.is_none());
                assert_eq!(peers.by_node.get(&peer.node), Some(&id));
                sessions += peer.sessions.len();
                assert!(peer.sessions.iter().all(|slot| peers.by_session.get(&slot.id) == Some(&id)));
                assert!(peer.sessions[1..].iter().all(|slot| slot.retire_at.is_some()));
                for state in &peer.paths {
                    *held.entry(state.path).or_default() += 1;
                }
            }
            assert_eq!(sessions, peers.by_session.len());
            assert_eq!(pins, held, "each path of a peer is pinned exactly once for it");
            assert!(peers.timers.len() <= 64 + STALE_TIMERS * peers.len() + 1);
        }
    }
}
