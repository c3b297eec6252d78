//! The handshakes that we started: their table, their repetition and their end.

use super::live::{Phase, Refused};
use super::noise::Noise;
use super::parts::Parts;
use super::{EndReason, FIRST_RETRY, GIVE_UP, HandshakeError, HandshakeId, SessionEvent, Sessions, Wake};
use crate::id::NodeId;
use crate::io::Path;
use crate::time::Instant;
use crate::wire::handshake::{COOKIE_LEN, EPHEMERAL_LEN, MAC_LEN, MAX_PARTS};

/// A handshake that we started.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) serial: u32,
    pub(super) path: Path,
    pub(super) expected: Option<NodeId>,
    /// The session that it renews; none when [`Sessions::connect`] started it.
    pub(super) renews: Option<u32>,
    pub(super) give_up: Instant,
    pub(super) retry: Instant,
    pub(super) tries: u32,
    /// Our own m1 came back: the address is probably our own. Anybody can send it back, so that this changes nothing but the reason given at the end.
    pub(super) reflected: bool,
    pub(super) state: State,
    pub(super) armed: Option<Instant>,
}

#[derive(Debug)]
pub(super) enum State {
    /// Waits for m2.
    First(Box<First>),
    /// Waits for r2.
    Resume { noise: Noise, r1: Vec<u8>, session: u32 },
    /// Waits for the first packet on the session; repeats m3, or after a resumption a keep-alive.
    Confirm { session: u32, m3: Vec<Vec<u8>> },
}

#[derive(Debug)]
pub(super) struct First {
    pub(super) noise: Noise,
    pub(super) ephemeral: [u8; EPHEMERAL_LEN],
    pub(super) cookie: [u8; COOKIE_LEN],
    pub(super) cookies: u8,
    /// The MACs of the m1 datagrams sent last, by part.
    pub(super) macs: [[u8; MAC_LEN]; MAX_PARTS as usize],
    /// Parts of m2 that are asked for.
    pub(super) wanted: u8,
    pub(super) parts: Parts,
}

impl Outgoing {
    /// Whether it has no session yet and was not made for one.
    pub(super) const fn is_first(&self) -> bool {
        matches!(self.state, State::First(_)) && self.renews.is_none()
    }

    /// When it must be looked at.
    pub(super) fn deadline(&self) -> Instant {
        self.retry.min(self.give_up)
    }
}

impl Sessions {
    pub(super) fn insert_outgoing(&mut self, path: Path, expected: Option<NodeId>, renews: Option<u32>, state: State) -> u32 {
        let index = self.indices.handshake();
        self.serial = self.serial.wrapping_add(1);
        let retry = self.now + self.rng.jitter(FIRST_RETRY, 100);
        let out = Outgoing {
            serial: self.serial,
            path,
            expected,
            renews,
            give_up: self.now + GIVE_UP,
            retry,
            tries: 1,
            reflected: false,
            state,
            armed: None,
        };
        self.outgoing.insert(index, Box::new(out));
        self.arm_outgoing(index);
        index
    }

    /// Keeps a handshake until the first packet on its session.
    pub(super) fn confirm(&mut self, index: u32, mut out: Outgoing, session: u32, m3: Vec<Vec<u8>>) {
        out.state = State::Confirm { session, m3 };
        out.tries = 1;
        out.give_up = self.now + GIVE_UP;
        out.retry = self.now + self.rng.jitter(FIRST_RETRY, 100);
        out.armed = None;
        self.outgoing.insert(index, Box::new(out));
        self.arm_outgoing(index);
    }

    /// Ends a handshake that was taken from the table.
    pub(super) fn fail(&mut self, index: u32, out: Outgoing, why: HandshakeError) {
        self.indices.free(index);
        match out.renews {
            None => {
                let handshake = HandshakeId { index, serial: out.serial };
                self.hint(SessionEvent::Failed { handshake, path: out.path, expected: out.expected, why });
            }
            Some(old) => self.rekey_failed(old),
        }
    }

    /// Whether an m1 is our own, come back to us.
    pub(super) fn is_reflected(&mut self, index: u32, ephemeral: &[u8; EPHEMERAL_LEN]) -> bool {
        let Some(out) = self.outgoing.get_mut(&index) else { return false };
        let own = matches!(&out.state, State::First(first) if first.ephemeral == *ephemeral);
        out.reflected |= own;
        own
    }

    /// Forgets a handshake without an event; its index, and the one reserved for its session, are free.
    pub(super) fn drop_outgoing(&mut self, index: u32) {
        if let Some(out) = self.outgoing.remove(&index) {
            self.indices.free(index);
            if let State::Resume { session, .. } = out.state {
                self.indices.free(session);
            }
        }
    }

    pub(super) fn arm_outgoing(&mut self, index: u32) {
        if let Some(out) = self.outgoing.get_mut(&index) {
            let deadline = out.deadline();
            if out.armed != Some(deadline) {
                out.armed = Some(deadline);
                self.timers.arm(deadline, Wake::Outgoing(index));
            }
        }
    }

    /// The retry or the end of a handshake is due.
    pub(super) fn outgoing_due(&mut self, index: u32) {
        let now = self.now;
        let Some(out) = self.outgoing.get_mut(&index) else { return };
        if out.give_up <= now {
            self.gave_up(index);
            return;
        }
        let wait = FIRST_RETRY * 2u32.saturating_pow(out.tries);
        out.tries += 1;
        out.retry = now + self.rng.jitter(wait, 100);
        let path = out.path;
        match &out.state {
            State::First(_) => self.send_m1(index, 0),
            State::Resume { r1, .. } => {
                let r1 = r1.clone();
                self.transmit(path, r1);
            }
            State::Confirm { session, m3 } => {
                let (session, m3) = (*session, m3.clone());
                if m3.is_empty() {
                    self.send_keep_alive(session);
                }
                for datagram in m3 {
                    self.transmit(path, datagram);
                }
                self.repeat_notice(session, path);
            }
        }
        self.arm_outgoing(index);
    }

    /// Sends the notice of a refused session again, if one was sealed.
    pub(super) fn repeat_notice(&mut self, session: u32, path: Path) {
        if let Some(Phase::Refused(Refused { notice: Some(notice), .. })) = self.sessions.get(&session).map(|session| &session.phase) {
            let notice = notice.to_vec();
            self.transmit(path, notice);
        }
    }

    fn gave_up(&mut self, index: u32) {
        let Some(out) = self.outgoing.remove(&index) else { return };
        match out.state {
            State::First(_) => {
                let why = if out.reflected { HandshakeError::OwnAddress } else { HandshakeError::TimedOut };
                self.fail(index, *out, why);
            }
            State::Resume { session, .. } => {
                self.indices.free(session);
                self.indices.free(index);
                // The other end may have forgotten the session, or never had its secret: a full handshake decides.
                if let Some(old) = out.renews {
                    self.begin_full(old);
                }
            }
            State::Confirm { session, .. } => {
                self.indices.free(index);
                self.unconfirmed(session);
            }
        }
    }

    /// Nobody ever answered on a session that we opened.
    fn unconfirmed(&mut self, index: u32) {
        let Some(session) = self.sessions.get(&index) else { return };
        let refused = matches!(session.phase, Phase::Refused(_));
        let predecessor = session.resumed_from;
        if refused {
            self.remove_session(index);
        } else {
            self.end(index, EndReason::Unconfirmed);
        }
        if let Some(old) = predecessor {
            self.needed_again(old);
        }
    }
}
