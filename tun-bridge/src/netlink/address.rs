//! Addresses of interfaces.

use std::io;
use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{Netlink, ignore, ignore_existing};
use crate::Cidr;

/// An address on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct InterfaceAddress {
    /// The interface's number.
    pub index: u32,
    /// Address and prefix.
    pub cidr: Cidr,
    /// Whether it may be used beyond its link: neither link-local nor of the host only.
    pub global: bool,
    /// Whether it is usable now: not deprecated, not still being checked for duplicates.
    pub usable: bool,
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn message(index: u32, cidr: Cidr) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(cidr.address());
    message.header.prefix_len = cidr.length();
    message.header.index = index;
    message.attributes = vec![AddressAttribute::Local(cidr.address()), AddressAttribute::Address(cidr.address())];
    message
}

fn read(message: &AddressMessage) -> Option<InterfaceAddress> {
    let (mut local, mut remote) = (None, None);
    let mut flags = AddressFlags::from_bits_retain(u32::from(message.header.flags.bits()));
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(address) => local = Some(*address),
            AddressAttribute::Address(address) => remote = Some(*address),
            AddressAttribute::Flags(all) => flags = *all,
            _ => {}
        }
    }
    // On a point-to-point link `Address` is the other end's.
    let cidr = Cidr::new(local.or(remote)?, message.header.prefix_len)?;
    Some(InterfaceAddress {
        index: message.header.index,
        cidr,
        global: matches!(message.header.scope, AddressScope::Universe | AddressScope::Site),
        usable: !flags.intersects(AddressFlags::Deprecated | AddressFlags::Tentative | AddressFlags::Dadfailed),
    })
}

impl Netlink {
    /// All addresses of all interfaces.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn addresses(&mut self) -> io::Result<Vec<InterfaceAddress>> {
        let mut addresses = Vec::new();
        self.dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()), |answer| {
            if let RouteNetlinkMessage::NewAddress(message) = answer {
                addresses.extend(read(&message));
            }
        })?;
        Ok(addresses)
    }

    /// Puts an address on an interface; it may be there already. It is usable at once (no duplicate address detection).
    ///
    /// # Errors
    /// What the kernel says.
    pub fn add_address(&mut self, index: u32, cidr: Cidr) -> io::Result<()> {
        let mut message = message(index, cidr);
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        ignore_existing(self.change(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL))
    }

    /// Takes an address off an interface; it may be gone already, and so may the interface.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn remove_address(&mut self, index: u32, cidr: Cidr) -> io::Result<()> {
        let result = self.change(RouteNetlinkMessage::DelAddress(message(index, cidr)), 0);
        ignore(result, &[libc::EADDRNOTAVAIL, libc::ENODEV])
    }
}

/// The host's addresses at which others might reach it: usable, not link-local, not of loopback or switched-off interfaces, and not on the
/// interfaces named in `except` (the VPN's own).
///
/// # Errors
/// What the kernel says.
pub fn local_addresses(except: &[&str]) -> io::Result<Vec<IpAddr>> {
    let mut netlink = Netlink::open()?;
    let mut links = netlink.links()?;
    links.retain(|link| link.up && !link.loopback && !except.contains(&link.name.as_str()));
    let mut addresses: Vec<_> = netlink
        .addresses()?
        .into_iter()
        .filter(|address| address.global && address.usable && links.iter().any(|link| link.index == address.index))
        .map(|address| address.cidr.address())
        .collect();
    addresses.sort_unstable();
    addresses.dedup();
    Ok(addresses)
}
