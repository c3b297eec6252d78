//! The order of calls around nodes and shards, shared by every driver: runtimes only wait, the pump knows what comes next.
//!
//! A driver reads datagrams and packets into buffers of its own and hands them over with [`Pump::datagrams`] and [`Pump::packets`]; then it calls
//! [`Pump::settle`], which drains everything that is due and says until when the driver may sleep.
//!
//! A pump owns the control planes and the shards 0. Further shards belong to [`Worker`](crate::worker::Worker)s on other threads: the pump publishes to
//! them through [`Driver::publish`] and takes their [`Report`]s.
//!
//! | file | what |
//! | --- | --- |
//! | `receive` | datagrams to slots and realms, for pump and workers |
//! | `carry` | verdicts carried out, for pump and workers |
//! | `others` | what is on its way to further workers, and what they said |

pub(crate) mod carry;
mod others;
pub(crate) mod receive;

use self::carry::{Backing, Plane, whole};
use self::others::Others;
use self::receive::{Realms, realm_of};
use crate::batch::{HEADROOM, Slot, TAILROOM};
use crate::events::{Command, Event};
use crate::io::{DropReason, Endpoint, Output, Path, Punt, RealmSlot, Reinject, ShardEvent, ShardId, TimerKind, TrafficClass, Verdict};
use crate::node::Node;
use crate::shard::Shard;
use crate::stats::Stats;
use crate::time::Instant;
use crate::timers::earlier;
use crate::worker::{News, Parcel, Report};

pub use self::others::PUBLISH_RETRY;

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

    /// Hands a parcel to another worker (1 and up), in order; never called by a pump whose nodes have one worker, so that a driver without others has
    /// nothing to implement.
    ///
    /// # Errors
    /// The parcel itself, when the worker's ring is full. The pump keeps it and lets that realm's control plane wait until [`Pump::settle`] is called again.
    fn publish(&mut self, worker: ShardId, realm: RealmSlot, parcel: Parcel) -> Result<(), Parcel> {
        let _ = (worker, realm);
        Err(parcel)
    }
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
    /// The traffic class of the outer header.
    pub class: TrafficClass,
}

/// Buffers that pumps work in. One serves any number of pumps on one thread, so that a simulated node costs none.
#[derive(Debug)]
pub struct Scratch {
    out: Vec<u8>,
    pub(crate) reinject: Vec<u8>,
    pub(crate) slots: Vec<Slot>,
    realms: Vec<u8>,
    pub(crate) picked: Vec<Slot>,
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
    others: Others,
}

impl Realm {
    /// What the shards of all workers carried and dropped, as far as they have told.
    #[must_use]
    pub fn data_stats(&self) -> Stats {
        let mut sum = self.shard.stats().clone();
        self.others.stats().for_each(|stats| sum.add(stats));
        sum
    }
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
        let others = Others::new(node.workers());
        self.realms.push(Realm { slot, node, shard, others });
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
        scratch.split(self, buf, received);
        let mut start = 0;
        while let Some((number, run)) = scratch.run(start) {
            start = run.end;
            if let Some(realm) = self.realms.get_mut(number) {
                let slots = &mut scratch.slots[run];
                realm.plane(&mut scratch.picked).open(buf, slots, driver, now);
                if collect_early(slots, &mut scratch.early) {
                    realm.open_early(scratch, buf, driver, now);
                }
            }
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
            realm.plane(&mut scratch.picked).seal(buf, slots, driver, now);
        }
    }

    /// Takes what another worker reports. [`Self::settle`] must follow.
    pub fn report(&mut self, worker: ShardId, slot: RealmSlot, report: Report, now: Instant) {
        let report = match report.0 {
            // A worker knows no realm's key, so it cannot tell whose a new handshake is.
            News::Punt { why: Punt::Control, from, mut bytes } => {
                let number = realm_of(self, &bytes);
                if let Some(realm) = number.and_then(|number| self.realms.get_mut(usize::from(number))) {
                    let from = realm.node.adopt(from);
                    realm.node.handle_datagram(from, &mut bytes, now);
                }
                return;
            }
            other => other,
        };
        if let Some(realm) = self.realms.iter_mut().find(|realm| realm.slot == slot) {
            realm.report(worker, report, now);
        }
    }

    /// Does all that is due, and returns until when nothing will be, with the reason.
    pub fn settle(&mut self, scratch: &mut Scratch, driver: &mut impl Driver, now: Instant) -> Option<(Instant, TimerKind)> {
        let mut deadline = None;
        for realm in &mut self.realms {
            let wanted = match realm.settle(scratch, driver, now) {
                Settled::Quiet => realm.node.poll_timeout(),
                Settled::Never => {
                    self.stalls += 1;
                    realm.node.poll_timeout()
                }
                Settled::NoRoom => Some((now + PUBLISH_RETRY, TimerKind::Output)),
            };
            deadline = earlier(deadline, wanted);
        }
        deadline
    }
}

impl Realms for Pump {
    fn place(&self, slot: RealmSlot) -> Option<u8> {
        self.realms.iter().position(|realm| realm.slot == slot).map(|number| number as u8)
    }

