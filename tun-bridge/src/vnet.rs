//! The fast TUN device: virtio headers, super-packets of up to 64 KB in both directions, one copy in and none out.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use annulus_core::batch::Slot;
use libc::{IFF_MULTI_QUEUE, IFF_NO_PI, IFF_TUN, IFF_TUN_EXCL, IFF_VNET_HDR};

use crate::device::{Placer, no_room, open_device};
use crate::merge::{Allowed, Merger};
use crate::split::Split;
use crate::{Sent, Tun, TunConfig, TunFeatures, TunStats, sys, virtio};

/// Offload bits of `TUNSETOFFLOAD` (linux/if_tun.h).
const TUN_F_CSUM: u32 = 0x01;
const TUN_F_TSO4: u32 = 0x02;
const TUN_F_TSO6: u32 = 0x04;
const TUN_F_TSO_ECN: u32 = 0x08;
const TUN_F_USO4: u32 = 0x20;
const TUN_F_USO6: u32 = 0x40;

/// What is tried in turn: everything (Linux 6.2), without UDP, checksums only, nothing.
const OFFLOADS: [u32; 4] = [
    TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN | TUN_F_USO4 | TUN_F_USO6,
    TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN,
    TUN_F_CSUM,
    0,
];

/// One super-packet with its virtio header.
const STAGING_LEN: usize = virtio::LEN + 65_536;

/// One queue of a TUN device with virtio headers.
#[derive(Debug)]
pub(crate) struct VnetTun {
    file: File,
    /// What is written to instead when the device has several queues: one that was detached. The kernel sends a flow to the queue where it saw the
    /// flow's other direction written last, and so moves it between queues while packets wait in both; what a detached queue brings moves nothing,
    /// and each flow stays where its hash puts it.
    writer: Option<File>,
    name: String,
    mtu: u16,
    offloads: u32,
    multi_queue: bool,
    /// What the device gave last; the kernel wants one buffer for all of it.
    staging: Box<[u8]>,
    /// How far what is in `staging` has been split; `None`: all of it.
    pending: Option<(Split, usize)>,
    merger: Merger,
    stats: TunStats,
}

/// Opens all queues of a device.
pub(crate) fn open(config: &TunConfig) -> io::Result<Vec<VnetTun>> {
    // Exclusively: with several queues a second program could join the device and take away a part of its packets.
    let exclusive = if config.queues > 1 { IFF_TUN_EXCL } else { 0 };
    let first = VnetTun::open(config, &config.name, exclusive)?;
    let mut queues = vec![first];
    while queues.len() < usize::from(config.queues) {
        let next = VnetTun::open(config, &queues[0].name, 0)?;
        queues.push(next);
    }
    if queues.len() > 1 {
        for queue in &mut queues {
            let (writer, _) = attach(&queue.name, IFF_MULTI_QUEUE)?;
            sys::tun_detach_queue(writer.as_fd())?;
            queue.writer = Some(writer);
        }
    }
    Ok(queues)
}

/// Opens one queue of a device, which is made if it is the first; returns its name too.
fn attach(name: &str, flags: i32) -> io::Result<(File, String)> {
    let file = open_device().map_err(|error| io::Error::other(error.to_string()))?;
    let name = sys::tun_attach(file.as_fd(), name, IFF_TUN | IFF_NO_PI | IFF_VNET_HDR | flags)?;
    Ok((file, name))
}

impl VnetTun {
    fn open(config: &TunConfig, name: &str, flags: i32) -> io::Result<Self> {
        let multi_queue = config.queues > 1;
        let (file, name) = attach(name, flags | if multi_queue { IFF_MULTI_QUEUE } else { 0 })?;
        let mut offloads = 0;
        for wanted in OFFLOADS.into_iter().filter(|wanted| config.offload || *wanted == 0) {
            match sys::tun_set_offload(file.as_fd(), wanted) {
                Ok(()) => {
                    offloads = wanted;
                    break;
                }
                Err(error) => tracing::debug!(%error, wanted, "the kernel does not know these TUN offloads"),
            }
        }
        Ok(Self {
            file,
            writer: None,
            name,
            mtu: config.mtu,
            offloads,
            multi_queue,
            staging: vec![0; STAGING_LEN].into_boxed_slice(),
            pending: None,
            merger: Merger::new(),
            stats: TunStats::default(),
        })
    }

