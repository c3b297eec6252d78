//! A whole daemon but for the waiting: an event loop says what became readable and is told how long to sleep.
//!
//! ```text
//! for (token, fd) in engine.sources()? { watch fd for reading }
//! loop {
//!     match engine.turn() {
//!         Wait::Again          => look for events without waiting
//!         Wait::Until(timeout) => wait for events, at most so long
//!         Wait::Ended(exit)    => return exit
//!     }
//!     for each event: engine.readable(token)
//! }
//! ```
//! A token stays marked until its source had nothing left, so level- and edge-triggered waiting both work. Each turn gives every readable source the same
//! bounded share, so that no flood on one starves the others.

mod core_plane;
mod events;
mod groups;
mod host;
mod moderation;
mod plane;
mod requests;
mod start;
mod timers;
mod view;

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

use annulus_core::batch::Slot;
use annulus_core::io::{Command, RealmSlot};
use annulus_core::pump::Received;
use annulus_core::time::Instant;
use annulus_tun_bridge::host::HostChanges;
use annulus_tun_bridge::netlink::Monitor;
use annulus_tun_bridge::sys;

use crate::clock::{self, ClockWatch};
use crate::control::server::ControlServer;
use crate::exit::{Exit, Failure};
use crate::resolver::Resolver;
use crate::settings::Settings;
use crate::signals::{Signals, Wish};
use crate::state::{StateDir, StateWriter};
use crate::supervise::Supervision;
use crate::udp::RECEIVE_MESSAGES;

pub use core_plane::CorePlane;
use groups::Group;
pub use host::{Device, Host};
use moderation::Moderation;
pub use plane::{Plane, View};
use requests::Requests;
pub use start::{Parts, bootstrap, gather, hardware_aes, has_addresses};

/// Bytes and packets taken from one TUN device in one pass: four super-packets of 64 KB with room around each packet.
const TUN_BUFFER: usize = 4 * 80 * 1024;
const TUN_SLOTS: usize = 256;

/// Passes over all readable sources in one turn, before the event loop looks for news: spares a system call per pass while data flows.
const PASSES: usize = 8;

/// Requests of the control socket answered in one pass.
const CONTROL_REQUESTS: usize = 8;

/// How long neighbours are given to hear our good-bye.
const FAREWELL: Duration = Duration::from_secs(1);

/// How long the host's addresses must be quiet before they are announced: interfaces come with several notices.
const SETTLE_ADDRESSES: Duration = Duration::from_millis(500);

/// How often the clocks are compared while something else goes on anyway.
const CLOCK_CHECK: Duration = Duration::from_secs(1);

/// Names something that may become readable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub usize);

/// What the event loop does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Look for events without waiting: more is to be done.
    Again,
    /// Wait for events, at most so long; `None`: however long it takes.
    Until(Option<Duration>),
    /// The daemon has ended.
    Ended(Exit),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Udp(usize),
    Tun(usize),
    Control,
    Signals,
    Clock,
    Network,
}

/// How the daemon ends.
#[derive(Debug)]
enum Stage {
    Running,
    /// Good-byes are under way.
    Leaving {
        until: Instant,
    },
    Ended(Exit),
}

/// A daemon without its event loop.
#[derive(Debug)]
pub struct Engine<P> {
    plane: P,
    host: Host,
    groups: Vec<Group>,
    settings: Settings,
    runtime: &'static str,
    started: Instant,
    sources: Vec<Source>,
    ready: Vec<bool>,
    buffer: Vec<u8>,
    received: Vec<Received>,
    tun_buffer: Vec<u8>,
    slots: Vec<Slot>,
    control: Option<ControlServer>,
    requests: Requests,
    signals: Signals,
    clock: ClockWatch,
    network: Monitor,
    resolver: Resolver,
    supervision: Supervision,
    writer: Option<StateWriter>,
    changes: Option<HostChanges>,
    moderation: Moderation,
    stage: Stage,
    /// When the protocol wants to be called.
    due: Option<Instant>,
    next_wall: Instant,
    next_clock: Instant,
    next_names: Instant,
    next_addresses: Option<Instant>,
    // Held, not read: the lock goes with it.
    _state: StateDir,
}

