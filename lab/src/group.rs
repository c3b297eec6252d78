//! A group for the hosts of a lab: its CA, and the files that each member finds on its host.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use annulus_core::group::{Authority, Certificate, NodeKeys, Parameters, Profile};
use annulus_core::rng::Rng;
use annulus_core::time::UnixTime;
use annulus_daemon::files;
use annulus_daemon::group_file::GroupText;
use annulus_daemon::state::hex;
use anyhow::{Context, Result};

/// The virtual IPv4 network of the group.
pub const IPV4_NETWORK: &str = "10.200.0.0/16";
/// The virtual IPv6 network of the group.
pub const IPV6_NETWORK: &str = "fd00:a11:a11:a11::/64";

/// Age of a new group's CA.
const CA_AGE_SECS: u64 = 30 * 86_400;

/// A group with its CA.
#[derive(Debug)]
pub struct Group {
    name: String,
    authority: Authority,
    rng: Rng,
}

/// A member of a group: its keys and its certificate.
#[derive(Debug)]
pub struct Member {
    /// The keys.
    pub keys: NodeKeys,
    /// The certificate.
    pub certificate: Certificate,
}

/// The time of this machine's wall clock.
#[must_use]
pub fn wall_clock() -> UnixTime {
    UnixTime(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs()))
}

impl Group {
    /// Founds a group.
    ///
    /// # Errors
    /// If the name is not allowed or the system has no randomness.
    pub fn new(name: &str) -> Result<Self> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(|error| anyhow::anyhow!("no randomness: {error}"))?;
        let mut rng = Rng::new(seed);
        // Older than any certificate that a test may want.
        let founded = UnixTime(wall_clock().0.saturating_sub(CA_AGE_SECS));
        let authority = Authority::init(&Parameters::new(name), &mut rng, founded)?;
        Ok(Self { name: name.into(), authority, rng })
    }

    /// The group's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The CA, to revoke members.
    pub const fn authority_mut(&mut self) -> &mut Authority {
        &mut self.authority
    }

    /// A new member that is valid from now on for 30 days.
    ///
    /// # Errors
    /// If the CA refuses the name.
    pub fn enrol(&mut self, node_name: &str) -> Result<Member> {
        self.enrol_with(&Profile::new(&format!("user-{node_name}"), node_name, wall_clock()))
    }

    /// A new member as the profile says.
    ///
    /// # Errors
    /// If the CA refuses it.
    pub fn enrol_with(&mut self, profile: &Profile) -> Result<Member> {
        let keys = NodeKeys::generate(&mut self.rng);
        let certificate = self.authority.issue(&keys.request(), profile, &mut self.rng)?;
        Ok(Member { keys, certificate })
    }

    /// Writes what a daemon needs into a directory: `annulus.toml`, `groups.d/` and the member's keys. It may be called again with news.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn install(&self, member: &Member, dir: &Path, listen: SocketAddr, bootstrap: &[SocketAddr]) -> Result<()> {
        let groups = dir.join("groups.d");
        for directory in [dir, &groups] {
            fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
        }
        let text = GroupText {
            name: self.name.clone(),
            ipv4_network: Some(IPV4_NETWORK.into()),
            ipv6_network: IPV6_NETWORK.into(),
            bootstrap: bootstrap.iter().map(ToString::to_string).collect(),
            realm_key: hex(self.authority.realm_key().as_bytes()),
            ca_certificates: self.authority.certificate().to_pem(),
            key: "../node.key".into(),
            certificate_pem: Some(member.certificate.to_pem()),
            ..GroupText::default()
        };
        files::write_atomic(&dir.join("node.key"), member.keys.to_pem().as_bytes(), 0o600)?;
        files::write_atomic(&groups.join(format!("{}.toml", self.name)), toml::to_string(&text)?.as_bytes(), 0o600)?;
        let host = format!(
            "listen = \"{listen}\"\nstate_dir = \"state\"\ncontrol_socket = \"annulus.sock\"\nlog_level = \"info,annulus_core=debug\"\n"
        );
        files::write_atomic(&dir.join("annulus.toml"), host.as_bytes(), 0o644)?;
        Ok(())
    }
}
