//! What an echo takes while something else fills the same tunnel, for several builds of a daemon in turns.
//!
//! `cargo run --release -p annulus-lab --example overload -- NAME=PROGRAM... [--rounds 3] [--seconds 3] [--load WORD]`. Needs `ping` and `iperf3`.
//! Prints median, 99th percentile and loss of echoes from the first host to the second, and what the load itself reached.

use std::collections::BTreeMap;
use std::io::{Write, stdout};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use annulus_lab::measure::Echo;
use annulus_lab::{Attached, Daemon, Group, Internet, Process, command};
use anyhow::{Context, Result, ensure};

/// The UDP port of all daemons.
const PORT: u16 = 7171;
/// How long joining the ring may take.
const PATIENCE: Duration = Duration::from_secs(40);
/// Often enough to meet the bursts, seldom enough to be no load.
const ECHOES_PER_SECOND: usize = 200;

/// What fills the tunnel: name, host that sends (0: the one that also sends the echoes), iperf3's further arguments.
const LOADS: &[(&str, Option<usize>, &[&str])] = &[
    ("idle", None, &[]),
    ("tcp", Some(0), &[]),
    ("tcp-x4", Some(0), &["-P4"]),
    ("tcp-back", Some(0), &["-R"]),
    ("udp64", Some(0), &["-u", "-b0", "-l64"]),
    ("udp1300", Some(0), &["-u", "-b0", "-l1300"]),
    ("third-udp64", Some(2), &["-u", "-b0", "-l64"]),
    ("third-udp1300", Some(2), &["-u", "-b0", "-l1300"]),
    ("third-tcp", Some(2), &[]),
];

struct Args {
    programs: Vec<(String, PathBuf)>,
    rounds: usize,
    seconds: usize,
    load: String,
    flags: Vec<String>,
}

fn args() -> Result<Args> {
    let mut parsed = Args { programs: Vec::new(), rounds: 3, seconds: 3, load: String::new(), flags: Vec::new() };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--rounds" => parsed.rounds = args.next().context("--rounds needs a number")?.parse()?,
            "--seconds" => parsed.seconds = args.next().context("--seconds needs a number")?.parse()?,
            "--load" => parsed.load = args.next().context("--load needs a word")?,
            "--flag" => parsed.flags.push(args.next().context("--flag needs a flag of the daemon")?),
            program => {
                let (name, path) = program.split_once('=').context("programs are named: NAME=PROGRAM")?;
                parsed.programs.push((name.into(), path.into()));
            }
        }
    }
    ensure!(!parsed.programs.is_empty(), "at least one NAME=PROGRAM is needed");
    Ok(parsed)
}

fn main() -> Result<()> {
    annulus_lab::child_main();
    let args = args()?;
    annulus_lab::probe()?;
    annulus_lab::enter_user_namespace()?;
    writeln!(stdout(), "{:14} {:12} {:>9} {:>9} {:>9} {:>7}  load", "load", "program", "median ms", "p99 ms", "max ms", "loss %")?;
    let home = std::env::temp_dir().join(format!("annulus-overload-{}", std::process::id()));
    let flags: Vec<&str> = args.flags.iter().map(String::as_str).collect();
    let mut sites = Vec::new();
    for (name, program) in &args.programs {
        sites.push((name, site(program, &home.join(name), &flags).with_context(|| format!("the network of {name}"))?));
    }
    for _ in 0..args.rounds {
        for (load, from, extra) in LOADS.iter().filter(|(name, ..)| args.load.is_empty() || name.contains(&args.load)) {
            for (name, site) in &sites {
                let line = measure(site, args.seconds, *from, extra).with_context(|| format!("{load} with {name}"))?;
                writeln!(stdout(), "{load:14} {name:12} {line}")?;
            }
        }
    }
    drop(sites);
    Ok(std::fs::remove_dir_all(&home)?)
}

struct Site {
    // Daemons end before their hosts.
    daemons: Vec<Daemon>,
    addresses: Vec<IpAddr>,
    hosts: Vec<Attached>,
    internet: Internet,
}

