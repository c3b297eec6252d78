//! The Noise handshakes: two published patterns through `snow`, over primitives that we choose.
//!
//! The cipher of the handshake is fixed to ChaCha20-Poly1305, which is fast and free of timing leaks on every CPU; that of the session is negotiated inside.

use core::fmt;

use snow::params::{CipherChoice, DHChoice, HashChoice};
use snow::resolvers::CryptoResolver;
use snow::types::{Cipher as NoiseCipher, Dh, Hash, Random};
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroize;

use super::keys::Secret;
#[cfg(feature = "stand-in")]
use super::stand_in::StandIn;
use crate::config::CryptoMode;
use crate::crypto::{AeadKey, Cipher, TAG_LEN};
use crate::rng::Rng;

/// Which handshake, with what each end brings to it.
pub(super) enum Pattern<'a> {
    /// XX: both ends prove their static key inside encrypted payloads.
    Full {
        /// Our X25519 secret.
        dh_secret: &'a [u8; 32],
        /// Its public key.
        #[cfg_attr(not(feature = "stand-in"), expect(dead_code, reason = "the real handshake computes it"))]
        dh_public: [u8; 32],
    },
    /// NNpsk0: both ends know the resumption secret of an earlier session.
    Resume {
        /// That secret.
        psk: &'a [u8; 32],
    },
}

impl Pattern<'_> {
    const fn name(&self) -> &'static str {
        match self {
            Self::Full { .. } => "Noise_XX_25519_ChaChaPoly_SHA256",
            Self::Resume { .. } => "Noise_NNpsk0_25519_ChaChaPoly_SHA256",
        }
    }
}

/// A message was not made by a partner in this handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BadMessage;

/// Most bytes that a message is longer than its payload: ephemeral and static key and two tags.
const OVERHEAD: usize = 32 + 32 + 2 * TAG_LEN;

/// A handshake under way.
pub(super) enum Noise {
    Real(Box<snow::HandshakeState>),
    #[cfg(feature = "stand-in")]
    StandIn(Box<StandIn>),
}

impl Noise {
    /// A fresh state. `seed` is used for the ephemeral key alone.
    pub(super) fn new(mode: CryptoMode, pattern: &Pattern<'_>, initiator: bool, prologue: &[u8], seed: [u8; 32]) -> Self {
        match mode {
            CryptoMode::Real => Self::Real(Box::new(build(pattern, initiator, prologue, seed, None))),
            #[cfg(feature = "stand-in")]
            CryptoMode::StandIn => Self::StandIn(Box::new(StandIn::new(pattern, initiator, prologue, seed))),
        }
    }

    /// Writes the next message.
    ///
    /// # Errors
    /// [`BadMessage`] when what the other end sent before contains a weak key.
    pub(super) fn write(&mut self, payload: &[u8]) -> Result<Vec<u8>, BadMessage> {
        match self {
            Self::Real(state) => {
                let mut out = vec![0; payload.len() + OVERHEAD];
                let len = state.write_message(payload, &mut out).map_err(|_| BadMessage)?;
                out.truncate(len);
                Ok(out)
            }
            #[cfg(feature = "stand-in")]
            Self::StandIn(state) => Ok(state.write(payload)),
        }
    }

    /// Reads the next message and returns its payload.
    ///
    /// After an error another message may be tried, with one exception: an m3 whose static key is right and whose payload is not leaves the state
    /// unusable, and the handshake runs into its time limit. Only a member of the realm on the way of the datagrams can cause it, who could as well drop them.
    ///
    /// # Errors
    /// [`BadMessage`] when it was not made for this state.
    pub(super) fn read(&mut self, message: &[u8]) -> Result<Vec<u8>, BadMessage> {
        match self {
            Self::Real(state) => {
                let mut payload = vec![0; message.len()];
                let len = state.read_message(message, &mut payload).map_err(|_| BadMessage)?;
                payload.truncate(len);
                Ok(payload)
            }
            #[cfg(feature = "stand-in")]
            Self::StandIn(state) => state.read(message),
        }
    }

    /// The other end's static key, once a message proved it.
    pub(super) fn remote_static(&self) -> Option<[u8; 32]> {
        match self {
            Self::Real(state) => state.get_remote_static().and_then(|key| key.try_into().ok()),
            #[cfg(feature = "stand-in")]
            Self::StandIn(state) => state.remote_static(),
        }
    }

