//! The order of calls around nodes and shards, shared by every driver: runtimes only wait, the pump knows what comes next.
//!
//! A driver reads datagrams and packets into buffers of its own and hands them over with [`Pump::datagrams`] and [`Pump::packets`]; then it calls
//! [`Pump::settle`], which drains everything that is due and says until when the driver may sleep.

use crate::batch::{Batch, HEADROOM, Slot, TAILROOM};
use crate::events::{Command, Event};
use crate::io::{DropReason, Ecn, Endpoint, Output, Path, Punt, RealmSlot, Reinject, TimerKind, Verdict};
use crate::node::Node;
use crate::shard::Shard;
use crate::time::Instant;
use crate::timers::earlier;
use crate::wire::{self, DatagramType};

/// Realms of one daemon: what 4 bits of a receiver index tell apart.
pub const MAX_REALMS: usize = 16;

/// Datagrams handed to the driver at once: what a pass over a TUN device brings, so that the driver and not this bound decides where a run is cut for the
/// kernel.
pub const MAX_RUN: usize = 256;

/// Packets of one batch that the control plane takes from a shard; what is beyond is dropped and counted. A flood towards an address that nobody has
/// then costs one batch's share of the control plane's time and no more.
pub const MAX_PUNTS: usize = 64;

/// How often a node may ask for "now" without an output in between before [`Pump::settle`] stops and lets the driver go on: a guard against a
/// deadline that never advances, reported by [`Pump::stalls`].
const MAX_IDLE_ROUNDS: u32 = 64;

/// What a pump needs of its surroundings. Sockets and devices never block it: what cannot be sent now is dropped and counted by the driver.
pub trait Driver {
    /// Sends datagrams to one UDP or stream endpoint. All of `slots` but the last are equally long, the last is not longer;
    /// they lie in `buf` in order, not necessarily without gaps. At most [`MAX_RUN`].
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

/// Buffers that pumps work in. One serves any number of pumps on one thread, so that a simulated node costs none.
#[derive(Debug)]
pub struct Scratch {
    out: Vec<u8>,
    reinject: Vec<u8>,
    slots: Vec<Slot>,
    realms: Vec<u8>,
    picked: Vec<Slot>,
    early: Vec<Slot>,
}

/// Bytes of the buffer for one control output: more than the largest datagram or packet.
const OUT_LEN: usize = 65_536;

impl Default for Scratch {
    fn default() -> Self {
        Self {
            out: vec![0; OUT_LEN],
            reinject: vec![0; OUT_LEN + HEADROOM + TAILROOM],
            slots: Vec::with_capacity(1024),
            realms: Vec::with_capacity(1024),
            picked: Vec::with_capacity(1024),
            early: Vec::with_capacity(64),
        }
    }
}

/// A node and its shard.
#[derive(Debug)]
pub struct Realm {
    /// The realm's number.
    pub slot: RealmSlot,
    /// The control plane.
    pub node: Node,
    /// The data plane of worker 0.
    pub shard: Shard,
}

/// All realms of one daemon on one thread.
#[derive(Debug, Default)]
pub struct Pump {
    realms: Vec<Realm>,
    stalls: u64,
}

impl Pump {
    /// A pump without realms.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a realm; `false` when [`MAX_REALMS`] are there already or its number is taken.
    pub fn add(&mut self, node: Node, shard: Shard) -> bool {
        let slot = node.realm();
        if self.realms.len() == MAX_REALMS || self.realm(slot).is_some() {
            return false;
        }
        self.realms.push(Realm { slot, node, shard });
        true
    }

    /// The realms, in the order in which they were added.
    #[must_use]
    pub fn realms(&self) -> &[Realm] {
        &self.realms
    }

    /// One realm.
    #[must_use]
    pub fn realm(&self, slot: RealmSlot) -> Option<&Realm> {
        self.realms.iter().find(|realm| realm.slot == slot)
    }

    /// How often [`Self::settle`] had to stop a node that asked for "now" again and again. Not 0 is a bug.
    #[must_use]
    pub const fn stalls(&self) -> u64 {
        self.stalls
    }

    /// Takes an order for a realm. [`Self::settle`] must follow.
    pub fn command(&mut self, slot: RealmSlot, command: Command, now: Instant) {
        if let Some(realm) = self.realms.iter_mut().find(|realm| realm.slot == slot) {
            realm.node.handle_command(command, now);
        }
    }

