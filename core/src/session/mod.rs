//! Sessions: handshakes, keys, control packets, renewal and end.
//!
//! [`Sessions`] owns everything that two nodes share after a handshake and knows nothing of peers, the ring or the network:
//! bytes and paths come in, bytes for paths and [`SessionEvent`]s come out.
//!
//! # The course of a handshake
//!
//! A *full* handshake is an unmodified Noise XX. Both ends keep it in a table of its own, under an index of a block of its own, until
//! it is done; the session gets another index, told inside the encrypted payloads. Of m2, each m1 datagram buys one part: the
//! initiator sends as many m1 datagrams as parts it expects, and one more for each part that turns out to be missing. The initiator
//! has the session when m2 is there, the responder when m3 is; the responder then sends a sealed keep-alive, and the initiator
//! repeats m3 until the first packet that opens on the session. What the initiator sends before m3 has arrived cannot be opened;
//! layers above repeat what they need answered.
//!
//! A *resumption* is an unmodified Noise NNpsk0 whose key comes from an earlier session, and inherits certificates and the date of the
//! last full handshake from it. Its responder's end counts as half-open until the first packet on the new session, which the initiator
//! sends and repeats by itself.
//!
//! # Renewal
//!
//! A session is renewed 120 s after data keys were handed out where IP flowed ([`Sessions::mark_data`]), otherwise hourly, both by
//! resumption; by a full handshake 12 hours after the last one and when our own certificate was renewed. When a resumption fails, a full
//! handshake follows. The old session stays openable for 30 s past its last packet, then [`EndReason::Superseded`] ends it.
//!
//! # Who is refused
//!
//! Who does not know the realm's key, or shows a certificate that no CA of the group signed, gets silence. Whose certificate is signed but
//! revoked or out of its time gets a session on which nothing is accepted and exactly one packet can be sealed: the notice
//! ([`SessionEvent::Refused`]).

mod admission;
mod events;
mod index;
mod initiator;
mod keys;
mod live;
mod mac;
mod noise;
mod outgoing;
mod packets;
mod parts;
mod renewal;
mod responder;
mod resume;
#[cfg(feature = "stand-in")]
mod stand_in;
#[cfg(test)]
mod tests;
mod window;

use core::fmt;
use core::num::NonZeroU8;
use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use self::admission::Admission;
pub use self::admission::Origin;
pub use self::events::{ConnectError, EndReason, HandshakeError, HandshakeId, Opened, SealError, SessionEvent, SessionInfo};
use self::index::Indices;
use self::live::{Phase, Session};
use self::mac::RealmMac;
use self::outgoing::Outgoing;
use self::responder::{Caller, Incoming};
use crate::config::CryptoMode;
use crate::crypto::Cipher;
use crate::group::{Certificate, CertificateError, Identity, Trust};
use crate::id::NodeId;
use crate::io::{DropReason, Path, RealmSlot, TimerKind};
use crate::rng::Rng;
use crate::shard::table::SessionId;
use crate::time::{Instant, UnixTime};
use crate::timers::TimerHeap;
use crate::wire::handshake::{Abilities, FEATURE_HARDWARE_AES, HandshakeHeader, Kind, MAX_INTRODUCTION};

