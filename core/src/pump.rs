//! The order of calls around nodes and shards, shared by every driver: runtimes only wait, the pump knows what comes next.

use crate::batch::Slot;
use crate::events::Event;
use crate::io::{Ecn, Endpoint, RealmSlot};

/// What a pump needs of its surroundings. Sockets and devices never block it: what cannot be sent now is dropped and counted by the driver.
pub trait Driver {
    /// Sends datagrams to one UDP or stream endpoint. All of `slots` but the last are equally long, the last is not longer;
    /// they lie in `buf` in order, not necessarily without gaps. At most 64.
    fn transmit(&mut self, to: Endpoint, buf: &[u8], slots: &[Slot]);

    /// Hands IP packets to the realm's host in order. The driver may merge segments of a flow.
    fn deliver(&mut self, realm: RealmSlot, buf: &[u8], slots: &[Slot]);

    /// Tells the daemon something.
    fn event(&mut self, realm: RealmSlot, event: Event);
}

/// Datagrams received by one call: one, or several of equal length that the kernel merged (UDP GRO).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Offset of the first byte in the receive buffer.
    pub start: usize,
    /// Bytes of all of them together.
    pub len: usize,
    /// Length of each but the last, which may be shorter; equal to `len` for a single datagram. Never 0.
    pub stride: usize,
    /// Who sent them: a UDP or stream endpoint.
    pub from: Endpoint,
    /// The ECN bits of the outer header.
    pub ecn: Ecn,
}
