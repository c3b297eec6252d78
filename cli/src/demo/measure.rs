//! What the demo measures: an echo between every two hosts, and a TCP stream with and without the VPN.

use std::time::Duration;

use annulus_daemon::exit::Failure;
use annulus_lab::measure::{Echo, Transfer, tcp_transfer};

use super::hosts::{DemoHost, Hosts};
use super::progress::Progress;
use super::{Interrupt, failed};

/// Bytes of an echo's IP packet: what `ping` sends without being told otherwise.
const ECHO_LEN: usize = 84;
/// How long the first echo of a pair may take: addresses are looked up and keys agreed on meanwhile.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a later echo may take.
const ECHO_TIMEOUT: Duration = Duration::from_secs(1);
/// How long each TCP stream runs.
const STREAM_TIME: Duration = Duration::from_secs(2);

/// How the echoes went.
#[derive(Debug)]
pub(crate) struct Pings {
    /// Ordered pairs.
    pub(crate) pairs: usize,
    /// Of these, how many were answered.
    pub(crate) answered: usize,
    /// Those that were not: `from -> to`.
    pub(crate) failed: Vec<String>,
    /// Time of the very first echo, with look-up and handshake.
    pub(crate) first: Option<Duration>,
    /// Round trips of the second echo of each pair, sorted.
    pub(crate) later: Vec<Duration>,
}

/// Pings every ordered pair by its virtual IPv4 address.
pub(crate) fn pings(hosts: &Hosts, progress: &mut Progress<'_>, interrupt: &mut Interrupt) -> Result<Pings, Failure> {
    let mut pings = Pings { pairs: 0, answered: 0, failed: Vec::new(), first: None, later: Vec::new() };
    for (from, to) in hosts.pairs() {
        interrupt.check()?;
        let (sender, receiver) = (from.attached.name(), to.attached.name());
        progress.doing(format_args!("{sender} pings {receiver}"));
        let (first, later) = ping(from, to).map_err(|error| failed(&error))?;
        if pings.pairs == 0 {
            pings.first = first;
        }
        pings.pairs += 1;
        match first {
            Some(_) => pings.answered += 1,
            None => pings.failed.push(format!("{sender} -> {receiver}")),
        }
        pings.later.extend(later);
        progress.step();
    }
    pings.later.sort_unstable();
    progress.done(format_args!("{} of {} pairs answered an echo", pings.answered, pings.pairs));
    Ok(pings)
}

fn ping(from: &DemoHost, to: &DemoHost) -> anyhow::Result<(Option<Duration>, Option<Duration>)> {
    let mut echo = Echo::new(&from.attached, to.address(), ECHO_LEN)?;
    let Some(first) = echo.insist(PATIENCE)? else { return Ok((None, None)) };
    Ok((Some(first), echo.ping(ECHO_TIMEOUT)?))
}

/// The two TCP streams.
#[derive(Debug)]
pub(crate) struct Transfers {
    /// From whom to whom.
    pub(crate) between: String,
    /// Through the VPN.
    pub(crate) through: Transfer,
    /// Without it.
    pub(crate) without: Transfer,
}

/// Sends a TCP stream from the first to the last host, without and with the VPN.
pub(crate) fn transfers(hosts: &Hosts, progress: &mut Progress<'_>, interrupt: &mut Interrupt) -> Result<Transfers, Failure> {
    let (Some(from), Some(to)) = (hosts.hosts.first(), hosts.hosts.last()) else { return Err(Failure::failed("there are no hosts")) };
    let between = format!("{} to {}", from.attached.name(), to.attached.name());
    let mut stream = |way: &str, address| {
        interrupt.check()?;
        progress.doing(format_args!("TCP from {between} {way}"));
        let transfer = tcp_transfer(&from.attached, &to.attached, address, STREAM_TIME).map_err(|error| failed(&error))?;
        progress.step();
        Ok::<_, Failure>(transfer)
    };
    let without = stream("without the VPN", to.attached.ipv4().into())?;
    let through = stream("through the VPN", to.address())?;
    progress.done(format_args!(
        "TCP from {between}: {:.0} Mbit/s without, {:.0} Mbit/s through the VPN",
        without.mbit_per_s(),
        through.mbit_per_s()
    ));
    Ok(Transfers { between, through, without })
}
