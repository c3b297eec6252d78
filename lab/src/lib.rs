//! A small internet inside one machine: network namespaces joined by virtual cables, made without root where user namespaces exist.
//!
//! A [`Host`] is a thread in a network namespace of its own; whatever is run on it ([`Host::run`], [`Host::spawn`]) sees only that host's
//! interfaces. An [`Internet`] is a router with one subnet per attached host. Nothing outlives the process: namespaces end with their last
//! user, and spawned programs are killed with the thread that spawned them. A [`Group`] and its [`Daemon`]s turn such an internet into a VPN, and
//! [`measure`] says what crosses it.
//!
//! ```no_run
//! fn main() -> anyhow::Result<()> {
//!     annulus_lab::child_main();
//!     annulus_lab::probe()?;
//!     annulus_lab::enter_user_namespace()?;
//!     let mut internet = annulus_lab::Internet::new()?;
//!     let (ann, bob) = (internet.attach("ann", 1500)?, internet.attach("bob", 1492)?);
//!     let mut ping = annulus_lab::command("ping")?;
//!     ping.args(["-c1", &bob.ipv4().to_string()]);
//!     assert!(ann.host().output(ping)?.status.success());
//!     Ok(())
//! }
//! ```

#![forbid(unsafe_code)]

mod child;
mod daemon;
mod group;
mod host;
mod internet;
pub mod measure;
mod namespace;
mod runner;

pub use annulus_tun_bridge::Unavailable;
pub use child::{child_main, command};
pub use daemon::{Daemon, is_connected};
pub use group::{Group, IPV4_NETWORK, IPV6_NETWORK, Member, wall_clock};
pub use host::{Host, Process};
pub use internet::{Attached, Internet};
pub use namespace::{enter_user_namespace, probe};
pub use runner::{Test, run_tests};
