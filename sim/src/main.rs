//! `annulus-sim`: runs scenarios of the deterministic simulator.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use annulus_sim::scenario::{Report, Scenario};
use anyhow::Context as _;
use clap::{Parser, Subcommand};

/// Runs scenarios of a deterministic network in virtual time around the protocol core.
#[derive(Debug, Parser)]
#[command(name = "annulus-sim", version)]
struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Runs one scenario.
    Run {
        /// The scenario's file.
        file: PathBuf,
        /// The same seed gives the same run, byte for byte.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// One JSON object on one line.
        #[arg(long)]
        json: bool,
    },
    /// Lists the scenarios of a folder.
    List {
        /// The folder.
        #[arg(default_value = "sim/scenarios")]
        folder: PathBuf,
        /// One JSON object on one line.
        #[arg(long)]
        json: bool,
    },
}

fn main() -> ExitCode {
    let result = match Args::parse().verb {
        Verb::Run { file, seed, json } => run(&file, seed, json),
        Verb::List { folder, json } => list(&folder, json),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("annulus-sim: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn read(file: &std::path::Path) -> anyhow::Result<Scenario> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    Scenario::parse(&text).with_context(|| format!("{} is not a scenario", file.display()))
}

fn run(file: &std::path::Path, seed: u64, json: bool) -> anyhow::Result<()> {
    let scenario = read(file)?;
    let start = Instant::now();
    let terminal = !json && std::io::IsTerminal::is_terminal(&std::io::stderr());
    let report = scenario.run(seed, &|| start.elapsed().as_secs_f64(), &mut |line| {
        if terminal {
            eprint!("\r\x1b[K{line}");
        }
    })?;
    if terminal {
        eprint!("\r\x1b[K");
    }
    if json {
        print_line(&serde_json::to_string(&report)?)
    } else {
        print_report(&report)
    }
    Ok(())
}

fn list(folder: &std::path::Path, json: bool) -> anyhow::Result<()> {
    let mut scenarios = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            scenarios.push(read(&path)?);
        }
    }
    scenarios.sort_by(|a, b| a.name.cmp(&b.name));
    if json {
        let rows: Vec<_> = scenarios.iter().map(|s| serde_json::json!({"name": s.name, "about": s.about, "nodes": s.nodes})).collect();
        print_line(&serde_json::json!({ "scenarios": rows }).to_string());
    } else {
        for scenario in scenarios {
            print_line(&format!("{:<20} {:>8} nodes  {}", scenario.name, scenario.nodes, scenario.about));
        }
    }
    Ok(())
}

fn print_report(report: &Report) {
    let seconds = |value: Option<f64>| value.map_or_else(|| "never".to_owned(), |value| format!("{value:.1} s"));
    for (name, value) in [
        ("scenario", format!("{} (seed {})", report.scenario, report.seed)),
        ("nodes", format!("{} ({} alive at the end)", report.nodes, report.alive)),
        ("ring", if report.ring_correct { "correct".to_owned() } else { "NOT correct".to_owned() }),
        ("formed after", seconds(report.formed_s)),
        ("repaired after", report.repaired_s.map_or_else(|| "-".to_owned(), |value| format!("{value:.1} s"))),
        ("reachable", format!("{:.4} of all ordered pairs", report.reachable)),
        ("hops", format!("{:.2} mean, {} for 99 %, {} at most ({})", report.mean_hops, report.p99_hops, report.max_hops, report.geometry)),
        ("links", format!("{:.1} mean, {} at most", report.mean_links, report.max_links)),
        ("virtual time", format!("{:.1} s", report.virtual_seconds)),
        ("real time", format!("{:.1} s", report.wall_seconds)),
        ("events", report.events.to_string()),
        ("trace hash", report.trace_hash.clone()),
    ] {
        print_line(&format!("{name:<15} {value}"));
    }
}

#[expect(clippy::print_stdout, reason = "the result of a command goes to standard output")]
fn print_line(line: &str) {
    println!("{line}");
}
