//! The signed list of what a group's CA has revoked.
//!
//! # Format
//!
//! | bytes | field |
//! | --- | --- |
//! | 1 | version of the format: 1 |
//! | 32 | group ID |
//! | 8 | epoch: max(last + 1, time of issue) |
//! | 8 | time of issue in s since 1970 |
//! | 2 | number of entries |
//! | each | kind 1: serial number, as length 1 and 1 to 20 bytes; kind 2: SHA-256 of an Ed25519 public key, 32 bytes; then the time until which it is listed, 8 bytes |
//! | 64 | Ed25519 signature by a CA of the group over all before it, with the context `revocation list` |
//!
//! Entries stand in ascending order and once, so that a set of entries has one encoding. All numbers are big-endian.

use std::collections::BTreeMap;

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use sha2::{Digest, Sha256};
use smallvec::SmallVec;

use super::certificate::Certificate;
use super::secrets::{GroupId, key_fingerprint};
use super::signature::{self, CONTEXT_REVOCATIONS, SIGNATURE_LEN};
use super::validity::utc;
use super::x509::MAX_SERIAL_LEN;
use crate::config::CryptoMode;
use crate::time::UnixTime;
use crate::wire::WireError;
use crate::wire::codec::{Reader, Write};

const VERSION: u8 = 1;
const KIND_SERIAL: u8 = 1;
const KIND_KEY: u8 = 2;
const HEADER_LEN: usize = 1 + 32 + 8 + 8 + 2;
const MAX_ENTRY_LEN: usize = 1 + 32 + 8;

/// Most entries of a list. Entries leave it when the certificates that they are about have expired, so with certificates of 30 days it is 1,024
/// revocations a month. A CA refuses to add more; nothing is dropped in silence.
pub const MAX_REVOCATIONS: usize = 1024;
/// Longest signed list in bytes.
pub const MAX_REVOCATION_LIST_LEN: usize = HEADER_LEN + MAX_REVOCATIONS * MAX_ENTRY_LEN + SIGNATURE_LEN;
/// How far in s epoch and time of issue may lie ahead of the wall clock: a day of wrong clocks, or of one revocation per second on top of them.
/// A list further ahead would lock out all later ones until then.
pub const MAX_AHEAD_SECS: u64 = 86_400;

/// What is revoked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Revoked {
    /// The certificate with this serial number.
    Serial(SmallVec<[u8; MAX_SERIAL_LEN]>),
    /// All certificates of the Ed25519 key with this fingerprint (SHA-256), also those to come.
    Key([u8; 32]),
}

impl Revoked {
    /// This certificate, while others of the same key stay valid.
    #[must_use]
    pub fn certificate(certificate: &Certificate) -> Self {
        Self::Serial(SmallVec::from_slice(certificate.serial()))
    }

    /// The key of this certificate, and so the node.
    #[must_use]
    pub fn key(certificate: &Certificate) -> Self {
        Self::Key(certificate.key_fingerprint())
    }
}

/// A revocation list is refused. What was known before stays in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RevocationError {
    /// It does not have the form of a list.
    #[error("not a revocation list: {0}")]
    Malformed(#[from] WireError),
    /// It is one of another group.
    #[error("the revocation list belongs to another group")]
    WrongGroup,
    /// None of the group's CAs signed it.
    #[error("the revocation list is not signed by the group's certificate authority")]
    BadSignature,
    /// A newer one is known.
    #[error("the revocation list of epoch {offered} is older than the known one of epoch {known}")]
    Older {
        /// The epoch that is known.
        known: u64,
        /// The epoch of the refused list.
        offered: u64,
    },
    /// Epoch or time of issue lie too far ahead of the wall clock: the CA's clock or ours is wrong.
    #[error("the revocation list is dated {}, more than a day ahead of this node's clock", utc(.dated))]
    FarFuture {
        /// The later of epoch and time of issue.
        dated: UnixTime,
    },
    /// Two different lists are signed with one epoch: the CA's state was rolled back or its key is used elsewhere.
    #[error("two different revocation lists are signed for epoch {epoch}")]
    Conflict {
        /// The epoch of both.
        epoch: u64,
    },
    /// It has [`MAX_REVOCATIONS`] entries.
    #[error("the revocation list is full: at most {MAX_REVOCATIONS} entries")]
    Full,
    /// A serial number has no or more than 20 bytes.
    #[error("a serial number has 1 to {MAX_SERIAL_LEN} bytes")]
    BadSerial,
}

/// A revocation list whose signature was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevocationList {
    signed: Bytes,
    epoch: u64,
    issued: UnixTime,
    entries: BTreeMap<Revoked, UnixTime>,
}

