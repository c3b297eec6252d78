//! The host's side of the pump: sockets, TUN devices, and events on their way to the engine.

use std::collections::VecDeque;
use std::net::SocketAddr;

use annulus_core::batch::Slot;
use annulus_core::io::{Endpoint, Event, RealmSlot};
use annulus_core::pump::Driver;
use annulus_tun_bridge::Tun;
use annulus_tun_bridge::netlink::Netlink;

use crate::group_file::MAX_GROUPS;
use crate::udp::UdpSocket;

/// Addresses that are told to the nodes as too small in one turn; further ones are refused again by the system and come with the next.
const MAX_SMALL: usize = 16;

/// One queue of a realm's TUN device. The host spreads its flows over all of them, and each is a source of its own that gets its share of a turn: a
/// flow that fills its queue delays and loses only what shares that queue.
#[derive(Debug)]
pub struct Device {
    /// Which realm.
    pub realm: RealmSlot,
    /// The queue. Packets for the host are written to the realm's first one.
    pub tun: Box<dyn Tun>,
}

/// What was lost between the kernel and us, by place. Sums over all sockets or queues since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// Datagrams for which the receive buffer had no room.
    pub udp_receive_queue: u64,
    /// Datagrams that the kernel did not send.
    pub udp_send: u64,
    /// Packets that the host did not take.
    pub tun_write: u64,
    /// Packets of the host for which the TUN device's queue had no room.
    pub tun_queue: u64,
}

impl Losses {
    /// Names, as in `status`, and counts.
    #[must_use]
    pub const fn by_name(&self) -> [(&'static str, u64); 4] {
        let Self { udp_receive_queue, udp_send, tun_write, tun_queue } = *self;
        [("udp_receive_queue", udp_receive_queue), ("udp_send", udp_send), ("tun_write", tun_write), ("tun_queue", tun_queue)]
    }
}

/// Sockets and devices of a daemon.
#[derive(Debug, Default)]
pub struct Host {
    /// At most one per address family.
    pub sockets: Vec<UdpSocket>,
    /// The queues of all realms' devices, in the order of the realms.
    pub devices: Vec<Device>,
    /// What nodes have told, oldest first. Emptied at each turn, so its bound is what one batch makes them say.
    pub events: VecDeque<(RealmSlot, Event)>,
    /// Datagrams and packets for which there was no socket or no device, by realm for packets and in the first place for datagrams.
    pub dropped: [u64; MAX_GROUPS],
    /// Where datagrams were too big for the path since the last turn; at most 16.
    pub small: Vec<SocketAddr>,
    /// Why the daemon cannot go on: a socket or device is gone.
    pub broken: Option<String>,
}

impl Host {
    /// The socket that reaches `remote`.
    fn socket_for(&mut self, remote: SocketAddr) -> Option<&mut UdpSocket> {
        self.sockets.iter_mut().find(|socket| socket.local_address().is_ipv4() == remote.is_ipv4())
    }

    /// What was lost on the way to or from a realm's device, and with `sockets` on that of the sockets, which all realms share. Asks the kernel: for
    /// `status`, not for each packet.
    #[must_use]
    pub fn losses(&self, realm: RealmSlot, sockets: bool) -> Losses {
        let mut losses = Losses::default();
        for socket in self.sockets.iter().filter(|_| sockets) {
            losses.udp_receive_queue += socket.receive_queue_drops();
            losses.udp_send += socket.stats().send_dropped;
        }
        let mut queues = self.devices.iter().filter(|device| device.realm == realm).map(|device| &device.tun).peekable();
        if let Some(first) = queues.peek() {
            let link = Netlink::open().and_then(|mut netlink| netlink.link(first.name()));
            // Without an answer the others still say where it was.
            losses.tun_queue = link.ok().flatten().map_or(0, |link| link.tx_dropped);
        }
        losses.tun_write = queues.map(|tun| tun.stats().dropped).sum();
        losses
    }

    fn lose(&mut self, realm: usize, count: usize) {
        if let Some(dropped) = self.dropped.get_mut(realm) {
            *dropped += count as u64;
        }
    }
}

impl Driver for Host {
    fn transmit(&mut self, to: Endpoint, buf: &[u8], slots: &[Slot]) {
        let Endpoint::Udp { remote, .. } = to else {
            // This daemon opens no streams, so a node knows no stream endpoint.
            return self.lose(0, slots.len());
        };
        let Some(socket) = self.socket_for(remote) else { return self.lose(0, slots.len()) };
        match socket.send(remote, buf, slots) {
            Ok(sent) => {
                if sent.too_big > 0 && self.small.len() < MAX_SMALL && !self.small.contains(&remote) {
                    self.small.push(remote);
                }
            }
            Err(error) => {
                self.broken.get_or_insert_with(|| format!("the UDP socket is broken: {error}"));
            }
        }
    }

    fn deliver(&mut self, realm: RealmSlot, buf: &[u8], slots: &[Slot]) {
        let Some(device) = self.devices.iter_mut().find(|device| device.realm == realm) else {
            return self.lose(usize::from(realm.0), slots.len());
        };
        match device.tun.send(buf, slots) {
            // What it did not take it has counted.
            Ok(_) => {}
            Err(error) => {
                let name = device.tun.name().to_owned();
                self.broken.get_or_insert_with(|| format!("the TUN device {name} is gone: {error}"));
            }
        }
    }

    fn event(&mut self, realm: RealmSlot, event: Event) {
        self.events.push_back((realm, event));
    }
}
