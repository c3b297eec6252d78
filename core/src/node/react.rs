//! Actions out of the machines, carried to where they go.

use super::Node;
use crate::events::Event;
use crate::group::{CertificateError, Roles};
use crate::id::NodeId;
use crate::io::Path;
use crate::overlay::OverlayAction;
use crate::peer::{PathKind, PeerAction, Use};
use crate::session::{EndReason, HandshakeError, HandshakeId, SessionEvent};
use crate::shard::table::{PeerId, SessionId};
use crate::time::Instant;
use crate::wire::link::{CloseReason, LinkMessage, NoticeReason};

/// Rounds in which the machines may answer each other at one instant. A chain of reactions is a few rounds long; more would be a loop between two machines.
const MAX_ROUNDS: u32 = 1000;

impl Node {
    /// Carries actions until all machines are quiet.
    pub(super) fn react(&mut self, now: Instant) {
        for _ in 0..MAX_ROUNDS {
            let mut quiet = !self.session_news(now);
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
            quiet &= self.react_services(now);
            if quiet {
                return;
            }
        }
        debug_assert!(false, "two machines of a node keep answering each other");
    }

    /// Carries what the sessions tell; `true` when there was something.
    pub(super) fn session_news(&mut self, now: Instant) -> bool {
        let mut news = false;
        while let Some(event) = self.sessions.poll_event() {
            self.on_session(event, now);
            news = true;
        }
        news
    }

    fn on_session(&mut self, event: SessionEvent, now: Instant) {
        match event {
            SessionEvent::Established { session, handshake, path, initiator, node, introduction: _, resumed_from } => {
                self.established(session, handshake, path, initiator, node, resumed_from, now);
            }
            SessionEvent::Failed { handshake, path, expected, why } => {
                if let HandshakeError::Certificate(why) = &why {
                    self.event(Event::Refused { node: expected, from: self.remote_of(path), reason: why.to_string(), ours: false });
                }
                self.dial_lost(handshake, now);
                if matches!(self.paths.resolve(path), Some(crate::io::Endpoint::Routed(_)))
                    && let Some(node) = expected
                {
                    self.unreachable(node, now);
                }
            }
            SessionEvent::Ended { session, node, why } => {
                if let EndReason::Certificate(why) = why {
                    self.event(Event::Refused { node: Some(node), from: None, reason: why.to_string(), ours: false });
                }
                self.data_closed(session);
                self.peers.session_ended(session, now);
            }
            SessionEvent::Refused { path, node, why, session } => {
                if let Some(session) = session {
                    self.send_notice(session, path, why, now);
                }
                self.event(Event::Refused { node, from: self.remote_of(path), reason: why.to_string(), ours: false });
            }
            SessionEvent::DuplicateIdentity { path } => self.event(Event::DuplicateIdentity { from: self.remote_of(path) }),
        }
    }

    fn established(
        &mut self,
        session: SessionId,
        handshake: Option<HandshakeId>,
        path: Path,
        initiator: bool,
        node: NodeId,
        resumed_from: Option<SessionId>,
        now: Instant,
    ) {
        let Some(info) = self.sessions.info(session) else { return };
        let certificate = info.certificate.clone();
        let kind = self.kind_of(path);
        let new = self.peers.by_node(&node).is_none();
        if self.clock.seen_signed(certificate.not_before()) {
            self.event(Event::SignedTime(certificate.not_before()));
        }
        let Some(peer) = self.peers.session_up(node, session, path, kind, initiator, resumed_from, now) else { return };
        self.sessions.set_path(session, path);
        if new {
            self.event(Event::PeerUp { node, name: certificate.node_name().to_owned(), user: certificate.user().to_owned() });
        }
        self.dht.learn(&certificate);
        self.member_up(node, &certificate, peer, now);
        if kind != PathKind::Routed {
            self.link(peer, node, now);
            self.dial_won(handshake, node, peer, now);
        }
    }

    /// Tells a peer why it is not admitted, on a session that serves for nothing else.
    fn send_notice(&mut self, session: SessionId, path: Path, why: CertificateError, now: Instant) {
        let (reason, time) = match why {
            CertificateError::Expired { since } => (NoticeReason::Expired, Some(since)),
            CertificateError::NotYetValid { from } => (NoticeReason::NotYetValid, Some(from)),
            CertificateError::Revoked => (NoticeReason::Revoked, None),
            _ => (NoticeReason::Refused, None),
        };
        let notice = LinkMessage::MemberNotice { reason, time, text: &why.to_string() }.to_payload();
        self.send_control(session, path, &notice, now);
    }

    /// Lets the overlay route over a peer.
    fn link(&mut self, peer: PeerId, node: NodeId, now: Instant) {
        let path = self.peers.path(peer).unwrap_or_default();
        let infrastructure = self.certificate_of(peer).is_some_and(|certificate| certificate.roles().contains(Roles::INFRASTRUCTURE));
        let direct = self.kind_of(path) == PathKind::Direct;
        self.overlay.link_up(peer, node, direct, self.remote_of(path), infrastructure, now);
        if let Some(rtt) = self.peers.rtt(peer) {
            self.overlay.set_rtt(peer, rtt);
        }
    }

