//! What the node binaries of Annulus share: settings, keys and state on disk, the control socket, logs, clocks, and the engine that a runtime drives.

#![forbid(unsafe_code)]

pub mod clock;
pub mod config;
pub mod control;
pub mod exit;
pub mod files;
pub mod group_file;
pub mod logs;
pub mod pem;
pub mod resolver;
pub mod settings;
pub mod signals;
pub mod state;
pub mod status;
pub mod supervise;
