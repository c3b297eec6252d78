//! Nodes on real sockets in namespaces, each with an engine and an event loop on a thread of its own, and a TUN device in memory.

use std::num::NonZeroU8;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{JoinHandle, sleep};
use std::time::Duration;

use annulus_core::batch::Slot;
use annulus_core::events::{Command, Event};
use annulus_core::io::{Endpoint, RealmSlot, ShardId, TimerKind};
use annulus_core::pump::{Driver as PumpDriver, Received};
use annulus_core::time::Instant;
use annulus_core::worker::{Parcel, Report};
use annulus_daemon::control::Request;
use annulus_daemon::control::client::ControlClient;
use annulus_daemon::engine::{CorePlane, Device, Drive, Engine, Plane, View, gather};
use annulus_daemon::exit::Exit;
use annulus_daemon::settings::{Flags, Settings, Workers};
use annulus_daemon::signals::Signals;
use annulus_tests::cluster::{Cluster, Node, Outside, Runtime};
use annulus_tests::ring::{Driver, NAMES, Seen};
use annulus_tun_bridge::mem::{MemHost, MemTun, pair};
use anyhow::{Context, Result, anyhow, ensure};

/// All nodes.
pub(crate) struct Engines {
    nodes: Vec<Running>,
    cluster: Cluster,
    drive: Drive,
    workers: Workers,
}

struct Running {
    node: Node,
    seen: Record,
    device: Option<MemHost>,
    thread: Option<JoinHandle<Result<Exit>>>,
}

/// What a node told.
#[derive(Clone, Debug, Default)]
struct Record {
    events: Arc<Mutex<Vec<Event>>>,
}

impl Record {
    fn lock(&self) -> MutexGuard<'_, Vec<Event>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Engines {
    /// Three hosts on an internet; nothing runs yet.
    pub(crate) fn new(drive: Drive, workers: NonZeroU8) -> Result<Self> {
        let mut cluster = Cluster::new("/nonexistent")?;
        let nodes = NAMES.iter().map(|name| {
            let node = cluster.prepare(name, Runtime::Mio, 1500, Outside::Both)?;
            Ok(Running { node, seen: Record::default(), device: None, thread: None })
        });
        let nodes = nodes.collect::<Result<Vec<_>>>()?;
        Ok(Self { nodes, cluster, drive, workers: Workers::Count(workers) })
    }
}

/// Builds an engine as a daemon would, but for the TUN device, and runs it.
fn serve(flags: &Flags, tun: MemTun, record: Record, drive: Drive) -> Result<Exit> {
    let settings = Settings::new(flags)?;
    let signals = Signals::block()?;
    let mut parts = gather(settings)?;
    for other in &mut parts.others {
        other.devices = vec![Device { realm: RealmSlot(0), tun: Box::new(tun.further_queue()?) }];
    }
    parts.host.devices = vec![Device { realm: RealmSlot(0), tun: Box::new(tun) }];
    if let Some(changes) = parts.changes.take() {
        changes.undo()?;
    }
    let plane = Recorded { plane: CorePlane::new(&parts)?, record };
    parts.hire(drive)?;
    let mut engine = Engine::new(parts, plane, signals, "test")?;
    drive(&mut engine)
}

impl Driver for Engines {
    fn start(&mut self, node: usize) -> Result<()> {
        let drive = self.drive;
        let running = &mut self.nodes[node];
        let (tun, device) = pair(NAMES[node], 1400)?;
        let flags = Flags { config: Some(running.node.home.join("annulus.toml")), workers: Some(self.workers), ..Flags::default() };
        let record = running.seen.clone();
        // A thread that the host's thread starts is in the host's namespace.
        let thread = running
            .node
            .host
            .run(move || std::thread::Builder::new().name("engine".into()).spawn(move || serve(&flags, tun, record, drive)))??;
        running.device = Some(device);
        running.thread = Some(thread);
        Ok(())
    }

    fn leave(&mut self, node: usize) -> Result<()> {
        let running = &mut self.nodes[node];
        let socket = running.node.home.join("annulus.sock");
        ControlClient::connect(&socket)?.request(&Request::Stop {}, Duration::from_secs(5))?;
        let exit = running.thread.take().context("the node runs")?.join().map_err(|_| anyhow!("the engine panicked"))??;
        ensure!(exit == Exit::Done, "{exit:?}");
        running.device = None;
        Ok(())
    }

