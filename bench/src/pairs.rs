//! What k pairs of members carry at once on one switch whose ports are limited: peers talk directly, so the sum grows with k; through a server everything
//! passes the server's one port twice, and the sum does not.

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use annulus_daemon::exit::Exit;
use annulus_lab::measure::Echo;
use annulus_lab::{Daemon, Group, Process, command};
use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::{Value, json};

use crate::compare::machine;
use crate::iperf::{Load, Sending};
use crate::lan::{Lan, Member};
use crate::plugin::find_program;
use crate::scene::{self, WORK, note, print};
use crate::usage;

/// Port of every daemon of Annulus.
const PORT: u16 = 7171;
/// How long daemons may take to connect.
const JOIN_PATIENCE: Duration = Duration::from_secs(60);
/// How long the first echo between two members may take.
const ECHO_PATIENCE: Duration = Duration::from_secs(20);
/// ms of the load over which the machine is watched.
const WATCH_MS: u64 = 1000;

/// How many pairs, how fast the ports.
#[derive(Args, Clone, Debug)]
pub struct Pairs {
    /// Numbers of pairs
    #[arg(long, value_delimiter = ',', default_value = "1,2,4,8", value_parser = clap::value_parser!(u8).range(1..=100))]
    pairs: Vec<u8>,
    /// What each port of the switch carries each way, in Mbit/s
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    mbit: u32,
    /// Seconds of each load
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(2..=60))]
    seconds: u64,
    /// Write the result as JSON too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What all pairs carried together.
#[derive(Clone, Copy, Debug)]
struct Total {
    mbit_per_s: f64,
    busy: f64,
}

impl Pairs {
    /// Measures and prints.
    ///
    /// # Errors
    /// 77 where it is not possible, 1 if daemons do not connect.
    pub fn run(&self) -> Result<Exit> {
        ["iperf3", "tc", "annulus-mio"].into_iter().try_for_each(scene::need)?;
        let openvpn = find_program("openvpn").is_some() && find_program("openssl").is_some();
        if !openvpn {
            note("left out: openvpn, not on PATH: openvpn or openssl");
        }
        let file = self.json.as_ref().map(fs::File::create).transpose().context("the JSON file cannot be written")?;
        scene::enter()?;
        let mut rows = Vec::new();
        for count in &self.pairs {
            note(format_args!("{count} pairs through Annulus"));
            let annulus = self.annulus(*count).with_context(|| format!("{count} pairs through Annulus"))?;
            let server = if openvpn {
                note(format_args!("{count} pairs through an OpenVPN server"));
                Some(self.openvpn(*count).with_context(|| format!("{count} pairs through OpenVPN"))?)
            } else {
                None
            };
            rows.push((*count, annulus, server));
        }
        print(text(&rows, self.mbit))?;
        if let Some(file) = file {
            let value = json!({ "machine": machine(), "port_mbit_per_s": self.mbit, "seconds_per_load": self.seconds, "pairs": rows.iter().map(row).collect::<Vec<_>>() });
            serde_json::to_writer_pretty(file, &value)?;
        }
        Ok(Exit::Done)
    }

    fn hosts(&self, lan: &mut Lan, count: u8) -> Result<Vec<Member>> {
        (0..2 * count).map(|index| lan.attach(&format!("h{index}"))).collect()
    }

    fn annulus(&self, count: u8) -> Result<Total> {
        let program = find_program("annulus-mio").context("annulus-mio is gone")?;
        let mut lan = self.new_lan()?;
        let hosts = self.hosts(&mut lan, count)?;
        let mut group = Group::new("bench")?;
        let mut daemons = Vec::new();
        for (index, host) in hosts.iter().enumerate() {
            let first = if index == 0 { &hosts[1] } else { &hosts[0] };
            let member = group.enrol(&format!("h{index}"))?;
            group.install(&member, &host.dir, (host.address, PORT).into(), &[(first.address, PORT).into()])?;
            daemons.push(Daemon::start(host.host(), &host.dir, &program, &["--log-level", "warn"])?);
        }
        let mut addresses = Vec::new();
        for daemon in &mut daemons {
            let status = daemon.wait_connected(JOIN_PATIENCE)?;
            addresses.push(status.addresses.into_iter().find(IpAddr::is_ipv4).context("a connected member has an IPv4 address")?);
        }
        self.transfer(&hosts, &addresses)
    }