impl RevocationList {
    /// Reads and verifies a list of `group`, signed by one of `keys`.
    pub(super) fn open(signed: &[u8], group: GroupId, keys: &[[u8; 32]], mode: CryptoMode) -> Result<Self, RevocationError> {
        if signed.len() > MAX_REVOCATION_LIST_LEN {
            return Err(WireError::TrailingBytes.into());
        }
        let (body, signature) = signed.split_last_chunk::<SIGNATURE_LEN>().ok_or(WireError::Truncated)?;
        let mut reader = Reader::new(body);
        if reader.u8()? != VERSION {
            return Err(WireError::BadField("version").into());
        }
        if reader.array()? != group.0 {
            return Err(RevocationError::WrongGroup);
        }
        let by = |key| signature::verify(CryptoMode::Real, key, CONTEXT_REVOCATIONS, body, signature);
        if mode == CryptoMode::Real && !keys.iter().any(by) {
            return Err(RevocationError::BadSignature);
        }
        let epoch = reader.u64()?;
        let issued = UnixTime(reader.u64()?);
        if issued.0 > epoch {
            return Err(WireError::BadField("epoch").into());
        }
        let mut entries = BTreeMap::new();
        for _ in 0..reader.u16()? {
            let (what, until) = read_entry(&mut reader)?;
            if entries.last_key_value().is_some_and(|(last, _)| *last >= what) || entries.len() == MAX_REVOCATIONS {
                return Err(WireError::BadField("entries").into());
            }
            entries.insert(what, until);
        }
        reader.finish()?;
        Ok(Self { signed: Bytes::copy_from_slice(signed), epoch, issued, entries })
    }

    /// The list that follows `last`: its entries that are still needed at `now`, and `added`.
    pub(super) fn next(
        last: Option<&Self>,
        added: &[(Revoked, UnixTime)],
        group: GroupId,
        signer: &SigningKey,
        now: UnixTime,
    ) -> Result<Self, RevocationError> {
        let mut entries = last.map(|last| last.entries.clone()).unwrap_or_default();
        for (what, until) in added {
            if matches!(what, Revoked::Serial(serial) if serial.is_empty() || serial.len() > MAX_SERIAL_LEN) {
                return Err(RevocationError::BadSerial);
            }
            let listed = entries.entry(what.clone()).or_insert(*until);
            *listed = (*listed).max(*until);
        }
        // Members whose clock is behind still take a certificate for valid that has expired: a day of grace.
        entries.retain(|_, until| until.plus_secs(MAX_AHEAD_SECS) >= now);
        if entries.len() > MAX_REVOCATIONS {
            return Err(RevocationError::Full);
        }
        let epoch = last.map_or(now.0, |last| now.0.max(last.epoch.saturating_add(1)));
        let mut body = Vec::with_capacity(HEADER_LEN + entries.len() * MAX_ENTRY_LEN + SIGNATURE_LEN);
        body.put_u8(VERSION);
        body.put(&group.0);
        body.put_u64(epoch);
        body.put_u64(now.0);
        body.put_u16(entries.len() as u16);
        entries.iter().for_each(|(what, until)| write_entry(&mut body, what, *until));
        let signature = signature::sign(CryptoMode::Real, signer, CONTEXT_REVOCATIONS, &body);
        body.put(&signature);
        Ok(Self { signed: body.into(), epoch, issued: now, entries })
    }

    /// Whether this list takes the place of `known` at `now`; `false` when it is the same.
    pub(super) fn supersedes(&self, known: Option<&Self>, now: UnixTime) -> Result<bool, RevocationError> {
        if self.epoch > now.plus_secs(MAX_AHEAD_SECS).0 {
            return Err(RevocationError::FarFuture { dated: UnixTime(self.epoch) });
        }
        let Some(known) = known else { return Ok(true) };
        match self.epoch.cmp(&known.epoch) {
            core::cmp::Ordering::Greater => Ok(true),
            core::cmp::Ordering::Less => Err(RevocationError::Older { known: known.epoch, offered: self.epoch }),
            // Two CAs in rotation may have signed the same list: what counts is what was signed.
            core::cmp::Ordering::Equal if self.body() == known.body() => Ok(false),
            core::cmp::Ordering::Equal => Err(RevocationError::Conflict { epoch: self.epoch }),
        }
    }

    /// Number of the list: each later one has a higher one.
    #[must_use]
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// When it was signed.
    #[must_use]
    pub const fn issued(&self) -> UnixTime {
        self.issued
    }

    /// The list as it is passed on.
    #[must_use]
    pub const fn signed(&self) -> &Bytes {
        &self.signed
    }

