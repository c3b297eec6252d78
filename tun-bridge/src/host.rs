//! What is changed on the host around a device: written into a journal before it is done, and undone at the end, or at the next start after a kill.

use std::fs::{self, File};
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::netlink::{Link, LinkChange, Netlink, Route};
use crate::{Cidr, TunConfig};

/// Packets that wait in a TUN device for us: one turn of the scheduler at full rate, and no more latency than that.
const TXQLEN: u32 = 1000;
/// Datagrams that leave in one send at most; super-packets are limited to as many segments, so that each is one send.
const MAX_SEGMENTS: u32 = 45;
/// IPv6 invents no link-local address: the VPN has none, and the host would only ask for routers with it.
const ADDRESS_MODE_NONE: u8 = 1;
/// IPv4 and TCP header with the usual time stamps.
const USUAL_HEADERS: u32 = 52;

/// An interface as the journal names it: a number alone may have been given to another interface since.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct LinkId {
    name: String,
    index: u32,
}

/// One change, with what is needed to undo it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "snake_case")]
enum Change {
    /// The interface's own settings were changed; these were they before.
    Link { link: LinkId, mtu: u32, txqlen: u32, gso_max_size: u32, address_mode: Option<u8>, up: bool },
    /// An address was added.
    Address { link: LinkId, address: Cidr },
    /// A route was added, maybe in place of another.
    Route { link: Option<LinkId>, route: Route, before: Option<Route> },
}

#[derive(Debug, Serialize, Deserialize)]
struct Journal {
    /// Which boot of the machine: a reboot undoes everything by itself.
    boot: String,
    changes: Vec<Change>,
}

/// The changes of one daemon on its host. Dropping it undoes nothing: call [`undo`](Self::undo).
#[derive(Debug)]
pub struct HostChanges {
    path: PathBuf,
    changes: Vec<Change>,
    netlink: Netlink,
}

impl HostChanges {
    /// Opens the journal. What an earlier run left behind is undone first.
    ///
    /// # Errors
    /// If an old journal cannot be read or something in it cannot be undone.
    pub fn begin(journal: &Path) -> io::Result<Self> {
        Self::recover(journal)?;
        Ok(Self { path: journal.into(), changes: Vec::new(), netlink: Netlink::open()? })
    }

