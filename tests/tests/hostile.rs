//! Eavesdroppers, scanners and attackers: what they see, and what they get for an answer.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use annulus_lab::{Attached, Host, Test, run_tests};
use annulus_tests::cluster::{Cluster, Node, PORT, Runtime};
use annulus_tests::traffic::{ping, tcp_send, udp_exchange};
use annulus_tests::wire::{Capture, Fuzz, ask, contains, udp_payload};
use anyhow::{Context, Result, ensure};
use socket2::{Domain, Protocol, Socket, Type};

const PROGRAM: &str = env!("CARGO_BIN_EXE_annulus-under-test");

const TESTS: &[Test] = &[
    ("nothing_readable_is_on_the_wire", secrecy),
    ("a_stranger_gets_silence_and_the_member_a_log_line", silence),
    ("mio_survives_bad_datagrams_without_growing_or_saying_more_than_it_was_asked", || flood(Runtime::Mio)),
    ("tokio_survives_bad_datagrams_without_growing_or_saying_more_than_it_was_asked", || flood(Runtime::Tokio)),
    ("copied_packets_from_another_address_move_no_path_and_are_delivered_once", copies),
];

fn main() {
    run_tests(TESTS)
}

/// What an application says.
const PLAINTEXT: &[u8] = b"attack at dawn, bring the ladders";

fn secrecy() -> Result<()> {
    reads_plaintext()?;
    let mut cluster = Cluster::new(PROGRAM)?;
    let capture = Capture::start(cluster.internet.router())?;
    let mut ann = cluster.node("secret-name-ann", Runtime::Mio)?;
    let mut bob = cluster.node("secret-name-bob", Runtime::Tokio)?;
    let b = bob.connected()?;
    for address in &b {
        ping(&ann.host, *address, 400)?;
        tcp_send(&ann.host, &bob.host, *address, 100_000)?;
        say(&ann.host, &bob.host, *address)?;
    }
    ann.daemon()?.ask(&annulus_daemon::control::Request::Ping { group: None, node: "secret-name-bob".into() })?;
    // Good-byes too.
    bob.stop()?;
    let packets = capture.stop()?;
    let payloads = packets.iter().filter(|packet| udp_payload(packet).is_some()).count();
    ensure!(payloads > 100, "an eavesdropper that saw {payloads} datagrams shows nothing");
    let mut secrets: Vec<(&str, Vec<u8>)> = vec![
        ("the applications' words", PLAINTEXT.to_vec()),
        ("names of nodes", b"secret-name".to_vec()),
        ("names of users", b"user-secret".to_vec()),
        ("the group's name", b"test-group".to_vec()),
    ];
    for node in [&ann, &bob] {
        let certificate = &node.member.certificate;
        secrets.push(("a node ID", certificate.node_id().0.to_vec()));
        secrets.push(("a public key", certificate.public_key().to_vec()));
        secrets.push(("a static key of the handshake", certificate.dh_public().to_vec()));
    }
    secrets.extend(b.iter().map(|address| ("a virtual address", octets(*address))).filter(|(_, bytes)| bytes.len() == 16));
    for (what, bytes) in &secrets {
        let seen = packets.iter().position(|packet| contains(packet, bytes));
        ensure!(seen.is_none(), "{what} can be read in packet {seen:?} of {}", packets.len());
    }
    Ok(())
}

