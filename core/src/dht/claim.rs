//! What a record is worth: its verification, and the one order that decides between two owners.

use core::cmp::Ordering;

use super::certificates::{At, Certificates};
use super::key::{Key, Space, is_fixed};
use super::ring::Ring;
use crate::group::Identity;
use crate::time::UnixTime;
use crate::vpn::address::Networks;
use crate::wire::dht::{Bundle, Grant, MAX_VALUE, Record, Refusal};

/// Longest life of a record: what nobody renews is gone after eight days.
pub const MAX_LIFETIME_SECS: u64 = 8 * 24 * 3_600;
/// How far an owner's clock may run ahead of ours: a record may expire so much later. Times in grants need no such bound: a later one never wins.
pub const MAX_SKEW_SECS: u64 = 600;
/// Signature context of records.
pub const CONTEXT_RECORD: &str = "annulus dht record v1";
/// Signature context of grants.
pub const CONTEXT_GRANT: &str = "annulus dht grant v1";
/// Signature context of aborts.
pub const CONTEXT_ABORT: &str = "annulus dht abort v1";

/// What speaks for an owner when two claim one key. A pure value: every node that sees the same two records decides the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Whether the owner's certificate itself names the address.
    pub fixed: bool,
    /// Number of distinct replicas whose grants verify.
    pub countersigners: usize,
    /// Median of the times since which they know the owner; the latest possible time without grants.
    pub since: UnixTime,
    /// Start of the owner's certificate: the later one counts for names.
    pub certified: UnixTime,
    /// Digest of the record.
    pub digest: [u8; 32],
}

impl Claim {
    /// Orders two owners' claims to one address or free key: [`Ordering::Greater`] when `self` wins. Certificate before lease, more countersigners,
    /// earlier median time, lower digest.
    #[must_use]
    pub fn against(&self, other: &Self) -> Ordering {
        (self.fixed.cmp(&other.fixed))
            .then(self.countersigners.cmp(&other.countersigners))
            .then(other.since.cmp(&self.since))
            .then(other.digest.cmp(&self.digest))
    }
}

/// A verified bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    /// The record with those grants that verified.
    pub bundle: Bundle,
    /// What it is worth.
    pub claim: Claim,
    /// The owner's user.
    pub user: String,
}

impl Judged {
    /// The record.
    #[must_use]
    pub const fn record(&self) -> &Record {
        &self.bundle.record
    }

    /// Orders two verified records of one key: [`Ordering::Greater`] when `self` counts. Of one owner the higher sequence; of two owners what the
    /// name space says. Equal only for the same record.
    #[must_use]
    pub fn against(&self, other: &Self) -> Ordering {
        let (mine, theirs) = (self.record(), other.record());
        let lower_digest = other.claim.digest.cmp(&self.claim.digest);
        if mine.owner == theirs.owner {
            return mine.sequence.cmp(&theirs.sequence).then(lower_digest);
        }
        match mine.key.space() {
            Space::Name(_) => self.claim.certified.cmp(&other.claim.certified).then(lower_digest),
            Space::Group => mine.sequence.cmp(&theirs.sequence).then(lower_digest),
            _ => self.claim.against(&other.claim),
        }
    }

    /// Whether a reader may believe it: an address needs a certificate that names it, or grants of enough replicas.
    #[must_use]
    pub fn is_sufficient(&self, ring: &Ring) -> bool {
        !matches!(self.record().key.space(), Space::Address(_)) || self.claim.fixed || self.claim.countersigners >= ring.required()
    }
}

