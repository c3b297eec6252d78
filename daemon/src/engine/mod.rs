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
//! With several workers each further one is such an engine too, on a thread of its own ([`Driven`] is what they have in common). A token stays marked until its source had nothing left, so level- and edge-triggered waiting both work. Each turn gives every readable source the same
//! bounded share, so that no flood on one starves the others.

mod bind;
mod core_plane;
mod crew;
mod driven;
mod events;
mod fallbacks;
mod groups;
mod host;
mod intake;
mod link;
mod moderation;
mod plane;
mod requests;
mod start;
mod timers;
mod view;
mod worker;

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

use annulus_core::io::{Command, RealmSlot, ShardId};
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

pub use core_plane::CorePlane;
use crew::Crew;
pub use driven::{Drive, Driven, Token, Wait};
use groups::Group;
pub use host::{Device, Host};
use intake::Intake;
use link::End;
pub use plane::{Plane, View};
use requests::Requests;
pub use start::{Parts, bootstrap, gather, hardware_aes, has_addresses};
use worker::{NOTICES, Notice};

/// Passes over all readable sources in one turn, before the event loop looks for news: while data flows a pass is 0.2 ms and more, so the system call
/// for it costs little, and a flow that was quiet is seen after two passes.
const PASSES: usize = 2;

/// Requests of the control socket answered in one pass.
const CONTROL_REQUESTS: usize = 8;

/// How long neighbours are given to hear our good-bye.
const FAREWELL: Duration = Duration::from_secs(1);

/// How long the host's addresses must be quiet before they are announced: interfaces come with several notices.
const SETTLE_ADDRESSES: Duration = Duration::from_millis(500);

/// How long a start may take, ring and addresses included. What code it needed is given back in between and afterwards.
const STARTING: Duration = Duration::from_secs(16);

