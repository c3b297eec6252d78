//! A data plane on a thread of its own: one shard per realm, without the control plane.
//!
//! Worker 0 is the thread of the [`Pump`](crate::pump::Pump) with the shards 0. Each further worker seals what its own TUN queue gives it and opens what
//! its own socket gives it, and shares nothing with any other: what it must be told comes as a [`Parcel`], what it has to tell leaves as a [`Report`].
//! The driver carries both in bounded rings, in order, and wakes the other side.
//!
//! | file | what |
//! | --- | --- |
//! | `parcel` | what crosses, with paths named by what they stand for |
//! | `reports` | what waits to be told: hints, punts, counters |
//! | `pins` | paths in use stay in the worker's table |
//! | `order` | no packet overtakes those of its flow that wait in the control plane |
//! | `early` | data packets that outran the news of their session |

mod early;
mod order;
mod parcel;
mod pins;
mod reports;
#[cfg(test)]
mod tests;

use core::num::NonZeroU8;

use crate::batch::{Batch, Slot};
use crate::io::{DropReason, Endpoint, Path, RealmSlot, Reinject, ShardId, TableUpdate};
use crate::paths::{Named, PathTable};
use crate::pump::carry::Plane;
use crate::pump::receive::Realms;
use crate::pump::{Driver, MAX_REALMS, PUBLISH_RETRY, Received, Scratch};
use crate::rng::Rng;
use crate::shard::Shard;
use crate::time::Instant;

pub(crate) use parcel::{Cargo, News};
pub use parcel::{Parcel, Report};
pub use reports::{MAX_REPORTS, STATS_INTERVAL};

use early::Early;
use order::Order;
use pins::Pins;
use reports::{Outbox, Reports};

/// The shards of one further worker, one per realm, with a table of paths of their own.
#[derive(Debug)]
pub struct Worker {
    id: ShardId,
    workers: NonZeroU8,
    paths: PathTable,
    realms: Vec<Realm>,
    early: Early,
    latest: Instant,
}

/// One realm's shard and what belongs to it.
#[derive(Debug)]
struct Realm {
    slot: RealmSlot,
    shard: Shard,
    pins: Pins,
    order: Order,
    reports: Reports,
}

impl Worker {
    /// Worker `id` of `workers`, without realms. `seed` keys the table of paths.
    #[must_use]
    pub fn new(id: ShardId, workers: NonZeroU8, seed: u64) -> Self {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let paths = PathTable::new(&mut Rng::new(bytes).fork("worker paths"));
        Self { id, workers, paths, realms: Vec::new(), early: Early::default(), latest: Instant::ZERO }
    }

    /// Adds a realm's shard; `false` when it is not this worker's, its realm has one already, or there are [`MAX_REALMS`].
    pub fn add(&mut self, shard: Shard) -> bool {
        let slot = shard.realm();
        let fits = shard.id() == self.id && shard.workers() == self.workers && self.realms.len() < MAX_REALMS;
        if !fits || self.place(slot).is_some() {
            return false;
        }
        self.realms.push(Realm { slot, shard, pins: Pins::default(), order: Order::default(), reports: Reports::default() });
        true
    }

    /// Takes received datagrams, as [`Pump::datagrams`](crate::pump::Pump::datagrams) does. [`Self::poll_report`] must follow.
    pub fn datagrams(&mut self, scratch: &mut Scratch, buf: &mut [u8], received: &[Received], driver: &mut impl Driver, now: Instant) {
        scratch.split(self, buf, received);
        let mut start = 0;
        while let Some((number, run)) = scratch.run(start) {
            start = run.end;
            let Some(realm) = self.realms.get_mut(number) else { continue };
            let slots = &mut scratch.slots[run];
            realm.plane(&self.paths, &mut scratch.picked, |plane| plane.open(buf, slots, driver, now));
            self.early.keep(number, slots, buf, now);
        }
        self.latest = self.latest.max(now);
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
        self.latest = self.latest.max(now);
        let Some(realm) = self.realms.iter_mut().find(|realm| realm.slot == slot) else { return };
        if realm.order.is_up() {
            realm.hold(slots, buf);
            realm.shard.seal(&mut Batch { buf, slots }, now);
            realm.hold(slots, buf);
            realm.plane(&self.paths, &mut scratch.picked, |plane| plane.carry(buf, slots, driver, now));
        } else {
            realm.plane(&self.paths, &mut scratch.picked, |plane| plane.seal(buf, slots, driver, now));
        }
    }

