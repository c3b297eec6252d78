//! The control plane of one realm: the only place where its machines meet.
//!
//! Each machine (sessions, peers, overlay, DHT, VPN) takes inputs and yields actions, and knows none of the others. A node feeds them and carries their
//! actions from one to the next:
//!
//! | file | what |
//! | --- | --- |
//! | `ingress` | datagrams and punts in: opened, and handed to the machine that owns their kind |
//! | `services`, `member` | what runs on top of the ring: requests and replies of DHT and VPN, members and their addresses |
//! | `react` | actions out of the machines, carried to where they go |
//! | `dial` | attempts to reach a node on several paths at once |
//! | `data` | data planes: when a session gets one, and which routes the shards know |
//! | `command` | orders of the daemon |
//! | `status` | what an operator sees |

mod clock;
mod command;
mod data;
mod dial;
mod ingress;
mod member;
mod react;
mod services;
pub mod status;
mod view;

use core::fmt;
use core::net::SocketAddr;
use core::num::NonZeroU8;
use std::collections::{BTreeMap, VecDeque};

use crate::config::Config;
use crate::dht::Dht;
use crate::events::Event;
use crate::group::{Identity, Trust};
use crate::id::NodeId;
use crate::io::{DropReason, Endpoint, Output, Path, RealmSlot, Reinject, TimerKind};
use crate::overlay::{Overlay, RequestId};
use crate::paths::{Named, PathTable};
use crate::peer::{PathKind, Peers};
use crate::rng::Rng;
use crate::session::{SessionSettings, Sessions};
use crate::shard::table::{PeerId, SessionId, TableUpdate};
use crate::stats::Stats;
use crate::time::{Instant, UnixTime};
use crate::timers::earlier;
use crate::vpn::Vpn;

use clock::Clock;
use data::DataPlanes;
use dial::Dials;

/// Outputs that wait for the driver at most. The control plane sends a few packets per event; more than this means that the driver does not drain,
/// and then the newest are dropped and counted as [`DropReason::QueueFull`]. Table updates are never dropped.
const MAX_QUEUED: usize = 8192;

/// How often strangers' datagrams are reported at most.
const STRANGER_REPORT: core::time::Duration = core::time::Duration::from_secs(60);
/// How often a member that routes by another geometry is reported at most.
const OTHER_GEOMETRY_REPORT: core::time::Duration = core::time::Duration::from_secs(60);
/// How long it stays in the status: members of other rings are looked for at least this often.
const OTHER_GEOMETRY_LIFE: core::time::Duration = core::time::Duration::from_secs(1800);

/// A daemon's membership in one realm: the control plane.
///
/// Feed any number of inputs (`handle_*`), drain [`Node::poll_output`] until `None`, sleep until [`Node::poll_timeout`].
pub struct Node {
    config: Config,
    local: NodeId,
    clock: Clock,
    paths: PathTable,
    sessions: Sessions,
    peers: Peers,
    overlay: Overlay,
    dht: Dht,
    vpn: Vpn,
    dials: Dials,
    data: DataPlanes,
    /// Echoes under way: request -> (the command's token, when it was sent, whom).
    echoes: BTreeMap<RequestId, (u64, Instant, NodeId)>,
    traces: BTreeMap<RequestId, command::Trace>,
    /// Requests of the DHT under way: request -> its token.
    dht_calls: BTreeMap<RequestId, u64>,
    /// Requests of the VPN under way: request -> its token.
    vpn_calls: BTreeMap<RequestId, u64>,
    queue: VecDeque<Queued>,
    strangers: Strangers,
    /// The latest member that routes by another geometry: what to say of it, and when it was met and told of.
    other_geometry: Option<(String, Instant, Instant)>,
    observed: Vec<(SocketAddr, u32)>,
    local_addresses: Vec<SocketAddr>,
    bootstrap: Vec<SocketAddr>,
    joined: Option<u64>,
    left: bool,
    latest: Instant,
    stats: Stats,
}

#[derive(Debug)]
enum Queued {
    Transmit(Path, Vec<u8>),
    Deliver(Vec<u8>),
    Reinject(Reinject, Vec<u8>),
    Table(TableUpdate),
    Event(Event),
}

/// Datagrams that were not made under the realm's key.
#[derive(Debug, Default)]
struct Strangers {
    count: u64,
    from: Option<SocketAddr>,
    reported: Option<Instant>,
}

