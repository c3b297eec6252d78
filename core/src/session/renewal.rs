//! Timers: renewal, replacement and end of sessions.

use bytes::Bytes;
use core::time::Duration;

use super::live::{Phase, Refused, Session};
use super::{EndReason, HandshakeId, REFUSED_LIFE, RETRY_REKEY, SessionEvent, Sessions, Wake};
use crate::group::CertificateError;
use crate::io::Path;
use crate::shard::table::SessionId;
use crate::time::{Instant, UnixTime};

/// Least pause between two looks at one session: a deadline that cannot be acted on does not spin.
const LEAST_PAUSE: Duration = Duration::from_secs(1);

impl Sessions {
    /// Renews a session now, on `path`: its counters run out, or the layer above wants it. Nothing happens while that is under way or done.
    pub fn rekey(&mut self, session: SessionId, path: Path, now: Instant) {
        self.tick(now);
        let Some(found) = self.sessions.get_mut(&session.0) else { return };
        found.path = path;
        if matches!(found.phase, Phase::Live) && found.rekey.is_none() && found.replaced_at.is_none() {
            self.begin_rekey(session.0);
        }
    }

    /// Looks at all sessions again, because the wall clock or the trust has changed.
    ///
    /// A session whose peer is not admitted any more is refused (one notice can be sealed) and ended; one under an ended certificate of ours is ended.
    pub fn recheck(&mut self, wall: UnixTime, now: Instant) {
        self.tick(now);
        self.wall = (now, wall);
        for index in self.session_indices() {
            self.check_certificates(index);
            self.arm_session(index);
        }
    }

    /// Does what is due. The wall clock decides whether certificates have ended.
    pub fn handle_timeout(&mut self, now: Instant, wall: UnixTime) {
        self.tick(now);
        self.wall = (now, wall);
        self.indices.expire(now);
        while let Some(wake) = self.next_due(now) {
            match wake {
                Wake::Outgoing(index) => {
                    if let Some(out) = self.outgoing.get_mut(&index) {
                        out.armed = None;
                    }
                    self.outgoing_due(index);
                }
                Wake::Incoming(index) => self.incoming_due(index),
                Wake::Session(index) => self.session_due(index),
            }
        }
    }

    fn next_due(&mut self, now: Instant) -> Option<Wake> {
        let Self { timers, outgoing, incoming, sessions, .. } = self;
        let holds = |wake, at| match wake {
            Wake::Outgoing(index) => outgoing.get(&index).is_some_and(|out| out.armed == Some(at)),
            Wake::Incoming(index) => incoming.get(&index).is_some_and(|incoming| Self::incoming_holds(incoming, at)),
            Wake::Session(index) => sessions.get(&index).is_some_and(|session| session.armed == Some(at)),
        };
        if timers.len() > 64 + 4 * (outgoing.len() + incoming.len() + sessions.len()) {
            timers.compact(holds);
        }
        timers.pop_due(now, holds)
    }

    /// Indexes the next deadline of a session, unless an earlier one is indexed already: that one looks again.
    pub(super) fn arm_session(&mut self, index: u32) {
        self.arm_session_from(index, Instant::ZERO);
    }

    fn arm_session_from(&mut self, index: u32, earliest: Instant) {
        let (told_at, wall) = self.wall;
        let Some(session) = self.sessions.get_mut(&index) else { return };
        let valid = told_at + Duration::from_secs(session.valid_until().saturating_since(wall).saturating_add(1));
        let deadline = [session.rekey_at(), session.end_at()].into_iter().flatten().fold(valid, Instant::min).max(earliest);
        if session.armed.is_none_or(|armed| deadline < armed) {
            session.armed = Some(deadline);
            self.timers.arm(deadline, Wake::Session(index));
        }
    }

    fn session_due(&mut self, index: u32) {
        let now = self.now;
        let Some(session) = self.sessions.get_mut(&index) else { return };
        session.armed = None;
        if session.end_at().is_some_and(|end| end <= now) {
            match session.phase {
                Phase::Live | Phase::Confirming(_) => self.end(index, EndReason::Superseded),
                Phase::Provisional(_) | Phase::Refused(_) => self.remove_session(index),
            }
            return;
        }
        self.check_certificates(index);
        if self.sessions.get(&index).and_then(|session| session.rekey_at()).is_some_and(|due| due <= now) {
            self.begin_rekey(index);
        }
        self.arm_session_from(index, now + LEAST_PAUSE);
    }

    fn check_certificates(&mut self, index: u32) {
        let wall = self.wall.1;
        let Some(session) = self.sessions.get(&index) else { return };
        if matches!(session.phase, Phase::Refused(_)) {
            return;
        }
        if let Err(why) = self.trust.check(&session.certificate, wall) {
            self.refuse_live(index, why);
        } else if wall > session.own_until && !matches!(session.phase, Phase::Confirming(_)) {
            // Until the other end has answered, it may be about to say in a notice that our certificate has ended.
            if matches!(session.phase, Phase::Provisional(_)) {
                self.remove_session(index);
            } else {
                self.end(index, EndReason::OwnCertificate);
            }
        }
    }

