//! Every format on the wire. All numbers are big-endian.
//!
//! # Datagrams
//!
//! The first byte decides:
//!
//! | first byte | what | layout (bytes) | file |
//! | --- | --- | --- | --- |
//! | `0x00-0x3f` | never ours: STUN shares the socket | - | - |
//! | `0x90` | handshake | type 1, version range 2, feature bits 2, part and parts 1, kind 1 (m1 m2 m3 cookie r1 r2), receiver index 3, sender index 3, realm MAC 16, body | [`handshake`] |
//! | `0xa0-0xaf` | control packet, lane in the low 4 bits | type and lane 1, receiver index 3, low 32 bits of the counter 4, sealed payload, tag 16 | [`packet`] |
//! | `0xb0-0xbf` | data packet, lane in the low 4 bits | the same: 24 bytes around an inner IP packet | [`packet`] |
//! | `0xc0-0xcf` | relay, hops left in the low 4 bits | type and hops 1, circuit index 3, an untouched datagram | [`packet`] |
//! | others | dropped in silence | - | - |
//!
//! The 8 bytes in front of a sealed payload are its associated data; the nonce is lane and 64-bit counter.
//!
//! # Payloads of control packets
//!
//! The first byte is the [`PayloadKind`]; unknown kinds are kept as [`PayloadKind::Unknown`], counted and ignored.
//! A data packet holds nothing but an IP packet.
//!
//! | kind | what | file |
//! | --- | --- | --- |
//! | `0x01` ping, `0x02` pong, `0x03` address report, `0x04` close, `0x05` keep-alive | between the two ends of a session | [`link`] |
//! | `0x10` status | neighbours of a link's end | [`overlay`] |
//! | `0x11` routed | a message on its way over the ring | [`routed`] |
//! | `0x12` forward | hand the routed message in it to a node that only you are linked with | [`routed`] |
//! | `0x13` data open | one byte: 0 the sender is about to send data packets on this session, 1 it has heard so | [`PayloadKind::DataOpen`] |
//! | `0x20` member notice | expired or revoked: told so before closing | [`link`] |
//!
//! Inside a routed message stand a datagram (end-to-end sealed), a request, a reply or an error of the request/reply layer ([`rpc`]), whose methods
//! are those of the overlay ([`overlay`]), the DHT ([`dht`]) and the VPN ([`vpn`]).

pub mod codec;
pub mod dht;
pub mod handshake;
pub mod ip;
pub mod link;
pub mod overlay;
pub mod packet;
pub mod routed;
pub mod rpc;
pub mod tcp;
pub mod vpn;

/// A datagram or payload does not have the form of its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// It ends before its format does.
    #[error("shorter than its format")]
    Truncated,
    /// Bytes follow behind the end of its format.
    #[error("longer than its format")]
    TrailingBytes,
    /// A field holds a value that the format does not allow.
    #[error("field {0} holds a value that is not allowed")]
    BadField(&'static str),
}

impl From<WireError> for crate::io::DropReason {
    fn from(_: WireError) -> Self {
        Self::Malformed
    }
}

/// First byte of a handshake datagram.
pub const TYPE_HANDSHAKE: u8 = 0x90;
/// First byte of a control packet on lane 0.
pub const TYPE_CONTROL: u8 = 0xa0;
/// First byte of a data packet on lane 0.
pub const TYPE_DATA: u8 = 0xb0;
/// First byte of a relay datagram with no hop left.
pub const TYPE_RELAY: u8 = 0xc0;

/// What a datagram is, by its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatagramType {
    /// A part of a handshake message or a cookie.
    Handshake,
    /// A sealed packet for the control plane.
    Control,
    /// A sealed IP packet for a shard.
    Data,
    /// A datagram to be passed on along a circuit.
    Relay,
}

/// Classifies a datagram by its first byte; `None` is dropped in silence.
#[must_use]
pub const fn classify(first: u8) -> Option<DatagramType> {
    match first & 0xf0 {
        _ if first == TYPE_HANDSHAKE => Some(DatagramType::Handshake),
        TYPE_CONTROL => Some(DatagramType::Control),
        TYPE_DATA => Some(DatagramType::Data),
        TYPE_RELAY => Some(DatagramType::Relay),
        _ => None,
    }
}

/// First byte of a control packet's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayloadKind {
    /// Liveness, RTT and path challenge.
    Ping,
    /// Answer to a ping.
    Pong,
    /// "This is the address that I see you at."
    AddressReport,
    /// The session is given up.
    Close,
    /// Nothing: keeps a mapping open.
    KeepAlive,
    /// The sender's neighbours.
    Status,
    /// A routed message.
    Routed,
    /// A routed message to be handed to one node that the receiver is linked with.
    Forward,
    /// The sender is about to send data packets on this session (0), or has heard that the receiver is (1).
    DataOpen,
    /// Why the receiver is not (or no longer) admitted.
    MemberNotice,
    /// Not known to this version.
    Unknown(u8),
}

impl PayloadKind {
    /// From the wire.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Self {
        match byte {
            0x01 => Self::Ping,
            0x02 => Self::Pong,
            0x03 => Self::AddressReport,
            0x04 => Self::Close,
            0x05 => Self::KeepAlive,
            0x10 => Self::Status,
            0x11 => Self::Routed,
            0x12 => Self::Forward,
            0x13 => Self::DataOpen,
            0x20 => Self::MemberNotice,
            other => Self::Unknown(other),
        }
    }

    /// To the wire.
    #[must_use]
    pub const fn byte(self) -> u8 {
        match self {
            Self::Ping => 0x01,
            Self::Pong => 0x02,
            Self::AddressReport => 0x03,
            Self::Close => 0x04,
            Self::KeepAlive => 0x05,
            Self::Status => 0x10,
            Self::Routed => 0x11,
            Self::Forward => 0x12,
            Self::DataOpen => 0x13,
            Self::MemberNotice => 0x20,
            Self::Unknown(byte) => byte,
        }
    }
}
