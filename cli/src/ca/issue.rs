//! `annulus ca issue`: a certificate, its keys and the files around them, ready to run.

use std::path::{Path, PathBuf};
use std::time::Duration;

use annulus_core::group::{Certificate, NodeKeys, Profile, Roles};
use annulus_core::shard::table::Prefix;
use annulus_daemon::exit::{Exit, Failure};
use annulus_daemon::group_file::{GroupText, MAX_BOOTSTRAP, parse_prefix};
use annulus_daemon::settings::Listen;
use annulus_daemon::state::hex;
use annulus_daemon::{clock, files};
use clap::Args;

use super::keep::Keep;
use super::{Place, randomness};
use crate::output::{Output, list};

#[derive(Args, Debug)]
pub(crate) struct Issue {
    /// Name of the node, unique in the group: lower-case letters, digits and -
    node: String,
    /// The user whose node it is
    #[arg(long, value_name = "NAME")]
    user: String,
    #[command(flatten)]
    place: Place,
    /// Directory to write; the node's name if it is left out. With the node's keys in it already they are kept: a renewal
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// HOST:PORT of a node to begin with; may be given several times
    #[arg(long, value_name = "HOST:PORT", value_parser = super::bootstrap)]
    bootstrap: Vec<String>,
    /// What the node is in the group: member, guest, infrastructure, relay, gateway, admin; may be given several times
    #[arg(long = "role", value_name = "ROLE")]
    roles: Vec<Roles>,
    /// Days that the certificate lives
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3650))]
    days: u64,
    /// A fixed virtual address or network of the node; may be given several times
    #[arg(long = "address", value_name = "IP", value_parser = address)]
    addresses: Vec<Prefix>,
    /// UDP address and port on which the node listens, for nodes that others begin with
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<Listen>,
}

fn address(text: &str) -> Result<Prefix, String> {
    let found = text.parse().map(Prefix::host).ok().or_else(|| parse_prefix(text));
    found.ok_or_else(|| format!("`{text}` is neither an address nor a network"))
}

/// The files of a node, below the directory that becomes `/etc/annulus`.
struct Layout {
    host: PathBuf,
    group: PathBuf,
    key: PathBuf,
    certificate: PathBuf,
    revocations: PathBuf,
}

impl Layout {
    fn new(dir: &Path, group: &str) -> Self {
        let groups = dir.join("groups.d");
        let own = groups.join(group);
        Self {
            host: dir.join("annulus.toml"),
            group: groups.join(format!("{group}.toml")),
            key: own.join("node.key"),
            certificate: own.join("node.crt"),
            revocations: own.join("revocations"),
        }
    }
}

impl Issue {
    pub(super) fn run(&self, output: &Output) -> Result<Exit, Failure> {
        let keep = Keep::open(&self.place.dir)?;
        let dir = self.out.clone().unwrap_or_else(|| PathBuf::from(&self.node));
        let layout = Layout::new(&dir, &keep.text.name);
        let mut rng = randomness()?;
        let renewal = layout.key.exists();
        let keys = if renewal { read_keys(&layout.key)? } else { NodeKeys::generate(&mut rng) };
        let now = clock::wall();
        let issued = keep.issued()?;
        if let Some(holder) = keep.authority.name_holder(&self.node, &keys.public_key(), &issued, now) {
            return Err(Failure::usage(format!(
                "the name {} is taken by a node of {} (until {}); choose another one, or revoke it first: annulus ca revoke {}",
                self.node,
                holder.user(),
                annulus_core::group::utc(&holder.not_after()),
                self.node
            )));
        }
        let profile = Profile {
            roles: if self.roles.is_empty() { Roles::MEMBER } else { self.roles.iter().fold(Roles::NONE, |all, role| all | *role) },
            addresses: self.addresses.clone(),
            lifetime: Duration::from_secs(self.days * 86_400),
            ..Profile::new(&self.user, &self.node, now)
        };
        check_addresses(&keep, &profile, &issued, &keys)?;
        let certificate = keep.authority.issue(&keys.request(), &profile, &mut rng).map_err(Failure::usage)?;
        self.write(&keep, &layout, &keys, &certificate)?;
        keep.store_issued(&certificate)?;
        self.report(output, &keep, &dir, &certificate, renewal);
        Ok(Exit::Done)
    }

    fn bootstrap(&self, keep: &Keep) -> Result<Vec<String>, Failure> {
        let mut all: Vec<String> = self.bootstrap.clone();
        all.extend(keep.text.bootstrap.iter().filter(|known| !self.bootstrap.contains(known)).cloned());
        if all.len() > MAX_BOOTSTRAP {
            return Err(Failure::usage(format!("more than {MAX_BOOTSTRAP} endpoints to begin with")));
        }
        Ok(all)
    }

