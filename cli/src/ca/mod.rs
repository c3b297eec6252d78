//! `annulus ca`: a group's certificate authority without a server.

mod issue;
mod keep;

use std::path::PathBuf;
use std::time::Duration;

use annulus_core::config::GeometryKind;
use annulus_core::group::{Authority, Certificate, Parameters, Revoked, check_group_name};
use annulus_core::rng::Rng;
use annulus_core::shard::table::Prefix;
use annulus_core::time::UnixTime;
use annulus_daemon::exit::{Exit, Failure};
use annulus_daemon::group_file::{BootstrapHost, parse_bootstrap, parse_prefix};
use annulus_daemon::state::hex;
use annulus_daemon::{clock, files};
use annulus_tun_bridge::Cidr;
use annulus_tun_bridge::host::overlapping;
use clap::{Args, Subcommand};

use crate::output::{Mood, Output, list, table};
use keep::Keep;

/// How often networks are drawn anew when they overlap with one of this host.
const NETWORK_DRAWS: usize = 32;

#[derive(Subcommand, Debug)]
pub(crate) enum Ca {
    /// Found a group: make its CA and its parameters
    Init(Init),
    /// Issue a certificate, in a directory that is ready to run
    Issue(issue::Issue),
    /// Show the group and what was issued
    Show(Show),
    /// Revoke all certificates of a node
    Revoke(Revoke),
}

impl Ca {
    pub(crate) fn run(&self, output: &Output) -> Result<Exit, Failure> {
        match self {
            Self::Init(init) => init.run(output),
            Self::Issue(issue) => issue.run(output),
            Self::Show(show) => show.run(output),
            Self::Revoke(revoke) => revoke.run(output),
        }
    }
}

/// Where the CA lies.
#[derive(Args, Debug, Clone)]
struct Place {
    /// Directory of the CA; keep it secret, and a copy of it somewhere else
    #[arg(long = "ca-dir", env = "ANNULUS_CA_DIR", default_value = "annulus-ca", value_name = "DIR")]
    dir: PathBuf,
}

#[derive(Args, Debug)]
pub(crate) struct Init {
    /// Name of the group
    name: String,
    #[command(flatten)]
    place: Place,
    /// IPv4 network of the virtual addresses, or none; a random /16 of 10.128.0.0/9 if it is left out
    #[arg(long, value_name = "NETWORK", value_parser = ipv4_network)]
    ipv4: Option<Ipv4Choice>,
    /// IPv6 network of the virtual addresses, a /64; a random one of fd00::/8 if it is left out
    #[arg(long, value_name = "NETWORK", value_parser = ipv6_network)]
    ipv6: Option<Prefix>,
    /// How members link and route: symphony, chord, pastry or kademlia; all nodes of the group follow it, for as long as the group lives
    #[arg(long, value_name = "NAME", default_value_t = GeometryKind::Symphony)]
    geometry: GeometryKind,
    /// HOST:PORT of a node that others begin with; may be given several times, also to `issue`
    #[arg(long, value_name = "HOST:PORT", value_parser = bootstrap)]
    bootstrap: Vec<String>,
    /// Days that the CA lives
    #[arg(long, default_value_t = 3650, value_parser = clap::value_parser!(u64).range(1..=36_500))]
    days: u64,
}

/// A network, or none.
#[derive(Clone, Copy, Debug)]
struct Ipv4Choice(Option<Prefix>);

fn ipv4_network(text: &str) -> Result<Ipv4Choice, String> {
    if text == "none" {
        return Ok(Ipv4Choice(None));
    }
    let found = parse_prefix(text).filter(|prefix| prefix.address.is_ipv4() && (8..=30).contains(&prefix.len));
    found
        .map(|prefix| Ipv4Choice(Some(prefix)))
        .ok_or_else(|| format!("`{text}` is no IPv4 network of /8 to /30, for example 10.200.0.0/16"))
}

fn ipv6_network(text: &str) -> Result<Prefix, String> {
    parse_prefix(text)
        .filter(|prefix| !prefix.address.is_ipv4() && prefix.len == 64)
        .ok_or_else(|| format!("`{text}` is no IPv6 network of /64, for example fd12:3456:789a::/64"))
}

