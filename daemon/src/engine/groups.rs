//! What the engine keeps per group: its member, its state on disk, its device's addresses, and what an operator should know of it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::SystemTime;

use annulus_core::io::RealmSlot;
use annulus_core::shard::table::Prefix;
use annulus_core::time::{Instant, UnixTime};
use annulus_tun_bridge::Cidr;
use annulus_tun_bridge::host::HostChanges;
use bytes::Bytes;

use crate::files;
use crate::group_file::{BootstrapHost, GroupFile};
use crate::identity::{self, Member};
use crate::state::{GroupState, StateWriter, hex};

/// How long a change of what is remembered waits for others before it is written: a busy ring changes its known addresses often.
const WRITE_DELAY: core::time::Duration = core::time::Duration::from_secs(5);

/// What somebody should look at; one text per kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Concern {
    /// Our own certificate.
    Certificate,
    /// The host's clock.
    Clock,
    /// Another daemon with our identity.
    Duplicate,
    /// We were refused by others.
    Refused,
    /// Names that nobody can resolve.
    Dns,
    /// Networks that overlap.
    Overlap,
    /// The TUN device.
    Device,
    /// The state directory.
    State,
}

/// One group of the daemon.
#[derive(Debug)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// Its realm.
    pub realm: RealmSlot,
    /// Our membership.
    pub member: Member,
    /// Names of bootstrap endpoints, to be looked up now and again.
    pub names: Vec<(String, u16)>,
    /// The TUN device, if the node has addresses.
    pub device: Option<String>,
    /// The group's networks: what the device leads to.
    pub networks: Vec<Prefix>,
    /// The addresses that are on it.
    pub addresses: Vec<Cidr>,
    /// Whether the ring position is consistent.
    pub connected: bool,
    /// Whether the node has said good-bye.
    pub left: bool,
    /// What somebody should look at.
    pub concerns: BTreeMap<Concern, String>,
    state: GroupState,
    dir: PathBuf,
    revocations: Option<Bytes>,
    /// Where the operator may put a revocation list, and when the one that was read last had been written.
    list: PathBuf,
    list_read: Option<SystemTime>,
    /// When what has changed is written.
    write_at: Option<Instant>,
}

impl Group {
    /// Puts together what was loaded.
    #[must_use]
    pub fn new(realm: RealmSlot, member: Member, file: &GroupFile, state: GroupState, dir: PathBuf) -> Self {
        let names = file.bootstrap.iter().filter_map(|host| match host {
            BootstrapHost::Name(name, port) => Some((name.clone(), *port)),
            BootstrapHost::Address(_) => None,
        });
        Self {
            name: file.name.clone(),
            realm,
            member,
            names: names.collect(),
            device: None,
            networks: file.ipv4_network.into_iter().chain([file.ipv6_network]).collect(),
            addresses: Vec::new(),
            connected: false,
            left: false,
            concerns: BTreeMap::new(),
            state,
            dir,
            revocations: None,
            list: file.revocations.clone(),
            list_read: None,
            write_at: None,
        }
    }

    /// What is remembered of it.
    #[must_use]
    pub const fn state(&self) -> &GroupState {
        &self.state
    }

    /// Remembers addresses that answered.
    pub fn remember_addresses(&mut self, addresses: Vec<SocketAddr>, now: Instant) {
        if self.state.known_addresses != addresses {
            self.state.known_addresses = addresses;
            self.changed(now);
        }
    }

    /// Remembers the IPv4 lease.
    pub fn remember_lease(&mut self, lease: &[u8], now: Instant) {
        self.state.lease = Some(hex(lease));
        self.changed(now);
    }

    /// Remembers the latest time seen signed.
    pub fn remember_signed_time(&mut self, time: UnixTime, now: Instant) {
        if time.0 > self.state.signed_time {
            self.state.signed_time = time.0;
            self.changed(now);
        }
    }

    /// Remembers a revocation list.
    pub fn remember_revocations(&mut self, list: Bytes, now: Instant) {
        self.revocations = Some(list);
        self.changed(now);
    }

