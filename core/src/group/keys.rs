//! The two key pairs of a node.

use core::fmt;

use der::Decode;
use der::asn1::OctetStringRef;
use der::pem::LineEnding;
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::{PrivateKeyInfoRef, SecretDocument};
use spki::AlgorithmIdentifier;
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::{Zeroize, Zeroizing};

use super::oid::ED25519;
use super::pem::MAX_PEM_LEN;
use super::request::Request;
use crate::rng::Rng;
use const_oid::db::rfc8410::ID_X_25519 as X25519;

const LABEL: &str = "PRIVATE KEY";

/// A node's Ed25519 signing key and X25519 secret. They are made on the node and never leave it.
#[derive(Clone)]
pub struct NodeKeys {
    /// The seed of the Ed25519 key (RFC 8032).
    pub signing: [u8; 32],
    /// The X25519 secret (RFC 7748).
    pub dh: [u8; 32],
}

/// A text does not hold a node's keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no two PEM blocks \"PRIVATE KEY\" with an Ed25519 and an X25519 key")]
pub struct ParseKeysError;

impl NodeKeys {
    /// New keys.
    #[must_use]
    pub fn generate(rng: &mut Rng) -> Self {
        Self { signing: rng.bytes(), dh: rng.bytes() }
    }

    /// The Ed25519 public key.
    #[must_use]
    pub fn public_key(&self) -> [u8; 32] {
        SigningKey::from_bytes(&self.signing).verifying_key().to_bytes()
    }

    /// The X25519 public key.
    #[must_use]
    pub fn dh_public(&self) -> [u8; 32] {
        PublicKey::from(&StaticSecret::from(self.dh)).to_bytes()
    }

    /// The request for a certificate of these keys.
    #[must_use]
    pub fn request(&self) -> Request {
        Request::create(&self.signing, &self.dh_public())
    }

    /// Both keys as PKCS#8 (RFC 8410), one PEM block each; `openssl pkey` reads the first.
    #[must_use]
    pub fn to_pem(&self) -> Zeroizing<String> {
        let mut out = Zeroizing::new(String::new());
        for (oid, key) in [(ED25519, &self.signing), (X25519, &self.dh)] {
            // The private key is an OCTET STRING within the OCTET STRING of PKCS#8.
            let mut inner = Zeroizing::new([0; 34]);
            inner[..2].copy_from_slice(&[0x04, 32]);
            inner[2..].copy_from_slice(key);
            let info = PrivateKeyInfoRef::new(
                AlgorithmIdentifier { oid, parameters: None },
                OctetStringRef::new(inner.as_slice()).expect("34 bytes are short"),
            );
            let document = SecretDocument::encode_msg(&info).expect("a key has an encoding");
            out.push_str(&document.to_pem(LABEL, LineEnding::LF).expect("a key is short"));
        }
        out
    }

    /// Reads what [`to_pem`](Self::to_pem) writes; the blocks may stand in either order.
    ///
    /// # Errors
    /// [`ParseKeysError`] when a key is missing, stands twice or is broken.
    pub fn from_pem(text: &str) -> Result<Self, ParseKeysError> {
        const END: &str = "-----END PRIVATE KEY-----";
        let (mut signing, mut dh) = (None, None);
        let text = if text.len() <= MAX_PEM_LEN { text } else { "" };
        for block in text.split_inclusive(END).filter(|block| block.ends_with(END)) {
            let block = block.find("-----BEGIN").map_or("", |start| &block[start..]);
            let (label, document) = SecretDocument::from_pem(block).map_err(|_| ParseKeysError)?;
            let info = PrivateKeyInfoRef::from_der(document.as_bytes()).map_err(|_| ParseKeysError)?;
            let key: [u8; 32] =
                info.private_key.as_bytes().strip_prefix(&[0x04, 32]).and_then(|key| key.try_into().ok()).ok_or(ParseKeysError)?;
            let slot = match info.algorithm.oid {
                ED25519 if label == LABEL => &mut signing,
                X25519 if label == LABEL => &mut dh,
                _ => return Err(ParseKeysError),
            };
            if slot.replace(key).is_some() {
                return Err(ParseKeysError);
            }
        }
        Ok(Self { signing: signing.ok_or(ParseKeysError)?, dh: dh.ok_or(ParseKeysError)? })
    }
}

impl Drop for NodeKeys {
    fn drop(&mut self) {
        self.signing.zeroize();
        self.dh.zeroize();
    }
}

impl fmt::Debug for NodeKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeKeys(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_read_back_from_pem_in_either_order() {
        let keys = NodeKeys::generate(&mut Rng::new([1; 32]));
        let pem = keys.to_pem();
        let (first, second) = pem.split_at(pem.len() / 2);
        for text in [pem.as_str(), &format!("# made today\n{second}{first}")] {
            let read = NodeKeys::from_pem(text).unwrap();
            assert_eq!((read.signing, read.dh), (keys.signing, keys.dh));
        }
        for broken in ["", first, second, &format!("{first}{first}{second}"), &pem.replace("PRIVATE", "PUBLIC"), &pem.replacen('M', "N", 1)]
        {
            assert_eq!(NodeKeys::from_pem(broken).unwrap_err(), ParseKeysError, "{broken}");
        }
    }

    #[test]
    fn keys_do_not_appear_in_debug_output() {
        assert_eq!(format!("{:?}", NodeKeys { signing: [7; 32], dh: [7; 32] }), "NodeKeys(..)");
    }
}