    /// SHA-256 of what was signed: what neighbours compare.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.body()).into()
    }

    /// The entries in their order, each with the time until which it is listed.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = (&Revoked, UnixTime)> {
        self.entries.iter().map(|(what, until)| (what, *until))
    }

    /// Whether `certificate` or its key is listed.
    #[must_use]
    pub fn lists(&self, certificate: &Certificate) -> bool {
        !self.entries.is_empty()
            && (self.entries.contains_key(&Revoked::certificate(certificate)) || self.lists_key(&certificate.public_key()))
    }

    /// Whether this Ed25519 public key is listed.
    #[must_use]
    pub fn lists_key(&self, public_key: &[u8; 32]) -> bool {
        self.entries.contains_key(&Revoked::Key(key_fingerprint(public_key)))
    }

    fn body(&self) -> &[u8] {
        &self.signed[..self.signed.len() - SIGNATURE_LEN]
    }
}

fn read_entry(reader: &mut Reader<'_>) -> Result<(Revoked, UnixTime), WireError> {
    let what = match reader.u8()? {
        KIND_SERIAL => match reader.bytes8()? {
            serial if (1..=MAX_SERIAL_LEN).contains(&serial.len()) => Revoked::Serial(SmallVec::from_slice(serial)),
            _ => return Err(WireError::BadField("serial number")),
        },
        KIND_KEY => Revoked::Key(reader.array()?),
        _ => return Err(WireError::BadField("kind of entry")),
    };
    Ok((what, UnixTime(reader.u64()?)))
}

