//! One scenario that every driver of the core must run with the same results: three nodes join, get addresses, exchange packets, one changes its
//! network, one leaves and comes back.

use std::net::IpAddr;
use std::time::Duration;

use annulus_lab::measure::checksum;
use anyhow::{Context, Result, bail, ensure};

/// The nodes' names; the first is where the others bootstrap.
pub const NAMES: [&str; 3] = ["ann", "bob", "cid"];

/// A main event of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// The ring position is consistent.
    Joined,
    /// The virtual addresses.
    Addresses(Vec<IpAddr>),
    /// A session with this node is up.
    PeerUp(String),
    /// No session with this node is left.
    PeerDown(String),
    /// It has left.
    Left,
}

/// What runs the nodes.
pub trait Driver {
    /// Starts a node, for the first time or again.
    ///
    /// # Errors
    /// If it cannot be started.
    fn start(&mut self, node: usize) -> Result<()>;
    /// Lets a node say good-bye and end.
    ///
    /// # Errors
    /// If it does not end.
    fn leave(&mut self, node: usize) -> Result<()>;
    /// Gives a node's host another address.
    ///
    /// # Errors
    /// If it cannot be changed.
    fn roam(&mut self, node: usize) -> Result<()>;
    /// Lets a node's host send an IP packet.
    ///
    /// # Errors
    /// If the node does not run.
    fn send(&mut self, node: usize, packet: &[u8]) -> Result<()>;
    /// Takes the packets that were delivered to a node's host.
    fn delivered(&mut self, node: usize) -> Vec<Vec<u8>>;
    /// All that a node has told since its first start.
    fn seen(&mut self, node: usize) -> Vec<Seen>;
    /// Lets time pass.
    fn pass(&mut self, time: Duration);
}

/// How often is looked, in the driver's time.
const LOOK: Duration = Duration::from_millis(20);
/// How long each step may take, in the driver's time.
const LIMIT: Duration = Duration::from_secs(40);
/// How long a packet is waited for before it is sent again where some may be lost.
const AGAIN: Duration = Duration::from_millis(500);
/// Lengths of the packets: the shortest, a middle one, one that fills the device.
const LENGTHS: [usize; 3] = [60, 733, 1400];

struct Run<'a> {
    driver: &'a mut dyn Driver,
    transcript: Vec<String>,
    sequence: u32,
}

/// Runs the scenario; returns what happened, in words that are the same whichever driver ran it.
///
/// # Errors
/// If a step does not come to its end.
pub fn run(driver: &mut dyn Driver) -> Result<Vec<String>> {
    let mut run = Run { driver, transcript: Vec::new(), sequence: 0 };
    for node in 0..NAMES.len() {
        run.join(node)?;
    }
    run.all_pairs()?;
    run.driver.roam(2)?;
    for (from, to) in [(2, 0), (0, 2), (1, 2)] {
        run.insist(from, to)?;
    }
    run.note("cid has moved");
    run.all_pairs()?;
    let before = run.addresses(1)?;
    run.driver.leave(1)?;
    for node in [0, 2] {
        run.until(&format!("{} sees bob go", NAMES[node]), |run| run.count(node, &Seen::PeerDown("bob".into())) == 1)?;
    }
    run.note("bob has left");
    run.pair(0, 2)?;
    run.join(1)?;
    let after = run.addresses(1)?;
    ensure!(before == after, "bob had {before:?} and has {after:?}");
    run.note("bob has its addresses again");
    run.all_pairs()?;
    for node in 0..NAMES.len() {
        run.story(node);
    }
    Ok(run.transcript)
}

/// Sends packets between all pairs of nodes that run; all must arrive. [`run`] comes first.
///
/// # Errors
/// If one does not.
pub fn exchange(driver: &mut dyn Driver) -> Result<()> {
    Run { driver, transcript: Vec::new(), sequence: 1 << 16 }.all_pairs()
}

