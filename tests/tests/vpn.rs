//! What applications on hosts of a VPN have of it: both programs, both address families inside and outside, cables of several MTUs.

use std::net::IpAddr;
use std::time::Duration;

use annulus_lab::{Test, run_tests};
use annulus_tests::cluster::{Cluster, Node, Outside, Runtime, separate};
use annulus_tests::traffic::{ping, tcp_send, udp_exchange};
use anyhow::{Context, Result, ensure};

const PROGRAM: &str = env!("CARGO_BIN_EXE_annulus-under-test");

const TESTS: &[Test] = &[
    ("mio_and_mio_carry_everything_over_ipv4", || everything(Runtime::Mio, Runtime::Mio, Outside::V4)),
    ("mio_and_mio_carry_everything_over_ipv6", || everything(Runtime::Mio, Runtime::Mio, Outside::V6)),
    ("tokio_and_tokio_carry_everything_over_ipv4", || everything(Runtime::Tokio, Runtime::Tokio, Outside::V4)),
    ("tokio_and_tokio_carry_everything_over_ipv6", || everything(Runtime::Tokio, Runtime::Tokio, Outside::V6)),
    ("mio_and_tokio_carry_everything_over_ipv4", || everything(Runtime::Mio, Runtime::Tokio, Outside::V4)),
    ("mio_and_tokio_carry_everything_over_ipv6", || everything(Runtime::Mio, Runtime::Tokio, Outside::V6)),
    ("packets_of_1400_bytes_pass_directly_over_cables_of_1500", || direct(1500)),
    ("packets_of_1400_bytes_pass_directly_over_cables_of_1492", || direct(1492)),
    ("packets_of_1400_bytes_pass_over_cables_of_1280", || direct(1280)),
    ("packets_of_1400_bytes_pass_over_the_ring_and_cables_of_1500", || routed(1500)),
    ("packets_of_1400_bytes_pass_over_the_ring_and_cables_of_1492", || routed(1492)),
    ("packets_of_1400_bytes_pass_over_the_ring_and_cables_of_1280", || routed(1280)),
    ("the_plain_tun_backend_carries_everything", plain_backend),
    ("a_lone_node_is_a_ring", alone),
];

fn main() {
    run_tests(TESTS)
}

/// Bytes of an IP packet that fills the TUN device.
const FULL: usize = 1400;

/// Echoes, datagrams and streams between two hosts, both ways, with both kinds of virtual address.
fn exchange(one: &Node, one_addresses: &[IpAddr], other: &Node, other_addresses: &[IpAddr]) -> Result<()> {
    ensure!(one_addresses.iter().any(IpAddr::is_ipv4) && one_addresses.iter().any(IpAddr::is_ipv6), "{one_addresses:?}");
    for (from, to, addresses) in [(one, other, other_addresses), (other, one, one_addresses)] {
        for address in addresses {
            ping(&from.host, *address, 84)?;
            ping(&from.host, *address, FULL)?;
            udp_exchange(&from.host, &to.host, *address, 1)?;
            udp_exchange(&from.host, &to.host, *address, FULL - 48 - 1)?;
            // Larger than the device: the hosts' own fragments.
            udp_exchange(&from.host, &to.host, *address, 4000)?;
            tcp_send(&from.host, &to.host, *address, 3 << 20)?;
        }
    }
    Ok(())
}

fn everything(one: Runtime, other: Runtime, outside: Outside) -> Result<()> {
    let mut cluster = Cluster::new(PROGRAM)?;
    let mut ann = cluster.node_with("ann", one, 1500, outside)?;
    let mut bob = cluster.node_with("bob", other, 1500, outside)?;
    let (a, b) = (ann.connected()?, bob.connected()?);
    exchange(&ann, &a, &bob, &b).with_context(|| format!("{}\n{}", ann.last_words(), bob.last_words()))?;
    // The test would show nothing if the packets had taken another family outside.
    let peer = ann.knows("bob")?;
    let remote = peer.paths.iter().find(|path| path.active).and_then(|path| path.remote).context("no active path")?;
    ensure!(remote.is_ipv4() == (outside == Outside::V4), "{remote}");
    Ok(())
}

