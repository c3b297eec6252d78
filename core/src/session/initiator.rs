//! The initiator's end of handshakes: m1, m2, m3, cookies and r2.

use bytes::Bytes;

use super::live::{Agreed, Phase, Refused, Session};
use super::noise::{Noise, Pattern};
use super::parts::{Parts, cut};
use super::{
    Admit, EndReason, FIRST_RETRY, GIVE_UP, HandshakeError, HandshakeId, MAX_OUTGOING, REFUSED_LIFE, SessionEvent, Sessions, Wake,
};
use crate::crypto::TAG_LEN;
use crate::group::Certificate;
use crate::id::NodeId;
use crate::io::{DropReason, Path};
use crate::shard::table::SessionId;
use crate::time::Instant;
use crate::wire::codec::Reader;
use crate::wire::handshake::{
    COOKIE_LEN, EPHEMERAL_LEN, HandshakeHeader, Hello, Kind, M1_LEN, MAC_LEN, MAX_BODY, MAX_PARTS, R1_LEN, Resume, split_outer,
};

/// Cookies that one handshake follows: one is normal, a second follows a change of the secret.
const MAX_COOKIES: u8 = 3;

/// A handshake that we started.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) serial: u32,
    pub(super) path: Path,
    expected: Option<NodeId>,
    /// The session that it renews; none when [`Sessions::connect`] started it.
    renews: Option<u32>,
    give_up: Instant,
    retry: Instant,
    tries: u32,
    /// Our own m1 came back: the address is probably our own. Anybody can send it back, so that this changes nothing but the reason given at the end.
    reflected: bool,
    state: State,
    pub(super) armed: Option<Instant>,
}

#[derive(Debug)]
enum State {
    /// Waits for m2.
    First(Box<First>),
    /// Waits for r2.
    Resume { noise: Noise, r1: Vec<u8>, session: u32 },
    /// Waits for the first packet on the session; repeats m3, or after a resumption a keep-alive.
    Confirm { session: u32, m3: Vec<Vec<u8>> },
}

#[derive(Debug)]
struct First {
    noise: Noise,
    ephemeral: [u8; EPHEMERAL_LEN],
    cookie: [u8; COOKIE_LEN],
    cookies: u8,
    /// The MACs of the m1 datagrams sent last, by part.
    macs: [[u8; MAC_LEN]; MAX_PARTS as usize],
    /// Parts of m2 that are asked for.
    wanted: u8,
    parts: Parts,
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
    /// Starts a full handshake, or answers `None` when there are too many.
    pub(super) fn start(&mut self, path: Path, expected: Option<NodeId>, renews: Option<u32>) -> Option<HandshakeId> {
        if self.outgoing.len() >= MAX_OUTGOING {
            return None;
        }
        let prologue = self.prologue(false, &self.abilities(), None, None);
        let seed = self.rng.bytes();
        let pattern = Pattern::Full { dh_secret: self.identity.dh_secret(), dh_public: self.identity.certificate().dh_public() };
        let mut noise = Noise::new(self.settings.crypto, &pattern, true, &prologue, seed);
        let message = noise.write(&[]).ok()?;
        let ephemeral = message.as_slice().try_into().ok()?;
        // What the other end has to say is about as long as what we have to say.
        let own = 2 + 32 + 32 + 2 * TAG_LEN + self.hello(0, 0).bytes().len();
        let wanted = (own.div_ceil(MAX_BODY) as u8).min(MAX_PARTS);
        let first =
            First { noise, ephemeral, cookie: [0; COOKIE_LEN], cookies: 0, macs: Default::default(), wanted, parts: Parts::default() };
        let index = self.insert_outgoing(path, expected, renews, State::First(Box::new(first)));
        self.send_m1(index, 0);
        Some(HandshakeId { index, serial: self.serial })
    }

