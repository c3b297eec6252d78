//! Answers to the control socket, and the report for the log.

use std::net::SocketAddr;

use annulus_core::io::RealmSlot;
use annulus_core::time::Instant;
use annulus_tun_bridge::netlink::Netlink;
use serde::Serialize;

use super::host::Losses;
use super::requests::About;
use super::{CONTROL_REQUESTS, Engine, Plane};
use crate::control::server::Ticket;
use crate::control::{ControlError, ErrorCode, Request};
use crate::status::{HostEntry, HostsAnswer, PeerStatus, Status};

impl<P: Plane> Engine<P> {
    /// Answers what was asked, a bounded number at a time; says whether there may be more.
    pub(super) fn answer_requests(&mut self, now: Instant) -> bool {
        self.take_found_names(now);
        for _ in 0..CONTROL_REQUESTS {
            let Some((ticket, request)) = self.control.as_mut().and_then(|control| control.next_request()) else { return false };
            self.answer_request(ticket, request, now);
        }
        true
    }

    fn answer_request(&mut self, ticket: Ticket, request: Request, now: Instant) {
        match request {
            Request::Status { group } => match self.realms(group.as_deref()) {
                Ok(realms) => self.answer_with(ticket, &self.status(&realms, now)),
                Err(error) => self.answer(ticket, Err(error)),
            },
            Request::Hosts { group } => match self.realms(group.as_deref()) {
                Ok(realms) => {
                    let answer = HostsAnswer { hosts: self.hosts(&realms, now) };
                    self.answer_with(ticket, &answer);
                }
                Err(error) => self.answer(ticket, Err(error)),
            },
            Request::Ping { group, node } => self.ask_about(ticket, group.as_deref(), node, About::Ping, now),
            Request::Trace { group, node } => self.ask_about(ticket, group.as_deref(), node, About::Trace, now),
            Request::Stop {} => {
                self.answer_with(ticket, &serde_json::json!({ "pid": std::process::id() }));
                self.leave(now, "the control socket");
            }
        }
    }

    fn ask_about(&mut self, ticket: Ticket, group: Option<&str>, node: String, about: About, now: Instant) {
        let begun = self.realms(group).and_then(|realms| match realms[..] {
            [realm] => Ok(realm),
            _ => Err(ControlError::new(
                ErrorCode::Group,
                format!("this host is in several groups, name one with --group: {}", self.group_names()),
            )),
        });
        match begun.and_then(|realm| Ok((realm, self.requests.begin(ticket, realm, about, node, now)?))) {
            Ok((realm, command)) => self.plane.command(realm, command, now),
            Err(error) => self.answer(ticket, Err(error)),
        }
    }

    /// The realm of a group, or all.
    fn realms(&self, group: Option<&str>) -> Result<Vec<RealmSlot>, ControlError> {
        let Some(name) = group else { return Ok(self.groups.iter().map(|group| group.realm).collect()) };
        match self.groups.iter().find(|group| group.name == name) {
            Some(group) => Ok(vec![group.realm]),
            None => {
                Err(ControlError::new(ErrorCode::Group, format!("this host is in no group `{name}`; its groups: {}", self.group_names())))
            }
        }
    }

    fn group_names(&self) -> String {
        self.groups.iter().map(|group| group.name.as_str()).collect::<Vec<_>>().join(", ")
    }

    pub(super) fn answer(&self, ticket: Ticket, answer: Result<serde_json::Value, ControlError>) {
        if let Some(control) = &self.control {
            control.answer(ticket, answer);
        }
    }

    pub(super) fn answer_with<T: Serialize>(&self, ticket: Ticket, value: &T) {
        self.answer(ticket, Ok(serde_json::to_value(value).expect("plain data with text keys always becomes JSON")));
    }

