//! The host's side of the pump: sockets, TUN devices, and events on their way to the engine.

use std::collections::VecDeque;
use std::net::SocketAddr;

use annulus_core::batch::Slot;
use annulus_core::io::{Endpoint, Event, RealmSlot, ShardId};
use annulus_core::pump::Driver;
use annulus_core::worker::Parcel;
use annulus_tun_bridge::Tun;

use super::crew::WorkerLink;
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

/// What was lost between the kernel and the daemon, by place, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Losses {
    /// Datagrams for which the receive buffer had no room. All realms share the sockets.
    pub(crate) udp_receive_queue: u64,
    /// Datagrams that the kernel did not send.
    pub(crate) udp_send: u64,
    /// Packets that the host did not take, by realm.
    pub(crate) tun_write: [u64; MAX_GROUPS],
}

/// What sockets and devices of one thread have counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// See [`Host::dropped`].
    pub(crate) dropped: [u64; MAX_GROUPS],
    /// See [`Losses`].
    pub(crate) losses: Losses,
    /// Destinations that the kernel does not segment for at the moment.
    pub(crate) unsegmented: Vec<SocketAddr>,
}

/// Sockets and devices of one thread of a daemon.
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
    /// Where datagrams were too big for the path since the last turn, and the length of the smallest; at most 16.
    pub small: Vec<(SocketAddr, u16)>,
    /// Why the daemon cannot go on: a socket or device is gone.
    pub broken: Option<String>,
    /// To the workers 1 and above, from the thread of the control plane.
    pub(super) links: Vec<WorkerLink>,
}

impl Host {
    /// Notes that a datagram of `len` bytes is too big for the path to `remote`.
    pub(super) fn note_small(&mut self, remote: SocketAddr, len: u16) {
        if let Some((_, least)) = self.small.iter_mut().find(|(known, _)| *known == remote) {
            *least = (*least).min(len);
        } else if self.small.len() < MAX_SMALL {
            self.small.push((remote, len));
        }
    }

    /// What there is to count at the moment. A system call per socket: not for each packet.
    pub(super) fn tally(&self) -> Tally {
        let mut losses = Losses { udp_send: self.sockets.iter().map(|socket| socket.stats().send_dropped).sum(), ..Losses::default() };
        losses.udp_receive_queue = self.sockets.iter().map(UdpSocket::receive_queue_drops).sum();
        for device in &self.devices {
            if let Some(count) = losses.tun_write.get_mut(usize::from(device.realm.0)) {
                *count += device.tun.stats().dropped;
            }
        }
        Tally { dropped: self.dropped, losses, unsegmented: self.sockets.iter().flat_map(UdpSocket::unsegmented).collect() }
    }

    /// Whether [`tally`](Self::tally) would say the same as `earlier`, but for what only the kernel knows.
    pub(super) fn is_as(&self, earlier: &Tally) -> bool {
        self.dropped == earlier.dropped
            && self.sockets.iter().map(|socket| socket.stats().send_dropped).sum::<u64>() == earlier.losses.udp_send
            && self.devices.iter().map(|device| device.tun.stats().dropped).sum::<u64>() == earlier.losses.tun_write.iter().sum::<u64>()
            && self.sockets.iter().flat_map(UdpSocket::unsegmented).eq(earlier.unsegmented.iter().copied())
    }

    /// The socket that reaches `remote`.
    pub(super) fn socket_for(&self, remote: SocketAddr) -> Option<&UdpSocket> {
        self.sockets.iter().find(|socket| socket.local_address().is_ipv4() == remote.is_ipv4())
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
        let socket = self.sockets.iter_mut().find(|socket| socket.local_address().is_ipv4() == remote.is_ipv4());
        let Some(socket) = socket else { return self.lose(0, slots.len()) };
        match socket.send(remote, buf, slots) {
            Ok(sent) => {
                if let Some(len) = sent.too_big {
                    self.note_small(remote, len);
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

    fn publish(&mut self, worker: ShardId, realm: RealmSlot, parcel: Parcel) -> Result<(), Parcel> {
        match usize::from(worker.0).checked_sub(1).and_then(|index| self.links.get_mut(index)) {
            Some(link) => link.push((realm, parcel)).map_err(|(_, parcel)| parcel),
            None => Err(parcel),
        }
    }
}
