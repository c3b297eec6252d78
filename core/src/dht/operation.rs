//! What this node asks of the replicas: read, and on top of it write, vote and commit.
//!
//! Every operation first reads: the replicas, the record that counts, the own sequence. A node that knows all nodes around the key asks exactly the
//! replicas; any other asks the node closest to the key, then the replicas that it names, and before it believes "nothing" the nodes closest to four
//! points around the key. A round that ends without enough answers is repeated until the time limit.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::claim::{self, CONTEXT_ABORT, Judged, sign_record};
use super::key::{Key, Space};
use super::ring::{DEGREE, majority};
use super::{At, Call, Dht, DhtAction, DhtError, MAX_KEPT, MAX_OPERATIONS, OpId, Operation, Outcome, Why};
use crate::id::NodeId;
use crate::time::Instant;
use crate::wire::codec::Write as _;
use crate::wire::dht as wire;
use crate::wire::dht::{Abort, Answer, Bundle, Found, Grant, Refusal};

/// How long a read may take.
const READ_LIMIT: Duration = Duration::from_secs(10);
/// How long anything that writes may take.
const WRITE_LIMIT: Duration = Duration::from_secs(30);
/// How long the last answers are waited for once a majority has answered: a dead replica must not cost a time limit.
const GRACE: Duration = Duration::from_secs(1);
/// Pause before the first repeated round; it doubles up to 32 times that, each drawn between half and one and a half.
const PAUSE: Duration = Duration::from_millis(100);
/// When a renewal that failed is tried again.
const RENEW_AGAIN: Duration = Duration::from_secs(30);
/// Nodes asked in one round at most: the replicas by everybody's view, and some that turned out to be gone.
const MAX_ASKED: usize = 12;
/// Nodes that answers may name in one round: five liars with five names each, and the replicas.
const MAX_CANDIDATES: usize = 32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Pausing,
    Reading,
    Voting,
    Writing,
}

/// What is known of one node in this round.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Asked,
    Failed,
    Answered { synced: bool, has: Vec<[u8; 32]> },
}

/// A running operation.
#[derive(Debug)]
pub(super) struct Op {
    operation: Operation,
    point: NodeId,
    limit: Instant,
    phase: Phase,
    /// End of the pause, or of the grace for the last answers.
    wake: Option<Instant>,
    round: u32,
    outstanding: usize,
    candidates: BTreeSet<NodeId>,
    seen: BTreeMap<NodeId, Seen>,
    asked_around: bool,
    records: Vec<Judged>,
    /// What is voted on or written.
    draft: Option<Bundle>,
    targets: Vec<NodeId>,
    replicas: usize,
    acknowledged: usize,
    conflict: Option<Judged>,
    refusal: Option<Refusal>,
}

impl Op {
    pub(super) fn deadline(&self) -> Option<Instant> {
        Some(self.wake.map_or(self.limit, |wake| wake.min(self.limit)))
    }

    /// The record that counts among those read: tombstones remove their owners' older records.
    fn winner(&self, ring: &super::ring::Ring) -> Option<&Judged> {
        let dead = |judged: &&Judged| {
            let record = judged.record();
            !self.records.iter().any(|other| {
                other.record().tombstone && other.record().owner == record.owner && other.record().sequence >= record.sequence
            })
        };
        let live = self.records.iter().filter(|judged| !judged.record().tombstone && judged.is_sufficient(ring)).filter(dead);
        live.max_by(|a, b| a.against(b))
    }

    /// The nodes nearest to the key that have not failed.
    fn nearest(&self) -> Vec<NodeId> {
        let alive = |node: &&NodeId| self.seen.get(node) != Some(&Seen::Failed);
        let mut nodes: Vec<NodeId> = self.candidates.iter().filter(alive).copied().collect();
        nodes.sort_unstable_by(|a, b| self.point.closer(a, b));
        nodes.truncate(DEGREE);
        nodes
    }

    fn is_current(&self, round: u32, phase: Phase) -> bool {
        self.round == round && self.phase == phase
    }
}

/// A record that this node keeps alive.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) op: OpId,
    pub(super) operation: Operation,
    pub(super) bundle: Bundle,
    pub(super) renew_at: Instant,
}

