//! `groups.d/GROUP.toml`: what a node must know of its group, and which of the group's nodes it is.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use annulus_core::config::GeometryKind;
use annulus_core::group::{CaCertificate, Certificate, check_group_name};
use annulus_core::shard::table::Prefix;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::config::{self, ConfigError, Document};
use crate::files;
use crate::files::FileError;
use crate::settings::is_device_name;
use crate::state::unhex;

/// Groups of one daemon at most: a receiver index has 4 bits for the realm.
pub const MAX_GROUPS: usize = 16;

/// Bootstrap endpoints that are read at most; a group server gives out 50 members and its seed.
pub const MAX_BOOTSTRAP: usize = 128;

/// The text of a group's file.
#[derive(Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct GroupText {
    /// The group's name as its certificates have it.
    pub name: String,
    /// The rule for links, the same on all nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub geometry: Option<String>,
    /// IPv4 network of the virtual addresses; none: IPv6 only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv4_network: Option<String>,
    /// IPv6 network of the virtual addresses.
    pub ipv6_network: String,
    /// `HOST:PORT` of nodes to begin with.
    #[serde(default)]
    pub bootstrap: Vec<String>,
    /// Whether this node has virtual addresses; a seed has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub has_addresses: Option<bool>,
    /// Name of the TUN device of this group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tun_name: Option<String>,
    /// Start although a network of the group overlaps with one of this host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_overlap: Option<bool>,
    /// 64 hexadecimal digits, known to members only: why this file is 0600.
    pub realm_key: String,
    /// The group's CA certificates in PEM, up to four while one follows another.
    pub ca_certificates: String,
    /// File with this node's keys, 0600.
    pub key: PathBuf,
    /// File with this node's certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<PathBuf>,
    /// This node's certificate in PEM, instead of a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_pem: Option<String>,
}

impl core::fmt::Debug for GroupText {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("GroupText").field("name", &self.name).finish_non_exhaustive()
    }
}

/// An address to bootstrap from, before its name was looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BootstrapHost {
    /// An address.
    Address(SocketAddr),
    /// A name and port, for DNS.
    Name(String, u16),
}

/// A group as its file describes it, checked.
#[derive(Clone)]
pub struct GroupFile {
    /// Where it was read.
    pub file: PathBuf,
    /// The group's name.
    pub name: String,
    /// The rule for links.
    pub geometry: GeometryKind,
    /// The IPv4 network, if there is one.
    pub ipv4_network: Option<Prefix>,
    /// The IPv6 network.
    pub ipv6_network: Prefix,
    /// Whom to begin with.
    pub bootstrap: Vec<BootstrapHost>,
    /// Whether this node has virtual addresses, if the file says so.
    pub has_addresses: Option<bool>,
    /// Name of the TUN device, if the file gives one.
    pub tun_name: Option<String>,
    /// Whether networks of the group may overlap with those of this host.
    pub allow_overlap: bool,
    /// The realm key.
    pub realm_key: Zeroizing<[u8; 32]>,
    /// The CA certificates.
    pub ca_certificates: Vec<CaCertificate>,
    /// The file with the keys.
    pub key: PathBuf,
    /// The node's certificate; its form is right, who signed it was not looked at.
    pub certificate: Certificate,
    /// Where the certificate came from, for messages.
    pub certificate_source: PathBuf,
    /// Where a signed revocation list may be put for this node to read (`GROUP/revocations` beside the group's file); it need not exist.
    pub revocations: PathBuf,
}

impl core::fmt::Debug for GroupFile {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("GroupFile").field("name", &self.name).field("file", &self.file).finish_non_exhaustive()
    }
}

