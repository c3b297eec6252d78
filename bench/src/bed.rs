//! Two hosts on one cable.

use std::fs;
use std::net::Ipv4Addr;
use std::ops::Deref;
use std::os::fd::AsFd;

use annulus_tun_bridge::Cidr;
use annulus_tun_bridge::netlink::Namespace;
use anyhow::{Context, Result};

use crate::plugin::Side;
use crate::scene::WORK;
use crate::station::Station;

/// Name of the cable's ends.
pub(crate) const CABLE: &str = "wire0";

/// One host with what a plugin needs to know of it.
#[derive(Debug)]
pub(crate) struct End {
    /// The host and its directory.
    pub(crate) station: Station,
    /// Which of both.
    pub(crate) side: Side,
    /// Its address on the cable.
    pub(crate) outer: Ipv4Addr,
    /// Its address in the VPN.
    pub(crate) inner: Ipv4Addr,
    /// Name of its TUN device.
    pub(crate) tun: &'static str,
}

/// Both hosts.
#[derive(Debug)]
pub(crate) struct Bed {
    /// The one that sends.
    pub(crate) a: End,
    /// The one that receives.
    pub(crate) b: End,
}

impl Bed {
    /// Makes two hosts and joins them. Without `offload` every frame on the cable is one of at most 1,500 bytes, as on a network card that can neither
    /// cut nor merge.
    ///
    /// # Errors
    /// What the kernel says, or ethtool.
    pub(crate) fn new(offload: bool) -> Result<Self> {
        // The last peer's files.
        let _ = fs::remove_dir_all(WORK);
        let bed = Self { a: End::new(Side::A)?, b: End::new(Side::B)? };
        let namespace = bed.b.host.open_namespace()?;
        bed.a.host.netlink(move |netlink| netlink.create_veth(CABLE, CABLE, Some(Namespace::File(namespace.as_fd()))))?;
        for end in bed.ends() {
            let cidr: Cidr = format!("{}/24", end.outer).parse()?;
            end.host.netlink(move |netlink| {
                let index = netlink.existing_link(CABLE)?.index;
                netlink.add_address(index, cidr)?;
                netlink.set_up(CABLE, true)
            })?;
            if !offload {
                let script = format!("ethtool -K {CABLE} tso off gso off gro off tx-udp-segmentation off");
                end.sh(&script, &[]).context("the cable's offloads cannot be switched off")?;
            }
        }
        Ok(bed)
    }

    /// Both, the sender first.
    #[must_use]
    pub(crate) const fn ends(&self) -> [&End; 2] {
        [&self.a, &self.b]
    }

    /// The one opposite.
    #[must_use]
    pub(crate) const fn other(&self, side: Side) -> &End {
        match side {
            Side::A => &self.b,
            Side::B => &self.a,
        }
    }
}

impl End {
    fn new(side: Side) -> Result<Self> {
        let (name, number) = if side == Side::A { ("a", 1) } else { ("b", 2) };
        let tun = if side == Side::A { "bench-a" } else { "bench-b" };
        // In the block that is kept for measurements (RFC 2544), and a private one.
        let (outer, inner) = (Ipv4Addr::new(198, 18, 0, number), Ipv4Addr::new(10, 77, 0, number));
        Ok(Self { station: Station::new(name)?, side, outer, inner, tun })
    }
}

impl Deref for End {
    type Target = Station;

    fn deref(&self) -> &Station {
        &self.station
    }
}
