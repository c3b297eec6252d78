//! The committed corpus and some hundreds of random inputs through each target.

use std::path::Path;

use annulus_core::rng::Rng;
use annulus_fuzz::TARGETS;

/// Random inputs per target.
const RANDOM: u64 = 300;

fn run(name: &str, what: &str, target: fn(&[u8]), data: &[u8]) {
    if std::panic::catch_unwind(|| target(data)).is_err() {
        let hex: String = data.iter().map(|byte| format!("{byte:02x}")).collect();
        panic!("{name} fails with {what}: {hex}");
    }
}

#[test]
fn every_file_of_the_corpus_passes_its_target() {
    for (name, target) in TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
        let mut files: Vec<_> =
            std::fs::read_dir(&folder).expect("each target has a corpus").map(|entry| entry.expect("readable").path()).collect();
        files.sort();
        assert!(!files.is_empty(), "no seeds in {}", folder.display());
        for file in files {
            run(name, &file.display().to_string(), target, &std::fs::read(&file).expect("readable"));
        }
    }
}

fn random(name: &str) {
    let (_, target) = TARGETS.into_iter().find(|(known, _)| *known == name).expect("a target");
    let mut rng = Rng::new([9; 32]).fork(name);
    for number in 0..RANDOM {
        let len = rng.below([8, 64, 600][number as usize % 3]) as usize;
        // Small bytes choose more often what exists; large ones stand for content.
        let small = rng.below(2) == 0;
        let data: Vec<u8> = (0..len).map(|_| rng.next_u32() as u8 & if small { 0x1f } else { 0xff }).collect();
        run(name, &format!("random input {number}"), target, &data);
    }
}

#[test]
fn random_bytes_pass_wire() {
    random("wire");
}

#[test]
fn random_bytes_pass_certificate() {
    random("certificate");
}

#[test]
fn random_bytes_pass_handshake() {
    random("handshake");
}

#[test]
fn random_bytes_pass_session_open() {
    random("session_open");
}

#[test]
fn random_bytes_pass_node() {
    random("node");
}

#[test]
fn random_bytes_pass_two_nodes() {
    random("two_nodes");
}
