//! One whole node: strangers, a host, a daemon, and two members one or both of whom do what they want.

use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use std::cell::RefCell;

use annulus_sim::core::batch::{HEADROOM, Slot, TAILROOM};
use annulus_sim::core::config::CryptoMode;
use annulus_sim::core::events::{Command, Event};
use annulus_sim::core::id::NodeId;
use annulus_sim::core::io::{Endpoint, RealmSlot, ShardId, TrafficClass};
use annulus_sim::core::node::Node;
use annulus_sim::core::pump::{Pump, Received, Scratch};
use annulus_sim::core::shard::{Shard, ShardSettings};
use annulus_sim::core::time::{Instant, UnixTime};
use annulus_sim::core::wire::handshake::{HandshakeHeader, Kind};
use annulus_sim::core::wire::{DatagramType, classify};
use annulus_sim::host::Effects;
use annulus_sim::world::{WALL_START, World};

use crate::handshake::invented;
use crate::input::{Input, edit};
use crate::ip;
use crate::member::{Group, group, span};
use crate::member_node::Member;
use crate::say;

/// Operations of one input.
const MAX_OPERATIONS: usize = 64;
/// Datagrams to the node that are kept to be replayed.
const MAX_LOG: usize = 64;
/// Answers between the node and members at one instant: a handshake takes 3 rounds, a link a few more.
const MAX_ROUNDS: usize = 64;
/// The members among the addresses; the node has number 0, and nobody is at those behind.
const MEMBERS: usize = 2;

