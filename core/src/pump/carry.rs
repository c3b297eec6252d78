//! What follows from a shard's verdicts, for whoever owns the shard: a realm of the pump, or one of a further worker.

use super::{Driver, MAX_PUNTS, MAX_RUN};
use crate::batch::{Batch, HEADROOM, Slot};
use crate::io::{Endpoint, Path, Punt, RealmSlot, Reinject, TrafficClass, Verdict};
use crate::shard::Shard;
use crate::time::Instant;

/// What stands behind a shard: it knows what paths stand for, and takes what the shard could not decide.
pub(crate) trait Backing {
    /// What a path stands for.
    fn endpoint(&self, path: Path) -> Option<Endpoint>;

    /// Takes a handshake or control packet, which may be changed in place.
    fn control(&mut self, from: Path, bytes: &mut [u8], now: Instant);

    /// Takes what else the shard could not decide.
    fn punt(&mut self, why: Punt, from: Path, bytes: &[u8], now: Instant);

    /// Counts what did not fit into its batch's share.
    fn refuse(&mut self, why: Punt);
}

/// A shard with what stands behind it, and a list to sort slots in.
pub(crate) struct Plane<'a, B> {
    pub(crate) realm: RealmSlot,
    pub(crate) shard: &'a mut Shard,
    pub(crate) backing: &'a mut B,
    pub(crate) picked: &'a mut Vec<Slot>,
}

impl<B: Backing> Plane<'_, B> {
    /// Seals a batch of packets and carries out what was decided.
    pub(crate) fn seal(&mut self, buf: &mut [u8], slots: &mut [Slot], driver: &mut impl Driver, now: Instant) {
        self.shard.seal(&mut Batch { buf, slots }, now);
        self.carry(buf, slots, driver, now);
    }

    /// Opens a batch of datagrams and carries out what was decided.
    pub(crate) fn open(&mut self, buf: &mut [u8], slots: &mut [Slot], driver: &mut impl Driver, now: Instant) {
        self.shard.open(&mut Batch { buf, slots }, now);
        self.carry(buf, slots, driver, now);
    }

    /// Does with one packet, which is copied into `room`, what was asked for.
    pub(crate) fn again(&mut self, action: Reinject, bytes: &[u8], room: &mut [u8], driver: &mut impl Driver, now: Instant) {
        let Some(place) = room.get_mut(HEADROOM..HEADROOM + bytes.len()) else { return };
        place.copy_from_slice(bytes);
        let mut slot = whole(HEADROOM, bytes.len());
        match action {
            Reinject::Seal => self.seal(room, core::slice::from_mut(&mut slot), driver, now),
            Reinject::Open { from } => {
                slot.from = from;
                self.open(room, core::slice::from_mut(&mut slot), driver, now);
            }
        }
    }

    /// Carries out the verdicts of a batch.
    pub(crate) fn carry(&mut self, buf: &mut [u8], slots: &[Slot], driver: &mut impl Driver, now: Instant) {
        let picked = &mut *self.picked;
        picked.clear();
        picked.extend(slots.iter().filter(|slot| slot.verdict == Verdict::Deliver));
        if !picked.is_empty() {
            driver.deliver(self.realm, buf, picked);
        }
        transmit(self.backing, slots, picked, buf, driver);
        let mut punts = 0;
        for slot in slots {
            let Verdict::Punt(why) = slot.verdict else { continue };
            let bytes = &mut buf[slot.range()];
            if why == Punt::Control {
                self.backing.control(slot.from, bytes, now);
            } else if punts < MAX_PUNTS {
                punts += 1;
                self.backing.punt(why, slot.from, bytes, now);
            } else {
                self.backing.refuse(why);
            }
        }
    }
}

/// A slot for one packet of the control plane.
pub(crate) const fn whole(start: usize, len: usize) -> Slot {
    Slot { start: start as u32, len: len as u16, from: Path::NONE, class: TrafficClass(0), verdict: Verdict::Pending }
}

/// Sends what shall be sent, neighbours of equal size and path together.
fn transmit(backing: &impl Backing, slots: &[Slot], picked: &mut Vec<Slot>, buf: &[u8], driver: &mut impl Driver) {
    picked.clear();
    let mut current = Path::NONE;
    for slot in slots {
        let Verdict::Transmit(path) = slot.verdict else { continue };
        let joins = picked.first().is_none_or(|first| {
            path == current
                && picked.len() < MAX_RUN
                && slot.class == first.class
                && slot.len <= first.len
                && picked.last().is_some_and(|last| last.len == first.len)
        });
        if !joins {
            flush(backing, current, picked, buf, driver);
        }
        current = path;
        picked.push(*slot);
    }
    flush(backing, current, picked, buf, driver);
}

fn flush(backing: &impl Backing, path: Path, picked: &mut Vec<Slot>, buf: &[u8], driver: &mut impl Driver) {
    if !picked.is_empty() {
        if let Some(to) = backing.endpoint(path) {
            driver.transmit(to, buf, picked);
        }
        picked.clear();
    }
}
