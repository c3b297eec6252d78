//! The nouns at the VPN's boundary.

use core::net::IpAddr;

use bytes::Bytes;

use crate::dht::ring::ReplyTo;
use crate::dht::{OpId, Operation};
use crate::id::NodeId;
use crate::shard::table::Prefix;

/// What the VPN wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VpnAction {
    /// Start this operation; its end is told by [`Vpn::dht_done`](super::Vpn::dht_done). The VPN's numbers are below 2^63.
    Dht {
        /// Names it.
        op: OpId,
        /// What to do.
        operation: Operation,
    },
    /// Give an operation up and stop keeping its record.
    Cancel(OpId),
    /// Send a request; its end is told by [`Vpn::handle_reply`](super::Vpn::handle_reply).
    Request {
        /// Names it.
        token: u64,
        /// The node, or the point whose closest node is meant.
        point: NodeId,
        /// Whether exactly that node is meant.
        exact: bool,
        /// The method.
        method: u8,
        /// The body.
        body: Bytes,
    },
    /// Answer a request.
    Reply {
        /// Which one.
        to: ReplyTo,
        /// The body, or an error code.
        body: Result<Bytes, u8>,
    },
    /// Make an end-to-end session with this member; [`Vpn::session_up`](super::Vpn::session_up) or [`Vpn::connect_failed`](super::Vpn::connect_failed) follows.
    Connect {
        /// Whom.
        node: NodeId,
    },
    /// Packets for the prefix go to the node, replacing an earlier route.
    Route {
        /// Destinations.
        prefix: Prefix,
        /// Who has them.
        node: NodeId,
    },
    /// The route is gone.
    RemoveRoute {
        /// Destinations.
        prefix: Prefix,
    },
    /// The node may send from the prefix.
    Source {
        /// Sources.
        prefix: Prefix,
        /// Who may use them.
        node: NodeId,
    },
    /// The node may not send from the prefix any more.
    RemoveSource {
        /// Sources.
        prefix: Prefix,
        /// Who may not.
        node: NodeId,
    },
    /// Hand this packet to the host.
    Deliver {
        /// The packet.
        packet: Bytes,
    },
    /// Let a shard seal this packet for the node: its route is published before.
    Reinject {
        /// For whom.
        node: NodeId,
        /// The packet.
        packet: Bytes,
    },
    /// The node's own addresses changed.
    Addresses {
        /// With the prefix length of the group's network.
        addresses: Vec<Prefix>,
        /// The same, as host addresses.
        hosts: Vec<IpAddr>,
    },
    /// The lease changed; store it for [`Vpn::restore_lease`](super::Vpn::restore_lease).
    Lease(Bytes),
    /// The leased address belongs to somebody else now; another one is being asked for.
    LeaseLost {
        /// The address.
        address: IpAddr,
        /// Whose it is.
        owner: NodeId,
    },
    /// Answer to [`Vpn::resolve`](super::Vpn::resolve).
    Resolved {
        /// The question's.
        token: u64,
        /// Who, with its addresses.
        node: Option<(NodeId, Vec<IpAddr>)>,
    },
}

/// A member by name, for `annulus hosts`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostEntry {
    /// Who.
    pub node: NodeId,
    /// The name in its certificate.
    pub name: String,
    /// The user in its certificate.
    pub user: String,
    /// Its addresses as far as they are known, IPv6 first.
    pub addresses: Vec<IpAddr>,
    /// Whether a session with it is up (true for the node itself).
    pub connected: bool,
}
