//! Hand-over: what this node must hold it pulls from its neighbours, and until it has, it says "not synced".

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

use super::claim::Judged;
use super::key::Key;
use super::ring::DEGREE;
use super::store::Put;
use super::{At, Call, Dht, Why};
use crate::id::NodeId;
use crate::time::Instant;
use crate::wire::codec::Write as _;
use crate::wire::dht as wire;
use crate::wire::dht::{Found, Page, Refusal};

/// Records pulled at a time from all neighbours together: 16 replies are within what a slow link buffers.
const MAX_PULLS: usize = 16;
/// Keys that one neighbour may name: as many as it can store.
const MAX_NAMED: usize = super::store::MAX_RECORDS;
/// How often a neighbour that does not answer is asked before the others are trusted alone.
const TRIES: u8 = 3;
const AGAIN: Duration = Duration::from_secs(1);

/// The hand-over from one neighbour.
#[derive(Debug, Default)]
struct From {
    /// Last key of the page before.
    after: Option<Key>,
    more: bool,
    paging: bool,
    queue: VecDeque<Key>,
    pulling: usize,
    named: usize,
    failures: u8,
    again: Option<Instant>,
}

/// Hand-over from all neighbours that have not finished theirs.
#[derive(Debug, Default)]
pub(super) struct Sync {
    from: BTreeMap<NodeId, From>,
    /// What is still to be handed over before leaving; bounded by what is stored.
    leaving: VecDeque<(NodeId, Key)>,
    pushing: usize,
}

impl Sync {
    pub(super) fn is_done(&self) -> bool {
        self.from.is_empty()
    }

    pub(super) fn has_left(&self) -> bool {
        self.leaving.is_empty() && self.pushing == 0
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.from.values().filter_map(|from| from.again).min()
    }
}

impl Dht {
    /// Neighbours changed: new ones are asked for what they have; when one is gone all are, as this node now holds what it did not before.
    pub(super) fn sync_with_neighbours(&mut self, before: &[NodeId]) {
        let near: BTreeSet<NodeId> = self.ring.near().iter().copied().collect();
        self.sync.from.retain(|node, _| near.contains(node));
        let lost_one = before.iter().any(|node| self.ring.vicinity().binary_search(node).is_err());
        let whom: Vec<NodeId> = near.into_iter().filter(|node| lost_one || !before.contains(node)).collect();
        for node in whom {
            self.sync.from.insert(node, From { more: true, ..From::default() });
            self.go_on(node);
        }
    }

    pub(super) fn wake_sync(&mut self, at: At<'_>) {
        let due: Vec<NodeId> =
            self.sync.from.iter().filter(|(_, from)| from.again.is_some_and(|again| again <= at.now)).map(|(node, _)| *node).collect();
        for node in due {
            if let Some(from) = self.sync.from.get_mut(&node) {
                from.again = None;
            }
            self.go_on(node);
        }
    }

    fn go_on(&mut self, peer: NodeId) {
        loop {
            let pulls: usize = self.sync.from.values().map(|from| from.pulling).sum();
            let Some(from) = self.sync.from.get_mut(&peer) else { return };
            if let Some(key) = from.queue.front().cloned() {
                if pulls >= MAX_PULLS {
                    return;
                }
                from.queue.pop_front();
                from.pulling += 1;
                let mut body = Vec::new();
                body.put_bytes8(key.bytes());
                self.call(Call::Pull { peer }, peer, true, wire::METHOD_GET, body.into());
                continue;
            }
            if from.pulling > 0 || from.paging || from.again.is_some() {
                return;
            }
            if from.more {
                from.paging = true;
                let mut body = Vec::new();
                body.put_bytes8(from.after.as_ref().map_or(&[][..], Key::bytes));
                self.call(Call::Page { peer }, peer, true, wire::METHOD_SYNC, body.into());
                return;
            }
            self.sync.from.remove(&peer);
            // Its share of the pulls is free for the others.
            let others: Vec<NodeId> = self.sync.from.iter().filter(|(_, from)| !from.queue.is_empty()).map(|(node, _)| *node).collect();
            others.into_iter().for_each(|other| self.go_on(other));
            return;
        }
    }