    /// Takes received datagrams: opens, relays and delivers what needs nothing new, hands the rest to the control plane. [`Self::settle`] must follow.
    pub fn datagrams(&mut self, scratch: &mut Scratch, buf: &mut [u8], received: &[Received], driver: &mut impl Driver, now: Instant) {
        scratch.slots.clear();
        scratch.realms.clear();
        for batch in received {
            self.split(scratch, buf, batch);
        }
        let mut start = 0;
        while start < scratch.slots.len() {
            let number = scratch.realms[start];
            let len = scratch.realms[start..].iter().take_while(|other| **other == number).count();
            if let Some(realm) = self.realms.get_mut(usize::from(number)) {
                let slots = &mut scratch.slots[start..start + len];
                realm.shard.open(&mut Batch { buf, slots }, now);
                realm.carry(slots, &mut scratch.picked, buf, driver, now);
                if collect_early(slots, &mut scratch.early) {
                    realm.open_early(scratch, buf, driver, now);
                }
            }
            start += len;
        }
    }

    /// Takes IP packets of a realm's host, each with [`HEADROOM`] and [`TAILROOM`]. [`Self::settle`] must follow.
    pub fn packets(
        &mut self,
        slot: RealmSlot,
        scratch: &mut Scratch,
        buf: &mut [u8],
        slots: &mut [Slot],
        driver: &mut impl Driver,
        now: Instant,
    ) {
        if let Some(realm) = self.realms.iter_mut().find(|realm| realm.slot == slot) {
            realm.shard.seal(&mut Batch { buf, slots }, now);
            realm.carry(slots, &mut scratch.picked, buf, driver, now);
        }
    }

    /// Does all that is due, and returns until when nothing will be, with the reason.
    pub fn settle(&mut self, scratch: &mut Scratch, driver: &mut impl Driver, now: Instant) -> Option<(Instant, TimerKind)> {
        let mut deadline = None;
        for realm in &mut self.realms {
            if !realm.settle(scratch, driver, now) {
                self.stalls += 1;
            }
            deadline = earlier(deadline, realm.node.poll_timeout());
        }
        deadline
    }

    /// Cuts what one receive call brought into slots, each with its realm.
    fn split(&mut self, scratch: &mut Scratch, buf: &[u8], batch: &Received) {
        let mut path: Option<(u8, Path)> = None;
        let stride = batch.stride.clamp(1, usize::from(u16::MAX));
        let mut start = batch.start;
        let end = (batch.start + batch.len).min(buf.len());
        while start < end {
            let len = stride.min(end - start);
            if let Some(number) = self.realm_of(&buf[start..start + len]) {
                let from = match path {
                    Some((known, path)) if known == number => path,
                    _ => self.realms[usize::from(number)].node.path(batch.from),
                };
                path = Some((number, from));
                scratch.slots.push(Slot { start: start as u32, len: len as u16, from, ecn: batch.ecn, verdict: Verdict::Pending });
                scratch.realms.push(number);
            }
            start += len;
        }
    }

    /// Which realm a datagram is for: by its index, or, when it opens a handshake, by the key that it was made under.
    fn realm_of(&self, datagram: &[u8]) -> Option<u8> {
        let index = match wire::classify(*datagram.first()?)? {
            DatagramType::Handshake => match wire::handshake::receiver_index(datagram)? {
                0 => {
                    let claimed = self.realms.iter().position(|realm| realm.node.claims(datagram));
                    // A stranger's datagram goes to the first realm, which counts it.
                    return (!self.realms.is_empty()).then(|| claimed.unwrap_or(0) as u8);
                }
                index => index,
            },
            DatagramType::Control | DatagramType::Data | DatagramType::Relay => {
                u32::from_be_bytes([0, *datagram.get(1)?, *datagram.get(2)?, *datagram.get(3)?])
            }
        };
        let slot = RealmSlot((index >> 20) as u8);
        self.realms.iter().position(|realm| realm.slot == slot).map(|number| number as u8)
    }
}

impl Realm {
    /// Carries out the verdicts of a batch.
    fn carry(&mut self, slots: &[Slot], picked: &mut Vec<Slot>, buf: &mut [u8], driver: &mut impl Driver, now: Instant) {
        picked.clear();
        picked.extend(slots.iter().filter(|slot| slot.verdict == Verdict::Deliver));
        if !picked.is_empty() {
            driver.deliver(self.slot, buf, picked);
        }
        self.transmit(slots, picked, buf, driver);
        let mut punts = 0;
        for slot in slots {
            let Verdict::Punt(why) = slot.verdict else { continue };
            let bytes = &mut buf[slot.range()];
            if why == Punt::Control {
                self.node.handle_datagram(slot.from, bytes, now);
            } else if punts < MAX_PUNTS {
                punts += 1;
                self.node.handle_punt(why, slot.from, bytes, now);
            } else {
                self.node.refuse_punt(why);
            }
        }
    }