    /// Groups and peers as they are now.
    fn status(&self, realms: &[RealmSlot], now: Instant) -> Status {
        let mut status = Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            runtime: self.runtime.to_owned(),
            pid: std::process::id(),
            uptime_s: now.saturating_since(self.started).as_secs(),
            listen: self.host.sockets.iter().map(|socket| socket.local_address()).collect(),
            workers: self.host.links.len() as u8 + 1,
            tun_backend: self.host.devices.first().map(|device| device.tun.features().backend.to_owned()),
            fallbacks: self.fallbacks(),
            ..Status::default()
        };
        for group in self.groups.iter().filter(|group| realms.contains(&group.realm)) {
            let Some(mut view) = self.plane.view(group.realm, now) else { continue };
            view.group.name.clone_from(&group.name);
            view.group.device.clone_from(&group.device);
            view.group.warnings.extend(group.concerns.values().cloned());
            for (place, count) in self.losses(group.realm).into_iter().filter(|(_, count)| *count > 0) {
                *view.group.drops.entry(place.to_owned()).or_default() += count;
            }
            self.fill_in_offload(&mut view.peers);
            for peer in &mut view.peers {
                peer.group.clone_from(&group.name);
            }
            status.groups.push(view.group);
            status.peers.extend(view.peers);
        }
        status
    }

    /// What the daemon lost of a realm, by place: names as in `status`, and counts. What the sockets lost, which all realms share, stands with the first.
    fn losses(&self, realm: RealmSlot) -> [(&'static str, u64); 5] {
        let place = usize::from(realm.0);
        let own = self.host.tally();
        let tallies = || self.crew.iter().flat_map(|crew| &crew.tallies).chain([&own]);
        let at = |counts: &[u64]| counts.get(place).copied().unwrap_or(0);
        let shared = |count: fn(&Losses) -> u64| if place == 0 { tallies().map(|tally| count(&tally.losses)).sum() } else { 0 };
        [
            ("driver", tallies().map(|tally| at(&tally.dropped)).sum()),
            ("udp_receive_queue", shared(|losses| losses.udp_receive_queue)),
            ("udp_send", shared(|losses| losses.udp_send)),
            ("tun_write", tallies().map(|tally| at(&tally.losses.tun_write)).sum()),
            ("tun_queue", self.tun_queue_drops(realm)),
        ]
    }

    /// Packets of the host for which the TUN device's queues had no room.
    fn tun_queue_drops(&self, realm: RealmSlot) -> u64 {
        let Some(device) = self.host.devices.iter().find(|device| device.realm == realm) else { return 0 };
        // Without an answer the other places still say where it was.
        Netlink::open().and_then(|mut netlink| netlink.link(device.tun.name())).ok().flatten().map_or(0, |link| link.tx_dropped)
    }

    /// What the sockets do for each path: a relayed one leaves by the direct path to its relay, a routed one packet by packet.
    fn fill_in_offload(&self, peers: &mut [PeerStatus]) {
        let direct = |peer: &PeerStatus| peer.paths.iter().find(|path| path.active && path.kind == "direct").and_then(|path| path.remote);
        let relays: Vec<(String, SocketAddr)> = peers.iter().filter_map(|peer| Some((peer.node_id.clone(), direct(peer)?))).collect();
        for path in peers.iter_mut().flat_map(|peer| &mut peer.paths) {
            let relay = || relays.iter().find(|(node, _)| path.via.as_ref() == Some(node)).map(|(_, remote)| *remote);
            let Some(remote) = path.remote.or_else(relay) else { continue };
            let Some(socket) = self.host.socket_for(remote) else { continue };
            let mut tallies = self.crew.iter().flat_map(|crew| &crew.tallies);
            path.gso = socket.gso(remote) && !tallies.any(|tally| tally.unsegmented.contains(&remote));
            path.gro = socket.gro();
        }
    }

    /// Members whose names and addresses are known.
    fn hosts(&self, realms: &[RealmSlot], now: Instant) -> Vec<HostEntry> {
        let mut hosts = Vec::new();
        for group in self.groups.iter().filter(|group| realms.contains(&group.realm)) {
            let known = self.plane.view(group.realm, now).map(|view| view.hosts).unwrap_or_default();
            hosts.extend(known.into_iter().map(|host| HostEntry { group: group.name.clone(), ..host }));
        }
        hosts
    }

    /// Writes to the log what `status` shows.
    pub(super) fn report(&self, now: Instant) {
        let realms: Vec<RealmSlot> = self.groups.iter().map(|group| group.realm).collect();
        let status = serde_json::to_string(&self.status(&realms, now)).expect("plain data with text keys always becomes JSON");
        tracing::info!(status, state_dir = %self.settings.state_dir.display(), "report");
    }
}
