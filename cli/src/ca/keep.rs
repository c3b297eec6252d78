//! The directory of a CA: its key, the group's parameters, and a copy of everything that was issued.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use annulus_core::config::GeometryKind;
use annulus_core::group::{Authority, Certificate, NodeIdSecret, Parts, RealmKey};
use annulus_core::shard::table::Prefix;
use annulus_daemon::config;
use annulus_daemon::exit::Failure;
use annulus_daemon::files;
use annulus_daemon::state::{hex, unhex};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// `group.toml` of a CA.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeepText {
    /// The group's name.
    pub(super) name: String,
    /// IPv4 network of the virtual addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) ipv4_network: Option<String>,
    /// IPv6 network of the virtual addresses.
    pub(super) ipv6_network: String,
    /// By which rule members link and route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) geometry: Option<String>,
    /// Nodes that members begin with.
    #[serde(default)]
    pub(super) bootstrap: Vec<String>,
    realm_key: String,
    node_id_secret: String,
}

impl core::fmt::Debug for KeepText {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("KeepText").field("name", &self.name).finish_non_exhaustive()
    }
}

/// An open CA; nobody else changes it meanwhile.
#[derive(Debug)]
pub(super) struct Keep {
    dir: PathBuf,
    /// The group's parameters.
    pub(super) text: KeepText,
    /// The CA itself.
    pub(super) authority: Authority,
    // Held, not read: the lock goes with it.
    _lock: File,
}

impl Keep {
    /// Writes a new CA. A directory that holds one already is left alone.
    pub(super) fn create(
        dir: &Path,
        name: &str,
        authority: &Authority,
        ipv4: Option<Prefix>,
        ipv6: Prefix,
        geometry: GeometryKind,
        bootstrap: &[String],
    ) -> Result<(), Failure> {
        files::private_dir(dir).map_err(Failure::failed)?;
        let _lock = lock(dir)?;
        if dir.join("ca.key").exists() {
            return Err(Failure::usage(format!("{} holds a CA already; name another directory with --ca-dir", dir.display())));
        }
        files::private_dir(&dir.join("issued")).map_err(Failure::failed)?;
        let parts = authority.to_parts();
        let text = KeepText {
            name: name.to_owned(),
            ipv4_network: ipv4.map(|network| network.to_string()),
            ipv6_network: ipv6.to_string(),
            geometry: Some(geometry.name().to_owned()),
            bootstrap: bootstrap.to_vec(),
            realm_key: hex(parts.realm_key.as_bytes()),
            node_id_secret: hex(parts.node_id_secret.as_bytes()),
        };
        let toml = Zeroizing::new(toml::to_string(&text).expect("a flat table of texts always becomes TOML"));
        // The key comes last: a CA without it does not exist yet.
        files::write_atomic(&dir.join("group.toml"), toml.as_bytes(), 0o600).map_err(Failure::failed)?;
        files::write_atomic(&dir.join("ca.crt"), parts.certificate_pem.as_bytes(), 0o644).map_err(Failure::failed)?;
        files::write_atomic(&dir.join("ca.key"), parts.key_pem.as_bytes(), 0o600).map_err(Failure::failed)
    }

    /// Opens a CA; waits while another command changes it.
    pub(super) fn open(dir: &Path) -> Result<Self, Failure> {
        if !dir.join("ca.key").exists() {
            return Err(Failure::usage(format!(
                "{} holds no CA; make one with `annulus ca init NAME`, or name its directory with --ca-dir",
                dir.display()
            )));
        }
        let lock = lock(dir)?;
        let text = config::load_secret::<KeepText>(&dir.join("group.toml")).map_err(Failure::usage)?;
        let geometry = text.content.geometry.as_deref().map(GeometryKind::from_str).transpose();
        geometry.map_err(|error| Failure::usage(text.fault("geometry", error.to_string(), None)))?;
        let secret = |key: &str, value: &str| -> Result<[u8; 32], Failure> {
            let bytes = unhex(value).and_then(|bytes| bytes.try_into().ok());
            bytes.ok_or_else(|| {
                Failure::usage(text.fault(key, "is not 64 hexadecimal digits", Some("take it from a copy of this directory".into())))
            })
        };
        let revocations = match files::read(&dir.join("revocations")) {
            Ok(bytes) => Some(bytes),
            Err(error) if error.is_missing() => None,
            Err(error) => return Err(Failure::failed(error)),
        };
        let key = files::read_secret(&dir.join("ca.key")).map_err(Failure::failed)?;
        let parts = Parts {
            key_pem: Zeroizing::new(
                String::from_utf8(key).map_err(|_| Failure::usage(format!("{}/ca.key is no PEM text", dir.display())))?,
            ),
            certificate_pem: files::read_text(&dir.join("ca.crt")).map_err(Failure::failed)?,
            node_id_secret: NodeIdSecret::new(secret("node_id_secret", &text.content.node_id_secret)?),
            realm_key: RealmKey::new(secret("realm_key", &text.content.realm_key)?),
            revocations,
        };
        let authority = Authority::from_parts(&parts).map_err(|error| Failure::usage(format!("{}: {error}", dir.display())))?;
        Ok(Self { dir: dir.to_owned(), text: text.content, authority, _lock: lock })
    }

    /// All certificates that were issued, the oldest first.
    pub(super) fn issued(&self) -> Result<Vec<Certificate>, Failure> {
        let dir = self.dir.join("issued");
        let entries = fs::read_dir(&dir).map_err(|error| Failure::failed(format!("{}: cannot list it: {error}", dir.display())))?;
        let mut issued = Vec::new();
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.extension().is_some_and(|end| end == "crt")) {
            let text = files::read_text(&path).map_err(Failure::failed)?;
            issued.push(Certificate::from_pem(&text).map_err(|error| Failure::failed(format!("{}: {error}", path.display())))?);
        }
        issued.sort_by(|a, b| (a.not_before(), a.node_name(), a.serial()).cmp(&(b.not_before(), b.node_name(), b.serial())));
        Ok(issued)
    }

    /// Keeps a copy of a certificate; it is issued only when that has succeeded.
    pub(super) fn store_issued(&self, certificate: &Certificate) -> Result<(), Failure> {
        let path = self.dir.join("issued").join(format!("{}.crt", hex(certificate.serial())));
        files::write_atomic(&path, certificate.to_pem().as_bytes(), 0o600).map_err(Failure::failed)
    }

    /// The signed revocation list.
    pub(super) fn revocations_path(&self) -> PathBuf {
        self.dir.join("revocations")
    }

    /// Keeps the signed revocation list.
    pub(super) fn store_revocations(&self, signed: &[u8]) -> Result<(), Failure> {
        files::write_atomic(&self.revocations_path(), signed, 0o644).map_err(Failure::failed)
    }
}

fn lock(dir: &Path) -> Result<File, Failure> {
    let path = dir.join("lock");
    let failed = |error: std::io::Error| Failure::failed(format!("{}: cannot lock it: {error}", path.display()));
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(failed)?;
    file.lock().map_err(failed)?;
    Ok(file)
}