/// The eavesdropper does read what is sent beside the VPN; otherwise it would prove nothing.
fn reads_plaintext() -> Result<()> {
    let mut internet = annulus_lab::Internet::new()?;
    let (a, b) = (internet.attach("a", 1500)?, internet.attach("b", 1500)?);
    let capture = Capture::start(internet.router())?;
    say(&a, &b, b.ipv4().into())?;
    ensure!(capture.stop()?.iter().any(|packet| contains(packet, PLAINTEXT)), "the eavesdropper is blind");
    Ok(())
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn say(from: &Host, to: &Host, address: IpAddr) -> Result<()> {
    let there = to.run(move || UdpSocket::bind((address, 9)))??;
    let here = from.run(move || UdpSocket::bind(SocketAddr::new(annulus_lab::measure::unspecified(address.is_ipv6()), 0)))??;
    there.set_read_timeout(Some(Duration::from_secs(5)))?;
    here.send_to(PLAINTEXT, (address, 9))?;
    let mut buf = [0; 100];
    let got = there.recv(&mut buf)?;
    ensure!(&buf[..got] == PLAINTEXT);
    Ok(())
}

fn silence() -> Result<()> {
    let mut cluster = Cluster::new(PROGRAM)?;
    let ann = cluster.node("ann", Runtime::Mio)?;
    let bob = cluster.node("bob", Runtime::Tokio)?;
    let eve = cluster.internet.attach("eve", 1500)?;
    for node in [&ann, &bob] {
        for address in [IpAddr::from(node.host.ipv4()), node.host.ipv6().into()] {
            let socket = eve.run(move || UdpSocket::bind(SocketAddr::new(annulus_lab::measure::unspecified(address.is_ipv6()), 0)))??;
            let mut fuzz = Fuzz::new(1, Vec::new());
            for first in 0..=255 {
                let mut question = fuzz.next_datagram();
                question[0] = first;
                let answers = ask(&socket, SocketAddr::new(address, PORT), &question, Duration::from_millis(2))?;
                ensure!(
                    answers.is_empty(),
                    "{address} answers a stranger's {} bytes that begin with {first:#x}: {answers:?}",
                    question.len()
                );
            }
            // What looks like the first message of a handshake, whole in form but made under no key.
            let mut opening = vec![0; 1200];
            opening[..7].copy_from_slice(&[0x90, 1, 1, 0, 0, 1, 1]);
            let answers = ask(&socket, SocketAddr::new(address, PORT), &opening, Duration::from_millis(300))?;
            ensure!(answers.is_empty(), "{answers:?}");
        }
        node.logged(&["WARN", "strangers"], Duration::from_secs(65))?;
    }
    Ok(())
}

/// Two connected nodes, the packets that they exchanged, and a host of an attacker.
struct Attack {
    ann: Node,
    bob: Node,
    eve: Attached,
    packets: Vec<Vec<u8>>,
    // Dropped last: the hosts stand on it.
    _cluster: Cluster,
}

fn under_attack(runtime: Runtime) -> Result<Attack> {
    let mut cluster = Cluster::new(PROGRAM)?;
    let capture = Capture::start(cluster.internet.router())?;
    let ann = cluster.node("ann", runtime)?;
    let mut bob = cluster.node("bob", runtime)?;
    let b = bob.connected()?;
    for address in &b {
        ping(&ann.host, *address, 400)?;
        udp_exchange(&ann.host, &bob.host, *address, 1000)?;
        tcp_send(&ann.host, &bob.host, *address, 50_000)?;
    }
    let eve = cluster.internet.attach("eve", 1500)?;
    let packets = capture.stop()?;
    Ok(Attack { ann, bob, eve, packets, _cluster: cluster })
}

/// Sends bad datagrams for so long; returns how many.
fn pelt(socket: &UdpSocket, to: SocketAddr, fuzz: &mut Fuzz, time: Duration) -> Result<u64> {
    let end = Instant::now() + time;
    let mut count = 0;
    while Instant::now() < end {
        for _ in 0..64 {
            // A full queue of our own host is no matter.
            let _ = socket.send_to(&fuzz.next_datagram(), to);
            count += 1;
        }
    }
    Ok(count)
}

/// Memory that a daemon may use more after an attack, in kB: half-open handshakes and the like have bounds, which are reached in the warm-up.
const GROWTH_KB: u64 = 4096;

fn flood(runtime: Runtime) -> Result<()> {
    let Attack { mut ann, mut bob, eve, packets, _cluster } = under_attack(runtime)?;
    let real: Vec<Vec<u8>> =
        packets.iter().filter_map(|packet| udp_payload(packet)).filter(|payload| !payload.is_empty()).map(<[u8]>::to_vec).collect();
    ensure!(real.len() > 50);
    let target = SocketAddr::new(ann.host.ipv4().into(), PORT);
    let mut fuzz = Fuzz::new(2, real);
    let socket = eve.run(|| UdpSocket::bind("0.0.0.0:0"))??;
    pelt(&socket, target, &mut fuzz, Duration::from_secs(2))?;
    let before = ann.resident_kb()?;
    let sent = pelt(&socket, target, &mut fuzz, Duration::from_secs(6))?;
    let after = ann.resident_kb()?;
    ensure!(after < before + GROWTH_KB, "{before} kB before, {after} kB after {sent} bad datagrams");
    // From a fresh socket, so that nothing of the flood is taken for an answer.
    let socket = eve.run(|| UdpSocket::bind("0.0.0.0:0"))??;
    for _ in 0..800 {
        let question = fuzz.next_datagram();
        let answers = ask(&socket, target, &question, Duration::from_millis(3))?;
        let bytes: usize = answers.iter().sum();
        ensure!(bytes <= question.len(), "{} bytes were answered by {answers:?}: {question:02x?}", question.len());
    }
    let b = bob.connected()?;
    for address in b {
        ping(&ann.host, address, 400).with_context(|| ann.last_words())?;
    }
    Ok(())
}

/// A raw socket that sends whole IPv4 packets, whatever source they name.
fn forger(host: &Host) -> Result<Socket> {
    let socket = host.run(|| {
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255)))?;
        socket.set_header_included_v4(true)?;
        Ok::<_, std::io::Error>(socket)
    })?;
    Ok(socket?)
}

