//! Who this node is: its keys and their certificate.

use core::fmt;

use ed25519_dalek::SigningKey;
use zeroize::Zeroizing;

use super::certificate::Certificate;
use super::keys::NodeKeys;
use super::signature::{self, SIGNATURE_LEN};
use crate::config::CryptoMode;
use crate::id::NodeId;

/// A node's keys with the certificate that binds them to its ID.
#[derive(Clone)]
pub struct Identity {
    signing_key: SigningKey,
    dh_secret: Zeroizing<[u8; 32]>,
    certificate: Certificate,
    crypto: CryptoMode,
}

/// Keys and certificate do not belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// The Ed25519 key is another.
    #[error("the signing key is not the one that the certificate was issued for")]
    SigningKey,
    /// The X25519 key is another.
    #[error("the X25519 key is not the one that the certificate was issued for")]
    DhKey,
}

impl Identity {
    /// Joins keys and certificate.
    ///
    /// # Errors
    /// [`IdentityError`] when one of the keys is not that of the certificate.
    pub fn new(signing_key: [u8; 32], dh_secret: [u8; 32], certificate: Certificate) -> Result<Self, IdentityError> {
        let keys = NodeKeys { signing: signing_key, dh: dh_secret };
        if keys.public_key() != certificate.public_key() {
            return Err(IdentityError::SigningKey);
        }
        if keys.dh_public() != certificate.dh_public() {
            return Err(IdentityError::DhKey);
        }
        let signing_key = SigningKey::from_bytes(&keys.signing);
        Ok(Self { signing_key, dh_secret: Zeroizing::new(dh_secret), certificate, crypto: CryptoMode::Real })
    }

    /// The same identity with signatures made as `crypto` says.
    #[must_use]
    pub fn with_crypto(mut self, crypto: CryptoMode) -> Self {
        self.certificate = self.certificate.with_crypto(crypto);
        self.crypto = crypto;
        self
    }

    /// The same keys with a renewed certificate.
    ///
    /// # Errors
    /// [`IdentityError`] when the certificate is not for these keys.
    pub fn renewed(&self, certificate: Certificate) -> Result<Self, IdentityError> {
        Self::new(self.signing_key.to_bytes(), *self.dh_secret, certificate).map(|identity| identity.with_crypto(self.crypto))
    }

    /// The node's place on the ring.
    #[must_use]
    pub fn node_id(&self) -> NodeId {
        self.certificate.node_id()
    }

    /// The node's certificate.
    #[must_use]
    pub const fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// The X25519 secret.
    #[must_use]
    pub fn dh_secret(&self) -> &[u8; 32] {
        &self.dh_secret
    }

    /// Signs `message` for the purpose `context`; [`Certificate::verify_signature`] verifies it. The same message under another context has another signature.
    #[must_use]
    pub fn sign(&self, context: &str, message: &[u8]) -> [u8; SIGNATURE_LEN] {
        signature::sign(self.crypto, &self.signing_key, context, message)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({:?}, keys: ..)", self.certificate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::fixture;

    #[test]
    fn keys_that_are_not_the_certificates_are_refused() {
        let (authority, mut rng) = fixture::authority();
        let (keys, certificate) = fixture::node(&authority, "db1", &mut rng);
        assert!(Identity::new(keys.signing, keys.dh, certificate.clone()).is_ok());
        assert_eq!(Identity::new([1; 32], keys.dh, certificate.clone()).unwrap_err(), IdentityError::SigningKey);
        assert_eq!(Identity::new(keys.signing, [1; 32], certificate).unwrap_err(), IdentityError::DhKey);
    }

    #[test]
    fn what_one_node_signs_the_others_verify() {
        let (authority, mut rng) = fixture::authority();
        let (keys, certificate) = fixture::node(&authority, "db1", &mut rng);
        let (_, stranger) = fixture::node(&authority, "db2", &mut rng);
        let identity = Identity::new(keys.signing, keys.dh, certificate.clone()).unwrap();
        let signature = identity.sign("record", b"message");
        assert!(certificate.verify_signature("record", b"message", &signature));
        assert!(!certificate.verify_signature("grant", b"message", &signature));
        assert!(!stranger.verify_signature("record", b"message", &signature));
    }

    #[test]
    fn secrets_do_not_appear_in_debug_output() {
        let (authority, mut rng) = fixture::authority();
        let (keys, certificate) = fixture::node(&authority, "db1", &mut rng);
        let text = format!("{:?}", Identity::new(keys.signing, keys.dh, certificate).unwrap());
        assert!(text.starts_with("Identity(Certificate(db1 of alice, ") && text.ends_with("), keys: ..)"), "{text}");
    }
}