    /// Hands out packets of what is in `staging`; whether all of it is out.
    fn drain(&mut self, placer: &mut Placer<'_>) -> bool {
        let Some((split, end)) = &mut self.pending else { return true };
        if !split.place(&self.staging[virtio::LEN..*end], placer) {
            return false;
        }
        self.pending = None;
        true
    }

    /// Reads one packet into `staging`; whether there was one.
    fn fill(&mut self) -> io::Result<bool> {
        loop {
            self.stats.reads += 1;
            let end = match self.file.read(&mut self.staging) {
                Ok(end) => end,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.stats.emptied += 1;
                    return Ok(false);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let (head, packet) = self.staging[..end.max(virtio::LEN)].split_at_mut(virtio::LEN);
            let split = virtio::Header::parse(head).map(|header| Split::new(&header, packet));
            if let Some(Ok(split)) = split {
                self.pending = Some((split, end));
                return Ok(true);
            }
            self.stats.malformed += 1;
        }
    }

    const fn allowed(&self) -> Allowed {
        Allowed { tcp: self.offloads & TUN_F_TSO4 != 0, udp: self.offloads & TUN_F_USO4 != 0 }
    }
}

impl Tun for VnetTun {
    fn recv(&mut self, buf: &mut [u8], slots: &mut [Slot]) -> io::Result<usize> {
        let mut placer = Placer::new(buf, slots);
        while self.drain(&mut placer) {
            if placer.room(1).is_none() || !self.fill()? {
                break;
            }
        }
        if placer.count == 0 && self.pending.is_some() {
            return Err(no_room());
        }
        self.stats.packets_in += placer.count as u64;
        Ok(placer.count)
    }

    fn send(&mut self, buf: &[u8], slots: &[Slot]) -> io::Result<Sent> {
        self.merger.plan(buf, slots, self.allowed());
        let mut fatal = None;
        let mut uso_refused = false;
        let (file, stats) = (self.writer.as_mut().unwrap_or(&mut self.file), &mut self.stats);
        let (packets, dropped) = self.merger.write(buf, slots, |parts, count| {
            stats.writes += 1;
            match file.write_vectored(parts) {
                // A device takes a packet whole or not at all.
                Ok(written) => {
                    debug_assert_eq!(written, parts.iter().map(|part| part.len()).sum::<usize>());
                    Ok(())
                }
                Err(error) => {
                    if error.raw_os_error() == Some(libc::EBADFD) {
                        fatal = Some(io::Error::from_raw_os_error(libc::EBADFD));
                    }
                    uso_refused |= count > 1 && error.kind() == io::ErrorKind::InvalidInput && parts[0][1] == virtio::GSO_UDP;
                    Err(error)
                }
            }
        });
        if uso_refused {
            // Not again: the kernel would refuse each of them.
            tracing::debug!(name = self.name, "the kernel refused a UDP super-packet; UDP is no longer merged");
            self.offloads &= !(TUN_F_USO4 | TUN_F_USO6);
        }
        self.stats.packets_out += packets as u64;
        self.stats.dropped += dropped as u64;
        fatal.map_or(Ok(Sent { packets, dropped }), Err)
    }

    fn features(&self) -> TunFeatures {
        TunFeatures { vnet: true, tso: self.allowed().tcp, uso: self.allowed().udp, multi_queue: self.multi_queue, backend: "vnet" }
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

impl AsRawFd for VnetTun {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

impl AsFd for VnetTun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
