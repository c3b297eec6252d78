//! `annulus up` and `annulus down`.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use annulus_daemon::control::Request;
use annulus_daemon::control::client::{ClientError, ControlClient};
use annulus_daemon::exit::{Exit, Failure, code_of};
use annulus_daemon::settings::{Flags, Settings};
use annulus_daemon::status::Status;
use annulus_daemon::{files, preflight};
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::output::{Output, list};
use crate::{Target, control};

/// How often the daemon is asked how far it is.
const ASK_INTERVAL: Duration = Duration::from_millis(100);

/// Bytes of the log of a detached daemon beyond which it is put aside (as `annulus.log.1`) at the next start.
const MAX_LOG: u64 = 4 << 20;

/// Which event loop carries the daemon.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum RuntimeKind {
    /// mio
    #[default]
    Mio,
    /// tokio
    Tokio,
}

impl std::fmt::Display for RuntimeKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Mio => "mio",
            Self::Tokio => "tokio",
        })
    }
}

#[derive(Args, Debug)]
pub(crate) struct Up {
    #[command(flatten)]
    flags: Flags,
    /// Event loop of the daemon
    #[arg(long, value_enum, default_value_t, env = "ANNULUS_RUNTIME")]
    runtime: RuntimeKind,
    /// Stay in the foreground and log to standard error
    #[arg(long)]
    foreground: bool,
    /// Seconds to wait until all groups are connected
    #[arg(long, default_value_t = 30, value_name = "S")]
    wait: u64,
    /// Leave the terminal's session: set by `annulus up` for the process that it starts
    #[arg(long, hide = true, requires = "foreground")]
    detached: bool,
}

/// What `up --json` prints.
#[derive(Debug, Serialize, Deserialize)]
struct UpReport {
    pid: u32,
    already_running: bool,
    connected: bool,
    groups: Vec<String>,
    missing: Vec<String>,
    log: Option<PathBuf>,
}

impl Up {
    pub(crate) fn run(&self, output: &Output) -> Result<Exit, Failure> {
        if self.foreground {
            return self.stay();
        }
        let settings = Settings::new(&self.flags).map_err(Failure::usage)?;
        if let Ok(mut running) = ControlClient::connect(&settings.control_socket) {
            return self.join(output, &settings, &mut running);
        }
        preflight::check(&settings)?;
        let log = settings.state_dir.join("annulus.log");
        let (file, start) = open_log(&settings.state_dir, &log)?;
        let child = self.detach(file)?;
        self.follow(output, &settings, child, &log, start)
    }

    fn stay(&self) -> Result<Exit, Failure> {
        if self.detached {
            // It fails only for a leader of a process group, which has no terminal to lose then.
            let _ = nix::unistd::setsid();
        }
        let ended = match self.runtime {
            RuntimeKind::Mio => annulus_runtime_mio::run(&self.flags),
            RuntimeKind::Tokio => annulus_runtime_tokio::run(&self.flags),
        };
        ended.map_err(|error| Failure::new(code_of(&error), format!("{error:#}")))
    }

    /// Starts this program again, without a terminal and with a log file.
    fn detach(&self, log: File) -> Result<Child, Failure> {
        let failed = |error: std::io::Error| Failure::failed(format!("cannot start the daemon: {error}"));
        let program = std::env::current_exe().map_err(failed)?;
        let mut command = Command::new(program);
        command.arg("up").args(["--foreground", "--detached", "--runtime", &self.runtime.to_string()]).args(self.flags.to_arguments());
        command.stdin(Stdio::null()).stdout(log.try_clone().map_err(failed)?).stderr(log);
        command.spawn().map_err(failed)
    }

    /// A daemon runs already: that is what was wanted.
    fn join(&self, output: &Output, settings: &Settings, running: &mut ControlClient) -> Result<Exit, Failure> {
        let status: Status = control::ask(running, &Request::Status { group: None })?;
        output.note(format_args!("a daemon runs already (process {})", status.pid));
        let deadline = Instant::now() + Duration::from_secs(self.wait);
        loop {
            let status: Status = control::ask(running, &Request::Status { group: None })?;
            if missing(&status).is_empty() || Instant::now() >= deadline {
                return Ok(report(output, settings, &status, true, None));
            }
            sleep(ASK_INTERVAL);
        }
    }

