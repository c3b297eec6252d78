//! How far the demo is: a bar on a terminal, lines otherwise.

use std::fmt::Display;
use std::io::{IsTerminal, stderr};
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};

use crate::output::Output;

/// The display. Standard output is left to the results.
#[derive(Debug)]
pub(crate) struct Progress<'a> {
    output: &'a Output,
    bar: Option<ProgressBar>,
    start: Instant,
}

impl<'a> Progress<'a> {
    /// Steps: each host is made, started and joins, each ordered pair is pinged, two transfers.
    pub(crate) fn new(output: &'a Output, hosts: usize) -> Self {
        let bar = stderr().is_terminal().then(|| {
            let bar = ProgressBar::new((3 * hosts + hosts * (hosts - 1) + 2) as u64);
            let style = ProgressStyle::with_template("{elapsed:>4} {bar:32} {pos:>3}/{len} {wide_msg}");
            bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        Self { output, bar, start: Instant::now() }
    }

    /// What is done now.
    pub(crate) fn doing(&self, what: impl Display) {
        if let Some(bar) = &self.bar {
            bar.set_message(what.to_string());
        }
    }

    /// A step is done.
    pub(crate) fn step(&self) {
        if let Some(bar) = &self.bar {
            bar.inc(1);
        }
    }

    /// A part is done: worth a line where there is no bar.
    pub(crate) fn done(&self, what: impl Display) {
        if self.bar.is_none() {
            self.output.note(format_args!("{:6.2} s  {what}", self.start.elapsed().as_secs_f64()));
        }
    }

    /// Takes the bar away.
    pub(crate) fn end(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Progress<'_> {
    fn drop(&mut self) {
        self.end();
    }
}
