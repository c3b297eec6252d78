//! Members of a group for tests: the one place that knows how certificates are made.

use ed25519_dalek::SigningKey;
use x25519_dalek::{PublicKey, StaticSecret};

use super::super::{SessionSettings, Sessions};
use crate::group::{Certificate, GroupId, Identity, RealmKey, Trust, issue};
use crate::rng::Rng;
use crate::time::{Instant, UnixTime};

/// When tests start.
pub(crate) const START: UnixTime = UnixTime(1_800_000_000);
/// s of a day.
pub(crate) const DAY: u64 = 86_400;

/// A group with its CA.
pub(crate) struct Group {
    ca: SigningKey,
    id: GroupId,
    realm_key: RealmKey,
}

impl Group {
    pub(crate) fn new(seed: u8) -> Self {
        Self { ca: SigningKey::from_bytes(&[seed; 32]), id: GroupId([seed; 32]), realm_key: RealmKey::new([seed; 32]) }
    }

    /// The same realm key and group, another CA.
    pub(crate) fn impostor(&self) -> Self {
        Self { ca: SigningKey::from_bytes(&[0xee; 32]), id: self.id, realm_key: self.realm_key.clone() }
    }

    pub(crate) fn member(&self, number: u8, until: UnixTime) -> Identity {
        self.member_from(number, UnixTime(START.0 - DAY), until)
    }

    pub(crate) fn member_from(&self, number: u8, from: UnixTime, until: UnixTime) -> Identity {
        self.certified(number, from, until, 0)
    }

    /// A member whose certificate is about as long as a certificate may be.
    pub(crate) fn wordy_member(&self, number: u8) -> Identity {
        self.certified(number, UnixTime(START.0 - DAY), START.plus_secs(30 * DAY), 700)
    }

    fn certified(&self, number: u8, from: UnixTime, until: UnixTime, padding: usize) -> Identity {
        let public = SigningKey::from_bytes(&[number; 32]).verifying_key().to_bytes();
        let secret = [number ^ 0x55; 32];
        let dh = PublicKey::from(&StaticSecret::from(secret)).to_bytes();
        let name = format!("node-{number}{}", "x".repeat(padding));
        let serial = u64::from(number) << 32 | until.0 % (1 << 32);
        let der = issue(&self.ca, self.id, serial, public, dh, &name, (from, until));
        Identity::with_dh(secret, Certificate::parse(&der).unwrap())
    }

    pub(crate) fn trust(&self) -> Trust {
        Trust::with_key(self.id, self.ca.verifying_key(), self.realm_key.clone())
    }

    pub(crate) fn sessions(&self, settings: SessionSettings, member: Identity, seed: u8) -> Sessions {
        Sessions::new(settings, member, self.trust(), Rng::new([seed; 32]), Instant::ZERO)
    }

    pub(crate) fn revoke(&self, sessions: &mut Sessions, certificate: &Certificate) {
        sessions.trust_mut().revoke(certificate.serial());
    }
}
