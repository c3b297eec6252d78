//! The data plane of one worker: keys, counters, replay windows, flow tables. No timer, no randomness, no ring; no heap until its first session.
//!
//! | file | what |
//! | --- | --- |
//! | [`table`] | what the control plane publishes, and what it is told |
//! | `seal` | packets of the host: destination, session, way, sealed in place |
//! | `open` | datagrams: opened, or passed on |
//! | `relay` | circuit datagrams, in place |
//! | `session` | keys, lanes and counters, ways |
//! | `window` | which counters were seen |
//! | `flow` | which way each flow takes |
//! | `route` | who owns which address |
//! | `circuit` | who may have what relayed |
//! | `hints` | what waits to be told |
//!
//! # Lanes
//!
//! A nonce is a lane and a counter. With W workers shard k seals on lanes k, k + W, ... of each session, so no two threads ever share one and
//! nothing is locked. Each move to another path takes the next of the shard's lanes: what is still on its way on the old path has a window of its own.

mod circuit;
mod flow;
mod hints;
mod open;
mod relay;
mod route;
mod seal;
mod session;
pub mod table;
mod window;

#[cfg(test)]
mod tests;

use core::num::NonZeroU8;
use core::time::Duration;

use hashbrown::HashMap;

use crate::config::TUNNEL_MTU;
use crate::io::{DropReason, Path, RealmSlot, ShardId, Verdict};
use crate::stats::Stats;
use crate::time::Instant;
use crate::wire::packet::MAX_INDEX;
use crate::wire::{DatagramType, classify};

pub use circuit::{MAX_CIRCUITS, NEW_CIRCUIT_RATE};
pub use flow::DEFAULT_FLOWS;
pub use hints::MAX_HINTS;
pub use route::{MAX_ROUTES, MAX_SOURCES};
pub use session::{LANES, MAX_LINGER, MAX_PACKETS, MIN_FLOW_GAP, REKEY_GRACE, REKEY_PACKETS};
pub use window::WINDOW;

use circuit::{Bucket, Circuit, Circuits, Leg};
use flow::FlowTable;
use hints::Hints;
use route::{Local, Routes, Sources};
use session::Session;
use table::{Install, PeerId, Prefix, Removal, SessionId, ShardEvent, TableUpdate, Way};

/// Sessions that a shard holds at most: 45 MB. Beyond it an install is refused and counted as
/// [`DropReason::QueueFull`]. None is ever evicted: installed again it would count from 0 under the same key.
pub const MAX_SESSIONS: usize = 16_384;

/// The shortest time between two [`ShardEvent::Activity`] of a session.
pub const ACTIVITY_INTERVAL: Duration = Duration::from_millis(100);
/// The shortest time between two [`ShardEvent::Moved`] of a session: packets that alternate between two paths make no flood.
pub const MOVED_INTERVAL: Duration = Duration::from_secs(1);
/// How often a session whose key is used up asks for its rekey again.
pub const REKEY_REMINDER: Duration = Duration::from_secs(1);

/// The part of the traffic class that is always copied (RFC 6040): without it a marked congestion would look like a loss.
pub const ECN_ONLY: u8 = 0b11;

/// What a shard is told at its start.
#[derive(Clone, Debug)]
pub struct ShardSettings {
    /// Its number, below `workers`.
    pub id: ShardId,
    /// The realm's number within the daemon: the top 4 bits of its receiver indices.
    pub realm: RealmSlot,
    /// Number of workers, and so of shards; 1 to [`LANES`], the same in all shards.
    pub workers: NonZeroU8,
    /// Keys the hash tables: some of what is in them is chosen by others.
    pub seed: u64,
    /// Flows to remember, rounded up to a power of two; 24 bytes each, allocated with the first session.
    pub flows: u32,
    /// Bits of the inner traffic class that are copied to the outer header: all, or [`ECN_ONLY`].
    pub class_mask: u8,
    /// MTU of the TUN device in bytes: ways that carry less whole are small.
    pub tunnel_mtu: u16,
}

