//! The responder's end of handshakes: m1, m3 and r1.

use core::num::NonZeroU8;

use bytes::Bytes;

use super::live::{Agreed, Phase, Refused, Session};
use super::noise::{Noise, Pattern};
use super::parts::{Parts, cut};
use super::{Admit, COOKIES_FROM, HALF_OPEN_LIFE, MAX_HALF_OPEN, Origin, REFUSED_LIFE, SessionEvent, Sessions, Wake};
use crate::group::{Certificate, CertificateError};
use crate::io::{DropReason, Path};
use crate::shard::table::SessionId;
use crate::time::Instant;
use crate::wire::codec::Reader;
use crate::wire::handshake::{
    Abilities, COOKIE_LEN, EPHEMERAL_LEN, HEADER_LEN, HandshakeHeader, Hello, Kind, M1_LEN, MAC_LEN, MAX_PARTS, split_outer,
};

/// Which handshake an m1 belongs to: where it came from, the sender's index, its ephemeral key.
pub(super) type Caller = (Path, u32, [u8; EPHEMERAL_LEN]);

/// A handshake that somebody else started.
#[derive(Debug)]
pub(super) struct Incoming {
    caller: Caller,
    expires: Instant,
    state: State,
}

#[derive(Debug)]
enum State {
    /// m2 was bought; waits for m3.
    Pending(Box<Pending>),
    /// m3 came; kept to answer it when it is repeated.
    Done { session: Option<u32>, macs: [[u8; MAC_LEN]; MAX_PARTS as usize] },
}

#[derive(Debug)]
struct Pending {
    noise: Noise,
    abilities: Abilities,
    /// The index reserved for the session.
    session: u32,
    m2: Vec<Vec<u8>>,
    parts: Parts,
}

impl Sessions {
    pub(super) fn on_m1(
        &mut self,
        from: Path,
        origin: Origin,
        header: &HandshakeHeader,
        mac: [u8; MAC_LEN],
        datagram: &[u8],
    ) -> Result<(), DropReason> {
        if datagram.len() != M1_LEN || header.receiver != 0 {
            return Err(DropReason::Malformed);
        }
        let mut body = Reader::new(&datagram[HEADER_LEN..]);
        let (ephemeral, cookie) = (body.array::<EPHEMERAL_LEN>()?, body.array::<COOKIE_LEN>()?);
        if self.abilities().common_version(&header.abilities).is_none() {
            return Err(DropReason::UnknownType);
        }
        if self.is_reflected(header.sender, &ephemeral) {
            return Err(DropReason::NotOurs);
        }
        let caller = (from, header.sender, ephemeral);
        let index = match self.callers.get(&caller) {
            Some(&index) => index,
            None => {
                if !self.may_open(from, origin, header, mac, &cookie)? {
                    return Ok(());
                }
                self.open_half(caller, header)?
            }
        };
        let Some(Incoming { state: State::Pending(pending), .. }) = self.incoming.get(&index).map(|incoming| &**incoming) else {
            return Err(DropReason::Replayed);
        };
        if let Some(part) = pending.m2.get(usize::from(header.part)) {
            let part = part.clone();
            self.transmit(from, part);
        }
        Ok(())
    }

    /// Whether a new handshake may be opened; an address that must prove itself first is sent a cookie.
    fn may_open(
        &mut self,
        from: Path,
        origin: Origin,
        header: &HandshakeHeader,
        mac: [u8; MAC_LEN],
        cookie: &[u8; COOKIE_LEN],
    ) -> Result<bool, DropReason> {
        match origin {
            Origin::Hop(hop) => {
                if !self.admission.take(hop, self.now) {
                    return Err(DropReason::RateLimited);
                }
            }
            Origin::Address(address) => {
                if self.half_open >= COOKIES_FROM && !self.admission.accepts(address, cookie, self.now) {
                    let fresh = self.admission.cookie(address, self.now);
                    let reply = HandshakeHeader {
                        abilities: self.abilities(),
                        part: 0,
                        parts: 1,
                        kind: Kind::Cookie,
                        receiver: header.sender,
                        sender: 0,
                    };
                    let mut datagram = Vec::with_capacity(HEADER_LEN + COOKIE_LEN + MAC_LEN);
                    reply.write(&mut datagram);
                    datagram.extend_from_slice(&fresh);
                    datagram.extend_from_slice(&mac);
                    self.mac.sign(&mut datagram);
                    self.transmit(from, datagram);
                    return Ok(false);
                }
            }
        }
        if self.half_open >= MAX_HALF_OPEN || self.incoming.len() >= 2 * MAX_HALF_OPEN || !self.has_room() {
            return Err(DropReason::QueueFull);
        }
        Ok(true)
    }

