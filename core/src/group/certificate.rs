//! The certificate of a node.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use der::Sequence;
use der::asn1::OctetString;
use sha2::{Digest, Sha256};
use x509_cert::ext::pkix::name::{GeneralName, GeneralNames};

use super::error::CertificateError;
use super::error::CertificateError::BadProfile;
use super::names::{check_group_name, check_node_name, check_user_name};
use super::oid;
use super::pem::{self, PemError};
use super::roles::Roles;
use super::secrets::{self, GroupId, SALT_LEN, key_fingerprint};
use super::signature::{self, SIGNATURE_LEN};
use super::x509::{self, KEY_ID_LEN, MAX_CERTIFICATE_LEN};
use crate::config::CryptoMode;
use crate::id::{NODE_ID_LEN, NodeId};
use crate::shard::table::Prefix;
use crate::time::UnixTime;

/// Most fixed addresses and networks of a node. With the longest names four still fit into [`MAX_CERTIFICATE_LEN`]; further ones are refused at issue.
pub const MAX_ADDRESSES: usize = 4;

/// The extensions of the profile, each with whether it is critical.
const KNOWN: [(const_oid::ObjectIdentifier, bool); 9] = [
    (oid::BASIC_CONSTRAINTS, true),
    (oid::KEY_USAGE, true),
    (oid::AUTHORITY_KEY, false),
    (oid::SUBJECT_ALT_NAME, false),
    (oid::GROUP_ID, false),
    (oid::NODE_ID, false),
    (oid::DH_PUBLIC, false),
    (oid::ROLES, false),
    (oid::NETWORKS, false),
];

/// The value of the extension that holds a node's place on the ring.
#[derive(Clone, Debug, PartialEq, Eq, Sequence)]
pub(super) struct NodeIdValue {
    pub(super) id: OctetString,
    pub(super) salt: OctetString,
}

/// A node's certificate, of the right form and profile; whether its signature is good is what [`Trust`](super::Trust) says. Cheap to clone.
#[derive(Clone)]
pub struct Certificate {
    inner: Arc<Inner>,
    crypto: CryptoMode,
}

struct Inner {
    der: Bytes,
    signed: Range<usize>,
    signature: [u8; SIGNATURE_LEN],
    issuer: Box<[u8]>,
    authority_key: [u8; KEY_ID_LEN],
    serial: Box<[u8]>,
    group_id: GroupId,
    group_name: Box<str>,
    user: Box<str>,
    node_name: Box<str>,
    node_id: NodeId,
    salt: [u8; SALT_LEN],
    public_key: [u8; 32],
    dh_public: [u8; 32],
    roles: Roles,
    addresses: Box<[Prefix]>,
    not_before: UnixTime,
    not_after: UnixTime,
}

impl Certificate {
    /// Reads a certificate: canonical DER of at most [`MAX_CERTIFICATE_LEN`] bytes, our profile, and a node ID that follows from group ID, key and salt.
    ///
    /// # Errors
    /// `Malformed`, `BadProfile` with the name of the field, or `WrongNodeId`. Extensions that are unknown and not critical are ignored.
    pub fn parse(der: &[u8]) -> Result<Self, CertificateError> {
        let (decoded, signed) = x509::decode::<x509_cert::Certificate>(der, MAX_CERTIFICATE_LEN)?;
        let common = x509::common(&decoded)?;
        let tbs = decoded.tbs_certificate();
        let extensions = x509::Extensions::new(tbs.extensions().map_or(&[], Vec::as_slice), &KNOWN)?;
        if extensions.find(oid::BASIC_CONSTRAINTS) != Some(x509::NODE_CONSTRAINTS) {
            return Err(BadProfile("basic constraints"));
        }
        if extensions.find(oid::KEY_USAGE) != Some(x509::NODE_USAGE) {
            return Err(BadProfile("key usage"));
        }
        let [group_name, user, node_name] = x509::attributes(tbs.subject(), [oid::O, oid::OU, oid::CN]).ok_or(BadProfile("subject"))?;
        check_group_name(group_name).map_err(|_| BadProfile("group name"))?;
        check_user_name(user).map_err(|_| BadProfile("user name"))?;
        check_node_name(node_name).map_err(|_| BadProfile("node name"))?;
        let group_id = GroupId(extensions.octets(oid::GROUP_ID, "group ID")?);
        let (node_id, salt) = node_id_and_salt(&extensions)?;
        let inner = Inner {
            der: Bytes::copy_from_slice(der),
            signed,
            signature: common.signature,
            issuer: x509::encode(tbs.issuer()).into(),
            authority_key: authority_key(&extensions)?,
            serial: common.serial,
            group_id,
            group_name: group_name.into(),
            user: user.into(),
            node_name: node_name.into(),
            node_id,
            salt,
            public_key: common.public_key,
            dh_public: extensions.octets(oid::DH_PUBLIC, "X25519 key")?,
            roles: roles(&extensions)?,
            addresses: addresses(&extensions)?.into(),
            not_before: common.not_before,
            not_after: common.not_after,
        };
        if secrets::node_id(&inner.group_id, &inner.public_key, &inner.salt) != inner.node_id {
            return Err(CertificateError::WrongNodeId);
        }
        Ok(Self { inner: Arc::new(inner), crypto: CryptoMode::Real })
    }

