//! What the engine needs of the protocol: the pump, and a seam at which tests put something simpler.

use annulus_core::batch::Slot;
use annulus_core::io::{Command, RealmSlot, ShardId, TimerKind};
use annulus_core::pump::{Driver, Received};
use annulus_core::time::Instant;
use annulus_core::worker::Report;

use crate::status::{GroupStatus, HostEntry, PeerStatus};

/// All realms of a daemon.
pub trait Plane {
    /// Takes received datagrams; [`Plane::settle`] follows.
    fn datagrams(&mut self, buf: &mut [u8], received: &[Received], driver: &mut impl Driver, now: Instant);
    /// Takes packets of a realm's host; [`Plane::settle`] follows.
    fn packets(&mut self, realm: RealmSlot, buf: &mut [u8], slots: &mut [Slot], driver: &mut impl Driver, now: Instant);
    /// Takes an order; [`Plane::settle`] follows.
    fn command(&mut self, realm: RealmSlot, command: Command, now: Instant);
    /// Takes what another worker tells; [`Plane::settle`] follows.
    fn report(&mut self, worker: ShardId, realm: RealmSlot, report: Report, now: Instant);
    /// Does what is due and says until when nothing will be.
    fn settle(&mut self, driver: &mut impl Driver, now: Instant) -> Option<(Instant, TimerKind)>;
    /// What a realm shows of itself; `None` when there is no such realm.
    fn view(&self, realm: RealmSlot, now: Instant) -> Option<View>;
}

/// What a realm shows of itself.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// The realm's node; its device is for the engine to fill in.
    pub group: GroupStatus,
    /// Its peers.
    pub peers: Vec<PeerStatus>,
    /// Members whose names and addresses it knows, itself included.
    pub hosts: Vec<HostEntry>,
}
