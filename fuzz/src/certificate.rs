//! Certificates, requests, revocation lists and their text forms.

use std::sync::OnceLock;

use annulus_core::group::{
    Authority, CaCertificate, Certificate, CertificateError, MAX_ADDRESSES, MAX_CERTIFICATE_LEN, NodeKeys, Parameters, Profile, Request,
    RevocationError, Revoked, Trust, check_group_name, check_node_name, check_user_name, node_id,
};
use annulus_core::rng::Rng;
use annulus_core::shard::table::Prefix;
use annulus_core::time::UnixTime;
use der::{Decode as _, Encode as _};
use ed25519_dalek::pkcs8::DecodePrivateKey as _;
use ed25519_dalek::{Signer as _, SigningKey};

use crate::der::Element;
use crate::input::{Input, edit};

/// 2026-11-22, when the group was made.
const NOW: UnixTime = UnixTime(1_795_334_903);

/// A group, and one genuine piece of each kind.
pub(crate) struct Fixture {
    trust: Trust,
    ca_key: SigningKey,
    node_key: SigningKey,
    pub(crate) certificates: Vec<Vec<u8>>,
    pub(crate) authorities: Vec<Vec<u8>>,
    pub(crate) requests: Vec<Vec<u8>>,
    pub(crate) lists: Vec<Vec<u8>>,
    pub(crate) texts: Vec<String>,
}

pub(crate) fn fixture() -> &'static Fixture {
    static FIXTURE: OnceLock<Fixture> = OnceLock::new();
    FIXTURE.get_or_init(|| Fixture::new().expect("the names and lifetimes are allowed"))
}

impl Fixture {
    fn new() -> Result<Self, Box<dyn std::error::Error>> {
        let mut rng = Rng::new([21; 32]);
        let mut authority = Authority::init(&Parameters::new("lab"), &mut rng, NOW)?;
        let keys = NodeKeys::generate(&mut rng);
        let plain = authority.issue(&keys.request(), &Profile::new("alice", "laptop", NOW), &mut rng)?;
        let mut profile = Profile::new("Bob Bauer", "gateway-1", NOW);
        profile.addresses = vec![Prefix::host([10, 1, 2, 3].into()), Prefix::new([10, 9, 0, 0].into(), 16)];
        let with_addresses = authority.issue(&keys.request(), &profile, &mut rng)?;
        let first = authority.revoke(&[(Revoked::certificate(&plain), plain.not_after())], NOW)?.signed().to_vec();
        let second = authority.revoke(&[(Revoked::key(&with_addresses), plain.not_after())], NOW.plus_secs(60))?.signed().to_vec();
        let parts = authority.to_parts();
        let pem = format!("{}\n{}", parts.certificate_pem, parts.certificate_pem);
        Ok(Self {
            trust: authority.trust(),
            ca_key: SigningKey::from_pkcs8_pem(&parts.key_pem)?,
            node_key: SigningKey::from_bytes(&keys.signing),
            texts: vec![plain.to_pem(), pem, keys.request().to_pem(), keys.to_pem().to_string()],
            certificates: vec![plain.der().to_vec(), with_addresses.der().to_vec()],
            authorities: vec![authority.certificate().der().to_vec()],
            requests: vec![keys.request().der().to_vec()],
            lists: vec![first, second],
        })
    }
}

/// Feeds one piece: as it stands in the input, or a genuine one that was changed, perhaps with a right signature.
///
/// # Panics
/// When what is accepted has another encoding or breaks the profile, or when something is accepted that nobody signed.
pub fn certificate(data: &[u8]) {
    let fixture = fixture();
    let mut input = Input::new(data);
    let (kind, how) = (input.u8() % 5, input.u8() % 4);
    match kind {
        0 => {
            let (der, genuine) = piece(how, &fixture.certificates, Some(&fixture.ca_key), &mut input);
            check_certificate(fixture, &der, genuine, &mut input);
        }
        1 => check_authority(&piece(how, &fixture.authorities, Some(&fixture.ca_key), &mut input).0),
        2 => check_request(&piece(how, &fixture.requests, Some(&fixture.node_key), &mut input).0),
        3 => check_list(fixture, how, &mut input),
        _ => check_text(fixture, how, &mut input),
    }
}

