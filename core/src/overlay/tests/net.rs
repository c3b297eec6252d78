//! A small network: many overlays, delayed messages, sessions that come up when the address is right.

use core::net::SocketAddr;
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use crate::config::GeometryKind;
use crate::id::NodeId;
use crate::io::DropReason;
use crate::overlay::geometry::{self, SIDES};
use crate::overlay::{DialId, Overlay, OverlayAction};
use crate::rng::Rng;
use crate::shard::table::PeerId;
use crate::time::Instant;

/// Time between a failure and its notice by the other end's session layer.
const DETECTION: Duration = Duration::from_secs(4);
/// How long a dial to nobody takes to fail.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug)]
enum Happening {
    Message { to: usize, from: usize, payload: Vec<u8> },
    Arrive { a: usize, b: usize, dial: DialId },
    DialFailed { at: usize, dial: DialId },
    Down { at: usize, other: usize },
}

pub(super) struct Node {
    pub(super) overlay: Overlay,
    pub(super) id: NodeId,
    pub(super) alive: bool,
    /// Reached only by those whom it dials itself at about the same time.
    pub(super) behind_nat: bool,
    sessions: BTreeSet<usize>,
    dialled: BTreeMap<usize, Instant>,
    wake: Option<Instant>,
    /// Wake-ups in a row that asked for another one at once.
    spins: u32,
    pub(super) actions: Vec<OverlayAction>,
}

pub(super) struct Net {
    /// By which rule nodes that are added from now on route.
    pub(super) geometry: GeometryKind,
    pub(super) now: Instant,
    pub(super) nodes: Vec<Node>,
    by_id: BTreeMap<NodeId, usize>,
    /// Who was told whose address at its start.
    contacts: Vec<(usize, usize)>,
    queue: BTreeMap<(Instant, u64), Happening>,
    wakes: BTreeSet<(Instant, usize)>,
    sequence: u64,
    rng: Rng,
    pub(super) latency: Duration,
    /// Permille of messages that are lost.
    pub(super) loss: u64,
    /// Permille of messages that come twice.
    pub(super) duplication: u64,
    /// Pairs of groups that cannot reach each other; group of a node = what `group` says.
    pub(super) cut: Option<fn(usize) -> usize>,
    pub(super) drops: BTreeMap<&'static str, u64>,
    pub(super) messages: u64,
    pub(super) dials: u64,
    pub(super) log: u64,
    pub(super) routed_dials: u64,
}

impl Net {
    pub(super) fn new(seed: u8) -> Self {
        Self {
            geometry: GeometryKind::Symphony,
            now: Instant::from_secs(1),
            nodes: Vec::new(),
            by_id: BTreeMap::new(),
            contacts: Vec::new(),
            queue: BTreeMap::new(),
            wakes: BTreeSet::new(),
            sequence: 0,
            rng: Rng::new([seed; 32]),
            latency: Duration::from_millis(25),
            loss: 0,
            duplication: 0,
            cut: None,
            drops: BTreeMap::new(),
            messages: 0,
            dials: 0,
            log: 0,
            routed_dials: 0,
        }
    }

    pub(super) fn address(index: usize) -> SocketAddr {
        SocketAddr::from(([10, (index >> 16) as u8, (index >> 8) as u8, index as u8], 4000))
    }

    fn at_address(&self, address: SocketAddr) -> Option<usize> {
        let SocketAddr::V4(v4) = address else { return None };
        let [a, b, c, d] = v4.ip().octets();
        let index = usize::from(b) << 16 | usize::from(c) << 8 | usize::from(d);
        (a == 10 && v4.port() == 4000 && index < self.nodes.len()).then_some(index)
    }

    /// Adds a node that knows these others by address.
    pub(super) fn add(&mut self, contacts: &[usize]) -> usize {
        let index = self.nodes.len();
        let id = NodeId(self.rng.bytes());
        self.contacts.extend(contacts.iter().map(|&contact| (index, contact)));
        self.add_with_id(id, contacts.iter().map(|&contact| Self::address(contact)).collect());
        index
    }

    pub(super) fn add_with_id(&mut self, id: NodeId, bootstrap: Vec<SocketAddr>) {
        let index = self.nodes.len();
        let rng = self.rng.fork(&format!("node {index}"));
        let mut overlay = Overlay::new(id, self.geometry, bootstrap, rng, self.now);
        overlay.set_candidates(&[Self::address(index)]);
        let wake = Some(self.now);
        self.wakes.insert((self.now, index));
        self.by_id.insert(id, index);
        self.nodes.push(Node {
            overlay,
            id,
            alive: true,
            behind_nat: false,
            sessions: BTreeSet::new(),
            dialled: BTreeMap::new(),
            wake,
            spins: 0,
            actions: Vec::new(),
        });
    }

    /// Number of parts into which who was told of whom divides the nodes: no protocol can make fewer rings of them.
    pub(super) fn parts(&self) -> usize {
        let mut part: Vec<usize> = (0..self.nodes.len()).collect();
        loop {
            let before = part.clone();
            for &(a, b) in &self.contacts {
                let least = part[a].min(part[b]);
                (part[a], part[b]) = (least, least);
            }
            if part == before {
                return part.iter().collect::<BTreeSet<_>>().len();
            }
        }
    }

