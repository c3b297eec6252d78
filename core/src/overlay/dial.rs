//! Dials under way.

use core::net::SocketAddr;
use core::time::Duration;

use super::types::{DialId, Roles};
use crate::id::NodeId;
use crate::io::Candidates;
use crate::time::Instant;

/// Dials under way at once, whatever others tell us about nodes that we should want: each costs handshakes.
pub const MAX_DIALS: usize = 16;
/// Of these, how many may be for anything but near links.
const MAX_OTHER_DIALS: usize = 10;
/// A dial without a result counts as failed after this time.
const DIAL_LIFE: Duration = Duration::from_secs(8);
/// When a dial has brought nothing after this time, the other side is asked over the ring to dial us as well: longer than most
/// handshakes last, short against the patience of a user.
const NUDGE_AFTER: Duration = Duration::from_millis(400);

/// One dial.
#[derive(Clone, Debug)]
pub(super) struct Dial {
    pub(super) id: DialId,
    pub(super) node: Option<NodeId>,
    pub(super) addresses: Candidates,
    pub(super) routed: bool,
    pub(super) roles: Roles,
    pub(super) nudge: Option<Instant>,
    pub(super) deadline: Instant,
}

/// The dials under way.
#[derive(Debug, Default)]
pub(super) struct Dials {
    next: u32,
    active: Vec<Dial>,
}

impl Dials {
    /// Whether one more for this purpose may start.
    pub(super) fn has_room(&self, roles: Roles) -> bool {
        if roles.has(Roles::NEAR) {
            return self.active.len() < MAX_DIALS;
        }
        self.active.iter().filter(|dial| !dial.roles.has(Roles::NEAR)).count() < MAX_OTHER_DIALS && self.active.len() < MAX_DIALS
    }

    /// Adds what an active dial to `node` is for; `false` when there is none.
    pub(super) fn add_roles(&mut self, node: &NodeId, roles: Roles) -> bool {
        match self.active.iter_mut().find(|dial| dial.node.as_ref() == Some(node)) {
            Some(dial) => {
                dial.roles = dial.roles.with(roles);
                true
            }
            None => false,
        }
    }

    pub(super) fn start(&mut self, node: Option<NodeId>, addresses: Candidates, routed: bool, roles: Roles, now: Instant) -> DialId {
        let id = DialId(self.next);
        self.next = self.next.wrapping_add(1);
        let nudge = node.is_some().then_some(now + NUDGE_AFTER);
        self.active.push(Dial { id, node, addresses, routed, roles, nudge, deadline: now + DIAL_LIFE });
        id
    }

    pub(super) fn take(&mut self, id: DialId) -> Option<Dial> {
        let index = self.active.iter().position(|dial| dial.id == id)?;
        Some(self.active.remove(index))
    }

    /// Takes every dial that a link with `node` at `address` fulfils; returns what they were for.
    pub(super) fn fulfil(&mut self, node: &NodeId, address: Option<SocketAddr>) -> Roles {
        let mut roles = Roles::NONE;
        self.active.retain(|dial| {
            let fulfilled = match &dial.node {
                Some(expected) => expected == node,
                None => address.is_some_and(|address| dial.addresses.contains(&address)),
            };
            if fulfilled {
                roles = roles.with(dial.roles);
            }
            !fulfilled
        });
        roles
    }

    pub(super) fn is_dialling(&self, address: SocketAddr) -> bool {
        self.active.iter().any(|dial| dial.node.is_none() && dial.addresses.contains(&address))
    }

    pub(super) fn is_dialling_node(&self, node: &NodeId) -> bool {
        self.active.iter().any(|dial| dial.node.as_ref() == Some(node))
    }

    /// Takes the dials to `node` in which its help was asked for, and says what they were for.
    pub(super) fn take_stuck(&mut self, node: &NodeId) -> Option<Roles> {
        let mut roles = None;
        self.active.retain(|dial| {
            let stuck = dial.node.as_ref() == Some(node) && dial.nudge.is_none() && !dial.routed;
            if stuck {
                roles = Some(roles.unwrap_or(Roles::NONE).with(dial.roles));
            }
            !stuck
        });
        roles
    }

    pub(super) fn bootstrapping(&self) -> bool {
        self.active.iter().any(|dial| dial.node.is_none())
    }

    /// Dials whose time is over.
    pub(super) fn take_expired(&mut self, now: Instant) -> Vec<Dial> {
        let mut expired = Vec::new();
        self.active.retain(|dial| {
            if dial.deadline <= now {
                expired.push(dial.clone());
            }
            dial.deadline > now
        });
        expired
    }

    /// Nodes that should be asked over the ring to dial us as well; each once.
    pub(super) fn take_nudges(&mut self, now: Instant) -> Vec<(NodeId, Roles)> {
        let mut nudges = Vec::new();
        for dial in &mut self.active {
            if dial.nudge.is_some_and(|at| at <= now) {
                dial.nudge = None;
                nudges.extend(dial.node.map(|node| (node, dial.roles)));
            }
        }
        nudges
    }

    /// The other side knows already that it should dial us.
    pub(super) fn calm(&mut self, node: &NodeId) {
        for dial in &mut self.active {
            if dial.node.as_ref() == Some(node) {
                dial.nudge = None;
            }
        }
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        self.active.iter().map(|dial| dial.nudge.map_or(dial.deadline, |nudge| nudge.min(dial.deadline))).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_links_keep_room_and_a_link_fulfils_every_dial_to_its_node() {
        let mut dials = Dials::default();
        let node = NodeId([1; 20]);
        let now = Instant::ZERO;
        for _ in 0..MAX_OTHER_DIALS {
            assert!(dials.has_room(Roles::ON_DEMAND));
            let _ = dials.start(Some(node), Candidates::new(), false, Roles::ON_DEMAND, now);
        }
        assert!(!dials.has_room(Roles::SHORTCUT) && dials.has_room(Roles::NEAR));
        let address = SocketAddr::from(([192, 0, 2, 1], 1));
        let _ = dials.start(None, Candidates::from_slice(&[address]), false, Roles::LEAF, now);
        assert!(dials.bootstrapping() && dials.is_dialling(address));
        assert_eq!(dials.take_nudges(now + NUDGE_AFTER).len(), MAX_OTHER_DIALS);
        assert_eq!(dials.take_nudges(now + NUDGE_AFTER), []);
        assert_eq!(dials.next_due(), Some(now + DIAL_LIFE));
        assert_eq!(dials.fulfil(&node, Some(address)), Roles::ON_DEMAND.with(Roles::LEAF));
        assert_eq!(dials.next_due(), None);
    }
}
