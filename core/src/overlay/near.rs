//! Near links: repair from the passive list, the test of consistency, and the end of links that nobody needs.

use core::time::Duration;

use super::Overlay;
use super::backoff::Backoff;
use super::links::{Link, find};
use super::rpc::{Purpose, Route};
use super::types::{OverlayAction, Roles};
use crate::id::NodeId;
use crate::rng::Rng;
use crate::shard::table::PeerId;
use crate::time::Instant;

/// A link that neither end keeps for anything stays this long: roles change often while a ring forms.
const IDLE_GRACE: Duration = Duration::from_secs(15);
/// Leaf links end when the position has been consistent for this long.
const STABLE_AFTER: Duration = Duration::from_secs(10);
/// First wait between connect requests to the own position.
const JOIN_FIRST: Duration = Duration::from_millis(500);
const JOIN_MAX: Duration = Duration::from_secs(30);
/// A close that was asked for and did not come is asked for again after this time (the session may be in use by the VPN).
const DROP_AGAIN: Duration = Duration::from_secs(60);

/// State of the near links.
#[derive(Debug)]
pub(super) struct Near {
    /// The near neighbours as they were last told to others.
    neighbours: Vec<NodeId>,
    /// When something changes by itself: retry of a dial, end of an orphan, end of an idle link.
    due: Option<Instant>,
    join: Backoff,
    consistent_since: Option<Instant>,
    scratch: Vec<usize>,
    wanted: Vec<NodeId>,
}

impl Near {
    pub(super) const fn new(now: Instant) -> Self {
        Self {
            neighbours: Vec::new(),
            due: None,
            join: Backoff::new(JOIN_FIRST, JOIN_MAX, now),
            consistent_since: None,
            scratch: Vec::new(),
            wanted: Vec::new(),
        }
    }

    pub(super) fn next_due(&self, consistent: bool, alone: bool) -> Option<Instant> {
        let join = (!consistent && !alone).then(|| self.join.next());
        self.due.into_iter().chain(join).min()
    }

    /// Whether the position has been consistent for long enough to let bootstrap links go.
    pub(super) fn is_stable(&self, now: Instant) -> bool {
        self.consistent_since.is_some_and(|since| now.saturating_since(since) >= STABLE_AFTER)
    }
}

impl Overlay {
    /// Brings roles, dials, consistency and idle links in line with what is known now. Called after every input.
    pub(super) fn settle(&mut self, now: Instant) {
        if self.leaving {
            return;
        }
        self.known.prune(&self.links, now);
        self.refresh_near(now);
        self.dial_wanted(now);
        self.refresh_consistency(now);
        let idle = self.end_surplus(now);
        let changes = self.known.next_change(now);
        let stable = self.near.consistent_since.map(|since| since + STABLE_AFTER);
        let leaf = self.links.iter().any(|link| link.roles.has(Roles::LEAF));
        let stable = stable.filter(|&at| leaf && at > now);
        self.near.due = idle.into_iter().chain(changes).chain(stable).min();
    }

    /// What a new link brings: a status for it, and for a bootstrap link the question who stands around us.
    pub(super) fn link_is_new(&mut self, peer: PeerId, now: Instant) {
        if self.joined && self.links.len() == 1 {
            // We were alone. From now on a place must be proven.
            self.joined = false;
        }
        self.settle(now);
        let Some(index) = self.link_index(peer) else { return };
        self.send_status(index, now);
        let leaf = self.links[index].roles.has(Roles::LEAF);
        if leaf || !self.joined && !self.rpc.any(|pending| pending.purpose == Purpose::Join) {
            self.ask_for_place(peer, now);
        }
    }

    /// What a lost link leaves behind.
    pub(super) fn link_is_gone(&mut self, link: Link, now: Instant) {
        if link.joined && link.direct && !link.leaving {
            self.bootstrap.remember(&link);
        }
        if link.roles.has(Roles::SHORTCUT) {
            self.far.hasten(now);
        }
        if link.roles.has(Roles::NEAR) {
            self.near.join.hasten(JOIN_FIRST, now);
            self.bootstrap.hasten(now);
        }
        let failed = link.roles.has(Roles::NEAR) && !link.leaving && !link.dropping;
        self.known.link_down(&link, failed, &mut self.rng, now);
        self.demands.lost(&link.node, &mut self.rng, now);
        if self.links.is_empty() {
            self.bootstrap.start_over(now);
        }
    }

    /// Asks through `peer` who stands around the own ID: both answer, and dial.
    pub(super) fn ask_for_place(&mut self, peer: PeerId, now: Instant) {
        self.near.join.wait(&mut self.rng, now);
        let _ = self.send_connect(self.local, super::Mode::Bracket, Roles::NEAR, Route::Through(peer), Purpose::Join, now);
    }

    /// Repeats the question as long as the position is not consistent.
    pub(super) fn join_due(&mut self, now: Instant) {
        if self.consistent || self.links.is_empty() || !self.near.join.is_due(now) {
            return;
        }
        match self.random_link() {
            Some(peer) => self.ask_for_place(peer, now),
            None => self.near.join.wait(&mut self.rng, now),
        }
    }

