//! One session: its keys, counters and dates.

use core::ops::Range;
use core::time::Duration;

use super::keys::Secret;
use super::window::Window;
use super::{GRACE, LONGEST_GRACE, SealError};
use crate::crypto::{AeadKey, Cipher, TAG_LEN, nonce};
use crate::group::Certificate;
use crate::io::{DropReason, Path};
use crate::time::{Instant, UnixTime};
use crate::wire::TYPE_CONTROL;
use crate::wire::handshake::MAC_LEN;
use crate::wire::packet::{SEALED_HEADER_LEN, SealedHeader, rebuild_counter};

/// Control packets after which the keys are renewed (design section 4).
pub(super) const REKEY_PACKETS: u64 = 1 << 28;
/// Control packets that are sealed at most with one key.
pub(super) const MOST_PACKETS: u64 = 1 << 30;
/// Age of data keys at which they are renewed, where IP flows.
pub(super) const REKEY_DATA: Duration = Duration::from_secs(120);
/// Age at which the keys of a session without IP are renewed.
pub(super) const REKEY_QUIET: Duration = Duration::from_secs(3_600);
/// Age of the last full handshake at which there is another one.
pub(super) const FULL_AGAIN: Duration = Duration::from_secs(12 * 3_600);
/// How much later the responder of a session renews it than the initiator: normally one does it.
pub(super) const RESPONDER_DELAY: Duration = Duration::from_secs(15);

/// Where a session stands.
#[derive(Debug)]
pub(super) enum Phase {
    /// Both ends have it.
    Live,
    /// We opened it; the other end has not shown yet that it has it. Holds the handshake that repeats until then.
    Confirming(u32),
    /// The responder's end of a resumption, until the first packet on it.
    Provisional(Box<Provisional>),
    /// Nothing is accepted on it; it exists for one notice to a peer that is not admitted.
    Refused(Refused),
}

/// What the responder of a resumption keeps until the first packet on the new session.
#[derive(Debug)]
pub(super) struct Provisional {
    pub(super) expires: Instant,
    /// The MAC of the r1 that it answers, to know a repeated one.
    pub(super) r1: [u8; MAC_LEN],
    pub(super) r2: Vec<u8>,
}

/// A session for one notice.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) until: Instant,
    /// The sealed notice, to be repeated with the handshake message that it follows.
    pub(super) notice: Option<Box<[u8]>>,
    /// The handshake that repeats m3, when we are the initiator.
    pub(super) handshake: Option<u32>,
}

/// One session with one remote node.
pub(super) struct Session {
    pub(super) remote_index: u32,
    pub(super) certificate: Certificate,
    /// End of our own certificate as it was presented.
    pub(super) own_until: UnixTime,
    pub(super) secret: Secret,
    send: AeadKey,
    receive: AeadKey,
    sent: u64,
    window: Window,
    pub(super) cipher: Cipher,
    pub(super) version: u8,
    pub(super) features: u16,
    pub(super) initiator: bool,
    pub(super) path: Path,
    pub(super) established_at: Instant,
    pub(super) full_at: Instant,
    pub(super) phase: Phase,
    pub(super) resumed_from: Option<u32>,
    /// The provisional session that resumes this one at the other end's wish.
    pub(super) provisional: Option<u32>,
    /// Whether the other end has resumed this one already: an r1 is then a replay.
    pub(super) resumed: bool,
    /// When data keys were handed out.
    pub(super) data_at: Option<Instant>,
    pub(super) data_flowed: bool,
    /// When a full handshake is wanted before its time, because our certificate was renewed.
    pub(super) renew_at: Option<Instant>,
    /// No attempt to rekey before this.
    pub(super) quiet_until: Instant,
    /// The handshake that renews it.
    pub(super) rekey: Option<u32>,
    /// Since when a successor is established.
    pub(super) replaced_at: Option<Instant>,
    pub(super) last_opened: Instant,
    /// The deadline that is in the heap of timers.
    pub(super) armed: Option<Instant>,
}

/// What a handshake found out about a new session.
pub(super) struct Agreed {
    pub(super) remote_index: u32,
    pub(super) certificate: Certificate,
    pub(super) own_until: UnixTime,
    pub(super) secret: Secret,
    pub(super) cipher: Cipher,
    pub(super) version: u8,
    pub(super) features: u16,
    pub(super) initiator: bool,
    pub(super) path: Path,
    pub(super) full_at: Instant,
    pub(super) resumed_from: Option<u32>,
}

