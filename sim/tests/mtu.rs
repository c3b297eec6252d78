//! Paths that carry less than the tunnel's MTU, become narrow or wide under a flow, with ICMP messages and without.

mod common;

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::time::Duration;

use annulus_sim::net::{Narrow, Network};
use annulus_sim::world::{HostId, World};
use common::{joined, quiet};

/// The MTU of the TUN device.
const FULL: usize = 1400;
/// Distance of two packets of a flow.
const GAP: Duration = Duration::from_millis(10);

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn ipv4_of(world: &World, id: HostId) -> Ipv4Addr {
    let addresses = world.hosts()[id as usize].node().status(world.now()).addresses;
    addresses.into_iter().find_map(|address| if let IpAddr::V4(v4) = address { Some(v4) } else { None }).expect("a leased address")
}

/// What the status of host 0 says of its active path to the other member.
fn mtu(world: &World) -> usize {
    let status = world.hosts()[0].node().status(world.now());
    let other = world.hosts()[1].node().node_id();
    let peer = status.peers.into_iter().find(|peer| peer.node_id == other).expect("a session");
    usize::from(peer.paths.into_iter().find(|path| path.active).expect("an active path").mtu)
}

fn checksum(header: &[u8]) -> u16 {
    let sum: u32 = header.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !(((folded & 0xffff) + (folded >> 16)) as u16)
}

fn v4(from: Ipv4Addr, to: Ipv4Addr, len: usize, dont_fragment: bool, number: u32) -> Vec<u8> {
    let mut out = vec![0x45, 0, (len >> 8) as u8, len as u8, 0, 0, if dont_fragment { 0x40 } else { 0 }, 0, 64, 17, 0, 0];
    out.extend_from_slice(&from.octets());
    out.extend_from_slice(&to.octets());
    let sum = checksum(&out);
    out[10..12].copy_from_slice(&sum.to_be_bytes());
    out.extend_from_slice(&[0x10, 0, 0x20, 0, ((len - 20) >> 8) as u8, (len - 20) as u8, 0, 0]);
    out.resize(len - 4, 0);
    out.extend_from_slice(&number.to_be_bytes());
    out
}

fn v6(from: Ipv6Addr, to: Ipv6Addr, len: usize, number: u32) -> Vec<u8> {
    let mut out = vec![0x60, 0, 0, 0, ((len - 40) >> 8) as u8, (len - 40) as u8, 17, 64];
    out.extend_from_slice(&from.octets());
    out.extend_from_slice(&to.octets());
    out.extend_from_slice(&[0x10, 0, 0x20, 0, ((len - 40) >> 8) as u8, (len - 40) as u8, 0, 0]);
    out.resize(len - 4, 0);
    out.extend_from_slice(&number.to_be_bytes());
    out
}

/// An application on host 0 whose system minds packet-too-big messages, and which sends packets as large as it may to host 1.
struct Flow {
    addresses: [(Ipv4Addr, Ipv6Addr); 2],
    ipv6: bool,
    dont_fragment: bool,
    len: usize,
    number: u32,
    /// Packets sent since the last look, and those of them that arrived.
    sent: u32,
    arrived: u32,
    /// Messages about too large packets.
    told: Vec<usize>,
}

impl Flow {
    fn new(world: &World, v6: &[Ipv6Addr], ipv6: bool) -> Self {
        let addresses = [0, 1].map(|id| (ipv4_of(world, id), v6[id as usize]));
        Self { addresses, ipv6, dont_fragment: true, len: FULL, number: 0, sent: 0, arrived: 0, told: Vec::new() }
    }

    /// Sends for this long; returns how many packets were sent and how many arrived.
    fn run(&mut self, world: &mut World, duration: Duration) -> (u32, u32) {
        (self.sent, self.arrived) = (0, 0);
        let end = world.now() + duration;
        while world.now() < end {
            let [(from4, from6), (to4, to6)] = self.addresses;
            let packet =
                if self.ipv6 { v6(from6, to6, self.len, self.number) } else { v4(from4, to4, self.len, self.dont_fragment, self.number) };
            self.number += 1;
            self.sent += 1;
            world.packet(0, &packet);
            world.run(GAP);
            self.look(world);
        }
        world.run(Duration::from_millis(500));
        self.look(world);
        (self.sent, self.arrived)
    }

    fn look(&mut self, world: &mut World) {
        for (host, packet) in world.take_delivered() {
            match (host, packet[0] >> 4) {
                (1, _) => self.arrived += 1,
                // Destination unreachable, fragmentation needed (RFC 1191).
                (0, 4) if packet[9] == 1 && packet[20..22] == [3, 4] => {
                    self.told.push(usize::from(u16::from_be_bytes([packet[26], packet[27]])))
                }
                // Packet too big (RFC 4443).
                (0, 6) if packet[6] == 58 && packet[40] == 2 => self.told.push(usize::from(u16::from_be_bytes([packet[46], packet[47]]))),
                _ => {}
            }
        }
        self.len = self.told.last().copied().unwrap_or(FULL).min(FULL);
    }
}

