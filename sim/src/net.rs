//! What the network does to a datagram.

use core::time::Duration;

use annulus_core::rng::Rng;
use serde::Deserialize;

/// How long a datagram takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Latency {
    /// The same for all, in ms one way.
    Constant {
        /// One way.
        ms: u32,
    },
    /// Fixed for each pair, drawn evenly, in ms one way.
    Uniform {
        /// Shortest, one way.
        min_ms: u32,
        /// Longest, one way.
        max_ms: u32,
    },
    /// Hosts are points on a square; the time is their distance plus a floor, in ms one way.
    Plane {
        /// Between two hosts at one point.
        floor_ms: u32,
        /// Along one side of the square.
        side_ms: u32,
    },
}

/// How much the way between two hosts carries, and whether it says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Narrow {
    /// Largest IP packet in bytes.
    pub mtu: usize,
    /// Whether the sender of a larger one is told by ICMP, and its system then refuses to send such; otherwise it vanishes without a word.
    pub tells: bool,
}

/// The network's faults, per datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// How long datagrams take.
    pub latency: Latency,
    /// Lost, in ‰.
    #[serde(default)]
    pub loss_permille: u32,
    /// Delivered twice, in ‰.
    #[serde(default)]
    pub duplicate_permille: u32,
    /// Delayed by up to `jitter_ms` more, in ‰: so overtaken by later ones.
    #[serde(default)]
    pub reorder_permille: u32,
    /// Largest extra delay of a reordered datagram in ms.
    #[serde(default)]
    pub jitter_ms: u32,
}

impl Default for Network {
    fn default() -> Self {
        Self { latency: Latency::Constant { ms: 25 }, loss_permille: 0, duplicate_permille: 0, reorder_permille: 0, jitter_ms: 20 }
    }
}

impl Network {
    /// The delays after which copies of a datagram from host `from` to host `to` arrive: none when it is lost, two when it is duplicated.
    pub fn carry(&self, from: u32, to: u32, rng: &mut Rng) -> ([Duration; 2], usize) {
        let mut delays = [Duration::ZERO; 2];
        if self.hits(self.loss_permille, rng) {
            return (delays, 0);
        }
        let copies = 1 + usize::from(self.hits(self.duplicate_permille, rng));
        for delay in delays.iter_mut().take(copies) {
            *delay = self.one_way(from, to);
            if self.hits(self.reorder_permille, rng) {
                *delay += Duration::from_micros(rng.below(u64::from(self.jitter_ms) * 1000 + 1));
            }
        }
        (delays, copies)
    }

    /// The undisturbed time from one host to another.
    #[must_use]
    pub fn one_way(&self, from: u32, to: u32) -> Duration {
        match self.latency {
            Latency::Constant { ms } => Duration::from_millis(u64::from(ms)),
            Latency::Uniform { min_ms, max_ms } => {
                let spread = u64::from(max_ms.saturating_sub(min_ms)) * 1000 + 1;
                let pair = (u64::from(from.min(to)) << 32) | u64::from(from.max(to));
                Duration::from_micros(u64::from(min_ms) * 1000 + mix(pair) % spread)
            }
            Latency::Plane { floor_ms, side_ms } => {
                let (x, y) = (point(from), point(to));
                let square = x.0.abs_diff(y.0).pow(2) + x.1.abs_diff(y.1).pow(2);
                Duration::from_micros(u64::from(floor_ms) * 1000 + square.isqrt() * u64::from(side_ms) / 1000)
            }
        }
    }

    fn hits(&self, permille: u32, rng: &mut Rng) -> bool {
        permille > 0 && rng.below(1000) < u64::from(permille)
    }
}

/// A host's place on a square of a million by a million.
fn point(host: u32) -> (u64, u64) {
    let bits = mix(u64::from(host) + 1);
    ((bits & 0xffff_ffff) % 1_000_000, (bits >> 32) % 1_000_000)
}

/// Spreads a number over 64 bits (the finaliser of `SplitMix64`).
const fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loss_and_duplication_hit_as_often_as_asked() {
        let network = Network { loss_permille: 300, duplicate_permille: 100, ..Network::default() };
        let mut rng = Rng::new([3; 32]);
        let mut copies = [0u32; 3];
        for _ in 0..100_000 {
            copies[network.carry(1, 2, &mut rng).1] += 1;
        }
        assert!((29_000..31_000).contains(&copies[0]), "{copies:?}");
        assert!((6_500..7_500).contains(&copies[2]), "{copies:?}");
    }

    #[test]
    fn a_pair_has_one_latency_in_both_directions() {
        for latency in [Latency::Uniform { min_ms: 5, max_ms: 200 }, Latency::Plane { floor_ms: 5, side_ms: 200 }] {
            let network = Network { latency, ..Network::default() };
            for (a, b) in [(1, 2), (7, 900), (12, 13)] {
                assert_eq!(network.one_way(a, b), network.one_way(b, a));
                assert!(network.one_way(a, b) >= Duration::from_millis(5) && network.one_way(a, b) <= Duration::from_millis(300));
            }
        }
    }
}