impl Dht {
    pub(super) fn begin(&mut self, id: OpId, operation: Operation, at: At<'_>) {
        let too_long = match &operation {
            Operation::Put { value, .. } => value.len() > wire::MAX_VALUE,
            Operation::Create { value, .. } => value.len() > wire::MAX_CREATED_VALUE,
            _ => false,
        };
        if too_long || self.ops.len() >= MAX_OPERATIONS || self.ops.contains_key(&id) {
            let error = if too_long { DhtError::TooLong } else { DhtError::Busy };
            self.actions.push_back(DhtAction::Done { op: id, result: Err(error) });
            return;
        }
        if let Operation::Remove { key } = &operation {
            self.kept.remove(key);
        }
        let limit = at.now + if matches!(operation, Operation::Get { .. }) { READ_LIMIT } else { WRITE_LIMIT };
        let verify = match &operation {
            Operation::Verify { bundle, from, certificates } => Some((bundle.clone(), *from, certificates.clone())),
            _ => None,
        };
        let op = Op {
            point: operation.key().point(),
            operation,
            limit,
            phase: Phase::Pausing,
            wake: None,
            round: 0,
            outstanding: 0,
            candidates: BTreeSet::new(),
            seen: BTreeMap::new(),
            asked_around: false,
            records: Vec::new(),
            draft: None,
            targets: Vec::new(),
            replicas: 1,
            acknowledged: 0,
            conflict: None,
            refusal: None,
        };
        self.ops.insert(id, op);
        match verify {
            Some((bundle, from, certificates)) => self.check(bundle, &certificates, from, Why::Verify { op: id }, at),
            None => self.read(id),
        }
    }

    pub(super) fn wake_operations(&mut self, at: At<'_>) {
        let due: Vec<OpId> = self.ops.iter().filter(|(_, op)| op.deadline().is_some_and(|due| due <= at.now)).map(|(id, _)| *id).collect();
        for id in due {
            let Some(op) = self.ops.get_mut(&id) else { continue };
            op.wake = None;
            if op.limit <= at.now {
                let error = op.refusal.map_or(DhtError::Unsure, DhtError::Refused);
                self.take_votes_back(id);
                self.finish(id, Err(error), at);
            } else if op.phase == Phase::Pausing {
                self.read(id);
            } else {
                self.conclude(id, at);
            }
        }
        let due: Vec<Key> = self.kept.iter().filter(|(_, kept)| kept.renew_at <= at.now).map(|(key, _)| key.clone()).collect();
        for key in due {
            let Some(kept) = self.kept.get_mut(&key) else { continue };
            kept.renew_at = at.now + RENEW_AGAIN;
            let (op, operation) = (kept.op, kept.operation.clone());
            if !self.ops.contains_key(&op) {
                self.begin(op, operation, at);
            }
        }
    }

    /// Begins a round.
    fn read(&mut self, id: OpId) {
        let Some(op) = self.ops.get_mut(&id) else { return };
        op.phase = Phase::Reading;
        op.round += 1;
        op.outstanding = 0;
        op.candidates.clear();
        op.seen.clear();
        op.records.clear();
        op.asked_around = false;
        op.draft = None;
        op.conflict = None;
        op.replicas = self.ring.replicas();
        let point = op.point;
        if self.ring.holds(&point) || !self.ring.has_strangers() {
            op.candidates.extend(self.ring.nearest(&point));
            op.asked_around = !self.ring.has_strangers();
        } else {
            // Reads ask the closest node first; whoever writes must know the replicas from several sides.
            let writes = !matches!(op.operation, Operation::Get { .. });
            op.asked_around = writes;
            let around = self.ring.probes(&point, op.round / 2);
            let points = core::iter::once(point).chain(around.into_iter().filter(|_| writes));
            points.for_each(|point| self.ask(id, point, None));
        }
        self.dirty.insert(id);
    }

    fn ask(&mut self, id: OpId, point: NodeId, node: Option<NodeId>) {
        let Some(op) = self.ops.get_mut(&id) else { return };
        op.outstanding += 1;
        let round = op.round;
        let mut body = Vec::new();
        body.put_bytes8(op.operation.key().bytes());
        self.call(Call::Read { op: id, round, node }, point, node.is_some(), wire::METHOD_GET, body.into());
    }

