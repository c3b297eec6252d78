//! Peers side by side: every one of them once per round, so that a machine that changes its speed changes it for all.

use std::fs::{self, File, OpenOptions};
use std::io::{Seek, Write};
use std::path::PathBuf;

use annulus_daemon::exit::{Exit, Failure};
use anyhow::{Context, Result};
use clap::Args;
use serde_json::{Value, json};

use crate::plugin::{self, Kind};
use crate::ratios::Measured;
use crate::report::{Entry, Report};
use crate::round::{Settings, measure};
use crate::scene::{self, note, print};

/// Which peers, how often, how long.
#[derive(Args, Clone, Debug)]
pub struct Compare {
    /// Peers to measure, by name; without it all that are installed
    #[arg(long, value_delimiter = ',', value_name = "NAME,...")]
    peers: Vec<String>,
    /// How often each is measured
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Seconds of each load
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,
    /// Switch the cable's offloads off: every frame is then one of at most 1,500 bytes
    #[arg(long)]
    no_offload: bool,
    /// Write the result as JSON too; after each round, so that an end before the last one loses nothing
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Print the tables as Markdown
    #[arg(long)]
    markdown: bool,
    /// Directory with a file per peer
    #[arg(long, env = "ANNULUS_BENCH_PEERS", default_value = "bench/peers", value_name = "DIR")]
    plugins: PathBuf,
    /// Name peers and versions and end
    #[arg(long)]
    list: bool,
}

impl Compare {
    /// Measures and prints.
    ///
    /// # Errors
    /// [`Failure`]s: 2 for an unknown peer, 77 where it is not possible, 1 if a peer that was named could not be measured.
    pub fn run(&self) -> Result<Exit> {
        let choice = plugin::choose(&plugin::discover(&self.plugins)?, &self.peers)?;
        if self.list {
            choice.chosen.iter().try_for_each(|peer| print(format_args!("{:16} {}", peer.name, peer.version())))?;
            choice.left_out.iter().try_for_each(|(name, why)| print(format_args!("{name:16} {why}")))?;
            return Ok(Exit::Done);
        }
        ["iperf3", "ping", "ip"].into_iter().chain(self.no_offload.then_some("ethtool")).try_for_each(scene::need)?;
        for (name, why) in &choice.left_out {
            note(format_args!("left out: {name}, {why}"));
        }
        if choice.chosen.is_empty() {
            return Err(Failure::new(Exit::NotPossible, "none of the peers is installed").into());
        }
        // Before the namespaces, where another file may lie at the same place.
        let mut file = self.json.as_ref().map(open_result).transpose()?;
        let versions: Vec<String> = choice.chosen.iter().map(plugin::Plugin::version).collect();
        scene::enter()?;
        let entry = |(plugin, version): (&plugin::Plugin, String)| Entry {
            measured: Measured { name: plugin.name.clone(), kind: plugin.kind(), rounds: Vec::new() },
            version,
            about: plugin.about.clone(),
            errors: Vec::new(),
        };
        let mut report = Report {
            rounds: 0,
            machine: machine(),
            offload: !self.no_offload,
            seconds: self.seconds,
            entries: choice.chosen.iter().zip(versions).map(entry).collect(),
            left_out: choice.left_out,
        };
        let settings = Settings { seconds: self.seconds, offload: !self.no_offload };
        for round in 0..self.rounds {
            for (plugin, entry) in choice.chosen.iter().zip(&mut report.entries) {
                note(format_args!("round {} of {}: {}", round + 1, self.rounds, plugin.name));
                let outcome = measure(plugin, settings, round == 0);
                for error in outcome.errors {
                    note(format_args!("  not measured: {error}"));
                    entry.errors.push(format!("round {}: {error}", round + 1));
                }
                entry.measured.rounds.push(outcome.figures);
            }
            report.rounds += 1;
            if let Some(file) = &mut file {
                write_result(file, &report.json())?;
            }
        }
        print(report.text(self.markdown))?;
        Ok(self.verdict(&report))
    }

    /// Whether what had to be measured was. Others' peers that nobody named may fail.
    fn verdict(&self, report: &Report) -> Exit {
        let failed = |entry: &Entry| entry.measured.rounds.iter().all(|figures| !figures.contains_key("tcp_x1_mbit_per_s"));
        let wanted = |entry: &Entry| !self.peers.is_empty() || matches!(entry.measured.kind, Kind::None | Kind::Limit);
        if report.entries.iter().any(|entry| wanted(entry) && failed(entry)) { Exit::Failed } else { Exit::Done }
    }
}

fn open_result(path: &PathBuf) -> Result<File> {
    OpenOptions::new().write(true).create(true).truncate(false).open(path).with_context(|| format!("cannot write {}", path.display()))
}

fn write_result(file: &mut File, value: &Value) -> Result<()> {
    file.rewind()?;
    file.set_len(0)?;
    serde_json::to_writer_pretty(&mut *file, value)?;
    writeln!(file)?;
    Ok(())
}

/// What the figures depend on.
#[must_use]
pub(crate) fn machine() -> Value {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).and_then(|line| line.split_once(':'));
        line.map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
    };
    let kilobytes = field(&read("/proc/meminfo"), "MemTotal").split(' ').next().and_then(|word| word.parse::<u64>().ok());
    json!({
        "cpus": std::thread::available_parallelism().map_or(1, usize::from),
        "model": field(&read("/proc/cpuinfo"), "model name"),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "memory_kb": kilobytes,
    })
}
