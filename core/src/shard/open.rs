//! Datagrams: opened in place for the host, passed on, or shown to the control plane.

use core::net::IpAddr;

use super::table::ShardEvent;
use super::{MOVED_INTERVAL, Shard};
use crate::batch::{Batch, Slot};
use crate::crypto::{TAG_LEN, nonce};
use crate::io::{DropReason, Path, Punt, Verdict};
use crate::shard::hints::Hints;
use crate::shard::session::Session;
use crate::time::Instant;
use crate::wire::ip::{IpHeader, PROTOCOL_TCP, combine_ecn, set_ecn};
use crate::wire::packet::{SEALED_HEADER_LEN, SealedHeader};
use crate::wire::tcp::clamp_mss;
use crate::wire::{DatagramType, classify};

/// What was found for the datagram before: those of a batch are mostly of one session and one source.
#[derive(Clone, Copy, Default)]
struct Found {
    /// Receiver index and place of the session.
    session: Option<(u32, u32)>,
    /// A source that the session's peer may use.
    source: Option<IpAddr>,
}

impl Shard {
    /// Opens or relays the datagrams of `batch` in place and decides where each goes.
    ///
    /// [`Verdict::Deliver`]: the slot covers the inner packet. [`Verdict::Transmit`]: the slot covers the datagram to be passed on. [`Punt`]: the slot covers the
    /// datagram; where it came through a circuit that ends here, without the relay header and with the circuit's path in `slot.from`. What is dropped is
    /// undefined in the buffer. A datagram that does not authenticate changes nothing but counters of [`Shard::stats`].
    pub fn open(&mut self, batch: &mut Batch<'_>, now: Instant) {
        let mut last = Found::default();
        for slot in batch.slots.iter_mut().filter(|slot| slot.verdict == Verdict::Pending) {
            slot.verdict = self.open_one(batch.buf, slot, &mut last, now).unwrap_or_else(|refused| refused);
            self.count(slot.verdict);
        }
        self.tell_activity(now);
    }

    #[inline]
    fn open_one(&mut self, buf: &mut [u8], slot: &mut Slot, last: &mut Found, now: Instant) -> Result<Verdict, Verdict> {
        let datagram = buf.get_mut(slot.range()).ok_or(Verdict::Drop(DropReason::Malformed))?;
        match kind(datagram)? {
            DatagramType::Data => self.open_data(datagram, slot, last, now),
            DatagramType::Handshake | DatagramType::Control => Ok(Verdict::Punt(Punt::Control)),
            DatagramType::Relay => {
                if let Some(verdict) = self.relay(datagram, slot, now)? {
                    return Ok(verdict);
                }
                let datagram = buf.get_mut(slot.range()).ok_or(Verdict::Drop(DropReason::Malformed))?;
                match kind(datagram)? {
                    DatagramType::Data => self.open_data(datagram, slot, last, now),
                    DatagramType::Handshake | DatagramType::Control => Ok(Verdict::Punt(Punt::Control)),
                    // Circuits do not nest: one in gives at most one out.
                    DatagramType::Relay => Err(Verdict::Drop(DropReason::Malformed)),
                }
            }
        }
    }

    #[inline]
    fn open_data(&mut self, datagram: &mut [u8], slot: &mut Slot, last: &mut Found, now: Instant) -> Result<Verdict, Verdict> {
        let header = SealedHeader::parse(datagram).map_err(|error| Verdict::Drop(error.into()))?;
        let place = match last.session {
            Some((index, place)) if index == header.receiver => place,
            _ => {
                let place = *self.by_index.get(&header.receiver).ok_or(Verdict::Drop(DropReason::UnknownIndex))?;
                if !self.settings.owns(header.receiver) {
                    return Err(Verdict::Punt(Punt::WrongShard));
                }
                *last = Found { session: Some((header.receiver, place)), source: None };
                place
            }
        };
        let session = self.sessions[place as usize].as_deref_mut().expect("what is indexed is installed");

        let window = session.receiver.window(header.lane);
        let counter = window.rebuild(header.counter);
        window.check(counter).map_err(Verdict::Drop)?;
        let (associated, text) = datagram.split_at_mut(SEALED_HEADER_LEN);
        let len = session.open_key.open(nonce(header.lane, counter), associated, text).map_err(|_| Verdict::Drop(DropReason::Forged))?;
        // From here on it is authenticated.
        let newest = session.receiver.window_mut(header.lane).commit(counter);
        tell(session, newest, slot.from, &mut self.hints, now);
        self.news.note(session, place, len as u64, 0);

        let packet = &mut text[..len];
        let inner = IpHeader::parse(packet).map_err(|_| Verdict::Drop(DropReason::NotIp))?;
        if last.source != Some(inner.source) {
            if !self.sources.permits(inner.source, session.peer) {
                return Err(Verdict::Drop(DropReason::SpoofedSource));
            }
            last.source = Some(inner.source);
        }
        if !self.local.delivers(inner.destination) {
            return Err(Verdict::Drop(DropReason::NotOurs));
        }
        let ecn = combine_ecn(inner.class.ecn(), slot.class.ecn()).ok_or(Verdict::Drop(DropReason::Congested))?;
        if ecn != inner.class.ecn() {
            set_ecn(packet, ecn);
        }
        // What this host's end announces is lowered when it is sealed; what the other end announces decides what this host sends.
        let whole = session.sender.current.way.whole;
        if whole < self.settings.tunnel_mtu && inner.protocol == PROTOCOL_TCP && !inner.fragment {
            clamp_mss(packet, &inner, whole);
        }
        slot.start += SEALED_HEADER_LEN as u32;
        slot.len -= (SEALED_HEADER_LEN + TAG_LEN) as u16;
        self.stats.opened += 1;
        Ok(Verdict::Deliver)
    }
}

#[inline]
fn kind(datagram: &[u8]) -> Result<DatagramType, Verdict> {
    let first = datagram.first().ok_or(Verdict::Drop(DropReason::Malformed))?;
    classify(*first).ok_or(Verdict::Drop(DropReason::UnknownType))
}

/// Tells the control plane of a session's first packet, and of a new highest counter by another path.
#[inline]
fn tell(session: &mut Session, newest: bool, from: Path, hints: &mut Hints, now: Instant) {
    let receiver = &mut session.receiver;
    if !receiver.confirmed {
        receiver.confirmed = hints.push(ShardEvent::Confirmed { session: session.id });
    }
    if newest && from != receiver.seen && now >= receiver.quiet_until && hints.push(ShardEvent::Moved { session: session.id, from }) {
        receiver.seen = from;
        receiver.quiet_until = now + MOVED_INTERVAL;
    }
}
