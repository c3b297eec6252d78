//! Loads made by iperf3.

use std::fs;
use std::net::IpAddr;
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::Value;

use crate::limit::Limited;
use crate::station::Station;

/// How long beyond its load iperf3 may take.
const GRACE: u64 = 12;
/// How long a server may take to listen.
const LISTEN_PATIENCE: Duration = Duration::from_secs(5);
/// The usual port.
const PORT: u16 = 5201;

/// What to send, from host `from` to host `to` unless it is reversed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Load {
    /// TCP.
    Tcp {
        /// Streams at once.
        streams: u8,
        /// From `to` to `from`.
        reverse: bool,
    },
    /// UDP as fast as the sender can.
    UdpFlood {
        /// Payload bytes of a packet.
        size: u16,
    },
}

/// What arrived.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Arrived {
    /// 10^6 bits of payload per second.
    pub(crate) mbit_per_s: f64,
    /// Bytes of payload.
    pub(crate) bytes: f64,
    /// Packets, of UDP.
    pub(crate) packets: f64,
    /// Packets per second, of UDP.
    pub(crate) packets_per_s: f64,
    /// The part of the sent packets that did not arrive, of UDP.
    pub(crate) loss: f64,
}

/// A load that runs.
#[derive(Debug)]
pub(crate) struct Sending {
    client: Limited,
    server: Limited,
    load: Load,
    results: [std::path::PathBuf; 2],
}

impl Sending {
    /// Starts a load for so many seconds.
    ///
    /// # Errors
    /// If iperf3 cannot be started.
    pub(crate) fn start(from: &Station, to: &Station, address: IpAddr, load: Load, seconds: u64) -> Result<Self> {
        let results = [from.dir.join("iperf-client.json"), to.dir.join("iperf-server.json")];
        let mut server = to.quiet("iperf3")?;
        server.args(["-s", "-1", "-J", "-i", "0", "-p", &PORT.to_string()]).stdout(fs::File::create(&results[1])?);
        let server = Limited::new(to.host.spawn(server)?, seconds + GRACE + LISTEN_PATIENCE.as_secs());
        wait_for_listener(to)?;
        let mut client = from.quiet("iperf3")?;
        client.args(["-c", &address.to_string(), "-J", "-i", "0", "-t", &seconds.to_string(), "-p", &PORT.to_string()]);
        client.args(["--connect-timeout", "3000"]).stdout(fs::File::create(&results[0])?).stdin(Stdio::null());
        match load {
            Load::Tcp { streams, reverse } => {
                client.args(["-P", &streams.to_string()]).args(reverse.then_some("-R"));
            }
            Load::UdpFlood { size } => {
                client.args(["-u", "-b", "0", "-l", &size.to_string()]);
            }
        }
        let client = Limited::new(from.host.spawn(client)?, seconds + GRACE);
        Ok(Self { client, server, load, results })
    }

    /// Waits for the end and says what arrived.
    ///
    /// # Errors
    /// If iperf3 does not end or reports an error.
    pub(crate) fn finish(self) -> Result<Arrived> {
        self.client.finish("iperf3")?;
        let client = fs::read_to_string(&self.results[0])?;
        match self.load {
            Load::Tcp { .. } => tcp_arrived(&client),
            Load::UdpFlood { .. } => {
                // The client's word first: it knows why there is nothing on the server.
                check(&parse(&client)?)?;
                // Only the server knows what arrived; after a flood it may miss the end, and it need not be waited for then.
                self.server.finish("the iperf3 server")?;
                udp_arrived(&fs::read_to_string(&self.results[1])?)
            }
        }
    }
}

/// Runs a load to its end.
///
/// # Errors
/// As [`Sending::start`] and [`Sending::finish`].
pub(crate) fn run(from: &Station, to: &Station, address: IpAddr, load: Load, seconds: u64) -> Result<Arrived> {
    Sending::start(from, to, address, load, seconds)?.finish()
}

