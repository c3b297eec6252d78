//! What the node binaries of Annulus share: settings, keys and state on disk, the control socket, logs, clocks, sockets, and the engine that a runtime drives.

#![forbid(unsafe_code)]

pub mod clock;
pub mod config;
pub mod control;
pub mod engine;
pub mod exit;
pub mod files;
pub mod group_file;
pub mod identity;
pub mod launch;
pub mod logs;
pub mod preflight;
pub mod resolver;
pub mod settings;
pub mod signals;
pub mod state;
pub mod status;
pub mod steering;
pub mod supervise;
pub mod udp;
