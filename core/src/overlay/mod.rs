//! Minimal local stand-in with the overlay branch's types; replaced by its merge.
use crate::id::NodeId;

/// The node's place on the ring as it sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RingView {
    /// The node itself.
    pub local: NodeId,
    /// Whether the position is consistent.
    pub consistent: bool,
    /// Estimated number of nodes.
    pub size_estimate: u64,
    /// Near neighbours clockwise, nearest first.
    pub successors: Vec<NodeId>,
    /// Near neighbours counter-clockwise, nearest first.
    pub predecessors: Vec<NodeId>,
    /// Further ones.
    pub known: Vec<NodeId>,
}
/// Where the reply to a received request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ReplyTo {
    node: NodeId,
    id: u32,
}
impl ReplyTo {
    /// A handle for tests.
    #[must_use]
    pub const fn new(node: NodeId, id: u32) -> Self {
        Self { node, id }
    }
    /// Who asked.
    #[must_use]
    pub const fn node(&self) -> NodeId {
        self.node
    }
}
/// Why a request has no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestError {
    /// Nobody answered.
    Timeout,
    /// No way.
    Unroutable,
    /// Error code.
    Remote(u8),
}