    fn opening(&self, datagram: &[u8]) -> Option<u8> {
        let claimed = self.realms.iter().position(|realm| realm.node.claims(datagram));
        // A stranger's datagram goes to the first realm, which counts it.
        (!self.realms.is_empty()).then(|| claimed.unwrap_or(0) as u8)
    }

    fn path(&mut self, place: u8, from: Endpoint) -> Path {
        self.realms[usize::from(place)].node.path(from)
    }
}

impl Backing for Node {
    fn endpoint(&self, path: Path) -> Option<Endpoint> {
        Self::endpoint(self, path)
    }

    fn control(&mut self, from: Path, bytes: &mut [u8], now: Instant) {
        self.handle_datagram(from, bytes, now);
    }

    fn punt(&mut self, why: Punt, from: Path, bytes: &[u8], now: Instant) {
        self.handle_punt(why, from, bytes, now);
    }

    fn refuse(&mut self, why: Punt) {
        self.refuse_punt(why);
    }
}

/// How [`Realm::settle`] ended.
enum Settled {
    /// Nothing is due any more.
    Quiet,
    /// The node asked for "now" again and again.
    Never,
    /// A further worker's ring is full.
    NoRoom,
}

impl Realm {
    const fn plane<'a>(&'a mut self, picked: &'a mut Vec<Slot>) -> Plane<'a, Node> {
        Plane { realm: self.slot, shard: &mut self.shard, backing: &mut self.node, picked }
    }

    /// Opens data packets that came in one batch with the control packet which installs their session.
    fn open_early(&mut self, scratch: &mut Scratch, buf: &mut [u8], driver: &mut impl Driver, now: Instant) {
        // The next turn would settle it all the same if this one does not become quiet.
        let _ = self.settle(scratch, driver, now);
        self.plane(&mut scratch.picked).open(buf, &mut scratch.early, driver, now);
    }

    /// Takes what another worker's shard reports.
    fn report(&mut self, worker: ShardId, news: News, now: Instant) {
        match news {
            News::Event(event) => self.hint(worker, event, now),
            News::Moved { session, from } => {
                let from = self.node.adopt(from);
                self.node.handle_event(worker, ShardEvent::Moved { session, from }, now);
            }
            News::Punt { why, from, bytes } => {
                let from = self.node.adopt(from);
                self.node.handle_punt(why, from, &bytes, now);
            }
            News::Stats(stats) => self.others.set_stats(worker, *stats),
            News::Fence(number) => self.others.fence(worker, number),
        }
    }

    /// Takes a hint of a shard; a barrier counts once all shards have applied it.
    fn hint(&mut self, shard: ShardId, event: ShardEvent, now: Instant) {
        if let ShardEvent::Applied(number) = event
            && !self.others.applied(shard, number)
        {
            return;
        }
        self.node.handle_event(shard, event, now);
    }

    /// Drains node and shard until both are quiet, or a further worker's ring is full.
    fn settle(&mut self, scratch: &mut Scratch, driver: &mut impl Driver, now: Instant) -> Settled {
        let mut idle_rounds = 0;
        if let Some(update) = self.others.flush(self.slot, driver) {
            self.shard.apply(update, now);
        }
        loop {
            let mut progress = false;
            while let Some(event) = self.shard.poll_event() {
                self.hint(self.shard.id(), event, now);
                progress = true;
            }
            while self.others.has_room()
                && let Some(output) = self.node.poll_output(&mut scratch.out, now)
            {
                self.output(output, scratch, driver, now);
                progress = true;
            }
            if !self.others.has_room() {
                return Settled::NoRoom;
            }
            if !progress {
                if self.node.poll_timeout().is_none_or(|(deadline, _)| deadline > now) {
                    self.others.answer_fences(self.slot, driver);
                    return if self.others.has_room() { Settled::Quiet } else { Settled::NoRoom };
                }
                idle_rounds += 1;
                if idle_rounds > MAX_IDLE_ROUNDS {
                    return Settled::Never;
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
            Output::Reinject { shard, action: Reinject::Open { from }, bytes } if shard != self.shard.id() => {
                let parcel = Parcel::open(self.node.paths().name(from), &scratch.out[bytes]);
                // Control waits for room, packets never do.
                if driver.publish(shard, self.slot, parcel).is_err() {
                    self.node.lose(DropReason::QueueFull);
                }
            }
            Output::Reinject { shard: _, action, bytes } => {
                self.plane(&mut scratch.picked).again(action, &scratch.out[bytes], &mut scratch.reinject, driver, now);
            }
            Output::Table(update) => {
                if let Some(update) = self.others.table(update, &self.node, driver) {
                    self.shard.apply(update, now);
                }
            }
            Output::Event(event) => driver.event(self.slot, event),
        }
    }
}

#[cfg(test)]
impl Pump {
    /// Has a realm's node publish a change.
    pub(crate) fn publish(&mut self, slot: RealmSlot, update: crate::io::TableUpdate) {
        self.realms.iter_mut().find(|realm| realm.slot == slot).expect("the realm exists").node.publish(update);
    }

    /// Barriers that all shards have applied.
    pub(crate) fn passed(&self, slot: RealmSlot) -> &[u64] {
        &self.realm(slot).expect("the realm exists").others.passed
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
