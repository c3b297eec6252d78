//! Records, grants and bundles of both.

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::{MAX_VALUE, read_key};
use crate::dht::key::Key;
use crate::dht::ring::DEGREE;
use crate::id::NodeId;
use crate::time::UnixTime;
use crate::wire::WireError;
use crate::wire::codec::{Reader, Write as _};

const RECORD_VERSION: u8 = 1;
const RECORD_TOMBSTONE: u8 = 1;

/// SHA-256 of a certificate's DER.
pub type Fingerprint = [u8; 32];

/// A signed, expiring entry of the DHT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The key.
    pub key: Key,
    /// At most [`MAX_VALUE`] bytes; empty in a tombstone.
    pub value: Bytes,
    /// Of one owner's records the one with the highest sequence counts.
    pub sequence: u64,
    /// Not valid from this time on.
    pub expires: UnixTime,
    /// Whether the owner gave the key up.
    pub tombstone: bool,
    /// Whose it is.
    pub owner: NodeId,
    /// The fingerprint of the owner's certificate.
    pub certificate: Fingerprint,
    /// The owner's signature over [`Self::signed`].
    pub signature: [u8; 64],
}

impl Record {
    /// The bytes that the owner signs.
    #[must_use]
    pub fn signed(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(80 + self.key.bytes().len() + self.value.len());
        out.put_u8(RECORD_VERSION);
        out.put_u8(if self.tombstone { RECORD_TOMBSTONE } else { 0 });
        out.put_bytes8(self.key.bytes());
        out.put_bytes16(&self.value);
        out.put_u64(self.sequence);
        out.put_u64(self.expires.0);
        out.put_node_id(&self.owner);
        out.put(&self.certificate);
        out
    }

    /// SHA-256 of [`Self::signed`]: the record's name in grants and aborts.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.signed()).into()
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        if reader.u8()? != RECORD_VERSION {
            return Err(WireError::BadField("record version"));
        }
        let flags = reader.u8()?;
        if flags & !RECORD_TOMBSTONE != 0 {
            return Err(WireError::BadField("record flags"));
        }
        let key = read_key(reader)?;
        let value = reader.bytes16()?;
        if value.len() > MAX_VALUE {
            return Err(WireError::BadField("value"));
        }
        Ok(Self {
            key,
            value: Bytes::copy_from_slice(value),
            sequence: reader.u64()?,
            expires: UnixTime(reader.u64()?),
            tombstone: flags & RECORD_TOMBSTONE != 0,
            owner: reader.node_id()?,
            certificate: reader.array()?,
            signature: reader.array()?,
        })
    }
}

/// A replica's signature under the ownership of a key, with its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The countersigner.
    pub node: NodeId,
    /// The fingerprint of its certificate.
    pub certificate: Fingerprint,
    /// Since when it knows this owner without a gap.
    pub since: UnixTime,
    /// When it signed.
    pub time: UnixTime,
    /// Its signature over [`Self::signed`].
    pub signature: [u8; 64],
}

impl Grant {
    /// The bytes that the countersigner signs for `record`.
    #[must_use]
    pub fn signed(key: &Key, digest: &[u8; 32], since: UnixTime, time: UnixTime) -> Vec<u8> {
        let mut out = Vec::with_capacity(50 + key.bytes().len());
        out.put_bytes8(key.bytes());
        out.put(digest);
        out.put_u64(since.0);
        out.put_u64(time.0);
        out
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.put_node_id(&self.node);
        out.put(&self.certificate);
        out.put_u64(self.since.0);
        out.put_u64(self.time.0);
        out.put(&self.signature);
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self {
            node: reader.node_id()?,
            certificate: reader.array()?,
            since: UnixTime(reader.u64()?),
            time: UnixTime(reader.u64()?),
            signature: reader.array()?,
        })
    }
}

/// A record with the grants under it: what is stored, handed over, persisted and shown to peers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle {
    /// The record.
    pub record: Record,
    /// Grants of its replicas, at most [`DEGREE`], in ascending order of their nodes.
    pub grants: Vec<Grant>,
}

impl Bundle {
    /// Appends it.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.put(&self.record.signed());
        out.put(&self.record.signature);
        let grants = &self.grants[..self.grants.len().min(DEGREE)];
        out.put_u8(grants.len() as u8);
        for grant in grants {
            grant.write(out);
        }
    }

    /// Reads it.
    ///
    /// # Errors
    /// [`WireError`] when a field does not have its form, or the grants are too many or not in order.
    pub fn read(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let record = Record::read(reader)?;
        let count = usize::from(reader.u8()?);
        if count > DEGREE {
            return Err(WireError::BadField("grants"));
        }
        let mut grants = Vec::with_capacity(count);
        for _ in 0..count {
            grants.push(Grant::read(reader)?);
        }
        if grants.windows(2).any(|pair| pair[0].node >= pair[1].node) {
            return Err(WireError::BadField("grants"));
        }
        Ok(Self { record, grants })
    }

    /// Its bytes alone.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(&mut out);
        out
    }

    /// From its bytes alone.
    ///
    /// # Errors
    /// As [`Self::read`]; also when bytes follow.
    pub fn parse(bytes: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(bytes);
        let bundle = Self::read(&mut reader)?;
        reader.finish()?;
        Ok(bundle)
    }

    /// The fingerprints of all certificates that its verification needs, the owner's first.
    pub fn certificates(&self) -> impl Iterator<Item = Fingerprint> {
        core::iter::once(self.record.certificate).chain(self.grants.iter().map(|grant| grant.certificate))
    }
}
