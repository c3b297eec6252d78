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
    /// Entries that nobody pinned, in the order in which they were made or let go: what is evicted first. Holds less than three places for each entry.
    unpinned: std::collections::VecDeque<Path>,
    limit: usize,
}

#[derive(Debug)]
struct Entry {
    endpoint: Endpoint,
    generation: u32,
    pins: u32,
    /// How often it stands in the list of what may be evicted.
    listed: u32,
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
            self.entries.push(Entry { endpoint, generation: 0, pins: 0, listed: 0 });
            Path { index, generation: 0 }
        } else {
            let Some(victim) = self.oldest_unpinned() else { return Path::NONE };
            let entry = &mut self.entries[victim.index as usize];
            self.index.remove(&entry.endpoint);
            entry.endpoint = endpoint;
            entry.generation = entry.generation.wrapping_add(1);
            entry.listed = 0;
            Path { index: victim.index, generation: entry.generation }
        };
        self.index.insert(endpoint, path.index);
        self.rest(path);
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

    /// Keeps `path` until as many [`Self::unpin`]s, and with a circuit the path to its relay.
    pub fn pin(&mut self, path: Path) {
        let Some(entry) = self.entry_mut(path) else { return };
        entry.pins += 1;
        if let Endpoint::Circuit { via, .. } = entry.endpoint {
            self.pin(via);
        }
    }

    /// Takes one pin back.
    pub fn unpin(&mut self, path: Path) {
        let Some(entry) = self.entry_mut(path) else { return };
        if entry.pins == 0 {
            return;
        }
        entry.pins -= 1;
        let (free, endpoint) = (entry.pins == 0, entry.endpoint);
        if free {
            self.rest(path);
        }
        if let Endpoint::Circuit { via, .. } = endpoint {
            self.unpin(via);
        }
    }

    /// Lists a path among those that may be evicted, behind all that are listed. It may stand there already: only its last place counts.
    fn rest(&mut self, path: Path) {
        self.entries[path.index as usize].listed += 1;
        self.unpinned.push_back(path);
        if self.unpinned.len() > 2 * self.entries.len() + 64 {
            for _ in 0..self.unpinned.len() {
                if let Some(last) = self.next_listed() {
                    self.entries[last.index as usize].listed += 1;
                    self.unpinned.push_back(last);
                }
            }
        }
    }

    /// Takes the first entry off the list of what may be evicted; `None` when it is a stale one, or the list is empty.
    fn next_listed(&mut self) -> Option<Path> {
        let path = self.unpinned.pop_front()?;
        let entry = self.entries.get_mut(path.index as usize).filter(|entry| entry.generation == path.generation)?;
        entry.listed -= 1;
        (entry.listed == 0 && entry.pins == 0).then_some(path)
    }

    fn entry_mut(&mut self, path: Path) -> Option<&mut Entry> {
        self.entries.get_mut(path.index as usize).filter(|entry| entry.generation == path.generation)
    }

    fn entry(&self, path: Path) -> Option<&Entry> {
        self.entries.get(path.index as usize).filter(|entry| entry.generation == path.generation)
    }

    fn oldest_unpinned(&mut self) -> Option<Path> {
        while !self.unpinned.is_empty() {
            if let Some(path) = self.next_listed() {
                return Some(path);
            }
        }
        None
    }

    /// Pins of all paths together.
    #[cfg(test)]
    pub(crate) fn pins(&self) -> u32 {
        self.entries.iter().map(|entry| entry.pins).sum()
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
    fn a_path_that_is_pinned_and_let_go_for_ever_takes_no_more_room() {
        let mut table = PathTable::with_limit(&mut Rng::new([0; 32]), 3);
        let [first, second] = [1, 2].map(|port| table.intern(udp(port)));
        for _ in 0..100_000 {
            table.pin(second);
            table.unpin(second);
        }
        assert!(table.unpinned.len() <= 2 * 2 + 65);
        // The one that was let go last stays longest.
        let third = table.intern(udp(3));
        table.intern(udp(4));
        assert_eq!([first, second, third].map(|path| table.resolve(path).is_some()), [false, true, true]);
        table.unpin(second);
        assert_eq!(table.pins(), 0);
    }

    #[test]
    fn a_pinned_circuit_keeps_the_path_to_its_relay() {
        let mut table = PathTable::with_limit(&mut Rng::new([0; 32]), 3);
        let circuit = table.adopt(Named::Circuit { via: udp(1), circuit: 7 });
        table.pin(circuit);
        for port in 2..100 {
            table.intern(udp(port));
        }
        assert_eq!(table.name(circuit), Named::Circuit { via: udp(1), circuit: 7 });
        assert_eq!(table.pins(), 2);
        table.unpin(circuit);
        assert_eq!(table.pins(), 0);
        for port in 2..100 {
            table.intern(udp(port));
        }
        assert_eq!(table.name(circuit), Named::None);
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
