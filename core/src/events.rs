//! What the daemon tells a node, and what a node tells its daemon.

use core::net::{IpAddr, SocketAddr};

use bytes::Bytes;

use crate::id::NodeId;
use crate::shard::table::Prefix;
use crate::time::UnixTime;

/// An order or a fact from the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// The wall clock: at start, at each step and at resume.
    WallClock(UnixTime),
    /// The host was suspended: paths and liveness are checked at once.
    Resumed,
    /// Local addresses (with the UDP port) at which the host may be reached; replaces the earlier list.
    LocalAddresses(Vec<SocketAddr>),
    /// A datagram was too large for the path to an address: the system says so, by its own interface or a router's message.
    PathTooSmall {
        /// Where it was for.
        remote: SocketAddr,
        /// Its length in bytes, without UDP and IP header.
        len: u16,
    },
    /// Further addresses to bootstrap from.
    Bootstrap(Vec<SocketAddr>),
    /// A newer signed revocation list, as received.
    RevocationList(Bytes),
    /// A renewed certificate of this node, in DER.
    Certificate(Bytes),
    /// An address lease that survived a restart.
    RestoreLease(Bytes),
    /// Ask who owns an address or a name; answered by [`Event::Resolved`] with the same `token`.
    Resolve {
        /// Chosen by the caller.
        token: u64,
        /// A node name, an address in text form, or 40 hexadecimal digits of a node ID.
        name: String,
    },
    /// Measure the round trip to a node; answered by [`Event::Echo`].
    Ping {
        /// Chosen by the caller.
        token: u64,
        /// Whom.
        node: NodeId,
    },
    /// Ask each node on the way to `node` for its name; answered by [`Event::Trace`].
    Trace {
        /// Chosen by the caller.
        token: u64,
        /// Whose way.
        node: NodeId,
    },
    /// Say good-bye to the neighbours and hand over what is stored here; [`Event::Left`] follows.
    Leave,
}

/// Something that the daemon logs, stores or shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The ring position is consistent (or the node is alone and nobody else is known): overlay services work.
    Joined {
        /// Estimated number of nodes in the ring, itself included.
        ring_size: u64,
    },
    /// The ring position is not consistent any more.
    Disturbed,
    /// The host's virtual addresses: configure them on the TUN device.
    Addresses {
        /// With the prefix length of the group's network.
        addresses: Vec<Prefix>,
        /// The same, as host addresses.
        hosts: Vec<IpAddr>,
    },
    /// The IPv4 lease changed; store it for the next start.
    Lease(Bytes),
    /// A session with a member is up.
    PeerUp {
        /// Who.
        node: NodeId,
        /// The name in its certificate.
        name: String,
        /// The user in its certificate.
        user: String,
    },
    /// No session with a member is left.
    PeerDown {
        /// Who.
        node: NodeId,
        /// Why, in words for a log.
        reason: &'static str,
    },
    /// The active path to a peer changed.
    PathChanged {
        /// Who.
        node: NodeId,
        /// Where to; `None` when it is routed over the ring.
        remote: Option<SocketAddr>,
        /// Why.
        reason: &'static str,
    },
    /// Somebody was refused, or we were. `ours` tells which.
    Refused {
        /// Who, if known.
        node: Option<NodeId>,
        /// From where.
        from: Option<SocketAddr>,
        /// Why, in words for a log.
        reason: String,
        /// Whether it was us who were refused.
        ours: bool,
    },
    /// Datagrams of strangers arrived (not made under the realm's key); at most one such event per minute.
    Strangers {
        /// How many since the last such event.
        count: u64,
        /// From where the latest came.
        from: SocketAddr,
    },
    /// Addresses that answered lately: store them for the next start. At most 64.
    KnownAddresses(Vec<SocketAddr>),
    /// The latest time seen signed: store it, it bounds the clock from below after a restart.
    SignedTime(UnixTime),
    /// A newer revocation list was accepted: store it.
    RevocationList(Bytes),
    /// The host's clock lies behind the latest signed time (`true`), or no longer does.
    ClockBehind(bool),
    /// Another daemon runs with our identity.
    DuplicateIdentity {
        /// Where it was seen.
        from: Option<SocketAddr>,
    },
    /// Answer to [`Command::Resolve`].
    Resolved {
        /// The command's.
        token: u64,
        /// Who, with its addresses; `None` when nobody is known by that name.
        node: Option<(NodeId, Vec<IpAddr>)>,
    },
    /// Answer to [`Command::Ping`].
    Echo {
        /// The command's.
        token: u64,
        /// Round-trip time in µs and how it went, or `None` after the time limit.
        result: Option<EchoResult>,
    },
    /// Answer to [`Command::Trace`].
    Trace {
        /// The command's.
        token: u64,
        /// The nodes on the way in order, the target last when it was reached, with the µs until each answered.
        hops: Vec<(NodeId, String, u64)>,
        /// Whether the target answered.
        reached: bool,
    },
    /// Something that an operator should look at, in words.
    Warning(String),
    /// [`Command::Leave`] is done; the node may be dropped.
    Left,
}

/// How an echo went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EchoResult {
    /// Round-trip time in µs.
    pub rtt_us: u64,
    /// The kind of path: `direct`, `relay` or `routed`.
    pub path: &'static str,
    /// The remote address of a direct path.
    pub remote: Option<SocketAddr>,
}
