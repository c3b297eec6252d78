//! The ceiling forwarder as a program; see [`annulus_bench::ceiling`].

#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::process::ExitCode;

use clap::Parser;

/// A forwarder between TUN and UDP with AES-256-GCM and nothing else: what a VPN in user space could reach. It protects nothing.
#[derive(Parser, Debug)]
#[command(name = "annulus-ceiling", version)]
struct Arguments {
    /// Name of the TUN device
    #[arg(long, value_name = "NAME")]
    tun: String,
    /// Address and port of this end
    #[arg(long, value_name = "ADDR:PORT")]
    local: SocketAddr,
    /// Address and port of the other end
    #[arg(long, value_name = "ADDR:PORT")]
    remote: SocketAddr,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let ended = annulus_bench::ceiling::forward(&arguments.tun, arguments.local, arguments.remote);
    annulus_daemon::exit::conclude(ended.map(|()| annulus_daemon::exit::Exit::Done))
}