impl<P: Plane> Engine<P> {
    /// Begins to serve: control socket, timers, first orders to the nodes. `plane` has one realm per group of `parts`, in the same order.
    ///
    /// # Errors
    /// [`Failure`] when the host refuses something; what was changed on it is undone.
    pub fn new(parts: Parts, plane: P, signals: Signals, runtime: &'static str) -> Result<Self, Failure> {
        let Parts { settings, host, groups, files: _, state, changes } = parts;
        let failed = |what: &str, error: std::io::Error| Failure::failed(format!("{what}: {error}"));
        let now = clock::now();
        let control = ControlServer::start(&settings.control_socket, settings.control_group.as_deref()).map_err(Failure::failed)?;
        let resolver = Resolver::start(control.waker()).map_err(|error| failed("cannot start the resolver", error))?;
        let stride = host.sockets.iter().map(|socket| socket.buffer_for(RECEIVE_MESSAGES)).max().unwrap_or(0);
        let mut sources: Vec<Source> = (0..host.sockets.len()).map(Source::Udp).collect();
        sources.extend((0..host.devices.len()).map(Source::Tun));
        sources.extend([Source::Control, Source::Signals, Source::Clock, Source::Network]);
        let mut engine = Self {
            plane,
            ready: vec![true; sources.len()],
            sources,
            buffer: vec![0; stride],
            received: Vec::with_capacity(RECEIVE_MESSAGES),
            tun_buffer: vec![0; if host.devices.is_empty() { 0 } else { TUN_BUFFER }],
            slots: vec![Slot::default(); if host.devices.is_empty() { 0 } else { TUN_SLOTS }],
            host,
            groups,
            settings,
            runtime,
            started: now,
            control: Some(control),
            requests: Requests::default(),
            signals,
            clock: ClockWatch::new().map_err(|error| failed("cannot watch the clock", error))?,
            network: Monitor::open().map_err(|error| failed("cannot watch the network's changes", error))?,
            resolver,
            supervision: Supervision::new(now),
            writer: Some(StateWriter::start().map_err(|error| failed("cannot start writing state", error))?),
            changes,
            moderation: Moderation::default(),
            stage: Stage::Running,
            due: Some(now),
            next_wall: now,
            next_clock: now + CLOCK_CHECK,
            next_names: now,
            next_addresses: Some(now),
            _state: state,
        };
        engine.first_orders(now);
        engine.supervision.ready();
        Ok(engine)
    }

    /// What the nodes knew when they ran last.
    fn first_orders(&mut self, now: Instant) {
        for group in &self.groups {
            if let Some(lease) = group.state().lease.as_deref().and_then(crate::state::unhex) {
                self.plane.command(group.realm, Command::RestoreLease(lease.into()), now);
            }
            tracing::info!(
                group = group.name,
                node = group.member.identity.certificate().node_name(),
                node_id = %group.member.identity.node_id(),
                device = group.device.as_deref().unwrap_or("none"),
                "node starts"
            );
        }
    }

    /// What to watch for reading: own descriptors, to be kept as long as they are watched.
    ///
    /// # Errors
    /// The system's, when the process has no descriptor left.
    pub fn sources(&self) -> std::io::Result<Vec<(Token, OwnedFd)>> {
        self.sources.iter().enumerate().map(|(index, source)| Ok((Token(index), sys::duplicate(self.descriptor(*source))?))).collect()
    }

    fn descriptor(&self, source: Source) -> RawFd {
        use std::os::fd::AsFd;
        match source {
            Source::Udp(index) => self.host.sockets[index].as_raw_fd(),
            Source::Tun(index) => self.host.devices[index].tun.as_raw_fd(),
            Source::Control => self.control.as_ref().map_or(-1, |control| control.as_fd().as_raw_fd()),
            Source::Signals => self.signals.as_fd().as_raw_fd(),
            Source::Clock => self.clock.as_fd().as_raw_fd(),
            Source::Network => self.network.as_raw_fd(),
        }
    }

    /// Notes that a source is readable.
    pub fn readable(&mut self, token: Token) {
        if let Some(ready) = self.ready.get_mut(token.0) {
            *ready = true;
        }
    }

    /// Whether a source may still have something: until then an event loop that clears readiness itself must not.
    #[must_use]
    pub fn is_readable(&self, token: Token) -> bool {
        self.ready.get(token.0).copied().unwrap_or(false)
    }

    /// Does what can be done now, within a bound, and says what comes next.
    pub fn turn(&mut self) -> Wait {
        let mut now = clock::now();
        for _ in 0..PASSES {
            for index in 0..self.sources.len() {
                if self.ready[index] {
                    self.ready[index] = self.serve(self.sources[index], now);
                }
            }
            self.timers(now);
            self.settle(now);
            if let Stage::Ended(exit) = self.stage {
                return Wait::Ended(exit);
            }
            now = clock::now();
            if !self.ready.contains(&true) {
                return self.deadline(now);
            }
            if let Some(rest) = self.moderation.end_pass(now) {
                std::thread::sleep(rest);
                now = clock::now();
            }
        }
        Wait::Again
    }

    fn deadline(&self, now: Instant) -> Wait {
        let mut next = self.next_wall.min(self.next_names);
        let leaving = match self.stage {
            Stage::Leaving { until } => Some(until),
            Stage::Running | Stage::Ended(_) => None,
        };
        let others = [self.due, leaving, self.next_addresses, self.requests.deadline(), self.supervision.deadline()];
        for deadline in others.into_iter().flatten().chain(self.groups.iter().filter_map(Group::deadline)) {
            next = next.min(deadline);
        }
        let left = next.saturating_since(now);
        if left.is_zero() { Wait::Again } else { Wait::Until(Some(left)) }
    }

