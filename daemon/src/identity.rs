//! Who this host's node is in a group: its keys and certificate, checked against what the group trusts.

use annulus_core::group::{CertificateError, Identity, NodeKeys, RealmKey, Trust};
use annulus_core::time::UnixTime;
use zeroize::Zeroizing;

use crate::files::{self, FileError};
use crate::group_file::GroupFile;

/// From how many s before its end on a certificate is warned about: 9 of 30 days, when renewal should long have happened.
pub const EXPIRY_WARNING_SECS: u64 = 9 * 86_400;

/// A node's membership, ready to run.
#[derive(Debug)]
pub struct Member {
    /// Keys and certificate.
    pub identity: Identity,
    /// What the group trusts.
    pub trust: Trust,
}

/// Why a node cannot run.
#[derive(Debug, thiserror::Error)]
pub enum IdentityLoadError {
    /// A file is missing, open to others, or no text.
    #[error("{0}; the node's keys come with its certificate: annulus ca issue NODE --user USER --out DIR")]
    File(#[from] FileError),
    /// Not a key file.
    #[error("{file}: {why}")]
    Keys {
        /// The key file.
        file: String,
        /// What is wrong.
        why: String,
    },
    /// The certificate is of another group, of another CA, or broken.
    #[error(
        "{file}: this certificate is not valid in group `{group}`: {why}; have one issued for this node: annulus ca issue NODE --user USER"
    )]
    Certificate {
        /// The certificate's file.
        file: String,
        /// The group.
        group: String,
        /// What is wrong.
        why: CertificateError,
    },
    /// The group's file contradicts its CA certificates.
    #[error("{file}: {why}")]
    Group {
        /// The group's file.
        file: String,
        /// What is wrong.
        why: String,
    },
}

/// Loads the keys of a group's node and checks them against the certificate, and that against the CA certificates.
///
/// A certificate that has ended or is not valid yet is no error here: the host's clock may be wrong, and [`warnings`] says it. What was revoked is
/// known only after the revocation list was loaded.
///
/// # Errors
/// [`IdentityLoadError`], with what to do.
pub fn load(group: &GroupFile) -> Result<Member, IdentityLoadError> {
    let group_error = |why: String| IdentityLoadError::Group { file: group.file.display().to_string(), why };
    let ders: Vec<_> = group.ca_certificates.iter().map(|certificate| certificate.der().clone()).collect();
    let trust = Trust::new(&ders, RealmKey::new(*group.realm_key)).map_err(|error| group_error(format!("ca_certificates: {error}")))?;
    if trust.group_name() != group.name {
        return Err(group_error(format!("name: the CA certificate is of group `{}`, not `{}`", trust.group_name(), group.name)));
    }
    let certificate = trust.authenticate(group.certificate.der()).map_err(|why| IdentityLoadError::Certificate {
        file: group.certificate_source.display().to_string(),
        group: group.name.clone(),
        why,
    })?;
    let bytes = Zeroizing::new(files::read_secret(&group.key)?);
    let keys_error = |why: String| IdentityLoadError::Keys { file: group.key.display().to_string(), why };
    let text = core::str::from_utf8(&bytes).map_err(|error| keys_error(error.to_string()))?;
    let keys = NodeKeys::from_pem(text).map_err(|error| keys_error(error.to_string()))?;
    let identity = Identity::new(keys.signing, keys.dh, certificate).map_err(|error| {
        keys_error(format!(
            "{error} (the certificate is {}); keys and certificate of one node belong together",
            group.certificate_source.display()
        ))
    })?;
    Ok(Member { identity, trust })
}

