//! Receiver indices: which are taken, which rest.

use core::num::NonZeroU8;
use core::time::Duration;
use std::collections::{BTreeSet, VecDeque};

use crate::io::RealmSlot;
use crate::rng::Rng;
use crate::time::Instant;

/// Entries below this one are for handshakes: a flood of them never takes an index from a session. Three times as many as there can be.
///
/// Entry 0 is never given out: an index of 0 means "none".
pub(super) const HANDSHAKE_ENTRIES: u32 = 1 << 15;
/// Entries of one realm: 20 bits. Those from [`HANDSHAKE_ENTRIES`] on are for sessions.
pub(super) const ENTRIES: u32 = 1 << 20;
/// How long the index of a session rests: late packets of the old one then meet nobody instead of somebody else.
pub(super) const REST: Duration = Duration::from_secs(300);
/// Indices that rest at most: half of the block, so that a free one is found at the second try. Beyond it the one that rested longest is free early.
pub(super) const MAX_RESTING: usize = 1 << 19;

/// Gives out the indices of one realm.
#[derive(Debug)]
pub(super) struct Indices {
    realm: u32,
    workers: u32,
    /// The worker whose turn it is.
    turn: u32,
    rng: Rng,
    /// In use or resting.
    taken: BTreeSet<u32>,
    resting: VecDeque<(Instant, u32)>,
}

impl Indices {
    pub(super) fn new(realm: RealmSlot, workers: NonZeroU8, mut rng: Rng) -> Self {
        let workers = u32::from(workers.get());
        // Not all realms and restarts begin with the worker that has the control plane to serve as well.
        let turn = if workers > 1 { rng.below(u64::from(workers)) as u32 } else { 0 };
        Self { realm: u32::from(realm.0 & 0x0f) << 20, workers, turn, rng, taken: BTreeSet::new(), resting: VecDeque::new() }
    }

    /// A random free index for a session: on the worker of the session `like`, or on each worker in turn. So a flow stays on its thread when keys change.
    /// The caller bounds the number of sessions far below that of entries.
    pub(super) fn session(&mut self, like: Option<u32>) -> u32 {
        let worker = like.map_or(self.turn, |like| like % self.workers);
        if like.is_none() {
            self.turn = (self.turn + 1) % self.workers;
        }
        loop {
            let entry = HANDSHAKE_ENTRIES + self.rng.below(u64::from(ENTRIES - HANDSHAKE_ENTRIES)) as u32;
            let drawn = self.realm | entry;
            let index = drawn - drawn % self.workers + worker;
            let within = (self.realm | HANDSHAKE_ENTRIES..self.realm + ENTRIES).contains(&index);
            if within && self.taken.insert(index) {
                return index;
            }
        }
    }

    /// A random free index for a handshake. The caller bounds the number of handshakes to a third of the block.
    pub(super) fn handshake(&mut self) -> u32 {
        loop {
            let index = self.realm | (1 + self.rng.below(u64::from(HANDSHAKE_ENTRIES - 1)) as u32);
            if self.taken.insert(index) {
                return index;
            }
        }
    }

    /// Frees an index at once: nobody was ever told of it, or it is a handshake's.
    pub(super) fn free(&mut self, index: u32) {
        self.taken.remove(&index);
    }

    /// Frees the index of a session after its [`REST`].
    pub(super) fn rest(&mut self, index: u32, now: Instant) {
        if self.resting.len() >= MAX_RESTING
            && let Some((_, oldest)) = self.resting.pop_front()
        {
            self.taken.remove(&oldest);
        }
        self.resting.push_back((now + REST, index));
    }

    /// Frees what rested long enough.
    pub(super) fn expire(&mut self, now: Instant) {
        while let Some(&(until, index)) = self.resting.front()
            && until <= now
        {
            self.resting.pop_front();
            self.taken.remove(&index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn indices(workers: u8) -> Indices {
        Indices::new(RealmSlot(5), NonZeroU8::new(workers).unwrap(), Rng::new([1; 32]))
    }

    #[test]
    fn sessions_are_spread_over_the_workers_within_their_realm_and_block() {
        for workers in [1, 3, 4, 7] {
            let mut indices = indices(workers);
            let mut counts = vec![0; usize::from(workers)];
            for _ in 0..700 {
                let index = indices.session(None);
                assert_eq!(index >> 20, 5);
                assert!(index & (ENTRIES - 1) >= HANDSHAKE_ENTRIES);
                counts[(index % u32::from(workers)) as usize] += 1;
            }
            assert!(counts.iter().all(|&count| count - 700 / i32::from(workers) <= 1), "{counts:?}");
        }
    }

    #[test]
    fn a_successor_stays_on_the_worker_of_its_session_and_takes_nobodys_turn() {
        for workers in [1, 2, 3, 16] {
            let mut indices = indices(workers);
            let first = indices.session(None);
            let mut last = first;
            for _ in 0..100 {
                let next = indices.session(Some(last));
                assert!(next != last && next % u32::from(workers) == last % u32::from(workers));
                last = next;
            }
            assert_eq!(indices.session(None) % u32::from(workers), (first + 1) % u32::from(workers));
        }
    }

    #[test]
    fn handshakes_stay_within_their_own_block() {
        let mut indices = indices(2);
        for _ in 0..5000 {
            let index = indices.handshake();
            assert!(index >> 20 == 5 && (1..HANDSHAKE_ENTRIES).contains(&(index & (ENTRIES - 1))));
        }
    }

    #[test]
    fn an_index_rests_300_seconds_before_reuse() {
        let mut indices = indices(1);
        let index = indices.session(None);
        indices.rest(index, Instant::from_secs(10));
        indices.expire(Instant::from_secs(309));
        assert!(indices.taken.contains(&index));
        indices.expire(Instant::from_secs(310));
        assert!(!indices.taken.contains(&index));
    }
}
