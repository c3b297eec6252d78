//! From settings to a running engine: groups, keys, state, sockets, devices, in an order in which a failure leaves nothing behind.

use std::net::SocketAddr;
use std::num::NonZeroU8;

use annulus_core::group::Roles;
use annulus_core::io::RealmSlot;
use annulus_tun_bridge::host::{HostChanges, overlapping};
use annulus_tun_bridge::{Backend, Cidr, TunConfig};

use super::bind::{Bound, bind};
use super::crew::Crew;
use super::driven::Drive;
use super::groups::{Concern, Group};
use super::host::{Device, Host};
use crate::exit::{Exit, Failure};
use crate::group_file::{BootstrapHost, GroupFile};
use crate::settings::{Settings, TunBackend};
use crate::state::StateDir;
use crate::udp::UdpSocket;
use crate::{clock, identity, preflight};

/// Queues of each TUN device that one worker reads in turns. The host puts each flow into one of them by a hash, so a flow that fills its queue leaves
/// seven of eight others undelayed. More would make that rarer still, but each holds up to 64 kB of ours while it is read.
const TUN_QUEUES: usize = 8;

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
    /// How many threads carry packets.
    pub workers: NonZeroU8,
    /// Sockets and devices of the workers 1 and above.
    pub others: Vec<Host>,
    /// Why there is one worker although several were asked for.
    pub one_worker: Option<String>,
    pub(super) crew: Option<Crew>,
}

impl Parts {
    /// Starts the workers 1 and above, if there are any, each with the event loop `drive`.
    ///
    /// # Errors
    /// When the system has no thread, descriptor or randomness left.
    pub fn hire(&mut self, drive: Drive) -> Result<(), Failure> {
        let workers = super::core_plane::workers(self)?;
        if !workers.is_empty() {
            let (crew, links) = Crew::start(workers, core::mem::take(&mut self.others), drive)?;
            self.crew = Some(crew);
            self.host.links = links;
        }
        Ok(())
    }
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
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let wanted = settings.workers.count(cores);
    let Bound { sockets, refused } = bind(&settings, &state, wanted)?;
    let mut hosts: Vec<Host> = sockets.into_iter().map(|sockets| Host { sockets, ..Host::default() }).collect();
    let (changes, lacking) = devices(&settings, &files, &needs_device, &mut groups, &mut hosts)?;
    let why = refused.or(lacking);
    if why.is_some() {
        hosts.truncate(1);
    }
    let one_worker = why.map(|why| format!("one worker in place of {wanted}: {why}"));
    let workers = if one_worker.is_some() { NonZeroU8::MIN } else { wanted };
    let others = hosts.split_off(1);
    let host = hosts.pop().expect("sockets of worker 0 are bound, or binding has failed");
    Ok(Parts { settings, host, groups, files, state, changes, workers, others, one_worker, crew: None })
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

/// Makes a TUN device for each group that needs one, after looking for networks that are in the way, with [`TUN_QUEUES`] for each of `hosts`. The second
/// result says why a device has one queue only.
fn devices(
    settings: &Settings,
    files: &[GroupFile],
    needed: &[bool],
    groups: &mut [Group],
    hosts: &mut [Host],
) -> Result<(Option<HostChanges>, Option<String>), Failure> {
    if !needed.contains(&true) {
        return Ok((None, None));
    }
    let queues = if settings.tun_backend == TunBackend::TunTap { 1 } else { (hosts.len() * TUN_QUEUES) as u8 };
    let mut lacking = None;
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
        let config = TunConfig { name, backend: backend(settings.tun_backend), queues, offload: settings.offload, ..TunConfig::default() };
        let opened = annulus_tun_bridge::open(&config).map_err(|error| {
            let exit = if matches!(error, annulus_tun_bridge::OpenError::Unavailable(_)) { Exit::NotPossible } else { Exit::Failed };
            Failure::new(exit, error)
        })?;
        let (name, backend) = (opened[0].name().to_owned(), opened[0].features().backend);
        changes.configure(&name, &config).map_err(|error| Failure::failed(format!("cannot set up the device {name}: {error}")))?;
        tracing::info!(group = file.name, device = name, backend, queues = opened.len(), "TUN device");
        if opened.len() < hosts.len() {
            lacking = Some(format!("the TUN device {name} has one queue only (backend {backend})"));
        }
        group.device = Some(name);
        let workers = hosts.len();
        for (number, tun) in opened.into_iter().enumerate() {
            hosts[number % workers].devices.push(Device { realm: RealmSlot(index as u8), tun });
        }
    }
    Ok((Some(changes), lacking))
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
