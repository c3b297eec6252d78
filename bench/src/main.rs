//! The bench as a program; the scripts `bench/run`, `bench/overheads` and `bench/pairs` build it and what it measures.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use annulus_bench::compare::Compare;
use annulus_bench::overheads::Overheads;
use annulus_bench::pairs::Pairs;
use clap::{Parser, Subcommand};

/// Measures Annulus beside other VPNs in network namespaces of this machine. Peers want root; nothing outside of the namespaces is touched, and
/// nothing is left behind.
#[derive(Parser, Debug)]
#[command(name = "bench", version, after_help = "Exit codes: 0 done, 1 a named peer failed, 2 wrong use, 77 not possible here.")]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Debug)]
enum What {
    /// Peers side by side on one cable: medians and ratios
    Run(Compare),
    /// What members cost that are idle, and such that ping each other
    Overheads(Overheads),
    /// What pairs carry together on one LAN, through Annulus and through an OpenVPN server
    Pairs(Pairs),
}

fn main() -> ExitCode {
    annulus_lab::child_main();
    annulus_daemon::exit::conclude(match Arguments::parse().what {
        What::Run(compare) => compare.run(),
        What::Overheads(overheads) => overheads.run(),
        What::Pairs(pairs) => pairs.run(),
    })
}
