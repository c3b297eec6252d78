//! Packets of the host: whose they are, on which session and way they leave, sealed in place.

use core::net::IpAddr;

use super::hints::Hints;
use super::session::Session;
use super::table::{ShardEvent, Way};
use super::{REKEY_REMINDER, Shard};
use crate::batch::{Batch, HEADROOM, OVERLAP, Slot, TAILROOM};
use crate::crypto::nonce;
use crate::io::{DropReason, Path, Punt, TrafficClass, Verdict};
use crate::time::Instant;
use crate::wire::TYPE_DATA;
use crate::wire::ip::{FlowKey, IpHeader, PROTOCOL_TCP, is_local_scope};
use crate::wire::packet::{RELAY_HEADER_LEN, RelayHeader, SEALED_HEADER_LEN, SealedHeader};
use crate::wire::tcp::clamp_mss;

/// What every IPv6 link carries (RFC 8200, section 5): nobody cuts smaller packets because a message says so.
const MIN_V6_MTU: u16 = 1_280;

/// What was found for the packet before: the packets of a batch are mostly of one flow.
#[derive(Clone, Copy)]
struct Found {
    flow: FlowKey,
    /// Place of the session.
    place: u32,
    /// Which of its ways the flow takes.
    epoch: u32,
}

impl Shard {
    /// Seals the inner packets of `batch` in place and decides where each goes.
    ///
    /// [`Verdict::Transmit`]: the slot covers the datagram to be sent, with the traffic class of its outer header. [`Punt::Routed`]: the same, to be routed over the ring on the
    /// path in `slot.from`. All other verdicts leave the packet as it was. Slots need [`HEADROOM`] and [`TAILROOM`]; those without are dropped as malformed.
    pub fn seal(&mut self, batch: &mut Batch<'_>, now: Instant) {
        let mut last = None;
        // Where the datagram before ends.
        let mut end = 0;
        for index in 0..batch.slots.len() {
            let slots = &mut batch.slots[index..];
            if slots[0].verdict == Verdict::Pending {
                let verdict = match self.seal_one(batch.buf, slots, end, &mut last, now) {
                    Ok(verdict) => {
                        self.stats.sealed += 1;
                        verdict
                    }
                    Err(verdict) => verdict,
                };
                slots[0].verdict = verdict;
                self.count(verdict);
            }
            end = slots[0].range().end;
        }
        self.tell_activity(now);
    }

    /// Seals the first of `slots`; the datagram before it ends at `end`.
    #[inline]
    fn seal_one(
        &mut self,
        buf: &mut [u8],
        slots: &mut [Slot],
        end: usize,
        last: &mut Option<Found>,
        now: Instant,
    ) -> Result<Verdict, Verdict> {
        let slot = &mut slots[0];
        let mut packet = slot.range();
        if packet.start < HEADROOM || packet.end + TAILROOM > buf.len() {
            return Err(Verdict::Drop(DropReason::Malformed));
        }
        let header = IpHeader::parse(&buf[packet.clone()]).map_err(|_| Verdict::Drop(DropReason::NotIp))?;
        let found = self.find(&header, slot.len, *last, now)?;
        *last = Some(found);

        let session = self.sessions[found.place as usize].as_deref_mut().expect("a promoted session is installed");
        let lane_way = session.sender.way(found.epoch, slot.len);
        let (way, lane) = (lane_way.way, lane_way.lane);
        if slot.len > way.whole && is_too_big(&way, slot.len, &buf[packet.clone()], self.settings.tunnel_mtu) {
            return Err(Verdict::Punt(Punt::TooBig));
        }
        if way.path == Path::NONE {
            return Err(Verdict::Drop(DropReason::NoPath));
        }
        let in_parts = way.routed || slot.len > way.whole;
        let relay = way.circuit.filter(|_| !in_parts);
        if relay.is_some() && packet.start < end + HEADROOM {
            spread(buf, slots).ok_or(Verdict::Drop(DropReason::Malformed))?;
            packet = slots[0].range();
        }
        let slot = &mut slots[0];
        let counter = count(session, lane, &mut self.hints, now)?;
        if way.whole < self.settings.tunnel_mtu && header.protocol == PROTOCOL_TCP && !header.fragment {
            clamp_mss(&mut buf[packet.clone()], &header, way.whole);
        }

        let sealed = SealedHeader { kind: TYPE_DATA, lane, receiver: session.remote_index, counter: counter as u32 }.bytes();
        let tag = session.seal_key.seal(nonce(lane, counter), &sealed, &mut buf[packet.clone()]);
        buf[packet.end..packet.end + TAILROOM].copy_from_slice(&tag);
        let mut start = packet.start - SEALED_HEADER_LEN;
        buf[start..packet.start].copy_from_slice(&sealed);
        if let Some((circuit, hops_left)) = relay {
            start -= RELAY_HEADER_LEN;
            buf[start..start + RELAY_HEADER_LEN].copy_from_slice(&RelayHeader { hops_left, circuit }.bytes());
        }
        self.news.note(session, found.place, 0, u64::from(slot.len));
        slot.len = (packet.end + TAILROOM - start) as u16;
        slot.start = start as u32;
        slot.class = TrafficClass(header.class.0 & self.settings.class_mask);
        if in_parts {
            slot.from = way.path;
            return Ok(Verdict::Punt(Punt::Routed));
        }
        Ok(Verdict::Transmit(way.path))
    }

