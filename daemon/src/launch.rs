//! From a command line to a daemon that only needs an event loop.

use crate::engine::{CorePlane, Drive, Engine, gather};
use crate::exit::{Exit, Failure};
use crate::logs;
use crate::settings::{Flags, Settings};
use crate::signals::Signals;

/// Runs a daemon until it ends: reads the configuration, opens everything, starts the workers and the nodes. `runtime` is the event loop's name, for
/// `status`; `drive` the loop itself, for this thread and each worker's.
///
/// # Errors
/// [`Failure`] with the exit code that belongs to it, or what the event loop says. What was changed on the host is undone.
pub fn run(flags: &Flags, runtime: &'static str, drive: Drive) -> anyhow::Result<Exit> {
    let mut engine = start(flags, runtime, drive)?;
    drive(&mut engine)
}

fn start(flags: &Flags, runtime: &'static str, drive: Drive) -> Result<Engine<CorePlane>, Failure> {
    let settings = Settings::new(flags).map_err(Failure::usage)?;
    logs::start(&settings.log_level, settings.log_format);
    // Before any thread is started, or signals would find one that does not block them.
    let signals = Signals::block().map_err(|error| Failure::failed(format!("cannot take signals: {error}")))?;
    let mut parts = gather(settings)?;
    let plane = CorePlane::new(&parts)?;
    parts.hire(drive)?;
    Engine::new(parts, plane, signals, runtime)
}
