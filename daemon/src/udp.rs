//! UDP sockets as all runtimes use them: many datagrams per call with segmentation offload where the kernel has it, never a fragment, never a wait.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::{Duration, Instant};

use annulus_core::batch::Slot;
use annulus_core::io::{Endpoint, TrafficClass};
use annulus_core::pump::Received;
use annulus_tun_bridge::sys::{self, RECEIVE_BATCH, ReceiveRing};
use nix::libc;
use socket2::{Domain, Protocol, Socket, Type};

/// Datagrams in one send. Of full size 45 come near [`MAX_SEND`]; the bound is for small ones.
pub const MAX_SEGMENTS: usize = 128;
/// The same for kernels before 6.9, which refuse more: found out by the first send that has more.
pub const MAX_SEGMENTS_OLD: usize = 64;
/// Bytes in one send. With the headers of UDP, IPv6 and Ethernet they stay below the 65,536 from which on an interface leaves the cutting to software, packet
/// by packet, half as fast on the whole.
pub const MAX_SEND: usize = 65_440;
/// Bytes kept for each message of a receive call where the kernel merges datagrams: as many as it ever merges.
pub const GRO_STRIDE: usize = 65_536;
/// Bytes kept for each datagram otherwise: a jumbo frame; we never send larger ones.
pub const PLAIN_STRIDE: usize = 9_216;
/// For how long a destination gets single datagrams after the kernel refused to segment for it: its route may have changed since.
pub const GSO_RETRY: Duration = Duration::from_secs(60);
/// Destinations whose refusal is remembered. The oldest is forgotten first: it costs one failed call to find out again.
pub const GSO_REFUSED: usize = 64;
/// Bytes that a receive call should bring at most: 0.5 ms of work, for what waits elsewhere waits as long. As many messages are asked for as brought so
/// much lately: eight merged ones of 64 KB, which stay in the CPU's cache, or the most that a call takes of single ones, which are merged over the whole call.
const RECEIVE_BYTES: usize = 512 * 1024;
/// Messages that a receive call asks for at least.
const MIN_MESSAGES: usize = RECEIVE_BYTES / GRO_STRIDE;
/// Errors taken off a socket (each from an ICMP message about some destination) within one receive call.
const MAX_SOCKET_ERRORS: usize = 16;

/// How a socket is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpOptions {
    /// Bytes of the receive buffer: 4 MB are 3 ms at 10 Gbit/s, a turn of the scheduler. Throughput with 2, 4 and 8 MB did
    /// not differ beyond noise. A small datagram takes 768 bytes of it, so a flood of them waits 25 ms at most.
    pub receive_buffer: usize,
    /// Bytes of the send buffer.
    pub send_buffer: usize,
    /// Let the kernel cut (UDP_SEGMENT) and merge (UDP_GRO), if it can.
    pub offload: bool,
    /// Share the port with other sockets of this program (SO_REUSEPORT): one per worker.
    pub reuse_port: bool,
    /// Firewall mark (SO_MARK), so that a policy rule can keep our own datagrams out of the tunnel.
    pub mark: Option<u32>,
}

impl Default for UdpOptions {
    fn default() -> Self {
        Self { receive_buffer: 4 << 20, send_buffer: 4 << 20, offload: true, reuse_port: false, mark: None }
    }
}

/// What became of the datagrams of one [`UdpSocket::send`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Datagrams that the kernel took.
    pub datagrams: usize,
    /// Datagrams that it did not take.
    pub dropped: usize,
    /// Length in bytes of the smallest one that was larger than the interface or a router's message allows.
    pub too_big: Option<u16>,
}

/// Counters since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UdpStats {
    /// Receive calls.
    pub receive_calls: u64,
    /// Messages received; each is one datagram or several merged ones.
    pub receive_messages: u64,
    /// Bytes received.
    pub receive_bytes: u64,
    /// Datagrams that did not fit their region, were empty, or came from nowhere.
    pub receive_dropped: u64,
    /// Send calls.
    pub send_calls: u64,
    /// Datagrams sent.
    pub send_datagrams: u64,
    /// Bytes sent.
    pub send_bytes: u64,
    /// Datagrams that the kernel did not take.
    pub send_dropped: u64,
    /// How often the kernel refused to segment for a destination.
    pub gso_refused: u64,
}

