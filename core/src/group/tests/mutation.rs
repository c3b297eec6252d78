//! Certificates that somebody tampered with.

use ed25519_dalek::pkcs8::DecodePrivateKey;
use ed25519_dalek::{Signer, SigningKey};
use proptest::prelude::*;

use crate::group::fixture::{NOW, authority, node};
use crate::group::{Authority, CaCertificate, Certificate, CertificateError, Profile, Trust};
use crate::rng::Rng;
use crate::shard::table::Prefix;
use crate::time::UnixTime;

/// A certificate with every field that the profile has, and the trust that accepts it.
fn subject() -> (Trust, Certificate) {
    let (authority, mut rng) = authority();
    let addresses = vec![Prefix::host("10.128.0.7".parse().unwrap()), Prefix::new("fd07::".parse().unwrap(), 64)];
    let profile = Profile { addresses, ..Profile::new("alice", "db1", NOW) };
    let certificate = authority.enrol(&profile, &mut rng).unwrap().certificate().clone();
    assert_eq!(authority.trust().verify(certificate.der(), NOW), Ok(certificate.clone()));
    (authority.trust(), certificate)
}

#[test]
fn no_certificate_with_a_single_bit_changed_verifies() {
    let (trust, certificate) = subject();
    let mut bytes = certificate.der().to_vec();
    for at in 0..bytes.len() {
        for bit in 0..8 {
            bytes[at] ^= 1 << bit;
            assert!(trust.verify(&bytes, NOW).is_err(), "bit {bit} of byte {at}");
            bytes[at] ^= 1 << bit;
        }
    }
    assert!(trust.verify(&bytes, NOW).is_ok());
}

#[test]
fn no_ca_certificate_with_a_single_bit_changed_is_read() {
    let (authority, _) = authority();
    let mut bytes = authority.certificate().der().to_vec();
    for at in 0..bytes.len() {
        for bit in 0..8 {
            bytes[at] ^= 1 << bit;
            assert!(CaCertificate::parse(&bytes).is_err(), "bit {bit} of byte {at}");
            bytes[at] ^= 1 << bit;
        }
    }
    assert!(CaCertificate::parse(&bytes).is_ok());
}

#[test]
fn no_certificate_with_bytes_cut_or_added_is_read() {
    let (_, certificate) = subject();
    let bytes = certificate.der();
    for len in 0..bytes.len() {
        assert!(Certificate::parse(&bytes[..len]).is_err(), "the first {len} bytes");
        assert!(Certificate::parse(&bytes[len + 1..]).is_err(), "without the first {}", len + 1);
        let mut without = bytes.to_vec();
        without.remove(len);
        assert!(Certificate::parse(&without).is_err(), "without byte {len}");
    }
    let mut longer = bytes.to_vec();
    longer.push(0);
    assert!(Certificate::parse(&longer).is_err());
}

#[test]
fn a_second_encoding_of_the_same_certificate_is_refused() {
    let (trust, certificate) = subject();
    let der = certificate.der();
    // The outer length in three bytes where two suffice.
    assert_eq!(&der[..2], [0x30, 0x82]);
    let mut long = vec![0x30, 0x83, 0x00];
    long.extend_from_slice(&der[2..]);
    assert!(trust.verify(&long, NOW).is_err());
    // The other S of the signature, beyond the group's order (RFC 8032 section 5.1.7).
    const ORDER: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        0, 0, 0, 0x10,
    ];
    let mut malleable = der.to_vec();
    let start = malleable.len() - 32;
    let mut carry = 0;
    for (byte, order) in malleable[start..].iter_mut().zip(ORDER) {
        let sum = u16::from(*byte) + u16::from(order) + carry;
        (*byte, carry) = (sum as u8, sum >> 8);
    }
    assert_eq!(carry, 0);
    assert!(trust.verify(&malleable, NOW).is_err());
}

/// The certificate with these signed bytes, signed by the CA: what a CA with a sloppy encoder would issue.
fn signed_by_the_ca(authority: &Authority, tbs: &[u8]) -> Vec<u8> {
    let key = SigningKey::from_pkcs8_pem(&authority.to_parts().key_pem).unwrap();
    let tail = [&[0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 65, 0], key.sign(tbs).to_bytes().as_slice()].concat();
    let len = ((tbs.len() + tail.len()) as u16).to_be_bytes();
    [&[0x30, 0x82, len[0], len[1]], tbs, &tail].concat()
}

