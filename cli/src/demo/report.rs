//! What the demo shows at its end.

use std::collections::BTreeSet;
use std::time::Duration;

use annulus_daemon::exit::Failure;
use annulus_daemon::status::{PathStatus, PeerStatus};
use serde::{Deserialize, Serialize};

use super::failed;
use super::hosts::{DemoHost, Hosts};
use super::measure::{Pings, Transfers};
use crate::output::{list, millis, table};

/// What `demo --json` prints.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    hosts: usize,
    runtimes: BTreeSet<String>,
    ring_seconds: f64,
    pairs: usize,
    pairs_ok: usize,
    pairs_failed: Vec<String>,
    first_ping_ms: Option<f64>,
    median_ping_ms: Option<f64>,
    tcp_mbit_per_s: f64,
    tcp_direct_mbit_per_s: f64,
    tcp_ratio: f64,
}

impl Report {
    pub(crate) fn new(hosts: &Hosts, pings: &Pings, transfers: &Transfers) -> Self {
        let (through, without) = (transfers.through.mbit_per_s(), transfers.without.mbit_per_s());
        Self {
            hosts: hosts.hosts.len(),
            runtimes: hosts.hosts.iter().map(|host| host.runtime.to_string()).collect(),
            ring_seconds: rounded(hosts.joined_after.as_secs_f64(), 1000.0),
            pairs: pings.pairs,
            pairs_ok: pings.answered,
            pairs_failed: pings.failed.clone(),
            first_ping_ms: pings.first.map(to_ms),
            median_ping_ms: median(&pings.later).map(to_ms),
            tcp_mbit_per_s: rounded(through, 10.0),
            tcp_direct_mbit_per_s: rounded(without, 10.0),
            tcp_ratio: rounded(through / without.max(f64::MIN_POSITIVE), 1000.0),
        }
    }
}

fn to_ms(time: Duration) -> f64 {
    rounded(time.as_secs_f64() * 1000.0, 1000.0)
}

fn rounded(value: f64, parts: f64) -> f64 {
    (value * parts).round() / parts
}

fn median(sorted: &[Duration]) -> Option<Duration> {
    sorted.get(sorted.len() / 2).copied()
}

/// The same for people: the ring, the paths, the figures.
pub(crate) fn text(hosts: &Hosts, pings: &Pings, transfers: &Transfers) -> Result<String, Failure> {
    let (through, without) = (transfers.through.mbit_per_s(), transfers.without.mbit_per_s());
    let mut text = format!(
        "The ring, in its order; it stood after {:.2} s\n\n{}\n\nPaths\n\n{}\n\n",
        hosts.joined_after.as_secs_f64(),
        ring(hosts),
        paths(hosts)?
    );
    text += &format!("Echoes  {} of {} ordered pairs answered", pings.answered, pings.pairs);
    if let (Some(first), Some(later)) = (pings.first, median(&pings.later)) {
        text +=
            &format!("; the first after {} (addresses and keys included), then {} (median)", millis(to_ms(first)), millis(to_ms(later)));
    }
    text += &format!(
        "\nTCP     {}: {through:.0} Mbit/s through the VPN, {without:.0} Mbit/s without it ({:.0} %)",
        transfers.between,
        100.0 * through / without.max(f64::MIN_POSITIVE)
    );
    Ok(text)
}

fn ring(hosts: &Hosts) -> String {
    let mut order: Vec<&DemoHost> = hosts.hosts.iter().collect();
    order.sort_by(|one, other| one.node_id.cmp(&other.node_id));
    let rows = order.iter().map(|host| {
        [
            host.attached.name().to_owned(),
            host.runtime.to_string(),
            host.node_id.clone(),
            list(&host.addresses),
            host.attached.ipv4().to_string(),
        ]
    });
    table(["NODE", "RUNTIME", "NODE ID", "VIRTUAL ADDRESSES", "OUTSIDE"], &[], rows.collect())
}

fn paths(hosts: &Hosts) -> Result<String, Failure> {
    let mut rows = Vec::new();
    for host in &hosts.hosts {
        let status = host.daemon.status().map_err(|error| failed(&error))?;
        let name = host.attached.name();
        rows.extend(status.peers.iter().flat_map(|peer| peer.paths.iter().map(|path| path_row(name, peer, path))));
    }
    Ok(table(["FROM", "TO", "PATH", "REMOTE", "RTT", "IN USE", "WHY", "LINK"], &[4], rows))
}

fn path_row(from: &str, peer: &PeerStatus, path: &PathStatus) -> [String; 8] {
    [
        from.to_owned(),
        peer.name.clone(),
        path.kind.clone(),
        path.remote.map(|remote| remote.to_string()).or_else(|| path.via.clone()).unwrap_or_else(|| "-".into()),
        path.rtt_ms.map_or_else(|| "-".into(), millis),
        if path.active { "yes" } else { "no" }.to_owned(),
        path.reason.clone(),
        list(&peer.roles),
    ]
}

/// Lines to copy into another terminal.
pub(crate) fn how_to_look_inside(hosts: &Hosts) -> String {
    let mut text = "\nThe hosts stay until Ctrl-C. To look inside from another terminal:\n".to_owned();
    for host in &hosts.hosts {
        text += &format!("\n  # {} has {}\n", host.attached.name(), list(&host.addresses));
        text += &format!("  {} sh\n", host.attached.how_to_enter());
        text += &format!("  annulus peers --control-socket {}\n", host.daemon.control_socket().display());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_example_is_what_the_program_writes() {
        let example: serde_json::Value = serde_json::from_str(include_str!("../../../docs/json/demo.json")).unwrap();
        let report: Report = serde_json::from_value(example.clone()).unwrap();
        assert_eq!(serde_json::to_value(report).unwrap(), example);
    }

    #[test]
    fn the_median_of_nothing_is_nothing() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[1, 2, 9].map(Duration::from_millis)), Some(Duration::from_millis(2)));
    }
}