/// What somebody should look at: an end that is near or past, or a certificate from the future.
#[must_use]
pub fn warnings(member: &Member, wall: UnixTime) -> Vec<String> {
    let certificate = member.identity.certificate();
    let renew = "renew it: annulus ca issue with the same node name, or through the group's server";
    match member.trust.check(certificate, wall) {
        Err(CertificateError::Expired { .. }) => {
            let days = wall.saturating_since(certificate.not_after()) / 86_400;
            vec![format!("the certificate of this node has ended {days} days ago, other members refuse it; {renew}")]
        }
        Err(why) => vec![format!("the certificate of this node is not accepted: {why}")],
        Ok(()) => {
            let left = certificate.not_after().saturating_since(wall);
            if left < EXPIRY_WARNING_SECS {
                vec![format!("the certificate of this node ends in {} days; {renew}", left / 86_400)]
            } else {
                Vec::new()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group_file::GroupText;
    use annulus_core::group::{Authority, Parameters, Profile};
    use annulus_core::rng::Rng;
    use std::fs;
    use std::path::Path;

    const NOW: UnixTime = UnixTime(1_800_000_000);

    struct Made {
        dir: tempfile::TempDir,
        authority: Authority,
        rng: Rng,
    }

    impl Made {
        fn new() -> Self {
            let mut rng = Rng::new([9; 32]);
            let authority = Authority::init(&Parameters::new("lab"), &mut rng, NOW).unwrap();
            Self { dir: tempfile::tempdir().unwrap(), authority, rng }
        }

        fn group(&mut self, by: &Authority, mode: u32) -> GroupFile {
            let keys = NodeKeys::generate(&mut self.rng);
            let certificate = by.issue(&keys.request(), &Profile::new("ada", "a", NOW), &mut self.rng).unwrap();
            let text = GroupText {
                name: "lab".into(),
                ipv6_network: "fd00::/64".into(),
                realm_key: "00".repeat(32),
                ca_certificates: self.authority.certificate().to_pem(),
                key: "node.key".into(),
                certificate_pem: Some(certificate.to_pem()),
                ..GroupText::default()
            };
            let at = |name: &str| self.dir.path().join(name);
            write(&at("node.key"), keys.to_pem().as_bytes(), mode);
            write(&at("lab.toml"), toml::to_string(&text).unwrap().as_bytes(), 0o600);
            GroupFile::load(&at("lab.toml")).unwrap()
        }
    }

    fn write(path: &Path, bytes: &[u8], mode: u32) {
        let _ = fs::remove_file(path);
        files::write_fresh(path, bytes, mode).unwrap();
    }

    #[test]
    fn a_member_is_loaded_and_its_end_is_announced() {
        let mut made = Made::new();
        let authority = Authority::from_parts(&made.authority.to_parts()).unwrap();
        let member = load(&made.group(&authority, 0o600)).unwrap();
        assert_eq!(member.identity.certificate().node_name(), "a");
        assert!(warnings(&member, NOW).is_empty());
        assert!(warnings(&member, NOW.plus_secs(25 * 86_400))[0].contains("ends in 5 days"));
        assert!(warnings(&member, NOW.plus_secs(31 * 86_400 + 10))[0].contains("has ended 1 days ago"));
    }

    #[test]
    fn keys_that_others_can_read_are_refused() {
        let mut made = Made::new();
        let authority = Authority::from_parts(&made.authority.to_parts()).unwrap();
        let group = made.group(&authority, 0o644);
        assert!(load(&group).unwrap_err().to_string().contains("chmod 0600"));
    }

    #[test]
    fn keys_of_another_node_and_certificates_of_another_ca_are_refused() {
        let mut made = Made::new();
        let authority = Authority::from_parts(&made.authority.to_parts()).unwrap();
        let group = made.group(&authority, 0o600);
        write(&group.key, NodeKeys::generate(&mut made.rng).to_pem().as_bytes(), 0o600);
        assert!(load(&group).unwrap_err().to_string().contains("belong together"));
        let stranger = Authority::init(&Parameters::new("lab"), &mut made.rng.fork("other"), NOW).unwrap();
        let group = made.group(&stranger, 0o600);
        assert!(load(&group).unwrap_err().to_string().contains("not valid in group `lab`"));
    }
}
