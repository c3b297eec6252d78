//! Writing: what follows from a read, votes, commits, and taking votes back.

use bytes::Bytes;

use super::claim::{self, CONTEXT_ABORT, Judged, sign_record};
use super::key::Space;
use super::operation::{Phase, Seen};
use super::ring::{DEGREE, majority};
use super::{At, Call, Dht, DhtError, OpId, Operation, Outcome, Why};
use crate::id::NodeId;
use crate::wire::dht as wire;
use crate::wire::dht::{Abort, Answer, Bundle, Grant, Refusal};

impl Dht {
    pub(super) fn conclude_read(&mut self, id: OpId, at: At<'_>) {
        let Some(op) = self.ops.get(&id) else { return };
        let set = op.nearest(&self.ring);
        let synced = set.iter().filter(|node| matches!(op.seen.get(node), Some(Seen::Answered { synced: true, .. }))).count();
        let sure = synced >= majority(set.len().max(op.replicas).min(DEGREE)) && !set.is_empty();
        let winner = op.winner(&self.ring).cloned();
        let operation = op.operation.clone();
        if let (Operation::Get { .. }, Some(winner)) = (&operation, winner.as_ref()) {
            self.repair(id, &winner.bundle, at);
            return self.finish(id, Ok(Outcome::Found(winner.bundle.clone())), at);
        }
        if !sure || !(self.ring.is_consistent() || matches!(operation, Operation::Get { .. })) {
            return self.pause(id, DhtError::Unsure, at);
        }
        let own = op.records.iter().filter(|judged| judged.record().owner == self.ring.local());
        let (last, expires) = own.fold((0, None), |(last, expires), judged| {
            let record = judged.record();
            (record.sequence.saturating_add(1).max(last), expires.max((!record.tombstone).then_some(record.expires)))
        });
        // The wall clock as floor: a node that lost its state does not fall behind what it wrote before.
        let sequence = last.max(at.wall.0);
        let theirs = winner.filter(|judged| judged.record().owner != self.ring.local());
        match operation {
            Operation::Get { .. } | Operation::Verify { .. } => self.finish(id, Ok(Outcome::Absent), at),
            Operation::Store { bundle } => self.send_all(id, Phase::Writing, bundle, set, at),
            Operation::Put { key, value, lifetime, .. } => {
                // A group's key has one history, whichever admin writes it.
                let shared =
                    theirs.as_ref().filter(|_| key.space() == Space::Group).map(|theirs| theirs.record().sequence.saturating_add(1));
                let sequence = sequence.max(shared.unwrap_or(0));
                let record = sign_record(&self.identity, key, value, sequence, Self::expiry(lifetime, at.wall), false);
                self.put(id, Bundle { record, grants: Vec::new() }, theirs, set, at);
            }
            Operation::Create { key, value, lifetime, .. } => {
                if let Some(theirs) = theirs {
                    return self.finish(id, Err(DhtError::Conflict(Box::new(theirs.bundle))), at);
                }
                let record = sign_record(&self.identity, key, value, sequence, Self::expiry(lifetime, at.wall), false);
                self.send_all(id, Phase::Voting, Bundle { record, grants: Vec::new() }, set, at);
            }
            // The tombstone lasts as long as any record that it removes.
            Operation::Remove { key } => match expires {
                None => self.finish(id, Ok(Outcome::Removed), at),
                Some(expires) => {
                    let record = sign_record(&self.identity, key, Bytes::new(), sequence, expires, true);
                    self.send_all(id, Phase::Writing, Bundle { record, grants: Vec::new() }, set, at);
                }
            },
        }
    }

    fn put(&mut self, id: OpId, bundle: Bundle, theirs: Option<Judged>, set: Vec<NodeId>, at: At<'_>) {
        match (claim::judge(&bundle, &mut self.certificates, &self.networks, &self.ring, at), theirs) {
            (Err(refusal), _) => self.finish(id, Err(DhtError::Refused(refusal)), at),
            (Ok(ours), Some(theirs)) if ours.against(&theirs).is_lt() => {
                self.finish(id, Err(DhtError::Conflict(Box::new(theirs.bundle))), at);
            }
            (Ok(_), _) => self.send_all(id, Phase::Writing, bundle, set, at),
        }
    }

    /// Asks all replicas for their vote, or to store.
    pub(super) fn send_all(&mut self, id: OpId, phase: Phase, bundle: Bundle, targets: Vec<NodeId>, at: At<'_>) {
        let Some(op) = self.ops.get_mut(&id) else { return };
        op.phase = phase;
        op.round += 1;
        op.outstanding = targets.len();
        op.acknowledged = 0;
        op.draft = Some(bundle.clone());
        op.targets.clone_from(&targets);
        let round = op.round;
        let method = if phase == Phase::Voting { wire::METHOD_CREATE } else { wire::METHOD_STORE };
        for node in targets {
            if node == self.ring.local() {
                self.check(bundle.clone(), &[], node, Why::Local { op: id, round, method }, at);
            } else {
                let body = self.offer(&bundle);
                self.call(Call::Answer { op: id, round, node }, node, true, method, body);
            }
        }
        self.dirty.insert(id);
    }

    pub(super) fn on_answer_bytes(&mut self, id: OpId, round: u32, node: NodeId, body: Option<Bytes>, at: At<'_>) {
        let answer = body.and_then(|body| Answer::parse(&body).ok());
        self.on_answer(id, round, node, answer, at);
    }

