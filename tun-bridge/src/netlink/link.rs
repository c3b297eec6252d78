//! Interfaces: finding, making, changing and removing them.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};

use super::{Netlink, ignore};

/// An interface as the kernel describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Bytes of the largest packet.
    pub mtu: u32,
    /// Packets that wait for it at most.
    pub txqlen: u32,
    /// Bytes of the largest super-packet; 0 if the kernel does not say.
    pub gso_max_size: u32,
    /// How IPv6 invents the link-local address (`IN6_ADDR_GEN_MODE_*`); `None` without IPv6.
    pub address_mode: Option<u8>,
    /// Packets that the host wanted to send on it and that were dropped: for a TUN device those for which its queue had no room.
    pub tx_dropped: u64,
    /// Whether it is switched on.
    pub up: bool,
    /// Whether it leads back to the host.
    pub loopback: bool,
    /// Its hardware address; empty for interfaces without (TUN).
    pub hardware_address: Vec<u8>,
}

/// What to change on an interface; `None` leaves as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkChange {
    /// On or off.
    pub up: Option<bool>,
    /// Bytes of the largest packet.
    pub mtu: Option<u32>,
    /// Packets that wait at most.
    pub txqlen: Option<u32>,
    /// Bytes of the largest super-packet, for IPv4 and IPv6.
    pub gso_max_size: Option<u32>,
    /// How IPv6 invents the link-local address (`IN6_ADDR_GEN_MODE_*`): 1 is not at all.
    pub address_mode: Option<u8>,
    /// Number of the bridge that it becomes a port of; 0: of none.
    pub master: Option<u32>,
    /// New name; the interface must be down.
    pub name: Option<String>,
}

/// Names a network namespace.
#[derive(Clone, Copy, Debug)]
pub enum Namespace<'a> {
    /// That of a running process.
    Process(u32),
    /// An open `/proc/PID/ns/net`.
    File(BorrowedFd<'a>),
}

impl Namespace<'_> {
    fn attribute(self) -> LinkAttribute {
        match self {
            Self::Process(pid) => LinkAttribute::NetNsPid(pid),
            Self::File(file) => LinkAttribute::NetNsFd(file.as_raw_fd()),
        }
    }
}

fn message(index: u32, attributes: Vec<LinkAttribute>) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes = attributes;
    message
}

fn read(message: LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        up: message.header.flags.contains(LinkFlags::Up),
        loopback: message.header.flags.contains(LinkFlags::Loopback),
        ..Link::default()
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::TxQueueLen(length) => link.txqlen = length,
            LinkAttribute::GsoMaxSize(size) => link.gso_max_size = size,
            LinkAttribute::AfSpecUnspec(families) => link.address_mode = families.iter().find_map(address_mode),
            LinkAttribute::Stats64(stats) => link.tx_dropped = stats.tx_dropped,
            LinkAttribute::Address(address) => link.hardware_address = address,
            _ => {}
        }
    }
    link
}

fn address_mode(family: &AfSpecUnspec) -> Option<u8> {
    let AfSpecUnspec::Inet6(attributes) = family else { return None };
    attributes.iter().find_map(|attribute| if let AfSpecInet6::AddrGenMode(mode) = attribute { Some(mode.into()) } else { None })
}

