//! The AEAD behind one small type: AES-256-GCM where the CPU has it, ChaCha20-Poly1305 elsewhere.

use core::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

/// Bytes of the tag behind a sealed packet.
pub const TAG_LEN: usize = 16;
/// Bytes of a key.
pub const KEY_LEN: usize = 32;

/// Which AEAD a session uses, negotiated inside the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Cipher {
    /// AES-256-GCM: both ends have AES instructions.
    Aes256Gcm = 1,
    /// ChaCha20-Poly1305: at least one end has none.
    ChaCha20Poly1305 = 2,
}

impl Cipher {
    /// The cipher's name in `status`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Aes256Gcm => "aes-256-gcm",
            Self::ChaCha20Poly1305 => "chacha20-poly1305",
        }
    }
}

/// A tag did not verify. Nothing may be concluded from the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the packet was not sealed with this key")]
pub struct Forged;

/// A key ready for use. Nonces are given by the caller, who counts.
pub struct AeadKey {
    key: LessSafeKey,
}

impl AeadKey {
    /// Prepares `key` for `cipher`.
    #[must_use]
    pub fn new(cipher: Cipher, key: &[u8; KEY_LEN]) -> Self {
        let algorithm = match cipher {
            Cipher::Aes256Gcm => &AES_256_GCM,
            Cipher::ChaCha20Poly1305 => &CHACHA20_POLY1305,
        };
        let unbound = UnboundKey::new(algorithm, key).expect("both ciphers take 32-byte keys");
        Self { key: LessSafeKey::new(unbound) }
    }

    /// Encrypts `text` in place and returns the tag. `nonce` must never repeat under one key.
    #[must_use]
    pub fn seal(&self, nonce: [u8; 12], associated: &[u8], text: &mut [u8]) -> [u8; TAG_LEN] {
        let tag = self
            .key
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(associated), text)
            .expect("a packet is far below the AEAD's length limit");
        let mut out = [0; TAG_LEN];
        out.copy_from_slice(tag.as_ref());
        out
    }

    /// Decrypts `text` (ciphertext followed by its tag) in place; the plaintext is its first `text.len() - 16` bytes.
    ///
    /// # Errors
    /// [`Forged`] when the tag does not verify or `text` is shorter than a tag.
    pub fn open(&self, nonce: [u8; 12], associated: &[u8], text: &mut [u8]) -> Result<usize, Forged> {
        self.key
            .open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(associated), text)
            .map(|plain| plain.len())
            .map_err(|_| Forged)
    }
}

impl fmt::Debug for AeadKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AeadKey(..)")
    }
}

/// The nonce of the packet with `counter` on `lane`: 32 bits of lane, 64 bits of counter, big-endian.
#[must_use]
pub fn nonce(lane: u8, counter: u64) -> [u8; 12] {
    let mut out = [0; 12];
    out[3] = lane;
    out[4..].copy_from_slice(&counter.to_be_bytes());
    out
}
