//! The nouns at the overlay's boundary.

use core::fmt;
use core::net::SocketAddr;
use core::time::Duration;

use bytes::Bytes;

use crate::config::GeometryKind;
use crate::id::NodeId;
use crate::io::Candidates;
use crate::shard::table::PeerId;
use crate::time::Instant;
use crate::wire::routed::RouteMode;

/// What an end of a link keeps it for. A link that neither end keeps for anything is let go.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Roles(pub u8);

impl Roles {
    /// Nothing (yet).
    pub const NONE: Self = Self(0);
    /// A neighbour on the ring.
    pub const NEAR: Self = Self(0x01);
    /// A link over a harmonically distributed distance.
    pub const SHORTCUT: Self = Self(0x02);
    /// Traffic flows, or flowed lately.
    pub const ON_DEMAND: Self = Self(0x04);
    /// A bootstrap node while the own ring position is not settled, or a far node asked about the ring.
    pub const LEAF: Self = Self(0x08);

    /// Whether all of `other` is in `self`.
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0 && other.0 != 0
    }

    /// Whether it is nothing at all.
    #[must_use]
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }

    /// `self` and `other`.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// `self` but `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The role's name in `status`: the most important one that is set.
    #[must_use]
    pub const fn name(self) -> &'static str {
        if self.has(Self::NEAR) {
            "near"
        } else if self.has(Self::SHORTCUT) {
            "shortcut"
        } else if self.has(Self::ON_DEMAND) {
            "on-demand"
        } else if self.has(Self::LEAF) {
            "leaf"
        } else {
            "incoming"
        }
    }
}

impl fmt::Debug for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Roles({:#04x} {})", self.0, self.name())
    }
}

/// Who receives a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mode {
    /// The node with this ID, or nobody.
    Exact,
    /// The node closest to the point.
    Closest,
    /// Both nodes between which the point lies: up to two replies.
    Bracket,
    /// The node that lies this many neighbours away from us; the point is not looked at.
    Directional {
        /// In the direction of growing IDs.
        clockwise: bool,
        /// How many neighbours away, 1 to 255.
        hops: u8,
    },
}

impl Mode {
    /// The mode on the wire.
    #[must_use]
    pub const fn route(self) -> RouteMode {
        match self {
            Self::Exact => RouteMode::Exact,
            Self::Closest => RouteMode::Closest,
            Self::Bracket => RouteMode::Bracket,
            Self::Directional { clockwise: true, .. } => RouteMode::Clockwise,
            Self::Directional { clockwise: false, .. } => RouteMode::CounterClockwise,
        }
    }
}

/// A dial that the overlay asked for; answered by [`Overlay::dial_result`](super::Overlay::dial_result).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DialId(pub u32);

/// A request on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u32);

/// Where the reply to a received request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ReplyTo {
    pub(super) node: NodeId,
    pub(super) agent: Option<NodeId>,
    pub(super) id: u32,
}

impl ReplyTo {
    /// A handle for tests of the overlay's users; replying to it reaches nobody but `node`.
    #[must_use]
    pub const fn new(node: NodeId, id: u32) -> Self {
        Self { node, agent: None, id }
    }

    /// Who asked.
    #[must_use]
    pub const fn node(&self) -> NodeId {
        self.node
    }
}

/// Why a request has no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Nobody answered within the time limit (about 5 s).
    #[error("no answer within the time limit")]
    Timeout,
    /// No link leads there, too many requests are on their way, or the body is too long.
    #[error("no way to send it")]
    Unroutable,
    /// The asked node answered with this code of [`wire::rpc`](crate::wire::rpc).
    #[error("refused with code {0}")]
    Remote(u8),
}

