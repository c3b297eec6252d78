//! Shortcuts: long links that the node makes by itself at harmonically distributed distances.

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
        let view = self.geometry_view();
        let wanted = self.geometry.wanted_far(&view);
        let own = self.links.iter().filter(|link| link.roles.has(Roles::SHORTCUT)).count();
        if own >= wanted {
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
        if node == self.local {
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

    fn end_surplus_far(&mut self, now: Instant) {
        let bounds = self.geometry.far_bounds(&self.geometry_view());
        let own: Vec<usize> = (0..self.links.len()).filter(|&index| self.links[index].roles.has(Roles::SHORTCUT)).collect();
        if own.len() > bounds.own {
            let victim = own[self.rng.below(own.len() as u64) as usize];
            self.remove_roles(victim, Roles::SHORTCUT, now);
        }
        // Chance brings about as many incoming shortcuts as are wanted; far more of them are somebody's intent.
        let only_incoming = |index: &usize| self.links[*index].roles.is_none() && self.links[*index].remote_roles.has(Roles::SHORTCUT);
        let incoming: Vec<usize> = (0..self.links.len()).filter(only_incoming).collect();
        if incoming.len() > bounds.incoming {
            let newest = incoming.into_iter().max_by_key(|&index| (self.links[index].since, index)).map(|index| self.links[index].peer);
            self.actions.extend(newest.map(|peer| OverlayAction::Drop { peer, reason: "too many incoming shortcuts" }));
        }
    }
}
