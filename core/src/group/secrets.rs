//! The names and secrets of a group, and the derivation of node IDs from them.

use core::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroize;

use crate::id::{NODE_ID_LEN, NodeId};

/// Bytes of a salt.
pub const SALT_LEN: usize = 32;

/// What a group is, through renaming and the rotation of its CA: 256 random bits drawn when it was made.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub [u8; 32]);

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, ..] = self.0;
        write!(f, "{a:02x}{b:02x}{c:02x}{d:02x}")
    }
}

/// The key of the MAC on every handshake datagram of a realm, delivered with the certificate: without it a node stays silent.
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

impl Drop for RealmKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl PartialEq for RealmKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for RealmKey {}

impl fmt::Debug for RealmKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RealmKey(..)")
    }
}

/// The secret of a group from which the CA derives salts. It survives the rotation of the CA's key, so that IDs do too.
#[derive(Clone)]
pub struct NodeIdSecret([u8; 32]);

impl NodeIdSecret {
    /// The secret with these bytes.
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The salt of a node's ID: HMAC-SHA256 of its Ed25519 public key.
    ///
    /// The same key has the same salt for ever, and only the CA knows it beforehand: nobody can try keys until the place on the ring suits.
    #[must_use]
    pub fn salt(&self, public_key: &[u8; 32]) -> [u8; SALT_LEN] {
        Hmac::<Sha256>::new_from_slice(&self.0)
            .expect("HMAC takes keys of any length")
            .chain_update(public_key)
            .finalize()
            .into_bytes()
            .into()
    }
}

impl Drop for NodeIdSecret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for NodeIdSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeIdSecret(..)")
    }
}

/// The place of a node on the ring: the first 160 bits of SHA-256("annulus node" || group ID || Ed25519 public key || salt) (design section 5).
#[must_use]
pub fn node_id(group: &GroupId, public_key: &[u8; 32], salt: &[u8; SALT_LEN]) -> NodeId {
    let digest: [u8; 32] =
        Sha256::new().chain_update(b"annulus node").chain_update(group.0).chain_update(public_key).chain_update(salt).finalize().into();
    let mut id = [0; NODE_ID_LEN];
    id.copy_from_slice(&digest[..NODE_ID_LEN]);
    NodeId(id)
}

/// What a public key is called in revocation lists: SHA-256 of its 32 bytes.
#[must_use]
pub fn key_fingerprint(public_key: &[u8; 32]) -> [u8; 32] {
    Sha256::digest(public_key).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_node_id_of_known_inputs_is_what_other_tools_compute() {
        // Computed with Python's hmac and hashlib: group 32 x 01, key 32 x 02, secret 32 x 03.
        let salt = NodeIdSecret::new([3; 32]).salt(&[2; 32]);
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        assert_eq!(hex(&salt), "ed4d9020a6ea438552ae025946c0be3ae7a03ef87842ddde80b2b218b54448de");
        assert_eq!(node_id(&GroupId([1; 32]), &[2; 32], &salt).to_string(), "e8aea83c3a93a005f543380f7bb15a85a0ee8b4a");
    }

    #[test]
    fn another_group_key_or_secret_gives_another_id() {
        let base = |group, key: [u8; 32], secret| node_id(&GroupId([group; 32]), &key, &NodeIdSecret::new([secret; 32]).salt(&key));
        let id = base(1, [2; 32], 3);
        assert_eq!(id, base(1, [2; 32], 3));
        assert!(![base(9, [2; 32], 3), base(1, [9; 32], 3), base(1, [2; 32], 9)].contains(&id));
    }

    #[test]
    fn secrets_do_not_appear_in_debug_output() {
        assert_eq!(format!("{:?} {:?}", RealmKey::new([7; 32]), NodeIdSecret::new([7; 32])), "RealmKey(..) NodeIdSecret(..)");
    }
}