impl GroupFile {
    /// Reads and checks a group's file and the certificate that it names; the keys are read later.
    ///
    /// # Errors
    /// [`ConfigError`] with file, line and key.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        Self::check(&config::load_secret::<GroupText>(file)?)
    }

    fn check(document: &Document<GroupText>) -> Result<Self, ConfigError> {
        let text = &document.content;
        check_group_name(&text.name).map_err(|error| document.fault("name", error.to_string(), None))?;
        if let Some(name) = text.tun_name.as_deref()
            && !is_device_name(name)
        {
            return Err(document.fault(
                "tun_name",
                format!("`{name}` is no name for a network device: 1 to 13 letters, digits, -, _ or ."),
                None,
            ));
        }
        let named = text.geometry.as_deref().map(GeometryKind::from_str).transpose();
        let geometry = named.map_err(|error| document.fault("geometry", error.to_string(), None))?.unwrap_or_default();
        let prefix = |key: &str, value: &str, v4: bool, range: core::ops::RangeInclusive<u8>| {
            let found = parse_prefix(value).filter(|prefix| prefix.address.is_ipv4() == v4 && range.contains(&prefix.len));
            found.ok_or_else(|| {
                document.fault(
                    key,
                    format!("`{value}` is no network of /{} to /{}", range.start(), range.end()),
                    Some(if v4 { "for example 10.200.0.0/16" } else { "for example fd12:3456:789a::/64" }.into()),
                )
            })
        };
        let ipv4_network = text.ipv4_network.as_deref().map(|value| prefix("ipv4_network", value, true, 8..=30)).transpose()?;
        let ipv6_network = prefix("ipv6_network", &text.ipv6_network, false, 48..=64)?;
        if text.bootstrap.len() > MAX_BOOTSTRAP {
            return Err(document.fault("bootstrap", format!("more than {MAX_BOOTSTRAP} endpoints"), None));
        }
        let bootstrap = text.bootstrap.iter().map(|entry| {
            parse_bootstrap(entry).ok_or_else(|| {
                document.fault(
                    "bootstrap",
                    format!("`{entry}` is not HOST:PORT"),
                    Some("for example seed.example.org:7171 or [2001:db8::1]:7171".into()),
                )
            })
        });
        let bootstrap = bootstrap.collect::<Result<_, _>>()?;
        let realm_key = unhex(&text.realm_key).and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
        let Some(realm_key) = realm_key else {
            return Err(document.fault("realm_key", "is not 64 hexadecimal digits", Some("take the group's file as it was issued".into())));
        };
        let ca_certificates = CaCertificate::bundle_from_pem(&text.ca_certificates)
            .map_err(|error| document.fault("ca_certificates", error.to_string(), None))?;
        let (certificate, certificate_source) = certificate(document)?;
        Ok(Self {
            file: document.file.clone(),
            name: text.name.clone(),
            geometry,
            ipv4_network,
            ipv6_network: Prefix::new(ipv6_network.address, 64),
            bootstrap,
            has_addresses: text.has_addresses,
            tun_name: text.tun_name.clone(),
            allow_overlap: text.allow_overlap.unwrap_or(false),
            realm_key: Zeroizing::new(realm_key),
            ca_certificates,
            key: document.resolve(&text.key),
            certificate,
            certificate_source,
            revocations: document.resolve(&Path::new(&text.name).join("revocations")),
        })
    }
}

fn certificate(document: &Document<GroupText>) -> Result<(Certificate, PathBuf), ConfigError> {
    let (key, text, source) = match (&document.content.certificate, &document.content.certificate_pem) {
        (Some(path), None) => {
            let path = document.resolve(path);
            ("certificate", files::read_text(&path)?, path)
        }
        (None, Some(text)) => ("certificate_pem", text.clone(), document.file.clone()),
        (None, None) => return Err(document.fault("certificate", "is missing", Some("name the file with this node's certificate".into()))),
        (Some(_), Some(_)) => {
            return Err(document.fault("certificate_pem", "stands beside `certificate`", Some("keep one of both".into())));
        }
    };
    let certificate = Certificate::from_pem(&text).map_err(|error| document.fault(key, format!("{}: {error}", source.display()), None))?;
    Ok((certificate, source))
}

/// `ADDRESS/LENGTH`, without bits behind the length.
#[must_use]
pub fn parse_prefix(text: &str) -> Option<Prefix> {
    let (address, len) = text.split_once('/')?;
    let address: IpAddr = address.trim().parse().ok()?;
    let len: u8 = len.trim().parse().ok()?;
    let prefix = Prefix::new(address, len);
    (prefix.address == address && prefix.len == len).then_some(prefix)
}

/// `HOST:PORT`, where HOST is an address (IPv6 in brackets) or a DNS name.
#[must_use]
pub fn parse_bootstrap(text: &str) -> Option<BootstrapHost> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return (address.port() != 0).then_some(BootstrapHost::Address(address));
    }
    let (host, port) = text.rsplit_once(':')?;
    let port: u16 = port.parse().ok().filter(|&port| port != 0)?;
    let label = |label: &str| {
        (1..=63).contains(&label.len()) && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    let numeric = host.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    (host.len() <= 253 && !numeric && host.trim_end_matches('.').split('.').all(label)).then(|| BootstrapHost::Name(host.to_owned(), port))
}

/// Reads all groups of a directory in the order of their names; a missing directory has none.
///
/// # Errors
/// The first fault: a daemon does not start with half of its groups.
pub fn load_all(directory: &Path) -> Result<Vec<GroupFile>, ConfigError> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(FileError::io(directory, "list it", source).into()),
    };
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.retain(|path| {
        path.extension().is_some_and(|end| end == "toml") && !path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
    });
    paths.sort();
    if paths.len() > MAX_GROUPS {
        let source = std::io::Error::other(format!(
            "{} groups, but one daemon serves at most {MAX_GROUPS}; start a second one with --instance",
            paths.len()
        ));
        return Err(FileError::io(directory, "use it", source).into());
    }
    let mut groups: Vec<GroupFile> = Vec::new();
    for path in paths {
        let group = GroupFile::load(&path)?;
        if let Some(other) = groups.iter().find(|other| other.name == group.name) {
            let source = std::io::Error::other(format!("group `{}` is in {} already", group.name, other.file.display()));
            return Err(FileError::io(&path, "use it", source).into());
        }
        groups.push(group);
    }
    Ok(groups)
}

