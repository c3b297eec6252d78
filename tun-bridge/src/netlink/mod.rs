//! Links, addresses and routes by rtnetlink, synchronously: each call takes microseconds, so both event loops can make them in passing.

mod address;
mod link;
mod monitor;
mod route;

use std::io;

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

pub use address::{InterfaceAddress, local_addresses};
pub use link::{Link, LinkChange, Namespace};
pub use monitor::Monitor;
pub use route::Route;

/// One answer of the kernel at most: dumps come in pieces of up to 32 KB.
const BUFFER_LEN: usize = 64 * 1024;

/// A connection to the kernel's routing configuration, in the network namespace in which it was opened.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Netlink {
    /// Connects.
    ///
    /// # Errors
    /// What the kernel says; reading needs no privilege.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0, buffer: vec![0; BUFFER_LEN] })
    }

    /// Sends a change and waits for the kernel's word on it.
    fn change(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.exchange(message, NLM_F_REQUEST | NLM_F_ACK | flags, |_| ())
    }

    /// Asks for everything that `message` names.
    fn dump(&mut self, message: RouteNetlinkMessage, each: impl FnMut(RouteNetlinkMessage)) -> io::Result<()> {
        self.exchange(message, NLM_F_REQUEST | NLM_F_DUMP, each)
    }

    /// Asks for one thing.
    fn get(&mut self, message: RouteNetlinkMessage, each: impl FnMut(RouteNetlinkMessage)) -> io::Result<()> {
        self.exchange(message, NLM_F_REQUEST | NLM_F_ACK, each)
    }

    fn exchange(&mut self, message: RouteNetlinkMessage, flags: u16, mut each: impl FnMut(RouteNetlinkMessage)) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        loop {
            let len = self.socket.recv(&mut &mut self.buffer[..], 0)?;
            let mut over = None;
            parse(&self.buffer[..len.min(BUFFER_LEN)], |header, payload| {
                if header.sequence_number != self.sequence || over.is_some() {
                    return;
                }
                match payload {
                    NetlinkPayload::Done(_) => over = Some(Ok(())),
                    NetlinkPayload::Error(error) => {
                        over = Some(error.code.map_or(Ok(()), |code| Err(io::Error::from_raw_os_error(-code.get()))))
                    }
                    NetlinkPayload::InnerMessage(message) => each(message),
                    _ => {}
                }
            })?;
            if let Some(result) = over {
                return result;
            }
        }
    }
}

/// Calls `each` with every message in a datagram from the kernel. Messages of kinds that the library does not know are passed over.
fn parse(mut bytes: &[u8], mut each: impl FnMut(NetlinkHeader, NetlinkPayload<RouteNetlinkMessage>)) -> io::Result<()> {
    while let Some(length) = bytes.first_chunk().map(|chunk| u32::from_ne_bytes(*chunk) as usize) {
        if length < 16 || length > bytes.len() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a netlink message contradicts its length"));
        }
        match NetlinkMessage::<RouteNetlinkMessage>::deserialize(&bytes[..length]) {
            Ok(message) => {
                let (header, payload) = message.into_parts();
                each(header, payload);
            }
            Err(error) => tracing::debug!(%error, "passing over a netlink message"),
        }
        bytes = &bytes[length.next_multiple_of(4).min(bytes.len())..];
    }
    Ok(())
}

/// Turns "it exists already" into success: the wanted state is there.
fn ignore_existing(result: io::Result<()>) -> io::Result<()> {
    ignore(result, &[libc::EEXIST])
}

/// Turns the named errors into success.
fn ignore(result: io::Result<()>, errors: &[i32]) -> io::Result<()> {
    match result {
        Err(error) if error.raw_os_error().is_some_and(|code| errors.contains(&code)) => Ok(()),
        other => other,
    }
}
