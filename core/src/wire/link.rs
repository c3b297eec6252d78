//! What the two ends of a session say to each other: liveness, addresses, good-byes.
//!
//! Each is the payload of a control packet. All numbers are big-endian.
//!
//! | payload | layout (bytes) | length |
//! | --- | --- | --- |
//! | ping | kind `0x01` 1, token 8, padding of zeros 0 to [`MAX_PADDING`] (a padded ping finds out what a path carries) | 9 to 9,009 |
//! | pong | kind `0x02` 1, token of the ping 8 | 9 |
//! | address report | kind `0x03` 1, family 1 (4 or 6), address 4 or 16, port 2 | 8 or 20 |
//! | close | kind `0x04` 1, [`CloseReason`] 1, text length 1, text | 3 to 123 |
//! | keep-alive | kind `0x05` 1 | 1 |
//! | member notice | kind `0x20` 1, [`NoticeReason`] 1, time 8 (s since 1970, 0 for none), text length 1, text | 11 to 131 |
//!
//! A pong goes back by the way its ping came, so that a token proves that way and no other. A text is at most [`MAX_TEXT`] bytes of UTF-8 without control
//! characters: it ends in logs and on terminals.

use core::net::SocketAddr;

use smallvec::SmallVec;

use super::codec::{Reader, Write};
use super::{PayloadKind, WireError};
use crate::time::UnixTime;

/// Longest text of a close or notice in bytes: one line of a log. What is longer is refused on receipt and cut on sending.
pub const MAX_TEXT: usize = 120;

/// Longest padding of a ping in bytes: what a jumbo frame has room for. What is longer is refused on receipt and cut on sending.
pub const MAX_PADDING: usize = 9_000;

/// A written payload. All but those with a text fit without an allocation.
pub type LinkPayload = SmallVec<[u8; 24]>;

/// A validated payload of this file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkMessage<'a> {
    /// "Answer this": liveness, round-trip time and path challenge in one.
    Ping {
        /// Random; nobody who did not get the ping can answer it.
        token: u64,
        /// Bytes of padding behind the token, up to [`MAX_PADDING`].
        padding: usize,
    },
    /// The answer to a ping.
    Pong {
        /// The ping's.
        token: u64,
    },
    /// "This is the address that I see you at."
    AddressReport(SocketAddr),
    /// "I give this session up."
    Close {
        /// Why.
        reason: CloseReason,
        /// Why, in words for a log; may be empty.
        text: &'a str,
    },
    /// Nothing: it keeps mappings in NATs open.
    KeepAlive,
    /// "You are not admitted (any longer)."
    MemberNotice {
        /// Why.
        reason: NoticeReason,
        /// Since when the certificate has ended, or from when it will be valid.
        time: Option<UnixTime>,
        /// Why, in words for a log; may be empty.
        text: &'a str,
    },
}

/// Why a session is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CloseReason {
    /// The node leaves the realm or shuts down.
    Leaving,
    /// The link is not needed any longer.
    Surplus,
    /// Nothing went over it for a long time.
    Idle,
    /// A newer session between the same nodes took its place: only this session ends.
    Replaced,
    /// The other side did not answer.
    Unresponsive,
    /// The other side is not admitted.
    NotAdmitted,
    /// Not known to this version.
    Unknown(u8),
}

impl CloseReason {
    /// From the wire.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Self {
        match byte {
            1 => Self::Leaving,
            2 => Self::Surplus,
            3 => Self::Idle,
            4 => Self::Replaced,
            5 => Self::Unresponsive,
            6 => Self::NotAdmitted,
            other => Self::Unknown(other),
        }
    }

    /// To the wire.
    #[must_use]
    pub const fn byte(self) -> u8 {
        match self {
            Self::Leaving => 1,
            Self::Surplus => 2,
            Self::Idle => 3,
            Self::Replaced => 4,
            Self::Unresponsive => 5,
            Self::NotAdmitted => 6,
            Self::Unknown(byte) => byte,
        }
    }

    /// In words for a log.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Leaving => "it leaves",
            Self::Surplus => "the link is not needed",
            Self::Idle => "the link was idle",
            Self::Replaced => "a newer session took its place",
            Self::Unresponsive => "no answer",
            Self::NotAdmitted => "not admitted",
            Self::Unknown(_) => "a reason that this version does not know",
        }
    }
}

/// Why a member is not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NoticeReason {
    /// Its certificate has ended.
    Expired,
    /// Its certificate was revoked.
    Revoked,
    /// Its certificate is not valid yet.
    NotYetValid,
    /// Its certificate is refused for another reason; the text tells which.
    Refused,
    /// Not known to this version.
    Unknown(u8),
}

impl NoticeReason {
    /// From the wire.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Self {
        match byte {
            1 => Self::Expired,
            2 => Self::Revoked,
            3 => Self::NotYetValid,
            4 => Self::Refused,
            other => Self::Unknown(other),
        }
    }

    /// To the wire.
    #[must_use]
    pub const fn byte(self) -> u8 {
        match self {
            Self::Expired => 1,
            Self::Revoked => 2,
            Self::NotYetValid => 3,
            Self::Refused => 4,
            Self::Unknown(byte) => byte,
        }
    }

    /// In words for a log.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "the certificate has expired",
            Self::Revoked => "the certificate was revoked",
            Self::NotYetValid => "the certificate is not valid yet",
            Self::Refused => "the certificate is refused",
            Self::Unknown(_) => "a reason that this version does not know",
        }
    }
}