/// A bound, non-blocking UDP socket of one address family.
#[derive(Debug)]
pub struct UdpSocket {
    socket: Socket,
    number: u8,
    local: SocketAddr,
    ring: ReceiveRing,
    /// How many messages the next receive call asks for.
    messages: usize,
    /// Whether the last one brought as many as it asked for.
    filled: bool,
    gro: bool,
    gso: bool,
    /// Datagrams that the kernel cuts one send into at most.
    max_segments: usize,
    /// Destinations that get single datagrams, and since when.
    refused: Vec<(SocketAddr, Instant)>,
    stats: UdpStats,
}

impl UdpSocket {
    /// Binds to `address`; an IPv6 socket takes IPv6 only. `number` goes into the [`Endpoint`]s of what it receives.
    ///
    /// # Errors
    /// What the kernel says, `AddrInUse` among it. Options that the kernel lacks are no errors.
    pub fn bind(address: SocketAddr, number: u8, options: UdpOptions) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM.nonblocking().cloexec(), Some(Protocol::UDP))?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        if options.reuse_port {
            socket.set_reuse_port(true)?;
        }
        if let Some(mark) = options.mark {
            socket.set_mark(mark)?;
        }
        let fd = socket.as_fd();
        size_buffer(fd, libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, options.receive_buffer);
        size_buffer(fd, libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, options.send_buffer);
        forbid_fragments(fd, address.is_ipv6())?;
        receive_class(fd, address.is_ipv6());
        let gro = options.offload && sys::set_option(fd, libc::SOL_UDP, libc::UDP_GRO, 1).is_ok();
        let gso = options.offload && sys::option(fd, libc::SOL_UDP, libc::UDP_SEGMENT).is_ok();
        socket.bind(&address.into())?;
        let local = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self {
            socket,
            number,
            local,
            ring: ReceiveRing::new(),
            messages: MIN_MESSAGES,
            filled: false,
            gro,
            gso,
            max_segments: MAX_SEGMENTS,
            refused: Vec::with_capacity(GSO_REFUSED),
            stats: UdpStats::default(),
        })
    }

    /// The address bound to, with the real port.
    #[must_use]
    pub const fn local_address(&self) -> SocketAddr {
        self.local
    }

    /// Whether the kernel merges received datagrams.
    #[must_use]
    pub const fn gro(&self) -> bool {
        self.gro
    }

    /// Whether the kernel cuts what is sent to `to`.
    #[must_use]
    pub fn gso(&self, to: SocketAddr) -> bool {
        self.gso && !self.refused.iter().any(|(refused, _)| *refused == to)
    }

    /// Destinations that get single datagrams because the kernel refused to segment for them.
    pub fn unsegmented(&self) -> impl Iterator<Item = SocketAddr> {
        self.refused.iter().map(|(to, _)| *to)
    }

    /// Whether the kernel cuts what is sent, where nothing else is known of a destination.
    #[must_use]
    pub const fn segments(&self) -> bool {
        self.gso
    }

    /// Counters since the start.
    #[must_use]
    pub const fn stats(&self) -> UdpStats {
        self.stats
    }

    /// How many datagrams the kernel has dropped because the receive buffer was full; 0 where it does not say. A system call.
    #[must_use]
    pub fn receive_queue_drops(&self) -> u64 {
        sys::receive_queue_drops(self.socket.as_fd()).map_or(0, u64::from)
    }

    /// Bytes of buffer with which [`receive`](Self::receive) can take `messages` messages.
    #[must_use]
    pub const fn buffer_for(&self, messages: usize) -> usize {
        messages * self.stride()
    }

    /// Whether the last [`receive`](Self::receive) brought as many messages as it asked for, so that there may be more.
    #[must_use]
    pub const fn was_filled(&self) -> bool {
        self.filled
    }

    const fn stride(&self) -> usize {
        if self.gro { GRO_STRIDE } else { PLAIN_STRIDE }
    }

    /// Receives what is there, in one call: 8 to 64 messages, fewer the larger they have been, and no more than `buf` has regions for (64 KB each where
    /// the kernel merges datagrams, else 9 KB). `out` then holds exactly what was received. 0: nothing there.
    ///
    /// # Errors
    /// `InvalidInput` if `buf` is smaller than one region. Otherwise the socket is broken. What ICMP says of some destination is no error here.
    pub fn receive(&mut self, buf: &mut [u8], out: &mut Vec<Received>) -> io::Result<usize> {
        out.clear();
        self.filled = false;
        let stride = self.stride();
        let asked = self.messages.min(buf.len() / stride);
        let buf = &mut buf[..asked * stride];
        let mut errors = 0;
        let count = loop {
            self.stats.receive_calls += 1;
            match self.ring.receive(self.socket.as_fd(), buf, stride) {
                Ok(count) => break count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
                Err(error) if errors < MAX_SOCKET_ERRORS && is_passing(&error) => errors += 1,
                Err(error) => return Err(error),
            }
        };
        debug_assert!(count <= RECEIVE_BATCH);
        self.filled = count == asked;
        let before = self.stats.receive_bytes;
        for index in 0..count {
            let message = self.ring.message(index);
            let (Some(from), false, 1..) = (message.from, message.truncated, message.len) else {
                self.stats.receive_dropped += 1;
                continue;
            };
            self.stats.receive_bytes += message.len as u64;
            out.push(Received {
                start: index * stride,
                len: message.len,
                stride: message.segment.map_or(message.len, |segment| segment.min(message.len)),
                from: Endpoint::Udp { socket: self.number, remote: from },
                class: TrafficClass(message.class),
            });
        }
        self.stats.receive_messages += out.len() as u64;
        self.adapt(self.stats.receive_bytes - before);
        Ok(out.len())
    }

    /// Asks for more messages next time if these were small and there may be more of them, for fewer if they were much.
    fn adapt(&mut self, bytes: u64) {
        if bytes > RECEIVE_BYTES as u64 {
            self.messages = (self.messages / 2).max(MIN_MESSAGES);
        } else if self.filled && bytes < RECEIVE_BYTES as u64 / 2 {
            self.messages = (self.messages * 2).min(RECEIVE_BATCH);
        }
    }

    /// Sends the slots' bytes as one datagram each. Neighbours of equal length and traffic class (the last may be shorter) leave in one call, gathered
    /// from where they lie.
    ///
    /// # Errors
    /// Only if the socket is broken; what cannot be sent now is dropped and counted in the result.
    pub fn send(&mut self, to: SocketAddr, buf: &[u8], slots: &[Slot]) -> io::Result<Sent> {
        let mut sent = Sent::default();
        let mut rest = slots;
        let gso = self.may_segment(to);
        while !rest.is_empty() {
            let count = if gso && self.gso(to) { group(rest, self.max_segments) } else { 1 };
            let (batch, after) = rest.split_at(count);
            if self.send_group(to, buf, batch, &mut sent)? {
                rest = after;
            }
        }
        self.stats.send_datagrams += sent.datagrams as u64;
        self.stats.send_dropped += sent.dropped as u64;
        Ok(sent)
    }

    /// Sends one datagram that lies somewhere else than in a batch.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn send_one(&mut self, to: SocketAddr, datagram: &[u8]) -> io::Result<Sent> {
        let Ok(len) = u16::try_from(datagram.len()) else {
            return Ok(Sent { dropped: 1, too_big: Some(u16::MAX), ..Sent::default() });
        };
        self.send(to, datagram, &[Slot { len, ..Slot::default() }])
    }

    /// Sends one group, in one call if the kernel segments, else one by one; `false`: nothing yet, for it was too many for this kernel.
    fn send_group(&mut self, to: SocketAddr, buf: &[u8], batch: &[Slot], sent: &mut Sent) -> io::Result<bool> {
        if batch.len() > 1 {
            match self.send_call(to, buf, batch) {
                Ok(()) => {
                    sent.datagrams += batch.len();
                    return Ok(true);
                }
                Err(error) if !is_refusal(&error) => return count_drop(error, batch, sent).map(|()| true),
                Err(_) if batch.len() > MAX_SEGMENTS_OLD && self.max_segments > MAX_SEGMENTS_OLD => {
                    self.max_segments = MAX_SEGMENTS_OLD;
                    return Ok(false);
                }
                Err(error) => {
                    // Only if one of full length passes singly was it the segmentation that the kernel did not want, and not the length.
                    let before = sent.datagrams;
                    let (first, others) = batch.split_at(1);
                    self.send_singly(to, buf, first, sent)?;
                    let passes = sent.datagrams > before;
                    self.send_singly(to, buf, others, sent)?;
                    if passes {
                        tracing::debug!(%to, %error, "the kernel does not segment for this destination; single datagrams for a minute");
                        self.refuse(to);
                    }
                    return Ok(true);
                }
            }
        }
        self.send_singly(to, buf, batch, sent).map(|()| true)
    }

    fn send_singly(&mut self, to: SocketAddr, buf: &[u8], batch: &[Slot], sent: &mut Sent) -> io::Result<()> {
        for slot in batch {
            match self.send_call(to, buf, std::slice::from_ref(slot)) {
                Ok(()) => sent.datagrams += 1,
                Err(error) => count_drop(error, core::slice::from_ref(slot), sent)?,
            }
        }
        Ok(())
    }

    /// One system call for one datagram or for several of the first one's length.
    fn send_call(&mut self, to: SocketAddr, buf: &[u8], batch: &[Slot]) -> io::Result<()> {
        const EMPTY: &[u8] = &[];
        let mut parts = [IoSlice::new(EMPTY); MAX_SEGMENTS];
        let (mut used, mut index) = (0, 0);
        while index < batch.len() {
            let mut range = batch[index].range();
            index += 1;
            // What lies side by side needs one part only.
            while batch.get(index).is_some_and(|next| next.start as usize == range.end) {
                range.end = batch[index].range().end;
                index += 1;
            }
            parts[used] = IoSlice::new(&buf[range]);
            used += 1;
        }
        let segment = (batch.len() > 1).then(|| batch[0].len);
        self.stats.send_calls += 1;
        let mut errors = 0;
        loop {
            match sys::send_datagrams(self.socket.as_fd(), &to, &parts[..used], segment, batch[0].class.0) {
                Ok(bytes) => {
                    self.stats.send_bytes += bytes as u64;
                    return Ok(());
                }
                // An ICMP message about an earlier datagram; this one has not been tried.
                Err(error) if errors < MAX_SOCKET_ERRORS && error.raw_os_error() == Some(libc::ECONNREFUSED) => errors += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether to try segmentation for `to`; forgets refusals that are old enough.
    fn may_segment(&mut self, to: SocketAddr) -> bool {
        if !self.gso || self.refused.is_empty() {
            return self.gso;
        }
        let now = Instant::now();
        self.refused.retain(|(_, since)| now.duration_since(*since) < GSO_RETRY);
        self.gso(to)
    }

    fn refuse(&mut self, to: SocketAddr) {
        self.stats.gso_refused += 1;
        if self.refused.len() == GSO_REFUSED {
            self.refused.remove(0);
        }
        self.refused.push((to, Instant::now()));
    }
}

impl AsRawFd for UdpSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl AsFd for UdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// How many of the first slots, at most `most`, can leave in one call: equal length and traffic class, the last may be shorter.
fn group(slots: &[Slot], most: usize) -> usize {
    let Some(first) = slots.first() else { return 0 };
    let (mut count, mut bytes) = (0, 0);
    for slot in slots.iter().take(most) {
        bytes += usize::from(slot.len);
        if slot.len > first.len || slot.class != first.class || slot.len == 0 || bytes > MAX_SEND {
            break;
        }
        count += 1;
        if slot.len < first.len {
            break;
        }
    }
    count.max(1)
}

/// Enlarges a buffer beyond the system's limit if we may, else up to it. Failing is no error: it costs throughput only.
fn size_buffer(fd: BorrowedFd<'_>, force: i32, normal: i32, bytes: usize) {
    let bytes = i32::try_from(bytes).unwrap_or(i32::MAX);
    if sys::set_option(fd, libc::SOL_SOCKET, force, bytes).is_err()
        && let Err(error) = sys::set_option(fd, libc::SOL_SOCKET, normal, bytes)
    {
        tracing::debug!(%error, bytes, "cannot size a socket buffer");
    }
}

/// Sets "don't fragment": what is larger than the interface or a router's message allows is refused with EMSGSIZE and counted as too big.
fn forbid_fragments(fd: BorrowedFd<'_>, v6: bool) -> io::Result<()> {
    if v6 {
        sys::set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DO)?;
        sys::set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG, 1)
    } else {
        sys::set_option(fd, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO)
    }
}

