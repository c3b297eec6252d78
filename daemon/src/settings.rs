//! What a daemon was told: flags over environment over file over default.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU8;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde::Deserialize;

use crate::config::{self, ConfigError};

/// Where the host's configuration lies when nothing else is said.
pub const DEFAULT_CONFIG: &str = "/etc/annulus/annulus.toml";

/// The commented example that `annulus config example` prints; a test keeps it complete and valid.
pub const EXAMPLE: &str = include_str!("example.toml");

/// The flags of every node binary and of `annulus up`. A flag wins over its environment variable, that over the file, that over the default.
#[derive(Args, Clone, Debug, Default)]
pub struct Flags {
    /// Configuration file of this host
    #[arg(long, env = "ANNULUS_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Name of this daemon, when a host runs several
    #[arg(long, env = "ANNULUS_INSTANCE", value_name = "NAME")]
    pub instance: Option<String>,
    /// Directory for what the daemon remembers
    #[arg(long, env = "ANNULUS_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Socket on which the daemon is controlled
    #[arg(long, env = "ANNULUS_CONTROL_SOCKET", value_name = "PATH")]
    pub control_socket: Option<PathBuf>,
    /// UDP address and port; port 0 draws one at the first start and keeps it
    #[arg(long, env = "ANNULUS_LISTEN", value_name = "ADDR:PORT")]
    pub listen: Option<Listen>,
    /// Name of the TUN device; with several groups their number is appended
    #[arg(long, env = "ANNULUS_TUN_NAME", value_name = "NAME")]
    pub tun_name: Option<String>,
    /// How the TUN device is driven
    #[arg(long, env = "ANNULUS_TUN_BACKEND", value_enum, value_name = "BACKEND")]
    pub tun_backend: Option<TunBackend>,
    /// Threads that carry packets: 1 to 16, or auto for one per two cores, at most 4
    #[arg(long, env = "ANNULUS_WORKERS", value_name = "auto|N")]
    pub workers: Option<Workers>,
    /// Whether the kernel may cut and merge packets for us, on sockets and TUN devices
    #[arg(long, env = "ANNULUS_OFFLOAD", value_name = "true|false")]
    pub offload: Option<bool>,
    /// Least level that is logged: error, warn, info, debug, trace, or a filter such as info,annulus_core=debug
    #[arg(long, env = "ANNULUS_LOG_LEVEL", value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// Form of the log
    #[arg(long, env = "ANNULUS_LOG_FORMAT", value_enum, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
    /// Use state that was made on another machine as this machine's own
    #[arg(long)]
    pub adopt_state: bool,
}

impl Flags {
    /// The same flags as a command line, for a process that is started with them.
    #[must_use]
    pub fn to_arguments(&self) -> Vec<OsString> {
        let mut arguments = Vec::new();
        let mut add = |flag: &str, value: Option<OsString>| {
            if let Some(value) = value {
                arguments.extend([OsString::from(flag), value]);
            }
        };
        let value_name = |value: clap::builder::PossibleValue| OsString::from(value.get_name());
        add("--config", self.config.clone().map(Into::into));
        add("--instance", self.instance.clone().map(Into::into));
        add("--state-dir", self.state_dir.clone().map(Into::into));
        add("--control-socket", self.control_socket.clone().map(Into::into));
        add("--listen", self.listen.map(|listen| listen.0.to_string().into()));
        add("--tun-name", self.tun_name.clone().map(Into::into));
        add("--tun-backend", self.tun_backend.and_then(|backend| backend.to_possible_value()).map(value_name));
        add("--workers", self.workers.map(|workers| workers.to_string().into()));
        add("--offload", self.offload.map(|offload| offload.to_string().into()));
        add("--log-level", self.log_level.clone().map(Into::into));
        add("--log-format", self.log_format.and_then(|format| format.to_possible_value()).map(value_name));
        if self.adopt_state {
            arguments.push("--adopt-state".into());
        }
        arguments
    }
}

/// The UDP address to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Listen(pub SocketAddr);

impl core::str::FromStr for Listen {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(port) = text.trim_start_matches(':').parse::<u16>() {
            return Ok(Self(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))));
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self(SocketAddr::from((address, 0))));
        }
        text.parse()
            .map(Self)
            .map_err(|_| format!("`{text}` is neither ADDR:PORT nor a port; for example [::]:7171, 192.0.2.1:7171 or 7171"))
    }
}

impl TryFrom<String> for Listen {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// Which implementation of the TUN device is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TunBackend {
    /// The fastest that works here.
    #[default]
    Auto,
    /// The Linux one with virtio header and segmentation offload.
    Vnet,
    /// The plain one on the `tun-tap` crate.
    TunTap,
}

