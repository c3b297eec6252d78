//! What finding costs in tables with one entry, with 1,000 and at their bounds: ns per packet and the ratio to one entry.
//!
//! Everything is measured from outside: by packets that a shard finds everything for and then refuses before it would seal or open them. The sizes take
//! turns, so that whatever else the machine does hits all; the ratio is the median over the rounds.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU8;

use annulus_core::batch::{Batch, HEADROOM, Slot, TAILROOM};
use annulus_core::crypto::Cipher;
use annulus_core::io::{Endpoint, Path, Punt, RealmSlot, ShardId, Verdict};
use annulus_core::paths::{MAX_PATHS, PathTable};
use annulus_core::rng::Rng;
use annulus_core::shard::table::{DataKeys, Install, PeerId, Prefix, SessionId, TableUpdate, Way};
use annulus_core::shard::{DEFAULT_FLOWS, MAX_CIRCUITS, MAX_ROUTES, MAX_SESSIONS, Shard, ShardSettings};
use annulus_core::time::Instant;

/// Packets of a batch, and bytes of each with the room around it.
const PACKETS: usize = 64;
const STRIDE: usize = 128;
/// Batches in one turn, and turns.
const TURN: usize = 64;
const ROUNDS: usize = 201;

/// A table with entries, and packets that look for them in a random order.
struct Setup {
    entries: usize,
    shard: Shard,
    paths: PathTable,
    path: Path,
    rng: Rng,
    buf: Vec<u8>,
    slots: Vec<Slot>,
}

impl Setup {
    fn new(entries: usize) -> Self {
        let mut paths = PathTable::new(&mut Rng::new([0; 32]));
        let path = paths.intern(remote(0));
        // Of two workers the other one owns the odd indices, so that a shard that has found such a session stops there.
        let workers = NonZeroU8::new(2).expect("2 is not 0");
        let mut shard = Shard::new(ShardSettings::new(ShardId(0), RealmSlot(0), workers, 1));
        shard.set_local(&[Prefix::host(IpAddr::from([10, 255, 0, 1]))], &[]);
        Self {
            entries,
            shard,
            paths,
            path,
            rng: Rng::new([entries as u8; 32]),
            buf: vec![0; PACKETS * STRIDE],
            slots: vec![Slot::default(); PACKETS],
        }
    }

    /// A session on which nothing fits, so that a packet is refused when everything has been found for it.
    fn install(&mut self, session: u32, peer: u32) {
        let way = Way { path: self.path, circuit: None, routed: false, whole: u16::MAX, mtu: 0, rtt: None };
        let keys = DataKeys { send: [1; 32], receive: [session as u8; 32] };
        let (session, peer) = (SessionId(session), PeerId(peer));
        let rekey_at = Instant::from_secs(1_000_000);
        let install = Install { session, peer, remote_index: 5, keys, cipher: Cipher::Aes256Gcm, way, rekey_at };
        self.shard.apply(TableUpdate::Install(Box::new(install)), Instant::ZERO);
        self.shard.apply(TableUpdate::Promote { peer, session }, Instant::ZERO);
    }

    fn fill(&mut self, mut write: impl FnMut(&mut [u8], u32)) {
        for (n, slot) in self.slots.iter_mut().enumerate() {
            let start = n * STRIDE + HEADROOM;
            let len = STRIDE - HEADROOM - TAILROOM;
            write(&mut self.buf[start..start + len], self.rng.below(self.entries as u64) as u32);
            *slot = Slot { start: start as u32, len: len as u16, from: self.path, ..Slot::default() };
        }
    }

    /// Seconds for the batch in the shard.
    fn shard_time(&mut self, sealing: bool, expected: impl Fn(Verdict) -> bool) -> f64 {
        let begin = clock();
        let mut batch = Batch { buf: &mut self.buf, slots: &mut self.slots };
        if sealing {
            self.shard.seal(&mut batch, Instant::ZERO);
        } else {
            self.shard.open(&mut batch, Instant::ZERO);
        }
        let spent = clock() - begin;
        assert!(self.slots.iter().all(|slot| expected(slot.verdict)), "{:?}", self.slots[0].verdict);
        spent
    }
}

/// A table of a shard or of a node.
#[derive(Clone, Copy, Debug)]
enum Table {
    Routes,
    Flows,
    Sessions,
    Circuits,
    Paths,
}