    pub(super) fn on_read(&mut self, id: OpId, round: u32, asked: Option<NodeId>, answer: Option<(NodeId, Bytes)>, at: At<'_>) {
        let Some(op) = self.ops.get_mut(&id).filter(|op| op.is_current(round, Phase::Reading)) else { return };
        op.outstanding -= 1;
        self.dirty.insert(id);
        let found = answer.and_then(|(node, body)| Found::parse(&body).ok().map(|found| (asked.unwrap_or(node), found)));
        match (found, asked) {
            (Some((node, found)), _) => self.on_found(id, node, found, at),
            (None, Some(node)) => {
                op.seen.insert(node, Seen::Failed);
            }
            (None, None) => {}
        }
    }

    fn on_found(&mut self, id: OpId, node: NodeId, found: Found, at: At<'_>) {
        let Some(op) = self.ops.get_mut(&id) else { return };
        let has = found.bundles.iter().map(|bundle| bundle.record.digest()).collect();
        op.seen.insert(node, Seen::Answered { synced: found.synced && found.consistent, has });
        for candidate in found.replicas.into_iter().chain([node]) {
            if op.candidates.len() < MAX_CANDIDATES {
                op.candidates.insert(candidate);
            }
        }
        let (round, key) = (op.round, op.operation.key().clone());
        for bundle in found.bundles.into_iter().filter(|bundle| bundle.record.key == key) {
            if let Some(op) = self.ops.get_mut(&id) {
                op.outstanding += 1;
            }
            self.check(bundle, &found.certificates, node, Why::Read { op: id, round, node }, at);
        }
    }

    pub(super) fn on_read_judged(&mut self, id: OpId, round: u32, node: NodeId, judged: Option<Judged>) {
        let Some(op) = self.ops.get_mut(&id).filter(|op| op.is_current(round, Phase::Reading)) else { return };
        op.outstanding -= 1;
        self.dirty.insert(id);
        match judged {
            Some(judged) => {
                let same = op.records.iter_mut().find(|old| old.claim.digest == judged.claim.digest);
                match same {
                    // Of two grant lists of one record the one with more countersigners is the better proof.
                    Some(old) if judged.claim.countersigners > old.claim.countersigners => *old = judged,
                    Some(_) => {}
                    None => op.records.push(judged),
                }
            }
            None => {
                // What does not verify is no answer at all.
                if let Some(Seen::Answered { synced, .. }) = op.seen.get_mut(&node) {
                    *synced = false;
                }
            }
        }
    }

    /// Looks whether a round can go on or is over.
    pub(super) fn advance(&mut self, id: OpId, at: At<'_>) {
        let Some(op) = self.ops.get(&id) else { return };
        match op.phase {
            Phase::Pausing => {}
            Phase::Reading => self.advance_read(id, at),
            Phase::Voting | Phase::Writing => {
                let needed = majority(op.replicas.max(op.targets.len()).min(DEGREE));
                let enough = if op.phase == Phase::Voting {
                    op.draft.as_ref().is_some_and(|draft| draft.grants.len() >= needed)
                } else {
                    op.acknowledged >= needed
                };
                if op.outstanding == 0 || op.conflict.is_some() || op.phase == Phase::Writing && enough {
                    self.conclude(id, at);
                } else if enough {
                    self.allow_grace(id, at);
                }
            }
        }
    }

    fn allow_grace(&mut self, id: OpId, at: At<'_>) {
        if let Some(op) = self.ops.get_mut(&id) {
            op.wake = op.wake.or(Some(at.now + GRACE));
        }
    }

