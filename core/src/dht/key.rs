//! Keys, their name spaces, and who may write in each.

use core::fmt;
use core::net::IpAddr;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use crate::group::{Certificate, Roles};
use crate::id::{NODE_ID_LEN, NodeId};
use crate::shard::table::Prefix;
use crate::vpn::address::Networks;

/// Longest key in bytes: a set name of 50 and a node ID fit, and a record of the longest value still fits in one request.
pub const MAX_KEY: usize = 96;

/// The key of a record: text of one to [`MAX_KEY`] bytes whose first letter names its space.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Bytes);

/// What a key's name space says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space<'a> {
    /// `n/<node>/<key>`: a node's own.
    Node(NodeId),
    /// `a/<address>`: by a node for which the address is a candidate, or whose certificate carries it.
    Address(IpAddr),
    /// `h/<name>`: by the node whose certificate carries the name.
    Name(&'a str),
    /// `g/<key>`: by admins.
    Group,
    /// `s/<set>/<node>`: one slot for each node.
    Set {
        /// The set; one whose name begins with `gateway` or `relay` asks for that role.
        set: &'a str,
        /// The slot's owner.
        node: NodeId,
    },
    /// `x/<key>`: free, first come.
    Free,
}

impl Key {
    /// Checks the form of a key.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        let key = Self(Bytes::copy_from_slice(text.get(..text.len().min(MAX_KEY + 1))?));
        let is_key = key.try_space().is_some();
        is_key.then_some(key)
    }

    /// The key of an address.
    #[must_use]
    pub fn address(address: IpAddr) -> Self {
        Self(Bytes::from(format!("a/{address}")))
    }

    /// The key of a node name, in lower case; `None` when it is no name.
    #[must_use]
    pub fn name(name: &str) -> Option<Self> {
        Self::parse(format!("h/{}", name.to_ascii_lowercase()).as_bytes())
    }

    /// A node's own key.
    #[must_use]
    pub fn node(node: &NodeId, key: &str) -> Option<Self> {
        Self::parse(format!("n/{node}/{key}").as_bytes())
    }

    /// A node's slot in a set.
    #[must_use]
    pub fn slot(set: &str, node: &NodeId) -> Option<Self> {
        Self::parse(format!("s/{set}/{node}").as_bytes())
    }

    /// The text.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The key's point on the ring: the first 160 bits of a hash, so that neighbouring keys lie apart.
    #[must_use]
    pub fn point(&self) -> NodeId {
        let digest = Sha256::new().chain_update(b"annulus key\0").chain_update(&self.0).finalize();
        let mut point = [0; NODE_ID_LEN];
        point.copy_from_slice(&digest[..NODE_ID_LEN]);
        NodeId(point)
    }

    /// The name space.
    #[must_use]
    pub fn space(&self) -> Space<'_> {
        self.try_space().expect("every constructor has checked the form")
    }

    fn try_space(&self) -> Option<Space<'_>> {
        if self.0.len() > MAX_KEY {
            return None;
        }
        let text = core::str::from_utf8(&self.0).ok()?;
        let (space, rest) = text.split_once('/')?;
        if rest.is_empty() || rest.chars().any(char::is_control) {
            return None;
        }
        match space {
            "n" => {
                let (node, key) = rest.split_once('/')?;
                if key.is_empty() { None } else { canonical_node(node).map(Space::Node) }
            }
            "a" => {
                let address: IpAddr = rest.parse().ok()?;
                // One spelling only: two keys for one address would be two leases.
                if address.to_string() == rest { Some(Space::Address(address)) } else { None }
            }
            "h" => (!rest.bytes().any(|byte| byte.is_ascii_uppercase() || byte == b'/')).then_some(Space::Name(rest)),
            "g" => Some(Space::Group),
            "s" => {
                let (set, node) = rest.rsplit_once('/')?;
                if set.is_empty() { None } else { canonical_node(node).map(|node| Space::Set { set, node }) }
            }
            "x" => Some(Space::Free),
            _ => None,
        }
    }

    /// Whether the holder of `certificate` may write this key.
    #[must_use]
    pub fn permits(&self, certificate: &Certificate, networks: &Networks) -> bool {
        let node = certificate.node_id();
        match self.space() {
            Space::Node(owner) => owner == node,
            Space::Address(IpAddr::V4(v4)) => is_fixed(certificate, IpAddr::V4(v4)) || networks.is_candidate(&node, v4),
            Space::Address(v6) => is_fixed(certificate, v6),
            Space::Name(name) => certificate.node_name().eq_ignore_ascii_case(name),
            Space::Group => certificate.roles().contains(Roles::ADMIN),
            Space::Set { set, node: owner } => {
                let role = if set.starts_with("gateway") {
                    Some(Roles::GATEWAY)
                } else if set.starts_with("relay") {
                    Some(Roles::RELAY)
                } else {
                    None
                };
                owner == node && role.is_none_or(|role| certificate.roles().contains(role))
            }
            Space::Free => true,
        }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

/// Whether `certificate` gives its holder `address` for as long as it is valid.
#[must_use]
pub fn is_fixed(certificate: &Certificate, address: IpAddr) -> bool {
    certificate.addresses().contains(&Prefix::host(address))
}

fn canonical_node(text: &str) -> Option<NodeId> {
    let node: NodeId = text.parse().ok()?;
    (node.to_string() == text).then_some(node)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_spelling_of_a_key_is_accepted() {
        let node = NodeId([0xab; 20]);
        for good in ["a/10.1.2.3", "a/fd00::1", "h/alpha", "x/anything at all", "g/revocations"] {
            assert!(Key::parse(good.as_bytes()).is_some(), "{good}");
        }
        for bad in ["a/10.1.2.03", "a/fd00:0::1", "a/host", "h/Alpha", "h/", "x", "x/", "y/a", "n/abcd/x", "x/a\nb", ""] {
            assert!(Key::parse(bad.as_bytes()).is_none(), "{bad}");
        }
        assert!(Key::parse(format!("n/{}/x", node.to_string().to_uppercase()).as_bytes()).is_none());
        assert!(Key::parse(&[b'x'; 97]).is_none() && Key::parse(&[b'x', b'/', 0xff]).is_none());
        assert_eq!(Key::node(&node, "mail").map(|key| key.space() == Space::Node(node)), Some(true));
        assert_eq!(Key::slot("gateway/v4", &node).map(|key| key.space() == Space::Set { set: "gateway/v4", node }), Some(true));
        let long = format!("x/{}", "a".repeat(MAX_KEY - 2));
        assert!(Key::parse(long.as_bytes()).is_some() && Key::parse(format!("{long}a").as_bytes()).is_none());
    }
}
