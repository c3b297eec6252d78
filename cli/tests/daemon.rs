//! The command line against a daemon of its own: no device and no privilege is needed, for a seed has no virtual address.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

struct Host {
    dir: tempfile::TempDir,
}

impl Host {
    fn new() -> Self {
        let host = Self { dir: tempfile::tempdir().unwrap() };
        host.ok("ca init lab --ca-dir @ca --ipv4 10.200.0.0/16");
        host.ok("ca issue seed --user ada --role infrastructure --ca-dir @ca --out @seed --listen 127.0.0.1:0");
        host
    }

    /// Runs `annulus LINE`, where `@` stands for the directory of this test.
    fn run(&self, line: &str) -> Output {
        let words = line.split_whitespace().map(|word| word.replace('@', &format!("{}/", self.dir.path().display())));
        Command::new(env!("CARGO_BIN_EXE_annulus")).args(words).env_clear().output().unwrap()
    }

    fn code(&self, line: &str) -> i32 {
        self.run(line).status.code().unwrap()
    }

    /// Runs it with `--json`; it must succeed with one object on one line.
    fn ok(&self, line: &str) -> Value {
        let output = self.run(&format!("{line} --json"));
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        serde_json::from_str(&text).unwrap()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // A failed test must not leave its daemon behind.
        self.run("down --control-socket @annulus.sock");
    }
}

const UP: &str = "up --config @seed/annulus.toml --state-dir @state --control-socket @annulus.sock --wait 20";

fn a_daemon_lives_from_up_to_down(runtime: &str) {
    let host = Host::new();
    assert_eq!(host.code("status --control-socket @annulus.sock"), 3);
    assert_eq!(host.ok("down --control-socket @annulus.sock")["stopped"], false);

    let up = host.ok(&format!("{UP} --runtime {runtime}"));
    assert_eq!((up["connected"].as_bool(), up["already_running"].as_bool()), (Some(true), Some(false)));
    let again = host.ok(UP);
    assert_eq!((again["pid"].as_u64(), again["already_running"].as_bool()), (up["pid"].as_u64(), Some(true)));

    let status = host.ok("status --control-socket @annulus.sock");
    let group = &status["groups"][0];
    assert_eq!(
        (status["runtime"].as_str(), group["name"].as_str(), group["node_name"].as_str()),
        (Some(runtime), Some("lab"), Some("seed"))
    );
    assert_eq!(
        (group["connected"].as_bool(), group["ring_size_estimate"].as_u64(), group["device"].is_null()),
        (Some(true), Some(1), true)
    );
    assert_eq!(host.code("status --group other --control-socket @annulus.sock"), 2);
    assert_eq!(host.ok("hosts --control-socket @annulus.sock")["written"], Value::Null);

    // A second daemon on the same state is refused, whatever its socket.
    let second = host.run("up --foreground --config @seed/annulus.toml --state-dir @state --control-socket @other.sock");
    let words = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(second.status.code() == Some(1) && words.contains(&format!("in use by process {}", up["pid"])), "{words}");

    let down = host.ok("down --control-socket @annulus.sock");
    assert_eq!((down["pid"].as_u64(), down["stopped"].as_bool()), (up["pid"].as_u64(), Some(true)));
    assert!(!host.dir.path().join("annulus.sock").exists());

    // The port of the first start is kept.
    let port = status["listen"][0].clone();
    host.ok(&format!("{UP} --runtime {runtime}"));
    assert_eq!(host.ok("status --control-socket @annulus.sock")["listen"][0], port);
    host.ok("down --control-socket @annulus.sock");
}

#[test]
fn a_daemon_on_mio_lives_from_up_to_down() {
    a_daemon_lives_from_up_to_down("mio");
}

#[test]
fn a_daemon_on_tokio_lives_from_up_to_down() {
    a_daemon_lives_from_up_to_down("tokio");
}

#[test]
fn wrong_configuration_ends_with_code_2_and_its_place() {
    let host = Host::new();
    let at = |name: &str| host.dir.path().join(name);
    std::fs::write(at("bad.toml"), "\nlisen = \"7\"\n").unwrap();
    for verb in ["up --config @bad.toml", "config check --config @bad.toml", "status --config @bad.toml"] {
        let output = host.run(&format!("{verb} --json"));
        assert_eq!(output.status.code(), Some(2), "{verb}");
        let error: Value = serde_json::from_slice(&output.stdout).unwrap();
        let text = error["error"].as_str().unwrap();
        assert!(text.contains("bad.toml:2: lisen: unknown key; did you mean `listen`?"), "{text}");
        assert_eq!(error["exit_code"], 2);
    }
    std::fs::create_dir(at("empty")).unwrap();
    std::fs::write(at("empty/annulus.toml"), "").unwrap();
    let output = host.run("up --config @empty/annulus.toml --state-dir @state --control-socket @annulus.sock");
    assert!(output.status.code() == Some(2) && String::from_utf8_lossy(&output.stderr).contains("annulus ca init"));
    assert!(!Path::new(&at("state")).exists());
}

#[test]
fn the_example_is_accepted_and_a_whole_configuration_is_checked() {
    let host = Host::new();
    let output = host.run("config example");
    let path = host.dir.path().join("seed/annulus.toml");
    std::fs::write(&path, output.stdout).unwrap();
    let check = host.ok("config check --config @seed/annulus.toml");
    assert_eq!((check["groups"][0]["name"].as_str(), check["groups"][0]["node_name"].as_str()), (Some("lab"), Some("seed")));
}