/// Workers of one daemon at most: each seals on lanes of its own, and a session has so many.
pub const MAX_WORKERS: u8 = annulus_core::shard::LANES;

/// Workers that [`Workers::Auto`] takes at most: 10 Gbit/s need no more, and each costs some MB.
const MAX_AUTO_WORKERS: u8 = 4;

/// How many threads carry packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "WorkersText")]
pub enum Workers {
    /// As many as this machine has use for: one per two cores, at most 4. A worker fills about two cores, for the kernel's part of the work is as large
    /// as its own; with up to three cores a second one only takes time from the first.
    #[default]
    Auto,
    /// So many, 1 to [`MAX_WORKERS`].
    Count(NonZeroU8),
}

impl Workers {
    /// How many that are with so many cores: never more of themselves than there are cores.
    #[must_use]
    pub fn count(self, cores: usize) -> NonZeroU8 {
        match self {
            Self::Auto => NonZeroU8::new((cores / 2).clamp(1, usize::from(MAX_AUTO_WORKERS)) as u8).expect("clamped to at least 1"),
            Self::Count(count) => count,
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum WorkersText {
    Number(i64),
    Text(String),
}

impl TryFrom<WorkersText> for Workers {
    type Error = String;
    fn try_from(value: WorkersText) -> Result<Self, String> {
        match value {
            WorkersText::Number(count) => count.to_string().parse(),
            WorkersText::Text(text) => text.parse(),
        }
    }
}

impl core::fmt::Display for Workers {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Count(count) => write!(f, "{count}"),
        }
    }
}

impl core::str::FromStr for Workers {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        match text.parse().map(NonZeroU8::new) {
            Ok(Some(count)) if count.get() <= MAX_WORKERS => Ok(Self::Count(count)),
            _ => Err(format!("`{text}` is neither auto nor a number of workers from 1 to {MAX_WORKERS}")),
        }
    }
}

/// The form of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// Lines for people; without time stamps under systemd, which has its own.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// The host's file, `annulus.toml`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostFile {
    /// See [`Flags::state_dir`].
    pub state_dir: Option<PathBuf>,
    /// See [`Flags::control_socket`].
    pub control_socket: Option<PathBuf>,
    /// Unix group whose members may use the control socket beside root.
    pub control_group: Option<String>,
    /// Directory with one file per group.
    pub groups_dir: Option<PathBuf>,
    /// See [`Flags::listen`].
    pub listen: Option<Listen>,
    /// See [`Flags::tun_name`].
    pub tun_name: Option<String>,
    /// See [`Flags::tun_backend`].
    pub tun_backend: Option<TunBackend>,
    /// See [`Flags::workers`].
    pub workers: Option<Workers>,
    /// See [`Flags::offload`].
    pub offload: Option<bool>,
    /// Whether the DSCP of inner packets is copied to the outer header.
    pub copy_dscp: Option<bool>,
    /// See [`Flags::log_level`].
    pub log_level: Option<String>,
    /// See [`Flags::log_format`].
    pub log_format: Option<LogFormat>,
}

/// What holds after all sources were looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The file that was read, or would have been if it existed.
    pub config: PathBuf,
    /// Name of this daemon if it has one.
    pub instance: Option<String>,
    /// Directory for what the daemon remembers.
    pub state_dir: PathBuf,
    /// The control socket.
    pub control_socket: PathBuf,
    /// Unix group whose members may use the control socket beside root.
    pub control_group: Option<String>,
    /// Directory with one file per group.
    pub groups_dir: PathBuf,
    /// The UDP address; port 0: draw and keep.
    pub listen: SocketAddr,
    /// Name of the TUN device, at most 13 bytes: two digits are left for the number of a group.
    pub tun_name: String,
    /// How the TUN device is driven.
    pub tun_backend: TunBackend,
    /// Threads that carry packets.
    pub workers: Workers,
    /// Whether the kernel may cut and merge packets for us.
    pub offload: bool,
    /// Whether the DSCP of inner packets is copied to the outer header.
    pub copy_dscp: bool,
    /// The least level that is logged, or a filter.
    pub log_level: String,
    /// The form of the log.
    pub log_format: LogFormat,
    /// Whether state of another machine is taken over.
    pub adopt_state: bool,
}

/// Why settings could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A configuration file is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A flag or variable is wrong.
    #[error("{0}")]
    Flag(String),
}

