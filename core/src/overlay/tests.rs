//! Whole rings in virtual time over an idealised session layer.

mod geometries;
mod messages;
mod net;
mod ring;

use net::Net;
