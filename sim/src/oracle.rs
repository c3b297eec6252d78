//! What must be true of a ring, seen from outside.

use annulus_core::id::NodeId;
use annulus_core::overlay::geometry::{self, Shape};
use std::collections::BTreeMap;

use crate::world::{HostId, World};

/// How a ring stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingState {
    /// Living nodes.
    pub nodes: usize,
    /// Nodes whose nearest neighbours on both sides are the true ones.
    pub correct: usize,
    /// Nodes that say of themselves that their position is consistent.
    pub joined: usize,
}

impl RingState {
    /// Whether every node is right about its neighbours, and knows it.
    #[must_use]
    pub const fn is_correct(&self) -> bool {
        self.correct == self.nodes && self.joined == self.nodes
    }
}

/// Living nodes in the order of the ring.
#[must_use]
pub fn living(world: &World) -> BTreeMap<NodeId, HostId> {
    world.hosts().iter().enumerate().filter(|(_, host)| host.alive).map(|(id, host)| (host.node().node_id(), id as HostId)).collect()
}

/// Compares what each node believes with the sorted list of all: both neighbours on a ring, in a tree the closest node.
#[must_use]
pub fn ring(world: &World) -> RingState {
    let living = living(world);
    let order: Vec<NodeId> = living.keys().copied().collect();
    let mut state = RingState { nodes: order.len(), ..RingState::default() };
    for (place, id) in order.iter().enumerate() {
        let node = world.hosts()[living[id] as usize].node();
        let (successor, predecessor) = node.ring_neighbours();
        let right = match geometry::of(node.geometry()).shape() {
            Shape::Tree => successor.as_ref() == order.iter().filter(|other| *other != id).min_by_key(|other| id.xor(other)),
            Shape::Ring if order.len() == 1 => successor.is_none() && predecessor.is_none(),
            Shape::Ring => {
                successor == Some(order[(place + 1) % order.len()]) && predecessor == Some(order[(place + order.len() - 1) % order.len()])
            }
        };
        state.correct += usize::from(right);
        state.joined += usize::from(node.is_joined());
    }
    state
}

/// Whether and in how many hops nodes reach each other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// Ordered pairs walked.
    pub pairs: u64,
    /// Of these, how many arrived.
    pub reached: u64,
    /// How many arrived after each number of hops.
    pub hops: Vec<u64>,
}

impl Reach {
    /// Mean hops of those that arrived.
    #[must_use]
    pub fn mean(&self) -> f64 {
        let total: u64 = self.hops.iter().zip(0..).map(|(count, hops)| count * hops).sum();
        total as f64 / self.reached.max(1) as f64
    }

    /// Hops that so many ‰ of those that arrived need at most.
    #[must_use]
    pub fn percentile(&self, permille: u64) -> u64 {
        let mut seen = 0;
        let within = |count: &u64| {
            seen += count;
            1000 * seen >= permille * self.reached
        };
        self.hops.iter().position(within).unwrap_or(0) as u64
    }

    /// Most hops of one.
    #[must_use]
    pub const fn max(&self) -> u64 {
        self.hops.len().saturating_sub(1) as u64
    }
}

/// Walks from every node to every other by asking each on the way for its next hop; no message is sent, so the ring stands still meanwhile.
#[must_use]
pub fn reach(world: &World) -> Reach {
    let living = living(world);
    let mut reach = Reach::default();
    for from in living.keys() {
        for to in living.keys().filter(|to| *to != from) {
            reach.pairs += 1;
            if let Some(hops) = walk(world, &living, from, to) {
                reach.reached += 1;
                reach.hops.resize(reach.hops.len().max(hops as usize + 1), 0);
                reach.hops[hops as usize] += 1;
            }
        }
    }
    reach
}

fn walk(world: &World, living: &BTreeMap<NodeId, HostId>, from: &NodeId, to: &NodeId) -> Option<u64> {
    let mut at = *from;
    for hops in 1..=living.len() as u64 {
        at = world.hosts()[*living.get(&at)? as usize].node().next_hop(to)?;
        if at == *to {
            return Some(hops);
        }
    }
    None
}