fn bootstrap(text: &str) -> Result<String, String> {
    match parse_bootstrap(text) {
        Some(BootstrapHost::Address(_) | BootstrapHost::Name(..)) => Ok(text.to_owned()),
        None => Err(format!("`{text}` is not HOST:PORT, for example seed.example.org:7171 or [2001:db8::1]:7171")),
    }
}

/// A generator seeded by the system.
fn randomness() -> Result<Rng, Failure> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|error| Failure::failed(format!("the system has no randomness: {error}")))?;
    Ok(Rng::new(seed))
}

/// Draws a network until it overlaps with none of this host; after many draws the last one must do, and its overlap is told when a node starts.
fn draw(mut one: impl FnMut() -> Prefix) -> Prefix {
    let mut drawn = one();
    for _ in 0..NETWORK_DRAWS {
        let free = Cidr::new(drawn.address, drawn.len).is_none_or(|cidr| overlapping(&cidr, "").is_ok_and(|found| found.is_empty()));
        if free {
            break;
        }
        drawn = one();
    }
    drawn
}

fn random_ipv4(rng: &mut Rng) -> Prefix {
    Prefix::new([10, 128 + rng.below(128) as u8, 0, 0].into(), 16)
}

fn random_ipv6(rng: &mut Rng) -> Prefix {
    let mut address = [0; 16];
    address[0] = 0xfd;
    address[1..6].copy_from_slice(&rng.bytes::<5>());
    Prefix::new(address.into(), 64)
}

impl Init {
    fn run(&self, output: &Output) -> Result<Exit, Failure> {
        check_group_name(&self.name).map_err(Failure::usage)?;
        let mut rng = randomness()?;
        let parameters = Parameters { lifetime: Duration::from_secs(self.days * 86_400), ..Parameters::new(&self.name) };
        let authority = Authority::init(&parameters, &mut rng, clock::wall()).map_err(Failure::usage)?;
        let ipv4 = self.ipv4.map_or_else(|| Some(draw(|| random_ipv4(&mut rng))), |choice| choice.0);
        let ipv6 = self.ipv6.unwrap_or_else(|| draw(|| random_ipv6(&mut rng)));
        Keep::create(&self.place.dir, &self.name, &authority, ipv4, ipv6, self.geometry, &self.bootstrap)?;
        let certificate = authority.certificate();
        output.json(&serde_json::json!({
            "group": self.name, "group_id": hex(&certificate.group_id().0), "ca_dir": self.place.dir, "fingerprint": hex(&certificate.fingerprint()),
            "ipv4_network": ipv4.map(|network| network.to_string()), "ipv6_network": ipv6.to_string(), "geometry": self.geometry.name(),
            "not_after": certificate.not_after().0,
        }));
        output.text(format_args!(
            "group {} is founded; its CA lies in {}\nIPv4         {}\nIPv6         {ipv6}\ngeometry     {}\nfingerprint  {}\n\nnext: annulus ca issue NODE --user USER --bootstrap HOST:PORT",
            self.name,
            self.place.dir.display(),
            ipv4.map_or_else(|| "none".to_owned(), |network| network.to_string()),
            self.geometry,
            hex(&certificate.fingerprint()),
        ));
        output.note(format_args!(
            "{} holds the group's secrets: keep it on this machine only, and a copy of it off line",
            self.place.dir.display()
        ));
        Ok(Exit::Done)
    }
}

#[derive(Args, Debug)]
pub(crate) struct Show {
    #[command(flatten)]
    place: Place,
}

