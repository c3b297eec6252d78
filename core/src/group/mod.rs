//! Stands in for the group's certificates until their branch is merged: the signatures of the contract over a plain format of fields.

use core::fmt;
use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use sha2::{Digest, Sha256};

use crate::id::{NODE_ID_LEN, NodeId};
use crate::time::UnixTime;
use crate::wire::codec::{Reader, Write};

/// What a group is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub [u8; 32]);

/// The key of the realm MAC.
#[derive(Clone)]
pub struct RealmKey([u8; 32]);

impl RealmKey {
    /// The key with these bytes.
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for RealmKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RealmKey(..)")
    }
}

/// Why a certificate does not count.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum CertificateError {
    #[error("the certificate is malformed")]
    Malformed,
    #[error("the certificate is of another group")]
    WrongGroup,
    #[error("the certificate's signature is wrong")]
    BadSignature,
    #[error("the certificate is not valid before {from}")]
    NotYetValid { from: UnixTime },
    #[error("the certificate expired at {since}")]
    Expired { since: UnixTime },
    #[error("the certificate is revoked")]
    Revoked,
    #[error("the certificate does not fit: {0}")]
    BadProfile(&'static str),
}

/// A node's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate(Arc<Fields>);

#[derive(Debug, PartialEq, Eq)]
struct Fields {
    der: Bytes,
    serial: [u8; 8],
    group: GroupId,
    public: [u8; 32],
    dh: [u8; 32],
    not_before: UnixTime,
    not_after: UnixTime,
    name: String,
}

impl Certificate {
    /// Reads it.
    pub fn parse(der: &[u8]) -> Result<Self, CertificateError> {
        let read = || {
            let mut reader = Reader::new(der);
            let fields = Fields {
                der: Bytes::copy_from_slice(der),
                serial: reader.array()?,
                group: GroupId(reader.array()?),
                public: reader.array()?,
                dh: reader.array()?,
                not_before: UnixTime(reader.u64()?),
                not_after: UnixTime(reader.u64()?),
                name: String::from_utf8_lossy(reader.bytes16()?).into_owned(),
            };
            reader.take(64)?;
            reader.finish()?;
            Ok::<_, crate::wire::WireError>(fields)
        };
        read().map(|fields| Self(Arc::new(fields))).map_err(|_| CertificateError::Malformed)
    }

    /// As received.
    #[must_use]
    pub fn der(&self) -> &Bytes {
        &self.0.der
    }
    /// The serial number.
    #[must_use]
    pub fn serial(&self) -> &[u8] {
        &self.0.serial
    }
    /// The name of the node.
    #[must_use]
    pub fn node_name(&self) -> &str {
        &self.0.name
    }
    /// The node's place.
    #[must_use]
    pub fn node_id(&self) -> NodeId {
        let mut id = [0; NODE_ID_LEN];
        id.copy_from_slice(&Sha256::digest(self.0.public)[..NODE_ID_LEN]);
        NodeId(id)
    }
    /// The X25519 key.
    #[must_use]
    pub fn dh_public(&self) -> [u8; 32] {
        self.0.dh
    }
    /// Start of validity.
    #[must_use]
    pub fn not_before(&self) -> UnixTime {
        self.0.not_before
    }
    /// End of validity.
    #[must_use]
    pub fn not_after(&self) -> UnixTime {
        self.0.not_after
    }
}

/// What a node trusts.
#[derive(Clone, Debug)]
pub struct Trust {
    group: GroupId,
    ca: VerifyingKey,
    realm_key: RealmKey,
    revoked: BTreeSet<Vec<u8>>,
}

impl Trust {
    /// A trust in one CA.
    #[must_use]
    pub fn with_key(group: GroupId, ca: VerifyingKey, realm_key: RealmKey) -> Self {
        Self { group, ca, realm_key, revoked: BTreeSet::new() }
    }
    /// The group.
    #[must_use]
    pub fn group_id(&self) -> GroupId {
        self.group
    }
    /// The realm's key.
    #[must_use]
    pub fn realm_key(&self) -> &RealmKey {
        &self.realm_key
    }
    /// Reads and verifies.
    pub fn verify(&self, der: &[u8], now: UnixTime) -> Result<Certificate, CertificateError> {
        let certificate = Certificate::parse(der)?;
        let (signed, signature) = der.split_last_chunk::<64>().ok_or(CertificateError::Malformed)?;
        if certificate.0.group != self.group {
            return Err(CertificateError::WrongGroup);
        }
        self.ca.verify_strict(signed, &Signature::from_bytes(signature)).map_err(|_| CertificateError::BadSignature)?;
        self.check(&certificate, now)?;
        Ok(certificate)
    }
    /// Validity and revocation again.
    pub fn check(&self, certificate: &Certificate, now: UnixTime) -> Result<(), CertificateError> {
        if self.revoked.contains(certificate.serial()) {
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
    /// Revokes a serial number.
    pub fn revoke(&mut self, serial: &[u8]) {
        self.revoked.insert(serial.to_vec());
    }
}

/// A node's own keys.
#[derive(Clone)]
pub struct Identity {
    dh: [u8; 32],
    certificate: Certificate,
}

impl Identity {
    /// From its parts.
    #[must_use]
    pub fn with_dh(dh: [u8; 32], certificate: Certificate) -> Self {
        Self { dh, certificate }
    }
    /// Its place.
    #[must_use]
    pub fn node_id(&self) -> NodeId {
        self.certificate.node_id()
    }
    /// Its certificate.
    #[must_use]
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }
    /// Its X25519 secret.
    #[must_use]
    pub fn dh_secret(&self) -> &[u8; 32] {
        &self.dh
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity(..)")
    }
}

/// Issues a certificate.
pub fn issue(ca: &SigningKey, group: GroupId, serial: u64, public: [u8; 32], dh: [u8; 32], name: &str, validity: (UnixTime, UnixTime)) -> Bytes {
    let mut out = Vec::new();
    out.put_u64(serial);
    out.put(&group.0);
    out.put(&public);
    out.put(&dh);
    out.put_u64(validity.0.0);
    out.put_u64(validity.1.0);
    out.put_bytes16(name.as_bytes());
    let signature = ca.sign(&out).to_bytes();
    out.put(&signature);
    out.into()
}
