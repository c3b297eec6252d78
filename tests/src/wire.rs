//! What an eavesdropper on the router sees, and what an attacker sends.

use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, spawn};
use std::time::Duration;

use annulus_core::rng::Rng;
use annulus_lab::Host;
use anyhow::{Result, anyhow};
use socket2::{Domain, Protocol, Socket, Type};

/// All protocols, in network byte order (`ETH_P_ALL`).
const ALL_PROTOCOLS: i32 = 0x0300;

/// A capture of everything that passes a host's interfaces, beginning with the IP header.
#[derive(Debug)]
pub struct Capture {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Vec<u8>>>,
}

impl Capture {
    /// Begins to capture.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn start(host: &Host) -> Result<Self> {
        let mut socket = host.run(|| Socket::new(Domain::PACKET, Type::DGRAM, Some(Protocol::from(ALL_PROTOCOLS))))??;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        // What does not fit here is lost to the eavesdropper, not to the hosts.
        socket.set_recv_buffer_size(8 << 20)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = spawn(move || {
            let (mut packets, mut buf) = (Vec::new(), vec![0; 65_536]);
            loop {
                match socket.read(&mut buf) {
                    Ok(len) => packets.push(buf[..len].to_vec()),
                    Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => {
                        if stopped.load(Ordering::Relaxed) {
                            return packets;
                        }
                    }
                    Err(_) => return packets,
                }
            }
        });
        Ok(Self { stop, thread })
    }

    /// Ends the capture; returns the packets.
    ///
    /// # Errors
    /// If the capturing thread panicked.
    pub fn stop(self) -> Result<Vec<Vec<u8>>> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the capture panicked"))
    }
}

/// The payload of an unfragmented UDP packet.
#[must_use]
pub fn udp_payload(packet: &[u8]) -> Option<&[u8]> {
    const UDP: u8 = 17;
    let header = match packet.first()? >> 4 {
        4 if packet.get(9) == Some(&UDP) => usize::from(packet[0] & 15) * 4,
        6 if packet.get(6) == Some(&UDP) => 40,
        _ => return None,
    };
    let len = usize::from(u16::from_be_bytes([*packet.get(header + 4)?, *packet.get(header + 5)?]));
    packet.get(header + 8..header + len)
}

/// Whether a packet contains these bytes.
#[must_use]
pub fn contains(packet: &[u8], bytes: &[u8]) -> bool {
    packet.windows(bytes.len()).any(|window| window == bytes)
}

/// An endless series of bad datagrams: random ones, and copies of real ones, whole, cut, lengthened and with changed bits.
#[derive(Debug)]
pub struct Fuzz {
    rng: Rng,
    real: Vec<Vec<u8>>,
}

/// First bytes of all kinds of datagrams, so that random bytes are not all refused at the first look.
const FIRST_BYTES: [u8; 8] = [0x90, 0x80, 0x81, 0x10, 0x20, 0x30, 0x40, 0xff];

impl Fuzz {
    /// The same for the same seed and the same real datagrams.
    #[must_use]
    pub fn new(seed: u8, real: Vec<Vec<u8>>) -> Self {
        Self { rng: Rng::new([seed; 32]), real }
    }

    /// The next bad datagram, 1 to 1,472 bytes.
    pub fn next_datagram(&mut self) -> Vec<u8> {
        let mut bytes = if self.real.is_empty() || self.rng.below(3) == 0 {
            let mut bytes: Vec<u8> = (0..=self.rng.below(1471)).map(|_| self.rng.next_u32() as u8).collect();
            if self.rng.below(4) > 0 {
                bytes[0] = self.first_byte();
            }
            return bytes;
        } else {
            let index = self.rng.below(self.real.len() as u64) as usize;
            self.real[index].clone()
        };
        match self.rng.below(4) {
            0 => {}
            1 => bytes.truncate(1 + self.rng.below(bytes.len() as u64) as usize),
            2 => {
                let more = self.rng.below(200) as usize;
                bytes.extend((0..more).map(|_| self.rng.next_u32() as u8));
                bytes.truncate(1472);
            }
            _ => {
                for _ in 0..=self.rng.below(4) {
                    let bit = self.rng.below(bytes.len() as u64 * 8) as usize;
                    bytes[bit / 8] ^= 1 << (bit % 8);
                }
            }
        }
        bytes
    }

    fn first_byte(&mut self) -> u8 {
        let known: Vec<u8> = self.real.iter().filter_map(|datagram| datagram.first().copied()).collect();
        let from = if known.is_empty() { &FIRST_BYTES[..] } else { &known[..] };
        from[self.rng.below(from.len() as u64) as usize]
    }
}

/// Sends one question and collects the lengths of all answers that come within `patience` of the last.
///
/// # Errors
/// What the kernel says.
pub fn ask(socket: &UdpSocket, to: SocketAddr, question: &[u8], patience: Duration) -> Result<Vec<usize>> {
    socket.set_read_timeout(Some(patience))?;
    let mut buf = vec![0; 65_536];
    let mut answers = Vec::new();
    socket.send_to(question, to)?;
    loop {
        match socket.recv(&mut buf) {
            Ok(len) => answers.push(len),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return Ok(answers),
            Err(error) => return Err(error.into()),
        }
    }
}
