//! What the control plane publishes to shards, and what shards tell it.

use core::fmt;
use core::net::IpAddr;
use core::time::Duration;

use zeroize::Zeroize;

use crate::crypto::Cipher;
use crate::io::Path;
use crate::time::Instant;

/// A remote node as the control plane numbers it. Never reused while a shard may still name it (see [`TableUpdate::Barrier`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub u32);

/// A session, named by our receiver index: 24 bits, 4 of realm slot and 20 of entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u32);

/// An IP prefix.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    /// The network address; bits beyond `len` are zero.
    pub address: IpAddr,
    /// Length in bits, 0 to 32 or 128.
    pub len: u8,
}

impl Prefix {
    /// The prefix of `len` bits that contains `address`; `len` is cut to the family's maximum.
    #[must_use]
    pub fn new(address: IpAddr, len: u8) -> Self {
        match address {
            IpAddr::V4(v4) => {
                let len = len.min(32);
                let mask = u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0);
                Self { address: IpAddr::from((u32::from(v4) & mask).to_be_bytes()), len }
            }
            IpAddr::V6(v6) => {
                let len = len.min(128);
                let mask = u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0);
                Self { address: IpAddr::from((u128::from(v6) & mask).to_be_bytes()), len }
            }
        }
    }

    /// The prefix of this one address.
    #[must_use]
    pub fn host(address: IpAddr) -> Self {
        Self { address, len: if address.is_ipv4() { 32 } else { 128 } }
    }

    /// Whether `address` lies within.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.address.is_ipv4() && Self::new(address, self.len) == *self
    }

    /// Whether it is a single address.
    #[must_use]
    pub const fn is_host(&self) -> bool {
        self.len == if self.address.is_ipv4() { 32 } else { 128 }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.len)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The way on which a shard sends the data packets of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// The UDP or stream path of the datagram; or a routed path, and then sealed packets are punted with [`Punt::Routed`](crate::io::Punt::Routed).
    pub path: Path,
    /// Circuit index and hops left of the relay header to put in front, when `path` leads to a relay.
    pub circuit: Option<(u32, u8)>,
    /// Whether `path` is routed over the ring.
    pub routed: bool,
    /// Largest inner packet in bytes that the datagrams of this way carry whole. A larger one is sealed and punted with
    /// [`Punt::Routed`](crate::io::Punt::Routed): the control plane sends it in two parts. Where it is less than the tunnel's MTU, new TCP connections are
    /// told to keep to it.
    pub whole: u16,
    /// Larger inner packets in bytes are punted with [`Punt::TooBig`](crate::io::Punt::TooBig), as far as their senders can be told: IPv4 with "don't
    /// fragment", and IPv6 above 1,280 bytes. The same as `whole`, or more while that is not settled.
    pub mtu: u16,
    /// The peer's round-trip time on it, if known: a flow may move to another way after a gap of this length.
    pub rtt: Option<Duration>,
}

/// The two data keys of a session. Derived by HKDF from the handshake's secret when IP first flows.
#[derive(Clone, PartialEq, Eq)]
pub struct DataKeys {
    /// For packets that we seal.
    pub send: [u8; 32],
    /// For packets that we open.
    pub receive: [u8; 32],
}

impl Drop for DataKeys {
    fn drop(&mut self) {
        self.send.zeroize();
        self.receive.zeroize();
    }
}

impl fmt::Debug for DataKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DataKeys(..)")
    }
}

/// A session's data plane, as it is installed in every shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Install {
    /// Our receiver index.
    pub session: SessionId,
    /// Whose session it is.
    pub peer: PeerId,
    /// The receiver index to write into what we send (24 bits).
    pub remote_index: u32,
    /// Keys for both directions.
    pub keys: DataKeys,
    /// The negotiated cipher.
    pub cipher: Cipher,
    /// The way to send on.
    pub way: Way,
    /// When its rekey is due; nothing is sealed from 60 s after it.
    pub rekey_at: Instant,
}

