//! What a packet costs on the whole user-space path between two nodes, without a system call: ns per packet of each side, and the ratio to the bare cipher.
//! Splitting and merging are shown on their own as well.
//!
//! All is measured in turns in one process, so that whatever else the machine does hits everything; the ratio is the median over the rounds.

mod common;

use std::hint::black_box;
use std::time::Instant;

use annulus_core::crypto::{AeadKey, Cipher, TAG_LEN, nonce};
use annulus_core::wire::packet::SEALED_HEADER_LEN;

use common::{Load, PACKET, World};

/// Batches in one turn, and turns.
const TURN: usize = 24;
const ROUNDS: usize = 151;
/// Bytes of a packet of [`Load::Small`].
const SMALL: usize = 92;

/// What is measured.
const PARTS: [&str; 7] = ["split", "seal side", "relay", "open side", "merge", "cipher seal", "cipher open"];

/// Seconds per packet of each part in one turn.
fn turn(world: &mut World, bare: &mut Bare, load: Load) -> [f64; PARTS.len()] {
    let mut spent = [0.0; PARTS.len()];
    let mut time = |part: usize, world: &mut World, work: &mut dyn FnMut(&mut World)| {
        let begin = Instant::now();
        work(world);
        spent[part] += begin.elapsed().as_secs_f64();
    };
    for _ in 0..TURN {
        world.load(load);
        time(0, world, &mut |world| world.split());
        world.load(load);
        time(1, world, &mut World::seal);
        world.carry_to_relay();
        time(2, world, &mut World::pass);
        world.carry();
        time(3, world, &mut World::open);
        assert_eq!(world.far.wire.written.0, load.packets(), "each packet arrives");
        world.split();
        time(4, world, &mut |world| world.merge());
        bare.fill(load);
        time(5, world, &mut |_| bare.seal());
        time(6, world, &mut |_| bare.open());
    }
    spent.map(|seconds| seconds / (TURN * load.packets()) as f64)
}

/// The cipher alone over as much memory.
struct Bare {
    key: AeadKey,
    counter: u64,
    packets: Vec<Vec<u8>>,
}

impl Bare {
    const ASSOCIATED: [u8; SEALED_HEADER_LEN] = [0xb0; SEALED_HEADER_LEN];

    fn fill(&mut self, load: Load) {
        let len = if load == Load::Small { SMALL } else { PACKET };
        self.packets.resize_with(load.packets(), Vec::new);
        for packet in &mut self.packets {
            packet.clear();
            packet.resize(len + TAG_LEN, 7);
        }
    }

    fn seal(&mut self) {
        for (counter, packet) in (self.counter..).zip(&mut self.packets) {
            let len = packet.len() - TAG_LEN;
            let tag = self.key.seal(nonce(0, counter), &Self::ASSOCIATED, &mut packet[..len]);
            packet[len..].copy_from_slice(&tag);
        }
    }

    fn open(&mut self) {
        for (counter, packet) in (self.counter..).zip(&mut self.packets) {
            self.key.open(nonce(0, counter), &Self::ASSOCIATED, packet).expect("it was sealed just now");
        }
        self.counter += self.packets.len() as u64;
        black_box(&self.packets);
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[allow(clippy::print_stdout)]
fn main() {
    // `cargo test --benches` wants to know that it runs, not how fast.
    let rounds = if std::env::args().any(|argument| argument == "--bench") { ROUNDS } else { 1 };
    let mut world = World::new();
    let mut bare = Bare { key: AeadKey::new(Cipher::Aes256Gcm, &[3; 32]), counter: 0, packets: Vec::new() };
    println!("{:<34}{}  seal/cipher  open/cipher", "ns per packet", PARTS.map(|part| format!("{part:>12}")).concat());
    for (load, name) in [
        (Load::Bulk, "super-packets of 45 segments"),
        (Load::OneFlow, "single packets of one flow"),
        (Load::ManyFlows, "single packets of 1,000 flows"),
        (Load::Small, "UDP packets of 64 bytes, one flow"),
        (Load::Alone, "one packet per batch"),
    ] {
        turn(&mut world, &mut bare, load);
        let times: Vec<_> = (0..rounds).map(|_| turn(&mut world, &mut bare, load)).collect();
        let columns: String = (0..PARTS.len()).map(|part| format!("{:>12.0}", median(times.iter().map(|time| time[part])) * 1e9)).collect();
        let [seal, open] = [(1, 5), (3, 6)].map(|(side, cipher)| median(times.iter().map(|time| time[side] / time[cipher])));
        println!("{name:<34}{columns}{seal:>13.2}{open:>13.2}");
    }
}
