//! What other nodes ask of this one as a replica.

use bytes::Bytes;

use super::claim::{CONTEXT_ABORT, Judged, sign_grant};
use super::key::{Key, Space};
use super::ring::{DEGREE, ReplyTo};
use super::store::Put;
use super::{At, Call, Dht, DhtAction, DhtError, ERROR_MALFORMED, ERROR_UNKNOWN_METHOD, MAX_NOTICES, Why};
use crate::id::NodeId;
use crate::wire::codec::Reader;
use crate::wire::dht as wire;
use crate::wire::dht::{Abort, Answer, Bundle, Found, Offer, Page, Refusal};

impl Dht {
    pub(super) fn serve(&mut self, from: NodeId, method: u8, body: &[u8], reply: ReplyTo, at: At<'_>) {
        let answer = match method {
            wire::METHOD_GET => parse_key(body).map(|key| self.found(&key, at).body()),
            wire::METHOD_STORE | wire::METHOD_CREATE | wire::METHOD_NOTICE => match Offer::parse(body) {
                Ok(offer) => return self.check(offer.bundle, &offer.certificates, from, Why::Serve { method, reply }, at),
                Err(_) => None,
            },
            wire::METHOD_ABORT => Abort::parse(body).ok().map(|abort| self.aborted(&abort, at).bytes()),
            wire::METHOD_FETCH => body.try_into().ok().map(|fingerprint| self.certificates.der(&fingerprint).unwrap_or_default()),
            wire::METHOD_SYNC => self.page_for(from, body, at),
            _ => return self.actions.push_back(DhtAction::Reply { to: reply, body: Err(ERROR_UNKNOWN_METHOD) }),
        };
        self.actions.push_back(DhtAction::Reply { to: reply, body: answer.ok_or(ERROR_MALFORMED) });
    }

    pub(super) fn found(&self, key: &Key, at: At<'_>) -> Found {
        let bundles = self.store.bundles(key, at.wall);
        let certificates = bundles.iter().filter_map(|bundle| self.certificates.der(&bundle.record.certificate)).collect();
        Found {
            synced: self.is_synced(),
            consistent: self.ring.is_consistent(),
            replicas: self.ring.nearest(&key.point()),
            bundles,
            certificates,
        }
    }

    /// Answers a store, create or notice whose bundle was verified; this node asks itself in the same way.
    pub(super) fn decide(&mut self, method: u8, result: Result<Judged, Refusal>, at: At<'_>) -> Answer {
        let judged = match result {
            Ok(judged) => judged,
            Err(refusal) => return Answer::Refused(refusal),
        };
        match method {
            wire::METHOD_CREATE => self.vote(&judged, at),
            wire::METHOD_NOTICE => {
                self.noticed(&judged, at);
                Answer::Done
            }
            _ => self.accept(judged, at),
        }
    }

    /// Votes: once for each key, for whoever comes first, and for nobody while somebody owns it.
    fn vote(&mut self, judged: &Judged, at: At<'_>) -> Answer {
        let record = judged.record();
        if !self.is_synced() {
            return Answer::Refused(Refusal::NotSynced);
        }
        if !self.ring.holds(&record.key.point()) {
            return Answer::Refused(Refusal::NotReplica);
        }
        if record.tombstone || record.value.len() > wire::MAX_CREATED_VALUE {
            return Answer::Refused(Refusal::Forbidden);
        }
        let mut since = at.wall;
        if let Some(live) = self.store.live(&record.key, at.wall) {
            if live.record().owner != record.owner {
                return Answer::Conflict(Box::new(live.bundle.clone()));
            }
            if live.record().sequence >= record.sequence {
                return Answer::Refused(Refusal::Stale);
            }
            since = since.min(live.claim.since);
        } else if let Err(refusal) = self.store.admit(judged) {
            return Answer::Refused(refusal);
        }
        match self.store.promise(&record.key, judged.claim.digest, record.owner, at.now) {
            Ok(()) => Answer::Granted { replicas: self.ring.replicas() as u8, grant: sign_grant(&self.identity, record, since, at.wall) },
            Err(refusal) => Answer::Refused(refusal),
        }
    }

