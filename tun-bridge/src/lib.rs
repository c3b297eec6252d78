//! The operating system's side of Annulus: TUN devices with segmentation offload, and what must be set on the host around them.
//!
//! - [`Tun`]: a device that gives and takes IP packets in batches; [`open`] makes one, [`mem::pair`] one for tests.
//! - [`netlink`]: links, addresses and routes without calling `ip`; [`netlink::Monitor`] for changes.
//! - [`host`]: applies a device's addresses, MTU and routes, keeps a journal, and undoes everything, even after a kill.
//! - [`offload`]: splitting and merging apart from a device.
//! - [`sys`]: the only unsafe code of the workspace.

#![deny(unsafe_code)]

mod checksum;
pub mod cidr;
mod device;
pub mod host;
pub mod mem;
mod merge;
pub mod netlink;
pub mod offload;
mod plain;
mod split;
#[allow(unsafe_code)]
pub mod sys;
mod virtio;
mod vnet;

pub use cidr::Cidr;
pub use device::{Backend, DEVICE_PATH, OpenError, Sent, Tun, TunConfig, TunFeatures, TunStats, Unavailable, open, probe_device};
