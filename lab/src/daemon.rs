//! A daemon of Annulus on a host of the lab.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use annulus_daemon::control::Request;
use annulus_daemon::control::client::ControlClient;
use annulus_daemon::status::{GroupStatus, Status};
use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;

use crate::{Host, Process, command};

/// How often a daemon is asked how far it is.
const ASK_INTERVAL: Duration = Duration::from_millis(50);
/// How long one answer of the control socket may take.
const ANSWER_PATIENCE: Duration = Duration::from_secs(25);
/// How long a daemon may take to say good-bye.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// A daemon with its directory. Dropping it kills it.
#[derive(Debug)]
pub struct Daemon {
    dir: PathBuf,
    process: Process,
}

impl Daemon {
    /// Starts a daemon on a host: `program` with `args` and the files in `dir` that [`Group::install`](crate::Group::install) wrote. Its log is `dir/log`.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(host: &Host, dir: &Path, program: &Path, args: &[&str]) -> Result<Self> {
        let log = OpenOptions::new().append(true).create(true).open(dir.join("log"))?;
        let mut command = command(program)?;
        command.args(args).args([OsString::from("--config"), dir.join("annulus.toml").into()]);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(Self { dir: dir.to_owned(), process: host.spawn(command)? })
    }

    /// The process number.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// The control socket.
    #[must_use]
    pub fn control_socket(&self) -> PathBuf {
        self.dir.join("annulus.sock")
    }

    /// Everything that this and earlier daemons of the directory have logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read(self.dir.join("log")).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Asks the daemon something.
    ///
    /// # Errors
    /// If it does not answer, or refuses.
    pub fn ask(&self, request: &Request) -> Result<serde_json::Value> {
        Ok(ControlClient::connect(&self.control_socket())?.request(request, ANSWER_PATIENCE)?)
    }

    /// What the daemon says about itself.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn status(&self) -> Result<Status> {
        Ok(serde_json::from_value(self.ask(&Request::Status { group: None })?)?)
    }

    /// Waits until what the daemon says about itself is as wanted; returns it.
    ///
    /// # Errors
    /// If that does not happen in time, or the daemon ends; with the end of its log.
    pub fn wait_for(&mut self, what: &str, patience: Duration, wanted: impl Fn(&Status) -> bool) -> Result<Status> {
        let end = Instant::now() + patience;
        loop {
            if let Some(ended) = self.process.try_wait()? {
                bail!("the daemon has ended ({ended}) before it was {what}: {}", self.last_words());
            }
            let latest = match self.status() {
                Ok(status) if wanted(&status) => return Ok(status),
                Ok(status) => serde_json::to_string(&status)?,
                Err(error) => error.to_string(),
            };
            ensure!(
                Instant::now() < end,
                "the daemon is not {what} after {} s; its latest answer: {latest}; {}",
                patience.as_secs(),
                self.last_words()
            );
            sleep(ASK_INTERVAL);
        }
    }

    /// Waits until the daemon is connected to its ring and has both its virtual addresses.
    ///
    /// # Errors
    /// As [`Self::wait_for`].
    pub fn wait_connected(&mut self, patience: Duration) -> Result<GroupStatus> {
        let status = self.wait_for("connected", patience, is_connected)?;
        status.groups.into_iter().next().context("a daemon has a group")
    }

    /// The end of the log.
    #[must_use]
    pub fn last_words(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().rev().take(12).collect();
        lines.into_iter().rev().fold(format!("log of {}:", self.dir.display()), |text, line| format!("{text}\n    {line}"))
    }

    /// Asks the daemon to end and waits for that.
    ///
    /// # Errors
    /// If it does not end within 10 s.
    pub fn stop(mut self) -> Result<ExitStatus> {
        self.process.signal(Signal::SIGTERM)?;
        let end = Instant::now() + STOP_PATIENCE;
        loop {
            if let Some(status) = self.process.try_wait()? {
                return Ok(status);
            }
            ensure!(Instant::now() < end, "the daemon does not end; {}", self.last_words());
            sleep(ASK_INTERVAL);
        }
    }

    /// Kills the daemon with SIGKILL.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn kill(mut self) -> Result<()> {
        self.process.kill_and_wait()?;
        Ok(())
    }

    /// Takes the exit status if the daemon has ended.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.process.try_wait()?)
    }
}

/// Whether all groups are connected and have an IPv4 and an IPv6 address.
#[must_use]
pub fn is_connected(status: &Status) -> bool {
    !status.groups.is_empty()
        && status.groups.iter().all(|group| {
            group.connected
                && group.addresses.iter().any(std::net::IpAddr::is_ipv4)
                && group.addresses.iter().any(std::net::IpAddr::is_ipv6)
        })
}
