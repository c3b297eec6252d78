//! A further worker: its queue of each TUN device, its sockets, its shards, on a thread of its own. All that it shares with the engine is a [`link`](super::link).

use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use annulus_core::io::{RealmSlot, ShardId};
use annulus_core::pump::Scratch;
use annulus_core::time::Instant;
use annulus_core::worker::{Parcel, Report, Worker};
use annulus_tun_bridge::sys;

use super::PASSES;
use super::driven::{Driven, Token, Wait};
use super::host::{Host, Tally};
use super::intake::Intake;
use super::link::{Bell, End};
use crate::clock;
use crate::exit::Exit;

/// What the engine sends to a worker: table changes, and packets that came to the wrong place.
pub(crate) type Order = (RealmSlot, Parcel);

/// Orders that wait for a worker at most. Beyond it the control plane waits, packets never do. A worker that carries packets takes all of them once per
/// pass, a few ms; so many changes in that time are a thousand handshakes per second.
pub(crate) const ORDERS: usize = 256;

/// Notices that wait for the engine at most: those of a few passes, each of which makes at most
/// [`MAX_PUNTS`](annulus_core::pump::MAX_PUNTS) of them from packets. Beyond it they wait in the worker, which drops and counts what it can.
pub(crate) const NOTICES: usize = 256;

/// The shortest time between two tallies of a worker: what `status` shows is at most so old.
const TALLY_INTERVAL: Duration = Duration::from_millis(100);

/// What a worker sends to the engine.
#[derive(Debug)]
pub(crate) enum Notice {
    /// Core's.
    Report(RealmSlot, Report),
    /// A datagram of so many bytes was too large for the path to this address.
    TooSmall(SocketAddr, u16),
    /// What its sockets and devices have counted.
    Tally(Box<Tally>),
}

#[derive(Clone, Copy, Debug)]
enum Source {
    Orders,
    Udp(usize),
    Tun(usize),
}

/// A worker without its event loop.
#[derive(Debug)]
pub(crate) struct WorkerEngine {
    id: ShardId,
    worker: Worker,
    scratch: Scratch,
    host: Host,
    intake: Intake,
    bell: Arc<Bell>,
    link: End<Notice, Order>,
    sources: Vec<Source>,
    ready: Vec<bool>,
    /// What was told last of sockets and devices, and when the next may be.
    tally: Tally,
    next_tally: Instant,
    /// Whether something waits for room in the ring to the engine.
    waits_for_room: bool,
}

impl WorkerEngine {
    /// Puts together what a thread will own. `bell` is rung for it.
    pub(crate) fn new(id: ShardId, worker: Worker, host: Host, bell: Arc<Bell>, link: End<Notice, Order>) -> Self {
        let mut sources = vec![Source::Orders];
        sources.extend((0..host.sockets.len()).map(Source::Udp));
        sources.extend((0..host.devices.len()).map(Source::Tun));
        Self {
            id,
            worker,
            scratch: Scratch::default(),
            intake: Intake::new(&host),
            ready: vec![true; sources.len()],
            sources,
            tally: host.tally(),
            next_tally: clock::now(),
            host,
            bell,
            link,
            waits_for_room: false,
        }
    }

    fn serve(&mut self, source: Source, now: Instant) -> bool {
        let Self { worker, scratch, host, intake, .. } = self;
        match source {
            Source::Orders => {
                self.bell.silence();
                // What comes meanwhile is for the next pass.
                for _ in 0..ORDERS {
                    let Some((realm, parcel)) = self.link.pop() else { break };
                    worker.parcel(realm, parcel, scratch, host, now);
                }
                false
            }
            Source::Udp(index) => intake.datagrams(host, index, |buf, received, host| worker.datagrams(scratch, buf, received, host, now)),
            Source::Tun(index) => {
                intake.packets(host, index, |realm, buf, slots, host| worker.packets(realm, scratch, buf, slots, host, now))
            }
        }
    }

    /// Tells the engine what it should know, as far as its ring has room.
    fn tell(&mut self, now: Instant) {
        self.waits_for_room = false;
        while self.link.has_room() {
            let Some((realm, report)) = self.worker.poll_report(now) else {
                self.tell_of_host(now);
                return self.link.flush();
            };
            // It has room, and nobody else fills it.
            let _ = self.link.push(Notice::Report(realm, report));
        }
        self.waits_for_room = true;
        self.link.flush();
    }

    fn tell_of_host(&mut self, now: Instant) {
        // What the ring does not take comes again: the address with the next datagram for it, the tally with the next one.
        for (remote, len) in self.host.small.drain(..) {
            let _ = self.link.push(Notice::TooSmall(remote, len));
        }
        if now >= self.next_tally {
            self.next_tally = now + TALLY_INTERVAL;
            if !self.host.is_as(&self.tally) {
                let tally = self.host.tally();
                if self.link.push(Notice::Tally(Box::new(tally.clone()))).is_ok() {
                    self.tally = tally;
                }
            }
        }
    }

    /// How long to wait: until core has something to tell by itself, or the counters may be told that were not yet.
    fn deadline(&self, now: Instant) -> Wait {
        // What waits for room is told when the bell rings; a deadline would only turn it round.
        let core = self.worker.poll_timeout().filter(|_| !self.waits_for_room);
        let tally = (!self.host.is_as(&self.tally) && !self.waits_for_room).then_some(self.next_tally);
        let left = core.into_iter().chain(tally).min().map(|due| due.saturating_since(now));
        if left.is_some_and(|left| left.is_zero()) { Wait::Again } else { Wait::Until(left) }
    }
}

impl Driven for WorkerEngine {
    fn sources(&self) -> std::io::Result<Vec<(Token, OwnedFd)>> {
        let descriptor = |source: Source| match source {
            Source::Orders => self.bell.as_raw_fd(),
            Source::Udp(index) => self.host.sockets[index].as_raw_fd(),
            Source::Tun(index) => self.host.devices[index].tun.as_raw_fd(),
        };
        self.sources.iter().enumerate().map(|(index, source)| Ok((Token(index), sys::duplicate(descriptor(*source))?))).collect()
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
        self.bell.wake();
        let mut now = clock::now();
        for _ in 0..PASSES {
            self.ready[0] |= self.link.has_news();
            for index in 0..self.sources.len() {
                if self.ready[index] {
                    self.ready[index] = self.serve(self.sources[index], now);
                }
            }
            self.tell(now);
            if let Some(broken) = self.host.broken.take() {
                tracing::error!(worker = self.id.0, "{broken}");
                return Wait::Ended(Exit::Failed);
            }
            if !self.link.is_joined() {
                return Wait::Ended(Exit::Done);
            }
            now = clock::now();
            if !self.ready.contains(&true) {
                self.bell.sleep();
                if self.link.has_news() || !self.link.is_joined() {
                    return Wait::Again;
                }
                return self.deadline(now);
            }
            now = self.intake.rest(now);
        }
        Wait::Again
    }
}
