//! Packets between applications on the hosts of a lab.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread::spawn;
use std::time::{Duration, Instant};

use annulus_lab::Host;
use annulus_lab::measure::{Echo, unspecified};
use anyhow::{Context, Result, anyhow, ensure};

/// How long something may take the first time: addresses are looked up and keys agreed on.
const PATIENCE: Duration = Duration::from_secs(15);

/// Checks that an echo of IP packets of `len` bytes is answered.
///
/// # Errors
/// If none is within 15 s.
pub fn ping(from: &Host, to: IpAddr, len: usize) -> Result<Duration> {
    Echo::new(from, to, len)?.insist(PATIENCE)?.with_context(|| format!("{to} does not answer {}'s echoes of {len} bytes", from.name()))
}

/// Checks that datagrams with `len` bytes of payload go to a host and back.
///
/// # Errors
/// If none came back within 15 s, or with other contents.
pub fn udp_exchange(from: &Host, to: &Host, address: IpAddr, len: usize) -> Result<()> {
    let there = to.run(move || UdpSocket::bind((address, 0)))?.with_context(|| format!("{} cannot bind to {address}", to.name()))?;
    let target = there.local_addr()?;
    let here = from.run(move || UdpSocket::bind(SocketAddr::new(unspecified(address.is_ipv6()), 0)))??;
    let (question, mut answer): (Vec<u8>, Vec<u8>) = (0..len).map(|index| (index as u8, !(index as u8))).unzip();
    answer.push(0);
    there.set_read_timeout(Some(Duration::from_millis(300)))?;
    here.set_read_timeout(Some(Duration::from_millis(300)))?;
    let mut buf = vec![0; 65_536];
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        // A host without a route yet says so at once; later it has one.
        let _ = here.send_to(&question, target);
        let Ok((got, source)) = there.recv_from(&mut buf) else { continue };
        ensure!(buf[..got] == question, "a datagram of {len} bytes arrived changed at {}", to.name());
        there.send_to(&answer, source)?;
        if let Ok(got) = here.recv(&mut buf) {
            ensure!(buf[..got] == answer, "a datagram of {} bytes arrived changed at {}", answer.len(), from.name());
            return Ok(());
        }
    }
    Err(anyhow!("no UDP from {} to {address} and back within {} s", from.name(), PATIENCE.as_secs()))
}

/// A TCP connection: the sender's end and the receiver's end.
///
/// # Errors
/// If none comes about within 15 s.
pub fn connect(from: &Host, to: &Host, address: IpAddr) -> Result<(TcpStream, TcpStream)> {
    let listener = to.run(move || TcpListener::bind((address, 0)))?.with_context(|| format!("{} cannot listen on {address}", to.name()))?;
    let target = listener.local_addr()?;
    let sender = from
        .run(move || TcpStream::connect_timeout(&target, PATIENCE))?
        .with_context(|| format!("no TCP from {} to {address}", from.name()))?;
    let (receiver, _) = listener.accept()?;
    for stream in [&sender, &receiver] {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
    }
    Ok((sender, receiver))
}

/// Byte number `index` of what [`tcp_send`] sends.
#[must_use]
pub const fn pattern(index: usize) -> u8 {
    (index ^ (index >> 8) ^ (index >> 16)) as u8
}

/// Checks that questions of several lengths are each answered over one TCP connection before the next is asked.
///
/// # Errors
/// If one is not, or with other bytes.
pub fn questions(mut near: TcpStream, mut far: TcpStream, count: usize) -> Result<()> {
    let lengths = (0..count).map(|number| 1 + number * 37 % 300);
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let asked = lengths.clone();
    let answering = spawn(move || -> Result<()> {
        for len in asked {
            let mut question = vec![0; len];
            far.read_exact(&mut question)?;
            far.write_all(&question.iter().map(|byte| !byte).collect::<Vec<_>>())?;
        }
        Ok(())
    });
    for (number, len) in lengths.enumerate() {
        let question: Vec<u8> = (0..len).map(|index| pattern(number * 7 + index)).collect();
        near.write_all(&question)?;
        let mut answer = vec![0; len];
        near.read_exact(&mut answer).with_context(|| format!("question {number} of {len} bytes is not answered"))?;
        ensure!(question.iter().zip(&answer).all(|(byte, answer)| *answer == !byte), "question {number} has a wrong answer");
    }
    answering.join().map_err(|_| anyhow!("who answers panicked"))?
}

