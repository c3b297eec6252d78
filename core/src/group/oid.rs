//! The object identifiers of the profile.

use const_oid::ObjectIdentifier;

/// The private arc `2.25.1634627189`.
///
/// `2.25` is the arc under which anybody may use a UUID as a number without registering it (Recommendation ITU-T X.667). Ours is the small number that
/// spells `annu` in ASCII, because common libraries, x509-cert among them, hold an arc in 32 bits. No generated UUID is that small (version and variant
/// bits make each larger than 2^64), so it meets nobody else's.
pub const PRIVATE_ARC: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.25.1634627189");
/// Extension: group ID, in certificates of nodes and of the CA.
pub const GROUP_ID: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.25.1634627189.1");
/// Extension: node ID and salt.
pub const NODE_ID: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.25.1634627189.2");
/// Extension: X25519 public key, in certificates of nodes and in requests.
pub const DH_PUBLIC: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.25.1634627189.3");
/// Extension: roles.
pub const ROLES: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.25.1634627189.4");
/// Extension: networks behind the node that have fixed addresses.
pub const NETWORKS: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.25.1634627189.5");

pub(super) use const_oid::db::rfc4519::{CN, O, OU};
pub(super) use const_oid::db::rfc5280::{
    ID_CE_AUTHORITY_KEY_IDENTIFIER as AUTHORITY_KEY, ID_CE_BASIC_CONSTRAINTS as BASIC_CONSTRAINTS, ID_CE_KEY_USAGE as KEY_USAGE,
    ID_CE_SUBJECT_ALT_NAME as SUBJECT_ALT_NAME, ID_CE_SUBJECT_KEY_IDENTIFIER as SUBJECT_KEY,
};
pub(super) use const_oid::db::rfc8410::ID_ED_25519 as ED25519;