    fn advance_read(&mut self, id: OpId, at: At<'_>) {
        let Some(op) = self.ops.get(&id) else { return };
        let set = op.nearest();
        let unasked: Vec<NodeId> = set.iter().filter(|node| !op.seen.contains_key(*node)).copied().collect();
        let room = MAX_ASKED.saturating_sub(op.seen.len());
        for node in unasked.into_iter().take(room) {
            if let Some(op) = self.ops.get_mut(&id) {
                op.seen.insert(node, Seen::Asked);
            }
            if node == self.ring.local() {
                let found = self.found(self.ops[&id].operation.key(), at);
                self.on_found(id, node, found, at);
            } else {
                self.ask(id, node, Some(node));
            }
        }
        let Some(op) = self.ops.get(&id) else { return };
        let answered = set.iter().filter(|node| matches!(op.seen.get(node), Some(Seen::Answered { .. }))).count();
        let winner = op.winner(&self.ring).map(|judged| judged.claim.digest);
        let agreeing = |digest: [u8; 32]| op.seen.values().filter(|seen| matches!(seen, Seen::Answered { has, .. } if has.contains(&digest))).count();
        if op.outstanding == 0 {
            if winner.is_none() && !op.asked_around {
                if let Some(op) = self.ops.get_mut(&id) {
                    op.asked_around = true;
                }
                let (point, round) = (self.ops[&id].point, self.ops[&id].round / 2);
                self.ring.probes(&point, round).into_iter().for_each(|point| self.ask(id, point, None));
            } else if !self.dirty.contains(&id) {
                self.conclude(id, at);
            }
        } else if matches!(op.operation, Operation::Get { .. }) && winner.is_some_and(|digest| agreeing(digest) >= majority(set.len())) {
            self.conclude(id, at);
        } else if answered >= majority(set.len()) && (winner.is_some() || op.asked_around) {
            self.allow_grace(id, at);
        }
    }

    /// Ends a round with the answers that are there.
    fn conclude(&mut self, id: OpId, at: At<'_>) {
        let Some(op) = self.ops.get_mut(&id) else { return };
        op.wake = None;
        match op.phase {
            Phase::Pausing => {}
            Phase::Reading => self.conclude_read(id, at),
            Phase::Voting => self.conclude_vote(id, at),
            Phase::Writing => self.conclude_write(id, at),
        }
    }

    fn conclude_read(&mut self, id: OpId, at: At<'_>) {
        let Some(op) = self.ops.get(&id) else { return };
        let set = op.nearest();
        let synced = set.iter().filter(|node| matches!(op.seen.get(node), Some(Seen::Answered { synced: true, .. }))).count();
        let sure = synced >= majority(set.len().max(op.replicas).min(DEGREE)) && !set.is_empty();
        let winner = op.winner(&self.ring).cloned();
        let local = self.ring.local();
        let own = op.records.iter().filter(|judged| judged.record().owner == local).map(|judged| judged.record().sequence).max();
        let operation = op.operation.clone();
        if let (Operation::Get { .. }, Some(winner)) = (&operation, winner.as_ref()) {
            self.repair(id, &winner.bundle, at);
            return self.finish(id, Ok(Outcome::Found(winner.bundle.clone())), at);
        }
        if !sure || !(self.ring.is_consistent() || matches!(operation, Operation::Get { .. })) {
            return self.pause(id, DhtError::Unsure, at);
        }
        let owned_by_other = winner.as_ref().filter(|judged| judged.record().owner != local);
        // The wall clock as floor: a node that lost its state does not fall behind what it wrote before.
        let sequence = own.map_or(0, |own| own.saturating_add(1)).max(at.wall.0);
        match operation {
            Operation::Get { .. } | Operation::Verify { .. } => self.finish(id, Ok(Outcome::Absent), at),
            Operation::Store { bundle } => self.send_all(id, Phase::Writing, bundle, set, at),
            Operation::Put { key, value, lifetime, .. } => {
                let record = sign_record(&self.identity, key, value, sequence, Self::expiry(lifetime, at.wall), false);
                let bundle = Bundle { record, grants: Vec::new() };
                let ours = claim::judge(&bundle, &mut self.certificates, &self.networks, &self.ring, at);
                match (ours, owned_by_other) {
                    (Err(refusal), _) => self.finish(id, Err(DhtError::Refused(refusal)), at),
                    (Ok(ours), Some(theirs)) if ours.against(theirs).is_lt() && !matches!(ours.record().key.space(), Space::Group) => {
                        self.finish(id, Err(DhtError::Conflict(Box::new(theirs.bundle.clone()))), at);
                    }
                    (Ok(_), theirs) => {
                        let mut bundle = bundle;
                        if let Some(theirs) = theirs.filter(|_| matches!(bundle.record.key.space(), Space::Group)) {
                            // A group's key has one history, whichever admin writes it.
                            let sequence = sequence.max(theirs.record().sequence.saturating_add(1));
                            let Bundle { record, .. } = bundle;
                            bundle = Bundle { record: sign_record(&self.identity, record.key, record.value, sequence, record.expires, false), grants: Vec::new() };
                        }
                        self.send_all(id, Phase::Writing, bundle, set, at);
                    }
                }
            }
            Operation::Create { key, value, lifetime, .. } => {
                if let Some(theirs) = owned_by_other {
                    return self.finish(id, Err(DhtError::Conflict(Box::new(theirs.bundle.clone()))), at);
                }
                let record = sign_record(&self.identity, key, value, sequence, Self::expiry(lifetime, at.wall), false);
                self.send_all(id, Phase::Voting, Bundle { record, grants: Vec::new() }, set, at);
            }
            Operation::Remove { key } => {
                let expires = self.ops[&id].records.iter().filter(|judged| judged.record().owner == local && !judged.record().tombstone);
                // The tombstone outlives every record that it removes.
                match expires.map(|judged| judged.record().expires).max() {
                    None => self.finish(id, Ok(Outcome::Removed), at),
                    Some(expires) => {
                        let record = sign_record(&self.identity, key, Bytes::new(), sequence, expires, true);
                        self.send_all(id, Phase::Writing, Bundle { record, grants: Vec::new() }, set, at);
                    }
                }
            }
        }
    }

