//! Which paths a worker's shard may send on or accept from: they stay in the worker's table.

use std::collections::{BTreeMap, VecDeque};

use crate::io::Path;
use crate::paths::PathTable;
use crate::shard::table::{PeerId, Removal, SessionId, TableUpdate};
use crate::shard::{MAX_CIRCUITS, MAX_LINGER, MAX_SESSIONS};
use crate::time::Instant;

/// Entries that hold paths at most: as many as the shard has room for. What is beyond it the shard refuses as well.
const MAX_HELD: usize = MAX_SESSIONS + MAX_CIRCUITS;

/// Paths that a flow may still linger on at most. Beyond it the one that was left first is given up early, and evicted only once the table is full.
const MAX_LINGERING: usize = 1_024;

/// What uses paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Holder {
    Session(SessionId),
    Circuit(u32),
}

#[derive(Clone, Copy, Debug)]
struct Held {
    /// Whose session it is.
    peer: Option<PeerId>,
    paths: [Path; 2],
}

/// The pins of one shard.
#[derive(Debug, Default)]
pub(super) struct Pins {
    held: BTreeMap<Holder, Held>,
    /// Ways that were left for better ones while they still worked: flows stay on them for a while.
    lingering: VecDeque<(Instant, Path)>,
}

impl Pins {
    /// Pins what a change brings into use, and lets go what it takes out of use. Its paths are those of `paths`.
    pub(super) fn note(&mut self, update: &TableUpdate, paths: &mut PathTable, now: Instant) {
        while self.lingering.front().is_some_and(|(until, _)| *until <= now) {
            self.leave_oldest(paths);
        }
        match update {
            TableUpdate::Install(install) => {
                let held = Held { peer: Some(install.peer), paths: [install.way.path, Path::NONE] };
                self.hold(Holder::Session(install.session), held, paths);
            }
            TableUpdate::SetPath { session, way, at_once } => self.move_to(*session, way.path, *at_once, paths, now),
            TableUpdate::Circuit { index, from, to, .. } => {
                self.hold(Holder::Circuit(*index), Held { peer: None, paths: [*from, *to] }, paths);
            }
            TableUpdate::CircuitEnd { index, from, arrives_by } => {
                self.hold(Holder::Circuit(*index), Held { peer: None, paths: [*from, *arrives_by] }, paths);
            }
            TableUpdate::Remove(Removal::Session(session)) => self.let_go(Holder::Session(*session), paths),
            TableUpdate::Remove(Removal::Circuit(index)) => self.let_go(Holder::Circuit(*index), paths),
            TableUpdate::Remove(Removal::Peer(peer)) => {
                self.held.retain(|_, held| {
                    let keep = held.peer != Some(*peer);
                    if !keep {
                        held.paths.iter().for_each(|path| paths.unpin(*path));
                    }
                    keep
                });
            }
            TableUpdate::Remove(Removal::Route(_) | Removal::Source(..))
            | TableUpdate::Promote { .. }
            | TableUpdate::Route { .. }
            | TableUpdate::Source { .. }
            | TableUpdate::Local { .. }
            | TableUpdate::Barrier(_) => {}
        }
    }

    fn hold(&mut self, holder: Holder, held: Held, paths: &mut PathTable) {
        if self.held.len() >= MAX_HELD && !self.held.contains_key(&holder) {
            return;
        }
        held.paths.iter().for_each(|path| paths.pin(*path));
        if let Some(old) = self.held.insert(holder, held) {
            old.paths.iter().for_each(|path| paths.unpin(*path));
        }
    }

    fn move_to(&mut self, session: SessionId, path: Path, at_once: bool, paths: &mut PathTable, now: Instant) {
        let Some(held) = self.held.get_mut(&Holder::Session(session)) else { return };
        paths.pin(path);
        let old = core::mem::replace(&mut held.paths[0], path);
        if at_once || old == path {
            return paths.unpin(old);
        }
        self.lingering.push_back((now + MAX_LINGER, old));
        if self.lingering.len() > MAX_LINGERING {
            self.leave_oldest(paths);
        }
    }

    fn leave_oldest(&mut self, paths: &mut PathTable) {
        if let Some((_, path)) = self.lingering.pop_front() {
            paths.unpin(path);
        }
    }

    fn let_go(&mut self, holder: Holder, paths: &mut PathTable) {
        if let Some(held) = self.held.remove(&holder) {
            held.paths.iter().for_each(|path| paths.unpin(*path));
        }
    }
}
