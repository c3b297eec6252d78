//! What relaying costs beside being an end: CPU seconds per GB of inner packets of a relay and of each end, over real sockets and TUN devices.
//!
//! One thread plays all parts in turn, so that each part's time is its own whatever else the machine does: an application sends UDP super-packets into the
//! sender's TUN device; the sender reads, splits, seals and sends them; the receiver takes them, opens, merges and writes them. In the other turns the same
//! datagrams go to a relay instead, through a circuit with its checks and its quota, and from there to the receiver's socket. The kernel's work within
//! the calls of a part counts as that part's.

#[path = "../../tun-bridge/benches/common/mod.rs"]
mod common;

use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::time::Duration;

use annulus_core::batch::Slot;
use annulus_core::events::Event;
use annulus_core::io::{Endpoint, RealmSlot};
use annulus_core::pump::{Driver, Received};
use annulus_core::wire::packet::{RELAY_HEADER_LEN, RelayHeader};
use annulus_daemon::udp::{UdpOptions, UdpSocket};
use annulus_lab::Host;
use annulus_tun_bridge::netlink::Netlink;
use annulus_tun_bridge::{Cidr, Tun, TunConfig, sys};
use anyhow::{Context, Result, ensure};
use nix::libc;
use nix::time::{ClockId, clock_gettime};

use common::{CIRCUIT, ONWARD_CIRCUIT, PACKET, SEGMENTS, World, outer};

/// Super-packets in one turn of each kind, and turns.
const TURN: usize = 64;
const ROUNDS: usize = 60;
/// Super-packets that are under way at once: what the engine takes in one pass.
const PASS: usize = 4;
/// Payload of a UDP packet that is [`PACKET`] bytes long.
const PAYLOAD: usize = PACKET - 28;

/// CPU time of this thread in s.
fn cpu() -> f64 {
    let time: Duration = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("Linux has this clock").into();
    time.as_secs_f64()
}

/// Sends on a real socket and writes to a real device.
struct Real<'a> {
    socket: &'a mut UdpSocket,
    tun: &'a mut dyn Tun,
    to: SocketAddr,
    delivered: usize,
}

impl Driver for Real<'_> {
    fn transmit(&mut self, _: Endpoint, buf: &[u8], slots: &[Slot]) {
        self.socket.send(self.to, buf, slots).expect("the socket works");
    }
    fn deliver(&mut self, _: RealmSlot, buf: &[u8], slots: &[Slot]) {
        self.delivered += self.tun.send(buf, slots).expect("the device works").packets;
    }
    fn event(&mut self, _: RealmSlot, _: Event) {}
}

/// A host with an application's socket and a TUN device whose address it has.
struct End {
    _host: Host,
    tun: Box<dyn Tun>,
    application: std::net::UdpSocket,
}

impl End {
    fn new(name: &str, address: [u8; 4]) -> Result<Self> {
        let host = Host::new(name)?;
        let (tun, application) = host.run(move || -> Result<_> {
            let tun = annulus_tun_bridge::open(&TunConfig { name: "tun0".into(), ..TunConfig::default() })?.remove(0);
            let mut netlink = Netlink::open()?;
            netlink.set_up("tun0", true)?;
            let index = netlink.existing_link("tun0")?.index;
            netlink.add_address(index, Cidr::new(IpAddr::from(address), 16).context("16 bits are fine")?)?;
            let application = std::net::UdpSocket::bind((IpAddr::from(address), 9))?;
            application.set_nonblocking(true)?;
            Ok((tun, application))
        })??;
        // Super-packets reach the application whole.
        sys::set_option(application.as_fd(), libc::SOL_UDP, libc::UDP_GRO, 1)?;
        Ok(Self { _host: host, tun, application })
    }

    fn drain(&self) {
        let mut buf = [0; 65_536];
        while self.application.recv(&mut buf).is_ok() {}
    }
}

struct Lab {
    world: World,
    near: End,
    far: End,
    /// Sockets of sender, relay and receiver.
    sockets: [UdpSocket; 3],
    buf: Vec<u8>,
    slots: Vec<Slot>,
    received: Vec<Received>,
}

impl Lab {
    fn new() -> Result<Self> {
        let world = World::new();
        for number in [0, 1, 9] {
            Netlink::open()?.add_address(1, Cidr::new(outer(number).ip(), 32).context("32 bits are fine")?)?;
        }
        let bind = |number| UdpSocket::bind(outer(number), 0, UdpOptions::default());
        let sockets = [bind(0)?, bind(9)?, bind(1)?];
        let [near, far] = world.addresses;
        let (near, far) = (End::new("near", near)?, End::new("far", far)?);
        ensure!(near.tun.features().uso && sockets.iter().all(UdpSocket::gro), "this kernel lacks UDP segmentation offload");
        Ok(Self {
            world,
            near,
            far,
            sockets,
            buf: vec![0; 32 * 65_536],
            slots: vec![Slot::default(); 256],
            received: Vec::with_capacity(64),
        })
    }

    /// The application sends [`PASS`] super-packets into the sender's device.
    fn offer(&mut self) -> Result<()> {
        let payload = vec![7; PAYLOAD * SEGMENTS];
        let to = SocketAddr::from((self.world.addresses[1], 9));
        for _ in 0..PASS {
            sys::send_datagrams(self.near.application.as_fd(), &to, &[IoSlice::new(&payload)], Some(PAYLOAD as u16), 0)?;
        }
        Ok(())
    }

