//! The initiator's end of handshakes: m1, m2, m3, cookies and r2.

use bytes::Bytes;

use super::keys::Secret;
use super::live::{Agreed, Phase, Refused, Session};
use super::noise::{Noise, Pattern};
use super::outgoing::{First, Outgoing, State};
use super::parts::{Parts, cut};
use super::{Admit, HandshakeError, HandshakeId, MAX_OUTGOING, REFUSED_LIFE, SessionEvent, Sessions};
use crate::crypto::TAG_LEN;
use crate::group::{Certificate, CertificateError};
use crate::id::NodeId;
use crate::io::{DropReason, Path};
use crate::shard::table::SessionId;
use crate::wire::codec::Reader;
use crate::wire::handshake::{COOKIE_LEN, HandshakeHeader, Hello, Kind, M1_LEN, MAC_LEN, MAX_BODY, MAX_PARTS, split_outer};

/// Cookies that one handshake follows: one is normal, a second follows a change of the secret.
const MAX_COOKIES: u8 = 3;

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

    /// Sends the m1 datagrams that buy the parts from `from` on which are still missing.
    pub(super) fn send_m1(&mut self, index: u32, from: u8) {
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
        let waiting = State::Confirm { session: 0, m3: Vec::new() };
        let State::First(first) = core::mem::replace(&mut out.state, waiting) else { return Err(DropReason::Replayed) };
        let noise = first.noise;
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
        let session = self.indices.session(out.renews);
        let renewed = out.renews.and_then(|old| self.sessions.get(&old)).map_or(0, |old| old.remote_index);
        let Some((secret, m3)) = self.write_m3(noise, header, index, session, renewed) else {
            self.indices.free(session);
            self.fail(index, out, HandshakeError::Malformed);
            return Err(DropReason::Malformed);
        };
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
        let handshake = out.renews.is_none().then_some(HandshakeId { index, serial: out.serial });
        let expected = out.expected;
        for datagram in &m3 {
            self.transmit(out.path, datagram.clone());
        }
        self.confirm(index, out, session, m3);
        match refusal {
            None => {
                self.insert_session(session, Session::new(agreed, Phase::Confirming(index), self.now));
                self.established(session, handshake, Bytes::copy_from_slice(hello.introduction));
            }
            Some(why) => self.refuse_responder((index, session), agreed, (handshake, expected), why),
        }
        Ok(())
    }

    /// The responder is not admitted: its session exists for the notice that says so.
    fn refuse_responder(
        &mut self,
        (index, session): (u32, u32),
        agreed: Agreed,
        (handshake, expected): (Option<HandshakeId>, Option<NodeId>),
        why: CertificateError,
    ) {
        let (path, node, renews) = (agreed.path, agreed.certificate.node_id(), agreed.resumed_from);
        let phase = Phase::Refused(Refused { until: self.now + REFUSED_LIFE, notice: None, handshake: Some(index) });
        self.insert_session(session, Session::new(agreed, phase, self.now));
        self.events.push_back(SessionEvent::Refused { path, node: Some(node), why, session: Some(SessionId(session)) });
        if let Some(handshake) = handshake {
            self.hint(SessionEvent::Failed { handshake, path, expected, why: HandshakeError::Certificate(why) });
        }
        if let Some(old) = renews {
            self.rekey_failed(old);
        }
    }

    /// Decides whether the responder is whom we want, and whether it is to be told that it is not admitted.
    fn judge<'a>(
        &self,
        out: &Outgoing,
        header: &HandshakeHeader,
        payload: &'a [u8],
        remote_static: Option<[u8; 32]>,
    ) -> Result<(Hello<'a>, Certificate, Option<CertificateError>), HandshakeError> {
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

    fn write_m3(&self, mut noise: Noise, m2: &HandshakeHeader, index: u32, session: u32, renews: u32) -> Option<(Secret, Vec<Vec<u8>>)> {
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
}