fn site(program: &Path, home: &Path, flags: &[&str]) -> Result<Site> {
    let mut group = Group::new("overload")?;
    let mut site = Site { daemons: Vec::new(), addresses: Vec::new(), hosts: Vec::new(), internet: Internet::new()? };
    for name in ["a", "b", "c"] {
        let host = site.internet.attach(name, 1500)?;
        let member = group.enrol(name)?;
        let seed: Vec<SocketAddr> = site.hosts.first().map(|host| SocketAddr::new(host.ipv4().into(), PORT)).into_iter().collect();
        let listen = SocketAddr::new(host.ipv4().into(), PORT);
        group.install(&member, &home.join(name), listen, &seed)?;
        let mut daemon = Daemon::start(&host, &home.join(name), program, flags)?;
        let status = daemon.wait_connected(PATIENCE)?;
        site.addresses.push(status.addresses.into_iter().find(IpAddr::is_ipv4).context("an IPv4 address")?);
        site.daemons.push(daemon);
        site.hosts.push(host);
    }
    // Addresses are looked up and direct paths found before anything is measured.
    for host in [0, 2] {
        Echo::new(&site.hosts[host], site.addresses[1], 84)?.insist(PATIENCE)?.context("no echo through the tunnel")?;
    }
    std::thread::sleep(Duration::from_secs(2));
    Ok(site)
}

fn measure(site: &Site, seconds: usize, from: Option<usize>, extra: &[&str]) -> Result<String> {
    let target = site.addresses[1].to_string();
    let before: Vec<Drops> = site.daemons.iter().map(drops).collect();
    let load = from.map(|host| start_load(site, host, &target, seconds, extra)).transpose()?;
    let count = seconds * ECHOES_PER_SECOND;
    let interval = (1.0 / ECHOES_PER_SECOND as f64).to_string();
    let times = ping(site, 0, &["-i", &interval, "-c", &count.to_string(), "-W", "1", &target])?;
    let reached = load.map(|(client, server)| result(client, server)).transpose()?.unwrap_or_default();
    let lost = 100.0 * (1.0 - times.len() as f64 / count as f64);
    let lost_where: Vec<String> = site.daemons.iter().zip(&before).map(|(daemon, before)| difference(before, &drops(daemon))).collect();
    let at = |percent| percentile(&times, percent);
    Ok(format!("{:9.2} {:9.2} {:9.2} {lost:7.1}  {reached} [{}]", at(50), at(99), at(100), lost_where.join(" | ")))
}

type Drops = BTreeMap<String, u64>;

/// What a daemon has counted as dropped so far.
fn drops(daemon: &Daemon) -> Drops {
    daemon.status().ok().and_then(|status| status.groups.into_iter().next()).map(|group| group.drops).unwrap_or_default()
}

fn difference(before: &Drops, after: &Drops) -> String {
    let new = after.iter().map(|(name, count)| (name, count - before.get(name).copied().unwrap_or(0)));
    new.filter(|(_, count)| *count > 0).map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
}

fn start_load(site: &Site, from: usize, target: &str, seconds: usize, extra: &[&str]) -> Result<(Process, Process)> {
    let mut server = command("iperf3")?;
    server.args(["-s", "-1"]).stdout(Stdio::null());
    let server = site.hosts[1].spawn(server)?;
    std::thread::sleep(Duration::from_millis(300));
    let mut client = command("iperf3")?;
    client.args(["-c", target, "-f", "m", "-t", &(seconds + 1).to_string()]).args(extra).stdout(Stdio::piped()).stderr(Stdio::piped());
    let client = site.hosts[from].spawn(client)?;
    // The first half second is the load's own beginning.
    std::thread::sleep(Duration::from_millis(500));
    Ok((client, server))
}

fn result(mut client: Process, server: Process) -> Result<String> {
    let mut text = String::new();
    std::io::Read::read_to_string(client.stdout.as_mut().context("it is piped")?, &mut text)?;
    client.wait()?;
    drop(server);
    let line = text.lines().rfind(|line| line.contains("receiver")).unwrap_or("no result of the load");
    Ok(line.split_whitespace().skip_while(|word| !word.contains("sec")).skip(3).collect::<Vec<_>>().join(" "))
}

/// Round-trip times in ms, sorted.
fn ping(site: &Site, from: usize, arguments: &[&str]) -> Result<Vec<f64>> {
    let mut ping = command("ping")?;
    ping.args(arguments);
    let output = site.hosts[from].output(ping)?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut times: Vec<f64> = text.lines().filter_map(|line| line.split_once("time=")?.1.split_whitespace().next()?.parse().ok()).collect();
    times.sort_by(f64::total_cmp);
    Ok(times)
}

fn percentile(sorted: &[f64], percent: usize) -> f64 {
    sorted.get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}