impl ShardSettings {
    /// Settings with [`DEFAULT_FLOWS`] and [`TUNNEL_MTU`], the whole traffic class copied.
    #[must_use]
    pub const fn new(id: ShardId, realm: RealmSlot, workers: NonZeroU8, seed: u64) -> Self {
        Self { id, realm, workers, seed, flows: DEFAULT_FLOWS, class_mask: u8::MAX, tunnel_mtu: TUNNEL_MTU }
    }

    /// Whether datagrams with this receiver or circuit index belong to the shard.
    #[inline]
    const fn owns(&self, index: u32) -> bool {
        index % self.workers.get() as u32 == self.id.0 as u32
    }
}

/// The shard that a datagram belongs to when there are `workers`: by the receiver index of a data packet or the circuit index of a relay datagram.
/// `None` for all others, which any shard takes.
#[must_use]
pub fn owner(datagram: &[u8], workers: NonZeroU8) -> Option<ShardId> {
    let &[first, i0, i1, i2, ..] = datagram else { return None };
    match classify(first)? {
        DatagramType::Data | DatagramType::Relay => Some(ShardId((u32::from_be_bytes([0, i0, i1, i2]) % u32::from(workers.get())) as u8)),
        DatagramType::Handshake | DatagramType::Control => None,
    }
}

/// Sessions with traffic that the control plane was not told of.
#[derive(Debug, Default)]
struct News {
    /// Their places; each at most once.
    places: Vec<u32>,
    /// Nothing in the list is due before.
    due: Instant,
}

impl News {
    /// Notes traffic of the session at `place`.
    #[inline]
    fn note(&mut self, session: &mut Session, place: u32, rx_bytes: u64, tx_bytes: u64) {
        let traffic = &mut session.traffic;
        traffic.rx_bytes += rx_bytes;
        traffic.tx_bytes += tx_bytes;
        if !traffic.listed {
            traffic.listed = true;
            self.due = if self.places.is_empty() { traffic.due } else { self.due.min(traffic.due) };
            self.places.push(place);
        }
    }
}

/// The data plane of one worker in one realm.
#[derive(Debug)]
pub struct Shard {
    settings: ShardSettings,
    local: Local,
    routes: Routes,
    sources: Sources,
    sessions: Vec<Option<Box<Session>>>,
    /// Free places in `sessions`.
    free: Vec<u32>,
    /// Place in `sessions` by receiver index.
    by_index: HashMap<u32, u32, foldhash::fast::FixedState>,
    /// Place of the session to seal on, by peer.
    promoted: HashMap<PeerId, u32, foldhash::fast::FixedState>,
    flows: FlowTable,
    circuits: Circuits,
    new_circuits: Bucket,
    hints: Hints,
    news: News,
    stats: Stats,
}

impl Shard {
    /// A shard with empty tables. Allocates nothing.
    ///
    /// # Panics
    /// When there are more workers than [`LANES`], or `id` is not below `workers`: two shards would share a lane.
    #[must_use]
    pub fn new(settings: ShardSettings) -> Self {
        assert!(settings.workers.get() <= LANES && settings.id.0 < settings.workers.get(), "each shard needs a lane of its own");
        let seed = settings.seed;
        let hasher = || foldhash::fast::FixedState::with_seed(seed);
        Self {
            local: Local::default(),
            routes: Routes::new(seed, MAX_ROUTES),
            sources: Sources::new(seed, MAX_SOURCES),
            sessions: Vec::new(),
            free: Vec::new(),
            by_index: HashMap::with_hasher(hasher()),
            promoted: HashMap::with_hasher(hasher()),
            flows: FlowTable::new(seed),
            circuits: Circuits::with_hasher(hasher()),
            new_circuits: Bucket::new(NEW_CIRCUIT_RATE, Instant::ZERO),
            hints: Hints::default(),
            news: News::default(),
            stats: Stats::default(),
            settings,
        }
    }

