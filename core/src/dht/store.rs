//! What a replica keeps: one live record for each key, the tombstones of earlier ones, and a promise while a create is voted on.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};

use super::claim::Judged;
use super::key::{Key, Space};
use crate::id::NodeId;
use crate::time::{Instant, UnixTime};
use crate::wire::dht::{Bundle, MAX_BUNDLES, Refusal};

/// Records that a node keeps at most. With the longest values it is 8 MB; a node's fair share in a group where every node has ten records is 50.
pub const MAX_RECORDS: usize = 4_096;
/// Records that one node may have at one replica.
pub const QUOTA_NODE: u32 = 64;
/// Records that all nodes of one user may have at one replica.
pub const QUOTA_USER: u32 = 256;
/// Address records that one node may have at one replica: its lease, the tombstones of those it lost, a few fixed addresses.
pub const QUOTA_ADDRESSES: u32 = 8;
/// Tombstones kept for a key: those of the latest owners.
pub const MAX_TOMBSTONES: usize = MAX_BUNDLES - 1;
/// How long a vote binds: longer than any create waits for its votes, so that a vote never changes under a creator.
pub const PROMISE_SECS: u64 = 10;

/// Votes that bind at a time. A create holds one for less than a second, so this is hundreds of creates a second for one replica.
pub const MAX_PROMISES: usize = 256;
/// Votes of which one owner may hold at a time: it asks for a lease and a few keys at once, and cannot keep others from being voted for.
pub const MAX_PROMISES_OF_ONE: usize = 8;

/// A vote for a record that is not stored yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promise {
    /// Digest of the record.
    pub digest: [u8; 32],
    /// Who wants the key.
    pub owner: NodeId,
    /// Not binding from then on.
    pub until: Instant,
}

/// What is known of one key.
#[derive(Clone, Debug, Default)]
pub struct Entry {
    /// The record that counts.
    pub live: Option<Judged>,
    /// Tombstones, the latest first.
    pub tombstones: Vec<Judged>,
}

impl Entry {
    fn all(&self) -> impl Iterator<Item = &Judged> {
        self.live.iter().chain(&self.tombstones)
    }

    fn is_empty(&self) -> bool {
        self.live.is_none() && self.tombstones.is_empty()
    }
}

/// What a [`Store::put`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Put {
    /// The record counts now. The owner that lost the key by it, if there was another.
    Stored {
        /// The owner that lost.
        ousted: Option<NodeId>,
    },
    /// It was there already.
    Same,
    /// Somebody else's record counts.
    Conflict(Box<Bundle>),
}

/// The records of one replica.
#[derive(Debug, Default)]
pub struct Store {
    entries: BTreeMap<Key, Entry>,
    promises: BTreeMap<Key, Promise>,
    by_node: BTreeMap<NodeId, (u32, u32)>,
    by_user: BTreeMap<String, u32>,
    records: usize,
}

impl Store {
    /// The live record of `key`, if it has not expired.
    #[must_use]
    pub fn live(&self, key: &Key, wall: UnixTime) -> Option<&Judged> {
        self.entries.get(key)?.live.as_ref().filter(|judged| judged.record().expires > wall)
    }

    /// What is to be told of `key`: the live record first, then the tombstones.
    #[must_use]
    pub fn bundles(&self, key: &Key, wall: UnixTime) -> Vec<Bundle> {
        let Some(entry) = self.entries.get(key) else { return Vec::new() };
        entry.all().filter(|judged| judged.record().expires > wall).map(|judged| judged.bundle.clone()).collect()
    }

    /// A digest of what is stored under `key`, grants included; `None` when nothing is.
    #[must_use]
    pub fn state(&self, key: &Key, wall: UnixTime) -> Option<[u8; 16]> {
        let mut hash = Sha256::new();
        let mut any = false;
        for judged in self.entries.get(key)?.all().filter(|judged| judged.record().expires > wall) {
            any = true;
            hash.update(judged.bundle.bytes());
        }
        let digest = hash.finalize();
        let mut out = [0; 16];
        out.copy_from_slice(&digest[..16]);
        any.then_some(out)
    }

