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
    /// No secrecy, equal sizes: for simulations.
    #[cfg(feature = "stand-in")]
    StandIn = 0xff,
}

impl Cipher {
    /// The cipher's name in `status`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Aes256Gcm => "aes-256-gcm",
            Self::ChaCha20Poly1305 => "chacha20-poly1305",
            #[cfg(feature = "stand-in")]
            Self::StandIn => "stand-in",
        }
    }
}

/// A tag did not verify. Nothing may be concluded from the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the packet was not sealed with this key")]
pub struct Forged;

/// A key ready for use. Nonces are given by the caller, who counts.
pub struct AeadKey {
    key: Key,
}

enum Key {
    Real(LessSafeKey),
    #[cfg(feature = "stand-in")]
    StandIn(stand_in::KeyedHash),
}

impl AeadKey {
    /// Prepares `key` for `cipher`.
    #[must_use]
    pub fn new(cipher: Cipher, key: &[u8; KEY_LEN]) -> Self {
        let algorithm = match cipher {
            Cipher::Aes256Gcm => &AES_256_GCM,
            Cipher::ChaCha20Poly1305 => &CHACHA20_POLY1305,
            #[cfg(feature = "stand-in")]
            Cipher::StandIn => return Self { key: Key::StandIn(stand_in::KeyedHash::new(key)) },
        };
        let unbound = UnboundKey::new(algorithm, key).expect("both ciphers take 32-byte keys");
        Self { key: Key::Real(LessSafeKey::new(unbound)) }
    }

    /// Encrypts `text` in place and returns the tag. `nonce` must never repeat under one key.
    #[must_use]
    pub fn seal(&self, nonce: [u8; 12], associated: &[u8], text: &mut [u8]) -> [u8; TAG_LEN] {
        match &self.key {
            Key::Real(key) => {
                let tag = key
                    .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(associated), text)
                    .expect("a packet is far below the AEAD's length limit");
                let mut out = [0; TAG_LEN];
                out.copy_from_slice(tag.as_ref());
                out
            }
            #[cfg(feature = "stand-in")]
            Key::StandIn(hash) => hash.tag(&[&nonce, associated, text]),
        }
    }

    /// Decrypts `text` (ciphertext followed by its tag) in place; the plaintext is its first `text.len() - 16` bytes.
    ///
    /// # Errors
    /// [`Forged`] when the tag does not verify or `text` is shorter than a tag.
    pub fn open(&self, nonce: [u8; 12], associated: &[u8], text: &mut [u8]) -> Result<usize, Forged> {
        match &self.key {
            Key::Real(key) => key
                .open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(associated), text)
                .map(|plain| plain.len())
                .map_err(|_| Forged),
            #[cfg(feature = "stand-in")]
            Key::StandIn(hash) => {
                let (plain, tag) = text.split_last_chunk::<TAG_LEN>().ok_or(Forged)?;
                if hash.tag(&[&nonce, associated, plain]) == *tag { Ok(plain.len()) } else { Err(Forged) }
            }
        }
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

/// What stands in for cryptography in a simulation: a cheap keyed hash without any secrecy.
#[cfg(feature = "stand-in")]
pub mod stand_in {
    use core::fmt;

    use super::TAG_LEN;

    /// Odd constants with mixed bits: the fractional parts of the square roots of 2, 3 and 5.
    const ODD: [u64; 3] = [0x6a09_e667_f3bc_c909, 0xbb67_ae85_84ca_a73b, 0x3c6e_f372_fe94_f82b];

    /// A keyed hash of 128 bits: equal inputs give equal outputs on every machine, a changed bit changes about half of the output.
    #[derive(Clone, PartialEq, Eq)]
    pub struct KeyedHash {
        seed: [u64; 2],
    }

    impl KeyedHash {
        /// A hash keyed with `key`.
        #[must_use]
        pub fn new(key: &[u8]) -> Self {
            Self::from_seed(Self { seed: [ODD[0], ODD[1]] }.hash(&[key]))
        }

        const fn from_seed(seed: [u64; 2]) -> Self {
            Self { seed }
        }

        /// The hash of `fields`, each with its length.
        #[must_use]
        pub fn tag(&self, fields: &[&[u8]]) -> [u8; TAG_LEN] {
            let [a, b] = self.hash(fields);
            let mut out = [0; TAG_LEN];
            out[..8].copy_from_slice(&a.to_be_bytes());
            out[8..].copy_from_slice(&b.to_be_bytes());
            out
        }

        /// A hash whose key depends on this one's and on `fields`.
        #[must_use]
        pub fn mixed(&self, fields: &[&[u8]]) -> Self {
            Self::from_seed(self.hash(fields))
        }

        fn hash(&self, fields: &[&[u8]]) -> [u64; 2] {
            let [mut a, mut b] = self.seed;
            for field in fields {
                for chunk in field.chunks(16) {
                    let mut words = [0; 16];
                    words[..chunk.len()].copy_from_slice(chunk);
                    let words = u128::from_be_bytes(words);
                    a = fold(a ^ (words >> 64) as u64, b ^ ODD[2]);
                    b = fold(b ^ words as u64, a ^ ODD[1]);
                }
                a = fold(a ^ field.len() as u64, b ^ ODD[0]);
            }
            [fold(a, b ^ ODD[1]), fold(b, a ^ ODD[2])]
        }
    }

    impl fmt::Debug for KeyedHash {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("KeyedHash(..)")
        }
    }

    /// Both halves of the product on top of each other, with the factors added so that a zero factor does not erase the other.
    const fn fold(a: u64, b: u64) -> u64 {
        let product = a as u128 * b as u128;
        (product as u64) ^ (product >> 64) as u64 ^ a.rotate_left(29) ^ b.rotate_left(41)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ciphers() -> Vec<Cipher> {
        vec![
            Cipher::Aes256Gcm,
            Cipher::ChaCha20Poly1305,
            #[cfg(feature = "stand-in")]
            Cipher::StandIn,
        ]
    }

    proptest! {
        #[test]
        fn what_was_sealed_is_opened_and_a_changed_bit_is_forged(key in any::<[u8; 32]>(), other in any::<[u8; 32]>(), counter in any::<u64>(),
            text in proptest::collection::vec(any::<u8>(), 0..200), flip in any::<usize>()) {
            prop_assume!(key != other);
            for cipher in ciphers() {
                let aead = AeadKey::new(cipher, &key);
                let mut sealed = text.clone();
                let tag = aead.seal(nonce(3, counter), b"header", &mut sealed);
                sealed.extend_from_slice(&tag);
                let mut bad = sealed.clone();
                bad[flip % sealed.len()] ^= 1 << (flip % 8);
                prop_assert_eq!(aead.open(nonce(3, counter), b"header", &mut bad), Err(Forged));
                prop_assert_eq!(AeadKey::new(cipher, &other).open(nonce(3, counter), b"header", &mut sealed.clone()), Err(Forged));
                prop_assert_eq!(aead.open(nonce(4, counter), b"header", &mut sealed.clone()), Err(Forged));
                prop_assert_eq!(aead.open(nonce(3, counter), b"Header", &mut sealed.clone()), Err(Forged));
                prop_assert_eq!(aead.open(nonce(3, counter), b"header", &mut sealed), Ok(text.len()));
                prop_assert_eq!(&sealed[..text.len()], &text[..]);
            }
        }
    }
}