    /// The session and the way for a packet of `len` bytes.
    #[inline]
    fn find(&mut self, header: &IpHeader, len: u16, last: Option<Found>, now: Instant) -> Result<Found, Verdict> {
        let flow = header.flow();
        let place = match last {
            Some(found) if found.flow == flow => return Ok(found),
            Some(found) if found.flow.destination == flow.destination => found.place,
            _ => self.session_for(header.destination)?,
        };
        let session = self.sessions[place as usize].as_deref_mut().expect("a promoted session is installed");
        let epoch = match self.flows.touch(&flow, session.id, now) {
            Some((entry, gap)) => {
                entry.epoch = session.sender.choose(entry.epoch, gap, len, now);
                entry.epoch
            }
            None => session.sender.choose(0, None, len, now),
        };
        Ok(Found { flow, place, epoch })
    }

    /// The place of the session to seal on for `destination`.
    fn session_for(&mut self, destination: IpAddr) -> Result<u32, Verdict> {
        if self.local.serves(destination) {
            return Err(Verdict::Punt(Punt::Service));
        }
        let local_scope = is_local_scope(destination);
        match self.routes.find(destination) {
            // A default route does not mean multicast, broadcast or link-local addresses; a route of their own does.
            Some((prefix, peer)) if !local_scope || (is_local_scope(prefix.address) && !prefix.address.is_unspecified()) => {
                self.promoted.get(&peer).copied().ok_or(Verdict::Punt(Punt::NoSession))
            }
            _ if local_scope => Err(Verdict::Drop(DropReason::NoRoute)),
            _ => Err(Verdict::Punt(Punt::NoAddress)),
        }
    }
}

/// Whether the sender of a packet that its way does not carry whole is to be told: where the packet says so by "don't fragment", of IPv6 from the size on
/// that no link promises, and always beyond the tunnel's MTU.
#[cold]
fn is_too_big(way: &Way, len: u16, packet: &[u8], tunnel_mtu: u16) -> bool {
    match packet {
        [first, _, _, _, _, _, flags, ..] if first >> 4 == 4 => len > tunnel_mtu || (len > way.mtu && flags & 0x40 != 0),
        _ => len > way.mtu.max(MIN_V6_MTU),
    }
}

/// Moves packets apart that lie too close together for a relay header: each by [`OVERLAP`] bytes more than the one before. One copy more for those who are
/// reached through a relay only, none for all others. `None`, and nothing moved, when the buffer has no room for it.
#[cold]
fn spread(buf: &mut [u8], slots: &mut [Slot]) -> Option<()> {
    let end = slots.last()?.range().end + TAILROOM + OVERLAP * slots.len();
    if end > buf.len() {
        return None;
    }
    for (before, slot) in slots.iter_mut().enumerate().rev() {
        let start = slot.start as usize + OVERLAP * (before + 1);
        buf.copy_within(slot.range(), start);
        slot.start = start as u32;
    }
    Some(())
}

/// The counter of the next packet of `session` on `lane`. Tells the control plane when the rekey is due.
#[inline]
fn count(session: &mut Session, lane: u8, hints: &mut Hints, now: Instant) -> Result<u64, Verdict> {
    match session.sender.count(lane, now) {
        Ok((counter, due)) => {
            if due || session.rekey_untold {
                session.rekey_untold = !hints.push(ShardEvent::RekeyDue { session: session.id });
            }
            Ok(counter)
        }
        Err(_) => {
            if now >= session.rekey_quiet_until && hints.push(ShardEvent::RekeyDue { session: session.id }) {
                session.rekey_quiet_until = now + REKEY_REMINDER;
                session.rekey_untold = false;
            }
            Err(Verdict::Drop(DropReason::KeyExhausted))
        }
    }
}
