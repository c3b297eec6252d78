//! The distributed hash table: signed, expiring records at the nodes nearest to their keys.
//!
//! - [`key`]: name spaces and who may write in them; [`claim`]: verification and the order between two owners; [`store`]: what a replica keeps.
//! - `operation`, `read`, `write`: what this node asks of others: read, vote, commit. `server`: what others ask of it. `sync`: hand-over between neighbours.
//!
//! What holds: nothing is believed without its owner's signature; absence is not a vote, so one honest replica with a record outweighs any number without;
//! a node that has not finished its hand-over says so and grants nothing; a key is granted once by each replica, so of two creators that see the same
//! replicas at most one gets a majority, and a creator that got none takes its votes back.

pub mod certificates;
pub mod claim;
pub mod key;
mod operation;
mod read;
pub mod ring;
mod server;
pub mod store;
mod sync;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod types;
mod write;

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

use crate::config::Config;
use crate::group::{Certificate, Identity};
use crate::id::NodeId;
use crate::io::TimerKind;
use crate::rng::Rng;
use crate::time::{Instant, UnixTime};
use crate::vpn::address::Networks;
use crate::wire::dht as wire;
use crate::wire::dht::{Bundle, Fingerprint, Refusal};
use certificates::Certificates;
pub use certificates::{At, Verify};
use claim::Judged;
use key::Key;
use operation::{Kept, Op};
use ring::{ReplyTo, RequestError, Ring, RingView};
use store::Store;
use sync::Sync;
pub use types::{DhtAction, DhtError, OpId, Operation, Outcome};

/// Operations that run at a time. The VPN's look-ups are bounded at half of it; what does not fit fails with [`DhtError::Busy`].
pub const MAX_OPERATIONS: usize = 128;
/// Records that wait for a certificate at a time: each costs at most 2 kB. What does not fit is refused as unverified and comes again.
pub const MAX_CHECKS: usize = 256;
/// Records that this node keeps alive: its lease, fixed addresses, name, and what the application adds. Beyond it a record is written once.
pub const MAX_KEPT: usize = 64;
/// Notices to owners that lost a key that may be under way; further ones are not sent, the owner's renewal tells it then.
const MAX_NOTICES: usize = 16;
const SWEEP: Duration = Duration::from_secs(60);

/// Error code of a reply to a request that does not have its form.
pub const ERROR_MALFORMED: u8 = 1;
/// Error code of a reply to a method that is not known.
pub const ERROR_UNKNOWN_METHOD: u8 = 2;

/// What a request that this node sent was for.
#[derive(Clone, Debug)]
enum Call {
    Read { op: OpId, round: u32, node: Option<NodeId> },
    Answer { op: OpId, round: u32, node: NodeId },
    Fetch { check: u64 },
    Page { peer: NodeId },
    Pull { peer: NodeId },
    Notice,
    Push,
    Unheeded,
}

/// What a bundle is verified for.
#[derive(Clone, Debug)]
enum Why {
    Read { op: OpId, round: u32, node: NodeId },
    Grant { op: OpId, round: u32, node: NodeId },
    Conflict { op: OpId, round: u32 },
    Local { op: OpId, round: u32, method: u8 },
    Serve { method: u8, reply: ReplyTo },
    Pull { peer: NodeId },
    Verify { op: OpId },
}

/// A bundle that waits for certificates.
#[derive(Debug)]
struct Check {
    bundle: Bundle,
    why: Why,
    outstanding: usize,
}

/// The distributed hash table of one realm, as this node takes part in it.
#[derive(Debug)]
pub struct Dht {
    identity: Identity,
    networks: Networks,
    rng: Rng,
    ring: Ring,
    store: Store,
    certificates: Certificates,
    sync: Sync,
    ops: BTreeMap<OpId, Op>,
    dirty: BTreeSet<OpId>,
    kept: BTreeMap<Key, Kept>,
    calls: BTreeMap<u64, Call>,
    checks: BTreeMap<u64, Check>,
    finished: VecDeque<(Why, Result<Judged, Refusal>)>,
    notices: usize,
    next_token: u64,
    sweep_at: Option<Instant>,
    next: Option<(Instant, TimerKind)>,
    actions: VecDeque<DhtAction>,
}

impl Dht {
    /// A node's part in the DHT; it holds nothing and grants nothing until [`Self::ring_changed`] reports a consistent position.
    #[must_use]
    pub fn new(config: &Config, identity: Identity, rng: Rng) -> Self {
        let mut certificates = Certificates::default();
        certificates.insert(identity.certificate().clone());
        let ring = Ring::new(identity.node_id(), config.geometry);
        Self {
            networks: Networks { ipv4: config.ipv4_network, ipv6: config.ipv6_network },
            ring,
            identity,
            rng,
            store: Store::default(),
            certificates,
            sync: Sync::default(),
            ops: BTreeMap::new(),
            dirty: BTreeSet::new(),
            kept: BTreeMap::new(),
            calls: BTreeMap::new(),
            checks: BTreeMap::new(),
            finished: VecDeque::new(),
            notices: 0,
            next_token: 1,
            sweep_at: None,
            next: None,
            actions: VecDeque::new(),
        }
    }