thread_local! {
    /// Two buffers of 64 kB that need not be made anew.
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

struct Story {
    group: &'static Group,
    pump: Pump,
    members: Vec<Member>,
    log: Vec<Vec<u8>>,
    now: Instant,
    /// The node's addresses, as it told them.
    addresses: Vec<IpAddr>,
    crypto: CryptoMode,
}

/// Runs a node as the input says.
///
/// # Panics
/// When a property in the table of the crate does not hold.
pub fn node(data: &[u8]) {
    let mut input = Input::new(data);
    let crypto = if input.u8() & 1 == 0 { CryptoMode::StandIn } else { CryptoMode::Real };
    SCRATCH.with_borrow_mut(|scratch| {
        let mut story = Story::new(crypto, input.u8());
        story.step(scratch, |_, _, _| {});
        for _ in 0..MAX_OPERATIONS {
            if input.is_empty() {
                break;
            }
            story.operate(&mut input, scratch);
        }
        story.pass(Duration::from_secs(400), scratch);
        let _ = story.pump.realms()[0].node.status(story.now);
    });
}

impl Story {
    fn new(crypto: CryptoMode, how: u8) -> Self {
        let group = group();
        let now = Instant::from_secs(1);
        let mut config = group.config.clone();
        config.crypto = crypto;
        if how & 1 == 1 {
            config.bootstrap = (1..=MEMBERS as u32).map(World::address_of).collect();
        }
        config.has_addresses = how & 2 == 0;
        let shard = ShardSettings { flows: 64, ..ShardSettings::new(ShardId(0), config.realm, config.workers, 5) };
        let node = Node::new(config, group.members[0].clone(), group.trust.clone(), [7; 32], now, WALL_START);
        let members = (1..=MEMBERS).map(|number| Member::new(group, number, crypto, now)).collect();
        let mut pump = Pump::new();
        pump.add(node, Shard::new(shard));
        Self { group, pump, members, log: Vec::new(), now, addresses: Vec::new(), crypto }
    }

    fn operate(&mut self, input: &mut Input<'_>, scratch: &mut Scratch) {
        let number = input.u8();
        let member = usize::from(number >> 4) % MEMBERS;
        match number % 16 {
            0 => self.stranger(input, scratch),
            1 => {
                let (from, bytes) = (address(input), invented(self.group, input));
                self.receive(from, vec![bytes], scratch);
            }
            2 => self.replay(input, scratch),
            3 => self.connect(member, scratch),
            4 => {
                let payload = input.chunk().to_vec();
                self.say(member, &payload, scratch);
            }
            5..=8 => {
                let node = self.pump.realms()[0].node.node_id();
                let ids = [node, self.members[0].id, self.members[1].id];
                let asked = self.members[member].asked.clone();
                let payload = match number % 16 {
                    5 => say::link(input),
                    6 => say::status(&ids, input),
                    _ => say::routed(&ids, &asked, input),
                };
                self.say(member, &payload, scratch);
            }
            9 => self.data(member, input, scratch),
            10 => self.host(input, scratch),
            11 | 12 => self.pass(span(input.u8()), scratch),
            13 => {
                let command = self.order(input);
                self.step(scratch, |story, _, _| story.pump.command(RealmSlot(0), command, story.now));
            }
            14 => {
                let (how, now) = (input.u8(), self.now);
                self.members[member].misbehave(how, now);
                self.exchange(scratch);
            }
            _ => {
                let ids = [self.pump.realms()[0].node.node_id(), self.members[0].id, self.members[1].id];
                let asked = self.members[member].asked.clone();
                let payload = say::answer(&ids, self.members[member].id, &asked, input);
                self.say(member, &payload, scratch);
            }
        }
    }

    /// Datagrams of any content, one or several of one receive call.
    fn stranger(&mut self, input: &mut Input<'_>, scratch: &mut Scratch) {
        let from = address(input);
        let many = input.u8() % 8;
        let bytes = input.chunk();
        if many == 0 || bytes.len() < 2 {
            self.receive(from, vec![bytes.to_vec()], scratch);
        } else {
            let stride = bytes.len().div_ceil(usize::from(many));
            self.receive(from, bytes.chunks(stride).map(<[u8]>::to_vec).collect(), scratch);
        }
    }

    /// A datagram that came before, perhaps changed, perhaps under a right MAC, from anywhere.
    fn replay(&mut self, input: &mut Input<'_>, scratch: &mut Scratch) {
        let (how, from) = (input.u8(), address(input));
        let Some(mut bytes) = self.log.get(input.below(self.log.len())).cloned() else { return };
        if how & 1 == 1 {
            edit(&mut bytes, input);
        }
        if how & 2 == 2 && bytes.first() == Some(&0x90) {
            self.group.mac.sign(&mut bytes);
        }
        self.receive(from, vec![bytes], scratch);
    }

    /// Lets datagrams arrive. Nobody who has proved nothing gets more bytes than it sent.
    fn receive(&mut self, from: SocketAddr, datagrams: Vec<Vec<u8>>, scratch: &mut Scratch) {
        let datagrams: Vec<Vec<u8>> = datagrams.into_iter().filter(|bytes| !bytes.is_empty()).collect();
        let Some(stride) = datagrams.first().map(Vec::len) else { return };
        let mut buf = datagrams.concat();
        let received =
            Received { start: 0, len: buf.len(), stride, from: Endpoint::Udp { socket: 0, remote: from }, class: TrafficClass(buf[0]) };
        let bound = self.bound(&datagrams);
        // What is due anyway is no answer.
        self.step(scratch, |_, _, _| {});
        let effects = self.feed(scratch, |story, scratch, effects| {
            story.pump.datagrams(scratch, &mut buf, &[received], effects, story.now);
        });
        let answer: usize = effects.datagrams.iter().map(|(_, bytes)| bytes.len()).sum();
        assert!(bound.is_none_or(|bound| answer <= bound), "{answer} bytes in answer to {bound:?}");
        self.carry(effects, scratch);
    }

    /// How many bytes may be sent in answer; `None` where a proof may be in it.
    fn bound(&self, datagrams: &[Vec<u8>]) -> Option<usize> {
        let may_prove = |bytes: &Vec<u8>| match classify(bytes[0]) {
            // An m2 or a cookie lets the node go on with what it began itself.
            Some(DatagramType::Handshake) => {
                matches!(HandshakeHeader::parse(bytes), Ok((HandshakeHeader { kind: Kind::M2 | Kind::Cookie, .. }, ..)))
            }
            // Stand-in tags can be learned by whoever sees the comparison, and the fuzzer does.
            Some(DatagramType::Control | DatagramType::Data | DatagramType::Relay) => self.crypto != CryptoMode::Real,
            None => false,
        };
        (!datagrams.iter().any(may_prove)).then(|| datagrams.iter().map(Vec::len).sum())
    }

    fn connect(&mut self, member: usize, scratch: &mut Scratch) {
        self.members[member].connect(self.now);
        self.exchange(scratch);
    }

    /// Lets a member seal any payload for the node.
    fn say(&mut self, member: usize, payload: &[u8], scratch: &mut Scratch) {
        self.members[member].say(payload, self.now);
        self.exchange(scratch);
    }

    /// Lets a member seal an IP packet for the node.
    fn data(&mut self, member: usize, input: &mut Input<'_>, scratch: &mut Scratch) {
        let how = input.u8();
        let packet = self.packet(how, input);
        self.members[member].data(how & 0x80 != 0, &packet, self.now);
        self.exchange(scratch);
    }

    /// An IP packet: with addresses that mean something, or any bytes.
    fn packet(&self, how: u8, input: &mut Input<'_>) -> Vec<u8> {
        if how.is_multiple_of(8) {
            return input.chunk().to_vec();
        }
        let mut pick = |choice: u8| {
            let own = self.addresses.get(usize::from(choice >> 4) % self.addresses.len().max(1)).copied();
            match choice % 4 {
                0 => own,
                1 => Some(self.members[usize::from(choice >> 4) % MEMBERS].own_address()),
                2 => Some(IpAddr::from([10, 200, input.u8(), choice >> 4])),
                _ => Some(IpAddr::from([0xfd00, 0xa, 0xa, 0xa, 0, 0, u16::from(input.u8()), u16::from(choice >> 4)])),
            }
            .unwrap_or_else(|| IpAddr::from([10, 200, 0, 1]))
        };
        let (source, destination) = (pick(how), pick(how.rotate_left(3)));
        let protocol = [ip::UDP, 6, 1, 58, 44, 0][usize::from(input.u8()) % 6];
        ip::packet(source, destination, protocol, how & 3, input.chunk())
    }

    /// Lets the host send a packet.
    fn host(&mut self, input: &mut Input<'_>, scratch: &mut Scratch) {
        let how = input.u8();
        let packet = self.packet(how, input);
        let mut buf = vec![0; HEADROOM];
        buf.extend_from_slice(&packet);
        buf.resize(buf.len() + TAILROOM, 0);
        let mut slots = [Slot { start: HEADROOM as u32, len: packet.len() as u16, ..Slot::default() }];
        self.step(scratch, |story, scratch, effects| {
            story.pump.packets(RealmSlot(0), scratch, &mut buf, &mut slots, effects, story.now);
        });
    }

    fn order(&self, input: &mut Input<'_>) -> Command {
        let node = match input.u8() % 4 {
            0 => self.pump.realms()[0].node.node_id(),
            which @ 1..=2 => self.members[usize::from(which) - 1].id,
            _ => NodeId(input.array()),
        };
        let any_addresses = |input: &mut Input<'_>| (0..input.u8() % 40).map(|_| address(input)).collect::<Vec<_>>();
        match input.u8() % 11 {
            0 => Command::WallClock(WALL_START.plus_secs(u64::from(input.u16()) * 60)),
            1 => Command::WallClock(UnixTime(input.u64())),
            2 => Command::Resumed,
            3 => Command::LocalAddresses(any_addresses(input)),
            4 => Command::Bootstrap(any_addresses(input)),
            5 if input.flag() => Command::RevocationList(self.group.revocations.clone()),
            5 => Command::RevocationList(input.chunk().to_vec().into()),
            6 => {
                let mut der = self.group.members[input.below(self.group.members.len())].certificate().der().to_vec();
                if input.flag() {
                    edit(&mut der, input);
                }
                Command::Certificate(der.into())
            }
            7 => Command::RestoreLease(input.chunk().to_vec().into()),
            8 => Command::Resolve { token: 1, name: String::from_utf8_lossy(input.chunk()).into_owned() },
            9 if input.flag() => Command::Ping { token: 2, node },
            9 => Command::Trace { token: 3, node },
            _ if input.u8() == 0xff => Command::Leave,
            _ => Command::Resolve { token: 4, name: "node-1".to_owned() },
        }
    }

    /// Lets time pass; every deadline on the way is kept, as far as they are few.
    fn pass(&mut self, duration: Duration, scratch: &mut Scratch) {
        let end = self.now + duration;
        for _ in 0..24 {
            self.step(scratch, |_, _, _| {});
            let next = self.pump.realms()[0].node.poll_timeout();
            self.now = next.map_or(end, |(next, _)| next.clamp(self.now, end));
            if self.now == end {
                break;
            }
        }
        self.now = end;
        for member in &mut self.members {
            member.due(end);
        }
        self.step(scratch, |_, _, _| {});
        self.exchange(scratch);
    }

    /// Does something and carries what follows from it.
    fn step(&mut self, scratch: &mut Scratch, act: impl FnOnce(&mut Self, &mut Scratch, &mut Effects)) {
        let effects = self.feed(scratch, act);
        self.carry(effects, scratch);
    }

    /// Does something to the node and lets it settle.
    fn feed(&mut self, scratch: &mut Scratch, act: impl FnOnce(&mut Self, &mut Scratch, &mut Effects)) -> Effects {
        let mut effects = Effects::default();
        act(self, scratch, &mut effects);
        let deadline = self.pump.settle(scratch, &mut effects, self.now);
        assert_eq!(self.pump.stalls(), 0, "a deadline does not advance: {deadline:?}");
        if let Some((at, kind)) = deadline {
            assert!(at > self.now, "{kind:?} was due at {at}, now is {}", self.now);
        }
        for event in &effects.events {
            match event {
                Event::Addresses { hosts, .. } => self.addresses.clone_from(hosts),
                Event::KnownAddresses(addresses) => assert!(addresses.len() <= 64),
                _ => {}
            }
        }
        effects
    }

    /// Brings what the node sent to whom it sent it.
    fn carry(&mut self, effects: Effects, scratch: &mut Scratch) {
        for (to, bytes) in effects.datagrams {
            assert!(bytes.len() <= 65_507);
            if let Some(member) = self.members.iter_mut().find(|member| member.address == to) {
                member.receive(bytes, self.now);
            }
        }
        self.exchange(scratch);
    }

    /// Brings what members sent to the node, and its answers back, until both are quiet.
    fn exchange(&mut self, scratch: &mut Scratch) {
        for _ in 0..MAX_ROUNDS {
            let now = self.now;
            let mail: Vec<(SocketAddr, Vec<u8>)> = self
                .members
                .iter_mut()
                .flat_map(|member| member.mail().into_iter().map(|bytes| (member.address, bytes)).collect::<Vec<_>>())
                .collect();
            if mail.is_empty() {
                return;
            }
            for (from, bytes) in mail {
                let mut buf = bytes.clone();
                if self.log.len() < MAX_LOG {
                    self.log.push(bytes);
                }
                let received = Received {
                    start: 0,
                    len: buf.len(),
                    stride: buf.len(),
                    from: Endpoint::Udp { socket: 0, remote: from },
                    class: TrafficClass(0),
                };
                let effects = self.feed(scratch, |story, scratch, effects| {
                    story.pump.datagrams(scratch, &mut buf, &[received], effects, story.now);
                });
                for (to, bytes) in effects.datagrams {
                    if let Some(member) = self.members.iter_mut().find(|member| member.address == to) {
                        member.receive(bytes, now);
                    }
                }
            }
        }
        self.members.iter_mut().for_each(Member::forget_mail);
    }
}

/// One of the simulated network's addresses, or an odd one.
pub(crate) fn address(input: &mut Input<'_>) -> SocketAddr {
    match input.u8() {
        which @ 0..=199 => World::address_of(u32::from(which % 10)),
        200..=219 => SocketAddr::from((input.array::<4>(), input.u16())),
        220..=239 => SocketAddr::from((input.array::<16>(), input.u16())),
        240..=249 => SocketAddr::from(([127, 0, 0, 1], 4242)),
        _ => SocketAddr::from(([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], 0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the targets assert is worth nothing when their inputs end at the first check.
    #[test]
    fn a_member_becomes_a_peer_and_its_packets_reach_the_host() {
        let mut scratch = Scratch::default();
        let mut story = Story::new(CryptoMode::StandIn, 0);
        story.step(&mut scratch, |_, _, _| {});
        story.connect(0, &mut scratch);
        story.pass(Duration::from_secs(5), &mut scratch);
        let node = &story.pump.realms()[0].node;
        assert!(node.status(story.now).peers.iter().any(|peer| peer.node_id == story.members[0].id));
        assert!(!story.members[0].asked.is_empty(), "{:?}", node.stats());

        let own = story.addresses.iter().copied().find(IpAddr::is_ipv6).unwrap();
        let packet = ip::packet(story.members[0].own_address(), own, ip::UDP, 0, b"to the host");
        story.members[0].data(true, &packet, story.now);
        let mut delivered = Vec::new();
        for bytes in story.members[0].mail() {
            let mut buf = bytes;
            let from = Endpoint::Udp { socket: 0, remote: story.members[0].address };
            let received = Received { start: 0, len: buf.len(), stride: buf.len(), from, class: TrafficClass(0) };
            let effects = story.feed(&mut scratch, |story, scratch, effects| {
                story.pump.datagrams(scratch, &mut buf, &[received], effects, story.now);
            });
            delivered.extend(effects.delivered);
        }
        assert_eq!(delivered, [packet]);
    }
}