    pub(super) fn on_answer(&mut self, id: OpId, round: u32, node: NodeId, answer: Option<Answer>, at: At<'_>) {
        let Some(op) = self.ops.get_mut(&id).filter(|op| op.round == round) else { return };
        let Some(draft) = op.draft.as_ref() else { return };
        self.dirty.insert(id);
        match answer {
            Some(Answer::Granted { replicas, grant }) if op.phase == Phase::Voting && grant.node == node => {
                op.replicas = op.replicas.max(usize::from(replicas)).min(DEGREE);
                let bundle = Bundle { record: draft.record.clone(), grants: vec![grant] };
                return self.check(bundle, &[], node, Why::Grant { op: id, round, node }, at);
            }
            Some(Answer::Conflict(bundle)) if bundle.record.key == draft.record.key => {
                return self.check(*bundle, &[], node, Why::Conflict { op: id, round }, at);
            }
            Some(Answer::Done) => op.acknowledged += 1,
            Some(Answer::Refused(refusal)) => op.refusal = Some(refusal),
            _ => {}
        }
        op.outstanding -= 1;
    }

    pub(super) fn on_grant(&mut self, id: OpId, round: u32, node: NodeId, judged: Option<Judged>) {
        let Some(op) = self.ops.get_mut(&id).filter(|op| op.is_current(round, Phase::Voting)) else { return };
        op.outstanding -= 1;
        self.dirty.insert(id);
        let granted: Option<Grant> = judged.and_then(|judged| judged.bundle.grants.into_iter().find(|grant| grant.node == node));
        if let (Some(grant), Some(draft)) = (granted, op.draft.as_mut())
            && let Err(place) = draft.grants.binary_search_by(|other| other.node.cmp(&grant.node))
            && draft.grants.len() < DEGREE
        {
            draft.grants.insert(place, grant);
        }
    }

    pub(super) fn on_conflict(&mut self, id: OpId, round: u32, judged: Option<Judged>) {
        let local = self.ring.local();
        let Some(op) = self.ops.get_mut(&id).filter(|op| op.round == round) else { return };
        op.outstanding -= 1;
        self.dirty.insert(id);
        // Only a record that verifies stands in the way: a replica's word alone does not.
        if let Some(judged) = judged.filter(|judged| judged.record().owner != local && !judged.record().tombstone) {
            op.conflict = Some(judged);
        }
    }

    pub(super) fn conclude_vote(&mut self, id: OpId, at: At<'_>) {
        let Some(op) = self.ops.get_mut(&id) else { return };
        let Some(draft) = op.draft.clone() else { return };
        let needed = majority(op.replicas.max(op.targets.len()).min(DEGREE)).max(self.ring.required());
        if let Some(theirs) = op.conflict.take() {
            self.take_votes_back(id);
            self.finish(id, Err(DhtError::Conflict(Box::new(theirs.bundle))), at);
        } else if draft.grants.len() >= needed {
            let targets = core::mem::take(&mut op.targets);
            self.send_all(id, Phase::Writing, draft, targets, at);
        } else {
            self.take_votes_back(id);
            let error = self.ops.get(&id).and_then(|op| op.refusal).map_or(DhtError::Unsure, DhtError::Refused);
            self.pause(id, error, at);
        }
    }

    pub(super) fn conclude_write(&mut self, id: OpId, at: At<'_>) {
        let Some(op) = self.ops.get_mut(&id) else { return };
        let Some(draft) = op.draft.clone() else { return };
        let needed = majority(op.replicas.max(op.targets.len()).min(DEGREE));
        let (acknowledged, refusal) = (op.acknowledged, op.refusal);
        let conflict = op.conflict.take();
        if acknowledged >= needed {
            let outcome = if draft.record.tombstone { Outcome::Removed } else { Outcome::Stored(draft) };
            return self.finish(id, Ok(outcome), at);
        }
        self.take_votes_back(id);
        match (conflict, refusal) {
            (Some(theirs), _) => self.finish(id, Err(DhtError::Conflict(Box::new(theirs.bundle))), at),
            (None, Some(refusal @ (Refusal::Quota | Refusal::Full | Refusal::Expired | Refusal::Forbidden | Refusal::Stale))) => {
                self.finish(id, Err(DhtError::Refused(refusal)), at);
            }
            (None, refusal) => self.pause(id, refusal.map_or(DhtError::Unsure, DhtError::Refused), at),
        }
    }

    /// Roll-back: a creator without a majority leaves no vote bound.
    pub(super) fn take_votes_back(&mut self, id: OpId) {
        let Some(op) = self.ops.get(&id) else { return };
        let (Operation::Create { key, .. }, Some(draft)) = (&op.operation, &op.draft) else { return };
        if !matches!(op.phase, Phase::Voting | Phase::Writing) {
            return;
        }
        let digest = draft.record.digest();
        let signature = self.identity.sign(CONTEXT_ABORT, &Abort::signed(key, &digest));
        let abort = Abort { key: key.clone(), digest, certificate: draft.record.certificate, signature };
        let targets = op.targets.clone();
        for node in targets {
            if node == self.ring.local() {
                self.store.abort(&abort.key, &digest);
            } else {
                self.call(Call::Unheeded, node, true, wire::METHOD_ABORT, abort.body());
            }
        }
    }
}