impl Run<'_> {
    fn note(&mut self, text: impl Into<String>) {
        self.transcript.push(text.into());
    }

    fn until(&mut self, what: &str, done: impl Fn(&mut Self) -> bool) -> Result<()> {
        let mut passed = Duration::ZERO;
        while !done(self) {
            if passed > LIMIT {
                let stories: Vec<String> = (0..NAMES.len()).map(|node| format!("{}: {:?}", NAMES[node], self.driver.seen(node))).collect();
                bail!("not within {} s: {what}; {}", LIMIT.as_secs(), stories.join("; "));
            }
            self.driver.pass(LOOK);
            passed += LOOK;
        }
        Ok(())
    }

    fn count(&mut self, node: usize, what: &Seen) -> usize {
        self.driver.seen(node).iter().filter(|seen| *seen == what).count()
    }

    /// The latest virtual addresses, IPv4 first.
    fn addresses(&mut self, node: usize) -> Result<Vec<IpAddr>> {
        let seen = self.driver.seen(node);
        let latest = seen.into_iter().rev().find_map(|seen| if let Seen::Addresses(addresses) = seen { Some(addresses) } else { None });
        let mut addresses = latest.with_context(|| format!("{} has no address", NAMES[node]))?;
        addresses.sort_by_key(IpAddr::is_ipv6);
        Ok(addresses)
    }

    /// Starts a node and waits until it and all others know each other and it has its addresses.
    fn join(&mut self, node: usize) -> Result<()> {
        let earlier = self.driver.seen(node).len();
        self.driver.start(node)?;
        let name = NAMES[node];
        self.until(&format!("{name} joins"), |run| {
            let news = run.driver.seen(node).split_off(earlier);
            news.contains(&Seen::Joined) && news.iter().any(|seen| matches!(seen, Seen::Addresses(addresses) if addresses.len() == 2))
        })?;
        for other in (0..NAMES.len()).filter(|other| *other != node) {
            if self.is_up(other) {
                self.until(&format!("{name} and {} know each other", NAMES[other]), |run| {
                    run.knows(node, other) && run.knows(other, node)
                })?;
            }
        }
        let addresses = self.addresses(node)?;
        ensure!(addresses.len() == 2 && addresses[0].is_ipv4() && addresses[1].is_ipv6(), "{addresses:?}");
        self.note(format!("{name} has joined, with an IPv4 and an IPv6 address"));
        Ok(())
    }

    fn is_up(&mut self, node: usize) -> bool {
        let seen = self.driver.seen(node);
        !seen.is_empty() && seen.last() != Some(&Seen::Left)
    }

    /// Whether the latest news of `other` at `node` is that it is up.
    fn knows(&mut self, node: usize, other: usize) -> bool {
        let (up, down) = (Seen::PeerUp(NAMES[other].into()), Seen::PeerDown(NAMES[other].into()));
        let seen = self.driver.seen(node);
        let started = seen.iter().rposition(|seen| *seen == Seen::Left).map_or(0, |left| left + 1);
        seen[started..].iter().rev().find(|seen| **seen == up || **seen == down) == Some(&up)
    }

    fn all_pairs(&mut self) -> Result<()> {
        for from in 0..NAMES.len() {
            for to in (0..NAMES.len()).filter(|to| *to != from) {
                self.pair(from, to)?;
            }
        }
        Ok(())
    }

    /// Sends packets of both families; all must arrive, in order and unchanged.
    fn pair(&mut self, from: usize, to: usize) -> Result<()> {
        let (sources, targets) = (self.addresses(from)?, self.addresses(to)?);
        for (source, target) in sources.into_iter().zip(targets) {
            self.driver.delivered(to);
            let packets: Vec<Vec<u8>> = LENGTHS.iter().map(|len| self.packet(source, target, *len)).collect();
            let mut got = Vec::new();
            // One after the other: what waits for an address or a session may be overtaken by what comes later.
            for packet in &packets {
                self.driver.send(from, packet)?;
                let mut passed = Duration::ZERO;
                while got.last() != Some(packet) && passed < LIMIT {
                    got.extend(self.driver.delivered(to));
                    self.driver.pass(Duration::from_millis(5));
                    passed += Duration::from_millis(5);
                }
            }
            ensure!(
                got == packets,
                "{} to {}: of packets of {LENGTHS:?} bytes {:?} arrived",
                NAMES[from],
                NAMES[to],
                got.iter().map(Vec::len).collect::<Vec<_>>()
            );
            self.note(format!(
                "{} to {} by {}: packets of {LENGTHS:?} bytes arrived in order",
                NAMES[from],
                NAMES[to],
                if target.is_ipv4() { "IPv4" } else { "IPv6" }
            ));
        }
        Ok(())
    }

    /// Sends packets until one arrives: some are lost while paths change.
    fn insist(&mut self, from: usize, to: usize) -> Result<()> {
        let (source, target) = (self.addresses(from)?[0], self.addresses(to)?[0]);
        let mut passed = Duration::ZERO;
        while passed < LIMIT {
            let packet = self.packet(source, target, 100);
            self.driver.send(from, &packet)?;
            self.driver.pass(AGAIN);
            passed += AGAIN;
            if self.driver.delivered(to).contains(&packet) {
                self.note(format!("{} reaches {} again", NAMES[from], NAMES[to]));
                return Ok(());
            }
        }
        bail!("{} does not reach {} after its move; {:?}", NAMES[from], NAMES[to], self.driver.seen(from))
    }

    fn packet(&mut self, source: IpAddr, target: IpAddr, len: usize) -> Vec<u8> {
        self.sequence += 1;
        udp_packet(source, target, len, self.sequence)
    }

    /// The main events of a node, in their order.
    fn story(&mut self, node: usize) {
        let mut story: Vec<String> = Vec::new();
        let mut complete = false;
        let mut joined = false;
        for seen in self.driver.seen(node) {
            match seen {
                // A position may be inconsistent for a moment when others come and go; how often depends on time.
                Seen::Joined if joined => {}
                Seen::Joined => {
                    joined = true;
                    story.push("joined".into());
                }
                Seen::Addresses(addresses) if addresses.len() == 2 && !complete => {
                    complete = true;
                    story.push("has both addresses".into());
                }
                Seen::Addresses(_) => {}
                Seen::PeerUp(name) => story.push(format!("{name} is up")),
                Seen::PeerDown(name) => story.push(format!("{name} is down")),
                Seen::Left => {
                    (joined, complete) = (false, false);
                    story.push("left".into());
                }
            }
        }
        self.note(format!("{}: {}", NAMES[node], story.join(", ")));
    }
}

