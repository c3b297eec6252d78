//! Whom a member believes.

use core::time::Duration;

use crate::group::fixture::{NOW, authority, node};
use crate::group::{
    Authority, CaCertificate, CertificateError, DEFAULT_LIFETIME, MAX_CAS, Parameters, PemError, Profile, RealmKey, RevocationError,
    Revoked, Trust, TrustError,
};
use crate::time::UnixTime;

#[test]
fn a_certificate_is_valid_from_its_first_to_its_last_second() {
    let (authority, mut rng) = authority();
    let (_, certificate) = node(&authority, "db1", &mut rng);
    let trust = authority.trust();
    let (from, to) = (certificate.not_before(), certificate.not_after());
    assert_eq!(trust.verify(certificate.der(), from), Ok(certificate.clone()));
    assert_eq!(trust.verify(certificate.der(), to), Ok(certificate.clone()));
    assert_eq!(trust.verify(certificate.der(), UnixTime(from.0 - 1)), Err(CertificateError::NotYetValid { from }));
    assert_eq!(trust.verify(certificate.der(), to.plus_secs(1)), Err(CertificateError::Expired { since: to }));
    assert_eq!(trust.authenticate(certificate.der()), Ok(certificate));
}

#[test]
fn errors_say_until_when() {
    let since = NOW.plus_secs(DEFAULT_LIFETIME.as_secs());
    assert_eq!(CertificateError::Expired { since }.to_string(), "it expired at 2026-12-22T08:08:23Z and was not renewed");
    assert_eq!(CertificateError::NotYetValid { from: NOW }.to_string(), "it is not valid before 2026-11-22T08:08:23Z; is a clock wrong?");
    assert!(CertificateError::Expired { since }.is_authentic() && !CertificateError::BadSignature.is_authentic());
}

#[test]
fn a_certificate_of_another_group_or_ca_is_refused() {
    let (authority, mut rng) = authority();
    let (_, certificate) = node(&authority, "db1", &mut rng);
    let stranger = Authority::init(&Parameters::new("lab"), &mut rng, NOW).unwrap();
    assert_eq!(stranger.trust().verify(certificate.der(), NOW), Err(CertificateError::WrongGroup));
    let successor = authority.successor(Duration::from_secs(86_400 * 365), &mut rng, NOW).unwrap();
    assert_eq!(successor.trust().verify(certificate.der(), NOW), Err(CertificateError::UnknownIssuer));
}

#[test]
fn a_wrong_signature_is_noticed_before_the_time() {
    let (authority, mut rng) = authority();
    let (_, certificate) = node(&authority, "db1", &mut rng);
    let mut forged = certificate.der().to_vec();
    *forged.last_mut().unwrap() ^= 1;
    assert_eq!(authority.trust().verify(&forged, UnixTime(u64::MAX)), Err(CertificateError::BadSignature));
}

#[test]
fn members_trust_old_and_new_ca_during_a_rotation() {
    let (authority, mut rng) = authority();
    let (_, old) = node(&authority, "db1", &mut rng);
    let successor = authority.successor(Duration::from_secs(86_400 * 365), &mut rng, NOW).unwrap();
    let new = successor.enrol(&Profile::new("alice", "db2", NOW), &mut rng).unwrap().certificate().clone();
    let bundle = authority.certificate().to_pem() + &successor.certificate().to_pem();
    let both = CaCertificate::bundle_from_pem(&bundle).unwrap();
    let trust = Trust::new(&both, authority.realm_key().clone()).unwrap();
    assert_eq!(trust.verify(old.der(), NOW), Ok(old));
    assert_eq!(trust.verify(new.der(), NOW), Ok(new));
    assert_eq!(successor.realm_key(), authority.realm_key());
}

