//! Tests of what crosses crates. This library is what they share:
//!
//! | module | what |
//! | --- | --- |
//! | [`cluster`] | hosts of a lab that run daemons of one group |
//! | [`traffic`] | packets between applications on these hosts |
//! | [`wire`] | what an eavesdropper on the router sees, and what an attacker sends |
//! | [`ring`] | one scenario, run by several drivers |

#![forbid(unsafe_code)]

pub mod cluster;
pub mod ring;
pub mod traffic;
pub mod wire;
