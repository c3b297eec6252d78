//! What crosses between two hosts: echoes and TCP streams, with sockets of our own, so that no program needs to be installed.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread::Builder;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use socket2::{Domain, Protocol, Socket, Type};

use crate::Host;

/// Bytes of an ICMP echo's header.
const ECHO_HEADER: usize = 8;
/// How long an echo is waited for before the next one is sent.
const ECHO_INTERVAL: Duration = Duration::from_millis(500);
/// Bytes of one write to a measured stream.
const CHUNK: usize = 128 * 1024;
/// How long a stream may take to be set up, and to stand still.
const STREAM_PATIENCE: Duration = Duration::from_secs(10);

static NEXT_IDENTIFIER: AtomicU16 = AtomicU16::new(1);

/// A raw ICMP socket of a host, for echoes to one target.
#[derive(Debug)]
pub struct Echo {
    socket: Socket,
    v6: bool,
    identifier: u16,
    sequence: u16,
    payload: Vec<u8>,
}

impl Echo {
    /// Prepares echoes of IP packets that are `len` bytes long, header included.
    ///
    /// # Errors
    /// What the kernel says; `len` is at least 28 (IPv4) or 48 (IPv6).
    pub fn new(host: &Host, target: IpAddr, len: usize) -> Result<Self> {
        let v6 = target.is_ipv6();
        let header = ECHO_HEADER + if v6 { 40 } else { 20 };
        ensure!(len >= header, "an echo has at least {header} bytes");
        let socket = host.run(move || {
            let (domain, protocol) = if v6 { (Domain::IPV6, Protocol::ICMPV6) } else { (Domain::IPV4, Protocol::ICMPV4) };
            let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
            socket.connect(&SocketAddr::new(target, 0).into())?;
            Ok::<_, std::io::Error>(socket)
        })?;
        let socket = socket.with_context(|| format!("no echo from {} to {target}", host.name()))?;
        let identifier = NEXT_IDENTIFIER.fetch_add(1, Ordering::Relaxed);
        let payload = (0..len - header).map(|index| index as u8 ^ identifier as u8).collect();
        Ok(Self { socket, v6, identifier, sequence: 0, payload })
    }

    /// Sends one echo and waits for its answer; returns the round-trip time, or `None` after the time limit.
    ///
    /// # Errors
    /// What the kernel says, unreachable targets excepted.
    pub fn ping(&mut self, timeout: Duration) -> Result<Option<Duration>> {
        let start = Instant::now();
        self.send()?;
        Ok(self.receive(start + timeout, true)?.then(|| start.elapsed()))
    }

    /// Sends echoes until one is answered; returns the time from the first until then, or `None` after the time limit.
    ///
    /// # Errors
    /// What the kernel says, unreachable targets excepted.
    pub fn insist(&mut self, patience: Duration) -> Result<Option<Duration>> {
        let start = Instant::now();
        while start.elapsed() < patience {
            self.send()?;
            if self.receive((Instant::now() + ECHO_INTERVAL).min(start + patience), false)? {
                return Ok(Some(start.elapsed()));
            }
        }
        Ok(None)
    }

