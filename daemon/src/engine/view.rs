//! Answers to the control socket, and the report for the log.

use annulus_core::io::RealmSlot;
use annulus_core::time::Instant;
use serde::Serialize;

use super::requests::About;
use super::{CONTROL_REQUESTS, Engine, Plane};
use crate::control::server::Ticket;
use crate::control::{ControlError, ErrorCode, Request};
use crate::status::{HostEntry, HostsAnswer, Status};

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
            ..Status::default()
        };
        for group in self.groups.iter().filter(|group| realms.contains(&group.realm)) {
            let Some(mut view) = self.plane.view(group.realm, now) else { continue };
            view.group.name.clone_from(&group.name);
            view.group.device.clone_from(&group.device);
            view.group.warnings.extend(group.concerns.values().cloned());
            let dropped = self.host.dropped.get(usize::from(group.realm.0)).copied().unwrap_or(0);
            let losses = self.host.losses(group.realm, group.realm == RealmSlot(0)).by_name();
            for (place, count) in [("driver", dropped)].into_iter().chain(losses).filter(|(_, count)| *count > 0) {
                *view.group.drops.entry(place.to_owned()).or_default() += count;
            }
            for peer in &mut view.peers {
                peer.group.clone_from(&group.name);
            }
            status.groups.push(view.group);
            status.peers.extend(view.peers);
        }
        status
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
