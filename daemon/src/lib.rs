//! What node binaries share.

pub mod udp;