/// One DER structure, and whether it carries a signature that was not made by the edit.
fn piece(how: u8, genuine: &[Vec<u8>], key: Option<&SigningKey>, input: &mut Input<'_>) -> (Vec<u8>, bool) {
    if how == 0 {
        return (input.take(usize::MAX).to_vec(), true);
    }
    let mut der = genuine[input.below(genuine.len())].clone();
    if how == 1 {
        edit(&mut der, input);
        return (der, true);
    }
    let mut tree = Element::parse(&der).expect("genuine DER");
    for _ in 0..=input.u8() % 3 {
        tree.mutate(input);
    }
    if let (3, Some(key)) = (how, key) {
        let signed = tree.child_mut(0).map(|first| first.bytes());
        if let (Some(signed), Some(signature)) = (signed, tree.child_mut(2)) {
            let mut bits = vec![0];
            bits.extend(key.sign(&signed).to_bytes());
            signature.set(bits);
        }
    }
    (tree.bytes(), how != 3)
}

fn check_certificate(fixture: &Fixture, der: &[u8], genuine_only: bool, input: &mut Input<'_>) {
    let parsed = Certificate::parse(der);
    if let Ok(certificate) = &parsed {
        assert_eq!(certificate.der(), der);
        assert!(der.len() <= MAX_CERTIFICATE_LEN);
        let again = x509_cert::Certificate::from_der(der).expect("it was read before").to_der().expect("it has an encoding");
        assert_eq!(again, der, "one encoding only");
        assert_eq!(certificate.node_id(), node_id(&certificate.group_id(), &certificate.public_key(), certificate.salt()));
        assert!(check_group_name(certificate.group_name()).is_ok() && check_user_name(certificate.user()).is_ok());
        assert!(check_node_name(certificate.node_name()).is_ok());
        assert!((1..=20).contains(&certificate.serial().len()) && certificate.serial()[0] != 0);
        assert!(certificate.addresses().len() <= MAX_ADDRESSES);
        assert!(certificate.addresses().iter().all(|prefix| Prefix::new(prefix.address, prefix.len) == *prefix));
        let pem = certificate.to_pem();
        assert_eq!(Certificate::from_pem(&pem).as_ref(), Ok(certificate));
    }
    let now = UnixTime(NOW.0.wrapping_add_signed(i64::from(input.u32() as i32)));
    match (fixture.trust.verify(der, now), parsed) {
        (Ok(verified), Ok(certificate)) => {
            assert_eq!(verified, certificate);
            assert!(certificate.not_before() <= now && now <= certificate.not_after());
            assert_eq!(certificate.group_id(), fixture.trust.group_id());
            assert!(!genuine_only || fixture.certificates.iter().any(|known| known == der), "nobody signed this: {der:02x?}");
        }
        (Ok(_), Err(error)) => panic!("verified, but not read: {error}"),
        (Err(error), Ok(_)) => {
            assert!(!matches!(error, CertificateError::Malformed(_)), "{error}");
            assert!(!error.is_authentic() || fixture.trust.authenticate(der).is_ok());
        }
        (Err(verify), Err(parse)) => assert_eq!(verify, parse),
    }
}

fn check_authority(der: &[u8]) {
    let Ok(ca) = CaCertificate::parse(der) else { return };
    assert_eq!(ca.der(), der);
    let again = x509_cert::Certificate::from_der(der).expect("it was read before").to_der().expect("it has an encoding");
    assert_eq!(again, der, "one encoding only");
    assert!(check_group_name(ca.group_name()).is_ok());
    let pem = ca.to_pem();
    assert_eq!(CaCertificate::from_pem(&pem).as_ref(), Ok(&ca));
    assert!(Trust::new(&[der], annulus_core::group::RealmKey::new([0; 32])).is_ok());
}

fn check_request(der: &[u8]) {
    let Ok(request) = Request::parse(der) else { return };
    assert_eq!(request.der(), der);
    let again = x509_cert::request::CertReq::from_der(der).expect("it was read before").to_der().expect("it has an encoding");
    assert_eq!(again, der, "one encoding only");
    let read = Request::from_pem(&request.to_pem()).expect("its own text");
    assert_eq!((read.der(), read.public_key(), read.dh_public()), (request.der(), request.public_key(), request.dh_public()));
}

