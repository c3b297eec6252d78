//! Minimal local stand-in with the contract's types; replaced by the merge of the overlay branch.
use crate::id::NodeId;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RingView {
    pub consistent: bool,
    pub size_estimate: u64,
    pub successors: Vec<NodeId>,
    pub predecessors: Vec<NodeId>,
    pub known: Vec<NodeId>,
}
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReplyTo(pub u64);
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestError {
    TimedOut,
    Refused(u8),
}
