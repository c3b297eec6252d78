//! Handshake datagrams: header, kinds, parts, and what stands inside the messages.
//!
//! # Header, 29 bytes
//!
//! | offset | bytes | field |
//! | --- | --- | --- |
//! | 0 | 1 | type `0x90` |
//! | 1 | 1 | oldest protocol version that the sender speaks |
//! | 2 | 1 | newest protocol version that the sender speaks |
//! | 3 | 2 | feature bits; unknown ones are kept and authenticated |
//! | 5 | 1 | part (high 4 bits, from 0) and number of parts (low 4 bits, 1 to 3) |
//! | 6 | 1 | kind |
//! | 7 | 3 | receiver index; 0 in m1 |
//! | 10 | 3 | sender index; 0 in a cookie and in r2 |
//! | 13 | 16 | realm MAC: HMAC-SHA-256 under a key derived from the realm key over all other bytes of the datagram, cut to 16 bytes |
//!
//! # Bodies
//!
//! | kind | body |
//! | --- | --- |
//! | 1, m1 | Noise message 32, cookie 16 (zeros without one), zeros up to a datagram of 1,200 bytes. Its part is the part of m2 that this datagram buys |
//! | 2, m2 | outer field (2-byte length, then bytes), Noise message with the [`Hello`] of the responder |
//! | 3, m3 | outer field, Noise message with the [`Hello`] of the initiator |
//! | 4, cookie | cookie 16, realm MAC of the m1 that it answers 16 |
//! | 5, r1 | Noise message behind its 2-byte length, with the [`Resume`] of the initiator, zeros up to a datagram of 120 bytes; the receiver index is that of the session to be resumed |
//! | 6, r2 | Noise message behind its 2-byte length, with the [`Resume`] of the responder; at most as long as r1 |
//!
//! m2 and m3 are cut into at most 3 parts of at most 1,171 bytes, so that no datagram is longer than an m1. A message's bodies are joined
//! in the order of their part numbers.
//!
//! # Room for a post-quantum secret
//!
//! XX becomes XXpsk3 when both ends set a feature bit that is still to be given out. The responder's ML-KEM-768 key (1,184 bytes) then
//! travels as an extension behind the fields of its [`Hello`], encrypted in m2 (at most 2,460 bytes in all, 3 parts); the ciphertext
//! (1,088 bytes) in the outer field of m3, in front of the Noise message whose last token mixes the shared secret (at most 2,330
//! bytes, 2 parts). Until then outer fields are empty and extensions are kept out of interpretation.

use super::codec::{Reader, Write};
use super::{TYPE_HANDSHAKE, WireError};

/// Bytes of a handshake header.
pub const HEADER_LEN: usize = 29;
/// Bytes of the realm MAC.
pub const MAC_LEN: usize = 16;
/// Offset of the realm MAC.
pub const MAC_AT: usize = 13;
/// Bytes of an m1 datagram, and the most that any handshake datagram has.
pub const M1_LEN: usize = 1_200;
/// Bytes of an r1 datagram, and the most that an r2 datagram has.
pub const R1_LEN: usize = 120;
/// Largest body of one part: a datagram of m2 is then not longer than the m1 that bought it.
pub const MAX_BODY: usize = M1_LEN - HEADER_LEN;
/// Most parts of one message.
pub const MAX_PARTS: u8 = 3;
/// Bytes of a cookie.
pub const COOKIE_LEN: usize = 16;
/// Bytes of the Noise message in m1: an X25519 key.
pub const EPHEMERAL_LEN: usize = 32;
/// Longest introduction in a [`Hello`].
pub const MAX_INTRODUCTION: usize = 256;
/// The newest and oldest protocol version of this code.
pub const VERSION: u8 = 1;
/// Feature bit: the sender's CPU has AES instructions.
pub const FEATURE_HARDWARE_AES: u16 = 1;

/// The receiver index of a handshake datagram, 0 in m1; `None` when it is too short to be one.
#[must_use]
pub fn receiver_index(datagram: &[u8]) -> Option<u32> {
    match datagram.get(7..HEADER_LEN)? {
        [a, b, c, ..] => Some(u32::from_be_bytes([0, *a, *b, *c])),
        _ => None,
    }
}

/// What a handshake datagram carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// First message of a full handshake.
    M1,
    /// Second message of a full handshake.
    M2,
    /// Third message of a full handshake.
    M3,
    /// "Repeat your m1 with this, so that I know where you are."
    Cookie,
    /// First message of a resumption.
    R1,
    /// Second message of a resumption.
    R2,
    /// Not known to this version.
    Unknown(u8),
}

impl Kind {
    /// From the wire.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Self {
        match byte {
            1 => Self::M1,
            2 => Self::M2,
            3 => Self::M3,
            4 => Self::Cookie,
            5 => Self::R1,
            6 => Self::R2,
            other => Self::Unknown(other),
        }
    }

    /// To the wire.
    #[must_use]
    pub const fn byte(self) -> u8 {
        match self {
            Self::M1 => 1,
            Self::M2 => 2,
            Self::M3 => 3,
            Self::Cookie => 4,
            Self::R1 => 5,
            Self::R2 => 6,
            Self::Unknown(byte) => byte,
        }
    }
}

