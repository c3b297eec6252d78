//! Who owns which address: destinations of packets to seal, permitted sources of opened ones, the host's own.

use core::net::IpAddr;

use hashbrown::{HashMap, HashSet};
use smallvec::SmallVec;

use super::table::{PeerId, Prefix};

type Hasher = foldhash::fast::FixedState;

/// Routes that a shard keeps at most: 1 MB. Beyond it one that was not used since the last round makes room; a packet for it is punted
/// with [`Punt::NoAddress`](crate::io::Punt::NoAddress) and brings it back.
pub const MAX_ROUTES: usize = 16_384;

/// Permitted sources that a shard keeps at most: 4 for each of [`MAX_SESSIONS`](super::MAX_SESSIONS) peers. Beyond it new ones are refused
/// and counted as [`DropReason::QueueFull`](crate::io::DropReason::QueueFull): an evicted one would silence a member, and nothing would bring it back.
pub const MAX_SOURCES: usize = 65_536;

/// The prefix lengths in use, longest first, with how many prefixes have each: a look-up tries only these.
#[derive(Clone, Debug, Default)]
struct Lengths {
    v4: Vec<(u8, u32)>,
    v6: Vec<(u8, u32)>,
}

impl Lengths {
    fn of(&self, address: IpAddr) -> &[(u8, u32)] {
        if address.is_ipv4() { &self.v4 } else { &self.v6 }
    }

    fn family(&mut self, prefix: &Prefix) -> &mut Vec<(u8, u32)> {
        if prefix.address.is_ipv4() { &mut self.v4 } else { &mut self.v6 }
    }

    fn add(&mut self, prefix: &Prefix) {
        let family = self.family(prefix);
        match family.binary_search_by(|(len, _)| prefix.len.cmp(len)) {
            Ok(at) => family[at].1 += 1,
            Err(at) => family.insert(at, (prefix.len, 1)),
        }
    }