    /// Opens data packets that came in one batch with the control packet which installs their session.
    fn open_early(&mut self, scratch: &mut Scratch, buf: &mut [u8], driver: &mut impl Driver, now: Instant) {
        // The next turn would settle it all the same if this one does not become quiet.
        let _ = self.settle(scratch, driver, now);
        self.shard.open(&mut Batch { buf, slots: &mut scratch.early }, now);
        self.carry(&scratch.early, &mut scratch.picked, buf, driver, now);
    }

    /// Sends what shall be sent, neighbours of equal size and path together.
    fn transmit(&self, slots: &[Slot], picked: &mut Vec<Slot>, buf: &[u8], driver: &mut impl Driver) {
        picked.clear();
        let mut current = Path::NONE;
        for slot in slots {
            let Verdict::Transmit(path) = slot.verdict else { continue };
            let joins = picked.first().is_none_or(|first| {
                path == current
                    && picked.len() < MAX_RUN
                    && slot.ecn == first.ecn
                    && slot.len <= first.len
                    && picked.last().is_some_and(|last| last.len == first.len)
            });
            if !joins {
                self.flush(current, picked, buf, driver);
            }
            current = path;
            picked.push(*slot);
        }
        self.flush(current, picked, buf, driver);
    }

    fn flush(&self, path: Path, picked: &mut Vec<Slot>, buf: &[u8], driver: &mut impl Driver) {
        if !picked.is_empty() {
            if let Some(to) = self.node.endpoint(path) {
                driver.transmit(to, buf, picked);
            }
            picked.clear();
        }
    }

    /// Drains node and shard until both are quiet; `false` when the node never became quiet.
    fn settle(&mut self, scratch: &mut Scratch, driver: &mut impl Driver, now: Instant) -> bool {
        let mut idle_rounds = 0;
        loop {
            let mut progress = false;
            while let Some(event) = self.shard.poll_event() {
                self.node.handle_event(self.shard.id(), event, now);
                progress = true;
            }
            while let Some(output) = self.node.poll_output(&mut scratch.out, now) {
                self.output(output, scratch, driver, now);
                progress = true;
            }
            if !progress {
                if self.node.poll_timeout().is_none_or(|(deadline, _)| deadline > now) {
                    return true;
                }
                idle_rounds += 1;
                if idle_rounds > MAX_IDLE_ROUNDS {
                    return false;
                }
                self.node.handle_timeout(now);
            }
        }
    }

    fn output(&mut self, output: Output, scratch: &mut Scratch, driver: &mut impl Driver, now: Instant) {
        match output {
            Output::Transmit { path, bytes } => {
                if let Some(to) = self.node.endpoint(path) {
                    driver.transmit(to, &scratch.out, &[whole(bytes.start, bytes.len())]);
                }
            }
            Output::Deliver { bytes } => driver.deliver(self.slot, &scratch.out, &[whole(bytes.start, bytes.len())]),
            Output::Reinject { shard: _, action, bytes } => {
                let len = bytes.len();
                scratch.reinject[HEADROOM..HEADROOM + len].copy_from_slice(&scratch.out[bytes]);
                let mut slot = whole(HEADROOM, len);
                let mut batch = Batch { buf: &mut scratch.reinject, slots: core::slice::from_mut(&mut slot) };
                match action {
                    Reinject::Seal => self.shard.seal(&mut batch, now),
                    Reinject::Open { from } => {
                        batch.slots[0].from = from;
                        self.shard.open(&mut batch, now);
                    }
                }
                self.carry(&[slot], &mut scratch.picked, &mut scratch.reinject, driver, now);
            }
            Output::Table(update) => self.shard.apply(update, now),
            Output::Event(event) => driver.event(self.slot, event),
        }
    }
}

/// Collects the data packets of unknown sessions that stand behind a control packet; `true` when there are any.
fn collect_early(slots: &[Slot], early: &mut Vec<Slot>) -> bool {
    early.clear();
    if let Some(control) = slots.iter().position(|slot| slot.verdict == Verdict::Punt(Punt::Control)) {
        let unknown = slots[control..].iter().filter(|slot| slot.verdict == Verdict::Drop(DropReason::UnknownIndex));
        early.extend(unknown.map(|slot| Slot { verdict: Verdict::Pending, ..*slot }));
    }
    !early.is_empty()
}

const fn whole(start: usize, len: usize) -> Slot {
    Slot { start: start as u32, len: len as u16, from: Path::NONE, ecn: Ecn(0), verdict: Verdict::Pending }
}
