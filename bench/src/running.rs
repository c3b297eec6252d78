//! A peer that runs on both hosts.

use std::fs::{self, OpenOptions};
use std::net::IpAddr;
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

use annulus_lab::measure::Echo;
use annulus_lab::{Process, command};
use anyhow::{Context, Result, bail, ensure};

use crate::bed::{Bed, End};
use crate::plugin::{Kind, Plugin, Side};
use crate::scene::WORK;
use crate::station::last_words;

/// How long a peer may take until its first answer.
const START_PATIENCE: Duration = Duration::from_secs(20);
/// How often an echo is sent until the first answer.
const FIRST_PING_INTERVAL: Duration = Duration::from_millis(10);
/// How often it is looked whether a device is there.
const DEVICE_INTERVAL: Duration = Duration::from_millis(2);
/// Bytes of the echoes, headers included: what ping sends.
const ECHO_LEN: usize = 84;

/// A peer's daemons. Dropping it kills them.
#[derive(Debug)]
pub(crate) struct Running<'a> {
    bed: &'a Bed,
    plugin: &'a Plugin,
    daemons: Vec<(Process, Side)>,
    _helper: Option<Process>,
    /// From the start of the first daemon to the first answered echo.
    pub(crate) first_ping: Duration,
}

impl<'a> Running<'a> {
    /// Configures the peer on both hosts, starts it, and waits for the first answer from host b. `options` are those of `start`.
    ///
    /// # Errors
    /// If it does not start or does not answer within 20 s, with the end of its log.
    pub(crate) fn start(bed: &'a Bed, plugin: &'a Plugin, options: Option<&str>) -> Result<Self> {
        let mut running = Self { bed, plugin, daemons: Vec::new(), _helper: None, first_ping: Duration::ZERO };
        for script in [&plugin.prepare, &plugin.configure].into_iter().flatten() {
            bed.ends().iter().try_for_each(|end| end.sh(script, &running.variables(end, options)))?;
        }
        let begun = Instant::now();
        if let Some(script) = &plugin.helper {
            running._helper = Some(running.spawn(&bed.a, script, options, "helper.log")?);
        }
        if let Some(script) = &plugin.start {
            let ends = if plugin.first == Some(Side::B) { [&bed.b, &bed.a] } else { [&bed.a, &bed.b] };
            for end in ends {
                let daemon = running.spawn(end, script, options, "log")?;
                running.daemons.push((daemon, end.side));
            }
        }
        if let Some(script) = &plugin.up {
            for end in bed.ends() {
                running.wait_for_device(end, begun)?;
                end.sh(script, &running.variables(end, options))?;
            }
        }
        running.wait_for_answer(begun)?;
        running.first_ping = begun.elapsed();
        Ok(running)
    }

    fn spawn(&self, end: &End, script: &str, options: Option<&str>, log: &str) -> Result<Process> {
        let log = OpenOptions::new().append(true).create(true).open(end.dir.join(log))?;
        let mut shell = command("sh")?;
        shell.args(["-euc", script]).envs(self.variables(end, options)).current_dir(&end.dir);
        shell.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        end.host.spawn(shell)
    }

    fn variables(&self, end: &End, options: Option<&str>) -> Vec<(&'static str, String)> {
        let peer = self.bed.other(end.side);
        let letter = |end: &End| if end.side == Side::A { "a" } else { "b" }.to_owned();
        vec![
            ("SIDE", letter(end)),
            ("PEER_SIDE", letter(peer)),
            ("TUN", end.tun.into()),
            ("OUTER", end.outer.to_string()),
            ("PEER_OUTER", peer.outer.to_string()),
            ("INNER", end.inner.to_string()),
            ("PEER_INNER", peer.inner.to_string()),
            ("DIR", end.dir.display().to_string()),
            ("PEER_DIR", peer.dir.display().to_string()),
            ("WORK", WORK.into()),
            ("OPTIONS", options.unwrap_or_default().into()),
        ]
    }

    fn wait_for_device(&mut self, end: &End, begun: Instant) -> Result<()> {
        let tun = end.tun;
        while end.host.netlink(move |netlink| netlink.link(tun))?.is_none() {
            self.check_alive()?;
            ensure!(begun.elapsed() < START_PATIENCE, "no device {tun}: {}", self.logs());
            sleep(DEVICE_INTERVAL);
        }
        Ok(())
    }

    fn wait_for_answer(&mut self, begun: Instant) -> Result<()> {
        let mut echo = None;
        while begun.elapsed() < START_PATIENCE {
            if echo.is_none() {
                // There is no route as long as the device has no address.
                echo = Echo::new(&self.bed.a.host, self.target(), ECHO_LEN).ok();
            }
            if let Some(echo) = &mut echo {
                // Errors may pass as well: a device that is not up yet.
                if let Ok(Some(_)) = echo.ping(FIRST_PING_INTERVAL) {
                    return Ok(());
                }
            }
            self.check_alive()?;
            sleep(DEVICE_INTERVAL);
        }
        bail!("no echo is answered: {}", self.logs())
    }

    /// Fails if a daemon has ended.
    ///
    /// # Errors
    /// With the end of its log.
    pub(crate) fn check_alive(&mut self) -> Result<()> {
        for index in 0..self.daemons.len() {
            if let Some(status) = self.daemons[index].0.try_wait().context("a daemon is lost")? {
                bail!("a daemon has ended ({status}): {}", self.logs());
            }
        }
        Ok(())
    }

    fn logs(&self) -> String {
        let [a, b] = self.bed.ends().map(|end| last_words(&fs::read_to_string(end.dir.join("log")).unwrap_or_default()));
        if a == b { a } else { format!("{a} || {b}") }
    }

    /// Host b's address as host a should call it.
    #[must_use]
    pub(crate) fn target(&self) -> IpAddr {
        if self.plugin.kind() == Kind::None { self.bed.b.outer.into() } else { self.bed.b.inner.into() }
    }

    /// The process numbers of the daemons.
    #[must_use]
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.daemons.iter().map(|(daemon, _)| daemon.id()).collect()
    }

    /// The hosts.
    #[must_use]
    pub(crate) const fn bed(&self) -> &Bed {
        self.bed
    }
}