    /// The secret, after the last message.
    pub(super) fn secret(mut self) -> Secret {
        match &mut self {
            Self::Real(state) => {
                let split = state.dangerously_get_raw_split();
                Secret::from_split(split, state.get_handshake_hash())
            }
            #[cfg(feature = "stand-in")]
            Self::StandIn(state) => state.secret(),
        }
    }
}

impl fmt::Debug for Noise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Noise(..)")
    }
}

/// `ephemeral` fixes the ephemeral key, for test vectors.
fn build(pattern: &Pattern<'_>, initiator: bool, prologue: &[u8], seed: [u8; 32], ephemeral: Option<&[u8; 32]>) -> snow::HandshakeState {
    let params = pattern.name().parse().expect("both names are valid Noise protocol names");
    let mut builder = snow::Builder::with_resolver(params, Box::new(Resolver { seed })).prologue(prologue).expect("given once");
    match pattern {
        Pattern::Full { dh_secret, .. } => builder = builder.local_private_key(*dh_secret).expect("given once"),
        Pattern::Resume { psk } => builder = builder.psk(0, psk).expect("position 0 is valid and given once"),
    }
    if let Some(key) = ephemeral {
        builder = builder.fixed_ephemeral_key_for_testing_only(key);
    }
    let state = if initiator { builder.build_initiator() } else { builder.build_responder() };
    state.expect("the resolver knows all primitives, and the pattern's keys are given")
}

/// Our primitives, for `snow`.
struct Resolver {
    seed: [u8; 32],
}

impl CryptoResolver for Resolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(SeededRandom(Rng::new(self.seed))))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        matches!(choice, DHChoice::Curve25519).then(|| Box::new(X25519::default()) as _)
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        matches!(choice, HashChoice::SHA256).then(|| Box::new(Sha256::default()) as _)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn NoiseCipher>> {
        matches!(choice, CipherChoice::ChaChaPoly).then(|| Box::new(ChaChaPoly::default()) as _)
    }
}

struct SeededRandom(Rng);

impl Random for SeededRandom {
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), snow::Error> {
        for chunk in dest.chunks_mut(8) {
            chunk.copy_from_slice(&self.0.bytes::<8>()[..chunk.len()]);
        }
        Ok(())
    }
}

struct X25519 {
    secret: StaticSecret,
    public: [u8; 32],
}

impl Default for X25519 {
    fn default() -> Self {
        Self { secret: StaticSecret::from([0; 32]), public: [0; 32] }
    }
}

impl Dh for X25519 {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        32
    }

    fn priv_len(&self) -> usize {
        32
    }

    fn set(&mut self, privkey: &[u8]) {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(privkey);
        self.secret = StaticSecret::from(bytes);
        self.public = PublicKey::from(&self.secret).to_bytes();
        bytes.zeroize();
    }

    fn generate(&mut self, rng: &mut dyn Random) -> Result<(), snow::Error> {
        let mut bytes = [0; 32];
        rng.try_fill_bytes(&mut bytes)?;
        self.set(&bytes);
        bytes.zeroize();
        Ok(())
    }

    fn pubkey(&self) -> &[u8] {
        &self.public
    }

    fn privkey(&self) -> &[u8] {
        self.secret.as_bytes()
    }

    /// A key of small order would make the result known to everybody: it is refused, as RFC 7748 section 6.1 allows.
    fn dh(&self, pubkey: &[u8], out: &mut [u8]) -> Result<(), snow::Error> {
        let theirs: [u8; 32] = pubkey.get(..32).and_then(|key| key.try_into().ok()).ok_or(snow::Error::Dh)?;
        let shared = self.secret.diffie_hellman(&PublicKey::from(theirs));
        if !shared.was_contributory() {
            return Err(snow::Error::Dh);
        }
        out[..32].copy_from_slice(shared.as_bytes());
        Ok(())
    }
}

#[derive(Default)]
struct Sha256(sha2::Sha256);

impl Hash for Sha256 {
    fn name(&self) -> &'static str {
        "SHA256"
    }

    fn block_len(&self) -> usize {
        64
    }

    fn hash_len(&self) -> usize {
        32
    }

    fn reset(&mut self) {
        self.0 = sha2::Sha256::default();
    }

    fn input(&mut self, data: &[u8]) {
        sha2::Digest::update(&mut self.0, data);
    }

    fn result(&mut self, out: &mut [u8]) {
        out[..32].copy_from_slice(&sha2::Digest::finalize(core::mem::take(&mut self.0)));
    }
}

