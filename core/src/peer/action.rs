//! What the peers want done, and what they tell.

use core::net::SocketAddr;

use super::path::PathKind;
use crate::id::NodeId;
use crate::io::Path;
use crate::shard::table::{PeerId, SessionId};
use crate::time::UnixTime;
use crate::wire::link::{CloseReason, LinkPayload, NoticeReason};

/// Something for the node to do or to know. Actions are to be carried out in the order in which they come.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum PeerAction {
    /// Seal this payload as a control packet of `session` and send it on exactly this path.
    Send {
        /// The session.
        session: SessionId,
        /// The path.
        path: Path,
        /// The payload.
        payload: LinkPayload,
    },
    /// Data and control packets for the peer take this path from now on.
    PathChanged {
        /// Who.
        peer: PeerId,
        /// The path.
        path: Path,
        /// Its kind.
        kind: PathKind,
        /// Why, in words for a log.
        reason: &'static str,
    },
    /// The largest packet that a path of the peer carries whole has changed, or is settled now: see [`Peers::size`](super::Peers::size).
    SizeChanged {
        /// Who.
        peer: PeerId,
        /// The path.
        path: Path,
    },
    /// Packets for the peer are sealed on this session from now on. Older ones still open packets.
    SessionChanged {
        /// Who.
        peer: PeerId,
        /// The session.
        session: SessionId,
    },
    /// Forget the session's keys.
    CloseSession(SessionId),
    /// A peer remembers this path: pin it.
    Keep(Path),
    /// A peer has forgotten this path: take one pin back.
    Release(Path),
    /// A peer tells at which address it sees us.
    Observed {
        /// Who tells it.
        peer: PeerId,
        /// Our address.
        address: SocketAddr,
    },
    /// No session with the node is left; its number rests before it is used again.
    Dead {
        /// Its number.
        peer: PeerId,
        /// Who.
        node: NodeId,
        /// Why.
        why: Gone,
    },
    /// The peer says that we are not admitted; the session is closed after it.
    Notice {
        /// Its number.
        peer: PeerId,
        /// Who.
        node: NodeId,
        /// The session that it was said on.
        session: SessionId,
        /// Why.
        reason: NoticeReason,
        /// Since when our certificate has ended, or from when it will be valid.
        time: Option<UnixTime>,
        /// Its words, without control characters.
        text: Box<str>,
    },
    /// Two daemons take turns with one identity: each new session of theirs pushes the other out.
    DuplicateIdentity {
        /// Its number.
        peer: PeerId,
        /// Whose identity.
        node: NodeId,
        /// Where the latest of them is.
        path: Path,
    },
}

/// Why a peer is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// It did not answer any of the probes.
    Unresponsive,
    /// It said good-bye.
    ClosedByPeer(CloseReason),
    /// We said good-bye.
    Closed(CloseReason),
    /// The last session ended: certificate, revocation, keys.
    SessionEnded,
    /// It does not admit us.
    NotAdmitted(NoticeReason),
}

impl Gone {
    /// In words for a log.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unresponsive => "it does not answer",
            Self::ClosedByPeer(reason) => match reason {
                CloseReason::Leaving => "closed by the peer: it leaves",
                CloseReason::Surplus => "closed by the peer: the link is not needed",
                CloseReason::Idle => "closed by the peer: the link was idle",
                CloseReason::Replaced => "closed by the peer: it has a newer session",
                CloseReason::Unresponsive => "closed by the peer: it got no answer from us",
                CloseReason::NotAdmitted => "closed by the peer: we are not admitted",
                CloseReason::Unknown(_) => "closed by the peer: a reason that this version does not know",
            },
            Self::Closed(reason) => match reason {
                CloseReason::Leaving => "closed: we leave",
                CloseReason::Surplus => "closed: the link is not needed",
                CloseReason::Idle => "closed: the link was idle",
                CloseReason::Replaced => "closed: a newer session took its place",
                CloseReason::Unresponsive => "closed: no answer",
                CloseReason::NotAdmitted => "closed: the peer is not admitted",
                CloseReason::Unknown(_) => "closed",
            },
            Self::SessionEnded => "its last session ended",
            Self::NotAdmitted(reason) => match reason {
                NoticeReason::Expired => "it refuses us: our certificate has expired",
                NoticeReason::Revoked => "it refuses us: our certificate was revoked",
                NoticeReason::NotYetValid => "it refuses us: our certificate is not valid yet",
                NoticeReason::Refused | NoticeReason::Unknown(_) => "it refuses us",
            },
        }
    }
}
