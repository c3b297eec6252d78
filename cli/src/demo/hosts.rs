//! The hosts of the demo: a router, a CA, and a daemon on each host, mio and tokio in turn.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use annulus_daemon::exit::Failure;
use annulus_daemon::status::Status;
use annulus_lab::{Attached, Daemon, Group, Internet, is_connected};
use anyhow::{Context, Result};
use tempfile::TempDir;

use super::progress::Progress;
use super::{Interrupt, failed};
use crate::up::RuntimeKind;

/// The group's name.
const GROUP: &str = "demo";
/// The UDP port of all daemons.
const PORT: u16 = 7171;
/// MTU of all cables.
const MTU: u16 = 1500;
/// How long the ring may take to stand.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often the daemons are asked how far they are.
const ASK_INTERVAL: Duration = Duration::from_millis(20);

/// One host. Its daemon ends before the host does.
#[derive(Debug)]
pub(crate) struct DemoHost {
    /// The daemon.
    pub(crate) daemon: Daemon,
    /// The host itself.
    pub(crate) attached: Attached,
    /// The daemon's event loop.
    pub(crate) runtime: RuntimeKind,
    /// The virtual addresses, IPv4 first.
    pub(crate) addresses: Vec<IpAddr>,
    /// The node ID.
    pub(crate) node_id: String,
}

impl DemoHost {
    /// The virtual address that measurements use: IPv4.
    pub(crate) fn address(&self) -> IpAddr {
        self.addresses[0]
    }
}

/// All hosts with what joins them.
#[derive(Debug)]
pub(crate) struct Hosts {
    /// The hosts; the first is where the others bootstrap.
    pub(crate) hosts: Vec<DemoHost>,
    /// Time from the start of the first daemon until all were connected.
    pub(crate) joined_after: Duration,
    _internet: Internet,
    _dir: TempDir,
}

impl Hosts {
    /// Makes the hosts, starts their daemons and waits for the ring.
    pub(crate) fn make(count: u16, progress: &mut Progress<'_>, interrupt: &mut Interrupt) -> Result<Self, Failure> {
        let dir = tempfile::Builder::new().prefix("annulus-demo-").tempdir().map_err(Failure::failed)?;
        let mut internet = Internet::new().map_err(|error| failed(&error))?;
        let mut attached = Vec::new();
        for index in 0..count {
            interrupt.check()?;
            let name = name(index);
            progress.doing(format_args!("making host {name}"));
            attached.push(internet.attach(&name, MTU).map_err(|error| failed(&error))?);
            progress.step();
        }
        progress.done(format_args!("{count} hosts and a router between them"));
        let begun = Instant::now();
        let mut hosts = start(attached, dir.path(), progress).map_err(|error| failed(&error))?;
        progress.done(format_args!("{count} daemons started, mio and tokio in turn"));
        let joined_after = join(&mut hosts, begun, progress, interrupt)?;
        progress.done(format_args!("the ring stands after {:.2} s", joined_after.as_secs_f64()));
        Ok(Self { hosts, joined_after, _internet: internet, _dir: dir })
    }

    /// The ordered pairs.
    pub(crate) fn pairs(&self) -> impl Iterator<Item = (&DemoHost, &DemoHost)> {
        let others = |from: usize| self.hosts.iter().enumerate().filter(move |(to, _)| *to != from);
        self.hosts.iter().enumerate().flat_map(move |(index, from)| others(index).map(move |(_, to)| (from, to)))
    }
}

/// Short names in the order of the alphabet.
fn name(index: u16) -> String {
    const NAMES: [&str; 16] =
        ["ann", "bob", "cid", "dora", "eve", "fay", "gil", "hal", "ida", "jon", "kim", "lea", "max", "nia", "oto", "pia"];
    NAMES.get(usize::from(index)).map_or_else(|| format!("host{index}"), |name| (*name).to_owned())
}

/// One CA, one certificate per host, one daemon per host.
fn start(attached: Vec<Attached>, dir: &Path, progress: &Progress<'_>) -> Result<Vec<DemoHost>> {
    let mut group = Group::new(GROUP)?;
    let seed = SocketAddr::new(attached.first().context("there are hosts")?.ipv4().into(), PORT);
    let mut hosts = Vec::new();
    for (index, attached) in attached.into_iter().enumerate() {
        let runtime = if index % 2 == 0 { RuntimeKind::Mio } else { RuntimeKind::Tokio };
        progress.doing(format_args!("starting the daemon of {} on {runtime}", attached.name()));
        let member = group.enrol(attached.name())?;
        let home = dir.join(attached.name());
        let bootstrap: &[SocketAddr] = if index == 0 { &[] } else { &[seed] };
        group.install(&member, &home, SocketAddr::new(annulus_lab::measure::unspecified(true), PORT), bootstrap)?;
        let daemon =
            Daemon::start(&attached, &home, Path::new("/proc/self/exe"), &["up", "--foreground", "--runtime", &runtime.to_string()])?;
        let node_id = member.certificate.node_id().to_string();
        hosts.push(DemoHost { daemon, attached, runtime, addresses: Vec::new(), node_id });
        progress.step();
    }
    Ok(hosts)
}

/// Waits until all daemons are connected to a ring of all.
fn join(hosts: &mut [DemoHost], begun: Instant, progress: &Progress<'_>, interrupt: &mut Interrupt) -> Result<Duration, Failure> {
    progress.doing("the daemons find each other");
    let mut latest: Option<Status> = None;
    while begun.elapsed() < PATIENCE {
        interrupt.check()?;
        let waiting = hosts.iter_mut().filter(|host| host.addresses.is_empty());
        let mut all = true;
        for host in waiting {
            if let Some(ended) = host.daemon.ended().map_err(|error| failed(&error))? {
                return Err(Failure::failed(format!(
                    "the daemon of {} has ended ({ended}); {}",
                    host.attached.name(),
                    host.daemon.last_words()
                )));
            }
            match host.daemon.status() {
                Ok(status) if is_connected(&status) => {
                    host.addresses = status.groups.into_iter().flat_map(|group| group.addresses).collect();
                    host.addresses.sort_by_key(IpAddr::is_ipv6);
                    progress.step();
                }
                Ok(status) => {
                    latest = Some(status);
                    all = false;
                }
                Err(_) => all = false,
            }
        }
        if all {
            return Ok(begun.elapsed());
        }
        std::thread::sleep(ASK_INTERVAL);
    }
    let missing: Vec<&DemoHost> = hosts.iter().filter(|host| host.addresses.is_empty()).collect();
    let names: Vec<&str> = missing.iter().map(|host| host.attached.name()).collect();
    let warnings = latest
        .into_iter()
        .flat_map(|status| status.groups)
        .flat_map(|group| group.warnings)
        .fold(String::new(), |text, warning| format!("{text}; {warning}"));
    let words = missing.first().map(|host| host.daemon.last_words()).unwrap_or_default();
    Err(Failure::failed(format!("not connected after {} s: {}{warnings}; {words}", PATIENCE.as_secs(), names.join(", "))))
}
