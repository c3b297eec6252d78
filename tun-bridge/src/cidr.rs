//! An address with the length of its network's prefix, as one writes it: `10.1.2.3/24`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An address and a prefix length. The bits behind the prefix may be set: an interface's address keeps them, a network has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr {
    address: IpAddr,
    length: u8,
}

impl Cidr {
    /// An address in a network of `length` bits; `None` for more than 32 (IPv4) or 128 (IPv6).
    #[must_use]
    pub const fn new(address: IpAddr, length: u8) -> Option<Self> {
        let most = if address.is_ipv4() { 32 } else { 128 };
        if length > most { None } else { Some(Self { address, length }) }
    }

    /// A single address.
    #[must_use]
    pub const fn host(address: IpAddr) -> Self {
        Self { address, length: if address.is_ipv4() { 32 } else { 128 } }
    }

    /// The default route's destination of the address family.
    #[must_use]
    pub const fn everything(v6: bool) -> Self {
        let address = if v6 { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
        Self { address, length: 0 }
    }

    /// The address with all its bits.
    #[must_use]
    pub const fn address(&self) -> IpAddr {
        self.address
    }

    /// Bits of the prefix.
    #[must_use]
    pub const fn length(&self) -> u8 {
        self.length
    }

    /// The network: the bits behind the prefix cleared.
    #[must_use]
    pub fn network(&self) -> Self {
        let address = match self.address {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.length)).unwrap_or(0);
                Ipv4Addr::from_bits(v4.to_bits() & mask).into()
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.length)).unwrap_or(0);
                Ipv6Addr::from_bits(v6.to_bits() & mask).into()
            }
        };
        Self { address, length: self.length }
    }

    /// Whether `address` lies in the network.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.address.is_ipv4() && Self { address, length: self.length }.network() == self.network()
    }

    /// Whether the two networks have an address in common.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        if self.length <= other.length { self.contains(other.address) } else { other.contains(self.address) }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

/// The text is not an address with a prefix length.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not an address with a prefix length like 10.1.2.3/24")]
pub struct CidrError(String);

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let error = || CidrError(text.into());
        let (address, length) = text.split_once('/').ok_or_else(error)?;
        Self::new(address.parse().map_err(|_| error())?, length.parse().map_err(|_| error())?).ok_or_else(error)
    }
}

impl TryFrom<String> for Cidr {
    type Error = CidrError;

    fn try_from(text: String) -> Result<Self, CidrError> {
        text.parse()
    }
}

impl From<Cidr> for String {
    fn from(cidr: Cidr) -> Self {
        cidr.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn text_that_is_no_network_is_refused() {
        for text in ["10.0.0.1", "10.0.0.1/33", "fd00::/129", "10.0.0/8", "x/8", "10.0.0.1/-1", ""] {
            assert!(text.parse::<Cidr>().is_err(), "{text}");
        }
    }

    #[test]
    fn networks_contain_and_overlap_by_prefix() {
        assert_eq!(cidr("10.1.2.3/8").network(), cidr("10.0.0.0/8"));
        assert_eq!(cidr("10.1.2.3/0").network(), cidr("0.0.0.0/0"));
        assert_eq!(cidr("fd00:1::1/32").network(), cidr("fd00:1::/32"));
        assert!(cidr("10.0.0.0/8").contains("10.255.0.1".parse().unwrap()));
        assert!(!cidr("10.0.0.0/8").contains("fd00::1".parse().unwrap()));
        assert!(cidr("10.0.0.0/8").overlaps(&cidr("10.3.0.0/16")) && cidr("10.3.0.0/16").overlaps(&cidr("10.0.0.0/8")));
        assert!(!cidr("10.0.0.0/9").overlaps(&cidr("10.128.0.0/9")));
        assert!(cidr("0.0.0.0/0").overlaps(&cidr("192.0.2.1/32")));
    }
}
