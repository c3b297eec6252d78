//! Requests of the VPN.
//!
//! | method | request | reply |
//! | --- | --- | --- |
//! | `0x40` announce | the sender's address lease with its grants, and certificates, as in a store of the DHT | 1 byte: 0 accepted, 1 refused |
//! | `0x41` who is | a point on the ring 20 | the receiver's certificate in DER when its node ID begins with the point's first 64 bits, else nothing |
//!
//! The value of a name's record (`h/<name>`) is the list of its node's addresses: number 1 (at most 8), addresses 1+4 or 1+16.

use core::net::IpAddr;

use bytes::Bytes;

use super::WireError;
use super::codec::{Reader, Write as _};
use crate::id::NodeId;

/// Shows an address lease to a peer, so that it accepts packets from that address.
pub const METHOD_ANNOUNCE: u8 = 0x40;
/// Asks for the certificate of the node at a point.
pub const METHOD_WHO_IS: u8 = 0x41;
/// Most addresses in a name's record.
pub const MAX_LISTED: usize = 8;

/// The answer to an announcement.
#[must_use]
pub fn announce_reply(accepted: bool) -> Bytes {
    Bytes::from_static(if accepted { &[0] } else { &[1] })
}

/// Whether an announcement was accepted.
///
/// # Errors
/// [`WireError`] when the answer does not have its form.
pub fn read_announce_reply(body: &[u8]) -> Result<bool, WireError> {
    let mut reader = Reader::new(body);
    let code = reader.u8()?;
    reader.finish()?;
    match code {
        0 => Ok(true),
        1 => Ok(false),
        _ => Err(WireError::BadField("code")),
    }
}

/// The body of a question for the node at `point`.
#[must_use]
pub fn who_is(point: &NodeId) -> Bytes {
    Bytes::copy_from_slice(&point.0)
}

/// The point of such a question.
///
/// # Errors
/// [`WireError`] when it does not have its form.
pub fn read_who_is(body: &[u8]) -> Result<NodeId, WireError> {
    let mut reader = Reader::new(body);
    let point = reader.node_id()?;
    reader.finish()?;
    Ok(point)
}

/// The value of a name's record; addresses beyond [`MAX_LISTED`] are left out.
#[must_use]
pub fn addresses_value(addresses: &[IpAddr]) -> Bytes {
    let addresses = &addresses[..addresses.len().min(MAX_LISTED)];
    let mut out = vec![addresses.len() as u8];
    addresses.iter().for_each(|address| out.put_ip_addr(address));
    out.into()
}

/// The addresses in a name's record.
///
/// # Errors
/// [`WireError`] when it does not have its form.
pub fn read_addresses_value(value: &[u8]) -> Result<Vec<IpAddr>, WireError> {
    let mut reader = Reader::new(value);
    let count = usize::from(reader.u8()?);
    if count > MAX_LISTED {
        return Err(WireError::BadField("addresses"));
    }
    let mut out = Vec::with_capacity(count);
    for _ in 0..count {
        out.push(reader.ip_addr()?);
    }
    reader.finish()?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn lists_of_addresses_round_trip(addresses in proptest::collection::vec(any::<IpAddr>(), 0..=MAX_LISTED), point in any::<[u8; 20]>()) {
            prop_assert_eq!(read_addresses_value(&addresses_value(&addresses)), Ok(addresses));
            prop_assert_eq!(read_who_is(&who_is(&NodeId(point))), Ok(NodeId(point)));
        }

        #[test]
        fn arbitrary_bytes_are_refused_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = read_addresses_value(&bytes);
            let _ = read_who_is(&bytes);
            let _ = read_announce_reply(&bytes);
        }
    }

    #[test]
    fn an_answer_to_an_announcement_is_yes_or_no() {
        assert_eq!(read_announce_reply(&announce_reply(true)), Ok(true));
        assert_eq!(read_announce_reply(&announce_reply(false)), Ok(false));
        assert!(read_announce_reply(&[2]).is_err() && read_announce_reply(&[]).is_err());
    }
}
