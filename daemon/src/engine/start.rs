//! From settings to a running engine: groups, keys, state, sockets, devices, in an order in which a failure leaves nothing behind.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use annulus_core::group::Roles;
use annulus_core::io::RealmSlot;
use annulus_tun_bridge::host::{HostChanges, overlapping};
use annulus_tun_bridge::{Backend, Cidr, TunConfig};

use super::groups::{Concern, Group};
use super::host::{Device, Host};
use crate::exit::{Exit, Failure};
use crate::group_file::{BootstrapHost, GroupFile};
use crate::settings::{Settings, TunBackend};
use crate::state::StateDir;
use crate::udp::{UdpOptions, UdpSocket};
use crate::{clock, identity, preflight};

/// Ports that are drawn from: above the registered services that matter, below what Linux gives to outgoing connections.
const PORTS: std::ops::Range<u16> = 20_000..32_768;

/// How often a port is drawn before giving up; so many taken ones in a row mean that something else is wrong.
const PORT_DRAWS: usize = 64;

/// Queues of each TUN device that one worker reads in turns. The host puts each flow into one of them by a hash, so a flow that fills its queue leaves
/// seven of eight others undelayed. More would make that rarer still, but each holds up to 64 kB of ours while it is read.
const TUN_QUEUES: u8 = 8;

/// Everything that a daemon needs of its host, before the protocol runs.
#[derive(Debug)]
pub struct Parts {
    /// The settings.
    pub settings: Settings,
    /// Sockets and devices.
    pub host: Host,
    /// The groups, in the order of their realms.
    pub groups: Vec<Group>,
    /// Their files, in the same order.
    pub files: Vec<GroupFile>,
    /// The state directory.
    pub state: StateDir,
    /// What was changed on the host; none when no group has a device.
    pub changes: Option<HostChanges>,
}

/// Gathers everything. What can be wrong with files is looked at before anything is made.
///
/// # Errors
/// [`Failure`] with the exit code that belongs to it.
pub fn gather(settings: Settings) -> Result<Parts, Failure> {
    let files = preflight::groups(&settings)?;
    let mut members = Vec::new();
    for file in &files {
        members.push(identity::load(file).map_err(Failure::usage)?);
    }
    let needs_device: Vec<bool> =
        files.iter().zip(&members).map(|(file, member)| has_addresses(file, member.identity.certificate().roles())).collect();
    if needs_device.contains(&true) {
        preflight::devices(&files)?;
    }
    let state = StateDir::open(&settings.state_dir, settings.adopt_state).map_err(Failure::failed)?;
    let mut groups = Vec::new();
    for (index, (file, mut member)) in files.iter().zip(members).enumerate() {
        let node_id = member.identity.node_id().to_string();
        let remembered = state.group(&file.name, &node_id).map_err(Failure::failed)?;
        let dir = state.group_dir(&file.name).map_err(Failure::failed)?;
        if let Some(list) = state.revocations(&file.name).map_err(Failure::failed)?
            && let Err(error) = member.trust.update_revocations(&list, clock::wall())
        {
            tracing::warn!(group = file.name, %error, "the stored revocation list is not used");
        }
        groups.push(Group::new(RealmSlot(index as u8), member, file, remembered, dir));
    }
    let sockets = bind(&settings, &state)?;
    let mut host = Host { sockets, ..Host::default() };
    let changes = devices(&settings, &files, &needs_device, &mut groups, &mut host)?;
    Ok(Parts { settings, host, groups, files, state, changes })
}

/// Whether the node has virtual addresses: as the group's file says, else all but pure infrastructure.
#[must_use]
pub fn has_addresses(file: &GroupFile, roles: Roles) -> bool {
    file.has_addresses
        .unwrap_or_else(|| roles.contains(Roles::MEMBER) || roles.contains(Roles::GUEST) || !roles.contains(Roles::INFRASTRUCTURE))
}

/// The addresses to bootstrap from that need no look-up: those of the file, then those that answered last time.
#[must_use]
pub fn bootstrap(file: &GroupFile, group: &Group) -> Vec<SocketAddr> {
    let fixed = file.bootstrap.iter().filter_map(|host| match host {
        BootstrapHost::Address(address) => Some(*address),
        BootstrapHost::Name(..) => None,
    });
    let mut all: Vec<SocketAddr> = Vec::new();
    for address in fixed.chain(group.state().known_addresses.iter().copied()) {
        if !all.contains(&address) {
            all.push(address);
        }
    }
    all
}

