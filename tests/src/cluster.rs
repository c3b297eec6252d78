//! Hosts of a lab that run daemons of one group.

use std::fmt;
use std::fs;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, Instant};

use annulus_daemon::status::{PeerStatus, Status};
use annulus_lab::{Attached, Daemon, Group, Internet, Member, command};
use annulus_tun_bridge::Cidr;
use annulus_tun_bridge::netlink::Route;
use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

/// The UDP port of all daemons.
pub const PORT: u16 = 7171;
/// How long joining a ring may take: the machine may be busy with other tests.
pub const JOIN_PATIENCE: Duration = Duration::from_secs(40);

/// Which program a daemon is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runtime {
    /// `annulus-mio`
    Mio,
    /// `annulus-tokio`
    Tokio,
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mio => "mio",
            Self::Tokio => "tokio",
        })
    }
}

/// Which addresses the daemons listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outside {
    /// IPv4 and IPv6.
    Both,
    /// Only IPv4.
    V4,
    /// Only IPv6.
    V6,
}

/// An internet, a group, and a directory for the files of its members.
#[derive(Debug)]
pub struct Cluster {
    /// The internet.
    pub internet: Internet,
    /// The group.
    pub group: Group,
    programs: PathBuf,
    seed: Option<SocketAddr>,
    dir: TempDir,
}

/// A host with a daemon. The daemon ends before the host does.
#[derive(Debug)]
pub struct Node {
    daemon: Option<Daemon>,
    /// The host.
    pub host: Attached,
    /// Who it is.
    pub member: Member,
    /// The directory with its files.
    pub home: PathBuf,
    runtime: Runtime,
    program: PathBuf,
}

impl Cluster {
    /// An internet without hosts and a group without members; `program` is `CARGO_BIN_EXE_annulus-under-test`.
    ///
    /// # Errors
    /// What the kernel or the file system says.
    pub fn new(program: &str) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("annulus-test-").tempdir()?;
        let programs = dir.path().join("bin");
        fs::create_dir(&programs)?;
        for name in ["annulus", "annulus-mio", "annulus-tokio"] {
            symlink(program, programs.join(name))?;
        }
        Ok(Self { internet: Internet::new()?, group: Group::new("test-group")?, programs, seed: None, dir })
    }

    /// The path of one of the programs: `annulus`, `annulus-mio`, `annulus-tokio`.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }

    /// A new directory for the files of a member.
    #[must_use]
    pub fn home(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Where members bootstrap; the first node if nothing else was said.
    #[must_use]
    pub fn seed(&self) -> Vec<SocketAddr> {
        self.seed.into_iter().collect()
    }

    /// Lets the members that are made from now on bootstrap here.
    pub const fn set_seed(&mut self, seed: SocketAddr) {
        self.seed = Some(seed);
    }

    /// A new member on a new host; its daemon is not started yet.
    ///
    /// # Errors
    /// What the kernel, the CA or the file system says.
    pub fn prepare(&mut self, name: &str, runtime: Runtime, mtu: u16, outside: Outside) -> Result<Node> {
        let host = self.internet.attach(name, mtu)?;
        let member = self.group.enrol(name)?;
        self.prepare_as(host, member, runtime, outside)
    }

    /// This member on this host; its daemon is not started yet.
    ///
    /// # Errors
    /// What the file system says.
    pub fn prepare_as(&mut self, host: Attached, member: Member, runtime: Runtime, outside: Outside) -> Result<Node> {
        let home = self.home(host.name());
        let (listen, reached): (IpAddr, IpAddr) = match outside {
            Outside::Both => (Ipv6Addr::UNSPECIFIED.into(), host.ipv4().into()),
            Outside::V4 => (host.ipv4().into(), host.ipv4().into()),
            Outside::V6 => (host.ipv6().into(), host.ipv6().into()),
        };
        self.group.install(&member, &home, SocketAddr::new(listen, PORT), &self.seed())?;
        self.seed.get_or_insert_with(|| SocketAddr::new(reached, PORT));
        let program = self.program(&format!("annulus-{runtime}"));
        Ok(Node { daemon: None, host, member, home, runtime, program })
    }

    /// A new member on a new host, started and connected.
    ///
    /// # Errors
    /// If it does not get connected.
    pub fn node(&mut self, name: &str, runtime: Runtime) -> Result<Node> {
        self.node_with(name, runtime, 1500, Outside::Both)
    }

    /// The same with an MTU and a choice of addresses.
    ///
    /// # Errors
    /// If it does not get connected.
    pub fn node_with(&mut self, name: &str, runtime: Runtime, mtu: u16, outside: Outside) -> Result<Node> {
        let mut node = self.prepare(name, runtime, mtu, outside)?;
        node.start(&[])?;
        node.connected()?;
        Ok(node)
    }
}

impl Node {
    /// The name of host and member.
    #[must_use]
    pub fn name(&self) -> &str {
        self.host.name()
    }