impl Settings {
    /// Puts flags (which clap has filled from the environment where they were missing), file and defaults together.
    ///
    /// A file that was named must exist; the default one may be missing.
    ///
    /// # Errors
    /// [`SettingsError`] with file, line and key, or the flag.
    pub fn new(flags: &Flags) -> Result<Self, SettingsError> {
        if let Some(name) = flags.instance.as_deref()
            && !is_plain_name(name)
        {
            return Err(SettingsError::Flag(format!("--instance {name}: use 1 to 32 letters, digits, - or _")));
        }
        let path = flags.config.clone().unwrap_or_else(|| match &flags.instance {
            None => PathBuf::from(DEFAULT_CONFIG),
            Some(name) => Path::new("/etc/annulus/instances").join(name).join("annulus.toml"),
        });
        let named = flags.config.is_some();
        let document = match config::load::<HostFile>(&path) {
            Err(ConfigError::File(error)) if error.is_missing() && !named => config::parse(&path, String::new())?,
            other => other?,
        };
        let resolve = |path: Option<&PathBuf>| path.map(|path| document.resolve(path));
        let file = &document.content;
        let instance = flags.instance.clone();
        let default = |plain: &str, several: &str, end: &str| match &instance {
            None => PathBuf::from(plain),
            Some(name) => PathBuf::from(format!("{several}{name}{end}")),
        };
        let tun_name = flags.tun_name.clone().or_else(|| file.tun_name.clone()).unwrap_or_else(|| "annulus".to_owned());
        if !is_device_name(&tun_name) {
            let message = format!("`{tun_name}` is no name for a network device: 1 to 13 letters, digits, -, _ or .");
            return Err(if flags.tun_name.is_some() {
                SettingsError::Flag(format!("--tun-name: {message}"))
            } else {
                document.fault("tun_name", message, None).into()
            });
        }
        let log_level = flags.log_level.clone().or_else(|| file.log_level.clone()).unwrap_or_else(|| "info".to_owned());
        if let Err(message) = crate::logs::check_filter(&log_level) {
            return Err(if flags.log_level.is_some() {
                SettingsError::Flag(format!("--log-level: {message}"))
            } else {
                document.fault("log_level", message, None).into()
            });
        }
        Ok(Self {
            state_dir: flags
                .state_dir
                .clone()
                .or_else(|| resolve(file.state_dir.as_ref()))
                .unwrap_or_else(|| default("/var/lib/annulus", "/var/lib/annulus/instances/", "")),
            control_socket: flags
                .control_socket
                .clone()
                .or_else(|| resolve(file.control_socket.as_ref()))
                .unwrap_or_else(|| default("/run/annulus/annulus.sock", "/run/annulus/", ".sock")),
            control_group: file.control_group.clone(),
            groups_dir: resolve(file.groups_dir.as_ref()).unwrap_or_else(|| document.resolve(Path::new("groups.d"))),
            listen: flags.listen.or(file.listen).map_or_else(|| SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)), |listen| listen.0),
            tun_name,
            tun_backend: flags.tun_backend.or(file.tun_backend).unwrap_or_default(),
            workers: flags.workers.or(file.workers).unwrap_or_default(),
            offload: flags.offload.or(file.offload).unwrap_or(true),
            copy_dscp: file.copy_dscp.unwrap_or(true),
            log_level,
            log_format: flags.log_format.or(file.log_format).unwrap_or_default(),
            adopt_state: flags.adopt_state,
            config: path,
            instance,
        })
    }
}