    fn write(&self, keep: &Keep, layout: &Layout, keys: &NodeKeys, certificate: &Certificate) -> Result<(), Failure> {
        let name = &keep.text.name;
        let parts = keep.authority.to_parts();
        let text = GroupText {
            name: name.clone(),
            geometry: keep.text.geometry.clone(),
            ipv4_network: keep.text.ipv4_network.clone(),
            ipv6_network: keep.text.ipv6_network.clone(),
            bootstrap: self.bootstrap(keep)?,
            realm_key: hex(parts.realm_key.as_bytes()),
            ca_certificates: parts.certificate_pem,
            key: PathBuf::from(name).join("node.key"),
            certificate: Some(PathBuf::from(name).join("node.crt")),
            ..GroupText::default()
        };
        let toml = format!(
            "# Group {name}: written by `annulus ca issue`. It holds the key of the group's realm and must stay 0600.\n{}",
            toml::to_string(&text).expect("a flat table of texts always becomes TOML")
        );
        for path in [&layout.group, &layout.key] {
            let parent = path.parent().expect("all files of the layout lie in directories");
            std::fs::create_dir_all(parent)
                .map_err(|error| Failure::failed(format!("{}: cannot make the directory: {error}", parent.display())))?;
        }
        let failed = |error: files::FileError| Failure::failed(error);
        if !layout.key.exists() {
            files::write_fresh(&layout.key, keys.to_pem().as_bytes(), 0o600).map_err(failed)?;
        }
        files::write_atomic(&layout.certificate, certificate.to_pem().as_bytes(), 0o644).map_err(failed)?;
        if let Some(list) = &parts.revocations {
            files::write_atomic(&layout.revocations, list, 0o644).map_err(failed)?;
        }
        files::write_atomic(&layout.group, toml.as_bytes(), 0o600).map_err(failed)?;
        // What a host's keeper wrote into the host's file is not for us to replace.
        if !layout.host.exists() {
            let listen = self.listen.map(|listen| format!("listen = \"{}\"\n", listen.0)).unwrap_or_default();
            let text = format!("# This host; all keys: annulus config example\n{listen}");
            files::write_fresh(&layout.host, text.as_bytes(), 0o644).map_err(failed)?;
        }
        Ok(())
    }

    fn report(&self, output: &Output, keep: &Keep, dir: &Path, certificate: &Certificate, renewal: bool) {
        let roles: Vec<&str> = certificate.roles().names().collect();
        output.json(&serde_json::json!({
            "group": keep.text.name, "node_name": certificate.node_name(), "node_id": certificate.node_id().to_string(), "user": certificate.user(),
            "roles": roles, "not_after": certificate.not_after().0, "dir": dir, "config": dir.join("annulus.toml"), "renewal": renewal,
        }));
        let days = certificate.not_after().saturating_since(clock::wall()) / 86_400;
        output.text(format_args!(
            "{} {} of group {}: node {}, {}, for {days} days\n\nnext: annulus up --config {}",
            if renewal { "renewed" } else { "issued" },
            certificate.node_name(),
            keep.text.name,
            certificate.node_id(),
            list(&roles),
            dir.join("annulus.toml").display(),
        ));
        output.note(format_args!(
            "on another machine: copy what is in {} to /etc/annulus there, and delete it here; it holds the node's keys",
            dir.display()
        ));
    }
}

fn read_keys(path: &Path) -> Result<NodeKeys, Failure> {
    let bytes = zeroize::Zeroizing::new(files::read_secret(path).map_err(Failure::failed)?);
    let text = core::str::from_utf8(&bytes).map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?;
    NodeKeys::from_pem(text).map_err(|error| Failure::usage(format!("{}: {error}", path.display())))
}

/// A fixed address of the group's networks lies in them as a host's, and belongs to one node.
fn check_addresses(keep: &Keep, profile: &Profile, issued: &[Certificate], keys: &NodeKeys) -> Result<(), Failure> {
    let networks: Vec<Prefix> =
        keep.text.ipv4_network.iter().chain([&keep.text.ipv6_network]).filter_map(|text| parse_prefix(text)).collect();
    for address in &profile.addresses {
        if address.is_host() && !networks.iter().any(|network| network.contains(address.address)) {
            let known: Vec<String> = networks.iter().map(Prefix::to_string).collect();
            return Err(Failure::usage(format!("{} lies outside of the group's networks, {}", address.address, known.join(" and "))));
        }
        for network in &networks {
            let within = network.contains(address.address) && address.len >= network.len;
            let ends = address.is_host() && network.address.is_ipv4() && within && {
                let std::net::IpAddr::V4(v4) = address.address else { continue };
                let host = u32::from(v4) & u32::MAX.checked_shr(u32::from(network.len)).unwrap_or(0);
                host == 0 || host == u32::MAX.checked_shr(u32::from(network.len)).unwrap_or(0)
            };
            if ends {
                return Err(Failure::usage(format!("{} is the network or broadcast address of {network}", address.address)));
            }
        }
        let now = profile.not_before;
        let other = issued.iter().find(|other| {
            other.public_key() != keys.public_key()
                && other.not_after() >= now
                && !keep.authority.revocations().is_some_and(|list| list.lists(other))
                && other.addresses().iter().any(|taken| taken.contains(address.address) || address.contains(taken.address))
        });
        if let Some(other) = other {
            return Err(Failure::usage(format!("{address} belongs to {} (see: annulus ca show)", other.node_name())));
        }
    }
    Ok(())
}
