//! From a command line to a daemon that only needs an event loop.

use crate::engine::{CorePlane, Engine, gather};
use crate::exit::Failure;
use crate::logs;
use crate::settings::{Flags, Settings};
use crate::signals::Signals;

/// Reads the configuration, opens everything and starts the nodes. `runtime` is the event loop's name, for `status`.
///
/// # Errors
/// [`Failure`] with the exit code that belongs to it. What was changed on the host until then is undone.
pub fn start(flags: &Flags, runtime: &'static str) -> Result<Engine<CorePlane>, Failure> {
    let settings = Settings::new(flags).map_err(Failure::usage)?;
    logs::start(&settings.log_level, settings.log_format);
    // Before any thread is started, or signals would find one that does not block them.
    let signals = Signals::block().map_err(|error| Failure::failed(format!("cannot take signals: {error}")))?;
    let parts = gather(settings)?;
    let plane = CorePlane::new(&parts)?;
    Engine::new(parts, plane, signals, runtime)
}
