//! A data plane on a thread of its own: one shard per realm, without the control plane.
//!
//! Worker 0 is the thread of the [`Pump`](crate::pump::Pump) with the shards 0. Each further worker seals what its own TUN queue gives it and opens what
//! its own socket gives it, and shares nothing with any other: what it must be told comes as a [`Parcel`], what it has to tell leaves as a [`Report`].
//! The driver carries both in bounded rings, in order, and wakes the other side.

mod parcel;

use core::num::NonZeroU8;

use crate::batch::Slot;
use crate::io::{RealmSlot, ShardId};
use crate::paths::PathTable;
use crate::pump::{Driver, Received, Scratch};
use crate::rng::Rng;
use crate::shard::Shard;
use crate::time::Instant;

pub(crate) use parcel::{Cargo, News};
pub use parcel::{Parcel, Report};

/// The shards of one further worker, one per realm, with a table of paths of their own.
#[derive(Debug)]
pub struct Worker {
    id: ShardId,
    workers: NonZeroU8,
    paths: PathTable,
    realms: Vec<(RealmSlot, Shard)>,
}

impl Worker {
    /// Worker `id` of `workers`, without realms. `seed` keys the table of paths.
    #[must_use]
    pub fn new(id: ShardId, workers: NonZeroU8, seed: u64) -> Self {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        Self { id, workers, paths: PathTable::new(&mut Rng::new(bytes)), realms: Vec::new() }
    }

    /// Adds a realm's shard; `false` when it is not this worker's, the realm has one already, or there are too many.
    pub fn add(&mut self, shard: Shard) -> bool {
        let _ = shard;
        false
    }

    /// Takes received datagrams, as [`Pump::datagrams`](crate::pump::Pump::datagrams) does. [`Self::poll_report`] must follow.
    pub fn datagrams(&mut self, scratch: &mut Scratch, buf: &mut [u8], received: &[Received], driver: &mut impl Driver, now: Instant) {
        let _ = (scratch, buf, received, driver, now);
    }

    /// Takes IP packets of the realm's host, as [`Pump::packets`](crate::pump::Pump::packets) does. [`Self::poll_report`] must follow.
    pub fn packets(
        &mut self,
        slot: RealmSlot,
        scratch: &mut Scratch,
        buf: &mut [u8],
        slots: &mut [Slot],
        driver: &mut impl Driver,
        now: Instant,
    ) {
        let _ = (slot, scratch, buf, slots, driver, now);
    }

    /// Takes what the control plane published, between batches. [`Self::poll_report`] must follow.
    pub fn parcel(&mut self, slot: RealmSlot, parcel: Parcel, scratch: &mut Scratch, driver: &mut impl Driver, now: Instant) {
        let _ = (slot, parcel, scratch, driver, now);
    }

    /// The next report for the control plane; until `None`, after each batch and at [`Self::poll_timeout`].
    ///
    /// To be called only while the ring to the control plane has room: what is not polled waits here, in queues that are bounded by dropping and counting
    /// packets and repeatable hints, never a barrier. A report that was polled and not carried is lost for good.
    pub fn poll_report(&mut self, now: Instant) -> Option<(RealmSlot, Report)> {
        let _ = now;
        None
    }

    /// When [`Self::poll_report`] will have something without further input: traffic or counters to tell.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        None
    }
}