impl Node {
    /// A node that does nothing until it is fed: [`Self::handle_timeout`] (called when [`Self::poll_timeout`] says so) starts it.
    ///
    /// `seed` decides everything random; `now` is the start on the monotonic clock, `wall` the host's wall clock.
    #[must_use]
    pub fn new(config: Config, identity: Identity, trust: Trust, seed: [u8; 32], now: Instant, wall: UnixTime) -> Self {
        let rng = Rng::new(seed);
        let (identity, trust) = (identity.with_crypto(config.crypto), trust.with_crypto(config.crypto));
        let local = identity.node_id();
        let settings =
            SessionSettings { realm: config.realm, workers: config.workers, hardware_aes: config.hardware_aes, crypto: config.crypto };
        let signed = identity.certificate().not_before();
        let sessions = Sessions::new(settings, identity.clone(), trust, rng.fork("session"), now);
        let overlay = Overlay::new(local, config.geometry, config.bootstrap.clone(), rng.fork("overlay"), now);
        let dht = Dht::new(&config, identity.clone(), rng.fork("dht"));
        let vpn = Vpn::new(&config, identity, rng.fork("vpn"), now);
        Self {
            local,
            clock: Clock::new(now, wall, signed),
            paths: PathTable::new(&mut rng.fork("paths")),
            sessions,
            peers: Peers::new(rng.fork("peer"), local, config.tunnel_mtu),
            overlay,
            dht,
            vpn,
            dials: Dials::default(),
            data: DataPlanes::default(),
            echoes: BTreeMap::new(),
            traces: BTreeMap::new(),
            dht_calls: BTreeMap::new(),
            vpn_calls: BTreeMap::new(),
            queue: VecDeque::new(),
            strangers: Strangers::default(),
            other_geometry: None,
            observed: Vec::new(),
            local_addresses: Vec::new(),
            bootstrap: config.bootstrap.clone(),
            joined: None,
            left: false,
            latest: now,
            stats: Stats::default(),
            config,
        }
    }

    /// The realm's number within its daemon.
    #[must_use]
    pub const fn realm(&self) -> RealmSlot {
        self.config.realm
    }

    /// The node's position.
    #[must_use]
    pub const fn node_id(&self) -> NodeId {
        self.local
    }

    /// The path for a UDP or stream endpoint; made if new.
    pub fn path(&mut self, endpoint: Endpoint) -> Path {
        self.paths.intern(endpoint)
    }

    /// What a path stands for; `None` once it was forgotten.
    #[must_use]
    pub fn endpoint(&self, path: Path) -> Option<Endpoint> {
        self.paths.resolve(path)
    }

    /// The path for what another table of paths named; made if new.
    pub(crate) fn adopt(&mut self, name: Named) -> Path {
        self.paths.adopt(name)
    }

    /// The realm's paths.
    pub(crate) const fn paths(&self) -> &PathTable {
        &self.paths
    }

    /// Number of workers, and so of shards.
    #[must_use]
    pub const fn workers(&self) -> NonZeroU8 {
        self.config.workers
    }

    /// Whether a handshake datagram was made under this realm's key.
    #[must_use]
    pub fn claims(&self, datagram: &[u8]) -> bool {
        self.sessions.claims(datagram)
    }

    /// Looks after whatever is due. Harmless when nothing is.
    pub fn handle_timeout(&mut self, now: Instant) {
        let now = self.advance(now);
        let wall = self.clock.now(now);
        self.sessions.handle_timeout(now, wall);
        self.peers.handle_timeout(now);
        self.overlay.handle_timeout(now);
        self.with_dht(now, |dht, at| dht.handle_timeout(at));
        self.with_vpn(now, |vpn, at| vpn.handle_timeout(at));
        self.dials_due(now);
        self.data_due(now);
        self.react(now);
    }

    /// The next output, written into `scratch` where it has bytes; call until `None`. `scratch` holds at least 65,536 bytes.
    #[must_use]
    pub fn poll_output(&mut self, scratch: &mut [u8], now: Instant) -> Option<Output> {
        if self.queue.is_empty() {
            let now = self.advance(now);
            self.react(now);
        }
        let mut write = |bytes: &[u8]| {
            let len = bytes.len().min(scratch.len());
            scratch[..len].copy_from_slice(&bytes[..len]);
            0..len
        };
        Some(match self.queue.pop_front()? {
            Queued::Transmit(path, bytes) => Output::Transmit { path, bytes: write(&bytes) },
            Queued::Deliver(bytes) => Output::Deliver { bytes: write(&bytes) },
            Queued::Reinject(action, bytes) => {
                let owner = match action {
                    // Packets that waited leave on the lanes of the shard beside us, before a further worker is told that it may seal itself.
                    Reinject::Seal => None,
                    Reinject::Open { .. } => crate::shard::owner(&bytes, self.config.workers),
                };
                Output::Reinject { shard: owner.unwrap_or_default(), action, bytes: write(&bytes) }
            }
            Queued::Table(update) => Output::Table(update),
            Queued::Event(event) => Output::Event(event),
        })
    }

