//! Addresses at which a node may be reached, packed: a node remembers dozens of them for others.

use crate::io::Candidates;
use crate::wire::codec::{Reader, Write};
use crate::wire::overlay::MAX_CANDIDATES;

/// A packed list of at most 12 addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Hint(Box<[u8]>);

impl Hint {
    pub(super) fn new(addresses: &Candidates) -> Self {
        let mut out = Vec::new();
        for address in addresses.iter().take(MAX_CANDIDATES) {
            out.put_socket_addr(address);
        }
        Self(out.into_boxed_slice())
    }

    /// At most `limit` of the addresses, in their order.
    pub(super) fn addresses(&self, limit: usize) -> Candidates {
        let mut reader = Reader::new(&self.0);
        let mut out = Candidates::new();
        while out.len() < limit && reader.remaining() > 0 {
            let Ok(address) = reader.socket_addr() else { break };
            out.push(address);
        }
        out
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// `first` and then `rest` without repetition, at most 12.
pub(super) fn join_addresses(first: Option<core::net::SocketAddr>, rest: Candidates) -> Candidates {
    let mut out = Candidates::new();
    for address in first.into_iter().chain(rest) {
        if out.len() < MAX_CANDIDATES && !out.contains(&address) {
            out.push(address);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::SocketAddr;

    #[test]
    fn what_is_packed_comes_back_in_order() {
        let addresses: Candidates = (1..=12).map(|port| SocketAddr::from(([10, 0, 0, 1], port))).collect();
        let hint = Hint::new(&addresses);
        assert_eq!(hint.addresses(12), addresses);
        assert_eq!(hint.addresses(2)[..], addresses[..2]);
        assert_eq!(join_addresses(Some(addresses[3]), addresses.clone())[..2], [addresses[3], addresses[0]]);
        assert_eq!(join_addresses(Some(addresses[3]), addresses.clone()).len(), 12);
        assert!(Hint::default().is_empty());
    }
}