fn copies() -> Result<()> {
    let mut cluster = Cluster::new(PROGRAM)?;
    let mut ann = cluster.node("ann", Runtime::Mio)?;
    let mut bob = cluster.node("bob", Runtime::Tokio)?;
    let b = bob.connected()?;
    ping(&ann.host, b[0], 84)?;
    let eve = cluster.internet.attach("eve", 1500)?;
    let address = b[0];
    let there = bob.host.run(move || UdpSocket::bind((address, 0)))??;
    let target = there.local_addr()?;
    let capture = Capture::start(cluster.internet.router())?;
    let here = ann.host.run(|| UdpSocket::bind("0.0.0.0:0"))??;
    here.send_to(PLAINTEXT, target)?;
    there.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut buf = [0; 100];
    ensure!(there.recv(&mut buf)? == PLAINTEXT.len());
    let packets = capture.stop()?;
    let from_eve = eve.run(|| UdpSocket::bind("0.0.0.0:0"))??;
    let forger = forger(&eve)?;
    let victim = SocketAddr::new(bob.host.ipv4().into(), PORT);
    for packet in &packets {
        let Some(payload) = udp_payload(packet) else { continue };
        // From the attacker's own address, and exactly as it was.
        from_eve.send_to(payload, victim)?;
        if packet[0] >> 4 == 4 {
            let _ = forger.send_to(packet, &victim.into());
        }
    }
    there.set_read_timeout(Some(Duration::from_secs(1)))?;
    ensure!(there.recv(&mut buf).is_err(), "a copied packet was delivered again");
    let eves = [IpAddr::from(eve.ipv4()), eve.ipv6().into()];
    for node in [&mut ann, &mut bob] {
        let status = node.status()?;
        let moved = status
            .peers
            .iter()
            .flat_map(|peer| &peer.paths)
            .any(|path| path.active && path.remote.is_some_and(|remote| eves.contains(&remote.ip())));
        ensure!(!moved, "a path leads to the attacker: {status:?}");
    }
    ping(&ann.host, b[0], 84)?;
    Ok(())
}
