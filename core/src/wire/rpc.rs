//! Requests, replies and errors: the contents of routed messages that ask for something.
//!
//! | content | layout (bytes) |
//! | --- | --- |
//! | request | request ID 4, method 1, body |
//! | reply | request ID 4, body |
//! | error | request ID 4, code 1 |
//!
//! Methods `0x01-0x1f` belong to the overlay, `0x20-0x3f` to the DHT, `0x40-0x5f` to the VPN. Whoever does not know a method answers
//! with [`ERROR_NO_HANDLER`]; unknown codes are kept as they are.

use super::WireError;
use super::codec::{Reader, Write};

/// First method of the overlay.
pub const METHODS_OVERLAY: u8 = 0x01;
/// First method of the DHT.
pub const METHODS_DHT: u8 = 0x20;
/// First method of the VPN.
pub const METHODS_VPN: u8 = 0x40;
/// First method that nobody owns.
pub const METHODS_END: u8 = 0x60;

/// The method is not known to the answering node.
pub const ERROR_NO_HANDLER: u8 = 1;
/// The answering node has not finished its hand-over: it cannot tell yet.
pub const ERROR_NOT_SYNCED: u8 = 2;
/// The answering node does not want to.
pub const ERROR_REFUSED: u8 = 3;
/// The answering node has no room for it now.
pub const ERROR_BUSY: u8 = 4;
/// The request's body does not have the form of its method.
pub const ERROR_MALFORMED: u8 = 5;

/// Bytes of a request in front of its body.
pub const REQUEST_HEADER_LEN: usize = 5;

/// A request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// Chosen by the asker; the same in retransmissions.
    pub id: u32,
    /// What is asked for.
    pub method: u8,
    /// The method's own format.
    pub body: &'a [u8],
}

impl<'a> Request<'a> {
    /// Reads a request.
    ///
    /// # Errors
    /// [`WireError::Truncated`] when its header does not fit.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(bytes);
        Ok(Self { id: reader.u32()?, method: reader.u8()?, body: reader.rest() })
    }

    /// Appends the request to `out`.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.put_u32(self.id);
        out.put_u8(self.method);
        out.put(self.body);
    }
}

/// A reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply<'a> {
    /// The request's.
    pub id: u32,
    /// The method's own format.
    pub body: &'a [u8],
}

impl<'a> Reply<'a> {
    /// Reads a reply.
    ///
    /// # Errors
    /// [`WireError::Truncated`] when its header does not fit.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(bytes);
        Ok(Self { id: reader.u32()?, body: reader.rest() })
    }

    /// Appends the reply to `out`.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.put_u32(self.id);
        out.put(self.body);
    }
}

/// An error in answer to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorReply {
    /// The request's.
    pub id: u32,
    /// One of the `ERROR_` codes, or one of a later version.
    pub code: u8,
}

impl ErrorReply {
    /// Reads an error.
    ///
    /// # Errors
    /// [`WireError`] when its length is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(bytes);
        let error = Self { id: reader.u32()?, code: reader.u8()? };
        reader.finish()?;
        Ok(error)
    }

    /// Appends the error to `out`.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.put_u32(self.id);
        out.put_u8(self.code);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn requests_replies_and_errors_round_trip(id in any::<u32>(), method in any::<u8>(), code in any::<u8>(), body in proptest::collection::vec(any::<u8>(), 0..100)) {
            let mut out = Vec::new();
            let request = Request { id, method, body: &body };
            request.write(&mut out);
            prop_assert_eq!(Request::parse(&out), Ok(request));
            prop_assert_eq!(Request::parse(&out[..4]), Err(WireError::Truncated));
            out.clear();
            let reply = Reply { id, body: &body };
            reply.write(&mut out);
            prop_assert_eq!(Reply::parse(&out), Ok(reply));
            prop_assert_eq!(Reply::parse(&out[..3]), Err(WireError::Truncated));
            out.clear();
            let error = ErrorReply { id, code };
            error.write(&mut out);
            prop_assert_eq!(ErrorReply::parse(&out), Ok(error));
            out.push(0);
            prop_assert_eq!(ErrorReply::parse(&out), Err(WireError::TrailingBytes));
        }
    }
}
