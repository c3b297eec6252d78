//! What crosses between the control plane and the other workers.
//!
//! A [`Path`] means something in one table only, and each worker has a table of its own. So what crosses names each path by what it
//! stands for.

use smallvec::SmallVec;

use crate::io::{Path, Punt};
use crate::paths::{Named, PathTable};
use crate::shard::table::{SessionId, ShardEvent, TableUpdate};
use crate::stats::Stats;

/// From the control plane to another worker's shard. Opaque to the driver, which carries it in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parcel(pub(crate) Cargo);

/// What a [`Parcel`] holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cargo {
    /// A change of the tables. The paths in it are the sender's; `names` says what they stand for, in the order of [`TableUpdate::each_path`].
    Table { update: TableUpdate, names: SmallVec<[Named; 1]> },
    /// Open this datagram, which came by another worker's socket or over the ring.
    Open { from: Named, datagram: Vec<u8> },
    /// All that was reported before the fence of this number has been dealt with.
    Fence(u64),
}

impl Parcel {
    /// A change of the tables, whose paths `paths` resolves.
    pub(crate) fn table(update: &TableUpdate, paths: &PathTable) -> Self {
        let mut update = update.clone();
        let mut names = SmallVec::new();
        update.each_path(|path| names.push(paths.name(*path)));
        Self(Cargo::Table { update, names })
    }

    /// A datagram to be opened.
    pub(crate) fn open(from: Named, datagram: &[u8]) -> Self {
        Self(Cargo::Open { from, datagram: datagram.to_vec() })
    }

    /// The answer to a fence.
    pub(crate) const fn fence(number: u64) -> Self {
        Self(Cargo::Fence(number))
    }
}

/// Replaces the paths of an update by those of another table.
pub(super) fn adopt(update: &mut TableUpdate, names: &[Named], paths: &mut PathTable) {
    let mut names = names.iter();
    update.each_path(|path| *path = names.next().map_or(Path::NONE, |name| paths.adopt(*name)));
}

/// From a worker's shard to the control plane. Opaque to the driver, which carries it in order.
#[derive(Debug)]
pub struct Report(pub(crate) News);

/// What a [`Report`] holds.
#[derive(Debug)]
pub(crate) enum News {
    /// A hint that names no path, or a barrier that was applied.
    Event(ShardEvent),
    /// [`ShardEvent::Moved`], with the path by its name.
    Moved { session: SessionId, from: Named },
    /// What the shard could not decide. `from` is where a datagram came from, or the routed path of a sealed packet.
    Punt { why: Punt, from: Named, bytes: Vec<u8> },
    /// The worker's counters.
    Stats(Box<Stats>),
    /// To be answered by [`Cargo::Fence`] once all before it has been dealt with.
    Fence(u64),
}
