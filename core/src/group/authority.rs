//! The side of a group that issues and revokes.

use core::fmt;
use core::net::IpAddr;
use core::time::Duration;

use der::asn1::OctetString;
use der::pem::LineEnding;
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::{DecodePrivateKey, EncodePrivateKey};
use zeroize::Zeroizing;

use super::ca::CaCertificate;
use super::certificate::{self, Certificate, MAX_ADDRESSES, NodeIdValue};
use super::error::CertificateError;
use super::identity::Identity;
use super::keys::NodeKeys;
use super::names::{NameError, check_group_name, check_node_name, check_user_name};
use super::oid;
use super::pem::PemError;
use super::request::Request;
use super::revocation::{RevocationError, RevocationList, Revoked};
use super::roles::Roles;
use super::secrets::{GroupId, NodeIdSecret, RealmKey, node_id};
use super::trust::Trust;
use super::validity::utc;
use super::x509::{self, Draft};
use crate::config::CryptoMode;
use crate::rng::Rng;
use crate::shard::table::Prefix;
use crate::time::UnixTime;

/// How long a certificate of a node lives if nobody says otherwise: the group survives weeks without its server.
pub const DEFAULT_LIFETIME: Duration = Duration::from_secs(30 * 86_400);
/// How long a CA's certificate lives if nobody says otherwise: ten years.
pub const DEFAULT_CA_LIFETIME: Duration = Duration::from_secs(10 * 365 * 86_400);
/// By how many s each certificate is dated back, for members whose clock is behind the CA's.
pub const BACKDATE_SECS: u64 = 600;

/// What a new group is.
#[derive(Clone, Debug)]
pub struct Parameters {
    /// Its name.
    pub group_name: String,
    /// How long its CA's certificate lives.
    pub lifetime: Duration,
}

impl Parameters {
    /// A group with this name and a CA of ten years.
    #[must_use]
    pub fn new(group_name: &str) -> Self {
        Self { group_name: group_name.to_owned(), lifetime: DEFAULT_CA_LIFETIME }
    }
}

/// What a certificate says beside the keys of the request.
#[derive(Clone, Debug)]
pub struct Profile {
    /// The user whose node it is.
    pub user: String,
    /// The node's name. That it is unique is for the keeper of the list of nodes to see: [`Authority::name_holder`] helps.
    pub node_name: String,
    /// The node's roles.
    pub roles: Roles,
    /// Fixed addresses and networks in any order, at most [`MAX_ADDRESSES`].
    pub addresses: Vec<Prefix>,
    /// From when it is valid; [`BACKDATE_SECS`] earlier stands in the certificate.
    pub not_before: UnixTime,
    /// How long it lives from then on; cut at the end of the CA.
    pub lifetime: Duration,
}

impl Profile {
    /// A member's node without fixed addresses, from `now` on for 30 days.
    #[must_use]
    pub fn new(user: &str, node_name: &str, now: UnixTime) -> Self {
        Self {
            user: user.to_owned(),
            node_name: node_name.to_owned(),
            roles: Roles::MEMBER,
            addresses: Vec::new(),
            not_before: now,
            lifetime: DEFAULT_LIFETIME,
        }
    }
}

/// What a CA keeps on disk. All of it but the certificate and the list is secret.
#[derive(Clone)]
pub struct Parts {
    /// The CA's Ed25519 key, PKCS#8 in PEM.
    pub key_pem: Zeroizing<String>,
    /// The CA's certificate in PEM.
    pub certificate_pem: String,
    /// The secret from which salts are derived.
    pub node_id_secret: NodeIdSecret,
    /// The realm key.
    pub realm_key: RealmKey,
    /// The last signed revocation list, if there is one. Without it epochs could repeat.
    pub revocations: Option<Vec<u8>>,
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Parts(..)")
    }
}

