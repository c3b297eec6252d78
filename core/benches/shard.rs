//! What a shard adds to its AEAD: prints the ratio of sealing and opening 1,400-byte packets through a shard to the bare cipher.
//!
//! Both are measured in turns in one process, so that whatever else the machine does hits both; the ratio is the median over the rounds.

use std::hint::black_box;
use std::net::IpAddr;
use std::num::NonZeroU8;

use annulus_core::batch::{Batch, HEADROOM, Slot, TAILROOM};
use annulus_core::crypto::{AeadKey, Cipher, TAG_LEN, nonce};
use annulus_core::io::{Endpoint, Path, RealmSlot, ShardId, Verdict};
use annulus_core::paths::PathTable;
use annulus_core::rng::Rng;
use annulus_core::shard::table::{DataKeys, Install, PeerId, Prefix, SessionId, TableUpdate, Way};
use annulus_core::shard::{Shard, ShardSettings};
use annulus_core::time::Instant;
use annulus_core::wire::packet::SEALED_HEADER_LEN;

const INNER: usize = 1_400;
const STRIDE: usize = HEADROOM + INNER + TAILROOM;
/// Packets measured in one turn.
const TURN: usize = 2_048;
/// Turns of each kind.
const ROUNDS: usize = 301;

/// One packet per call as in the requirement, a batch as the driver gives it with one flow, and one where each packet is of another flow.
#[derive(Clone, Copy)]
enum Load {
    Single,
    OneFlow,
    ManyFlows,
}

struct Setup {
    near: Shard,
    far: Shard,
    path: Path,
    key: AeadKey,
    counter: u64,
    packet: Vec<u8>,
    buf: Vec<u8>,
    slots: Vec<Slot>,
}