/// Binds the sockets: to a port that was named, else to the kept one, else to a new one that is kept from now on.
fn bind(settings: &Settings, state: &StateDir) -> Result<Vec<UdpSocket>, Failure> {
    let listen = settings.listen;
    if listen.port() != 0 {
        return bind_port(listen.ip(), listen.port())
            .map_err(|error| Failure::failed(format!("cannot listen on UDP {listen}: {error}{}", hint(&error))));
    }
    let mut remembered = state.host().map_err(Failure::failed)?;
    if let Some(port) = remembered.udp_port {
        match bind_port(listen.ip(), port) {
            Ok(sockets) => {
                // The machine may have been adopted, or the format may be newer.
                state.store_host(&remembered).map_err(Failure::failed)?;
                return Ok(sockets);
            }
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
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
        match bind_port(listen.ip(), port) {
            Ok(sockets) => {
                remembered.udp_port = Some(port);
                state.store_host(&remembered).map_err(Failure::failed)?;
                return Ok(sockets);
            }
            Err(error) => last = Some(error),
        }
    }
    let error = last.map(|error| format!("{error}{}", hint(&error))).unwrap_or_default();
    Err(Failure::failed(format!("cannot listen on any UDP port of {}: {error}", listen.ip())))
}

/// One socket per address family: the unspecified IPv6 address stands for both. A host without one of the families does with the other.
fn bind_port(ip: IpAddr, port: u16) -> std::io::Result<Vec<UdpSocket>> {
    // Both have number 0: an endpoint's family says which of them it is for.
    let socket = |ip: IpAddr| UdpSocket::bind(SocketAddr::new(ip, port), 0, UdpOptions::default());
    if ip != IpAddr::from(Ipv6Addr::UNSPECIFIED) {
        return Ok(vec![socket(ip)?]);
    }
    let mut sockets = Vec::new();
    let mut missing = None;
    for ip in [IpAddr::from(Ipv4Addr::UNSPECIFIED), ip] {
        match socket(ip) {
            Ok(socket) => sockets.push(socket),
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => return Err(error),
            Err(error) => missing = Some(error),
        }
    }
    match missing {
        Some(error) if sockets.is_empty() => Err(error),
        _ => Ok(sockets),
    }
}

fn hint(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => " (another program, or another instance, uses it: name another port with --listen)",
        std::io::ErrorKind::AddrNotAvailable => " (this host has no such address)",
        std::io::ErrorKind::PermissionDenied => " (ports below 1024 need CAP_NET_BIND_SERVICE)",
        _ => "",
    }
}

/// Makes a TUN device for each group that needs one, after looking for networks that are in the way.
fn devices(
    settings: &Settings,
    files: &[GroupFile],
    needed: &[bool],
    groups: &mut [Group],
    host: &mut Host,
) -> Result<Option<HostChanges>, Failure> {
    if !needed.contains(&true) {
        return Ok(None);
    }
    let journal = settings.state_dir.join("host-changes.json");
    let mut changes = HostChanges::begin(&journal).map_err(|error| {
        Failure::failed(format!("cannot undo what an earlier run left on this host (see {}): {error}", journal.display()))
    })?;
    for (index, ((file, group), _)) in files.iter().zip(groups).zip(needed).enumerate().filter(|(_, (_, needed))| **needed) {
        let name = device_name(settings, file, index);
        if let Some(overlap) = overlap(file, &name)? {
            if !file.allow_overlap {
                return Err(Failure::failed(format!(
                    "{overlap}; packets would go astray. Give the group other networks, take that one off this host, or set allow_overlap = true in {} if you know better",
                    file.file.display()
                )));
            }
            tracing::warn!(group = file.name, "{overlap}");
            group.concern(Concern::Overlap, Some(overlap));
        }
        let queues = if settings.tun_backend == TunBackend::TunTap { 1 } else { TUN_QUEUES };
        let config = TunConfig { name, backend: backend(settings.tun_backend), queues, ..TunConfig::default() };
        let queues = annulus_tun_bridge::open(&config).map_err(|error| {
            let exit = if matches!(error, annulus_tun_bridge::OpenError::Unavailable(_)) { Exit::NotPossible } else { Exit::Failed };
            Failure::new(exit, error)
        })?;
        let tun = &queues[0];
        changes
            .configure(tun.name(), &config)
            .map_err(|error| Failure::failed(format!("cannot set up the device {}: {error}", tun.name())))?;
        tracing::info!(group = file.name, device = tun.name(), backend = tun.features().backend, "TUN device");
        group.device = Some(tun.name().to_owned());
        host.devices.extend(queues.into_iter().map(|tun| Device { realm: RealmSlot(index as u8), tun }));
    }
    Ok(Some(changes))
}

