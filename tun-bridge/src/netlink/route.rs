//! Routes of the main and other tables.

use std::io;
use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use serde::{Deserialize, Serialize};

use super::{Netlink, ignore, ignore_existing};
use crate::Cidr;

/// A unicast route.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Route {
    /// Where it leads.
    pub destination: Cidr,
    /// The next router; none: the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// Number of the interface.
    pub index: Option<u32>,
    /// The source address for packets that have none yet.
    pub source: Option<IpAddr>,
    /// Lower is preferred; none: the kernel's default.
    pub metric: Option<u32>,
    /// Path MTU along it; none: the interface's.
    pub mtu: Option<u32>,
    /// The table: 254 is the main one.
    pub table: u32,
}

impl Route {
    /// Number of the main table.
    pub const MAIN: u32 = RouteHeader::RT_TABLE_MAIN as u32;

    /// A route in the main table to a network on an interface's link.
    #[must_use]
    pub fn link(destination: Cidr, index: u32) -> Self {
        let destination = destination.network();
        Self { destination, gateway: None, index: Some(index), source: None, metric: None, mtu: None, table: Self::MAIN }
    }

    /// A route in the main table by way of a router.
    #[must_use]
    pub fn via(destination: Cidr, gateway: IpAddr) -> Self {
        let destination = destination.network();
        Self { destination, gateway: Some(gateway), index: None, source: None, metric: None, mtu: None, table: Self::MAIN }
    }

    fn message(&self) -> RouteMessage {
        let mut message = RouteMessage::default();
        let address = self.destination.address();
        message.header.address_family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        message.header.destination_prefix_length = self.destination.length();
        // The header's field has 8 bits; larger numbers stand in the attribute alone.
        message.header.table = u8::try_from(self.table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC);
        message.header.protocol = RouteProtocol::Static;
        message.header.kind = RouteType::Unicast;
        message.header.scope = if self.gateway.is_none() && address.is_ipv4() { RouteScope::Link } else { RouteScope::Universe };
        if self.destination.length() > 0 {
            message.attributes.push(RouteAttribute::Destination(address.into()));
        }
        message.attributes.push(RouteAttribute::Table(self.table));
        message.attributes.extend(self.gateway.map(|gateway| RouteAttribute::Gateway(gateway.into())));
        message.attributes.extend(self.index.map(RouteAttribute::Oif));
        message.attributes.extend(self.source.map(|source| RouteAttribute::PrefSource(source.into())));
        message.attributes.extend(self.metric.map(RouteAttribute::Priority));
        message.attributes.extend(self.mtu.map(|mtu| RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)])));
        message
    }

    fn read(message: RouteMessage) -> Option<Self> {
        if message.header.kind != RouteType::Unicast {
            return None;
        }
        let v6 = match message.header.address_family {
            AddressFamily::Inet => false,
            AddressFamily::Inet6 => true,
            _ => return None,
        };
        let mut route = Self { table: message.header.table.into(), ..Self::via(Cidr::everything(v6), Cidr::everything(v6).address()) };
        route.gateway = None;
        let length = message.header.destination_prefix_length;
        for attribute in message.attributes {
            match attribute {
                RouteAttribute::Destination(address) => route.destination = Cidr::new(ip(&address)?, length)?,
                RouteAttribute::Gateway(address) => route.gateway = ip(&address),
                RouteAttribute::PrefSource(address) => route.source = ip(&address),
                RouteAttribute::Oif(index) => route.index = Some(index),
                RouteAttribute::Priority(metric) => route.metric = Some(metric),
                RouteAttribute::Table(table) => route.table = table,
                RouteAttribute::Metrics(metrics) => {
                    route.mtu = metrics.iter().find_map(|metric| if let RouteMetric::Mtu(mtu) = metric { Some(*mtu) } else { None });
                }
                _ => {}
            }
        }
        Some(route)
    }
}

const fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}

impl Netlink {
    /// All unicast routes of all tables.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn routes(&mut self) -> io::Result<Vec<Route>> {
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut question = RouteMessage::default();
            question.header.address_family = family;
            self.dump(RouteNetlinkMessage::GetRoute(question), |answer| {
                if let RouteNetlinkMessage::NewRoute(message) = answer {
                    routes.extend(Route::read(message));
                }
            })?;
        }
        Ok(routes)
    }

    /// Adds a route; the very same may be there already.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn add_route(&mut self, route: &Route) -> io::Result<()> {
        ignore_existing(self.change(RouteNetlinkMessage::NewRoute(route.message()), NLM_F_CREATE | NLM_F_EXCL))
    }

    /// Adds a route in place of one with the same destination, table and metric.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn replace_route(&mut self, route: &Route) -> io::Result<()> {
        self.change(RouteNetlinkMessage::NewRoute(route.message()), NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Removes a route; it may be gone already, and so may its interface.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn remove_route(&mut self, route: &Route) -> io::Result<()> {
        let mut message = route.message();
        // What the kernel may have filled in differently must not hinder it from finding the route.
        message.header.protocol = RouteProtocol::Unspec;
        message.header.scope = RouteScope::NoWhere;
        message.attributes.retain(|attribute| !matches!(attribute, RouteAttribute::Metrics(_)));
        ignore(self.change(RouteNetlinkMessage::DelRoute(message), 0), &[libc::ESRCH, libc::ENODEV])
    }
}
