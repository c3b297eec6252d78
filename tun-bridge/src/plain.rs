//! The plain TUN device on the `tun-tap` crate: one packet per call, for kernels without virtio headers on TUN.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use annulus_core::batch::Slot;
use tun_tap::{Iface, Mode};

use crate::device::{Placer, no_room};
use crate::{Sent, Tun, TunConfig, TunFeatures, TunStats, sys};

/// A TUN device of the `tun-tap` crate.
#[derive(Debug)]
pub(crate) struct PlainTun {
    iface: Iface,
    mtu: u16,
    stats: TunStats,
}

impl PlainTun {
    pub(crate) fn open(config: &TunConfig) -> io::Result<Self> {
        let iface = Iface::without_packet_info(&config.name, Mode::Tun)?;
        iface.set_non_blocking()?;
        Ok(Self { iface, mtu: config.mtu, stats: TunStats::default() })
    }
}

impl Tun for PlainTun {
    fn recv(&mut self, buf: &mut [u8], slots: &mut [Slot]) -> io::Result<usize> {
        let mut placer = Placer::new(buf, slots);
        loop {
            // Never offer less than an MTU: the kernel cuts off what does not fit.
            let largest = placer.largest().min(usize::from(u16::MAX));
            let Some(room) = placer.room(largest.max(usize::from(self.mtu))) else { break };
            self.stats.reads += 1;
            match self.iface.recv(room) {
                Ok(len) if matches!(room.first().map(|byte| byte >> 4), Some(4 | 6)) && len >= 20 => {
                    placer.placed(len);
                }
                Ok(_) => self.stats.malformed += 1,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.stats.emptied += 1;
                    self.stats.packets_in += placer.count as u64;
                    return Ok(placer.count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.stats.packets_in += placer.count as u64;
        let count = placer.count;
        if count == 0 && !slots.is_empty() { Err(no_room()) } else { Ok(count) }
    }

    fn send(&mut self, buf: &[u8], slots: &[Slot]) -> io::Result<Sent> {
        let mut sent = Sent::default();
        for slot in slots {
            self.stats.writes += 1;
            match self.iface.send(&buf[slot.range()]) {
                Ok(_) => sent.packets += 1,
                Err(error) if error.raw_os_error() == Some(libc::EBADFD) => return Err(error),
                Err(_) => sent.dropped += 1,
            }
        }
        self.stats.packets_out += sent.packets as u64;
        self.stats.dropped += sent.dropped as u64;
        Ok(sent)
    }

    fn features(&self) -> TunFeatures {
        TunFeatures { vnet: false, tso: false, uso: false, multi_queue: false, backend: "tun-tap" }
    }

    fn name(&self) -> &str {
        self.iface.name()
    }

    fn mtu(&self) -> u16 {
        self.mtu
    }

    fn stats(&self) -> TunStats {
        self.stats
    }
}

impl AsRawFd for PlainTun {
    fn as_raw_fd(&self) -> RawFd {
        self.iface.as_raw_fd()
    }
}

impl AsFd for PlainTun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        sys::borrow_iface(&self.iface)
    }
}