/// What the overlay wants done or tells.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum OverlayAction {
    /// Seal this control payload on the peer's session and send it on its active path.
    Send {
        /// To whom.
        peer: PeerId,
        /// The payload, kind included.
        payload: Vec<u8>,
    },
    /// Make a link: start a handshake with each of `addresses` at once, unless one with that node is under way already.
    ///
    /// With `routed`, also start one handshake with `node` over [`Endpoint::Routed`](crate::io::Endpoint::Routed), whose datagrams go through
    /// [`Overlay::send_datagram`](super::Overlay::send_datagram): it carries both sides' candidates to each other, so that both probe at once.
    /// Such a session is not a link until a direct or relayed path of it is proven: then
    /// [`Overlay::link_up`](super::Overlay::link_up) and `dial_result(Ok)` follow. `dial_result(Err)` is due after at most 8 s; the
    /// overlay counts later ones as failed by itself. Addresses are hints from others: whoever answers there is believed only by its certificate.
    Dial {
        /// To be named in the result.
        dial: DialId,
        /// Who must answer; `None`: whoever is at that address (a bootstrap node).
        node: Option<NodeId>,
        /// Where it may be reached. May be empty when `routed` is set.
        addresses: Candidates,
        /// Also try a handshake routed over the ring.
        routed: bool,
        /// What the link is wanted for.
        roles: Roles,
    },
    /// An end-to-end datagram came over the ring: hand it to the sessions with path `Routed(from)`.
    Datagram {
        /// Who claims to have sent it.
        from: NodeId,
        /// The datagram, joined.
        bytes: Vec<u8>,
    },
    /// A request for the DHT or the VPN: answer with [`Overlay::reply`](super::Overlay::reply).
    Request {
        /// Who claims to ask. The ring does not prove it: what must be proven is signed in the body.
        from: NodeId,
        /// The method.
        method: u8,
        /// Its body.
        body: Bytes,
        /// Where the reply goes.
        reply: ReplyTo,
    },
    /// A request ended. A bracket request may have two replies.
    Reply {
        /// Which.
        id: RequestId,
        /// Who answered (the point asked when nobody did).
        from: NodeId,
        /// The reply.
        body: Result<Bytes, RequestError>,
    },
    /// A node on the way of a trace has answered.
    TraceHop {
        /// Which trace.
        id: RequestId,
        /// Which node.
        node: NodeId,
        /// Hops from us, 1 for the first.
        hops: u8,
        /// Whether it is the target.
        reached: bool,
        /// How long its answer took.
        after: Duration,
    },
    /// A trace ended: the target answered, or the time limit passed.
    TraceDone {
        /// Which trace.
        id: RequestId,
        /// Whether the target answered.
        reached: bool,
    },
    /// Neither side needs this link: close it unless it is used otherwise.
    Drop {
        /// Whose.
        peer: PeerId,
        /// Why, in words for a log.
        reason: &'static str,
    },
    /// The ring position became consistent (or the node knows to be alone), or no longer is.
    ConsistencyChanged(bool),
    /// A node of the realm routes by another geometry; its link is let go.
    OtherGeometry {
        /// Which node.
        node: NodeId,
        /// What it says.
        theirs: GeometryKind,
    },
    /// The near neighbours changed: [`Overlay::view`](super::Overlay::view) and the links' roles are new.
    NeighboursChanged,
}

/// The node's place on the ring as it sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RingView {
    /// The node itself.
    pub local: NodeId,
    /// Whether the position is consistent: both neighbours name us as their neighbour, or we are alone.
    pub consistent: bool,
    /// Estimated number of nodes, ourselves included.
    pub size_estimate: u64,
    /// Linked nodes clockwise, nearest first, as many as the geometry wants; with the XOR metric the closest ones, nearest first.
    pub successors: Vec<NodeId>,
    /// Linked nodes counter-clockwise, nearest first; none with the XOR metric, which has no sides.
    pub predecessors: Vec<NodeId>,
    /// Further nodes that are known but not linked, in the order of their IDs.
    pub known: Vec<NodeId>,
}

/// One link, for `status`, `peers` and `ring`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkView {
    /// The other end as numbered locally.
    pub peer: PeerId,
    /// The other end.
    pub node: NodeId,
    /// What we keep it for.
    pub roles: Roles,
    /// What the other end keeps it for.
    pub remote_roles: Roles,
    /// Since when.
    pub since: Instant,
    /// How long.
    pub age: Duration,
    /// Whether it has a direct path.
    pub direct: bool,
    /// Whether the other end's certificate names it infrastructure.
    pub infrastructure: bool,
    /// The other end's address on the active path.
    pub address: Option<SocketAddr>,
    /// Round-trip time, if measured.
    pub rtt: Option<Duration>,
    /// Whether the other end has joined the ring: messages are routed through it.
    pub joined: bool,
}
