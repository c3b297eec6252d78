//! The same scenario on every driver of the core, with the same results: mio, tokio, async-std, and the simulation in virtual time.

mod async_std_loop;
mod engines;
mod simulated;

use std::num::NonZeroU8;

use annulus_daemon::engine::Drive;
use annulus_lab::{Test, run_tests};
use annulus_tests::ring;
use anyhow::{Context, Result, ensure};

use engines::Engines;

const TESTS: &[Test] = &[
    ("the_simulation_runs_the_scenario_alike_for_each_seed", simulation),
    ("mio_does_what_the_simulation_does", || agrees(annulus_runtime_mio::drive, 1)),
    ("tokio_does_what_the_simulation_does", || agrees(annulus_runtime_tokio::drive, 1)),
    ("async_std_does_what_the_simulation_does", || agrees(async_std_loop::drive, 1)),
    ("mio_with_two_workers_does_what_the_simulation_does", || agrees(annulus_runtime_mio::drive, 2)),
    ("tokio_with_two_workers_does_what_the_simulation_does", || agrees(annulus_runtime_tokio::drive, 2)),
    ("async_std_with_three_workers_does_what_the_simulation_does", || agrees(async_std_loop::drive, 3)),
    ("a_clock_that_is_set_back_and_forward_changes_nothing_for_valid_members", simulated::clock_steps),
];

fn main() {
    run_tests(TESTS)
}

fn in_simulation(seed: u64) -> Result<Vec<String>> {
    ring::run(&mut simulated::Simulated::new(seed)?).with_context(|| format!("seed {seed}"))
}

fn simulation() -> Result<()> {
    let first = in_simulation(1)?;
    for seed in 2..6 {
        same(&format!("seed {seed}"), &in_simulation(seed)?, &first)?;
    }
    Ok(())
}

fn agrees(drive: Drive, workers: u8) -> Result<()> {
    let real = ring::run(&mut Engines::new(drive, NonZeroU8::new(workers).context("a daemon has a worker")?)?)?;
    same("this driver", &real, &in_simulation(1)?)
}

fn same(what: &str, one: &[String], other: &[String]) -> Result<()> {
    for (one, other) in one.iter().zip(other) {
        ensure!(one == other, "{what}: {one}\nseed 1:  {other}");
    }
    ensure!(one.len() == other.len());
    Ok(())
}
