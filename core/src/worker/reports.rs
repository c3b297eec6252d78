//! What waits to be reported to the control plane.

use core::time::Duration;
use std::collections::VecDeque;

use super::order::Order;
use super::parcel::{News, Report};
use crate::io::{DropReason, Endpoint, Path, Punt};
use crate::paths::PathTable;
use crate::pump::carry::Backing;
use crate::shard::Shard;
use crate::shard::table::ShardEvent;
use crate::stats::Stats;
use crate::time::Instant;

/// Punts of one shard that wait for the ring at most, mostly of 1,400 bytes: several batches' share, so that the control plane finds its hands full and no
/// more. Beyond it a punt is dropped and counted as [`DropReason::QueueFull`].
pub const MAX_REPORTS: usize = 256;

/// The shortest time between two reports of a shard's counters.
pub const STATS_INTERVAL: Duration = Duration::from_millis(100);

/// The reports of one shard.
#[derive(Debug, Default)]
pub(super) struct Reports {
    /// Punts and fences.
    queue: VecDeque<News>,
    /// What was dropped here.
    pub(super) lost: Stats,
    /// The counters as they were told last, and when that was.
    told: (Stats, Instant),
    /// Whether the shard was used since.
    used: bool,
}

impl Reports {
    /// Notes that the shard's counters may have changed.
    #[inline]
    pub(super) const fn note_use(&mut self) {
        self.used = true;
    }

    /// Queues a fence, behind all punts.
    pub(super) fn fence(&mut self, number: u64) {
        self.queue.push_back(News::Fence(number));
    }

    fn punt(&mut self, why: Punt, from: Path, bytes: &[u8], paths: &PathTable) -> bool {
        let room = self.queue.len() < MAX_REPORTS;
        if room {
            self.queue.push_back(News::Punt { why, from: paths.name(from), bytes: bytes.to_vec() });
        } else {
            self.refuse(why);
        }
        room
    }

    fn refuse(&mut self, why: Punt) {
        self.lost.punted(why);
        self.lost.dropped(DropReason::QueueFull);
    }

    /// The next report. Hints go first: they are few, and a flood of punts must not delay them.
    pub(super) fn next(&mut self, shard: &mut Shard, paths: &PathTable, now: Instant) -> Option<Report> {
        shard.tell_activity(now);
        if let Some(event) = shard.poll_event() {
            return Some(Report(match event {
                ShardEvent::Moved { session, from } => News::Moved { session, from: paths.name(from) },
                other => News::Event(other),
            }));
        }
        if let Some(news) = self.queue.pop_front() {
            return Some(Report(news));
        }
        if !self.used || now < self.told.1 + STATS_INTERVAL {
            return None;
        }
        self.used = false;
        let mut stats = shard.stats().clone();
        stats.add(&self.lost);
        if stats == self.told.0 {
            return None;
        }
        self.told = (stats.clone(), now);
        Some(Report(News::Stats(Box::new(stats))))
    }

    /// Whether something waits that was not polled.
    pub(super) fn waits(&self, shard: &Shard) -> bool {
        !self.queue.is_empty() || shard.has_event()
    }

    /// When traffic or counters want to be told.
    pub(super) fn due(&self, shard: &Shard) -> Option<Instant> {
        let stats = self.used.then_some(self.told.1 + STATS_INTERVAL);
        [stats, shard.activity_due()].into_iter().flatten().min()
    }
}

/// What stands behind a worker's shard: the worker's paths, and a queue to the control plane.
pub(super) struct Outbox<'a> {
    pub(super) paths: &'a PathTable,
    pub(super) reports: &'a mut Reports,
    pub(super) order: &'a mut Order,
}

impl Backing for Outbox<'_> {
    fn endpoint(&self, path: Path) -> Option<Endpoint> {
        self.paths.resolve(path)
    }

    fn control(&mut self, from: Path, bytes: &mut [u8], _now: Instant) {
        self.reports.punt(Punt::Control, from, bytes, self.paths);
    }

    fn punt(&mut self, why: Punt, from: Path, bytes: &[u8], _now: Instant) {
        if self.reports.punt(why, from, bytes, self.paths) && matches!(why, Punt::NoSession | Punt::NoAddress) {
            self.order.detour(bytes);
        }
    }

    fn refuse(&mut self, why: Punt) {
        self.reports.refuse(why);
    }
}