fn wait_for_listener(host: &Station) -> Result<()> {
    let end = Instant::now() + LISTEN_PATIENCE;
    let port = format!(":{PORT:04X} ");
    loop {
        let sockets = host.read("net/tcp")? + &host.read("net/tcp6").unwrap_or_default();
        // State 0A is listening.
        if sockets
            .lines()
            .any(|line| line.split_whitespace().nth(1).is_some_and(|local| format!("{local} ").ends_with(&port)) && line.contains(" 0A "))
        {
            return Ok(());
        }
        ensure!(Instant::now() < end, "the iperf3 server does not listen");
        sleep(Duration::from_millis(5));
    }
}

fn parse(text: &str) -> Result<Value> {
    serde_json::from_str(text).with_context(|| format!("iperf3 wrote no JSON but '{}'", text.trim().chars().take(200).collect::<String>()))
}

fn check(value: &Value) -> Result<()> {
    match value["error"].as_str() {
        Some(error) => bail!("iperf3: {error}"),
        None => Ok(()),
    }
}

fn number(value: &Value, path: &str) -> Result<f64> {
    value.pointer(path).and_then(Value::as_f64).ok_or_else(|| anyhow!("iperf3's JSON has no {path}"))
}

/// What the receiver of TCP streams got, from the client's JSON.
///
/// # Errors
/// If iperf3 reports an error, or nothing arrived.
pub(crate) fn tcp_arrived(client: &str) -> Result<Arrived> {
    let value = parse(client)?;
    check(&value)?;
    let bytes = number(&value, "/end/sum_received/bytes")?;
    ensure!(bytes > 0.0, "no byte arrived");
    Ok(Arrived { mbit_per_s: number(&value, "/end/sum_received/bits_per_second")? / 1e6, bytes, ..Arrived::default() })
}

/// What the receiver of UDP got, from the server's JSON. iperf3 counts what it expected by the highest number that it saw.
///
/// # Errors
/// If iperf3 reports an error.
pub(crate) fn udp_arrived(server: &str) -> Result<Arrived> {
    let value = parse(server)?;
    check(&value)?;
    let expected = number(&value, "/end/sum/packets")?;
    let packets = (expected - number(&value, "/end/sum/lost_packets")?).max(0.0);
    let seconds = number(&value, "/end/sum/seconds")?;
    ensure!(expected > 0.0 && seconds > 0.0, "no packet arrived");
    let size = number(&value, "/start/test_start/blksize")?;
    let bytes = packets * size;
    Ok(Arrived {
        mbit_per_s: bytes * 8.0 / 1e6 / seconds,
        bytes,
        packets,
        packets_per_s: packets / seconds,
        loss: 1.0 - packets / expected,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tcp_is_counted_at_the_receiver() {
        let json = r#"{"start":{},"end":{"sum_sent":{"bytes":2000,"bits_per_second":16000.0,"retransmits":3},
            "sum_received":{"bytes":1500,"bits_per_second":12000000.0}}}"#;
        let arrived = tcp_arrived(json).unwrap();
        assert_eq!((arrived.bytes, arrived.mbit_per_s), (1500.0, 12.0));
    }

    #[test]
    fn udp_is_what_was_expected_without_what_was_lost() {
        let json = r#"{"start":{"test_start":{"protocol":"UDP","blksize":64}},
            "end":{"sum":{"seconds":2.0,"packets":1000,"lost_packets":250,"bytes":0,"bits_per_second":0}}}"#;
        let arrived = udp_arrived(json).unwrap();
        assert_eq!((arrived.packets, arrived.packets_per_s, arrived.loss), (750.0, 375.0, 0.25));
        assert_eq!(arrived.mbit_per_s, 750.0 * 64.0 * 8.0 / 2e6);
    }

    #[test]
    fn errors_of_iperf3_are_passed_on() {
        let error = tcp_arrived(r#"{"start":{},"error":"unable to connect to server"}"#).unwrap_err();
        assert!(error.to_string().contains("unable to connect"));
        assert!(tcp_arrived("").is_err());
        assert!(tcp_arrived(r#"{"end":{"sum_received":{"bytes":0,"bits_per_second":0}}}"#).is_err());
        assert!(
            udp_arrived(r#"{"start":{"test_start":{"blksize":64}},"end":{"sum":{"seconds":0,"packets":0,"lost_packets":0}}}"#).is_err()
        );
    }
}