    /// Starts a resumption of a session on its path; `None` when there are too many handshakes.
    pub(super) fn start_resumption(&mut self, old: u32) -> Option<u32> {
        if self.outgoing.len() >= MAX_OUTGOING || !self.has_room() {
            return None;
        }
        let abilities = self.abilities();
        let own = self.identity.node_id();
        let seed = self.rng.bytes();
        let found = self.sessions.get(&old)?;
        let (path, remote_index, node) = (found.path, found.remote_index, found.certificate.node_id());
        let psk = found.secret.resumption();
        let prologue = self.prologue(true, &abilities, Some(&own), Some(&node));
        let mut noise = Noise::new(self.settings.crypto, &Pattern::Resume { psk: &psk }, true, &prologue, seed);
        self.indices.expire(self.now);
        let session = self.indices.session();
        let Ok(message) = noise.write(&Resume { abilities, session }.bytes()) else {
            self.indices.free(session);
            return None;
        };
        let index = self.insert_outgoing(path, Some(node), Some(old), State::Resume { noise, r1: Vec::new(), session });
        let header = HandshakeHeader { abilities, part: 0, parts: 1, kind: Kind::R1, receiver: remote_index, sender: index };
        let datagram = self.resumption_datagram(&header, &message, R1_LEN);
        if let Some(Outgoing { state: State::Resume { r1, .. }, .. }) = self.outgoing.get_mut(&index).map(|out| &mut **out) {
            r1.clone_from(&datagram);
        }
        self.transmit(path, datagram);
        Some(index)
    }

    /// A datagram with one Noise message behind its length, filled up with zeros to `len` bytes.
    pub(super) fn resumption_datagram(&self, header: &HandshakeHeader, message: &[u8], len: usize) -> Vec<u8> {
        let mut datagram = Vec::with_capacity(len);
        header.write(&mut datagram);
        crate::wire::codec::Write::put_bytes16(&mut datagram, message);
        datagram.resize(datagram.len().max(len), 0);
        self.mac.sign(&mut datagram);
        datagram
    }