    /// Replaces the node's own addresses: `host` are those that opened packets are delivered for (a gateway's networks among them), `service` those that
    /// the node answers itself. The same comes to all shards by [`TableUpdate::Local`].
    pub fn set_local(&mut self, host: &[Prefix], service: &[Prefix]) {
        self.local.host = host.iter().map(normal).collect();
        self.local.service = service.iter().map(normal).collect();
    }

    /// Changes the tables; between batches only. An update that does not fit (unknown session, another realm's index, a full table) changes nothing.
    pub fn apply(&mut self, update: TableUpdate, now: Instant) {
        match update {
            TableUpdate::Install(install) => self.install(&install, now),
            TableUpdate::SetPath { session, way, at_once } => self.set_path(session, way, at_once, now),
            TableUpdate::Promote { peer, session } => self.promote(peer, session),
            TableUpdate::Route { prefix, peer } => self.routes.insert(normal(&prefix), peer),
            TableUpdate::Source { prefix, peer } => {
                if !self.sources.insert(normal(&prefix), peer) {
                    self.stats.dropped(DropReason::QueueFull);
                }
            }
            TableUpdate::Circuit { index, from, to, next_index, rate } => {
                self.set_circuit(index, from, Leg::Onward { to, next_index }, rate, now);
            }
            TableUpdate::CircuitEnd { index, from, arrives_by } => self.set_circuit(index, from, Leg::Here(arrives_by), u64::MAX, now),
            TableUpdate::Local { host, service } => self.set_local(&host, &service),
            TableUpdate::Remove(removal) => self.remove(removal),
            TableUpdate::Barrier(number) => self.hints.applied(number),
        }
    }

    /// The next event, in the order in which they happened; until `None`.
    pub fn poll_event(&mut self) -> Option<ShardEvent> {
        self.hints.pop()
    }

    /// Whether [`Self::poll_event`] has something.
    #[must_use]
    pub fn has_event(&self) -> bool {
        !self.hints.is_empty()
    }

    /// When [`Self::tell_activity`] has something to tell; `None` while there was no traffic since.
    #[must_use]
    pub fn activity_due(&self) -> Option<Instant> {
        (!self.news.places.is_empty()).then_some(self.news.due)
    }

    /// The realm's number within the daemon.
    #[must_use]
    pub const fn realm(&self) -> RealmSlot {
        self.settings.realm
    }

    /// Number of shards of the realm.
    #[must_use]
    pub const fn workers(&self) -> NonZeroU8 {
        self.settings.workers
    }

    /// Its number.
    #[must_use]
    pub const fn id(&self) -> ShardId {
        self.settings.id
    }

    /// What was carried and what was dropped since the start.
    #[must_use]
    pub const fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Queues [`ShardEvent::Activity`] for traffic that was not told yet. Each batch does it; a driver may call it before it sleeps, so that the end
    /// of a transfer is told as well.
    pub fn tell_activity(&mut self, now: Instant) {
        if self.news.places.is_empty() || now < self.news.due {
            return;
        }
        let mut next = now + ACTIVITY_INTERVAL;
        let mut at = 0;
        while let Some(&place) = self.news.places.get(at) {
            let Some(session) = self.sessions[place as usize].as_deref_mut() else {
                self.news.places.swap_remove(at);
                continue;
            };
            let traffic = &mut session.traffic;
            if now < traffic.due {
                next = next.min(traffic.due);
                at += 1;
                continue;
            }
            let event = ShardEvent::Activity { session: session.id, rx_bytes: traffic.rx_bytes, tx_bytes: traffic.tx_bytes };
            if !self.hints.push(event) {
                break;
            }
            *traffic = session::Traffic { due: now + ACTIVITY_INTERVAL, ..Default::default() };
            self.news.places.swap_remove(at);
        }
        self.news.due = next;
    }

    /// Whom packets for an address go to.
    #[cfg(test)]
    pub(crate) fn route_of(&mut self, address: core::net::IpAddr) -> Option<PeerId> {
        self.routes.find(address).map(|(_, peer)| peer)
    }

