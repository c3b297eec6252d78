//! What a node shows of itself. Plain data: the daemon turns it into JSON and tables.

use core::net::{IpAddr, SocketAddr};

use crate::id::NodeId;
use crate::stats::Stats;

/// A node as its operator sees it.
#[derive(Clone, Debug, Default)]
pub struct NodeStatus {
    /// Its position.
    pub node_id: NodeId,
    /// The name in its certificate.
    pub name: String,
    /// The user in its certificate.
    pub user: String,
    /// The group's name.
    pub group: String,
    /// Its virtual addresses.
    pub addresses: Vec<IpAddr>,
    /// Whether its ring position is consistent. A lone node's is, unless it has bootstrap addresses of others and none has answered.
    pub connected: bool,
    /// Estimated number of nodes in the ring, itself included.
    pub ring_size_estimate: u64,
    /// When its certificate ends, in s since 1970.
    pub certificate_ends: u64,
    /// What an operator should look at, in words.
    pub warnings: Vec<String>,
    /// The other nodes that it has a session with, by node ID.
    pub peers: Vec<PeerStatus>,
    /// Other members whose names and addresses it knows.
    pub known: Vec<KnownHost>,
    /// Counters of the control plane.
    pub stats: Stats,
}

/// Another node that a session exists with.
#[derive(Clone, Debug, Default)]
pub struct PeerStatus {
    /// Its position.
    pub node_id: NodeId,
    /// The name in its certificate.
    pub name: String,
    /// The user in its certificate.
    pub user: String,
    /// Its virtual addresses as far as known.
    pub addresses: Vec<IpAddr>,
    /// The roles of the link in the overlay: `near`, `shortcut`, `leaf`, `on-demand`; empty when it only serves traffic.
    pub roles: Vec<&'static str>,
    /// The AEAD of the session.
    pub cipher: &'static str,
    /// The ways to it.
    pub paths: Vec<PathStatus>,
    /// Bytes received in its sessions, control packets included.
    pub rx_bytes: u64,
    /// Bytes sent in its sessions, control packets included.
    pub tx_bytes: u64,
}

/// One way to a peer.
#[derive(Clone, Debug, Default)]
pub struct PathStatus {
    /// `direct`, `relay` or `routed`.
    pub kind: &'static str,
    /// The relay, if there is one.
    pub via: Option<NodeId>,
    /// The remote address of a direct path.
    pub remote: Option<SocketAddr>,
    /// Smoothed round-trip time in µs.
    pub rtt_us: Option<u64>,
    /// Loss of probes in ‰.
    pub loss_permille: u32,
    /// Whether data takes it.
    pub active: bool,
    /// Why it is active or not, in words.
    pub reason: &'static str,
    /// Largest inner packet in bytes that it carries whole; the tunnel's MTU while nothing else is known.
    pub mtu: u16,
}

/// A member whose name and addresses are known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KnownHost {
    /// Its position.
    pub node_id: NodeId,
    /// Its name.
    pub name: String,
    /// Its virtual addresses.
    pub addresses: Vec<IpAddr>,
}
