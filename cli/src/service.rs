//! `annulus service`: the daemon as a unit of systemd.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use annulus_daemon::exit::{Exit, Failure};
use annulus_daemon::files;
use annulus_daemon::settings::Settings;
use clap::{Args, Subcommand};

use crate::Target;
use crate::output::{Mood, Output};
use crate::up::RuntimeKind;

/// Where an administrator's units lie.
const UNIT_DIR: &str = "/etc/systemd/system";

#[derive(Subcommand, Debug)]
pub(crate) enum Service {
    /// Install the unit, start it now and at each boot
    Install(Install),
    /// Stop the daemon and remove the unit
    Uninstall(Target),
    /// Show whether the unit is installed and runs
    Status(Target),
}

#[derive(Args, Debug)]
pub(crate) struct Install {
    #[command(flatten)]
    target: Target,
    /// Event loop of the daemon
    #[arg(long, value_enum, default_value_t)]
    runtime: RuntimeKind,
    /// Print the unit instead of installing it
    #[arg(long)]
    print: bool,
    /// Install it, but do not start it
    #[arg(long)]
    no_start: bool,
}

impl Service {
    pub(crate) fn run(&self, output: &Output) -> Result<Exit, Failure> {
        match self {
            Self::Install(install) => install.run(output),
            Self::Uninstall(target) => uninstall(target, output),
            Self::Status(target) => status(target, output),
        }
    }
}

impl Install {
    fn run(&self, output: &Output) -> Result<Exit, Failure> {
        let settings = self.target.settings()?;
        let program = std::env::current_exe().map_err(|error| Failure::failed(format!("cannot find this program's own file: {error}")))?;
        let text = unit(&settings, &program, self.runtime, self.target.config.is_some(), self.target.control_socket.is_some())?;
        let path = unit_path(&settings);
        if self.print {
            output.json(&serde_json::json!({ "unit": path, "text": text }));
            output.text(text.trim_end());
            return Ok(Exit::Done);
        }
        needs_systemd()?;
        files::write_atomic(&path, text.as_bytes(), 0o644).map_err(Failure::failed)?;
        systemctl(&["daemon-reload"])?;
        let name = unit_name(&settings);
        if self.no_start {
            systemctl(&["enable", &name])?;
        } else {
            systemctl(&["enable", "--now", &name])?;
        }
        output.json(&serde_json::json!({ "unit": path, "enabled": true, "started": !self.no_start }));
        output.text(format_args!(
            "{} is installed{}; its log: journalctl -u {name}",
            path.display(),
            if self.no_start { "" } else { " and started" }
        ));
        Ok(Exit::Done)
    }
}

fn uninstall(target: &Target, output: &Output) -> Result<Exit, Failure> {
    let settings = target.settings()?;
    let path = unit_path(&settings);
    if !path.exists() {
        output.json(&serde_json::json!({ "unit": path, "removed": false }));
        output.text(format_args!("{} is not installed", path.display()));
        return Ok(Exit::Done);
    }
    needs_systemd()?;
    systemctl(&["disable", "--now", &unit_name(&settings)])?;
    std::fs::remove_file(&path).map_err(|error| Failure::failed(format!("{}: cannot remove it: {error}", path.display())))?;
    systemctl(&["daemon-reload"])?;
    output.json(&serde_json::json!({ "unit": path, "removed": true }));
    output.text(format_args!("{} is stopped and removed; configuration and state are kept", path.display()));
    Ok(Exit::Done)
}

/// Ends with 3 when the unit is not active.
fn status(target: &Target, output: &Output) -> Result<Exit, Failure> {
    let settings = target.settings()?;
    let path = unit_path(&settings);
    let name = unit_name(&settings);
    let installed = path.exists();
    let systemd = needs_systemd().is_ok();
    let state = |verb: &str| if installed && systemd { said(verb, &name) } else { "-".to_owned() };
    let (active, enabled) = (state("is-active"), state("is-enabled"));
    output.json(&serde_json::json!({ "unit": path, "installed": installed, "systemd": systemd, "active": active, "enabled": enabled }));
    let is_active = active == "active";
    let installed_text = if installed { "installed" } else { "not installed; do: annulus service install" };
    output.text(format_args!(
        "{}: {installed_text}\nactive:  {}\nat boot: {enabled}",
        path.display(),
        output.paint(if is_active { Mood::Good } else { Mood::Bad }, &active)
    ));
    Ok(if is_active { Exit::Done } else { Exit::NotConnected })
}

fn unit_name(settings: &Settings) -> String {
    settings.instance.as_ref().map_or_else(|| "annulus.service".to_owned(), |name| format!("annulus-{name}.service"))
}

fn unit_path(settings: &Settings) -> PathBuf {
    Path::new(UNIT_DIR).join(unit_name(settings))
}

fn needs_systemd() -> Result<(), Failure> {
    if Path::new("/run/systemd/system").is_dir() {
        return Ok(());
    }
    Err(Failure::new(
        Exit::NotPossible,
        "systemd does not run on this machine (/run/systemd/system is missing); start the daemon with `annulus up`, or have your service manager run `annulus up --foreground`",
    ))
}

