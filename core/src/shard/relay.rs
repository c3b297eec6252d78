//! Circuit datagrams, passed on in place: at most one out for one in.

use super::Shard;
use super::circuit::Leg;
use crate::batch::Slot;
use crate::io::{DropReason, Punt, Verdict};
use crate::time::Instant;
use crate::wire::packet::{RELAY_HEADER_LEN, RelayHeader};
use crate::wire::{DatagramType, classify};

impl Shard {
    /// Passes one relay datagram on; `Ok(None)` when the circuit ends here, and then `slot` covers what was in it, come by the circuit's path.
    ///
    /// Nothing is believed of the sender but the path that it came by, and nothing in the datagram moves a path.
    #[inline]
    pub(super) fn relay(&mut self, datagram: &mut [u8], slot: &mut Slot, now: Instant) -> Result<Option<Verdict>, Verdict> {
        let header = RelayHeader::parse(datagram).map_err(|error| Verdict::Drop(error.into()))?;
        let Some(circuit) = self.circuits.get_mut(&header.circuit) else {
            let shown = self.new_circuits.take(1, now).is_ok();
            return Err(if shown { Verdict::Punt(Punt::NewCircuit) } else { Verdict::Drop(DropReason::UnknownCircuit) });
        };
        // One bucket and one counter for each circuit: only its own shard passes it on.
        if !self.settings.owns(header.circuit) {
            return Err(Verdict::Punt(Punt::WrongShard));
        }
        if slot.from != circuit.from {
            return Err(Verdict::Drop(DropReason::UnknownCircuit));
        }
        let (to, next_index) = match circuit.leg {
            Leg::Onward { to, next_index } => (to, next_index),
            Leg::Here(arrives_by) => {
                strip(slot);
                slot.from = arrives_by;
                return Ok(None);
            }
        };
        let hops_left = header.hops_left.checked_sub(1).ok_or(Verdict::Drop(DropReason::HopLimit))?;
        // What leaves without header looks like our own: only sealed packets and handshakes may.
        let inner = classify(datagram[RELAY_HEADER_LEN]);
        if matches!(inner, None | Some(DatagramType::Relay)) {
            return Err(Verdict::Drop(DropReason::UnknownType));
        }
        circuit.allowance.take(u64::from(slot.len), now).map_err(Verdict::Drop)?;
        match next_index {
            Some(circuit) => datagram[..RELAY_HEADER_LEN].copy_from_slice(&RelayHeader { hops_left, circuit }.bytes()),
            None => strip(slot),
        }
        self.stats.relayed += 1;
        Ok(Some(Verdict::Transmit(to)))
    }
}

/// Takes the relay header off.
#[inline]
fn strip(slot: &mut Slot) {
    slot.start += RELAY_HEADER_LEN as u32;
    slot.len -= RELAY_HEADER_LEN as u16;
}