    /// Answers a new m1: the curve operations are here.
    fn open_half(&mut self, caller: Caller, header: &HandshakeHeader) -> Result<u32, DropReason> {
        let prologue = self.prologue(false, &header.abilities, None, None);
        let seed = self.rng.bytes();
        let pattern = Pattern::Full { dh_secret: self.identity.dh_secret(), dh_public: self.identity.certificate().dh_public() };
        let mut noise = Noise::new(self.settings.crypto, &pattern, false, &prologue, seed);
        noise.read(&caller.2).map_err(|_| DropReason::Malformed)?;
        self.indices.expire(self.now);
        let like = self.renewed_on(caller.0);
        let (index, session) = (self.indices.handshake(), self.indices.session(like));
        let written = noise.write(&self.hello(session, 0).bytes()).ok().and_then(|message| {
            let body = [&[0, 0], &message[..]].concat();
            let reply =
                HandshakeHeader { abilities: self.abilities(), part: 0, parts: 1, kind: Kind::M2, receiver: caller.1, sender: index };
            cut(reply, &body, &self.mac)
        });
        let Some(m2) = written else {
            self.indices.free(index);
            self.indices.free(session);
            return Err(DropReason::Malformed);
        };
        let expires = self.now + HALF_OPEN_LIFE;
        let pending = Pending { noise, abilities: header.abilities, session, m2, parts: Parts::default() };
        self.incoming.insert(index, Box::new(Incoming { caller, expires, state: State::Pending(Box::new(pending)) }));
        self.callers.insert(caller, index);
        self.half_open += 1;
        self.timers.arm(expires, Wake::Incoming(index));
        Ok(index)
    }

    /// The session that a handshake from `path` is going to renew, if any: an m1 does not say, so it is guessed by where it comes from. A wrong guess only
    /// lets a flow change its worker.
    fn renewed_on(&self, path: Path) -> Option<u32> {
        // One worker has no choice, and under a flood nobody is searched for.
        if self.settings.workers == NonZeroU8::MIN || self.half_open >= COOKIES_FROM {
            return None;
        }
        self.sessions.iter().find(|(_, session)| session.path == path && session.replaced_at.is_none()).map(|(index, _)| *index)
    }

    pub(super) fn on_m3(&mut self, header: &HandshakeHeader, mac: [u8; MAC_LEN], body: &[u8]) -> Result<(), DropReason> {
        let index = header.receiver;
        let incoming = self.incoming.get_mut(&index).ok_or(DropReason::UnknownIndex)?;
        let path = incoming.caller.0;
        if incoming.caller.1 != header.sender {
            return Err(DropReason::Forged);
        }
        let pending = match &mut incoming.state {
            State::Pending(pending) => pending,
            State::Done { session: Some(session), macs } if macs.contains(&mac) => {
                let session = *session;
                // One answer for one message: its first part.
                if header.part == 0 {
                    self.answer_m3(session, path);
                }
                return Ok(());
            }
            State::Done { .. } => return Err(DropReason::Replayed),
        };
        if pending.abilities != header.abilities {
            return Err(DropReason::Forged);
        }
        let Some(message) = pending.parts.add(header, mac, body) else { return Ok(()) };
        let read = split_outer(&message).ok().filter(|(outer, _)| outer.is_empty()).and_then(|(_, noise)| pending.noise.read(noise).ok());
        let Some(payload) = read else {
            pending.parts.clear();
            return Err(DropReason::Forged);
        };
        let done = State::Done { session: None, macs: *pending.parts.macs() };
        incoming.expires = self.now + HALF_OPEN_LIFE;
        let expires = incoming.expires;
        let State::Pending(pending) = core::mem::replace(&mut incoming.state, done) else { return Err(DropReason::Replayed) };
        self.half_open -= 1;
        self.timers.arm(expires, Wake::Incoming(index));
        let reserved = pending.session;
        let result = self.called(path, *pending, &payload);
        match (result, self.incoming.get_mut(&index).map(|incoming| &mut incoming.state)) {
            (Ok(()), Some(State::Done { session, .. })) => {
                *session = Some(reserved);
                self.answer_m3(reserved, path);
            }
            _ => self.indices.free(reserved),
        }
        result
    }

