//! Probes: pings on their way, the series of them that decides over life and death, and keep-alives.

use core::time::Duration;

use super::action::Gone;
use super::cadence::Cadence;
use super::path::SPARE_LIFE;
use super::record::{Desk, Peer};
use super::rtt::Rtt;
use crate::io::Path;
use crate::time::Instant;
use crate::wire::link::LinkMessage;

/// Pings per peer whose answers are waited for: a whole series on the active path, a quarter of it on each of a few spares. The oldest makes room.
const MAX_PROBES_OUT: usize = 64;
/// How long a late answer is still understood: it tells a round-trip time that has suddenly grown.
const LATE_ANSWER: Duration = Duration::from_secs(10);
/// A probe that leaves this much later than planned tells that this host slept, not the peer: the series starts anew.
const OVERSLEPT: Duration = Duration::from_secs(1);
/// Every so many probes of a series the spare paths are asked as well.
const SPARES_EVERY: u8 = 4;

/// A ping that was sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Probe {
    token: u64,
    sent: Instant,
    path: Path,
    /// Whether it was counted as lost.
    lost: bool,
}

/// A series of evenly spaced probes on the active path, from the first unanswered silence on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Episode {
    /// When the first one left.
    pub(super) started: Instant,
    /// When the next one leaves, or when the last one counts as unanswered.
    next: Instant,
    spacing: Duration,
    sent: u8,
    needed: u8,
}

impl Episode {
    fn new(cadence: &Cadence, rtt: &Rtt, needed: u8, now: Instant) -> Self {
        Self { started: now, next: now, spacing: cadence.spacing(rtt, needed), sent: 0, needed }
    }

    /// Goes on at the pace of `cadence`, if that is faster.
    pub(super) fn hasten(&mut self, cadence: &Cadence, rtt: &Rtt, now: Instant) {
        self.spacing = self.spacing.min(cadence.spacing(rtt, self.needed));
        let wait = if self.sent == 1 || self.sent >= self.needed { rtt.timeout() } else { self.spacing };
        self.next = self.next.min(now + wait);
    }

    fn wait_after_probe(&self, rtt: &Rtt) -> Duration {
        // The first gap leaves room for the answer, or each check of a far but lively peer would cost several probes.
        if self.sent == 1 || self.sent >= self.needed { rtt.timeout() } else { self.spacing }
    }
}

impl Peer {
    /// Sends a ping with a fresh random token on `path`, on the session in use.
    pub(super) fn ping(&mut self, path: Path, desk: &mut Desk<'_>) {
        self.ping_on(0, path, desk);
    }

    fn ping_on(&mut self, session: usize, path: Path, desk: &mut Desk<'_>) {
        let now = desk.now;
        let Some(state) = self.path_mut(path) else { return };
        (state.pinged, state.sent) = (now, now);
        if self.probes.len() >= MAX_PROBES_OUT {
            let oldest = self.probes.remove(0);
            self.count_lost(oldest);
        }
        let token = desk.rng.next_u64();
        self.probes.push(Probe { token, sent: now, path, lost: false });
        let slot = &mut self.sessions[session];
        slot.unheard = slot.unheard.saturating_add(1);
        desk.send(slot.id, path, LinkMessage::Ping { token, padding: 0 });
    }

    /// Takes in an answer. It proves the path that its ping was sent on, and only if it came back by that path: somebody who forwards copies between
    /// two addresses would have to forward both directions for good, and then is nothing but a router.
    pub(super) fn pong(&mut self, from: Path, token: u64, desk: &mut Desk<'_>) {
        let Some(index) = self.probes.iter().position(|probe| probe.token == token && probe.path == from) else { return };
        let probe = self.probes.remove(index);
        if self.probes.is_empty() {
            self.probes.shrink_to_fit();
        }
        let Some(state) = self.path_mut(from) else { return };
        state.answer(desk.now.saturating_since(probe.sent), probe.lost, desk.now);
        let hinted = core::mem::take(&mut state.hinted);
        self.answered(from, hinted.then_some(probe.sent), desk);
    }

    /// Counts pings as lost whose answer is overdue.
    pub(super) fn settle_probes(&mut self, now: Instant) {
        for index in 0..self.probes.len() {
            let probe = self.probes[index];
            let overdue = self.path(probe.path).is_none_or(|state| probe.sent + state.rtt.timeout() <= now);
            if overdue && !probe.lost {
                self.count_lost(probe);
                self.probes[index].lost = true;
            }
        }
        self.probes.retain(|probe| probe.sent + LATE_ANSWER > now);
        if self.probes.is_empty() {
            self.probes.shrink_to_fit();
        }
    }

