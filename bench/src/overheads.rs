//! What a group of N members costs each of them: control traffic, memory and processor time, first while nobody does anything, then while each
//! pings a few others every 15 s, as the paper's table has it.
//!
//! Each member is a host on a subnet of its own behind one router, not on one switch: ARP is broadcast, and between 128 hosts it would be most of the
//! traffic that is counted here.

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use annulus_daemon::exit::{Exit, Failure};
use annulus_lab::measure::Echo;
use annulus_lab::{Attached, Daemon, Group, Internet};
use anyhow::{Context, Result};
use clap::Args;
use serde_json::{Value, json};

use crate::figures::median;
use crate::plugin::find_program;
use crate::scene::{self, WORK, note, print};
use crate::usage;

/// Port of every daemon.
const PORT: u16 = 7171;
/// Members that the others begin with.
const BOOTSTRAP: usize = 3;
/// Between two starts, so that 128 daemons do not all want the processors at once.
const START_INTERVAL: Duration = Duration::from_millis(30);
/// How long all together may take to connect.
const JOIN_PATIENCE: Duration = Duration::from_secs(240);
/// After the last one has connected: shortcuts and leases settle.
const SETTLE: Duration = Duration::from_secs(15);
/// How often each member pings each of its peers, as in the paper.
const PING_INTERVAL: Duration = Duration::from_secs(15);
/// How long an answer is waited for.
const PING_PATIENCE: Duration = Duration::from_secs(2);
/// Bytes of an echo with its headers.
const ECHO_LEN: usize = 84;

/// How many members, for how long.
#[derive(Args, Clone, Debug)]
pub struct Overheads {
    /// Members of the group, each with a daemon of its own
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=500))]
    members: u16,
    /// Other members that each one pings every 15 s in the second part
    #[arg(long, default_value_t = 4)]
    active: usize,
    /// Seconds of each part
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(5..=600))]
    seconds: u64,
    /// The daemon
    #[arg(long, default_value = "annulus-mio", value_name = "PROGRAM")]
    program: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

struct Member {
    daemon: Daemon,
    attached: Attached,
}

/// What one member had used up at some moment.
#[derive(Clone, Copy, Debug, Default)]
struct Spent {
    bytes: f64,
    packets: f64,
    cpu: f64,
    memory: usage::Memory,
}

impl Overheads {
    /// Measures and prints.
    ///
    /// # Errors
    /// 77 where it is not possible, 1 if not all members connect.
    pub fn run(&self) -> Result<Exit> {
        let program = find_program(&self.program).ok_or_else(|| {
            Failure::usage(format!("{} is not on PATH; bench/overheads builds annulus-mio and annulus-tokio", self.program))
        })?;
        scene::enter()?;
        let begun = Instant::now();
        let mut internet = Internet::new()?;
        let mut members = self.start(&mut internet, &program)?;
        let addresses = connect(&mut members)?;
        let joined = begun.elapsed();
        note(format_args!("all {} members are connected after {:.1} s", members.len(), joined.as_secs_f64()));
        sleep(SETTLE);
        note(format_args!("{} s without traffic", self.seconds));
        let before = look(&members)?;
        sleep(Duration::from_secs(self.seconds));
        let after = look(&members)?;
        let idle = part(&before, &after, self.seconds as f64);
        let active = self.active(&members, &addresses)?;
        let result = json!({
            "members": self.members,
            "program": self.program,
            "joined_s": round(joined.as_secs_f64()),
            "idle": idle,
            "active": active,
        });
        if self.json {
            print(&result)?
        } else {
            print(text(&result))?
        }
        Ok(Exit::Done)
    }