#[cfg(test)]
mod tests {
    use super::*;
    use annulus_core::group::{Authority, Parameters, Profile};
    use annulus_core::rng::Rng;
    use annulus_core::time::UnixTime;
    use std::os::unix::fs::PermissionsExt;

    fn sample() -> GroupText {
        let mut rng = Rng::new([3; 32]);
        let now = UnixTime(1_800_000_000);
        let authority = Authority::init(&Parameters::new("lab"), &mut rng, now).unwrap();
        let identity = authority.enrol(&Profile::new("ada", "a", now), &mut rng).unwrap();
        GroupText {
            name: "lab".into(),
            ipv4_network: Some("10.200.0.0/16".into()),
            ipv6_network: "fd00:1:2:3::/64".into(),
            bootstrap: vec!["192.0.2.1:7171".into(), "seed.example.org:7171".into(), "[2001:db8::1]:1".into()],
            realm_key: "0f".repeat(32),
            ca_certificates: authority.certificate().to_pem(),
            key: "lab/node.key".into(),
            certificate_pem: Some(identity.certificate().to_pem()),
            ..GroupText::default()
        }
    }

    fn write(dir: &Path, name: &str, text: &GroupText) -> PathBuf {
        let path = dir.join(name);
        fs::write(&path, toml::to_string(text).unwrap()).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    #[test]
    fn a_group_file_is_read_whole() {
        let dir = tempfile::tempdir().unwrap();
        let group = GroupFile::load(&write(dir.path(), "lab.toml", &sample())).unwrap();
        assert_eq!(group.ipv4_network.unwrap().to_string(), "10.200.0.0/16");
        assert_eq!(group.bootstrap[1], BootstrapHost::Name("seed.example.org".into(), 7171));
        assert_eq!((group.ca_certificates.len(), group.certificate.node_name()), (1, "a"));
        assert_eq!(group.key, dir.path().join("lab/node.key"));
        assert_eq!(*group.realm_key, [0x0f; 32]);
        assert_eq!(group.geometry, GeometryKind::Symphony, "where the file names none");
        for kind in GeometryKind::ALL {
            let text = GroupText { geometry: Some(kind.name().into()), ..sample() };
            assert_eq!(GroupFile::load(&write(dir.path(), "lab.toml", &text)).unwrap().geometry, kind);
        }
    }

    #[test]
    fn faults_name_line_and_key() {
        let dir = tempfile::tempdir().unwrap();
        let fault = |change: &dyn Fn(&mut GroupText)| {
            let mut text = sample();
            change(&mut text);
            GroupFile::load(&write(dir.path(), "lab.toml", &text)).unwrap_err().to_string()
        };
        assert!(fault(&|text| text.ipv4_network = Some("10.200.0.1/16".into())).contains("lab.toml:2: ipv4_network:"));
        assert!(fault(&|text| text.bootstrap = vec!["192.0.2.300:1".into()]).contains("`192.0.2.300:1` is not HOST:PORT"));
        assert!(fault(&|text| text.realm_key = "abc".into()).contains("realm_key: is not 64"));
        assert!(fault(&|text| text.name = "../etc".into()).contains("name:"));
        let fault_of_geometry = fault(&|text| text.geometry = Some("torus".into()));
        assert!(
            fault_of_geometry.contains("geometry: `torus` is no geometry; valid: symphony, chord, pastry, kademlia"),
            "{fault_of_geometry}"
        );
        assert!(fault(&|text| text.certificate = Some("x".into())).contains("keep one of both"));
    }

    #[test]
    fn a_group_file_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = write(dir.path(), "lab.toml", &sample());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(GroupFile::load(&path).unwrap_err().to_string().contains("chmod 0600"));
    }

    #[test]
    fn all_groups_are_read_in_order_and_a_doubled_one_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(load_all(&dir.path().join("none")).unwrap().is_empty());
        write(dir.path(), "b.toml", &GroupText { name: "b".into(), ..sample() });
        write(dir.path(), "a.toml", &GroupText { name: "a".into(), ..sample() });
        fs::write(dir.path().join("note.txt"), "ignored").unwrap();
        let names: Vec<String> = load_all(dir.path()).unwrap().into_iter().map(|group| group.name).collect();
        assert_eq!(names, ["a", "b"]);
        write(dir.path(), "c.toml", &GroupText { name: "b".into(), ..sample() });
        assert!(load_all(dir.path()).unwrap_err().to_string().contains("group `b` is in"));
    }

    #[test]
    fn hosts_are_addresses_or_names_with_a_port() {
        assert_eq!(parse_bootstrap("seed:0"), None);
        assert_eq!(parse_bootstrap("seed"), None);
        assert_eq!(parse_bootstrap("a..b:1"), None);
        assert_eq!(parse_bootstrap("seed.:1"), Some(BootstrapHost::Name("seed.".into(), 1)));
    }
}
