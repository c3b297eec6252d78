//! What `status` shows of a peer.

use core::time::Duration;

use super::cadence::Use;
use super::path::{PathKind, PathState};
use super::record::Peer;
use crate::id::NodeId;
use crate::io::Path;
use crate::shard::table::{PeerId, SessionId};
use crate::time::Instant;

/// A snapshot of one peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerView {
    /// Its number.
    pub peer: PeerId,
    /// Who.
    pub node: NodeId,
    /// The session in use.
    pub session: SessionId,
    /// Number of sessions, those on the way out included.
    pub sessions: usize,
    /// What it is to this node.
    pub use_: Use,
    /// Whether traffic (or a suspicion) makes it be probed at the pace of traffic.
    pub in_use: bool,
    /// Whether the last probes on the active path stayed unanswered.
    pub in_doubt: bool,
    /// When something of it was last heard.
    pub heard: Instant,
    /// Bytes received: control payloads and inner packets.
    pub rx_bytes: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Its paths in the order in which they became known.
    pub paths: Vec<PathView>,
}

/// A snapshot of one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathView {
    /// The path.
    pub path: Path,
    /// Its kind.
    pub kind: PathKind,
    /// Whether packets for the peer take it.
    pub active: bool,
    /// Whether the peer has answered on it.
    pub proven: bool,
    /// Why it is active, or why it is not, in words.
    pub reason: &'static str,
    /// Smoothed round-trip time.
    pub rtt: Option<Duration>,
    /// Lowest round-trip time of the last one to two minutes.
    pub least_rtt: Option<Duration>,
    /// Mean deviation of the round-trip time.
    pub jitter: Option<Duration>,
    /// Share of probes that stay unanswered, 0 to 1000.
    pub loss_permille: u16,
    /// Largest inner packet in bytes that is sent whole on it; `None` while it has carried no data.
    pub size: Option<u16>,
    /// When something was last heard on it.
    pub heard: Instant,
}

impl Peer {
    pub(super) fn view(&self, peer: PeerId, now: Instant) -> PeerView {
        PeerView {
            peer,
            node: self.node,
            session: self.sessions[0].id,
            sessions: self.sessions.len(),
            use_: self.use_,
            in_use: self.in_use_until > now,
            in_doubt: self.active().is_doubtful(),
            heard: self.heard,
            rx_bytes: self.rx_bytes,
            tx_bytes: self.tx_bytes,
            paths: self.paths.iter().map(|state| self.path_view(state)).collect(),
        }
    }

    fn path_view(&self, state: &PathState) -> PathView {
        let active = state.path == self.active;
        let reason = match (active, state.proven) {
            (true, _) => self.reason,
            (false, false) => "challenged, not answered yet",
            (false, true) if state.is_doubtful() => "spare, silent",
            (false, true) => "spare",
        };
        PathView {
            path: state.path,
            kind: state.kind,
            active,
            proven: state.proven,
            reason,
            rtt: state.rtt.smoothed(),
            least_rtt: state.rtt.least(),
            jitter: state.rtt.jitter(),
            loss_permille: state.loss.permille(),
            size: state.search.as_ref().map(|search| search.size()),
            heard: state.heard,
        }
    }
}
