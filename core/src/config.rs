//! What a node is told at its start.

use core::fmt;
use core::net::SocketAddr;
use core::num::NonZeroU8;
use core::str::FromStr;
use core::time::Duration;

use crate::io::RealmSlot;
use crate::shard::table::Prefix;

/// MTU of the TUN device in bytes: direct (1452 with IPv4 outside, 1472 with IPv6) and relayed (+4) packets then fit PPPoE's 1492.
pub const TUNNEL_MTU: u16 = 1400;

/// Which rule decides which links a node wants and which link brings a packet closer. All nodes of a realm agree on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum GeometryKind {
    /// Ring with harmonically distributed shortcuts (Manku, Bawa, Raghavan 2003).
    #[default]
    Symphony = 0,
    /// Ring with fingers to the successors of `n + 2^i` (Stoica, Morris, Karger, Kaashoek, Balakrishnan 2001).
    Chord = 1,
    /// Tables of prefixes and leaf sets (Rowstron, Druschel 2001).
    Pastry = 2,
    /// Buckets by the XOR metric (Maymounkov, Mazieres 2002).
    Kademlia = 3,
}

impl GeometryKind {
    /// All of them; the default first.
    pub const ALL: [Self; 4] = [Self::Symphony, Self::Chord, Self::Pastry, Self::Kademlia];

    /// Its name in files and on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Symphony => "symphony",
            Self::Chord => "chord",
            Self::Pastry => "pastry",
            Self::Kademlia => "kademlia",
        }
    }
}

impl fmt::Display for GeometryKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A text is not the name of a geometry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no geometry; valid: symphony, chord, pastry, kademlia")]
pub struct UnknownGeometry(String);

impl FromStr for GeometryKind {
    type Err = UnknownGeometry;
    fn from_str(text: &str) -> Result<Self, UnknownGeometry> {
        Self::ALL.into_iter().find(|kind| kind.name() == text).ok_or_else(|| UnknownGeometry(text.to_owned()))
    }
}

/// Whether crypto is real. Stand-in crypto exists for simulations only, behind a feature that no shipped binary has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CryptoMode {
    /// Noise, AEAD and signatures.
    #[default]
    Real,
    /// Messages of equal sizes without secrecy.
    #[cfg(feature = "stand-in")]
    StandIn,
}

/// What a node is told at its start and cannot change while it runs.
#[derive(Clone, Debug)]
pub struct Config {
    /// The realm's number within the daemon.
    pub realm: RealmSlot,
    /// The geometry of the realm.
    pub geometry: GeometryKind,
    /// The group's IPv4 network; nodes lease addresses from it. `None`: IPv6 only.
    pub ipv4_network: Option<Prefix>,
    /// The group's IPv6 /64, a part of its ULA /48.
    pub ipv6_network: Prefix,
    /// Whether this node has virtual addresses; seeds have none.
    pub has_addresses: bool,
    /// Addresses to bootstrap from.
    pub bootstrap: Vec<SocketAddr>,
    /// MTU of the TUN device in bytes.
    pub tunnel_mtu: u16,
    /// Whether the CPU has AES instructions: an input, so that a run replays elsewhere.
    pub hardware_aes: bool,
    /// Number of workers and so of shards.
    pub workers: NonZeroU8,
    /// Real or stand-in crypto.
    pub crypto: CryptoMode,
    /// How long an IPv4 lease lasts.
    pub lease_time: Duration,
}

impl Config {
    /// Defaults for a group with this IPv6 network.
    #[must_use]
    pub const fn new(ipv6_network: Prefix) -> Self {
        Self {
            realm: RealmSlot(0),
            geometry: GeometryKind::Symphony,
            ipv4_network: None,
            ipv6_network,
            has_addresses: true,
            bootstrap: Vec::new(),
            tunnel_mtu: TUNNEL_MTU,
            hardware_aes: true,
            workers: NonZeroU8::MIN,
            crypto: CryptoMode::Real,
            lease_time: Duration::from_secs(24 * 3600),
        }
    }
}
