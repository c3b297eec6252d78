//! Tests of what crosses crates. This library is what they share:
//!
//! | module | what |
//! | --- | --- |
//! | [`cluster`] | hosts of a lab that run daemons of one group |
//! | [`traffic`] | packets between applications on these hosts |
//! | [`middlebox`] | a road on which datagrams get lost, are late and overtake each other |
//! | [`inner`] | what packets inside of the tunnel may look like |
//! | [`wire`] | what an eavesdropper on the router sees, and what an attacker sends |
//! | [`ring`] | one scenario, run by several drivers |

#![forbid(unsafe_code)]

pub mod cluster;
pub mod inner;
pub mod middlebox;
pub mod ring;
pub mod traffic;
pub mod wire;
