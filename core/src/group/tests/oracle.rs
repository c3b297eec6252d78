//! What rustls-webpki says of our certificates, and what we say of those of rcgen.

use ed25519_dalek::pkcs8::EncodePrivateKey;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PKCS_ED25519, SanType, SerialNumber,
};
use rustls_pki_types::{CertificateDer, UnixTime as WebTime};

use crate::group::fixture::{NOW, authority, node};
use crate::group::{Authority, CaCertificate, Certificate, CertificateError, MAX_CERTIFICATE_LEN, NodeIdSecret, Trust, node_id, x509};
use crate::shard::table::Prefix;
use crate::time::UnixTime;

fn webpki(ca: &[u8], certificate: &[u8], now: UnixTime) -> Result<(), webpki::Error> {
    let ca = CertificateDer::from(ca);
    let anchor = webpki::anchor_from_trusted_cert(&ca)?;
    let certificate = CertificateDer::from(certificate);
    let certificate = webpki::EndEntityCert::try_from(&certificate)?;
    let time = WebTime::since_unix_epoch(core::time::Duration::from_secs(now.0));
    let usage = webpki::KeyUsage::client_auth();
    certificate.verify_for_usage(&[webpki::aws_lc_rs::ED25519], &[anchor], &[], time, usage, None, None).map(|_| ())
}

#[test]
fn webpki_verifies_our_chain_and_agrees_on_time_and_signature() {
    let (authority, mut rng) = authority();
    let (_, certificate) = node(&authority, "db1", &mut rng);
    let ca = authority.certificate().der();
    let trust = authority.trust();
    let (from, to) = (certificate.not_before(), certificate.not_after());
    for (now, valid) in [(UnixTime(from.0 - 1), false), (from, true), (NOW, true), (to, true), (to.plus_secs(1), false)] {
        assert_eq!(webpki(ca, certificate.der(), now).is_ok(), valid, "at {now}");
        assert_eq!(trust.verify(certificate.der(), now).is_ok(), valid, "at {now}");
    }
    let stranger = Authority::init(&crate::group::Parameters::new("lab"), &mut rng, NOW).unwrap();
    assert!(webpki(stranger.certificate().der(), certificate.der(), NOW).is_err());
    let mut forged = certificate.der().to_vec();
    *forged.last_mut().unwrap() ^= 1;
    assert!(webpki(ca, &forged, NOW).is_err());
}

/// An authority of ours whose key rcgen signs with.
struct Foreign {
    authority: Authority,
    ca_key: KeyPair,
    node_key: KeyPair,
}

const SALT_SECRET: [u8; 32] = [5; 32];
const GROUP_ID: &[u64] = &[2, 25, 1_634_627_189, 1];
const NODE_ID: &[u64] = &[2, 25, 1_634_627_189, 2];
const DH_PUBLIC: &[u64] = &[2, 25, 1_634_627_189, 3];
const ROLES: &[u64] = &[2, 25, 1_634_627_189, 4];
const NETWORKS: &[u64] = &[2, 25, 1_634_627_189, 5];

fn octets(bytes: &[u8]) -> Vec<u8> {
    [&[0x04, bytes.len() as u8], bytes].concat()
}

fn custom(oid: &[u64], content: Vec<u8>) -> CustomExtension {
    CustomExtension::from_oid_content(oid, content)
}

impl Foreign {
    fn new() -> Self {
        let (authority, mut rng) = authority();
        let parts = authority.to_parts();
        let ca_key = KeyPair::from_pem_and_sign_algo(&parts.key_pem, &PKCS_ED25519).unwrap();
        let node = ed25519_dalek::SigningKey::from_bytes(&rng.bytes()).to_pkcs8_pem(der::pem::LineEnding::LF).unwrap();
        let node_key = KeyPair::from_pem_and_sign_algo(&node, &PKCS_ED25519).unwrap();
        Self { authority, ca_key, node_key }
    }

    fn public_key(&self) -> [u8; 32] {
        self.node_key.public_key_raw().try_into().unwrap()
    }

    fn name(attributes: &[(DnType, &str)]) -> DistinguishedName {
        let mut name = DistinguishedName::new();
        attributes.iter().for_each(|(kind, text)| name.push(kind.clone(), *text));
        name
    }

