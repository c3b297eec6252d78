//! The bench of the whole program: Annulus, other VPNs and the bound of the machine, side by side in network namespaces.
//!
//! - [`compare`]: two hosts on one cable, every peer in turns, medians and ratios (`bench/run`).
//! - [`overheads`]: what members cost that do nothing, and such that ping each other (`bench/overheads`).
//! - [`pairs`]: what pairs carry together on one LAN, through Annulus and through an OpenVPN server (`bench/pairs`).
//! - [`ceiling`]: the forwarder that is the bound.

#![forbid(unsafe_code)]

mod bed;
pub mod ceiling;
pub mod compare;
mod figures;
mod iperf;
mod lan;
mod limit;
pub mod overheads;
pub mod pairs;
mod ping;
mod plugin;
mod ratios;
mod report;
mod round;
mod running;
mod scene;
mod station;
mod syscalls;
mod usage;
mod wire;

pub(crate) use figures::median;
