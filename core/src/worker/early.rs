//! Data packets that outran the news of their session.
//!
//! The control packet which makes a peer's session known goes to worker 0, the data packets right behind it to the session's own worker: they arrive a
//! wake-up before the install does. Without this the first packet of each session would be lost, and a TCP connection begin with a second's pause.

use core::time::Duration;

use crate::batch::Slot;
use crate::io::{DropReason, Verdict};
use crate::time::Instant;
use crate::wire::{DatagramType, classify};

/// Early datagrams that are kept at most, all realms together: what a peer sends in the time of one wake-up. Beyond it the oldest makes room; it has been
/// counted as [`DropReason::UnknownIndex`], as all of them are.
const MAX_EARLY: usize = 32;

/// The longest datagram that is kept, in bytes: one of an ordinary MTU.
const MAX_LEN: usize = 2_048;

/// How long one is kept: longer than a thread may take to wake up, shorter than what sent it waits before it sends again.
const EARLY_LIFE: Duration = Duration::from_millis(200);

/// A datagram without session.
#[derive(Debug)]
struct Kept {
    /// Place of its realm.
    place: usize,
    index: u32,
    at: Instant,
    /// How it came; the bytes lie here now.
    slot: Slot,
    bytes: Vec<u8>,
}

/// The early datagrams of one worker. Takes memory once and reuses it: strangers' datagrams come by here too.
#[derive(Debug, Default)]
pub(super) struct Early {
    kept: Vec<Kept>,
    /// Which one makes room next.
    next: usize,
}

impl Early {
    /// Keeps the data packets among `slots` that were dropped because nobody knows their session. `place` names their realm.
    pub(super) fn keep(&mut self, place: usize, slots: &[Slot], buf: &[u8], now: Instant) {
        for slot in slots.iter().filter(|slot| slot.verdict == Verdict::Drop(DropReason::UnknownIndex)) {
            if let Some(datagram) = buf.get(slot.range()).filter(|datagram| datagram.len() <= MAX_LEN)
                && let Some(index) = index_of(datagram)
            {
                self.keep_one(place, index, slot, datagram, now);
            }
        }
    }

    fn keep_one(&mut self, place: usize, index: u32, slot: &Slot, datagram: &[u8], now: Instant) {
        if self.kept.len() < MAX_EARLY {
            self.kept.push(Kept { place, index, at: now, slot: *slot, bytes: Vec::with_capacity(MAX_LEN) });
            self.next = self.kept.len() - 1;
        }
        let kept = &mut self.kept[self.next];
        self.next = (self.next + 1) % MAX_EARLY;
        kept.bytes.clear();
        kept.bytes.extend_from_slice(datagram);
        (kept.place, kept.index, kept.at, kept.slot) = (place, index, now, *slot);
    }

    /// Hands the datagrams of a session that is known now to `act`, oldest first.
    pub(super) fn release(&mut self, place: usize, index: u32, now: Instant, mut act: impl FnMut(&Slot, &[u8])) {
        let oldest = self.next.min(self.kept.len());
        let (newer, older) = self.kept.split_at_mut(oldest);
        for kept in older.iter_mut().chain(newer) {
            if kept.place == place && kept.index == index && !kept.bytes.is_empty() {
                if now.saturating_since(kept.at) < EARLY_LIFE {
                    act(&kept.slot, &kept.bytes);
                }
                kept.bytes.clear();
            }
        }
    }
}

/// The receiver index of a data packet.
fn index_of(datagram: &[u8]) -> Option<u32> {
    let &[first, i0, i1, i2, ..] = datagram else { return None };
    (classify(first) == Some(DatagramType::Data)).then(|| u32::from_be_bytes([0, i0, i1, i2]))
}