    /// Takes over a renewed certificate: records are signed under it from their next renewal on.
    pub fn set_identity(&mut self, identity: Identity) {
        self.certificates.insert(identity.certificate().clone());
        self.identity = identity;
    }

    /// Keeps the verified certificate of a peer, so that it need not be fetched.
    pub fn learn(&mut self, certificate: &Certificate) {
        self.certificates.insert(certificate.clone());
    }

    /// Starts an operation; [`DhtAction::Done`] with the same `op` tells its end.
    pub fn start(&mut self, op: OpId, operation: Operation, at: At<'_>) {
        self.begin(op, operation, at);
        self.settle(at);
    }

    /// Gives an operation up, and stops keeping what it keeps; the record stays until it expires.
    pub fn cancel(&mut self, op: OpId) {
        self.ops.remove(&op);
        self.kept.retain(|_, kept| kept.op != op);
    }

    /// A request of method `0x20` to `0x3f` came in.
    pub fn handle_request(&mut self, from: NodeId, method: u8, body: &[u8], reply: ReplyTo, at: At<'_>) {
        self.serve(from, method, body, reply, at);
        self.settle(at);
    }

    /// A request of ours was answered, by whom, or failed.
    pub fn handle_reply(&mut self, token: u64, result: Result<(NodeId, Bytes), RequestError>, at: At<'_>) {
        let Some(call) = self.calls.remove(&token) else { return };
        match call {
            Call::Read { op, round, node } => self.on_read(op, round, node, result.ok(), at),
            Call::Answer { op, round, node } => self.on_answer_bytes(op, round, node, result.ok().map(|(_, body)| body), at),
            Call::Fetch { check } => self.on_fetched(check, result.ok().map(|(_, body)| body), at),
            Call::Page { peer } => self.on_page(peer, result.ok().map(|(_, body)| body), at),
            Call::Pull { peer } => self.on_pulled(peer, result.ok().map(|(_, body)| body), at),
            Call::Notice => self.notices = self.notices.saturating_sub(1),
            Call::Push => self.on_pushed(at),
            Call::Unheeded => {}
        }
        self.settle(at);
    }

    /// The ring view changed: hand-over with new neighbours starts; nothing is granted until it is finished.
    pub fn ring_changed(&mut self, view: &RingView, at: At<'_>) {
        let before = self.ring.vicinity().to_vec();
        if self.ring.update(view) {
            self.sync_with_neighbours(&before);
        }
        // A lease that fewer replicas have signed than readers ask for in the ring as it is now is renewed at once.
        let (required, soon) = (self.ring.required(), at.now + Duration::from_millis(500 + self.rng.below(1_000)));
        for kept in self.kept.values_mut() {
            if matches!(kept.operation, Operation::Create { .. }) && kept.bundle.grants.len() < required {
                kept.renew_at = kept.renew_at.min(soon);
            }
        }
        self.settle(at);
    }

    /// Hands everything that is stored here to those who will be its replicas without this node.
    pub fn leave(&mut self, at: At<'_>) {
        self.hand_over_all(at);
        self.settle(at);
    }

    /// Whether what [`Self::leave`] began is finished.
    #[must_use]
    pub fn has_left(&self) -> bool {
        self.sync.has_left()
    }

