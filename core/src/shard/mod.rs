//! The data plane of one worker.

pub mod table;
