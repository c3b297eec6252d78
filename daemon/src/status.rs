//! What the daemon says about itself, as JSON. Later versions add fields and rename none; `docs/json/` has examples.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

/// Answer to `status` and `peers`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The daemon's version.
    pub version: String,
    /// Which event loop runs: `mio` or `tokio`.
    pub runtime: String,
    /// The daemon's process number.
    pub pid: u32,
    /// s since its start.
    pub uptime_s: u64,
    /// The UDP addresses that it listens on.
    pub listen: Vec<SocketAddr>,
    /// How many threads carry packets.
    pub workers: u8,
    /// How the TUN devices are driven: `vnet` or `tun-tap`; `None` without a device.
    pub tun_backend: Option<String>,
    /// What of the data path is not at its best on this host and why, in words.
    pub fallbacks: Vec<String>,
    /// One entry per group.
    pub groups: Vec<GroupStatus>,
    /// The peers of all groups.
    pub peers: Vec<PeerStatus>,
}

/// One group of the daemon.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GroupStatus {
    /// The group's name.
    pub name: String,
    /// Our node ID, 40 hexadecimal digits.
    pub node_id: String,
    /// Our node's name.
    pub node_name: String,
    /// Our user.
    pub user: String,
    /// Our virtual addresses.
    pub addresses: Vec<IpAddr>,
    /// The TUN device, if there is one.
    pub device: Option<String>,
    /// Whether the ring position is consistent: overlay services work.
    pub connected: bool,
    /// Estimated number of nodes in the ring, this one included.
    pub ring_size_estimate: u64,
    /// When our certificate ends, in s since 1970.
    pub certificate_not_after: u64,
    /// What somebody should look at, in words.
    pub warnings: Vec<String>,
    /// How many packets were dropped, by reason or place; those without a drop are left out. `udp_receive_queue`, `udp_send`, `tun_write` and
    /// `tun_queue` are what was lost between the kernel and the daemon; the first two are of the whole daemon and stand in its first group.
    pub drops: std::collections::BTreeMap<String, u64>,
}

/// One peer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// The group in which it is one.
    pub group: String,
    /// Its node ID, 40 hexadecimal digits.
    pub node_id: String,
    /// Its node's name.
    pub name: String,
    /// Its user.
    pub user: String,
    /// Its virtual addresses as far as they are known.
    pub addresses: Vec<IpAddr>,
    /// What the link is for in the overlay: `near`, `shortcut`, `leaf`, `on-demand`; empty when it only serves traffic.
    pub roles: Vec<String>,
    /// The cipher of the session.
    pub cipher: String,
    /// The ways to it.
    pub paths: Vec<PathStatus>,
    /// Inner bytes received from it.
    pub rx_bytes: u64,
    /// Inner bytes sent to it.
    pub tx_bytes: u64,
}

/// One way to a peer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PathStatus {
    /// `direct`, `relay` or `routed`.
    pub kind: String,
    /// The relay's node, if there is one.
    pub via: Option<String>,
    /// The remote address of a direct path.
    pub remote: Option<SocketAddr>,
    /// Round-trip time in ms, if it was measured.
    pub rtt_ms: Option<f64>,
    /// Part of the probes that was lost lately, 0 to 1.
    pub loss: Option<f64>,
    /// Whether packets take it now.
    pub active: bool,
    /// Why it is used or not, in words.
    pub reason: String,
    /// Largest inner packet in bytes that it carries.
    pub mtu: u16,
    /// Whether many datagrams leave in one system call: the kernel cuts what is sent (UDP_SEGMENT). Of a relayed path, on the way to the relay.
    pub gso: bool,
    /// Whether many datagrams arrive in one system call: the kernel merges what is received (UDP_GRO).
    pub gro: bool,
    /// The cipher of the packets on it: that of the session.
    pub cipher: String,
}

/// Answer to `ping`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PingAnswer {
    /// The group that answered.
    pub group: String,
    /// Who was asked.
    pub node_id: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Round-trip time in ms; `None` without an answer in time.
    pub rtt_ms: Option<f64>,
    /// The kind of path that was taken.
    pub path: Option<String>,
    /// The remote address of a direct path.
    pub remote: Option<SocketAddr>,
}

/// Answer to `trace`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TraceAnswer {
    /// The group that answered.
    pub group: String,
    /// Who was looked for.
    pub node_id: String,
    /// The nodes on the way.
    pub hops: Vec<TraceHop>,
    /// Whether the last one is the one looked for.
    pub reached: bool,
}

/// One node on the way.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TraceHop {
    /// Its node ID.
    pub node_id: String,
    /// Its name.
    pub name: String,
    /// ms until it answered.
    pub rtt_ms: f64,
}

/// Answer to `hosts`: names and addresses of the members that this daemon knows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostsAnswer {
    /// One entry per member.
    pub hosts: Vec<HostEntry>,
}

/// One member's name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostEntry {
    /// The group.
    pub group: String,
    /// The node's name, unique in its group.
    pub name: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// ms with µs behind the point, for people and JSON.
#[must_use]
pub fn micros_to_ms(micros: u64) -> f64 {
    micros as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys<T: Serialize>(value: &T) -> Vec<String> {
        serde_json::to_value(value).unwrap().as_object().unwrap().keys().cloned().collect()
    }

    #[test]
    fn the_fields_that_others_rely_on_are_there() {
        for name in ["version", "workers", "tun_backend", "fallbacks", "groups", "peers"] {
            assert!(keys(&Status::default()).iter().any(|key| key == name), "{name}");
        }
        for name in ["name", "node_id", "node_name", "addresses", "connected", "ring_size_estimate", "warnings"] {
            assert!(keys(&GroupStatus::default()).iter().any(|key| key == name), "{name}");
        }
        for name in ["node_id", "name", "user", "addresses", "paths", "rx_bytes", "tx_bytes"] {
            assert!(keys(&PeerStatus::default()).iter().any(|key| key == name), "{name}");
        }
        for name in ["kind", "via", "remote", "rtt_ms", "loss", "active", "reason", "mtu", "gso", "gro", "cipher"] {
            assert!(keys(&PathStatus::default()).iter().any(|key| key == name), "{name}");
        }
    }
}