impl Netlink {
    /// All interfaces.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn links(&mut self) -> io::Result<Vec<Link>> {
        let mut links = Vec::new();
        self.dump(RouteNetlinkMessage::GetLink(LinkMessage::default()), |answer| {
            if let RouteNetlinkMessage::NewLink(message) = answer {
                links.push(read(message));
            }
        })?;
        Ok(links)
    }

    /// The interface of that name, if there is one.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn link(&mut self, name: &str) -> io::Result<Option<Link>> {
        self.find(message(0, vec![LinkAttribute::IfName(name.into())]))
    }

    /// The interface of that number, if there is one.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn link_by_index(&mut self, index: u32) -> io::Result<Option<Link>> {
        self.find(message(index, Vec::new()))
    }

    fn find(&mut self, question: LinkMessage) -> io::Result<Option<Link>> {
        let mut found = None;
        let result = self.get(RouteNetlinkMessage::GetLink(question), |answer| {
            if let RouteNetlinkMessage::NewLink(message) = answer {
                found = Some(read(message));
            }
        });
        ignore(result, &[libc::ENODEV])?;
        Ok(found)
    }

    /// The interface of that name.
    ///
    /// # Errors
    /// `NotFound` if there is none.
    pub fn existing_link(&mut self, name: &str) -> io::Result<Link> {
        self.link(name)?.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("there is no interface {name}")))
    }

    /// Changes an interface.
    ///
    /// # Errors
    /// What the kernel says; it takes CAP_NET_ADMIN.
    pub fn set_link(&mut self, index: u32, change: &LinkChange) -> io::Result<()> {
        let mut attributes = Vec::new();
        attributes.extend(change.mtu.map(LinkAttribute::Mtu));
        attributes.extend(change.txqlen.map(LinkAttribute::TxQueueLen));
        attributes.extend(change.master.map(LinkAttribute::Controller));
        attributes.extend(change.name.clone().map(LinkAttribute::IfName));
        if let Some(size) = change.gso_max_size {
            attributes.extend([LinkAttribute::GsoMaxSize(size), LinkAttribute::GsoIpv4MaxSize(size)]);
        }
        if let Some(mode) = change.address_mode {
            attributes.push(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(mode.into())])]));
        }
        let mut message = message(index, attributes);
        if let Some(up) = change.up {
            message.header.change_mask = LinkFlags::Up;
            message.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
        }
        self.change(RouteNetlinkMessage::SetLink(message), 0)
    }

    /// Switches an interface on or off.
    ///
    /// # Errors
    /// `NotFound` if there is no such interface; otherwise what the kernel says.
    pub fn set_up(&mut self, name: &str, up: bool) -> io::Result<()> {
        let index = self.existing_link(name)?.index;
        self.set_link(index, &LinkChange { up: Some(up), ..LinkChange::default() })
    }

    /// Makes a pair of virtual Ethernet interfaces; the peer may be put into another namespace.
    ///
    /// # Errors
    /// What the kernel says, `AlreadyExists` among it.
    pub fn create_veth(&mut self, name: &str, peer: &str, peer_namespace: Option<Namespace<'_>>) -> io::Result<()> {
        let mut peer_attributes = vec![LinkAttribute::IfName(peer.into())];
        peer_attributes.extend(peer_namespace.map(Namespace::attribute));
        let data = InfoData::Veth(InfoVeth::Peer(message(0, peer_attributes)));
        self.create(name, vec![LinkInfo::Kind(InfoKind::Veth), LinkInfo::Data(data)])
    }

    /// Makes a bridge.
    ///
    /// # Errors
    /// What the kernel says, `AlreadyExists` among it.
    pub fn create_bridge(&mut self, name: &str) -> io::Result<()> {
        self.create(name, vec![LinkInfo::Kind(InfoKind::Bridge)])
    }

    fn create(&mut self, name: &str, info: Vec<LinkInfo>) -> io::Result<()> {
        let message = message(0, vec![LinkAttribute::IfName(name.into()), LinkAttribute::LinkInfo(info)]);
        self.change(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Moves an interface into another namespace; it loses its addresses.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn move_link(&mut self, index: u32, namespace: Namespace<'_>) -> io::Result<()> {
        self.change(RouteNetlinkMessage::SetLink(message(index, vec![namespace.attribute()])), 0)
    }

    /// Removes an interface; it may be gone already.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn remove_link(&mut self, index: u32) -> io::Result<()> {
        ignore(self.change(RouteNetlinkMessage::DelLink(message(index, Vec::new())), 0), &[libc::ENODEV])
    }
}