    fn openvpn(&self, count: u8) -> Result<Total> {
        let mut lan = self.new_lan()?;
        let server = lan.attach("server")?;
        let hosts = self.hosts(&mut lan, count)?;
        let mut prints = Vec::new();
        for name in ["server", "client"] {
            let script = format!(
                "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN={name} -days 2 -keyout {WORK}/{name}.key -out \
                 {WORK}/{name}.crt\nopenssl x509 -in {WORK}/{name}.crt -noout -fingerprint -sha256 | cut -d= -f2 > {WORK}/{name}.print"
            );
            server.sh(&script, &[])?;
            prints.push(fs::read_to_string(format!("{WORK}/{name}.print"))?.trim().to_owned());
        }
        let common = "--dev tun0 --dev-type tun --topology subnet --proto udp --data-ciphers AES-256-GCM --verb 1 --disable-dco";
        let mut daemons = vec![start(
            &server,
            &format!(
                "{common} --server 10.78.0.0 255.255.255.0 --port 1194 --dh none --cert {WORK}/server.crt --key {WORK}/server.key --client-to-client \
                 --duplicate-cn --peer-fingerprint {}",
                prints[1]
            ),
        )?];
        for host in &hosts {
            let words = format!(
                "{common} --client --nobind --remote {} 1194 --cert {WORK}/client.crt --key {WORK}/client.key --peer-fingerprint {}",
                server.address, prints[0]
            );
            daemons.push(start(host, &words)?);
        }
        let addresses = hosts.iter().map(|host| inner_address(host, &mut daemons)).collect::<Result<Vec<_>>>()?;
        self.transfer(&hosts, &addresses)
    }

    fn new_lan(&self) -> Result<Lan> {
        let _ = fs::remove_dir_all(WORK);
        fs::create_dir_all(WORK)?;
        Lan::new(self.mbit)
    }

    /// One TCP stream from the first to the second of each pair, all at once.
    fn transfer(&self, hosts: &[Member], addresses: &[IpAddr]) -> Result<Total> {
        for (pair, addresses) in hosts.chunks(2).zip(addresses.chunks(2)) {
            let answered = Echo::new(pair[0].host(), addresses[1], 84)?.insist(ECHO_PATIENCE)?;
            ensure!(answered.is_some(), "{} does not answer {}", addresses[1], addresses[0]);
        }
        let load = Load::Tcp { streams: 1, reverse: false };
        let pairs = hosts.chunks(2).zip(addresses.chunks(2));
        let sending = pairs
            .map(|(pair, addresses)| Sending::start(&pair[0], &pair[1], addresses[1], load, self.seconds))
            .collect::<Result<Vec<_>>>()?;
        let busy = usage::busy(WATCH_MS);
        let arrived = sending.into_iter().map(Sending::finish).collect::<Result<Vec<_>>>()?;
        Ok(Total { mbit_per_s: arrived.iter().map(|arrived| arrived.mbit_per_s).sum(), busy })
    }
}

fn start(member: &Member, words: &str) -> Result<Process> {
    let log = fs::File::create(member.dir.join("log"))?;
    let mut openvpn = command("openvpn")?;
    openvpn.args(words.split_whitespace()).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    member.host().spawn(openvpn)
}

/// The address that the server gave the host.
fn inner_address(member: &Member, daemons: &mut [Process]) -> Result<IpAddr> {
    let end = Instant::now() + JOIN_PATIENCE;
    loop {
        let addresses = member.host().netlink(|netlink| netlink.addresses())?;
        let inner = addresses.iter().map(|address| address.cidr.address()).find(|address| address.to_string().starts_with("10.78."));
        if let Some(inner) = inner {
            return Ok(inner);
        }
        for daemon in daemons.iter_mut() {
            let ended = daemon.try_wait()?;
            ensure!(ended.is_none(), "openvpn has ended: {}", fs::read_to_string(member.dir.join("log")).unwrap_or_default());
        }
        ensure!(Instant::now() < end, "the server gives no address: {}", fs::read_to_string(member.dir.join("log")).unwrap_or_default());
        std::thread::sleep(Duration::from_millis(50));
    }
}

type Row = (u8, Total, Option<Total>);

fn row((count, annulus, openvpn): &Row) -> Value {
    let total = |total: &Total| json!({ "total_mbit_per_s": total.mbit_per_s.round(), "busy": (total.busy * 100.0).round() / 100.0 });
    json!({ "pairs": count, "annulus": total(annulus), "openvpn": openvpn.as_ref().map(total) })
}

fn text(rows: &[Row], mbit: u32) -> String {
    let mut text = format!(
        "Total of k pairs at once, Mbit/s, each port {mbit} Mbit/s (part of the processors in use)\n\n   k       annulus       openvpn through its server"
    );
    for (count, annulus, openvpn) in rows {
        let cell = |total: &Total| format!("{:7.0} ({:.2})", total.mbit_per_s, total.busy);
        text += &format!("\n{count:4}{:>15}{:>15}", cell(annulus), openvpn.as_ref().map_or_else(|| "-".into(), cell));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_both_totals_and_none_where_openvpn_is_not_installed() {
        let total = Total { mbit_per_s: 93.6, busy: 0.123 };
        assert_eq!(row(&(2, total, None)), json!({ "pairs": 2, "annulus": { "total_mbit_per_s": 94.0, "busy": 0.12 }, "openvpn": null }));
        let lines = text(&[(1, total, Some(total)), (2, total, None)], 100);
        assert!(lines.lines().count() == 5 && lines.contains("94 (0.12)") && lines.trim_end().ends_with('-'), "{lines}");
    }
}
