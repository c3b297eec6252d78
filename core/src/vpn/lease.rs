//! Our own addresses and name: leasing, keeping, losing, publishing.

use core::net::{IpAddr, Ipv4Addr};
use core::time::Duration;

use bytes::Bytes;

use super::address::CANDIDATES;
use super::{Purpose, Vpn, VpnAction, wire};
use crate::dht::key::Key;
use crate::dht::{At, DhtError, OpId, Operation, Outcome};
use crate::shard::table::Prefix;
use crate::time::{Instant, UnixTime};
use crate::wire::dht::Bundle;

/// When a lease or a publication that failed is tried again.
const AGAIN: Duration = Duration::from_secs(10);

/// The IPv4 lease.
#[derive(Debug, Default)]
pub(super) struct Lease {
    /// The address that is ours, with what proves it.
    held: Option<(Ipv4Addr, Bundle)>,
    /// The address that is asked for, and the operation that asks and later keeps it.
    asked: Option<(Ipv4Addr, OpId)>,
    /// Number of candidates that turned out to be taken since the last success.
    taken: u8,
    /// An address to begin with: the one from before the restart.
    preferred: Option<Ipv4Addr>,
    /// Whether the DHT has stored it in this run: then the DHT renews it, and goes on trying, by itself.
    kept: bool,
    pub(super) wake: Option<Instant>,
}

/// A record that the node publishes beside its lease.
#[derive(Debug)]
pub(super) struct Published {
    value: Bytes,
    /// The operation that writes and keeps it.
    op: Option<OpId>,
    /// When it is tried again.
    pub(super) again: Option<Instant>,
}

impl Lease {
    pub(super) fn address(&self) -> Option<Ipv4Addr> {
        self.held.as_ref().map(|(address, _)| *address)
    }

    pub(super) const fn bundle(&self) -> Option<&Bundle> {
        match &self.held {
            Some((_, bundle)) => Some(bundle),
            None => None,
        }
    }
}

impl Vpn {
    /// Takes over the lease of an earlier run, as [`VpnAction::Lease`] gave it: its address is used at once as long as it is valid, and asked for first.
    ///
    /// What is not our lease is ignored.
    pub fn restore_lease(&mut self, bytes: &[u8], at: At<'_>) {
        let Ok(bundle) = Bundle::parse(bytes) else { return };
        let crate::dht::key::Space::Address(IpAddr::V4(address)) = bundle.record.key.space() else { return };
        let node = self.identity.node_id();
        if bundle.record.owner != node || !self.wants_lease() || !self.networks.is_candidate(&node, address) || self.lease.held.is_some() {
            return;
        }
        self.lease.preferred = Some(address);
        if bundle.record.expires > at.wall {
            self.lease.held = Some((address, bundle));
            self.report_addresses();
        }
        self.keep_lease();
        self.arm();
    }

    /// Whether an IPv4 address must be leased: the group has IPv4, and the certificate names none.
    fn wants_lease(&self) -> bool {
        let has_fixed = self.identity.certificate().addresses().iter().any(|prefix| prefix.is_host() && prefix.address.is_ipv4());
        self.has_addresses && self.networks.candidate(&self.identity.node_id(), 0).is_some() && !has_fixed
    }

    /// Begins to lease if nothing is under way.
    pub(super) fn keep_lease(&mut self) {
        if !self.consistent || self.lease.asked.is_some() {
            return;
        }
        if !self.wants_lease() {
            self.lease.held = None;
            return;
        }
        match self.lease.held.clone() {
            // The replicas may have restarted with us: they get the lease back with the grants that say since when it is ours.
            Some((_, bundle)) if !self.ops.values().any(|purpose| matches!(purpose, Purpose::Restore)) => {
                self.start(Purpose::Restore, Operation::Store { bundle });
            }
            Some(_) => {}
            None => self.ask_for_lease(),
        }
    }

    pub(super) fn ask_for_lease(&mut self) {
        self.lease.wake = None;
        if self.lease.asked.is_some() || !self.wants_lease() {
            return;
        }
        let node = self.identity.node_id();
        let address =
            self.lease.address().or_else(|| self.lease.preferred.take()).or_else(|| self.networks.candidate(&node, self.lease.taken));
        let Some(address) = address else { return };
        let operation = Operation::Create { key: Key::address(address.into()), value: Bytes::new(), lifetime: self.lease_time, keep: true };
        let op = self.start(Purpose::Lease, operation);
        self.lease.asked = Some((address, op));
    }

