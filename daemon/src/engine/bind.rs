//! The UDP sockets of a daemon: one per address family and worker, all on one port, which is named or drawn once and kept.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU8;
use std::os::fd::AsFd;

use crate::exit::Failure;
use crate::settings::Settings;
use crate::state::StateDir;
use crate::steering::steer;
use crate::udp::{UdpOptions, UdpSocket};

/// Ports that are drawn from: above the registered services that matter, below what Linux gives to outgoing connections.
const PORTS: std::ops::Range<u16> = 20_000..32_768;

/// How often a port is drawn before giving up; so many taken ones in a row mean that something else is wrong.
const PORT_DRAWS: usize = 64;

/// Sockets by worker.
#[derive(Debug, Default)]
pub(super) struct Bound {
    /// For each worker one per address family.
    pub(super) sockets: Vec<Vec<UdpSocket>>,
    /// Why there is one worker only although more were asked for.
    pub(super) refused: Option<String>,
}

/// What is to be bound.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    ip: IpAddr,
    workers: NonZeroU8,
    offload: bool,
}

/// Binds the sockets: to a port that was named, else to the kept one, else to a new one that is kept from now on.
pub(super) fn bind(settings: &Settings, state: &StateDir, workers: NonZeroU8) -> Result<Bound, Failure> {
    let listen = settings.listen;
    let wanted = Wanted { ip: listen.ip(), workers, offload: settings.offload };
    if listen.port() != 0 {
        return wanted
            .bind(listen.port())
            .map_err(|error| Failure::failed(format!("cannot listen on UDP {listen}: {error}{}", hint(&error))));
    }
    let mut remembered = state.host().map_err(Failure::failed)?;
    if let Some(port) = remembered.udp_port {
        match wanted.bind(port) {
            Ok(bound) => {
                // The machine may have been adopted, or the format may be newer.
                state.store_host(&remembered).map_err(Failure::failed)?;
                return Ok(bound);
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                tracing::warn!(port, "the UDP port of the last start is taken by another program; a new one is drawn")
            }
            Err(error) => {
                return Err(Failure::failed(format!("cannot listen on UDP port {port} of {}: {error}{}", listen.ip(), hint(&error))));
            }
        }
    }
    let mut last = None;
    for _ in 0..PORT_DRAWS {
        let mut bytes = [0; 2];
        getrandom::fill(&mut bytes).map_err(|error| Failure::failed(format!("no randomness: {error}")))?;
        let port = PORTS.start + u16::from_le_bytes(bytes) % (PORTS.end - PORTS.start);
        match wanted.bind(port) {
            Ok(bound) => {
                remembered.udp_port = Some(port);
                state.store_host(&remembered).map_err(Failure::failed)?;
                return Ok(bound);
            }
            Err(error) => last = Some(error),
        }
    }
    let error = last.map(|error| format!("{error}{}", hint(&error))).unwrap_or_default();
    Err(Failure::failed(format!("cannot listen on any UDP port of {}: {error}", listen.ip())))
}