    fn remove(&mut self, prefix: &Prefix) {
        let family = self.family(prefix);
        if let Ok(at) = family.binary_search_by(|(len, _)| prefix.len.cmp(len)) {
            family[at].1 -= 1;
            if family[at].1 == 0 {
                family.remove(at);
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Route {
    prefix: Prefix,
    peer: PeerId,
    /// Looked up since the hand of the clock passed.
    used: bool,
}

/// Destination -> peer by the longest prefix; hosts are found first, by one look-up.
#[derive(Debug)]
pub(super) struct Routes {
    entries: Vec<Route>,
    index: HashMap<Prefix, u32, Hasher>,
    lengths: Lengths,
    /// Where the search for a victim goes on (second chance).
    hand: usize,
    limit: usize,
}

impl Routes {
    pub(super) fn new(seed: u64, limit: usize) -> Self {
        Self {
            entries: Vec::new(),
            index: HashMap::with_hasher(Hasher::with_seed(seed)),
            lengths: Lengths::default(),
            hand: 0,
            limit: limit.max(1),
        }
    }

    /// Sends packets for `prefix` to `peer`.
    pub(super) fn insert(&mut self, prefix: Prefix, peer: PeerId) {
        if let Some(&at) = self.index.get(&prefix) {
            self.entries[at as usize].peer = peer;
            return;
        }
        if self.entries.len() >= self.limit {
            let victim = self.victim();
            self.remove(&victim);
        }
        self.index.insert(prefix, self.entries.len() as u32);
        self.entries.push(Route { prefix, peer, used: true });
        self.lengths.add(&prefix);
    }

    /// Forgets `prefix`.
    pub(super) fn remove(&mut self, prefix: &Prefix) {
        let Some(at) = self.index.remove(prefix) else { return };
        let at = at as usize;
        self.entries.swap_remove(at);
        if let Some(moved) = self.entries.get(at) {
            self.index.insert(moved.prefix, at as u32);
        }
        self.lengths.remove(prefix);
    }

    /// Forgets all routes to `peer`.
    pub(super) fn remove_peer(&mut self, peer: PeerId) {
        let mut at = 0;
        while at < self.entries.len() {
            if self.entries[at].peer == peer {
                let prefix = self.entries[at].prefix;
                self.remove(&prefix);
            } else {
                at += 1;
            }
        }
    }

    /// The longest prefix that contains `address`, and whose it is.
    #[inline]
    pub(super) fn find(&mut self, address: IpAddr) -> Option<(Prefix, PeerId)> {
        for &(len, _) in self.lengths.of(address) {
            if let Some(&at) = self.index.get(&Prefix::new(address, len)) {
                let route = &mut self.entries[at as usize];
                route.used = true;
                return Some((route.prefix, route.peer));
            }
        }
        None
    }

    fn victim(&mut self) -> Prefix {
        loop {
            self.hand %= self.entries.len();
            let route = &mut self.entries[self.hand];
            self.hand += 1;
            if !core::mem::take(&mut route.used) {
                return route.prefix;
            }
        }
    }
}

/// Which peer may send from where. Several peers may share a prefix (gateways, subnet routers).
#[derive(Debug)]
pub(super) struct Sources {
    permitted: HashSet<(Prefix, PeerId), Hasher>,
    lengths: Lengths,
    limit: usize,
}

impl Sources {
    pub(super) fn new(seed: u64, limit: usize) -> Self {
        Self { permitted: HashSet::with_hasher(Hasher::with_seed(seed)), lengths: Lengths::default(), limit }
    }

    /// Permits `peer` to send from `prefix`; false when the table is full.
    pub(super) fn insert(&mut self, prefix: Prefix, peer: PeerId) -> bool {
        if self.permitted.contains(&(prefix, peer)) {
            return true;
        }
        if self.permitted.len() >= self.limit {
            return false;
        }
        self.permitted.insert((prefix, peer));
        self.lengths.add(&prefix);
        true
    }

    /// Takes one permission back.
    pub(super) fn remove(&mut self, prefix: Prefix, peer: PeerId) {
        if self.permitted.remove(&(prefix, peer)) {
            self.lengths.remove(&prefix);
        }
    }

    /// Takes all permissions of `peer` back.
    pub(super) fn remove_peer(&mut self, peer: PeerId) {
        let lengths = &mut self.lengths;
        self.permitted.retain(|(prefix, owner)| {
            let keep = *owner != peer;
            if !keep {
                lengths.remove(prefix);
            }
            keep
        });
    }

    /// Whether `peer` may send from `address`.
    #[inline]
    pub(super) fn permits(&self, address: IpAddr, peer: PeerId) -> bool {
        self.lengths.of(address).iter().any(|&(len, _)| self.permitted.contains(&(Prefix::new(address, len), peer)))
    }
}

/// The node's own addresses: a handful, looked through one by one.
#[derive(Clone, Debug, Default)]
pub(super) struct Local {
    /// What is handed to the host.
    pub(super) host: SmallVec<[Prefix; 4]>,
    /// What the node answers itself.
    pub(super) service: SmallVec<[Prefix; 2]>,
}

impl Local {
    /// Whether an opened packet for `address` goes to the host.
    #[inline]
    pub(super) fn delivers(&self, address: IpAddr) -> bool {
        self.host.iter().any(|prefix| prefix.contains(address))
    }

    /// Whether a packet from the host for `address` is for the node itself. Networks that the host routes for others do not count, only its own addresses.
    #[inline]
    pub(super) fn serves(&self, address: IpAddr) -> bool {
        self.service.iter().any(|prefix| prefix.contains(address))
            || self.host.iter().any(|prefix| prefix.is_host() && prefix.address == address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        let (address, len) = text.split_once('/').expect("it has a length");
        Prefix::new(address.parse().expect("it is an address"), len.parse().expect("it is a number"))
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("it is an address")
    }

    #[test]
    fn the_longest_prefix_wins_and_families_are_kept_apart() {
        let mut routes = Routes::new(1, 100);
        for (net, peer) in [("10.0.0.0/8", 1), ("10.1.0.0/16", 2), ("10.1.2.3/32", 3), ("fd00::/8", 4), ("::/0", 5)] {
            routes.insert(prefix(net), PeerId(peer));
        }
        let mut find = |text| routes.find(ip(text)).map(|(_, peer)| peer.0);
        assert_eq!(find("10.1.2.3"), Some(3));
        assert_eq!(find("10.1.2.4"), Some(2));
        assert_eq!(find("10.9.9.9"), Some(1));
        assert_eq!(find("fd00::1"), Some(4));
        // An IPv4 address written as IPv6 is not the IPv4 address.
        assert_eq!(find("::ffff:10.1.2.3"), Some(5));
        assert_eq!(find("192.0.2.1"), None);
        routes.remove(&prefix("10.1.0.0/16"));
        assert_eq!(routes.find(ip("10.1.2.4")).map(|(_, peer)| peer.0), Some(1));
        routes.remove_peer(PeerId(3));
        assert_eq!(routes.find(ip("10.1.2.3")).map(|(_, peer)| peer.0), Some(1));
        assert_eq!(routes.lengths.v4.len(), 1);
    }

    #[test]
    fn a_full_table_of_routes_replaces_what_is_not_used() {
        let mut routes = Routes::new(1, 8);
        let host = |n: u32| Prefix::host(IpAddr::from(n.to_be_bytes()));
        for n in 0..8 {
            routes.insert(host(n), PeerId(n));
        }
        for n in 8..500 {
            routes.insert(host(n), PeerId(n));
            assert!(routes.find(host(3).address).is_some(), "a route in use was replaced by {n}");
        }
        assert_eq!((routes.entries.len(), routes.index.len()), (8, 8));
        assert_eq!(routes.find(host(499).address).map(|(_, peer)| peer.0), Some(499));
    }

    #[test]
    fn a_peer_may_send_from_its_own_prefixes_only() {
        let mut sources = Sources::new(1, 3);
        assert!(sources.insert(prefix("10.0.0.1/32"), PeerId(1)));
        assert!(sources.insert(prefix("192.168.0.0/16"), PeerId(1)));
        assert!(sources.insert(prefix("192.168.0.0/16"), PeerId(2)));
        assert!(!sources.insert(prefix("192.168.0.0/16"), PeerId(3)), "the table is full");
        assert!(sources.permits(ip("10.0.0.1"), PeerId(1)) && !sources.permits(ip("10.0.0.1"), PeerId(2)));
        assert!(sources.permits(ip("192.168.9.9"), PeerId(2)));
        sources.remove_peer(PeerId(1));
        assert!(!sources.permits(ip("192.168.9.9"), PeerId(1)) && sources.permits(ip("192.168.9.9"), PeerId(2)));
        sources.remove(prefix("192.168.0.0/16"), PeerId(2));
        assert!(!sources.permits(ip("192.168.9.9"), PeerId(2)));
        assert!(sources.lengths.v4.is_empty());
    }
}
