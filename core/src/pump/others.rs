//! The further workers as a realm's control plane sees them: what is on its way to them, and what they have said.

use core::num::NonZeroU8;
use core::time::Duration;
use std::collections::VecDeque;

use super::Driver;
use crate::io::{RealmSlot, ShardId};
use crate::node::Node;
use crate::shard::table::TableUpdate;
use crate::stats::Stats;
use crate::worker::Parcel;

/// How long a control plane that waits for room in a worker's ring sleeps before it tries again: a worker empties its ring in each turn, so longer than this
/// means that it is busy with packets, and those go first.
pub const PUBLISH_RETRY: Duration = Duration::from_millis(1);

/// What a realm keeps about the workers 1 and up. Empty, and without heap, where there is one worker only.
#[derive(Debug, Default)]
pub(super) struct Others {
    /// Number of further workers.
    count: u8,
    /// What found a ring full, in order. While there is anything, the node is not asked for more: so it holds what one output made, one for each worker.
    kept: VecDeque<(ShardId, Parcel)>,
    /// The update that `kept` is about, for shard 0, which comes last: or else its packets could overtake those that wait in the node behind the update.
    own: Option<TableUpdate>,
    /// Barriers under way, and which shards have applied each. The control plane sends few.
    barriers: VecDeque<(u64, u16)>,
    /// Fences to be answered once the node is quiet; a worker has one under way.
    fences: Vec<(ShardId, u64)>,
    /// What each further worker has told of its shard.
    stats: Vec<Stats>,
    /// Barriers that all shards have applied.
    #[cfg(test)]
    pub(super) passed: Vec<u64>,
}

impl Others {
    pub(super) fn new(workers: NonZeroU8) -> Self {
        let count = workers.get() - 1;
        Self { count, stats: vec![Stats::default(); usize::from(count)], ..Self::default() }
    }

    /// Whether nothing waits for room in a ring.
    pub(super) fn has_room(&self) -> bool {
        self.kept.is_empty()
    }

    /// Publishes a change to all further workers; gives it back for shard 0 once all have taken it.
    pub(super) fn table(&mut self, update: TableUpdate, node: &Node, driver: &mut impl Driver) -> Option<TableUpdate> {
        if self.count == 0 {
            return Some(update);
        }
        if let TableUpdate::Barrier(number) = update {
            self.barriers.push_back((number, 0));
        }
        for worker in 1..=self.count {
            self.send(ShardId(worker), node.realm(), Parcel::table(&update, node.paths()), driver);
        }
        self.own = Some(update);
        self.own.take_if(|_| self.kept.is_empty())
    }

    /// Publishes now what could not be published before, and gives the change for shard 0 once all others have taken it.
    pub(super) fn flush(&mut self, realm: RealmSlot, driver: &mut impl Driver) -> Option<TableUpdate> {
        for (worker, parcel) in core::mem::take(&mut self.kept) {
            self.send(worker, realm, parcel, driver);
        }
        self.own.take_if(|_| self.kept.is_empty())
    }

    /// Answers the workers' fences: the node has dealt with all that was reported before them.
    pub(super) fn answer_fences(&mut self, realm: RealmSlot, driver: &mut impl Driver) {
        while let Some((worker, number)) = self.fences.pop() {
            self.send(worker, realm, Parcel::fence(number), driver);
        }
    }

    /// Sends a parcel, behind those for the same worker that wait already.
    fn send(&mut self, worker: ShardId, realm: RealmSlot, parcel: Parcel, driver: &mut impl Driver) {
        let waits = self.kept.iter().any(|(other, _)| *other == worker);
        let refused = if waits { Some(parcel) } else { driver.publish(worker, realm, parcel).err() };
        if let Some(parcel) = refused {
            self.kept.push_back((worker, parcel));
        }
    }

    /// A worker asks to be told when everything reported before is dealt with.
    pub(super) fn fence(&mut self, worker: ShardId, number: u64) {
        self.fences.retain(|(other, _)| *other != worker);
        self.fences.push((worker, number));
    }

    /// A shard has applied a barrier; `true` when it was the last to do so.
    pub(super) fn applied(&mut self, shard: ShardId, number: u64) -> bool {
        if self.count == 0 {
            return true;
        }
        let all = u16::MAX >> (15 - self.count);
        let Some(at) = self.barriers.iter().position(|(other, _)| *other == number) else { return false };
        let said = &mut self.barriers[at].1;
        *said |= 1 << shard.0;
        let done = *said == all;
        if done {
            self.barriers.remove(at);
            #[cfg(test)]
            self.passed.push(number);
        }
        done
    }

    /// Takes a further worker's counters.
    pub(super) fn set_stats(&mut self, worker: ShardId, stats: Stats) {
        if let Some(known) = usize::from(worker.0).checked_sub(1).and_then(|at| self.stats.get_mut(at)) {
            *known = stats;
        }
    }

    /// The counters of all further workers.
    pub(super) fn stats(&self) -> impl Iterator<Item = &Stats> {
        self.stats.iter()
    }
}
