//! What a VPN in user space could reach on this machine: packets from a TUN device, cut, sealed and sent to one fixed address, and back.
//!
//! A measuring instrument and no VPN: one fixed key, no handshake, no sessions, no routing, no replay window and no check of addresses. Everything
//! that makes a data path fast is there: virtio header and segmentation offload on the device, which is drained at each wake-up; UDP segmentation
//! offload on both sides; up to 32 messages per receive call; AES-256-GCM in place; segments merged again with one vectored write; one thread per
//! direction. Only system calls are shared with the data path that is held against it, so that a change there does not
//! move the bar.

mod checksum;
mod merge;
mod split;

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::thread;

use annulus_tun_bridge::sys::{ReceiveRing, tun_attach, tun_set_offload};
use anyhow::{Context, Result};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg, setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

use merge::Merge;

/// Bytes of the virtio header in front of each packet of the device.
const VNET: usize = 10;
/// Bytes in front of each sealed packet: the counter in the last eight, the rest like a receiver index and reserved bits.
const HEADER: usize = 16;
/// Bytes behind each sealed packet.
const TAG: usize = 16;
/// `TUN_F_*`: checksums, TCP over IPv4 and IPv6, UDP over both.
const OFFLOADS: [u32; 2] = [0x01 | 0x02 | 0x04 | 0x20 | 0x40, 0x01 | 0x02 | 0x04];
/// Bytes in one send: what the length field of IPv4 allows beside IP and UDP header.
const MAX_SEND: usize = 65_507;
/// Datagrams in one send; older kernels refuse more.
const MAX_SEGMENTS: usize = 64;
/// Reads before the socket's thread may have to wait no longer for what was read.
const DRAIN: usize = 64;
/// Messages of one receive call.
const MESSAGES: usize = 32;
/// Bytes kept for each of them: as many as the kernel ever merges.
const REGION: usize = 65_536;
/// Bytes of the socket's buffers.
const SOCKET_BUFFER: usize = 8 << 20;
/// The key on both ends. Nothing is secret here.
const KEY: [u8; 32] = [9; 32];

/// Forwards between a TUN device called `name` and a socket bound to `local` and connected to `remote`, until the process ends.
///
/// # Errors
/// If device or socket cannot be had.
pub fn forward(name: &str, local: SocketAddr, remote: SocketAddr) -> Result<()> {
    let device = Arc::new(open_device(name)?);
    let socket = Arc::new(open_socket(local, remote)?);
    let key = Arc::new(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &KEY).context("the key has the wrong length")?));
    let sender = Sender {
        device: Arc::clone(&device),
        socket: Arc::clone(&socket),
        key: Arc::clone(&key),
        counter: 0,
        read: vec![0; VNET + REGION],
        one: vec![0; 2 * REGION],
        run: Run { buf: vec![0; 2 * REGION], len: 0, stride: 0 },
    };
    let sending = thread::Builder::new().name("send".into()).spawn(move || sender.run())?;
    receive(&device, &socket, &key)?;
    sending.join().map_err(|_| anyhow::anyhow!("the sending thread panicked"))?
}

fn open_device(name: &str) -> Result<File> {
    let device = OpenOptions::new().read(true).write(true).open(annulus_tun_bridge::DEVICE_PATH)?;
    tun_attach(device.as_fd(), name, libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR).context("no TUN device")?;
    // UDP super-packets came with Linux 6.2.
    OFFLOADS.iter().find_map(|bits| tun_set_offload(device.as_fd(), *bits).ok()).context("no segmentation offload on the TUN device")?;
    nix::fcntl::fcntl(&device, nix::fcntl::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))?;
    Ok(device)
}

fn open_socket(local: SocketAddr, remote: SocketAddr) -> Result<Socket> {
    let socket = Socket::new(Domain::for_address(local), Type::DGRAM, Some(Protocol::UDP))?;
    if setsockopt(&socket, sockopt::RcvBufForce, &SOCKET_BUFFER).is_err() {
        socket.set_recv_buffer_size(SOCKET_BUFFER)?;
    }
    if setsockopt(&socket, sockopt::SndBufForce, &SOCKET_BUFFER).is_err() {
        socket.set_send_buffer_size(SOCKET_BUFFER)?;
    }
    setsockopt(&socket, sockopt::UdpGroSegment, &true).context("no UDP_GRO")?;
    socket.bind(&local.into())?;
    socket.connect(&remote.into())?;
    Ok(socket)
}

/// Waits until the descriptor can be read.
fn wait(fd: &impl AsFd) -> Result<()> {
    poll(&mut [PollFd::new(fd.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE)?;
    Ok(())
}

fn nonce(counter: [u8; 8]) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&counter);
    Nonce::assume_unique_for_key(bytes)
}

/// Sealed packets of equal length that leave with one send.
struct Run {
    buf: Vec<u8>,
    len: usize,
    stride: usize,
}

