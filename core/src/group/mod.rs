//! Who belongs to a group: certificates, requests, revocation, and the authority that issues them.
//!
//! A [`Trust`] is what a member knows of its group and verifies others with; an [`Identity`] is what it proves itself with; an [`Authority`] makes both.
//! Nothing here reads a clock or draws randomness by itself.
//!
//! # Profile of a node's certificate
//!
//! X.509 v3 (RFC 5280) in canonical DER, at most [`MAX_CERTIFICATE_LEN`] bytes; about 500 with ordinary names. Every field is required unless it says otherwise.
//!
//! | field | where | encoding |
//! | --- | --- | --- |
//! | serial number | `serialNumber` | positive, 1 to 20 bytes; ours are 16 random bytes with the top bits 01 |
//! | signature | `signatureAlgorithm`, `signature` | Ed25519 (`1.3.101.112`, RFC 8410), 64 bytes |
//! | issuer | `issuer` | the CA's subject, byte for byte |
//! | validity | `validity` | UTCTime up to 2049, GeneralizedTime after; both ends included; within the CA's |
//! | group name | `subject`: O (`2.5.4.10`), first RDN | UTF8String, 1 to 48 bytes |
//! | user | `subject`: OU (`2.5.4.11`), second RDN | UTF8String, 1 to 64 bytes |
//! | node name | `subject`: CN (`2.5.4.3`), third RDN | UTF8String, a DNS label of 1 to 63 bytes |
//! | public key | `subjectPublicKeyInfo` | Ed25519, 32 bytes |
//! | no CA | extension `2.5.29.19` basicConstraints, critical | empty SEQUENCE |
//! | usage | extension `2.5.29.15` keyUsage, critical | digitalSignature |
//! | issuer's key | extension `2.5.29.35` authorityKeyIdentifier | keyIdentifier only: the first 8 bytes of SHA-256 of the CA's public key |
//! | fixed addresses (optional) | extension `2.5.29.17` subjectAltName | iPAddress, ascending |
//! | group ID | extension `2.25.1634627189.1` | OCTET STRING, 32 bytes |
//! | node ID and salt | extension `2.25.1634627189.2` | SEQUENCE of OCTET STRING, 20 bytes, and OCTET STRING, 32 bytes |
//! | X25519 key | extension `2.25.1634627189.3` | OCTET STRING, 32 bytes |
//! | roles | extension `2.25.1634627189.4` | INTEGER, 16 bits, see [`Roles`] |
//! | fixed networks (optional) | extension `2.25.1634627189.5` | SEQUENCE OF OCTET STRING, each length in bits (1 byte) and address (4 or 16 bytes), ascending |
//!
//! Names stand in the subject and nowhere else: a certificate cannot say two, every tool shows them, and the longest ones fit. Our extensions are not
//! critical, so tools that do not know them verify the certificate all the same. An extension that we do not know is ignored when it is not critical and
//! refuses the certificate when it is; none may stand twice. For the arc see [`oid`].
//!
//! The node ID is the first 160 bits of SHA-256("annulus node" || group ID || public key || salt) with salt = HMAC-SHA256(node-ID secret of the group,
//! public key): whoever reads a certificate computes it anew, and nobody picks a place on the ring.
//!
//! # Profile of a CA's certificate
//!
//! The same with these differences: signed by itself, issuer = subject = O group name, CN `Annulus CA` and the first 4 bytes of its key's identifier;
//! basicConstraints CA with pathLenConstraint 0; keyUsage keyCertSign and cRLSign; `2.5.29.14` subjectKeyIdentifier of 8 bytes; of our extensions only the group ID.
//!
//! # Request
//!
//! PKCS#10 (RFC 2986) with an empty subject, the Ed25519 key, and one extension `2.25.1634627189.3` with the X25519 key within the attribute
//! extensionRequest (`1.2.840.113549.1.9.14`), signed by the Ed25519 key. It carries no name and no ID: those are the CA's to say.
//!
//! # Revocation list
//!
//! See [`revocation`].

mod authority;
mod ca;
mod certificate;
mod error;
mod identity;
mod keys;
mod names;
pub mod oid;
mod pem;
mod request;
pub mod revocation;
mod roles;
mod secrets;
mod signature;
mod trust;
mod validity;
mod x509;

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod tests;

pub use authority::{
    Authority, AuthorityError, BACKDATE_SECS, DEFAULT_CA_LIFETIME, DEFAULT_LIFETIME, IssueError, Parameters, Parts, Profile,
};
pub use ca::CaCertificate;
pub use certificate::{Certificate, MAX_ADDRESSES};
pub use error::CertificateError;
pub use identity::{Identity, IdentityError};
pub use keys::{NodeKeys, ParseKeysError};
pub use names::{MAX_GROUP_NAME_LEN, MAX_NODE_NAME_LEN, MAX_USER_NAME_LEN, NameError, check_group_name, check_node_name, check_user_name};
pub use pem::{MAX_PEM_LEN, PemError};
pub use request::{MAX_REQUEST_LEN, Request};
pub use revocation::{MAX_REVOCATION_LIST_LEN, MAX_REVOCATIONS, RevocationError, RevocationList, Revoked};
pub use roles::{ParseRolesError, Roles};
pub use secrets::{GroupId, NodeIdSecret, RealmKey, SALT_LEN, key_fingerprint, node_id};
pub use signature::{CONTEXT_REVOCATIONS, SIGNATURE_LEN};
pub use trust::{MAX_CAS, Trust, TrustError};
pub use validity::{Utc, utc};
pub use x509::{MAX_CERTIFICATE_LEN, MAX_SERIAL_LEN};