    /// What makes rcgen write a certificate of our profile.
    fn params(&self) -> CertificateParams {
        let group = self.authority.certificate().group_id();
        let salt = NodeIdSecret::new(SALT_SECRET).salt(&self.public_key());
        let id = node_id(&group, &self.public_key(), &salt);
        let both = [octets(&id.0), octets(&salt)].concat();
        let mut params = CertificateParams::default();
        params.not_before = rcgen::date_time_ymd(2026, 11, 1);
        params.not_after = rcgen::date_time_ymd(2026, 12, 1);
        // Ours starts at NOW: rcgen's must not start before it.
        params.not_before = params.not_before.replace_day(23).unwrap();
        params.serial_number = Some(SerialNumber::from_slice(&[0x11; 16]));
        params.distinguished_name =
            Self::name(&[(DnType::OrganizationName, "lab"), (DnType::OrganizationalUnitName, "alice"), (DnType::CommonName, "db1")]);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        params.custom_extensions = vec![
            custom(GROUP_ID, octets(&group.0)),
            custom(NODE_ID, [&[0x30, both.len() as u8], both.as_slice()].concat()),
            custom(DH_PUBLIC, octets(&[9; 32])),
            custom(ROLES, vec![0x02, 0x01, 0x01]),
        ];
        params
    }

    /// The issuer as rcgen knows it: name and key identifier of our CA.
    fn issuer(&self) -> CertificateParams {
        let id = x509::key_id(&self.authority.certificate().public_key());
        let [a, b, c, d, ..] = id;
        let mut params = CertificateParams::default();
        let name = format!("Annulus CA {a:02x}{b:02x}{c:02x}{d:02x}");
        params.distinguished_name = Self::name(&[(DnType::OrganizationName, "lab"), (DnType::CommonName, &name)]);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.key_identifier_method = KeyIdMethod::PreSpecified(id.to_vec());
        params
    }

    fn sign(&self, params: &CertificateParams) -> Vec<u8> {
        let issuer = Issuer::new(self.issuer(), &self.ca_key);
        params.signed_by(&self.node_key, &issuer).unwrap().der().to_vec()
    }

    fn verify(&self, der: &[u8]) -> Result<Certificate, CertificateError> {
        self.authority.trust().verify(der, NOW.plus_secs(86_400))
    }

    /// What we say of the certificate that rcgen makes after `change`.
    fn refused(&self, change: impl FnOnce(&mut CertificateParams)) -> CertificateError {
        let mut params = self.params();
        change(&mut params);
        self.verify(&self.sign(&params)).unwrap_err()
    }
}

#[test]
fn a_certificate_that_rcgen_makes_to_our_profile_is_accepted() {
    let foreign = Foreign::new();
    let mut params = foreign.params();
    params.subject_alt_names = vec![SanType::IpAddress("10.128.0.7".parse().unwrap())];
    // An extension that nobody knows is ignored when it is not critical.
    params.custom_extensions.push(custom(&[2, 25, 77], octets(&[1, 2, 3])));
    let certificate = foreign.verify(&foreign.sign(&params)).unwrap();
    assert_eq!((certificate.group_name(), certificate.user(), certificate.node_name()), ("lab", "alice", "db1"));
    assert_eq!(certificate.addresses(), [Prefix::host("10.128.0.7".parse().unwrap())]);
    assert_eq!(certificate.serial(), [0x11; 16]);
}

