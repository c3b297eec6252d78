//! What the service manager is told (`sd_notify`); nothing happens where there is none.

use std::time::Duration;

use annulus_core::time::Instant;
use sd_notify::NotifyState;

/// Tells the service manager that the daemon is ready, alive and ending.
#[derive(Debug)]
pub struct Supervision {
    interval: Option<Duration>,
    next: Instant,
    status: String,
}

impl Supervision {
    /// Takes the watchdog's interval from the environment; notifications are sent at half of it.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { interval: sd_notify::watchdog_enabled().map(|whole| whole / 2), next: now, status: String::new() }
    }

    /// The daemon serves its control socket and packets.
    pub fn ready(&self) {
        tell(&[NotifyState::Ready]);
    }

    /// One line for `systemctl status`, sent when it changed.
    pub fn status(&mut self, text: String) {
        if text != self.status {
            tell(&[NotifyState::Status(&text)]);
            self.status = text;
        }
    }

    /// The daemon ends.
    pub fn stopping(&self) {
        tell(&[NotifyState::Stopping]);
    }

    /// Called by the event loop itself, so that a loop that is stuck is noticed: says that it is alive when that is due.
    pub fn alive(&mut self, now: Instant) {
        if let Some(interval) = self.interval
            && now >= self.next
        {
            tell(&[NotifyState::Watchdog]);
            self.next = now + interval;
        }
    }

    /// When [`Self::alive`] must be called next.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.interval.map(|_| self.next)
    }
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "the service manager cannot be told");
    }
}
