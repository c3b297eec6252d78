//! Round-trip times by ping(8), whose time stamps are the kernel's: a measuring program that wakes up late does not show.

use std::fs;
use std::net::IpAddr;

use anyhow::{Context, Result};

use crate::limit::Limited;
use crate::median;
use crate::station::Station;

/// ms between echoes.
pub(crate) const INTERVAL_MS: u64 = 10;

/// Round-trip times of a series, in µs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct RoundTrips {
    /// The median.
    pub(crate) median: f64,
    /// What 99 of 100 do not exceed.
    pub(crate) p99: f64,
    /// Echoes without an answer.
    pub(crate) lost: usize,
}

/// Sends so many echoes.
///
/// # Errors
/// If none is answered.
pub(crate) fn ping(from: &Station, address: IpAddr, count: u64) -> Result<RoundTrips> {
    let file = from.dir.join("ping");
    let mut ping = from.quiet("ping")?;
    ping.args(["-n", "-i", &format!("0.{INTERVAL_MS:03}"), "-c", &count.to_string(), "-W", "1", &address.to_string()]);
    ping.env("LC_ALL", "C").stdout(fs::File::create(&file)?);
    Limited::new(from.host.spawn(ping)?, count * INTERVAL_MS / 1000 + 10).finish("ping")?;
    round_trips(&fs::read_to_string(file)?, count as usize).context("no echo was answered")
}

/// The times in what ping wrote; `None` without any.
#[must_use]
pub(crate) fn round_trips(text: &str, sent: usize) -> Option<RoundTrips> {
    let mut times: Vec<f64> =
        text.lines().filter_map(|line| line.split_once("time=")?.1.split(' ').next()?.parse().ok()).map(|ms: f64| ms * 1000.0).collect();
    times.sort_by(f64::total_cmp);
    let p99 = *times.get((times.len() * 99).div_ceil(100).checked_sub(1)?)?;
    Some(RoundTrips { median: median(&times)?, p99, lost: sent.saturating_sub(times.len()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_from_the_lines_of_answers() {
        let text = "PING 10.77.0.2 (10.77.0.2) 56(84) bytes of data.\n64 bytes from 10.77.0.2: icmp_seq=1 ttl=64 time=0.200 ms\n\
            64 bytes from 10.77.0.2: icmp_seq=2 ttl=64 time=0.100 ms\n64 bytes from 10.77.0.2: icmp_seq=3 ttl=64 time=12.5 ms\n\n--- 10.77.0.2 ping statistics ---\n";
        let times = round_trips(text, 4).unwrap();
        assert_eq!((times.median, times.p99, times.lost), (200.0, 12_500.0, 1));
        assert_eq!(round_trips("PING\n", 4), None);
    }

    #[test]
    fn of_200_times_the_198th_is_the_99th_percentile() {
        let text: String = (1..=200).map(|ms| format!("64 bytes: time={ms} ms\n")).collect();
        assert_eq!(round_trips(&text, 200).unwrap().p99, 198_000.0);
    }
}
