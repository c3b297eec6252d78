//! Requests and replies of the DHT, and the records in them.
//!
//! | method | request | reply |
//! | --- | --- | --- |
//! | `0x20` get | key 1+n | flags 1 (1 synced, 2 consistent), replicas 1+20n nearest first, bundles 1+n, certificates 1+n(2+n) |
//! | `0x21` store | bundle, certificates 1+n(2+n) | answer |
//! | `0x22` create | bundle without grants, certificates | answer |
//! | `0x23` abort | key 1+n, record digest 32, certificate 32, signature 64 | answer |
//! | `0x24` fetch | fingerprint 32 | certificate in DER, or nothing |
//! | `0x25` sync | the last key of the page before 1+n (length 0: from the start) | flags 1 (4 more follow), entries 1+n(key 1+n, state digest 16) |
//! | `0x26` notice | bundle that won, certificates | answer |
//!
//! | part | layout |
//! | --- | --- |
//! | record | version 1 (1), flags 1 (1 tombstone), key 1+n, value 2+n, sequence 8, expiry in UNIX seconds 8, owner 20, its certificate's fingerprint 32, signature 64 over all before it |
//! | grant | countersigner 20, its certificate's fingerprint 32, since 8 and time 8 in UNIX seconds, signature 64 over (key 1+n, record digest 32, since 8, time 8) |
//! | bundle | record, number of grants 1 (at most 5), grants |
//! | answer | code 1: 0 done; 1 granted, replicas 1, grant; 2 conflict, bundle; 3 refused, reason 1 |

mod record;

use bytes::Bytes;

use super::WireError;
use super::codec::{Reader, Write as _};
use crate::dht::key::Key;
use crate::dht::ring::DEGREE;
use crate::id::NodeId;
pub use record::{Bundle, Fingerprint, Grant, Record};

/// Asks for the records of a key and for its replicas.
pub const METHOD_GET: u8 = 0x20;
/// Stores a record.
pub const METHOD_STORE: u8 = 0x21;
/// Asks for a grant: the vote for a new owner.
pub const METHOD_CREATE: u8 = 0x22;
/// Takes the request for a grant back.
pub const METHOD_ABORT: u8 = 0x23;
/// Asks for a certificate by its fingerprint.
pub const METHOD_FETCH: u8 = 0x24;
/// Asks for one page of what the asker should hold.
pub const METHOD_SYNC: u8 = 0x25;
/// Tells an owner that it lost its key.
pub const METHOD_NOTICE: u8 = 0x26;

/// Longest value of a record in bytes.
pub const MAX_VALUE: usize = 1_024;
/// Longest value of a record made by `create`, in bytes: it travels together with its grants.
pub const MAX_CREATED_VALUE: usize = 384;
/// Longest body of a request or reply in bytes: with the headers of routing and sealing it fits into 1,472 bytes of UDP payload.
pub const MAX_BODY: usize = 1_280;
/// Certificates are added to a body only as long as it stays below this many bytes; it then fits an outside MTU of 1,280. Others are fetched.
pub const COMFORTABLE_BODY: usize = 1_100;
/// Most bundles in the reply to a get: the live record and the latest tombstones.
pub const MAX_BUNDLES: usize = 5;
/// Most certificates in one body.
pub const MAX_CERTIFICATES: usize = 6;
/// Most entries of one page of a sync.
pub const MAX_PAGE: usize = 64;

/// Why a store or a create was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// The node has not finished its hand-over, or its ring position is not consistent.
    NotSynced,
    /// The node is no replica of the key.
    NotReplica,
    /// Somebody else's create is being voted on, or the node has too much to do.
    Busy,
    /// The owner's node or user stores too much already.
    Quota,
    /// The node stores as much as it ever does.
    Full,
    /// Expired, or expires later than any record may.
    Expired,
    /// The owner may not write this key.
    Forbidden,
    /// Certificate or signature does not verify.
    Unverified,
    /// The same owner has a record of a higher sequence.
    Stale,
    /// Not known to this version.
    Other(u8),
}

impl Refusal {
    const CODES: [Self; 9] = [
        Self::NotSynced,
        Self::NotReplica,
        Self::Busy,
        Self::Quota,
        Self::Full,
        Self::Expired,
        Self::Forbidden,
        Self::Unverified,
        Self::Stale,
    ];

    const fn from_byte(byte: u8) -> Self {
        if byte >= 1 && byte as usize <= Self::CODES.len() { Self::CODES[byte as usize - 1] } else { Self::Other(byte) }
    }

