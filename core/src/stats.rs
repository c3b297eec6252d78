//! Counters: what was dropped and why, what was carried.

use crate::io::{DropReason, Punt};

/// Counters of one node or one shard. Plain numbers; the driver reads them whenever it likes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    drops: [u64; DropReason::ALL.len()],
    punts: [u64; Punt::COUNT],
    /// Inner packets sealed.
    pub sealed: u64,
    /// Inner packets opened and delivered.
    pub opened: u64,
    /// Datagrams relayed for others.
    pub relayed: u64,
}

impl Stats {
    /// Counts one drop.
    pub fn dropped(&mut self, reason: DropReason) {
        self.drops[reason as usize] += 1;
    }

    /// Counts one punt.
    pub fn punted(&mut self, why: Punt) {
        self.punts[why as usize] += 1;
    }

    /// How many were dropped for `reason`.
    #[must_use]
    pub fn drops(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize]
    }

    /// How many were punted for `why`.
    #[must_use]
    pub fn punts(&self, why: Punt) -> u64 {
        self.punts[why as usize]
    }

    /// Adds another set of counters, for totals.
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.drops.iter_mut().zip(&other.drops) {
            *mine += theirs;
        }
        for (mine, theirs) in self.punts.iter_mut().zip(&other.punts) {
            *mine += theirs;
        }
        self.sealed += other.sealed;
        self.opened += other.opened;
        self.relayed += other.relayed;
    }
}
