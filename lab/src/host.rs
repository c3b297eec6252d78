//! A host: a thread in a network namespace of its own, and the programs that run there.

use std::fs::{self, File};
use std::io;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::thread::{Builder, JoinHandle};

use annulus_tun_bridge::netlink::Netlink;
use anyhow::{Context, Result, anyhow};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, gettid};

type Job = Box<dyn FnOnce() + Send>;

/// A host of the lab. Dropping it kills what runs on it, and the namespace ends.
#[derive(Debug)]
pub struct Host {
    name: String,
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    namespace: PathBuf,
}

impl Host {
    /// Makes a host with nothing but its loopback interface.
    ///
    /// # Errors
    /// What the kernel says: see [`probe`](crate::probe).
    pub fn new(name: &str) -> Result<Self> {
        let (jobs, queue) = channel::<Job>();
        let (report, reported) = channel();
        let thread = Builder::new().name(format!("host {name}")).spawn(move || {
            let made = prepare();
            let failed = made.is_err();
            if report.send(made).is_err() || failed {
                return;
            }
            for job in queue {
                job();
            }
        })?;
        let namespace = reported.recv().context("the host's thread ended")?.with_context(|| format!("cannot make host {name}"))?;
        Ok(Self { name: name.into(), jobs: Some(jobs), thread: Some(thread), namespace })
    }

    /// The host's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A file that stands for the host's network namespace, for `nsenter --net=`.
    #[must_use]
    pub fn namespace(&self) -> &Path {
        &self.namespace
    }

    /// Opens the file that stands for the host's network namespace.
    ///
    /// # Errors
    /// If the host is gone.
    pub fn open_namespace(&self) -> io::Result<File> {
        File::open(&self.namespace)
    }

    /// How a command is run on this host from a shell outside the lab: what to write in front of it.
    #[must_use]
    pub fn how_to_enter(&self) -> String {
        // Nobody can enter the user namespace that he is in already.
        let users = if crate::namespace::has_own_users() {
            format!("--user=/proc/{}/ns/user --preserve-credentials ", std::process::id())
        } else {
            String::new()
        };
        format!("nsenter {users}--net={}", self.namespace.display())
    }

    /// Runs something on the host and waits for it: sockets and devices that it opens belong to the host for good.
    ///
    /// # Errors
    /// If the host's thread ended: an earlier job panicked.
    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let (report, reported) = channel();
        let job: Job = Box::new(move || {
            // Nobody waits any more if the caller panicked.
            let _ = report.send(job());
        });
        let jobs = self.jobs.as_ref().context("the host is shutting down")?;
        jobs.send(job).map_err(|_| anyhow!("the thread of host {} has ended", self.name))?;
        reported.recv().with_context(|| format!("a job on host {} panicked", self.name))
    }

    /// Does something with the host's links, addresses and routes.
    ///
    /// # Errors
    /// What the job returns.
    pub fn netlink<T: Send + 'static>(&self, job: impl FnOnce(&mut Netlink) -> io::Result<T> + Send + 'static) -> Result<T> {
        Ok(self.run(move || job(&mut Netlink::open()?))??)
    }

    /// Starts a program on the host. Make the command with [`command`](crate::command), so that it dies with the host.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn spawn(&self, mut command: Command) -> Result<Process> {
        let child = self.run(move || command.spawn())?;
        Ok(Process(child.with_context(|| format!("cannot start a program on host {}", self.name))?))
    }

    /// Runs a program on the host to its end and returns what it wrote.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn output(&self, mut command: Command) -> Result<Output> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = self.run(move || command.spawn())?;
        Ok(child.with_context(|| format!("cannot start a program on host {}", self.name))?.wait_with_output()?)
    }
}

/// Makes the namespace of the calling thread; returns its file.
fn prepare() -> Result<PathBuf> {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)?;
    // Duplicate address detection would keep each new link quiet for two seconds. Where this cannot be written it only takes longer.
    for name in ["all", "default"] {
        let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{name}/accept_dad"), "0");
    }
    Netlink::open()?.set_up("lo", true)?;
    Ok(format!("/proc/{}/task/{}/ns/net", std::process::id(), gettid()).into())
}

impl Drop for Host {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic in a job has been reported to the job's caller.
            let _ = thread.join();
        }
    }
}

/// A running program; it is killed when this is dropped.
#[derive(Debug)]
pub struct Process(Child);

impl Process {
    /// Sends a signal.
    ///
    /// # Errors
    /// If the process is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(i32::try_from(self.0.id())?), signal)?)
    }

    /// Kills the process at once and takes its exit status.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn kill_and_wait(&mut self) -> io::Result<ExitStatus> {
        self.0.kill()?;
        self.0.wait()
    }
}

impl Deref for Process {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.0
    }
}

impl DerefMut for Process {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.0
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to kill, only a status to take.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