    fn byte(self) -> u8 {
        match self {
            Self::Other(byte) => byte,
            known => Self::CODES.iter().position(|code| *code == known).map_or(0, |i| i as u8 + 1),
        }
    }
}

/// The answer to a store, create, abort or notice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Done.
    Done,
    /// The vote.
    Granted {
        /// Number of replicas of the key as the voter sees the ring.
        replicas: u8,
        /// The signature.
        grant: Grant,
    },
    /// Somebody else owns the key.
    Conflict(Box<Bundle>),
    /// Not done.
    Refused(Refusal),
}

impl Answer {
    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> Bytes {
        let mut out = Vec::new();
        match self {
            Self::Done => out.put_u8(0),
            Self::Granted { replicas, grant } => {
                out.put_u8(1);
                out.put_u8(*replicas);
                grant.write(&mut out);
            }
            Self::Conflict(bundle) => {
                out.put_u8(2);
                bundle.write(&mut out);
            }
            Self::Refused(refusal) => {
                out.put_u8(3);
                out.put_u8(refusal.byte());
            }
        }
        out.into()
    }

    /// From its bytes.
    ///
    /// # Errors
    /// [`WireError`] when it does not have the form.
    pub fn parse(bytes: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(bytes);
        let answer = match reader.u8()? {
            0 => Self::Done,
            1 => Self::Granted { replicas: reader.u8()?, grant: Grant::read(&mut reader)? },
            2 => Self::Conflict(Box::new(Bundle::read(&mut reader)?)),
            3 => Self::Refused(Refusal::from_byte(reader.u8()?)),
            _ => return Err(WireError::BadField("answer")),
        };
        reader.finish()?;
        Ok(answer)
    }
}

/// The body of a store, create or notice: a bundle and certificates for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The bundle.
    pub bundle: Bundle,
    /// Some of the certificates that its verification needs, in DER.
    pub certificates: Vec<Bytes>,
}

impl Offer {
    /// The body for `bundle`, with as many of `certificates` as are comfortable.
    #[must_use]
    pub fn body(bundle: &Bundle, certificates: &[Bytes]) -> Bytes {
        let mut out = bundle.bytes();
        write_certificates(&mut out, certificates);
        out.into()
    }

    /// From its bytes.
    ///
    /// # Errors
    /// [`WireError`] when it does not have the form.
    pub fn parse(bytes: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(bytes);
        let bundle = Bundle::read(&mut reader)?;
        let certificates = read_certificates(&mut reader)?;
        reader.finish()?;
        Ok(Self { bundle, certificates })
    }
}

/// The reply to a get.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Whether the node has finished its hand-over: only then its "nothing" says that there is nothing with it.
    pub synced: bool,
    /// Whether its ring position is consistent.
    pub consistent: bool,
    /// The replicas of the key as it sees the ring, nearest first; at most [`DEGREE`].
    pub replicas: Vec<NodeId>,
    /// What it stores under the key.
    pub bundles: Vec<Bundle>,
    /// Some certificates.
    pub certificates: Vec<Bytes>,
}

impl Found {
    /// The body; bundles come first in `bundles` when they matter most, those that do not fit are left out.
    #[must_use]
    pub fn body(&self) -> Bytes {
        let mut out = vec![u8::from(self.synced) | u8::from(self.consistent) << 1];
        let bundles: Vec<Vec<u8>> = self.bundles.iter().take(MAX_BUNDLES).map(Bundle::bytes).collect();
        let first = bundles.first().map_or(0, Vec::len);
        let room = MAX_BODY.saturating_sub(first + 4) / crate::id::NODE_ID_LEN;
        let replicas = &self.replicas[..self.replicas.len().min(DEGREE).min(room)];
        out.put_u8(replicas.len() as u8);
        replicas.iter().for_each(|node| out.put_node_id(node));
        let count_at = out.len();
        out.put_u8(0);
        for bytes in bundles {
            if out.len() + bytes.len() < MAX_BODY {
                out.extend_from_slice(&bytes);
                out[count_at] += 1;
            }
        }
        write_certificates(&mut out, &self.certificates);
        out.into()
    }

