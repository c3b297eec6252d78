//! First contact, and the search for other rings of the realm: both dial addresses that may lead to nodes we are not in a ring with.

use core::net::SocketAddr;
use core::time::Duration;

use super::Overlay;
use super::backoff::Backoff;
use super::dial::Dials;
use super::hint::{Hint, join_addresses};
use super::links::Link;
use super::types::{OverlayAction, Roles};
use crate::id::NodeId;
use crate::io::Candidates;
use crate::rng::Rng;
use crate::time::Instant;

/// Bootstrap addresses that are kept; further ones are ignored. As many as a daemon stores.
pub const MAX_BOOTSTRAP: usize = 64;
/// Addresses that are dialled at once.
const AT_ONCE: usize = 4;
/// Lost or far nodes that are remembered: through any of them two parts of a torn ring meet again.
const MAX_REMEMBERED: usize = 8;
/// Waits while no link or no place is there.
const SEARCH_FIRST: Duration = Duration::from_secs(1);
const SEARCH_MAX: Duration = Duration::from_secs(60);
/// Waits between checks for other rings while all is well. The first comes early: after a disturbance a torn ring is likely.
const CHECK_FIRST: Duration = Duration::from_secs(20);
const CHECK_MAX: Duration = Duration::from_secs(1800);

/// State of first contact and checks.
#[derive(Debug)]
pub(super) struct Bootstrap {
    addresses: Vec<SocketAddr>,
    /// Nodes whose links were lost, oldest first.
    remembered: Vec<(NodeId, Hint)>,
    /// Addresses before it were dialled in this round.
    cursor: usize,
    /// Whether a whole round has brought nothing since the last link was lost.
    exhausted: bool,
    retry: Backoff,
    checks: u32,
}

impl Bootstrap {
    pub(super) fn new(addresses: Vec<SocketAddr>, now: Instant) -> Self {
        let mut new = Self {
            addresses: Vec::new(),
            remembered: Vec::new(),
            cursor: 0,
            exhausted: false,
            retry: Backoff::new(SEARCH_FIRST, SEARCH_MAX, now),
            checks: 0,
        };
        let _ = new.add(&addresses, now);
        new
    }

    /// Takes further addresses; whether there were any.
    pub(super) fn add(&mut self, addresses: &[SocketAddr], now: Instant) -> bool {
        let before = self.addresses.len();
        for address in addresses {
            if self.addresses.len() < MAX_BOOTSTRAP && !self.addresses.contains(address) {
                self.addresses.push(*address);
            }
        }
        let any = self.addresses.len() > before;
        if any {
            self.retry.hasten(Duration::ZERO, now);
        }
        any
    }

    pub(super) const fn next_due(&self) -> Option<Instant> {
        // The first round is due even where there is nobody to ask: it finds out that the node is alone, which is a valid ring.
        let idle = self.exhausted && self.addresses.is_empty() && self.remembered.is_empty() && self.checks == 0;
        if idle { None } else { Some(self.retry.next()) }
    }

    /// Whether every address was dialled in this round and nobody answered.
    pub(super) fn is_exhausted(&self, dials: &Dials) -> bool {
        self.exhausted || self.cursor >= self.addresses.len() && !dials.bootstrapping()
    }

    /// A neighbour was lost: with it a whole part of the ring may be out of sight.
    pub(super) fn hasten(&mut self, now: Instant) {
        self.retry.hasten(CHECK_FIRST, now);
    }

    /// All links were lost: everything is tried again.
    pub(super) fn start_over(&mut self, now: Instant) {
        self.cursor = 0;
        self.exhausted = false;
        self.retry = Backoff::new(SEARCH_FIRST, SEARCH_MAX, now);
    }

    pub(super) fn consistency_changed(&mut self, consistent: bool, rng: &mut Rng, now: Instant) {
        if consistent {
            self.checks = 1;
            self.retry = Backoff::new(CHECK_FIRST, CHECK_MAX, now);
            self.retry.wait(rng, now);
        } else {
            self.retry = Backoff::new(SEARCH_FIRST, SEARCH_MAX, now);
            self.retry.reset(rng.jitter(3 * SEARCH_FIRST, 300), now);
        }
    }

