//! The command `annulus`.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    annulus_cli::run()
}