    /// Reads the first certificate in a PEM text.
    ///
    /// # Errors
    /// No PEM, or what [`parse`](Self::parse) says.
    pub fn from_pem(text: &str) -> Result<Self, PemError> {
        Ok(Self::parse(&pem::decode(pem::CERTIFICATE, text)?)?)
    }

    /// The certificate as PEM.
    #[must_use]
    pub fn to_pem(&self) -> String {
        pem::encode(pem::CERTIFICATE, self.der())
    }

    /// The bytes that were received.
    #[must_use]
    pub fn der(&self) -> &Bytes {
        &self.inner.der
    }

    /// Its serial number, 1 to 20 bytes without leading zeros.
    #[must_use]
    pub fn serial(&self) -> &[u8] {
        &self.inner.serial
    }

    /// Its group.
    #[must_use]
    pub fn group_id(&self) -> GroupId {
        self.inner.group_id
    }

    /// What its group was called when it was issued.
    #[must_use]
    pub fn group_name(&self) -> &str {
        &self.inner.group_name
    }

    /// The user whose node it is.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.inner.user
    }

    /// The node's name, unique in the group.
    #[must_use]
    pub fn node_name(&self) -> &str {
        &self.inner.node_name
    }

    /// The node's place on the ring.
    #[must_use]
    pub fn node_id(&self) -> NodeId {
        self.inner.node_id
    }

    /// The salt of the node ID.
    #[must_use]
    pub fn salt(&self) -> &[u8; SALT_LEN] {
        &self.inner.salt
    }

    /// The node's Ed25519 public key.
    #[must_use]
    pub fn public_key(&self) -> [u8; 32] {
        self.inner.public_key
    }

    /// The node's X25519 public key.
    #[must_use]
    pub fn dh_public(&self) -> [u8; 32] {
        self.inner.dh_public
    }

    /// The node's roles.
    #[must_use]
    pub fn roles(&self) -> Roles {
        self.inner.roles
    }

    /// The node's fixed addresses and then its networks, each part in ascending order; usually none.
    #[must_use]
    pub fn addresses(&self) -> &[Prefix] {
        &self.inner.addresses
    }

    /// The first second in which it is valid.
    #[must_use]
    pub fn not_before(&self) -> UnixTime {
        self.inner.not_before
    }

    /// The last second in which it is valid.
    #[must_use]
    pub fn not_after(&self) -> UnixTime {
        self.inner.not_after
    }

    /// SHA-256 of its DER.
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 32] {
        Sha256::digest(&self.inner.der).into()
    }

    /// SHA-256 of its Ed25519 public key: how revocation lists call the key.
    #[must_use]
    pub fn key_fingerprint(&self) -> [u8; 32] {
        key_fingerprint(&self.inner.public_key)
    }

    /// Whether the certificate's holder signed `message` for the purpose `context` with [`Identity::sign`](super::Identity::sign).
    #[must_use]
    pub fn verify_signature(&self, context: &str, message: &[u8], signature: &[u8; SIGNATURE_LEN]) -> bool {
        signature::verify(self.crypto, &self.inner.public_key, context, message, signature)
    }

    /// The same certificate with signatures of its holder verified as `crypto` says.
    #[must_use]
    pub(super) fn with_crypto(mut self, crypto: CryptoMode) -> Self {
        self.crypto = crypto;
        self
    }

    /// The signed bytes as received.
    pub(super) fn signed(&self) -> &[u8] {
        &self.inner.der[self.inner.signed.clone()]
    }

    /// The issuer's signature over [`signed`](Self::signed).
    pub(super) fn issuer_signature(&self) -> &[u8; SIGNATURE_LEN] {
        &self.inner.signature
    }

    /// The issuer's name in DER.
    pub(super) fn issuer(&self) -> &[u8] {
        &self.inner.issuer
    }

    /// The identifier of the issuer's key.
    pub(super) fn authority_key(&self) -> [u8; KEY_ID_LEN] {
        self.inner.authority_key
    }
}