impl Session {
    pub(super) fn new(agreed: Agreed, phase: Phase, now: Instant) -> Self {
        let (send, receive) = agreed.secret.control(agreed.cipher, agreed.initiator);
        Self {
            remote_index: agreed.remote_index,
            certificate: agreed.certificate,
            own_until: agreed.own_until,
            secret: agreed.secret,
            send,
            receive,
            sent: 0,
            window: Window::default(),
            cipher: agreed.cipher,
            version: agreed.version,
            features: agreed.features,
            initiator: agreed.initiator,
            path: agreed.path,
            established_at: now,
            full_at: agreed.full_at,
            phase,
            resumed_from: agreed.resumed_from,
            provisional: None,
            resumed: false,
            data_at: None,
            data_flowed: false,
            renew_at: None,
            quiet_until: Instant::ZERO,
            rekey: None,
            replaced_at: None,
            last_opened: now,
            armed: None,
        }
    }

    /// Appends a sealed control packet.
    pub(super) fn seal(&mut self, payload: &[u8], out: &mut Vec<u8>) -> Result<(), SealError> {
        if self.sent >= MOST_PACKETS {
            return Err(SealError::Exhausted);
        }
        let counter = self.sent;
        self.sent += 1;
        let header = SealedHeader { kind: TYPE_CONTROL, lane: 0, receiver: self.remote_index, counter: counter as u32 }.bytes();
        out.reserve(SEALED_HEADER_LEN + payload.len() + TAG_LEN);
        out.extend_from_slice(&header);
        let start = out.len();
        out.extend_from_slice(payload);
        let tag = self.send.seal(nonce(0, counter), &header, &mut out[start..]);
        out.extend_from_slice(&tag);
        Ok(())
    }

    /// Opens a control packet in place; answers where its payload stands and whether it is the newest.
    pub(super) fn open(&mut self, header: &SealedHeader, bytes: &mut [u8], now: Instant) -> Result<(Range<usize>, bool), DropReason> {
        let counter = rebuild_counter(self.window.highest(), header.counter);
        self.window.check(counter)?;
        let (associated, sealed) = bytes.split_at_mut(SEALED_HEADER_LEN);
        let len = self.receive.open(nonce(0, counter), associated, sealed).map_err(|_| DropReason::Forged)?;
        self.last_opened = self.last_opened.max(now);
        Ok((SEALED_HEADER_LEN..SEALED_HEADER_LEN + len, self.window.mark(counter)))
    }

    /// Whether so many packets were sealed that the keys should be renewed.
    pub(super) const fn is_worn(&self) -> bool {
        self.sent >= REKEY_PACKETS
    }

    /// Whether its next renewal is a full handshake.
    pub(super) fn wants_full(&self, now: Instant) -> bool {
        self.renew_at.is_some() || now >= self.full_at + FULL_AGAIN
    }

    /// When its keys are to be renewed; `None` while that is under way or done, and in all phases but the live one.
    pub(super) fn rekey_at(&self) -> Option<Instant> {
        if !matches!(self.phase, Phase::Live) || self.rekey.is_some() || self.replaced_at.is_some() {
            return None;
        }
        let quiet = self.established_at + REKEY_QUIET;
        let data = self.data_at.filter(|_| self.data_flowed).map_or(quiet, |at| (at + REKEY_DATA).min(quiet));
        let mut due = data.min(self.full_at + FULL_AGAIN);
        if !self.initiator {
            due += RESPONDER_DELAY;
        }
        let due = if self.is_worn() { Instant::ZERO } else { self.renew_at.map_or(due, |renew| renew.min(due)) };
        Some(due.max(self.quiet_until))
    }

    /// When it ends for another reason than its certificates.
    pub(super) fn end_at(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Provisional(provisional) => Some(provisional.expires),
            Phase::Refused(refused) => Some(refused.until),
            Phase::Live | Phase::Confirming(_) => self.replaced_at.map(|at| (self.last_opened.max(at) + GRACE).min(at + LONGEST_GRACE)),
        }
    }

    /// The earlier end of both certificates.
    pub(super) fn valid_until(&self) -> UnixTime {
        self.certificate.not_after().min(self.own_until)
    }

    #[cfg(test)]
    pub(super) const fn set_sent(&mut self, sent: u64) {
        self.sent = sent;
    }
}
