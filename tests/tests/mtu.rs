//! Paths whose MTU changes under real systems, and the traffic class inside and outside of the tunnel.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::thread::spawn;
use std::time::{Duration, Instant};

use annulus_lab::{Host, Test, command, run_tests};
use annulus_tests::cluster::{Cluster, Node, Outside, Runtime, peer};
use annulus_tests::traffic::{connect, ping};
use annulus_tests::wire::{Capture, udp_payload};
use annulus_tun_bridge::sys;
use anyhow::{Context, Result, anyhow, ensure};
use nix::libc;
use socket2::{Domain, Protocol, Socket, Type};

const PROGRAM: &str = env!("CARGO_BIN_EXE_annulus-under-test");

const TESTS: &[Test] = &[
    ("a_tcp_stream_goes_on_over_a_path_that_shrinks_over_ipv4", || shrinking(Outside::V4, 28)),
    ("a_tcp_stream_goes_on_over_a_path_that_shrinks_over_ipv6", || shrinking(Outside::V6, 48)),
    ("an_application_that_forbids_fragments_is_told_what_the_path_carries", told),
    ("the_outer_header_has_the_inner_traffic_class", class_copied),
    ("a_daemon_that_keeps_the_dscp_to_itself_still_carries_congestion_marks", class_hidden),
    ("marks_of_a_congested_router_reach_the_application", congestion),
];

fn main() {
    run_tests(TESTS)
}

/// Bytes that sealing adds.
const SEALED: u16 = 24;
/// How long a new size may take to be found: 3 s until it is looked for, and a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Sends `len` bytes over a stream and checks that they arrive as they were sent.
fn send(sender: &mut TcpStream, receiver: &mut TcpStream, len: usize) -> Result<()> {
    let sent: Vec<u8> = (0..len).map(|index| (index ^ (index >> 8) ^ (index >> 16)) as u8).collect();
    let (mut writer, bytes) = (sender.try_clone()?, sent.clone());
    let thread = spawn(move || writer.write_all(&bytes));
    let mut got = vec![0; len];
    receiver.read_exact(&mut got).context("the TCP stream stands still")?;
    thread.join().map_err(|_| anyhow!("the sender panicked"))??;
    ensure!(got == sent, "other bytes arrived than were sent");
    Ok(())
}

/// Waits until a daemon says that its active path to another carries between `least` and `most` bytes.
fn wait_mtu(node: &mut Node, other: &str, least: u16, most: u16) -> Result<()> {
    let what = format!("of a path of {least} to {most} bytes");
    node.daemon()?.wait_for(&what, PATIENCE, |status| {
        peer(status, other).is_some_and(|peer| peer.paths.iter().any(|path| path.active && (least..=most).contains(&path.mtu)))
    })?;
    Ok(())
}

fn shrinking(outside: Outside, outer: u16) -> Result<()> {
    let mut cluster = Cluster::new(PROGRAM)?;
    let mut ann = cluster.node_with("ann", Runtime::Mio, 1500, outside)?;
    let mut bob = cluster.node_with("bob", Runtime::Tokio, 1500, outside)?;
    ann.connected()?;
    let addresses = bob.connected()?;
    let mut streams = Vec::new();
    for address in &addresses {
        ping(&ann.host, *address, 84)?;
        streams.push(connect(&ann.host, &bob.host, *address)?);
    }
    for (sender, receiver) in &mut streams {
        send(sender, receiver, 2 << 20)?;
    }
    for mtu in [1400, 1300] {
        cluster.internet.set_mtu(&bob.host, mtu)?;
        for (sender, receiver) in &mut streams {
            // Both ways: one end is told by a router, the other by its own interface.
            send(sender, receiver, 2 << 20).with_context(|| format!("cable of {mtu}: {}", ann.last_words()))?;
            send(receiver, sender, 2 << 20).with_context(|| format!("cable of {mtu}, backwards: {}", bob.last_words()))?;
        }
        let whole = mtu - outer - SEALED;
        wait_mtu(&mut ann, "bob", whole - 8, whole)?;
        wait_mtu(&mut bob, "ann", whole - 8, whole)?;
    }
    Ok(())
}

/// A UDP socket of a host that sends nothing in fragments.
fn whole_only(host: &Host, to: SocketAddr) -> Result<UdpSocket> {
    host.run(move || {
        let socket = UdpSocket::bind(SocketAddr::new(annulus_lab::measure::unspecified(to.is_ipv6()), 0))?;
        let (level, name, value) = if to.is_ipv6() {
            (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DO)
        } else {
            (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO)
        };
        sys::set_option(socket.as_fd(), level, name, value)?;
        socket.connect(to)?;
        Ok(socket)
    })?
}