    /// Undoes what an earlier run left behind, if it did not end properly; returns how many changes that were.
    ///
    /// # Errors
    /// If the journal cannot be read, or something in it cannot be undone: then that stays in the journal.
    pub fn recover(journal: &Path) -> io::Result<usize> {
        let bytes = match fs::read(journal) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            Err(error) => return Err(error),
        };
        let old: Journal = serde_json::from_slice(&bytes).map_err(|error| {
            io::Error::new(io::ErrorKind::InvalidData, format!("the journal of host changes {} cannot be read: {error}", journal.display()))
        })?;
        if old.boot != boot_id() {
            fs::remove_file(journal)?;
            return Ok(0);
        }
        let count = old.changes.len();
        tracing::info!(count, journal = %journal.display(), "undoing what an earlier run changed on this host");
        Self { path: journal.into(), changes: old.changes, netlink: Netlink::open()? }.undo()?;
        Ok(count)
    }

    /// Sets MTU, queue length and addresses of a device that [`open`](crate::open) made (`name` as it was really called) and switches it on.
    ///
    /// # Errors
    /// What the kernel says; what was done until then stays in the journal.
    pub fn configure(&mut self, name: &str, config: &TunConfig) -> io::Result<()> {
        let link = self.netlink.existing_link(name)?;
        let mtu = u32::from(config.mtu);
        let change = LinkChange { mtu: Some(mtu), txqlen: Some(TXQLEN), ..LinkChange::default() };
        self.change_link(&link, &change)?;
        // Helps only; kernels before 6.3 know the first of its two attributes alone.
        let size = MAX_SEGMENTS * (mtu - USUAL_HEADERS) + USUAL_HEADERS;
        let tuned = LinkChange { gso_max_size: Some(size.min(65_536)), ..LinkChange::default() };
        if let Err(error) = self.netlink.set_link(link.index, &tuned) {
            tracing::debug!(%error, name, "cannot limit the size of super-packets");
        }
        if link.address_mode.is_some() {
            self.netlink.set_link(link.index, &LinkChange { address_mode: Some(ADDRESS_MODE_NONE), ..LinkChange::default() })?;
        }
        // Up comes last: nothing is sent before all is set.
        for address in &config.addresses {
            self.add_address(name, *address)?;
        }
        self.change_link(&link, &LinkChange { up: Some(true), ..LinkChange::default() })
    }

    /// Sets an interface's MTU.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_mtu(&mut self, name: &str, mtu: u16) -> io::Result<()> {
        let link = self.netlink.existing_link(name)?;
        self.change_link(&link, &LinkChange { mtu: Some(mtu.into()), ..LinkChange::default() })
    }

    fn change_link(&mut self, link: &Link, change: &LinkChange) -> io::Result<()> {
        let id = id(link);
        let known = self.changes.iter().any(|change| matches!(change, Change::Link { link, .. } if *link == id));
        if !known {
            // One entry holds all of the interface's settings from before the first change.
            let Link { mtu, txqlen, gso_max_size, address_mode, up, .. } = *link;
            self.note(Change::Link { link: id, mtu, txqlen, gso_max_size, address_mode, up })?;
        }
        self.netlink.set_link(link.index, change)
    }

    /// Puts an address on an interface. One that is there already is left alone, now and at the end.
    ///
    /// # Errors
    /// What the kernel says; `NotFound` if there is no such interface.
    pub fn add_address(&mut self, name: &str, address: Cidr) -> io::Result<()> {
        let link = self.netlink.existing_link(name)?;
        if self.netlink.addresses()?.iter().any(|there| there.index == link.index && there.cidr == address) {
            return Ok(());
        }
        self.note(Change::Address { link: id(&link), address })?;
        let result = self.netlink.add_address(link.index, address);
        self.keep_if_done(result)
    }

    /// Takes an address off again that [`add_address`](Self::add_address) put there.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn remove_address(&mut self, name: &str, address: Cidr) -> io::Result<()> {
        self.take_back(|change| matches!(change, Change::Address { link, address: there } if link.name == name && *there == address))
    }

    /// Adds a route, in place of one with the same destination, table and metric if there is one. The very same is left alone.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn add_route(&mut self, route: &Route) -> io::Result<()> {
        let mut there = self.netlink.routes()?;
        there.retain(|other| is_same_place(other, route));
        if there.iter().any(|other| leads_the_same_way(other, route)) {
            return Ok(());
        }
        let link = match route.index {
            Some(index) => self.netlink.link_by_index(index)?.map(|link| id(&link)),
            None => None,
        };
        self.note(Change::Route { link, route: route.clone(), before: there.pop() })?;
        let result = self.netlink.replace_route(route);
        self.keep_if_done(result)
    }

    /// Takes a route back that [`add_route`](Self::add_route) made; what it replaced returns.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn remove_route(&mut self, route: &Route) -> io::Result<()> {
        self.take_back(|change| matches!(change, Change::Route { route: there, .. } if there == route))
    }

    /// Undoes everything, the newest first, and removes the journal.
    ///
    /// # Errors
    /// The first thing that could not be undone, after trying all; what could not stays in the journal.
    pub fn undo(mut self) -> io::Result<()> {
        let mut first_error = None;
        let mut left = Vec::new();
        while let Some(change) = self.changes.pop() {
            if let Err(error) = self.revert(&change) {
                tracing::warn!(%error, ?change, "cannot undo a change on this host");
                first_error.get_or_insert(error);
                left.push(change);
            }
        }
        left.reverse();
        self.changes = left;
        self.store()?;
        first_error.map_or(Ok(()), Err)
    }

    /// Writes a change down before it is made.
    fn note(&mut self, change: Change) -> io::Result<()> {
        self.changes.push(change);
        let result = self.store();
        if result.is_err() {
            self.changes.pop();
        }
        result
    }

    /// Crosses out the newest change if it was not made.
    fn keep_if_done(&mut self, result: io::Result<()>) -> io::Result<()> {
        if result.is_err() {
            self.changes.pop();
            self.store()?;
        }
        result
    }

    fn take_back(&mut self, is_it: impl Fn(&Change) -> bool) -> io::Result<()> {
        let Some(index) = self.changes.iter().rposition(is_it) else { return Ok(()) };
        let change = self.changes[index].clone();
        self.revert(&change)?;
        self.changes.remove(index);
        self.store()
    }

    /// Undoes one change; it is fine if it has gone by itself, with its interface for example.
    fn revert(&mut self, change: &Change) -> io::Result<()> {
        match change {
            Change::Link { link, mtu, txqlen, gso_max_size, address_mode, up } => {
                if !self.is_there(link)? {
                    return Ok(());
                }
                let down = LinkChange { up: Some(false), ..LinkChange::default() };
                let size = (*gso_max_size > 0).then_some(*gso_max_size);
                let before = LinkChange {
                    mtu: Some(*mtu),
                    txqlen: Some(*txqlen),
                    gso_max_size: size,
                    address_mode: *address_mode,
                    ..LinkChange::default()
                };
                if !up {
                    self.netlink.set_link(link.index, &down)?;
                }
                self.netlink.set_link(link.index, &before)
            }
            Change::Address { link, address } => {
                if !self.is_there(link)? {
                    return Ok(());
                }
                self.netlink.remove_address(link.index, *address)
            }
            Change::Route { link, route, before } => {
                let there = match link {
                    Some(link) => self.is_there(link)?,
                    None => true,
                };
                if there {
                    self.netlink.remove_route(route)?;
                }
                match before {
                    Some(before) => self.netlink.replace_route(before),
                    None => Ok(()),
                }
            }
        }
    }

    fn is_there(&mut self, link: &LinkId) -> io::Result<bool> {
        Ok(self.netlink.link_by_index(link.index)?.is_some_and(|there| there.name == link.name))
    }

    /// Writes the journal so that there is always a whole one, the old or the new; without changes there is none.
    fn store(&self) -> io::Result<()> {
        if self.changes.is_empty() {
            return match fs::remove_file(&self.path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                other => other,
            };
        }
        let journal = Journal { boot: boot_id(), changes: self.changes.clone() };
        let mut bytes = serde_json::to_vec_pretty(&journal)?;
        bytes.push(b'\n');
        let new = self.path.with_extension("new");
        let mut file = File::create(&new)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&new, &self.path)?;
        if let Some(folder) = self.path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            File::open(folder)?.sync_all()?;
        }
        Ok(())
    }
}

