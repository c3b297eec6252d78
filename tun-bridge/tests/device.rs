//! Real devices and real changes to hosts, in network namespaces of this process.

use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, spawn};
use std::time::Duration;

use annulus_core::batch::Slot;
use annulus_lab::{Host, Test, run_tests};
use annulus_tun_bridge::host::{HostChanges, overlapping};
use annulus_tun_bridge::netlink::{Monitor, Netlink, Route, local_addresses};
use annulus_tun_bridge::{Backend, Cidr, Tun, TunConfig, TunStats, open};
use anyhow::{Context, Result, anyhow, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

const TESTS: &[Test] = &[
    ("tcp_and_udp_cross_two_fast_devices_in_merged_packets", fast_devices),
    ("tcp_and_udp_cross_two_plain_devices", plain_devices),
    ("a_fast_and_a_plain_device_understand_each_other", mixed_devices),
    ("nothing_is_lost_or_reordered_with_buffers_that_hold_few_packets", small_buffers),
    ("a_device_has_as_many_queues_as_asked_for", queues),
    ("a_device_with_several_queues_is_not_shared_with_a_second_program", one_owner),
    ("a_flow_stays_in_its_queue_whichever_queue_brings_its_answers", steady_queues),
    ("a_flow_that_fills_its_queue_loses_and_delays_no_other", full_queue),
    ("without_offload_the_host_gives_and_takes_single_packets", no_offload),
    ("a_name_that_is_taken_is_refused_with_a_reason", taken_name),
    ("addresses_mtu_and_routes_are_set_and_undone", changes_are_undone),
    ("changes_are_undone_at_the_next_start_after_a_kill", changes_are_recovered),
    ("what_was_there_before_stays_and_what_was_replaced_returns", what_was_there_stays),
    ("a_journal_of_another_boot_is_forgotten", another_boot),
    ("the_monitor_tells_of_new_addresses", monitor),
    ("overlapping_networks_of_the_host_are_found", overlaps),
];

fn main() {
    run_tests(TESTS)
}

fn config(number: u8, backend: Backend) -> TunConfig {
    let addresses = vec![cidr(&format!("10.77.0.{number}/24")), cidr(&format!("fd77::{number}/64"))];
    TunConfig { name: "vpn0".into(), backend, addresses, ..TunConfig::default() }
}

fn cidr(text: &str) -> Cidr {
    text.parse().expect("a network")
}

/// A host with a device on it. The journal is dropped: the namespace goes with all that is in it.
fn device(name: &str, number: u8, backend: Backend) -> Result<(Host, Box<dyn Tun>)> {
    let host = Host::new(name)?;
    let tun = host.run(move || -> Result<Box<dyn Tun>> {
        let config = config(number, backend);
        let tun = open(&config)?.pop().context("one queue")?;
        let folder = tempfile::tempdir()?;
        HostChanges::begin(&folder.path().join("journal"))?.configure(tun.name(), &config)?;
        Ok(tun)
    })??;
    Ok((host, tun))
}

/// Two hosts whose devices are joined by a thread that carries packets.
struct Joined {
    a: Host,
    b: Host,
    stop: Arc<AtomicBool>,
    carrier: Option<JoinHandle<Result<[TunStats; 2]>>>,
}

impl Joined {
    fn new(backends: [Backend; 2], buffer: usize, slots: usize) -> Result<Self> {
        let (a, mut tun_a) = device("a", 1, backends[0])?;
        let (b, mut tun_b) = device("b", 2, backends[1])?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let carrier = spawn(move || {
            let (mut buf, mut slots) = (vec![0; buffer], vec![Slot::default(); slots]);
            while !stopped.load(Ordering::Relaxed) {
                let moved = carry(&mut *tun_a, &mut *tun_b, &mut buf, &mut slots)? + carry(&mut *tun_b, &mut *tun_a, &mut buf, &mut slots)?;
                if moved == 0 {
                    let mut fds = [PollFd::new(tun_a.as_fd(), PollFlags::POLLIN), PollFd::new(tun_b.as_fd(), PollFlags::POLLIN)];
                    poll(&mut fds, PollTimeout::from(50u8))?;
                }
            }
            Ok([tun_a.stats(), tun_b.stats()])
        });
        Ok(Self { a, b, stop, carrier: Some(carrier) })
    }

    fn finish(mut self) -> Result<[TunStats; 2]> {
        self.stop.store(true, Ordering::Relaxed);
        let carrier = self.carrier.take().context("finished once")?;
        carrier.join().map_err(|_| anyhow!("the carrier panicked"))?
    }

    /// Sends megabytes over TCP from a to b and compares them.
    fn tcp(&self, to: IpAddr) -> Result<()> {
        let data: Vec<u8> = (0..8_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let listener = self.b.run(move || TcpListener::bind((to, 9000)))??;
        let reader = spawn(move || -> Result<Vec<u8>> {
            let (mut stream, _) = listener.accept()?;
            stream.set_read_timeout(Some(Duration::from_secs(10)))?;
            let mut got = Vec::new();
            stream.read_to_end(&mut got)?;
            Ok(got)
        });
        let mut stream = self.a.run(move || TcpStream::connect_timeout(&(to, 9000).into(), Duration::from_secs(10)))??;
        stream.set_write_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(&data)?;
        drop(stream);
        let got = reader.join().map_err(|_| anyhow!("the reader panicked"))??;
        ensure!(got == data, "{} of {} bytes arrived over {to}", got.len(), data.len());
        Ok(())
    }

    /// Sends datagrams of many sizes from a to b, as a super-packet too where the kernel can.
    fn udp(&self, to: IpAddr, segment: bool) -> Result<()> {
        let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0u16; 8].into() };
        let receiver = self.b.run(move || UdpSocket::bind((to, 9000)))??;
        receiver.set_read_timeout(Some(Duration::from_secs(5)))?;
        let sender = self.a.run(move || UdpSocket::bind((any, 0)))??;
        sender.connect((to, 9000))?;
        let mut buf = [0; 2000];
        for len in [0, 1, 2, 3, 100, 1000, 1352] {
            let datagram: Vec<u8> = (0..len).map(|i| i as u8).collect();
            sender.send(&datagram)?;
            ensure!(receiver.recv(&mut buf)? == len && buf[..len] == datagram[..]);
        }
        if segment {
            annulus_tun_bridge::sys::set_option(sender.as_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, 1000)?;
            sender.send(&(0..20_500u32).map(|i| (i / 1000) as u8).collect::<Vec<_>>())?;
            for part in 0..21u8 {
                let len = receiver.recv(&mut buf)?;
                ensure!(len == if part < 20 { 1000 } else { 500 } && buf[..len].iter().all(|byte| *byte == part), "part {part}: {len}");
            }
        }
        Ok(())
    }

    fn everything(&self, segment: bool) -> Result<()> {
        for to in ["10.77.0.2", "fd77::2"] {
            let to = to.parse()?;
            self.tcp(to).with_context(|| format!("TCP to {to}"))?;
            self.udp(to, segment).with_context(|| format!("UDP to {to}"))?;
        }
        Ok(())
    }
}

