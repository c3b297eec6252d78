//! One peer, one round: every figure in an order that lets none disturb the next.

use std::thread::sleep;
use std::time::Duration;

use anyhow::Result;

use crate::bed::Bed;
use crate::figures::Figures;
use crate::iperf::{self, Arrived, Load, Sending};
use crate::ping::{self, INTERVAL_MS};
use crate::plugin::Plugin;
use crate::running::Running;
use crate::{syscalls, usage, wire};

/// How a run measures.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// s of each load.
    pub(crate) seconds: u64,
    /// Whether the cable cuts and merges.
    pub(crate) offload: bool,
}

/// What came out.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    /// The figures that could be measured.
    pub(crate) figures: Figures,
    /// What could not, and why.
    pub(crate) errors: Vec<String>,
}

/// Payload bytes of the larger inner UDP packets: they fit the tunnel MTU of every peer.
const LARGE: u16 = 1_200;
/// After the first answer, before anything is measured: peers still talk to each other then.
const SETTLE: Duration = Duration::from_millis(700);
/// Between the start of a load and the first echo beside it.
const RAMP: Duration = Duration::from_millis(500);
/// s of the load beside which echoes are sent, at least: too few of them have no 99th percentile.
const LOADED_SECONDS: u64 = 3;
/// ms for which it is watched what others use of the machine.
const WATCH_OTHERS_MS: u64 = 200;

/// Measures a peer once. What fails is noted, and the rest is measured all the same. `first` is the first round: system calls are counted in it.
#[must_use]
pub(crate) fn measure(plugin: &Plugin, settings: Settings, first: bool) -> Outcome {
    let mut outcome = Outcome::default();
    outcome.figures.insert("others_cpu", usage::busy(WATCH_OTHERS_MS));
    if let Err(error) = peer(plugin, settings, first, &mut outcome) {
        outcome.errors.push(format!("{error:#}"));
    }
    if let Some(options) = &plugin.plain_options {
        match plain(plugin, options, settings) {
            Ok(arrived) => drop(outcome.figures.insert("udp1200_plain_mbit_per_s", arrived.mbit_per_s)),
            Err(error) => outcome.errors.push(format!("with {options}: {error:#}")),
        }
    }
    outcome
}

fn peer(plugin: &Plugin, settings: Settings, first: bool, outcome: &mut Outcome) -> Result<()> {
    let bed = Bed::new(settings.offload)?;
    let mut running = Running::start(&bed, plugin, plugin.options.as_deref())?;
    outcome.figures.insert("first_ping_ms", running.first_ping.as_secs_f64() * 1e3);
    sleep(SETTLE);
    let mut steps = Steps { running: &running, settings, outcome, loaded: usage::Memory::default() };
    steps.idle();
    steps.streams();
    steps.loaded_round_trips();
    steps.floods();
    steps.memory_under_load();
    if first {
        steps.step("system calls", |steps| {
            let calls = syscalls::per_megabyte(steps.running)?;
            steps.outcome.figures.extend(calls.map(|calls| ("syscalls_per_mb", calls)));
            Ok(())
        });
    }
    running.check_alive()
}

/// Inner UDP where each packet is read from the TUN device alone.
fn plain(plugin: &Plugin, options: &str, settings: Settings) -> Result<Arrived> {
    let bed = Bed::new(settings.offload)?;
    let options = format!("{} {options}", plugin.options.as_deref().unwrap_or_default());
    let running = Running::start(&bed, plugin, Some(&options))?;
    sleep(SETTLE);
    iperf::run(&bed.a, &bed.b, running.target(), Load::UdpFlood { size: LARGE }, settings.seconds)
}

struct Steps<'a> {
    running: &'a Running<'a>,
    settings: Settings,
    outcome: &'a mut Outcome,
    /// The largest memory seen so far.
    loaded: usage::Memory,
}

