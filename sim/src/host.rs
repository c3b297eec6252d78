//! One simulated host.

use core::net::SocketAddr;

use annulus_core::batch::{HEADROOM, Slot, TAILROOM};
use annulus_core::events::{Command, Event};
use annulus_core::io::{Endpoint, Path, RealmSlot, TrafficClass, Verdict};
use annulus_core::node::Node;
use annulus_core::pump::{Driver, Pump, Received, Scratch};
use annulus_core::shard::Shard;
use annulus_core::time::Instant;

/// What a host did when it was last fed.
#[derive(Debug, Default)]
pub struct Effects {
    /// Datagrams that it sent.
    pub datagrams: Vec<(SocketAddr, Vec<u8>)>,
    /// IP packets that its VPN delivered.
    pub delivered: Vec<Vec<u8>>,
    /// What it told its daemon.
    pub events: Vec<Event>,
}

impl Driver for Effects {
    fn transmit(&mut self, to: Endpoint, buf: &[u8], slots: &[Slot]) {
        if let Endpoint::Udp { remote, .. } = to {
            self.datagrams.extend(slots.iter().map(|slot| (remote, buf[slot.range()].to_vec())));
        }
    }

    fn deliver(&mut self, _: RealmSlot, buf: &[u8], slots: &[Slot]) {
        self.delivered.extend(slots.iter().map(|slot| buf[slot.range()].to_vec()));
    }

    fn event(&mut self, _: RealmSlot, event: Event) {
        self.events.push(event);
    }
}

/// A pump with one realm, and when it wants to be woken.
#[derive(Debug)]
pub struct Host {
    /// Its address in the simulated network.
    pub address: SocketAddr,
    /// Whether it runs; a crashed host says nothing and hears nothing.
    pub alive: bool,
    /// When it wants to be woken.
    pub wake: Option<Instant>,
    /// The latest wake-up that stands in the world's queue.
    pub(crate) scheduled: Option<Instant>,
    pump: Pump,
}

impl Host {
    /// A host at `address`.
    #[must_use]
    pub fn new(address: SocketAddr, node: Node, shard: Shard) -> Self {
        let mut pump = Pump::new();
        pump.add(node, shard);
        Self { address, alive: true, wake: None, scheduled: None, pump }
    }

    /// The host's node.
    ///
    /// # Panics
    /// Never: a host is made with its realm.
    #[must_use]
    pub fn node(&self) -> &Node {
        &self.pump.realms().first().expect("a host has one realm").node
    }

    /// How often the pump had to stop a node that asked for "now" again and again; not 0 is a bug.
    #[must_use]
    pub const fn stalls(&self) -> u64 {
        self.pump.stalls()
    }

    /// Lets a datagram arrive.
    pub fn datagram(&mut self, from: SocketAddr, bytes: &mut [u8], scratch: &mut Scratch, effects: &mut Effects, now: Instant) {
        let from = Endpoint::Udp { socket: 0, remote: from };
        let received = Received { start: 0, len: bytes.len(), stride: bytes.len().max(1), from, class: TrafficClass(0) };
        self.pump.datagrams(scratch, bytes, &[received], effects, now);
        self.settle(scratch, effects, now);
    }

    /// Lets the host send an IP packet.
    pub fn packet(&mut self, packet: &[u8], scratch: &mut Scratch, effects: &mut Effects, now: Instant) {
        let mut buf = vec![0; HEADROOM + packet.len() + TAILROOM];
        buf[HEADROOM..HEADROOM + packet.len()].copy_from_slice(packet);
        let mut slot =
            Slot { start: HEADROOM as u32, len: packet.len() as u16, from: Path::NONE, class: TrafficClass(0), verdict: Verdict::Pending };
        self.pump.packets(RealmSlot(0), scratch, &mut buf, core::slice::from_mut(&mut slot), effects, now);
        self.settle(scratch, effects, now);
    }

    /// Gives the node an order.
    pub fn command(&mut self, command: Command, scratch: &mut Scratch, effects: &mut Effects, now: Instant) {
        self.pump.command(RealmSlot(0), command, now);
        self.settle(scratch, effects, now);
    }

    /// Does what is due, and notes when to be woken next.
    pub fn settle(&mut self, scratch: &mut Scratch, effects: &mut Effects, now: Instant) {
        self.wake = self.pump.settle(scratch, effects, now).map(|(deadline, _)| deadline);
    }
}