fn write_entry(out: &mut Vec<u8>, what: &Revoked, until: UnixTime) {
    match what {
        Revoked::Serial(serial) => {
            out.put_u8(KIND_SERIAL);
            out.put_bytes8(serial);
        }
        Revoked::Key(fingerprint) => {
            out.put_u8(KIND_KEY);
            out.put(fingerprint);
        }
    }
    out.put_u64(until.0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GROUP: GroupId = GroupId([9; 32]);
    const NOW: UnixTime = UnixTime(1_800_000_000);

    fn signer() -> SigningKey {
        SigningKey::from_bytes(&[1; 32])
    }

    fn open(signed: &[u8]) -> Result<RevocationList, RevocationError> {
        RevocationList::open(signed, GROUP, &[signer().verifying_key().to_bytes()], CryptoMode::Real)
    }

    fn serial(bytes: &[u8]) -> Revoked {
        Revoked::Serial(SmallVec::from_slice(bytes))
    }

    /// `body` with a good signature: what a CA with a bug would send.
    fn signed(mut body: Vec<u8>) -> Vec<u8> {
        let signature = signature::sign(CryptoMode::Real, &signer(), CONTEXT_REVOCATIONS, &body);
        body.put(&signature);
        body
    }

    #[test]
    fn the_epoch_is_the_time_but_always_grows() {
        let first = RevocationList::next(None, &[], GROUP, &signer(), NOW).unwrap();
        let second = RevocationList::next(Some(&first), &[], GROUP, &signer(), NOW).unwrap();
        let back = RevocationList::next(Some(&second), &[], GROUP, &signer(), UnixTime(1000)).unwrap();
        let later = RevocationList::next(Some(&back), &[], GROUP, &signer(), NOW.plus_secs(60)).unwrap();
        assert_eq!([&first, &second, &back, &later].map(RevocationList::epoch), [NOW.0, NOW.0 + 1, NOW.0 + 2, NOW.0 + 60]);
        assert_eq!(back.issued(), UnixTime(1000));
    }

    #[test]
    fn entries_stay_until_a_day_after_their_time() {
        let until = NOW.plus_secs(100);
        let first =
            RevocationList::next(None, &[(serial(&[1]), until), (Revoked::Key([2; 32]), UnixTime(u64::MAX))], GROUP, &signer(), NOW)
                .unwrap();
        assert_eq!(first.entries().len(), 2);
        let day_later = until.plus_secs(MAX_AHEAD_SECS);
        assert_eq!(RevocationList::next(Some(&first), &[], GROUP, &signer(), day_later).unwrap().entries().len(), 2);
        let second = RevocationList::next(Some(&first), &[], GROUP, &signer(), day_later.plus_secs(1)).unwrap();
        assert_eq!(second.entries().collect::<Vec<_>>(), [(&Revoked::Key([2; 32]), UnixTime(u64::MAX))]);
    }

    #[test]
    fn a_full_list_refuses_further_entries_and_still_fits_its_bound() {
        let many =
            |count: u16| (0..count).map(|i| (Revoked::Key([i.to_be_bytes(); 16].concat().try_into().unwrap()), NOW)).collect::<Vec<_>>();
        let full = RevocationList::next(None, &many(MAX_REVOCATIONS as u16), GROUP, &signer(), NOW).unwrap();
        assert_eq!(full.signed().len(), MAX_REVOCATION_LIST_LEN);
        assert_eq!(open(full.signed()), Ok(full.clone()));
        assert_eq!(RevocationList::next(None, &many(MAX_REVOCATIONS as u16 + 1), GROUP, &signer(), NOW), Err(RevocationError::Full));
        assert_eq!(RevocationList::next(Some(&full), &[(serial(&[1]), NOW)], GROUP, &signer(), NOW), Err(RevocationError::Full));
        assert_eq!(RevocationList::next(None, &[(serial(&[]), NOW)], GROUP, &signer(), NOW), Err(RevocationError::BadSerial));
        assert_eq!(RevocationList::next(None, &[(serial(&[1; 21]), NOW)], GROUP, &signer(), NOW), Err(RevocationError::BadSerial));
    }

    #[test]
    fn a_signed_list_with_entries_out_of_order_or_twice_is_refused() {
        let list = |entries: &[&Revoked]| {
            let mut body = Vec::new();
            body.put_u8(VERSION);
            body.put(&GROUP.0);
            body.put_u64(NOW.0);
            body.put_u64(NOW.0);
            body.put_u16(entries.len() as u16);
            entries.iter().for_each(|what| write_entry(&mut body, what, NOW));
            signed(body)
        };
        let (a, b, key) = (serial(&[1]), serial(&[1, 0]), Revoked::Key([0; 32]));
        assert_eq!(open(&list(&[&a, &b, &key])).unwrap().entries().len(), 3);
        for wrong in [[&b, &a], [&a, &a], [&key, &a]] {
            assert_eq!(open(&list(&wrong)), Err(WireError::BadField("entries").into()));
        }
    }

    #[test]
    fn a_list_of_another_group_signer_or_context_is_refused() {
        let list = RevocationList::next(None, &[], GROUP, &signer(), NOW).unwrap();
        assert_eq!(
            RevocationList::open(list.signed(), GroupId([8; 32]), &[signer().verifying_key().to_bytes()], CryptoMode::Real),
            Err(RevocationError::WrongGroup)
        );
        assert_eq!(RevocationList::open(list.signed(), GROUP, &[[4; 32]], CryptoMode::Real), Err(RevocationError::BadSignature));
        let mut other = list.body().to_vec();
        let signature = signature::sign(CryptoMode::Real, &signer(), "record", &other);
        other.put(&signature);
        assert_eq!(open(&other), Err(RevocationError::BadSignature));
    }

    #[test]
    fn an_issue_time_behind_the_epoch_is_refused() {
        let mut body = RevocationList::next(None, &[], GROUP, &signer(), NOW).unwrap().body().to_vec();
        body[41..49].copy_from_slice(&(NOW.0 + 1).to_be_bytes());
        assert_eq!(open(&signed(body)), Err(WireError::BadField("epoch").into()));
    }

    fn any_revoked() -> impl Strategy<Value = Revoked> {
        prop_oneof![
            proptest::collection::vec(any::<u8>(), 1..=MAX_SERIAL_LEN).prop_map(|bytes| serial(&bytes)),
            any::<[u8; 32]>().prop_map(Revoked::Key),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_list_reads_back_as_it_was_made(entries in proptest::collection::vec((any_revoked(), (NOW.0..).prop_map(UnixTime)), 0..20)) {
            let list = RevocationList::next(None, &entries, GROUP, &signer(), NOW).unwrap();
            prop_assert_eq!(open(list.signed()), Ok(list.clone()));
            prop_assert!(entries.iter().all(|(what, _)| list.entries.contains_key(what)));
        }

        #[test]
        fn a_list_with_a_byte_changed_cut_or_added_is_refused(at in any::<prop::sample::Index>(), flip in 1u8.., extra in any::<u8>()) {
            let list = RevocationList::next(None, &[(serial(&[7; 16]), NOW), (Revoked::Key([2; 32]), NOW)], GROUP, &signer(), NOW).unwrap();
            let mut bytes = list.signed().to_vec();
            let at = at.index(bytes.len());
            prop_assert!(open(&bytes[..at]).is_err());
            bytes[at] ^= flip;
            prop_assert!(open(&bytes).is_err());
            bytes[at] ^= flip;
            bytes.push(extra);
            prop_assert!(open(&bytes).is_err());
        }

        #[test]
        fn a_signed_list_of_random_content_never_panics(content in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut body = vec![VERSION];
            body.put(&GROUP.0);
            body.put_u64(NOW.0);
            body.put_u64(NOW.0);
            body.put(&content);
            let _ = open(&signed(body));
        }
    }
}