impl<'a> LinkMessage<'a> {
    /// Validates a payload, whose first byte is its kind.
    ///
    /// # Errors
    /// [`WireError`] when it is not exactly one of this file's formats; the kinds of other files are bad fields here.
    pub fn parse(payload: &'a [u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(payload);
        let message = match PayloadKind::from_byte(reader.u8()?) {
            PayloadKind::Ping => Self::Ping { token: reader.u64()?, padding: padding(&mut reader)? },
            PayloadKind::Pong => Self::Pong { token: reader.u64()? },
            PayloadKind::AddressReport => Self::AddressReport(reader.socket_addr()?),
            PayloadKind::Close => Self::Close { reason: CloseReason::from_byte(reader.u8()?), text: text(&mut reader)? },
            PayloadKind::KeepAlive => Self::KeepAlive,
            PayloadKind::MemberNotice => {
                let reason = NoticeReason::from_byte(reader.u8()?);
                let time = reader.u64()?;
                Self::MemberNotice { reason, time: (time != 0).then_some(UnixTime(time)), text: text(&mut reader)? }
            }
            PayloadKind::Status | PayloadKind::Routed | PayloadKind::Forward | PayloadKind::DataOpen | PayloadKind::Unknown(_) => {
                return Err(WireError::BadField("payload kind"));
            }
        };
        reader.finish()?;
        Ok(message)
    }

    /// Writes the payload. Texts are cut at [`MAX_TEXT`] bytes and their control characters become spaces.
    #[must_use]
    pub fn to_payload(&self) -> LinkPayload {
        let mut out = LinkPayload::new();
        match *self {
            Self::Ping { token, padding } => {
                out.put_u8(PayloadKind::Ping.byte());
                out.put_u64(token);
                out.resize(out.len() + padding.min(MAX_PADDING), 0);
            }
            Self::Pong { token } => {
                out.put_u8(PayloadKind::Pong.byte());
                out.put_u64(token);
            }
            Self::AddressReport(address) => {
                out.put_u8(PayloadKind::AddressReport.byte());
                out.put_socket_addr(&address);
            }
            Self::Close { reason, text } => {
                out.put_u8(PayloadKind::Close.byte());
                out.put_u8(reason.byte());
                put_text(&mut out, text);
            }
            Self::KeepAlive => out.put_u8(PayloadKind::KeepAlive.byte()),
            Self::MemberNotice { reason, time, text } => {
                out.put_u8(PayloadKind::MemberNotice.byte());
                out.put_u8(reason.byte());
                out.put_u64(time.unwrap_or_default().0);
                put_text(&mut out, text);
            }
        }
        out
    }
}

/// What follows the token of a ping: nothing but zeros, so that nothing can be hidden in it.
fn padding(reader: &mut Reader<'_>) -> Result<usize, WireError> {
    let bytes = reader.rest();
    if bytes.len() > MAX_PADDING || bytes.iter().any(|byte| *byte != 0) {
        return Err(WireError::BadField("padding"));
    }
    Ok(bytes.len())
}

fn text<'a>(reader: &mut Reader<'a>) -> Result<&'a str, WireError> {
    let bytes = reader.bytes8()?;
    let text = core::str::from_utf8(bytes).map_err(|_| WireError::BadField("text"))?;
    if bytes.len() > MAX_TEXT || text.chars().any(char::is_control) {
        return Err(WireError::BadField("text"));
    }
    Ok(text)
}