impl Show {
    fn run(&self, output: &Output) -> Result<Exit, Failure> {
        let keep = Keep::open(&self.place.dir)?;
        let now = clock::wall();
        let authority = &keep.authority;
        let issued = keep.issued()?;
        let certificate = authority.certificate();
        let state = |issued: &Certificate| match authority.revocations() {
            Some(list) if list.lists(issued) => "revoked",
            _ if issued.not_after() < now => "expired",
            _ => "valid",
        };
        let json: Vec<serde_json::Value> = issued
            .iter()
            .map(|issued| {
                serde_json::json!({
                    "node_name": issued.node_name(), "user": issued.user(), "node_id": issued.node_id().to_string(), "serial": hex(issued.serial()),
                    "roles": issued.roles().names().collect::<Vec<_>>(), "not_before": issued.not_before().0, "not_after": issued.not_after().0, "state": state(issued),
                })
            })
            .collect();
        output.json(&serde_json::json!({
            "group": keep.text.name, "group_id": hex(&certificate.group_id().0), "fingerprint": hex(&certificate.fingerprint()), "not_after": certificate.not_after().0,
            "ipv4_network": keep.text.ipv4_network, "ipv6_network": keep.text.ipv6_network, "geometry": keep.text.geometry,
            "revocation_epoch": authority.revocations().map(|list| list.epoch()),
            "issued": json,
        }));
        output.text(format_args!(
            "group        {}\nIPv4         {}\nIPv6         {}\ngeometry     {}\nbootstrap    {}\nfingerprint  {}\nCA ends      in {} days\n",
            keep.text.name,
            keep.text.ipv4_network.as_deref().unwrap_or("none"),
            keep.text.ipv6_network,
            keep.text.geometry.as_deref().unwrap_or(GeometryKind::Symphony.name()),
            list(&keep.text.bootstrap),
            hex(&certificate.fingerprint()),
            certificate.not_after().saturating_since(now) / 86_400,
        ));
        let rows = issued.iter().map(|issued| {
            let word = state(issued);
            let roles: Vec<&str> = issued.roles().names().collect();
            let left = issued.not_after().saturating_since(now) / 86_400;
            let mood = if word == "valid" { Mood::Good } else { Mood::Bad };
            [
                issued.node_name().to_owned(),
                issued.user().to_owned(),
                issued.node_id().to_string(),
                list(&roles),
                format!("{left} days"),
                output.paint(mood, word),
            ]
        });
        output.text(table(["NODE", "USER", "NODE ID", "ROLES", "LASTS", "STATE"], &[4], rows.collect()));
        Ok(Exit::Done)
    }
}

#[derive(Args, Debug)]
pub(crate) struct Revoke {
    /// Name of the node
    node: String,
    #[command(flatten)]
    place: Place,
    /// Write the signed list to this file as well
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

impl Revoke {
    fn run(&self, output: &Output) -> Result<Exit, Failure> {
        let mut keep = Keep::open(&self.place.dir)?;
        let mut keys: Vec<Certificate> = Vec::new();
        for certificate in keep.issued()?.into_iter().filter(|certificate| certificate.node_name() == self.node) {
            let known = keys.iter().any(|other| other.public_key() == certificate.public_key());
            let listed = keep.authority.revocations().is_some_and(|list| list.lists_key(&certificate.public_key()));
            if !known && !listed {
                keys.push(certificate);
            }
        }
        if keys.is_empty() {
            return Err(Failure::usage(format!("no certificate of a node `{}` is in force; see: annulus ca show", self.node)));
        }
        // The key and not the serial number: who has the key could be issued another certificate for it by mistake.
        let what: Vec<(Revoked, UnixTime)> = keys.iter().map(|certificate| (Revoked::key(certificate), UnixTime(u64::MAX))).collect();
        let (epoch, signed) = {
            let revocations = keep.authority.revoke(&what, clock::wall()).map_err(Failure::failed)?;
            (revocations.epoch(), revocations.signed().clone())
        };
        keep.store_revocations(&signed)?;
        let file = keep.revocations_path();
        if let Some(out) = &self.out {
            files::write_atomic(out, &signed, 0o644).map_err(Failure::failed)?;
        }
        output.json(
            &serde_json::json!({ "node_name": self.node, "keys": keys.len(), "epoch": epoch, "list": self.out.as_ref().unwrap_or(&file) }),
        );
        output.text(format_args!("{} is revoked; the signed list is {}", self.node, self.out.as_ref().unwrap_or(&file).display()));
        output.note(format_args!(
            "copy the list to one running member, as groups.d/{}/revocations beside its group file: it is read within a minute and spreads through the ring",
            keep.text.name
        ));
        Ok(Exit::Done)
    }
}

#[cfg(test)]
mod tests;