fn device_name(settings: &Settings, file: &GroupFile, index: usize) -> String {
    match (&file.tun_name, index) {
        (Some(name), _) => name.clone(),
        (None, 0) => settings.tun_name.clone(),
        (None, index) => format!("{}{index}", settings.tun_name),
    }
}

const fn backend(backend: TunBackend) -> Backend {
    match backend {
        TunBackend::Auto => Backend::Auto,
        TunBackend::Vnet => Backend::Vnet,
        TunBackend::TunTap => Backend::TunTap,
    }
}

/// A network of the group that shares addresses with one of this host, in words.
fn overlap(file: &GroupFile, device: &str) -> Result<Option<String>, Failure> {
    for network in file.ipv4_network.iter().chain([&file.ipv6_network]) {
        let Some(cidr) = Cidr::new(network.address, network.len) else { continue };
        let found = overlapping(&cidr, device).map_err(|error| Failure::failed(format!("cannot look at this host's routes: {error}")))?;
        if let Some((there, link)) = found.first() {
            return Ok(Some(format!("the network {network} of group `{}` overlaps with {there} on {link}", file.name)));
        }
    }
    Ok(None)
}

/// Whether the CPU has instructions for AES: with them AES-GCM is the faster cipher.
#[must_use]
pub fn hardware_aes() -> bool {
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    return std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")))]
    return false;
}

/// Addresses of this host at which others may reach the sockets.
#[must_use]
pub(super) fn candidates(sockets: &[UdpSocket], devices: &[Device]) -> Vec<SocketAddr> {
    let own: Vec<&str> = devices.iter().map(|device| device.tun.name()).collect();
    let mut found: Vec<SocketAddr> = Vec::new();
    let addresses = annulus_tun_bridge::netlink::local_addresses(&own).unwrap_or_else(|error| {
        tracing::warn!(%error, "this host's addresses are unknown: peers on the same network may take a detour");
        Vec::new()
    });
    for socket in sockets {
        let local = socket.local_address();
        if local.ip().is_unspecified() {
            found.extend(
                addresses
                    .iter()
                    .filter(|address| address.is_ipv4() == local.is_ipv4())
                    .map(|address| SocketAddr::new(*address, local.port())),
            );
        } else {
            found.push(local);
        }
    }
    found
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

    #[test]
    fn a_drawn_port_is_kept_and_replaced_only_when_it_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let settings = settings(dir.path(), "127.0.0.1:0");
        let state = StateDir::open(&settings.state_dir, false).unwrap();
        let port = |sockets: &[UdpSocket]| sockets[0].local_address().port();
        let first = bind(&settings, &state).unwrap();
        let drawn = port(&first);
        assert!(PORTS.contains(&drawn));
        drop(first);
        let held = bind(&settings, &state).unwrap();
        assert_eq!(port(&held), drawn);
        let other = bind(&settings, &state).unwrap();
        assert_ne!(port(&other), drawn);
        assert_eq!(state.host().unwrap().udp_port, Some(port(&other)));
    }

    #[test]
    fn a_named_port_that_is_taken_is_an_error_with_advice() {
        let dir = tempfile::tempdir().unwrap();
        let free = bind_port(Ipv4Addr::LOCALHOST.into(), 0).unwrap();
        let settings = settings(dir.path(), &free[0].local_address().to_string());
        let state = StateDir::open(&settings.state_dir, false).unwrap();
        assert!(bind(&settings, &state).unwrap_err().message.contains("--listen"));
    }
}
