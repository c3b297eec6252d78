//! Certificates of owners and countersigners by fingerprint: records name them, so that a record stays small.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::group::{Certificate, Trust};
use crate::time::{Instant, UnixTime};
use crate::wire::dht::Fingerprint;

/// Certificates that are kept at most; the least recently used one makes room. 1,024 of them are about 1 MB: enough for the owners and
/// countersigners of a node's share of the records, and whatever is evicted can be fetched again.
pub const MAX_KEPT: usize = 1_024;

/// Who decides whether a certificate is one of the group's.
pub trait Verify {
    /// The certificate in `der`, if the group's authority issued it and it is valid at `wall`.
    fn verify(&self, der: &[u8], wall: UnixTime) -> Option<Certificate>;
    /// Whether a certificate that was verified once still is valid and not revoked.
    fn check(&self, certificate: &Certificate, wall: UnixTime) -> bool;
}

impl Verify for Trust {
    fn verify(&self, der: &[u8], wall: UnixTime) -> Option<Certificate> {
        Self::verify(self, der, wall).ok()
    }
    fn check(&self, certificate: &Certificate, wall: UnixTime) -> bool {
        Self::check(self, certificate, wall).is_ok()
    }
}

/// The moment of an input and who is trusted then: what nearly every method needs.
#[derive(Clone, Copy)]
pub struct At<'a> {
    /// The group's authority.
    pub trust: &'a dyn Verify,
    /// Monotonic time.
    pub now: Instant,
    /// Wall-clock time.
    pub wall: UnixTime,
}

impl core::fmt::Debug for At<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("At").field("now", &self.now).field("wall", &self.wall).finish_non_exhaustive()
    }
}

/// Verified certificates, bounded.
#[derive(Debug, Default)]
pub struct Certificates {
    kept: BTreeMap<Fingerprint, (Certificate, u64)>,
    by_use: BTreeMap<u64, Fingerprint>,
    uses: u64,
}

impl Certificates {
    /// Keeps a certificate that was verified already.
    pub fn insert(&mut self, certificate: Certificate) {
        let fingerprint = certificate.fingerprint();
        if let Some((_, last)) = self.kept.remove(&fingerprint) {
            self.by_use.remove(&last);
        } else if self.kept.len() >= MAX_KEPT
            && let Some((_, oldest)) = self.by_use.pop_first()
        {
            self.kept.remove(&oldest);
        }
        self.uses += 1;
        self.kept.insert(fingerprint, (certificate, self.uses));
        self.by_use.insert(self.uses, fingerprint);
    }

    /// Verifies `der` and keeps it.
    pub fn learn(&mut self, der: &[u8], at: At<'_>) {
        if let Some(certificate) = at.trust.verify(der, at.wall) {
            self.insert(certificate);
        }
    }

    /// Whether a certificate is here.
    #[must_use]
    pub fn has(&self, fingerprint: &Fingerprint) -> bool {
        self.kept.contains_key(fingerprint)
    }

    /// A certificate that is valid now.
    pub fn valid(&mut self, fingerprint: &Fingerprint, at: At<'_>) -> Option<Certificate> {
        let (certificate, last) = self.kept.get_mut(fingerprint)?;
        self.by_use.remove(last);
        self.uses += 1;
        *last = self.uses;
        self.by_use.insert(self.uses, *fingerprint);
        at.trust.check(certificate, at.wall).then(|| certificate.clone())
    }

    /// The DER of a certificate, as others ask for it.
    #[must_use]
    pub fn der(&self, fingerprint: &Fingerprint) -> Option<Bytes> {
        self.kept.get(fingerprint).map(|(certificate, _)| certificate.der().clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dht::testing::Member;

    #[test]
    fn the_least_recently_used_certificate_makes_room() {
        let mut certificates = Certificates::default();
        let members: Vec<Certificate> = (0..MAX_KEPT as u64 + 1).map(|i| Member::new(i).certificate()).collect();
        for certificate in &members[..MAX_KEPT] {
            certificates.insert(certificate.clone());
        }
        let trust = crate::dht::testing::trust();
        let at = At { trust: &trust, now: Instant::ZERO, wall: crate::dht::testing::WALL };
        assert!(certificates.valid(&members[0].fingerprint(), at).is_some());
        certificates.insert(members[MAX_KEPT].clone());
        assert!(certificates.has(&members[0].fingerprint()) && !certificates.has(&members[1].fingerprint()));
        assert_eq!((certificates.kept.len(), certificates.by_use.len()), (MAX_KEPT, MAX_KEPT));
    }
}