fn check_list(fixture: &Fixture, how: u8, input: &mut Input<'_>) {
    const SIGNATURE: usize = annulus_core::group::SIGNATURE_LEN;
    let mut trust = fixture.trust.clone();
    if input.flag() {
        assert_eq!(trust.update_revocations(&fixture.lists[0], NOW), Ok(true));
    }
    let known = trust.revocations().cloned();
    let now = UnixTime(NOW.0.wrapping_add_signed(i64::from(input.u32() as i32)));
    let list = match how {
        0 => input.take(usize::MAX).to_vec(),
        _ => {
            let mut list = fixture.lists[input.below(fixture.lists.len())].clone();
            if how > 1 {
                list.truncate(list.len() - SIGNATURE);
            }
            edit(&mut list, input);
            if how > 1 {
                let context = annulus_core::group::CONTEXT_REVOCATIONS;
                let mut signed = b"annulus signature".to_vec();
                signed.extend((context.len() as u32).to_be_bytes());
                signed.extend(context.as_bytes());
                signed.extend(&list);
                list.extend(fixture.ca_key.sign(&signed).to_bytes());
            }
            list
        }
    };
    match trust.update_revocations(&list, now) {
        Ok(newer) => {
            assert!(how > 1 || fixture.lists.contains(&list), "nobody signed this: {list:02x?}");
            let current = trust.revocations().expect("one is known now");
            if newer {
                assert_eq!(current.signed(), &list);
                assert!(known.is_none_or(|known| known.epoch() < current.epoch()));
                assert!(current.epoch() <= now.0.saturating_add(86_400) && current.issued().0 <= current.epoch());
                assert_eq!(written(current), list[51..list.len() - SIGNATURE], "one encoding only");
                assert_eq!(trust.update_revocations(&list, now), Ok(false));
            }
        }
        Err(error) => {
            assert_eq!(trust.revocations(), known.as_ref(), "a refused list changes nothing");
            assert!(!matches!(error, RevocationError::Full | RevocationError::BadSerial));
        }
    }
    // The next one of the CA is accepted wherever a genuine one or none was known.
    if trust.revocations().is_none_or(|list| fixture.lists.iter().any(|known| known == list.signed())) {
        assert!(trust.update_revocations(&fixture.lists[1], NOW.plus_secs(60)).is_ok());
    }
}

/// The entries as the format says.
fn written(list: &annulus_core::group::RevocationList) -> Vec<u8> {
    let mut out = Vec::new();
    for (what, until) in list.entries() {
        match what {
            Revoked::Serial(serial) => {
                out.extend([1, serial.len() as u8]);
                out.extend_from_slice(serial);
            }
            Revoked::Key(key) => {
                out.push(2);
                out.extend(key);
            }
        }
        out.extend(until.0.to_be_bytes());
    }
    out
}

fn check_text(fixture: &Fixture, how: u8, input: &mut Input<'_>) {
    let mut text = if how == 0 { Vec::new() } else { fixture.texts[input.below(fixture.texts.len())].clone().into_bytes() };
    if how == 0 {
        text.extend_from_slice(input.take(usize::MAX));
    } else {
        edit(&mut text, input);
    }
    let text = String::from_utf8_lossy(&text);
    if let Ok(certificate) = Certificate::from_pem(&text) {
        check_certificate(fixture, certificate.der(), true, input);
    }
    for ca in CaCertificate::bundle_from_pem(&text).unwrap_or_default() {
        check_authority(ca.der());
    }
    if let Ok(request) = Request::from_pem(&text) {
        check_request(request.der());
    }
    if let Ok(keys) = NodeKeys::from_pem(&text) {
        let read = NodeKeys::from_pem(&keys.to_pem()).expect("its own text");
        assert_eq!((read.signing, read.dh), (keys.signing, keys.dh));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_genuine_piece_that_is_signed_again_is_still_genuine() {
        let fixture = fixture();
        for (genuine, key) in [(&fixture.certificates[0], &fixture.ca_key), (&fixture.requests[0], &fixture.node_key)] {
            let mut tree = Element::parse(genuine).unwrap();
            let signed = tree.child_mut(0).unwrap().bytes();
            let mut bits = vec![0];
            bits.extend(key.sign(&signed).to_bytes());
            tree.child_mut(2).unwrap().set(bits);
            assert_eq!(tree.bytes(), *genuine);
        }
        assert!(fixture.trust.verify(&fixture.certificates[1], NOW).is_ok());
    }
}
