//! The program's second face: started again with a hidden subcommand, it prepares itself as only the process itself can, and becomes another program.

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Command, exit};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};
use nix::sys::prctl;
use nix::sys::signal::Signal;

/// The hidden subcommand.
const HIDDEN: &str = "__annulus-lab";
/// Exit code of a helper that could not become the program.
const NOT_STARTED: i32 = 127;

static READY: AtomicBool = AtomicBool::new(false);

/// Does what the hidden subcommand asks for, if the program was started with it, and then does not return. Call it first in `main`.
pub fn child_main() {
    READY.store(true, Ordering::Relaxed);
    let mut args = std::env::args_os().skip(1);
    if args.next().as_deref() != Some(OsStr::new(HIDDEN)) {
        return;
    }
    let code = match args.next().as_deref().and_then(OsStr::to_str) {
        Some("exec") => {
            complain(&become_program(args));
            NOT_STARTED
        }
        Some("probe") => match crate::namespace::probe_here() {
            Ok(()) => 0,
            Err(missing) => {
                // The parent reads this.
                let _ = write!(std::io::stdout(), "{}\n{}\n", missing.what, missing.remedy);
                1
            }
        },
        _ => NOT_STARTED,
    };
    exit(code)
}

/// Arranges to be killed with the parent, and becomes the program. Returns only what went wrong.
fn become_program(mut args: impl Iterator<Item = OsString>) -> anyhow::Error {
    let mut start = || -> Result<std::io::Error> {
        let parent: i32 = args.next().and_then(|pid| pid.to_str()?.parse().ok()).context("the parent's process ID is missing")?;
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        // It may have died before the line above.
        ensure!(nix::unistd::getppid().as_raw() == parent, "the parent is gone");
        let program = args.next().context("the program is missing")?;
        Ok(Command::new(program).args(&mut args).exec())
    };
    match start() {
        Ok(error) => error.into(),
        Err(error) => error,
    }
}

fn complain(error: &anyhow::Error) {
    // Nobody else could be told.
    let _ = writeln!(std::io::stderr(), "cannot start: {error:#}");
}

/// The command that starts this program again with a hidden subcommand.
pub(crate) fn hidden(subcommand: &str) -> Result<Command> {
    ensure!(READY.load(Ordering::Relaxed), "annulus_lab::child_main() must be called first in main");
    let mut command = Command::new("/proc/self/exe");
    command.arg0(std::env::args_os().next().unwrap_or_default()).args([HIDDEN, subcommand]);
    Ok(command)
}

/// A command for `program` that dies with the thread that starts it. Arguments, environment, directory and streams are added as usual.
///
/// # Errors
/// If [`child_main`] was not called.
pub fn command(program: impl AsRef<OsStr>) -> Result<Command> {
    let mut command = hidden("exec")?;
    command.arg(std::process::id().to_string()).arg(program);
    Ok(command)
}