fn carry(from: &mut dyn Tun, to: &mut dyn Tun, buf: &mut [u8], slots: &mut [Slot]) -> Result<usize> {
    let count = from.recv(buf, slots)?;
    if count > 0 {
        to.send(buf, &slots[..count])?;
    }
    Ok(count)
}

fn fast_devices() -> Result<()> {
    let joined = Joined::new([Backend::Vnet; 2], 1 << 17, 128)?;
    joined.everything(true)?;
    let [a, b] = joined.finish()?;
    ensure!(a.malformed == 0 && b.malformed == 0 && b.dropped == 0, "{a:?} {b:?}");
    ensure!(b.packets_out > 11_000 && b.writes * 4 < b.packets_out, "segments are merged: {b:?}");
    ensure!(a.reads * 3 < a.packets_in, "super-packets are split: {a:?}");
    Ok(())
}

fn plain_devices() -> Result<()> {
    let joined = Joined::new([Backend::TunTap; 2], 1 << 17, 128)?;
    joined.everything(true)?;
    joined.finish()?;
    Ok(())
}

fn mixed_devices() -> Result<()> {
    let joined = Joined::new([Backend::Vnet, Backend::TunTap], 1 << 17, 128)?;
    joined.everything(true)?;
    joined.finish()?;
    Ok(())
}

