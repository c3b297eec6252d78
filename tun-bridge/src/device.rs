//! What a TUN device is to the rest of the program, and how one is opened.

use std::fmt;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

use annulus_core::batch::Slot;
use annulus_core::config::TUNNEL_MTU;

use crate::{Cidr, plain, vnet};

/// Where the kernel hands out TUN devices.
pub const DEVICE_PATH: &str = "/dev/net/tun";

/// A device that gives and takes IP packets. Nothing ever waits.
pub trait Tun: AsFd + AsRawFd + Send + fmt::Debug {
    /// Reads packets from the host until there are none, or `slots` or `buf` are full; returns the number of slots filled.
    ///
    /// Each packet has [`HEADROOM`](annulus_core::batch::HEADROOM) bytes free in front and [`TAILROOM`](annulus_core::batch::TAILROOM) behind, which overlap by
    /// [`OVERLAP`](annulus_core::batch::OVERLAP) bytes so that sealed packets lie back to back; it lies behind the packet before it, and is complete: super-packets are split, checksums filled in. The packets of one super-packet are equally
    /// far apart. What does not fit is kept and comes first at the next call, so with an edge-triggered poll: call until 0.
    ///
    /// # Errors
    /// `InvalidInput` if `buf` has no room for a single packet. Otherwise the device is gone. "Nothing there" is `Ok(0)`.
    fn recv(&mut self, buf: &mut [u8], slots: &mut [Slot]) -> io::Result<usize>;

    /// Writes the packets of all `slots` to the host, whatever their verdicts say; the packets of a flow keep their order.
    ///
    /// # Errors
    /// Only if the device is gone; what the host does not take now is counted in the result.
    fn send(&mut self, buf: &[u8], slots: &[Slot]) -> io::Result<Sent>;

    /// What the device can do.
    fn features(&self) -> TunFeatures;

    /// The interface's name.
    fn name(&self) -> &str;

    /// Bytes of the largest packet.
    fn mtu(&self) -> u16;

    /// Counters since the start.
    fn stats(&self) -> TunStats;
}

/// What became of the packets of one [`Tun::send`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Packets that the host took.
    pub packets: usize,
    /// Packets that it did not take.
    pub dropped: usize,
}

/// What a device can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TunFeatures {
    /// Packets come and go with a virtio header: checksums and segmentation can be left to the other side.
    pub vnet: bool,
    /// TCP super-packets of up to 64 KB come and go.
    pub tso: bool,
    /// UDP super-packets too (Linux 6.2).
    pub uso: bool,
    /// Opened with several queues.
    pub multi_queue: bool,
    /// Name for status and logs: `vnet`, `tun-tap` or `mem`.
    pub backend: &'static str,
}

/// Counters of a device. System calls are counted because they and not bytes are what a packet costs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TunStats {
    /// Reads, including those that found nothing.
    pub reads: u64,
    /// Receive calls that left the device empty: the next one is not worth a system call before the device becomes readable again.
    pub emptied: u64,
    /// Writes.
    pub writes: u64,
    /// Packets from the host, after splitting.
    pub packets_in: u64,
    /// Packets to the host, before merging.
    pub packets_out: u64,
    /// Packets from the host that were no IP packets or contradicted their virtio header.
    pub malformed: u64,
    /// Packets that the host did not take.
    pub dropped: u64,
}

/// Which implementation to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    /// The fast one, and the plain one where the kernel refuses it.
    #[default]
    Auto,
    /// With virtio header and segmentation offload.
    Vnet,
    /// One packet per call, on the `tun-tap` crate.
    TunTap,
}

impl std::str::FromStr for Backend {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "vnet" => Ok(Self::Vnet),
            "tun-tap" => Ok(Self::TunTap),
            _ => Err(format!("unknown TUN backend '{text}': use auto, vnet or tun-tap")),
        }
    }
}

/// What device to open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunConfig {
    /// The interface's name, at most 15 bytes; `%d` in it stands for the first free number.
    pub name: String,
    /// Bytes of the largest packet, 1280 to 65,535.
    pub mtu: u16,
    /// Which implementation.
    pub backend: Backend,
    /// Queues, at least 1. More than one needs the virtio backend.
    pub queues: u8,
    /// Let the host leave segmentation and checksums to us, if it can.
    pub offload: bool,
    /// Addresses for [`HostChanges::configure`](crate::host::HostChanges::configure) to put on it.
    pub addresses: Vec<Cidr>,
}

impl Default for TunConfig {
    fn default() -> Self {
        Self { name: "annulus%d".into(), mtu: TUNNEL_MTU, backend: Backend::Auto, queues: 1, offload: true, addresses: Vec::new() }
    }
}

/// Why no device could be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The device file is missing or closed to us.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// The kernel did not make the interface.
    #[error("cannot make the TUN interface {name}: {source}{}", hint(.source))]
    Refused {
        /// The wanted name.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The configuration asks for something that cannot be.
    #[error("TUN configuration: {0}")]
    Config(&'static str),
}

fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM) => " (it takes CAP_NET_ADMIN: run as root, or give the program that capability)",
        Some(libc::EBUSY) => " (another program holds an interface of that name)",
        _ => "",
    }
}