fn begin(network: Network, outer: usize, tells: bool) -> (World, Vec<Ipv6Addr>) {
    let (mut world, _, addresses) = joined(3, network);
    world.run(secs(30));
    world.take_delivered();
    world.narrow(0, 1, (outer < 1500).then_some(Narrow { mtu: outer, tells }));
    (world, addresses)
}

#[test]
fn paths_of_every_size_carry_large_packets_soon_and_then_lose_none() {
    // Around an inner packet of a direct path over IPv4: IPv4 20, UDP 8, header 8, tag 16.
    for (outer, expected) in [(1280, 1228), (1400, 1348), (1500, FULL)] {
        for tells in [false, true] {
            for ipv6 in [false, true] {
                let (mut world, addresses) = begin(quiet(), outer, tells);
                let mut flow = Flow::new(&world, &addresses, ipv6);
                let (sent, arrived) = flow.run(&mut world, secs(10));
                assert!(sent - arrived <= if tells { 30 } else { 350 }, "{arrived} of {sent}; path of {outer}, ICMP {tells}, IPv6 {ipv6}");
                let (sent, arrived) = flow.run(&mut world, secs(10));
                assert_eq!(sent, arrived, "path of {outer}, ICMP {tells}, IPv6 {ipv6}");
                assert_eq!(mtu(&world), expected, "path of {outer}, ICMP {tells}, IPv6 {ipv6}");
                let told = if ipv6 { expected.max(1280) } else { expected };
                assert_eq!(flow.len, told, "{:?}", flow.told);
            }
        }
    }
}

#[test]
fn a_path_that_narrows_under_a_flow_is_followed_and_one_that_widens_is_used_again() {
    for tells in [false, true] {
        let (mut world, addresses) = begin(quiet(), 1500, tells);
        let mut flow = Flow::new(&world, &addresses, false);
        let (sent, arrived) = flow.run(&mut world, secs(20));
        assert_eq!(sent, arrived);
        world.narrow(0, 1, Some(Narrow { mtu: 1300, tells }));
        let (sent, arrived) = flow.run(&mut world, secs(20));
        // Without messages: up to 3 s until it is looked at, 1.6 s of probes that fail.
        assert!(sent - arrived <= if tells { 30 } else { 500 }, "{arrived} of {sent}, ICMP {tells}");
        let (sent, arrived) = flow.run(&mut world, secs(5));
        assert_eq!(sent, arrived);
        assert!((1240..=1248).contains(&mtu(&world)), "{}", mtu(&world));
        assert_eq!(flow.len, mtu(&world));

        world.narrow(0, 1, None);
        let (sent, arrived) = flow.run(&mut world, secs(650));
        assert_eq!(sent, arrived, "looking for more loses nothing");
        assert_eq!(mtu(&world), FULL);
        flow.told.clear();
        let (sent, arrived) = flow.run(&mut world, secs(5));
        assert_eq!((sent, flow.len), (arrived, FULL));
    }
}

#[test]
fn five_percent_of_loss_shrink_nothing_in_an_hour() {
    let (mut world, addresses) = begin(Network { loss_permille: 50, ..quiet() }, 1500, false);
    let flow = Flow::new(&world, &addresses, false);
    let [(from, _), (to, _)] = flow.addresses;
    for number in 0..7200 {
        world.packet(0, &v4(from, to, FULL, true, number));
        world.run(Duration::from_millis(500));
        assert_eq!(mtu(&world), FULL, "after {number} packets");
    }
    let arrived = world.take_delivered().iter().filter(|(host, _)| *host == 1).count();
    assert!((6_700..7_000).contains(&arrived), "{arrived}");
}

#[test]
fn a_small_path_is_found_at_five_percent_of_loss() {
    let (mut world, addresses) = begin(Network { loss_permille: 50, ..quiet() }, 1400, false);
    let mut flow = Flow::new(&world, &addresses, false);
    flow.run(&mut world, secs(40));
    assert_eq!(mtu(&world), 1348);
    let (sent, arrived) = flow.run(&mut world, secs(20));
    assert!(arrived * 100 >= sent * 92, "{arrived} of {sent}");
}

#[test]
fn what_nobody_may_be_told_about_goes_in_two_parts() {
    let (mut world, addresses) = begin(quiet(), 1280, true);
    let mut flow = Flow::new(&world, &addresses, false);
    flow.dont_fragment = false;
    flow.run(&mut world, secs(5));
    let (sent, arrived) = flow.run(&mut world, secs(5));
    assert_eq!((sent, flow.told.len()), (arrived, 0), "IPv4 that may be fragmented");
    let mut flow = Flow::new(&world, &addresses, true);
    let [(_, from), (_, to)] = flow.addresses;
    for number in 0..100 {
        world.packet(0, &v6(from, to, 1280, number));
        world.run(GAP);
    }
    world.run(secs(1));
    flow.look(&mut world);
    assert_eq!((flow.arrived, flow.told.len()), (100, 0), "IPv6 of 1,280 bytes");
}

#[test]
fn links_without_data_cost_no_large_probes() {
    let (mut world, _, _) = joined(6, quiet());
    world.run(secs(60));
    for one in 0..6 {
        for other in 0..one {
            world.narrow(one, other, Some(Narrow { mtu: 1280, tells: false }));
        }
    }
    world.run(secs(1800));
    assert_eq!(world.too_big(), 0);
}
