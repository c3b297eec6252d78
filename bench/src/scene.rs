//! The place of the measurements: namespaces of this process alone, which end with it however it ends.

use std::fs;
use std::io::Write;

use annulus_daemon::exit::{Exit, Failure};
use annulus_lab::Unavailable;
use anyhow::{Context, Result, anyhow};
use nix::mount::{MsFlags, mount};

/// Where plugins keep keys, files and logs: a file system in memory that only this process sees, so that nothing of it is left behind.
pub(crate) const WORK: &str = "/run/annulus-bench";

/// Puts the process into namespaces of its own. Must be called before the first thread exists, and after
/// [`annulus_lab::child_main`].
///
/// What is made inside needs no cleaning up: programs are killed with the thread that started them, and namespaces and files end with their last user,
/// also after SIGKILL.
///
/// # Errors
/// With exit code 77 where namespaces or TUN devices cannot be had.
pub(crate) fn enter() -> Result<()> {
    annulus_lab::probe().and_then(|()| annulus_lab::enter_user_namespace()).map_err(not_possible)?;
    // Sockets of WireGuard implementations lie in /run too: other daemons of this machine must not be met there.
    mount(Some("annulus-bench"), "/run", Some("tmpfs"), MsFlags::empty(), Some("mode=755"))
        .context("cannot mount a file system in memory on /run")
        .map_err(|error| Failure::new(Exit::NotPossible, format!("{error:#}")))?;
    fs::create_dir_all(WORK)?;
    if !nix::unistd::geteuid().is_root() || fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| !map.contains("4294967295")) {
        note("not root: socket buffers are smaller than usual and some peers cannot run; measure peers as root");
    }
    Ok(())
}

fn not_possible(error: anyhow::Error) -> anyhow::Error {
    if error.is::<Unavailable>() {
        let line = format!("{error:#}").replace('\n', "; ");
        return Failure::new(Exit::NotPossible, line).into();
    }
    error
}

/// Progress and remarks: one line on standard error.
pub(crate) fn note(line: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Results: on standard output.
///
/// # Errors
/// If nobody listens.
pub(crate) fn print(text: impl std::fmt::Display) -> Result<()> {
    writeln!(std::io::stdout(), "{text}").context("standard output is closed")
}

/// Fails with exit code 77 unless the program is on PATH.
///
/// # Errors
/// Names the program.
pub(crate) fn need(program: &str) -> Result<()> {
    match crate::plugin::find_program(program) {
        Some(_) => Ok(()),
        None => Err(anyhow!(Failure::new(Exit::NotPossible, format!("{program} is not on PATH (scripts/setup installs it)")))),
    }
}