    fn start(&self, internet: &mut Internet, program: &std::path::Path) -> Result<Vec<Member>> {
        let mut group = Group::new("bench")?;
        let hosts = (0..self.members).map(|index| internet.attach(&format!("m{index}"), 1500)).collect::<Result<Vec<_>>>()?;
        let first: Vec<_> = hosts.iter().take(BOOTSTRAP).map(|host| (host.ipv4(), PORT).into()).collect();
        let mut members = Vec::new();
        for (index, attached) in hosts.into_iter().enumerate() {
            let dir = PathBuf::from(WORK).join(format!("m{index}"));
            fs::create_dir_all(&dir)?;
            let bootstrap: Vec<_> =
                first.iter().copied().enumerate().filter(|(other, _)| *other != index).map(|(_, address)| address).collect();
            let member = group.enrol(&format!("m{index}"))?;
            group.install(&member, &dir, (attached.ipv4(), PORT).into(), &bootstrap)?;
            let daemon = Daemon::start(&attached, &dir, program, &["--log-level", "warn"])?;
            members.push(Member { daemon, attached });
            sleep(START_INTERVAL);
        }
        Ok(members)
    }

    /// Each member pings its peers, again and again, evenly spread over each interval.
    fn active(&self, members: &[Member], addresses: &[IpAddr]) -> Result<Value> {
        let count = members.len();
        let peers = self.active.min(count.saturating_sub(1));
        if peers == 0 {
            return Ok(Value::Null);
        }
        note(format_args!("each member pings {peers} others every {} s", PING_INTERVAL.as_secs()));
        let mut echoes = Vec::new();
        for (index, member) in members.iter().enumerate() {
            for other in others(index, count, peers) {
                echoes.push(Echo::new(&member.attached, addresses[other], ECHO_LEN)?);
            }
        }
        // One round that opens the sessions does not count.
        ping_all(&mut echoes)?;
        let rounds = self.seconds.div_ceil(PING_INTERVAL.as_secs());
        let (before, begun) = (look(members)?, Instant::now());
        let mut answered = 0;
        for _ in 0..rounds {
            answered += ping_all(&mut echoes)?;
        }
        let mut value = part(&before, &look(members)?, begun.elapsed().as_secs_f64());
        value["peers"] = json!(peers);
        value["pings"] = json!(rounds as usize * echoes.len());
        value["answered"] = json!(answered);
        Ok(value)
    }
}

/// Whom a member pings: `peers` different others, evenly spread, the same in every run. `peers` is less than `count`.
fn others(index: usize, count: usize, peers: usize) -> impl Iterator<Item = usize> {
    let step = (count - 1) / peers;
    (0..peers).map(move |number| (index + 1 + number * step) % count)
}

/// Waits until all members are connected; returns their virtual IPv4 addresses.
fn connect(members: &mut [Member]) -> Result<Vec<IpAddr>> {
    let end = Instant::now() + JOIN_PATIENCE;
    let mut addresses = Vec::new();
    for (index, member) in members.iter_mut().enumerate() {
        let left = end.saturating_duration_since(Instant::now()).max(Duration::from_secs(1));
        let status = member.daemon.wait_connected(left).with_context(|| format!("member {index}"))?;
        addresses.push(status.addresses.into_iter().find(IpAddr::is_ipv4).context("a connected member has an IPv4 address")?);
    }
    Ok(addresses)
}

/// One echo of each; returns how many were answered. Takes as long as the interval.
fn ping_all(echoes: &mut [Echo]) -> Result<usize> {
    let begun = Instant::now();
    let step = PING_INTERVAL / u32::try_from(echoes.len().max(1))?;
    let mut answered = 0;
    for (index, echo) in echoes.iter_mut().enumerate() {
        let due = begun + step * u32::try_from(index)?;
        sleep(due.saturating_duration_since(Instant::now()));
        answered += usize::from(echo.ping(PING_PATIENCE)?.is_some());
    }
    sleep((begun + PING_INTERVAL).saturating_duration_since(Instant::now()));
    Ok(answered)
}

fn look(members: &[Member]) -> Result<Vec<Spent>> {
    members
        .iter()
        .map(|member| {
            let devices = member.attached.run(|| fs::read_to_string("/proc/thread-self/net/dev"))??;
            let (bytes, packets) = counters(&devices, "eth0").context("a member has an interface")?;
            let pid = member.daemon.pid();
            Ok(Spent { bytes, packets, cpu: usage::cpu_seconds(&[pid]), memory: usage::memory_of(pid) })
        })
        .collect()
}

