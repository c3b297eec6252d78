//! Daemons with several workers: many flows at once, in order; next to daemons with one; what they fall back to, and how they end and come back.

use std::net::IpAddr;
use std::thread::{scope, sleep};
use std::time::Duration;

use annulus_lab::{Test, run_tests};
use annulus_tests::cluster::{Cluster, Node, Outside, Runtime, peer};
use annulus_tests::traffic::{ping, tcp_send, tcp_streams, udp_in_order};
use anyhow::{Context, Result, anyhow, ensure};

const PROGRAM: &str = env!("CARGO_BIN_EXE_annulus-under-test");

const TESTS: &[Test] = &[
    ("two_workers_of_mio_carry_many_flows_unchanged_and_in_order", || many_flows(Runtime::Mio, ["2", "2", "2"])),
    ("two_workers_of_tokio_carry_many_flows_unchanged_and_in_order", || many_flows(Runtime::Tokio, ["2", "2", "2"])),
    ("daemons_with_two_one_and_three_workers_understand_each_other", || many_flows(Runtime::Mio, ["2", "1", "3"])),
    ("the_plain_tun_backend_leaves_one_worker_and_says_so", plain_backend),
    ("without_offload_everything_passes_and_the_status_says_so", no_offload),
    ("a_daemon_with_workers_of_mio_returns_after_a_restart_and_a_kill", || returns(Runtime::Mio)),
    ("a_daemon_with_workers_of_tokio_returns_after_a_restart_and_a_kill", || returns(Runtime::Tokio)),
    ("a_further_worker_costs_at_most_six_megabytes", memory),
];

fn main() {
    run_tests(TESTS)
}

/// Datagrams of each numbered flow.
const DATAGRAMS: u32 = 1000;
/// Bytes of each stream in each direction.
const STREAM: usize = 4 << 20;
/// kB that a further worker may add to what is resident.
const WORKER_KB: u64 = 6 << 10;

/// Adds what two daemons have logged and dropped to an error.
fn both(one: &Node, other: &Node) -> impl Fn(anyhow::Error) -> anyhow::Error {
    move |error| {
        let drops = [one, other].map(|node| {
            let output = node.annulus(&["status", "--json"]).map(|output| output.stdout).unwrap_or_default();
            let status: serde_json::Value = serde_json::from_slice(&output).unwrap_or_default();
            format!("drops of {}: {}", node.name(), status["groups"][0]["drops"])
        });
        error.context(format!("{}\n{}\n{}", one.last_words(), other.last_words(), drops.join("\n")))
    }
}

/// All pairs at once: streams both ways, and numbered datagrams of several flows each way.
fn many_flows(runtime: Runtime, workers: [&str; 3]) -> Result<()> {
    let mut cluster = Cluster::new(PROGRAM)?;
    let mut nodes = Vec::new();
    for (name, workers) in ["ann", "bob", "cid"].into_iter().zip(workers) {
        let mut node = cluster.prepare(name, runtime, 1500, Outside::Both)?;
        node.start(&["--workers", workers])?;
        node.connected()?;
        nodes.push(node);
    }
    let mut addresses: Vec<Vec<IpAddr>> = Vec::new();
    for (node, workers) in nodes.iter_mut().zip(workers) {
        addresses.push(node.connected()?);
        let status = node.status()?;
        ensure!(status.workers.to_string() == workers && status.tun_backend.as_deref() == Some("vnet"), "{status:?}");
        ensure!(!status.fallbacks.iter().any(|text| text.contains("one worker")), "{:?}", status.fallbacks);
    }
    for (from, to) in [(0, 1), (1, 0), (1, 2), (2, 1), (2, 0), (0, 2)] {
        for address in &addresses[to] {
            ping(&nodes[from].host, *address, 1400).map_err(both(&nodes[from], &nodes[to]))?;
        }
    }
    let (nodes_ref, addresses_ref) = (&nodes, &addresses);
    scope(|scope| -> Result<()> {
        let mut jobs = Vec::new();
        for (from, to) in [(0, 1), (1, 2), (2, 0)] {
            let (one, other) = (&nodes_ref[from], &nodes_ref[to]);
            jobs.push(scope.spawn(move || tcp_streams(&one.host, &other.host, addresses_ref[to][0], 4, STREAM).map_err(both(one, other))));
            for (one, other, target) in [(one, other, to), (other, one, from)] {
                jobs.push(scope.spawn(move || {
                    let arrived = udp_in_order(&one.host, &other.host, addresses_ref[target][1], 6, DATAGRAMS).map_err(both(one, other))?;
                    // The machine may be busy with other tests; most that is lost then waits too long in a device's queue.
                    if arrived < 6 * DATAGRAMS as usize / 10 {
                        return Err(both(one, other)(anyhow!("{arrived} datagrams arrived")));
                    }
                    Ok(())
                }));
            }
        }
        jobs.into_iter().try_for_each(|job| job.join().map_err(|_| anyhow!("a thread panicked"))?)
    })?;
    for (node, workers) in nodes.iter_mut().zip(workers) {
        for worker in 1..workers.parse()? {
            ensure!(cpu_ticks(node, worker)? > 0, "worker {worker} of {} has done nothing", node.name());
        }
        let status = node.status()?;
        let group = &status.groups[0];
        // A packet that arrives twice or was sealed twice under one number, or a lane that two workers share, would show here.
        ensure!(!group.drops.contains_key("replayed") && !group.drops.contains_key("forged"), "{:?}", group.drops);
        node.stop()?;
    }
    Ok(())
}