/// What a sender speaks: a range of protocol versions and feature bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abilities {
    /// Oldest version.
    pub oldest: u8,
    /// Newest version.
    pub newest: u8,
    /// Feature bits, unknown ones included.
    pub features: u16,
}

impl Abilities {
    /// What this code speaks.
    #[must_use]
    pub const fn local(hardware_aes: bool) -> Self {
        Self { oldest: VERSION, newest: VERSION, features: if hardware_aes { FEATURE_HARDWARE_AES } else { 0 } }
    }

    /// The newest version that both speak.
    #[must_use]
    pub fn common_version(&self, other: &Self) -> Option<u8> {
        let newest = self.newest.min(other.newest);
        (newest >= self.oldest.max(other.oldest)).then_some(newest)
    }

    /// The bytes as they stand in the header.
    #[must_use]
    pub const fn bytes(&self) -> [u8; 4] {
        let [high, low] = self.features.to_be_bytes();
        [self.oldest, self.newest, high, low]
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let abilities = Self { oldest: reader.u8()?, newest: reader.u8()?, features: reader.u16()? };
        if abilities.oldest > abilities.newest {
            return Err(WireError::BadField("version range"));
        }
        Ok(abilities)
    }
}

/// The header of a handshake datagram without its MAC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandshakeHeader {
    /// What the sender speaks.
    pub abilities: Abilities,
    /// Number of this part, below `parts`.
    pub part: u8,
    /// Number of parts, 1 to [`MAX_PARTS`].
    pub parts: u8,
    /// What it carries.
    pub kind: Kind,
    /// The receiver's index (24 bits); 0 in m1.
    pub receiver: u32,
    /// The sender's index (24 bits).
    pub sender: u32,
}

impl HandshakeHeader {
    /// Reads the header; returns it with MAC and body.
    ///
    /// # Errors
    /// [`WireError`] when the datagram is shorter than a header or longer than [`M1_LEN`], or when part or version range contradict themselves.
    pub fn parse(datagram: &[u8]) -> Result<(Self, [u8; MAC_LEN], &[u8]), WireError> {
        if datagram.len() > M1_LEN {
            return Err(WireError::TrailingBytes);
        }
        let mut reader = Reader::new(datagram);
        if reader.u8()? != TYPE_HANDSHAKE {
            return Err(WireError::BadField("type"));
        }
        let abilities = Abilities::read(&mut reader)?;
        let part_byte = reader.u8()?;
        let (part, parts) = (part_byte >> 4, part_byte & 0x0f);
        if part >= parts || parts > MAX_PARTS {
            return Err(WireError::BadField("part"));
        }
        let kind = Kind::from_byte(reader.u8()?);
        let (receiver, sender) = (reader.u24()?, reader.u24()?);
        let mac = reader.array()?;
        Ok((Self { abilities, part, parts, kind, receiver, sender }, mac, reader.rest()))
    }

    /// Appends the header with a MAC of zeros, to be filled in.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.put_u8(TYPE_HANDSHAKE);
        out.put(&self.abilities.bytes());
        out.put_u8(self.part << 4 | self.parts & 0x0f);
        out.put_u8(self.kind.byte());
        out.put_u24(self.receiver);
        out.put_u24(self.sender);
        out.put(&[0; MAC_LEN]);
    }
}

/// What both ends of a full handshake say inside its encrypted payloads.
///
/// | bytes | field |
/// | --- | --- |
/// | 4 | abilities, equal to those in the header of the message |
/// | 3 | the sender's receiver index for the new session |
/// | 3 | the receiver's index of the session that the new one replaces; 0 if none |
/// | 2 + n | certificate |
/// | 2 + n | introduction, at most 256 bytes |
/// | rest | extensions, not known to this version |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello<'a> {
    /// What the sender speaks: authenticates the header.
    pub abilities: Abilities,
    /// The sender's receiver index for the new session.
    pub session: u32,
    /// The receiver's index of the session that the new one replaces; 0 if none.
    pub renews: u32,
    /// The sender's certificate in DER.
    pub certificate: &'a [u8],
    /// Opaque to the session layer.
    pub introduction: &'a [u8],
    /// Fields of later versions.
    pub extensions: &'a [u8],
}

impl<'a> Hello<'a> {
    /// Reads it.
    ///
    /// # Errors
    /// [`WireError`] when a field is cut short, the introduction too long or the session index 0.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(bytes);
        let hello = Self {
            abilities: Abilities::read(&mut reader)?,
            session: reader.u24()?,
            renews: reader.u24()?,
            certificate: reader.bytes16()?,
            introduction: reader.bytes16()?,
            extensions: reader.rest(),
        };
        if hello.introduction.len() > MAX_INTRODUCTION {
            return Err(WireError::BadField("introduction"));
        }
        if hello.session == 0 {
            return Err(WireError::BadField("session index"));
        }
        Ok(hello)
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(14 + self.certificate.len() + self.introduction.len() + self.extensions.len());
        out.put(&self.abilities.bytes());
        out.put_u24(self.session);
        out.put_u24(self.renews);
        out.put_bytes16(self.certificate);
        out.put_bytes16(self.introduction);
        out.put(self.extensions);
        out
    }
}