    pub(super) fn on_page(&mut self, peer: NodeId, body: Option<Bytes>, at: At<'_>) {
        let Some(from) = self.sync.from.get_mut(&peer).filter(|from| from.paging) else { return };
        from.paging = false;
        match body.and_then(|body| Page::parse(&body).ok()) {
            Some(page) => {
                // A page that does not go on from the one before ends the hand-over: no neighbour keeps us asking for ever.
                let goes_on = page.entries.first().is_none_or(|(key, _)| from.after.as_ref().is_none_or(|after| key > after));
                from.named += page.entries.len();
                from.more = page.more && goes_on && !page.entries.is_empty() && from.named < MAX_NAMED;
                from.after = page.entries.last().map(|(key, _)| key.clone()).or_else(|| from.after.take());
                let (store, ring) = (&self.store, &self.ring);
                let wanted = |(key, digest): &(Key, [u8; 16])| {
                    store.state(key, at.wall) != Some(*digest) && ring.rank(&ring.local(), &key.point()) < DEGREE
                };
                from.queue.extend(page.entries.into_iter().filter(wanted).map(|(key, _)| key));
            }
            None => {
                from.failures += 1;
                from.more = from.failures < TRIES;
                from.again = from.more.then_some(at.now + AGAIN);
            }
        }
        self.go_on(peer);
    }

    pub(super) fn on_pulled(&mut self, peer: NodeId, body: Option<Bytes>, at: At<'_>) {
        if let Some(found) = body.and_then(|body| Found::parse(&body).ok()) {
            for bundle in found.bundles {
                if let Some(from) = self.sync.from.get_mut(&peer) {
                    from.pulling += 1;
                }
                self.check(bundle, &found.certificates, peer, Why::Pull { peer }, at);
            }
        }
        self.pulled(peer);
    }

    pub(super) fn on_pull_judged(&mut self, peer: NodeId, result: Result<Judged, Refusal>, at: At<'_>) {
        if let Ok(judged) = result {
            let (key, bundle) = (judged.record().key.clone(), judged.bundle.clone());
            match self.store.put(judged, at.wall) {
                Ok(Put::Stored { ousted: Some(loser) }) => self.tell_loser(loser, &key, &bundle),
                Ok(Put::Conflict(winner)) => self.tell_loser(bundle.record.owner, &key, &winner),
                _ => {}
            }
        }
        self.pulled(peer);
    }

    fn pulled(&mut self, peer: NodeId) {
        if let Some(from) = self.sync.from.get_mut(&peer) {
            from.pulling = from.pulling.saturating_sub(1);
        }
        self.go_on(peer);
    }

    /// Pushes every record to those who become its replicas when this node is gone.
    pub(super) fn hand_over_all(&mut self, at: At<'_>) {
        self.sync.leaving.clear();
        for key in self.store.keys_after(None) {
            let point = key.point();
            // The replicas have it already; the one that is next in order does not.
            if let Some(next) = self.ring.next_replica(&point).filter(|_| self.ring.holds(&point)) {
                self.sync.leaving.push_back((next, key.clone()));
            }
        }
        self.push_on(at);
    }

    pub(super) fn on_pushed(&mut self, at: At<'_>) {
        self.sync.pushing = self.sync.pushing.saturating_sub(1);
        self.push_on(at);
    }

    fn push_on(&mut self, at: At<'_>) {
        while self.sync.pushing < MAX_PULLS {
            let Some((next, key)) = self.sync.leaving.pop_front() else { return };
            for bundle in self.store.bundles(&key, at.wall) {
                self.sync.pushing += 1;
                let body = self.offer(&bundle);
                self.call(Call::Push, next, true, wire::METHOD_STORE, body);
            }
        }
    }
}
