//! What the session layer tells: events, errors, facts.

use core::ops::Range;

use bytes::Bytes;

use crate::crypto::Cipher;
use crate::group::{Certificate, CertificateError};
use crate::id::NodeId;
use crate::io::Path;
use crate::shard::table::SessionId;
use crate::time::Instant;

/// A handshake that [`Sessions::connect`](super::Sessions::connect) started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HandshakeId {
    pub(super) index: u32,
    pub(super) serial: u32,
}

/// A handshake was not started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// [`MAX_OUTGOING`](super::MAX_OUTGOING) handshakes are under way.
    #[error("too many handshakes are under way")]
    Busy,
    /// There is no path.
    #[error("there is no path to send on")]
    NoPath,
}

/// Why a handshake that we started came to nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// Nobody answered within 5 s.
    #[error("no answer")]
    TimedOut,
    /// Another node than the expected one answered.
    #[error("node {found} answered instead")]
    WrongNode {
        /// Who.
        found: NodeId,
    },
    /// The address is our own.
    #[error("the address is our own")]
    OwnAddress,
    /// Another daemon runs with our identity.
    #[error("another daemon runs with our identity")]
    DuplicateIdentity,
    /// The other end's certificate does not count.
    #[error(transparent)]
    Certificate(CertificateError),
    /// No protocol version that both ends speak, or a header that was changed on the way.
    #[error("no common protocol version")]
    Version,
    /// The other end sent something that makes no sense.
    #[error("the answer is malformed")]
    Malformed,
    /// [`MAX_SESSIONS`](super::MAX_SESSIONS) sessions exist.
    #[error("too many sessions")]
    TooManySessions,
}

/// Why a session ended by itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndReason {
    /// A newer session took its place, and its grace is over.
    #[error("a newer session took its place")]
    Superseded,
    /// The other end's certificate ended or was revoked.
    #[error(transparent)]
    Certificate(CertificateError),
    /// Our own certificate, as it was presented, ended.
    #[error("our certificate ended")]
    OwnCertificate,
    /// The other end never answered on it.
    #[error("the other end did not confirm it")]
    Unconfirmed,
}

/// A control packet was not sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// No such session.
    #[error("no such session")]
    Unknown,
    /// The keys have sealed 2^30 packets.
    #[error("the session's keys are used up")]
    Exhausted,
    /// The peer is not admitted, and its notice was sealed already.
    #[error("the peer is not admitted")]
    Refused,
}

/// News of sessions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionEvent {
    /// A session is up; packets can be sealed on it.
    Established {
        /// The session.
        session: SessionId,
        /// The handshake that made it, when [`Sessions::connect`](super::Sessions::connect) started it.
        handshake: Option<HandshakeId>,
        /// The path on which both ends have shown themselves.
        path: Path,
        /// Whether we started it.
        initiator: bool,
        /// Who is at the other end.
        node: NodeId,
        /// What the other end said with [`Sessions::set_introduction`](super::Sessions::set_introduction); empty in resumptions.
        introduction: Bytes,
        /// The session of the same node that it takes the place of.
        resumed_from: Option<SessionId>,
    },
    /// A handshake that [`Sessions::connect`](super::Sessions::connect) started came to nothing.
    Failed {
        /// The handshake.
        handshake: HandshakeId,
        /// Its path.
        path: Path,
        /// Who was to answer.
        expected: Option<NodeId>,
        /// Why.
        why: HandshakeError,
    },
    /// A session ended; nothing is accepted on it any more.
    Ended {
        /// The session.
        session: SessionId,
        /// Who was at the other end.
        node: NodeId,
        /// Why.
        why: EndReason,
    },
    /// Somebody was not admitted.
    Refused {
        /// Where it is.
        path: Path,
        /// Who, when a CA of the group signed that.
        node: Option<NodeId>,
        /// Why.
        why: CertificateError,
        /// A session on which one notice can be sealed; it vanishes by itself.
        session: Option<SessionId>,
    },
    /// A handshake with our own identity came from elsewhere.
    DuplicateIdentity {
        /// From where.
        path: Path,
    },
}

/// What is known of a session.
#[derive(Clone, Copy, Debug)]
pub struct SessionInfo<'a> {
    /// The other end's certificate, as it was presented.
    pub certificate: &'a Certificate,
    /// Whether we started it.
    pub initiator: bool,
    /// The negotiated cipher.
    pub cipher: Cipher,
    /// The negotiated protocol version.
    pub version: u8,
    /// The other end's feature bits, unknown ones included.
    pub features: u16,
    /// When it was established.
    pub established_at: Instant,
    /// When the last full handshake was.
    pub full_handshake_at: Instant,
    /// Whether the other end has shown that it has the session.
    pub confirmed: bool,
    /// Whether a newer session took its place.
    pub replaced: bool,
}

/// A control packet that was opened in place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The session.
    pub session: SessionId,
    /// Where the payload stands in the datagram.
    pub payload: Range<usize>,
    /// Whether its counter is the highest so far.
    pub newest: bool,
}
