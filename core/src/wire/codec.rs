//! Reading and writing of fixed-order fields. A reader never allocates by a length that the input claims.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::WireError;
use crate::id::{NODE_ID_LEN, NodeId};

/// Reads fields from the front of a slice.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts at the front of `bytes`.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The next `len` bytes.
    pub fn take(&mut self, len: usize) -> Result<&'a [u8], WireError> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(WireError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    /// The next `N` bytes by value.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(WireError::Truncated)?;
        self.rest = rest;
        Ok(*taken)
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8, WireError> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// Two bytes.
    pub fn u16(&mut self) -> Result<u16, WireError> {
        self.array().map(u16::from_be_bytes)
    }

    /// Three bytes: receiver and circuit indices.
    pub fn u24(&mut self) -> Result<u32, WireError> {
        self.array().map(|[a, b, c]| u32::from_be_bytes([0, a, b, c]))
    }

    /// Four bytes.
    pub fn u32(&mut self) -> Result<u32, WireError> {
        self.array().map(u32::from_be_bytes)
    }

    /// Eight bytes.
    pub fn u64(&mut self) -> Result<u64, WireError> {
        self.array().map(u64::from_be_bytes)
    }

    /// A node ID, 20 bytes.
    pub fn node_id(&mut self) -> Result<NodeId, WireError> {
        self.array::<NODE_ID_LEN>().map(NodeId)
    }

    /// An address with port: family 1 (4 or 6), address 4 or 16, port 2.
    pub fn socket_addr(&mut self) -> Result<SocketAddr, WireError> {
        let ip = self.ip_addr()?;
        Ok(SocketAddr::new(ip, self.u16()?))
    }

    /// An address: family 1 (4 or 6), address 4 or 16.
    pub fn ip_addr(&mut self) -> Result<IpAddr, WireError> {
        match self.u8()? {
            4 => self.array::<4>().map(|octets| IpAddr::V4(Ipv4Addr::from(octets))),
            6 => self.array::<16>().map(|octets| IpAddr::V6(Ipv6Addr::from(octets))),
            _ => Err(WireError::BadField("address family")),
        }
    }

    /// A byte string behind its 2-byte length.
    pub fn bytes16(&mut self) -> Result<&'a [u8], WireError> {
        let len = self.u16()?;
        self.take(usize::from(len))
    }

    /// A byte string behind its 1-byte length.
    pub fn bytes8(&mut self) -> Result<&'a [u8], WireError> {
        let len = self.u8()?;
        self.take(usize::from(len))
    }

    /// All that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        core::mem::take(&mut self.rest)
    }

    /// Number of bytes left.
    #[must_use]
    pub const fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// Checks that nothing is left.
    ///
    /// # Errors
    /// [`WireError::TrailingBytes`] otherwise.
    pub const fn finish(self) -> Result<(), WireError> {
        if self.rest.is_empty() { Ok(()) } else { Err(WireError::TrailingBytes) }
    }
}

/// Appends fields to a buffer. The counterpart of [`Reader`]; implemented for `Vec<u8>`.
pub trait Write {
    /// Appends bytes as they are.
    fn put(&mut self, bytes: &[u8]);

    /// One byte.
    fn put_u8(&mut self, value: u8) {
        self.put(&[value]);
    }
    /// Two bytes.
    fn put_u16(&mut self, value: u16) {
        self.put(&value.to_be_bytes());
    }
    /// The low three bytes.
    fn put_u24(&mut self, value: u32) {
        self.put(&value.to_be_bytes()[1..]);
    }
    /// Four bytes.
    fn put_u32(&mut self, value: u32) {
        self.put(&value.to_be_bytes());
    }
    /// Eight bytes.
    fn put_u64(&mut self, value: u64) {
        self.put(&value.to_be_bytes());
    }
    /// A node ID, 20 bytes.
    fn put_node_id(&mut self, id: &NodeId) {
        self.put(&id.0);
    }
    /// An address with port, as [`Reader::socket_addr`] reads it.
    fn put_socket_addr(&mut self, address: &SocketAddr) {
        self.put_ip_addr(&address.ip());
        self.put_u16(address.port());
    }
    /// An address, as [`Reader::ip_addr`] reads it.
    fn put_ip_addr(&mut self, address: &IpAddr) {
        match address {
            IpAddr::V4(v4) => {
                self.put_u8(4);
                self.put(&v4.octets());
            }
            IpAddr::V6(v6) => {
                self.put_u8(6);
                self.put(&v6.octets());
            }
        }
    }
    /// A byte string behind its 2-byte length; what is beyond 65,535 bytes is cut (callers bound their strings far below).
    fn put_bytes16(&mut self, bytes: &[u8]) {
        let bytes = &bytes[..bytes.len().min(usize::from(u16::MAX))];
        self.put_u16(bytes.len() as u16);
        self.put(bytes);
    }
    /// A byte string behind its 1-byte length; what is beyond 255 bytes is cut.
    fn put_bytes8(&mut self, bytes: &[u8]) {
        let bytes = &bytes[..bytes.len().min(usize::from(u8::MAX))];
        self.put_u8(bytes.len() as u8);
        self.put(bytes);
    }
}

impl Write for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

impl<const N: usize> Write for smallvec::SmallVec<[u8; N]> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(a in any::<u8>(), b in any::<u16>(), c in 0u32..1 << 24, d in any::<u64>(), v4 in any::<[u8; 4]>(), v6 in any::<[u8; 16]>(),
            port in any::<u16>(), text in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut out = Vec::new();
            out.put_u8(a);
            out.put_u16(b);
            out.put_u24(c);
            out.put_u64(d);
            let four = SocketAddr::from((v4, port));
            let six = SocketAddr::from((v6, port));
            out.put_socket_addr(&four);
            out.put_socket_addr(&six);
            out.put_bytes16(&text);
            let mut reader = Reader::new(&out);
            prop_assert_eq!(reader.u8(), Ok(a));
            prop_assert_eq!(reader.u16(), Ok(b));
            prop_assert_eq!(reader.u24(), Ok(c));
            prop_assert_eq!(reader.u64(), Ok(d));
            prop_assert_eq!(reader.socket_addr(), Ok(four));
            prop_assert_eq!(reader.socket_addr(), Ok(six));
            prop_assert_eq!(reader.bytes16(), Ok(&text[..]));
            prop_assert_eq!(reader.finish(), Ok(()));
        }

        #[test]
        fn a_cut_message_is_truncated(text in proptest::collection::vec(any::<u8>(), 1..100), cut in 0usize..100) {
            let mut out = Vec::new();
            out.put_bytes16(&text);
            let cut = cut.min(out.len() - 1);
            prop_assert_eq!(Reader::new(&out[..cut]).bytes16(), Err(WireError::Truncated));
        }
    }
}
