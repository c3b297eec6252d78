//! Nodes in the simulation: the same core, in virtual time.

use std::net::SocketAddr;
use std::time::Duration;

use annulus_sim::core::events::{Command, Event};
use annulus_sim::core::group::Identity;
use annulus_sim::core::id::NodeId;
use annulus_sim::core::time::UnixTime;
use annulus_sim::net::Network;
use annulus_sim::scenario::{Group, master};
use annulus_sim::world::{HostId, WALL_START, World};
use annulus_tests::ring::{self, Driver, NAMES, Seen};
use anyhow::{Context, Result, ensure};

/// All nodes.
pub(crate) struct Simulated {
    world: World,
    group: Group,
    nodes: Vec<Simulant>,
    moves: u8,
}

struct Simulant {
    identity: Identity,
    /// The number of the host that runs the node now.
    host: Option<HostId>,
    events: Vec<Event>,
    delivered: Vec<Vec<u8>>,
}

impl Simulated {
    /// Three nodes that do not run yet, on a network without faults.
    pub(crate) fn new(seed: u64) -> Result<Self> {
        let rng = master(seed);
        let mut group = Group::new(&rng)?;
        let nodes = NAMES.iter().map(|name| {
            let identity = group.identity(name)?;
            Ok(Simulant { identity, host: None, events: Vec::new(), delivered: Vec::new() })
        });
        let nodes = nodes.collect::<Result<Vec<_>>>()?;
        Ok(Self { world: World::new(Network::default(), &rng), group, nodes, moves: 0 })
    }

    /// Takes over what hosts have told and delivered.
    fn collect(&mut self) {
        for (host, event) in self.world.take_events() {
            if let Some(node) = self.nodes.iter_mut().find(|node| node.host == Some(host)) {
                node.events.push(event);
            }
        }
        for (host, packet) in self.world.take_delivered() {
            if let Some(node) = self.nodes.iter_mut().find(|node| node.host == Some(host)) {
                node.delivered.push(packet);
            }
        }
    }

    fn host(&self, node: usize) -> Result<HostId> {
        self.nodes[node].host.with_context(|| format!("{} runs", NAMES[node]))
    }

    fn name_of(&self, id: NodeId) -> String {
        let known = self.nodes.iter().position(|node| node.identity.node_id() == id);
        known.map_or_else(|| id.to_string(), |index| NAMES[index].to_owned())
    }

    /// The address of a node at its start.
    fn address(node: usize) -> SocketAddr {
        World::address_of(node as HostId)
    }
}

impl Driver for Simulated {
    fn start(&mut self, node: usize) -> Result<()> {
        let bootstrap = if node == 0 { Vec::new() } else { vec![Self::address(0)] };
        let config = self.group.config(bootstrap);
        let now = self.world.now();
        let host = self.group.host_as(node as HostId, self.nodes[node].identity.clone(), config, now)?;
        let id = self.world.add(host, now);
        self.nodes[node].host = Some(id);
        // What a daemon says first: the lease that it has stored, the time, and where it can be reached.
        let lease =
            self.nodes[node].events.iter().rev().find_map(|event| if let Event::Lease(lease) = event { Some(lease.clone()) } else { None });
        if let Some(lease) = lease {
            self.world.command(id, Command::RestoreLease(lease));
        }
        self.world.command(id, Command::WallClock(wall(&self.world)));
        self.world.command(id, Command::LocalAddresses(vec![Self::address(node)]));
        Ok(())
    }

    fn leave(&mut self, node: usize) -> Result<()> {
        let host = self.host(node)?;
        self.world.command(host, Command::Leave);
        for _ in 0..100 {
            self.pass(Duration::from_millis(10));
            if self.nodes[node].events.last() == Some(&Event::Left) {
                break;
            }
        }
        ensure!(self.nodes[node].events.contains(&Event::Left), "{} does not leave", NAMES[node]);
        self.world.crash(host);
        self.nodes[node].host = None;
        Ok(())
    }

    fn roam(&mut self, node: usize) -> Result<()> {
        let host = self.host(node)?;
        self.moves += 1;
        let address = SocketAddr::from(([2, 0, 0, self.moves], annulus_sim::world::PORT));
        self.world.roam(host, address);
        self.world.command(host, Command::LocalAddresses(vec![address]));
        Ok(())
    }

    fn send(&mut self, node: usize, packet: &[u8]) -> Result<()> {
        let host = self.host(node)?;
        self.world.packet(host, packet);
        Ok(())
    }

    fn delivered(&mut self, node: usize) -> Vec<Vec<u8>> {
        self.collect();
        std::mem::take(&mut self.nodes[node].delivered)
    }

    fn seen(&mut self, node: usize) -> Vec<Seen> {
        self.collect();
        let events = self.nodes[node].events.clone();
        events.into_iter().filter_map(|event| self.main_event(event)).collect()
    }

    fn pass(&mut self, time: Duration) {
        self.world.run(time);
        self.collect();
    }
}

impl Simulated {
    fn main_event(&self, event: Event) -> Option<Seen> {
        Some(match event {
            Event::Joined { .. } => Seen::Joined,
            Event::Addresses { hosts, .. } => Seen::Addresses(hosts),
            Event::PeerUp { name, .. } => Seen::PeerUp(name),
            Event::PeerDown { node, .. } => Seen::PeerDown(self.name_of(node)),
            Event::Left => Seen::Left,
            _ => return None,
        })
    }
}

/// The right time in the world.
fn wall(world: &World) -> UnixTime {
    WALL_START.plus_secs(world.now().as_micros() / 1_000_000)
}

const DAY: u64 = 86_400;

/// One node's clock is set wrong in both directions while all certificates stay valid by it; packets flow throughout, and it is told when its
/// clock lies behind what others have signed.
pub(crate) fn clock_steps() -> Result<()> {
    let mut simulated = Simulated::new(7)?;
    ring::run(&mut simulated)?;
    let victim = simulated.host(1)?;
    let right = wall(&simulated.world).0;
    for (wrong, what) in [
        (right - 30 * DAY, "a month behind"),
        (right + 3 * 3600, "three hours ahead"),
        (right, "right again"),
        (0, "at 1970"),
        (right, "right again"),
    ] {
        let earlier = simulated.nodes[1].events.len();
        simulated.world.command(victim, Command::WallClock(UnixTime(wrong)));
        simulated.pass(Duration::from_secs(120));
        let news = &simulated.nodes[1].events[earlier..];
        ensure!(!news.iter().any(|event| matches!(event, Event::PeerDown { .. })), "a clock {what} ended sessions: {news:?}");
        if wrong + DAY < right {
            ensure!(news.contains(&Event::ClockBehind(true)), "a clock {what} was not noticed: {news:?}");
        }
        ring::exchange(&mut simulated).with_context(|| format!("with a clock {what}"))?;
    }
    Ok(())
}