/// CPU time that a worker's thread has used, in ticks of 10 ms.
fn cpu_ticks(node: &mut Node, worker: u32) -> Result<u64> {
    for task in std::fs::read_dir(format!("/proc/{}/task", node.daemon()?.pid()))? {
        let stat = std::fs::read_to_string(task?.path().join("stat"))?;
        if let Some((_, rest)) = stat.split_once(&format!("(worker {worker}) ")) {
            // Fields 14 and 15 of proc(5), counted from the third one on.
            return Ok(rest.split(' ').skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum());
        }
    }
    Err(anyhow!("{} has no worker {worker}", node.name()))
}

/// ann and bob with these flags, connected; and bob's addresses.
fn two(runtime: Runtime, flags: &[&str]) -> Result<(Cluster, Node, Node, Vec<IpAddr>)> {
    let mut cluster = Cluster::new(PROGRAM)?;
    let mut ann = cluster.prepare("ann", runtime, 1500, Outside::Both)?;
    let mut bob = cluster.prepare("bob", runtime, 1500, Outside::Both)?;
    for node in [&mut ann, &mut bob] {
        node.start(flags)?;
        node.connected()?;
    }
    let addresses = bob.connected()?;
    Ok((cluster, ann, bob, addresses))
}

fn exchange(ann: &Node, bob: &Node, addresses: &[IpAddr]) -> Result<()> {
    for address in addresses {
        ping(&ann.host, *address, 1400).map_err(both(ann, bob))?;
        tcp_send(&ann.host, &bob.host, *address, 3 << 20).map_err(both(ann, bob))?;
    }
    udp_in_order(&ann.host, &bob.host, addresses[0], 3, 500).map_err(both(ann, bob))?;
    Ok(())
}

fn plain_backend() -> Result<()> {
    let (_cluster, mut ann, bob, addresses) = two(Runtime::Mio, &["--workers", "2", "--tun-backend", "tun-tap"])?;
    exchange(&ann, &bob, &addresses)?;
    let status = ann.status()?;
    ensure!(status.workers == 1 && status.tun_backend.as_deref() == Some("tun-tap"), "{status:?}");
    for words in ["one worker in place of 2", "tun-tap was asked for"] {
        ensure!(status.fallbacks.iter().any(|text| text.contains(words)), "{words}: {:?}", status.fallbacks);
        ann.logged(&["WARN", words], Duration::ZERO)?;
    }
    Ok(())
}

fn no_offload() -> Result<()> {
    let (_cluster, mut ann, mut bob, addresses) = two(Runtime::Tokio, &["--offload", "false"])?;
    exchange(&ann, &bob, &addresses)?;
    ann.knows("bob")?;
    bob.knows("ann")?;
    let status = ann.status()?;
    ensure!(status.fallbacks.iter().any(|text| text.contains("offload = false")), "{:?}", status.fallbacks);
    let path = peer(&status, "bob").and_then(|peer| peer.paths.iter().find(|path| path.active)).context("no active path")?;
    ensure!(!path.gso && !path.gro && !path.cipher.is_empty() && path.mtu >= 1280, "{path:?}");
    Ok(())
}

fn returns(runtime: Runtime) -> Result<()> {
    let flags = ["--workers", "2"];
    let (_cluster, ann, mut bob, addresses) = two(runtime, &flags)?;
    exchange(&ann, &bob, &addresses)?;
    // A lease is written a little later than it is used.
    sleep(Duration::from_secs(6));
    for by_force in [false, true] {
        if by_force {
            bob.kill()?
        } else {
            bob.stop()?
        }
        bob.start(&flags)?;
        ensure!(bob.connected()? == addresses, "other addresses than before; {}", bob.last_words());
        exchange(&ann, &bob, &addresses)?;
    }
    Ok(())
}

fn memory() -> Result<()> {
    let mut resident = Vec::new();
    for workers in ["1", "4"] {
        let (_cluster, mut ann, mut bob, addresses) = two(Runtime::Mio, &["--workers", workers])?;
        tcp_streams(&ann.host, &bob.host, addresses[0], 8, STREAM)?;
        resident.push((ann.resident_kb()?, bob.resident_kb()?));
    }
    let each = |one: u64, four: u64| four.saturating_sub(one) / 3;
    let (ann, bob) = (each(resident[0].0, resident[1].0), each(resident[0].1, resident[1].1));
    eprintln!("{ann} and {bob} kB per further worker; resident with one and with four: {resident:?}");
    ensure!(ann <= WORKER_KB && bob <= WORKER_KB, "{ann} and {bob} kB per worker: {resident:?}");
    Ok(())
}
