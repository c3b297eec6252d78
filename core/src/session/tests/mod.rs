//! Two or more [`Sessions`] on a tiny virtual wire.

mod handshake;
mod hostile;
mod members;
mod renewal;

use core::net::SocketAddr;
use core::num::NonZeroU8;
use core::time::Duration;
use std::collections::BTreeMap;

use super::*;
use crate::shard::table::{PeerId, Way};
use crate::wire::{DatagramType, classify};

pub(super) use members::{DAY, Group, START};

/// What the wire does with a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Pass,
    Lose,
    Twice,
    Late,
}

/// How long a datagram takes.
pub(super) const LATENCY: Duration = Duration::from_millis(20);
/// How late a late one is.
pub(super) const LATE: Duration = Duration::from_secs(2);

pub(super) type Tamper = Box<dyn FnMut(&mut Vec<u8>)>;
pub(super) type Judge = Box<dyn FnMut(usize, &[u8]) -> Fate>;

pub(super) struct Net {
    pub(super) now: Instant,
    pub(super) ends: Vec<Sessions>,
    wire: BTreeMap<(Instant, u64), (usize, usize, Vec<u8>)>,
    serial: u64,
    pub(super) events: Vec<Vec<SessionEvent>>,
    /// All payloads opened, with the session and by whom.
    pub(super) opened: Vec<Vec<(SessionId, Vec<u8>)>>,
    pub(super) sent: Vec<(usize, usize, Vec<u8>)>,
    pub(super) drops: Vec<DropReason>,
    pub(super) judge: Judge,
    /// Changes datagrams on their way.
    pub(super) tamper: Tamper,
}

pub(super) fn path_to(end: usize) -> Path {
    Path { index: end as u32, generation: 0 }
}

pub(super) fn origin(end: usize) -> Origin {
    Origin::Address(SocketAddr::from(([10, 0, 0, end as u8], 1000)))
}

pub(super) fn settings() -> SessionSettings {
    SessionSettings { realm: RealmSlot(3), workers: NonZeroU8::new(2).unwrap(), hardware_aes: true, crypto: CryptoMode::Real }
}

pub(super) fn kind_of(datagram: &[u8]) -> Option<Kind> {
    HandshakeHeader::parse(datagram).ok().map(|(header, ..)| header.kind)
}

impl Net {
    pub(super) fn new(ends: Vec<Sessions>) -> Self {
        let count = ends.len();
        Self {
            now: Instant::ZERO,
            ends,
            wire: BTreeMap::new(),
            serial: 0,
            events: vec![Vec::new(); count],
            opened: vec![Vec::new(); count],
            sent: Vec::new(),
            drops: Vec::new(),
            judge: Box::new(|_, _| Fate::Pass),
            tamper: Box::new(|_| {}),
        }
    }

    /// Two members of one group; the first has the lower node ID.
    pub(super) fn pair(seed: u8) -> (Group, Self) {
        Self::pair_in(seed, settings())
    }

    pub(super) fn pair_in(seed: u8, settings: SessionSettings) -> (Group, Self) {
        let group = Group::new(seed);
        let mut members = [group.member(1, START.plus_secs(30 * DAY)), group.member(2, START.plus_secs(30 * DAY))];
        members.sort_by_key(Identity::node_id);
        let ends = members.into_iter().enumerate().map(|(number, member)| group.sessions(settings, member, seed ^ number as u8)).collect();
        (group, Self::new(ends))
    }

    pub(super) fn wall(&self) -> UnixTime {
        START.plus_secs(self.now.as_micros() / 1_000_000)
    }

    pub(super) fn connect(&mut self, from: usize, to: usize) -> HandshakeId {
        self.ends[from].connect(path_to(to), None, self.now).unwrap()
    }

    pub(super) fn put(&mut self, from: usize, to: usize, datagram: Vec<u8>, after: Duration) {
        self.serial += 1;
        self.wire.insert((self.now + after, self.serial), (from, to, datagram));
    }

