//! A router with one subnet per host: the smallest internet in which addresses, paths and MTUs are the hosts' own.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use annulus_tun_bridge::Cidr;
use annulus_tun_bridge::netlink::{LinkChange, Namespace, Route};
use anyhow::{Context, Result, ensure};

use crate::Host;

/// Name of every host's interface.
const UPLINK: &str = "eth0";
/// Subnets: the third byte of the IPv4 addresses in 198.18.0.0/15, kept for measurements (RFC 2544), so that no real network is meant.
const SUBNETS: u16 = 512;

/// Switches forwarding on in the network namespace of the calling thread.
pub(crate) fn forward_packets() -> Result<()> {
    for path in ["/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding"] {
        fs::write(path, "1").with_context(|| format!("cannot write {path}"))?;
    }
    Ok(())
}

/// A router and its cables.
#[derive(Debug)]
pub struct Internet {
    router: Host,
    subnets: u16,
    cables: u16,
}

/// A host on the internet: its address may change, its cable may be pulled.
#[derive(Debug)]
pub struct Attached {
    host: Host,
    /// The cable's end at the router.
    port: String,
    subnet: u16,
}

impl Internet {
    /// Makes a router without cables.
    ///
    /// # Errors
    /// What the kernel says: see [`probe`](crate::probe).
    pub fn new() -> Result<Self> {
        let router = Host::new("router")?;
        router.run(forward_packets)??;
        Ok(Self { router, subnets: 0, cables: 0 })
    }

    /// The router, for captures and rules.
    #[must_use]
    pub const fn router(&self) -> &Host {
        &self.router
    }

    /// Makes a host on a subnet of its own, with IPv4 and IPv6 address and default routes.
    ///
    /// # Errors
    /// What the kernel says; 512 subnets are the most.
    pub fn attach(&mut self, name: &str, mtu: u16) -> Result<Attached> {
        let host = Host::new(name)?;
        self.cables += 1;
        let port = format!("port{}", self.cables);
        let namespace = host.open_namespace()?;
        let near = port.clone();
        self.router.netlink(move |netlink| {
            use std::os::fd::AsFd;
            netlink.create_veth(&near, UPLINK, Some(Namespace::File(namespace.as_fd())))
        })?;
        let mut attached = Attached { host, port, subnet: 0 };
        self.set_mtu(&attached, mtu)?;
        attached.subnet = self.next_subnet()?;
        self.set_cable(&attached, true)?;
        attached.host.netlink(|netlink| netlink.set_up(UPLINK, true))?;
        attached.settle()?;
        Ok(attached)
    }

    fn next_subnet(&mut self) -> Result<u16> {
        ensure!(self.subnets < SUBNETS, "the lab has {SUBNETS} subnets and all are used up");
        self.subnets += 1;
        Ok(self.subnets - 1)
    }

    /// Gives the host addresses in a new subnet; the old ones are gone at once, as when a laptop changes its network.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn roam(&mut self, attached: &mut Attached) -> Result<()> {
        let old = attached.subnet;
        let next = self.next_subnet()?;
        attached.host.netlink(move |netlink| {
            let index = netlink.existing_link(UPLINK)?.index;
            addresses(old, 2).into_iter().try_for_each(|address| netlink.remove_address(index, address))
        })?;
        let port = attached.port.clone();
        self.router.netlink(move |netlink| {
            let index = netlink.existing_link(&port)?.index;
            addresses(old, 1).into_iter().try_for_each(|address| netlink.remove_address(index, address))
        })?;
        attached.subnet = next;
        self.set_cable(attached, true)?;
        attached.settle()
    }

    /// Plugs the host's cable in or pulls it out. The host keeps its addresses.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_cable(&self, attached: &Attached, plugged: bool) -> Result<()> {
        let (port, subnet) = (attached.port.clone(), attached.subnet);
        self.router.netlink(move |netlink| {
            let index = netlink.existing_link(&port)?.index;
            netlink.set_link(index, &LinkChange { up: Some(plugged), ..LinkChange::default() })?;
            if plugged {
                // IPv6 addresses went with the interface.
                addresses(subnet, 1).into_iter().try_for_each(|address| netlink.add_address(index, address))?;
            }
            Ok(())
        })
    }

    /// Sets the MTU of both ends of the host's cable, in bytes. Below 1280 IPv6 ends.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_mtu(&self, attached: &Attached, mtu: u16) -> Result<()> {
        for (host, name) in [(&self.router, attached.port.clone()), (&attached.host, UPLINK.to_owned())] {
            host.netlink(move |netlink| {
                let index = netlink.existing_link(&name)?.index;
                netlink.set_link(index, &LinkChange { mtu: Some(mtu.into()), ..LinkChange::default() })
            })?;
        }
        Ok(())
    }
}

impl Attached {
    /// The host itself.
    #[must_use]
    pub const fn host(&self) -> &Host {
        &self.host
    }

    /// The host's IPv4 address now.
    #[must_use]
    pub fn ipv4(&self) -> Ipv4Addr {
        ipv4(self.subnet, 2)
    }

    /// The host's IPv6 address now.
    #[must_use]
    pub const fn ipv6(&self) -> Ipv6Addr {
        ipv6(self.subnet, 2)
    }

    /// Gives the host its addresses and default routes.
    fn settle(&self) -> Result<()> {
        let subnet = self.subnet;
        self.host.netlink(move |netlink| {
            let index = netlink.existing_link(UPLINK)?.index;
            for (address, router) in addresses(subnet, 2).into_iter().zip(addresses(subnet, 1)) {
                netlink.add_address(index, address)?;
                let everything = Cidr::everything(address.address().is_ipv6());
                netlink.replace_route(&Route { index: Some(index), ..Route::via(everything, router.address()) })?;
            }
            Ok(())
        })
    }
}

impl std::ops::Deref for Attached {
    type Target = Host;

    fn deref(&self) -> &Host {
        &self.host
    }
}

fn ipv4(subnet: u16, host: u8) -> Ipv4Addr {
    let [high, low] = subnet.to_be_bytes();
    Ipv4Addr::new(198, 18 + high, low, host)
}

/// In the block for documentation (RFC 3849).
const fn ipv6(subnet: u16, host: u8) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0, subnet, 0, 0, 0, host as u16)
}

/// Both addresses of a host in a subnet; number 1 is the router.
fn addresses(subnet: u16, host: u8) -> [Cidr; 2] {
    let v4 = Cidr::new(IpAddr::V4(ipv4(subnet, host)), 24);
    let v6 = Cidr::new(IpAddr::V6(ipv6(subnet, host)), 64);
    [v4.expect("24 is at most 32"), v6.expect("64 is at most 128")]
}
