//! The third event loop: async-std. Nothing that is shipped uses it; it shows that engine and core are tied to no runtime.

use std::future::poll_fn;
use std::os::fd::OwnedFd;
use std::task::Poll;

use annulus_daemon::engine::{Driven, Token, Wait};
use annulus_daemon::exit::Exit;
use anyhow::Result;
use async_io::Async;
use async_std::future::timeout;
use async_std::task::{block_on, yield_now};

/// Waits for a daemon or a worker until it has ended.
pub(crate) fn drive(driven: &mut dyn Driven) -> Result<Exit> {
    block_on(serve(driven))
}

async fn serve(driven: &mut dyn Driven) -> Result<Exit> {
    let mut watched: Vec<(Token, Async<OwnedFd>)> = Vec::new();
    for (token, descriptor) in driven.sources()? {
        watched.push((token, Async::new(descriptor)?));
    }
    loop {
        let wait = driven.turn();
        // Whatever is readable; nothing is an answer too when there is no time to wait.
        let look = |may_wait: bool| {
            let watched = &watched;
            poll_fn(move |context| {
                let mut readable: Vec<Token> = Vec::new();
                for (token, descriptor) in watched {
                    if let Poll::Ready(ready) = descriptor.poll_readable(context) {
                        ready?;
                        readable.push(*token);
                    }
                }
                if may_wait && readable.is_empty() { Poll::Pending } else { Poll::Ready(std::io::Result::Ok(readable)) }
            })
        };
        let readable = match wait {
            Wait::Ended(exit) => return Ok(exit),
            Wait::Again => {
                yield_now().await;
                look(false).await?
            }
            Wait::Until(None) => look(true).await?,
            // Time over is as good a reason to wake as an event.
            Wait::Until(Some(limit)) => timeout(limit, look(true)).await.unwrap_or_else(|_| Ok(Vec::new()))?,
        };
        for token in readable {
            driven.readable(token);
        }
    }
}
