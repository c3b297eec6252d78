//! The command `annulus` as an operator uses it.

use std::process::Output;
use std::time::Duration;

use annulus_lab::{Test, command, run_tests};
use annulus_tests::cluster::{Cluster, Node, Outside, Runtime};
use anyhow::{Context, Result, ensure};
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_annulus-under-test");

const TESTS: &[Test] = &[
    ("the_demo_pings_every_pair_and_says_so_in_json", demo),
    ("the_demo_says_what_is_missing_and_ends_with_77", demo_is_impossible),
    ("up_waits_until_the_ring_is_joined_and_down_ends_the_daemon", up_and_down),
    ("up_without_a_group_says_what_to_do", no_group),
    ("questions_are_answered_in_json", questions),
];

fn main() {
    run_tests(TESTS)
}

/// The one JSON object on standard output.
fn json(output: &Output) -> Result<Value> {
    serde_json::from_slice(&output.stdout).with_context(|| format!("no JSON: {output:?}"))
}

fn demo() -> Result<()> {
    let cluster = Cluster::new(PROGRAM)?;
    let mut demo = command(cluster.program("annulus"))?;
    demo.args(["demo", "--once", "--json"]);
    let output = demo.output()?;
    ensure!(output.status.success(), "{output:?}");
    let report = json(&output)?;
    ensure!(
        report["hosts"].as_u64() == Some(3) && report["pairs"].as_u64() == Some(6) && report["pairs_ok"].as_u64() == Some(6),
        "{report}"
    );
    ensure!(report["runtimes"] == serde_json::json!(["mio", "tokio"]), "{report}");
    for figure in ["first_ping_ms", "tcp_mbit_per_s", "tcp_ratio"] {
        ensure!(report[figure].as_f64().is_some_and(|value| value > 0.0), "{figure}: {report}");
    }
    Ok(())
}

fn demo_is_impossible() -> Result<()> {
    let cluster = Cluster::new(PROGRAM)?;
    let host = annulus_lab::Host::new("bare")?;
    // A machine without TUN devices.
    host.run(|| nix::mount::mount(Some("tmpfs"), "/dev/net", Some("tmpfs"), nix::mount::MsFlags::empty(), None::<&str>))??;
    let mut demo = command(cluster.program("annulus"))?;
    demo.args(["demo", "--once"]);
    let output = host.output(demo)?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(77) && text.contains("/dev/net/tun") && text.trim().lines().count() == 1, "{output:?}");
    Ok(())
}

/// Ends a detached daemon whatever happens.
struct Detached<'a>(&'a Node);

impl Drop for Detached<'_> {
    fn drop(&mut self) {
        // Without a daemon there is nothing to end.
        let _ = self.0.annulus(&["down"]);
    }
}

fn up_and_down() -> Result<()> {
    let mut cluster = Cluster::new(PROGRAM)?;
    let _ann = cluster.node("ann", Runtime::Tokio)?;
    let bob = cluster.prepare("bob", Runtime::Mio, 1500, Outside::Both)?;
    let guard = Detached(&bob);
    let up = bob.annulus(&["up", "--json"])?;
    ensure!(up.status.success(), "{up:?}");
    let first = json(&up)?;
    ensure!(first["connected"] == true && first["already_running"] == false, "{first}");
    let again = json(&bob.annulus(&["up", "--json"])?)?;
    ensure!(again["already_running"] == true && again["pid"] == first["pid"], "{again}");
    let down = bob.annulus(&["down", "--json"])?;
    ensure!(down.status.success(), "{down:?}");
    let status = bob.annulus(&["status", "--json"])?;
    ensure!(status.status.code() == Some(3), "{status:?}");
    drop(guard);
    Ok(())
}

fn no_group() -> Result<()> {
    let cluster = Cluster::new(PROGRAM)?;
    let host = annulus_lab::Host::new("new")?;
    let home = cluster.home("new");
    std::fs::create_dir(&home)?;
    std::fs::write(home.join("annulus.toml"), "state_dir = \"state\"\ncontrol_socket = \"annulus.sock\"\n")?;
    let mut up = command(cluster.program("annulus"))?;
    up.args(["up", "--config"]).arg(home.join("annulus.toml"));
    let output = host.output(up)?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(2) && text.contains("annulus ca"), "{output:?}");
    Ok(())
}

fn questions() -> Result<()> {
    let mut cluster = Cluster::new(PROGRAM)?;
    let mut ann = cluster.node("ann", Runtime::Mio)?;
    let mut bob = cluster.node("bob", Runtime::Tokio)?;
    let b = bob.connected()?;
    ann.knows("bob")?;
    let status = json(&ann.annulus(&["status", "--json"])?)?;
    ensure!(
        status["groups"][0]["node_name"] == "ann" && status["groups"][0]["connected"] == true && status["peers"][0]["name"] == "bob",
        "{status}"
    );
    ensure!(status["peers"][0]["paths"][0]["kind"] == "direct", "{status}");
    for node in ["bob", &b[0].to_string(), &b[1].to_string(), &bob.member.certificate.node_id().to_string()] {
        let ping = ann.annulus(&["ping", node, "--count", "1", "--json"])?;
        ensure!(ping.status.success(), "{ping:?}");
        ensure!(json(&ping)?["received"] == 1, "{ping:?}");
    }
    let trace = json(&ann.annulus(&["trace", "bob", "--json"])?)?;
    ensure!(trace["reached"] == true && trace["hops"][0]["name"] == "bob", "{trace}");
    let hosts = json(&ann.annulus(&["hosts", "--json"])?)?;
    ensure!(hosts["hosts"].as_array().is_some_and(|hosts| hosts.iter().any(|host| host["name"] == "bob")), "{hosts}");
    let unknown = ann.annulus(&["ping", "nobody", "--count", "1", "--json"])?;
    ensure!(unknown.status.code() == Some(1), "{unknown:?}");
    bob.stop()?;
    ann.daemon()?.wait_for("alone", Duration::from_secs(10), |status| status.peers.is_empty())?;
    Ok(())
}
