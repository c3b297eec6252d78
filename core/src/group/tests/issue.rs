//! What an authority issues, keeps and refuses.

use core::net::IpAddr;
use core::time::Duration;

use proptest::prelude::*;

use crate::group::fixture::{NOW, authority, node};
use crate::group::{
    Authority, AuthorityError, BACKDATE_SECS, Certificate, DEFAULT_LIFETIME, IssueError, MAX_ADDRESSES, MAX_CERTIFICATE_LEN,
    MAX_GROUP_NAME_LEN, MAX_NODE_NAME_LEN, MAX_USER_NAME_LEN, NameError, NodeKeys, Parameters, Profile, Revoked, Roles, node_id,
};
use crate::rng::Rng;
use crate::shard::table::Prefix;
use crate::time::UnixTime;

fn prefix(text: &str) -> Prefix {
    match text.split_once('/') {
        Some((address, len)) => Prefix::new(address.parse().unwrap(), len.parse().unwrap()),
        None => Prefix::host(text.parse().unwrap()),
    }
}

#[test]
fn a_certificate_says_what_was_asked_for() {
    let (authority, mut rng) = authority();
    let keys = NodeKeys::generate(&mut rng);
    let wanted = ["fd00::7", "10.128.0.7", "192.168.7.0/24", "fd07::/64"].map(prefix);
    let profile =
        Profile { roles: Roles::MEMBER | Roles::GATEWAY, addresses: wanted.to_vec(), ..Profile::new("alice@example.org", "db-1", NOW) };
    let issued = authority.issue(&keys.request(), &profile, &mut rng).unwrap();
    for certificate in [&issued, &Certificate::parse(issued.der()).unwrap(), &Certificate::from_pem(&issued.to_pem()).unwrap()] {
        assert_eq!((certificate.group_name(), certificate.user(), certificate.node_name()), ("lab", "alice@example.org", "db-1"));
        assert_eq!(certificate.group_id(), authority.certificate().group_id());
        assert_eq!((certificate.public_key(), certificate.dh_public()), (keys.public_key(), keys.dh_public()));
        assert_eq!(certificate.roles(), Roles::MEMBER | Roles::GATEWAY);
        assert_eq!(certificate.addresses(), ["10.128.0.7", "fd00::7", "192.168.7.0/24", "fd07::/64"].map(prefix));
        assert_eq!(certificate.not_before(), UnixTime(NOW.0 - BACKDATE_SECS));
        assert_eq!(certificate.not_after(), NOW.plus_secs(DEFAULT_LIFETIME.as_secs()));
        assert_eq!(certificate.serial().len(), 16);
        assert_eq!(certificate.node_id(), node_id(&certificate.group_id(), &keys.public_key(), certificate.salt()));
        assert_eq!(certificate.fingerprint(), issued.fingerprint());
    }
}

#[test]
fn an_ordinary_certificate_is_far_below_the_limit() {
    let (authority, mut rng) = authority();
    let (_, certificate) = node(&authority, "db1", &mut rng);
    assert!(certificate.der().len() <= 520, "{} bytes", certificate.der().len());
    assert!(authority.certificate().der().len() <= 400, "{} bytes", authority.certificate().der().len());
}

#[test]
fn the_longest_names_and_most_addresses_fit_into_the_limit() {
    let mut rng = Rng::new([1; 32]);
    // After 2049 times are two bytes longer.
    let late = UnixTime(2_600_000_000);
    let authority = Authority::init(&Parameters::new(&"g".repeat(MAX_GROUP_NAME_LEN)), &mut rng, late).unwrap();
    for kind in ["host", "network", "both"] {
        let address = |i: usize| {
            let address = IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 0x100 * i as u16 + 0x100]);
            if kind == "host" || (kind == "both" && i.is_multiple_of(2)) { Prefix::host(address) } else { Prefix::new(address, 127) }
        };
        let profile = Profile {
            roles: Roles(0xffff),
            addresses: (0..MAX_ADDRESSES).map(address).collect(),
            ..Profile::new(&"u".repeat(MAX_USER_NAME_LEN), &"n".repeat(MAX_NODE_NAME_LEN), late)
        };
        let certificate = authority.enrol(&profile, &mut rng).unwrap().certificate().clone();
        assert_eq!(certificate.addresses().len(), MAX_ADDRESSES);
        assert!(
            certificate.der().len() <= MAX_CERTIFICATE_LEN - 25,
            "{} bytes leave no room for another small extension",
            certificate.der().len()
        );
        assert_eq!(authority.trust().verify(certificate.der(), late), Ok(certificate));
    }
}

