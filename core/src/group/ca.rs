//! The certificate of a group's certificate authority.

use core::fmt;
use std::sync::Arc;

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use sha2::{Digest, Sha256};
use x509_cert::name::Name;

use super::error::CertificateError::{self, BadProfile};
use super::names::check_group_name;
use super::oid;
use super::pem::{self, PemError};
use super::secrets::GroupId;
use super::signature;
use super::trust::MAX_CAS;
use super::x509::{self, Draft, KEY_ID_LEN, MAX_CERTIFICATE_LEN};
use crate::rng::Rng;
use crate::time::UnixTime;

/// The extensions of the profile, each with whether it is critical.
const KNOWN: [(const_oid::ObjectIdentifier, bool); 4] =
    [(oid::BASIC_CONSTRAINTS, true), (oid::KEY_USAGE, true), (oid::SUBJECT_KEY, false), (oid::GROUP_ID, false)];

/// A CA's certificate, of the right form and profile and signed by itself. Cheap to clone.
#[derive(Clone)]
pub struct CaCertificate(Arc<Inner>);

struct Inner {
    der: Bytes,
    subject: Name,
    subject_der: Box<[u8]>,
    group_id: GroupId,
    group_name: Box<str>,
    public_key: [u8; 32],
    not_before: UnixTime,
    not_after: UnixTime,
}

impl CaCertificate {
    /// Reads a CA's certificate: canonical DER of at most [`MAX_CERTIFICATE_LEN`] bytes, our profile, signed by itself.
    ///
    /// # Errors
    /// `Malformed`, `BadProfile` with the name of the field, or `BadSignature`.
    pub fn parse(der: &[u8]) -> Result<Self, CertificateError> {
        let (decoded, signed) = x509::decode::<x509_cert::Certificate>(der, MAX_CERTIFICATE_LEN)?;
        let common = x509::common(&decoded)?;
        let tbs = decoded.tbs_certificate();
        let extensions = x509::Extensions::new(tbs.extensions().map_or(&[], Vec::as_slice), &KNOWN)?;
        if extensions.find(oid::BASIC_CONSTRAINTS) != Some(x509::CA_CONSTRAINTS) {
            return Err(BadProfile("basic constraints"));
        }
        if extensions.find(oid::KEY_USAGE) != Some(x509::CA_USAGE) {
            return Err(BadProfile("key usage"));
        }
        if extensions.octets(oid::SUBJECT_KEY, "subject key identifier")? != x509::key_id(&common.public_key) {
            return Err(BadProfile("subject key identifier"));
        }
        let [group_name, _] = x509::attributes(tbs.subject(), [oid::O, oid::CN]).ok_or(BadProfile("subject"))?;
        check_group_name(group_name).map_err(|_| BadProfile("group name"))?;
        if tbs.issuer() != tbs.subject() {
            return Err(BadProfile("issuer"));
        }
        let inner = Inner {
            der: Bytes::copy_from_slice(der),
            subject: tbs.subject().clone(),
            subject_der: x509::encode(tbs.subject()).into(),
            group_id: GroupId(extensions.octets(oid::GROUP_ID, "group ID")?),
            group_name: group_name.into(),
            public_key: common.public_key,
            not_before: common.not_before,
            not_after: common.not_after,
        };
        if !signature::verify_bytes(&inner.public_key, &der[signed], &common.signature) {
            return Err(CertificateError::BadSignature);
        }
        Ok(Self(Arc::new(inner)))
    }

    /// Makes the certificate of a CA. `group_name` is checked by the caller.
    pub(super) fn issue(
        key: &SigningKey,
        group_id: GroupId,
        group_name: &str,
        not_before: UnixTime,
        not_after: UnixTime,
        rng: &mut Rng,
    ) -> Result<Self, CertificateError> {
        let public_key = key.verifying_key().to_bytes();
        let key_id = x509::key_id(&public_key);
        // CAs of one group have different names, so that tools find the right one while two are in use.
        let [a, b, c, d, ..] = key_id;
        let name = x509::name(&[(oid::O, group_name), (oid::CN, &format!("Annulus CA {a:02x}{b:02x}{c:02x}{d:02x}"))]);
        let extensions = vec![
            x509::extension(oid::BASIC_CONSTRAINTS, true, x509::CA_CONSTRAINTS),
            x509::extension(oid::KEY_USAGE, true, x509::CA_USAGE),
            x509::octets_extension(oid::SUBJECT_KEY, &key_id),
            x509::octets_extension(oid::GROUP_ID, &group_id.0),
        ];
        let draft = Draft { issuer: name.clone(), subject: name, extensions };
        Self::parse(&x509::build(draft, &public_key, not_before, not_after, key, rng))
    }

    /// Reads the first certificate in a PEM text.
    ///
    /// # Errors
    /// No PEM, or what [`parse`](Self::parse) says.
    pub fn from_pem(text: &str) -> Result<Self, PemError> {
        Ok(Self::parse(&pem::decode(pem::CERTIFICATE, text)?)?)
    }

    /// Reads all certificates in a PEM text, 1 to [`MAX_CAS`].
    ///
    /// # Errors
    /// No PEM, too many blocks, or what [`parse`](Self::parse) says of one of them.
    pub fn bundle_from_pem(text: &str) -> Result<Vec<Self>, PemError> {
        pem::decode_all(pem::CERTIFICATE, text, MAX_CAS)?.iter().map(|der| Ok(Self::parse(der)?)).collect()
    }

    /// The certificate as PEM.
    #[must_use]
    pub fn to_pem(&self) -> String {
        pem::encode(pem::CERTIFICATE, self.der())
    }

    /// The bytes that were read.
    #[must_use]
    pub fn der(&self) -> &Bytes {
        &self.0.der
    }

    /// The CA's group.
    #[must_use]
    pub fn group_id(&self) -> GroupId {
        self.0.group_id
    }

    /// What the group is called.
    #[must_use]
    pub fn group_name(&self) -> &str {
        &self.0.group_name
    }

    /// The CA's Ed25519 public key.
    #[must_use]
    pub fn public_key(&self) -> [u8; 32] {
        self.0.public_key
    }

    /// The first second in which it is valid.
    #[must_use]
    pub fn not_before(&self) -> UnixTime {
        self.0.not_before
    }

    /// The last second in which it is valid. It issues nothing that lives longer.
    #[must_use]
    pub fn not_after(&self) -> UnixTime {
        self.0.not_after
    }

    /// SHA-256 of its DER.
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 32] {
        Sha256::digest(&self.0.der).into()
    }

    /// The CA's name.
    pub(super) fn subject(&self) -> &Name {
        &self.0.subject
    }

    /// The CA's name in DER.
    pub(super) fn subject_der(&self) -> &[u8] {
        &self.0.subject_der
    }

    /// The identifier of the CA's key.
    pub(super) fn key_id(&self) -> [u8; KEY_ID_LEN] {
        x509::key_id(&self.0.public_key)
    }
}

impl AsRef<[u8]> for CaCertificate {
    fn as_ref(&self) -> &[u8] {
        &self.0.der
    }
}

impl PartialEq for CaCertificate {
    fn eq(&self, other: &Self) -> bool {
        self.0.der == other.0.der
    }
}

impl Eq for CaCertificate {}

impl fmt::Debug for CaCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CaCertificate({}, {:?})", self.group_name(), self.group_id())
    }
}