impl Setup {
    fn new(cipher: Cipher) -> Self {
        let (a, b) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let mut paths = PathTable::new(&mut Rng::new([0; 32]));
        let path = paths.intern(Endpoint::Udp { socket: 0, remote: ([192, 0, 2, 1], 1).into() });
        let shard = |own, other, keys| {
            let mut shard = Shard::new(ShardSettings::new(ShardId(0), RealmSlot(0), NonZeroU8::MIN, 1));
            shard.set_local(&[Prefix::host(own)], &[]);
            let way = Way { path, circuit: None, routed: false, whole: u16::MAX, mtu: 1400, rtt: None };
            let (session, peer) = (SessionId(5), PeerId(3));
            let install = Install { session, peer, remote_index: 5, keys, cipher, way, rekey_at: Instant::from_secs(1_000_000) };
            for update in [
                TableUpdate::Install(Box::new(install)),
                TableUpdate::Promote { peer, session },
                TableUpdate::Route { prefix: Prefix::host(other), peer },
                TableUpdate::Source { prefix: Prefix::host(other), peer },
            ] {
                shard.apply(update, Instant::ZERO);
            }
            shard
        };
        let mut packet = vec![7; INNER];
        packet[..12].copy_from_slice(&[0x45, 0, (INNER >> 8) as u8, INNER as u8, 0, 0, 0x40, 0, 64, 17, 0, 0]);
        packet[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        Self {
            near: shard(a, b, DataKeys { send: [1; 32], receive: [2; 32] }),
            far: shard(b, a, DataKeys { send: [2; 32], receive: [1; 32] }),
            path,
            key: AeadKey::new(cipher, &[3; 32]),
            counter: 0,
            packet,
            buf: vec![0; STRIDE * 64],
            slots: vec![Slot::default(); 64],
        }
    }

    /// Puts fresh packets into the buffer; not measured.
    fn fill(&mut self, load: Load, turn: usize) {
        for (n, slot) in self.slots.iter_mut().enumerate() {
            let start = n * STRIDE + HEADROOM;
            let packet = &mut self.buf[start..start + INNER];
            packet.copy_from_slice(&self.packet);
            if matches!(load, Load::ManyFlows) {
                packet[20..22].copy_from_slice(&((turn * 64 + n) as u16 % 1_000).to_be_bytes());
            }
            *slot = Slot { start: start as u32, len: INNER as u16, ..Default::default() };
        }
    }

    /// Seconds per packet through the shards.
    fn through_shards(&mut self, load: Load, now: Instant) -> f64 {
        let mut spent = 0.0;
        let size = if matches!(load, Load::Single) { 1 } else { 64 };
        for turn in 0..TURN / 64 {
            self.fill(load, turn);
            let (buf, slots) = (&mut self.buf[..], &mut self.slots[..]);
            let begin = clock();
            for part in slots.chunks_mut(size) {
                self.near.seal(&mut Batch { buf, slots: part }, now);
                for slot in part.iter_mut() {
                    slot.from = self.path;
                    slot.verdict = Verdict::Pending;
                }
                self.far.open(&mut Batch { buf, slots: part }, now);
            }
            spent += clock() - begin;
            assert!(self.slots.iter().all(|slot| slot.verdict == Verdict::Deliver));
            while self.near.poll_event().is_some() || self.far.poll_event().is_some() {}
        }
        black_box(&self.buf);
        spent / (TURN / 64 * 64) as f64
    }

    /// Seconds per packet of sealing and opening with the cipher alone, over the same memory.
    fn bare(&mut self) -> f64 {
        let mut spent = 0.0;
        for turn in 0..TURN / 64 {
            self.fill(Load::OneFlow, turn);
            let begin = clock();
            for slot in &self.slots {
                let (start, end) = (slot.range().start, slot.range().end);
                let associated = [0xb0; SEALED_HEADER_LEN];
                let nonce = nonce(0, self.counter);
                self.counter += 1;
                let tag = self.key.seal(nonce, &associated, &mut self.buf[start..end]);
                self.buf[end..end + TAG_LEN].copy_from_slice(&tag);
                self.key.open(nonce, &associated, &mut self.buf[start..end + TAG_LEN]).expect("it was sealed just now");
            }
            spent += clock() - begin;
        }
        black_box(&self.buf);
        spent / (TURN / 64 * 64) as f64
    }
}

/// Seconds on a clock of the host: this is a measurement, not the protocol.
#[allow(clippy::disallowed_types, clippy::disallowed_methods)]
fn clock() -> f64 {
    static ORIGIN: std::sync::LazyLock<std::time::Instant> = std::sync::LazyLock::new(std::time::Instant::now);
    ORIGIN.elapsed().as_secs_f64()
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[allow(clippy::print_stdout)]
fn main() {
    // `cargo test --benches` wants to know that it runs, not how fast.
    let rounds = if std::env::args().any(|argument| argument == "--bench") { ROUNDS } else { 1 };
    for (cipher, load, name) in [
        (Cipher::Aes256Gcm, Load::Single, "one packet per call"),
        (Cipher::Aes256Gcm, Load::OneFlow, "batches of 64, one flow"),
        (Cipher::Aes256Gcm, Load::ManyFlows, "batches of 64, 1,000 flows"),
        (Cipher::ChaCha20Poly1305, Load::Single, "one packet per call"),
        (Cipher::ChaCha20Poly1305, Load::OneFlow, "batches of 64, one flow"),
        (Cipher::ChaCha20Poly1305, Load::ManyFlows, "batches of 64, 1,000 flows"),
    ] {
        let mut setup = Setup::new(cipher);
        let (mut shard, mut bare, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..rounds {
            let now = Instant::from_millis(round as u64 * 10);
            bare.push(setup.bare());
            shard.push(setup.through_shards(load, now));
            ratios.push(shard[round] / bare[round]);
        }
        println!(
            "{:<18} {name:<28} bare {:>6.0} ns  shard {:>6.0} ns  ratio {:.3}",
            cipher.name(),
            median(&mut bare) * 1e9,
            median(&mut shard) * 1e9,
            median(&mut ratios)
        );
    }
}
