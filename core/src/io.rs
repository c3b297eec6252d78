//! The nouns of core's boundary: what goes in, what comes out, and by which name each wait and each loss is known.

use core::net::SocketAddr;
use core::ops::Range;

use smallvec::SmallVec;

use crate::id::NodeId;
use crate::time::UnixTime;

/// One way that datagrams take to a peer: an index into the realm's [`PathTable`](crate::paths::PathTable). Stale indices resolve to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Path {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

impl Path {
    /// No path.
    pub const NONE: Self = Self { index: u32::MAX, generation: u32::MAX };
}

impl Default for Path {
    fn default() -> Self {
        Self::NONE
    }
}

/// What a [`Path`] stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Endpoint {
    /// A UDP address pair: the local socket's number and the remote address.
    Udp {
        /// Number of the local socket (0 is the main one).
        socket: u8,
        /// The remote address; IPv4-mapped IPv6 addresses are never used.
        remote: SocketAddr,
    },
    /// A TCP, TLS or WebSocket stream, numbered by the driver.
    Stream {
        /// The driver's number for it.
        id: u32,
        /// The remote address.
        remote: SocketAddr,
    },
    /// A circuit through a relay.
    Circuit {
        /// The path to the relay.
        via: Path,
        /// The relay's circuit index (24 bits).
        circuit: u32,
    },
    /// Routed over the ring to this node, sealed hop by hop.
    Routed(NodeId),
}

/// Number of a worker's shard; 0 is the one that shares a thread with the control plane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(pub u8);

/// Number of a realm within its daemon, 0 to 15: the top 4 bits of every receiver index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RealmSlot(pub u8);

/// The ECN bits of an IP header (RFC 3168), 0 to 3.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ecn(pub u8);

/// The traffic class of an IP header, the whole byte: DSCP in the upper 6 bits (RFC 2474), ECN in the lower 2.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TrafficClass(pub u8);

impl TrafficClass {
    /// The ECN bits.
    #[must_use]
    pub const fn ecn(self) -> Ecn {
        Ecn(self.0 & 0b11)
    }

    /// The differentiated services code point, 0 to 63.
    #[must_use]
    pub const fn dscp(self) -> u8 {
        self.0 >> 2
    }

    /// The same code point with the ECN bits `ecn`.
    #[must_use]
    pub const fn with_ecn(self, ecn: Ecn) -> Self {
        Self(self.0 & !0b11 | ecn.0 & 0b11)
    }
}

/// What a shard decided about one slot. The bytes stay where they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verdict {
    /// Not looked at yet.
    #[default]
    Pending,
    /// Send the slot's bytes on this path.
    Transmit(Path),
    /// Hand the slot's bytes (an IP packet) to the host.
    Deliver,
    /// The control plane must look at it.
    Punt(Punt),
    /// Counted and gone.
    Drop(DropReason),
}

/// Why a shard could not decide by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Punt {
    /// A datagram for the control plane: handshake, control packet.
    Control,
    /// The destination's member is known, but no session to it is installed.
    NoSession,
    /// Nobody is known to own the destination address.
    NoAddress,
    /// A packet for the node's own services (its virtual addresses that are not the host's).
    Service,
    /// Larger than the path that it must take.
    TooBig,
    /// Sealed, but the path does not carry it whole: it is routed over the ring, or too small.
    Routed,
    /// A relay datagram of a circuit that this shard does not know.
    NewCircuit,
    /// The receiver index belongs to another worker's shard.
    WrongShard,
}

impl Punt {
    /// Number of reasons.
    pub const COUNT: usize = 8;
}

/// Why something was dropped. Each is a counter; see [`Stats`](crate::stats::Stats).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum DropReason {
    /// Shorter than its format, or a field contradicts the length.
    Malformed,
    /// First byte, handshake kind or payload kind that is not known.
    UnknownType,
    /// No session has this receiver index.
    UnknownIndex,
    /// No circuit has this index, or it came by another path than the circuit's.
    UnknownCircuit,
    /// Not made under the realm's key.
    WrongRealm,
    /// The AEAD tag does not verify.
    Forged,
    /// Counter seen before.
    Replayed,
    /// Counter older than the window.
    TooOld,
    /// The sender's counter space is used up, or its rekey is overdue.
    KeyExhausted,
    /// The inner source address is not the sender's.
    SpoofedSource,
    /// The inner packet is not for us.
    NotOurs,
    /// Not an IP packet, or its header contradicts its length.
    NotIp,
    /// Nobody owns the destination address.
    NoRoute,
    /// A bounded queue was full; which one is in the log.
    QueueFull,
    /// The source used up its token bucket.
    RateLimited,
    /// Hop limit reached.
    HopLimit,
    /// No link brings the packet closer.
    Unroutable,
    /// The peer is not admitted: certificate invalid, expired or revoked.
    NotAdmitted,
    /// The relay's owner does not allow it, or its quota is used up.
    NotConsented,
    /// Nothing to send on: the path is gone.
    NoPath,
    /// Larger than the path carries.
    TooBig,
    /// Waited too long for something (address, session, second half).
    Expired,
    /// The driver could not send or write it.
    Driver,
    /// Marked as having met congestion, and its sender understands no mark (RFC 6040).
    Congested,
}