fn direct(mtu: u16) -> Result<()> {
    let mut cluster = Cluster::new(PROGRAM)?;
    let mut ann = cluster.node_with("ann", Runtime::Mio, mtu, Outside::Both)?;
    let mut bob = cluster.node_with("bob", Runtime::Tokio, mtu, Outside::Both)?;
    let (a, b) = (ann.connected()?, bob.connected()?);
    full_packets(&ann, &a, &bob, &b).with_context(|| format!("{}\n{}", ann.last_words(), bob.last_words()))
}

fn full_packets(one: &Node, one_addresses: &[IpAddr], other: &Node, other_addresses: &[IpAddr]) -> Result<()> {
    for (from, to, addresses) in [(one, other, other_addresses), (other, one, one_addresses)] {
        for address in addresses {
            ping(&from.host, *address, FULL)?;
            udp_exchange(&from.host, &to.host, *address, FULL - 48 - 1)?;
            tcp_send(&from.host, &to.host, *address, 200_000)?;
        }
    }
    Ok(())
}

/// Nodes between two that are to have no link: more than a node keeps on each side.
const BETWEEN: usize = 5;

fn routed(mtu: u16) -> Result<()> {
    let mut cluster = Cluster::new(PROGRAM)?;
    let mut members = Vec::new();
    for index in 0..2 * BETWEEN + 2 {
        members.push(cluster.group.enrol(&format!("node-{index}"))?);
    }
    members.sort_by_key(|member| member.certificate.node_id());
    let mut nodes = Vec::new();
    for (index, member) in members.into_iter().enumerate() {
        let host = cluster.internet.attach(member.certificate.node_name(), mtu)?;
        nodes.push(cluster.prepare_as(host, member, if index % 2 == 0 { Runtime::Mio } else { Runtime::Tokio }, Outside::V4)?);
    }
    // Neither is the first node, where all bootstrap.
    let (one, other) = (1, 2 + BETWEEN);
    separate(&nodes[one].host, &nodes[other].host)?;
    for node in &mut nodes {
        node.start(&[])?;
    }
    for node in &mut nodes {
        node.connected()?;
    }
    let (one_addresses, other_addresses) = (nodes[one].connected()?, nodes[other].connected()?);
    full_packets(&nodes[one], &one_addresses, &nodes[other], &other_addresses)
        .with_context(|| format!("{}\n{}", nodes[one].last_words(), nodes[other].last_words()))?;
    let name = nodes[other].name().to_owned();
    let peer = nodes[one].knows(&name)?;
    ensure!(peer.paths.iter().any(|path| path.active && path.kind == "routed"), "packets were to be routed: {peer:?}");
    Ok(())
}

fn plain_backend() -> Result<()> {
    let mut cluster = Cluster::new(PROGRAM)?;
    let mut ann = cluster.prepare("ann", Runtime::Mio, 1500, Outside::Both)?;
    let mut bob = cluster.prepare("bob", Runtime::Tokio, 1500, Outside::Both)?;
    for node in [&mut ann, &mut bob] {
        node.start(&["--tun-backend", "tun-tap"])?;
    }
    let (a, b) = (ann.connected()?, bob.connected()?);
    exchange(&ann, &a, &bob, &b)?;
    ann.logged(&["TUN device", "tun-tap"], Duration::ZERO)?;
    Ok(())
}

fn alone() -> Result<()> {
    let mut cluster = Cluster::new(PROGRAM)?;
    let mut ann = cluster.node("ann", Runtime::Mio)?;
    let status = ann.status()?;
    ensure!(status.groups[0].ring_size_estimate == 1 && status.peers.is_empty(), "{status:?}");
    let own = ann.connected()?;
    ping(&ann.host, own[0], 84)?;
    Ok(())
}