    fn insert_outgoing(&mut self, path: Path, expected: Option<NodeId>, renews: Option<u32>, state: State) -> u32 {
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

    /// Sends the m1 datagrams that buy the parts from `from` on which are still missing.
    fn send_m1(&mut self, index: u32, from: u8) {
        let abilities = self.abilities();
        let Some(out) = self.outgoing.get_mut(&index) else { return };
        let State::First(first) = &mut out.state else { return };
        let path = out.path;
        let mut datagrams = Vec::new();
        for part in (from..first.wanted).filter(|&part| first.parts.misses(part)) {
            let mut datagram = Vec::with_capacity(M1_LEN);
            HandshakeHeader { abilities, part, parts: first.wanted, kind: Kind::M1, receiver: 0, sender: index }.write(&mut datagram);
            datagram.extend_from_slice(&first.ephemeral);
            datagram.extend_from_slice(&first.cookie);
            datagram.resize(M1_LEN, 0);
            first.macs[usize::from(part)] = self.mac.sign(&mut datagram);
            datagrams.push(datagram);
        }
        for datagram in datagrams {
            self.transmit(path, datagram);
        }
    }

    pub(super) fn on_cookie(&mut self, header: &HandshakeHeader, body: &[u8]) -> Result<(), DropReason> {
        let mut reader = Reader::new(body);
        let (cookie, mac) = (reader.array::<COOKIE_LEN>()?, reader.array::<MAC_LEN>()?);
        reader.finish()?;
        let out = self.outgoing.get_mut(&header.receiver).ok_or(DropReason::UnknownIndex)?;
        let State::First(first) = &mut out.state else { return Err(DropReason::Replayed) };
        // It must answer what we sent last, so that an old one cannot be played back.
        if !first.macs[..usize::from(first.wanted)].contains(&mac) || cookie == first.cookie || first.cookies >= MAX_COOKIES {
            return Err(DropReason::Replayed);
        }
        first.cookie = cookie;
        first.cookies += 1;
        self.send_m1(header.receiver, 0);
        Ok(())
    }

    pub(super) fn on_m2(&mut self, header: &HandshakeHeader, mac: [u8; MAC_LEN], body: &[u8]) -> Result<(), DropReason> {
        let index = header.receiver;
        let out = self.outgoing.get_mut(&index).ok_or(DropReason::UnknownIndex)?;
        let State::First(first) = &mut out.state else { return Err(DropReason::Replayed) };
        let Some(message) = first.parts.add(header, mac, body) else {
            let asked = first.wanted;
            first.wanted = first.parts.number().unwrap_or(asked).max(asked);
            if first.wanted > asked {
                self.send_m1(index, asked);
            }
            return Ok(());
        };
        let read = split_outer(&message).ok().filter(|(outer, _)| outer.is_empty()).and_then(|(_, noise)| first.noise.read(noise).ok());
        let Some(payload) = read else {
            first.parts.clear();
            return Err(DropReason::Forged);
        };
        let Some(out) = self.outgoing.remove(&index) else { return Err(DropReason::UnknownIndex) };
        self.answered(index, *out, header, &payload)
    }

    /// m2 is complete and authentic. `out` was taken from the table.
    fn answered(&mut self, index: u32, mut out: Outgoing, header: &HandshakeHeader, payload: &[u8]) -> Result<(), DropReason> {
        let State::First(first) = out.state else { return Err(DropReason::Replayed) };
        let noise = first.noise;
        out.state = State::Confirm { session: 0, m3: Vec::new() };
        let (hello, certificate, refusal) = match self.judge(&out, header, payload, noise.remote_static()) {
            Ok(judged) => judged,
            Err(why) => {
                self.fail(index, out, why);
                return Err(DropReason::NotAdmitted);
            }
        };
        let Some(version) = self.abilities().common_version(&hello.abilities) else {
            self.fail(index, out, HandshakeError::Version);
            return Err(DropReason::UnknownType);
        };
        self.indices.expire(self.now);
        let session = self.indices.session();
        let renewed = out.renews.and_then(|old| self.sessions.get(&old)).map_or(0, |old| old.remote_index);
        let Some((secret, m3)) = self.write_m3(noise, header, index, session, renewed) else {
            self.indices.free(session);
            self.fail(index, out, HandshakeError::Malformed);
            return Err(DropReason::Malformed);
        };
        let node = certificate.node_id();
        let agreed = Agreed {
            remote_index: hello.session,
            certificate,
            own_until: self.identity.certificate().not_after(),
            secret,
            cipher: self.cipher(&hello.abilities),
            version,
            features: hello.abilities.features,
            initiator: true,
            path: out.path,
            full_at: self.now,
            resumed_from: out.renews,
        };
        let phase = match &refusal {
            None => Phase::Confirming(index),
            Some(_) => Phase::Refused(Refused { until: self.now + REFUSED_LIFE, notice: None, handshake: Some(index) }),
        };
        let introduction = Bytes::copy_from_slice(hello.introduction);
        self.insert_session(session, Session::new(agreed, phase, self.now));
        for datagram in &m3 {
            self.transmit(out.path, datagram.clone());
        }
        let handshake = out.renews.is_none().then_some(HandshakeId { index, serial: out.serial });
        let (path, expected, renews) = (out.path, out.expected, out.renews);
        self.confirm(index, out, session, m3);
        match refusal {
            None => self.established(session, handshake, introduction),
            Some(why) => {
                self.events.push_back(SessionEvent::Refused {
                    path,
                    node: Some(node),
                    why: why.clone(),
                    session: Some(SessionId(session)),
                });
                if let Some(handshake) = handshake {
                    self.hint(SessionEvent::Failed { handshake, path, expected, why: HandshakeError::Certificate(why) });
                }
                if let Some(old) = renews {
                    self.rekey_failed(old);
                }
            }
        }
        Ok(())
    }

    /// Decides whether the responder is whom we want, and whether it is to be told that it is not admitted.
    fn judge<'a>(
        &self,
        out: &Outgoing,
        header: &HandshakeHeader,
        payload: &'a [u8],
        remote_static: Option<[u8; 32]>,
    ) -> Result<(Hello<'a>, Certificate, Option<crate::group::CertificateError>), HandshakeError> {
        let hello = Hello::parse(payload).map_err(|_| HandshakeError::Malformed)?;
        if hello.abilities != header.abilities {
            return Err(HandshakeError::Version);
        }
        let (certificate, refusal) = match self.admit(hello.certificate, remote_static) {
            Admit::Member(certificate) => (certificate, None),
            Admit::Former(certificate, why) => (certificate, Some(why)),
            Admit::Stranger(why) => return Err(HandshakeError::Certificate(why)),
        };
        let found = certificate.node_id();
        if found == self.identity.node_id() {
            return Err(HandshakeError::DuplicateIdentity);
        }
        if out.expected.is_some_and(|expected| expected != found) {
            return Err(HandshakeError::WrongNode { found });
        }
        if !self.has_room() {
            return Err(HandshakeError::TooManySessions);
        }
        Ok((hello, certificate, refusal))
    }

