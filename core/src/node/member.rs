//! temporary
use super::Node;
use crate::id::NodeId;
use crate::overlay::*;
use crate::shard::table::PeerId;
use crate::time::Instant;
use bytes::Bytes;
impl Node {
    pub(super) fn own_addresses(&self) -> Vec<core::net::IpAddr> {
        vec![]
    }
    pub(super) fn addresses_of(&self, _: &NodeId) -> Vec<core::net::IpAddr> {
        vec![]
    }
    pub(super) fn known_hosts(&self) -> Vec<super::status::KnownHost> {
        vec![]
    }

    pub(super) fn vpn_packet(&mut self, _: crate::io::Punt, _: &[u8], _: Instant) {}
    pub(super) fn vpn_request(&mut self, _from: NodeId, _method: u8, _body: &Bytes, reply: ReplyTo, now: Instant) {
        self.overlay.reply(reply, Err(1), now);
    }
    pub(super) fn vpn_reply(&mut self, _: RequestId, _: NodeId, _: Result<Bytes, RequestError>, _: Instant) {}
    pub(super) fn vpn_ring_changed(&mut self, _: Instant) {}
    pub(super) fn dht_done(&mut self, _: crate::dht::OpId, _: Result<crate::dht::Outcome, crate::dht::DhtError>, _: Instant) {}
    pub(super) fn member_up(&mut self, _: NodeId, _: &crate::group::Certificate, _: PeerId, _: Instant) {}
    pub(super) fn member_down(&mut self, _: NodeId, _: Instant) {}
    pub(super) fn unreachable(&mut self, _: NodeId, _: Instant) {}
    pub(super) fn restore_lease(&mut self, _: &[u8], _: Instant) {}
    pub(super) fn resolve(&mut self, _: u64, _: &str, _: Instant) {}
}
