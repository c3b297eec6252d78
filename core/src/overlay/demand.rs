//! Links that traffic asks for, and that end when it has ended.

use core::time::Duration;

use super::Overlay;
use super::backoff::Backoff;
use super::links::find;
use super::rpc::{Purpose, Route};
use super::types::{Mode, Roles};
use crate::id::NodeId;
use crate::rng::Rng;
use crate::time::Instant;

/// A link without traffic for this long is let go.
const IDLE: Duration = Duration::from_secs(300);
/// Nodes that traffic may ask for at once; beyond it the one that was quiet for longest is given up.
const MAX_DEMANDS: usize = 1024;
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);

/// What traffic asks for, sorted by node ID.
#[derive(Debug, Default)]
pub(super) struct Demands {
    entries: Vec<Demand>,
    due: Option<Instant>,
}

#[derive(Debug)]
struct Demand {
    node: NodeId,
    latest: Instant,
    retry: Backoff,
    linked: bool,
}

impl Demand {
    fn next(&self) -> Instant {
        let end = self.latest + IDLE;
        if self.linked { end } else { end.min(self.retry.next()) }
    }
}

impl Demands {
    fn find(&self, node: &NodeId) -> Result<usize, usize> {
        self.entries.binary_search_by(|demand| demand.node.cmp(node))
    }

    /// The role of a new link with `node`.
    pub(super) fn role(&mut self, node: &NodeId, now: Instant) -> Roles {
        match self.find(node) {
            Ok(index) if now.saturating_since(self.entries[index].latest) < IDLE => {
                self.entries[index].linked = true;
                Roles::ON_DEMAND
            }
            _ => Roles::NONE,
        }
    }

    /// The link with `node` is gone: as long as traffic wants it, it is made anew.
    pub(super) fn lost(&mut self, node: &NodeId, rng: &mut Rng, now: Instant) {
        if let Ok(index) = self.find(node) {
            let demand = &mut self.entries[index];
            demand.linked = false;
            demand.retry.reset(rng.jitter(RETRY_FIRST / 2, 300), now);
            self.due = self.due.into_iter().chain([self.entries[index].next()]).min();
        }
    }

    pub(super) const fn next_due(&self) -> Option<Instant> {
        self.due
    }
}

impl Overlay {
    /// Traffic wants a direct link to `node`: it is made (and made anew) until the traffic has been quiet for five minutes.
    pub fn want_link(&mut self, node: NodeId, now: Instant) {
        self.traffic(node, now);
    }

    /// IP flows to or from `node`. Cheap enough to be called for every report of a shard.
    pub fn traffic(&mut self, node: NodeId, now: Instant) {
        if node == self.local || self.leaving {
            return;
        }
        match self.demands.find(&node) {
            Ok(index) => self.demands.entries[index].latest = now,
            Err(_) => {
                self.make_room_for_demand(now);
                let linked = find(&self.links, &node).is_ok();
                let retry = Backoff::new(RETRY_FIRST, RETRY_MAX, now);
                let index = self.demands.find(&node).unwrap_or_else(|index| index);
                self.demands.entries.insert(index, Demand { node, latest: now, retry, linked });
                if let Ok(link) = find(&self.links, &node) {
                    self.add_roles(link, Roles::ON_DEMAND, now);
                }
                self.demands_due(now);
            }
        }
    }

    /// Tries for links that are missing and ends those that nobody used.
    pub(super) fn demands_due(&mut self, now: Instant) {
        let fresh = self.demands.entries.iter().any(|demand| !demand.linked && demand.retry.is_due(now));
        if !fresh && self.demands.due.is_none_or(|due| due > now) {
            self.demands.due = self.demands.entries.iter().map(Demand::next).min();
            return;
        }
        let quiet: Vec<NodeId> =
            self.demands.entries.iter().filter(|demand| demand.latest + IDLE <= now).map(|demand| demand.node).collect();
        for node in quiet {
            self.end_demand(&node, now);
        }
        for index in 0..self.demands.entries.len() {
            let demand = &mut self.demands.entries[index];
            if demand.linked || !demand.retry.is_due(now) {
                continue;
            }
            demand.retry.wait(&mut self.rng, now);
            let node = demand.node;
            self.ask_for_link(node, now);
        }
        self.demands.due = self.demands.entries.iter().map(Demand::next).min();
    }

    fn ask_for_link(&mut self, node: NodeId, now: Instant) {
        if self.dials.add_roles(&node, Roles::ON_DEMAND) {
            return;
        }
        if let Some(known) = self.known.get(&node) {
            let addresses = known.hint.addresses(super::near::MAX_DIAL_ADDRESSES);
            if !addresses.is_empty() && self.start_dial(node, addresses, false, Roles::ON_DEMAND, now) {
                return;
            }
        }
        let _ = self.send_connect(node, Mode::Exact, Roles::ON_DEMAND, Route::Ring, Purpose::Connect(Roles::ON_DEMAND), now);
    }

    fn make_room_for_demand(&mut self, now: Instant) {
        if self.demands.entries.len() >= MAX_DEMANDS
            && let Some(oldest) = self.demands.entries.iter().min_by_key(|demand| (demand.latest, demand.node)).map(|demand| demand.node)
        {
            self.end_demand(&oldest, now);
        }
    }

    fn end_demand(&mut self, node: &NodeId, now: Instant) {
        if let Ok(index) = self.demands.find(node) {
            self.demands.entries.remove(index);
        }
        if let Ok(index) = find(&self.links, node) {
            self.remove_roles(index, Roles::ON_DEMAND, now);
        }
    }
}
