//! Which way each flow takes, so that a path move does not reorder it.

use core::hash::BuildHasher;

use super::table::SessionId;
use crate::time::Instant;
use crate::wire::ip::FlowKey;

/// Flows that a shard remembers unless its settings say otherwise: 96 kB. One that was forgotten counts as new and takes the newest way at once,
/// which can reorder it when that way is younger than its last packet: harmless, so a small table is enough.
pub const DEFAULT_FLOWS: u32 = 4_096;

/// Entries that one hash can lie in; the one that was used longest ago makes room.
const ENTRIES_PER_BUCKET: usize = 4;

/// A flow and the way that it takes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Flow {
    /// Hash of the flow's key; with 64 bits two flows of one table share it practically never, and then they only move together.
    tag: u64,
    /// The session on which it was sealed last.
    session: SessionId,
    /// Which of the session's ways it takes.
    pub(super) epoch: u32,
    /// When its last packet was sealed; `None` only in an entry that was never used.
    last: Option<Instant>,
}

/// A table of fixed size with replacement. Holds no memory until [`FlowTable::reserve`].
#[derive(Debug)]
pub(super) struct FlowTable {
    hasher: foldhash::fast::FixedState,
    buckets: Vec<[Flow; ENTRIES_PER_BUCKET]>,
}

impl FlowTable {
    pub(super) const fn new(seed: u64) -> Self {
        Self { hasher: foldhash::fast::FixedState::with_seed(seed), buckets: Vec::new() }
    }

    /// Allocates room for at least `flows` flows, once.
    pub(super) fn reserve(&mut self, flows: u32) {
        if self.buckets.is_empty() {
            let buckets = (flows as usize).div_ceil(ENTRIES_PER_BUCKET).next_power_of_two();
            self.buckets = vec![[Flow::default(); ENTRIES_PER_BUCKET]; buckets];
        }
    }

    /// The entry of a flow on `session`, and how long ago its last packet was; `None` there when the flow is new, and then its epoch is 0.
    /// The entry counts as used at `now`. `None` before [`FlowTable::reserve`].
    #[inline]
    pub(super) fn touch(&mut self, key: &FlowKey, session: SessionId, now: Instant) -> Option<(&mut Flow, Option<core::time::Duration>)> {
        let tag = self.hasher.hash_one(key);
        let bucket = tag as usize & self.buckets.len().checked_sub(1)?;
        let bucket = &mut self.buckets[bucket];
        let found = bucket.iter().position(|flow| flow.tag == tag && flow.session == session && flow.last.is_some());
        let index = found.unwrap_or_else(|| oldest(bucket));
        let flow = &mut bucket[index];
        let gap = found.and(flow.last).map(|last| now.saturating_since(last));
        *flow = Flow { tag, session, epoch: if gap.is_some() { flow.epoch } else { 0 }, last: Some(now) };
        Some((flow, gap))
    }
}

fn oldest(bucket: &[Flow; ENTRIES_PER_BUCKET]) -> usize {
    let mut victim = 0;
    for (index, flow) in bucket.iter().enumerate() {
        if flow.last < bucket[victim].last {
            victim = index;
        }
    }
    victim
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::IpAddr;

    fn key(port: u16) -> FlowKey {
        FlowKey { source: IpAddr::from([10, 0, 0, 1]), destination: IpAddr::from([10, 0, 0, 2]), protocol: 6, ports: (port, 80) }
    }

    #[test]
    fn a_flow_keeps_its_entry_until_others_replace_it() {
        let mut table = FlowTable::new(7);
        assert!(table.touch(&key(1), SessionId(1), Instant::ZERO).is_none());
        table.reserve(64);
        let (flow, gap) = table.touch(&key(1), SessionId(1), Instant::from_secs(1)).expect("reserved");
        assert_eq!(gap, None);
        flow.epoch = 5;
        let (flow, gap) = table.touch(&key(1), SessionId(1), Instant::from_secs(3)).expect("reserved");
        assert_eq!((flow.epoch, gap), (5, Some(core::time::Duration::from_secs(2))));
        // Another session, though the key is the same: a new flow.
        let (flow, gap) = table.touch(&key(1), SessionId(2), Instant::from_secs(3)).expect("reserved");
        assert_eq!((flow.epoch, gap), (0, None));
        for port in 1_000..3_000 {
            table.touch(&key(port), SessionId(1), Instant::from_secs(4));
        }
        assert_eq!(table.buckets.len(), 16);
        let (_, gap) = table.touch(&key(1), SessionId(1), Instant::from_secs(5)).expect("reserved");
        assert_eq!(gap, None);
    }
}