    /// From its bytes.
    ///
    /// # Errors
    /// [`WireError`] when it does not have the form.
    pub fn parse(bytes: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(bytes);
        let flags = reader.u8()?;
        let mut out = Self { synced: flags & 1 != 0, consistent: flags & 2 != 0, ..Self::default() };
        let replicas = usize::from(reader.u8()?);
        if replicas > DEGREE {
            return Err(WireError::BadField("replicas"));
        }
        for _ in 0..replicas {
            out.replicas.push(reader.node_id()?);
        }
        let bundles = usize::from(reader.u8()?);
        if bundles > MAX_BUNDLES {
            return Err(WireError::BadField("bundles"));
        }
        for _ in 0..bundles {
            out.bundles.push(Bundle::read(&mut reader)?);
        }
        out.certificates = read_certificates(&mut reader)?;
        reader.finish()?;
        Ok(out)
    }
}

/// The body of an abort.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Abort {
    /// The key.
    pub key: Key,
    /// Digest of the record that was voted on.
    pub digest: [u8; 32],
    /// The owner's certificate.
    pub certificate: Fingerprint,
    /// Its signature over key and digest.
    pub signature: [u8; 64],
}

impl Abort {
    /// The bytes that the owner signs.
    #[must_use]
    pub fn signed(key: &Key, digest: &[u8; 32]) -> Vec<u8> {
        let mut out = Vec::new();
        out.put_bytes8(key.bytes());
        out.put(digest);
        out
    }

    /// The body.
    #[must_use]
    pub fn body(&self) -> Bytes {
        let mut out = Self::signed(&self.key, &self.digest);
        out.put(&self.certificate);
        out.put(&self.signature);
        out.into()
    }

    /// From its bytes.
    ///
    /// # Errors
    /// [`WireError`] when it does not have the form.
    pub fn parse(bytes: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(bytes);
        let out = Self { key: read_key(&mut reader)?, digest: reader.array()?, certificate: reader.array()?, signature: reader.array()? };
        reader.finish()?;
        Ok(out)
    }
}

/// One page of what the asker of a sync should hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Whether keys follow after the last of this page.
    pub more: bool,
    /// Keys in ascending order with a digest of what is stored under them.
    pub entries: Vec<(Key, [u8; 16])>,
}

impl Page {
    /// Whether another entry for `key` fits behind `len` bytes.
    #[must_use]
    pub fn fits(len: usize, key: &Key) -> bool {
        len + 17 + key.bytes().len() <= COMFORTABLE_BODY
    }

    /// The body.
    #[must_use]
    pub fn body(&self) -> Bytes {
        let mut out = vec![u8::from(self.more) << 2, self.entries.len().min(MAX_PAGE) as u8];
        for (key, digest) in self.entries.iter().take(MAX_PAGE) {
            out.put_bytes8(key.bytes());
            out.put(digest);
        }
        out.into()
    }

    /// From its bytes.
    ///
    /// # Errors
    /// [`WireError`] when it does not have the form, or the keys are not in ascending order.
    pub fn parse(bytes: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(bytes);
        let more = reader.u8()? & 4 != 0;
        let count = usize::from(reader.u8()?);
        if count > MAX_PAGE {
            return Err(WireError::BadField("entries"));
        }
        let mut entries = Vec::with_capacity(count);
        for _ in 0..count {
            entries.push((read_key(&mut reader)?, reader.array()?));
        }
        reader.finish()?;
        if entries.windows(2).any(|pair| pair[0].0 >= pair[1].0) {
            return Err(WireError::BadField("entries"));
        }
        Ok(Self { more, entries })
    }
}

/// Reads a key.
///
/// # Errors
/// [`WireError::BadField`] when it is in no name space.
pub fn read_key(reader: &mut Reader<'_>) -> Result<Key, WireError> {
    Key::parse(reader.bytes8()?).ok_or(WireError::BadField("key"))
}

/// Appends as many of `certificates` as keep `out` comfortable.
pub fn write_certificates(out: &mut Vec<u8>, certificates: &[Bytes]) {
    let count_at = out.len();
    out.put_u8(0);
    for der in certificates.iter().take(MAX_CERTIFICATES) {
        if out.len() + 2 + der.len() <= COMFORTABLE_BODY {
            out.put_bytes16(der);
            out[count_at] += 1;
        }
    }
}

