//! The event loop of a daemon on tokio: it waits, the engine does the rest.

#![forbid(unsafe_code)]

use std::future::poll_fn;
use std::os::fd::OwnedFd;
use std::task::{Context as TaskContext, Poll};

use annulus_daemon::engine::{Driven, Token, Wait};
use annulus_daemon::exit::Exit;
use annulus_daemon::settings::Flags;
use anyhow::Context;
use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};
use tokio::task::yield_now;
use tokio::time::timeout;

/// Runs a daemon until it ends.
///
/// # Errors
/// A [`Failure`](annulus_daemon::exit::Failure) that knows its exit code, or what the system says.
pub fn run(flags: &Flags) -> anyhow::Result<Exit> {
    annulus_daemon::launch::run(flags, "tokio", drive)
}

/// Waits for a daemon, or one of its workers, until it has ended.
///
/// # Errors
/// What the system says of the waiting itself.
pub fn drive(driven: &mut dyn Driven) -> anyhow::Result<Exit> {
    // One thread: it reads a packet, seals it and sends it, and nothing is handed over to another one.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build().context("cannot make an event queue")?;
    runtime.block_on(serve(driven))
}

type Watched = (Token, AsyncFd<OwnedFd>);
type Guard<'a> = (Token, AsyncFdReadyGuard<'a, OwnedFd>);

async fn serve(driven: &mut dyn Driven) -> anyhow::Result<Exit> {
    let mut watched: Vec<Watched> = Vec::new();
    for (token, descriptor) in driven.sources().context("cannot watch sockets and devices")? {
        watched.push((token, watch(descriptor).context("cannot watch a socket or device")?));
    }
    let mut guards: Vec<Guard<'_>> = Vec::with_capacity(watched.len());
    loop {
        for (token, _) in &guards {
            driven.readable(*token);
        }
        let wait = driven.turn();
        for (token, mut guard) in guards.drain(..) {
            if driven.is_readable(token) { guard.retain_ready() } else { guard.clear_ready() }
        }
        match wait {
            Wait::Ended(exit) => return Ok(exit),
            Wait::Again => {
                // Lets tokio look for news without waiting; without it what became readable meanwhile would stay unknown.
                yield_now().await;
                poll_fn(|context| {
                    let _ = readable(&watched, &mut guards, context)?;
                    Poll::Ready(anyhow::Ok(()))
                })
                .await?;
            }
            Wait::Until(limit) => {
                let events = poll_fn(|context| {
                    readable(&watched, &mut guards, context)
                        .map_or_else(|error| Poll::Ready(Err(error)), |any| if any { Poll::Ready(Ok(())) } else { Poll::Pending })
                });
                match limit {
                    // Time over is as good a reason to wake as an event.
                    Some(limit) => timeout(limit, events).await.unwrap_or(Ok(()))?,
                    None => events.await?,
                }
            }
        }
    }
}

#[expect(
    deprecated,
    reason = "its unsafe successor asks that the descriptor stays open and the same, which an OwnedFd grants by its type; unsafe code lives in tun-bridge only"
)]
fn watch(descriptor: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(descriptor, Interest::READABLE)
}

/// Collects what is readable; says whether something is.
fn readable<'a>(watched: &'a [Watched], guards: &mut Vec<Guard<'a>>, context: &mut TaskContext<'_>) -> anyhow::Result<bool> {
    for (token, descriptor) in watched {
        if let Poll::Ready(guard) = descriptor.poll_read_ready(context) {
            guards.push((*token, guard.context("cannot wait for events")?));
        }
    }
    Ok(!guards.is_empty())
}
