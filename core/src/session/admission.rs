//! Who may open a handshake under load: stateless cookies for addresses, token buckets for the hops of relayed and routed ways.

use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use std::collections::BTreeMap;

use hmac::Mac;
use subtle::ConstantTimeEq;
use zeroize::Zeroize;

use super::mac::keyed;
use crate::io::{Endpoint, Path};
use crate::rng::Rng;
use crate::time::Instant;
use crate::wire::handshake::COOKIE_LEN;

/// How long one secret makes cookies; one made with the secret before is still taken.
pub(super) const SECRET_LIFE: Duration = Duration::from_secs(120);
/// Handshakes that one hop may open at once: as many as a node that joins through it has links.
pub(super) const BUCKET_BURST: u32 = 64;
/// Handshakes per second that one hop may open in the long run.
pub(super) const BUCKET_RATE: u32 = 32;
/// Hops whose buckets are kept: more than a node has links. Beyond it the one that was used longest ago is forgotten.
pub(super) const MAX_BUCKETS: usize = 256;

/// Where a handshake datagram came from, as far as it can be held to account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A UDP or stream address. It may be forged until it has returned a cookie.
    Address(SocketAddr),
    /// The hop that passed it on: the path of the relay, or [`Path::NONE`] for the ring as a whole.
    Hop(Path),
}

impl Origin {
    /// The origin of what came from `endpoint`.
    #[must_use]
    pub const fn of(endpoint: &Endpoint) -> Self {
        match endpoint {
            Endpoint::Udp { remote, .. } | Endpoint::Stream { remote, .. } => Self::Address(*remote),
            Endpoint::Circuit { via, .. } => Self::Hop(*via),
            Endpoint::Routed(_) => Self::Hop(Path::NONE),
        }
    }
}

/// Secrets of cookies and buckets of hops.
#[derive(Debug)]
pub(super) struct Admission {
    rng: Rng,
    secrets: [[u8; 32]; 2],
    since: Instant,
    buckets: BTreeMap<Path, Bucket>,
}

#[derive(Debug)]
struct Bucket {
    /// In millionths of a handshake: with µs as unit of time no remainder is lost.
    tokens: u64,
    at: Instant,
}

const MILLION: u64 = 1_000_000;

impl Admission {
    pub(super) fn new(mut rng: Rng, now: Instant) -> Self {
        let secrets = [rng.bytes(), rng.bytes()];
        Self { rng, secrets, since: now, buckets: BTreeMap::new() }
    }

    /// The cookie of `address`.
    pub(super) fn cookie(&mut self, address: SocketAddr, now: Instant) -> [u8; COOKIE_LEN] {
        self.rotate(now);
        cookie(&self.secrets[0], address)
    }

    /// Whether `given` is a cookie of `address`, not older than two lives of a secret.
    pub(super) fn accepts(&mut self, address: SocketAddr, given: &[u8; COOKIE_LEN], now: Instant) -> bool {
        self.rotate(now);
        self.secrets.iter().any(|secret| cookie(secret, address).ct_eq(given).into())
    }

    /// Takes one token from the bucket of `hop`.
    pub(super) fn take(&mut self, hop: Path, now: Instant) -> bool {
        const FULL: u64 = BUCKET_BURST as u64 * MILLION;
        if !self.buckets.contains_key(&hop) {
            if self.buckets.len() >= MAX_BUCKETS
                && let Some(oldest) = self.buckets.iter().min_by_key(|(_, bucket)| bucket.at).map(|(&hop, _)| hop)
            {
                self.buckets.remove(&oldest);
            }
            self.buckets.insert(hop, Bucket { tokens: FULL, at: now });
        }
        let bucket = self.buckets.get_mut(&hop).expect("inserted above");
        let micros = u64::try_from(now.saturating_since(bucket.at).as_micros()).unwrap_or(u64::MAX);
        bucket.tokens = bucket.tokens.saturating_add(micros.saturating_mul(u64::from(BUCKET_RATE))).min(FULL);
        bucket.at = bucket.at.max(now);
        if bucket.tokens < MILLION {
            return false;
        }
        bucket.tokens -= MILLION;
        true
    }

    fn rotate(&mut self, now: Instant) {
        let age = now.saturating_since(self.since);
        if age < SECRET_LIFE {
            return;
        }
        // After a pause of more than one life the last secret is too old as well.
        self.secrets[1] = if age < 2 * SECRET_LIFE { self.secrets[0] } else { self.rng.bytes() };
        self.secrets[0] = self.rng.bytes();
        self.since = now;
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.secrets.zeroize();
    }
}

fn cookie(secret: &[u8; 32], address: SocketAddr) -> [u8; COOKIE_LEN] {
    let mac = keyed(secret);
    let mac = match address.ip() {
        IpAddr::V4(ip) => mac.chain_update(ip.octets()),
        IpAddr::V6(ip) => mac.chain_update(ip.octets()),
    };
    let full = mac.chain_update(address.port().to_be_bytes()).finalize().into_bytes();
    let mut out = [0; COOKIE_LEN];
    out.copy_from_slice(&full[..COOKIE_LEN]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    #[test]
    fn a_cookie_is_good_for_its_address_and_a_limited_time() {
        let mut admission = Admission::new(Rng::new([1; 32]), Instant::ZERO);
        let cookie = admission.cookie(address(1), Instant::from_secs(100));
        assert!(admission.accepts(address(1), &cookie, Instant::from_secs(110)));
        assert!(!admission.accepts(address(2), &cookie, Instant::from_secs(110)));
        assert!(admission.accepts(address(1), &cookie, Instant::from_secs(130)));
        assert!(!admission.accepts(address(1), &cookie, Instant::from_secs(260)));
        assert!(!admission.accepts(address(1), &[0; COOKIE_LEN], Instant::from_secs(260)));
        let mut paused = Admission::new(Rng::new([1; 32]), Instant::ZERO);
        let cookie = paused.cookie(address(1), Instant::ZERO);
        assert!(!paused.accepts(address(1), &cookie, Instant::from_secs(1000)));
    }

    #[test]
    fn a_bucket_lets_a_burst_and_then_its_rate_pass() {
        let mut admission = Admission::new(Rng::new([1; 32]), Instant::ZERO);
        let hop = Path { index: 1, generation: 0 };
        let taken = |admission: &mut Admission, at| (0..1000).filter(|_| admission.take(hop, at)).count() as u32;
        assert_eq!(taken(&mut admission, Instant::ZERO), BUCKET_BURST);
        assert_eq!(taken(&mut admission, Instant::from_secs(1)), BUCKET_RATE);
        assert!(admission.take(Path { index: 2, generation: 0 }, Instant::from_secs(1)));
        for index in 0..10_000 {
            admission.take(Path { index, generation: 1 }, Instant::from_secs(2));
        }
        assert_eq!(admission.buckets.len(), MAX_BUCKETS);
    }
}