    fn accept(&mut self, judged: Judged, at: At<'_>) -> Answer {
        let record = judged.record();
        let rank = self.ring.rank(&self.ring.local(), &record.key.point());
        // Twice the degree: the sender's view of the ring may be older than ours, and a copy too many harms nobody.
        if rank >= 2 * DEGREE {
            return Answer::Refused(Refusal::NotReplica);
        }
        let is_lease = matches!(record.key.space(), Space::Address(_)) && !judged.claim.fixed;
        if is_lease && !record.tombstone && judged.claim.countersigners == 0 {
            return Answer::Refused(Refusal::Unverified);
        }
        let bypasses_vote = judged.claim.fixed || judged.claim.countersigners >= self.ring.required();
        if self.store.promised(&record.key, at.now).is_some_and(|promise| promise.owner != record.owner) && !bypasses_vote {
            return Answer::Refused(Refusal::Busy);
        }
        let key = record.key.clone();
        let winner = judged.bundle.clone();
        match self.store.put(judged, at.wall) {
            Ok(Put::Stored { ousted: Some(loser) }) => {
                self.tell_loser(loser, &key, &winner);
                Answer::Done
            }
            Ok(Put::Stored { ousted: None } | Put::Same) => Answer::Done,
            Ok(Put::Conflict(bundle)) => Answer::Conflict(bundle),
            Err(refusal) => Answer::Refused(refusal),
        }
    }

    /// Tells an owner that it lost its key, so that it moves on before its next renewal. The two nearest replicas do it.
    pub(super) fn tell_loser(&mut self, loser: NodeId, key: &Key, winner: &Bundle) {
        if self.ring.rank(&self.ring.local(), &key.point()) >= 2 || self.notices >= MAX_NOTICES {
            return;
        }
        if loser == self.ring.local() {
            // Our own record: our kept operation learns it by the same path as from others.
            if let Some(judged) = self.kept.remove(key) {
                self.ops.remove(&judged.op);
                self.actions.push_back(DhtAction::Done { op: judged.op, result: Err(DhtError::Conflict(Box::new(winner.clone()))) });
            }
            return;
        }
        self.notices += 1;
        let body = self.offer(winner);
        self.call(Call::Notice, loser, true, wire::METHOD_NOTICE, body);
    }

    fn noticed(&mut self, winner: &Judged, at: At<'_>) {
        let key = &winner.record().key;
        let Some(kept) = self.kept.get(key) else { return };
        if winner.record().owner == self.ring.local() || winner.record().tombstone || !winner.is_sufficient(&self.ring) {
            return;
        }
        let ours = super::claim::judge(&kept.bundle, &mut self.certificates, &self.networks, &self.ring, at);
        if ours.is_ok_and(|ours| ours.against(winner).is_gt()) {
            return;
        }
        if let Some(kept) = self.kept.remove(key) {
            self.ops.remove(&kept.op);
            self.actions.push_back(DhtAction::Done { op: kept.op, result: Err(DhtError::Conflict(Box::new(winner.bundle.clone()))) });
        }
    }

    fn aborted(&mut self, abort: &Abort, at: At<'_>) -> Answer {
        let Some(certificate) = self.certificates.valid(&abort.certificate, at) else { return Answer::Refused(Refusal::Unverified) };
        let Some(promise) = self.store.promised(&abort.key, at.now) else { return Answer::Done };
        let signed = Abort::signed(&abort.key, &abort.digest);
        if promise.owner != certificate.node_id() || !certificate.verify_signature(CONTEXT_ABORT, &signed, &abort.signature) {
            return Answer::Refused(Refusal::Unverified);
        }
        self.store.abort(&abort.key, &abort.digest);
        Answer::Done
    }

    fn page_for(&self, asker: NodeId, body: &[u8], at: At<'_>) -> Option<Bytes> {
        let mut reader = Reader::new(body);
        let after = match reader.bytes8().ok()? {
            [] => None,
            text => Some(Key::parse(text)?),
        };
        reader.finish().ok()?;
        let mut page = Page::default();
        let mut len = 2;
        for key in self.store.keys_after(after.as_ref()) {
            if self.ring.rank(&asker, &key.point()) >= DEGREE {
                continue;
            }
            let Some(digest) = self.store.state(key, at.wall) else { continue };
            if page.entries.len() >= wire::MAX_PAGE || !Page::fits(len, key) {
                page.more = true;
                break;
            }
            len += 17 + key.bytes().len();
            page.entries.push((key.clone(), digest));
        }
        Some(page.body())
    }
}

fn parse_key(body: &[u8]) -> Option<Key> {
    let mut reader = Reader::new(body);
    let key = wire::read_key(&mut reader).ok()?;
    reader.finish().ok()?;
    Some(key)
}