    pub(super) fn on_lease(&mut self, op: OpId, result: Result<Outcome, DhtError>, at: At<'_>) {
        let Some((address, _)) = self.lease.asked.filter(|(_, asked)| *asked == op) else {
            self.ops.remove(&op);
            return;
        };
        match result {
            Ok(Outcome::Stored(bundle)) => {
                self.lease.taken = 0;
                self.lease.wake = None;
                self.lease.kept = true;
                self.actions.push_back(VpnAction::Lease(bundle.bytes().into()));
                self.lease.held = Some((address, bundle));
                self.report_addresses();
                self.publish(at);
                self.announce_again();
            }
            Err(DhtError::Conflict(theirs)) => {
                self.ops.remove(&op);
                self.lease.asked = None;
                self.lease.kept = false;
                self.lease.taken += 1;
                if self.lease.held.take().is_some() {
                    self.actions.push_back(VpnAction::LeaseLost { address: address.into(), owner: theirs.record.owner });
                    self.report_addresses();
                    self.publish(at);
                }
                if self.lease.taken < CANDIDATES {
                    self.ask_for_lease();
                } else {
                    // All are taken: somebody may go.
                    self.lease.taken = 0;
                    self.lease.wake = Some(at.now + self.rng.jitter(AGAIN * 6, 200));
                }
            }
            _ if self.lease.kept => {}
            _ => {
                self.ops.remove(&op);
                self.lease.asked = None;
                self.lease.preferred = Some(address);
                self.lease.wake = Some(at.now + self.rng.jitter(AGAIN, 500));
            }
        }
    }

    pub(super) fn wake_lease(&mut self, at: At<'_>) {
        self.expire_own_lease(at.wall);
        if self.lease.wake.is_some_and(|wake| wake <= at.now) {
            self.lease.wake = None;
            if self.consistent {
                self.ask_for_lease();
            } else {
                self.lease.wake = Some(at.now + AGAIN);
            }
        }
        if self.published.values().any(|published| published.again.is_some_and(|again| again <= at.now)) {
            self.publish(at);
        }
    }

    /// Gives up an address whose lease ended without renewal: peers do not accept it any more.
    fn expire_own_lease(&mut self, wall: UnixTime) {
        if self.lease.bundle().is_some_and(|bundle| bundle.record.expires <= wall) {
            self.lease.preferred = self.lease.address();
            self.lease.held = None;
            self.report_addresses();
        }
    }

    /// Tells the host's addresses when they changed.
    pub(super) fn report_addresses(&mut self) {
        let hosts = self.addresses();
        if !self.has_addresses || self.reported.as_ref() == Some(&hosts) {
            return;
        }
        let with_length = |address: &IpAddr| {
            let network = if self.networks.prefix_of(*address).is_some() { Some(self.networks.ipv6) } else { self.networks.ipv4 };
            let len =
                network.filter(|network| network.contains(*address)).map_or_else(|| Prefix::host(*address).len, |network| network.len);
            // Not `Prefix::new`: the host bits are the point here.
            Prefix { address: *address, len }
        };
        let addresses = hosts.iter().map(with_length).collect();
        self.reported = Some(hosts.clone());
        self.actions.push_back(VpnAction::Addresses { addresses, hosts });
    }

    /// Publishes the name with its addresses, and the fixed addresses, whatever of it is new or due again.
    pub(super) fn publish(&mut self, at: At<'_>) {
        if !self.has_addresses {
            return;
        }
        let certificate = self.identity.certificate().clone();
        let name = Key::name(certificate.node_name()).map(|key| (key, wire::addresses_value(&self.addresses())));
        let fixed = certificate.addresses().iter().filter(|prefix| prefix.is_host()).take(wire::MAX_LISTED);
        let wanted: Vec<(Key, Bytes)> = name.into_iter().chain(fixed.map(|prefix| (Key::address(prefix.address), Bytes::new()))).collect();
        let gone = self.published.extract_if(.., |key, _| !wanted.iter().any(|(other, _)| other == key));
        let gone: Vec<OpId> = gone.filter_map(|(_, published)| published.op).collect();
        gone.into_iter().for_each(|op| self.cancel(op));
        for (key, value) in wanted {
            if let Some(published) = self.published.get(&key) {
                let is_due = published.again.is_some_and(|again| again <= at.now);
                if published.value == value && !is_due {
                    continue;
                }
                if let Some(op) = published.op {
                    self.cancel(op);
                }
            }
            if !self.consistent {
                self.published.insert(key, Published { value, op: None, again: Some(at.now + AGAIN) });
                continue;
            }
            let operation = Operation::Put { key: key.clone(), value: value.clone(), lifetime: self.lease_time, keep: true };
            let op = self.start(Purpose::Published(key.clone()), operation);
            self.published.insert(key, Published { value, op: Some(op), again: None });
        }
    }

    fn cancel(&mut self, op: OpId) {
        self.ops.remove(&op);
        self.actions.push_back(VpnAction::Cancel(op));
    }

    pub(super) fn on_published(&mut self, op: OpId, key: &Key, result: &Result<Outcome, DhtError>, at: At<'_>) {
        let Err(error) = result else { return };
        // Whoever holds the key by right keeps it; ours is tried again much later, as theirs may end.
        let pause = if matches!(error, DhtError::Conflict(_)) { AGAIN * 30 } else { AGAIN };
        let again = at.now + self.rng.jitter(pause, 500);
        self.cancel(op);
        if let Some(published) = self.published.get_mut(key) {
            published.op = None;
            published.again = Some(again);
        }
    }
}