    /// Turns a session into one that exists for a notice, and ends it.
    fn refuse_live(&mut self, index: u32, why: CertificateError) {
        self.drop_renewal(index);
        let Some(session) = self.sessions.get_mut(&index) else { return };
        if matches!(session.phase, Phase::Provisional(_)) {
            self.remove_session(index);
            return;
        }
        let (path, node) = (session.path, session.certificate.node_id());
        let until = self.now + REFUSED_LIFE;
        let phase = core::mem::replace(&mut session.phase, Phase::Refused(Refused { until, notice: None, handshake: None }));
        if let (Phase::Confirming(handshake), Phase::Refused(refused)) = (phase, &mut session.phase) {
            refused.handshake = Some(handshake);
        }
        let session = SessionId(index);
        self.events.push_back(SessionEvent::Refused { path, node: Some(node), why, session: Some(session) });
        self.events.push_back(SessionEvent::Ended { session, node, why: EndReason::Certificate(why) });
    }

    fn begin_rekey(&mut self, index: u32) {
        let now = self.now;
        let Some(session) = self.sessions.get(&index) else { return };
        if session.wants_full(now) {
            self.begin_full(index);
            return;
        }
        let started = self.start_resumption(index);
        self.rekey_started(index, started);
    }

    /// Renews a session by a full handshake with the same node.
    pub(super) fn begin_full(&mut self, index: u32) {
        let Some(session) = self.sessions.get(&index) else { return };
        if !matches!(session.phase, Phase::Live) || session.replaced_at.is_some() {
            return;
        }
        let (path, node) = (session.path, session.certificate.node_id());
        let started = self.start(path, Some(node), Some(index)).map(|handshake| handshake.index);
        self.rekey_started(index, started);
    }

    fn rekey_started(&mut self, index: u32, started: Option<u32>) {
        if started.is_none() {
            self.rekey_failed(index);
        } else if let Some(session) = self.sessions.get_mut(&index) {
            session.rekey = started;
        }
    }

    /// A renewal came to nothing: the session is needed further on, and renewed after a pause.
    pub(super) fn rekey_failed(&mut self, index: u32) {
        if let Some(session) = self.sessions.get_mut(&index) {
            session.rekey = None;
            session.quiet_until = self.now + RETRY_REKEY;
        }
        self.arm_session(index);
    }

    /// The successor of a session came to nothing: unless the other end made another one, the session goes on.
    pub(super) fn needed_again(&mut self, index: u32) {
        let replaced = self.sessions.values().any(|other| other.resumed_from == Some(index) && matches!(other.phase, Phase::Live));
        if let Some(session) = self.sessions.get_mut(&index).filter(|_| !replaced) {
            session.replaced_at = None;
        }
        self.rekey_failed(index);
    }

    /// Puts a session into the table.
    pub(super) fn insert_session(&mut self, index: u32, session: Session) {
        self.sessions.insert(index, Box::new(session));
        self.arm_session(index);
    }

    /// Tells of a session, and lets it take the place of the one that it renews.
    pub(super) fn established(&mut self, index: u32, handshake: Option<HandshakeId>, introduction: Bytes) {
        let now = self.now;
        let Some(session) = self.sessions.get(&index) else { return };
        let resumed_from = session.resumed_from;
        self.events.push_back(SessionEvent::Established {
            session: SessionId(index),
            handshake,
            path: session.path,
            initiator: session.initiator,
            node: session.certificate.node_id(),
            introduction,
            resumed_from: resumed_from.map(SessionId),
        });
        if let Some(old) = resumed_from {
            if let Some(session) = self.sessions.get_mut(&old) {
                session.replaced_at.get_or_insert(now);
                session.rekey = None;
            }
            self.arm_session(old);
        }
    }

    /// Ends a session and says so.
    pub(super) fn end(&mut self, index: u32, why: EndReason) {
        if let Some(session) = self.sessions.get(&index) {
            let node = session.certificate.node_id();
            self.events.push_back(SessionEvent::Ended { session: SessionId(index), node, why });
        }
        self.remove_session(index);
    }

    /// Gives up what is under way to renew a session.
    fn drop_renewal(&mut self, index: u32) {
        let Some(session) = self.sessions.get_mut(&index) else { return };
        let (rekey, provisional) = (session.rekey.take(), session.provisional.take());
        if let Some(handshake) = rekey {
            self.drop_outgoing(handshake);
        }
        if let Some(provisional) = provisional {
            self.remove_session(provisional);
        }
    }

    /// Forgets a session with all that hangs on it; its index rests.
    pub(super) fn remove_session(&mut self, index: u32) {
        self.drop_renewal(index);
        let Some(session) = self.sessions.remove(&index) else { return };
        self.indices.rest(index, self.now);
        match session.phase {
            Phase::Live => {}
            Phase::Confirming(handshake) | Phase::Refused(Refused { handshake: Some(handshake), .. }) => self.drop_outgoing(handshake),
            Phase::Provisional(_) => {
                self.half_open -= 1;
                if let Some(old) = session.resumed_from.and_then(|old| self.sessions.get_mut(&old))
                    && old.provisional == Some(index)
                {
                    old.provisional = None;
                }
            }
            Phase::Refused(_) => {}
        }
    }
}
