//! The realm's table of paths: small copyable indices for addresses, circuits and routed ways.

use hashbrown::HashMap;

use crate::io::{Endpoint, Path};
use crate::rng::Rng;

/// Paths that are kept at most. Beyond it the one that was unpinned and unused for longest makes room: a flood of spoofed sources
/// costs this much memory and no more, and pinned paths (those of peers) are never evicted.
pub const MAX_PATHS: usize = 16_384;

/// What a path stands for, said so that another table understands it too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Named {
    /// No path, or one that was forgotten.
    None,
    /// Anything but a circuit.
    Plain(Endpoint),
    /// The circuit with this index through the relay at the endpoint, which is no circuit.
    Circuit { via: Endpoint, circuit: u32 },
}

/// Interns [`Endpoint`]s as [`Path`]s.
#[derive(Debug)]
pub struct PathTable {
    entries: Vec<Entry>,
    index: HashMap<Endpoint, u32, foldhash::fast::FixedState>,
    /// Entries that nobody pinned, in the order in which they were made: what is evicted first.
    unpinned: std::collections::VecDeque<Path>,
    limit: usize,
}

#[derive(Debug)]
struct Entry {
    endpoint: Endpoint,
    generation: u32,
    pins: u32,
}

impl PathTable {
    /// An empty table. `rng` keys the hash: the addresses in it are chosen by whoever sends to us.
    #[must_use]
    pub fn new(rng: &mut Rng) -> Self {
        Self::with_limit(rng, MAX_PATHS)
    }

    fn with_limit(rng: &mut Rng, limit: usize) -> Self {
        Self {
            entries: Vec::new(),
            index: HashMap::with_hasher(foldhash::fast::FixedState::with_seed(rng.next_u64())),
            unpinned: std::collections::VecDeque::new(),
            limit,
        }
    }

    /// The path for `endpoint`; made if new. [`Path::NONE`] only when all [`MAX_PATHS`] are pinned.
    pub fn intern(&mut self, endpoint: Endpoint) -> Path {
        if let Some(&index) = self.index.get(&endpoint) {
            return Path { index, generation: self.entries[index as usize].generation };
        }
        let path = if self.entries.len() < self.limit {
            let index = self.entries.len() as u32;
            self.entries.push(Entry { endpoint, generation: 0, pins: 0 });
            Path { index, generation: 0 }
        } else {
            let Some(victim) = self.oldest_unpinned() else { return Path::NONE };
            let entry = &mut self.entries[victim.index as usize];
            self.index.remove(&entry.endpoint);
            entry.endpoint = endpoint;
            entry.generation = entry.generation.wrapping_add(1);
            Path { index: victim.index, generation: entry.generation }
        };
        self.index.insert(endpoint, path.index);
        self.unpinned.push_back(path);
        path
    }

    /// The path for `endpoint`, if it is known.
    #[must_use]
    pub fn find(&self, endpoint: &Endpoint) -> Option<Path> {
        self.index.get(endpoint).map(|&index| Path { index, generation: self.entries[index as usize].generation })
    }

    /// What `path` stands for; `None` once it was evicted.
    #[must_use]
    pub fn resolve(&self, path: Path) -> Option<Endpoint> {
        self.entry(path).map(|entry| entry.endpoint)
    }

    /// What `path` stands for, for another table.
    pub(crate) fn name(&self, path: Path) -> Named {
        match self.resolve(path) {
            Some(Endpoint::Circuit { via, circuit }) => match self.resolve(via) {
                Some(via) if !matches!(via, Endpoint::Circuit { .. }) => Named::Circuit { via, circuit },
                _ => Named::None,
            },
            Some(endpoint) => Named::Plain(endpoint),
            None => Named::None,
        }
    }

    /// The path for what another table named; made if new. [`Path::NONE`] for [`Named::None`] and as in [`Self::intern`].
    pub(crate) fn adopt(&mut self, name: Named) -> Path {
        match name {
            Named::None => Path::NONE,
            Named::Plain(endpoint) => self.intern(endpoint),
            Named::Circuit { via, circuit } => match self.intern(via) {
                Path::NONE => Path::NONE,
                via => self.intern(Endpoint::Circuit { via, circuit }),
            },
        }
    }

    /// Keeps `path` until as many [`Self::unpin`]s.
    pub fn pin(&mut self, path: Path) {
        if self.entry(path).is_some() {
            self.entries[path.index as usize].pins += 1;
        }
    }

    /// Takes one pin back.
    pub fn unpin(&mut self, path: Path) {
        if self.entry(path).is_some() {
            let entry = &mut self.entries[path.index as usize];
            entry.pins = entry.pins.saturating_sub(1);
            if entry.pins == 0 {
                self.unpinned.push_back(path);
            }
        }
    }

    fn entry(&self, path: Path) -> Option<&Entry> {
        self.entries.get(path.index as usize).filter(|entry| entry.generation == path.generation)
    }

    fn oldest_unpinned(&mut self) -> Option<Path> {
        while let Some(path) = self.unpinned.pop_front() {
            if self.entry(path).is_some_and(|entry| entry.pins == 0) {
                return Some(path);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::SocketAddr;

    fn udp(port: u16) -> Endpoint {
        Endpoint::Udp { socket: 0, remote: SocketAddr::from(([192, 0, 2, 1], port)) }
    }

    #[test]
    fn an_evicted_path_resolves_to_nothing_and_pinned_ones_stay() {
        let mut table = PathTable::with_limit(&mut Rng::new([0; 32]), 3);
        let first = table.intern(udp(1));
        let second = table.intern(udp(2));
        table.pin(first);
        for port in 3..100 {
            assert_ne!(table.intern(udp(port)), Path::NONE);
        }
        assert_eq!(table.resolve(first), Some(udp(1)));
        assert_eq!(table.resolve(second), None);
        assert!(table.entries.len() <= 3 && table.unpinned.len() <= 100);
    }

    #[test]
    fn a_full_table_of_pinned_paths_answers_none() {
        let mut table = PathTable::with_limit(&mut Rng::new([0; 32]), 2);
        for port in 1..=2 {
            let path = table.intern(udp(port));
            table.pin(path);
        }
        assert_eq!(table.intern(udp(9)), Path::NONE);
        let path = table.find(&udp(1)).expect("interned above");
        table.unpin(path);
        assert_ne!(table.intern(udp(9)), Path::NONE);
    }
}