    /// `count` nodes that all start now, each knowing up to `contacts` random others.
    pub(super) fn add_many(&mut self, count: usize, contacts: usize) {
        let first = self.nodes.len();
        for index in first..first + count {
            let mut known = Vec::new();
            while known.len() < contacts.min(first + count - 1) {
                let other = self.rng.below((first + count) as u64) as usize;
                if other != index && !known.contains(&other) {
                    known.push(other);
                }
            }
            self.add(&known);
        }
    }

    pub(super) fn kill(&mut self, index: usize) {
        self.nodes[index].alive = false;
        let others: Vec<usize> = core::mem::take(&mut self.nodes[index].sessions).into_iter().collect();
        for other in others {
            let spread = Duration::from_millis(self.rng.below(1000));
            self.later(DETECTION + spread, Happening::Down { at: other, other: index });
        }
    }

    /// All sessions across the cut die, as their ends notice.
    pub(super) fn cut_now(&mut self, group: fn(usize) -> usize) {
        self.cut = Some(group);
        for index in 0..self.nodes.len() {
            let across: Vec<usize> = self.nodes[index].sessions.iter().copied().filter(|&other| group(other) != group(index)).collect();
            for other in across {
                self.nodes[index].sessions.remove(&other);
                self.later(DETECTION, Happening::Down { at: index, other });
            }
        }
    }

    /// A call into one node from outside.
    pub(super) fn with<T>(&mut self, index: usize, call: impl FnOnce(&mut Overlay, Instant) -> T) -> T {
        let now = self.now;
        let result = call(&mut self.nodes[index].overlay, now);
        self.drain(index);
        result
    }

    fn later(&mut self, after: Duration, happening: Happening) {
        self.sequence += 1;
        self.queue.insert((self.now + after, self.sequence), happening);
    }

    fn reachable(&self, a: usize, b: usize) -> bool {
        self.nodes[a].alive && self.nodes[b].alive && self.cut.is_none_or(|group| group(a) == group(b))
    }

