//! Long links that the node makes by itself: shortcuts, fingers, tables or buckets, as the geometry says.

use core::time::Duration;

use super::Overlay;
use super::backoff::Backoff;
use super::links::find;
use super::rpc::{Purpose, Route};
use super::types::{Mode, OverlayAction, Roles};
use crate::id::NodeId;
use crate::io::Candidates;
use crate::time::Instant;

const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);
/// Pause between two shortcuts that are both wanted: a node that starts must not load the ring.
const PACE: Duration = Duration::from_millis(200);
/// How often the number of shortcuts is compared with the size of the ring when nothing happens.
const REVIEW: Duration = Duration::from_secs(60);

/// State of the shortcuts.
#[derive(Debug)]
pub(super) struct Far {
    backoff: Backoff,
}

impl Far {
    pub(super) const fn new(now: Instant) -> Self {
        Self { backoff: Backoff::new(RETRY_FIRST, RETRY_MAX, now) }
    }

    pub(super) fn next_due(&self, consistent: bool) -> Option<Instant> {
        consistent.then(|| self.backoff.next())
    }

    pub(super) fn hasten(&mut self, now: Instant) {
        self.backoff.hasten(PACE, now);
    }
}

impl Overlay {
    /// Draws and asks for a shortcut where one is missing, and lets surplus ones go.
    pub(super) fn far_due(&mut self, now: Instant) {
        if !self.consistent || !self.far.backoff.is_due(now) {
            return;
        }
        self.end_surplus_far(now);
        self.adopt_far(now);
        if !self.geometry.lacks_far(&self.geometry_view()) {
            self.far.backoff.reset(self.rng.jitter(REVIEW, 300), now);
            return;
        }
        self.far.backoff.wait(&mut self.rng, now);
        if self.dials.has_room(Roles::SHORTCUT) && !self.rpc.any(|pending| pending.purpose == Purpose::Shortcut) {
            let point = self.geometry.draw_far(
                &super::View { local: self.local, joined: self.joined, links: &self.links, known: self.known.entries() },
                &mut self.rng,
            );
            let _ = self.send_connect(point, Mode::Closest, Roles::SHORTCUT, Route::Ring, Purpose::Shortcut, now);
        }
    }

    /// The node closest to a drawn point has answered: link with it, unless it is a neighbour anyway.
    pub(super) fn far_found(&mut self, node: NodeId, addresses: Candidates, now: Instant) {
        if node == self.local || !self.geometry.wants_far(&self.geometry_view(), &node) {
            return;
        }
        match find(&self.links, &node) {
            Ok(index) => {
                let link = &self.links[index];
                if !link.roles.has(Roles::NEAR) && !link.roles.has(Roles::SHORTCUT) {
                    self.add_roles(index, Roles::SHORTCUT, now);
                    self.far.backoff.reset(PACE, now);
                }
            }
            Err(_) => {
                let _ = self.start_dial(node, addresses, false, Roles::SHORTCUT, now);
            }
        }
    }

    /// A shortcut came up.
    pub(super) fn far_made(&mut self, now: Instant) {
        self.far.backoff.reset(PACE, now);
    }

    /// Keeps links that came up for something else and fill a gap.
    fn adopt_far(&mut self, now: Instant) {
        let mut spare = Vec::new();
        self.geometry.adopt_far(&self.geometry_view(), &mut spare);
        for index in spare {
            self.add_roles(index, Roles::SHORTCUT, now);
        }
    }

    fn end_surplus_far(&mut self, now: Instant) {
        let view = super::View { local: self.local, joined: self.joined, links: &self.links, known: self.known.entries() };
        let bound = self.geometry.max_incoming(&view);
        if let Some(victim) = self.geometry.surplus_far(&view, &mut self.rng) {
            self.remove_roles(victim, Roles::SHORTCUT, now);
        }
        // Far more incoming ones than chance brings are somebody's intent.
        let only_incoming = |index: &usize| self.links[*index].roles.is_none() && self.links[*index].remote_roles.has(Roles::SHORTCUT);
        let incoming: Vec<usize> = (0..self.links.len()).filter(only_incoming).collect();
        if incoming.len() > bound {
            let newest = incoming.into_iter().max_by_key(|&index| (self.links[index].since, index)).map(|index| self.links[index].peer);
            self.actions.extend(newest.map(|peer| OverlayAction::Drop { peer, reason: "too many incoming shortcuts" }));
        }
    }
}