fn systemctl(arguments: &[&str]) -> Result<(), Failure> {
    let done = Command::new("systemctl").args(arguments).stdin(Stdio::null()).output();
    let words = arguments.join(" ");
    match done {
        Ok(done) if done.status.success() => Ok(()),
        Ok(done) => Err(Failure::failed(format!("systemctl {words}: {}", String::from_utf8_lossy(&done.stderr).trim()))),
        Err(error) => Err(Failure::failed(format!("systemctl {words}: {error}"))),
    }
}

fn said(verb: &str, name: &str) -> String {
    let done = Command::new("systemctl").args([verb, name]).stdin(Stdio::null()).output();
    done.ok()
        .and_then(|done| Some(String::from_utf8_lossy(&done.stdout).lines().next()?.trim().to_owned()))
        .unwrap_or_else(|| "unknown".to_owned())
}

/// An argument as a unit's command line has it; `%` and `$` have a meaning there.
fn quoted(text: &str) -> Result<String, Failure> {
    if text.chars().any(char::is_control) {
        return Err(Failure::usage(format!("{text:?}: a path with control characters cannot stand in a unit")));
    }
    Ok(format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$")))
}

fn unit(settings: &Settings, program: &Path, runtime: RuntimeKind, config: bool, socket: bool) -> Result<String, Failure> {
    let path_text = |path: &Path| {
        let absolute = std::path::absolute(path).map_err(|error| Failure::failed(format!("{}: {error}", path.display())))?;
        absolute.to_str().map(str::to_owned).ok_or_else(|| Failure::usage(format!("{}: a path in a unit must be UTF-8", path.display())))
    };
    let mut start = format!("{} up --foreground --runtime {runtime}", quoted(&path_text(program)?)?);
    if let Some(name) = &settings.instance {
        start += &format!(" --instance {name}");
    }
    if config {
        start += &format!(" --config {}", quoted(&path_text(&settings.config)?)?);
    }
    if socket {
        start += &format!(" --control-socket {}", quoted(&path_text(&settings.control_socket)?)?);
    }
    let instance = settings.instance.as_ref().map(|name| format!(" ({name})")).unwrap_or_default();
    let directory = |path: &Path, usual: &str, key: &str| -> Result<String, Failure> {
        let text = path_text(path)?;
        let relative = text.strip_prefix(usual).filter(|rest| !rest.is_empty() && !rest.contains([' ', '"', '\\', '%', '$']));
        match relative {
            Some(rest) => Ok(format!("{key}={rest}\n")),
            None => Ok(format!("ReadWritePaths=-{}\n", quoted(&text)?)),
        }
    };
    let mut own = directory(&settings.state_dir, "/var/lib/", "StateDirectory")?;
    own += &directory(settings.control_socket.parent().unwrap_or_else(|| Path::new("/run/annulus")), "/run/", "RuntimeDirectory")?;
    Ok(include_str!("annulus.service").replace("@INSTANCE@", &instance).replace("@START@", &start).replace("@DIRECTORIES@\n", &own))
}

#[cfg(test)]
mod tests {
    use super::*;
    use annulus_daemon::settings::Flags;

    fn settings(flags: Flags) -> Settings {
        Settings::new(&flags).unwrap()
    }

    #[test]
    fn the_unit_starts_this_program_and_is_hardened() {
        let text = unit(&settings(Flags::default()), Path::new("/usr/bin/annulus"), RuntimeKind::Mio, false, false).unwrap();
        for line in [
            "ExecStart=\"/usr/bin/annulus\" up --foreground --runtime mio",
            "Type=notify",
            "WatchdogSec=30",
            "StateDirectory=annulus",
            "RuntimeDirectory=annulus",
            "NoNewPrivileges=yes",
            "ProtectSystem=strict",
            "DeviceAllow=/dev/net/tun rw",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in:\n{text}");
        }
        assert!(!text.contains('@') || !text.contains("@START@"));
    }

    #[test]
    fn an_instance_gets_a_unit_and_directories_of_its_own() {
        let settings = settings(Flags { instance: Some("second".into()), ..Flags::default() });
        assert_eq!(unit_path(&settings), Path::new("/etc/systemd/system/annulus-second.service"));
        let text = unit(&settings, Path::new("/opt/a nnulus"), RuntimeKind::Tokio, false, false).unwrap();
        assert!(text.contains("ExecStart=\"/opt/a nnulus\" up --foreground --runtime tokio --instance second\n"), "{text}");
        assert!(
            text.contains("StateDirectory=annulus/instances/second\n") && text.contains("Description=Annulus peer-to-peer VPN (second)\n")
        );
    }

    #[test]
    fn paths_elsewhere_stay_writable_and_are_quoted() {
        let settings = settings(Flags { state_dir: Some("/srv/50%/state".into()), ..Flags::default() });
        let text = unit(&settings, Path::new("/usr/bin/annulus"), RuntimeKind::Mio, false, false).unwrap();
        assert!(text.contains("ReadWritePaths=-\"/srv/50%%/state\"\n"), "{text}");
    }
}
