//! Packets of the host: whose they are, on which session and way they leave, sealed in place.

use core::net::IpAddr;

use super::hints::Hints;
use super::session::Session;
use super::table::{ShardEvent, Way};
use super::{REKEY_REMINDER, Shard};
use crate::batch::{Batch, HEADROOM, Slot, TAILROOM};
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
        for slot in batch.slots.iter_mut().filter(|slot| slot.verdict == Verdict::Pending) {
            slot.verdict = match self.seal_one(batch.buf, slot, &mut last, now) {
                Ok(verdict) => {
                    self.stats.sealed += 1;
                    verdict
                }
                Err(verdict) => verdict,
            };
            self.count(slot.verdict);
        }
        self.tell_activity(now);
    }

    #[inline]
    fn seal_one(&mut self, buf: &mut [u8], slot: &mut Slot, last: &mut Option<Found>, now: Instant) -> Result<Verdict, Verdict> {
        let packet = slot.range();
        if packet.start < HEADROOM || packet.end + TAILROOM > buf.len() {
            return Err(Verdict::Drop(DropReason::Malformed));
        }
        let header = IpHeader::parse(&buf[packet.clone()]).map_err(|_| Verdict::Drop(DropReason::NotIp))?;
        let found = self.find(&header, slot.len, *last, now)?;
        *last = Some(found);

        let session = self.sessions[found.place as usize].as_deref_mut().expect("a promoted session is installed");
        let lane_way = session.sender.way(found.epoch, slot.len);
        let (way, lane) = (lane_way.way, lane_way.lane);
        let in_parts = way.routed || slot.len > way.whole;
        if slot.len > way.whole && is_too_big(&way, slot.len, &buf[packet.clone()], self.settings.tunnel_mtu) {
            return Err(Verdict::Punt(Punt::TooBig));
        }
        if way.path == Path::NONE {
            return Err(Verdict::Drop(DropReason::NoPath));
        }
        let counter = count(session, lane, &mut self.hints, now)?;
        if way.whole < self.settings.tunnel_mtu && header.protocol == PROTOCOL_TCP && !header.fragment {
            clamp_mss(&mut buf[packet.clone()], &header, way.whole);
        }

        let sealed = SealedHeader { kind: TYPE_DATA, lane, receiver: session.remote_index, counter: counter as u32 }.bytes();
        let tag = session.seal_key.seal(nonce(lane, counter), &sealed, &mut buf[packet.clone()]);
        buf[packet.end..packet.end + TAILROOM].copy_from_slice(&tag);
        let mut start = packet.start - SEALED_HEADER_LEN;
        buf[start..packet.start].copy_from_slice(&sealed);
        if let (Some((circuit, hops_left)), false) = (way.circuit, in_parts) {
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