/// How often the clocks are compared while something else goes on anyway.
const CLOCK_CHECK: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Udp(usize),
    Tun(usize),
    Control,
    Signals,
    Clock,
    Network,
    Workers,
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
    intake: Intake,
    /// The other workers; none with one.
    crew: Option<Crew>,
    /// Why there is one worker although several were asked for.
    one_worker: Option<String>,
    control: Option<ControlServer>,
    requests: Requests,
    signals: Signals,
    clock: ClockWatch,
    network: Monitor,
    resolver: Resolver,
    supervision: Supervision,
    writer: Option<StateWriter>,
    changes: Option<HostChanges>,
    stage: Stage,
    /// When the protocol wants to be called.
    due: Option<Instant>,
    next_wall: Instant,
    next_clock: Instant,
    /// When memory of code that served the start is given back next.
    next_release: Option<Instant>,
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
        let Parts { settings, host, groups, files: _, state, changes, workers: _, others: _, one_worker, crew } = parts;
        let failed = |what: &str, error: std::io::Error| Failure::failed(format!("{what}: {error}"));
        let now = clock::now();
        let control = ControlServer::start(&settings.control_socket, settings.control_group.as_deref()).map_err(Failure::failed)?;
        let resolver = Resolver::start(control.waker()).map_err(|error| failed("cannot start the resolver", error))?;
        let mut sources: Vec<Source> = (0..host.sockets.len()).map(Source::Udp).collect();
        sources.extend((0..host.devices.len()).map(Source::Tun));
        sources.extend([Source::Control, Source::Signals, Source::Clock, Source::Network]);
        sources.extend(crew.as_ref().map(|_| Source::Workers));
        let mut engine = Self {
            plane,
            ready: vec![true; sources.len()],
            sources,
            intake: Intake::new(&host),
            crew,
            one_worker,
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
            stage: Stage::Running,
            due: Some(now),
            next_wall: now,
            next_clock: now + CLOCK_CHECK,
            next_release: Some(now + STARTING / 64),
            next_names: now,
            next_addresses: Some(now),
            _state: state,
        };
        engine.first_orders(now);
        for fallback in engine.fallbacks() {
            tracing::warn!("{fallback}");
        }
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

    fn descriptor(&self, source: Source) -> RawFd {
        use std::os::fd::AsFd;
        match source {
            Source::Udp(index) => self.host.sockets[index].as_raw_fd(),
            Source::Tun(index) => self.host.devices[index].tun.as_raw_fd(),
            Source::Control => self.control.as_ref().map_or(-1, |control| control.as_fd().as_raw_fd()),
            Source::Signals => self.signals.as_fd().as_raw_fd(),
            Source::Clock => self.clock.as_fd().as_raw_fd(),
            Source::Network => self.network.as_raw_fd(),
            Source::Workers => self.crew.as_ref().map_or(-1, |crew| crew.bell.as_raw_fd()),
        }
    }

    fn deadline(&self, now: Instant) -> Wait {
        let mut next = self.next_wall.min(self.next_names);
        let leaving = match self.stage {
            Stage::Leaving { until } => Some(until),
            Stage::Running | Stage::Ended(_) => None,
        };
        let others = [self.due, leaving, self.next_addresses, self.next_release, self.requests.deadline(), self.supervision.deadline()];
        for deadline in others.into_iter().flatten().chain(self.groups.iter().filter_map(Group::deadline)) {
            next = next.min(deadline);
        }
        let left = next.saturating_since(now);
        if left.is_zero() { Wait::Again } else { Wait::Until(Some(left)) }
    }

    /// Gives one source its share; says whether it may have more.
    fn serve(&mut self, source: Source, now: Instant) -> bool {
        match source {
            Source::Udp(index) => {
                let plane = &mut self.plane;
                self.intake.datagrams(&mut self.host, index, |buf, received, host| plane.datagrams(buf, received, host, now))
            }
            Source::Tun(index) => {
                let plane = &mut self.plane;
                self.intake.packets(&mut self.host, index, |realm, buf, slots, host| plane.packets(realm, buf, slots, host, now))
            }
            Source::Control => self.answer_requests(now),
            Source::Signals => self.obey_signals(now),
            Source::Clock => {
                self.check_clock(now);
                false
            }
            Source::Workers => {
                self.hear_workers(now);
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

    /// Takes what the workers tell, a bounded number from each.
    fn hear_workers(&mut self, now: Instant) {
        let Some(crew) = &mut self.crew else { return };
        crew.bell.silence();
        for index in 0..self.host.links.len() {
            for _ in 0..NOTICES {
                match self.host.links[index].pop() {
                    Some(Notice::Report(realm, report)) => {
                        self.plane.report(ShardId(index as u8 + 1), realm, report, now);
                    }
                    Some(Notice::TooSmall(remote, len)) => self.host.note_small(remote, len),
                    Some(Notice::Tally(tally)) => crew.tallies[index] = *tally,
                    None => break,
                }
            }
        }
    }

    fn workers_have_news(&self) -> bool {
        self.host.links.iter().any(End::has_news)
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
        for link in &mut self.host.links {
            link.flush();
        }
        if !self.host.links.iter().all(End::is_joined) {
            tracing::error!("a worker has ended by itself; the daemon ends with it");
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
        // They see that their links are gone; then nobody uses sockets and devices any more.
        self.host.links.clear();
        for reason in self.crew.take().map(|mut crew| crew.join()).unwrap_or_default() {
            tracing::error!("{reason}");
            exit = Exit::Failed;
        }
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

impl<P: Plane> Driven for Engine<P> {
    fn sources(&self) -> std::io::Result<Vec<(Token, OwnedFd)>> {
        self.sources.iter().enumerate().map(|(index, source)| Ok((Token(index), sys::duplicate(self.descriptor(*source))?))).collect()
    }

    fn readable(&mut self, token: Token) {
        if let Some(ready) = self.ready.get_mut(token.0) {
            *ready = true;
        }
    }

    fn is_readable(&self, token: Token) -> bool {
        self.ready.get(token.0).copied().unwrap_or(false)
    }

    fn turn(&mut self) -> Wait {
        if let Some(crew) = &self.crew {
            crew.bell.wake();
        }
        let mut now = clock::now();
        for _ in 0..PASSES {
            if self.workers_have_news() {
                self.hear_workers(now);
            }
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
                if let Some(crew) = &self.crew {
                    crew.bell.sleep();
                    if self.workers_have_news() || !self.host.links.iter().all(End::is_joined) {
                        return Wait::Again;
                    }
                }
                return self.deadline(now);
            }
            now = self.intake.rest(now);
        }
        Wait::Again
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
