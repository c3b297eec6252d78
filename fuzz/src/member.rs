//! The group of the targets that run nodes.

use core::time::Duration;
use std::sync::OnceLock;

use annulus_sim::core::config::{Config, CryptoMode};
use annulus_sim::core::group::{Identity, Trust};
use annulus_sim::core::io::{Endpoint, Path};
use annulus_sim::core::paths::PathTable;
use annulus_sim::core::rng::Rng;
use annulus_sim::core::session::{SessionSettings, Sessions};
use annulus_sim::core::time::Instant;
use annulus_sim::scenario::Group as SimGroup;
use annulus_sim::world::World;

use crate::mac::RealmMac;

/// Members with certificates of 30 days.
pub(crate) const MEMBERS: usize = 4;

/// Lifetime in s of the certificate of [`Group::brief`].
pub(crate) const BRIEF: u64 = 600;

/// Everything that costs signatures, made once.
pub(crate) struct Group {
    pub(crate) trust: Trust,
    pub(crate) members: Vec<Identity>,
    /// A member whose certificate ends [`BRIEF`] s after the start.
    pub(crate) brief: Identity,
    /// A signed list that revokes the last member.
    pub(crate) revocations: bytes::Bytes,
    pub(crate) mac: RealmMac,
    pub(crate) config: Config,
}

pub(crate) fn group() -> &'static Group {
    static GROUP: OnceLock<Group> = OnceLock::new();
    GROUP.get_or_init(|| {
        let mut group = SimGroup::new(&Rng::new([33; 32])).expect("the group's name is allowed");
        let mut member = |name: &str, lifetime| group.identity_with(name, lifetime).expect("the profile is allowed");
        let members: Vec<Identity> = (0..MEMBERS).map(|i| member(&format!("node-{i}"), 30 * 24 * 3600)).collect();
        let brief = member("brief", BRIEF);
        let trust = group.trust().expect("the CA was just made");
        let revoked = annulus_sim::core::group::Revoked::key(members[MEMBERS - 1].certificate());
        let until = members[MEMBERS - 1].certificate().not_after();
        let list = group.authority_mut().revoke(&[(revoked, until)], annulus_sim::world::WALL_START).expect("one entry fits");
        let revocations = list.signed().clone();
        Group { mac: RealmMac::new(trust.realm_key()), config: group.config(Vec::new()), trust, members, brief, revocations }
    })
}

impl Group {
    /// A member's sessions by themselves.
    pub(crate) fn sessions(&self, identity: &Identity, crypto: CryptoMode, seed: u8, now: Instant) -> Sessions {
        let settings = SessionSettings { realm: self.config.realm, workers: self.config.workers, hardware_aes: true, crypto };
        let identity = identity.clone().with_crypto(crypto);
        Sessions::new(settings, identity, self.trust.clone().with_crypto(crypto), Rng::new([seed; 32]), now)
    }
}

/// A table with the paths to the first hosts of a simulated network, and to some addresses where nobody is.
pub(crate) fn paths(count: u32) -> (PathTable, Vec<Path>) {
    let mut table = PathTable::new(&mut Rng::new([5; 32]));
    let paths = (0..count).map(|id| table.intern(Endpoint::Udp { socket: 0, remote: World::address_of(id) })).collect();
    (table, paths)
}

/// A span of time: from µs to days.
pub(crate) fn span(choice: u8) -> Duration {
    const STEPS: [u64; 8] = [1, 1_000, 20_000, 250_000, 1_000_000, 7_000_000, 130_000_000, 4_000_000_000];
    Duration::from_micros(STEPS[usize::from(choice % 8)] * (u64::from(choice / 8) + 1))
}
