//! Resumptions: r1 and r2, from both ends.

use bytes::Bytes;

use super::live::{Agreed, Phase, Provisional, Session};
use super::noise::{Noise, Pattern};
use super::outgoing::{Outgoing, State};
use super::{HALF_OPEN_LIFE, HandshakeError, MAX_HALF_OPEN, MAX_OUTGOING, Origin, Sessions};
use crate::io::{DropReason, Path};
use crate::wire::codec::{Reader, Write};
use crate::wire::handshake::{HEADER_LEN, HandshakeHeader, Kind, MAC_LEN, R1_LEN, Resume};

impl Sessions {
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
        let session = self.indices.session(Some(old));
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
        datagram.put_bytes16(message);
        datagram.resize(datagram.len().max(len), 0);
        self.mac.sign(&mut datagram);
        datagram
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

    pub(super) fn on_r1(
        &mut self,
        from: Path,
        origin: Origin,
        header: &HandshakeHeader,
        mac: [u8; MAC_LEN],
        datagram: &[u8],
    ) -> Result<(), DropReason> {
        if datagram.len() != R1_LEN || header.parts != 1 {
            return Err(DropReason::Malformed);
        }
        let old_index = header.receiver;
        let old = self.sessions.get(&old_index).ok_or(DropReason::UnknownIndex)?;
        if !matches!(old.phase, Phase::Live | Phase::Confirming(_)) {
            return Err(DropReason::UnknownIndex);
        }
        if old.resumed {
            return Err(DropReason::Replayed);
        }
        if let Some(Phase::Provisional(known)) = old.provisional.and_then(|index| self.sessions.get(&index)).map(|session| &session.phase)
            && known.r1 == mac
        {
            let r2 = known.r2.clone();
            self.transmit(from, r2);
            return Ok(());
        }
        if let Origin::Hop(hop) = origin
            && !self.admission.take(hop, self.now)
        {
            return Err(DropReason::RateLimited);
        }
        if self.half_open >= MAX_HALF_OPEN || !self.has_room() {
            return Err(DropReason::QueueFull);
        }
        self.answer_r1(from, old_index, header, mac, datagram)
    }

    /// Answers a new r1. Reading it needs no curve operation, and fails without the secret of the session.
    fn answer_r1(
        &mut self,
        from: Path,
        old_index: u32,
        header: &HandshakeHeader,
        mac: [u8; MAC_LEN],
        datagram: &[u8],
    ) -> Result<(), DropReason> {
        let seed = self.rng.bytes();
        let old = self.sessions.get(&old_index).ok_or(DropReason::UnknownIndex)?;
        let (own, node) = (self.identity.node_id(), old.certificate.node_id());
        let prologue = self.prologue(true, &header.abilities, Some(&node), Some(&own));
        let psk = old.secret.resumption();
        let mut noise = Noise::new(self.settings.crypto, &Pattern::Resume { psk: &psk }, false, &prologue, seed);
        let message = Reader::new(&datagram[HEADER_LEN..]).bytes16()?;
        let payload = noise.read(message).map_err(|_| DropReason::Forged)?;
        let resume = Resume::parse(&payload)?;
        let version = self.abilities().common_version(&resume.abilities).filter(|_| resume.abilities == header.abilities);
        let version = version.ok_or(DropReason::Malformed)?;
        if self.trust.check(&old.certificate, self.wall.1).is_err() {
            return Err(DropReason::NotAdmitted);
        }
        self.indices.expire(self.now);
        let session = self.indices.session(Some(old_index));
        let abilities = self.abilities();
        let Ok(reply) = noise.write(&Resume { abilities, session }.bytes()) else {
            self.indices.free(session);
            return Err(DropReason::Malformed);
        };
        let header = HandshakeHeader { abilities, part: 0, parts: 1, kind: Kind::R2, receiver: header.sender, sender: 0 };
        let r2 = self.resumption_datagram(&header, &reply, 0);
        let agreed = Agreed {
            remote_index: resume.session,
            certificate: old.certificate.clone(),
            own_until: old.own_until,
            secret: noise.secret(),
            cipher: self.cipher(&resume.abilities),
            version,
            features: resume.abilities.features,
            initiator: false,
            // An r1 can be copied: only the path that the layer above has checked is believed.
            path: if old.path == Path::NONE { from } else { old.path },
            full_at: old.full_at,
            resumed_from: Some(old_index),
        };
        let (earlier, renew_at) = (old.provisional, old.renew_at);
        if let Some(earlier) = earlier {
            self.remove_session(earlier);
        }
        let provisional = Provisional { expires: self.now + HALF_OPEN_LIFE + HALF_OPEN_LIFE, r1: mac, r2: r2.clone() };
        let mut resumed = Session::new(agreed, Phase::Provisional(Box::new(provisional)), self.now);
        resumed.renew_at = renew_at;
        self.half_open += 1;
        self.insert_session(session, resumed);
        if let Some(old) = self.sessions.get_mut(&old_index) {
            old.provisional = Some(session);
        }
        self.transmit(from, r2);
        Ok(())
    }

    /// The first packet on the responder's end of a resumption: it is a session now.
    pub(super) fn promote(&mut self, index: u32) {
        let now = self.now;
        let Some(session) = self.sessions.get_mut(&index) else { return };
        session.phase = Phase::Live;
        session.established_at = now;
        self.half_open -= 1;
        if let Some(old) = session.resumed_from.and_then(|old| self.sessions.get_mut(&old)) {
            old.resumed = true;
            old.provisional = None;
        }
        self.established(index, None, Bytes::new());
    }
}
