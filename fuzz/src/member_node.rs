//! A member of the group that can say anything: real sessions, a real data plane, and no manners.

use core::net::{IpAddr, SocketAddr};

use annulus_sim::core::batch::{Batch, HEADROOM, Slot, TAILROOM};
use annulus_sim::core::config::CryptoMode;
use annulus_sim::core::id::NodeId;
use annulus_sim::core::io::{Endpoint, Path, ShardId, Verdict};
use annulus_sim::core::session::{Origin, SessionEvent, Sessions};
use annulus_sim::core::shard::table::{PeerId, Prefix, SessionId, TableUpdate, Way};
use annulus_sim::core::shard::{Shard, ShardSettings};
use annulus_sim::core::time::Instant;
use annulus_sim::core::vpn::address::Networks;
use annulus_sim::core::wire::PayloadKind;
use annulus_sim::core::wire::link::LinkMessage;
use annulus_sim::core::wire::overlay::{Status, StatusMessage, acknowledgement};
use annulus_sim::core::wire::routed::{Content, RoutedHeader};
use annulus_sim::core::wire::rpc::Request;
use annulus_sim::world::{WALL_START, World};

use crate::member::{Group, group, paths};

/// Datagrams that wait at a member, in each direction.
const MAX_MAIL: usize = 64;
/// Requests of the node that a member remembers, to answer them with what it wants.
const MAX_ASKED: usize = 8;
const PEER: PeerId = PeerId(1);

/// A request that came from the node: what an answer must name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub(crate) source: NodeId,
    pub(crate) id: u32,
    pub(crate) method: u8,
}

pub(crate) struct Member {
    pub(crate) id: NodeId,
    pub(crate) address: SocketAddr,
    pub(crate) asked: Vec<Asked>,
    sessions: Sessions,
    shard: Shard,
    node: Path,
    live: Vec<SessionId>,
    installed: Option<SessionId>,
    /// The session on which a status was sent.
    told: Option<SessionId>,
    outbox: Vec<Vec<u8>>,
    /// Whether pings, statuses and announcements of data are answered.
    polite: bool,
}

impl Member {
    pub(crate) fn new(group: &Group, number: usize, crypto: CryptoMode, now: Instant) -> Self {
        let identity = &group.members[number];
        let mut shard =
            Shard::new(ShardSettings { flows: 16, ..ShardSettings::new(ShardId(0), group.config.realm, group.config.workers, 3) });
        for everything in [IpAddr::from([0; 4]), IpAddr::from([0; 16])] {
            shard.apply(TableUpdate::Route { prefix: Prefix::new(everything, 0), peer: PEER }, now);
        }
        Self {
            id: identity.node_id(),
            address: World::address_of(number as u32),
            asked: Vec::new(),
            sessions: group.sessions(identity, crypto, number as u8, now),
            shard,
            node: paths(1).1[0],
            live: Vec::new(),
            installed: None,
            told: None,
            outbox: Vec::new(),
            polite: true,
        }
    }

    /// The IPv6 address that follows from its ID.
    pub(crate) fn own_address(&self) -> IpAddr {
        let config = &group().config;
        Networks { ipv4: config.ipv4_network, ipv6: config.ipv6_network }.ipv6_of(&self.id).into()
    }

    /// Begins a handshake with the node.
    pub(crate) fn connect(&mut self, now: Instant) {
        let _ = self.sessions.connect(self.node, None, now);
    }

    /// Seals a control payload for the node, on the latest session.
    pub(crate) fn say(&mut self, payload: &[u8], now: Instant) {
        if let Some(&session) = self.live.last() {
            self.say_on(session, payload, now);
        }
    }

    fn say_on(&mut self, session: SessionId, payload: &[u8], now: Instant) {
        let mut bytes = Vec::new();
        if self.sessions.seal(session, payload, &mut bytes, now).is_ok() && self.outbox.len() < MAX_MAIL {
            self.outbox.push(bytes);
        }
    }