fn small_buffers() -> Result<()> {
    let joined = Joined::new([Backend::Vnet; 2], 5000, 128)?;
    joined.everything(true)?;
    let [a, b] = joined.finish()?;
    ensure!(a.packets_in == b.packets_out + b.dropped && b.dropped == 0, "{a:?} {b:?}");
    let joined = Joined::new([Backend::Vnet; 2], 1 << 17, 2)?;
    joined.everything(true)?;
    joined.finish()?;
    Ok(())
}

fn queues() -> Result<()> {
    Host::new("a")?.run(|| -> Result<()> {
        let queues = open(&TunConfig { queues: 3, ..config(1, Backend::Auto) })?;
        ensure!(queues.len() == 3 && queues.iter().all(|queue| queue.features().multi_queue && queue.name() == queues[0].name()));
        Ok(())
    })?
}

fn one_owner() -> Result<()> {
    Host::new("a")?.run(|| -> Result<()> {
        let several = TunConfig { queues: 2, ..config(1, Backend::Auto) };
        let _first = open(&several)?;
        let text = open(&several).err().context("the name is taken")?.to_string();
        ensure!(text.contains("another program"), "{text}");
        Ok(())
    })?
}

/// Which queue the host's next UDP packet comes out of, with the packet.
fn next_packet(queues: &mut [Box<dyn Tun>]) -> Result<(usize, Vec<u8>)> {
    let (mut buf, mut slots) = (vec![0; 1 << 17], vec![Slot::default(); 64]);
    let end = std::time::Instant::now() + Duration::from_secs(5);
    while std::time::Instant::now() < end {
        for (index, queue) in queues.iter_mut().enumerate() {
            let count = queue.recv(&mut buf, &mut slots)?;
            if let Some(slot) = slots[..count].iter().find(|slot| buf[slot.range()][0] >> 4 == 4) {
                return Ok((index, buf[slot.range()].to_vec()));
            }
        }
    }
    Err(anyhow!("the host sent nothing"))
}

fn steady_queues() -> Result<()> {
    Host::new("a")?.run(|| -> Result<()> {
        let config = TunConfig { queues: 2, ..config(1, Backend::Vnet) };
        let mut queues = open(&config)?;
        let folder = tempfile::tempdir()?;
        HostChanges::begin(&folder.path().join("journal"))?.configure("vpn0", &config)?;
        let mut used = [0; 2];
        for _ in 0..16 {
            let socket = UdpSocket::bind("10.77.0.1:0")?;
            socket.set_read_timeout(Some(Duration::from_secs(5)))?;
            socket.send_to(b"question", "10.77.0.9:9000")?;
            let (queue, question) = next_packet(&mut queues)?;
            used[queue] += 1;
            // The answer: addresses and ports change places, so the checksums stay right.
            let mut answer = question.clone();
            answer[12..16].copy_from_slice(&question[16..20]);
            answer[16..20].copy_from_slice(&question[12..16]);
            answer[20..22].copy_from_slice(&question[22..24]);
            answer[22..24].copy_from_slice(&question[20..22]);
            let slot = Slot { start: 0, len: answer.len() as u16, ..Slot::default() };
            ensure!(queues[1 - queue].send(&answer, &[slot])?.packets == 1);
            ensure!(socket.recv(&mut [0; 100])? == b"question".len(), "the host takes what the other queue brings");
            socket.send_to(b"another", "10.77.0.9:9000")?;
            ensure!(next_packet(&mut queues)?.0 == queue, "the answer has moved the flow to its queue");
        }
        ensure!(used[0] > 0 && used[1] > 0, "16 flows in one queue: {used:?}");
        Ok(())
    })?
}