/// Handshakes that others may have open with us; what comes beyond it is dropped. One costs up to 4 kB.
pub const MAX_HALF_OPEN: usize = 4_096;
/// Half-open handshakes from which on an address must return a cookie first: a hundred curve operations are cheap, thousands are not.
pub const COOKIES_FROM: usize = 256;
/// How long a half-open handshake is kept.
pub const HALF_OPEN_LIFE: Duration = Duration::from_secs(5);
/// Handshakes that we may have open: more than a node has links, times the addresses of each. Beyond it [`ConnectError::Busy`].
pub const MAX_OUTGOING: usize = 1_024;
/// Sessions of one realm; what comes beyond it is dropped. Below a tenth of the indices, so that a free one is found at once.
pub const MAX_SESSIONS: usize = 65_536;
/// Datagrams that wait to be polled: all that one batch of inputs can cause. What comes beyond it is dropped and repeated by its timer.
pub const MAX_TRANSMITS: usize = 1_024;
/// Events that wait to be polled before news without a session (failures, strangers) are dropped. Events of sessions are bounded by their number.
pub const MAX_EVENTS: usize = 4_096;
/// How long an initiator tries: as long as the responder remembers.
pub const GIVE_UP: Duration = Duration::from_secs(5);
/// Wait before the first repetition; it doubles with each.
pub const FIRST_RETRY: Duration = Duration::from_millis(500);
/// How long a replaced session is openable past its last packet.
pub const GRACE: Duration = Duration::from_secs(30);
/// How long a replaced session is openable at most.
pub const LONGEST_GRACE: Duration = Duration::from_secs(180);
/// How long a session exists on which only a notice is sent.
const REFUSED_LIFE: Duration = Duration::from_secs(10);
/// How long the responder of a resumption answers keep-alives, because the initiator may not have heard of it yet.
const CONFIRM_LIFE: Duration = Duration::from_secs(10);
/// Pause after a renewal that failed.
const RETRY_REKEY: Duration = Duration::from_secs(30);
/// Time over which full handshakes are spread when our certificate was renewed, in s.
const RENEW_SPREAD: u64 = 60;

/// What a realm's sessions are told at their start.
#[derive(Clone, Copy, Debug)]
pub struct SessionSettings {
    /// The realm's number: the top 4 bits of its indices.
    pub realm: RealmSlot,
    /// Number of workers, over which indices are spread.
    pub workers: NonZeroU8,
    /// Whether the CPU has AES instructions.
    pub hardware_aes: bool,
    /// Real or stand-in crypto.
    pub crypto: CryptoMode,
}

