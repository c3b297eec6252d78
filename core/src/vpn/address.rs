//! Virtual addresses: which IPv6 address follows from a node ID, and which IPv4 addresses a node may lease.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::id::NodeId;
use crate::shard::table::Prefix;

/// Number of IPv4 addresses of which a node may lease one. In a /16 with 30,000 leases a node finds all of its candidates taken once in 10^21 times.
pub const CANDIDATES: u8 = 64;

/// The networks from which a group's members have their addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Networks {
    /// The group's IPv4 network; `None` when it uses IPv6 only.
    pub ipv4: Option<Prefix>,
    /// The group's IPv6 /64.
    pub ipv6: Prefix,
}

impl Networks {
    /// The IPv6 address of `node`: the group's first 64 bits, the node ID's first 64 bits. Nobody picks a node ID, so the address certifies itself.
    #[must_use]
    pub fn ipv6_of(&self, node: &NodeId) -> Ipv6Addr {
        let network = match self.ipv6.address {
            IpAddr::V6(v6) => u128::from(v6),
            IpAddr::V4(_) => 0,
        };
        Ipv6Addr::from(network >> 64 << 64 | u128::from(node.prefix()))
    }

    /// The ring position's first 64 bits that own `address`, if it is one of the group's self-certifying addresses.
    #[must_use]
    pub fn prefix_of(&self, address: IpAddr) -> Option<u64> {
        match address {
            IpAddr::V6(v6) if u128::from(v6) >> 64 == u128::from(self.ipv6_of(&NodeId::default())) >> 64 => Some(u128::from(v6) as u64),
            _ => None,
        }
    }

    /// The `i`th IPv4 candidate of `node`; `None` when the group has no IPv4 network or one without usable addresses.
    ///
    /// Network and broadcast address are never candidates, nor is any address that ends in .0 or .255: some hosts refuse them in any network.
    #[must_use]
    pub fn candidate(&self, node: &NodeId, i: u8) -> Option<Ipv4Addr> {
        let network = self.ipv4?;
        let IpAddr::V4(base) = network.address else { return None };
        let host_bits = 32u32.saturating_sub(u32::from(network.len));
        if host_bits < 2 {
            return None;
        }
        let mut mac = Hmac::<Sha256>::new_from_slice(&node.0).expect("HMAC takes keys of any length");
        mac.update(b"annulus address");
        mac.update(&[i]);
        let digest = mac.finalize().into_bytes();
        let mut drawn = [0; 8];
        drawn.copy_from_slice(&digest[..8]);
        let drawn = u64::from_be_bytes(drawn);
        let host = if host_bits >= 8 {
            let index = drawn % ((1u64 << (host_bits - 8)) * 254);
            (index / 254) << 8 | (1 + index % 254)
        } else {
            1 + drawn % ((1 << host_bits) - 2)
        };
        Some(Ipv4Addr::from(u32::from(base) | host as u32))
    }

    /// Whether `address` is one of the [`CANDIDATES`] of `node`.
    #[must_use]
    pub fn is_candidate(&self, node: &NodeId, address: Ipv4Addr) -> bool {
        self.ipv4.is_some_and(|network| network.contains(IpAddr::V4(address)))
            && (0..CANDIDATES).any(|i| self.candidate(node, i) == Some(address))
    }

    /// Whether `address` lies in one of the group's networks.
    #[must_use]
    pub fn contain(&self, address: IpAddr) -> bool {
        self.ipv4.is_some_and(|network| network.contains(address)) || self.prefix_of(address).is_some()
    }
}

/// Whether packets to `address` go to one member: not multicast, broadcast, loopback, link-local or unspecified.
#[must_use]
pub fn is_unicast(address: IpAddr, networks: &Networks) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let broadcast = networks.ipv4.is_some_and(|network| {
                let IpAddr::V4(base) = network.address else { return false };
                let mask = u32::MAX.checked_shr(u32::from(network.len)).unwrap_or(0);
                mask > 1 && u32::from(v4) == u32::from(base) | mask
            });
            !(v4.is_multicast() || v4.is_broadcast() || v4.is_loopback() || v4.is_link_local() || v4.is_unspecified() || broadcast)
        }
        IpAddr::V6(v6) => !(v6.is_multicast() || v6.is_loopback() || v6.is_unicast_link_local() || v6.is_unspecified()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn networks(len: u8) -> Networks {
        Networks { ipv4: Some(Prefix::new([10, 200, 0, 0].into(), len)), ipv6: Prefix::new("fd12:3456:789a::".parse().expect("valid"), 64) }
    }

    proptest! {
        #[test]
        fn candidates_lie_in_the_network_and_avoid_its_edges(id in any::<[u8; 20]>(), i in 0..CANDIDATES, len in 9u8..=30) {
            let networks = networks(len);
            let network = networks.ipv4.expect("set");
            let address = networks.candidate(&NodeId(id), i).expect("the network has usable addresses");
            prop_assert!(network.contains(address.into()));
            prop_assert!(is_unicast(address.into(), &networks));
            prop_assert_ne!(IpAddr::V4(address), network.address);
            prop_assert!(len > 24 || !matches!(address.octets()[3], 0 | 255));
            prop_assert!(networks.is_candidate(&NodeId(id), address));
        }

        #[test]
        fn an_ipv6_address_names_its_node(id in any::<[u8; 20]>()) {
            let networks = networks(16);
            let address = networks.ipv6_of(&NodeId(id));
            prop_assert_eq!(networks.prefix_of(address.into()), Some(NodeId(id).prefix()));
            prop_assert!(networks.contain(address.into()));
        }
    }

    #[test]
    fn candidates_of_one_node_are_rarely_those_of_another() {
        let networks = networks(16);
        let mine: Vec<_> = (0..CANDIDATES).filter_map(|i| networks.candidate(&NodeId([1; 20]), i)).collect();
        assert_eq!(mine.len(), 64);
        assert!(mine.iter().filter(|address| networks.is_candidate(&NodeId([2; 20]), **address)).count() <= 2);
    }

    #[test]
    fn networks_without_usable_addresses_have_no_candidates() {
        assert_eq!(networks(31).candidate(&NodeId([1; 20]), 0), None);
        assert_eq!(Networks { ipv4: None, ..networks(16) }.candidate(&NodeId([1; 20]), 0), None);
    }

    #[test]
    fn broadcast_and_multicast_belong_to_nobody() {
        let networks = networks(16);
        for text in ["10.200.255.255", "224.0.0.251", "255.255.255.255", "169.254.1.1", "ff02::fb", "fe80::1", "::"] {
            assert!(!is_unicast(text.parse().expect("valid"), &networks), "{text}");
        }
        assert!(is_unicast("10.200.1.1".parse().expect("valid"), &networks));
    }
}
