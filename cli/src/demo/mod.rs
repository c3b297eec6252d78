//! `annulus demo`: a small internet with a VPN on it, in namespaces of this machine.

mod hosts;
mod measure;
mod progress;
mod report;

use std::os::fd::AsFd;

use annulus_daemon::exit::{Exit, Failure};
use annulus_daemon::signals::{Signals, Wish};
use annulus_lab::Unavailable;
use clap::Args;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::output::Output;
use hosts::Hosts;
use progress::Progress;

/// Hosts of a demo at most: each is a daemon, and the pairs grow with the square.
const MAX_HOSTS: i64 = 16;

#[derive(Args, Debug)]
pub(crate) struct Demo {
    /// End after the measurements instead of staying until Ctrl-C
    #[arg(long)]
    once: bool,
    /// How many hosts
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(3..=MAX_HOSTS))]
    hosts: u16,
}

impl Demo {
    /// Ends with 77 where no namespaces or TUN devices can be made, with 1 when a pair of hosts does not reach each other.
    pub(crate) fn run(&self, output: &Output) -> Result<Exit, Failure> {
        annulus_lab::probe().and_then(|()| annulus_lab::enter_user_namespace()).map_err(|error| explain(&error))?;
        let mut interrupt = Interrupt(Signals::block().map_err(Failure::failed)?);
        let mut progress = Progress::new(output, usize::from(self.hosts));
        let hosts = Hosts::make(self.hosts, &mut progress, &mut interrupt)?;
        let pings = measure::pings(&hosts, &mut progress, &mut interrupt)?;
        let transfers = measure::transfers(&hosts, &mut progress, &mut interrupt)?;
        progress.end();
        let report = report::Report::new(&hosts, &pings, &transfers);
        output.json(&report);
        output.text(report::text(&hosts, &pings, &transfers)?);
        if !pings.failed.is_empty() {
            return Err(Failure::failed(format!("no answer between {}", pings.failed.join(", "))));
        }
        if !self.once {
            output.note(report::how_to_look_inside(&hosts));
            interrupt.wait()?;
        }
        Ok(Exit::Done)
    }
}

/// What this machine lacks is not a failure.
fn explain(error: &anyhow::Error) -> Failure {
    match error.downcast_ref::<Unavailable>() {
        Some(unavailable) => Failure::new(Exit::NotPossible, format!("no demo on this machine: {unavailable}")),
        None => failed(error),
    }
}

/// A failure with the whole story of an error.
fn failed(error: &anyhow::Error) -> Failure {
    Failure::failed(format!("{error:#}"))
}

/// Ctrl-C, looked at between the steps, so that everything that was made is taken down in order.
#[derive(Debug)]
struct Interrupt(Signals);

impl Interrupt {
    /// Fails if the demo shall end.
    fn check(&mut self) -> Result<(), Failure> {
        match self.0.next_wish() {
            Some(Wish::End) => Err(Failure::failed("interrupted")),
            _ => Ok(()),
        }
    }

    /// Waits until the demo shall end.
    fn wait(&mut self) -> Result<(), Failure> {
        loop {
            while let Some(wish) = self.0.next_wish() {
                if wish == Wish::End {
                    return Ok(());
                }
            }
            let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(Failure::failed(error)),
            }
        }
    }
}
