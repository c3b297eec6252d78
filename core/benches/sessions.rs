//! What a further session costs a daemon: heap and resident bytes of a process with one node and its shard, with a few and with many sessions on which
//! packets went both ways. All nodes are whole ones with real crypto, found each other over the ring, and are joined by pipes in virtual time.
//! `cargo bench -p annulus-core --bench sessions -- --sessions 1000` takes minutes.

#[path = "../tests/counting/mod.rs"]
mod counting;

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::time::Duration;

use annulus_core::batch::{HEADROOM, Slot, TAILROOM};
use annulus_core::config::Config;
use annulus_core::events::Event;
use annulus_core::group::{Authority, Parameters, Profile};
use annulus_core::io::{Endpoint, RealmSlot, ShardId, TrafficClass};
use annulus_core::node::Node;
use annulus_core::pump::{Driver, Pump, Received, Scratch};
use annulus_core::rng::Rng;
use annulus_core::shard::table::Prefix;
use annulus_core::shard::{Shard, ShardSettings};
use annulus_core::time::{Instant, UnixTime};

/// Nodes that send the hub packets, unless `--sessions N` says otherwise.
const LEAVES: u32 = 300;
const WALL: UnixTime = UnixTime(1_800_000_000);
/// A datagram is that long under way.
const STEP: Duration = Duration::from_millis(10);
/// Virtual time in s for the ring to close, and for all sessions to be established.
const CLOSE: u64 = 20;
const ESTABLISH: u64 = 10;
/// Nodes that start, or send their first packet, in one step.
const AT_ONCE: usize = 5;
/// Bytes per further session, resident, that the requirements allow.
const LIMIT: u64 = 8_192;

/// Datagrams on their way: who sent or gets them, and the bytes.
type Mail = Vec<(u32, Vec<u8>)>;

#[derive(Default)]
struct Wire {
    sent: VecDeque<(SocketAddr, Vec<u8>)>,
    delivered: Vec<Vec<u8>>,
}

impl Driver for Wire {
    fn transmit(&mut self, to: Endpoint, buf: &[u8], slots: &[Slot]) {
        if let Endpoint::Udp { remote, .. } = to {
            self.sent.extend(slots.iter().map(|slot| (remote, buf[slot.range()].to_vec())));
        }
    }

    fn deliver(&mut self, _: RealmSlot, buf: &[u8], slots: &[Slot]) {
        self.delivered.extend(slots.iter().map(|slot| buf[slot.range()].to_vec()));
    }

    fn event(&mut self, _: RealmSlot, _: Event) {}
}

struct Host {
    pump: Pump,
    wire: Wire,
    deadline: Option<Instant>,
}

/// The outer address of host `number`; 0 is the hub.
fn outer(number: u32) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::from(0x5000_0001 + number), 4242))
}

fn number(address: SocketAddr) -> u32 {
    if let SocketAddr::V4(v4) = address { u32::from(*v4.ip()).wrapping_sub(0x5000_0001) } else { u32::MAX }
}

impl Host {
    fn new(authority: &Authority, at: u32, now: Instant) -> Self {
        let mut rng = Rng::new([1; 32]).fork(&at.to_string());
        let identity =
            authority.enrol(&Profile::new("somebody", &format!("host{at}"), WALL), &mut rng).expect("a fresh name can be enrolled");
        let mut config = Config::new(Prefix::new(IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 0]), 64));
        config.bootstrap = if at > 0 { vec![outer(0)] } else { Vec::new() };
        let shard = Shard::new(ShardSettings::new(ShardId(0), config.realm, config.workers, rng.next_u64()));
        let mut pump = Pump::new();
        assert!(pump.add(Node::new(config, identity, authority.trust(), rng.bytes(), now, WALL), shard));
        Self { pump, wire: Wire::default(), deadline: Some(now) }
    }

    fn settle(&mut self, scratch: &mut Scratch, now: Instant) {
        self.deadline = self.pump.settle(scratch, &mut self.wire, now).map(|(deadline, _)| deadline);
    }

    fn receive(&mut self, scratch: &mut Scratch, from: u32, mut datagram: Vec<u8>, now: Instant) {
        let (len, from) = (datagram.len(), Endpoint::Udp { socket: 0, remote: outer(from) });
        let received = Received { start: 0, len, stride: len, from, class: TrafficClass(0) };
        self.pump.datagrams(scratch, &mut datagram, &[received], &mut self.wire, now);
        self.settle(scratch, now);
    }

    /// Sends a UDP packet without payload between two inner addresses.
    fn send(&mut self, scratch: &mut Scratch, from: [u8; 16], to: [u8; 16], now: Instant) {
        let mut buf = vec![0; HEADROOM];
        buf.extend([0x60, 0, 0, 0, 0, 8, 17, 64]);
        buf.extend(from.iter().chain(&to));
        buf.extend([0, 1, 0, 2, 0, 8, 0, 0]);
        let mut slots = [Slot { start: HEADROOM as u32, len: (buf.len() - HEADROOM) as u16, ..Slot::default() }];
        buf.extend([0; TAILROOM]);
        self.pump.packets(RealmSlot(0), scratch, &mut buf, &mut slots, &mut self.wire, now);
        self.settle(scratch, now);
    }

    fn inner(&self, now: Instant) -> [u8; 16] {
        let addresses = self.pump.realms()[0].node.status(now).addresses;
        addresses.iter().find_map(|address| if let IpAddr::V6(v6) = address { Some(v6.octets()) } else { None }).unwrap_or_default()
    }

    fn peers(&self, now: Instant) -> u64 {
        self.pump.realms()[0].node.status(now).peers.len() as u64
    }
}

