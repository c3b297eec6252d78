//! What this node asks of the replicas: read, and on top of it write, vote and commit.
//!
//! Every operation first reads: the replicas, the record that counts, the own sequence. A node that knows all nodes around the key asks exactly the
//! replicas; any other asks the node closest to the key, then the replicas that it names, and before it believes "nothing" the nodes closest to four
//! points around the key. A round that ends without enough answers is repeated until the time limit.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use super::claim::Judged;
use super::key::Key;
use super::ring::{DEGREE, Ring, majority};
use super::{At, Dht, DhtAction, DhtError, MAX_KEPT, MAX_OPERATIONS, OpId, Operation, Outcome, Why};
use crate::id::NodeId;
use crate::time::Instant;
use crate::wire::dht as wire;
use crate::wire::dht::{Bundle, Refusal};

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
pub(super) const MAX_ASKED: usize = 12;
/// Nodes that answers may name in one round: five liars with five names each, and the replicas.
pub(super) const MAX_CANDIDATES: usize = 32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Pausing,
    Reading,
    Voting,
    Writing,
}

/// What is known of one node in this round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    Asked,
    Failed,
    Answered { synced: bool, has: Vec<[u8; 32]> },
}

/// A running operation.
#[derive(Debug)]
pub(super) struct Op {
    pub(super) operation: Operation,
    pub(super) point: NodeId,
    pub(super) limit: Instant,
    pub(super) phase: Phase,
    /// End of the pause, or of the grace for the last answers.
    pub(super) wake: Option<Instant>,
    pub(super) round: u32,
    pub(super) outstanding: usize,
    pub(super) candidates: BTreeSet<NodeId>,
    pub(super) seen: BTreeMap<NodeId, Seen>,
    pub(super) asked_around: bool,
    pub(super) records: Vec<Judged>,
    /// What is voted on or written.
    pub(super) draft: Option<Bundle>,
    pub(super) targets: Vec<NodeId>,
    pub(super) replicas: usize,
    pub(super) acknowledged: usize,
    pub(super) conflict: Option<Judged>,
    pub(super) refusal: Option<Refusal>,
}

impl Op {
    pub(super) fn deadline(&self) -> Option<Instant> {
        Some(self.wake.map_or(self.limit, |wake| wake.min(self.limit)))
    }

    /// The record that counts among those read: tombstones remove their owners' older records.
    pub(super) fn winner(&self, ring: &Ring) -> Option<&Judged> {
        let dead = |judged: &&Judged| {
            let record = judged.record();
            !self
                .records
                .iter()
                .any(|other| other.record().tombstone && other.record().owner == record.owner && other.record().sequence >= record.sequence)
        };
        let live = self.records.iter().filter(|judged| !judged.record().tombstone && judged.is_sufficient(ring)).filter(dead);
        live.max_by(|a, b| a.against(b))
    }

    /// The nodes nearest to the key that have not failed.
    pub(super) fn nearest(&self, ring: &Ring) -> Vec<NodeId> {
        let alive = |node: &&NodeId| self.seen.get(node) != Some(&Seen::Failed);
        let mut nodes: Vec<NodeId> = self.candidates.iter().filter(alive).copied().collect();
        ring.sort(&mut nodes, &self.point);
        nodes.truncate(DEGREE);
        nodes
    }

    pub(super) fn is_current(&self, round: u32, phase: Phase) -> bool {
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

    pub(super) fn allow_grace(&mut self, id: OpId, at: At<'_>) {
        if let Some(op) = self.ops.get_mut(&id) {
            op.wake = op.wake.or(Some(at.now + GRACE));
        }
    }

    /// Ends a round with the answers that are there.
    pub(super) fn conclude(&mut self, id: OpId, at: At<'_>) {
        let Some(op) = self.ops.get_mut(&id) else { return };
        op.wake = None;
        match op.phase {
            Phase::Pausing => {}
            Phase::Reading => self.conclude_read(id, at),
            Phase::Voting => self.conclude_vote(id, at),
            Phase::Writing => self.conclude_write(id, at),
        }
    }

    pub(super) fn pause(&mut self, id: OpId, error: DhtError, at: At<'_>) {
        let Some(op) = self.ops.get_mut(&id) else { return };
        op.phase = Phase::Pausing;
        op.round += 1;
        let pause = self.rng.jitter(PAUSE * (1 << (op.round / 2).min(5)), 500);
        if at.now + pause >= op.limit {
            return self.finish(id, Err(error), at);
        }
        op.wake = Some(at.now + pause);
    }

    pub(super) fn finish(&mut self, id: OpId, result: Result<Outcome, DhtError>, at: At<'_>) {
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
