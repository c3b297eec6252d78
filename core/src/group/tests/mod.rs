//! Tests over several files of this module.