    /// m3 is complete and authentic: makes its session, or refuses.
    fn called(&mut self, path: Path, pending: Pending, payload: &[u8]) -> Result<(), DropReason> {
        let Pending { noise, abilities, session, .. } = pending;
        let hello = Hello::parse(payload)?;
        let version = self.abilities().common_version(&abilities).filter(|_| hello.abilities == abilities).ok_or(DropReason::Malformed)?;
        let (certificate, refusal) = match self.admit(hello.certificate, noise.remote_static()) {
            Admit::Member(certificate) => (certificate, None),
            Admit::Former(certificate, why) => (certificate, Some(why)),
            Admit::Stranger(why) => {
                self.hint(SessionEvent::Refused { path, node: None, why, session: None });
                return Err(DropReason::NotAdmitted);
            }
        };
        let node = certificate.node_id();
        if node == self.identity.node_id() {
            self.hint(SessionEvent::DuplicateIdentity { path });
            return Err(DropReason::NotAdmitted);
        }
        let renews = self.sessions.get(&hello.renews).filter(|old| is_of(old, &certificate)).map(|_| hello.renews);
        let agreed = Agreed {
            remote_index: hello.session,
            certificate,
            own_until: self.identity.certificate().not_after(),
            secret: noise.secret(),
            cipher: self.cipher(&abilities),
            version,
            features: abilities.features,
            initiator: false,
            path,
            full_at: self.now,
            resumed_from: renews,
        };
        match refusal {
            None => {
                let introduction = Bytes::copy_from_slice(hello.introduction);
                self.insert_session(session, Session::new(agreed, Phase::Live, self.now));
                self.established(session, None, introduction);
            }
            Some(why) => self.refuse(session, agreed, why),
        }
        Ok(())
    }

    fn refuse(&mut self, session: u32, agreed: Agreed, why: CertificateError) {
        let (path, node) = (agreed.path, agreed.certificate.node_id());
        let phase = Phase::Refused(Refused { until: self.now + REFUSED_LIFE, notice: None, handshake: None });
        self.insert_session(session, Session::new(agreed, phase, self.now));
        self.events.push_back(SessionEvent::Refused { path, node: Some(node), why, session: Some(SessionId(session)) });
    }

    /// Shows the initiator that m3 arrived: by a keep-alive, or by the notice that it is not admitted.
    fn answer_m3(&mut self, session: u32, path: Path) {
        match self.sessions.get(&session).map(|session| &session.phase) {
            Some(Phase::Refused(_)) => self.repeat_notice(session, path),
            Some(_) => self.send_keep_alive(session),
            None => {}
        }
    }

    /// A half-open handshake, or the memory of a done one, has had its time.
    pub(super) fn incoming_due(&mut self, index: u32) {
        let Some(incoming) = self.incoming.remove(&index) else { return };
        self.callers.remove(&incoming.caller);
        self.indices.free(index);
        if let State::Pending(pending) = incoming.state {
            self.half_open -= 1;
            self.indices.free(pending.session);
        }
    }

    /// Whether the deadline of an incoming handshake is still `at`.
    pub(super) fn incoming_holds(incoming: &Incoming, at: Instant) -> bool {
        incoming.expires == at
    }
}

fn is_of(old: &Session, certificate: &Certificate) -> bool {
    matches!(old.phase, Phase::Live | Phase::Confirming(_)) && old.certificate.node_id() == certificate.node_id()
}