/// The direction from the device to the socket.
struct Sender {
    device: Arc<File>,
    socket: Arc<Socket>,
    key: Arc<LessSafeKey>,
    counter: u64,
    read: Vec<u8>,
    one: Vec<u8>,
    run: Run,
}

impl Sender {
    fn run(mut self) -> Result<()> {
        loop {
            wait(&self.device)?;
            for _ in 0..DRAIN {
                let Ok(len) = nix::unistd::read(&self.device, &mut self.read) else { break };
                self.take(len);
            }
            self.flush();
        }
    }

    /// Seals what one read brought. A super-packet leaves at once, small packets wait for others of their length.
    fn take(&mut self, len: usize) {
        if self.read[1] & 0x7f != 0 {
            self.flush();
            let mut one = std::mem::take(&mut self.one);
            if let Some(pieces) = split::split(&mut self.read[..len], &mut one) {
                let all = &mut one[..pieces.total];
                all.chunks_mut(pieces.stride).for_each(|piece| self.seal(piece));
                let most = (MAX_SEND / pieces.stride).clamp(1, MAX_SEGMENTS) * pieces.stride;
                all.chunks(most).for_each(|part| self.send(part, pieces.stride));
            }
            self.one = one;
            return;
        }
        let total = len - VNET.min(len) + HEADER + TAG;
        let full = self.run.len + total > MAX_SEND || self.run.len / self.run.stride.max(1) >= MAX_SEGMENTS;
        if self.run.len > 0 && (total > self.run.stride || full) {
            self.flush();
        }
        let mut run = std::mem::take(&mut self.run.buf);
        let start = self.run.len;
        if let Some(pieces) = split::split(&mut self.read[..len], &mut run[start..]) {
            self.seal(&mut run[start..start + pieces.total]);
            if start == 0 {
                self.run.stride = pieces.total;
            }
            self.run.len += pieces.total;
        }
        self.run.buf = run;
        // Only the last datagram of a send may be shorter.
        if total < self.run.stride {
            self.flush();
        }
    }

    fn seal(&mut self, datagram: &mut [u8]) {
        self.counter += 1;
        let (header, rest) = datagram.split_at_mut(HEADER);
        let (packet, tag) = rest.split_at_mut(rest.len() - TAG);
        let counter = self.counter.to_be_bytes();
        header[..8].fill(0);
        header[8..].copy_from_slice(&counter);
        // It refuses only packets of gigabytes.
        if let Ok(made) = self.key.seal_in_place_separate_tag(nonce(counter), Aad::from(&*header), packet) {
            tag.copy_from_slice(made.as_ref());
        }
    }

    fn flush(&mut self) {
        let len = std::mem::take(&mut self.run.len);
        if len > 0 {
            self.send(&self.run.buf[..len], self.run.stride);
        }
    }

    fn send(&self, bytes: &[u8], stride: usize) {
        let stride = stride as u16;
        let segments = [ControlMessage::UdpGsoSegments(&stride)];
        let control = if bytes.len() > usize::from(stride) { &segments[..] } else { &[] };
        // What the socket does not take is lost, as on a wire.
        let _ = sendmsg::<()>(self.socket.as_raw_fd(), &[IoSlice::new(bytes)], control, MsgFlags::empty(), None);
    }
}

/// The direction from the socket to the device.
fn receive(device: &File, socket: &Socket, key: &LessSafeKey) -> Result<()> {
    let mut ring = ReceiveRing::new();
    let mut buf = vec![0; MESSAGES * REGION];
    let mut merge = Merge::new();
    loop {
        let count = match ring.receive(socket.as_fd(), &mut buf, REGION) {
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                wait(socket)?;
                continue;
            }
            // An ICMP error of the other end is taken off the socket, and that is all there is to do about it.
            Err(_) => continue,
        };
        for index in 0..count {
            let message = ring.message(index);
            let (mut at, end) = (index * REGION, index * REGION + message.len);
            let stride = message.segment.unwrap_or(message.len).max(1);
            while at < end {
                let next = (at + stride).min(end);
                // Merged at once: its checksum is looked at while it is in the cache.
                if let Some(len) = open(key, &mut buf[at..next]) {
                    merge.push(&device, &buf, (at + HEADER, at + HEADER + len));
                }
                at = next;
            }
        }
        merge.flush(&device, &buf);
    }
}

/// Opens a datagram in place; returns its packet's length.
fn open(key: &LessSafeKey, datagram: &mut [u8]) -> Option<usize> {
    let (header, sealed) = datagram.split_at_mut_checked(HEADER)?;
    let counter = *header.last_chunk()?;
    key.open_in_place(nonce(counter), Aad::from(&*header), sealed).ok().map(|packet| packet.len())
}

#[cfg(test)]
mod tests;