/// Reads certificates; their content is not looked at.
///
/// # Errors
/// [`WireError`] when they are too many or cut.
pub fn read_certificates(reader: &mut Reader<'_>) -> Result<Vec<Bytes>, WireError> {
    let count = usize::from(reader.u8()?);
    if count > MAX_CERTIFICATES {
        return Err(WireError::BadField("certificates"));
    }
    let mut out = Vec::with_capacity(count);
    for _ in 0..count {
        out.push(Bytes::copy_from_slice(reader.bytes16()?));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::UnixTime;
    use proptest::collection::vec;
    use proptest::prelude::*;

    prop_compose! {
        fn any_bundle()(key in "[a-z]{1,94}", value in vec(any::<u8>(), 0..MAX_VALUE), sequence in any::<u64>(), expires in any::<u64>(), tombstone in any::<bool>(),
            owner in any::<[u8; 20]>(), certificate in any::<[u8; 32]>(), nodes in proptest::collection::btree_set(any::<[u8; 20]>(), 0..=DEGREE), times in any::<(u64, u64)>()) -> Bundle {
            let grants = nodes.into_iter().map(|node| Grant { node: NodeId(node), certificate, since: UnixTime(times.0), time: UnixTime(times.1), signature: [7; 64] }).collect();
            let key = Key::parse(format!("x/{key}").as_bytes()).expect("in the free space");
            Bundle { record: Record { key, value: value.into(), sequence, expires: UnixTime(expires), tombstone, owner: NodeId(owner), certificate, signature: [9; 64] }, grants }
        }
    }

    proptest! {
        #[test]
        fn bundles_offers_and_answers_round_trip(bundle in any_bundle(), der in vec(any::<u8>(), 0..900)) {
            prop_assert_eq!(Bundle::parse(&bundle.bytes()), Ok(bundle.clone()));
            let offer = Offer::parse(&Offer::body(&bundle, &[der.into()])).expect("well formed");
            prop_assert_eq!(&offer.bundle, &bundle);
            for answer in [Answer::Done, Answer::Refused(Refusal::Stale), Answer::Refused(Refusal::Other(200)), Answer::Conflict(Box::new(bundle))] {
                prop_assert_eq!(Answer::parse(&answer.bytes()), Ok(answer));
            }
        }

        #[test]
        fn a_found_reply_keeps_its_bound_and_its_first_bundle(bundles in vec(any_bundle(), 0..4), replicas in vec(any::<[u8; 20]>(), 0..=DEGREE), der in vec(any::<u8>(), 0..900)) {
            let found = Found { synced: true, consistent: false, replicas: replicas.into_iter().map(NodeId).collect(), bundles: bundles.clone(), certificates: vec![der.into()] };
            let body = found.body();
            let back = Found::parse(&body).expect("well formed");
            prop_assert!(back.synced && !back.consistent);
            if let Some(first) = bundles.first().filter(|bundle| bundle.grants.is_empty()) {
                prop_assert!(body.len() <= MAX_BODY + 1);
                prop_assert_eq!(back.bundles.first(), Some(first));
            }
        }

        #[test]
        fn pages_and_aborts_round_trip(keys in proptest::collection::btree_set("[a-z]{1,20}", 0..30), more in any::<bool>(), digest in any::<[u8; 32]>()) {
            let entries: Vec<_> = keys.into_iter().map(|key| (Key::parse(format!("x/{key}").as_bytes()).expect("free"), [3; 16])).collect();
            if let Some((key, _)) = entries.first() {
                let abort = Abort { key: key.clone(), digest, certificate: digest, signature: [1; 64] };
                prop_assert_eq!(Abort::parse(&abort.body()), Ok(abort));
            }
            let page = Page { more, entries };
            prop_assert_eq!(Page::parse(&page.body()), Ok(page));
        }

        #[test]
        fn arbitrary_bytes_are_refused_without_panic(bytes in vec(any::<u8>(), 0..400)) {
            let _ = Bundle::parse(&bytes);
            let _ = Offer::parse(&bytes);
            let _ = Answer::parse(&bytes);
            let _ = Found::parse(&bytes);
            let _ = Abort::parse(&bytes);
            let _ = Page::parse(&bytes);
        }
    }

    #[test]
    fn a_lease_with_all_its_grants_fits_a_small_path() {
        let key = Key::address([10, 128, 255, 254].into());
        let grants = (0..5)
            .map(|i| Grant { node: NodeId([i; 20]), certificate: [0; 32], since: UnixTime(0), time: UnixTime(0), signature: [0; 64] })
            .collect();
        let record = Record {
            key,
            value: Bytes::new(),
            sequence: 0,
            expires: UnixTime(0),
            tombstone: false,
            owner: NodeId([0; 20]),
            certificate: [0; 32],
            signature: [0; 64],
        };
        let found = Found { replicas: vec![NodeId([0; 20]); 5], bundles: vec![Bundle { record, grants }], ..Found::default() };
        assert!(found.body().len() <= COMFORTABLE_BODY);
        assert_eq!(Found::parse(&found.body()).map(|found| found.bundles.len()), Ok(1));
    }
}
