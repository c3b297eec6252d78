//! The passive list: nodes around us that are known. When neighbours fail, they are what the ring is repaired with.
//!
//! Linked nodes stay on the list, marked: a surplus link that ends must not take with it what others said about its node.

use core::time::Duration;

use smallvec::SmallVec;

use super::geometry::{SIDES, Shape};
use super::hint::{Hint, join_addresses};
use super::links::{Link, Placed, find};
use crate::id::{Distance, NodeId};
use crate::io::Candidates;
use crate::rng::Rng;
use crate::shard::table::PeerId;
use crate::time::Instant;

/// Nodes per side that are remembered beyond the near links: with so many, half of a large ring may fail at once and 99 % of its
/// nodes still find each other (`Static resilience`, section 2.2 of the overlay figures).
pub const PASSIVE_PER_SIDE: usize = 8;
/// An entry that no link's status confirms any more is forgotten after this time: long enough to repair, too short to spread the dead.
const ORPHAN_LIFE: Duration = Duration::from_secs(60);
/// First wait after a second failed dial; doubles with each further one.
const RETRY_FIRST: Duration = Duration::from_secs(2);
const RETRY_MAX: Duration = Duration::from_secs(300);
/// Links whose word for an entry is kept. With 4 of them entries were forgotten that a fifth link still named, and the size estimate fell
/// to a third. Beyond it hearsay is not noted, and first-hand news replace the oldest.
const MAX_REPORTERS: usize = 8;
/// Failed dials after which an entry without a reporter is forgotten at once.
const FAILURES_TO_FORGET: u8 = 3;

/// A node that is known.
#[derive(Clone, Debug)]
pub struct Known {
    /// The node.
    pub node: NodeId,
    /// Whether a link's other end is itself linked with it.
    pub first_hand: bool,
    /// Whether it is linked: then the link counts, not this entry.
    pub linked: bool,
    pub(super) hint: Hint,
    /// Whose statuses name it, the latest last; empty when those links are gone or name it no longer.
    pub(super) reporters: SmallVec<[PeerId; MAX_REPORTERS]>,
    pub(super) heard: Instant,
    pub(super) failures: u8,
    pub(super) not_before: Instant,
    pub(super) dialling: bool,
    /// The dial under way takes longer than most: others are dialled beside it.
    pub(super) slow: bool,
}

impl Known {
    /// Whether it is not linked but may be counted on: nothing speaks against it.
    #[must_use]
    pub const fn is_promising(&self) -> bool {
        !self.linked && self.failures == 0 && !self.slow
    }

    /// Whether it is not linked because that failed.
    #[must_use]
    pub const fn has_failed(&self) -> bool {
        !self.linked && self.failures > 0 && !self.dialling
    }
}

impl Placed for Known {
    fn node(&self) -> &NodeId {
        &self.node
    }
}

/// The passive list, sorted by node ID. Bounded: who is not among the nearest [`PASSIVE_PER_SIDE`] and the wanted near links of either
/// side, linked nodes counted, is forgotten.
#[derive(Debug)]
pub(super) struct KnownNodes {
    local: NodeId,
    shape: Shape,
    entries: Vec<Known>,
    per_side: usize,
}

/// One thing that was heard about a node.
#[derive(Clone, Debug)]
pub(super) struct Heard {
    pub(super) node: NodeId,
    pub(super) addresses: Candidates,
    pub(super) reporter: Option<PeerId>,
    pub(super) first_hand: bool,
}

impl KnownNodes {
    pub(super) const fn new(local: NodeId, shape: Shape, near_per_side: usize) -> Self {
        Self { local, shape, entries: Vec::new(), per_side: near_per_side + PASSIVE_PER_SIDE }
    }

    pub(super) fn entries(&self) -> &[Known] {
        &self.entries
    }

    pub(super) fn get(&self, node: &NodeId) -> Option<&Known> {
        find(&self.entries, node).ok().map(|index| &self.entries[index])
    }

    pub(super) fn get_mut(&mut self, node: &NodeId) -> Option<&mut Known> {
        find(&self.entries, node).ok().map(|index| &mut self.entries[index])
    }

    /// A link with the node is up; returns where others said that it may be reached.
    pub(super) fn link_up(&mut self, node: &NodeId) -> Option<Hint> {
        let entry = self.get_mut(node)?;
        entry.linked = true;
        (entry.dialling, entry.slow) = (false, false);
        entry.failures = 0;
        Some(entry.hint.clone())
    }