    /// Seals an IP packet for the node; `announce` says so first.
    pub(crate) fn data(&mut self, announce: bool, packet: &[u8], now: Instant) {
        let Some(&session) = self.live.last() else { return };
        if announce || self.installed != Some(session) {
            self.say_on(session, &[PayloadKind::DataOpen.byte(), 0], now);
            self.install(session, now);
        }
        let mut buf = vec![0; HEADROOM];
        buf.extend_from_slice(packet);
        buf.resize(buf.len() + TAILROOM, 0);
        let mut slot = Slot { start: HEADROOM as u32, len: packet.len() as u16, ..Slot::default() };
        self.shard.seal(&mut Batch { buf: &mut buf, slots: core::slice::from_mut(&mut slot) }, now);
        if let Verdict::Transmit(_) = slot.verdict {
            self.outbox.push(buf[slot.range()].to_vec());
        }
    }

    fn install(&mut self, session: SessionId, now: Instant) {
        let way = Way { path: self.node, circuit: None, routed: false, whole: u16::MAX, mtu: 1400, rtt: None };
        if let Some(install) = self.sessions.data_install(session, PEER, way) {
            self.shard.apply(TableUpdate::Install(Box::new(install)), now);
            self.shard.apply(TableUpdate::Promote { peer: PEER, session }, now);
            self.installed = Some(session);
        }
    }

    /// Does something that a member may do, at a time when nobody expects it.
    pub(crate) fn misbehave(&mut self, how: u8, now: Instant) {
        match how % 5 {
            0 => self.polite = !self.polite,
            1 => {
                if let Some(session) = self.live.pop() {
                    self.sessions.close(session);
                }
            }
            2 => {
                if let Some(&session) = self.live.last() {
                    self.sessions.rekey(session, self.node, now);
                }
            }
            3 => self.live.reverse(),
            _ => self.due(now),
        }
    }

    pub(crate) fn due(&mut self, now: Instant) {
        self.sessions.handle_timeout(now, WALL_START);
        self.news();
    }

    /// Takes a datagram of the node.
    pub(crate) fn receive(&mut self, mut bytes: Vec<u8>, now: Instant) {
        if bytes.first() == Some(&0x90) {
            let origin = Origin::of(&Endpoint::Udp { socket: 0, remote: World::address_of(0) });
            let _ = self.sessions.handle_handshake(self.node, origin, &mut bytes, now, WALL_START);
            self.news();
            return;
        }
        let opened = self.sessions.open(&mut bytes, now);
        self.news();
        if let Ok(opened) = opened {
            let payload = bytes[opened.payload].to_vec();
            self.hear(opened.session, &payload, now);
        }
    }

    fn hear(&mut self, session: SessionId, payload: &[u8], now: Instant) {
        if let Ok((RoutedHeader { content: Content::Request, source, .. }, body)) = RoutedHeader::parse(payload)
            && let Ok(request) = Request::parse(body)
        {
            if self.asked.len() == MAX_ASKED {
                self.asked.remove(0);
            }
            self.asked.push(Asked { source, id: request.id, method: request.method });
        }
        if !self.polite {
            return;
        }
        if let Ok(LinkMessage::Ping { token, .. }) = LinkMessage::parse(payload) {
            self.say_on(session, &LinkMessage::Pong { token }.to_payload(), now);
        }
        if let Ok(StatusMessage::Status(status)) = StatusMessage::parse(payload) {
            self.say_on(session, &acknowledgement(status.number), now);
            // Its own says that it has joined a ring of these two: so the node joins, and asks.
            let number = status.number.wrapping_add(1);
            let own = Status { number, joined: true, roles: status.roles, ..Status::default() };
            if self.told != Some(session) {
                self.told = Some(session);
                self.say_on(session, &own.payload(), now);
            }
        }
        if payload == [PayloadKind::DataOpen.byte(), 0] {
            self.install(session, now);
            self.say_on(session, &[PayloadKind::DataOpen.byte(), 1], now);
        }
    }

    fn news(&mut self) {
        while let Some(event) = self.sessions.poll_event() {
            match event {
                SessionEvent::Established { session, .. } => self.live.push(session),
                SessionEvent::Ended { session, .. } => self.live.retain(|live| *live != session),
                _ => {}
            }
        }
    }

    /// What the member sends now.
    pub(crate) fn mail(&mut self) -> Vec<Vec<u8>> {
        let mut out = Vec::new();
        loop {
            let mut bytes = Vec::new();
            if self.sessions.poll_transmit(&mut bytes).is_none() {
                break;
            }
            out.push(bytes);
        }
        out.append(&mut self.outbox);
        out
    }

    pub(crate) fn forget_mail(&mut self) {
        self.outbox.clear();
    }
}
