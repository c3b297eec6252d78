//! Minimal local stand-in with the contract's signatures; replaced by the merge of the group branch.
use bytes::Bytes;
use ed25519_dalek::{Signature, Signer as _, SigningKey, Verifier as _, VerifyingKey};
use sha2::{Digest as _, Sha256};

use crate::id::NodeId;
use crate::shard::table::Prefix;
use crate::time::UnixTime;
use crate::wire::codec::{Reader, Write as _};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GroupId(pub [u8; 32]);
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Roles(pub u16);
impl Roles {
    pub const MEMBER: Self = Self(1);
    pub const RELAY: Self = Self(8);
    pub const GATEWAY: Self = Self(16);
    pub const ADMIN: Self = Self(32);
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    der: Bytes,
    user: String,
    name: String,
    key: [u8; 32],
    roles: Roles,
    addresses: Vec<Prefix>,
    from: UnixTime,
    until: UnixTime,
}
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificateError {
    Malformed,
    Expired,
}
impl Certificate {
    pub fn make(user: &str, name: &str, key: [u8; 32], roles: Roles, addresses: &[Prefix], from: UnixTime, until: UnixTime) -> Self {
        let mut der = Vec::new();
        der.put_bytes8(user.as_bytes());
        der.put_bytes8(name.as_bytes());
        der.put(&key);
        der.put_u16(roles.0);
        der.put_u64(from.0);
        der.put_u64(until.0);
        for prefix in addresses {
            der.put_u8(prefix.len);
            der.put_ip_addr(&prefix.address);
        }
        Self::parse(&der).expect("just made")
    }
    pub fn parse(der: &[u8]) -> Result<Self, CertificateError> {
        let mut reader = Reader::new(der);
        let bad = |_| CertificateError::Malformed;
        let user = String::from_utf8_lossy(reader.bytes8().map_err(bad)?).into_owned();
        let name = String::from_utf8_lossy(reader.bytes8().map_err(bad)?).into_owned();
        let key = reader.array().map_err(bad)?;
        let roles = Roles(reader.u16().map_err(bad)?);
        let from = UnixTime(reader.u64().map_err(bad)?);
        let until = UnixTime(reader.u64().map_err(bad)?);
        let mut addresses = Vec::new();
        while reader.remaining() > 0 {
            let len = reader.u8().map_err(bad)?;
            addresses.push(Prefix::new(reader.ip_addr().map_err(bad)?, len));
        }
        Ok(Self { der: Bytes::copy_from_slice(der), user, name, key, roles, addresses, from, until })
    }
    pub fn der(&self) -> &Bytes {
        &self.der
    }
    pub fn user(&self) -> &str {
        &self.user
    }
    pub fn node_name(&self) -> &str {
        &self.name
    }
    pub fn node_id(&self) -> NodeId {
        let mut id = [0; 20];
        id.copy_from_slice(&Sha256::digest(self.key)[..20]);
        NodeId(id)
    }
    pub fn roles(&self) -> Roles {
        self.roles
    }
    pub fn addresses(&self) -> &[Prefix] {
        &self.addresses
    }
    pub fn not_before(&self) -> UnixTime {
        self.from
    }
    pub fn not_after(&self) -> UnixTime {
        self.until
    }
    pub fn fingerprint(&self) -> [u8; 32] {
        Sha256::digest(&self.der).into()
    }
    pub fn verify_signature(&self, context: &str, message: &[u8], signature: &[u8; 64]) -> bool {
        let Ok(key) = VerifyingKey::from_bytes(&self.key) else { return false };
        key.verify(&[context.as_bytes(), &[0], message].concat(), &Signature::from_bytes(signature)).is_ok()
    }
}
#[derive(Clone, Debug)]
pub struct Identity {
    key: SigningKey,
    certificate: Certificate,
}
impl Identity {
    pub fn new(signing_key: [u8; 32], _dh: [u8; 32], certificate: Certificate) -> Result<Self, CertificateError> {
        Ok(Self { key: SigningKey::from_bytes(&signing_key), certificate })
    }
    pub fn node_id(&self) -> NodeId {
        self.certificate.node_id()
    }
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }
    pub fn sign(&self, context: &str, message: &[u8]) -> [u8; 64] {
        self.key.sign(&[context.as_bytes(), &[0], message].concat()).to_bytes()
    }
}
#[derive(Clone, Debug)]
pub struct Trust;
impl Trust {
    pub fn verify(&self, der: &[u8], now: UnixTime) -> Result<Certificate, CertificateError> {
        let certificate = Certificate::parse(der)?;
        self.check(&certificate, now)?;
        Ok(certificate)
    }
    pub fn check(&self, certificate: &Certificate, now: UnixTime) -> Result<(), CertificateError> {
        if now > certificate.until { Err(CertificateError::Expired) } else { Ok(()) }
    }
}