fn put_text(out: &mut LinkPayload, text: &str) {
    let at = out.len();
    out.put_u8(0);
    for character in text.chars() {
        let character = if character.is_control() { ' ' } else { character };
        if out.len() - at - 1 + character.len_utf8() > MAX_TEXT {
            break;
        }
        out.put(character.encode_utf8(&mut [0; 4]).as_bytes());
    }
    out[at] = (out.len() - at - 1) as u8;
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::{Ipv4Addr, Ipv6Addr};
    use proptest::prelude::*;

    fn any_address() -> impl Strategy<Value = SocketAddr> {
        prop_oneof![
            (any::<u32>(), any::<u16>()).prop_map(|(ip, port)| SocketAddr::from((Ipv4Addr::from(ip), port))),
            (any::<u128>(), any::<u16>()).prop_map(|(ip, port)| SocketAddr::from((Ipv6Addr::from(ip), port))),
        ]
    }

    proptest! {
        #[test]
        fn pings_and_pongs_round_trip(token in any::<u64>(), padding in 0usize..1500) {
            for message in [LinkMessage::Ping { token, padding }, LinkMessage::Pong { token }, LinkMessage::KeepAlive] {
                let payload = message.to_payload();
            prop_assert_eq!(LinkMessage::parse(&payload), Ok(message));
            }
        }

        #[test]
        fn an_address_report_round_trips(address in any_address()) {
            let message = LinkMessage::AddressReport(address);
            let payload = message.to_payload();
            prop_assert_eq!(LinkMessage::parse(&payload), Ok(message));
        }

        #[test]
        fn closes_and_notices_round_trip_with_any_code(code in any::<u8>(), time in 0u64.., text in "\\PC{0,30}") {
            prop_assume!(text.len() <= MAX_TEXT && !text.chars().any(char::is_control));
            let close = LinkMessage::Close { reason: CloseReason::from_byte(code), text: &text };
            let payload = close.to_payload();
            prop_assert_eq!(LinkMessage::parse(&payload), Ok(close));
            prop_assert_eq!(payload[1], code);
            let time = (time != 0).then_some(UnixTime(time));
            let notice = LinkMessage::MemberNotice { reason: NoticeReason::from_byte(code), time, text: &text };
            let payload = notice.to_payload();
            prop_assert_eq!(LinkMessage::parse(&payload), Ok(notice));
            prop_assert_eq!(payload[1], code);
        }

        #[test]
        fn any_text_is_written_so_that_it_can_be_read(text in any::<String>()) {
            let payload = LinkMessage::Close { reason: CloseReason::Leaving, text: &text }.to_payload();
            prop_assert!(LinkMessage::parse(&payload).is_ok());
        }

        #[test]
        fn any_bytes_are_read_or_refused_and_what_is_read_is_written_alike(bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0u8..6) {
            let mut bytes = bytes;
            if let Some(first) = bytes.first_mut() {
                *first = if kind == 0 { 0x20 } else { kind };
            }
            if let Ok(message) = LinkMessage::parse(&bytes) {
                let written = message.to_payload();
                prop_assert_eq!(written.len(), bytes.len());
                prop_assert_eq!(LinkMessage::parse(&written), Ok(message));
            }
        }
    }

    #[test]
    fn a_cut_or_prolonged_payload_is_refused() {
        let messages = [
            LinkMessage::Pong { token: 7 },
            LinkMessage::AddressReport(SocketAddr::from(([192, 0, 2, 1], 4500))),
            LinkMessage::AddressReport(SocketAddr::from((Ipv6Addr::LOCALHOST, 4500))),
            LinkMessage::Close { reason: CloseReason::Idle, text: "idle" },
            LinkMessage::KeepAlive,
            LinkMessage::MemberNotice { reason: NoticeReason::Expired, time: Some(UnixTime(1)), text: "expired" },
        ];
        for message in messages {
            let mut payload = message.to_payload();
            for len in 0..payload.len() {
                assert_eq!(LinkMessage::parse(&payload[..len]), Err(WireError::Truncated), "{message:?} cut to {len}");
            }
            payload.push(0);
            assert_eq!(LinkMessage::parse(&payload), Err(WireError::TrailingBytes), "{message:?}");
        }
        assert_eq!(LinkMessage::parse(&[0x01; 8]), Err(WireError::Truncated));
    }

    #[test]
    fn padding_that_is_too_long_or_says_something_is_refused() {
        let mut payload = LinkMessage::Ping { token: 7, padding: MAX_PADDING }.to_payload();
        assert_eq!(LinkMessage::parse(&payload), Ok(LinkMessage::Ping { token: 7, padding: MAX_PADDING }));
        assert_eq!(LinkMessage::Ping { token: 7, padding: MAX_PADDING + 1 }.to_payload(), payload, "what is longer is cut");
        payload.push(0);
        assert_eq!(LinkMessage::parse(&payload), Err(WireError::BadField("padding")));
        for at in 9..30 {
            let mut payload = LinkMessage::Ping { token: 7, padding: 21 }.to_payload();
            payload[at] = 1;
            assert_eq!(LinkMessage::parse(&payload), Err(WireError::BadField("padding")), "byte {at}");
        }
    }

    #[test]
    fn a_text_that_could_forge_a_log_line_is_refused() {
        for text in [&b"a\nb"[..], b"\x1b[2J", &[0xff, 0xfe], &[b'x'; MAX_TEXT + 1]] {
            let mut payload = vec![0x04, 1, text.len() as u8];
            payload.extend_from_slice(text);
            assert_eq!(LinkMessage::parse(&payload), Err(WireError::BadField("text")));
        }
    }

    #[test]
    fn the_kinds_of_other_files_are_refused() {
        for kind in [0x00, 0x06, 0x10, 0x11, 0x12, 0x21, 0xff] {
            assert_eq!(LinkMessage::parse(&[kind, 0, 0, 0, 0, 0, 0, 0, 0]), Err(WireError::BadField("payload kind")));
        }
    }

    #[test]
    fn payloads_without_a_text_need_no_allocation() {
        let report = LinkMessage::AddressReport(SocketAddr::from((Ipv6Addr::LOCALHOST, 1)));
        assert!(!report.to_payload().spilled());
        assert!(!LinkMessage::Ping { token: 1, padding: 0 }.to_payload().spilled());
    }
}
