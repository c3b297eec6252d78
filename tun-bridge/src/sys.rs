//! The system calls that no safe library offers without allocating: TUN ioctls, datagrams with segmentation offload, socket options.
//!
//! The only module of the workspace that contains `unsafe`. Everything it exports is safe to call with any argument.

use std::ffi::CStr;
use std::io::{self, IoSlice};
use std::mem;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use libc::{c_int, c_void};

/// Datagrams (or merged runs of them) taken by one receive call. More would only lengthen the wait of the first one.
pub const RECEIVE_BATCH: usize = 64;

/// Bytes for the control messages of one datagram: segment size and traffic class need 24 each (20 rounded up); twice that is room enough.
const CONTROL_LEN: usize = 96;

/// A control buffer aligned as `cmsghdr` wants it.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; CONTROL_LEN]);

/// Result of a C function: -1 becomes the error in `errno`.
fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Makes an open `/dev/net/tun` the device called `name` (or the next free name if `%d` is in it) with `IFF_*` `flags`; returns its name.
///
/// # Errors
/// `InvalidInput` for a name longer than 15 bytes or with a zero byte; otherwise what the kernel says.
pub fn tun_attach(fd: BorrowedFd<'_>, name: &str, flags: c_int) -> io::Result<String> {
    if name.len() >= libc::IFNAMSIZ || name.bytes().any(|byte| byte == 0) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "an interface name has at most 15 bytes"));
    }
    // SAFETY: `ifreq` is plain data for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    #[expect(clippy::cast_possible_truncation, reason = "the kernel's field has 16 bits and so have all IFF flags")]
    {
        request.ifr_ifru.ifru_flags = flags as libc::c_short;
    }
    // SAFETY: TUNSETIFF reads and writes one `ifreq`, which outlives the call; the descriptor is open as long as `fd` is borrowed.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF, ptr::from_mut(&mut request)) })?;
    // SAFETY: the array was zeroed and the kernel ends names with a zero byte within IFNAMSIZ.
    let name = unsafe { CStr::from_ptr(request.ifr_name.as_ptr()) };
    Ok(name.to_string_lossy().into_owned())
}

/// A second descriptor of what `fd` names, closed when a program is executed: event loops own what they wait on.
///
/// # Errors
/// `EBADF` if `fd` is not open, `EMFILE` if the process has no descriptor left.
pub fn duplicate(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_DUPFD_CLOEXEC takes its argument by value; a number that is no open descriptor is refused by the kernel.
    let new = check(unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) })?;
    // SAFETY: the kernel has just opened it, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(new) })
}

/// Tells the kernel which offloads (`TUN_F_*`) the reader of a TUN device understands.
///
/// # Errors
/// `InvalidInput` (EINVAL) if the kernel does not know one of the bits.
pub fn tun_set_offload(fd: BorrowedFd<'_>, offloads: u32) -> io::Result<()> {
    // SAFETY: TUNSETOFFLOAD takes its argument by value.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(offloads)) }).map(drop)
}

/// Takes the queue `fd` of a TUN device out of those that the host's packets are spread over. What is written to it still reaches the host.
///
/// # Errors
/// `InvalidInput` (EINVAL) if it is no queue of a device with several.
pub fn tun_detach_queue(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: `ifreq` is plain data for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    #[expect(clippy::cast_possible_truncation, reason = "the kernel's field has 16 bits and so have all IFF flags")]
    {
        request.ifr_ifru.ifru_flags = libc::IFF_DETACH_QUEUE as libc::c_short;
    }
    // SAFETY: TUNSETQUEUE reads one `ifreq`, which outlives the call; the descriptor is open as long as `fd` is borrowed.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETQUEUE, ptr::from_mut(&mut request)) }).map(drop)
}

