//! Signals as a readable descriptor: no handler runs between two instructions of ours.

use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// What the user or the service manager wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Say good-bye and end (SIGTERM, SIGINT).
    End,
    /// Write what is known to the log (SIGUSR1).
    Report,
}

/// The process's signals.
#[derive(Debug)]
pub struct Signals {
    fd: SignalFd,
}

impl Signals {
    /// Blocks SIGTERM, SIGINT, SIGHUP and SIGUSR1 in this thread and in those that it starts, and collects them in a descriptor.
    ///
    /// Called before any thread is started, or the signals would find one that still takes them.
    ///
    /// # Errors
    /// The system's.
    pub fn block() -> std::io::Result<Self> {
        let mut set = SigSet::empty();
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGUSR1] {
            set.add(signal);
        }
        set.thread_block()?;
        Ok(Self { fd: SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)? })
    }

    /// The next wish, until `None`.
    pub fn next_wish(&mut self) -> Option<Wish> {
        loop {
            let info = self.fd.read_signal().ok()??;
            match Signal::try_from(info.ssi_signo as i32) {
                Ok(Signal::SIGTERM | Signal::SIGINT) => return Some(Wish::End),
                Ok(Signal::SIGUSR1) => return Some(Wish::Report),
                // The terminal that started us is gone, which does not concern a daemon.
                _ => {}
            }
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_becomes_a_wish() {
        let mut signals = Signals::block().unwrap();
        assert_eq!(signals.next_wish(), None);
        nix::sys::signal::raise(Signal::SIGTERM).unwrap();
        nix::sys::signal::raise(Signal::SIGHUP).unwrap();
        nix::sys::signal::raise(Signal::SIGUSR1).unwrap();
        let mut wishes: Vec<Wish> = core::iter::from_fn(|| signals.next_wish()).collect();
        wishes.sort_by_key(|wish| *wish as u8);
        assert_eq!(wishes, [Wish::End, Wish::Report]);
    }
}