/// Asks for the traffic class of received datagrams. Without it congestion marks are not seen, nothing else.
fn receive_class(fd: BorrowedFd<'_>, v6: bool) {
    let result = if v6 {
        sys::set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, 1)
    } else {
        sys::set_option(fd, libc::IPPROTO_IP, libc::IP_RECVTOS, 1)
    };
    if let Err(error) = result {
        tracing::debug!(%error, "the kernel does not report the traffic class");
    }
}

/// Whether the kernel may have refused the segmentation rather than the datagrams.
fn is_refusal(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EIO | libc::EINVAL | libc::EMSGSIZE))
}

/// Whether an error on the socket is about some destination or the moment, not about the socket.
fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ECONNREFUSED
                | libc::EHOSTUNREACH
                | libc::ENETUNREACH
                | libc::EHOSTDOWN
                | libc::ENETDOWN
                | libc::EMSGSIZE
                | libc::EPROTO
                | libc::EINTR
        )
    )
}

/// Counts datagrams as dropped, unless the socket itself is broken.
fn count_drop(error: io::Error, datagrams: &[Slot], sent: &mut Sent) -> io::Result<()> {
    match error.raw_os_error() {
        Some(libc::EBADF | libc::ENOTSOCK | libc::EFAULT) | None => return Err(error),
        Some(libc::EMSGSIZE) => sent.too_big = datagrams.iter().map(|slot| slot.len).chain(sent.too_big).min(),
        _ => {}
    }
    sent.dropped += datagrams.len();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(address: &str, options: UdpOptions) -> (UdpSocket, UdpSocket) {
        let bind = |number| UdpSocket::bind(address.parse().unwrap(), number, options).unwrap();
        (bind(1), bind(2))
    }

    fn receive_all(socket: &mut UdpSocket, bytes: usize) -> Vec<(Vec<u8>, TrafficClass)> {
        let mut buf = vec![0; socket.buffer_for(8)];
        let (mut out, mut datagrams) = (Vec::new(), Vec::new());
        let end = Instant::now() + Duration::from_secs(5);
        while datagrams.iter().map(|(datagram, _): &(Vec<u8>, TrafficClass)| datagram.len()).sum::<usize>() < bytes && Instant::now() < end
        {
            socket.receive(&mut buf, &mut out).unwrap();
            for received in &out {
                let whole = &buf[received.start..received.start + received.len];
                datagrams.extend(whole.chunks(received.stride).map(|datagram| (datagram.to_vec(), received.class)));
            }
        }
        datagrams
    }

    /// `count` slots of `len` bytes, `gap` apart, the last one 100 bytes shorter.
    fn slots(count: usize, len: u16, gap: u32, class: u8) -> (Vec<u8>, Vec<Slot>) {
        let mut slots: Vec<_> = (0..count as u32)
            .map(|i| Slot { start: i * (u32::from(len) + gap), len, class: TrafficClass(class), ..Slot::default() })
            .collect();
        slots.last_mut().unwrap().len -= 100;
        let buf = (0..count * (usize::from(len) + gap as usize)).map(|i| (i / 3) as u8).collect();
        (buf, slots)
    }

    fn everything_arrives(address: &str, options: UdpOptions) -> (UdpStats, UdpStats) {
        let (mut a, mut b) = pair(address, options);
        let to = b.local_address();
        for (gap, class) in [(0, 0), (4, 0xb8 | 2), (28, 3)] {
            let (buf, slots) = slots(64, 1424, gap, class);
            assert_eq!(a.send(to, &buf, &slots).unwrap(), Sent { datagrams: 64, dropped: 0, too_big: None });
            let datagrams = receive_all(&mut b, 64 * 1424 - 100);
            assert_eq!(datagrams.len(), 64);
            for (slot, (datagram, seen)) in slots.iter().zip(&datagrams) {
                assert!(buf[slot.range()] == datagram[..]);
                assert_eq!(seen.0, class);
            }
        }
        (a.stats(), b.stats())
    }

    #[test]
    fn datagrams_with_and_without_gaps_arrive_as_they_were_sent() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            if std::net::UdpSocket::bind(address).is_err() {
                eprintln!("SKIPPED {address}: this machine does not have it");
                continue;
            }
            let (sent, received) = everything_arrives(address, UdpOptions::default());
            if sent.send_calls == 3 * 64 {
                eprintln!("this kernel has no UDP_SEGMENT: only single sends were tested");
            } else {
                assert_eq!(sent.send_calls, 6, "45 and 19 datagrams a call");
                assert!(received.receive_messages < 30, "{received:?}");
            }
        }
    }

    #[test]
    fn without_offload_datagrams_arrive_one_by_one() {
        let (sent, received) = everything_arrives("127.0.0.1:0", UdpOptions { offload: false, ..UdpOptions::default() });
        assert_eq!((sent.send_calls, received.receive_messages), (3 * 64, 3 * 64));
    }

    #[test]
    fn a_destination_that_refuses_segmentation_gets_single_datagrams_for_a_while() {
        let (mut a, mut b) = pair("127.0.0.1:0", UdpOptions::default());
        if !a.gso {
            eprintln!("SKIPPED: this kernel has no UDP_SEGMENT");
            return;
        }
        // Without checksums the kernel refuses to segment.
        sys::set_option(a.as_fd(), libc::SOL_SOCKET, libc::SO_NO_CHECK, 1).unwrap();
        let to = b.local_address();
        let (buf, slots) = slots(10, 500, 4, 0);
        assert_eq!(a.send(to, &buf, &slots).unwrap().datagrams, 10);
        assert_eq!(receive_all(&mut b, 10 * 500 - 100).len(), 10);
        assert!(!a.gso(to) && a.gso("127.0.0.1:9".parse().unwrap()));
        assert_eq!(a.stats().gso_refused, 1);
        assert_eq!(a.send(to, &buf, &slots).unwrap().datagrams, 10);
        assert_eq!(a.stats().gso_refused, 1);
        sys::set_option(a.as_fd(), libc::SOL_SOCKET, libc::SO_NO_CHECK, 0).unwrap();
        a.refused[0].1 = Instant::now().checked_sub(GSO_RETRY).unwrap();
        let calls = a.stats().send_calls;
        assert_eq!(a.send(to, &buf, &slots).unwrap().datagrams, 10);
        assert_eq!(a.stats().send_calls, calls + 1, "segmentation is tried again after a minute");
    }

    #[test]
    fn a_closed_port_at_the_other_end_is_no_error() {
        let (mut a, b) = pair("127.0.0.1:0", UdpOptions::default());
        let to = b.local_address();
        drop(b);
        let mut buf = vec![0; a.buffer_for(1)];
        let mut out = Vec::new();
        for _ in 0..5 {
            assert_eq!(a.send_one(to, b"hello").unwrap().dropped, 0);
            std::thread::sleep(Duration::from_millis(2));
            assert_eq!(a.receive(&mut buf, &mut out).unwrap(), 0);
        }
    }

    #[test]
    fn a_datagram_beyond_the_largest_is_counted_not_sent() {
        let (mut a, b) = pair("127.0.0.1:0", UdpOptions::default());
        assert_eq!(a.send_one(b.local_address(), &[0; 65_535]).unwrap(), Sent { datagrams: 0, dropped: 1, too_big: Some(u16::MAX) });
        assert!(a.gso == a.gso(b.local_address()));
    }

    #[test]
    fn groups_end_at_a_shorter_datagram_another_mark_and_the_limit() {
        let slot = |len, class| Slot { len, class: TrafficClass(class), ..Slot::default() };
        assert_eq!(group(&[slot(100, 0), slot(100, 0), slot(50, 0), slot(50, 0)], 64), 3);
        assert_eq!(group(&[slot(50, 0), slot(100, 0)], 64), 1);
        assert_eq!(group(&[slot(100, 0), slot(100, 1)], 64), 1);
        assert_eq!(group(&[slot(1424, 0); 64], 64), 45);
        assert_eq!(group(&[slot(9000, 0); 64], 64), 7);
        assert_eq!(group(&[slot(0, 0), slot(0, 0)], 64), 1);
    }

    #[test]
    fn a_buffer_smaller_than_one_region_is_refused() {
        let (mut a, _b) = pair("127.0.0.1:0", UdpOptions::default());
        assert_eq!(a.receive(&mut [0; 100], &mut Vec::new()).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
