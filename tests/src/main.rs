//! The programs of the workspace as tests start them: `annulus`, `annulus-mio` and `annulus-tokio`, told apart by the name they are started under.

#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::path::Path;
use std::process::ExitCode;

use annulus_daemon::exit::conclude;
use annulus_daemon::settings::Flags;
use clap::Parser;

/// The command line of the daemons.
#[derive(Parser, Debug)]
struct Arguments {
    #[command(flatten)]
    flags: Flags,
}

fn main() -> ExitCode {
    let name = std::env::args_os().next().unwrap_or_default();
    match Path::new(&name).file_name().and_then(OsStr::to_str) {
        Some("annulus-mio") => conclude(annulus_runtime_mio::run(&Arguments::parse().flags)),
        Some("annulus-tokio") => conclude(annulus_runtime_tokio::run(&Arguments::parse().flags)),
        _ => annulus_cli::run(),
    }
}