    pub(super) fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        loop {
            let message = self.queue.first_key_value().map(|(&(at, _), _)| at);
            let wake = self.wakes.first().map(|&(at, _)| at);
            let Some(next) = message.into_iter().chain(wake).min().filter(|&next| next <= end) else { break };
            self.now = self.now.max(next);
            if message == Some(next) {
                let (_, happening) = self.queue.pop_first().expect("peeked");
                self.happen(happening);
            } else {
                let (_, index) = self.wakes.pop_first().expect("peeked");
                self.nodes[index].wake = None;
                if self.nodes[index].alive {
                    self.with(index, |overlay, now| overlay.handle_timeout(now));
                    let node = &mut self.nodes[index];
                    node.spins = if node.wake.is_some_and(|at| at <= self.now) { node.spins + 1 } else { 0 };
                    assert!(node.spins < 4, "a deadline does not advance: {:?}", node.overlay.poll_timeout());
                }
            }
        }
        self.now = end;
    }

    /// Runs until the ring is right; how long it took.
    pub(super) fn run_until_right(&mut self, limit: Duration) -> Duration {
        let start = self.now;
        while self.now.saturating_since(start) < limit {
            if self.is_right() {
                return self.now.saturating_since(start);
            }
            self.run(Duration::from_millis(100));
        }
        panic!("not right after {limit:?}: {}", self.complaints());
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Message { to, from, payload } => {
                if !self.reachable(to, from) || !self.nodes[to].sessions.contains(&from) {
                    return;
                }
                if let Err(reason) = self.with(to, |overlay, now| overlay.handle_message(PeerId(from as u32), &payload, now)) {
                    *self.drops.entry(DropReason::name(reason)).or_default() += 1;
                }
            }
            Happening::Arrive { a, b, dial } => {
                if !self.reachable(a, b) {
                    return self.later(DIAL_TIMEOUT, Happening::DialFailed { at: a, dial });
                }
                let now = self.now;
                for (one, other) in [(b, a), (a, b)] {
                    if self.nodes[one].sessions.insert(other) {
                        let node = self.nodes[other].id;
                        let address = Some(Self::address(other));
                        self.nodes[one].overlay.link_up(PeerId(other as u32), node, true, address, false, now);
                        self.drain(one);
                    }
                }
                self.with(a, |overlay, now| overlay.dial_result(dial, Ok(PeerId(b as u32)), now));
            }
            Happening::DialFailed { at, dial } => {
                if self.nodes[at].alive {
                    self.with(at, |overlay, now| overlay.dial_result(dial, Err(()), now));
                }
            }
            Happening::Down { at, other } => {
                if self.nodes[at].alive && (!self.nodes[at].sessions.contains(&other) || !self.reachable(at, other)) {
                    self.nodes[at].sessions.remove(&other);
                    self.with(at, |overlay, now| overlay.link_down(PeerId(other as u32), now));
                }
            }
        }
    }

    fn drain(&mut self, index: usize) {
        while let Some(action) = self.nodes[index].overlay.poll_action() {
            for byte in format!("{index}{action:?}").bytes() {
                self.log = (self.log ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
            }
            match action {
                OverlayAction::Send { peer, payload } => self.carry(index, peer.0 as usize, payload),
                OverlayAction::Dial { dial, node, addresses, routed, .. } => self.dial(index, dial, node, &addresses, routed),
                OverlayAction::Drop { peer, .. } => {
                    let other = peer.0 as usize;
                    self.nodes[index].sessions.remove(&other);
                    self.nodes[other].sessions.remove(&index);
                    self.later(Duration::ZERO, Happening::Down { at: index, other });
                    self.later(self.latency, Happening::Down { at: other, other: index });
                }
                other => self.nodes[index].actions.push(other),
            }
        }
        let next = self.nodes[index].overlay.poll_timeout().map(|(at, _)| at.max(self.now));
        if next != self.nodes[index].wake {
            if let Some(old) = self.nodes[index].wake.take() {
                self.wakes.remove(&(old, index));
            }
            self.nodes[index].wake = next;
            self.wakes.extend(next.map(|at| (at, index)));
        }
    }

    fn carry(&mut self, from: usize, to: usize, payload: Vec<u8>) {
        assert!(payload.len() <= crate::wire::routed::MAX_CONTROL_PAYLOAD, "payload of {} bytes", payload.len());
        self.messages += 1;
        if self.rng.below(1000) < self.loss {
            return;
        }
        let spread = Duration::from_micros(self.rng.below(5000));
        if self.rng.below(1000) < self.duplication {
            self.later(self.latency + 3 * spread, Happening::Message { to, from, payload: payload.clone() });
        }
        self.later(self.latency + spread, Happening::Message { to, from, payload });
    }

    fn dial(&mut self, from: usize, dial: DialId, node: Option<NodeId>, addresses: &[SocketAddr], routed: bool) {
        self.dials += 1;
        let by_address = addresses.iter().filter_map(|&address| self.at_address(address));
        let target = by_address.filter(|&target| node.is_none_or(|node| self.nodes[target].id == node)).find(|&target| target != from);
        let target = target.or_else(|| node.filter(|_| routed).and_then(|node| self.by_id.get(&node).copied()));
        self.routed_dials += u64::from(routed);
        let Some(target) = target else { return self.later(DIAL_TIMEOUT, Happening::DialFailed { at: from, dial }) };
        self.nodes[from].dialled.insert(target, self.now);
        // A NAT lets in whom the host behind it has dialled lately; the side that dials second gets through.
        let lately = |at: Option<&Instant>| at.is_some_and(|&at| self.now.saturating_since(at) < Duration::from_secs(3));
        if self.nodes[target].behind_nat && !lately(self.nodes[target].dialled.get(&from)) {
            return self.later(DIAL_TIMEOUT, Happening::DialFailed { at: from, dial });
        }
        // A handshake of three messages.
        self.later(3 * self.latency, Happening::Arrive { a: from, b: target, dial });
    }

    /// Both ends have lost their session.
    pub(super) fn forget_session(&mut self, a: usize, b: usize) {
        self.nodes[a].sessions.remove(&b);
        self.nodes[b].sessions.remove(&a);
    }

    pub(super) fn living(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|&index| self.nodes[index].alive).collect()
    }

    /// The living nodes in the order of the ring.
    pub(super) fn sorted(&self) -> Vec<usize> {
        let mut order = self.living();
        order.sort_by_key(|&index| self.nodes[index].id);
        order
    }

    fn faults(&self) -> Vec<String> {
        let ids: Vec<NodeId> = self.sorted().into_iter().map(|index| self.nodes[index].id).collect();
        let geometry = geometry::of(self.geometry);
        let (shape, per_side) = (geometry.shape(), geometry.near_per_side());
        let mut faults = Vec::new();
        for id in &ids {
            let index = self.by_id[id];
            let view = self.nodes[index].overlay.view();
            let [want_ahead, want_behind] = SIDES.map(|side| {
                let places = shape.places(per_side)[side as usize];
                shape.side(side, &ids, id).take(places).copied().collect::<Vec<NodeId>>()
            });
            if view.successors != want_ahead || view.predecessors != want_behind || !view.consistent {
                faults.push(format!(
                    "{index} {:?}: consistent {} successors {:?} (want {want_ahead:?}) predecessors {:?} (want {want_behind:?})",
                    self.nodes[index].id, view.consistent, view.successors, view.predecessors
                ));
            }
        }
        faults
    }

    /// Whether every living node has its true neighbours on all sides, and says that it is consistent.
    pub(super) fn is_right(&self) -> bool {
        self.faults().is_empty()
    }

    pub(super) fn complaints(&self) -> String {
        let faults = self.faults();
        format!("{} of {} wrong, first: {}", faults.len(), self.living().len(), faults.first().map_or("", |fault| fault))
    }

    pub(super) fn index_of(&self, id: &NodeId) -> usize {
        self.by_id[id]
    }

    pub(super) fn take_actions(&mut self, index: usize) -> Vec<OverlayAction> {
        core::mem::take(&mut self.nodes[index].actions)
    }
}