    /// The link with the node is gone. `failed`: not because nobody needed it.
    pub(super) fn link_down(&mut self, link: &Link, failed: bool, rng: &mut Rng, now: Instant) {
        if let Some(entry) = self.get_mut(&link.node) {
            entry.linked = false;
            entry.heard = now;
        } else if !link.leaving {
            let addresses = join_addresses(link.address, link.hint.addresses(4));
            self.hear(Heard { node: link.node, addresses, reporter: None, first_hand: !failed }, &[], now);
        }
        if failed && let Some(entry) = self.get_mut(&link.node) {
            // It may only be the path that died: the node is asked again, but later than those of whom nothing bad is known.
            entry.failures = 1;
            self.failed(&link.node, rng, now);
        }
    }

    /// Takes a node out: it has said good-bye.
    pub(super) fn remove(&mut self, node: &NodeId) -> Option<Known> {
        find(&self.entries, node).ok().map(|index| self.entries.remove(index))
    }

    /// Notes what was heard. First-hand news replace what was hearsay; a failed dial is not forgotten by hearing the name again.
    pub(super) fn hear(&mut self, heard: Heard, links: &[Link], now: Instant) {
        if heard.node == self.local {
            return;
        }
        match find(&self.entries, &heard.node) {
            Ok(index) => {
                let entry = &mut self.entries[index];
                entry.heard = now;
                if (heard.first_hand || !entry.first_hand) && !heard.addresses.is_empty() {
                    entry.hint = Hint::new(&heard.addresses);
                }
                entry.first_hand |= heard.first_hand;
                if let Some(reporter) = heard.reporter
                    && !entry.reporters.contains(&reporter)
                {
                    if heard.first_hand && entry.reporters.len() >= MAX_REPORTERS {
                        entry.reporters.remove(0);
                    }
                    if entry.reporters.len() < MAX_REPORTERS {
                        entry.reporters.push(reporter);
                    }
                }
            }
            Err(index) => {
                let entry = Known {
                    node: heard.node,
                    first_hand: heard.first_hand,
                    linked: find(links, &heard.node).is_ok(),
                    hint: Hint::new(&heard.addresses),
                    reporters: heard.reporter.into_iter().collect(),
                    heard: now,
                    failures: 0,
                    not_before: now,
                    dialling: false,
                    slow: false,
                };
                self.entries.insert(index, entry);
            }
        }
    }

    /// A link's status names these nodes and no others any more.
    pub(super) fn confirm(&mut self, reporter: PeerId, named: &[NodeId], now: Instant) {
        for entry in &mut self.entries {
            if entry.reporters.contains(&reporter) && !named.contains(&entry.node) {
                entry.reporters.retain(|known| *known != reporter);
                entry.heard = now;
            }
        }
    }

    /// A link is gone, and what it said stands alone.
    pub(super) fn orphan(&mut self, reporter: PeerId, now: Instant) {
        self.confirm(reporter, &[], now);
    }

    /// A dial to `node` failed.
    pub(super) fn failed(&mut self, node: &NodeId, rng: &mut Rng, now: Instant) {
        let Ok(index) = find(&self.entries, node) else { return };
        let entry = &mut self.entries[index];
        (entry.dialling, entry.slow) = (false, false);
        entry.failures = entry.failures.saturating_add(1);
        if entry.reporters.is_empty() && entry.failures >= FAILURES_TO_FORGET {
            self.entries.remove(index);
            return;
        }
        // The second try follows at once: it goes over the ring as well. From then on it is left in peace for longer and longer.
        let wait = match entry.failures {
            1 => Duration::from_millis(200),
            more => RETRY_FIRST.saturating_mul(1 << u32::from(more - 2).min(16)).min(RETRY_MAX),
        };
        entry.not_before = now + rng.jitter(wait, 300);
    }

    /// Forgets who is too far, and orphans whose time is over.
    pub(super) fn prune(&mut self, links: &[Link], now: Instant) {
        self.entries.retain(|entry| entry.dialling || !entry.reporters.is_empty() || now.saturating_since(entry.heard) < ORPHAN_LIFE);
        if self.entries.len() <= self.per_side {
            return;
        }
        let (shape, local) = (self.shape, self.local);
        let places = shape.places(self.per_side);
        let limits = SIDES.map(|side| {
            let known = shape.side(side, &self.entries, &local).filter(|entry| !entry.linked);
            let ranked = merge(shape.side(side, links, &local), known, |node| shape.distance(side, &local, node));
            rank_limit(ranked, places[side as usize])
        });
        self.entries.retain(|entry| {
            entry.dialling
                || SIDES.into_iter().zip(limits).any(|(side, limit)| {
                    places[side as usize] > 0 && limit.is_none_or(|limit| shape.distance(side, &local, &entry.node) <= limit)
                })
        });
    }

