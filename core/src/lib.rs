//! The protocol of Annulus, without a socket, a clock, a thread or global randomness.
//!
//! A realm has a control plane, [`node::Node`], and a data plane, [`shard::Shard`]. A [`pump::Pump`] orders the calls between them; a driver
//! (an event loop, or a simulator) reads, writes and waits.
//!
//! ```text
//!   packets of the host ──> Pump::packets ──> Shard::seal ──> Driver::transmit ──> network
//!   network ──> Pump::datagrams ──> Shard::open ──> Driver::deliver ──> packets to the host
//!                       │ what a shard cannot decide     ▲ tables, reinjected packets
//!                       ▼                                │
//!                      Node: ring, DHT, handshakes, certificates, addresses, timers
//! ```
//!
//! # The drain contract
//!
//! 1. Feed any number of inputs: [`pump::Pump::datagrams`], [`pump::Pump::packets`], [`pump::Pump::command`]. Batching is legal everywhere.
//! 2. Call [`pump::Pump::settle`]: it does what is due, drains every output into the driver, and returns the next deadline with its reason.
//! 3. Wait for input or for that deadline, whichever comes first. An earlier `now` than one given before counts as that one.
//!
//! Who uses a [`node::Node`] without a pump drains `poll_output` until `None` after any inputs, then sleeps until `poll_timeout`.
//!
//! # A driver
//!
//! Two nodes of one group on a network without loss, in virtual time:
//!
//! ```
//! use std::collections::VecDeque;
//! use std::net::{IpAddr, SocketAddr};
//! use std::time::Duration;
//!
//! use annulus_core::{batch::Slot, config::Config, events::Event, group::*, io::*, node::Node, pump::*, rng::Rng, shard::*, time::*, worker::Parcel};
//!
//! /// A network and a host's surroundings in one: what is sent lies in a queue.
//! #[derive(Default)]
//! struct Wire(VecDeque<(SocketAddr, Vec<u8>)>);
//!
//! impl Driver for Wire {
//!     fn transmit(&mut self, to: Endpoint, buf: &[u8], slots: &[Slot]) {
//!         if let Endpoint::Udp { remote, .. } = to {
//!             self.0.extend(slots.iter().map(|slot| (remote, buf[slot.range()].to_vec())));
//!         }
//!     }
//!     fn deliver(&mut self, _: RealmSlot, _: &[u8], _: &[Slot]) {}
//!     fn event(&mut self, _: RealmSlot, _: Event) {}
//! }
//!
//! let wall = UnixTime(1_800_000_000);
//! let mut rng = Rng::new([7; 32]);
//! let authority = Authority::init(&Parameters::new("example"), &mut rng, wall)?;
//! let addresses: Vec<SocketAddr> = vec!["192.0.2.1:4242".parse()?, "192.0.2.2:4242".parse()?];
//! let mut now = Instant::from_secs(1);
//! let mut scratch = Scratch::default();
//! let mut hosts = Vec::new();
//! for name in ["ann", "bob"] {
//!     let identity = authority.enrol(&Profile::new("somebody", name, wall), &mut rng)?;
//!     let mut config = Config::new(table::Prefix::new(IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 0]), 64));
//!     config.bootstrap = if name == "bob" { vec![addresses[0]] } else { Vec::new() };
//!     let shard = Shard::new(ShardSettings::new(ShardId(0), config.realm, config.workers, 1));
//!     let mut pump = Pump::new();
//!     pump.add(Node::new(config, identity, authority.trust(), rng.bytes(), now, wall), shard);
//!     hosts.push((pump, Wire::default()));
//! }
//! // Ten seconds in steps of 10 ms; a real driver sleeps until the deadline that `settle` returns.
//! for _ in 0..1000 {
//!     for at in 0..2 {
//!         let (pump, wire) = &mut hosts[at];
//!         pump.settle(&mut scratch, wire, now);
//!         for (to, mut bytes) in std::mem::take(&mut wire.0) {
//!             let Some(target) = addresses.iter().position(|address| *address == to) else { continue };
//!             let from = Endpoint::Udp { socket: 0, remote: addresses[at] };
//!             let received = Received { start: 0, len: bytes.len(), stride: bytes.len(), from, class: TrafficClass(0) };
//!             let (pump, wire) = &mut hosts[target];
//!             pump.datagrams(&mut scratch, &mut bytes, &[received], wire, now);
//!         }
//!     }
//!     now += Duration::from_millis(10);
//! }
//! let (ann, bob) = (&hosts[0].0.realms()[0].node, &hosts[1].0.realms()[0].node);
//! assert_eq!(ann.ring_neighbours(), (Some(bob.node_id()), Some(bob.node_id())));
//! assert!(ann.is_joined() && bob.is_joined());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

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
pub mod worker;
