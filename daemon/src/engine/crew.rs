//! The threads of the further workers: the only place of the daemon where packet threads are made and ended.

use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use annulus_core::io::ShardId;
use annulus_core::worker::Worker;

use super::driven::Drive;
use super::host::{Host, Tally};
use super::link::{Bell, End, join};
use super::worker::{NOTICES, Notice, ORDERS, Order, WorkerEngine};
use crate::exit::{Exit, Failure};

/// Bytes of a worker's stack; a batch needs a few kB.
const STACK: usize = 512 * 1024;

/// The engine's end of the link to a worker.
pub(crate) type WorkerLink = End<Order, Notice>;

/// The running workers 1 and above. When their links are dropped they end.
#[derive(Debug)]
pub(super) struct Crew {
    threads: Vec<JoinHandle<anyhow::Result<Exit>>>,
    /// Rung for the engine.
    pub(super) bell: Arc<Bell>,
    /// What each has told last of its sockets and devices.
    pub(super) tallies: Vec<Tally>,
}

impl Crew {
    /// Starts a thread for each worker, with its own sockets and queues. `drive` waits for each of them. The links go to who has the control plane.
    ///
    /// # Errors
    /// When the system has no thread or descriptor left; the threads that were started end.
    pub(super) fn start(workers: Vec<Worker>, hosts: Vec<Host>, drive: Drive) -> Result<(Self, Vec<WorkerLink>), Failure> {
        let failed = |error: std::io::Error| Failure::failed(format!("cannot start a worker: {error}"));
        let mut crew = Self { threads: Vec::new(), bell: Bell::new().map_err(failed)?, tallies: Vec::new() };
        let mut links = Vec::new();
        for (number, (worker, host)) in (1u8..).zip(workers.into_iter().zip(hosts)) {
            let bell = Bell::new().map_err(failed)?;
            let (link, other) = join(&crew.bell, &bell, ORDERS, NOTICES);
            let mut engine = WorkerEngine::new(ShardId(number), worker, host, bell, other);
            let thread = Builder::new().name(format!("worker {number}")).stack_size(STACK).spawn(move || drive(&mut engine));
            crew.threads.push(thread.map_err(failed)?);
            crew.tallies.push(Tally::default());
            links.push(link);
        }
        Ok((crew, links))
    }

    /// Waits for all workers, whose links are gone; says how those ended that had a reason of their own.
    pub(super) fn join(&mut self) -> Vec<String> {
        let mut reasons = Vec::new();
        for (number, thread) in (1..).zip(self.threads.drain(..)) {
            match thread.join() {
                Ok(Ok(Exit::Done)) => {}
                Ok(Ok(exit)) => reasons.push(format!("worker {number} ended with code {}", exit.code())),
                Ok(Err(error)) => reasons.push(format!("worker {number} ended: {error:#}")),
                Err(_) => reasons.push(format!("worker {number} panicked")),
            }
        }
        reasons
    }
}