    /// When something here changes by itself: a retry or the end of an orphan.
    pub(super) fn next_change(&self, now: Instant) -> Option<Instant> {
        self.entries
            .iter()
            .filter(|entry| !entry.dialling)
            .filter_map(|entry| {
                let retry = (entry.has_failed() && entry.not_before > now).then_some(entry.not_before);
                let end = entry.reporters.is_empty().then_some(entry.heard + ORPHAN_LIFE);
                retry.into_iter().chain(end).min()
            })
            .min()
    }
}

/// The distance of the `limit`-th of the nodes ranked by distance; `None` when there are fewer.
fn rank_limit<'a>(mut ranked: impl Iterator<Item = (Distance, Option<&'a Known>)>, limit: usize) -> Option<Distance> {
    ranked.nth(limit.checked_sub(1)?).map(|(distance, _)| distance)
}

/// Merges links and known nodes, each sorted by `distance`, into one sequence; `true` marks a known one.
pub(super) fn merge<'a>(
    links: impl Iterator<Item = &'a Link>,
    known: impl Iterator<Item = &'a Known>,
    distance: impl Fn(&NodeId) -> Distance,
) -> impl Iterator<Item = (Distance, Option<&'a Known>)> {
    let mut links = links.map(|link| link.node).peekable();
    let mut known = known.peekable();
    core::iter::from_fn(move || {
        let link = links.peek().map(&distance);
        let other = known.peek().map(|known| distance(&known.node));
        match (link, other) {
            (Some(a), Some(b)) if b < a => known.next().map(|known| (b, Some(known))),
            (Some(a), _) => links.next().map(|_| (a, None)),
            (None, Some(b)) => known.next().map(|known| (b, Some(known))),
            (None, None) => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u8) -> NodeId {
        let mut id = [0; 20];
        id[0] = n;
        NodeId(id)
    }

    fn heard(n: u8, reporter: Option<u32>) -> Heard {
        Heard { node: id(n), addresses: Candidates::new(), reporter: reporter.map(PeerId), first_hand: true }
    }

    #[test]
    fn only_the_nearest_of_both_sides_are_remembered() {
        let mut known = KnownNodes::new(id(100), Shape::Ring, 4);
        for n in 0..=255 {
            known.hear(heard(n, Some(1)), &[], Instant::ZERO);
        }
        known.prune(&[], Instant::ZERO);
        let nodes: Vec<u8> = known.entries().iter().map(|entry| entry.node.0[0]).collect();
        assert_eq!(nodes, (88..=112).filter(|&n| n != 100).collect::<Vec<u8>>());
    }

    #[test]
    fn an_orphan_is_forgotten_after_its_time_and_a_confirmed_node_is_not() {
        let mut known = KnownNodes::new(id(100), Shape::Ring, 4);
        known.hear(heard(1, Some(1)), &[], Instant::ZERO);
        known.hear(heard(2, Some(1)), &[], Instant::ZERO);
        known.confirm(PeerId(1), &[id(1)], Instant::from_secs(1));
        assert_eq!(known.next_change(Instant::from_secs(1)), Some(Instant::from_secs(61)));
        known.prune(&[], Instant::from_secs(61));
        assert_eq!(known.entries().len(), 1);
        assert_eq!(known.entries()[0].node, id(1));
    }

    #[test]
    fn failed_dials_wait_longer_each_time_and_are_forgotten_without_a_reporter() {
        let mut rng = Rng::new([0; 32]);
        let mut known = KnownNodes::new(id(100), Shape::Ring, 4);
        known.hear(heard(1, Some(1)), &[], Instant::ZERO);
        let mut waits = Vec::new();
        for _ in 0..5 {
            known.failed(&id(1), &mut rng, Instant::ZERO);
            waits.push(known.get(&id(1)).expect("has a reporter").not_before.as_micros() / 1000);
        }
        assert!((140..=260).contains(&waits[0]) && (1400..=2600).contains(&waits[1]) && (11_200..=20_800).contains(&waits[4]), "{waits:?}");
        known.orphan(PeerId(1), Instant::ZERO);
        known.failed(&id(1), &mut rng, Instant::ZERO);
        assert!(known.get(&id(1)).is_none());
    }
}