    /// Takes what the control plane published, between batches. [`Self::poll_report`] must follow.
    pub fn parcel(&mut self, slot: RealmSlot, parcel: Parcel, scratch: &mut Scratch, driver: &mut impl Driver, now: Instant) {
        self.latest = self.latest.max(now);
        let Some(place) = self.realms.iter().position(|realm| realm.slot == slot) else { return };
        let realm = &mut self.realms[place];
        let Scratch { reinject: room, picked, .. } = scratch;
        match parcel.0 {
            Cargo::Table { update, names } => {
                let installed = if let TableUpdate::Install(install) = &update { Some(install.session.0) } else { None };
                realm.table(update, &names, &mut self.paths, now);
                if let Some(index) = installed {
                    self.early.release(place, index, now, |slot, bytes| {
                        let action = Reinject::Open { from: slot.from };
                        realm.plane(&self.paths, picked, |plane| plane.again(action, bytes, room, driver, now));
                    });
                }
            }
            Cargo::Open { from, datagram } => {
                let action = Reinject::Open { from: self.paths.adopt(from) };
                realm.plane(&self.paths, picked, |plane| plane.again(action, &datagram, room, driver, now));
            }
            Cargo::Fence(number) => {
                for packet in realm.order.take_down(number) {
                    realm.plane(&self.paths, picked, |plane| plane.again(Reinject::Seal, &packet, room, driver, now));
                }
            }
        }
    }

    /// The next report for the control plane; until `None`, after each batch or parcel and at [`Self::poll_timeout`].
    ///
    /// To be called only while the ring to the control plane has room: what is not polled waits here, in queues that are bounded by dropping and counting
    /// punts and by losing hints that come again, never a barrier. A report that was polled and not carried is lost for good.
    pub fn poll_report(&mut self, now: Instant) -> Option<(RealmSlot, Report)> {
        self.latest = self.latest.max(now);
        let paths = &self.paths;
        self.realms.iter_mut().find_map(|realm| Some((realm.slot, realm.reports.next(&mut realm.shard, paths, now)?)))
    }

    /// When [`Self::poll_report`] has something without further input: traffic or counters to tell, or what found the ring full.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let due = |realm: &Realm| {
            if realm.reports.waits(&realm.shard) { Some(self.latest + PUBLISH_RETRY) } else { realm.reports.due(&realm.shard) }
        };
        self.realms.iter().filter_map(due).min()
    }

    /// The shard of a realm.
    #[must_use]
    pub fn shard(&self, slot: RealmSlot) -> Option<&Shard> {
        self.realms.iter().find(|realm| realm.slot == slot).map(|realm| &realm.shard)
    }
}

impl Realm {
    /// Works with the shard.
    #[inline]
    fn plane<T>(&mut self, paths: &PathTable, picked: &mut Vec<Slot>, work: impl FnOnce(&mut Plane<'_, Outbox<'_>>) -> T) -> T {
        self.reports.note_use();
        let mut outbox = Outbox { paths, reports: &mut self.reports, order: &mut self.order };
        work(&mut Plane { realm: self.slot, shard: &mut self.shard, backing: &mut outbox, picked })
    }

    /// Applies a change of the tables, whose paths are named by `names`.
    fn table(&mut self, mut update: TableUpdate, names: &[Named], paths: &mut PathTable, now: Instant) {
        self.reports.note_use();
        parcel::adopt(&mut update, names, paths);
        self.pins.note(&update, paths, now);
        if let Some(number) = self.order.set_up(&update) {
            self.reports.fence(number);
        }
        self.shard.apply(update, now);
    }

    /// Holds what a fence concerns.
    fn hold(&mut self, slots: &mut [Slot], buf: &[u8]) {
        for _ in 0..self.order.hold(slots, buf) {
            self.reports.lost.dropped(DropReason::QueueFull);
        }
    }
}

impl Realms for Worker {
    fn place(&self, slot: RealmSlot) -> Option<u8> {
        self.realms.iter().position(|realm| realm.slot == slot).map(|place| place as u8)
    }

    fn opening(&self, _datagram: &[u8]) -> Option<u8> {
        // Only the control plane can tell whose it is.
        (!self.realms.is_empty()).then_some(0)
    }

    fn path(&mut self, _place: u8, from: Endpoint) -> Path {
        self.paths.intern(from)
    }
}
