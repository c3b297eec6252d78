//! How many system calls a megabyte costs: strace counts them in a short load of its own, because it slows down what it watches. Slower daemons find
//! more at each call, so that the count is rather too good; it is so for all peers alike.

use std::fs;
use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use crate::iperf::{self, Load};
use crate::limit::Limited;
use crate::plugin::find_program;
use crate::running::Running;

/// How long strace may take to attach to all threads.
const ATTACH: Duration = Duration::from_millis(300);
/// s of load.
const SECONDS: u64 = 1;

/// System calls of both daemons per 10^6 bytes of one TCP stream; `None` without strace or without daemons.
///
/// # Errors
/// If strace or the load fails.
pub(crate) fn per_megabyte(running: &Running<'_>) -> Result<Option<f64>> {
    let (pids, bed) = (running.pids(), running.bed());
    if pids.is_empty() || find_program("strace").is_none() {
        return Ok(None);
    }
    let file = bed.a.dir.join("strace");
    let mut strace = bed.a.quiet("strace")?;
    strace.args(["-c", "-f", "-o"]).arg(&file).args(pids.iter().flat_map(|pid| ["-p".to_owned(), pid.to_string()]));
    strace.stdin(Stdio::null());
    let strace = Limited::new(bed.a.host.spawn(strace)?, SECONDS + 20);
    sleep(ATTACH);
    let arrived = iperf::run(&bed.a, &bed.b, running.target(), Load::Tcp { streams: 1, reverse: false }, SECONDS);
    strace.process().signal(Signal::SIGINT)?;
    strace.finish("strace")?;
    let calls = total(&fs::read_to_string(file)?).context("strace counted nothing")?;
    Ok(Some(calls / (arrived?.bytes / 1e6)))
}

/// The number of calls in the last line of strace's table.
fn total(table: &str) -> Option<f64> {
    let line = table.lines().rev().find(|line| line.trim_end().ends_with("total"))?;
    // % time, seconds, usecs/call, calls, errors (may be empty): the third number is left out by old versions.
    let numbers: Vec<f64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let header = table.lines().find(|line| line.contains("syscall"))?;
    let column = header.split_whitespace().position(|word| word == "calls")?;
    // "% time" are two words of the header and one column.
    let index = column.checked_sub(1)?;
    let average_left_out = numbers.len() <= index || numbers.len() == 3;
    numbers.get(if average_left_out { index - 1 } else { index }).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_calls_are_read_from_the_last_line_with_and_without_an_average() {
        let with = "% time     seconds  usecs/call     calls    errors syscall\n------ ----------- ----------- --------- --------- ----------------\n \
            60.00    0.100000          10      5000           read\n100.00    0.160000           8     20000       120 total\n";
        assert_eq!(total(with), Some(20_000.0));
        let without = with.replace(
            "100.00    0.160000           8     20000       120 total",
            "100.00    0.160000                 20000           total",
        );
        assert_eq!(total(&without), Some(20_000.0));
        assert_eq!(total("strace: nothing\n"), None);
    }
}