    fn count_lost(&mut self, probe: Probe) {
        if let Some(state) = self.path_mut(probe.path).filter(|state| state.proven && !probe.lost) {
            state.lose(probe.sent);
        }
    }

    /// Starts a series at once.
    pub(super) fn begin_episode(&mut self, now: Instant) {
        let active = self.active();
        self.episode = Some(Episode::new(&self.cadence(now), &active.rtt, active.loss.needed(), now));
    }

    /// Starts a series `delay` from now and forgets what was lost before: the host was suspended.
    pub(super) fn restart_probing(&mut self, delay: Duration, now: Instant) {
        self.probes.clear();
        for state in &mut self.paths {
            (state.silent, state.unanswered) = (0, 0);
        }
        self.begin_episode(now);
        if let Some(episode) = &mut self.episode {
            (episode.started, episode.next) = (now + delay, now + delay);
        }
    }

    /// When the series of probes, or the next check that may start one, is due.
    pub(super) fn probe_at(&self, now: Instant) -> Instant {
        match &self.episode {
            Some(episode) => episode.next,
            None => self.quiet_at(now).min(self.proof_at(now)),
        }
    }

    fn quiet_at(&self, now: Instant) -> Instant {
        self.active().heard.max(self.quiet_from) + self.cadence(now).quiet_with(self.quiet_jitter)
    }

    /// Even a path that is heard must answer a ping now and then: what we hear does not tell whether we are heard.
    fn proof_at(&self, now: Instant) -> Instant {
        let (cadence, active) = (self.cadence(now), self.active());
        // Soon again if it is not answered; slowly when it is known to be deaf and there is nothing better.
        let pause = if active.is_doubtful() { cadence.quiet } else { active.rtt.timeout() };
        (active.answered + cadence.proof).max(active.pinged + pause)
    }

    /// Sends the probe that is due. `Some` when all of a series stayed unanswered and nothing was heard of the peer.
    pub(super) fn run_episode(&mut self, desk: &mut Desk<'_>) -> Option<Gone> {
        let now = desk.now;
        if self.episode.is_none() {
            if self.quiet_at(now) <= now {
                self.begin_episode(now);
            } else if self.proof_at(now) <= now {
                self.ping(self.active, desk);
            }
        }
        let mut episode = self.episode.filter(|episode| episode.next <= now)?;
        if episode.next + OVERSLEPT < now {
            episode = Episode::new(&self.cadence(now), &self.active().rtt, episode.needed, now);
        }
        if episode.sent < episode.needed || (now < desk.grace_until && self.heard < episode.started) {
            self.probe_in_series(&mut episode, desk);
            self.episode = Some(episode);
            return None;
        }
        self.episode = None;
        if self.heard < episode.started {
            return Some(Gone::Unresponsive);
        }
        // Heard by another way, which is not proven or not better: the active path stays, and is asked again after a pause.
        self.quiet_from = now;
        self.draw(desk.rng);
        None
    }

    fn probe_in_series(&mut self, episode: &mut Episode, desk: &mut Desk<'_>) {
        // A peer that has lost the session in use may still have another one.
        let other = usize::from(episode.sent >= SPARES_EVERY && episode.sent % 2 == 1 && self.sessions.len() > 1);
        self.ping_on(other, self.active, desk);
        if episode.sent.is_multiple_of(SPARES_EVERY) {
            let spares = self.paths.iter().filter(|state| state.proven && state.path != self.active).map(|state| state.path);
            for path in spares.collect::<smallvec::SmallVec<[Path; 8]>>() {
                self.ping(path, desk);
            }
        }
        episode.sent = episode.sent.saturating_add(1);
        episode.next = desk.now + episode.wait_after_probe(&self.active().rtt);
    }

    /// Sends something on each path on which nothing was sent for long, and forgets spares that are gone.
    pub(super) fn keep_alive(&mut self, desk: &mut Desk<'_>) {
        let now = desk.now;
        let due = self.paths.iter().filter(|state| state.is_kept_alive() && state.keep_alive_at(self.phase) <= now);
        let due: smallvec::SmallVec<[Path; 8]> = due.map(|state| state.path).collect();
        for path in due {
            if path == self.active {
                self.active_mut().sent = now;
                desk.send(self.sessions[0].id, path, LinkMessage::KeepAlive);
            } else if self.path(path).is_some_and(|state| state.answered + SPARE_LIFE <= now) {
                self.forget_path(path, desk);
            } else {
                self.ping(path, desk);
            }
            self.draw(desk.rng);
        }
    }
}
