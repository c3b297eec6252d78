//! The lab itself: hosts reach each other over the router, and only as far as their cables allow.

use std::io::{BufRead, BufReader, Read};
use std::net::UdpSocket;
use std::process::Stdio;
use std::time::{Duration, Instant};

use annulus_lab::measure::{Echo, tcp_transfer};
use annulus_lab::{Attached, Host, Internet, Test, command, run_tests};
use anyhow::{Context, Result, ensure};

const TESTS: &[Test] = &[
    ("hosts_reach_each_other_over_the_router", hosts_reach_each_other),
    ("a_new_host_has_nothing_but_loopback", a_new_host_is_alone),
    ("a_datagram_larger_than_a_cable_does_not_pass_whole", cables_have_an_mtu),
    ("a_host_that_roams_is_found_at_its_new_address_only", roaming),
    ("a_pulled_cable_cuts_off_and_a_plugged_one_joins_again", cables),
    ("echoes_are_answered_by_hosts_that_are_there_and_no_others", echoes),
    ("a_tcp_stream_carries_bytes_and_takes_time", streams),
    ("programs_run_on_their_host_and_die_with_it", programs),
];

fn main() {
    run_tests(TESTS)
}

/// Whether a datagram from one host arrives at an address of another within two seconds, tried again and again.
fn reaches(from: &Host, to: &Host, address: std::net::IpAddr, len: usize) -> Result<bool> {
    let socket = to.run(move || UdpSocket::bind((address, 7000)))??;
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let sender = from.run(move || UdpSocket::bind(any))??;
    let end = Instant::now() + Duration::from_secs(2);
    let mut buf = vec![0; 65_536];
    while Instant::now() < end {
        // An unreachable network is an answer too.
        let _ = sender.send_to(&vec![1; len], (address, 7000));
        if socket.recv(&mut buf).is_ok_and(|got| got == len) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn two() -> Result<(Internet, Attached, Attached)> {
    let mut internet = Internet::new()?;
    let (a, b) = (internet.attach("a", 1500)?, internet.attach("b", 1500)?);
    Ok((internet, a, b))
}

fn hosts_reach_each_other() -> Result<()> {
    let (_internet, a, b) = two()?;
    for address in [b.ipv4().into(), b.ipv6().into()] {
        ensure!(reaches(&a, &b, address, 1000)?, "{address}");
    }
    ensure!(reaches(&b, &a, a.ipv4().into(), 1000)?);
    Ok(())
}

fn a_new_host_is_alone() -> Result<()> {
    let host = Host::new("alone")?;
    let links = host.netlink(|netlink| netlink.links())?;
    ensure!(links.iter().filter(|link| link.up).all(|link| link.loopback), "{links:?}");
    ensure!(host.run(|| annulus_tun_bridge::netlink::local_addresses(&[]))??.is_empty());
    Ok(())
}

fn cables_have_an_mtu() -> Result<()> {
    let (internet, a, b) = two()?;
    internet.set_mtu(&b, 1280)?;
    let target = b.ipv4();
    let socket = a.run(|| UdpSocket::bind("0.0.0.0:0"))??;
    // Don't fragment, and believe nobody: what is too big for the far cable must vanish.
    annulus_tun_bridge::sys::set_option(
        std::os::fd::AsFd::as_fd(&socket),
        libc::IPPROTO_IP,
        libc::IP_MTU_DISCOVER,
        libc::IP_PMTUDISC_PROBE,
    )?;
    let receiver = b.run(move || UdpSocket::bind((target, 7000)))??;
    receiver.set_read_timeout(Some(Duration::from_millis(500)))?;
    let mut buf = [0; 2000];
    socket.send_to(&[1; 1400], (target, 7000))?;
    ensure!(receiver.recv(&mut buf).is_err(), "1,428 bytes passed a cable of 1,280");
    socket.send_to(&[1; 1200], (target, 7000))?;
    ensure!(receiver.recv(&mut buf)? == 1200);
    Ok(())
}

fn roaming() -> Result<()> {
    let (mut internet, mut a, b) = two()?;
    let old = a.ipv4();
    ensure!(reaches(&b, &a, old.into(), 100)?);
    internet.roam(&mut a)?;
    ensure!(a.ipv4() != old);
    for address in [a.ipv4().into(), a.ipv6().into()] {
        ensure!(reaches(&b, &a, address, 100)?, "{address}");
    }
    ensure!(reaches(&a, &b, b.ipv4().into(), 100)?);
    ensure!(a.run(move || UdpSocket::bind((old, 7000)))?.is_err(), "the old address is gone");
    Ok(())
}

fn cables() -> Result<()> {
    let (internet, a, b) = two()?;
    internet.set_cable(&b, false)?;
    ensure!(!reaches(&a, &b, b.ipv4().into(), 100)?);
    internet.set_cable(&b, true)?;
    ensure!(reaches(&a, &b, b.ipv4().into(), 100)?);
    ensure!(reaches(&a, &b, b.ipv6().into(), 100)?);
    Ok(())
}

fn echoes() -> Result<()> {
    let (internet, a, b) = two()?;
    for target in [b.ipv4().into(), b.ipv6().into()] {
        let mut echo = Echo::new(&a, target, 1400)?;
        ensure!(echo.insist(Duration::from_secs(5))?.is_some(), "{target}");
        ensure!(echo.ping(Duration::from_secs(2))?.is_some(), "{target}");
    }
    internet.set_cable(&b, false)?;
    ensure!(Echo::new(&a, b.ipv4().into(), 64)?.insist(Duration::from_millis(700))?.is_none());
    Ok(())
}

fn streams() -> Result<()> {
    let (_internet, a, b) = two()?;
    let transfer = tcp_transfer(&a, &b, b.ipv4().into(), Duration::from_millis(300))?;
    ensure!(transfer.time > Duration::from_millis(200) && transfer.mbit_per_s() > 10.0, "{transfer:?}");
    ensure!(tcp_transfer(&a, &b, a.ipv4().into(), Duration::from_millis(300)).is_err(), "b cannot listen on a's address");
    Ok(())
}

fn programs() -> Result<()> {
    let (_internet, a, _b) = two()?;
    let mut list = command("cat")?;
    list.arg("/proc/net/dev");
    let output = a.output(list)?;
    ensure!(output.status.success() && String::from_utf8_lossy(&output.stdout).contains("eth0"));
    let mut missing = command("/nonexistent")?;
    missing.arg("x");
    let output = a.output(missing)?;
    ensure!(output.status.code() == Some(127), "{output:?}");
    let mut shell = command("sh")?;
    shell.args(["-c", "echo started; exec sleep 1000"]).stdout(Stdio::piped());
    let mut process = a.spawn(shell)?;
    let mut out = BufReader::new(process.stdout.take().context("a pipe was asked for")?);
    let mut line = String::new();
    out.read_line(&mut line)?;
    ensure!(line == "started\n");
    // The thread of the host ends, and with it the program: its end of the pipe closes.
    drop(a);
    ensure!(out.read(&mut [0])? == 0);
    ensure!(!process.wait()?.success());
    Ok(())
}
