//! A TUN device in memory for tests: a queue in each direction, and a descriptor that event loops can wait for.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use annulus_core::batch::Slot;
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::device::{Placer, no_room};
use crate::{Sent, Tun, TunFeatures, TunStats};

/// Packets in each direction: as long as a real device's transmit queue. What does not fit is dropped by the sender, as there.
pub const QUEUE_PACKETS: usize = 1000;

#[derive(Debug, Default)]
struct Queue {
    packets: Mutex<VecDeque<Vec<u8>>>,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Vec<u8>>> {
        self.packets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, packet: &[u8]) -> bool {
        let mut packets = self.lock();
        let room = packets.len() < QUEUE_PACKETS;
        if room {
            packets.push_back(packet.to_vec());
        }
        room
    }
}

/// The node's end of the pair.
#[derive(Debug)]
pub struct MemTun {
    name: String,
    mtu: u16,
    from_host: Arc<Queue>,
    to_host: Arc<Queue>,
    ready: Arc<EventFd>,
    stats: TunStats,
}

/// The host's end of the pair: what applications would do.
#[derive(Clone, Debug)]
pub struct MemHost {
    from_host: Arc<Queue>,
    to_host: Arc<Queue>,
    ready: Arc<EventFd>,
}

/// Makes a device and its host.
///
/// # Errors
/// If the process has no descriptor left.
pub fn pair(name: &str, mtu: u16) -> io::Result<(MemTun, MemHost)> {
    let ready = Arc::new(EventFd::from_value_and_flags(0, EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?);
    let (from_host, to_host) = (Arc::new(Queue::default()), Arc::new(Queue::default()));
    let host = MemHost { from_host: Arc::clone(&from_host), to_host: Arc::clone(&to_host), ready: Arc::clone(&ready) };
    Ok((MemTun { name: name.into(), mtu, from_host, to_host, ready, stats: TunStats::default() }, host))
}

impl MemTun {
    /// A further queue of the same device: the host takes what it delivers as well, and gives it nothing, as a kernel may that puts all flows elsewhere.
    ///
    /// # Errors
    /// If the process has no descriptor left.
    pub fn further_queue(&self) -> io::Result<Self> {
        let (queue, _) = pair(&self.name, self.mtu)?;
        Ok(Self { to_host: Arc::clone(&self.to_host), ..queue })
    }
}

impl MemHost {
    /// Gives an IP packet to the device; false if its queue is full.
    #[must_use]
    pub fn send(&self, packet: &[u8]) -> bool {
        let taken = self.from_host.push(packet);
        // The counter saturates at 2^64 - 2: it cannot fail here.
        let _ = self.ready.write(1);
        taken
    }

    /// The next packet that the node delivered.
    #[must_use]
    pub fn receive(&self) -> Option<Vec<u8>> {
        self.to_host.lock().pop_front()
    }
}

impl Tun for MemTun {
    fn recv(&mut self, buf: &mut [u8], slots: &mut [Slot]) -> io::Result<usize> {
        self.stats.reads += 1;
        // Before looking: what comes later makes the descriptor ready again.
        let _ = self.ready.read();
        let mut placer = Placer::new(buf, slots);
        let mut packets = self.from_host.lock();
        while let Some(packet) = packets.front() {
            let Some(room) = placer.room(packet.len()) else {
                // Still ready.
                let _ = self.ready.write(1);
                if placer.count == 0 {
                    return Err(no_room());
                }
                break;
            };
            room.copy_from_slice(packet);
            placer.placed(packet.len());
            packets.pop_front();
        }
        self.stats.emptied += u64::from(packets.is_empty());
        self.stats.packets_in += placer.count as u64;
        Ok(placer.count)
    }

    fn send(&mut self, buf: &[u8], slots: &[Slot]) -> io::Result<Sent> {
        let mut sent = Sent::default();
        for slot in slots {
            self.stats.writes += 1;
            if self.to_host.push(&buf[slot.range()]) {
                sent.packets += 1;
            } else {
                sent.dropped += 1;
            }
        }
        self.stats.packets_out += sent.packets as u64;
        self.stats.dropped += sent.dropped as u64;
        Ok(sent)
    }

    fn features(&self) -> TunFeatures {
        TunFeatures { vnet: false, tso: false, uso: false, multi_queue: false, backend: "mem" }
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn mtu(&self) -> u16 {
        self.mtu
    }

    fn stats(&self) -> TunStats {
        self.stats
    }
}

impl AsRawFd for MemTun {
    fn as_raw_fd(&self) -> RawFd {
        self.ready.as_fd().as_raw_fd()
    }
}

impl AsFd for MemTun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ready.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(len: usize) -> Vec<u8> {
        let mut packet = vec![7; len];
        packet[0] = 0x45;
        packet
    }

    #[test]
    fn packets_cross_in_both_directions_in_order() {
        let (mut tun, host) = pair("mem0", 1400).unwrap();
        for len in [100, 200, 300] {
            assert!(host.send(&packet(len)));
        }
        let (mut buf, mut slots) = (vec![0; 4096], vec![Slot::default(); 8]);
        assert_eq!(tun.recv(&mut buf, &mut slots).unwrap(), 3);
        assert_eq!(slots[..3].iter().map(|slot| slot.len).collect::<Vec<_>>(), [100, 200, 300]);
        assert_eq!(tun.send(&buf, &slots[..3]).unwrap(), Sent { packets: 3, dropped: 0 });
        assert_eq!(host.receive().unwrap(), packet(100));
        assert_eq!(tun.recv(&mut buf, &mut slots).unwrap(), 0);
    }

    #[test]
    fn what_does_not_fit_comes_at_the_next_call() {
        let (mut tun, host) = pair("mem0", 1400).unwrap();
        assert!(host.send(&packet(100)) && host.send(&packet(1000)));
        let (mut buf, mut slots) = (vec![0; 256], vec![Slot::default(); 8]);
        assert_eq!(tun.recv(&mut buf, &mut slots).unwrap(), 1);
        assert_eq!(tun.recv(&mut buf, &mut slots).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(tun.recv(&mut vec![0; 2000], &mut slots).unwrap(), 1);
    }

    #[test]
    fn a_full_queue_drops_and_counts() {
        let (mut tun, host) = pair("mem0", 1400).unwrap();
        let full = (0..=QUEUE_PACKETS).filter(|_| host.send(&packet(40))).count();
        assert_eq!(full, QUEUE_PACKETS);
        let buf = packet(40);
        let slots = vec![Slot { start: 0, len: 40, ..Slot::default() }; QUEUE_PACKETS + 5];
        assert_eq!(tun.send(&buf, &slots).unwrap(), Sent { packets: QUEUE_PACKETS, dropped: 5 });
    }
}
