//! Peers as files: how each is configured and started, and what it needs. `bench/peers/README.md` says how to write one.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use annulus_daemon::exit::Failure;
use anyhow::{Context, Result, ensure};
use serde::Deserialize;

/// What a peer is in the comparison.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// No VPN at all.
    None,
    /// A bound: forwards, but is no VPN.
    Limit,
    /// Annulus.
    Ours,
    /// A VPN that others can install.
    #[default]
    Released,
}

/// A peer's file. Scripts are run by `sh -eu` with the variables that `bench/peers/README.md` lists.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Plugin {
    /// Its name: that of its file.
    #[serde(skip)]
    pub(crate) name: String,
    /// Another plugin whose keys are taken where this one has none.
    pub(crate) like: Option<String>,
    /// What it is in the comparison.
    pub(crate) kind: Option<Kind>,
    /// How it is configured, in a line.
    #[serde(default)]
    pub(crate) about: String,
    /// Programs that must be on PATH.
    #[serde(default)]
    pub(crate) needs: Vec<String>,
    /// Writes its version to standard output; runs outside of the hosts.
    pub(crate) version: Option<String>,
    /// Makes keys: once per host. Not timed.
    pub(crate) prepare: Option<String>,
    /// Writes files that need the other host's keys: once per host, after `prepare` of both. Not timed.
    pub(crate) configure: Option<String>,
    /// Becomes the daemon (`exec`): once per host. The clock of the first ping starts here.
    pub(crate) start: Option<String>,
    /// Becomes a program beside the daemon of host a whose cost does not count: a lookup server, say.
    pub(crate) helper: Option<String>,
    /// What is to be done once the TUN device is there: addresses, say. Once per host.
    pub(crate) up: Option<String>,
    /// `$OPTIONS` of `start`.
    pub(crate) options: Option<String>,
    /// Such `$OPTIONS` that each packet is read from the TUN device alone: inner UDP is measured with these too.
    pub(crate) plain_options: Option<String>,
    /// The host that is started first: the one that waits to be called.
    pub(crate) first: Option<Side>,
}

/// One of the two hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Side {
    /// Sends in the measurement a to b.
    A,
    /// The other one.
    B,
}

impl Plugin {
    /// What it is in the comparison.
    #[must_use]
    pub(crate) fn kind(&self) -> Kind {
        self.kind.unwrap_or_default()
    }

    /// The programs that it needs and that are not on PATH.
    #[must_use]
    pub(crate) fn missing(&self) -> Vec<&str> {
        self.needs.iter().map(String::as_str).filter(|program| find_program(program).is_none()).collect()
    }

    /// What the peer says its version is; empty if it says nothing.
    #[must_use]
    pub(crate) fn version(&self) -> String {
        let Some(script) = &self.version else { return String::new() };
        let output = Command::new("sh").args(["-c", script]).stdin(Stdio::null()).stderr(Stdio::null()).output();
        let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        text.lines().next().unwrap_or_default().trim().to_owned()
    }

    fn inherit(mut self, base: &Self) -> Self {
        self.kind = self.kind.or(base.kind);
        if self.needs.is_empty() {
            self.needs.clone_from(&base.needs);
        }
        for (own, theirs) in [
            (&mut self.version, &base.version),
            (&mut self.prepare, &base.prepare),
            (&mut self.configure, &base.configure),
            (&mut self.start, &base.start),
            (&mut self.helper, &base.helper),
            (&mut self.up, &base.up),
        ] {
            if own.is_none() {
                own.clone_from(theirs);
            }
        }
        self.first = self.first.or(base.first);
        self
    }
}

/// Where a program on PATH lies.
#[must_use]
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let runs = |path: &Path| fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0);
    env::split_paths(&env::var_os("PATH")?).map(|dir| dir.join(name)).find(|path| runs(path))
}

/// Reads all plugins of a directory: every file that ends in `.toml`, by name.
///
/// # Errors
/// If a file is not what it should be, or `like` names no plugin without a `like` of its own.
pub(crate) fn discover(dir: &Path) -> Result<BTreeMap<String, Plugin>> {
    let mut raw = BTreeMap::new();
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let path = entry?.path();
        let (Some("toml"), Some(name)) = (path.extension().and_then(|end| end.to_str()), path.file_stem().and_then(|stem| stem.to_str()))
        else {
            continue;
        };
        let mut plugin: Plugin = toml::from_str(&fs::read_to_string(&path)?).with_context(|| format!("{} is no plugin", path.display()))?;
        name.clone_into(&mut plugin.name);
        raw.insert(name.to_owned(), plugin);
    }
    ensure!(!raw.is_empty(), "no plugins in {}", dir.display());
    let mut plugins = BTreeMap::new();
    for (name, plugin) in &raw {
        let whole = match &plugin.like {
            None => plugin.clone(),
            Some(base) => {
                let base = raw.get(base).filter(|base| base.like.is_none());
                plugin.clone().inherit(base.with_context(|| format!("plugin {name} is like one that is not there"))?)
            }
        };
        ensure!(whole.start.is_some() || whole.kind() == Kind::None, "plugin {name} starts nothing");
        plugins.insert(name.clone(), whole);
    }
    Ok(plugins)
}

