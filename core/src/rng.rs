//! The one seeded generator: everything random in a node is forked from it by name, so that a seed replays a run.

use hkdf::Hkdf;
use rand_chacha::ChaCha12Rng;
use rand_core::{Rng as _, SeedableRng, TryCryptoRng, TryRng};
use sha2::Sha256;

use core::convert::Infallible;
use core::fmt;

/// A deterministic cryptographic generator (ChaCha12), seeded by the driver from the operating system and by the simulator from its scenario.
#[derive(Clone)]
pub struct Rng {
    stream: ChaCha12Rng,
    root: [u8; 32],
}

impl Rng {
    /// A generator that yields the same stream for the same `seed`.
    #[must_use]
    pub fn new(seed: [u8; 32]) -> Self {
        Self { stream: ChaCha12Rng::from_seed(seed), root: seed }
    }

    /// An independent generator for one part of a node.
    ///
    /// It depends on the seed and on `name` alone, never on what was drawn before: a part that draws more does not shift the others.
    #[must_use]
    pub fn fork(&self, name: &str) -> Self {
        let mut seed = [0; 32];
        Hkdf::<Sha256>::new(Some(b"annulus rng"), &self.root)
            .expand(name.as_bytes(), &mut seed)
            .expect("32 bytes are within HKDF's output limit");
        Self::new(seed)
    }

    /// The next 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.stream.next_u64()
    }

    /// The next 32 random bits.
    pub fn next_u32(&mut self) -> u32 {
        self.stream.next_u32()
    }

    /// Uniform in `0..bound`; 0 when `bound` is 0. The bias is below 2^-32 for bounds below 2^32.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// `N` random bytes.
    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        self.stream.fill_bytes(&mut out);
        out
    }

    /// A duration spread by ±`permille`/1000 around `center`, for jitter.
    pub fn jitter(&mut self, center: core::time::Duration, permille: u32) -> core::time::Duration {
        let micros = u64::try_from(center.as_micros()).unwrap_or(u64::MAX / 4);
        let spread = micros / 1000 * u64::from(permille.min(1000));
        core::time::Duration::from_micros(micros - spread + self.below(2 * spread + 1))
    }
}

impl fmt::Debug for Rng {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Rng(..)")
    }
}

impl TryRng for Rng {
    type Error = Infallible;
    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(self.stream.next_u32())
    }
    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.stream.next_u64())
    }
    fn try_fill_bytes(&mut self, dst: &mut [u8]) -> Result<(), Infallible> {
        self.stream.fill_bytes(dst);
        Ok(())
    }
}

impl TryCryptoRng for Rng {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fork_does_not_depend_on_what_was_drawn_before() {
        let fresh = Rng::new([7; 32]);
        let mut used = fresh.clone();
        let _ = used.next_u64();
        assert_eq!(fresh.fork("peer").next_u64(), used.fork("peer").next_u64());
        assert_ne!(fresh.fork("peer").next_u64(), fresh.fork("dht").next_u64());
    }

    #[test]
    fn jitter_stays_within_its_spread() {
        let mut rng = Rng::new([1; 32]);
        for _ in 0..1000 {
            let drawn = rng.jitter(core::time::Duration::from_secs(10), 200);
            assert!((8_000..=12_000).contains(&drawn.as_millis()));
        }
    }
}