impl DropReason {
    /// All reasons, in the order of their counters.
    pub const ALL: [Self; 24] = [
        Self::Malformed,
        Self::UnknownType,
        Self::UnknownIndex,
        Self::UnknownCircuit,
        Self::WrongRealm,
        Self::Forged,
        Self::Replayed,
        Self::TooOld,
        Self::KeyExhausted,
        Self::SpoofedSource,
        Self::NotOurs,
        Self::NotIp,
        Self::NoRoute,
        Self::QueueFull,
        Self::RateLimited,
        Self::HopLimit,
        Self::Unroutable,
        Self::NotAdmitted,
        Self::NotConsented,
        Self::NoPath,
        Self::TooBig,
        Self::Expired,
        Self::Driver,
        Self::Congested,
    ];

    /// The counter's name in JSON and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::UnknownType => "unknown_type",
            Self::UnknownIndex => "unknown_index",
            Self::UnknownCircuit => "unknown_circuit",
            Self::WrongRealm => "wrong_realm",
            Self::Forged => "forged",
            Self::Replayed => "replayed",
            Self::TooOld => "too_old",
            Self::KeyExhausted => "key_exhausted",
            Self::SpoofedSource => "spoofed_source",
            Self::NotOurs => "not_ours",
            Self::NotIp => "not_ip",
            Self::NoRoute => "no_route",
            Self::QueueFull => "queue_full",
            Self::RateLimited => "rate_limited",
            Self::HopLimit => "hop_limit",
            Self::Unroutable => "unroutable",
            Self::NotAdmitted => "not_admitted",
            Self::NotConsented => "not_consented",
            Self::NoPath => "no_path",
            Self::TooBig => "too_big",
            Self::Expired => "expired",
            Self::Driver => "driver",
            Self::Congested => "congested",
        }
    }
}

/// Why a node wants to be woken. Every deadline has a name, so that "who asked for this" is never a riddle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TimerKind {
    /// Outputs are waiting: now.
    Output,
    /// A handshake message must be repeated or given up.
    Handshake,
    /// A session's keys must be renewed, or have ended.
    Rekey,
    /// The certificate of a session or of the node itself ends.
    Certificate,
    /// A liveness probe or its answer is due.
    Probe,
    /// A path's size is probed, or the answer to that is due.
    PathSize,
    /// A quiet path needs a packet to keep its mapping open.
    KeepAlive,
    /// A request must be repeated or given up.
    Request,
    /// Near links are looked after.
    Near,
    /// Shortcuts are looked after.
    Shortcut,
    /// Bootstrap links are looked after.
    Bootstrap,
    /// On-demand links are looked after.
    OnDemand,
    /// A DHT record expires, is handed over or renewed.
    Dht,
    /// An address lease is made or renewed.
    Lease,
    /// A packet has waited too long for an address, a session or its second half.
    Pending,
    /// Something rests before it can be used again (an index, a path).
    Housekeeping,
}

/// What the control plane wants done. Byte ranges point into the scratch buffer given to `poll_output`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Output {
    /// Send these bytes on a UDP or stream path.
    Transmit {
        /// The path; never a circuit or a routed one: the control plane has wrapped those already.
        path: Path,
        /// The datagram.
        bytes: Range<usize>,
    },
    /// Hand this IP packet to the host.
    Deliver {
        /// The packet.
        bytes: Range<usize>,
    },
    /// Let a shard seal an IP packet or open a data packet that came over the ring: only a shard may count.
    Reinject {
        /// Which shard.
        shard: ShardId,
        /// What to do with it.
        action: Reinject,
        /// The packet; the pump gives it headroom.
        bytes: Range<usize>,
    },
    /// A change of the shards' tables.
    Table(TableUpdate),
    /// Something that the daemon logs, stores or shows.
    Event(Event),
}

/// What a shard does with a reinjected packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reinject {
    /// Seal this IP packet.
    Seal,
    /// Open this data packet, which came by a routed path.
    Open {
        /// The routed path.
        from: Path,
    },
}

pub use crate::events::{Command, Event};
pub use crate::shard::table::{ShardEvent, TableUpdate};

/// A short list of addresses at which a node may be reached; at most 12 on the wire.
pub type Candidates = SmallVec<[SocketAddr; 4]>;

/// The wall clock as the protocol uses it: never before the latest time seen signed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WallClock {
    /// What validity is decided by.
    pub now: UnixTime,
    /// Whether the host's clock lies behind the latest signed time.
    pub behind: bool,
}
