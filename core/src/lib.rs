//! The protocol of Annulus, without a socket, a clock, a thread or global randomness.

#![forbid(unsafe_code)]

pub mod batch;
pub mod config;
pub mod crypto;
pub mod dht;
pub mod events;
pub mod group;
pub mod id;
pub mod io;
pub mod node;
pub mod overlay;
pub mod paths;
pub mod peer;
pub mod pump;
pub mod rng;
pub mod session;
pub mod shard;
pub mod stats;
pub mod time;
pub mod timers;
pub mod vpn;
pub mod wire;