/// Verifies a bundle whose certificates are in `certificates` as far as they could be had; grants that do not verify are left out.
///
/// # Errors
/// The [`Refusal`] that the record itself earns.
pub fn judge(bundle: &Bundle, certificates: &mut Certificates, networks: &Networks, ring: &Ring, at: At<'_>) -> Result<Judged, Refusal> {
    let record = &bundle.record;
    if record.expires <= at.wall || record.expires > at.wall.plus_secs(MAX_LIFETIME_SECS + MAX_SKEW_SECS) {
        return Err(Refusal::Expired);
    }
    if record.value.len() > MAX_VALUE || record.tombstone && !record.value.is_empty() {
        return Err(Refusal::Forbidden);
    }
    let certificate = certificates.valid(&record.certificate, at).ok_or(Refusal::Unverified)?;
    if certificate.node_id() != record.owner || !certificate.verify_signature(CONTEXT_RECORD, &record.signed(), &record.signature) {
        return Err(Refusal::Unverified);
    }
    if !record.key.permits(&certificate, networks) {
        return Err(Refusal::Forbidden);
    }
    let (digest, point) = (record.digest(), record.key.point());
    let grants: Vec<Grant> =
        bundle.grants.iter().filter(|grant| verifies(grant, &record.key, &digest, certificates, at)).cloned().collect();
    let mut times: Vec<UnixTime> = grants.iter().filter(|grant| ring.is_plausible(&grant.node, &point)).map(|grant| grant.since).collect();
    times.sort_unstable();
    let fixed = matches!(record.key.space(), Space::Address(address) if is_fixed(&certificate, address));
    let claim = Claim {
        fixed,
        countersigners: times.len(),
        // The lower middle of an even number: a deterministic choice among two.
        since: times.get(times.len().saturating_sub(1) / 2).copied().unwrap_or(UnixTime(u64::MAX)),
        certified: certificate.not_before(),
        digest,
    };
    Ok(Judged { bundle: Bundle { record: record.clone(), grants }, claim, user: certificate.user().to_owned() })
}

fn verifies(grant: &Grant, key: &Key, digest: &[u8; 32], certificates: &mut Certificates, at: At<'_>) -> bool {
    grant.since <= grant.time
        && certificates.valid(&grant.certificate, at).is_some_and(|certificate| {
            certificate.node_id() == grant.node
                && certificate.verify_signature(CONTEXT_GRANT, &Grant::signed(key, digest, grant.since, grant.time), &grant.signature)
        })
}

/// Signs a record.
#[must_use]
pub fn sign_record(identity: &Identity, key: Key, value: bytes::Bytes, sequence: u64, expires: UnixTime, tombstone: bool) -> Record {
    let certificate = identity.certificate().fingerprint();
    let mut record = Record { key, value, sequence, expires, tombstone, owner: identity.node_id(), certificate, signature: [0; 64] };
    record.signature = identity.sign(CONTEXT_RECORD, &record.signed());
    record
}

/// Signs a grant for `record`.
#[must_use]
pub fn sign_grant(identity: &Identity, record: &Record, since: UnixTime, time: UnixTime) -> Grant {
    let signature = identity.sign(CONTEXT_GRANT, &Grant::signed(&record.key, &record.digest(), since, time));
    Grant { node: identity.node_id(), certificate: identity.certificate().fingerprint(), since, time, signature }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn claim(fixed: bool, countersigners: usize, since: u64, digest: u8) -> Claim {
        Claim { fixed, countersigners, since: UnixTime(since), certified: UnixTime(0), digest: [digest; 32] }
    }

    #[test]
    fn certificate_beats_lease_then_countersigners_then_age_then_digest() {
        let order =
            [claim(true, 0, 900, 9), claim(false, 5, 900, 9), claim(false, 3, 100, 9), claim(false, 3, 200, 1), claim(false, 3, 200, 2)];
        for (i, winner) in order.iter().enumerate() {
            for loser in &order[i + 1..] {
                assert_eq!((winner.against(loser), loser.against(winner)), (Ordering::Greater, Ordering::Less), "{winner:?} {loser:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn the_order_of_claims_is_total(a in any::<(bool, u8, u8, u8)>(), b in any::<(bool, u8, u8, u8)>(), c in any::<(bool, u8, u8, u8)>()) {
            let make = |(fixed, count, since, digest): (bool, u8, u8, u8)| claim(fixed, usize::from(count % 6), u64::from(since % 4), digest % 4);
            let (a, b, c) = (make(a), make(b), make(c));
            prop_assert_eq!(a.against(&b), b.against(&a).reverse());
            prop_assert_eq!(a.against(&b).is_eq(), a == b);
            if a.against(&b).is_ge() && b.against(&c).is_ge() {
                prop_assert!(a.against(&c).is_ge());
            }
        }
    }
}
