//! What an event loop needs of what it drives: the whole daemon, or one of its workers.

use std::os::fd::OwnedFd;
use std::time::Duration;

use crate::exit::Exit;

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
    /// It has ended.
    Ended(Exit),
}

/// Everything but the waiting.
pub trait Driven {
    /// What to watch for reading: own descriptors, to be kept as long as they are watched.
    ///
    /// # Errors
    /// The system's, when the process has no descriptor left.
    fn sources(&self) -> std::io::Result<Vec<(Token, OwnedFd)>>;

    /// Notes that a source is readable.
    fn readable(&mut self, token: Token);

    /// Whether a source may still have something: until then an event loop that clears readiness itself must not.
    fn is_readable(&self, token: Token) -> bool;

    /// Does what can be done now, within a bound, and says what comes next.
    fn turn(&mut self) -> Wait;
}

/// An event loop: waits for what it drives until that has ended. A daemon calls it once per thread.
pub type Drive = fn(&mut dyn Driven) -> anyhow::Result<Exit>;