/// Checks that bytes of a TCP stream arrive as they were sent.
///
/// # Errors
/// If they do not, or the stream stands still for 15 s.
pub fn tcp_send(from: &Host, to: &Host, address: IpAddr, len: usize) -> Result<()> {
    let (mut sender, mut receiver) = connect(from, to, address)?;
    let sent: Vec<u8> = (0..len).map(pattern).collect();
    let expected = sent.clone();
    let writer = spawn(move || sender.write_all(&sent));
    let mut got = Vec::new();
    receiver.read_to_end(&mut got).context("the TCP stream stands still")?;
    writer.join().map_err(|_| anyhow!("the sender panicked"))??;
    ensure!(got == expected, "{} of {len} bytes of a TCP stream arrived, or others", got.len());
    Ok(())
}

/// Sends `len` bytes each way over each of `count` TCP connections, all at once.
///
/// # Errors
/// If a stream stands still for 15 s or bytes arrive that were not sent.
pub fn tcp_streams(from: &Host, to: &Host, address: IpAddr, count: usize, len: usize) -> Result<()> {
    let byte = |stream: usize, index: usize| (stream ^ index ^ (index >> 8) ^ (index >> 16)) as u8;
    let mut threads = Vec::new();
    for stream in 0..count {
        let (one, other) = connect(from, to, address)?;
        for (mut end, seed) in [(one, stream), (other, stream + 100)] {
            let mut reading = end.try_clone()?;
            threads.push(spawn(move || -> Result<()> {
                let sent: Vec<u8> = (0..len).map(|index| byte(seed, index)).collect();
                end.write_all(&sent).context("a TCP stream stands still")?;
                Ok(end.shutdown(std::net::Shutdown::Write)?)
            }));
            let theirs = if seed < 100 { seed + 100 } else { seed - 100 };
            threads.push(spawn(move || -> Result<()> {
                let mut got = Vec::new();
                reading.read_to_end(&mut got).context("a TCP stream stands still")?;
                let expected = got.len() == len && got.iter().enumerate().all(|(index, got)| *got == byte(theirs, index));
                ensure!(expected, "{} of {len} bytes of a TCP stream arrived, or others", got.len());
                Ok(())
            }));
        }
    }
    threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?)
}

/// Sends `count` numbered datagrams on each of several flows at once, in bursts, some of which are answered, and checks that none overtakes another of
/// its flow. Returns how many arrived; some may be lost.
///
/// # Errors
/// If one was overtaken, or nothing of a flow arrived.
pub fn udp_in_order(from: &Host, to: &Host, address: IpAddr, flows: usize, count: u32) -> Result<usize> {
    const BURST: u32 = 16;
    const PACE: Duration = Duration::from_millis(20);
    let mut threads = Vec::new();
    for _ in 0..flows {
        let there = to.run(move || UdpSocket::bind((address, 0)))??;
        let target = there.local_addr()?;
        let here = from.run(move || UdpSocket::bind(SocketAddr::new(unspecified(address.is_ipv6()), 0)))??;
        there.set_read_timeout(Some(PATIENCE))?;
        spawn(move || {
            let mut datagram = [0; 1000];
            for number in 0..count {
                datagram[..4].copy_from_slice(&number.to_be_bytes());
                // What is lost here is missing there.
                let _ = here.send_to(&datagram, target);
                if number % BURST == BURST - 1 {
                    std::thread::sleep(PACE);
                }
            }
        });
        threads.push(spawn(move || -> Result<usize> {
            let (mut buf, mut latest, mut arrived) = ([0; 2000], None, 0);
            while let Ok((len, source)) = there.recv_from(&mut buf) {
                ensure!(len == 1000, "a datagram of {len} bytes");
                let number = u32::from_be_bytes([buf[0], buf[1], buf[2], buf[3]]);
                ensure!(latest.is_none_or(|latest| latest < number), "datagram {number} was overtaken by {latest:?}");
                if latest.replace(number).is_none() {
                    there.set_read_timeout(Some(Duration::from_secs(2)))?;
                }
                arrived += 1;
                if number % (4 * BURST) == 0 {
                    let _ = there.send_to(&buf[..100], source);
                }
            }
            ensure!(arrived > 0, "nothing arrived");
            Ok(arrived)
        }));
    }
    threads.into_iter().map(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?).sum()
}
