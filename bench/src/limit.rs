//! Programs that must end in time.

use std::process::ExitStatus;
use std::thread::sleep;
use std::time::{Duration, Instant};

use annulus_lab::Process;
use anyhow::{Result, bail};

/// How often it is looked whether a program has ended. Seldom enough not to be seen in a measurement on two cores.
const LOOK: Duration = Duration::from_millis(10);

/// A program with a time limit. It is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Limited {
    process: Process,
    end: Instant,
}

impl Limited {
    /// Gives a running program so many seconds from now on.
    #[must_use]
    pub(crate) fn new(process: Process, seconds: u64) -> Self {
        Self { process, end: Instant::now() + Duration::from_secs(seconds) }
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// If that does not come in time; then it is killed.
    pub(crate) fn finish(mut self, what: &str) -> Result<ExitStatus> {
        loop {
            if let Some(status) = self.process.try_wait()? {
                return Ok(status);
            }
            if Instant::now() >= self.end {
                bail!("{what} does not end");
            }
            sleep(LOOK);
        }
    }

    /// The program.
    #[must_use]
    pub(crate) const fn process(&self) -> &Process {
        &self.process
    }
}