    fn on_peer(&mut self, action: PeerAction, now: Instant) {
        match action {
            PeerAction::Send { session, path, payload } => self.send_control(session, path, &payload, now),
            PeerAction::PathChanged { peer, path, kind, reason } => self.path_changed(peer, path, kind, reason, now),
            PeerAction::SessionChanged { peer, session } => {
                if let Some(path) = self.peers.path(peer) {
                    self.sessions.set_path(session, path);
                }
                self.session_changed(peer, session, now);
            }
            PeerAction::SizeChanged { peer, path } => self.size_changed(peer, path),
            PeerAction::CloseSession(session) => {
                self.sessions.close(session);
                self.data_closed(session);
            }
            PeerAction::Keep(path) => self.paths.pin(path),
            PeerAction::Release(path) => self.paths.unpin(path),
            PeerAction::Observed { peer, address } => self.observed(peer, address, now),
            PeerAction::Dead { peer, node, why } => {
                self.event(Event::PeerDown { node, reason: why.as_str() });
                self.overlay.link_down(peer, now);
                self.data_peer_gone(peer);
                self.member_down(node, now);
            }
            PeerAction::Notice { peer: _, node, session: _, reason: _, time: _, text } => {
                self.event(Event::Refused { node: Some(node), from: None, reason: text.into(), ours: true });
            }
            PeerAction::DuplicateIdentity { peer: _, node, path } => {
                let at = self.remote_of(path).map(|remote| format!(", one of them at {remote}")).unwrap_or_default();
                self.warn(format!(
                    "two daemons run with the identity of node {node}{at}; have a certificate issued for one of them and end the other"
                ));
            }
        }
    }

    fn path_changed(&mut self, peer: PeerId, path: Path, kind: PathKind, reason: &'static str, now: Instant) {
        let Some(node) = self.peers.node(peer) else { return };
        if let Some(session) = self.peers.session(peer) {
            self.sessions.set_path(session, path);
        }
        self.data_path_changed(peer, path, now);
        if kind == PathKind::Routed {
            self.overlay.link_down(peer, now);
        } else {
            self.link(peer, node, now);
            self.dial_won(None, node, peer, now);
        }
        self.event(Event::PathChanged { node, remote: self.remote_of(path), reason });
    }

    fn on_overlay(&mut self, action: OverlayAction, now: Instant) {
        match action {
            OverlayAction::Send { peer, payload } => self.send_to_peer(peer, &payload, now),
            OverlayAction::Dial { dial, node, addresses, routed, roles: _ } => self.dial(dial, node, &addresses, routed, now),
            OverlayAction::Datagram { from, bytes } => self.routed_datagram(from, bytes, now),
            OverlayAction::Request { from, method, body, reply } => self.on_request(from, method, &body, reply, now),
            OverlayAction::Reply { id, from, body } => self.on_reply(id, from, body, now),
            OverlayAction::TraceHop { id, node, hops: _, reached: _, after } => self.trace_hop(id, node, after),
            OverlayAction::TraceDone { id, reached } => self.trace_done(id, reached),
            OverlayAction::Drop { peer, reason: _ } => {
                if !self.carries_data(peer) {
                    self.peers.close(peer, CloseReason::Surplus, now);
                }
            }
            OverlayAction::OtherGeometry { node, theirs } => self.other_geometry(node, theirs, now),
            OverlayAction::ConsistencyChanged(consistent) => self.consistency_changed(consistent, now),
            OverlayAction::NeighboursChanged => self.neighbours_changed(now),
        }
    }

    fn consistency_changed(&mut self, consistent: bool, now: Instant) {
        let size = self.overlay.size_estimate();
        self.joined = consistent.then_some(size);
        self.event(if consistent { Event::Joined { ring_size: size } } else { Event::Disturbed });
        self.ring_changed(now);
        if consistent {
            let addresses = self.overlay.addresses_to_remember(MAX_REMEMBERED);
            if !addresses.is_empty() {
                self.event(Event::KnownAddresses(addresses));
            }
        }
    }

    /// Near links are watched more closely than others.
    fn neighbours_changed(&mut self, now: Instant) {
        let links: Vec<(PeerId, bool)> = self
            .overlay
            .links(now)
            .map(|link| (link.peer, link.roles.has(crate::overlay::Roles::NEAR) || link.remote_roles.has(crate::overlay::Roles::NEAR)))
            .collect();
        for (peer, near) in links {
            self.peers.set_use(peer, if near { Use::Near } else { Use::Link }, now);
        }
        self.ring_changed(now);
    }
}

/// Addresses that are remembered for the next start (design, section 7).
const MAX_REMEMBERED: usize = 64;
