//! The host's side of the pump: sockets, TUN devices, and events on their way to the engine.

use std::collections::VecDeque;
use std::net::SocketAddr;

use annulus_core::batch::Slot;
use annulus_core::io::{Endpoint, Event, RealmSlot};
use annulus_core::pump::Driver;
use annulus_tun_bridge::Tun;

use crate::group_file::MAX_GROUPS;
use crate::udp::UdpSocket;

/// Addresses that are told to the nodes as too small in one turn; further ones are refused again by the system and come with the next.
const MAX_SMALL: usize = 16;

/// A realm's TUN device.
#[derive(Debug)]
pub struct Device {
    /// Which realm.
    pub realm: RealmSlot,
    /// The device.
    pub tun: Box<dyn Tun>,
}

/// Sockets and devices of a daemon.
#[derive(Debug, Default)]
pub struct Host {
    /// At most one per address family.
    pub sockets: Vec<UdpSocket>,
    /// At most one per realm.
    pub devices: Vec<Device>,
    /// What nodes have told, oldest first. Emptied at each turn, so its bound is what one batch makes them say.
    pub events: VecDeque<(RealmSlot, Event)>,
    /// Datagrams and packets that the system did not take, by realm for packets and in the first place for datagrams.
    pub dropped: [u64; MAX_GROUPS],
    /// Where datagrams were too big for the path since the last turn, and the length of the smallest; at most 16.
    pub small: Vec<(SocketAddr, u16)>,
    /// Why the daemon cannot go on: a socket or device is gone.
    pub broken: Option<String>,
}

impl Host {
    /// The socket that reaches `remote`.
    fn socket_for(&mut self, remote: SocketAddr) -> Option<&mut UdpSocket> {
        self.sockets.iter_mut().find(|socket| socket.local_address().is_ipv4() == remote.is_ipv4())
    }

    /// Notes that a datagram of `len` bytes is too big for the path to `remote`.
    fn refuse(&mut self, remote: SocketAddr, len: u16) {
        if let Some((_, least)) = self.small.iter_mut().find(|(known, _)| *known == remote) {
            *least = (*least).min(len);
        } else if self.small.len() < MAX_SMALL {
            self.small.push((remote, len));
        }
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
                self.lose(0, sent.dropped);
                if let Some(len) = sent.too_big {
                    self.refuse(remote, len);
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
            Ok(sent) => self.lose(usize::from(realm.0), sent.dropped),
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
