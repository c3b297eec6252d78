//! Many hosts on one switch.

use std::net::Ipv4Addr;
use std::ops::Deref;
use std::os::fd::AsFd;

use annulus_lab::Host;
use annulus_tun_bridge::Cidr;
use annulus_tun_bridge::netlink::{LinkChange, Namespace};
use anyhow::{Result, ensure};

use crate::station::Station;

/// Name of the bridge.
const BRIDGE: &str = "switch0";
/// Name of each host's interface.
const UPLINK: &str = "eth0";
/// Bytes that may leave at once at full speed: a super-packet must fit.
const BURST_KB: u32 = 128;
/// ms that a packet may wait for its turn.
const QUEUE_MS: u32 = 50;

/// A switch, each port of which carries a limited rate in each direction.
#[derive(Debug)]
pub(crate) struct Lan {
    switch: Station,
    mbit_per_s: u32,
    ports: u8,
}

/// A host at a port of the switch.
#[derive(Debug)]
pub(crate) struct Member {
    station: Station,
    /// Its address.
    pub(crate) address: Ipv4Addr,
}

impl Lan {
    /// Makes a switch without hosts.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn new(mbit_per_s: u32) -> Result<Self> {
        let switch = Station::new("switch")?;
        switch.host.netlink(|netlink| {
            netlink.create_bridge(BRIDGE)?;
            netlink.set_up(BRIDGE, true)
        })?;
        Ok(Self { switch, mbit_per_s, ports: 0 })
    }

    /// Makes a host at a new port.
    ///
    /// # Errors
    /// What the kernel or tc says; 250 hosts are the most.
    pub(crate) fn attach(&mut self, name: &str) -> Result<Member> {
        ensure!(self.ports < 250, "a switch has 250 ports");
        self.ports += 1;
        let member = Member { station: Station::new(name)?, address: Ipv4Addr::new(198, 18, 0, self.ports) };
        let (port, namespace) = (format!("port{}", self.ports), member.host.open_namespace()?);
        let near = port.clone();
        self.switch.host.netlink(move |netlink| {
            netlink.create_veth(&near, UPLINK, Some(Namespace::File(namespace.as_fd())))?;
            let bridge = netlink.existing_link(BRIDGE)?.index;
            let index = netlink.existing_link(&near)?.index;
            netlink.set_link(index, &LinkChange { master: Some(bridge), up: Some(true), ..LinkChange::default() })
        })?;
        let cidr: Cidr = format!("{}/24", member.address).parse()?;
        member.host.netlink(move |netlink| {
            let index = netlink.existing_link(UPLINK)?.index;
            netlink.add_address(index, cidr)?;
            netlink.set_up(UPLINK, true)
        })?;
        let limit = |device: &str| {
            let rate = self.mbit_per_s;
            format!("tc qdisc add dev {device} root tbf rate {rate}mbit burst {BURST_KB}kb latency {QUEUE_MS}ms")
        };
        self.switch.sh(&limit(&port), &[])?;
        member.sh(&limit(UPLINK), &[])?;
        Ok(member)
    }
}

impl Member {
    /// The host.
    #[must_use]
    pub(crate) const fn host(&self) -> &Host {
        &self.station.host
    }
}

impl Deref for Member {
    type Target = Station;

    fn deref(&self) -> &Station {
        &self.station
    }
}