/// Other networks of the host that share addresses with `network`: a VPN there would cut them off or be cut off. Routes and addresses on the
/// interface `except` (the VPN's own) and default routes do not count.
///
/// # Errors
/// What the kernel says.
pub fn overlapping(network: &Cidr, except: &str) -> io::Result<Vec<(Cidr, String)>> {
    let mut netlink = Netlink::open()?;
    let links = netlink.links()?;
    let name = |index: u32| links.iter().find(|link| link.index == index).map_or_else(String::new, |link| link.name.clone());
    let mut found: Vec<(Cidr, String)> = netlink.addresses()?.into_iter().map(|there| (there.cidr.network(), name(there.index))).collect();
    found.extend(netlink.routes()?.into_iter().filter_map(|route| Some((route.destination, name(route.index?)))));
    found.retain(|(there, link)| there.length() > 0 && link != except && network.overlaps(there));
    found.sort();
    found.dedup();
    Ok(found)
}

/// The host's own addresses, for candidates: see [`crate::netlink::local_addresses`].
///
/// # Errors
/// What the kernel says.
pub fn local_addresses(except: &[&str]) -> io::Result<Vec<IpAddr>> {
    crate::netlink::local_addresses(except)
}

fn id(link: &Link) -> LinkId {
    LinkId { name: link.name.clone(), index: link.index }
}

/// Whether the kernel would let one of the two routes stand in for the other.
fn is_same_place(a: &Route, b: &Route) -> bool {
    // IPv6 routes without a metric get 1024.
    let metric = |route: &Route| match route.metric {
        None if !route.destination.address().is_ipv4() => 1024,
        metric => metric.unwrap_or(0),
    };
    a.destination == b.destination && a.table == b.table && metric(a) == metric(b)
}

fn leads_the_same_way(there: &Route, wanted: &Route) -> bool {
    there.gateway == wanted.gateway
        && (wanted.index.is_none() || there.index == wanted.index)
        && (wanted.source.is_none() || there.source == wanted.source)
        && there.mtu == wanted.mtu
}

/// The kernel's name for this boot; empty where it has none, which then never differs.
fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned()).unwrap_or_default()
}
