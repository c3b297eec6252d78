//! What the node binaries of Annulus share: settings, keys and state on disk, the control socket, logs, clocks, and the engine that a runtime drives.

#![forbid(unsafe_code)]

pub mod clock;
pub mod config;
pub mod files;
pub mod logs;
pub mod settings;
pub mod signals;