/// ChaCha20-Poly1305 with the nonce of the Noise specification, section 12.3: 4 zero bytes, then the counter in little-endian.
#[derive(Default)]
struct ChaChaPoly {
    key: Option<AeadKey>,
}

impl ChaChaPoly {
    fn nonce(counter: u64) -> [u8; 12] {
        let mut out = [0; 12];
        out[4..].copy_from_slice(&counter.to_le_bytes());
        out
    }

    fn key(&self) -> &AeadKey {
        self.key.as_ref().expect("the state machine sets a key before it uses one")
    }
}

impl NoiseCipher for ChaChaPoly {
    fn name(&self) -> &'static str {
        "ChaChaPoly"
    }

    fn set(&mut self, key: &[u8; 32]) {
        self.key = Some(AeadKey::new(Cipher::ChaCha20Poly1305, key));
    }

    fn encrypt(&self, nonce: u64, authtext: &[u8], plaintext: &[u8], out: &mut [u8]) -> usize {
        let (text, rest) = out.split_at_mut(plaintext.len());
        text.copy_from_slice(plaintext);
        let tag = self.key().seal(Self::nonce(nonce), authtext, text);
        rest[..TAG_LEN].copy_from_slice(&tag);
        plaintext.len() + TAG_LEN
    }

    fn decrypt(&self, nonce: u64, authtext: &[u8], ciphertext: &[u8], out: &mut [u8]) -> Result<usize, snow::Error> {
        let mut text = ciphertext.to_vec();
        let len = self.key().open(Self::nonce(nonce), authtext, &mut text).map_err(|_| snow::Error::Decrypt)?;
        out.get_mut(..len).ok_or(snow::Error::Decrypt)?.copy_from_slice(&text[..len]);
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex<const N: usize>(text: &str) -> [u8; N] {
        let mut out = [0; N];
        assert_eq!(text.len(), 2 * N);
        for (i, byte) in out.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap();
        }
        out
    }

    fn text(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    const INITIATOR_E: &str = "893e28b9dc6ca8d611ab664754b8ceb7bac5117349a4439a6b0569da977c464a";
    const RESPONDER_E: &str = "bbdb4cdbd309f1a1f2e1456967fe288cadd6f712d65dc7b7793d5e63da6b375b";

    fn run(mut ends: [snow::HandshakeState; 2], messages: &[(&[u8], &str)]) -> Vec<u8> {
        for (turn, (payload, expected)) in messages.iter().enumerate() {
            let mut message = [0; 400];
            let len = ends[turn % 2].write_message(payload, &mut message).unwrap();
            assert_eq!(text(&message[..len]), *expected, "message {turn}");
            let mut out = [0; 400];
            let read = ends[1 - turn % 2].read_message(&message[..len], &mut out).unwrap();
            assert_eq!(&out[..read], *payload);
        }
        let split = ends[0].dangerously_get_raw_split();
        assert_eq!(split, ends[1].dangerously_get_raw_split());
        ends[0].get_handshake_hash().to_vec()
    }

    /// Vectors of the Cacophony project, as they come with `snow`.
    #[test]
    fn a_full_handshake_equals_the_published_vector() {
        let end = |initiator: bool, secret: &str, ephemeral: &str| {
            let dh_secret = hex(secret);
            build(&Pattern::Full { dh_secret: &dh_secret, dh_public: [0; 32] }, initiator, b"John Galt", [0; 32], Some(&hex(ephemeral)))
        };
        let ends = [
            end(true, "e61ef9919cde45dd5f82166404bd08e38bceb5dfdfded0a34c8df7ed542214d1", INITIATOR_E),
            end(false, "4a3acbfdb163dec651dfa3194dece676d437029c62a408b4c5ea9114246e4893", RESPONDER_E),
        ];
        let hash = run(
            ends,
            &[
                (b"Ludwig von Mises", "ca35def5ae56cec33dc2036731ab14896bc4c75dbb07a61f879f8e3afa4c79444c756477696720766f6e204d69736573"),
                (
                    b"Murray Rothbard",
                    "95ebc60d2b1fa672c1f46a8aa265ef51bfe38e7ccb39ec5be34069f14480884381cbad1f276e038c48378ffce2b65285e08d6b68aaa3629a5a8639392490e5b9bd5269c2f1e4f488ed8831161f19b7815528f8982ffe09be9b5c412f8a0db50f8814c7194e83f23dbd8d162c9326ad",
                ),
                (
                    b"F. A. Hayek",
                    "c7195ffacac1307ff99046f219750fc47693e23c3cb08b89c2af808b444850a80ae475b9df0f169ae80a89be0865b57f58c9fea0d4ec82a286427402f113e4b6ae769a1d95941d49b25030",
                ),
            ],
        );
        assert_eq!(text(&hash), "c8e5f64e846193be2a834104c2a009868d6c9f3bd3c186299888b488b2f1f58e");
    }

    #[test]
    fn a_resumption_equals_the_published_vector() {
        let psk = hex("54686973206973206d7920417573747269616e20706572737065637469766521");
        let end = |initiator: bool, ephemeral: &str| {
            build(&Pattern::Resume { psk: &psk }, initiator, b"John Galt", [0; 32], Some(&hex(ephemeral)))
        };
        let hash = run(
            [end(true, INITIATOR_E), end(false, RESPONDER_E)],
            &[
                (
                    b"Ludwig von Mises",
                    "ca35def5ae56cec33dc2036731ab14896bc4c75dbb07a61f879f8e3afa4c794479b962b8aff8485742ac32f905ba45369e2465fb59e138a93d67a0d1266b6a54",
                ),
                (
                    b"Murray Rothbard",
                    "95ebc60d2b1fa672c1f46a8aa265ef51bfe38e7ccb39ec5be34069f144808843d6062704d5a9c422a8e834423f8c1feada7e8d0d910a1a2cd030fb584221e3",
                ),
            ],
        );
        assert_eq!(text(&hash), "f4d03dc34495c95729ea6de9e1b59004b59733102488b3e24bc441e0be208eaf");
    }

    #[test]
    fn a_key_of_small_order_is_refused() {
        let dh_secret = [5; 32];
        let mut responder = Noise::new(CryptoMode::Real, &Pattern::Full { dh_secret: &dh_secret, dh_public: [0; 32] }, false, b"", [1; 32]);
        assert_eq!(responder.read(&[0; 32]), Ok(vec![]));
        assert_eq!(responder.write(b"hello"), Err(BadMessage));
    }

    #[cfg(feature = "stand-in")]
    #[test]
    fn the_stand_in_has_the_sizes_of_the_real_handshake() {
        let sizes = |mode| {
            let public = |secret: &[u8; 32]| PublicKey::from(&StaticSecret::from(*secret)).to_bytes();
            let (a, b, psk) = ([3; 32], [4; 32], [5; 32]);
            let mut sizes = Vec::new();
            for full in [true, false] {
                let of = |secret, initiator| {
                    let pattern =
                        if full { Pattern::Full { dh_secret: secret, dh_public: public(secret) } } else { Pattern::Resume { psk: &psk } };
                    Noise::new(mode, &pattern, initiator, b"prologue", *secret)
                };
                let mut ends = [of(&a, true), of(&b, false)];
                for (turn, payload) in
                    [b"".as_slice(), b"certificate", b"another certificate"].iter().take(if full { 3 } else { 2 }).enumerate()
                {
                    let message = ends[turn % 2].write(payload).unwrap();
                    sizes.push(message.len());
                    let mut bad = message.clone();
                    *bad.last_mut().unwrap() ^= 1;
                    if turn > 0 || !full {
                        // The real one is left in an undefined state by some bad messages: only the stand-in is asked twice.
                        if mode == CryptoMode::StandIn {
                            assert_eq!(ends[1 - turn % 2].read(&bad), Err(BadMessage));
                        }
                    }
                    assert_eq!(ends[1 - turn % 2].read(&message), Ok(payload.to_vec()));
                }
                if full {
                    assert_eq!([ends[0].remote_static(), ends[1].remote_static()], [Some(public(&b)), Some(public(&a))]);
                }
                let [near, far] = ends;
                assert_eq!(near.secret().resumption(), far.secret().resumption());
            }
            sizes
        };
        assert_eq!(sizes(CryptoMode::Real), sizes(CryptoMode::StandIn));
    }
}