impl PartialEq for Certificate {
    fn eq(&self, other: &Self) -> bool {
        self.inner.der == other.inner.der
    }
}

impl Eq for Certificate {}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certificate({} of {}, {:?})", self.node_name(), self.user(), self.node_id())
    }
}

fn authority_key(extensions: &x509::Extensions<'_>) -> Result<[u8; KEY_ID_LEN], CertificateError> {
    let value = extensions.find(oid::AUTHORITY_KEY).and_then(|value| value.last_chunk().filter(|id| x509::authority_key(id) == value));
    value.copied().ok_or(BadProfile("authority key identifier"))
}

fn node_id_and_salt(extensions: &x509::Extensions<'_>) -> Result<(NodeId, [u8; SALT_LEN]), CertificateError> {
    let wrong = BadProfile("node ID");
    let value: NodeIdValue = x509::decode_canonical(extensions.find(oid::NODE_ID).ok_or(wrong)?).map_err(|_| wrong)?;
    let id: [u8; NODE_ID_LEN] = value.id.as_bytes().try_into().map_err(|_| wrong)?;
    Ok((NodeId(id), value.salt.as_bytes().try_into().map_err(|_| wrong)?))
}

fn roles(extensions: &x509::Extensions<'_>) -> Result<Roles, CertificateError> {
    let value = extensions.find(oid::ROLES).ok_or(BadProfile("roles"))?;
    x509::decode_canonical(value).map(Roles).map_err(|_| BadProfile("roles"))
}

fn addresses(extensions: &x509::Extensions<'_>) -> Result<Vec<Prefix>, CertificateError> {
    let mut out = match extensions.find(oid::SUBJECT_ALT_NAME) {
        Some(value) => decode_hosts(value).ok_or(BadProfile("subject alternative name"))?,
        None => Vec::new(),
    };
    if let Some(value) = extensions.find(oid::NETWORKS) {
        out.extend(decode_networks(value).ok_or(BadProfile("networks"))?);
    }
    if out.len() > MAX_ADDRESSES { Err(BadProfile("number of addresses")) } else { Ok(out) }
}

fn decode_hosts(value: &[u8]) -> Option<Vec<Prefix>> {
    let names: GeneralNames = x509::decode_canonical(value).ok()?;
    let host = |name: &GeneralName| match name {
        GeneralName::IpAddress(octets) => ip_addr(octets.as_bytes()).filter(is_usable).map(Prefix::host),
        _ => None,
    };
    ascending(names.iter().map(host).collect::<Option<_>>()?)
}

fn decode_networks(value: &[u8]) -> Option<Vec<Prefix>> {
    let list: Vec<OctetString> = x509::decode_canonical(value).ok()?;
    let network = |octets: &OctetString| {
        let (&len, address) = octets.as_bytes().split_first()?;
        let address = ip_addr(address)?;
        let network = Prefix::new(address, len);
        (network.len == len && network.address == address && !network.is_host()).then_some(network)
    };
    ascending(list.iter().map(network).collect::<Option<_>>()?)
}

/// `list` when it is neither empty nor out of order: there is one encoding of a set of addresses.
fn ascending(list: Vec<Prefix>) -> Option<Vec<Prefix>> {
    (!list.is_empty() && list.is_sorted_by(|a, b| a < b)).then_some(list)
}

/// The value of `subjectAltName` for these addresses.
pub(super) fn encode_hosts(hosts: &[Prefix]) -> Vec<u8> {
    x509::encode(&hosts.iter().map(|host| GeneralName::from(host.address)).collect::<GeneralNames>())
}

/// The value of the extension for these networks: each is its length in bits and its address.
pub(super) fn encode_networks(networks: &[Prefix]) -> Vec<u8> {
    let octets = |network: &Prefix| {
        let mut bytes = vec![network.len];
        match network.address {
            IpAddr::V4(v4) => bytes.extend_from_slice(&v4.octets()),
            IpAddr::V6(v6) => bytes.extend_from_slice(&v6.octets()),
        }
        OctetString::new(bytes).expect("an address is short")
    };
    x509::encode(&networks.iter().map(octets).collect::<Vec<_>>())
}

fn ip_addr(octets: &[u8]) -> Option<IpAddr> {
    match octets.len() {
        4 => <[u8; 4]>::try_from(octets).ok().map(|octets| Ipv4Addr::from(octets).into()),
        16 => <[u8; 16]>::try_from(octets).ok().map(|octets| Ipv6Addr::from(octets).into()),
        _ => None,
    }
}

/// Whether a host may have this address.
pub(super) fn is_usable(address: &IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    !(address.is_unspecified() || address.is_multicast() || address.is_loopback() || broadcast)
}