    /// Waits until the new daemon is connected, has ended, or the time is over.
    fn follow(&self, output: &Output, settings: &Settings, mut child: Child, log: &Path, log_start: u64) -> Result<Exit, Failure> {
        let deadline = Instant::now() + Duration::from_secs(self.wait);
        let mut latest: Option<Status> = None;
        loop {
            if let Ok(Some(ended)) = child.try_wait() {
                let exit = match ended.code() {
                    Some(2) => Exit::WrongUse,
                    Some(3) => Exit::NotConnected,
                    Some(77) => Exit::NotPossible,
                    _ => Exit::Failed,
                };
                return Err(Failure::new(exit, format!("the daemon has ended: {}", last_words(log, log_start))));
            }
            if let Ok(status) = ask_quietly(settings) {
                if missing(&status).is_empty() {
                    return Ok(report(output, settings, &status, false, Some(log)));
                }
                latest = Some(status);
            }
            if Instant::now() >= deadline {
                return match latest {
                    Some(status) => Ok(report(output, settings, &status, false, Some(log))),
                    None => Err(Failure::new(
                        Exit::NotConnected,
                        format!(
                            "the daemon (process {}) does not answer on {} yet; its log: {}",
                            child.id(),
                            settings.control_socket.display(),
                            log.display()
                        ),
                    )),
                };
            }
            sleep(ASK_INTERVAL);
        }
    }
}

fn ask_quietly(settings: &Settings) -> Result<Status, ClientError> {
    let value = ControlClient::connect(&settings.control_socket)?.request(&Request::Status { group: None }, Duration::from_secs(5))?;
    Ok(serde_json::from_value(value).unwrap_or_default())
}

/// What is not connected yet, and why as far as the daemon knows.
fn missing(status: &Status) -> Vec<String> {
    let mut missing = Vec::new();
    for group in &status.groups {
        let why = if group.warnings.is_empty() { String::new() } else { format!(" ({})", group.warnings.join("; ")) };
        if !group.connected {
            missing.push(format!("{}: not connected to the ring: no bootstrap endpoint has answered{why}", group.name));
        } else if group.device.is_some() && group.addresses.is_empty() {
            missing.push(format!("{}: no virtual address yet{why}", group.name));
        }
    }
    missing
}

fn report(output: &Output, settings: &Settings, status: &Status, already_running: bool, log: Option<&Path>) -> Exit {
    let missing = missing(status);
    let report = UpReport {
        pid: status.pid,
        already_running,
        connected: missing.is_empty(),
        groups: status.groups.iter().map(|group| group.name.clone()).collect(),
        missing,
        log: log.map(Path::to_owned),
    };
    output.json(&report);
    for group in status.groups.iter().filter(|group| group.connected) {
        output.text(format_args!(
            "{}: connected as {} ({}), {}",
            group.name,
            group.node_name,
            list(&group.addresses),
            if group.ring_size_estimate == 1 {
                "alone in the ring".to_owned()
            } else {
                format!("about {} nodes in the ring", group.ring_size_estimate)
            }
        ));
    }
    for line in &report.missing {
        output.note(line);
    }
    if report.connected {
        return Exit::Done;
    }
    let log = log.map(|log| format!("; its log: {}", log.display())).unwrap_or_default();
    output.note(format_args!("the daemon (process {}, socket {}) goes on trying{log}", status.pid, settings.control_socket.display()));
    Exit::NotConnected
}

/// Opens the log of a detached daemon for appending; also says how long it is.
fn open_log(state_dir: &Path, path: &Path) -> Result<(File, u64), Failure> {
    files::private_dir(state_dir).map_err(Failure::failed)?;
    let failed = |error: std::io::Error| Failure::failed(format!("{}: cannot open the log: {error}", path.display()));
    if std::fs::metadata(path).is_ok_and(|meta| meta.len() > MAX_LOG) {
        std::fs::rename(path, path.with_extension("log.1")).map_err(failed)?;
    }
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    Ok((file, length))
}

