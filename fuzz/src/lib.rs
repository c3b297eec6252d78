//! The functions behind the fuzz targets: ordinary code, which `cargo test` feeds with the committed corpus and with random bytes.
//!
//! Each takes any bytes and panics when a property of core does not hold. An input is a short program: its bytes choose what happens next, and when
//! they are used up every further choice is 0, so that cutting an input leaves a prefix of the same story. Nothing depends on anything but the input.
//!
//! | target | what is fed | what must hold |
//! | --- | --- | --- |
//! | [`wire()`] | bytes to each parser of `core::wire` | what is read is written again as the same bytes, or reads alike |
//! | [`certificate()`] | certificates, requests, lists, PEM: raw, edited, edited and signed again | what is accepted has one encoding and keeps the profile |
//! | [`handshake()`] | datagrams under the realm's MAC to three nodes' `Sessions`: genuine, reordered, edited, invented | nobody is taken for another, answers are not larger than questions, a later handshake succeeds |
//! | [`session_open()`] | sealed packets, edited, cut, replayed, spliced; real crypto | what was sealed opens once and unchanged, nothing else opens |
//! | [`node()`] | a whole node: datagrams of strangers and of a malicious member, packets, orders, times | no stall, deadlines lie ahead, strangers get no more bytes than they sent |
//! | [`two_nodes()`] | the network between two or three whole nodes | packets arrive unchanged, at most once; when the faults stop the ring heals |

#![forbid(unsafe_code)]

mod certificate;
mod der;
mod handshake;
mod input;
mod ip;
mod mac;
mod member;
mod member_node;
mod node;
mod say;
mod seeds;
mod session_open;
mod two_nodes;
mod wire;

pub use certificate::certificate;
pub use handshake::handshake;
pub use node::node;
pub use seeds::seeds;
pub use session_open::session_open;
pub use two_nodes::two_nodes;
pub use wire::wire;

/// A target's name, which is also that of its folder in `corpus`, and its function.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 6] = [
    ("wire", wire),
    ("certificate", certificate),
    ("handshake", handshake),
    ("session_open", session_open),
    ("node", node),
    ("two_nodes", two_nodes),
];
