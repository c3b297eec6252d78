//! Runs files or hexadecimal inputs through a target: `cargo run -p annulus-fuzz --example replay -- TARGET FILE|HEX...`.

#![allow(clippy::print_stdout, clippy::disallowed_methods, reason = "a tool for a terminal")]

fn main() {
    let mut args = std::env::args().skip(1);
    let name = args.next().unwrap_or_default();
    let Some((_, target)) = annulus_fuzz::TARGETS.into_iter().find(|(known, _)| *known == name) else {
        println!("no target \"{name}\"");
        return;
    };
    for input in args {
        let hex = || (0..input.len() / 2).map(|i| u8::from_str_radix(input.get(2 * i..2 * i + 2)?, 16).ok()).collect::<Option<Vec<u8>>>();
        let data = std::fs::read(&input).ok().or_else(hex).unwrap_or_default();
        target(&data);
        println!("{} bytes pass", data.len());
    }
}