    /// One pass from end to end; CPU seconds of the sender and of the receiver.
    fn direct(&mut self) -> Result<[f64; 2]> {
        self.offer()?;
        let [socket, _, far_socket] = &mut self.sockets;
        self.world.near.wire.measuring = false;
        let begin = cpu();
        let count = take(&mut *self.near.tun, &mut self.buf, &mut self.slots)?;
        let mut driver = Real { socket, tun: &mut *self.near.tun, to: outer(1), delivered: 0 };
        let host = &mut self.world.near;
        host.pump.packets(RealmSlot(0), &mut host.scratch, &mut self.buf, &mut self.slots[..count], &mut driver, self.world.now);
        let sender = cpu() - begin;
        ensure!(count == PASS * SEGMENTS, "{count} packets came from the device");
        let begin = cpu();
        far_socket.receive(&mut self.buf, &mut self.received)?;
        let mut driver = Real { socket: far_socket, tun: &mut *self.far.tun, to: outer(0), delivered: 0 };
        let host = &mut self.world.far;
        host.pump.datagrams(&mut host.scratch, &mut self.buf, &self.received, &mut driver, self.world.now);
        let receiver = cpu() - begin;
        ensure!(driver.delivered == count, "{} of {count} packets arrived", driver.delivered);
        self.far.drain();
        Ok([sender, receiver])
    }

    /// One pass through the relay's circuit; its CPU seconds.
    fn relayed(&mut self, circuit: u32) -> Result<f64> {
        self.offer()?;
        let count = take(&mut *self.near.tun, &mut self.buf, &mut self.slots)?;
        let host = &mut self.world.near;
        host.wire.measuring = true;
        host.wire.runs.clear();
        host.wire.slots.clear();
        host.pump.packets(RealmSlot(0), &mut host.scratch, &mut self.buf, &mut self.slots[..count], &mut host.wire, self.world.now);
        let mut sealed = Vec::with_capacity(self.buf.len());
        let mut slots = Vec::with_capacity(count);
        for slot in &host.wire.slots {
            let len = slot.len + RELAY_HEADER_LEN as u16;
            slots.push(Slot { start: sealed.len() as u32, len, ..*slot });
            sealed.extend(RelayHeader { hops_left: 3, circuit }.bytes());
            sealed.extend(&self.buf[slot.range()]);
        }
        let [near, relay, far] = &mut self.sockets;
        near.send(outer(9), &sealed, &slots)?;
        let begin = cpu();
        relay.receive(&mut self.buf, &mut self.received)?;
        let mut driver = Real { socket: relay, tun: &mut *self.near.tun, to: outer(1), delivered: 0 };
        let host = &mut self.world.relay;
        host.pump.datagrams(&mut host.scratch, &mut self.buf, &self.received, &mut driver, self.world.now);
        let spent = cpu() - begin;
        far.receive(&mut self.buf, &mut self.received)?;
        let arrived: usize = self.received.iter().map(|message| message.len.div_ceil(message.stride)).sum();
        ensure!(arrived == count && count == PASS * SEGMENTS, "{arrived} of {count} datagrams came through the relay");
        Ok(spent)
    }
}

/// Reads what is there and keeps the application's packets: a new interface also asks for routers and multicast groups.
fn take(tun: &mut dyn Tun, buf: &mut [u8], slots: &mut [Slot]) -> Result<usize> {
    let count = tun.recv(buf, slots)?;
    let mut kept = 0;
    for at in 0..count {
        if usize::from(slots[at].len) == PACKET {
            slots[kept] = slots[at];
            kept += 1;
        }
    }
    Ok(kept)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[allow(clippy::print_stdout)]
fn main() -> Result<()> {
    annulus_lab::child_main();
    if let Err(error) = annulus_lab::probe().and_then(|()| annulus_lab::enter_user_namespace()) {
        println!("SKIPPED: {error:#}");
        return Ok(());
    }
    Netlink::open()?.set_up("lo", true)?;
    // `cargo test --benches` wants to know that it runs, not how fast.
    let rounds = if std::env::args().any(|argument| argument == "--bench") { ROUNDS } else { 1 };
    let mut lab = Lab::new()?;
    let gigabytes = (TURN * SEGMENTS * PACKET) as f64 / 1e9;
    let [mut sender, mut receiver, mut last, mut onward, mut ratio] = [(); 5].map(|()| Vec::with_capacity(rounds));
    for _ in 0..rounds {
        let mut spent = [0.0; 4];
        for _ in 0..TURN / PASS {
            lab.world.now += Duration::from_millis(1);
            let [sender, receiver] = lab.direct()?;
            let relays = [lab.relayed(CIRCUIT)?, lab.relayed(ONWARD_CIRCUIT)?];
            for (sum, more) in spent.iter_mut().zip([sender, receiver, relays[0], relays[1]]) {
                *sum += more / gigabytes;
            }
        }
        sender.push(spent[0]);
        receiver.push(spent[1]);
        last.push(spent[2]);
        onward.push(spent[3]);
        ratio.push(spent[2] * 2.0 / (spent[0] + spent[1]));
    }
    println!("CPU seconds per GB of inner packets");
    for (name, values) in
        [("sending end", &mut sender), ("receiving end", &mut receiver), ("relay, last hop", &mut last), ("relay, onward", &mut onward)]
    {
        println!("{name:<18}{:>8.3}", median(values));
    }
    println!("relay against the mean of both ends: {:.3} (limit 0.5, aim 0.3)", median(&mut ratio));
    let relay = lab.sockets[1].stats();
    let datagrams = relay.send_datagrams.max(1) as f64;
    let (receives, sends) = (relay.receive_calls as f64 / datagrams * 1e3, relay.send_calls as f64 / datagrams * 1e3);
    println!("system calls of the relay per 1,000 datagrams: {receives:.1} receives, {sends:.1} sends");
    Ok(())
}
