//! Ed25519 signatures that are good for one purpose only.

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
#[cfg(feature = "stand-in")]
use sha2::{Digest, Sha512};

use crate::config::CryptoMode;

/// Bytes of a signature.
pub const SIGNATURE_LEN: usize = 64;

/// The context of signed revocation lists.
pub const CONTEXT_REVOCATIONS: &str = "revocation list";

/// What is signed: a fixed start, the length of the context in 4 bytes, the context, the message.
///
/// The start is no DER sequence, so that no signature made here is one of a certificate or request, and the length makes the boundary between context and message unambiguous.
fn signed_bytes(context: &str, message: &[u8]) -> Vec<u8> {
    const START: &[u8] = b"annulus signature";
    let mut out = Vec::with_capacity(START.len() + 4 + context.len() + message.len());
    out.extend_from_slice(START);
    out.extend_from_slice(&(context.len() as u32).to_be_bytes());
    out.extend_from_slice(context.as_bytes());
    out.extend_from_slice(message);
    out
}

/// Signs `message` for the purpose `context`.
pub(super) fn sign(mode: CryptoMode, key: &SigningKey, context: &str, message: &[u8]) -> [u8; SIGNATURE_LEN] {
    match mode {
        CryptoMode::Real => key.sign(&signed_bytes(context, message)).to_bytes(),
        #[cfg(feature = "stand-in")]
        CryptoMode::StandIn => stand_in(key.verifying_key().as_bytes(), context, message),
    }
}

/// Whether the holder of `public_key` signed `message` for the purpose `context`.
pub(super) fn verify(mode: CryptoMode, public_key: &[u8; 32], context: &str, message: &[u8], signature: &[u8; SIGNATURE_LEN]) -> bool {
    match mode {
        CryptoMode::Real => verify_bytes(public_key, &signed_bytes(context, message), signature),
        #[cfg(feature = "stand-in")]
        CryptoMode::StandIn => *signature == stand_in(public_key, context, message),
    }
}

/// Whether `signature` is one of `public_key` over exactly `message`, as in certificates and requests.
///
/// The strict check: no weak key, no non-canonical encoding. All members therefore agree on each signature.
pub(super) fn verify_bytes(public_key: &[u8; 32], message: &[u8], signature: &[u8; SIGNATURE_LEN]) -> bool {
    VerifyingKey::from_bytes(public_key).is_ok_and(|key| key.verify_strict(message, &Signature::from_bytes(signature)).is_ok())
}

/// A checksum of a signature's size that anybody can compute.
#[cfg(feature = "stand-in")]
fn stand_in(public_key: &[u8; 32], context: &str, message: &[u8]) -> [u8; SIGNATURE_LEN] {
    Sha512::new().chain_update(public_key).chain_update(signed_bytes(context, message)).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_signature_is_good_for_its_context_only() {
        let key = SigningKey::from_bytes(&[5; 32]);
        let public = key.verifying_key().to_bytes();
        let signature = sign(CryptoMode::Real, &key, "record", b"message");
        assert!(verify(CryptoMode::Real, &public, "record", b"message", &signature));
        assert!(!verify(CryptoMode::Real, &public, "grant", b"message", &signature));
        assert!(!verify(CryptoMode::Real, &public, "recordm", b"essage", &signature));
        assert!(!verify(CryptoMode::Real, &public, "record", b"messagE", &signature));
        assert!(!verify_bytes(&public, b"message", &signature));
    }

    #[test]
    fn a_key_of_small_order_verifies_nothing() {
        // The neutral element as key and R, and S = 0, satisfy the plain equation for every message.
        let mut neutral = [0; 32];
        neutral[0] = 1;
        let mut signature = [0; 64];
        signature[0] = 1;
        assert!(!verify_bytes(&neutral, b"anything", &signature));
    }

    #[cfg(feature = "stand-in")]
    #[test]
    fn a_stand_in_signature_still_depends_on_key_context_and_message() {
        let key = SigningKey::from_bytes(&[5; 32]);
        let public = key.verifying_key().to_bytes();
        let signature = sign(CryptoMode::StandIn, &key, "record", b"message");
        assert!(verify(CryptoMode::StandIn, &public, "record", b"message", &signature));
        assert!(!verify(CryptoMode::StandIn, &[1; 32], "record", b"message", &signature));
        assert!(!verify(CryptoMode::StandIn, &public, "grant", b"message", &signature));
        assert!(!verify(CryptoMode::StandIn, &public, "record", b"messagE", &signature));
        assert!(!verify(CryptoMode::Real, &public, "record", b"message", &signature));
    }

    proptest! {
        #[test]
        fn different_contexts_or_messages_are_signed_as_different_bytes(a in ".{0,6}", b in proptest::collection::vec(any::<u8>(), 0..6), c in ".{0,6}", d in proptest::collection::vec(any::<u8>(), 0..6)) {
            prop_assert_eq!(signed_bytes(&a, &b) == signed_bytes(&c, &d), (a, b) == (c, d));
        }
    }
}
