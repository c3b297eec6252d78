//! Control packets, and the hand-over of data keys to shards.

use super::live::{Phase, REKEY_DATA, Refused};
use super::{CONFIRM_LIFE, Opened, SealError, Sessions};
use crate::io::DropReason;
use crate::shard::table::{Install, PeerId, SessionId, Way};
use crate::time::Instant;
use crate::wire::packet::SealedHeader;
use crate::wire::{PayloadKind, TYPE_CONTROL};

impl Sessions {
    /// Opens a control packet in place. The packet may establish its session: drain [`Self::poll_event`] before the payload is acted on.
    ///
    /// # Errors
    /// Why it was dropped; nothing changed then, but that a refused peer's packet stops the repetition of the handshake.
    pub fn open(&mut self, bytes: &mut [u8], now: Instant) -> Result<Opened, DropReason> {
        self.tick(now);
        let header = SealedHeader::parse(bytes)?;
        if header.kind != TYPE_CONTROL {
            return Err(DropReason::UnknownType);
        }
        // Control packets have one sender and so one lane.
        if header.lane != 0 {
            return Err(DropReason::Malformed);
        }
        let index = header.receiver;
        let session = self.sessions.get_mut(&index).ok_or(DropReason::UnknownIndex)?;
        let (payload, newest) = session.open(&header, bytes, now)?;
        let keep_alive = bytes.get(payload.start).is_some_and(|&kind| kind == PayloadKind::KeepAlive.byte());
        self.heard(index, keep_alive)?;
        Ok(Opened { session: SessionId(index), payload, newest })
    }

    /// An authenticated packet came on a session: the other end has it.
    fn heard(&mut self, index: u32, keep_alive: bool) -> Result<(), DropReason> {
        let now = self.now;
        let session = self.sessions.get_mut(&index).ok_or(DropReason::UnknownIndex)?;
        let mut answer = keep_alive && !session.initiator && session.resumed_from.is_some() && now < session.established_at + CONFIRM_LIFE;
        match &mut session.phase {
            Phase::Live => {}
            Phase::Confirming(handshake) => {
                let handshake = *handshake;
                session.phase = Phase::Live;
                self.drop_outgoing(handshake);
                self.arm_session(index);
            }
            Phase::Provisional(_) => {
                self.promote(index);
                answer = true;
            }
            Phase::Refused(refused) => {
                if let Some(handshake) = refused.handshake.take() {
                    self.drop_outgoing(handshake);
                }
                return Err(DropReason::NotAdmitted);
            }
        }
        if answer {
            self.send_keep_alive(index);
        }
        Ok(())
    }

    /// Appends a control packet with `payload` to `out`, as a whole datagram.
    ///
    /// # Errors
    /// [`SealError`] when the session is not there, used up, or only exists for a notice that was sealed already.
    pub fn seal(&mut self, session: SessionId, payload: &[u8], out: &mut Vec<u8>, now: Instant) -> Result<(), SealError> {
        self.tick(now);
        let found = self.sessions.get_mut(&session.0).ok_or(SealError::Unknown)?;
        match &found.phase {
            Phase::Provisional(_) => return Err(SealError::Unknown),
            Phase::Refused(Refused { notice: Some(_), .. }) => return Err(SealError::Refused),
            Phase::Live | Phase::Confirming(_) | Phase::Refused(_) => {}
        }
        let start = out.len();
        found.seal(payload, out)?;
        if let Phase::Refused(refused) = &mut found.phase {
            refused.notice = Some(out[start..].into());
        }
        if found.is_worn() {
            self.arm_session(session.0);
        }
        Ok(())
    }

    /// What shards need to know of a session. The data keys count as in use from the first call on: their renewal is due 120 s later.
    pub fn data_install(&mut self, session: SessionId, peer: PeerId, way: Way) -> Option<Install> {
        let now = self.now;
        let found = self.sessions.get_mut(&session.0).filter(|found| matches!(found.phase, Phase::Live | Phase::Confirming(_)))?;
        let data_at = *found.data_at.get_or_insert(now);
        Some(Install {
            session,
            peer,
            remote_index: found.remote_index,
            keys: found.secret.data(found.initiator),
            cipher: found.cipher,
            way,
            rekey_at: data_at + REKEY_DATA,
        })
    }

    /// IP flowed on a session: its keys are renewed 120 s after its data keys were handed out. To be said of each session anew.
    pub fn mark_data(&mut self, session: SessionId) {
        let now = self.now;
        let Some(found) = self.sessions.get_mut(&session.0) else { return };
        if !found.data_flowed {
            found.data_flowed = true;
            found.data_at.get_or_insert(now);
            self.arm_session(session.0);
        }
    }

    pub(super) fn send_keep_alive(&mut self, index: u32) {
        let Some(session) = self.sessions.get_mut(&index) else { return };
        let mut datagram = Vec::new();
        let path = session.path;
        if session.seal(&[PayloadKind::KeepAlive.byte()], &mut datagram).is_ok() {
            self.transmit(path, datagram);
        }
    }
}
