//! Reading: the replicas of a key and the record that counts.

use bytes::Bytes;

use super::claim::{self, Judged};
use super::operation::{MAX_ASKED, MAX_CANDIDATES, Phase, Seen};
use super::ring::majority;
use super::{At, Call, Dht, OpId, Operation, Why};
use crate::id::NodeId;
use crate::wire::codec::Write as _;
use crate::wire::dht as wire;
use crate::wire::dht::{Bundle, Found};

impl Dht {
    /// Begins a round.
    pub(super) fn read(&mut self, id: OpId) {
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

    pub(super) fn ask(&mut self, id: OpId, point: NodeId, node: Option<NodeId>) {
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

    pub(super) fn on_found(&mut self, id: OpId, node: NodeId, found: Found, at: At<'_>) {
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

    pub(super) fn advance_read(&mut self, id: OpId, at: At<'_>) {
        let Some(op) = self.ops.get(&id) else { return };
        let set = op.nearest(&self.ring);
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
        let agreeing =
            |digest: [u8; 32]| op.seen.values().filter(|seen| matches!(seen, Seen::Answered { has, .. } if has.contains(&digest))).count();
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

    /// Brings replicas that answered without the record that counts up to date.
    pub(super) fn repair(&mut self, id: OpId, bundle: &Bundle, at: At<'_>) {
        let Some(op) = self.ops.get(&id) else { return };
        let digest = bundle.record.digest();
        let lacks = |node: &NodeId| matches!(op.seen.get(node), Some(Seen::Answered { has, .. }) if !has.contains(&digest));
        let lacking: Vec<NodeId> = op.nearest(&self.ring).into_iter().filter(lacks).collect();
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
}
