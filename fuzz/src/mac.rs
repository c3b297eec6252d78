//! The realm MAC, computed once more: what a member that is up to no good can do.

use annulus_sim::core::group::RealmKey;
use annulus_sim::core::wire::handshake::{HEADER_LEN, MAC_AT, MAC_LEN};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

/// Makes datagrams pass the realm MAC of one realm.
#[derive(Clone)]
pub(crate) struct RealmMac(Hmac<Sha256>);

impl RealmMac {
    pub(crate) fn new(key: &RealmKey) -> Self {
        let derived = keyed(key.as_bytes()).chain_update(b"annulus handshake datagram").finalize().into_bytes();
        Self(keyed(&derived))
    }

    /// Writes the right MAC into a datagram that has room for one.
    pub(crate) fn sign(&self, datagram: &mut [u8]) {
        if datagram.len() >= HEADER_LEN {
            let mac = self.0.clone().chain_update(&datagram[..MAC_AT]).chain_update(&datagram[HEADER_LEN..]).finalize().into_bytes();
            datagram[MAC_AT..HEADER_LEN].copy_from_slice(&mac[..MAC_LEN]);
        }
    }
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes keys of any length")
}
