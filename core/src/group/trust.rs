//! Whom a member believes.

use std::sync::Arc;

use super::ca::CaCertificate;
use super::certificate::Certificate;
use super::error::CertificateError;
use super::revocation::{RevocationError, RevocationList};
use super::secrets::{GroupId, RealmKey};
use super::signature;
use crate::config::CryptoMode;
use crate::time::UnixTime;

/// Most CA certificates of a group at one time: the one in use, its successor and its predecessor during a rotation, and one in reserve.
pub const MAX_CAS: usize = 4;

/// A set of CA certificates is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// There is none, or there are more than [`MAX_CAS`].
    #[error("a group has 1 to {MAX_CAS} certificates of certificate authorities, not {0}")]
    Count(usize),
    /// One of them is not the certificate of a CA.
    #[error("not the certificate of a certificate authority: {0}")]
    Certificate(#[from] CertificateError),
    /// They are of different groups.
    #[error("the certificates of the certificate authorities belong to different groups")]
    DifferentGroups,
}

/// What a member knows of its group: the certificates of its CAs, the realm key and the revocation list. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Trust {
    cas: Arc<[CaCertificate]>,
    realm_key: RealmKey,
    revocations: Option<Arc<RevocationList>>,
    crypto: CryptoMode,
}

impl Trust {
    /// Trusts these CAs of one group.
    ///
    /// # Errors
    /// [`TrustError`] when their number, form or groups are wrong.
    pub fn new<D: AsRef<[u8]>>(ca_ders: &[D], realm_key: RealmKey) -> Result<Self, TrustError> {
        if ca_ders.is_empty() || ca_ders.len() > MAX_CAS {
            return Err(TrustError::Count(ca_ders.len()));
        }
        let cas = ca_ders.iter().map(|der| CaCertificate::parse(der.as_ref())).collect::<Result<Arc<[_]>, _>>()?;
        if cas.iter().any(|ca| ca.group_id() != cas[0].group_id()) {
            return Err(TrustError::DifferentGroups);
        }
        Ok(Self { cas, realm_key, revocations: None, crypto: CryptoMode::Real })
    }

    /// The same trust, with signatures verified as `crypto` says: not at all in stand-in mode. Everything else is checked in either mode.
    #[must_use]
    pub const fn with_crypto(mut self, crypto: CryptoMode) -> Self {
        self.crypto = crypto;
        self
    }

    /// The group.
    #[must_use]
    pub fn group_id(&self) -> GroupId {
        self.cas[0].group_id()
    }

    /// What the group is called, as the first CA says.
    #[must_use]
    pub fn group_name(&self) -> &str {
        self.cas[0].group_name()
    }

    /// The key of the MAC on handshakes.
    #[must_use]
    pub const fn realm_key(&self) -> &RealmKey {
        &self.realm_key
    }

    /// The CAs.
    #[must_use]
    pub fn authorities(&self) -> &[CaCertificate] {
        &self.cas
    }

    /// Reads a certificate and checks everything about it.
    ///
    /// # Errors
    /// Why it is refused. `NotYetValid`, `Expired` and `Revoked` come only for certificates that a CA of the group signed: see [`authenticate`](Self::authenticate).
    pub fn verify(&self, der: &[u8], now: UnixTime) -> Result<Certificate, CertificateError> {
        let certificate = self.authenticate(der)?;
        self.check(&certificate, now)?;
        Ok(certificate)
    }

    /// Reads a certificate and checks that a CA of the group signed exactly these bytes, whatever its time and whether or not it was revoked.
    ///
    /// With it a peer can be told in a sealed message why it is refused.
    ///
    /// # Errors
    /// Why it is refused; never `NotYetValid`, `Expired` or `Revoked`.
    pub fn authenticate(&self, der: &[u8]) -> Result<Certificate, CertificateError> {
        let certificate = Certificate::parse(der)?;
        if certificate.group_id() != self.group_id() {
            return Err(CertificateError::WrongGroup);
        }
        let issued = |ca: &&CaCertificate| ca.key_id() == certificate.authority_key() && ca.subject_der() == certificate.issuer();
        let ca = self.cas.iter().find(issued).ok_or(CertificateError::UnknownIssuer)?;
        let good = || signature::verify_bytes(&ca.public_key(), certificate.signed(), certificate.issuer_signature());
        if self.crypto == CryptoMode::Real && !good() {
            return Err(CertificateError::BadSignature);
        }
        // So the end of the CA is the end of all that it issued, and one look at the clock suffices.
        if certificate.not_before() < ca.not_before() || certificate.not_after() > ca.not_after() {
            return Err(CertificateError::BadProfile("validity beyond that of its issuer"));
        }
        Ok(certificate.with_crypto(self.crypto))
    }

    /// Checks time and revocation of a certificate that was authenticated before: for sessions that live.
    ///
    /// # Errors
    /// `Revoked`, `NotYetValid` or `Expired`.
    pub fn check(&self, certificate: &Certificate, now: UnixTime) -> Result<(), CertificateError> {
        if self.revocations.as_ref().is_some_and(|list| list.lists(certificate)) {
            return Err(CertificateError::Revoked);
        }
        if now < certificate.not_before() {
            return Err(CertificateError::NotYetValid { from: certificate.not_before() });
        }
        if now > certificate.not_after() {
            return Err(CertificateError::Expired { since: certificate.not_after() });
        }
        Ok(())
    }

    /// Takes a revocation list that came from the server, a neighbour or the DHT. `Ok(false)`: it is the known one.
    ///
    /// # Errors
    /// Why it is refused; all of them but `Older` are worth a report. The known list stays.
    pub fn update_revocations(&mut self, signed: &[u8], now: UnixTime) -> Result<bool, RevocationError> {
        let known = self.revocations.as_deref();
        if known.is_some_and(|known| known.signed() == signed) {
            return Ok(false);
        }
        let mut keys = [[0; 32]; MAX_CAS];
        keys.iter_mut().zip(self.cas.iter()).for_each(|(key, ca)| *key = ca.public_key());
        let list = RevocationList::open(signed, self.group_id(), &keys[..self.cas.len()], self.crypto)?;
        let newer = list.supersedes(known, now)?;
        if newer {
            self.revocations = Some(Arc::new(list));
        }
        Ok(newer)
    }

    /// The revocation list in force.
    #[must_use]
    pub fn revocations(&self) -> Option<&RevocationList> {
        self.revocations.as_deref()
    }
}