/// Bytes and packets of both directions of an interface, in /proc/net/dev.
fn counters(text: &str, name: &str) -> Option<(f64, f64)> {
    let line = text.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(':'))?;
    let numbers: Vec<f64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    Some((numbers.first()? + numbers.get(8)?, numbers.get(1)? + numbers.get(9)?))
}

fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// Median and maximum over the members.
fn spread(values: &[f64]) -> Value {
    json!({ "median": median(values).map(round), "max": values.iter().copied().reduce(f64::max).map(round) })
}

fn part(before: &[Spent], after: &[Spent], seconds: f64) -> Value {
    let per_second = |of: fn(&Spent) -> f64| {
        let rates: Vec<f64> = before.iter().zip(after).map(|(before, after)| (of(after) - of(before)) / seconds).collect();
        spread(&rates)
    };
    let now = |of: fn(&Spent) -> f64| spread(&after.iter().map(of).collect::<Vec<_>>());
    json!({
        "seconds": round(seconds),
        "bytes_per_s": per_second(|spent| spent.bytes),
        "packets_per_s": per_second(|spent| spent.packets),
        "cpu_percent": per_second(|spent| spent.cpu * 100.0),
        "rss_kb": now(|spent| spent.memory.resident as f64),
        "private_kb": now(|spent| spent.memory.private as f64),
    })
}

fn text(result: &Value) -> String {
    let mut text = format!("{} members, connected after {} s; per member, median (most)\n", result["members"], result["joined_s"]);
    for part in ["idle", "active"] {
        let value = &result[part];
        if value.is_null() {
            continue;
        }
        let of = |name: &str| format!("{} ({})", value[name]["median"], value[name]["max"]);
        text += &format!(
            "{part:6}  {} bytes/s, {} packets/s, {} % of a processor, {} kB resident, {} kB private\n",
            of("bytes_per_s"),
            of("packets_per_s"),
            of("cpu_percent"),
            of("rss_kb"),
            of("private_kb")
        );
    }
    if let Some(pings) = result["active"]["pings"].as_u64() {
        text += &format!("        {} of {pings} pings answered", result["active"]["answered"]);
    }
    text.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_directions_of_an_interface_are_added() {
        let text = "Inter-|   Receive |  Transmit\n face |bytes packets errs drop fifo frame compressed multicast|bytes packets errs\n    \
            lo: 1 2 0 0 0 0 0 0 3 4 0 0 0 0 0 0\n  eth0:    1000      10    0    0    0     0          0         0     500       5    0    0    0     0       0          0\n";
        assert_eq!(counters(text, "eth0"), Some((1500.0, 15.0)));
        assert_eq!(counters(text, "eth1"), None);
    }

    #[test]
    fn each_member_pings_as_many_different_others_as_wanted() {
        for (count, peers) in [(2, 1), (8, 4), (5, 4), (128, 4), (500, 7)] {
            for index in [0, 1, count - 1] {
                let mut chosen: Vec<_> = others(index, count, peers).collect();
                chosen.sort_unstable();
                chosen.dedup();
                assert!(chosen.len() == peers && !chosen.contains(&index), "{index} of {count}: {chosen:?}");
            }
        }
    }

    #[test]
    fn rates_are_per_member_and_second() {
        let at = |bytes: f64| Spent { bytes, packets: bytes / 100.0, cpu: bytes / 1e5, memory: usage::Memory { resident: 9, private: 5 } };
        let value = part(&[at(0.0), at(0.0)], &[at(1000.0), at(3000.0)], 10.0);
        assert_eq!(value["bytes_per_s"], json!({ "median": 200.0, "max": 300.0 }));
        assert_eq!(value["packets_per_s"]["max"], json!(3.0));
        assert_eq!(value["private_kb"]["median"], json!(5.0));
    }
}