    /// Brings replicas that answered without the record that counts up to date.
    fn repair(&mut self, id: OpId, bundle: &Bundle, at: At<'_>) {
        let Some(op) = self.ops.get(&id) else { return };
        let digest = bundle.record.digest();
        let lacks = |node: &NodeId| matches!(op.seen.get(node), Some(Seen::Answered { has, .. }) if !has.contains(&digest));
        let lacking: Vec<NodeId> = op.nearest().into_iter().filter(lacks).collect();
        for node in lacking {
            if node == self.ring.local() {
                if let Ok(judged) = claim::judge(bundle, &mut self.certificates, &self.networks, &self.ring, at) {
                    let _ = self.decide(wire::METHOD_STORE, Ok(judged), at);
                }
            } else {
                let body = self.offer(bundle);
                self.call(Call::Unheeded, node, true, wire::METHOD_STORE, body);
            }
        }
    }

    /// Asks all replicas for their vote, or to store.
    fn send_all(&mut self, id: OpId, phase: Phase, bundle: Bundle, targets: Vec<NodeId>, at: At<'_>) {
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

    fn conclude_vote(&mut self, id: OpId, at: At<'_>) {
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

    fn conclude_write(&mut self, id: OpId, at: At<'_>) {
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
    fn take_votes_back(&mut self, id: OpId) {
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

    fn pause(&mut self, id: OpId, error: DhtError, at: At<'_>) {
        let Some(op) = self.ops.get_mut(&id) else { return };
        op.phase = Phase::Pausing;
        op.round += 1;
        let pause = self.rng.jitter(PAUSE * (1 << (op.round / 2).min(5)), 500);
        if at.now + pause >= op.limit {
            return self.finish(id, Err(error), at);
        }
        op.wake = Some(at.now + pause);
    }

    fn finish(&mut self, id: OpId, result: Result<Outcome, DhtError>, at: At<'_>) {
        let Some(op) = self.ops.remove(&id) else { return };
        self.dirty.remove(&id);
        let key = op.operation.key().clone();
        match &result {
            Ok(Outcome::Stored(bundle)) if op.operation.is_kept() && (self.kept.len() < MAX_KEPT || self.kept.contains_key(&key)) => {
                let half = Duration::from_secs(bundle.record.expires.saturating_since(at.wall)) / 2;
                let renew_at = at.now + self.rng.jitter(half, 100);
                self.kept.insert(key, Kept { op: id, operation: op.operation, bundle: bundle.clone(), renew_at });
            }
            Err(DhtError::Conflict(_)) => {
                self.kept.remove(&key);
            }
            _ => {}
        }
        self.actions.push_back(DhtAction::Done { op: id, result });
    }
}