/// A flood of one flow that nobody reads, then one datagram of each of many other flows: which of them come out.
fn flood_and_others(queues: u8) -> Result<(usize, u64)> {
    const OTHERS: usize = 32;
    Host::new("a")?.run(move || -> Result<(usize, u64)> {
        let config = TunConfig { queues, ..config(1, Backend::Vnet) };
        let mut queues = open(&config)?;
        let folder = tempfile::tempdir()?;
        HostChanges::begin(&folder.path().join("journal"))?.configure("vpn0", &config)?;
        let flood = UdpSocket::bind("10.77.0.1:0")?;
        for _ in 0..3000 {
            // What the full queue does not take is dropped behind the socket's back.
            flood.send_to(&[1; 64], "10.77.0.9:9000")?;
        }
        for _ in 0..OTHERS {
            UdpSocket::bind("10.77.0.1:0")?.send_to(&[2; 32], "10.77.0.9:9000")?;
        }
        let (mut buf, mut slots, mut arrived) = (vec![0; 1 << 17], vec![Slot::default(); 64], 0);
        for queue in &mut queues {
            loop {
                let count = queue.recv(&mut buf, &mut slots)?;
                arrived += slots[..count].iter().filter(|slot| slot.len == 60 && buf[slot.range()].ends_with(&[2; 32])).count();
                if count == 0 {
                    break;
                }
            }
        }
        Ok((arrived, Netlink::open()?.existing_link("vpn0")?.tx_dropped))
    })?
}

fn full_queue() -> Result<()> {
    let (arrived, dropped) = flood_and_others(1)?;
    ensure!(arrived == 0 && dropped >= 2000, "one queue is full for all: {arrived} arrived, {dropped} were dropped");
    let (arrived, dropped) = flood_and_others(8)?;
    // One of eight shares the flood's queue; that half of them do is as likely as a meteorite.
    ensure!(arrived > 16 && dropped >= 1900, "{arrived} of 32 other flows passed, {dropped} packets were dropped");
    Ok(())
}

fn no_offload() -> Result<()> {
    Host::new("a")?.run(|| -> Result<()> {
        let config = TunConfig { offload: false, ..config(1, Backend::Vnet) };
        let mut tun = open(&config)?.pop().context("one queue")?;
        let features = tun.features();
        ensure!(features.vnet && !features.tso && !features.uso, "{features:?}");
        let folder = tempfile::tempdir()?;
        HostChanges::begin(&folder.path().join("journal"))?.configure("vpn0", &config)?;
        let socket = UdpSocket::bind("10.77.0.1:0")?;
        annulus_tun_bridge::sys::set_option(socket.as_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, 1000)?;
        socket.send_to(&[7; 3000], "10.77.0.9:9000")?;
        let (mut buf, mut slots, mut packets) = (vec![0; 1 << 17], vec![Slot::default(); 64], 0);
        let end = std::time::Instant::now() + Duration::from_secs(5);
        while packets < 3 && std::time::Instant::now() < end {
            let count = tun.recv(&mut buf, &mut slots)?;
            packets += slots[..count].iter().filter(|slot| slot.len == 1028).count();
        }
        ensure!(packets == 3 && tun.stats().reads > 3, "{packets} packets in {:?}", tun.stats());
        Ok(())
    })?
}

fn taken_name() -> Result<()> {
    Host::new("a")?.run(|| -> Result<()> {
        let _first = open(&config(1, Backend::Vnet))?;
        let text = open(&config(1, Backend::Vnet)).err().context("the name is taken")?.to_string();
        ensure!(text.contains("vpn0") && text.contains("another program"), "{text}");
        ensure!(open(&TunConfig { name: "much-too-long-a-name".into(), ..config(1, Backend::Vnet) }).is_err());
        Ok(())
    })?
}