/// Whether the session that `initiator_a` started is to be used rather than the one that `initiator_b` started: both ends of two
/// simultaneous handshakes agree on the one whose initiator has the lower node ID.
#[must_use]
pub fn preferred(initiator_a: &NodeId, initiator_b: &NodeId) -> bool {
    initiator_a < initiator_b
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Wake {
    Outgoing(u32),
    Incoming(u32),
    Session(u32),
}

/// The sessions of one realm. See the [module](self) for what it does; `poll_transmit` and `poll_event` are drained until `None`.
pub struct Sessions {
    settings: SessionSettings,
    identity: Identity,
    trust: Trust,
    mac: RealmMac,
    rng: Rng,
    now: Instant,
    /// The wall clock, and when it was told.
    wall: (Instant, UnixTime),
    introduction: Bytes,
    /// What stands in our [`Hello`](crate::wire::handshake::Hello) behind the fields of this version: the room of later ones, empty today.
    extensions: Bytes,
    indices: Indices,
    admission: Admission,
    sessions: BTreeMap<u32, Box<Session>>,
    outgoing: BTreeMap<u32, Box<Outgoing>>,
    incoming: BTreeMap<u32, Box<Incoming>>,
    callers: BTreeMap<Caller, u32>,
    /// Handshakes of others that are not done, resumptions included.
    half_open: usize,
    serial: u32,
    timers: TimerHeap<Wake>,
    transmits: VecDeque<(Path, Vec<u8>)>,
    events: VecDeque<SessionEvent>,
}

impl Sessions {
    /// No sessions yet.
    #[must_use]
    pub fn new(settings: SessionSettings, identity: Identity, trust: Trust, rng: Rng, now: Instant) -> Self {
        Self {
            mac: RealmMac::new(trust.realm_key()),
            indices: Indices::new(settings.realm, settings.workers, rng.fork("indices")),
            admission: Admission::new(rng.fork("admission"), now),
            settings,
            identity,
            trust,
            rng,
            now,
            wall: (now, UnixTime(0)),
            introduction: Bytes::new(),
            extensions: Bytes::new(),
            sessions: BTreeMap::new(),
            outgoing: BTreeMap::new(),
            incoming: BTreeMap::new(),
            callers: BTreeMap::new(),
            half_open: 0,
            serial: 0,
            timers: TimerHeap::default(),
            transmits: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// Whom we trust.
    #[must_use]
    pub const fn trust(&self) -> &Trust {
        &self.trust
    }

    /// Whom we trust, to be told of revocations; call [`Self::recheck`] afterwards. The realm's key is read once, at the start.
    pub const fn trust_mut(&mut self) -> &mut Trust {
        &mut self.trust
    }

    /// Who we are.
    #[must_use]
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Shows a renewed certificate from now on; a full handshake on each session follows within a minute.
    pub fn set_identity(&mut self, renewed: Identity) {
        self.identity = renewed;
        for index in self.session_indices() {
            let renew_at = self.now + Duration::from_micros(self.rng.below(RENEW_SPREAD * 1_000_000));
            if let Some(session) = self.sessions.get_mut(&index) {
                session.renew_at = Some(renew_at);
            }
            self.arm_session(index);
        }
    }

    /// What is told to the other end inside the encrypted payloads of full handshakes from now on; nothing when longer than 256 bytes.
    pub fn set_introduction(&mut self, payload: Bytes) {
        self.introduction = if payload.len() <= MAX_INTRODUCTION { payload } else { Bytes::new() };
    }

    /// Starts a full handshake on `path`; the answer must come from `expected`, if given. Several at once are fine.
    ///
    /// # Errors
    /// [`ConnectError`] when there is no room or no path.
    pub fn connect(&mut self, path: Path, expected: Option<NodeId>, now: Instant) -> Result<HandshakeId, ConnectError> {
        self.tick(now);
        if path == Path::NONE {
            return Err(ConnectError::NoPath);
        }
        self.start(path, expected, None).ok_or(ConnectError::Busy)
    }

    /// Gives a handshake up, unless it has made a session already. No event follows.
    pub fn abandon(&mut self, handshake: HandshakeId) {
        if self.outgoing.get(&handshake.index).is_some_and(|out| out.serial == handshake.serial && out.is_first()) {
            self.drop_outgoing(handshake.index);
        }
    }

    /// Whether a handshake datagram was made under this realm's key.
    #[must_use]
    pub fn claims(&self, bytes: &[u8]) -> bool {
        HandshakeHeader::parse(bytes).is_ok() && self.mac.verify(bytes)
    }

    /// Takes a handshake datagram that came by `from`.
    ///
    /// # Errors
    /// Why it was dropped; nothing changed then.
    pub fn handle_handshake(
        &mut self,
        from: Path,
        origin: Origin,
        bytes: &mut [u8],
        now: Instant,
        wall: UnixTime,
    ) -> Result<(), DropReason> {
        self.tick(now);
        self.wall = (now, wall);
        let (header, mac, body) = HandshakeHeader::parse(bytes)?;
        if !self.mac.verify(bytes) {
            return Err(DropReason::WrongRealm);
        }
        match header.kind {
            Kind::M1 => self.on_m1(from, origin, &header, mac, bytes),
            Kind::M2 => self.on_m2(&header, mac, body),
            Kind::M3 => self.on_m3(&header, mac, body),
            Kind::Cookie => self.on_cookie(&header, body),
            Kind::R1 => self.on_r1(from, origin, &header, mac, bytes),
            Kind::R2 => self.on_r2(&header, body),
            Kind::Unknown(_) => Err(DropReason::UnknownType),
        }
    }

    /// Where a renewal of the session by timer is sent.
    pub fn set_path(&mut self, session: SessionId, path: Path) {
        if let Some(found) = self.sessions.get_mut(&session.0) {
            found.path = path;
        }
    }

    /// Forgets a session and its keys. No event follows; its index rests.
    pub fn close(&mut self, session: SessionId) {
        self.remove_session(session.0);
    }

    /// What is known of a session; `None` as well while only the other end may have it.
    #[must_use]
    pub fn info(&self, session: SessionId) -> Option<SessionInfo<'_>> {
        let found = self.sessions.get(&session.0).filter(|found| !matches!(found.phase, Phase::Provisional(_)))?;
        Some(SessionInfo {
            certificate: &found.certificate,
            initiator: found.initiator,
            cipher: found.cipher,
            version: found.version,
            features: found.features,
            established_at: found.established_at,
            full_handshake_at: found.full_at,
            confirmed: matches!(found.phase, Phase::Live),
            replaced: found.replaced_at.is_some(),
        })
    }

    /// When [`Self::handle_timeout`] is to be called, and what for.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, TimerKind)> {
        self.timers.next().map(|(at, wake)| match wake {
            Wake::Outgoing(_) | Wake::Incoming(_) => (at, TimerKind::Handshake),
            Wake::Session(_) => (at, TimerKind::Rekey),
        })
    }

    /// Appends the next datagram to `out` and answers where it goes.
    pub fn poll_transmit(&mut self, out: &mut Vec<u8>) -> Option<Path> {
        let (path, datagram) = self.transmits.pop_front()?;
        out.extend_from_slice(&datagram);
        Some(path)
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<SessionEvent> {
        self.events.pop_front()
    }

    fn tick(&mut self, now: Instant) {
        self.now = self.now.max(now);
    }

    fn abilities(&self) -> Abilities {
        Abilities::local(self.settings.hardware_aes)
    }

    fn cipher(&self, theirs: &Abilities) -> Cipher {
        match self.settings.crypto {
            CryptoMode::Real if self.abilities().features & theirs.features & FEATURE_HARDWARE_AES != 0 => Cipher::Aes256Gcm,
            CryptoMode::Real => Cipher::ChaCha20Poly1305,
            #[cfg(feature = "stand-in")]
            CryptoMode::StandIn => Cipher::StandIn,
        }
    }

    fn transmit(&mut self, path: Path, datagram: Vec<u8>) {
        if self.transmits.len() < MAX_TRANSMITS {
            self.transmits.push_back((path, datagram));
        }
    }

    /// Queues an event that may be lost: it is about nothing that lasts.
    fn hint(&mut self, event: SessionEvent) {
        if self.events.len() < MAX_EVENTS {
            self.events.push_back(event);
        }
    }

    fn session_indices(&self) -> Vec<u32> {
        self.sessions.keys().copied().collect()
    }

    fn has_room(&self) -> bool {
        self.sessions.len() + self.half_open < MAX_SESSIONS
    }

    /// Judges a certificate that was presented together with a proof of the static key.
    fn admit(&self, der: &[u8], remote_static: Option<[u8; 32]>) -> Admit {
        const WRONG_KEY: CertificateError = CertificateError::BadProfile("its X25519 key is not the one of the handshake");
        match self.trust.authenticate(der) {
            Ok(certificate) if remote_static != Some(certificate.dh_public()) => Admit::Stranger(WRONG_KEY),
            Ok(certificate) => match self.trust.check(&certificate, self.wall.1) {
                Ok(()) => Admit::Member(certificate),
                Err(why) => Admit::Former(certificate, why),
            },
            Err(why) => Admit::Stranger(why),
        }
    }

    fn prologue(&self, resumption: bool, abilities: &Abilities, initiator: Option<&NodeId>, responder: Option<&NodeId>) -> Vec<u8> {
        let mut out = Vec::with_capacity(96);
        out.extend_from_slice(if resumption { b"annulus resumption" } else { b"annulus handshake" });
        out.extend_from_slice(&self.trust.group_id().0);
        out.extend_from_slice(&abilities.bytes());
        for node in [initiator, responder].into_iter().flatten() {
            out.extend_from_slice(&node.0);
        }
        out
    }
}

/// What a certificate is worth.
enum Admit {
    /// It is valid.
    Member(Certificate),
    /// A CA of the group signed it, but it is revoked or out of its time.
    Former(Certificate, CertificateError),
    /// Nobody that we trust has signed it.
    Stranger(CertificateError),
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sessions")
            .field("node", &self.identity.node_id())
            .field("sessions", &self.sessions.len())
            .field("outgoing", &self.outgoing.len())
            .field("half_open", &self.half_open)
            .finish_non_exhaustive()
    }
}
