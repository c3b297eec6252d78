//! What openssl says of our certificates.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::group::fixture::{NOW, authority, node};
use crate::group::{NodeKeys, Profile, Roles};
use crate::shard::table::Prefix;
use crate::time::UnixTime;

/// A directory that vanishes with its owner.
struct Scratch(PathBuf);

impl Scratch {
    /// `None`, said loudly, where there is no openssl.
    fn new(test: &str) -> Option<Self> {
        if Command::new("openssl").arg("version").output().is_err() {
            eprintln!("SKIPPED {test}: no openssl on PATH");
            return None;
        }
        let path = std::env::temp_dir().join(format!("annulus-{test}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Some(Self(path))
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.0.join(name), text).unwrap();
    }

    /// Whether the command succeeded, and all that it printed.
    fn openssl(&self, arguments: &str) -> (bool, String) {
        let output = Command::new("openssl").args(arguments.split(' ')).current_dir(&self.0).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn openssl_shows_and_verifies_certificates() {
    let Some(scratch) = Scratch::new("openssl-verify") else { return };
    let (authority, mut rng) = authority();
    let addresses = ["10.128.0.7", "fd00::7"].map(|address| Prefix::host(address.parse().unwrap())).to_vec();
    let profile = Profile { addresses, roles: Roles::MEMBER | Roles::RELAY, ..Profile::new("alice@example.org", "db1", NOW) };
    let certificate = authority.enrol(&profile, &mut rng).unwrap().certificate().clone();
    scratch.write("ca.pem", &authority.certificate().to_pem());
    scratch.write("node.pem", &certificate.to_pem());

    let (good, text) = scratch.openssl("x509 -in node.pem -noout -text");
    assert!(good, "{text}");
    // Versions differ in the spaces around the equals sign.
    let text = text.replace(" = ", "=");
    let addresses = "IP Address:10.128.0.7, IP Address:FD00:0:0:0:0:0:0:7";
    for part in ["ED25519", "O=lab, OU=alice@example.org, CN=db1", addresses, "CA:FALSE", "Digital Signature"] {
        assert!(text.contains(part), "no {part} in {text}");
    }
    for number in 1..=4 {
        assert!(text.contains(&format!("2.25.1634627189.{number}:")), "no extension {number} in {text}");
    }
    let (good, text) = scratch.openssl("x509 -in ca.pem -noout -text");
    assert!(good && text.contains("CA:TRUE, pathlen:0") && text.contains("Certificate Sign"), "{text}");

    let (good, text) = scratch.openssl(&format!("verify -x509_strict -attime {} -CAfile ca.pem node.pem", NOW.0));
    assert!(good && text.contains("node.pem: OK"), "{text}");
    let (good, text) = scratch.openssl(&format!("verify -attime {} -CAfile ca.pem node.pem", certificate.not_after().0 + 1));
    assert!(!good && text.contains("expired"), "{text}");
}

#[test]
fn openssl_refuses_a_certificate_that_was_changed() {
    let Some(scratch) = Scratch::new("openssl-changed") else { return };
    let (authority, mut rng) = authority();
    let (_, certificate) = node(&authority, "db1", &mut rng);
    let at = certificate.der().windows(3).position(|window| window == b"db1").unwrap();
    let mut changed = certificate.der().to_vec();
    changed[at] = b'e';
    scratch.write("ca.pem", &authority.certificate().to_pem());
    scratch.write("node.pem", &der::pem::encode_string("CERTIFICATE", der::pem::LineEnding::LF, &changed).unwrap());
    let (good, text) = scratch.openssl(&format!("verify -attime {} -CAfile ca.pem node.pem", NOW.0));
    assert!(!good && text.contains("signature"), "{text}");
}

#[test]
fn openssl_agrees_on_a_certificate_beyond_2049() {
    let Some(scratch) = Scratch::new("openssl-late") else { return };
    let (_, mut rng) = authority();
    let late = UnixTime(2_600_000_000);
    let authority = crate::group::Authority::init(&crate::group::Parameters::new("lab"), &mut rng, late).unwrap();
    let certificate = authority.enrol(&Profile::new("alice", "db1", late), &mut rng).unwrap().certificate().clone();
    scratch.write("ca.pem", &authority.certificate().to_pem());
    scratch.write("node.pem", &certificate.to_pem());
    let (good, text) = scratch.openssl(&format!("verify -x509_strict -attime {} -CAfile ca.pem node.pem", late.0));
    assert!(good, "{text}");
}

#[test]
fn openssl_verifies_requests_and_reads_keys() {
    let Some(scratch) = Scratch::new("openssl-request") else { return };
    let (_, mut rng) = authority();
    let keys = NodeKeys::generate(&mut rng);
    scratch.write("node.csr", &keys.request().to_pem());
    let (good, text) = scratch.openssl("req -in node.csr -noout -verify -text");
    assert!(good && text.contains("verify OK") && text.contains("2.25.1634627189.3"), "{text}");
    scratch.write("node.key", &keys.to_pem());
    let (good, text) = scratch.openssl("pkey -in node.key -noout -text");
    let first: String = keys.public_key()[..4].iter().map(|byte| format!("{byte:02x}:")).collect();
    assert!(good && text.contains("ED25519") && text.contains(&first), "{text}");
}