    fn changed(&mut self, now: Instant) {
        self.write_at.get_or_insert(now + WRITE_DELAY);
    }

    /// The revocation list that the operator has put beside the group's file, when it is new there.
    pub fn dropped_in_list(&mut self) -> Option<Bytes> {
        let written = std::fs::metadata(&self.list).and_then(|meta| meta.modified()).ok()?;
        if self.list_read == Some(written) {
            return None;
        }
        self.list_read = Some(written);
        match files::read(&self.list) {
            Ok(bytes) => Some(bytes.into()),
            Err(error) => {
                tracing::warn!(group = self.name, %error, "the revocation list is not used");
                None
            }
        }
    }

    /// When [`Self::write`] is next needed.
    #[must_use]
    pub const fn deadline(&self) -> Option<Instant> {
        self.write_at
    }

    /// Has what has changed written, when that is due or `now` is `None`.
    pub fn write(&mut self, writer: &StateWriter, now: Option<Instant>) {
        let Some(due) = self.write_at else { return };
        if now.is_some_and(|now| now < due) {
            return;
        }
        let list_written = self.revocations.as_ref().is_none_or(|list| writer.revocations(&self.dir, list));
        if list_written {
            self.revocations = None;
        }
        let written = writer.group(&self.dir, &self.state) && list_written;
        self.write_at = if written { None } else { now.map(|now| now + WRITE_DELAY) };
    }

    /// Notes or forgets something that somebody should look at; says whether it is news.
    pub fn concern(&mut self, concern: Concern, text: Option<String>) -> bool {
        match text {
            Some(text) => {
                let news = self.concerns.get(&concern) != Some(&text);
                self.concerns.insert(concern, text);
                news
            }
            None => self.concerns.remove(&concern).is_some(),
        }
    }

    /// Looks at the own certificate again.
    pub fn check_certificate(&mut self, wall: UnixTime) {
        let warning = identity::warnings(&self.member, wall).pop();
        let text = warning.clone();
        if self.concern(Concern::Certificate, text)
            && let Some(warning) = warning
        {
            tracing::warn!(group = self.name, "{warning}");
        }
    }

    /// Puts the node's addresses on its device and takes others off.
    pub fn set_addresses(&mut self, hosts: &[IpAddr], changes: &mut HostChanges) {
        let Some(device) = &self.device else { return };
        let wanted = interface_addresses(&self.networks, hosts);
        let mut failed = None;
        for old in self.addresses.iter().filter(|old| !wanted.contains(old)) {
            if let Err(error) = changes.remove_address(device, *old) {
                failed = Some(format!("cannot take {old} off {device}: {error}"));
            }
        }
        for new in wanted.iter().filter(|new| !self.addresses.contains(new)) {
            match changes.add_address(device, *new) {
                Ok(()) => tracing::info!(group = self.name, address = %new, device, "virtual address"),
                Err(error) => failed = Some(format!("cannot put {new} on {device}: {error}")),
            }
        }
        self.addresses = wanted;
        if let Some(failed) = &failed {
            tracing::error!(group = self.name, "{failed}");
        }
        self.concern(Concern::Device, failed);
    }
}

/// Each host address with the prefix length of the network that it lies in; alone where there is none.
fn interface_addresses(networks: &[Prefix], hosts: &[IpAddr]) -> Vec<Cidr> {
    let length = |host: IpAddr| networks.iter().filter(|network| network.contains(host)).map(|network| network.len).max();
    hosts.iter().map(|&host| length(host).and_then(|length| Cidr::new(host, length)).unwrap_or_else(|| Cidr::host(host))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_get_the_length_of_their_network() {
        let networks = [Prefix::new("10.200.0.0".parse().unwrap(), 16), Prefix::new("fd00::".parse().unwrap(), 64)];
        let hosts = ["10.200.3.4".parse().unwrap(), "fd00::1".parse().unwrap(), "192.0.2.1".parse().unwrap()];
        let found: Vec<String> = interface_addresses(&networks, &hosts).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["10.200.3.4/16", "fd00::1/64", "192.0.2.1/32"]);
    }
}
