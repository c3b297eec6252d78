//! What a receive call brought, cut into slots that each belong to a realm.

use core::ops::Range;

use super::{Received, Scratch};
use crate::batch::Slot;
use crate::io::{Endpoint, Path, RealmSlot, Verdict};
use crate::wire::{self, DatagramType};

/// The realms of one thread, by their place in it.
pub(crate) trait Realms {
    /// The place of the realm with this number.
    fn place(&self, slot: RealmSlot) -> Option<u8>;

    /// The place of the realm that a datagram which opens a handshake is for.
    fn opening(&self, datagram: &[u8]) -> Option<u8>;

    /// The path of an endpoint, as the realm at a place knows it.
    fn path(&mut self, place: u8, from: Endpoint) -> Path;
}

/// Which realm a datagram is for: by its index, or, when it opens a handshake, by the key that it was made under.
pub(crate) fn realm_of(realms: &impl Realms, datagram: &[u8]) -> Option<u8> {
    let index = match wire::classify(*datagram.first()?)? {
        DatagramType::Handshake => match wire::handshake::receiver_index(datagram)? {
            0 => return realms.opening(datagram),
            index => index,
        },
        DatagramType::Control | DatagramType::Data | DatagramType::Relay => {
            u32::from_be_bytes([0, *datagram.get(1)?, *datagram.get(2)?, *datagram.get(3)?])
        }
    };
    realms.place(RealmSlot((index >> 20) as u8))
}

impl Scratch {
    /// Cuts what receive calls brought into slots, each with the place of its realm.
    pub(crate) fn split(&mut self, realms: &mut impl Realms, buf: &[u8], received: &[Received]) {
        self.slots.clear();
        self.realms.clear();
        for batch in received {
            self.split_one(realms, buf, batch);
        }
    }

    fn split_one(&mut self, realms: &mut impl Realms, buf: &[u8], batch: &Received) {
        let mut path: Option<(u8, Path)> = None;
        let stride = batch.stride.clamp(1, usize::from(u16::MAX));
        let mut start = batch.start;
        let end = (batch.start + batch.len).min(buf.len());
        while start < end {
            let len = stride.min(end - start);
            if let Some(number) = realm_of(realms, &buf[start..start + len]) {
                let from = match path {
                    Some((known, path)) if known == number => path,
                    _ => realms.path(number, batch.from),
                };
                path = Some((number, from));
                self.slots.push(Slot { start: start as u32, len: len as u16, from, class: batch.class, verdict: Verdict::Pending });
                self.realms.push(number);
            }
            start += len;
        }
    }

    /// The neighbouring slots of one realm from `start` on, and the realm's place.
    pub(crate) fn run(&self, start: usize) -> Option<(usize, Range<usize>)> {
        let number = *self.realms.get(start)?;
        let len = self.realms[start..].iter().take_while(|other| **other == number).count();
        Some((usize::from(number), start..start + len))
    }
}