/// Has the kernel pick among the sockets of one port (SO_REUSEPORT) by a classic BPF program. It is given a datagram from behind the UDP header on,
/// and returns the number of a socket in the order in which they were bound.
///
/// # Errors
/// `InvalidInput` (EINVAL) for a program that the kernel does not accept or a socket without SO_REUSEPORT, `ENOPROTOOPT` before Linux 4.5.
pub fn attach_reuseport_program(fd: BorrowedFd<'_>, program: &[libc::sock_filter]) -> io::Result<()> {
    let len = u16::try_from(program.len()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let program = libc::sock_fprog { len, filter: program.as_ptr().cast_mut() };
    let size = size_of::<libc::sock_fprog>() as libc::socklen_t;
    let (level, name) = (libc::SOL_SOCKET, libc::SO_ATTACH_REUSEPORT_CBPF);
    // SAFETY: the option value is a live `sock_fprog` whose `filter` points to `len` instructions; the kernel copies both and writes neither.
    check(unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, ptr::from_ref(&program).cast(), size) }).map(drop)
}

/// Gives back the memory of this program's code that was needed so far; what is still needed is mapped again as it runs, from the page cache. After the start
/// of a daemon that is the larger part: reading certificates, configuration and netlink is not done again.
///
/// # Errors
/// When the list of mappings cannot be read; then nothing is given back.
pub fn release_code() -> io::Result<()> {
    for line in std::fs::read_to_string("/proc/self/maps")?.lines() {
        let mut fields = line.split_ascii_whitespace();
        let (Some(range), Some("r-xp"), Some(path)) = (fields.next(), fields.next(), fields.nth(3)) else { continue };
        let Some((Ok(start), Ok(end))) =
            range.split_once('-').map(|(start, end)| (usize::from_str_radix(start, 16), usize::from_str_radix(end, 16)))
        else {
            continue;
        };
        if path.starts_with('/') && start < end {
            // SAFETY: the mapping is backed by a file, executable and not writable. Nothing writes to such pages (there are no relocations in code), so
            // dropping them changes no content: the next access maps the file's page again. The range is one that the kernel has just named.
            check(unsafe { libc::madvise(ptr::with_exposed_provenance_mut(start), end - start, libc::MADV_DONTNEED) })?;
        }
    }
    Ok(())
}

/// The descriptor of a device of the `tun-tap` crate, which offers it as a number only.
pub(crate) fn borrow_iface(iface: &tun_tap::Iface) -> BorrowedFd<'_> {
    // SAFETY: the interface owns an open file for as long as it lives, and so for as long as it is borrowed here.
    unsafe { BorrowedFd::borrow_raw(iface.as_raw_fd()) }
}

/// Sets an integer socket option.
///
/// # Errors
/// What the kernel says; `ENOPROTOOPT` for an option that it does not know.
pub fn set_option(fd: BorrowedFd<'_>, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
    // SAFETY: the option value is a live `c_int` and its size is passed along.
    check(unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, ptr::from_ref(&value).cast(), 4) }).map(drop)
}

/// Reads an integer socket option.
///
/// # Errors
/// What the kernel says.
pub fn option(fd: BorrowedFd<'_>, level: c_int, name: c_int) -> io::Result<c_int> {
    let mut value: c_int = 0;
    let mut length: libc::socklen_t = 4;
    // SAFETY: value and length are live and the length says how much may be written.
    check(unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, ptr::from_mut(&mut value).cast(), &raw mut length) })?;
    Ok(value)
}

/// How many datagrams the kernel has dropped because the socket's receive buffer was full (or their checksum was wrong) since it was made, modulo
/// 2^32 (`SO_MEMINFO`). Costs nothing until it is asked for.
///
/// # Errors
/// What the kernel says; `ENOPROTOOPT` before Linux 4.12.
pub fn receive_queue_drops(fd: BorrowedFd<'_>) -> io::Result<u32> {
    let mut values = [0u32; libc::SK_MEMINFO_DROPS as usize + 1];
    let mut length = size_of_val(&values) as libc::socklen_t;
    // SAFETY: values and length are live and the length says how much may be written.
    check(unsafe {
        libc::getsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_MEMINFO, ptr::from_mut(&mut values).cast(), &raw mut length)
    })?;
    Ok(values[libc::SK_MEMINFO_DROPS as usize])
}

