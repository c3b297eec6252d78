//! What the path between TUN device and UDP socket carries without any protocol in between: the bound of everything built on it.
//!
//! Makes two hosts joined by a cable, a forwarder on each, and runs iperf3 through them. `cargo run --release -p annulus-lab --example
//! throughput [vnet|tun-tap] [seconds]`.

use std::io::{Write, stdout};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::process::Stdio;
use std::time::Duration;

use annulus_core::batch::Slot;
use annulus_core::config::TUNNEL_MTU;
use annulus_daemon::udp::{UdpOptions, UdpSocket};
use annulus_lab::{Host, command};
use annulus_tun_bridge::host::HostChanges;
use annulus_tun_bridge::netlink::Namespace;
use annulus_tun_bridge::{Backend, Cidr, Tun, TunConfig};
use anyhow::{Context, Result, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Packets of one read batch.
const PACKETS: usize = 128;
/// Messages of one receive batch.
const MESSAGES: usize = 64;

fn main() -> Result<()> {
    annulus_lab::child_main();
    let args: Vec<String> = std::env::args().collect();
    match args.get(1).map(String::as_str) {
        Some("forward") => forward(&args[2..]),
        backend => measure(backend.unwrap_or("vnet"), args.get(2).map_or("3", String::as_str)),
    }
}

fn measure(backend: &str, seconds: &str) -> Result<()> {
    annulus_lab::probe()?;
    annulus_lab::enter_user_namespace()?;
    let (a, b) = (Host::new("a")?, Host::new("b")?);
    let namespace = b.open_namespace()?;
    a.netlink(move |netlink| netlink.create_veth("eth0", "eth0", Some(Namespace::File(namespace.as_fd()))))?;
    let mut forwarders = Vec::new();
    for (host, own, other) in [(&a, 1, 2), (&b, 2, 1)] {
        let cidr: Cidr = format!("198.18.0.{own}/24").parse()?;
        host.netlink(move |netlink| {
            let index = netlink.existing_link("eth0")?.index;
            netlink.add_address(index, cidr)?;
            netlink.set_up("eth0", true)
        })?;
        let mut forwarder = command("/proc/self/exe")?;
        forwarder.args([
            "forward",
            backend,
            &format!("10.9.0.{own}/24"),
            &format!("198.18.0.{own}:7000"),
            &format!("198.18.0.{other}:7000"),
        ]);
        forwarders.push(host.spawn(forwarder)?);
    }
    let mut server = command("iperf3")?;
    server.args(["-s"]).stdout(Stdio::null());
    let _server = b.spawn(server)?;
    std::thread::sleep(Duration::from_millis(1500));
    for (what, args) in [
        ("no tunnel, TCP", &["-c", "198.18.0.2"][..]),
        ("TCP a to b", &["-c", "10.9.0.2"]),
        ("TCP b to a", &["-c", "10.9.0.2", "-R"]),
        ("TCP, 4 streams", &["-c", "10.9.0.2", "-P4"]),
        ("UDP 1,300 bytes", &["-c", "10.9.0.2", "-u", "-b0", "-l1300"]),
        ("UDP 64 bytes", &["-c", "10.9.0.2", "-u", "-b0", "-l64"]),
    ] {
        let mut client = command("iperf3")?;
        client.args(args).args(["-t", seconds, "-f", "m"]);
        let output = a.output(client).context("iperf3 is needed")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let sums: Vec<&str> =
            text.lines().filter(|line| line.contains("receiver") && (!args.contains(&"-P4") || line.contains("SUM"))).collect();
        ensure!(!sums.is_empty(), "{what}: {text} {}", String::from_utf8_lossy(&output.stderr));
        writeln!(stdout(), "{what:16} {}", sums.join("\n"))?;
        let cpu: Vec<String> = forwarders.iter().map(|process| cpu_ticks(process.id())).collect();
        writeln!(stdout(), "{:16} CPU ticks (user system) of the forwarders so far: {}", "", cpu.join(", "))?;
    }
    Ok(())
}

fn cpu_ticks(pid: u32) -> String {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.split(' ').skip(13).take(2).collect::<Vec<_>>().join(" ")
}

fn forward(args: &[String]) -> Result<()> {
    let [backend, address, bind, peer] = args else { anyhow::bail!("backend, address, bind and peer are needed") };
    let peer: SocketAddr = peer.parse()?;
    let config = TunConfig {
        name: "tun0".into(),
        mtu: TUNNEL_MTU,
        backend: backend.parse::<Backend>().map_err(anyhow::Error::msg)?,
        queues: 1,
        offload: true,
        addresses: vec![address.parse()?],
    };
    let mut tun = annulus_tun_bridge::open(&config)?.pop().context("one queue")?;
    let journal = std::env::temp_dir().join(format!("annulus-throughput-{}.json", std::process::id()));
    let mut changes = HostChanges::begin(&journal)?;
    changes.configure(tun.name(), &config)?;
    // The process will be killed; the device and all that was set on it goes with it.
    std::fs::remove_file(&journal)?;
    let mut udp = UdpSocket::bind(bind.parse()?, 0, UdpOptions::default())?;
    writeln!(stdout(), "{:?}, GRO {}", tun.features(), udp.gro())?;
    pump(&mut *tun, &mut udp, peer)
}

fn pump(tun: &mut dyn Tun, udp: &mut UdpSocket, peer: SocketAddr) -> Result<()> {
    let mut from_tun = vec![0; 2 * 65_536 + PACKETS * 40];
    let mut from_udp = vec![0; udp.buffer_for(MESSAGES)];
    let mut slots = vec![Slot::default(); PACKETS];
    let (mut received, mut opened) = (Vec::new(), Vec::<Slot>::new());
    loop {
        let n = tun.recv(&mut from_tun, &mut slots)?;
        if n > 0 {
            udp.send(peer, &from_tun, &slots[..n])?;
        }
        let m = udp.receive(&mut from_udp, &mut received)?;
        opened.clear();
        for run in &received {
            let mut start = run.start;
            let end = start + run.len;
            while start < end {
                let len = run.stride.min(end - start);
                opened.push(Slot { start: start as u32, len: len as u16, ..Slot::default() });
                start += len;
            }
        }
        if m > 0 {
            tun.send(&from_udp, &opened)?;
        }
        if n == 0 && m == 0 {
            wait(tun, udp)?;
        }
    }
}

fn wait(tun: &dyn Tun, udp: &UdpSocket) -> Result<()> {
    let mut fds = [PollFd::new(tun.as_fd(), PollFlags::POLLIN), PollFd::new(udp.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::NONE)?;
    Ok(())
}