    /// When [`Self::handle_timeout`] is next needed, and why.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, TimerKind)> {
        if !self.queue.is_empty() {
            return Some((self.latest, TimerKind::Output));
        }
        let mut next = self.sessions.poll_timeout();
        next = earlier(next, self.peers.poll_timeout());
        next = earlier(next, self.overlay.poll_timeout());
        next = earlier(next, self.dht.poll_timeout());
        next = earlier(next, self.vpn.poll_timeout());
        next = earlier(next, self.dials.poll_timeout());
        earlier(next, self.data.poll_timeout())
    }

    /// Counters of the control plane.
    #[must_use]
    pub const fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Time never runs backwards: an earlier `now` counts as the latest one seen.
    fn advance(&mut self, now: Instant) -> Instant {
        self.latest = self.latest.max(now);
        self.latest
    }

    fn push(&mut self, queued: Queued) {
        let must = matches!(queued, Queued::Table(_));
        if must || self.queue.len() < MAX_QUEUED {
            self.queue.push_back(queued);
        } else {
            self.stats.dropped(DropReason::QueueFull);
        }
    }

    #[cfg(test)]
    pub(crate) fn publish(&mut self, update: TableUpdate) {
        self.table(update);
    }

    /// Counts what was lost on its way to another worker.
    pub(crate) fn lose(&mut self, reason: DropReason) {
        self.stats.dropped(reason);
    }

    fn event(&mut self, event: Event) {
        self.push(Queued::Event(event));
    }

    fn table(&mut self, update: TableUpdate) {
        self.push(Queued::Table(update));
    }

    fn kind_of(&self, path: Path) -> PathKind {
        match self.paths.resolve(path) {
            Some(Endpoint::Circuit { .. }) => PathKind::Relay,
            Some(Endpoint::Routed(_)) => PathKind::Routed,
            Some(Endpoint::Udp { .. } | Endpoint::Stream { .. }) | None => PathKind::Direct,
        }
    }

    fn remote_of(&self, path: Path) -> Option<SocketAddr> {
        match self.paths.resolve(path)? {
            Endpoint::Udp { remote, .. } | Endpoint::Stream { remote, .. } => Some(remote),
            Endpoint::Circuit { .. } | Endpoint::Routed(_) => None,
        }
    }

    /// Sends a finished datagram on any kind of path.
    fn transmit(&mut self, path: Path, datagram: Vec<u8>, now: Instant) {
        match self.paths.resolve(path) {
            Some(Endpoint::Udp { .. } | Endpoint::Stream { .. }) => self.push(Queued::Transmit(path, datagram)),
            Some(Endpoint::Circuit { via, circuit }) => {
                let header = crate::wire::packet::RelayHeader { hops_left: data::CIRCUIT_HOPS, circuit };
                let mut relayed = header.bytes().to_vec();
                relayed.extend_from_slice(&datagram);
                self.push(Queued::Transmit(via, relayed));
            }
            Some(Endpoint::Routed(node)) => {
                if let Err(reason) = self.overlay.send_datagram(node, &datagram, now) {
                    self.stats.dropped(reason);
                }
            }
            None => self.stats.dropped(DropReason::NoPath),
        }
    }

    /// Seals a control payload on a session and sends it on exactly this path.
    fn send_control(&mut self, session: SessionId, path: Path, payload: &[u8], now: Instant) {
        let mut datagram = Vec::with_capacity(payload.len() + crate::wire::packet::SEALED_OVERHEAD);
        match self.sessions.seal(session, payload, &mut datagram, now) {
            Ok(()) => {
                self.peers.sent(session, path, datagram.len(), now);
                self.transmit(path, datagram, now);
            }
            Err(_) => self.stats.dropped(DropReason::KeyExhausted),
        }
    }

    /// Seals a control payload for a peer on its session and active path.
    fn send_to_peer(&mut self, peer: PeerId, payload: &[u8], now: Instant) {
        match (self.peers.session(peer), self.peers.path(peer)) {
            (Some(session), Some(path)) => self.send_control(session, path, payload, now),
            _ => self.stats.dropped(DropReason::NoPath),
        }
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").field("id", &self.local).field("joined", &self.joined).finish_non_exhaustive()
    }
}