impl Wanted {
    /// One address, or both families: the unspecified IPv6 address stands for them. A host without one of the families does with the other.
    fn bind(&self, port: u16) -> io::Result<Bound> {
        let both = self.ip == IpAddr::from(Ipv6Addr::UNSPECIFIED);
        let families = if both { vec![Ipv4Addr::UNSPECIFIED.into(), self.ip] } else { vec![self.ip] };
        let mut bound = Bound::default();
        let mut missing = None;
        for ip in families {
            match self.bind_family(SocketAddr::new(ip, port), &mut bound.refused) {
                Ok(sockets) => {
                    bound.sockets.resize_with(bound.sockets.len().max(sockets.len()), Vec::new);
                    for (worker, socket) in bound.sockets.iter_mut().zip(sockets) {
                        worker.push(socket);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(error),
                Err(error) => missing = Some(error),
            }
        }
        if bound.refused.is_some() {
            bound.sockets.truncate(1);
        }
        match missing {
            Some(error) if bound.sockets.is_empty() => Err(error),
            _ => Ok(bound),
        }
    }

    /// One socket per worker, steered by the kernel; one alone where it cannot.
    fn bind_family(&self, address: SocketAddr, refused: &mut Option<String>) -> io::Result<Vec<UdpSocket>> {
        // All have number 0: an endpoint's family says which of them it is for, and who sends which worker it is.
        let alone = || UdpSocket::bind(address, 0, self.options(false)).map(|socket| vec![socket]);
        if self.workers.get() == 1 {
            return alone();
        }
        // Sockets that share a port are let in beside those of other programs that do, and would take a part of each other's datagrams. So the port
        // must be free for one that does not share.
        drop(alone()?);
        self.bind_shared(address).or_else(|error| {
            *refused = Some(format!("the kernel does not let workers share a UDP port: {error}"));
            alone()
        })
    }

    /// In the order of the workers: the kernel numbers them so.
    fn bind_shared(&self, address: SocketAddr) -> io::Result<Vec<UdpSocket>> {
        let first = UdpSocket::bind(address, 0, self.options(true))?;
        let address = first.local_address();
        // Before there is a second one that datagrams could go to.
        steer(first.as_fd(), self.workers)?;
        let mut sockets = vec![first];
        while sockets.len() < usize::from(self.workers.get()) {
            sockets.push(UdpSocket::bind(address, 0, self.options(true))?);
        }
        Ok(sockets)
    }

    fn options(&self, reuse_port: bool) -> UdpOptions {
        UdpOptions { offload: self.offload, reuse_port, ..UdpOptions::default() }
    }
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => " (another program, or another instance, uses it: name another port with --listen)",
        io::ErrorKind::AddrNotAvailable => " (this host has no such address)",
        io::ErrorKind::PermissionDenied => " (ports below 1024 need CAP_NET_BIND_SERVICE)",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Flags;
    use std::path::Path;

    fn settings(dir: &Path, listen: &str) -> Settings {
        let config = dir.join("annulus.toml");
        std::fs::write(&config, "").unwrap();
        Settings::new(&Flags {
            config: Some(config),
            state_dir: Some(dir.join("state")),
            listen: Some(listen.parse().unwrap()),
            ..Flags::default()
        })
        .unwrap()
    }

    fn wanted(ip: impl Into<IpAddr>, workers: u8) -> Wanted {
        Wanted { ip: ip.into(), workers: NonZeroU8::new(workers).unwrap(), offload: true }
    }

    fn port(bound: &Bound) -> u16 {
        bound.sockets[0][0].local_address().port()
    }

    #[test]
    fn a_drawn_port_is_kept_and_replaced_only_when_it_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let settings = settings(dir.path(), "127.0.0.1:0");
        let state = StateDir::open(&settings.state_dir, false).unwrap();
        for workers in [1, 2].map(|count| NonZeroU8::new(count).unwrap()) {
            let first = bind(&settings, &state, workers).unwrap();
            let drawn = port(&first);
            assert!(PORTS.contains(&drawn));
            drop(first);
            let held = bind(&settings, &state, workers).unwrap();
            assert_eq!(port(&held), drawn);
            let other = bind(&settings, &state, workers).unwrap();
            assert_ne!(port(&other), drawn);
            assert_eq!(state.host().unwrap().udp_port, Some(port(&other)));
        }
    }

    #[test]
    fn a_named_port_that_is_taken_is_an_error_with_advice_for_any_number_of_workers() {
        let dir = tempfile::tempdir().unwrap();
        for (held, more) in [(1, 1), (1, 2), (2, 1), (2, 2)] {
            let taken = wanted(Ipv4Addr::LOCALHOST, held).bind(0).unwrap();
            let settings = settings(dir.path(), &taken.sockets[0][0].local_address().to_string());
            let state = StateDir::open(&settings.state_dir, false).unwrap();
            assert!(bind(&settings, &state, NonZeroU8::new(more).unwrap()).unwrap_err().message.contains("--listen"));
        }
    }

    #[test]
    fn each_worker_has_a_socket_per_family_on_the_same_port() {
        // A port that is free for the IPv4 socket may be taken for the other one: draw again.
        let bound = (0..20).find_map(|_| {
            let free = port(&wanted(Ipv4Addr::UNSPECIFIED, 1).bind(0).unwrap());
            wanted(Ipv6Addr::UNSPECIFIED, 3).bind(free).ok()
        });
        let bound = bound.unwrap();
        assert_eq!((bound.sockets.len(), &bound.refused), (3, &None));
        let families = bound.sockets[0].len();
        for sockets in &bound.sockets {
            assert_eq!(sockets.len(), families);
            assert!(sockets.iter().all(|socket| socket.local_address().port() == port(&bound)));
        }
    }
}
