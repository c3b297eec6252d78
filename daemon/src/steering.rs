//! Which socket of a port gets a datagram: a program in the kernel sends each data and relay datagram to the worker that its index belongs to.

use std::io;
use std::num::NonZeroU8;
use std::os::fd::BorrowedFd;

use annulus_core::wire::{TYPE_DATA, TYPE_RELAY};
use annulus_tun_bridge::sys;
use nix::libc::{BPF_ABS, BPF_ALU, BPF_AND, BPF_B, BPF_JGE, BPF_JMP, BPF_K, BPF_LD, BPF_MOD, BPF_RET, BPF_W, sock_filter};

/// The classic BPF instruction for "return the accumulator" (linux/bpf_common.h, `BPF_A`).
const BPF_A: u32 = 0x10;
/// First type byte behind those of relay datagrams.
const AFTER_RELAY: u8 = TYPE_RELAY + 0x10;

/// Has the kernel steer the datagrams of a port. `socket` is the first of those that share it; the others are bound after it, each by the next worker.
///
/// # Errors
/// What the kernel says where it cannot.
pub fn steer(socket: BorrowedFd<'_>, workers: NonZeroU8) -> io::Result<()> {
    sys::attach_reuseport_program(socket, &program(workers))
}

/// Data and relay datagrams go to the worker of their 24-bit index, all others to worker 0: the same as [`annulus_core::shard::owner`]. A datagram that is
/// too short for what the program loads ends it with 0.
fn program(workers: NonZeroU8) -> [sock_filter; 8] {
    let op = |code: u32, k: u32| sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let jump = |k: u8, jt: u8, jf: u8| sock_filter { code: (BPF_JMP | BPF_JGE | BPF_K) as u16, jt, jf, k: u32::from(k) };
    [
        op(BPF_LD | BPF_B | BPF_ABS, 0),
        jump(TYPE_DATA, 0, 5),
        jump(AFTER_RELAY, 4, 0),
        op(BPF_LD | BPF_W | BPF_ABS, 0),
        op(BPF_ALU | BPF_AND | BPF_K, 0x00ff_ffff),
        op(BPF_ALU | BPF_MOD | BPF_K, u32::from(workers.get())),
        op(BPF_RET | BPF_A, 0),
        op(BPF_RET | BPF_K, 0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::udp::{UdpOptions, UdpSocket};
    use annulus_core::shard::owner;
    use std::os::fd::AsFd;
    use std::time::Duration;

    /// `count` sockets of one port, steered.
    fn sockets(address: &str, count: u8) -> Vec<UdpSocket> {
        let options = UdpOptions { reuse_port: true, ..UdpOptions::default() };
        let first = UdpSocket::bind(address.parse().unwrap(), 0, options).unwrap();
        steer(first.as_fd(), NonZeroU8::new(count).unwrap()).unwrap();
        let port = first.local_address();
        let mut all = vec![first];
        all.extend((1..count).map(|_| UdpSocket::bind(port, 0, options).unwrap()));
        all
    }

    /// What each socket received, once `count` datagrams have come.
    fn received(sockets: &mut [UdpSocket], count: usize) -> Vec<Vec<Vec<u8>>> {
        let mut got = vec![Vec::new(); sockets.len()];
        let mut buf = vec![0; sockets[0].buffer_for(16)];
        let mut batch = Vec::new();
        let end = std::time::Instant::now() + Duration::from_secs(5);
        while got.iter().map(Vec::len).sum::<usize>() < count && std::time::Instant::now() < end {
            for (socket, got) in sockets.iter_mut().zip(&mut got) {
                socket.receive(&mut buf, &mut batch).unwrap();
                for received in &batch {
                    got.extend(buf[received.start..received.start + received.len].chunks(received.stride).map(<[u8]>::to_vec));
                }
            }
        }
        got
    }

    #[test]
    fn each_datagram_reaches_the_socket_of_its_worker() {
        for (address, from) in [("127.0.0.1:0", "127.0.0.1:0"), ("[::1]:0", "[::1]:0")] {
            let Ok(sender) = std::net::UdpSocket::bind(from) else {
                eprintln!("SKIPPED {address}: this machine does not have it");
                continue;
            };
            for workers in [2, 3, 16] {
                let mut sockets = sockets(address, workers);
                let mut sent = Vec::new();
                for first in 0..=0xffu8 {
                    for index in [0u32, 1, 2, 0x10_0005, 0xff_ffff, u32::from(first) * 7919] {
                        let mut datagram = vec![first];
                        datagram.extend(&index.to_be_bytes()[1..]);
                        // Of different lengths, so that the kernel merges none.
                        datagram.resize(4 + sent.len() % 97, first);
                        sent.push(datagram);
                    }
                    sent.push(vec![first; usize::from(first % 4)]);
                }
                let workers = NonZeroU8::new(workers).unwrap();
                for burst in sent.chunks(200) {
                    let to = sockets[0].local_address();
                    let mut expected = vec![Vec::new(); sockets.len()];
                    for datagram in burst.iter().filter(|datagram| !datagram.is_empty()) {
                        sender.send_to(datagram, to).unwrap();
                        let worker = owner(datagram, workers).map_or(0, |shard| usize::from(shard.0));
                        expected[worker].push(datagram.clone());
                    }
                    let count = expected.iter().map(Vec::len).sum();
                    assert_eq!(received(&mut sockets, count), expected);
                }
            }
        }
    }

    #[test]
    fn a_socket_that_shares_no_port_is_not_steered() {
        let socket = UdpSocket::bind("127.0.0.1:0".parse().unwrap(), 0, UdpOptions::default()).unwrap();
        assert!(steer(socket.as_fd(), NonZeroU8::MIN).is_err());
    }
}
