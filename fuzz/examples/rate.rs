//! Inputs per second of each target, without a sanitizer: `cargo run --release -p annulus-fuzz --example rate [TARGET]`.

#![allow(clippy::print_stdout, clippy::disallowed_methods, reason = "it measures and says what it measured")]

use std::time::Instant;

use annulus_core::rng::Rng;

fn main() {
    let only = std::env::args().nth(1);
    for (name, target) in annulus_fuzz::TARGETS.into_iter().filter(|(name, _)| only.as_deref().is_none_or(|only| only == *name)) {
        let mut rng = Rng::new([1; 32]);
        target(&[]);
        let (start, mut runs) = (Instant::now(), 0);
        while start.elapsed().as_secs() < 3 {
            let len = rng.below(300) as usize;
            let data: Vec<u8> = (0..len).map(|_| rng.next_u32() as u8).collect();
            target(&data);
            runs += 1;
        }
        println!("{name:14} {:8.0} inputs/s", f64::from(runs) / start.elapsed().as_secs_f64());
    }
}