#[test]
fn near_misses_are_refused_with_the_field_that_is_wrong() {
    use CertificateError::{BadProfile, WrongGroup, WrongNodeId};
    let foreign = Foreign::new();
    let dn = |params: &mut CertificateParams, attributes: &[(DnType, &str)]| params.distinguished_name = Foreign::name(attributes);
    let (o, ou, cn) = (DnType::OrganizationName, DnType::OrganizationalUnitName, DnType::CommonName);
    let check = |expected, change: &dyn Fn(&mut CertificateParams)| assert_eq!(foreign.refused(change), expected);

    check(BadProfile("subject"), &|p| dn(p, &[(cn.clone(), "db1")]));
    check(BadProfile("subject"), &|p| dn(p, &[(ou.clone(), "alice"), (o.clone(), "lab"), (cn.clone(), "db1")]));
    check(BadProfile("subject"), &|p| {
        dn(p, &[(o.clone(), "lab"), (ou.clone(), "alice"), (cn.clone(), "db1"), (DnType::CountryName, "CH")])
    });
    check(BadProfile("node name"), &|p| dn(p, &[(o.clone(), "lab"), (ou.clone(), "alice"), (cn.clone(), "DB1")]));
    check(BadProfile("user name"), &|p| dn(p, &[(o.clone(), "lab"), (ou.clone(), "a\nb"), (cn.clone(), "db1")]));
    check(BadProfile("group name"), &|p| dn(p, &[(o.clone(), "../lab"), (ou.clone(), "alice"), (cn.clone(), "db1")]));

    check(BadProfile("basic constraints"), &|p| p.is_ca = IsCa::NoCa);
    check(BadProfile("basic constraints"), &|p| p.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)));
    check(BadProfile("key usage"), &|p| p.key_usages.clear());
    check(BadProfile("key usage"), &|p| p.key_usages.push(KeyUsagePurpose::KeyCertSign));
    check(BadProfile("authority key identifier"), &|p| p.use_authority_key_identifier_extension = false);
    check(BadProfile("subject alternative name"), &|p| p.subject_alt_names = vec![SanType::DnsName("db1".try_into().unwrap())]);
    check(BadProfile("subject alternative name"), &|p| p.subject_alt_names = vec![SanType::IpAddress("127.0.0.1".parse().unwrap())]);
    check(BadProfile("serial number"), &|p| p.serial_number = Some(SerialNumber::from_slice(&[0])));
    check(BadProfile("serial number"), &|p| p.serial_number = Some(SerialNumber::from_slice(&[0x11; 21])));
    check(BadProfile("validity"), &|p| p.not_after = rcgen::date_time_ymd(2026, 1, 1));
    check(BadProfile("validity beyond that of its issuer"), &|p| p.not_after = rcgen::date_time_ymd(2045, 1, 1));
    check(BadProfile("validity beyond that of its issuer"), &|p| p.not_before = rcgen::date_time_ymd(2020, 1, 1));

    let names = ["group ID", "node ID", "X25519 key", "roles"];
    for (at, name) in names.into_iter().enumerate() {
        check(BadProfile(name), &|p| drop(p.custom_extensions.remove(at)));
        check(BadProfile(name), &|p| {
            let mut content = p.custom_extensions[at].content().to_vec();
            content.push(0);
            p.custom_extensions[at] = custom(&[2, 25, 1_634_627_189, at as u64 + 1], content);
        });
        check(BadProfile("extension that stands twice"), &|p| p.custom_extensions.push(p.custom_extensions[at].clone()));
        check(BadProfile("criticality of an extension"), &|p| p.custom_extensions[at].set_criticality(true));
    }
    check(BadProfile("unknown critical extension"), &|p| {
        let mut unknown = custom(&[2, 25, 77], octets(&[1]));
        unknown.set_criticality(true);
        p.custom_extensions.push(unknown);
    });
    check(BadProfile("roles"), &|p| p.custom_extensions[3] = custom(ROLES, vec![0x02, 0x02, 0x00, 0x01]));
    check(BadProfile("roles"), &|p| p.custom_extensions[3] = custom(ROLES, vec![0x02, 0x03, 0x01, 0x00, 0x00]));
    check(BadProfile("roles"), &|p| p.custom_extensions[3] = custom(ROLES, vec![0x02, 0x01, 0xff]));
    check(BadProfile("networks"), &|p| p.custom_extensions.push(custom(NETWORKS, vec![0x30, 0x00])));
    check(BadProfile("networks"), &|p| p.custom_extensions.push(custom(NETWORKS, vec![0x30, 0x07, 0x04, 0x05, 8, 10, 0, 0, 1])));
    check(BadProfile("networks"), &|p| p.custom_extensions.push(custom(NETWORKS, vec![0x30, 0x07, 0x04, 0x05, 32, 10, 0, 0, 1])));
    check(BadProfile("networks"), &|p| p.custom_extensions.push(custom(NETWORKS, vec![0x30, 0x07, 0x04, 0x05, 33, 10, 0, 0, 0])));
    check(BadProfile("number of addresses"), &|p| {
        p.subject_alt_names = (1..=5).map(|i| SanType::IpAddress([10, 0, 0, i].into())).collect()
    });
    check(BadProfile("subject alternative name"), &|p| {
        p.subject_alt_names = [2, 1].map(|i| SanType::IpAddress([10, 0, 0, i].into())).to_vec()
    });

    check(WrongNodeId, &|p| p.custom_extensions[0] = custom(GROUP_ID, octets(&[7; 32])));
    check(WrongNodeId, &|p| {
        let mut content = p.custom_extensions[1].content().to_vec();
        content[4] ^= 1;
        p.custom_extensions[1] = custom(NODE_ID, content);
    });
    let other = [7; 32];
    check(WrongGroup, &|p| {
        let salt = [1; 32];
        let id = node_id(&crate::group::GroupId(other), &foreign.public_key(), &salt);
        let both = [octets(&id.0), octets(&salt)].concat();
        p.custom_extensions[0] = custom(GROUP_ID, octets(&other));
        p.custom_extensions[1] = custom(NODE_ID, [&[0x30, both.len() as u8], both.as_slice()].concat());
    });
}

