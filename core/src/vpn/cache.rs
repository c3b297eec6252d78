//! A bounded map that forgets what was used least recently, and whatever is too old.

use std::collections::BTreeMap;

use crate::time::Instant;

/// A map of at most `limit` entries, each with an end.
#[derive(Debug)]
pub struct Cache<K, V> {
    limit: usize,
    entries: BTreeMap<K, (V, Instant, u64)>,
    by_use: BTreeMap<u64, K>,
    uses: u64,
}

impl<K: Ord + Clone, V> Cache<K, V> {
    /// An empty one.
    #[must_use]
    pub const fn new(limit: usize) -> Self {
        Self { limit, entries: BTreeMap::new(), by_use: BTreeMap::new(), uses: 0 }
    }

    /// Keeps `value` until `until`; the least recently used entry makes room.
    pub fn insert(&mut self, key: K, value: V, until: Instant) {
        self.remove(&key);
        if self.entries.len() >= self.limit
            && let Some((_, oldest)) = self.by_use.pop_first()
        {
            self.entries.remove(&oldest);
        }
        self.uses += 1;
        self.by_use.insert(self.uses, key.clone());
        self.entries.insert(key, (value, until, self.uses));
    }

    /// What is kept for `key`, unless it has ended; it counts as used.
    pub fn get(&mut self, key: &K, now: Instant) -> Option<&V> {
        if self.entries.get(key)?.1 <= now {
            self.remove(key);
            return None;
        }
        let (value, _, used) = self.entries.get_mut(key)?;
        self.by_use.remove(used);
        self.uses += 1;
        *used = self.uses;
        self.by_use.insert(self.uses, key.clone());
        Some(value)
    }

    /// Forgets `key`.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let (value, _, used) = self.entries.remove(key)?;
        self.by_use.remove(&used);
        Some(value)
    }

    /// All entries in the order of their keys, those that have ended included.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.entries.iter().map(|(key, (value, ..))| (key, value))
    }

    /// Number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_holds_and_what_is_used_stays() {
        let mut cache = Cache::new(3);
        let end = Instant::from_secs(10);
        for key in 0..3 {
            cache.insert(key, key, end);
        }
        assert_eq!(cache.get(&0, Instant::ZERO), Some(&0));
        cache.insert(3, 3, end);
        cache.insert(3, 33, end);
        assert_eq!(cache.iter().map(|(key, _)| *key).collect::<Vec<_>>(), [0, 2, 3]);
        assert_eq!((cache.len(), cache.by_use.len()), (3, 3));
        assert_eq!(cache.get(&0, end), None, "it has ended");
        assert_eq!((cache.len(), cache.by_use.len(), cache.is_empty()), (2, 2, false));
    }
}
