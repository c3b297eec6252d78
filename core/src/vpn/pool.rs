//! Packets that wait for an address or a session, and the rate at which errors are told.

use core::net::IpAddr;
use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::time::Instant;

/// Packets that wait at most, for all destinations together: 360 kB at the tunnel's MTU, the pool that section 3 of the design sizes.
pub const MAX_WAITING: usize = 256;
/// Packets that wait for one destination: the start of a few flows. The oldest makes room: its sender repeats it last.
pub const MAX_PER_DESTINATION: usize = 8;
/// How long a packet waits: three repetitions of a TCP connection's first segment.
pub const WAIT_LIMIT: Duration = Duration::from_secs(3);
/// Sources whose rate is remembered; the one that was heard of least recently makes room.
pub const MAX_SOURCES: usize = 64;
/// ICMP errors that one source is told at once.
const BURST: u32 = 10;
/// After this time it may be told one more.
const REFILL: Duration = Duration::from_millis(100);

/// Packets by destination, oldest first.
#[derive(Debug, Default)]
pub struct Pool {
    waiting: BTreeMap<IpAddr, VecDeque<(Instant, Bytes)>>,
    len: usize,
}

impl Pool {
    /// Lets `packet` wait; returns whether something was dropped for want of room: the destination's oldest packet, or this one.
    pub fn push(&mut self, destination: IpAddr, packet: &[u8], now: Instant) -> bool {
        let queued = self.waiting.get(&destination).map_or(0, VecDeque::len);
        let is_full = queued >= MAX_PER_DESTINATION;
        if !is_full && self.len >= MAX_WAITING {
            return true;
        }
        let queue = self.waiting.entry(destination).or_default();
        if is_full {
            queue.pop_front();
            self.len -= 1;
        }
        queue.push_back((now + WAIT_LIMIT, Bytes::copy_from_slice(packet)));
        self.len += 1;
        is_full
    }

    /// Takes all packets for `destination`, in the order in which they came.
    pub fn take(&mut self, destination: IpAddr) -> impl Iterator<Item = Bytes> {
        let queue = self.waiting.remove(&destination).unwrap_or_default();
        self.len -= queue.len();
        queue.into_iter().map(|(_, packet)| packet)
    }

    /// Takes the packets that have waited too long.
    pub fn expire(&mut self, now: Instant) -> Vec<(IpAddr, Bytes)> {
        let mut out = Vec::new();
        for (destination, queue) in &mut self.waiting {
            while queue.front().is_some_and(|(until, _)| *until <= now) {
                out.extend(queue.pop_front().map(|(_, packet)| (*destination, packet)));
            }
        }
        self.waiting.retain(|_, queue| !queue.is_empty());
        self.len -= out.len();
        out
    }

    /// Whether a packet waits for `destination`.
    #[must_use]
    pub fn is_waiting(&self, destination: IpAddr) -> bool {
        self.waiting.contains_key(&destination)
    }

    /// Destinations for which a packet waits, in ascending order.
    pub fn destinations(&self) -> impl Iterator<Item = IpAddr> {
        self.waiting.keys().copied()
    }

    /// When the first packet has waited too long.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.waiting.values().filter_map(|queue| queue.front().map(|(until, _)| *until)).min()
    }

    /// Number of packets.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether none waits.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// A token bucket for each of a bounded number of keys.
#[derive(Debug)]
pub struct Buckets<K> {
    buckets: Vec<(K, u32, Instant)>,
    burst: u32,
    refill: Duration,
}

impl Default for Buckets<IpAddr> {
    fn default() -> Self {
        Self { buckets: Vec::new(), burst: BURST, refill: REFILL }
    }
}

impl Buckets<IpAddr> {
    /// Buckets for packets given back to a shard at once: a route that the shard does not keep must not make a packet go round for ever.
    #[must_use]
    pub const fn reinjections() -> Self {
        Self { buckets: Vec::new(), burst: 64, refill: Duration::from_millis(15) }
    }
}

impl<K: PartialEq + Copy> Buckets<K> {
    /// Takes a token of `key`; `false` when it has none.
    pub fn take(&mut self, key: K, now: Instant) -> bool {
        let place = self.buckets.iter().position(|(other, ..)| *other == key);
        let (_, tokens, filled) = place.map_or((key, self.burst, now), |place| self.buckets.remove(place));
        let periods = now.saturating_since(filled).as_micros() / self.refill.as_micros();
        let periods = u32::try_from(periods).unwrap_or(u32::MAX);
        let tokens = tokens.saturating_add(periods).min(self.burst);
        let filled = if tokens == self.burst { now } else { filled + self.refill * periods };
        if self.buckets.len() >= MAX_SOURCES {
            self.buckets.remove(0);
        }
        self.buckets.push((key, tokens.saturating_sub(1), filled));
        tokens > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[test]
    fn each_destination_keeps_its_latest_and_all_together_keep_the_bound() {
        let mut pool = Pool::default();
        for i in 0..10u8 {
            assert_eq!(pool.push(to(1), &[i], Instant::ZERO), i >= 8);
        }
        assert_eq!(pool.take(to(1)).map(|packet| packet[0]).collect::<Vec<_>>(), (2..10).collect::<Vec<_>>());
        for last in 0..=255 {
            for _ in 0..2 {
                pool.push(to(last), &[0], Instant::ZERO);
            }
        }
        assert_eq!(pool.len(), MAX_WAITING);
        assert_eq!(pool.deadline(), Some(Instant::from_secs(3)));
        assert_eq!(pool.expire(Instant::from_secs(3)).len(), MAX_WAITING);
        assert!(pool.is_empty() && !pool.is_waiting(to(0)) && pool.deadline().is_none());
    }

    #[test]
    fn a_source_is_told_ten_errors_and_then_ten_a_second() {
        let mut buckets = Buckets::default();
        let told = |buckets: &mut Buckets<IpAddr>, at: Instant| (0..100).filter(|_| buckets.take(to(1), at)).count();
        assert_eq!(told(&mut buckets, Instant::ZERO), 10);
        assert_eq!(told(&mut buckets, Instant::from_millis(550)), 5);
        assert_eq!(told(&mut buckets, Instant::from_millis(600)), 1);
        assert!(buckets.take(to(2), Instant::from_millis(600)), "others are not affected");
        assert_eq!(told(&mut buckets, Instant::from_secs(100)), 10);
        (0..=255).for_each(|last| {
            buckets.take(to(last), Instant::ZERO);
        });
        assert_eq!(buckets.buckets.len(), MAX_SOURCES);
    }
}
