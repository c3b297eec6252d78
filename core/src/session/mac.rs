//! The realm MAC: who does not know the realm's key meets a closed port.

use core::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::group::RealmKey;
use crate::wire::handshake::{HEADER_LEN, MAC_AT, MAC_LEN};

/// The keyed MAC on every handshake datagram.
pub(super) struct RealmMac {
    keyed: Hmac<Sha256>,
}

impl RealmMac {
    /// A MAC under a key derived from the realm's.
    pub(super) fn new(realm: &RealmKey) -> Self {
        let derived = keyed(realm.as_bytes()).chain_update(b"annulus handshake datagram").finalize().into_bytes();
        Self { keyed: keyed(&derived) }
    }

    /// Fills in the MAC of a whole datagram and returns it.
    pub(super) fn sign(&self, datagram: &mut [u8]) -> [u8; MAC_LEN] {
        let full = self.over(datagram).finalize().into_bytes();
        let mut mac = [0; MAC_LEN];
        mac.copy_from_slice(&full[..MAC_LEN]);
        datagram[MAC_AT..HEADER_LEN].copy_from_slice(&mac);
        mac
    }

    /// Whether the MAC of a datagram is right; compared in constant time.
    pub(super) fn verify(&self, datagram: &[u8]) -> bool {
        datagram.len() >= HEADER_LEN && self.over(datagram).verify_truncated_left(&datagram[MAC_AT..HEADER_LEN]).is_ok()
    }

    fn over(&self, datagram: &[u8]) -> Hmac<Sha256> {
        self.keyed.clone().chain_update(&datagram[..MAC_AT]).chain_update(&datagram[HEADER_LEN..])
    }
}

impl fmt::Debug for RealmMac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RealmMac(..)")
    }
}

/// HMAC-SHA-256 under `key`.
pub(super) fn keyed(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes keys of any length")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_byte_of_a_datagram_is_covered() {
        let mac = RealmMac::new(&RealmKey::new([1; 32]));
        let mut datagram = vec![7; 60];
        mac.sign(&mut datagram);
        assert!(mac.verify(&datagram) && !RealmMac::new(&RealmKey::new([2; 32])).verify(&datagram));
        for at in 0..datagram.len() {
            datagram[at] ^= 1;
            assert!(!mac.verify(&datagram), "byte {at}");
            datagram[at] ^= 1;
        }
        assert!(!mac.verify(&datagram[..HEADER_LEN - 1]));
    }
}
