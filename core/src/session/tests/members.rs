//! Members of a group for tests.

use core::cell::RefCell;
use core::time::Duration;

use bytes::Bytes;

use super::super::{SessionSettings, Sessions};
use crate::group::{Authority, Certificate, Identity, NodeKeys, Parameters, Profile, Revoked, Trust};
use crate::rng::Rng;
use crate::time::{Instant, UnixTime};

/// When tests start.
pub(crate) const START: UnixTime = UnixTime(1_800_000_000);
/// s of a day.
pub(crate) const DAY: u64 = 86_400;
/// When the CA was made.
const EARLIER: UnixTime = UnixTime(START.0 - 10 * DAY);

/// A group with its CA.
pub(crate) struct Group {
    authority: RefCell<Authority>,
    rng: RefCell<Rng>,
}

impl Group {
    pub(crate) fn new(seed: u8) -> Self {
        let mut rng = Rng::new([seed; 32]);
        let authority = Authority::init(&Parameters::new("lab"), &mut rng, EARLIER).unwrap();
        Self { authority: RefCell::new(authority), rng: RefCell::new(rng) }
    }

    /// The same realm key and group, another CA.
    pub(crate) fn impostor(&self) -> Self {
        let mut rng = Rng::new([0xee; 32]);
        let authority = self.authority.borrow().successor(Duration::from_secs(400 * DAY), &mut rng, EARLIER).unwrap();
        Self { authority: RefCell::new(authority), rng: RefCell::new(rng) }
    }

    pub(crate) fn member(&self, number: u8, until: UnixTime) -> Identity {
        self.member_from(number, UnixTime(START.0 - DAY), until)
    }

    pub(crate) fn member_from(&self, number: u8, from: UnixTime, until: UnixTime) -> Identity {
        let keys = NodeKeys { signing: [number; 32], dh: [number ^ 0x55; 32] };
        let lifetime = Duration::from_secs(until.saturating_since(from));
        let profile = Profile { lifetime, ..Profile::new("alice", &format!("node-{number}"), from) };
        let certificate = self.authority.borrow().issue(&keys.request(), &profile, &mut self.rng.borrow_mut()).unwrap();
        Identity::new(keys.signing, keys.dh, certificate).unwrap()
    }

    pub(crate) fn trust(&self) -> Trust {
        self.authority.borrow().trust()
    }

    pub(crate) fn sessions(&self, settings: SessionSettings, member: Identity, seed: u8) -> Sessions {
        let (member, trust) = (member.with_crypto(settings.crypto), self.trust().with_crypto(settings.crypto));
        Sessions::new(settings, member, trust, Rng::new([seed; 32]), Instant::ZERO)
    }

    /// The sessions of a member who has so much to say that it needs two parts.
    pub(crate) fn wordy(&self, settings: SessionSettings, number: u8) -> Sessions {
        let mut sessions = self.sessions(settings, self.member(number, START.plus_secs(DAY)), number);
        sessions.set_introduction(Bytes::from(vec![7; 256]));
        sessions.extensions = Bytes::from(vec![8; 900]);
        sessions
    }

    pub(crate) fn revoke(&self, sessions: &mut Sessions, certificate: &Certificate) {
        let mut authority = self.authority.borrow_mut();
        let list = authority.revoke(&[(Revoked::certificate(certificate), certificate.not_after())], START).unwrap();
        assert_eq!(sessions.trust_mut().update_revocations(list.signed(), START), Ok(true));
    }
}