    /// A link whose other end probably sees more of the ring than our neighbours do: a bootstrap link, a long link, else any.
    pub(super) fn random_link(&mut self) -> Option<PeerId> {
        let pick = |links: &[Link], rng: &mut Rng, test: &dyn Fn(&Link) -> bool| {
            let count = links.iter().filter(|link| !link.leaving && test(link)).count();
            let index = rng.below(count as u64) as usize;
            links.iter().filter(|link| !link.leaving && test(link)).nth(index).map(|link| link.peer)
        };
        let far = |link: &Link| link.joined && !link.roles.has(Roles::NEAR);
        pick(&self.links, &mut self.rng, &far).or_else(|| pick(&self.links, &mut self.rng, &|_| true))
    }

    pub(super) fn add_roles(&mut self, index: usize, roles: Roles, now: Instant) {
        let link = &mut self.links[index];
        let with = link.roles.with(roles);
        if with != link.roles {
            link.roles = with;
            self.want_status(index, super::gossip::ROLE_DELAY, now);
        }
    }

    pub(super) fn remove_roles(&mut self, index: usize, roles: Roles, now: Instant) {
        let link = &mut self.links[index];
        let without = link.roles.without(roles);
        if without != link.roles {
            link.roles = without;
            self.want_status(index, super::gossip::ROLE_DELAY, now);
        }
    }

    pub(super) fn set_consistent(&mut self, consistent: bool) {
        if self.consistent != consistent {
            self.consistent = consistent;
            self.actions.push_back(OverlayAction::ConsistencyChanged(consistent));
        }
    }

    fn refresh_near(&mut self, now: Instant) {
        let mut near = core::mem::take(&mut self.near.scratch);
        near.clear();
        self.geometry.near(&self.geometry_view(), &mut near);
        for index in 0..self.links.len() {
            if near.contains(&index) {
                self.add_roles(index, Roles::NEAR, now);
            } else {
                self.remove_roles(index, Roles::NEAR, now);
            }
        }
        let same = near.len() == self.near.neighbours.len()
            && near.iter().zip(&self.near.neighbours).all(|(&index, node)| self.links[index].node == *node);
        if !same {
            self.near.neighbours.clear();
            self.near.neighbours.extend(near.iter().map(|&index| self.links[index].node));
            self.actions.push_back(OverlayAction::NeighboursChanged);
            self.neighbours_changed(now);
        }
        self.near.scratch = near;
    }

    fn dial_wanted(&mut self, now: Instant) {
        if self.known.entries().is_empty() {
            return;
        }
        let mut wanted = core::mem::take(&mut self.near.wanted);
        wanted.clear();
        self.geometry.wanted_near(&self.geometry_view(), &mut wanted);
        for node in &wanted {
            let Some(known) = self.known.get(node) else { continue };
            if known.dialling || known.not_before > now {
                continue;
            }
            let (addresses, failures) = (known.hint.addresses(MAX_DIAL_ADDRESSES), known.failures);
            // The first try is direct; then the ring carries a handshake as well, which finds nodes behind NATs.
            let routed = failures > 0 || addresses.is_empty();
            if self.start_dial(*node, addresses, routed, Roles::NEAR, now)
                && let Some(known) = self.known.get_mut(node)
            {
                known.dialling = true;
            }
        }
        self.near.wanted = wanted;
    }

    fn refresh_consistency(&mut self, now: Instant) {
        let live = self.links.iter().any(|link| !link.leaving);
        let consistent = if live { self.geometry.is_consistent(&self.geometry_view()) } else { self.bootstrap.is_exhausted(&self.dials) };
        if consistent && !self.joined {
            self.joined = true;
            for index in 0..self.links.len() {
                self.want_status(index, super::gossip::NEAR_DELAY, now);
            }
        }
        if consistent != self.consistent {
            self.near.consistent_since = consistent.then_some(now);
            self.bootstrap.consistency_changed(consistent, &mut self.rng, now);
            if consistent {
                self.far.hasten(now);
            } else {
                self.near.join.hasten(JOIN_FIRST, now);
            }
            self.set_consistent(consistent);
        }
    }

    /// Lets roles and links go that are not needed; returns when the next one ends.
    fn end_surplus(&mut self, now: Instant) -> Option<Instant> {
        let stable = self.near.is_stable(now);
        let mut next: Option<Instant> = None;
        for index in 0..self.links.len() {
            if stable && self.links[index].roles.has(Roles::LEAF) {
                self.remove_roles(index, Roles::LEAF, now);
            }
            let link = &mut self.links[index];
            if !link.leaving && (!link.roles.is_none() || !link.remote_roles.is_none()) {
                link.idle_since = None;
                link.dropping = false;
                continue;
            }
            let since = *link.idle_since.get_or_insert(now);
            let end = since + if link.dropping { DROP_AGAIN } else { IDLE_GRACE };
            if end <= now {
                link.dropping = true;
                link.idle_since = Some(now);
                let peer = link.peer;
                self.actions.push_back(OverlayAction::Drop { peer, reason: "neither side needs the link" });
                next = next.into_iter().chain([now + DROP_AGAIN]).min();
            } else {
                next = next.into_iter().chain([end]).min();
            }
        }
        next
    }

    /// Whether `node` would be a neighbour if it were linked.
    pub(super) fn would_be_near(&self, node: &NodeId) -> bool {
        if find(&self.links, node).is_ok() {
            return false;
        }
        let mut wanted = Vec::new();
        self.geometry.wanted_near(&self.geometry_view(), &mut wanted);
        wanted.contains(node)
    }
}

/// Addresses of one node that a dial tries at once.
pub(super) const MAX_DIAL_ADDRESSES: usize = 6;
