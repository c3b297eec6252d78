//! Orders of the daemon.

use super::Node;
use crate::events::{Command, Event};
use crate::time::Instant;