    /// Remembers a lost node.
    pub(super) fn remember(&mut self, link: &Link) {
        let addresses = join_addresses(link.address, link.hint.addresses(3));
        if addresses.is_empty() {
            return;
        }
        self.forget(&link.node);
        if self.remembered.len() >= MAX_REMEMBERED {
            self.remembered.remove(0);
        }
        self.remembered.push((link.node, Hint::new(&addresses)));
    }

    /// A node said good-bye, or is linked again.
    pub(super) fn forget(&mut self, node: &NodeId) {
        self.remembered.retain(|(remembered, _)| remembered != node);
    }

    /// Puts the addresses into another order, so that not every node begins with the same seed.
    fn shuffle(&mut self, rng: &mut Rng) {
        for last in (1..self.addresses.len()).rev() {
            self.addresses.swap(last, rng.below(last as u64 + 1) as usize);
        }
    }
}

impl Overlay {
    /// Dials bootstrap addresses where contact is missing; checks for other rings where it is not.
    pub(super) fn bootstrap_due(&mut self, now: Instant) {
        if self.bootstrap.next_due().is_none() || !self.bootstrap.retry.is_due(now) {
            return;
        }
        self.bootstrap.retry.wait(&mut self.rng, now);
        if self.consistent && !self.links.is_empty() {
            self.check_for_other_rings(now);
            return;
        }
        if self.bootstrap.cursor >= self.bootstrap.addresses.len() && !self.dials.bootstrapping() {
            self.bootstrap.exhausted = true;
            self.bootstrap.cursor = 0;
        }
        if self.bootstrap.cursor == 0 {
            self.bootstrap.shuffle(&mut self.rng);
        }
        self.dial_next_addresses(AT_ONCE, now);
        if self.links.is_empty() {
            self.dial_remembered(now);
        }
    }

    /// A bootstrap address did not answer: while nobody else has, the next one is tried at once.
    pub(super) fn bootstrap_failed(&mut self, now: Instant) {
        if self.links.is_empty() {
            self.dial_next_addresses(1, now);
        }
    }

    fn dial_next_addresses(&mut self, count: usize, now: Instant) {
        let mut started = 0;
        while started < count && self.bootstrap.cursor < self.bootstrap.addresses.len() {
            let address = self.bootstrap.addresses[self.bootstrap.cursor];
            if !self.dials.has_room(Roles::LEAF) {
                return;
            }
            self.bootstrap.cursor += 1;
            if self.dial_address(address, now) {
                started += 1;
            }
        }
    }

    fn dial_address(&mut self, address: SocketAddr, now: Instant) -> bool {
        let linked = self.links.iter().any(|link| link.address == Some(address));
        if linked || self.candidates.contains(&address) || self.dials.is_dialling(address) {
            return false;
        }
        let dial = self.dials.start(None, Candidates::from_slice(&[address]), false, Roles::LEAF, now);
        self.actions.push_back(OverlayAction::Dial {
            dial,
            node: None,
            addresses: Candidates::from_slice(&[address]),
            routed: false,
            roles: Roles::LEAF,
        });
        true
    }

    fn dial_remembered(&mut self, now: Instant) -> bool {
        let Some((node, hint)) = self.bootstrap.remembered.first().cloned() else { return false };
        // Round and round: whoever answers is linked and forgotten here.
        self.bootstrap.remembered.rotate_left(1);
        self.start_dial(node, hint.addresses(4), false, Roles::LEAF, now)
    }

    /// Contacts somebody outside of our sight, or asks a far node who stands around us: if a ring other than ours answers, both merge.
    fn check_for_other_rings(&mut self, now: Instant) {
        self.bootstrap.checks = self.bootstrap.checks.wrapping_add(1).max(1);
        let dialled = match self.bootstrap.checks % 3 {
            0 => self.dial_remembered(now),
            1 if !self.bootstrap.addresses.is_empty() => {
                let choice = self.rng.below(self.bootstrap.addresses.len() as u64) as usize;
                self.dial_address(self.bootstrap.addresses[choice], now)
            }
            _ => false,
        };
        if !dialled && let Some(peer) = self.random_link() {
            self.ask_for_place(peer, now);
        }
    }
}
