//! What a packet costs on the cable: frames are captured and measured.

use std::collections::BTreeMap;
use std::io::Read;
use std::time::{Duration, Instant};

use annulus_lab::measure::Echo;
use anyhow::{Context, Result};
use nix::libc;
use socket2::{Domain, Protocol, Socket, Type};

use crate::running::Running;

/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;
/// Bytes of the inner packets: more than control messages have and less than any tunnel's MTU.
const INNER: usize = 1_028;
/// Inner packets sent.
const ECHOES: usize = 20;
/// How long is listened for frames after the last echo.
const LINGER: Duration = Duration::from_millis(100);

/// Bytes that the peer adds to an inner packet, outer IP header included.
///
/// # Errors
/// If nothing is captured, as when the packets are cut or join others.
pub(crate) fn overhead(running: &Running<'_>) -> Result<f64> {
    let bed = running.bed();
    let capture = bed.b.host.run(|| {
        let everything = i32::from((libc::ETH_P_ALL as u16).to_be());
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(everything)))?;
        socket.set_read_timeout(Some(Duration::from_millis(20)))?;
        Ok::<_, std::io::Error>(socket)
    })??;
    let mut echo = Echo::new(&bed.a.host, running.target(), INNER)?;
    for _ in 0..ECHOES {
        echo.ping(Duration::from_millis(50))?;
    }
    let source = bed.a.outer.octets();
    let (mut frames, mut buf, end) = (Vec::new(), vec![0; 65_536], Instant::now() + LINGER);
    while Instant::now() < end {
        if let Ok(len) = (&capture).read(&mut buf) {
            // Of the cable, not of the TUN device: with an Ethernet header, and from the other host's outer address.
            if buf[12..14] == [8, 0] && buf[26..30] == source {
                frames.push(len);
            }
        }
    }
    usual(&frames).map(|len| (len - ETHERNET - INNER) as f64).context("no frame with one inner packet was seen")
}

/// The most frequent length that holds an inner packet; the smaller one of two.
fn usual(frames: &[usize]) -> Option<usize> {
    let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
    frames.iter().filter(|len| **len >= ETHERNET + INNER).for_each(|len| *counts.entry(*len).or_default() += 1);
    counts.into_iter().rev().max_by_key(|(_, count)| *count).map(|(len, _)| len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_frame_is_the_most_frequent_of_those_that_can_hold_the_packet() {
        assert_eq!(usual(&[60, 60, 60, 1094, 1094, 1500]), Some(1094));
        assert_eq!(usual(&[1500, 1094]), Some(1094));
        assert_eq!(usual(&[60, 100]), None);
    }
}