fn told() -> Result<()> {
    let mut cluster = Cluster::new(PROGRAM)?;
    let mut ann = cluster.node_with("ann", Runtime::Mio, 1400, Outside::V4)?;
    let mut bob = cluster.node_with("bob", Runtime::Tokio, 1400, Outside::V4)?;
    ann.connected()?;
    let expected = 1400 - 28 - i32::from(SEALED);
    for address in bob.connected()? {
        let socket = whole_only(&ann.host, SocketAddr::new(address, 9))?;
        let (level, name) = if address.is_ipv6() { (libc::IPPROTO_IPV6, libc::IPV6_MTU) } else { (libc::IPPROTO_IP, libc::IP_MTU) };
        let header = if address.is_ipv6() { 48 } else { 28 };
        let end = Instant::now() + PATIENCE;
        let mut known = 0;
        while Instant::now() < end && !(expected - 8..=expected).contains(&known) {
            // Refused, or by now told that nobody listens there: only what the system believes of the path counts.
            let _ = socket.send(&vec![0; 1400 - header]);
            std::thread::sleep(Duration::from_millis(100));
            known = sys::option(socket.as_fd(), level, name)?;
        }
        ensure!((expected - 8..=expected).contains(&known), "{address}: the system believes in {known} bytes, not {expected}");
        let error = socket.send(&vec![0; 1400 - header]).err().and_then(|error| error.raw_os_error());
        ensure!(error == Some(libc::EMSGSIZE), "{address}: {error:?}");
        // `ping -M do -s` says it in words, where it is installed.
        let mut program = command("ping")?;
        program.args(["-M", "do", "-c", "1", "-W", "2", "-s", &(1400 - header).to_string(), &address.to_string()]);
        match ann.host.output(program) {
            Ok(output) => {
                let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
                let said =
                    text.split_once("mtu").and_then(|(_, rest)| rest.split(|c: char| !c.is_ascii_digit()).find(|word| !word.is_empty()));
                ensure!(said == Some(known.to_string().as_str()), "{text}");
            }
            Err(error) => eprintln!("SKIPPED ping: {error:#}"),
        }
        ping(&ann.host, address, usize::try_from(known)?)?;
    }
    Ok(())
}

/// Sends datagrams with this traffic class to a member, and returns the classes of the sealed datagrams on the router and of what reached the member.
fn classes(cluster: &Cluster, from: &Node, to: &Node, address: IpAddr, class: u8) -> Result<(Vec<u8>, Vec<u8>)> {
    const CONTENT: &[u8] = b"a datagram with a class of its own";
    let there = to.host.run(move || UdpSocket::bind((address, 0)))??;
    let target = there.local_addr()?;
    let here = from.host.run(move || UdpSocket::bind(SocketAddr::new(annulus_lab::measure::unspecified(address.is_ipv6()), 0)))??;
    let (level, name) = if address.is_ipv6() { (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) } else { (libc::IPPROTO_IP, libc::IP_TOS) };
    sys::set_option(here.as_fd(), level, name, class.into())?;
    let (outside, inside) = (Capture::start(cluster.internet.router())?, Capture::start(&to.host)?);
    for _ in 0..50 {
        here.send_to(CONTENT, target)?;
        std::thread::sleep(Duration::from_millis(10));
    }
    std::thread::sleep(Duration::from_millis(300));
    let len = CONTENT.len() + if address.is_ipv6() { 48 } else { 28 } + usize::from(SEALED);
    let outside = outside
        .stop()?
        .into_iter()
        .filter(|packet| udp_payload(packet).is_some_and(|datagram| datagram.len() == len && datagram[0] >> 4 == 0xb));
    let inside = inside.stop()?.into_iter().filter(|packet| udp_payload(packet) == Some(CONTENT));
    Ok((outside.map(|packet| class_of(&packet)).collect(), inside.map(|packet| class_of(&packet)).collect()))
}

fn class_of(packet: &[u8]) -> u8 {
    if packet[0] >> 4 == 6 { packet[0] << 4 | packet[1] >> 4 } else { packet[1] }
}