    /// Gives one source its share; says whether it may have more.
    fn serve(&mut self, source: Source, now: Instant) -> bool {
        match source {
            Source::Udp(index) => self.receive(index, now),
            Source::Tun(index) => self.take_packets(index, now),
            Source::Control => self.answer_requests(now),
            Source::Signals => self.obey_signals(now),
            Source::Clock => {
                self.check_clock(now);
                false
            }
            Source::Network => {
                match self.network.drain() {
                    Ok(true) => self.next_addresses = Some(now + SETTLE_ADDRESSES),
                    Ok(false) => {}
                    Err(error) => tracing::warn!(%error, "changes of this host's network may go unnoticed"),
                }
                false
            }
        }
    }

    fn receive(&mut self, index: usize, now: Instant) -> bool {
        let socket = &mut self.host.sockets[index];
        if let Err(error) = socket.receive(&mut self.buffer, &mut self.received) {
            self.host.broken.get_or_insert_with(|| format!("the UDP socket is broken: {error}"));
            return false;
        }
        if !self.received.is_empty() {
            let (datagrams, bytes) = self.received.iter().fold((0, 0), |(n, sum), one| (n + one.len.div_ceil(one.stride), sum + one.len));
            self.moderation.received(datagrams, bytes);
            self.plane.datagrams(&mut self.buffer, &self.received, &mut self.host, now);
        }
        self.host.sockets[index].may_have_more()
    }

    fn take_packets(&mut self, index: usize, now: Instant) -> bool {
        let device = &mut self.host.devices[index];
        let realm = device.realm;
        let before = device.tun.stats();
        let count = match device.tun.recv(&mut self.tun_buffer, &mut self.slots) {
            Ok(count) => count,
            Err(error) => {
                let name = device.tun.name().to_owned();
                self.host.broken.get_or_insert_with(|| format!("the TUN device {name} is gone: {error}"));
                return false;
            }
        };
        if count == 0 {
            return false;
        }
        let after = device.tun.stats();
        self.moderation.taken(after.reads - before.reads);
        self.plane.packets(realm, &mut self.tun_buffer, &mut self.slots[..count], &mut self.host, now);
        after.emptied == before.emptied
    }

    fn obey_signals(&mut self, now: Instant) -> bool {
        while let Some(wish) = self.signals.next_wish() {
            match (wish, &self.stage) {
                (Wish::End, Stage::Running) => self.leave(now, "a signal"),
                // Who asks twice does not want to wait.
                (Wish::End, Stage::Leaving { .. } | Stage::Ended(_)) => self.stage = Stage::Leaving { until: now },
                (Wish::Report, _) => self.report(now),
            }
        }
        false
    }

    /// Tells the neighbours; the daemon ends when they were told, or after [`FAREWELL`].
    fn leave(&mut self, now: Instant, why: &str) {
        if !matches!(self.stage, Stage::Running) {
            return;
        }
        tracing::info!(why, "leaving");
        self.supervision.stopping();
        for group in &self.groups {
            self.plane.command(group.realm, Command::Leave, now);
        }
        self.stage = Stage::Leaving { until: now + FAREWELL };
    }

    /// Lets the protocol do what is due, and carries out what it says.
    fn settle(&mut self, now: Instant) {
        // An event may lead to an order, and that to an event; the orders of one turn are few, so this ends.
        loop {
            self.due = self.plane.settle(&mut self.host, now).map(|(due, _)| due);
            if self.host.events.is_empty() && self.host.small.is_empty() {
                break;
            }
            self.carry_events(now);
        }
        if let Some(broken) = self.host.broken.take() {
            tracing::error!("{broken}");
            self.end(Exit::Failed);
        }
        if let Stage::Leaving { until } = self.stage
            && (now >= until || self.groups.iter().all(|group| group.left))
        {
            self.end(Exit::Done);
        }
    }

    /// Undoes what was done to the host, and has everything written.
    fn end(&mut self, exit: Exit) {
        if matches!(self.stage, Stage::Ended(_)) {
            return;
        }
        let mut exit = exit;
        if let Some(writer) = self.writer.take() {
            for group in &mut self.groups {
                group.write(&writer, None);
            }
            // Dropping it waits until all is on disk.
        }
        if let Some(changes) = self.changes.take()
            && let Err(error) = changes.undo()
        {
            tracing::error!(%error, "something on this host could not be undone; the next start tries again");
            exit = Exit::Failed;
        }
        self.host.devices.clear();
        self.sources.clear();
        self.ready.clear();
        // The socket goes last: who sees it gone may start the next daemon.
        self.control = None;
        self.stage = Stage::Ended(exit);
        tracing::info!("ended");
    }

    fn group_of(&mut self, realm: RealmSlot) -> Option<&mut Group> {
        self.groups.iter_mut().find(|group| group.realm == realm)
    }
}

impl<P> Drop for Engine<P> {
    fn drop(&mut self) {
        // After a panic or a start that failed half-way.
        if let Some(changes) = self.changes.take()
            && let Err(error) = changes.undo()
        {
            tracing::error!(%error, "something on this host could not be undone; the next start tries again");
        }
    }
}

#[cfg(test)]
mod tests;