impl Steps<'_> {
    fn step(&mut self, what: &str, measure: impl FnOnce(&mut Self) -> Result<()>) {
        if let Err(error) = measure(self) {
            self.outcome.errors.push(format!("{what}: {error:#}"));
        }
    }

    fn set(&mut self, name: &'static str, value: f64) {
        self.outcome.figures.insert(name, value);
    }

    fn load(&self, load: Load) -> Result<Arrived> {
        let bed = self.running.bed();
        iperf::run(&bed.a, &bed.b, self.running.target(), load, self.settings.seconds)
    }

    /// Memory, round-trip times and the bytes on the wire while nothing else happens.
    fn idle(&mut self) {
        let pids = self.running.pids();
        if !pids.is_empty() {
            let memory = usage::memory(&pids);
            self.set("rss_kb_idle", memory.resident as f64);
            self.set("private_kb_idle", memory.private as f64);
        }
        self.step("round trips", |steps| {
            let count = steps.settings.seconds * 1000 / INTERVAL_MS;
            let times = ping::ping(&steps.running.bed().a, steps.running.target(), count)?;
            steps.set("rtt_idle_us", times.median);
            steps.set("rtt_idle_p99_us", times.p99);
            Ok(())
        });
        self.step("bytes on the wire", |steps| {
            let overhead = wire::overhead(steps.running)?;
            steps.set("wire_overhead_bytes", overhead);
            Ok(())
        });
    }

    /// TCP, one and four streams, each way; and what one stream costs.
    fn streams(&mut self) {
        let names = [
            ("tcp_x1_mbit_per_s", "tcp_x1_ab_mbit_per_s", "tcp_x1_ba_mbit_per_s", 1),
            ("tcp_x4_mbit_per_s", "tcp_x4_ab_mbit_per_s", "tcp_x4_ba_mbit_per_s", 4),
        ];
        for (mean, forth, back, streams) in names {
            let (mut rates, mut costs) = (Vec::new(), Vec::new());
            for (name, reverse) in [(forth, false), (back, true)] {
                self.step(name, |steps| {
                    let before = usage::cpu_seconds(&steps.running.pids());
                    let arrived = steps.load(Load::Tcp { streams, reverse })?;
                    costs.push((usage::cpu_seconds(&steps.running.pids()) - before) / (arrived.bytes / 1e9));
                    rates.push(arrived.mbit_per_s);
                    steps.set(name, arrived.mbit_per_s);
                    Ok(())
                });
                self.memory_under_load();
            }
            if let [forth, back] = rates[..] {
                self.set(mean, f64::midpoint(forth, back));
            }
            if let (1, [forth, back]) = (streams, &costs[..]) {
                self.set("cpu_s_per_gb", f64::midpoint(*forth, *back));
            }
        }
    }

    /// Round-trip times beside one TCP stream.
    fn loaded_round_trips(&mut self) {
        self.step("round trips under load", |steps| {
            let (bed, target) = (steps.running.bed(), steps.running.target());
            let seconds = steps.settings.seconds.max(LOADED_SECONDS);
            let load = Sending::start(&bed.a, &bed.b, target, Load::Tcp { streams: 1, reverse: false }, seconds)?;
            sleep(RAMP);
            let count = (seconds * 1000 - 2 * RAMP.as_millis() as u64) / INTERVAL_MS;
            let times = ping::ping(&bed.a, target, count);
            let arrived = load.finish()?;
            let times = times?;
            steps.set("rtt_loaded_ms", times.median / 1e3);
            steps.set("rtt_loaded_p99_ms", times.p99 / 1e3);
            steps.set("rtt_loaded_mbit_per_s", arrived.mbit_per_s);
            Ok(())
        });
        self.memory_under_load();
    }

    /// UDP as fast as the sender can, small and large.
    fn floods(&mut self) {
        self.step("UDP of 64 bytes", |steps| {
            let arrived = steps.load(Load::UdpFlood { size: 64 })?;
            steps.set("udp64_pps", arrived.packets_per_s);
            steps.set("udp64_loss", arrived.loss);
            Ok(())
        });
        self.memory_under_load();
        self.step("UDP of 1200 bytes", |steps| {
            let arrived = steps.load(Load::UdpFlood { size: LARGE })?;
            steps.set("udp1200_mbit_per_s", arrived.mbit_per_s);
            Ok(())
        });
        self.memory_under_load();
    }

    /// Takes the memory right after a load, when its buffers are still there.
    fn memory_under_load(&mut self) {
        let pids = self.running.pids();
        if pids.is_empty() {
            return;
        }
        let now = usage::memory(&pids);
        self.loaded.resident = self.loaded.resident.max(now.resident);
        self.loaded.private = self.loaded.private.max(now.private);
        self.set("rss_kb_loaded", self.loaded.resident as f64);
        self.set("private_kb_loaded", self.loaded.private as f64);
    }
}