#[test]
fn trust_takes_one_to_four_cas_of_one_group() {
    let (authority, mut rng) = authority();
    let ca = authority.certificate().clone();
    let key = || RealmKey::new([1; 32]);
    assert_eq!(Trust::new::<&[u8]>(&[], key()).map(|_| ()), Err(TrustError::Count(0)));
    assert_eq!(Trust::new(&vec![ca.clone(); MAX_CAS + 1], key()).map(|_| ()), Err(TrustError::Count(MAX_CAS + 1)));
    let other = Authority::init(&Parameters::new("lab"), &mut rng, NOW).unwrap().certificate().clone();
    assert_eq!(Trust::new(&[ca.clone(), other], key()).map(|_| ()), Err(TrustError::DifferentGroups));
    let (_, certificate) = node(&authority, "db1", &mut rng);
    let wrong = Trust::new(&[certificate.der()], key()).map(|_| ());
    assert_eq!(wrong, Err(TrustError::Certificate(CertificateError::BadProfile("basic constraints"))));
    let many = ca.to_pem().repeat(MAX_CAS + 1);
    assert_eq!(CaCertificate::bundle_from_pem(&many), Err(PemError::NoBlock("CERTIFICATE")));
}

#[test]
fn a_ca_is_no_node() {
    let (authority, _) = authority();
    let ca = authority.certificate().der();
    assert_eq!(authority.trust().verify(ca, NOW), Err(CertificateError::BadProfile("basic constraints")));
}

#[test]
fn revocation_by_serial_hits_one_certificate_and_by_key_all() {
    let (mut authority, mut rng) = authority();
    let (keys, first) = node(&authority, "db1", &mut rng);
    let renewed = authority.issue(&keys.request(), &Profile::new("alice", "db1", NOW), &mut rng).unwrap();
    let mut trust = authority.trust();
    let list = authority.revoke(&[(Revoked::certificate(&first), first.not_after())], NOW).unwrap().clone();
    assert_eq!(trust.update_revocations(list.signed(), NOW), Ok(true));
    assert_eq!(trust.update_revocations(list.signed(), NOW), Ok(false));
    assert_eq!(trust.revocations(), Some(&list));
    assert_eq!(trust.verify(first.der(), NOW), Err(CertificateError::Revoked));
    assert_eq!(trust.check(&renewed, NOW), Ok(()));
    let list = authority.revoke(&[(Revoked::key(&first), UnixTime(u64::MAX))], NOW).unwrap().clone();
    assert_eq!(trust.update_revocations(list.signed(), NOW), Ok(true));
    assert_eq!(trust.check(&renewed, NOW), Err(CertificateError::Revoked));
    // It is told so even when its time is over as well.
    assert_eq!(trust.check(&renewed, UnixTime(u64::MAX)), Err(CertificateError::Revoked));
    let (_, other) = node(&authority, "db2", &mut rng);
    assert_eq!(trust.check(&other, NOW), Ok(()));
}

#[test]
fn an_older_revocation_list_is_refused() {
    let (mut authority, _) = authority();
    let mut trust = authority.trust();
    let old = authority.revoke(&[], NOW).unwrap().clone();
    let new = authority.revoke(&[(Revoked::Key([1; 32]), UnixTime(u64::MAX))], NOW).unwrap().clone();
    assert_eq!(trust.update_revocations(new.signed(), NOW), Ok(true));
    let refused = trust.update_revocations(old.signed(), NOW);
    assert_eq!(refused, Err(RevocationError::Older { known: NOW.0 + 1, offered: NOW.0 }));
    assert_eq!(trust.revocations(), Some(&new));
}

#[test]
fn a_revocation_list_far_in_the_future_is_refused() {
    let (mut authority, _) = authority();
    let mut trust = authority.trust();
    let limit = NOW.plus_secs(crate::group::revocation::MAX_AHEAD_SECS);
    let beyond = authority.revoke(&[], limit.plus_secs(1)).unwrap().clone();
    assert_eq!(trust.update_revocations(beyond.signed(), NOW), Err(RevocationError::FarFuture { dated: limit.plus_secs(1) }));
    assert_eq!(trust.revocations(), None);
    assert_eq!(trust.update_revocations(beyond.signed(), NOW.plus_secs(1)), Ok(true));
}