/// `tbs` with `from` replaced by the longer `to`, and the lengths at `lengths` and of the whole corrected.
fn grown(tbs: &[u8], from: &[u8], to: &[u8], lengths: &[&[u8]]) -> Vec<u8> {
    let more = to.len() - from.len();
    let find = |bytes: &[u8], part: &[u8]| bytes.windows(part.len()).position(|window| window == part).unwrap();
    let at = find(tbs, from);
    let mut out = [&tbs[..at], to, &tbs[at + from.len()..]].concat();
    for part in lengths {
        let at = find(&out, part);
        out[at + part.len() - 1] += more as u8;
    }
    assert_eq!(&out[..2], [0x30, 0x82]);
    let len = (out.len() - 4) as u16;
    out[2..4].copy_from_slice(&len.to_be_bytes());
    out
}

#[test]
fn sloppy_encodings_are_refused_even_when_the_ca_signed_them() {
    let (authority, mut rng) = authority();
    let (_, certificate) = node(&authority, "db1", &mut rng);
    let trust = authority.trust();
    let tbs = certificate.signed();
    assert_eq!(trust.verify(&signed_by_the_ca(&authority, tbs), NOW), Ok(certificate.clone()), "the control");

    // GeneralizedTime for a year before 2050 (RFC 5280 section 4.1.2.5).
    let late_form = grown(tbs, b"\x17\x0d261222080823Z", b"\x18\x0f20261222080823Z", &[b"\x30\x1e"]);
    let refused = trust.verify(&signed_by_the_ca(&authority, &late_form), NOW);
    assert!(matches!(refused, Err(CertificateError::Malformed(_))), "{refused:?}");

    // A default value that is written out (X.690 section 11.5): `critical` FALSE of the roles.
    let at = tbs.windows(3).rposition(|window| window == [2, 1, 1]).unwrap();
    let start = tbs[..at].iter().rposition(|byte| *byte == 0x30).unwrap();
    let plain = tbs[start..at + 3].to_vec();
    let oid_len = usize::from(plain[3]);
    let mut explicit = [&plain[..4 + oid_len], &[1, 1, 0], &plain[4 + oid_len..]].concat();
    explicit[1] += 3;
    let mut written_out = grown(tbs, &plain, &explicit, &[]);
    // The lengths around all extensions, of [3] and of the SEQUENCE, are in the form of one further byte.
    let outer = written_out.windows(2).position(|window| window == [0xa3, 0x81]).unwrap();
    written_out[outer + 2] += 3;
    written_out[outer + 5] += 3;
    let refused = trust.verify(&signed_by_the_ca(&authority, &written_out), NOW);
    assert!(matches!(refused, Err(CertificateError::Malformed(_))), "{refused:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_certificate_with_any_bytes_changed_never_verifies(changes in proptest::collection::vec((any::<prop::sample::Index>(), 1u8..), 1..6), now in any::<u64>()) {
        let (trust, certificate) = subject();
        let mut bytes = certificate.der().to_vec();
        for (at, flip) in &changes {
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
        }
        prop_assume!(bytes != certificate.der()[..]);
        for now in [NOW, UnixTime(now)] {
            prop_assert!(trust.verify(&bytes, now).is_err());
        }
    }

    #[test]
    fn pieces_of_two_certificates_never_verify_together(at in any::<prop::sample::Index>(), back in 0usize..40, seed in any::<[u8; 32]>()) {
        let (authority, _) = authority();
        let mut rng = Rng::new(seed);
        let (a, b) = (node(&authority, "db1", &mut rng).1, node(&authority, "db2", &mut rng).1);
        let at = at.index(a.der().len());
        let mut spliced = a.der()[..at].to_vec();
        spliced.extend_from_slice(&b.der()[at.saturating_sub(back).min(b.der().len())..]);
        prop_assume!(spliced != a.der()[..] && spliced != b.der()[..]);
        prop_assert!(authority.trust().verify(&spliced, NOW).is_err());
    }

    #[test]
    fn random_bytes_are_no_certificate(bytes in proptest::collection::vec(any::<u8>(), 0..1000)) {
        prop_assert!(Certificate::parse(&bytes).is_err());
        prop_assert!(CaCertificate::parse(&bytes).is_err());
    }
}
