//! Certificates that somebody tampered with.

use proptest::prelude::*;

use crate::group::fixture::{NOW, authority, node};
use crate::group::{CaCertificate, Certificate, Profile, Trust};
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