#[test]
fn two_revocation_lists_with_one_epoch_are_noticed_and_the_first_stays() {
    let (authority, _) = authority();
    let (mut honest, mut rolled_back) = (authority, None);
    let copy = Authority::from_parts(&honest.to_parts()).unwrap();
    let other = rolled_back.insert(copy).revoke(&[], NOW).unwrap().clone();
    let list = honest.revoke(&[(Revoked::Key([1; 32]), UnixTime(u64::MAX))], NOW).unwrap().clone();
    let mut trust = honest.trust();
    assert_eq!(trust.update_revocations(list.signed(), NOW), Ok(true));
    assert_eq!(trust.update_revocations(other.signed(), NOW), Err(RevocationError::Conflict { epoch: NOW.0 }));
    assert_eq!(trust.revocations(), Some(&list));
    assert_ne!(list.digest(), other.digest());
}

#[test]
fn a_successor_goes_on_with_the_revocations() {
    let (mut authority, mut rng) = authority();
    let (_, certificate) = node(&authority, "db1", &mut rng);
    authority.revoke(&[(Revoked::key(&certificate), UnixTime(u64::MAX))], NOW).unwrap();
    let successor = authority.successor(Duration::from_secs(86_400 * 365), &mut rng, NOW).unwrap();
    let list = successor.revocations().unwrap();
    assert!(list.lists(&certificate) && list.epoch() == NOW.0 + 1);
    let both = [authority.certificate().clone(), successor.certificate().clone()];
    let mut trust = Trust::new(&both, authority.realm_key().clone()).unwrap();
    assert_eq!(trust.update_revocations(list.signed(), NOW), Ok(true));
    assert_eq!(authority.trust().update_revocations(list.signed(), NOW), Err(RevocationError::BadSignature));
}

#[cfg(feature = "stand-in")]
#[test]
fn stand_in_crypto_skips_the_signature_and_nothing_else() {
    use crate::config::CryptoMode;
    use crate::group::Identity;
    let (mut authority, mut rng) = authority();
    let (keys, certificate) = node(&authority, "db1", &mut rng);
    let mut trust = authority.trust().with_crypto(CryptoMode::StandIn);
    let mut forged = certificate.der().to_vec();
    *forged.last_mut().unwrap() ^= 1;
    let accepted = trust.verify(&forged, NOW).unwrap();
    assert_eq!(accepted.node_id(), certificate.node_id());
    let since = certificate.not_after();
    assert_eq!(trust.verify(&forged, since.plus_secs(1)), Err(CertificateError::Expired { since }));
    let at = forged.windows(20).position(|window| window == certificate.node_id().0).unwrap();
    forged[at] ^= 1;
    assert_eq!(trust.verify(&forged, NOW), Err(CertificateError::WrongNodeId));
    let stranger = Authority::init(&Parameters::new("lab"), &mut rng, NOW).unwrap();
    let (_, foreign) = node(&stranger, "db1", &mut rng);
    assert_eq!(trust.verify(foreign.der(), NOW), Err(CertificateError::WrongGroup));

    let identity = Identity::new(keys.signing, keys.dh, certificate.clone()).unwrap().with_crypto(CryptoMode::StandIn);
    let signature = identity.sign("record", b"message");
    assert!(accepted.verify_signature("record", b"message", &signature));
    assert!(!accepted.verify_signature("record", b"other", &signature));
    assert!(!certificate.verify_signature("record", b"message", &signature));

    let list = authority.revoke(&[(Revoked::key(&certificate), UnixTime(u64::MAX))], NOW).unwrap().signed().clone();
    assert_eq!(trust.update_revocations(&list, NOW), Ok(true));
    assert_eq!(trust.check(&accepted, NOW), Err(CertificateError::Revoked));
}

#[test]
fn the_group_of_a_trust_is_that_of_its_ca() {
    let (authority, _) = authority();
    let trust = authority.trust();
    assert_eq!((trust.group_id(), trust.group_name()), (authority.certificate().group_id(), "lab"));
    assert_eq!(trust.realm_key(), authority.realm_key());
    assert_eq!(trust.authorities(), [authority.certificate().clone()]);
}