/// A CA cannot be made or read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    /// The group's name is not allowed.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The lifetime is zero.
    #[error("the lifetime of a certificate authority must be at least one second")]
    Lifetime,
    /// The key is not Ed25519 in PKCS#8.
    #[error("no Ed25519 key in PKCS#8 PEM")]
    Key,
    /// The certificate cannot be read.
    #[error(transparent)]
    Certificate(#[from] PemError),
    /// The key is not that of the certificate.
    #[error("the certificate authority's key is not the one of its certificate")]
    OtherKey,
    /// The revocation list cannot be read.
    #[error(transparent)]
    Revocations(#[from] RevocationError),
}

/// A certificate is not issued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IssueError {
    /// The name of user or node is not allowed.
    #[error(transparent)]
    Name(#[from] NameError),
    /// More than [`MAX_ADDRESSES`].
    #[error("a node has at most {MAX_ADDRESSES} fixed addresses and networks")]
    TooManyAddresses,
    /// No host can have this address.
    #[error("{0} cannot be the address of a host")]
    Address(IpAddr),
    /// The lifetime is zero.
    #[error("the lifetime of a certificate must be at least one second")]
    Lifetime,
    /// It would start outside the lifetime of the CA.
    #[error("the certificate authority itself is valid from {} to {} only", utc(.from), utc(.to))]
    OutsideCa {
        /// The first second of the CA.
        from: UnixTime,
        /// The last second of the CA.
        to: UnixTime,
    },
    /// The request's key was revoked.
    #[error("the key of this request was revoked; the node needs new keys")]
    KeyRevoked,
    /// The certificate would not be one of the profile.
    #[error("the certificate would be refused: {0}")]
    Refused(#[from] CertificateError),
}

/// A certificate authority: its key, its certificate, the secrets of its group and its revocation list.
pub struct Authority {
    key: SigningKey,
    certificate: CaCertificate,
    node_id_secret: NodeIdSecret,
    realm_key: RealmKey,
    revocations: Option<RevocationList>,
}

impl Authority {
    /// Makes a new group with its CA.
    ///
    /// # Errors
    /// The name is not allowed or the lifetime is zero.
    pub fn init(parameters: &Parameters, rng: &mut Rng, now: UnixTime) -> Result<Self, AuthorityError> {
        check_group_name(&parameters.group_name)?;
        let group_id = GroupId(rng.bytes());
        let node_id_secret = NodeIdSecret::new(rng.bytes());
        let realm_key = RealmKey::new(rng.bytes());
        Self::with_new_key(group_id, parameters, node_id_secret, realm_key, rng, now)
    }

    /// Makes the successor of this CA: a new key for the same group. Node IDs, realm key and revocations stay.
    ///
    /// Members trust both until the predecessor's last certificate has expired.
    ///
    /// # Errors
    /// The lifetime is zero, or the revocation list cannot be signed anew.
    pub fn successor(&self, lifetime: Duration, rng: &mut Rng, now: UnixTime) -> Result<Self, AuthorityError> {
        let parameters = Parameters { group_name: self.certificate.group_name().to_owned(), lifetime };
        let group_id = self.certificate.group_id();
        let mut next = Self::with_new_key(group_id, &parameters, self.node_id_secret.clone(), self.realm_key.clone(), rng, now)?;
        if let Some(list) = &self.revocations {
            next.revocations = Some(RevocationList::next(Some(list), &[], group_id, &next.key, now)?);
        }
        Ok(next)
    }

    fn with_new_key(
        group_id: GroupId,
        parameters: &Parameters,
        node_id_secret: NodeIdSecret,
        realm_key: RealmKey,
        rng: &mut Rng,
        now: UnixTime,
    ) -> Result<Self, AuthorityError> {
        if parameters.lifetime.as_secs() == 0 {
            return Err(AuthorityError::Lifetime);
        }
        let seed = Zeroizing::new(rng.bytes());
        let key = SigningKey::from_bytes(&seed);
        let not_after = now.plus_secs(parameters.lifetime.as_secs());
        let certificate =
            CaCertificate::issue(&key, group_id, &parameters.group_name, backdated(now), not_after, rng).map_err(PemError::from)?;
        Ok(Self { key, certificate, node_id_secret, realm_key, revocations: None })
    }

    /// Reads what [`to_parts`](Self::to_parts) wrote.
    ///
    /// # Errors
    /// A part is broken, or the parts do not belong together.
    pub fn from_parts(parts: &Parts) -> Result<Self, AuthorityError> {
        let key = SigningKey::from_pkcs8_pem(&parts.key_pem).map_err(|_| AuthorityError::Key)?;
        let certificate = CaCertificate::from_pem(&parts.certificate_pem)?;
        let public_key = certificate.public_key();
        if key.verifying_key().to_bytes() != public_key {
            return Err(AuthorityError::OtherKey);
        }
        let open = |signed: &Vec<u8>| RevocationList::open(signed, certificate.group_id(), &[public_key], CryptoMode::Real);
        let revocations = parts.revocations.as_ref().map(open).transpose()?;
        let (node_id_secret, realm_key) = (parts.node_id_secret.clone(), parts.realm_key.clone());
        Ok(Self { key, certificate, node_id_secret, realm_key, revocations })
    }

    /// What has to be kept.
    #[must_use]
    pub fn to_parts(&self) -> Parts {
        Parts {
            key_pem: self.key.to_pkcs8_pem(LineEnding::LF).expect("a key has an encoding"),
            certificate_pem: self.certificate.to_pem(),
            node_id_secret: self.node_id_secret.clone(),
            realm_key: self.realm_key.clone(),
            revocations: self.revocations.as_ref().map(|list| list.signed().to_vec()),
        }
    }

    /// The CA's certificate.
    #[must_use]
    pub const fn certificate(&self) -> &CaCertificate {
        &self.certificate
    }

    /// The group's realm key.
    #[must_use]
    pub const fn realm_key(&self) -> &RealmKey {
        &self.realm_key
    }

    /// The revocation list last signed.
    #[must_use]
    pub const fn revocations(&self) -> Option<&RevocationList> {
        self.revocations.as_ref()
    }

    /// What a member trusts that knows this CA only, and no revocation list yet.
    #[must_use]
    pub fn trust(&self) -> Trust {
        Trust::new(&[&self.certificate], self.realm_key.clone()).expect("one certificate that was parsed before")
    }

    /// Issues a certificate for the keys of `request`. The same key gets the same node ID every time.
    ///
    /// # Errors
    /// Why it is not issued.
    pub fn issue(&self, request: &Request, profile: &Profile, rng: &mut Rng) -> Result<Certificate, IssueError> {
        check_user_name(&profile.user)?;
        check_node_name(&profile.node_name)?;
        if self.revocations.as_ref().is_some_and(|list| list.lists_key(&request.public_key())) {
            return Err(IssueError::KeyRevoked);
        }
        let (not_before, not_after) = self.validity(profile)?;
        let subject = x509::name(&[(oid::O, self.certificate.group_name()), (oid::OU, &profile.user), (oid::CN, &profile.node_name)]);
        let draft = Draft { issuer: self.certificate.subject().clone(), subject, extensions: self.extensions(request, profile)? };
        let der = x509::build(draft, &request.public_key(), not_before, not_after, &self.key, rng);
        Ok(Certificate::parse(&der)?)
    }

    /// Makes keys and issues their certificate: for a CA that sets up its own nodes, for simulations and tests.
    ///
    /// # Errors
    /// Why it is not issued.
    pub fn enrol(&self, profile: &Profile, rng: &mut Rng) -> Result<Identity, IssueError> {
        let keys = NodeKeys::generate(rng);
        let certificate = self.issue(&keys.request(), profile, rng)?;
        Ok(Identity::new(keys.signing, keys.dh, certificate).expect("the certificate was issued for these keys"))
    }

    /// Revokes `what` (none: signs the list anew), each with the time until which it has to be listed: the last end of the certificates that it is about,
    /// [`UnixTime`]`(u64::MAX)` for a key that may never come back.
    ///
    /// # Errors
    /// The list is full or a serial number is none. Then nothing has changed.
    pub fn revoke(&mut self, what: &[(Revoked, UnixTime)], now: UnixTime) -> Result<&RevocationList, RevocationError> {
        let list = RevocationList::next(self.revocations.as_ref(), what, self.certificate.group_id(), &self.key, now)?;
        Ok(self.revocations.insert(list))
    }

    /// The certificate among `issued` that holds `node_name` at `now` for another key than `public_key`: with one, the name is taken.
    ///
    /// Expired and revoked certificates hold no name.
    pub fn name_holder<'a>(
        &self,
        node_name: &str,
        public_key: &[u8; 32],
        issued: impl IntoIterator<Item = &'a Certificate>,
        now: UnixTime,
    ) -> Option<&'a Certificate> {
        issued.into_iter().find(|certificate| {
            certificate.node_name() == node_name
                && certificate.public_key() != *public_key
                && certificate.not_after() >= now
                && !self.revocations.as_ref().is_some_and(|list| list.lists(certificate))
        })
    }

    fn validity(&self, profile: &Profile) -> Result<(UnixTime, UnixTime), IssueError> {
        let (from, to) = (self.certificate.not_before(), self.certificate.not_after());
        if profile.lifetime.as_secs() == 0 {
            return Err(IssueError::Lifetime);
        }
        if profile.not_before < from || profile.not_before > to {
            return Err(IssueError::OutsideCa { from, to });
        }
        Ok((backdated(profile.not_before).max(from), profile.not_before.plus_secs(profile.lifetime.as_secs()).min(to)))
    }

    fn extensions(&self, request: &Request, profile: &Profile) -> Result<Vec<x509_cert::ext::Extension>, IssueError> {
        let group_id = self.certificate.group_id();
        let salt = self.node_id_secret.salt(&request.public_key());
        let id = node_id(&group_id, &request.public_key(), &salt);
        let octets = |bytes: &[u8]| OctetString::new(bytes).expect("IDs and salts are short");
        let mut extensions = vec![
            x509::extension(oid::BASIC_CONSTRAINTS, true, x509::NODE_CONSTRAINTS),
            x509::extension(oid::KEY_USAGE, true, x509::NODE_USAGE),
            x509::extension(oid::AUTHORITY_KEY, false, x509::authority_key(&self.certificate.key_id())),
            x509::octets_extension(oid::GROUP_ID, &group_id.0),
            x509::extension(oid::NODE_ID, false, x509::encode(&NodeIdValue { id: octets(&id.0), salt: octets(&salt) })),
            x509::octets_extension(oid::DH_PUBLIC, &request.dh_public()),
            x509::extension(oid::ROLES, false, x509::encode(&profile.roles.0)),
        ];
        let (hosts, networks) = sorted_addresses(&profile.addresses)?;
        if !hosts.is_empty() {
            extensions.push(x509::extension(oid::SUBJECT_ALT_NAME, false, certificate::encode_hosts(&hosts)));
        }
        if !networks.is_empty() {
            extensions.push(x509::extension(oid::NETWORKS, false, certificate::encode_networks(&networks)));
        }
        Ok(extensions)
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Authority({:?}, secrets: ..)", self.certificate)
    }
}

const fn backdated(time: UnixTime) -> UnixTime {
    UnixTime(time.0.saturating_sub(BACKDATE_SECS))
}

/// Addresses of hosts and networks apart, each in ascending order and once.
fn sorted_addresses(addresses: &[Prefix]) -> Result<(Vec<Prefix>, Vec<Prefix>), IssueError> {
    let mut all: Vec<Prefix> = addresses.iter().map(|prefix| Prefix::new(prefix.address, prefix.len)).collect();
    all.sort_unstable();
    all.dedup();
    if all.len() > MAX_ADDRESSES {
        return Err(IssueError::TooManyAddresses);
    }
    let (hosts, networks): (Vec<_>, Vec<_>) = all.into_iter().partition(Prefix::is_host);
    match hosts.iter().find(|host| !certificate::is_usable(&host.address)) {
        Some(host) => Err(IssueError::Address(host.address)),
        None => Ok((hosts, networks)),
    }
}