/// Something that the machine lacks, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {remedy}")]
pub struct Unavailable {
    /// What is missing, with the file's name and mode.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

/// Checks that `/dev/net/tun` can be opened, without making a device.
///
/// # Errors
/// Names the file, its owner and mode, and the remedy.
pub fn probe_device() -> Result<(), Unavailable> {
    open_device().map(drop)
}

/// Opens the device file.
pub(crate) fn open_device() -> Result<std::fs::File, Unavailable> {
    let opened = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(DEVICE_PATH);
    opened.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Unavailable {
            what: format!("{DEVICE_PATH} is missing"),
            remedy: "load the kernel's tun module (modprobe tun), or in a container pass the device in (--device /dev/net/tun)".into(),
        },
        io::ErrorKind::PermissionDenied => {
            let mode = std::fs::metadata(DEVICE_PATH).map_or_else(
                |_| "unknown mode".into(),
                |meta| format!("mode {:04o}, owner {}:{}", meta.mode() & 0o7777, meta.uid(), meta.gid()),
            );
            Unavailable {
                what: format!("{DEVICE_PATH} cannot be opened ({mode})"),
                remedy: format!("make it accessible as udev does by default: chmod 0666 {DEVICE_PATH}"),
            }
        }
        _ => Unavailable {
            what: format!("{DEVICE_PATH} cannot be opened ({error})"),
            remedy: "check that the kernel has TUN support (CONFIG_TUN) and that no policy forbids the device".into(),
        },
    })
}

/// Opens a TUN device with as many queues as asked for; [`Backend::Auto`] gives one where the host refuses several. Addresses, MTU and routes are set by [`HostChanges`](crate::host::HostChanges).
///
/// # Errors
/// See [`OpenError`].
pub fn open(config: &TunConfig) -> Result<Vec<Box<dyn Tun>>, OpenError> {
    if config.queues == 0 || config.mtu < 1280 {
        return Err(OpenError::Config("at least one queue and an MTU of at least 1280 (IPv6's minimum)"));
    }
    if config.backend == Backend::TunTap && config.queues > 1 {
        return Err(OpenError::Config("the tun-tap backend has one queue only"));
    }
    open_device()?;
    let refused = |source| OpenError::Refused { name: config.name.clone(), source };
    if config.backend != Backend::TunTap {
        match vnet::open(config) {
            Ok(queues) => return Ok(queues.into_iter().map(|queue| Box::new(queue) as Box<dyn Tun>).collect()),
            // EINVAL: the kernel knows no queues, or no virtio header.
            Err(error) if config.backend == Backend::Auto && error.raw_os_error() == Some(libc::EINVAL) => {
                if config.queues > 1 {
                    return open(&TunConfig { queues: 1, ..config.clone() });
                }
                tracing::warn!(%error, "the kernel refuses segmentation offload on TUN devices; falling back to one packet per call");
            }
            Err(error) => return Err(refused(error)),
        }
    }
    let tun = plain::PlainTun::open(config).map_err(refused)?;
    Ok(vec![Box::new(tun)])
}

/// Where the next packet goes in a batch's buffer.
#[derive(Debug)]
pub(crate) struct Placer<'a> {
    pub(crate) buf: &'a mut [u8],
    slots: &'a mut [Slot],
    /// Packets placed.
    pub(crate) count: usize,
    end: usize,
}

impl<'a> Placer<'a> {
    pub(crate) const fn new(buf: &'a mut [u8], slots: &'a mut [Slot]) -> Self {
        Self { buf, slots, count: 0, end: 0 }
    }

    /// Room for a packet of up to `longest` bytes, if a slot and that much buffer are left.
    pub(crate) fn room(&mut self, longest: usize) -> Option<&mut [u8]> {
        let start = self.start();
        if self.count == self.slots.len() || longest > self.largest() {
            return None;
        }
        Some(&mut self.buf[start..start + longest])
    }

    /// Bytes that a packet could have at most.
    pub(crate) const fn largest(&self) -> usize {
        use annulus_core::batch::{OVERLAP, TAILROOM};
        // What is spread for relay headers needs room for them.
        self.buf.len().saturating_sub(self.start() + TAILROOM + OVERLAP * (self.count + 1))
    }

    /// Where the next packet begins.
    const fn start(&self) -> usize {
        use annulus_core::batch::{HEADROOM, OVERLAP};
        if self.count == 0 { HEADROOM } else { self.end + HEADROOM - OVERLAP }
    }

    /// The room given last now holds a packet of `len` bytes.
    #[expect(clippy::cast_possible_truncation, reason = "batch buffers are below 4 GB, packets below 64 KB")]
    pub(crate) fn placed(&mut self, len: usize) {
        let start = self.start();
        self.slots[self.count] = Slot { start: start as u32, len: len as u16, ..Slot::default() };
        self.count += 1;
        self.end = start + len + annulus_core::batch::TAILROOM;
    }
}

/// Convenience for the implementations.
pub(crate) fn no_room() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "the buffer has no room for a single packet")
}

#[cfg(test)]
mod tests;