/// A socket address in the kernel's form, and its length.
fn to_raw(address: &SocketAddr) -> (libc::sockaddr_storage, libc::socklen_t) {
    // SAFETY: `sockaddr_storage` is plain data for which all zeroes is a valid value.
    let mut storage: libc::sockaddr_storage = unsafe { mem::zeroed() };
    let length = match address {
        SocketAddr::V4(v4) => {
            let raw = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                sin_zero: [0; 8],
            };
            // SAFETY: `sockaddr_storage` is larger than `sockaddr_in` and aligned for it.
            unsafe { ptr::from_mut(&mut storage).cast::<libc::sockaddr_in>().write(raw) };
            size_of::<libc::sockaddr_in>()
        }
        SocketAddr::V6(v6) => {
            let raw = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: v6.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                sin6_scope_id: v6.scope_id(),
            };
            // SAFETY: `sockaddr_storage` is larger than `sockaddr_in6` and aligned for it.
            unsafe { ptr::from_mut(&mut storage).cast::<libc::sockaddr_in6>().write(raw) };
            size_of::<libc::sockaddr_in6>()
        }
    };
    (storage, length as libc::socklen_t)
}

/// The address in the kernel's form, if it is IPv4 or IPv6.
fn from_raw(storage: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match c_int::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says that it is a `sockaddr_in`; the storage is large and aligned enough.
            let raw = unsafe { ptr::from_ref(storage).cast::<libc::sockaddr_in>().read() };
            Some(SocketAddrV4::new(Ipv4Addr::from(raw.sin_addr.s_addr.to_ne_bytes()), u16::from_be(raw.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: the family says that it is a `sockaddr_in6`; the storage is large and aligned enough.
            let raw = unsafe { ptr::from_ref(storage).cast::<libc::sockaddr_in6>().read() };
            let ip = Ipv6Addr::from(raw.sin6_addr.s6_addr);
            Some(SocketAddrV6::new(ip, u16::from_be(raw.sin6_port), 0, raw.sin6_scope_id).into())
        }
        _ => None,
    }
}

/// Appends one control message to `control` and returns the bytes then in use.
fn put_control<T>(control: &mut Control, used: usize, level: c_int, kind: c_int, value: T) -> usize {
    // SAFETY: CMSG_SPACE and CMSG_LEN only compute.
    let (space, length) = unsafe { (libc::CMSG_SPACE(size_of::<T>() as u32), libc::CMSG_LEN(size_of::<T>() as u32)) };
    let end = used + space as usize;
    assert!(end <= CONTROL_LEN, "the control buffer has room for every message that we send");
    let header = libc::cmsghdr { cmsg_len: length as _, cmsg_level: level, cmsg_type: kind };
    // SAFETY: `used..end` lies in the buffer (asserted), which is aligned for `cmsghdr`, and `used` is a sum of aligned spaces; the data part
    // that CMSG_DATA points to has room for a `T` and is written unaligned.
    unsafe {
        let place = control.0.as_mut_ptr().add(used).cast::<libc::cmsghdr>();
        place.write(header);
        libc::CMSG_DATA(place).cast::<T>().write_unaligned(value);
    }
    end
}

/// Sends the concatenation of `parts` to `to` in one call: one datagram, or, with `segment`, datagrams of that many bytes each (the last may be
/// shorter) cut by the kernel (UDP_SEGMENT). `class` (DSCP and ECN) goes into the outer IP header.
///
/// # Errors
/// What the kernel says; `InvalidInput` for more than 1,024 parts.
pub fn send_datagrams(fd: BorrowedFd<'_>, to: &SocketAddr, parts: &[IoSlice<'_>], segment: Option<u16>, class: u8) -> io::Result<usize> {
    if parts.len() > 1024 {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let (name, name_len) = to_raw(to);
    let mut control = Control([0; CONTROL_LEN]);
    let mut used = 0;
    if let Some(segment) = segment {
        used = put_control(&mut control, used, libc::SOL_UDP, libc::UDP_SEGMENT, segment);
    }
    if class != 0 {
        let (level, kind) = if to.is_ipv4() { (libc::IPPROTO_IP, libc::IP_TOS) } else { (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) };
        used = put_control(&mut control, used, level, kind, c_int::from(class));
    }
    // SAFETY: `msghdr` is plain data for which all zeroes is a valid value.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_name = ptr::from_ref(&name).cast_mut().cast();
    message.msg_namelen = name_len;
    // `IoSlice` is guaranteed to have the layout of `iovec`.
    message.msg_iov = parts.as_ptr().cast_mut().cast();
    message.msg_iovlen = parts.len() as _;
    if used > 0 {
        message.msg_control = control.0.as_mut_ptr().cast();
        message.msg_controllen = used as _;
    }
    loop {
        // SAFETY: name, parts and control outlive the call, and sendmsg only reads them.
        let sent = unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const message, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) };
        if let Ok(sent) = usize::try_from(sent) {
            return Ok(sent);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// One datagram, or a run of datagrams of equal length that the kernel merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceivedMessage {
    /// Bytes of all together.
    pub len: usize,
    /// Length of each but the last, if the kernel merged several (UDP_GRO).
    pub segment: Option<usize>,
    /// Who sent it; `None` for an address family that is not IP.
    pub from: Option<SocketAddr>,
    /// The traffic class (DSCP and ECN) of the outer header.
    pub class: u8,
    /// Whether it did not fit its region: its end is lost.
    pub truncated: bool,
}

/// What `recvmmsg` needs beside the payload buffer, allocated once.
pub struct ReceiveRing {
    names: Box<[libc::sockaddr_storage; RECEIVE_BATCH]>,
    controls: Box<[Control; RECEIVE_BATCH]>,
    headers: Box<[libc::mmsghdr; RECEIVE_BATCH]>,
    filled: usize,
}

// SAFETY: the raw pointers inside the headers are set at each call and never followed outside it.
unsafe impl Send for ReceiveRing {}

impl std::fmt::Debug for ReceiveRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReceiveRing").field("filled", &self.filled).finish_non_exhaustive()
    }
}