#[test]
fn the_same_key_keeps_its_id_through_renewal_rotation_and_restart() {
    let (authority, mut rng) = authority();
    let (keys, first) = node(&authority, "db1", &mut rng);
    let later = NOW.plus_secs(86_400);
    let renamed = authority.issue(&keys.request(), &Profile::new("bob", "db2", later), &mut rng).unwrap();
    let restarted = Authority::from_parts(&authority.to_parts()).unwrap();
    let again = restarted.issue(&keys.request(), &Profile::new("alice", "db1", later), &mut rng).unwrap();
    let successor = authority.successor(Duration::from_secs(1_000_000), &mut rng, later).unwrap();
    let rotated = successor.issue(&keys.request(), &Profile::new("alice", "db1", later), &mut rng).unwrap();
    assert!(
        [&renamed, &again, &rotated]
            .iter()
            .all(|certificate| certificate.node_id() == first.node_id() && certificate.serial() != first.serial())
    );
    let (_, other) = node(&authority, "db1", &mut rng);
    assert_ne!(other.node_id(), first.node_id());
}

#[test]
fn the_same_seed_issues_the_same_bytes() {
    let issue = || {
        let (authority, mut rng) = authority();
        node(&authority, "db1", &mut rng).1
    };
    assert_eq!(issue().der(), issue().der());
}

#[test]
fn no_certificate_outlives_its_authority() {
    let mut rng = Rng::new([1; 32]);
    let authority =
        Authority::init(&Parameters { lifetime: Duration::from_secs(86_400), ..Parameters::new("lab") }, &mut rng, NOW).unwrap();
    let end = authority.certificate().not_after();
    assert_eq!(end, NOW.plus_secs(86_400));
    let identity = authority.enrol(&Profile::new("alice", "db1", NOW), &mut rng).unwrap();
    assert_eq!(identity.certificate().not_after(), end);
    assert_eq!(identity.certificate().not_before(), authority.certificate().not_before());
    let outside = Err(IssueError::OutsideCa { from: authority.certificate().not_before(), to: end });
    for start in [end.plus_secs(1), UnixTime(0)] {
        assert_eq!(authority.enrol(&Profile::new("alice", "db1", start), &mut rng).map(|_| ()), outside);
    }
    let forever = Profile { lifetime: Duration::MAX, ..Profile::new("alice", "db1", end) };
    assert_eq!(authority.enrol(&forever, &mut rng).unwrap().certificate().not_after(), end);
}

#[test]
fn wrong_wishes_are_refused_with_their_reason() {
    let (authority, mut rng) = authority();
    let good = Profile::new("alice", "db1", NOW);
    let mut refused = |profile: Profile| authority.enrol(&profile, &mut rng).map(|_| ()).unwrap_err();
    assert_eq!(refused(Profile { user: String::new(), ..good.clone() }), NameError::Empty { what: "user" }.into());
    assert_eq!(refused(Profile { node_name: "DB".into(), ..good.clone() }), NameError::Character { what: "node", character: 'D' }.into());
    assert_eq!(refused(Profile { lifetime: Duration::ZERO, ..good.clone() }), IssueError::Lifetime);
    let many = (0..=MAX_ADDRESSES as u8).map(|i| Prefix::host(IpAddr::from([10, 0, 0, i]))).collect();
    assert_eq!(refused(Profile { addresses: many, ..good.clone() }), IssueError::TooManyAddresses);
    for address in ["0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255", "::", "::1", "ff02::1"] {
        let addresses = vec![prefix(address)];
        assert_eq!(refused(Profile { addresses, ..good.clone() }), IssueError::Address(address.parse().unwrap()));
    }
    assert_eq!(
        Authority::init(&Parameters::new("a/b"), &mut Rng::new([1; 32]), NOW).map(|_| ()),
        Err(NameError::Character { what: "group", character: '/' }.into())
    );
    let instant = Parameters { lifetime: Duration::ZERO, ..Parameters::new("lab") };
    assert_eq!(Authority::init(&instant, &mut Rng::new([1; 32]), NOW).map(|_| ()), Err(AuthorityError::Lifetime));
}

#[test]
fn an_authority_reads_back_from_its_parts_and_only_from_parts_that_belong_together() {
    let (mut authority, mut rng) = authority();
    let (_, certificate) = node(&authority, "db1", &mut rng);
    let epoch = authority.revoke(&[(Revoked::key(&certificate), UnixTime(u64::MAX))], NOW).unwrap().epoch();
    let parts = authority.to_parts();
    let mut restored = Authority::from_parts(&parts).unwrap();
    assert_eq!(restored.certificate(), authority.certificate());
    assert_eq!(restored.realm_key(), authority.realm_key());
    assert_eq!(restored.revoke(&[], NOW).unwrap().epoch(), epoch + 1);

    let other = Authority::init(&Parameters::new("lab"), &mut rng, NOW).unwrap().to_parts();
    let mut mixed = parts.clone();
    mixed.key_pem = other.key_pem.clone();
    assert_eq!(Authority::from_parts(&mixed).map(|_| ()), Err(AuthorityError::OtherKey));
    mixed = other.clone();
    mixed.revocations = parts.revocations.clone();
    assert!(matches!(Authority::from_parts(&mixed), Err(AuthorityError::Revocations(_))));
    mixed.certificate_pem = certificate.to_pem();
    assert!(matches!(Authority::from_parts(&mixed), Err(AuthorityError::Certificate(_))));
    mixed.key_pem = String::from("no key").into();
    assert_eq!(Authority::from_parts(&mixed).map(|_| ()), Err(AuthorityError::Key));
}

