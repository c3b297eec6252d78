//! Bytes and packets through the tunnel as applications see them: whole, in order, with right checksums, also on bad roads and without offloads.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::Command;
use std::thread::{scope, sleep, spawn};
use std::time::{Duration, Instant};

use annulus_lab::{Host, Test, command, run_tests};
use annulus_tests::cluster::{Cluster, Node, Outside, PORT, Runtime, separate};
use annulus_tests::inner;
use annulus_tests::middlebox::{Faults, Middlebox};
use annulus_tests::traffic::{connect, pattern, ping, questions, tcp_send, udp_exchange};
use annulus_tests::wire::Capture;
use anyhow::{Context, Result, anyhow, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const PROGRAM: &str = env!("CARGO_BIN_EXE_annulus-under-test");

const TESTS: &[Test] = &[
    ("many_streams_both_ways_at_once_arrive_with_mio", || many_streams(Runtime::Mio)),
    ("many_streams_both_ways_at_once_arrive_with_tokio", || many_streams(Runtime::Tokio)),
    ("datagrams_of_all_sizes_arrive_with_mio", || all_sizes(Runtime::Mio)),
    ("datagrams_of_all_sizes_arrive_with_tokio", || all_sizes(Runtime::Tokio)),
    ("questions_are_answered_over_tcp_and_udp_with_mio", || request_response(Runtime::Mio)),
    ("questions_are_answered_over_tcp_and_udp_with_tokio", || request_response(Runtime::Tokio)),
    ("streams_survive_loss_reordering_and_changes_of_the_mtu_with_mio", || bad_road(Runtime::Mio)),
    ("streams_survive_loss_reordering_and_changes_of_the_mtu_with_tokio", || bad_road(Runtime::Tokio)),
    ("merged_segments_are_possible_and_their_checksums_right_with_mio", || merged_segments(Runtime::Mio)),
    ("merged_segments_are_possible_and_their_checksums_right_with_tokio", || merged_segments(Runtime::Tokio)),
    ("packets_of_a_flow_keep_their_order_with_mio", || order(Runtime::Mio)),
    ("packets_of_a_flow_keep_their_order_with_tokio", || order(Runtime::Tokio)),
    ("the_cables_offloads_may_be_off_at_the_sender", || no_offload(true, false)),
    ("the_cables_offloads_may_be_off_at_the_receiver", || no_offload(false, true)),
    ("the_cables_offloads_may_be_off_at_both", || no_offload(true, true)),
    ("losses_are_counted_where_they_happen", losses),
];

fn main() {
    run_tests(TESTS)
}

/// Two connected nodes of one program and their virtual addresses.
struct Pair {
    ann: Node,
    bob: Node,
    ann_addresses: Vec<IpAddr>,
    bob_addresses: Vec<IpAddr>,
    cluster: Cluster,
}

fn pair(one: Runtime, other: Runtime) -> Result<Pair> {
    let mut cluster = Cluster::new(PROGRAM)?;
    let mut ann = cluster.node_with("ann", one, 1500, Outside::V4)?;
    let mut bob = cluster.node_with("bob", other, 1500, Outside::V4)?;
    let (ann_addresses, bob_addresses) = (ann.connected()?, bob.connected()?);
    for address in &bob_addresses {
        ping(&ann.host, *address, 84)?;
    }
    Ok(Pair { ann, bob, ann_addresses, bob_addresses, cluster })
}

impl Pair {
    fn ways(&self) -> [(&Host, &Host, &[IpAddr]); 2] {
        [(&self.ann.host, &self.bob.host, &self.bob_addresses), (&self.bob.host, &self.ann.host, &self.ann_addresses)]
    }

    fn last_words(&self) -> String {
        format!("{}\n{}", self.ann.last_words(), self.bob.last_words())
    }
}

fn many_streams(runtime: Runtime) -> Result<()> {
    const STREAMS: usize = 6;
    let pair = pair(runtime, runtime)?;
    scope(|scope| {
        let mut streams = Vec::new();
        for (from, to, addresses) in pair.ways() {
            for index in 0..STREAMS {
                let address = addresses[index % addresses.len()];
                streams.push(scope.spawn(move || tcp_send(from, to, address, 2 << 20)));
            }
        }
        streams.into_iter().try_for_each(|stream| stream.join().map_err(|_| anyhow!("a stream panicked"))?)
    })
    .with_context(|| pair.last_words())
}

fn all_sizes(runtime: Runtime) -> Result<()> {
    let pair = pair(runtime, runtime)?;
    for (from, to, addresses) in pair.ways() {
        for address in addresses {
            // 1,372 and 1,352 bytes fill the device over IPv4 and IPv6; what is larger comes in fragments.
            for len in [1, 63, 64, 1351, 1352, 1371, 1372, 1373, 1400, 9000] {
                udp_exchange(from, to, *address, len).with_context(|| pair.last_words())?;
            }
        }
    }
    Ok(())
}

fn request_response(runtime: Runtime) -> Result<()> {
    let pair = pair(runtime, runtime)?;
    for (from, to, addresses) in pair.ways() {
        for address in addresses {
            let (near, far) = connect(from, to, *address)?;
            questions(near, far, 300).with_context(|| pair.last_words())?;
            for len in 1..100 {
                udp_exchange(from, to, *address, len)?;
            }
        }
    }
    Ok(())
}

/// Ann reaches Bob by way of a middlebox only.
fn bad_road(runtime: Runtime) -> Result<()> {
    let faults = Faults { lost: 5, overtaken: 50, delay: Duration::from_millis(1), later: Duration::from_millis(4) };
    let mut cluster = Cluster::new(PROGRAM)?;
    let mut bob = cluster.node_with("bob", runtime, 1500, Outside::V4)?;
    let road = cluster.internet.attach("road", 1500)?;
    let front = SocketAddr::new(road.ipv4().into(), PORT);
    let middlebox = Middlebox::start(&road, front, SocketAddr::new(bob.host.ipv4().into(), PORT), faults, 7)?;
    cluster.set_seed(front);
    let mut ann = cluster.prepare("ann", runtime, 1500, Outside::V4)?;
    separate(&ann.host, &bob.host)?;
    ann.start(&[])?;
    let (a, b) = (ann.connected()?, bob.connected()?);
    for address in &b {
        // Looking an address up may take several tries of its own on such a road.
        let found = ping(&ann.host, *address, 84).or_else(|_| ping(&ann.host, *address, 84));
        found.with_context(|| format!("{}\n{}", ann.last_words(), bob.last_words()))?;
    }
    let outcome = scope(|scope| -> Result<()> {
        let streams = [
            scope.spawn(|| tcp_send(&ann.host, &bob.host, b[0], 3 << 20)),
            scope.spawn(|| tcp_send(&ann.host, &bob.host, b[1], 3 << 20)),
            scope.spawn(|| tcp_send(&bob.host, &ann.host, a[0], 3 << 20)),
        ];
        for mtu in [1400, 1500, 1300, 1500] {
            sleep(Duration::from_millis(300));
            cluster.internet.set_mtu(&ann.host, mtu)?;
        }
        streams.into_iter().try_for_each(|stream| stream.join().map_err(|_| anyhow!("a stream panicked"))?)
    });
    let [passed, lost, overtaken] = middlebox.stop()?;
    outcome.with_context(|| format!("{passed} passed, {lost} lost, {overtaken} overtaken\n{}\n{}", ann.last_words(), bob.last_words()))?;
    ensure!(passed > 5000 && lost > 10 && overtaken > 100, "not by the middlebox: {passed} passed, {lost} lost, {overtaken} overtaken");
    Ok(())
}

fn merged_segments(runtime: Runtime) -> Result<()> {
    let pair = pair(runtime, runtime)?;
    for (index, address) in pair.bob_addresses.iter().enumerate() {
        let capture = Capture::start(&pair.bob.host)?;
        tcp_send(&pair.ann.host, &pair.bob.host, *address, 4 << 20)?;
        udp_exchange(&pair.ann.host, &pair.bob.host, *address, 1200)?;
        let seen = inner::check(&capture.stop()?, pair.ann_addresses[index], *address, 1400, pattern)?;
        // The capture may have missed some.
        ensure!(seen.packets > 20 && seen.bytes > 1 << 20 && seen.merged > 5, "{seen:?}; {}", pair.last_words());
    }
    Ok(())
}

/// Numbered datagrams of several flows; they may get lost, but not overtake each other.
fn order(runtime: Runtime) -> Result<()> {
    const NUMBERS: u32 = 5000;
    let pair = pair(runtime, runtime)?;
    let mut receivers = Vec::new();
    let mut targets = Vec::new();
    for flow in 0..4 {
        let address = pair.bob_addresses[flow % 2];
        let socket = pair.bob.host.run(move || UdpSocket::bind((address, 0)))??;
        socket.set_read_timeout(Some(Duration::from_millis(1500)))?;
        targets.push((flow, socket.local_addr()?));
        receivers.push(spawn(move || {
            let (mut buf, mut last, mut got, mut late) = ([0; 2000], None, 0, 0);
            while let Ok(4..) = socket.recv(&mut buf) {
                let number = u32::from_be_bytes([buf[0], buf[1], buf[2], buf[3]]);
                (got, late) = (got + 1, late + usize::from(last.is_some_and(|last| number <= last)));
                last = Some(number);
            }
            (got, late)
        }));
    }
    let sockets = targets.iter().map(|(_, target)| {
        let any = annulus_lab::measure::unspecified(target.is_ipv6());
        Ok((pair.ann.host.run(move || UdpSocket::bind((any, 0)))??, *target))
    });
    let sockets = sockets.collect::<Result<Vec<_>>>()?;
    for number in 0..NUMBERS {
        for (flow, (socket, target)) in sockets.iter().enumerate() {
            let mut datagram = vec![flow as u8; [40, 40, 40, 700, 1300][(number as usize + flow) % 5]];
            datagram[..4].copy_from_slice(&number.to_be_bytes());
            // A full queue is not what is tested.
            let _ = socket.send_to(&datagram, target);
        }
        if number % 50 == 0 {
            sleep(Duration::from_millis(1));
        }
    }
    for receiver in receivers {
        let (got, late) = receiver.join().map_err(|_| anyhow!("a receiver panicked"))?;
        // A cable between namespaces has a queue per CPU: when the kernel moves a sender to another one, neighbours may change places.
        ensure!(got > NUMBERS as usize / 2 && late * 1000 <= got, "{got} of {NUMBERS} arrived, {late} behind their successors");
    }
    Ok(())
}

/// Switches everything off by which a cable's end could cut or merge packets or fill in checksums; false without the program for that.
fn switch_off_offloads(host: &Host) -> Result<bool> {
    if Command::new("ethtool").arg("--version").output().is_err() {
        return Ok(false);
    }
    let mut ethtool = command("ethtool")?;
    ethtool.args(["-K", "eth0", "tso", "off", "gso", "off", "gro", "off", "tx-udp-segmentation", "off", "tx", "off", "rx", "off"]);
    let output = host.output(ethtool)?;
    ensure!(output.status.success(), "ethtool: {}", String::from_utf8_lossy(&output.stderr));
    Ok(true)
}

fn no_offload(at_sender: bool, at_receiver: bool) -> Result<()> {
    let pair = pair(Runtime::Mio, Runtime::Tokio)?;
    for (off, host) in [(at_sender, &pair.ann.host), (at_receiver, &pair.bob.host)] {
        if off && !switch_off_offloads(host)? {
            eprintln!("SKIPPED: ethtool is missing (scripts/setup installs it)");
            return Ok(());
        }
    }
    for (from, to, addresses) in pair.ways() {
        for address in addresses {
            tcp_send(from, to, *address, 3 << 20).with_context(|| pair.last_words())?;
            for len in [1, 64, 1352, 4000] {
                udp_exchange(from, to, *address, len).with_context(|| pair.last_words())?;
            }
        }
    }
    let capture = Capture::start(&pair.bob.host)?;
    tcp_send(&pair.ann.host, &pair.bob.host, pair.bob_addresses[0], 2 << 20)?;
    let seen = inner::check(&capture.stop()?, pair.ann_addresses[0], pair.bob_addresses[0], 1400, pattern)?;
    ensure!(seen.bytes > 1 << 19, "{seen:?}");
    Ok(())
}

/// Stops a daemon for a moment and fills its queues: TUN device and UDP socket.
fn losses() -> Result<()> {
    let mut pair = pair(Runtime::Mio, Runtime::Mio)?;
    let pid = Pid::from_raw(i32::try_from(pair.ann.daemon()?.pid())?);
    let (inside, outside) = (SocketAddr::new(pair.bob_addresses[0], 9), SocketAddr::new(pair.ann.host.ipv4().into(), PORT));
    kill(pid, Signal::SIGSTOP)?;
    let flooded = flood(&pair.ann.host, inside, 3000).and_then(|()| flood(pair.cluster.internet.router(), outside, 60_000));
    kill(pid, Signal::SIGCONT)?;
    flooded?;
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        let drops = pair.ann.status()?.groups[0].drops.clone();
        let lost = |place: &str| drops.get(place).copied().unwrap_or(0);
        if lost("tun_queue") >= 1000 && lost("udp_receive_queue") >= 1000 {
            return Ok(());
        }
        ensure!(Instant::now() < end, "{drops:?}; {}", pair.ann.last_words());
        sleep(Duration::from_millis(100));
    }
}

fn flood(from: &Host, to: SocketAddr, count: usize) -> Result<()> {
    let any = annulus_lab::measure::unspecified(to.is_ipv6());
    let socket = from.run(move || UdpSocket::bind((any, 0)))??;
    for _ in 0..count {
        // What the sender's own queue does not take is no loss of the daemon's.
        let _ = socket.send_to(&[0x55; 64], to);
    }
    Ok(())
}