fn pair(outside: Outside, file: &str) -> Result<(Cluster, Node, Node, Vec<IpAddr>)> {
    let mut cluster = Cluster::new(PROGRAM)?;
    let mut ann = cluster.prepare("ann", Runtime::Mio, 1500, outside)?;
    let mut bob = cluster.prepare("bob", Runtime::Tokio, 1500, outside)?;
    for node in [&mut ann, &mut bob] {
        let path = node.home.join("annulus.toml");
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        std::fs::write(&path, format!("{file}\n{text}"))?;
        node.start(&[])?;
    }
    ann.connected()?;
    let addresses = bob.connected()?;
    for address in &addresses {
        ping(&ann.host, *address, 84)?;
    }
    Ok((cluster, ann, bob, addresses))
}

fn class_copied() -> Result<()> {
    for outside in [Outside::V4, Outside::V6] {
        let (cluster, ann, bob, addresses) = pair(outside, "")?;
        for address in addresses {
            // Expedited forwarding with a transport that understands marks; lower effort without.
            for class in [0xb8 | 2, 0x04] {
                let (outer, inner) = classes(&cluster, &ann, &bob, address, class)?;
                ensure!(outer.len() >= 40 && outer.iter().all(|seen| *seen == class), "{address}: {class:#x} is outside {outer:x?}");
                ensure!(inner.len() >= 40 && inner.iter().all(|seen| *seen == class), "{address}: {class:#x} arrives as {inner:x?}");
            }
        }
    }
    Ok(())
}

fn class_hidden() -> Result<()> {
    let (cluster, ann, bob, addresses) = pair(Outside::V4, "copy_dscp = false")?;
    let (outer, inner) = classes(&cluster, &ann, &bob, addresses[0], 0xb8 | 2)?;
    ensure!(outer.len() >= 40 && outer.iter().all(|seen| *seen == 2), "{outer:x?}");
    ensure!(inner.len() >= 40 && inner.iter().all(|seen| *seen == 0xb8 | 2), "{inner:x?}");
    Ok(())
}

/// Lets the router pass packets on or not.
fn forward(cluster: &Cluster, forward: bool) -> Result<()> {
    let text = if forward { "1" } else { "0" };
    Ok(cluster.internet.router().run(move || std::fs::write("/proc/sys/net/ipv4/ip_forward", text))??)
}

fn congestion() -> Result<()> {
    const CONTENT: &[u8] = b"a datagram that meets congestion";
    let (cluster, ann, bob, addresses) = pair(Outside::V4, "")?;
    for address in addresses {
        let here = ann.host.run(move || UdpSocket::bind(SocketAddr::new(annulus_lab::measure::unspecified(address.is_ipv6()), 0)))??;
        let (level, name) = if address.is_ipv6() { (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) } else { (libc::IPPROTO_IP, libc::IP_TOS) };
        sys::set_option(here.as_fd(), level, name, 0xb8 | 2)?;
        // The router keeps what it gets, and the test passes it on with a mark, as a router with a full queue would.
        let outside = Capture::start(cluster.internet.router())?;
        forward(&cluster, false)?;
        for _ in 0..10 {
            here.send_to(CONTENT, (address, 9))?;
            // Datagrams of one moment would leave in one piece, to be cut by the next real cable.
            std::thread::sleep(Duration::from_millis(10));
        }
        std::thread::sleep(Duration::from_millis(300));
        let packets = outside.stop()?;
        forward(&cluster, true)?;
        let sealed: Vec<Vec<u8>> = packets
            .into_iter()
            .filter(|packet| class_of(packet) == 0xb8 | 2 && udp_payload(packet).is_some_and(|datagram| datagram[0] >> 4 == 0xb))
            .collect();
        ensure!(sealed.len() >= 10, "{} sealed datagrams with the inner class on the router", sealed.len());
        let inside = Capture::start(&bob.host)?;
        let target = SocketAddr::new(bob.host.ipv4().into(), 0);
        cluster.internet.router().run(move || {
            // With this protocol the header is the caller's; the kernel mends its checksum.
            let raw = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))?;
            for mut packet in sealed {
                packet[1] |= 3;
                // A sum that a cable was still to complete; none is right as well (RFC 768).
                packet[26..28].fill(0);
                raw.send_to(&packet, &target.into())?;
                std::thread::sleep(Duration::from_millis(10));
            }
            Ok::<_, std::io::Error>(())
        })??;
        std::thread::sleep(Duration::from_millis(300));
        let inner = inside.stop()?.into_iter().filter(|packet| udp_payload(packet) == Some(CONTENT));
        let classes: Vec<u8> = inner.map(|packet| class_of(&packet)).collect();
        ensure!(classes.len() >= 10 && classes.iter().all(|class| *class == 0xb8 | 3), "{address}: {classes:x?}");
    }
    Ok(())
}