/// Whether `name` is 1 to 32 letters, digits, `-` or `_`, not beginning with `-`: safe as a file name and in a unit's name.
#[must_use]
pub fn is_plain_name(name: &str) -> bool {
    (1..=32).contains(&name.len())
        && !name.starts_with('-')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

pub(crate) fn is_device_name(name: &str) -> bool {
    (1..=13).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        && name != "."
        && name != ".."
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        flags: Flags,
    }

    fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("annulus.toml");
        std::fs::write(&path, text).unwrap();
        (dir, path)
    }

    #[test]
    fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
        let (_dir, path) = file("listen = \"192.0.2.1:7\"\nlog_level = \"debug\"\nworkers = 2\noffload = false\n");
        let flags = Command::try_parse_from(["x", "--config", path.to_str().unwrap(), "--listen", "9"]).unwrap().flags;
        let settings = Settings::new(&flags).unwrap();
        assert_eq!(settings.listen, "[::]:9".parse().unwrap());
        assert_eq!(settings.log_level, "debug");
        assert_eq!(settings.workers.to_string(), "2");
        assert!(!settings.offload && Settings::new(&Flags { offload: Some(true), ..flags }).unwrap().offload);
        assert_eq!(settings.tun_name, "annulus");
    }

    #[test]
    fn each_flag_has_an_environment_variable_of_its_name() {
        let command = <Command as clap::CommandFactory>::command();
        for argument in command.get_arguments().filter(|argument| argument.get_action().takes_values()) {
            let expected = format!("ANNULUS_{}", argument.get_id().as_str().to_uppercase());
            assert_eq!(argument.get_env().and_then(|name| name.to_str()), Some(expected.as_str()));
        }
    }

    #[test]
    fn flags_survive_as_a_command_line() {
        let line = "x --config /a --instance b --state-dir /c --control-socket /d --listen [::1]:5 --tun-name e --tun-backend tun-tap --workers 3 --offload false --log-level debug --log-format json --adopt-state";
        let flags = Command::try_parse_from(line.split(' ')).unwrap().flags;
        let again: Vec<OsString> = flags.to_arguments();
        assert_eq!(again, line.split(' ').skip(1).map(OsString::from).collect::<Vec<_>>());
    }

    #[test]
    fn relative_paths_of_a_file_begin_at_the_file() {
        let (dir, path) = file("state_dir = \"state\"\n");
        let settings = Settings::new(&Flags { config: Some(path), ..Flags::default() }).unwrap();
        assert_eq!(settings.state_dir, dir.path().join("state"));
        assert_eq!(settings.groups_dir, dir.path().join("groups.d"));
    }

    #[test]
    fn a_named_file_must_exist_and_the_default_one_need_not() {
        let missing = PathBuf::from("/nonexistent/annulus.toml");
        assert!(Settings::new(&Flags { config: Some(missing), ..Flags::default() }).unwrap_err().to_string().contains("cannot open it"));
        let settings = Settings::new(&Flags { instance: Some("absent-for-sure".into()), ..Flags::default() }).unwrap();
        assert_eq!(settings.control_socket, Path::new("/run/annulus/absent-for-sure.sock"));
        assert_eq!(settings.state_dir, Path::new("/var/lib/annulus/instances/absent-for-sure"));
    }

    #[test]
    fn a_value_that_no_one_could_use_names_its_line() {
        let (_dir, path) = file("\ntun_name = \"a/b\"\n");
        let message = Settings::new(&Flags { config: Some(path), ..Flags::default() }).unwrap_err().to_string();
        assert!(message.contains("annulus.toml:2: tun_name:"), "{message}");
        let (_dir, path) = file("workers = 17\n");
        let message = Settings::new(&Flags { config: Some(path), ..Flags::default() }).unwrap_err().to_string();
        assert!(message.contains("annulus.toml:1: workers: `17` is neither auto nor a number of workers from 1 to 16"), "{message}");
    }

    #[test]
    fn workers_are_auto_or_one_to_sixteen() {
        for (text, cores, count) in [("auto", 1, 1), ("auto", 3, 1), ("auto", 4, 2), ("auto", 64, 4), ("1", 64, 1), ("16", 2, 16)] {
            assert_eq!(text.parse::<Workers>().unwrap().count(cores).get(), count, "{text} with {cores} cores");
        }
        for text in ["0", "17", "-1", "256", "two", ""] {
            let message = text.parse::<Workers>().unwrap_err();
            assert!(message.contains("from 1 to 16"), "{message}");
        }
        let flags = Command::try_parse_from(["x", "--workers", "0"]).err().unwrap().to_string();
        assert!(flags.contains("--workers") && flags.contains("from 1 to 16"), "{flags}");
    }

    #[test]
    fn an_instance_cannot_climb_out_of_its_directory() {
        assert!(Settings::new(&Flags { instance: Some("../x".into()), ..Flags::default() }).is_err());
    }

    #[test]
    fn the_example_shows_every_key_with_its_default_and_is_valid() {
        // As it stands, all keys are commented out; with the comment signs taken away it must parse and change nothing.
        let uncommented: String =
            EXAMPLE.lines().map(|line| line.strip_prefix("#= ").unwrap_or(line)).map(|line| format!("{line}\n")).collect();
        let document = config::parse::<HostFile>(Path::new("example"), uncommented).unwrap();
        let file = document.content;
        assert!(file.state_dir.is_some() && file.control_socket.is_some() && file.control_group.is_some() && file.groups_dir.is_some());
        assert!(file.listen.is_some() && file.tun_name.is_some() && file.tun_backend.is_some() && file.workers.is_some());
        assert_eq!(file.offload, Some(true));
        assert_eq!(file.copy_dscp, Some(true));
        assert!(file.log_level.is_some() && file.log_format.is_some());
        config::parse::<HostFile>(Path::new("example"), EXAMPLE.to_owned()).unwrap();
    }
}
