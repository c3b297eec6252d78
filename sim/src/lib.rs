//! A deterministic network in virtual time around the protocol core.
//!
//! The same [`annulus_core::pump::Pump`] that drives real sockets drives thousands of simulated hosts here: a run is a pure function of scenario and seed.
//!
//! | module | what |
//! | --- | --- |
//! | [`net`] | what the network does to a datagram: latency, loss, duplication, reordering |
//! | [`host`] | one simulated host: a pump, an address, a wake-up |
//! | [`world`] | all hosts, one clock, one event queue, a running hash of everything that happens |
//! | [`oracle`] | what must be true: the ring is sorted, everybody reaches everybody |
//! | [`scenario`] | runs described in TOML, and their results |

#![forbid(unsafe_code)]

/// The core that is simulated: the same sources as `annulus-core`, with stand-in crypto available.
pub use annulus_core as core;

pub mod host;
pub mod net;
pub mod oracle;
pub mod scenario;
pub mod world;