    /// Takes what the ends want sent.
    pub(super) fn drain(&mut self) {
        for from in 0..self.ends.len() {
            let mut datagram = Vec::new();
            while let Some(path) = self.ends[from].poll_transmit(&mut datagram) {
                let to = path.index as usize;
                let mut bytes = core::mem::take(&mut datagram);
                (self.tamper)(&mut bytes);
                self.sent.push((from, to, bytes.clone()));
                match (self.judge)(from, &bytes) {
                    Fate::Pass => self.put(from, to, bytes, LATENCY),
                    Fate::Lose => {}
                    Fate::Twice => {
                        self.put(from, to, bytes.clone(), LATENCY);
                        self.put(from, to, bytes, LATENCY + LATENCY);
                    }
                    Fate::Late => self.put(from, to, bytes, LATENCY + LATE),
                }
            }
            while let Some(event) = self.ends[from].poll_event() {
                self.events[from].push(event);
            }
        }
    }

    fn deliver(&mut self, from: usize, to: usize, mut bytes: Vec<u8>) {
        let (now, wall) = (self.now, self.wall());
        let Some(end) = self.ends.get_mut(to) else { return };
        let result = match classify(bytes[0]) {
            Some(DatagramType::Handshake) => end.handle_handshake(path_to(from), origin(from), &mut bytes, now, wall),
            _ => end.open(&mut bytes, now).map(|opened| self.opened[to].push((opened.session, bytes[opened.payload].to_vec()))),
        };
        self.drops.extend(result.err());
    }

    /// Lets time pass until `until`.
    pub(super) fn run(&mut self, until: Instant) {
        loop {
            self.drain();
            let arrival = self.wire.first_key_value().map(|(&(at, _), _)| at);
            let timeout = self.ends.iter().filter_map(|end| end.poll_timeout().map(|(at, _)| at)).min();
            let Some(next) = arrival.into_iter().chain(timeout).min().filter(|&next| next <= until) else { break };
            self.now = self.now.max(next);
            if arrival == Some(next)
                && let Some((_, (from, to, bytes))) = self.wire.pop_first()
            {
                self.deliver(from, to, bytes);
                continue;
            }
            let wall = self.wall();
            for end in &mut self.ends {
                end.handle_timeout(self.now, wall);
            }
        }
        self.now = until;
    }

    pub(super) fn run_for(&mut self, time: Duration) {
        self.run(self.now + time);
    }

    /// The sessions that an end was told of and that did not end, with who started them.
    pub(super) fn live(&self, end: usize) -> Vec<(SessionId, bool)> {
        let mut live = Vec::new();
        for event in &self.events[end] {
            match event {
                SessionEvent::Established { session, initiator, .. } => live.push((*session, *initiator)),
                SessionEvent::Ended { session, .. } => live.retain(|(known, _)| known != session),
                _ => {}
            }
        }
        live
    }

    /// The session of two that both ends prefer.
    pub(super) fn preferred(&self, end: usize) -> SessionId {
        let ids = [self.ends[0].identity().node_id(), self.ends[1].identity().node_id()];
        let starter = |initiator: bool| if initiator { ids[end] } else { ids[1 - end] };
        let mut live = self.live(end);
        assert!(!live.is_empty(), "end {end} has no session: {:?}", self.events[end]);
        live.sort_by(|(_, a), (_, b)| preferred(&starter(*b), &starter(*a)).cmp(&preferred(&starter(*a), &starter(*b))));
        live[0].0
    }

    /// Sends a payload from one end to the other on its preferred session.
    pub(super) fn say(&mut self, from: usize, payload: &[u8]) -> SessionId {
        let session = self.preferred(from);
        self.say_on(from, session, payload);
        session
    }

    pub(super) fn say_on(&mut self, from: usize, session: SessionId, payload: &[u8]) {
        let mut datagram = Vec::new();
        self.ends[from].seal(session, payload, &mut datagram, self.now).unwrap();
        self.put(from, 1 - from, datagram, LATENCY);
    }

    /// Both ends have a session, agree on the preferred one, and hear each other on it.
    pub(super) fn assert_agreement(&mut self) {
        self.judge = Box::new(|_, _| Fate::Pass);
        self.opened.iter_mut().for_each(Vec::clear);
        let chosen = [self.say(0, b"\x7fone"), self.say(1, b"\x7ftwo")];
        self.run_for(LATENCY);
        assert!(self.opened[1].contains(&(chosen[1], b"\x7fone".to_vec())), "{:?} {:?}", chosen, self.opened);
        assert!(self.opened[0].contains(&(chosen[0], b"\x7ftwo".to_vec())), "{:?} {:?}", chosen, self.opened);
    }
}