    fn write_m3(
        &self,
        mut noise: Noise,
        m2: &HandshakeHeader,
        index: u32,
        session: u32,
        renews: u32,
    ) -> Option<(super::keys::Secret, Vec<Vec<u8>>)> {
        let mut message = vec![0, 0];
        message.extend_from_slice(&noise.write(&self.hello(session, renews).bytes()).ok()?);
        let header = HandshakeHeader { abilities: self.abilities(), part: 0, parts: 1, kind: Kind::M3, receiver: m2.sender, sender: index };
        Some((noise.secret(), cut(header, &message, &self.mac)?))
    }

    pub(super) fn hello(&self, session: u32, renews: u32) -> Hello<'_> {
        Hello {
            abilities: self.abilities(),
            session,
            renews,
            certificate: self.identity.certificate().der(),
            introduction: &self.introduction,
            extensions: &self.extensions,
        }
    }

    pub(super) fn on_r2(&mut self, header: &HandshakeHeader, body: &[u8]) -> Result<(), DropReason> {
        let index = header.receiver;
        let out = self.outgoing.get_mut(&index).ok_or(DropReason::UnknownIndex)?;
        let State::Resume { noise, .. } = &mut out.state else { return Err(DropReason::Replayed) };
        let message = Reader::new(body).bytes16()?;
        let payload = noise.read(message).map_err(|_| DropReason::Forged)?;
        let resume = Resume::parse(&payload)?;
        let Some(mut out) = self.outgoing.remove(&index) else { return Err(DropReason::UnknownIndex) };
        let State::Resume { noise, session, .. } = core::mem::replace(&mut out.state, State::Confirm { session: 0, m3: Vec::new() }) else {
            return Err(DropReason::Replayed);
        };
        let version = self.abilities().common_version(&resume.abilities).filter(|_| resume.abilities == header.abilities);
        let old = out.renews.and_then(|old| self.sessions.get(&old));
        let (Some(version), Some(old)) = (version, old) else {
            self.indices.free(session);
            self.fail(index, *out, HandshakeError::Version);
            return Err(DropReason::UnknownIndex);
        };
        let agreed = Agreed {
            remote_index: resume.session,
            certificate: old.certificate.clone(),
            own_until: old.own_until,
            secret: noise.secret(),
            cipher: self.cipher(&resume.abilities),
            version,
            features: resume.abilities.features,
            initiator: true,
            path: out.path,
            full_at: old.full_at,
            resumed_from: out.renews,
        };
        let renew_at = old.renew_at;
        let mut resumed = Session::new(agreed, Phase::Confirming(index), self.now);
        resumed.renew_at = renew_at;
        self.insert_session(session, resumed);
        self.confirm(index, *out, session, Vec::new());
        self.established(session, None, Bytes::new());
        self.send_keep_alive(session);
        Ok(())
    }

    /// Keeps a handshake until the first packet on its session.
    fn confirm(&mut self, index: u32, mut out: Outgoing, session: u32, m3: Vec<Vec<u8>>) {
        out.state = State::Confirm { session, m3 };
        out.tries = 1;
        out.give_up = self.now + GIVE_UP;
        out.retry = self.now + self.rng.jitter(FIRST_RETRY, 100);
        out.armed = None;
        self.outgoing.insert(index, Box::new(out));
        self.arm_outgoing(index);
    }

    /// Ends a handshake that was taken from the table.
    fn fail(&mut self, index: u32, out: Outgoing, why: HandshakeError) {
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