    fn install(&mut self, install: &Install, now: Instant) {
        let index = install.session.0;
        if index > MAX_INDEX || index >> 20 != u32::from(self.settings.realm.0) {
            return;
        }
        if let Some(&place) = self.by_index.get(&index)
            && let Some(session) = self.sessions[place as usize].as_deref_mut()
        {
            if session.has_keys_of(install) {
                if session.peer != install.peer && self.promoted.get(&session.peer) == Some(&place) {
                    self.promoted.remove(&session.peer);
                }
                session.reinstall(install, now);
                return;
            }
            self.remove_session(install.session);
        }
        if self.by_index.len() >= MAX_SESSIONS {
            self.stats.dropped(DropReason::QueueFull);
            return;
        }
        let session = Some(Box::new(Session::new(&self.settings, install)));
        let place = if let Some(place) = self.free.pop() {
            self.sessions[place as usize] = session;
            place
        } else {
            self.sessions.push(session);
            (self.sessions.len() - 1) as u32
        };
        self.by_index.insert(index, place);
        self.flows.reserve(self.settings.flows);
        self.hints.reserve();
        // Each place is listed at most once.
        self.news.places.reserve(self.sessions.len() - self.news.places.len());
    }

    fn set_path(&mut self, session: SessionId, way: Way, at_once: bool, now: Instant) {
        if let Some(session) = self.session_mut(session) {
            session.sender.set_way(way, at_once, now);
        }
    }

    fn promote(&mut self, peer: PeerId, session: SessionId) {
        if let Some(&place) = self.by_index.get(&session.0)
            && self.sessions[place as usize].as_deref().is_some_and(|session| session.peer == peer)
        {
            self.promoted.insert(peer, place);
        }
    }

    fn set_circuit(&mut self, index: u32, from: Path, leg: Leg, rate: u64, now: Instant) {
        if let Some(circuit) = self.circuits.get_mut(&index) {
            circuit.from = from;
            circuit.leg = leg;
            circuit.allowance.set_rate(rate);
        } else if self.circuits.len() < MAX_CIRCUITS {
            self.circuits.insert(index, Circuit { from, leg, allowance: Bucket::new(rate, now) });
        } else {
            self.stats.dropped(DropReason::QueueFull);
        }
    }

    fn remove(&mut self, removal: Removal) {
        match removal {
            Removal::Session(session) => self.remove_session(session),
            Removal::Peer(peer) => {
                for place in 0..self.sessions.len() {
                    if let Some(session) = self.sessions[place].as_deref().filter(|session| session.peer == peer) {
                        self.remove_session(session.id);
                    }
                }
                self.routes.remove_peer(peer);
                self.sources.remove_peer(peer);
            }
            Removal::Route(prefix) => self.routes.remove(&normal(&prefix)),
            Removal::Source(peer, prefix) => self.sources.remove(normal(&prefix), peer),
            Removal::Circuit(index) => {
                self.circuits.remove(&index);
            }
        }
    }

    fn remove_session(&mut self, session: SessionId) {
        let Some(place) = self.by_index.remove(&session.0) else { return };
        let Some(removed) = self.sessions[place as usize].take() else { return };
        if self.promoted.get(&removed.peer) == Some(&place) {
            self.promoted.remove(&removed.peer);
        }
        self.news.places.retain(|listed| *listed != place);
        self.free.push(place);
    }

    fn session_mut(&mut self, session: SessionId) -> Option<&mut Session> {
        let place = *self.by_index.get(&session.0)?;
        self.sessions[place as usize].as_deref_mut()
    }

    fn count(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Drop(reason) => self.stats.dropped(reason),
            // A routed packet is sealed as any other and counted there.
            Verdict::Punt(why) => self.stats.punted(why),
            Verdict::Pending | Verdict::Transmit(_) | Verdict::Deliver => {}
        }
    }
}

/// A prefix whose bits beyond its length are zero, whoever made it.
fn normal(prefix: &Prefix) -> Prefix {
    Prefix::new(prefix.address, prefix.len)
}
