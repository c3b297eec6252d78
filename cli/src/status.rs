//! `annulus status` and `annulus peers`.

use std::time::Duration;

use annulus_daemon::control::Request;
use annulus_daemon::exit::{Exit, Failure};
use annulus_daemon::status::{GroupStatus, PathStatus, PeerStatus, Status};
use clap::Args;

use crate::output::{Mood, Output, bytes, list, millis, span, table};
use crate::{Target, control};

#[derive(Args, Debug)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    target: Target,
    /// Only this group
    #[arg(long, value_name = "NAME")]
    group: Option<String>,
}

impl StatusArgs {
    /// Ends with 3 when a group is not connected. With `paths` each path of each peer is a line.
    pub(crate) fn run(&self, output: &Output, paths: bool) -> Result<Exit, Failure> {
        let mut client = control::connect(&self.target.settings()?)?;
        let status: Status = control::ask(&mut client, &Request::Status { group: self.group.clone() })?;
        output.json(&status);
        if paths {
            output.text(path_table(&status.peers));
        } else {
            output.text(overview(output, &status));
        }
        Ok(if status.groups.iter().all(|group| group.connected) { Exit::Done } else { Exit::NotConnected })
    }
}

fn overview(output: &Output, status: &Status) -> String {
    let mut text = format!(
        "annulus {} ({}, {}, TUN {}, process {}), up {}, listening on {}\n",
        status.version,
        status.runtime,
        if status.workers == 1 { "1 worker".to_owned() } else { format!("{} workers", status.workers) },
        status.tun_backend.as_deref().unwrap_or("none"),
        status.pid,
        span(Duration::from_secs(status.uptime_s)),
        list(&status.listen)
    );
    for fallback in &status.fallbacks {
        text += &format!("{}: {fallback}\n", output.paint(Mood::Doubtful, "fallback"));
    }
    text.push('\n');
    text += &table(
        ["GROUP", "NODE", "ADDRESSES", "DEVICE", "RING", "STATE"],
        &[4],
        status.groups.iter().map(|group| group_row(output, group)).collect(),
    );
    for group in &status.groups {
        for warning in &group.warnings {
            text += &format!("\n{}: {}: {warning}", output.paint(Mood::Doubtful, "warning"), group.name);
        }
    }
    text += "\n\n";
    text += &table(
        ["PEER", "USER", "ADDRESSES", "PATH", "RTT", "RECEIVED", "SENT"],
        &[4, 5, 6],
        status.peers.iter().map(|peer| peer_row(output, peer)).collect(),
    );
    text
}

fn group_row(output: &Output, group: &GroupStatus) -> [String; 6] {
    let state = if group.connected { output.paint(Mood::Good, "connected") } else { output.paint(Mood::Bad, "connecting") };
    let nodes = if group.ring_size_estimate == 1 { "1 node".to_owned() } else { format!("{} nodes", group.ring_size_estimate) };
    [group.name.clone(), group.node_name.clone(), list(&group.addresses), group.device.clone().unwrap_or_else(|| "-".into()), nodes, state]
}

fn peer_row(output: &Output, peer: &PeerStatus) -> [String; 7] {
    let active = peer.paths.iter().find(|path| path.active);
    let path = active.map_or_else(
        || output.paint(Mood::Bad, "none"),
        |path| output.paint(if path.kind == "direct" { Mood::Good } else { Mood::Doubtful }, &way(path)),
    );
    let rtt = active.and_then(|path| path.rtt_ms).map_or_else(|| "-".into(), millis);
    [peer.name.clone(), peer.user.clone(), list(&peer.addresses), path, rtt, bytes(peer.rx_bytes), bytes(peer.tx_bytes)]
}

/// `direct 192.0.2.1:7`, `relay via b`, `routed`.
pub(crate) fn way(path: &PathStatus) -> String {
    match (&path.via, path.remote) {
        (Some(via), _) => format!("{} via {via}", path.kind),
        (None, Some(remote)) => format!("{} {remote}", path.kind),
        (None, None) => path.kind.clone(),
    }
}

fn path_table(peers: &[PeerStatus]) -> String {
    let mut rows = Vec::new();
    for peer in peers {
        let name = [peer.name.clone(), peer.node_id.chars().take(8).collect()];
        if peer.paths.is_empty() {
            let [name, id] = name.clone();
            let none = || "-".to_owned();
            rows.push([name, id, none(), none(), none(), none(), none(), none(), "no".into(), "no path is known".into()]);
        }
        for path in &peer.paths {
            rows.push([
                name[0].clone(),
                name[1].clone(),
                way(path),
                path.rtt_ms.map_or_else(|| "-".into(), millis),
                path.loss.map_or_else(|| "-".into(), |loss| format!("{:.1} %", loss * 100.0)),
                path.mtu.to_string(),
                offload(path).to_owned(),
                path.cipher.clone(),
                if path.active { "yes" } else { "no" }.into(),
                path.reason.clone(),
            ]);
        }
    }
    table(["PEER", "NODE ID", "PATH", "RTT", "LOSS", "MTU", "OFFLOAD", "CIPHER", "ACTIVE", "REASON"], &[3, 4, 5], rows)
}

/// What the kernel does for the path.
const fn offload(path: &PathStatus) -> &'static str {
    match (path.gso, path.gro) {
        (true, true) => "gso gro",
        (true, false) => "gso",
        (false, true) => "gro",
        (false, false) => "-",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Status {
        serde_json::from_str(include_str!("../../docs/json/status.json")).unwrap()
    }

    #[test]
    fn the_documented_example_is_what_the_program_reads_and_writes() {
        let example: serde_json::Value = serde_json::from_str(include_str!("../../docs/json/status.json")).unwrap();
        assert_eq!(serde_json::to_value(sample()).unwrap(), example);
    }

    #[test]
    fn the_overview_shows_groups_peers_and_warnings() {
        let text = overview(&Output::new(true), &sample());
        for word in [
            "annulus 0.1.0 (mio, 2 workers, TUN vnet, process 4711), up 2 h",
            "fallback: the kernel has no UDP segmentation offload on TUN",
            "laptop",
            "10.200.12.7",
            "connected",
            "3 nodes",
            "direct 192.0.2.7:40112",
            "1.42 ms",
            "warning: lab:",
        ] {
            assert!(text.contains(word), "{word} is missing in:\n{text}");
        }
    }

    #[test]
    fn each_path_is_a_line() {
        let text = path_table(&sample().peers);
        assert_eq!(text.lines().count(), 4, "{text}");
        assert!(text.contains("routed") && text.contains("0.5 %"), "{text}");
        let mut lines = text.lines();
        let header = lines.next().unwrap();
        // Numbers end where their header ends, words begin where theirs begins.
        let (mtu, offload, cipher) = (header.find("MTU").unwrap() + 3, header.find("OFFLOAD").unwrap(), header.find("CIPHER").unwrap());
        let shown: Vec<[&str; 3]> = lines.map(|line| [&line[mtu - 4..mtu], line[offload..cipher].trim(), &line[cipher..]]).collect();
        assert!(shown[0][..2] == ["1400", "gso gro"] && shown[0][2].starts_with("aes-256-gcm "), "{text}");
        assert_eq!(shown[1][..2], ["1400", "-"], "{text}");
        assert!(shown[2][2].starts_with("chacha20-poly1305 "), "{text}");
    }
}
