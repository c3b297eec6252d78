//! PEM text with several blocks, and the two private keys of a node as PKCS#8 (RFC 5958, RFC 8410), which openssl reads too.

use der::pem::{self, LineEnding};
use zeroize::Zeroizing;

/// Everything in front of the 32 bytes of a private key in PKCS#8; the last byte but 10 of the OID 1.3.101.x tells the algorithm.
const PKCS8: [u8; 16] = [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x00, 0x04, 0x22, 0x04, 0x20];
const ALGORITHM_AT: usize = 11;
/// id-X25519, 1.3.101.110.
const X25519: u8 = 0x6e;
/// id-Ed25519, 1.3.101.112.
const ED25519: u8 = 0x70;

/// Blocks that one text may have at most: certificates of a CA in rotation, or two keys; more is no file of ours.
const MAX_BLOCKS: usize = 16;

/// Why a PEM text was not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PemError {
    /// No PEM, or damaged.
    #[error("not PEM text: {0}")]
    Malformed(String),
    /// A block that does not belong there.
    #[error("a block `{found}` where `{expected}` belongs")]
    WrongLabel {
        /// What stands there.
        found: String,
        /// What should.
        expected: &'static str,
    },
    /// The keys of a node are one Ed25519 and one X25519 key.
    #[error("a node's key file has one Ed25519 and one X25519 key as PKCS#8, each in a block PRIVATE KEY")]
    NotNodeKeys,
}

/// The secrets of a node.
pub struct NodeKeys {
    /// The Ed25519 signing key.
    pub signing: Zeroizing<[u8; 32]>,
    /// The X25519 secret.
    pub dh: Zeroizing<[u8; 32]>,
}

impl core::fmt::Debug for NodeKeys {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("NodeKeys(..)")
    }
}

impl NodeKeys {
    /// Parses the key file of a node.
    ///
    /// # Errors
    /// [`PemError`].
    pub fn from_pem(text: &str) -> Result<Self, PemError> {
        let mut signing = None;
        let mut dh = None;
        for block in decode(text, "PRIVATE KEY")? {
            let block = Zeroizing::new(block);
            let (prefix, key) = block.split_at_checked(PKCS8.len()).ok_or(PemError::NotNodeKeys)?;
            let key: [u8; 32] = key.try_into().map_err(|_| PemError::NotNodeKeys)?;
            let place = if prefix == pkcs8_prefix(ED25519) {
                &mut signing
            } else if prefix == pkcs8_prefix(X25519) {
                &mut dh
            } else {
                return Err(PemError::NotNodeKeys);
            };
            if place.replace(Zeroizing::new(key)).is_some() {
                return Err(PemError::NotNodeKeys);
            }
        }
        match (signing, dh) {
            (Some(signing), Some(dh)) => Ok(Self { signing, dh }),
            _ => Err(PemError::NotNodeKeys),
        }
    }

    /// The key file of a node.
    #[must_use]
    pub fn to_pem(&self) -> Zeroizing<String> {
        let mut out = Zeroizing::new(String::new());
        for (algorithm, key) in [(ED25519, &self.signing), (X25519, &self.dh)] {
            let mut der = Zeroizing::new(pkcs8_prefix(algorithm).to_vec());
            der.extend_from_slice(&**key);
            out.push_str(&encode("PRIVATE KEY", &der));
        }
        out
    }
}

fn pkcs8_prefix(algorithm: u8) -> [u8; 16] {
    let mut prefix = PKCS8;
    prefix[ALGORITHM_AT] = algorithm;
    prefix
}

/// `der` as a PEM block.
#[must_use]
pub fn encode(label: &str, der: &[u8]) -> String {
    pem::encode_string(label, LineEnding::LF, der).expect("labels are constants of ours and the length is far below the limit")
}

/// The blocks of `text`, all of which must have this label; what stands between them is ignored.
///
/// # Errors
/// [`PemError`].
pub fn decode(text: &str, label: &'static str) -> Result<Vec<Vec<u8>>, PemError> {
    let mut blocks = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find("-----BEGIN ") {
        let from = &rest[start..];
        let end = from.find("-----END ").ok_or_else(|| PemError::Malformed("a block has no end".into()))?;
        let stop = from[end..].find('\n').map_or(from.len(), |newline| end + newline + 1);
        let (found, der) = pem::decode_vec(from[..stop].trim_end().as_bytes()).map_err(|error| PemError::Malformed(error.to_string()))?;
        if found != label {
            return Err(PemError::WrongLabel { found: found.to_owned(), expected: label });
        }
        if blocks.len() == MAX_BLOCKS {
            return Err(PemError::Malformed(format!("more than {MAX_BLOCKS} blocks")));
        }
        blocks.push(der);
        rest = &from[stop..];
    }
    if blocks.is_empty() { Err(PemError::Malformed(format!("no block `{label}`"))) } else { Ok(blocks) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_of_a_node_round_trip() {
        let keys = NodeKeys { signing: Zeroizing::new([1; 32]), dh: Zeroizing::new([2; 32]) };
        let text = keys.to_pem();
        assert_eq!(text.matches("BEGIN PRIVATE KEY").count(), 2);
        let back = NodeKeys::from_pem(&text).unwrap();
        assert_eq!((*back.signing, *back.dh), ([1; 32], [2; 32]));
    }

    #[test]
    fn one_key_or_twice_the_same_kind_is_refused() {
        let keys = NodeKeys { signing: Zeroizing::new([1; 32]), dh: Zeroizing::new([2; 32]) }.to_pem();
        let half = keys.split_inclusive("-----END PRIVATE KEY-----\n").next().unwrap();
        assert_eq!(NodeKeys::from_pem(half).unwrap_err(), PemError::NotNodeKeys);
        assert_eq!(NodeKeys::from_pem(&format!("{half}{half}")).unwrap_err(), PemError::NotNodeKeys);
    }

    #[test]
    fn several_blocks_with_words_between_them_are_found() {
        let text = format!("first\n{}second\n{}", encode("CERTIFICATE", b"one"), encode("CERTIFICATE", b"two"));
        assert_eq!(decode(&text, "CERTIFICATE").unwrap(), [b"one".to_vec(), b"two".to_vec()]);
        assert!(matches!(decode(&text, "PRIVATE KEY"), Err(PemError::WrongLabel { .. })));
        assert!(matches!(decode("", "CERTIFICATE"), Err(PemError::Malformed(_))));
        assert!(matches!(decode("-----BEGIN CERTIFICATE-----\nAAAA", "CERTIFICATE"), Err(PemError::Malformed(_))));
    }
}