    /// Keys in ascending order from the first one behind `after` on.
    pub fn keys_after<'a>(&'a self, after: Option<&Key>) -> impl Iterator<Item = &'a Key> {
        use core::ops::Bound;
        let from = after.map_or(Bound::Unbounded, |key| Bound::Excluded(key.clone()));
        self.entries.range((from, Bound::Unbounded)).map(|(key, _)| key)
    }

    /// Number of records, tombstones included.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.records
    }

    /// Whether nothing is stored.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Takes a verified record; the one that counts stays. A newer tombstone removes its owner's record.
    ///
    /// # Errors
    /// A [`Refusal`] for quota, space or age.
    pub fn put(&mut self, judged: Judged, wall: UnixTime) -> Result<Put, Refusal> {
        let key = judged.record().key.clone();
        let owner = judged.record().owner;
        self.forget_expired(&key, wall);
        if let Some(entry) = self.entries.get_mut(&key) {
            if entry.tombstones.iter().any(|dead| dead.record().owner == owner && dead.record().sequence >= judged.record().sequence) {
                return if entry.tombstones.iter().any(|dead| dead.claim.digest == judged.claim.digest) {
                    Ok(Put::Same)
                } else {
                    Err(Refusal::Stale)
                };
            }
            if let Some(live) = entry.live.as_mut().filter(|_| !judged.record().tombstone) {
                if live.claim.digest == judged.claim.digest {
                    return Ok(Self::join(live, judged));
                }
                if judged.against(live).is_lt() {
                    return if live.record().owner == owner {
                        Err(Refusal::Stale)
                    } else {
                        Ok(Put::Conflict(Box::new(live.bundle.clone())))
                    };
                }
            } else if entry
                .live
                .as_ref()
                .is_some_and(|live| live.record().owner == owner && live.record().sequence > judged.record().sequence)
            {
                return Err(Refusal::Stale);
            }
        }
        let replaces_own = self.entries.get(&key).is_some_and(|entry| entry.all().any(|old| old.record().owner == owner));
        if !replaces_own {
            self.admit(&judged)?;
        }
        Ok(self.insert(key, judged))
    }

    fn join(live: &mut Judged, judged: Judged) -> Put {
        // One of both lists is kept whole, the same one everywhere: joined lists would have a median that nobody granted.
        let better =
            judged.claim.countersigners.cmp(&live.claim.countersigners).then_with(|| live.bundle.bytes().cmp(&judged.bundle.bytes()));
        if better.is_le() {
            return Put::Same;
        }
        *live = judged;
        Put::Stored { ousted: None }
    }

    /// Whether one more record of this owner is within all bounds.
    ///
    /// # Errors
    /// Which bound is reached.
    pub fn admit(&self, judged: &Judged) -> Result<(), Refusal> {
        let (records, addresses) = self.by_node.get(&judged.record().owner).copied().unwrap_or_default();
        let is_address = matches!(judged.record().key.space(), Space::Address(_));
        if records >= QUOTA_NODE
            || is_address && addresses >= QUOTA_ADDRESSES
            || self.by_user.get(&judged.user).is_some_and(|&records| records >= QUOTA_USER)
        {
            return Err(Refusal::Quota);
        }
        if self.records >= MAX_RECORDS { Err(Refusal::Full) } else { Ok(()) }
    }

    fn insert(&mut self, key: Key, judged: Judged) -> Put {
        let owner = judged.record().owner;
        let mut gone = Vec::new();
        let mut ousted = None;
        self.count(&judged, true);
        if self.promises.get(&key).is_some_and(|promise| promise.digest == judged.claim.digest) {
            self.promises.remove(&key);
        }
        let entry = self.entries.entry(key).or_default();
        if judged.record().tombstone {
            if let Some(live) = entry.live.take_if(|live| live.record().owner == owner) {
                gone.push(live);
            }
            gone.extend(entry.tombstones.extract_if(.., |dead| dead.record().owner == owner));
            entry.tombstones.insert(0, judged);
            gone.extend(entry.tombstones.drain(MAX_TOMBSTONES.min(entry.tombstones.len())..));
        } else if let Some(live) = entry.live.replace(judged) {
            if live.record().owner != owner {
                ousted = Some(live.record().owner);
            }
            gone.push(live);
        }
        for old in &gone {
            self.count(old, false);
        }
        Put::Stored { ousted }
    }

    /// Votes for a record: the promise binds for [`PROMISE_SECS`].
    ///
    /// # Errors
    /// [`Refusal::Busy`] when somebody else has the vote, [`Refusal::Quota`] when the owner has too many, [`Refusal::Full`] when too many bind.
    pub fn promise(&mut self, key: &Key, digest: [u8; 32], owner: NodeId, now: Instant) -> Result<(), Refusal> {
        self.promises.retain(|_, promise| promise.until > now);
        match self.promises.get(key) {
            Some(promise) if promise.owner != owner => return Err(Refusal::Busy),
            Some(_) => {}
            None if self.promises.values().filter(|promise| promise.owner == owner).count() >= MAX_PROMISES_OF_ONE => {
                return Err(Refusal::Quota);
            }
            None if self.promises.len() >= MAX_PROMISES => return Err(Refusal::Full),
            None => {}
        }
        let until = now + core::time::Duration::from_secs(PROMISE_SECS);
        self.promises.insert(key.clone(), Promise { digest, owner, until });
        Ok(())
    }

    /// Who has the vote for `key`.
    #[must_use]
    pub fn promised(&self, key: &Key, now: Instant) -> Option<Promise> {
        self.promises.get(key).copied().filter(|promise| promise.until > now)
    }

    /// Takes a vote back.
    pub fn abort(&mut self, key: &Key, digest: &[u8; 32]) {
        if self.promises.get(key).is_some_and(|promise| promise.digest == *digest) {
            self.promises.remove(key);
        }
    }

    /// Forgets what has expired, votes that bind no longer, and keys that `keep` denies.
    pub fn sweep(&mut self, now: Instant, wall: UnixTime, mut keep: impl FnMut(&Key) -> bool) {
        self.promises.retain(|_, promise| promise.until > now);
        let keys: Vec<Key> = self.entries.keys().cloned().collect();
        for key in keys {
            let end = if keep(&key) { wall } else { UnixTime(u64::MAX) };
            self.forget_expired(&key, end);
        }
    }

    fn forget_expired(&mut self, key: &Key, wall: UnixTime) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        let mut gone: Vec<Judged> = entry.live.take_if(|live| live.record().expires <= wall).into_iter().collect();
        gone.extend(entry.tombstones.extract_if(.., |dead| dead.record().expires <= wall));
        if entry.is_empty() {
            self.entries.remove(key);
        }
        for old in &gone {
            self.count(old, false);
        }
    }

    fn count(&mut self, judged: &Judged, more: bool) {
        let step = |count: &mut u32| *count = if more { *count + 1 } else { count.saturating_sub(1) };
        let owner = judged.record().owner;
        let (records, addresses) = self.by_node.entry(owner).or_default();
        step(records);
        if matches!(judged.record().key.space(), Space::Address(_)) {
            step(addresses);
        }
        if *records == 0 {
            self.by_node.remove(&owner);
        }
        let of_user = self.by_user.entry(judged.user.clone()).or_default();
        step(of_user);
        if *of_user == 0 {
            self.by_user.remove(&judged.user);
        }
        self.records = if more { self.records + 1 } else { self.records.saturating_sub(1) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::time::Duration;

    fn key(i: usize) -> Key {
        Key::parse(format!("x/{i}").as_bytes()).expect("free")
    }

    #[test]
    fn one_owner_cannot_bind_all_votes() {
        let mut store = Store::default();
        let owner = |i: usize| NodeId([i as u8; 20]);
        for i in 0..MAX_PROMISES_OF_ONE {
            assert_eq!(store.promise(&key(i), [0; 32], owner(0), Instant::ZERO), Ok(()));
        }
        assert_eq!(store.promise(&key(999), [0; 32], owner(0), Instant::ZERO), Err(Refusal::Quota));
        assert_eq!(store.promise(&key(0), [1; 32], owner(1), Instant::ZERO), Err(Refusal::Busy));
        for i in MAX_PROMISES_OF_ONE..MAX_PROMISES {
            assert_eq!(store.promise(&key(i), [0; 32], owner(1 + i / MAX_PROMISES_OF_ONE), Instant::ZERO), Ok(()));
        }
        assert_eq!(store.promise(&key(999), [0; 32], owner(200), Instant::ZERO), Err(Refusal::Full));
        store.abort(&key(0), &[9; 32]);
        assert!(store.promised(&key(0), Instant::ZERO).is_some(), "only the vote that was asked for is taken back");
        store.abort(&key(0), &[0; 32]);
        assert_eq!(store.promise(&key(0), [1; 32], owner(200), Instant::ZERO), Ok(()));
        let later = Instant::ZERO + Duration::from_secs(PROMISE_SECS);
        assert_eq!(store.promise(&key(1), [2; 32], owner(201), later), Ok(()), "it binds no longer");
        assert_eq!(store.promises.len(), 1);
    }
}
