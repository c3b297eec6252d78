//! The protocol itself behind the engine: core's pump with one realm per group.

use annulus_core::batch::Slot;
use annulus_core::config::Config;
use annulus_core::io::{Command, DropReason, RealmSlot, ShardId, TimerKind};
use annulus_core::node::Node;
use annulus_core::node::status::{NodeStatus, PathStatus as CorePath, PeerStatus as CorePeer};
use annulus_core::pump::{Driver, Pump, Received, Scratch};
use annulus_core::shard::{ECN_ONLY, Shard, ShardSettings};
use annulus_core::stats::Stats;
use annulus_core::time::{Instant, UnixTime};
use annulus_core::worker::{Report, Worker};

use super::plane::{Plane, View};
use super::start::{Parts, bootstrap, hardware_aes, has_addresses};
use crate::clock;
use crate::exit::Failure;
use crate::status::{GroupStatus, HostEntry, PathStatus, PeerStatus, micros_to_ms};

/// Core's pump and the buffers that it works in.
#[derive(Debug, Default)]
pub struct CorePlane {
    pump: Pump,
    scratch: Scratch,
}

impl CorePlane {
    /// One realm per group, in their order.
    ///
    /// # Errors
    /// When the system has no randomness, or there are more groups than realms.
    pub fn new(parts: &Parts) -> Result<Self, Failure> {
        let mut plane = Self::default();
        let now = clock::now();
        for (file, group) in parts.files.iter().zip(&parts.groups) {
            let mut config = Config::new(file.ipv6_network);
            config.realm = group.realm;
            config.geometry = file.geometry;
            config.ipv4_network = file.ipv4_network;
            config.has_addresses = has_addresses(file, group.member.identity.certificate().roles());
            config.bootstrap = bootstrap(file, group);
            config.hardware_aes = hardware_aes();
            config.workers = parts.workers;
            let wall = clock::wall().max(UnixTime(group.state().signed_time));
            let shard = shard(parts, ShardId(0), group.realm)?;
            let node = Node::new(config, group.member.identity.clone(), group.member.trust.clone(), random()?, now, wall);
            if !plane.pump.add(node, shard) {
                return Err(Failure::failed("more groups than one daemon can serve"));
            }
        }
        Ok(plane)
    }
}

/// A worker's shard of one realm.
fn shard(parts: &Parts, id: ShardId, realm: RealmSlot) -> Result<Shard, Failure> {
    let mut settings = ShardSettings::new(id, realm, parts.workers, u64::from_le_bytes(random()?));
    if !parts.settings.copy_dscp {
        settings.class_mask = ECN_ONLY;
    }
    Ok(Shard::new(settings))
}

/// The data planes of the workers 1 and above, each with a shard per group.
pub(super) fn workers(parts: &Parts) -> Result<Vec<Worker>, Failure> {
    let mut workers = Vec::new();
    for number in 1..parts.workers.get() {
        let mut worker = Worker::new(ShardId(number), parts.workers, u64::from_le_bytes(random()?));
        for group in &parts.groups {
            if !worker.add(shard(parts, ShardId(number), group.realm)?) {
                return Err(Failure::failed("more groups than one worker can serve"));
            }
        }
        workers.push(worker);
    }
    Ok(workers)
}

fn random<const N: usize>() -> Result<[u8; N], Failure> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| Failure::failed(format!("the system has no randomness: {error}")))?;
    Ok(bytes)
}

impl Plane for CorePlane {
    fn datagrams(&mut self, buf: &mut [u8], received: &[Received], driver: &mut impl Driver, now: Instant) {
        self.pump.datagrams(&mut self.scratch, buf, received, driver, now);
    }

    fn packets(&mut self, realm: RealmSlot, buf: &mut [u8], slots: &mut [Slot], driver: &mut impl Driver, now: Instant) {
        self.pump.packets(realm, &mut self.scratch, buf, slots, driver, now);
    }

    fn command(&mut self, realm: RealmSlot, command: Command, now: Instant) {
        self.pump.command(realm, command, now);
    }

    fn report(&mut self, worker: ShardId, realm: RealmSlot, report: Report, now: Instant) {
        self.pump.report(worker, realm, report, now);
    }

    fn settle(&mut self, driver: &mut impl Driver, now: Instant) -> Option<(Instant, TimerKind)> {
        self.pump.settle(&mut self.scratch, driver, now)
    }

    fn view(&self, realm: RealmSlot, now: Instant) -> Option<View> {
        let realm = self.pump.realm(realm)?;
        let mut stats = realm.data_stats();
        stats.add(realm.node.stats());
        Some(view(realm.node.status(now), &stats))
    }
}

fn view(node: NodeStatus, stats: &Stats) -> View {
    let drops =
        DropReason::ALL.iter().filter(|reason| stats.drops(**reason) > 0).map(|reason| (reason.name().to_owned(), stats.drops(*reason)));
    let hosts = node.known.into_iter().map(|host| HostEntry { group: String::new(), name: host.name, addresses: host.addresses });
    View {
        group: GroupStatus {
            name: node.group,
            node_id: node.node_id.to_string(),
            node_name: node.name,
            user: node.user,
            addresses: node.addresses,
            device: None,
            connected: node.connected,
            ring_size_estimate: node.ring_size_estimate,
            certificate_not_after: node.certificate_ends,
            warnings: node.warnings,
            drops: drops.collect(),
        },
        peers: node.peers.into_iter().map(peer).collect(),
        hosts: hosts.collect(),
    }
}

fn peer(peer: CorePeer) -> PeerStatus {
    PeerStatus {
        group: String::new(),
        node_id: peer.node_id.to_string(),
        name: peer.name,
        user: peer.user,
        addresses: peer.addresses,
        roles: peer.roles.into_iter().map(str::to_owned).collect(),
        cipher: peer.cipher.to_owned(),
        paths: peer.paths.into_iter().map(|way| path(way, peer.cipher)).collect(),
        rx_bytes: peer.rx_bytes,
        tx_bytes: peer.tx_bytes,
    }
}

/// What the sockets do for it is for the engine to fill in.
fn path(path: CorePath, cipher: &str) -> PathStatus {
    PathStatus {
        kind: path.kind.to_owned(),
        via: path.via.map(|node| node.to_string()),
        remote: path.remote,
        rtt_ms: path.rtt_us.map(micros_to_ms),
        loss: Some(f64::from(path.loss_permille) / 1000.0),
        active: path.active,
        reason: path.reason.to_owned(),
        mtu: path.mtu,
        gso: false,
        gro: false,
        cipher: cipher.to_owned(),
    }
}