/// Everything that matters of a host, in comparable form.
fn state(netlink: &mut Netlink) -> Result<String> {
    let mut links: Vec<_> = netlink
        .links()?
        .into_iter()
        .map(|link| (link.name, link.mtu, link.txqlen, link.gso_max_size, link.address_mode, link.up))
        .collect();
    links.sort();
    let mut addresses = netlink.addresses()?;
    // What the kernel invents by itself.
    addresses.retain(|address| address.global);
    addresses.sort();
    let mut routes: Vec<_> =
        netlink.routes()?.into_iter().filter(|route| route.table == Route::MAIN && route.metric != Some(256)).collect();
    routes.sort();
    Ok(format!("{links:?}\n{addresses:?}\n{routes:?}"))
}

/// A bridge stands for a device that outlives the program, as one made by an administrator does.
fn on_a_host_with_a_bridge(job: impl FnOnce(&mut Netlink, &std::path::Path) -> Result<()> + Send + 'static) -> Result<()> {
    Host::new("a")?.run(move || {
        let mut netlink = Netlink::open()?;
        netlink.create_bridge("vpn0")?;
        let folder = tempfile::tempdir()?;
        job(&mut netlink, &folder.path().join("journal"))
    })?
}

fn make_changes(changes: &mut HostChanges, index: u32) -> Result<()> {
    changes.configure("vpn0", &config(1, Backend::Auto))?;
    changes.add_route(&Route::link(cidr("10.88.0.0/16"), index))?;
    changes.add_route(&Route { index: Some(index), mtu: Some(1300), ..Route::via(cidr("fd88::/32"), "fd77::9".parse()?) })?;
    Ok(())
}

fn changes_are_undone() -> Result<()> {
    on_a_host_with_a_bridge(|netlink, journal| {
        let before = state(netlink)?;
        let index = netlink.existing_link("vpn0")?.index;
        let mut changes = HostChanges::begin(journal)?;
        make_changes(&mut changes, index)?;
        let there = netlink.existing_link("vpn0")?;
        ensure!(there.mtu == 1400 && there.up && there.gso_max_size == 45 * 1348 + 52, "{there:?}");
        let addresses: Vec<_> = netlink.addresses()?.into_iter().map(|address| address.cidr).collect();
        ensure!(!addresses.iter().any(|address| address.to_string().starts_with("fe80")), "{addresses:?}");
        ensure!(addresses.contains(&cidr("10.77.0.1/24")) && addresses.contains(&cidr("fd77::1/64")), "{addresses:?}");
        let routes = netlink.routes()?;
        ensure!(routes.iter().any(|route| route.destination == cidr("10.88.0.0/16") && route.index == Some(index)));
        ensure!(routes.iter().any(|route| route.destination == cidr("fd88::/32") && route.mtu == Some(1300)), "{routes:?}");
        let after = state(netlink)?;
        // Doing it again changes nothing.
        make_changes(&mut changes, index)?;
        ensure!(state(netlink)? == after);
        changes.remove_address("vpn0", cidr("10.77.0.1/24"))?;
        ensure!(!netlink.addresses()?.iter().any(|address| address.cidr == cidr("10.77.0.1/24")));
        ensure!(journal.exists());
        changes.undo()?;
        ensure!(state(netlink)? == before, "before:\n{before}\nafter:\n{}", state(netlink)?);
        ensure!(!journal.exists());
        Ok(())
    })
}