/// A change of the shards' tables; applied between batches only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TableUpdate {
    /// Makes a session's data plane known. Packets are opened at once; sealed on it only after [`TableUpdate::Promote`].
    ///
    /// Installed again with the same keys, counting goes on and the way is replaced. After [`Removal::Session`] the same keys must never come again: they
    /// would count from 0.
    Install(Box<Install>),
    /// Sends a session's packets another way, each shard on a fresh lane of its own.
    SetPath {
        /// The session.
        session: SessionId,
        /// The new way.
        way: Way,
        /// Whether the old way is dead: then all flows move at once. Otherwise a flow moves at its first gap, and new flows at once.
        at_once: bool,
    },
    /// Seals packets for `peer` on `session` from now on.
    Promote {
        /// The peer.
        peer: PeerId,
        /// One of its installed sessions.
        session: SessionId,
    },
    /// Packets for `prefix` go to `peer`.
    Route {
        /// Destination addresses.
        prefix: Prefix,
        /// Who gets them.
        peer: PeerId,
    },
    /// `peer` may send from `prefix`.
    Source {
        /// Source addresses.
        prefix: Prefix,
        /// Who may use them.
        peer: PeerId,
    },
    /// Relay datagrams with circuit `index` that come in by `from` leave by `to` with `next_index`.
    Circuit {
        /// Our circuit index (24 bits).
        index: u32,
        /// The only path from which it is accepted.
        from: Path,
        /// Where it goes.
        to: Path,
        /// The next hop's circuit index, or `None` when the datagram behind the header is for the next hop itself.
        next_index: Option<u32>,
        /// Bytes per second that may pass, with a burst of as much.
        rate: u64,
    },
    /// Relay datagrams with circuit `index` that come in by `from` end here: what is behind the header is handled as if it had come by `arrives_by`.
    CircuitEnd {
        /// Our circuit index (24 bits).
        index: u32,
        /// The only path from which it is accepted.
        from: Path,
        /// The circuit's own path.
        arrives_by: Path,
    },
    /// The node's own addresses; replaces the earlier ones.
    Local {
        /// Opened packets for these are delivered to the host; networks that the host routes for the group are among them.
        host: Vec<Prefix>,
        /// Packets of the host for these are punted with [`Punt::Service`](crate::io::Punt::Service).
        service: Vec<Prefix>,
    },
    /// Forgets something.
    Remove(Removal),
    /// Answered with [`ShardEvent::Applied`] once everything before it is in force.
    Barrier(u64),
}

impl TableUpdate {
    /// Shows each path in it to `act`, always in the same order.
    pub(crate) fn each_path(&mut self, mut act: impl FnMut(&mut Path)) {
        match self {
            Self::Install(install) => act(&mut install.way.path),
            Self::SetPath { way, .. } => act(&mut way.path),
            Self::Circuit { from, to, .. } => {
                act(from);
                act(to);
            }
            Self::CircuitEnd { from, arrives_by, .. } => {
                act(from);
                act(arrives_by);
            }
            Self::Promote { .. } | Self::Route { .. } | Self::Source { .. } | Self::Local { .. } | Self::Remove(_) | Self::Barrier(_) => {}
        }
    }
}

/// What [`TableUpdate::Remove`] forgets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// A session: its keys are gone when the update was applied.
    Session(SessionId),
    /// A peer with all its sessions, routes and sources.
    Peer(PeerId),
    /// A route.
    Route(Prefix),
    /// A permitted source of a peer.
    Source(PeerId, Prefix),
    /// A circuit.
    Circuit(u32),
}

/// What a shard tells the control plane. The queue is bounded; what does not fit is a lost hint and comes again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShardEvent {
    /// An authenticated packet with a new highest counter came by another path: a candidate, to be challenged before anything moves.
    Moved {
        /// The session.
        session: SessionId,
        /// Where the packet came from.
        from: Path,
    },
    /// A lane has used up its share of the counter space; the session's rekey is due now.
    RekeyDue {
        /// The session.
        session: SessionId,
    },
    /// Traffic of a session since the last such event; at most one per session and 100 ms.
    Activity {
        /// The session.
        session: SessionId,
        /// Inner bytes received.
        rx_bytes: u64,
        /// Inner bytes sent.
        tx_bytes: u64,
    },
    /// A session's first opened packet: its peer seals on it, older sessions of the peer may go.
    Confirmed {
        /// The session.
        session: SessionId,
    },
    /// The barrier with this number was applied.
    Applied(u64),
}
