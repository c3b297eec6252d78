//! Runs described in TOML, and their results.

use core::net::{IpAddr, SocketAddr};
use core::time::Duration;

use annulus_core::config::{Config, CryptoMode, GeometryKind};
use annulus_core::group::{Authority, Identity, Parameters, Profile, Trust};
use annulus_core::io::ShardId;
use annulus_core::node::Node;
use annulus_core::rng::Rng;
use annulus_core::shard::table::Prefix;
use annulus_core::shard::{Shard, ShardSettings};
use annulus_core::time::Instant;
use serde::{Deserialize, Serialize};

use crate::host::Host;
use crate::net::Network;
use crate::oracle::{self, Reach, RingState};
use crate::world::{HostId, WALL_START, World};

/// A run.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Its name.
    pub name: String,
    /// What it shows, in one sentence.
    pub about: String,
    /// How many nodes.
    pub nodes: u32,
    /// Addresses that each node knows at its start.
    #[serde(default = "five")]
    pub contacts: u32,
    /// By which rule nodes link and route: `symphony`, `chord`, `pastry` or `kademlia`.
    #[serde(default, deserialize_with = "geometry")]
    pub geometry: GeometryKind,
    /// All nodes start within this time, in ms.
    #[serde(default)]
    pub start_within_ms: u32,
    /// `real` or `stand-in`.
    #[serde(default)]
    pub crypto: Crypto,
    /// The network.
    #[serde(default)]
    pub network: Network,
    /// The ring must stand within this time, in s; then the run goes on to its next phase.
    pub time_limit_s: u32,
    /// Nodes that crash at once after the ring stands, in %.
    #[serde(default)]
    pub crash_percent: u32,
    /// Virtual time that the run goes on after that, in s: until links to dead nodes that are no neighbours are noticed.
    #[serde(default)]
    pub settle_s: u32,
}

fn geometry<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<GeometryKind, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}

const fn five() -> u32 {
    5
}

/// Which crypto a run uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Crypto {
    /// Noise, AEAD and signatures.
    Real,
    /// Messages of equal sizes without secrecy.
    #[default]
    StandIn,
}

/// What a run showed. Virtual times are exact; wall times are of this machine and this minute.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The scenario's name.
    pub scenario: String,
    /// The seed.
    pub seed: u64,
    /// Nodes at the start.
    pub nodes: u32,
    /// Whether the ring was right at the end.
    pub ring_correct: bool,
    /// Share of ordered pairs of living nodes that reach each other.
    pub reachable: f64,
    /// By which rule nodes linked and routed.
    pub geometry: &'static str,
    /// Mean overlay hops over these pairs.
    pub mean_hops: f64,
    /// Overlay hops that 99 % of these pairs need at most.
    pub p99_hops: u64,
    /// Most overlay hops over these pairs.
    pub max_hops: u64,
    /// Mean links per living node, those for traffic included.
    pub mean_links: f64,
    /// Most links of one living node.
    pub max_links: usize,
    /// Virtual time until the ring stood, in s.
    pub formed_s: Option<f64>,
    /// Virtual time from the crash until the ring was right again, in s.
    pub repaired_s: Option<f64>,
    /// Nodes alive at the end.
    pub alive: usize,
    /// Virtual time of the whole run in s.
    pub virtual_seconds: f64,
    /// Real time of the whole run in s.
    pub wall_seconds: f64,
    /// Datagrams that arrived and wake-ups.
    pub events: u64,
    /// Wake-ups that changed nothing, again and again: not 0 is a bug.
    pub stalls: u64,
    /// Hash over all events.
    pub trace_hash: String,
}

/// How often a standing ring is looked for, in virtual time.
const LOOK: Duration = Duration::from_millis(100);