    fn roam(&mut self, node: usize) -> Result<()> {
        self.cluster.internet.roam(&mut self.nodes[node].node.host)
    }

    fn send(&mut self, node: usize, packet: &[u8]) -> Result<()> {
        let running = &mut self.nodes[node];
        if running.thread.as_ref().is_some_and(JoinHandle::is_finished) {
            let ended = running.thread.take().map(JoinHandle::join);
            return Err(anyhow!("the engine of {} has ended: {ended:?}", NAMES[node]));
        }
        ensure!(running.device.as_ref().context("the node runs")?.send(packet), "the device's queue is full");
        Ok(())
    }

    fn delivered(&mut self, node: usize) -> Vec<Vec<u8>> {
        let device = self.nodes[node].device.as_ref();
        std::iter::from_fn(|| device.and_then(MemHost::receive)).collect()
    }

    fn seen(&mut self, node: usize) -> Vec<Seen> {
        let events = self.nodes[node].seen.lock().clone();
        events.into_iter().filter_map(|event| self.main_event(event)).collect()
    }

    fn pass(&mut self, time: Duration) {
        sleep(time);
    }
}

impl Engines {
    fn main_event(&self, event: Event) -> Option<Seen> {
        Some(match event {
            Event::Joined { .. } => Seen::Joined,
            Event::Addresses { hosts, .. } => Seen::Addresses(hosts),
            Event::PeerUp { name, .. } => Seen::PeerUp(name),
            Event::PeerDown { node, .. } => {
                let known = self.nodes.iter().find(|running| running.node.member.certificate.node_id() == node);
                Seen::PeerDown(known.map_or_else(|| node.to_string(), |running| running.node.name().to_owned()))
            }
            Event::Left => Seen::Left,
            _ => return None,
        })
    }
}

impl Drop for Engines {
    fn drop(&mut self) {
        for node in 0..self.nodes.len() {
            if self.nodes[node].thread.is_some() {
                // The test has its result already.
                let _ = self.leave(node);
            }
        }
    }
}

/// The protocol, with a copy of all events.
#[derive(Debug)]
pub(crate) struct Recorded {
    plane: CorePlane,
    record: Record,
}

struct Tee<'a, D> {
    driver: &'a mut D,
    record: &'a Record,
}

impl<D: PumpDriver> PumpDriver for Tee<'_, D> {
    fn transmit(&mut self, to: Endpoint, buf: &[u8], slots: &[Slot]) {
        self.driver.transmit(to, buf, slots);
    }

    fn deliver(&mut self, realm: RealmSlot, buf: &[u8], slots: &[Slot]) {
        self.driver.deliver(realm, buf, slots);
    }

    fn event(&mut self, realm: RealmSlot, event: Event) {
        self.record.lock().push(event.clone());
        self.driver.event(realm, event);
    }

    fn publish(&mut self, worker: ShardId, realm: RealmSlot, parcel: Parcel) -> Result<(), Parcel> {
        self.driver.publish(worker, realm, parcel)
    }
}

impl Plane for Recorded {
    fn datagrams(&mut self, buf: &mut [u8], received: &[Received], driver: &mut impl PumpDriver, now: Instant) {
        self.plane.datagrams(buf, received, &mut Tee { driver, record: &self.record }, now);
    }

    fn packets(&mut self, realm: RealmSlot, buf: &mut [u8], slots: &mut [Slot], driver: &mut impl PumpDriver, now: Instant) {
        self.plane.packets(realm, buf, slots, &mut Tee { driver, record: &self.record }, now);
    }

    fn command(&mut self, realm: RealmSlot, command: Command, now: Instant) {
        self.plane.command(realm, command, now);
    }

    fn report(&mut self, worker: ShardId, realm: RealmSlot, report: Report, now: Instant) {
        self.plane.report(worker, realm, report, now);
    }

    fn settle(&mut self, driver: &mut impl PumpDriver, now: Instant) -> Option<(Instant, TimerKind)> {
        self.plane.settle(&mut Tee { driver, record: &self.record }, now)
    }

    fn view(&self, realm: RealmSlot, now: Instant) -> Option<View> {
        self.plane.view(realm, now)
    }
}
