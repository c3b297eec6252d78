//! The daemon on tokio.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use annulus_daemon::settings::Flags;
use clap::Parser;

/// The daemon of Annulus, a self-hosted peer-to-peer VPN, on the event loop of tokio.
#[derive(Parser, Debug)]
#[command(name = "annulus-tokio", version, after_help = "Exit codes: 0 done, 1 failed, 2 wrong use, 77 not possible here.")]
struct Arguments {
    #[command(flatten)]
    flags: Flags,
}

fn main() -> ExitCode {
    annulus_daemon::exit::conclude(annulus_runtime_tokio::run(&Arguments::parse().flags))
}