#[test]
fn a_certificate_above_the_limit_is_refused_by_its_length() {
    let foreign = Foreign::new();
    let error =
        foreign.refused(|p| p.custom_extensions.push(custom(&[2, 25, 77], [&[0x04, 0x82, 0x02, 0x58], [0; 600].as_slice()].concat())));
    assert!(
        matches!(error, CertificateError::Malformed(inner) if inner.kind() == der::ErrorKind::Overlength),
        "{error} (limit {MAX_CERTIFICATE_LEN})"
    );
}

#[test]
fn other_keys_and_algorithms_are_refused() {
    let foreign = Foreign::new();
    let ecdsa = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let issuer = Issuer::new(foreign.issuer(), &foreign.ca_key);
    let der = foreign.params().signed_by(&ecdsa, &issuer).unwrap().der().to_vec();
    assert_eq!(foreign.verify(&der), Err(CertificateError::BadProfile("public key")));
    let issuer = Issuer::new(foreign.issuer(), &ecdsa);
    let der = foreign.params().signed_by(&foreign.node_key, &issuer).unwrap().der().to_vec();
    assert_eq!(foreign.verify(&der), Err(CertificateError::BadProfile("signature algorithm")));
}

#[test]
fn an_issuer_that_only_looks_like_the_ca_is_refused() {
    let foreign = Foreign::new();
    let params = foreign.params();
    let impostor = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let sign =
        |issuer: CertificateParams, key: &KeyPair| params.signed_by(&foreign.node_key, &Issuer::new(issuer, key)).unwrap().der().to_vec();
    assert_eq!(foreign.verify(&sign(foreign.issuer(), &impostor)), Err(CertificateError::BadSignature));
    let mut renamed = foreign.issuer();
    renamed.distinguished_name = Foreign::name(&[(DnType::OrganizationName, "lab"), (DnType::CommonName, "Annulus CA")]);
    assert_eq!(foreign.verify(&sign(renamed, &foreign.ca_key)), Err(CertificateError::UnknownIssuer));
    let mut other_id = foreign.issuer();
    other_id.key_identifier_method = KeyIdMethod::PreSpecified(vec![0; 8]);
    assert_eq!(foreign.verify(&sign(other_id, &foreign.ca_key)), Err(CertificateError::UnknownIssuer));
    let mut long_id = foreign.issuer();
    long_id.key_identifier_method = KeyIdMethod::PreSpecified(vec![0; 20]);
    assert_eq!(foreign.verify(&sign(long_id, &foreign.ca_key)), Err(CertificateError::BadProfile("authority key identifier")));
}

#[test]
fn ca_certificates_of_another_profile_are_refused() {
    let foreign = Foreign::new();
    let group = octets(&foreign.authority.certificate().group_id().0);
    let base = || {
        let mut params = foreign.issuer();
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(2030, 1, 1);
        params.serial_number = Some(SerialNumber::from_slice(&[0x11; 16]));
        params.custom_extensions = vec![custom(GROUP_ID, group.clone())];
        params
    };
    let parse = |params: &CertificateParams| CaCertificate::parse(params.self_signed(&foreign.ca_key).unwrap().der());
    let good = parse(&base()).unwrap();
    assert!(Trust::new(&[good], foreign.authority.realm_key().clone()).is_ok());
    let refused = |change: &dyn Fn(&mut CertificateParams)| {
        let mut params = base();
        change(&mut params);
        parse(&params).unwrap_err()
    };
    use CertificateError::BadProfile;
    assert_eq!(refused(&|p| p.custom_extensions.clear()), BadProfile("group ID"));
    assert_eq!(refused(&|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)), BadProfile("basic constraints"));
    assert_eq!(refused(&|p| p.is_ca = IsCa::ExplicitNoCa), BadProfile("basic constraints"));
    assert_eq!(refused(&|p| p.key_usages = vec![KeyUsagePurpose::KeyCertSign]), BadProfile("key usage"));
    assert_eq!(refused(&|p| p.key_identifier_method = KeyIdMethod::Sha256), BadProfile("subject key identifier"));
    assert_eq!(refused(&|p| p.distinguished_name = Foreign::name(&[(DnType::CommonName, "ca")])), BadProfile("subject"));
    let other = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let crossed = base().signed_by(&foreign.ca_key, &Issuer::new(base(), &other)).unwrap();
    assert_eq!(CaCertificate::parse(crossed.der()), Err(CertificateError::BadSignature));
}