    /// Starts the daemon with further flags.
    ///
    /// # Errors
    /// If the program cannot be started.
    pub fn start(&mut self, flags: &[&str]) -> Result<()> {
        ensure!(self.daemon.is_none(), "the daemon of {} runs already", self.name());
        self.daemon = Some(Daemon::start(&self.host, &self.home, &self.program, flags)?);
        Ok(())
    }

    /// The daemon.
    ///
    /// # Errors
    /// If it does not run.
    pub fn daemon(&mut self) -> Result<&mut Daemon> {
        let name = self.host.name();
        self.daemon.as_mut().with_context(|| format!("no daemon runs on {name}"))
    }

    /// Waits until the daemon is connected; returns its virtual addresses, IPv4 first.
    ///
    /// # Errors
    /// If that takes too long or the daemon ends.
    pub fn connected(&mut self) -> Result<Vec<IpAddr>> {
        let name = self.name().to_owned();
        let mut addresses = self.daemon()?.wait_connected(JOIN_PATIENCE).with_context(|| format!("node {name}"))?.addresses;
        addresses.sort_by_key(IpAddr::is_ipv6);
        Ok(addresses)
    }

    /// Waits until the daemon has a session with another node.
    ///
    /// # Errors
    /// If that takes too long.
    pub fn knows(&mut self, other: &str) -> Result<PeerStatus> {
        let status = self.daemon()?.wait_for(&format!("a peer of {other}"), JOIN_PATIENCE, |status| peer(status, other).is_some())?;
        peer(&status, other).cloned().context("it was just there")
    }

    /// What the daemon says about itself.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn status(&mut self) -> Result<Status> {
        self.daemon()?.status()
    }

    /// Ends the daemon with SIGTERM.
    ///
    /// # Errors
    /// If it does not end with code 0 in time.
    pub fn stop(&mut self) -> Result<()> {
        let daemon = self.daemon.take().context("no daemon runs")?;
        let status = daemon.stop()?;
        ensure!(status.success(), "the daemon of {} ended with {status}; {}", self.name(), self.last_words());
        Ok(())
    }

    /// Ends the daemon with SIGKILL.
    ///
    /// # Errors
    /// If none runs.
    pub fn kill(&mut self) -> Result<()> {
        self.daemon.take().context("no daemon runs")?.kill()
    }

    /// Everything that daemons of this node have logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.home.join("log")).unwrap_or_default()
    }

    /// The end of that.
    #[must_use]
    pub fn last_words(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().rev().take(15).collect();
        lines.into_iter().rev().fold(format!("log of {}:", self.name()), |text, line| format!("{text}\n    {line}"))
    }

    /// Waits until a line of the log has all these words; returns the line.
    ///
    /// # Errors
    /// If that takes longer than `patience`.
    pub fn logged(&self, words: &[&str], patience: Duration) -> Result<String> {
        let end = Instant::now() + patience;
        loop {
            if let Some(line) = self.log().lines().find(|line| words.iter().all(|word| line.contains(word))) {
                return Ok(line.to_owned());
            }
            ensure!(Instant::now() < end, "{} has not logged {words:?}; {}", self.name(), self.last_words());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Runs `annulus` on this host with these arguments and the flags that name this node's daemon.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn annulus(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = command(self.program.with_file_name("annulus"))?;
        command.args(arguments).arg("--config").arg(self.home.join("annulus.toml"));
        self.host.output(command)
    }

    /// Resident memory of the daemon in kB.
    ///
    /// # Errors
    /// If it does not run.
    pub fn resident_kb(&mut self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.daemon()?.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("a living process has memory")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }

    /// Which program it is.
    #[must_use]
    pub const fn runtime(&self) -> Runtime {
        self.runtime
    }
}

/// Takes away the way between two hosts, as a firewall between them would: only a third one reaches both.
///
/// # Errors
/// What the kernel says.
pub fn separate(one: &Attached, other: &Attached) -> Result<()> {
    for (host, far) in [(one, other), (other, one)] {
        for target in [IpAddr::from(far.ipv4()), far.ipv6().into()] {
            // What a host that does not forward receives for somebody else is lost.
            host.netlink(move |netlink| {
                let loopback = netlink.existing_link("lo")?.index;
                netlink.add_route(&Route::link(Cidr::host(target), loopback))
            })?;
        }
    }
    Ok(())
}

/// The entry of a peer in a daemon's status.
#[must_use]
pub fn peer<'a>(status: &'a Status, name: &str) -> Option<&'a PeerStatus> {
    status.peers.iter().find(|peer| peer.name == name)
}

/// Copies a directory with all that is in it; links and sockets are left out.
///
/// # Errors
/// What the file system says.
pub fn copy_directory(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    fs::set_permissions(to, fs::metadata(from)?.permissions())?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (kind, target) = (entry.file_type()?, to.join(entry.file_name()));
        if kind.is_dir() {
            copy_directory(&entry.path(), &target)?;
        } else if kind.is_file() {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