    fn send(&mut self) -> Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = vec![if self.v6 { 128 } else { 8 }, 0, 0, 0];
        message.extend(self.identifier.to_be_bytes());
        message.extend(self.sequence.to_be_bytes());
        message.extend(&self.payload);
        if !self.v6 {
            // The kernel fills in ICMPv6's checksum only.
            let sum = checksum(&message);
            message[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        match (&self.socket).write(&message) {
            Err(error) if !is_unreachable(&error) => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Whether an answer comes before `end`: to the latest echo, or to any.
    fn receive(&self, end: Instant, latest: bool) -> Result<bool> {
        let mut buf = vec![0; 65_536];
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            self.socket.set_read_timeout(Some(left))?;
            match (&self.socket).read(&mut buf) {
                Ok(len) if self.is_answer(&buf[..len], latest) => return Ok(true),
                Ok(_) => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => {}
                Err(error) if is_unreachable(&error) => std::thread::sleep(left.min(Duration::from_millis(20))),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn is_answer(&self, packet: &[u8], latest: bool) -> bool {
        // A raw IPv4 socket shows the IP header too.
        let header = if self.v6 { 0 } else { packet.first().map_or(0, |first| usize::from(first & 15) * 4) };
        let Some((head, payload)) = packet.get(header..).and_then(|message| message.split_at_checked(ECHO_HEADER)) else { return false };
        head[0] == if self.v6 { 129 } else { 0 }
            && head[4..6] == self.identifier.to_be_bytes()
            && (!latest || head[6..8] == self.sequence.to_be_bytes())
            && payload == self.payload
    }
}

/// Whether an error tells what a router or the own system thinks of the last echo. One that was too large is cut the next time.
fn is_unreachable(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable
            | ErrorKind::ConnectionRefused
            | ErrorKind::PermissionDenied
            | ErrorKind::AddrNotAvailable
    ) || matches!(error.raw_os_error(), Some(libc::EPROTO | libc::EMSGSIZE))
}

/// The internet checksum (RFC 1071).
#[must_use]
pub fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = 0;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// What a stream carried.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Transfer {
    /// Bytes that arrived.
    pub bytes: u64,
    /// Time between the first and the last of them.
    pub time: Duration,
}

impl Transfer {
    /// 10^6 bits per second of payload.
    #[must_use]
    pub fn mbit_per_s(&self) -> f64 {
        self.bytes as f64 * 8.0 / 1e6 / self.time.as_secs_f64().max(1e-6)
    }
}

/// Sends a TCP stream from one host to an address of another for so long, and counts at the receiver.
///
/// # Errors
/// If the stream cannot be set up or stands still for 10 s.
pub fn tcp_transfer(from: &Host, to: &Host, address: IpAddr, duration: Duration) -> Result<Transfer> {
    let listener = to.run(move || TcpListener::bind((address, 0)))?.with_context(|| format!("{} cannot listen on {address}", to.name()))?;
    let target = listener.local_addr()?;
    let receiver = Builder::new().name("tcp receiver".into()).spawn(move || receive_stream(&listener))?;
    let sent = from
        .run(move || TcpStream::connect_timeout(&target, STREAM_PATIENCE))?
        .with_context(|| format!("no TCP connection from {} to {target}", from.name()))
        .and_then(|stream| send_stream(stream, duration));
    if sent.is_err() {
        // The receiver may still wait for a connection; let it see one and an end.
        let _ = to.run(move || TcpStream::connect_timeout(&target, STREAM_PATIENCE));
    }
    let received = receiver.join().map_err(|_| anyhow!("the receiver panicked"))?;
    sent?;
    let transfer = received?;
    ensure!(transfer.bytes > 0, "no byte of a TCP stream arrived");
    Ok(transfer)
}

fn send_stream(mut stream: TcpStream, duration: Duration) -> Result<()> {
    stream.set_write_timeout(Some(STREAM_PATIENCE))?;
    let chunk = vec![0x5a; CHUNK];
    let end = Instant::now() + duration;
    while Instant::now() < end {
        stream.write_all(&chunk).context("the TCP stream stands still")?;
    }
    Ok(())
}

fn receive_stream(listener: &TcpListener) -> Result<Transfer> {
    let (mut stream, _) = listener.accept()?;
    stream.set_read_timeout(Some(STREAM_PATIENCE))?;
    let mut buf = vec![0; CHUNK];
    let mut transfer = Transfer { bytes: 0, time: Duration::ZERO };
    let mut start = None;
    loop {
        match stream.read(&mut buf).context("the TCP stream stands still")? {
            0 => return Ok(transfer),
            len => {
                let start = *start.get_or_insert_with(Instant::now);
                transfer.bytes += len as u64;
                transfer.time = start.elapsed();
            }
        }
    }
}

/// Any address of the family, for sockets.
#[must_use]
pub const fn unspecified(v6: bool) -> IpAddr {
    if v6 { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_the_rfc() {
        // RFC 1071, section 3: the sum of these words is ddf2.
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
        assert_eq!(checksum(&[0xff]), !0xff00);
    }
}