/// What both ends of a resumption say inside its encrypted payloads: abilities 4 and session index 3; what follows belongs to later versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resume {
    /// What the sender speaks: authenticates the header.
    pub abilities: Abilities,
    /// The sender's receiver index for the new session.
    pub session: u32,
}

impl Resume {
    /// Bytes that it takes.
    pub const LEN: usize = 7;

    /// Reads it.
    ///
    /// # Errors
    /// [`WireError`] when it is cut short or the session index is 0.
    pub fn parse(bytes: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(bytes);
        let resume = Self { abilities: Abilities::read(&mut reader)?, session: reader.u24()? };
        if resume.session == 0 {
            return Err(WireError::BadField("session index"));
        }
        Ok(resume)
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(Self::LEN);
        out.put(&self.abilities.bytes());
        out.put_u24(self.session);
        out
    }
}

/// Splits a joined m2 or m3 into its outer field and its Noise message.
///
/// # Errors
/// [`WireError::Truncated`] when the outer field claims more than there is.
pub fn split_outer(message: &[u8]) -> Result<(&[u8], &[u8]), WireError> {
    let mut reader = Reader::new(message);
    let outer = reader.bytes16()?;
    Ok((outer, reader.rest()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn any_abilities() -> impl Strategy<Value = Abilities> {
        (any::<u8>(), any::<u8>(), any::<u16>()).prop_map(|(a, b, features)| Abilities { oldest: a.min(b), newest: a.max(b), features })
    }

    proptest! {
        #[test]
        fn a_handshake_header_round_trips(abilities in any_abilities(), parts in 1u8..=MAX_PARTS, part in 0u8..MAX_PARTS, kind in any::<u8>(),
            receiver in 0u32..1 << 24, sender in 0u32..1 << 24, body in vec(any::<u8>(), 0..=MAX_BODY)) {
            let header = HandshakeHeader { abilities, part: part % parts, parts, kind: Kind::from_byte(kind), receiver, sender };
            let mut datagram = Vec::new();
            header.write(&mut datagram);
            prop_assert_eq!(datagram.len(), HEADER_LEN);
            datagram.extend_from_slice(&body);
            prop_assert_eq!(HandshakeHeader::parse(&datagram), Ok((header, [0; MAC_LEN], &body[..])));
            prop_assert_eq!(HandshakeHeader::parse(&datagram[..HEADER_LEN - 1]), Err(WireError::Truncated));
        }

        #[test]
        fn a_hello_round_trips(abilities in any_abilities(), session in 1u32..1 << 24, renews in 0u32..1 << 24, certificate in vec(any::<u8>(), 0..900),
            introduction in vec(any::<u8>(), 0..=MAX_INTRODUCTION), extensions in vec(any::<u8>(), 0..50)) {
            let hello = Hello { abilities, session, renews, certificate: &certificate, introduction: &introduction, extensions: &extensions };
            let bytes = hello.bytes();
            prop_assert_eq!(Hello::parse(&bytes), Ok(hello));
            let without = bytes.len() - extensions.len();
            prop_assert_eq!(Hello::parse(&bytes[..without - 1]), Err(WireError::Truncated));
        }

        #[test]
        fn a_resume_round_trips(abilities in any_abilities(), session in 1u32..1 << 24) {
            let resume = Resume { abilities, session };
            let bytes = resume.bytes();
            prop_assert_eq!(bytes.len(), Resume::LEN);
            prop_assert_eq!(Resume::parse(&bytes), Ok(resume));
            prop_assert_eq!(Resume::parse(&bytes[..Resume::LEN - 1]), Err(WireError::Truncated));
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in vec(any::<u8>(), 0..1300)) {
            let _ = HandshakeHeader::parse(&bytes);
            let _ = Hello::parse(&bytes);
            let _ = Resume::parse(&bytes);
            let _ = split_outer(&bytes);
        }
    }

    #[test]
    fn the_newest_common_version_is_chosen() {
        let of = |oldest, newest| Abilities { oldest, newest, features: 0 };
        assert_eq!(of(1, 3).common_version(&of(2, 5)), Some(3));
        assert_eq!(of(2, 5).common_version(&of(1, 3)), Some(3));
        assert_eq!(of(1, 1).common_version(&of(2, 5)), None);
    }

    #[test]
    fn a_hybrid_handshake_fits_three_parts() {
        const KEM_KEY: usize = 1_184;
        const KEM_CIPHERTEXT: usize = 1_088;
        let hello = 14 + 900 + MAX_INTRODUCTION;
        let m2 = 2 + 32 + 48 + hello + 4 + KEM_KEY + 16;
        let m3 = 2 + KEM_CIPHERTEXT + 48 + hello + 16;
        assert!(m2 <= usize::from(MAX_PARTS) * MAX_BODY && m3 <= usize::from(MAX_PARTS) * MAX_BODY);
    }
}
