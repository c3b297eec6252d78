//! Stands in for Noise in simulations: the same messages in the same sizes, the same order of states, no secrecy and no curve.
//!
//! A message that was not made for this state is refused as the real one would refuse it: every payload carries a tag over all that was said before.

use super::keys::Secret;
use super::noise::{BadMessage, Pattern};
use crate::crypto::TAG_LEN;
use crate::crypto::stand_in::KeyedHash;
use crate::rng::Rng;

/// One end of a handshake without cryptography.
pub(super) struct StandIn {
    /// Depends on all that was said.
    said: KeyedHash,
    /// Our static key in a full handshake; none in a resumption.
    own_static: Option<[u8; 32]>,
    remote_static: Option<[u8; 32]>,
    ephemeral: [u8; 32],
    /// Number of the next message.
    message: u8,
}

impl StandIn {
    pub(super) fn new(pattern: &Pattern<'_>, _initiator: bool, prologue: &[u8], seed: [u8; 32]) -> Self {
        let (start, own_static) = match pattern {
            Pattern::Full { dh_public, .. } => (KeyedHash::new(b"full"), Some(*dh_public)),
            Pattern::Resume { psk } => (KeyedHash::new(*psk), None),
        };
        Self { said: start.mixed(&[prologue]), own_static, remote_static: None, ephemeral: Rng::new(seed).bytes(), message: 0 }
    }

    /// Which keys message `number` carries (ephemeral, static) and whether its payload is sealed.
    const fn shape(&self, number: u8) -> (bool, bool, bool) {
        let full = self.own_static.is_some();
        (number < 2, full && number > 0, !full || number > 0)
    }

    pub(super) fn write(&mut self, payload: &[u8]) -> Vec<u8> {
        let (ephemeral, with_static, sealed) = self.shape(self.message);
        let mut out = Vec::new();
        if ephemeral {
            out.extend_from_slice(&self.ephemeral);
            self.said = self.said.mixed(&[&self.ephemeral]);
        }
        if let Some(key) = self.own_static.filter(|_| with_static) {
            self.seal(&key, &mut out);
        }
        if sealed {
            self.seal(payload, &mut out);
        } else {
            out.extend_from_slice(payload);
            self.said = self.said.mixed(&[payload]);
        }
        self.message += 1;
        out
    }

    pub(super) fn read(&mut self, message: &[u8]) -> Result<Vec<u8>, BadMessage> {
        let (ephemeral, with_static, sealed) = self.shape(self.message);
        let (mut said, mut rest, mut remote_static) = (self.said.clone(), message, self.remote_static);
        if ephemeral {
            let (key, behind) = rest.split_first_chunk::<32>().ok_or(BadMessage)?;
            said = said.mixed(&[key]);
            rest = behind;
        }
        if with_static {
            let (key, behind) = rest.split_at_checked(32 + TAG_LEN).ok_or(BadMessage)?;
            remote_static = Some(open(&mut said, key)?.try_into().map_err(|_| BadMessage)?);
            rest = behind;
        }
        let payload = if sealed {
            open(&mut said, rest)?.to_vec()
        } else {
            said = said.mixed(&[rest]);
            rest.to_vec()
        };
        (self.said, self.remote_static) = (said, remote_static);
        self.message += 1;
        Ok(payload)
    }

    pub(super) const fn remote_static(&self) -> Option<[u8; 32]> {
        self.remote_static
    }

    pub(super) fn secret(&self) -> Secret {
        let half = |label: &[u8]| {
            let mut out = [0; 32];
            out[..TAG_LEN].copy_from_slice(&self.said.tag(&[label, b"1"]));
            out[TAG_LEN..].copy_from_slice(&self.said.tag(&[label, b"2"]));
            out
        };
        Secret::from_split((half(b"first"), half(b"second")), &half(b"transcript"))
    }

    fn seal(&mut self, text: &[u8], out: &mut Vec<u8>) {
        let tag = self.said.tag(&[text]);
        out.extend_from_slice(text);
        out.extend_from_slice(&tag);
        self.said = self.said.mixed(&[text, &tag]);
    }
}

fn open<'a>(said: &mut KeyedHash, sealed: &'a [u8]) -> Result<&'a [u8], BadMessage> {
    let (text, tag) = sealed.split_last_chunk::<TAG_LEN>().ok_or(BadMessage)?;
    if said.tag(&[text]) != *tag {
        return Err(BadMessage);
    }
    *said = said.mixed(&[text, tag]);
    Ok(text)
}