    /// Whether the hand-over is finished: only then this node grants anything.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.ring.is_consistent() && self.sync.is_done()
    }

    /// Number of records stored here for others and itself, tombstones included.
    #[must_use]
    pub const fn stored(&self) -> usize {
        self.store.len()
    }

    /// This node's view of the ring.
    #[must_use]
    pub const fn ring(&self) -> &Ring {
        &self.ring
    }

    /// Does what is due. May be called at any time.
    pub fn handle_timeout(&mut self, at: At<'_>) {
        if self.sweep_at.is_some_and(|due| due <= at.now) {
            let ring = &self.ring;
            // Twice the degree: a record is not dropped and fetched again when a neighbour comes and goes.
            self.store.sweep(at.now, at.wall, |key| ring.rank(&ring.local(), &key.point()) < 2 * ring::DEGREE);
            self.sweep_at = None;
        }
        self.wake_operations(at);
        self.wake_sync(at);
        self.settle(at);
    }

    /// When [`Self::handle_timeout`] is wanted.
    #[must_use]
    pub const fn poll_timeout(&self) -> Option<(Instant, TimerKind)> {
        self.next
    }

    /// What is to be done next; call until `None`.
    pub fn poll_action(&mut self) -> Option<DhtAction> {
        self.actions.pop_front()
    }

    fn settle(&mut self, at: At<'_>) {
        loop {
            if let Some((why, result)) = self.finished.pop_front() {
                self.on_judged(why, result, at);
            } else if let Some(op) = self.dirty.pop_first() {
                self.advance(op, at);
            } else {
                break;
            }
        }
        if self.sweep_at.is_none() && !self.store.is_empty() {
            self.sweep_at = Some(at.now + SWEEP);
        }
        let deadlines = self.ops.values().filter_map(Op::deadline).chain(self.kept.values().map(|kept| kept.renew_at));
        self.next = deadlines.chain(self.sweep_at).chain(self.sync.deadline()).min().map(|due| (due, TimerKind::Dht));
    }

    fn call(&mut self, call: Call, point: NodeId, exact: bool, method: u8, body: Bytes) {
        let token = self.next_token;
        self.next_token += 1;
        self.calls.insert(token, call);
        self.actions.push_back(DhtAction::Request { token, point, exact, method, body });
    }

    fn on_judged(&mut self, why: Why, result: Result<Judged, Refusal>, at: At<'_>) {
        match why {
            Why::Read { op, round, node } => self.on_read_judged(op, round, node, result.ok()),
            Why::Grant { op, round, node } => self.on_grant(op, round, node, result.ok()),
            Why::Conflict { op, round } => self.on_conflict(op, round, result.ok()),
            Why::Local { op, round, method } => {
                let answer = self.decide(method, result, at);
                self.on_answer(op, round, self.ring.local(), Some(answer), at);
            }
            Why::Serve { method, reply } => {
                let answer = self.decide(method, result, at);
                self.actions.push_back(DhtAction::Reply { to: reply, body: Ok(answer.bytes()) });
            }
            Why::Pull { peer } => self.on_pull_judged(peer, result, at),
            Why::Verify { op } => {
                let believed =
                    result.and_then(|judged| if judged.is_sufficient(&self.ring) { Ok(judged) } else { Err(Refusal::Unverified) });
                let result = believed.map(|judged| Outcome::Found(judged.bundle)).map_err(DhtError::Refused);
                if self.ops.remove(&op).is_some() {
                    self.actions.push_back(DhtAction::Done { op, result });
                }
            }
        }
    }

    /// Verifies `bundle` once its certificates are here; those that are missing are asked of `from`.
    fn check(&mut self, bundle: Bundle, given: &[Bytes], from: NodeId, why: Why, at: At<'_>) {
        let mut missing: Vec<Fingerprint> = bundle.certificates().filter(|fingerprint| !self.certificates.has(fingerprint)).collect();
        missing.sort_unstable();
        missing.dedup();
        for der in given {
            let fingerprint: Fingerprint = sha2::Digest::finalize(sha2::Digest::chain_update(sha2::Sha256::default(), der)).into();
            if missing.contains(&fingerprint) {
                self.certificates.learn(der, at);
            }
        }
        missing.retain(|fingerprint| !self.certificates.has(fingerprint));
        if missing.is_empty() || from == self.ring.local() || self.checks.len() >= MAX_CHECKS {
            let result = claim::judge(&bundle, &mut self.certificates, &self.networks, &self.ring, at);
            self.finished.push_back((why, result));
            return;
        }
        let check = self.next_token;
        self.next_token += 1;
        self.checks.insert(check, Check { bundle, why, outstanding: missing.len() });
        for fingerprint in missing {
            self.call(Call::Fetch { check }, from, true, wire::METHOD_FETCH, Bytes::copy_from_slice(&fingerprint));
        }
    }

    fn on_fetched(&mut self, id: u64, body: Option<Bytes>, at: At<'_>) {
        if let Some(der) = body.filter(|der| !der.is_empty()) {
            self.certificates.learn(&der, at);
        }
        let Some(check) = self.checks.get_mut(&id) else { return };
        check.outstanding -= 1;
        if check.outstanding == 0
            && let Some(check) = self.checks.remove(&id)
        {
            let result = claim::judge(&check.bundle, &mut self.certificates, &self.networks, &self.ring, at);
            self.finished.push_back((check.why, result));
        }
    }

    /// Certificates that go along with `bundle`: the owner's first.
    fn certificates_for(&self, bundle: &Bundle) -> Vec<Bytes> {
        bundle.certificates().filter_map(|fingerprint| self.certificates.der(&fingerprint)).take(wire::MAX_CERTIFICATES).collect()
    }

    fn offer(&self, bundle: &Bundle) -> Bytes {
        wire::Offer::body(bundle, &self.certificates_for(bundle))
    }

    fn expiry(lifetime: Duration, wall: UnixTime) -> UnixTime {
        wall.plus_secs(lifetime.as_secs().clamp(1, claim::MAX_LIFETIME_SECS))
    }
}
