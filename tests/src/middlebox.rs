//! A bad stretch of road between two nodes: a program on a host that passes their datagrams on, late, out of order, or not at all.

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{JoinHandle, spawn};
use std::time::{Duration, Instant};

use annulus_core::rng::Rng;
use annulus_lab::Host;
use anyhow::{Result, anyhow};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Datagrams that are on the road at once; further ones are lost, as in a router's queue.
const ON_THE_ROAD: usize = 4096;

/// What the road does to datagrams, each way.
#[derive(Clone, Copy, Debug)]
pub struct Faults {
    /// Of 1,000 datagrams so many are lost.
    pub lost: u64,
    /// Of 1,000 datagrams so many are overtaken by others.
    pub overtaken: u64,
    /// How long every datagram takes.
    pub delay: Duration,
    /// How much longer those that are overtaken take at most.
    pub later: Duration,
}

/// A running middlebox; it ends when this is dropped.
#[derive(Debug)]
pub struct Middlebox {
    stop: Arc<AtomicBool>,
    counts: Arc<[AtomicU64; 3]>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Middlebox {
    /// Passes on what comes to `front` (an address of the host) to `far`, and the answers to whom the latest came from.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn start(host: &Host, front: SocketAddr, far: SocketAddr, faults: Faults, seed: u8) -> Result<Self> {
        let (front, back) = host.run(move || -> std::io::Result<_> {
            let back = UdpSocket::bind((front.ip(), 0))?;
            back.connect(far)?;
            Ok((UdpSocket::bind(front)?, back))
        })??;
        for socket in [&front, &back] {
            socket.set_nonblocking(true)?;
            socket2::SockRef::from(socket).set_recv_buffer_size(4 << 20)?;
        }
        let (stop, counts) = (Arc::new(AtomicBool::new(false)), Arc::new([const { AtomicU64::new(0) }; 3]));
        let road = Road { sockets: [front, back], near: None, faults, rng: Rng::new([seed; 32]), waiting: BTreeMap::new(), number: 0 };
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&counts));
        Ok(Self { stop, counts, thread: Some(spawn(move || road.run(&stopped, &counted))) })
    }

    /// How many datagrams it passed on, lost, and let be overtaken so far.
    #[must_use]
    pub fn counts(&self) -> [u64; 3] {
        [0, 1, 2].map(|index| self.counts[index].load(Ordering::Relaxed))
    }

    /// Ends it.
    ///
    /// # Errors
    /// What went wrong on the road.
    pub fn stop(mut self) -> Result<[u64; 3]> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().ok_or_else(|| anyhow!("it was stopped before"))?;
        thread.join().map_err(|_| anyhow!("the middlebox panicked"))??;
        Ok(self.counts())
    }
}

impl Drop for Middlebox {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Who wants to know of errors stops it.
            let _ = thread.join();
        }
    }
}

struct Road {
    /// Towards the one who dials, and towards the other.
    sockets: [UdpSocket; 2],
    near: Option<SocketAddr>,
    faults: Faults,
    rng: Rng,
    /// By due time and number: the way (index of the socket that sends it) and the datagram.
    waiting: BTreeMap<(Instant, u64), (usize, Vec<u8>)>,
    number: u64,
}

impl Road {
    fn run(mut self, stop: &AtomicBool, counts: &[AtomicU64; 3]) -> Result<()> {
        while !stop.load(Ordering::Relaxed) {
            let now = Instant::now();
            while let Some(entry) = self.waiting.first_entry().filter(|entry| entry.key().0 <= now) {
                let (way, datagram) = entry.remove();
                counts[0].fetch_add(1, Ordering::Relaxed);
                // What does not fit the road is the sender's to find out.
                let _ = match (way, self.near) {
                    (0, Some(near)) => self.sockets[0].send_to(&datagram, near),
                    _ => self.sockets[1].send(&datagram),
                };
            }
            for from in [0, 1] {
                self.take(from, counts);
            }
            self.wait()?;
        }
        Ok(())
    }

    fn take(&mut self, from: usize, counts: &[AtomicU64; 3]) {
        let mut buf = [0; 9216];
        // A port that is closed for a moment is an error here; the daemon behind it comes back.
        while let Ok((len, source)) = self.sockets[from].recv_from(&mut buf) {
            if from == 0 {
                self.near = Some(source);
            }
            if self.rng.below(1000) < self.faults.lost || self.waiting.len() >= ON_THE_ROAD {
                counts[1].fetch_add(1, Ordering::Relaxed);
                continue;
            }
            let mut due = Instant::now() + self.faults.delay;
            if self.rng.below(1000) < self.faults.overtaken {
                counts[2].fetch_add(1, Ordering::Relaxed);
                due += Duration::from_micros(self.rng.below(self.faults.later.as_micros() as u64));
            }
            self.number += 1;
            self.waiting.insert((due, self.number), (1 - from, buf[..len].to_vec()));
        }
    }

    fn wait(&self) -> Result<()> {
        let due = self.waiting.first_key_value().map(|((due, _), _)| due.saturating_duration_since(Instant::now()));
        let limit = due.map_or(20, |due| due.as_millis().min(20) as u8);
        let mut fds = self.sockets.each_ref().map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN));
        poll(&mut fds, PollTimeout::from(limit))?;
        Ok(())
    }
}