#[test]
fn a_revoked_key_gets_no_new_certificate_while_others_do() {
    let (mut authority, mut rng) = authority();
    let (keys, certificate) = node(&authority, "db1", &mut rng);
    authority.revoke(&[(Revoked::certificate(&certificate), certificate.not_after())], NOW).unwrap();
    let profile = Profile::new("alice", "db1", NOW);
    assert!(authority.issue(&keys.request(), &profile, &mut rng).is_ok(), "only that certificate was revoked");
    authority.revoke(&[(Revoked::key(&certificate), UnixTime(u64::MAX))], NOW).unwrap();
    assert_eq!(authority.issue(&keys.request(), &profile, &mut rng), Err(IssueError::KeyRevoked));
    assert!(authority.enrol(&profile, &mut rng).is_ok());
}

#[test]
fn a_name_is_taken_by_another_key_until_its_certificate_expires_or_is_revoked() {
    let (mut authority, mut rng) = authority();
    let (keys, first) = node(&authority, "db1", &mut rng);
    let (_, second) = node(&authority, "db2", &mut rng);
    let issued = [first.clone(), second];
    let stranger = [9; 32];
    assert_eq!(authority.name_holder("db1", &stranger, &issued, NOW), Some(&first));
    assert_eq!(authority.name_holder("db1", &keys.public_key(), &issued, NOW), None, "its own");
    assert_eq!(authority.name_holder("db3", &stranger, &issued, NOW), None);
    assert_eq!(authority.name_holder("db1", &stranger, &issued, first.not_after()), Some(&first));
    assert_eq!(authority.name_holder("db1", &stranger, &issued, first.not_after().plus_secs(1)), None);
    authority.revoke(&[(Revoked::key(&first), UnixTime(u64::MAX))], NOW).unwrap();
    assert_eq!(authority.name_holder("db1", &stranger, &issued, NOW), None);
}

fn any_prefix() -> impl Strategy<Value = Prefix> {
    prop_oneof![
        (any::<[u8; 4]>(), 0u8..=32).prop_map(|(address, len)| Prefix::new(IpAddr::from(address), len)),
        (any::<[u8; 16]>(), 0u8..=128).prop_map(|(address, len)| Prefix::new(IpAddr::from(address), len)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn whatever_is_issued_is_accepted_and_says_what_was_asked(
        user in "\\PC{0,24}", name in "[a-z0-9-]{0,10}|[a-z]{60,66}", group in "\\PC{0,20}", roles in any::<u16>(), start in 0u64..300_000_000_000,
        lifetime in any::<u64>(), addresses in proptest::collection::vec(any_prefix(), 0..6), seed in any::<[u8; 32]>()
    ) {
        let mut rng = Rng::new(seed);
        let Ok(authority) = Authority::init(&Parameters::new(&group), &mut rng, UnixTime(start)) else { return Ok(()) };
        let now = UnixTime(start);
        let profile = Profile { user, node_name: name, roles: Roles(roles), addresses, not_before: now, lifetime: Duration::from_secs(lifetime) };
        match authority.enrol(&profile, &mut rng) {
            Ok(identity) => {
                let certificate = identity.certificate();
                prop_assert!(certificate.der().len() <= MAX_CERTIFICATE_LEN);
                prop_assert_eq!(&authority.trust().verify(certificate.der(), certificate.not_after()), &Ok(certificate.clone()));
                prop_assert_eq!((certificate.user(), certificate.node_name()), (profile.user.as_str(), profile.node_name.as_str()));
                prop_assert_eq!((certificate.group_name(), certificate.roles()), (group.as_str(), Roles(roles)));
                let mut wanted = profile.addresses.clone();
                wanted.sort();
                wanted.dedup();
                let mut got = certificate.addresses().to_vec();
                got.sort();
                prop_assert_eq!(got, wanted);
            }
            Err(IssueError::Refused(error)) => prop_assert!(false, "issued what is not accepted: {}", error),
            Err(_) => {}
        }
    }
}