impl Scenario {
    /// Reads a scenario.
    ///
    /// # Errors
    /// What is wrong and where, when it is not TOML or has unknown or missing keys.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let scenario: Self = toml::from_str(text)?;
        anyhow::ensure!(scenario.nodes >= 1 && scenario.nodes <= 1_000_000, "nodes must lie between 1 and 1000000");
        anyhow::ensure!(scenario.crash_percent < 100, "crash_percent must be below 100");
        Ok(scenario)
    }

    /// Runs it. `wall` tells how many seconds of real time have passed; it goes into the report and nowhere else. `progress` is called now and then.
    ///
    /// # Errors
    /// When the nodes' certificates cannot be made.
    pub fn run(&self, seed: u64, wall: &dyn Fn() -> f64, progress: &mut dyn FnMut(&str)) -> anyhow::Result<Report> {
        let mut world = self.build(seed)?;
        let mut rng = master(seed).fork("scenario");
        let started = world.now();
        let formed_s = self.await_ring(&mut world, progress);
        let repaired_s = (self.crash_percent > 0).then(|| self.crash(&mut world, &mut rng, progress)).flatten();
        world.run(Duration::from_secs(u64::from(self.settle_s)));
        let state = oracle::ring(&world);
        let reach = if state.nodes > 1 { oracle::reach(&world) } else { Reach { pairs: 1, reached: 1, hops: vec![1] } };
        let alive = world.hosts().iter().filter(|host| host.alive);
        let links: Vec<usize> = alive.map(|host| host.node().links(world.now()).count()).collect();
        Ok(Report {
            scenario: self.name.clone(),
            seed,
            nodes: self.nodes,
            ring_correct: state.is_correct(),
            reachable: reach.reached as f64 / reach.pairs as f64,
            geometry: self.geometry.name(),
            mean_hops: reach.mean(),
            p99_hops: reach.percentile(990),
            max_hops: reach.max(),
            mean_links: links.iter().sum::<usize>() as f64 / links.len().max(1) as f64,
            max_links: links.iter().copied().max().unwrap_or(0),
            formed_s,
            repaired_s,
            alive: state.nodes,
            virtual_seconds: world.now().saturating_since(started).as_secs_f64(),
            wall_seconds: wall(),
            events: world.events(),
            stalls: world.hosts().iter().map(Host::stalls).sum(),
            trace_hash: world.trace_hash(),
        })
    }

    /// The world at its start: nobody has said anything yet.
    ///
    /// # Errors
    /// When the nodes' certificates cannot be made.
    pub fn build(&self, seed: u64) -> anyhow::Result<World> {
        let rng = master(seed);
        let mut world = World::new(self.network, &rng);
        let mut group = Group::new(&rng)?;
        let mut draw = rng.fork("contacts");
        for id in 0..self.nodes {
            let contacts = self.contacts_of(id, &mut draw);
            let mut config = group.config(contacts);
            config.geometry = self.geometry;
            config.crypto = self.crypto_mode()?;
            let start = world.now() + Duration::from_micros(draw.below(u64::from(self.start_within_ms) * 1000 + 1));
            let host = group.host(id, config, start)?;
            world.add(host, start);
        }
        Ok(world)
    }

    fn crypto_mode(&self) -> anyhow::Result<CryptoMode> {
        Ok(match self.crypto {
            Crypto::Real => CryptoMode::Real,
            Crypto::StandIn => CryptoMode::StandIn,
        })
    }

    fn contacts_of(&self, id: HostId, draw: &mut Rng) -> Vec<SocketAddr> {
        if self.nodes == 1 {
            return Vec::new();
        }
        (0..self.contacts)
            .map(|_| {
                let other = draw.below(u64::from(self.nodes) - 1) as u32;
                World::address_of(if other >= id { other + 1 } else { other })
            })
            .collect()
    }

    /// Virtual time until the ring stands, in s; `None` at the time limit.
    fn await_ring(&self, world: &mut World, progress: &mut dyn FnMut(&str)) -> Option<f64> {
        let from = world.now();
        let limit = from + Duration::from_secs(u64::from(self.time_limit_s));
        while world.now() < limit {
            world.run(LOOK);
            let state: RingState = oracle::ring(world);
            progress(&format!(
                "{:.1} s: {} of {} nodes in place, {} joined",
                world.now().saturating_since(from).as_secs_f64(),
                state.correct,
                state.nodes,
                state.joined
            ));
            if state.is_correct() {
                return Some(world.now().saturating_since(from).as_secs_f64());
            }
        }
        None
    }

    fn crash(&self, world: &mut World, rng: &mut Rng, progress: &mut dyn FnMut(&str)) -> Option<f64> {
        let dead = (u64::from(self.nodes) * u64::from(self.crash_percent) / 100) as u32;
        let mut order: Vec<HostId> = (0..self.nodes).collect();
        for place in 0..dead as usize {
            let other = place + rng.below((order.len() - place) as u64) as usize;
            order.swap(place, other);
            world.crash(order[place]);
        }
        self.await_ring(world, progress)
    }
}