impl Default for ReceiveRing {
    fn default() -> Self {
        Self::new()
    }
}

impl ReceiveRing {
    /// An empty ring; about 18 kB.
    #[must_use]
    pub fn new() -> Self {
        // SAFETY: `sockaddr_storage` and `mmsghdr` are plain data (numbers and pointers) for which all zeroes is a valid value.
        let (names, headers) = unsafe { (Box::new(mem::zeroed()), Box::new(mem::zeroed())) };
        Self { names, controls: Box::new([Control([0; CONTROL_LEN]); RECEIVE_BATCH]), headers, filled: 0 }
    }

    /// Receives up to [`RECEIVE_BATCH`] messages without waiting, number i into `buf[i * stride..(i + 1) * stride]`; returns how many.
    ///
    /// # Errors
    /// `WouldBlock` if nothing is there; otherwise what the kernel says. `InvalidInput` if not even one region fits.
    pub fn receive(&mut self, fd: BorrowedFd<'_>, buf: &mut [u8], stride: usize) -> io::Result<usize> {
        self.filled = 0;
        let mut parts = [libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; RECEIVE_BATCH];
        let mut count = 0;
        for region in buf.chunks_exact_mut(stride.max(1)).take(RECEIVE_BATCH) {
            parts[count] = libc::iovec { iov_base: region.as_mut_ptr().cast::<c_void>(), iov_len: region.len() };
            let header = &mut self.headers[count].msg_hdr;
            header.msg_name = ptr::from_mut(&mut self.names[count]).cast();
            header.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            header.msg_iov = &raw mut parts[count];
            header.msg_iovlen = 1;
            header.msg_control = self.controls[count].0.as_mut_ptr().cast();
            header.msg_controllen = CONTROL_LEN as _;
            header.msg_flags = 0;
            count += 1;
        }
        if count == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the receive buffer is smaller than one datagram's region"));
        }
        // SAFETY: each of the first `count` headers points to its own name, control buffer and region of `buf`, all of which outlive the call and
        // are borrowed mutably here; a null timeout is allowed.
        let received =
            unsafe { libc::recvmmsg(fd.as_raw_fd(), self.headers.as_mut_ptr(), count as u32, libc::MSG_DONTWAIT as _, ptr::null_mut()) };
        self.filled = check(received)?.unsigned_abs() as usize;
        Ok(self.filled)
    }

    /// Message number `index` of the last [`receive`](Self::receive).
    ///
    /// # Panics
    /// If there is no such message.
    #[must_use]
    pub fn message(&self, index: usize) -> ReceivedMessage {
        assert!(index < self.filled, "only received messages can be asked for");
        let header = &self.headers[index];
        let mut message = ReceivedMessage {
            len: header.msg_len as usize,
            segment: None,
            from: from_raw(&self.names[index]),
            class: 0,
            truncated: header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
        };
        #[allow(clippy::unnecessary_cast, reason = "the field has 32 bits with musl")]
        let bytes = &self.controls[index].0[..(header.msg_hdr.msg_controllen as usize).min(CONTROL_LEN)];
        parse_controls(bytes, |level, kind, data| match (level, kind) {
            (libc::SOL_UDP, libc::UDP_GRO) => message.segment = number(data).filter(|size| *size > 0),
            (libc::IPPROTO_IP, libc::IP_TOS) | (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => message.class = traffic_class(data),
            _ => {}
        });
        message
    }
}