impl Table {
    const ALL: [(Self, &'static str, usize); 5] = [
        (Self::Routes, "routes", MAX_ROUTES),
        (Self::Flows, "flows", DEFAULT_FLOWS as usize),
        (Self::Sessions, "sessions by index", MAX_SESSIONS),
        (Self::Circuits, "circuits", MAX_CIRCUITS),
        (Self::Paths, "paths by address", MAX_PATHS),
    ];

    fn set_up(self, entries: usize) -> Setup {
        let mut setup = Setup::new(entries);
        let peer = PeerId(0);
        match self {
            Self::Routes | Self::Flows => {
                setup.install(2, 0);
                let routes = if matches!(self, Self::Routes) { entries as u32 } else { 1 };
                for n in 0..routes {
                    setup.shard.apply(TableUpdate::Route { prefix: Prefix::host(inner(n)), peer }, Instant::ZERO);
                }
            }
            Self::Sessions => (0..entries as u32).for_each(|n| setup.install(2 * n + 1, n)),
            Self::Circuits => {
                let (from, to) = (setup.path, setup.path);
                for n in 0..entries as u32 {
                    setup.shard.apply(TableUpdate::Circuit { index: 2 * n, from, to, next_index: Some(1), rate: u64::MAX }, Instant::ZERO);
                }
            }
            Self::Paths => (0..entries as u32).for_each(|n| {
                setup.paths.intern(remote(n));
            }),
        }
        setup
    }

    /// Seconds for one batch.
    fn time(self, setup: &mut Setup) -> f64 {
        match self {
            Self::Routes | Self::Flows => {
                let routes = matches!(self, Self::Routes);
                setup.fill(|packet, n| {
                    packet.fill(0);
                    packet[..4].copy_from_slice(&[0x45, 0, 0, (STRIDE - HEADROOM - TAILROOM) as u8]);
                    packet[8..10].copy_from_slice(&[64, 17]);
                    packet[12..16].copy_from_slice(&[10, 255, 0, 1]);
                    let IpAddr::V4(to) = inner(if routes { n } else { 0 }) else { return };
                    packet[16..20].copy_from_slice(&to.octets());
                    packet[20..22].copy_from_slice(&(if routes { 0 } else { n as u16 }).to_be_bytes());
                });
                setup.shard_time(true, |verdict| verdict == Verdict::Punt(Punt::TooBig))
            }
            Self::Sessions => {
                setup.fill(|packet, n| packet[..4].copy_from_slice(&((0xb0 << 24) | (2 * n + 1)).to_be_bytes()));
                setup.shard_time(false, |verdict| verdict == Verdict::Punt(Punt::WrongShard))
            }
            Self::Circuits => {
                setup.fill(|packet, n| {
                    packet[..4].copy_from_slice(&((0xc5 << 24) | (2 * n)).to_be_bytes());
                    packet[4] = 0xb0;
                });
                setup.shard_time(false, |verdict| matches!(verdict, Verdict::Transmit(_)))
            }
            Self::Paths => {
                let wanted: Vec<Endpoint> = (0..PACKETS).map(|_| remote(setup.rng.below(setup.entries as u64) as u32)).collect();
                let begin = clock();
                for endpoint in &wanted {
                    let path = setup.paths.intern(*endpoint);
                    black_box(setup.paths.resolve(path));
                }
                clock() - begin
            }
        }
    }
}

fn inner(n: u32) -> IpAddr {
    IpAddr::from((0x0a00_0001 + n).to_be_bytes())
}

fn remote(n: u32) -> Endpoint {
    Endpoint::Udp { socket: 0, remote: SocketAddr::from((Ipv4Addr::from(0xc000_0200 + n), 4242)) }
}

/// Seconds on a clock of the host: this is a measurement, not the protocol.
#[allow(clippy::disallowed_types, clippy::disallowed_methods)]
fn clock() -> f64 {
    static ORIGIN: std::sync::LazyLock<std::time::Instant> = std::sync::LazyLock::new(std::time::Instant::now);
    ORIGIN.elapsed().as_secs_f64()
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[allow(clippy::print_stdout)]
fn main() {
    // `cargo test --benches` wants to know that it runs, not how fast.
    let rounds = if std::env::args().any(|argument| argument == "--bench") { ROUNDS } else { 1 };
    for (table, name, bound) in Table::ALL {
        let mut setups = [1, 1_000, bound].map(|entries| table.set_up(entries));
        let mut times = [(); 3].map(|()| Vec::with_capacity(rounds));
        let mut ratios = [(); 3].map(|()| Vec::with_capacity(rounds));
        for _ in 0..rounds {
            let spent = [0, 1, 2].map(|at| (0..TURN).map(|_| table.time(&mut setups[at])).sum::<f64>() / (TURN * PACKETS) as f64);
            for at in 0..3 {
                times[at].push(spent[at]);
                ratios[at].push(spent[at] / spent[0]);
            }
        }
        for at in 0..3 {
            let entries = setups[at].entries;
            println!("{name:<20} {entries:>6} entries {:>7.1} ns  ratio {:.2}", median(&mut times[at]) * 1e9, median(&mut ratios[at]));
        }
    }
}