/// A group with its CA, for simulated nodes.
#[derive(Debug)]
pub struct Group {
    authority: Authority,
    rng: Rng,
}

impl Group {
    /// A new group; the same for the same generator.
    ///
    /// # Errors
    /// When the CA cannot be made.
    pub fn new(rng: &Rng) -> anyhow::Result<Self> {
        let mut rng = rng.fork("group");
        let authority = Authority::init(&Parameters::new("sim"), &mut rng, WALL_START)?;
        Ok(Self { authority, rng })
    }

    /// The configuration of a member.
    #[must_use]
    pub fn config(&self, bootstrap: Vec<SocketAddr>) -> Config {
        let mut config = Config::new(Prefix::new(IpAddr::from([0xfd00, 0xa, 0xa, 0xa, 0, 0, 0, 0]), 64));
        config.ipv4_network = Some(Prefix::new(IpAddr::from([10, 200, 0, 0]), 16));
        config.bootstrap = bootstrap;
        config
    }

    /// What members trust.
    ///
    /// # Errors
    /// Never for a CA that was just made.
    pub fn trust(&self) -> anyhow::Result<Trust> {
        Ok(self.authority.trust())
    }

    /// A new member's identity.
    ///
    /// # Errors
    /// When the CA refuses the request.
    pub fn identity(&mut self, name: &str) -> anyhow::Result<Identity> {
        self.identity_with(name, 30 * 24 * 3600)
    }

    /// A new member's identity that ends `lifetime` s after the start of the simulation.
    ///
    /// # Errors
    /// When the CA refuses the request.
    pub fn identity_with(&mut self, name: &str, lifetime: u64) -> anyhow::Result<Identity> {
        let mut profile = Profile::new(&format!("user-{name}"), name, WALL_START);
        profile.lifetime = Duration::from_secs(lifetime);
        Ok(self.authority.enrol(&profile, &mut self.rng)?)
    }

    /// The CA, to revoke members.
    pub const fn authority_mut(&mut self) -> &mut Authority {
        &mut self.authority
    }

    /// A host that runs one member.
    ///
    /// # Errors
    /// When the CA refuses the request.
    pub fn host(&mut self, id: HostId, config: Config, start: Instant) -> anyhow::Result<Host> {
        let identity = self.identity(&format!("node-{id}"))?;
        self.host_as(id, identity, config, start)
    }

    /// A host that runs with this identity.
    ///
    /// # Errors
    /// Never for a CA that was just made.
    pub fn host_as(&mut self, id: HostId, identity: Identity, config: Config, start: Instant) -> anyhow::Result<Host> {
        let trust = self.trust()?;
        let seed = self.rng.bytes();
        let shard = Shard::new(ShardSettings::new(ShardId(0), config.realm, config.workers, self.rng.next_u64()));
        let node = Node::new(config, identity, trust, seed, start, WALL_START);
        Ok(Host::new(World::address_of(id), node, shard))
    }
}

/// The generator of a whole run.
#[must_use]
pub fn master(seed: u64) -> Rng {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_be_bytes());
    Rng::new(bytes)
}