/// Calls `each` with level, type and data of every control message in `bytes`.
fn parse_controls(mut bytes: &[u8], mut each: impl FnMut(c_int, c_int, &[u8])) {
    // SAFETY: CMSG_LEN only computes.
    let data_offset = unsafe { libc::CMSG_LEN(0) } as usize;
    while bytes.len() >= data_offset {
        // SAFETY: at least `data_offset` >= size_of::<cmsghdr>() initialised bytes are there; the read is unaligned; any bit pattern is valid.
        let header = unsafe { bytes.as_ptr().cast::<libc::cmsghdr>().read_unaligned() };
        #[allow(clippy::unnecessary_cast, reason = "the field has 32 bits with musl")]
        let length = header.cmsg_len as usize;
        if length < data_offset || length > bytes.len() {
            return;
        }
        each(header.cmsg_level, header.cmsg_type, &bytes[data_offset..length]);
        let next = length.next_multiple_of(size_of::<usize>()).min(bytes.len());
        bytes = &bytes[next..];
    }
}

/// The traffic class: IPv4 gives a byte, IPv6 a `c_int`.
fn traffic_class(data: &[u8]) -> u8 {
    number(data).map_or_else(|| data.first().copied().unwrap_or(0), |value| value.to_le_bytes()[0])
}

/// The positive `c_int` at the front of `data`.
fn number(data: &[u8]) -> Option<usize> {
    usize::try_from(c_int::from_ne_bytes(*data.first_chunk()?)).ok()
}

/// Sum of `bytes` as 16-bit words for the Internet checksum (RFC 1071), with the widest instructions that this CPU has; see the `checksum` module.
#[must_use]
pub fn checksum_sum(bytes: &[u8], initial: u64) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if bytes.len() >= 128 && std::is_x86_feature_detected!("avx2") {
        // SAFETY: the CPU has AVX2, which is all that the function asks for.
        return unsafe { crate::checksum::sum_avx2(bytes, initial) };
    }
    crate::checksum::sum_portable(bytes, initial)
}

/// Copies `from` to `to` and returns [`checksum_sum`] of it, in one pass.
///
/// # Panics
/// If they are not equally long.
pub fn checksum_copy(to: &mut [u8], from: &[u8], initial: u64) -> u64 {
    assert_eq!(to.len(), from.len(), "a copy is as long as what is copied");
    #[cfg(target_arch = "x86_64")]
    if from.len() >= 128 && std::is_x86_feature_detected!("avx2") {
        // SAFETY: the CPU has AVX2, which is all that the function asks for.
        return unsafe { crate::checksum::copy_avx2(to, from, initial) };
    }
    crate::checksum::copy_portable(to, from, initial)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_program_whose_code_was_given_back_runs_on() {
        super::release_code().unwrap();
        assert_eq!(super::checksum_sum(&[1; 300], 0), crate::checksum::sum_portable(&[1; 300], 0));
        super::release_code().unwrap();
    }
}
