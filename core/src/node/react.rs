//! Actions out of the machines, carried to where they go.

use core::net::SocketAddr;

use bytes::Bytes;

use super::{Node, Queued};
use crate::dht::DhtAction;
use crate::events::Event;
use crate::group::Roles;
use crate::id::NodeId;
use crate::io::Path;
use crate::overlay::{OverlayAction, ReplyTo, RequestError, RequestId};
use crate::peer::{PathKind, PeerAction};
use crate::session::{HandshakeId, SessionEvent};
use crate::shard::table::{PeerId, SessionId, TableUpdate};
use crate::time::Instant;
use crate::vpn::VpnAction;

/// Rounds in which the machines may answer each other at one instant. A chain of reactions is a few rounds long; more would be a loop between two machines.
const MAX_ROUNDS: u32 = 1000;

impl Node {
    /// Carries actions until all machines are quiet.
    pub(super) fn react(&mut self, now: Instant) {
        for _ in 0..MAX_ROUNDS {
            let mut quiet = true;
            while let Some(event) = self.sessions.poll_event() {
                self.on_session(event, now);
                quiet = false;
            }
            let mut datagram = Vec::new();
            while let Some(path) = self.sessions.poll_transmit(&mut datagram) {
                self.transmit(path, core::mem::take(&mut datagram), now);
                quiet = false;
            }
            while let Some(action) = self.peers.poll_action() {
                self.on_peer(action, now);
                quiet = false;
            }
            while let Some(action) = self.overlay.poll_action() {
                self.on_overlay(action, now);
                quiet = false;
            }
            while let Some(action) = self.dht.poll_action() {
                self.on_dht(action, now);
                quiet = false;
            }
            while let Some(action) = self.vpn.poll_action() {
                self.on_vpn(action, now);
                quiet = false;
            }
            if quiet {
                return;
            }
        }
        debug_assert!(false, "two machines of a node keep answering each other");
    }
}
