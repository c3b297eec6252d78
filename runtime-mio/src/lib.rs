//! The event loop of a daemon on mio: it waits, the engine does the rest.

#![forbid(unsafe_code)]

use std::io::ErrorKind;
use std::os::fd::AsRawFd;
use std::time::Duration;

use annulus_daemon::engine::{Driven, Token, Wait};
use annulus_daemon::exit::Exit;
use annulus_daemon::settings::Flags;
use anyhow::Context;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll};

/// Events taken at once: more than a daemon of a few groups has sources (two sockets, eight queues per device, four of its own); others come next time.
const EVENTS: usize = 64;

/// Runs a daemon until it ends.
///
/// # Errors
/// A [`Failure`](annulus_daemon::exit::Failure) that knows its exit code, or what the system says.
pub fn run(flags: &Flags) -> anyhow::Result<Exit> {
    annulus_daemon::launch::run(flags, "mio", drive)
}

/// Waits for a daemon, or one of its workers, until it has ended.
///
/// # Errors
/// What the system says of the waiting itself.
pub fn drive(driven: &mut dyn Driven) -> anyhow::Result<Exit> {
    let mut poll = Poll::new().context("cannot make an event queue")?;
    let mut events = Events::with_capacity(EVENTS);
    let sources = driven.sources().context("cannot watch sockets and devices")?;
    for (token, descriptor) in &sources {
        poll.registry()
            .register(&mut SourceFd(&descriptor.as_raw_fd()), mio::Token(token.0), Interest::READABLE)
            .context("cannot watch a socket or device")?;
    }
    loop {
        let timeout = match driven.turn() {
            Wait::Again => Some(Duration::ZERO),
            Wait::Until(timeout) => timeout,
            Wait::Ended(exit) => return Ok(exit),
        };
        match poll.poll(&mut events, timeout) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error).context("cannot wait for events"),
        }
        for event in &events {
            driven.readable(Token(event.token().0));
        }
    }
}