fn changes_are_recovered() -> Result<()> {
    on_a_host_with_a_bridge(|netlink, journal| {
        let before = state(netlink)?;
        let index = netlink.existing_link("vpn0")?.index;
        let mut changes = HostChanges::begin(journal)?;
        make_changes(&mut changes, index)?;
        // As a kill would: nothing is undone.
        drop(changes);
        ensure!(journal.exists() && state(netlink)? != before);
        ensure!(HostChanges::recover(journal)? >= 4);
        ensure!(state(netlink)? == before, "before:\n{before}\nafter:\n{}", state(netlink)?);
        ensure!(HostChanges::recover(journal)? == 0);
        // The interface itself may be gone by then, or its number another's.
        let mut changes = HostChanges::begin(journal)?;
        make_changes(&mut changes, index)?;
        drop(changes);
        netlink.remove_link(index)?;
        ensure!(HostChanges::recover(journal)? >= 4 && !journal.exists());
        Ok(())
    })
}

fn what_was_there_stays() -> Result<()> {
    on_a_host_with_a_bridge(|netlink, journal| {
        let index = netlink.existing_link("vpn0")?.index;
        netlink.set_up("vpn0", true)?;
        netlink.add_address(index, cidr("10.77.0.1/24"))?;
        let replaced = Route { index: Some(index), ..Route::via(cidr("10.88.0.0/16"), "10.77.0.7".parse()?) };
        netlink.add_route(&replaced)?;
        let before = state(netlink)?;
        let mut changes = HostChanges::begin(journal)?;
        make_changes(&mut changes, index)?;
        ensure!(!netlink.routes()?.iter().any(|route| route.gateway == replaced.gateway), "replaced");
        changes.undo()?;
        ensure!(state(netlink)? == before, "before:\n{before}\nafter:\n{}", state(netlink)?);
        Ok(())
    })
}

fn another_boot() -> Result<()> {
    on_a_host_with_a_bridge(|netlink, journal| {
        let mut changes = HostChanges::begin(journal)?;
        make_changes(&mut changes, netlink.existing_link("vpn0")?.index)?;
        drop(changes);
        let after = state(netlink)?;
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        let text = std::fs::read_to_string(journal)?.replace(boot.trim(), "another");
        std::fs::write(journal, text)?;
        ensure!(HostChanges::recover(journal)? == 0 && !journal.exists() && state(netlink)? == after);
        std::fs::write(journal, "{ not a journal")?;
        let error = HostChanges::recover(journal).err().context("it cannot be read")?.to_string();
        ensure!(error.contains("journal"), "{error}");
        Ok(())
    })
}

fn monitor() -> Result<()> {
    on_a_host_with_a_bridge(|netlink, _| {
        let mut monitor = Monitor::open()?;
        monitor.drain()?;
        ensure!(!monitor.drain()?, "quiet");
        let index = netlink.existing_link("vpn0")?.index;
        netlink.set_up("vpn0", true)?;
        netlink.add_address(index, cidr("192.0.2.1/24"))?;
        let mut fds = [PollFd::new(monitor.as_fd(), PollFlags::POLLIN)];
        ensure!(poll(&mut fds, PollTimeout::from(1000u16))? == 1);
        ensure!(monitor.drain()?);
        ensure!(local_addresses(&[])? == ["192.0.2.1".parse::<IpAddr>()?]);
        ensure!(local_addresses(&["vpn0"])?.is_empty());
        Ok(())
    })
}

fn overlaps() -> Result<()> {
    on_a_host_with_a_bridge(|netlink, _| {
        let index = netlink.existing_link("vpn0")?.index;
        netlink.set_up("vpn0", true)?;
        netlink.add_address(index, cidr("192.168.7.1/24"))?;
        netlink.add_route(&Route::via(Cidr::everything(false), "192.168.7.2".parse()?))?;
        let found = overlapping(&cidr("192.168.0.0/16"), "annulus0")?;
        ensure!(found == [(cidr("192.168.7.0/24"), "vpn0".to_owned())], "{found:?}");
        ensure!(overlapping(&cidr("192.168.0.0/16"), "vpn0")?.is_empty());
        ensure!(overlapping(&cidr("10.0.0.0/8"), "annulus0")?.is_empty());
        Ok(())
    })
}
