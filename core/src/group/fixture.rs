//! A group for tests.

use super::{Authority, Certificate, NodeKeys, Parameters, Profile};
use crate::rng::Rng;
use crate::time::UnixTime;

/// 2026-11-22T08:08:23Z.
pub(super) const NOW: UnixTime = UnixTime(1_795_334_903);

/// A CA that was made at [`NOW`], and the generator to go on with.
pub(super) fn authority() -> (Authority, Rng) {
    let mut rng = Rng::new([11; 32]);
    (Authority::init(&Parameters::new("lab"), &mut rng, NOW).unwrap(), rng)
}

/// A node of alice.
pub(super) fn node(authority: &Authority, name: &str, rng: &mut Rng) -> (NodeKeys, Certificate) {
    let keys = NodeKeys::generate(rng);
    let certificate = authority.issue(&keys.request(), &Profile::new("alice", name, NOW), rng).unwrap();
    (keys, certificate)
}
