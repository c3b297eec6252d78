//! The text form of certificates, requests and keys (RFC 7468).

use der::pem::LineEnding;

use super::error::CertificateError;

pub(super) const CERTIFICATE: &str = "CERTIFICATE";
pub(super) const REQUEST: &str = "CERTIFICATE REQUEST";

/// Longest PEM text in bytes that is read: a bundle of four CA certificates with `openssl x509 -text` output in front of each is far below.
pub const MAX_PEM_LEN: usize = 65_536;

/// A text does not hold what was looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PemError {
    /// It has no block with this label, or the block is broken.
    #[error("no readable PEM block \"{0}\"")]
    NoBlock(&'static str),
    /// What the block holds is not a certificate of ours.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
}

/// `der` as PEM.
pub(super) fn encode(label: &str, der: &[u8]) -> String {
    der::pem::encode_string(label, LineEnding::LF, der).expect("what we write is short")
}

/// The content of the first block with `label`. What stands before it is ignored.
pub(super) fn decode(label: &'static str, text: &str) -> Result<Vec<u8>, PemError> {
    let first = blocks(label, text).next().ok_or(PemError::NoBlock(label))?;
    decode_block(label, first)
}

/// The contents of all blocks with `label`, at most `max`.
pub(super) fn decode_all(label: &'static str, text: &str, max: usize) -> Result<Vec<Vec<u8>>, PemError> {
    let all: Vec<_> = blocks(label, text).take(max + 1).map(|block| decode_block(label, block)).collect::<Result<_, _>>()?;
    if all.is_empty() || all.len() > max { Err(PemError::NoBlock(label)) } else { Ok(all) }
}

fn decode_block(label: &'static str, block: &str) -> Result<Vec<u8>, PemError> {
    match der::pem::decode_vec(block.as_bytes()) {
        Ok((found, der)) if found == label => Ok(der),
        _ => Err(PemError::NoBlock(label)),
    }
}

/// The blocks with `label`, from their first to their last line.
fn blocks<'a>(label: &str, text: &'a str) -> impl Iterator<Item = &'a str> {
    let begin = format!("-----BEGIN {label}-----");
    let end = format!("-----END {label}-----");
    let mut rest = if text.len() <= MAX_PEM_LEN { text } else { "" };
    core::iter::from_fn(move || {
        let start = rest.find(&begin)?;
        let len = rest[start..].find(&end)? + end.len();
        let block = &rest[start..start + len];
        rest = &rest[start + len..];
        Some(block)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn blocks_are_found_behind_other_text() {
        let text = format!("Certificate:\n  Data\n{}in between\n{}", encode(CERTIFICATE, b"one"), encode(CERTIFICATE, b"two"));
        assert_eq!(decode(CERTIFICATE, &text), Ok(b"one".to_vec()));
        assert_eq!(decode_all(CERTIFICATE, &text, 2), Ok(vec![b"one".to_vec(), b"two".to_vec()]));
        assert_eq!(decode_all(CERTIFICATE, &text, 1), Err(PemError::NoBlock(CERTIFICATE)));
        assert_eq!(decode(REQUEST, &text), Err(PemError::NoBlock(REQUEST)));
    }

    proptest! {
        #[test]
        fn no_text_panics_the_reader(text in "(-----BEGIN CERTIFICATE-----|-----END CERTIFICATE-----|\n|[A-Za-z0-9+/=]{0,70}|.{0,3}){0,12}") {
            let _ = decode_all(CERTIFICATE, &text, 4);
        }
    }
}