/// A UDP packet of `len` bytes with a numbered payload.
///
/// # Panics
/// If both addresses are not of one family or the packet is shorter than its headers and 4 bytes.
#[must_use]
pub fn udp_packet(source: IpAddr, target: IpAddr, len: usize, number: u32) -> Vec<u8> {
    let (header, pseudo) = match (source, target) {
        (IpAddr::V4(source), IpAddr::V4(target)) => {
            let mut header = vec![0x45, 0];
            header.extend((len as u16).to_be_bytes());
            header.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
            header.extend(source.octets());
            header.extend(target.octets());
            let sum = checksum(&header);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            let pseudo = [&source.octets()[..], &target.octets()].concat();
            (header, pseudo)
        }
        (IpAddr::V6(source), IpAddr::V6(target)) => {
            let mut header = vec![0x60, 0, 0, 0];
            header.extend(((len - 40) as u16).to_be_bytes());
            header.extend([17, 64]);
            header.extend(source.octets());
            header.extend(target.octets());
            let pseudo = [&source.octets()[..], &target.octets()].concat();
            (header, pseudo)
        }
        _ => panic!("{source} and {target} are of two families"),
    };
    let udp_len = ((len - header.len()) as u16).to_be_bytes();
    let mut udp = vec![0x1b, 0x58, 0x1b, 0x59, udp_len[0], udp_len[1], 0, 0];
    udp.extend(number.to_be_bytes());
    udp.extend((udp.len()..len - header.len()).map(|index| index as u8));
    let sum = match checksum(&[&pseudo[..], &[0, 17], &udp_len, &udp].concat()) {
        0 => 0xffff,
        sum => sum,
    };
    udp[6..8].copy_from_slice(&sum.to_be_bytes());
    [header, udp].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_carry_right_checksums() {
        for (source, target) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
            let (source, target): (IpAddr, IpAddr) = (source.parse().unwrap(), target.parse().unwrap());
            let packet = udp_packet(source, target, 61, 7);
            assert_eq!(packet.len(), 61);
            let header = if source.is_ipv4() { 20 } else { 40 };
            if source.is_ipv4() {
                assert_eq!(checksum(&packet[..header]), 0);
            }
            let addresses = if source.is_ipv4() { &packet[12..20] } else { &packet[8..40] };
            let len = ((packet.len() - header) as u16).to_be_bytes();
            assert_eq!(checksum(&[addresses, &[0, 17], &len, &packet[header..]].concat()), 0);
        }
    }
}