fn authority() -> Authority {
    Authority::init(&Parameters::new("example"), &mut Rng::new([9; 32]), WALL).expect("fixed parameters are fine")
}

/// Numbers that the hub tells of itself.
#[derive(Clone, Copy, Debug, Default)]
struct Report {
    peers: u64,
    heap: u64,
    resident: u64,
}

fn write_mail(out: &mut impl Write, head: u64, mail: &Mail) -> io::Result<()> {
    out.write_all(&head.to_le_bytes())?;
    out.write_all(&(mail.len() as u64).to_le_bytes())?;
    for (who, bytes) in mail {
        out.write_all(&u64::from(*who).to_le_bytes())?;
        out.write_all(&(bytes.len() as u64).to_le_bytes())?;
        out.write_all(bytes)?;
    }
    out.flush()
}

fn read_number(input: &mut impl Read) -> io::Result<u64> {
    let mut bytes = [0; 8];
    input.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

fn read_mail(input: &mut impl Read) -> io::Result<(u64, Mail)> {
    let head = read_number(input)?;
    let mut mail = Vec::new();
    for _ in 0..read_number(input)? {
        let who = read_number(input)? as u32;
        let mut bytes = vec![0; read_number(input)? as usize];
        input.read_exact(&mut bytes)?;
        mail.push((who, bytes));
    }
    Ok((head, mail))
}

/// kB of the line `name` in what the kernel says of this process's memory.
fn memory(name: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap_or_default();
    text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// The hub's process: takes datagrams with the time, answers with what it sends, its deadline and its numbers.
fn hub() -> io::Result<()> {
    let (mut input, mut output) = (BufReader::new(io::stdin().lock()), BufWriter::new(io::stdout().lock()));
    let mut now = Instant::from_secs(1);
    let mut host = Host::new(&authority(), 0, now);
    let mut scratch = Scratch::default();
    while let Ok((head, mail)) = read_mail(&mut input) {
        // The lowest bit asks for the numbers.
        now = now.max(Instant::from_micros(head / 2));
        for (from, datagram) in mail {
            host.receive(&mut scratch, from, datagram, now);
        }
        for packet in std::mem::take(&mut host.wire.delivered) {
            // An answer, as an application would.
            if let (Some(from), Some(to)) = (packet.get(24..).and_then(<[u8]>::first_chunk), packet.get(8..).and_then(<[u8]>::first_chunk))
            {
                host.send(&mut scratch, *from, *to, now);
            }
        }
        host.settle(&mut scratch, now);
        let deadline = host.deadline.map_or(u64::MAX, Instant::as_micros);
        let sent = std::mem::take(&mut host.wire.sent).into_iter().map(|(to, bytes)| (number(to), bytes)).collect();
        write_mail(&mut output, deadline, &sent)?;
        if head % 2 == 0 {
            continue;
        }
        drop(sent);
        for number in [counting::bytes_in_use() as u64, memory("Private_Dirty:") * 1024, host.peers(now)] {
            output.write_all(&number.to_le_bytes())?;
        }
        output.write_all(&host.inner(now))?;
        output.flush()?;
    }
    Ok(())
}

struct World<R, W> {
    leaves: Vec<Host>,
    scratch: Scratch,
    to_hub: W,
    from_hub: R,
    hub_deadline: u64,
    under_way: BTreeMap<u32, Mail>,
    now: Instant,
}

impl<R: Read, W: Write> World<R, W> {
    /// One step of time for all hosts.
    fn step(&mut self) -> io::Result<()> {
        self.now += STEP;
        let now = self.now;
        let mut mail = std::mem::take(&mut self.under_way);
        let for_hub = mail.remove(&0).unwrap_or_default();
        for (at, leaf) in (1..).zip(&mut self.leaves) {
            for (from, datagram) in mail.remove(&at).unwrap_or_default() {
                leaf.receive(&mut self.scratch, from, datagram, now);
            }
            if leaf.deadline.is_some_and(|deadline| deadline <= now) {
                leaf.settle(&mut self.scratch, now);
            }
            leaf.wire.delivered.clear();
            for (to, bytes) in leaf.wire.sent.drain(..) {
                self.under_way.entry(number(to)).or_default().push((at, bytes));
            }
        }
        if !for_hub.is_empty() || self.hub_deadline <= now.as_micros() {
            self.ask_hub(&for_hub, false)?;
        }
        Ok(())
    }

    fn ask_hub(&mut self, mail: &Mail, report: bool) -> io::Result<()> {
        write_mail(&mut self.to_hub, 2 * self.now.as_micros() + u64::from(report), mail)?;
        let (deadline, sent) = read_mail(&mut self.from_hub)?;
        self.hub_deadline = deadline;
        for (to, bytes) in sent {
            self.under_way.entry(to).or_default().push((0, bytes));
        }
        Ok(())
    }

    /// Adds leaves up to `count`, lets the ring close, and has all of them send the hub a packet; the hub's numbers after that.
    fn grow(&mut self, count: u32) -> io::Result<Report> {
        let authority = authority();
        for at in self.leaves.len() as u32 + 1..=count {
            self.leaves.push(Host::new(&authority, at, self.now));
            if (at as usize).is_multiple_of(AT_ONCE) {
                self.step()?;
            }
        }
        self.run(CLOSE)?;
        let (_, hub) = self.report()?;
        for at in 0..self.leaves.len() {
            let leaf = &mut self.leaves[at];
            let from = leaf.inner(self.now);
            leaf.send(&mut self.scratch, from, hub, self.now);
            if at.is_multiple_of(AT_ONCE) {
                self.step()?;
            }
        }
        self.run(ESTABLISH)?;
        Ok(self.report()?.0)
    }

    /// The hub's numbers and its inner address.
    fn report(&mut self) -> io::Result<(Report, [u8; 16])> {
        self.ask_hub(&Vec::new(), true)?;
        let mut next = || read_number(&mut self.from_hub);
        let report = Report { heap: next()?, resident: next()?, peers: next()? };
        let mut inner = [0; 16];
        self.from_hub.read_exact(&mut inner)?;
        Ok((report, inner))
    }

    fn run(&mut self, seconds: u64) -> io::Result<()> {
        (0..seconds * 100).try_for_each(|_| self.step())
    }
}

#[allow(clippy::print_stdout)]
fn main() -> io::Result<()> {
    if std::env::args().any(|argument| argument == "--hub") {
        return hub();
    }
    // `cargo test --benches` wants to know that it runs, not what comes out.
    let default = if std::env::args().any(|argument| argument == "--bench") { LEAVES } else { 20 };
    let wanted = std::env::args().skip_while(|argument| argument != "--sessions").nth(1);
    let count = wanted.and_then(|number| number.parse().ok()).unwrap_or(default);
    let mut child = Command::new(std::env::current_exe()?).arg("--hub").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let (to_hub, from_hub) = (child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?, child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?);
    let mut world = World {
        leaves: Vec::new(),
        scratch: Scratch::default(),
        to_hub: BufWriter::new(to_hub),
        from_hub: BufReader::new(from_hub),
        hub_deadline: 0,
        under_way: BTreeMap::new(),
        now: Instant::from_secs(1),
    };
    // What exists once, whatever the number of sessions, is there after the first.
    let before = world.grow(count / 10)?;
    let after = world.grow(count)?;
    drop(world);
    child.wait()?;
    let further = after.peers.saturating_sub(before.peers).max(1);
    println!("                 sessions     heap, kB resident, kB");
    for (name, report) in [("a tenth", before), ("all", after)] {
        println!("{name:<16} {:>8} {:>12} {:>12}", report.peers, report.heap / 1024, report.resident / 1024);
    }
    let [heap, resident] = [after.heap - before.heap, after.resident - before.resident].map(|bytes| bytes / further);
    println!("per further session: {heap} bytes of heap, {resident} bytes resident (limit {LIMIT})");
    assert!(after.peers >= u64::from(count), "the hub has a session with each");
    Ok(())
}
