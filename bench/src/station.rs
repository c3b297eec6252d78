//! A host with a directory of its own.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use annulus_lab::{Host, command};
use anyhow::{Result, ensure};

use crate::limit::Limited;
use crate::scene::WORK;

/// s that a script may take.
const SCRIPT_PATIENCE: u64 = 60;

/// A host and its directory.
#[derive(Debug)]
pub(crate) struct Station {
    /// The host.
    pub(crate) host: Host,
    /// Its own directory.
    pub(crate) dir: PathBuf,
}

impl Station {
    /// Makes a host without cables, and its directory.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn new(name: &str) -> Result<Self> {
        let dir = PathBuf::from(WORK).join(name);
        fs::create_dir_all(&dir)?;
        Ok(Self { host: Host::new(name)?, dir })
    }

    /// Runs a shell script on the host with variables, to its end.
    ///
    /// # Errors
    /// If it fails or takes longer than a minute; with what it wrote.
    pub(crate) fn sh(&self, script: &str, variables: &[(&str, String)]) -> Result<()> {
        let log = self.dir.join("script.log");
        let file = fs::File::create(&log)?;
        let mut shell = command("sh")?;
        shell.args(["-euc", script]).envs(variables.iter().map(|(name, value)| (*name, value)));
        shell.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).current_dir(&self.dir);
        let status = Limited::new(self.host.spawn(shell)?, SCRIPT_PATIENCE).finish("a script")?;
        ensure!(status.success(), "a script ended with {status}: {}", last_words(&fs::read_to_string(&log).unwrap_or_default()));
        Ok(())
    }

    /// A program for this host that dies with it; nothing reads what it writes.
    ///
    /// # Errors
    /// As [`annulus_lab::command`].
    pub(crate) fn quiet(&self, program: &str) -> Result<Command> {
        let mut quiet = command(program)?;
        quiet.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(quiet)
    }

    /// A file of the kernel as the host sees it, below `/proc/thread-self`.
    ///
    /// # Errors
    /// If there is no such file.
    pub(crate) fn read(&self, name: &str) -> Result<String> {
        let path = format!("/proc/thread-self/{name}");
        Ok(self.host.run(move || fs::read_to_string(path))??)
    }
}

/// The end of a log, on one line.
#[must_use]
pub(crate) fn last_words(log: &str) -> String {
    let lines: Vec<&str> = log.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(3)..].join(" | ")
}
