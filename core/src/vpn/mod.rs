//! (being written)
pub mod address;
