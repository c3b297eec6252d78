//! Being told when the host's links, addresses or default routes change.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use netlink_packet_core::NetlinkPayload;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

use super::{BUFFER_LEN, parse};

/// Multicast groups of rtnetlink (linux/rtnetlink.h): links, IPv4 and IPv6 addresses, IPv4 and IPv6 routes.
const GROUPS: [u32; 5] = [1, 5, 9, 7, 11];

/// A non-blocking socket that becomes readable when something about the host's network changes.
#[derive(Debug)]
pub struct Monitor {
    socket: Socket,
    buffer: Vec<u8>,
}

impl Monitor {
    /// Subscribes; changes from now on are reported.
    ///
    /// # Errors
    /// What the kernel says; no privilege is needed.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind(&SocketAddr::new(0, 0))?;
        for group in GROUPS {
            socket.add_membership(group)?;
        }
        socket.set_non_blocking(true)?;
        Ok(Self { socket, buffer: vec![0; BUFFER_LEN] })
    }

    /// Reads all notices; whether links, addresses or default routes changed (other routes do not count: the VPN's own come and go).
    ///
    /// # Errors
    /// What the kernel says. Lost notices (ENOBUFS) count as a change.
    pub fn drain(&mut self) -> io::Result<bool> {
        let mut changed = false;
        loop {
            match self.socket.recv(&mut &mut self.buffer[..], 0) {
                Ok(len) => parse(&self.buffer[..len.min(BUFFER_LEN)], |_, payload| {
                    if let NetlinkPayload::InnerMessage(message) = payload {
                        changed |= matters(&message);
                    }
                })?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(changed),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => changed = true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

fn matters(message: &RouteNetlinkMessage) -> bool {
    use RouteNetlinkMessage::{DelAddress, DelLink, DelRoute, NewAddress, NewLink, NewRoute};
    match message {
        NewLink(_) | DelLink(_) | NewAddress(_) | DelAddress(_) => true,
        NewRoute(route) | DelRoute(route) => route.header.destination_prefix_length == 0,
        _ => false,
    }
}

impl AsRawFd for Monitor {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