/// Which peers take part, and which of the wanted ones cannot and why.
#[derive(Debug, Default)]
pub(crate) struct Choice {
    /// Those that run, in the wanted order.
    pub(crate) chosen: Vec<Plugin>,
    /// Name and what it needs.
    pub(crate) left_out: Vec<(String, String)>,
}

/// The order of peers when none is named; the others follow by name.
const FIRST: [&str; 5] = ["none", "ceiling", "annulus-mio", "annulus-tokio", "annulus-mio-w2"];

/// Picks the wanted peers; all of them if none is named.
///
/// # Errors
/// Wrong use (exit code 2) if a name is unknown.
pub(crate) fn choose(plugins: &BTreeMap<String, Plugin>, wanted: &[String]) -> Result<Choice> {
    let mut names: Vec<&str> = Vec::new();
    let rest = plugins.keys().map(String::as_str).filter(|name| !FIRST.contains(name));
    let all: Vec<&str> = FIRST.iter().copied().filter(|name| plugins.contains_key(*name)).chain(rest).collect();
    for name in if wanted.is_empty() { all } else { wanted.iter().map(String::as_str).collect() } {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let mut choice = Choice::default();
    for name in names {
        let Some(plugin) = plugins.get(name) else {
            let known = plugins.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            return Err(Failure::usage(format!("there is no peer '{name}'; known are {known}")).into());
        };
        let missing = plugin.missing();
        if missing.is_empty() {
            choice.chosen.push(plugin.clone());
        } else {
            choice.left_out.push((name.to_owned(), format!("not on PATH: {}", missing.join(", "))));
        }
    }
    Ok(choice)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(dir: &Path, name: &str, text: &str) {
        fs::write(dir.join(name), text).unwrap();
    }

    #[test]
    fn plugins_are_the_toml_files_of_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "one.toml", "needs = [\"sh\"]\nstart = \"exec one $OPTIONS\"\nfirst = \"b\"\n");
        write(dir.path(), "two.toml", "like = \"one\"\noptions = \"-x\"\nkind = \"ours\"\n");
        write(dir.path(), "notes.md", "not a plugin");
        let plugins = discover(dir.path()).unwrap();
        assert_eq!(plugins.keys().collect::<Vec<_>>(), ["one", "two"]);
        let two = &plugins["two"];
        assert_eq!((two.start.as_deref(), two.options.as_deref(), two.first), (Some("exec one $OPTIONS"), Some("-x"), Some(Side::B)));
        assert_eq!((plugins["one"].kind(), two.kind()), (Kind::Released, Kind::Ours));
    }

    #[test]
    fn a_plugin_with_an_unknown_key_or_without_a_start_is_refused() {
        for text in ["start = \"x\"\ncolour = 1\n", "needs = []\n", "like = \"nobody\"\n"] {
            let dir = tempfile::tempdir().unwrap();
            write(dir.path(), "bad.toml", text);
            assert!(discover(dir.path()).is_err(), "{text}");
        }
        assert!(discover(tempfile::tempdir().unwrap().path()).is_err());
    }

    #[test]
    fn what_is_not_installed_is_left_out_by_name_and_unknown_names_are_wrong_use() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "there.toml", "needs = [\"sh\"]\nstart = \"x\"\n");
        write(dir.path(), "absent.toml", "needs = [\"sh\", \"no-such-program\"]\nstart = \"x\"\n");
        let plugins = discover(dir.path()).unwrap();
        let choice = choose(&plugins, &[]).unwrap();
        assert_eq!(choice.chosen.iter().map(|plugin| &plugin.name).collect::<Vec<_>>(), ["there"]);
        assert_eq!(choice.left_out, [("absent".to_owned(), "not on PATH: no-such-program".to_owned())]);
        let error = choose(&plugins, &["nobody".into()]).unwrap_err();
        assert_eq!(annulus_daemon::exit::code_of(&error).code(), 2);
    }

    #[test]
    fn each_peer_is_measured_once_however_often_it_is_named() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "there.toml", "start = \"x\"\n");
        let plugins = discover(dir.path()).unwrap();
        assert_eq!(choose(&plugins, &["there".into(), "there".into()]).unwrap().chosen.len(), 1);
    }

    #[test]
    fn the_plugins_of_the_repository_are_all_well_formed() {
        let plugins = discover(&Path::new(env!("CARGO_MANIFEST_DIR")).join("peers")).unwrap();
        for name in [
            "none",
            "ceiling",
            "annulus-mio",
            "annulus-tokio",
            "annulus-mio-w2",
            "boringtun",
            "wireguard-go",
            "tinc",
            "nebula",
            "fastd",
            "openvpn",
            "n2n",
            "vpncloud",
            "easytier",
        ] {
            assert!(plugins.contains_key(name), "{name}");
        }
    }
}
