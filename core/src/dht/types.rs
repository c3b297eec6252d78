//! The nouns at the DHT's boundary.

use core::time::Duration;

use bytes::Bytes;

use super::key::Key;
use super::ring::ReplyTo;
use crate::id::NodeId;
use crate::wire::dht::{Bundle, Refusal};

/// Names an operation; chosen by who starts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpId(pub u64);

/// What the DHT is asked to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Reads the record that counts.
    Get {
        /// The key.
        key: Key,
    },
    /// Writes a record; where the key has one owner and somebody else is it, the order of claims decides.
    Put {
        /// The key.
        key: Key,
        /// At most [`MAX_VALUE`](crate::wire::dht::MAX_VALUE) bytes.
        value: Bytes,
        /// Until it expires.
        lifetime: Duration,
        /// Whether it is renewed at half of its lifetime until [`Operation::Remove`].
        keep: bool,
    },
    /// Becomes the owner of a key that nobody owns, or renews that.
    Create {
        /// The key.
        key: Key,
        /// At most [`MAX_CREATED_VALUE`](crate::wire::dht::MAX_CREATED_VALUE) bytes.
        value: Bytes,
        /// Until it expires.
        lifetime: Duration,
        /// Whether it is renewed at half of its lifetime until [`Operation::Remove`].
        keep: bool,
    },
    /// Replaces an own record by a tombstone.
    Remove {
        /// The key.
        key: Key,
    },
    /// Brings a signed bundle back to its replicas, as after a restart.
    Store {
        /// The bundle.
        bundle: Bundle,
    },
    /// Verifies a bundle that a peer showed; missing certificates are asked of the peer. Nothing is read.
    Verify {
        /// The bundle.
        bundle: Bundle,
        /// Who showed it.
        from: NodeId,
        /// Certificates that came along.
        certificates: Vec<Bytes>,
    },
}

impl Operation {
    pub(super) const fn key(&self) -> &Key {
        match self {
            Self::Get { key } | Self::Put { key, .. } | Self::Create { key, .. } | Self::Remove { key } => key,
            Self::Store { bundle } | Self::Verify { bundle, .. } => &bundle.record.key,
        }
    }

    pub(super) const fn is_kept(&self) -> bool {
        matches!(self, Self::Put { keep: true, .. } | Self::Create { keep: true, .. })
    }
}

/// How an operation ended well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The record that counts.
    Found(Bundle),
    /// A majority of the replicas has finished its hand-over and has nothing.
    Absent,
    /// It is stored at a majority of the replicas.
    Stored(Bundle),
    /// The tombstone is stored, or there was nothing to remove.
    Removed,
}

/// How an operation failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DhtError {
    /// Somebody else owns the key.
    #[error("somebody else owns the key")]
    Conflict(Box<Bundle>),
    /// Too few replicas answered before the time limit, or too few of them had finished their hand-over.
    #[error("too few replicas answered")]
    Unsure,
    /// The replicas refused it; the reason of the last one.
    #[error("refused by the replicas: {0:?}")]
    Refused(Refusal),
    /// The value is too long.
    #[error("the value is too long")]
    TooLong,
    /// Too many operations run.
    #[error("too many operations run")]
    Busy,
}

/// What the DHT wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DhtAction {
    /// Send a request; its end is told by [`Dht::handle_reply`](super::Dht::handle_reply).
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
    /// An operation ended. A kept one ends anew at each renewal, and with [`DhtError::Conflict`] when its key was lost.
    Done {
        /// Which one.
        op: OpId,
        /// How.
        result: Result<Outcome, DhtError>,
    },
}
