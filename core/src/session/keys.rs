//! The key schedule: one secret per handshake, and by HKDF everything else.

use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroize;

use crate::crypto::{AeadKey, Cipher};
use crate::shard::table::DataKeys;

/// The secret of a session, from which all of its keys are derived.
pub(super) struct Secret([u8; 32]);

impl Secret {
    /// From the two keys into which the handshake's state splits, salted with the hash of the handshake.
    pub(super) fn from_split(mut split: ([u8; 32], [u8; 32]), transcript: &[u8]) -> Self {
        let mut material = [0; 64];
        material[..32].copy_from_slice(&split.0);
        material[32..].copy_from_slice(&split.1);
        split.0.zeroize();
        split.1.zeroize();
        let secret = Self(expand(&Hkdf::new(Some(transcript), &material), "annulus session"));
        material.zeroize();
        secret
    }

    /// The keys of control packets: the one to seal with, the one to open with.
    pub(super) fn control(&self, cipher: Cipher, initiator: bool) -> (AeadKey, AeadKey) {
        let (mut there, mut back) = (self.derive("control to responder"), self.derive("control to initiator"));
        let keys = (AeadKey::new(cipher, &there), AeadKey::new(cipher, &back));
        there.zeroize();
        back.zeroize();
        if initiator { keys } else { (keys.1, keys.0) }
    }

    /// The keys of data packets.
    pub(super) fn data(&self, initiator: bool) -> DataKeys {
        let (there, back) = (self.derive("data to responder"), self.derive("data to initiator"));
        if initiator { DataKeys { send: there, receive: back } } else { DataKeys { send: back, receive: there } }
    }

    /// The pre-shared key of a resumption of this session.
    pub(super) fn resumption(&self) -> [u8; 32] {
        self.derive("resumption")
    }

    fn derive(&self, label: &str) -> [u8; 32] {
        expand(&Hkdf::from_prk(&self.0).expect("a secret is as long as a hash"), label)
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

fn expand(hkdf: &Hkdf<Sha256>, label: &str) -> [u8; 32] {
    let mut out = [0; 32];
    hkdf.expand(label.as_bytes(), &mut out).expect("32 bytes are within HKDF's output limit");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_derive_matching_keys_and_no_two_are_equal() {
        let secret = || Secret::from_split(([1; 32], [2; 32]), &[3; 32]);
        let (near, far) = (secret(), secret());
        let (a, b) = (near.data(true), far.data(false));
        assert_eq!((a.send, a.receive), (b.receive, b.send));
        let labels = ["control to responder", "control to initiator", "data to responder", "data to initiator", "resumption"];
        let keys: std::collections::BTreeSet<_> = labels.iter().map(|label| near.derive(label)).collect();
        assert_eq!(keys.len(), labels.len());
        let (seal, _) = near.control(Cipher::Aes256Gcm, true);
        let (_, open) = far.control(Cipher::Aes256Gcm, false);
        let mut text = *b"hello...........0123456789abcdef";
        let tag = seal.seal([0; 12], b"", &mut text[..16]);
        text[16..].copy_from_slice(&tag);
        assert_eq!(open.open([0; 12], b"", &mut text), Ok(16));
        assert_eq!(&text[..8], b"hello...");
    }

    #[test]
    fn another_transcript_gives_another_secret() {
        let of = |transcript: u8| Secret::from_split(([1; 32], [2; 32]), &[transcript; 32]).0;
        assert_ne!(of(1), of(2));
    }
}
