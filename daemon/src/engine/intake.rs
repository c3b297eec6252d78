//! The buffers that sockets and devices are read into, and one bounded reading of each.

use annulus_core::batch::Slot;
use annulus_core::io::RealmSlot;
use annulus_core::pump::Received;
use annulus_core::time::Instant;
use annulus_tun_bridge::sys::RECEIVE_BATCH;

use super::host::Host;
use super::moderation::Moderation;
use crate::clock;
use crate::udp::MAX_SEGMENTS;

/// Bytes and packets taken from one queue of a TUN device in one pass: four super-packets of 64 KB with room around each packet, or as many small ones as
/// leave in two sends. Those take 0.5 ms so, and what came to another queue waits no longer than that.
const TUN_BUFFER: usize = 4 * 80 * 1024;
const TUN_SLOTS: usize = 2 * MAX_SEGMENTS;

/// One thread's buffers.
#[derive(Debug)]
pub(super) struct Intake {
    buffer: Vec<u8>,
    received: Vec<Received>,
    tun_buffer: Vec<u8>,
    slots: Vec<Slot>,
    moderation: Moderation,
}

impl Intake {
    /// Large enough for the sockets and devices of `host`.
    pub(super) fn new(host: &Host) -> Self {
        let buffer = host.sockets.iter().map(|socket| socket.buffer_for(RECEIVE_BATCH)).max().unwrap_or(0);
        let (tun_buffer, slots) = if host.devices.is_empty() { (0, 0) } else { (TUN_BUFFER, TUN_SLOTS) };
        Self {
            buffer: vec![0; buffer],
            received: Vec::with_capacity(RECEIVE_BATCH),
            tun_buffer: vec![0; tun_buffer],
            slots: vec![Slot::default(); slots],
            moderation: Moderation::default(),
        }
    }

    /// Receives once from a socket and has what came carried; says whether there may be more.
    pub(super) fn datagrams(&mut self, host: &mut Host, index: usize, carry: impl FnOnce(&mut [u8], &[Received], &mut Host)) -> bool {
        let socket = &mut host.sockets[index];
        if let Err(error) = socket.receive(&mut self.buffer, &mut self.received) {
            host.broken.get_or_insert_with(|| format!("the UDP socket is broken: {error}"));
            return false;
        }
        let more = socket.was_filled();
        if !self.received.is_empty() {
            let (datagrams, bytes) = self.received.iter().fold((0, 0), |(n, sum), one| (n + one.len.div_ceil(one.stride), sum + one.len));
            self.moderation.received(datagrams, bytes);
            carry(&mut self.buffer, &self.received, host);
        }
        more
    }

    /// Reads once from a device and has what came carried; says whether there may be more.
    pub(super) fn packets(
        &mut self,
        host: &mut Host,
        index: usize,
        carry: impl FnOnce(RealmSlot, &mut [u8], &mut [Slot], &mut Host),
    ) -> bool {
        let device = &mut host.devices[index];
        let realm = device.realm;
        let before = device.tun.stats();
        let count = match device.tun.recv(&mut self.tun_buffer, &mut self.slots) {
            Ok(count) => count,
            Err(error) => {
                let name = device.tun.name().to_owned();
                host.broken.get_or_insert_with(|| format!("the TUN device {name} is gone: {error}"));
                return false;
            }
        };
        let after = device.tun.stats();
        if count > 0 {
            self.moderation.taken(after.reads - before.reads);
            carry(realm, &mut self.tun_buffer, &mut self.slots[..count], host);
        }
        count > 0 && after.emptied == before.emptied
    }

    /// Ends a pass: rests if a flood and others that wait for the CPU make it worth while. Returns what time it is then.
    pub(super) fn rest(&mut self, now: Instant) -> Instant {
        let Some(rest) = self.moderation.end_pass(now) else { return now };
        std::thread::sleep(rest);
        clock::now()
    }
}
