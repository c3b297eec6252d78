//! Datagrams and punts in: opened, and handed to the machine that owns their kind.

use super::{Node, STRANGER_REPORT};
use crate::events::Event;
use crate::id::NodeId;
use crate::io::{DropReason, Endpoint, Path, Punt, ShardId};
use crate::peer::PathKind;
use crate::session::Origin;
use crate::shard::table::{SessionId, ShardEvent};
use crate::time::Instant;
use crate::wire::{self, DatagramType, PayloadKind};

impl Node {
    /// Takes a datagram of any type but data: handshakes and control packets. It is decrypted in place.
    pub fn handle_datagram(&mut self, from: Path, bytes: &mut [u8], now: Instant) {
        let now = self.advance(now);
        self.datagram(from, bytes, now);
        self.react(now);
    }

    /// Takes what a shard could not decide. `path` is where a datagram came from, or the routed path that a sealed packet must take.
    pub fn handle_punt(&mut self, why: Punt, path: Path, packet: &[u8], now: Instant) {
        let now = self.advance(now);
        self.stats.punted(why);
        match why {
            Punt::Control => {
                let mut bytes = packet.to_vec();
                self.datagram(path, &mut bytes, now);
            }
            Punt::Routed => self.send_in_parts(path, packet, now),
            Punt::NoSession | Punt::NoAddress | Punt::Service | Punt::TooBig => {
                self.vpn_packet(why, packet, now);
            }
            Punt::NewCircuit => self.stats.dropped(DropReason::UnknownCircuit),
            // It reached another worker than its index says: it goes on to the shard that counts its session or circuit.
            Punt::WrongShard => self.reinject(path, packet.to_vec()),
        }
        self.react(now);
    }

    /// Counts a punt that did not fit into its batch's share.
    pub fn refuse_punt(&mut self, why: Punt) {
        self.stats.punted(why);
        self.stats.dropped(DropReason::QueueFull);
    }

    /// Takes a hint from a shard.
    pub fn handle_event(&mut self, _shard: ShardId, event: ShardEvent, now: Instant) {
        let now = self.advance(now);
        self.on_shard_event(event, now);
        self.react(now);
    }

    pub(super) fn datagram(&mut self, from: Path, bytes: &mut [u8], now: Instant) {
        let result = match bytes.first().copied().and_then(wire::classify) {
            Some(DatagramType::Handshake) => self.handshake(from, bytes, now),
            Some(DatagramType::Control) => self.control(from, bytes, now),
            Some(DatagramType::Data) if self.kind_of(from) == PathKind::Routed => {
                self.reinject(from, bytes.to_vec());
                Ok(())
            }
            Some(DatagramType::Data | DatagramType::Relay) | None => Err(DropReason::UnknownType),
        };
        if let Err(reason) = result {
            self.stats.dropped(reason);
        }
    }

    fn handshake(&mut self, from: Path, bytes: &mut [u8], now: Instant) -> Result<(), DropReason> {
        let wall = self.clock.now(now);
        let origin = self.paths.resolve(from).map_or(Origin::Hop(Path::NONE), |endpoint| Origin::of(&endpoint));
        let result = self.sessions.handle_handshake(from, origin, bytes, now, wall);
        if matches!(result, Err(DropReason::WrongRealm | DropReason::Malformed)) {
            self.note_stranger(from, now);
        }
        result
    }

    /// Tells the operator of datagrams that were not made under the realm's key, at most once a minute: they get no answer.
    fn note_stranger(&mut self, from: Path, now: Instant) {
        self.strangers.count += 1;
        self.strangers.from = self.remote_of(from).or(self.strangers.from);
        let quiet = self.strangers.reported.is_some_and(|at| now.saturating_since(at) < STRANGER_REPORT);
        if let (false, Some(address)) = (quiet, self.strangers.from) {
            self.strangers.reported = Some(now);
            let count = core::mem::take(&mut self.strangers.count);
            self.event(Event::Strangers { count, from: address });
        }
    }

    fn control(&mut self, from: Path, bytes: &mut [u8], now: Instant) -> Result<(), DropReason> {
        let opened = self.sessions.open(bytes, now)?;
        // The packet may have completed its session: that must be known before its payload is looked at.
        self.session_news(now);
        let kind = self.kind_of(from);
        self.peers.received(opened.session, from, kind, opened.newest, bytes.len(), now);
        let payload = &bytes[opened.payload];
        self.payload(opened.session, from, payload, now)
    }

    fn payload(&mut self, session: SessionId, from: Path, payload: &[u8], now: Instant) -> Result<(), DropReason> {
        let first = *payload.first().ok_or(DropReason::Malformed)?;
        match PayloadKind::from_byte(first) {
            PayloadKind::Ping
            | PayloadKind::Pong
            | PayloadKind::AddressReport
            | PayloadKind::Close
            | PayloadKind::KeepAlive
            | PayloadKind::MemberNotice => {
                let kind = self.kind_of(from);
                let observed = self.remote_of(from);
                self.peers.handle_link(session, from, kind, observed, payload, now).map_err(Into::into)
            }
            PayloadKind::Status | PayloadKind::Routed | PayloadKind::Forward => {
                let peer = self.peers.by_session(session).ok_or(DropReason::UnknownIndex)?;
                self.overlay.handle_message(peer, payload, now)
            }
            PayloadKind::DataOpen => {
                self.on_data_open(session, payload.get(1) == Some(&1), now);
                Ok(())
            }
            PayloadKind::Unknown(_) => Err(DropReason::UnknownType),
        }
    }

    /// A datagram that came over the ring from `node`.
    pub(super) fn routed_datagram(&mut self, node: NodeId, mut bytes: Vec<u8>, now: Instant) {
        let from = self.paths.intern(Endpoint::Routed(node));
        self.datagram(from, &mut bytes, now);
    }
}