/// The end of what a daemon wrote to its log since `start`.
fn last_words(path: &Path, start: u64) -> String {
    let mut text = String::new();
    let read = File::open(path).and_then(|mut file| {
        file.seek(SeekFrom::Start(start))?;
        file.take(64 * 1024).read_to_string(&mut text)
    });
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    match (read, lines.as_slice()) {
        (Ok(_), [.., last]) => last.strip_prefix("annulus: ").unwrap_or(last).to_owned(),
        _ => format!("its log {} says nothing", path.display()),
    }
}

#[derive(Args, Debug)]
pub(crate) struct Down {
    #[command(flatten)]
    target: Target,
    /// Seconds to wait until the daemon has ended
    #[arg(long, default_value_t = 5, value_name = "S")]
    wait: u64,
}

impl Down {
    /// Nothing to end is as good as ended.
    pub(crate) fn run(&self, output: &Output) -> Result<Exit, Failure> {
        let settings = self.target.settings()?;
        let mut client = match ControlClient::connect(&settings.control_socket) {
            Ok(client) => client,
            Err(ClientError::NotRunning(_)) => {
                output.json(&serde_json::json!({ "pid": null, "stopped": false }));
                output.text("no daemon runs");
                return Ok(Exit::Done);
            }
            Err(error) => return Err(control::explain(&error)),
        };
        let answer: serde_json::Value = control::ask(&mut client, &Request::Stop {})?;
        let pid = answer["pid"].as_u64().unwrap_or_default();
        let deadline = Instant::now() + Duration::from_secs(self.wait);
        // The socket goes last but for the process itself, which `up` must not meet either.
        while settings.control_socket.exists() || Path::new("/proc").join(pid.to_string()).exists() && !is_zombie(pid) {
            if Instant::now() >= deadline {
                return Err(Failure::new(Exit::NotConnected, format!("the daemon (process {pid}) has not ended after {} s", self.wait)));
            }
            sleep(Duration::from_millis(20));
        }
        output.json(&serde_json::json!({ "pid": pid, "stopped": true }));
        output.text(format_args!("the daemon (process {pid}) has ended"));
        Ok(Exit::Done)
    }
}

/// Whether the process has ended and only waits for its parent to notice.
fn is_zombie(pid: u64) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z')))
}

#[cfg(test)]
mod tests {
    use super::*;
    use annulus_daemon::status::GroupStatus;

    #[test]
    fn the_documented_example_is_what_the_program_writes() {
        let example: serde_json::Value = serde_json::from_str(include_str!("../../docs/json/up.json")).unwrap();
        let report: UpReport = serde_json::from_value(example.clone()).unwrap();
        assert_eq!(serde_json::to_value(report).unwrap(), example);
    }

    #[test]
    fn what_is_missing_is_said_in_words() {
        let group = |connected, addresses: &[&str]| GroupStatus {
            name: "lab".into(),
            connected,
            device: Some("annulus".into()),
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            warnings: vec!["the clock is behind".into()],
            ..GroupStatus::default()
        };
        let of = |group| missing(&Status { groups: vec![group], ..Status::default() });
        assert!(of(group(true, &["10.0.0.1"])).is_empty());
        assert!(of(group(false, &[]))[0].contains("not connected to the ring") && of(group(false, &[]))[0].contains("the clock is behind"));
        assert!(of(group(true, &[]))[0].contains("no virtual address yet"));
    }

    #[test]
    fn the_last_line_of_the_new_part_of_the_log_is_quoted() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("annulus.log");
        std::fs::write(&log, "old\nannulus: it is broken\n\n").unwrap();
        assert_eq!(last_words(&log, 4), "it is broken");
        assert!(last_words(&log, 25).contains("says nothing"));
    }

    #[test]
    fn a_long_log_is_put_aside() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let log = state.join("annulus.log");
        open_log(&state, &log).unwrap();
        File::options().write(true).open(&log).unwrap().set_len(MAX_LOG + 1).unwrap();
        assert_eq!(open_log(&state, &log).unwrap().1, 0);
        assert!(state.join("annulus.log.1").exists());
    }
}
