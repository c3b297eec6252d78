//! What nodes tell: into the log, onto the disk and the TUN device, and to whoever asked.

use annulus_core::io::{Command, Event, RealmSlot};
use annulus_core::time::Instant;

use super::groups::Concern;
use super::requests::About;
use super::{Engine, Plane};
use crate::control::{ControlError, ErrorCode};
use crate::status::{PingAnswer, TraceAnswer, TraceHop, micros_to_ms};

impl<P: Plane> Engine<P> {
    pub(super) fn carry_events(&mut self, now: Instant) {
        while let Some((realm, event)) = self.host.events.pop_front() {
            self.carry(realm, event, now);
        }
        for (remote, len) in core::mem::take(&mut self.host.small) {
            let realms: Vec<RealmSlot> = self.groups.iter().map(|group| group.realm).collect();
            for realm in realms {
                self.plane.command(realm, Command::PathTooSmall { remote, len }, now);
            }
        }
    }

    fn carry(&mut self, realm: RealmSlot, event: Event, now: Instant) {
        match event {
            Event::Joined { .. } | Event::Disturbed | Event::PeerUp { .. } | Event::PeerDown { .. } | Event::PathChanged { .. } => {
                self.ring_event(realm, &event)
            }
            Event::Refused { .. } | Event::Strangers { .. } | Event::DuplicateIdentity { .. } | Event::ClockBehind(_) => {
                self.warn(realm, event)
            }
            Event::Resolved { .. } | Event::Echo { .. } | Event::Trace { .. } => self.answer_event(realm, event, now),
            Event::Addresses { addresses: _, hosts } => {
                let Some(group) = self.groups.iter_mut().find(|group| group.realm == realm) else { return };
                if let Some(changes) = &mut self.changes {
                    group.set_addresses(&hosts, changes);
                }
            }
            Event::Warning(text) => tracing::warn!(group = self.name_of(realm), "{text}"),
            Event::Left => {
                if let Some(group) = self.group_of(realm) {
                    group.left = true;
                }
            }
            Event::Lease(_) | Event::KnownAddresses(_) | Event::SignedTime(_) | Event::RevocationList(_) => {
                self.remember(realm, event, now)
            }
        }
    }

    fn remember(&mut self, realm: RealmSlot, event: Event, now: Instant) {
        let Some(group) = self.group_of(realm) else { return };
        match event {
            Event::Lease(lease) => group.remember_lease(&lease, now),
            Event::KnownAddresses(addresses) => group.remember_addresses(addresses, now),
            Event::SignedTime(time) => group.remember_signed_time(time, now),
            Event::RevocationList(list) => {
                tracing::info!(group = group.name, "a newer revocation list");
                group.remember_revocations(list, now);
            }
            _ => {}
        }
    }

    fn ring_event(&mut self, realm: RealmSlot, event: &Event) {
        let Some(group) = self.group_of(realm) else { return };
        let name = group.name.as_str();
        match event {
            Event::Joined { ring_size } => {
                if !group.connected {
                    tracing::info!(group = name, ring_size, "joined the ring");
                }
                group.connected = true;
            }
            Event::Disturbed => {
                tracing::info!(group = name, "the ring position is not consistent");
                group.connected = false;
            }
            Event::PeerUp { node, name: peer, user } => tracing::info!(group = name, peer, user, %node, "peer is up"),
            Event::PeerDown { node, reason } => tracing::info!(group = name, %node, reason, "peer is down"),
            Event::PathChanged { node, remote: Some(remote), reason } => tracing::info!(group = name, %node, %remote, reason, "path"),
            Event::PathChanged { node, remote: None, reason } => tracing::info!(group = name, %node, remote = "none", reason, "path"),
            _ => {}
        }
        let connected = self.groups.iter().filter(|group| group.connected).count();
        self.supervision.status(format!("{connected} of {} groups connected", self.groups.len()));
    }

    fn warn(&mut self, realm: RealmSlot, event: Event) {
        let Some(group) = self.group_of(realm) else { return };
        let name = group.name.clone();
        let from_text = |from: Option<std::net::SocketAddr>| from.map_or_else(|| "an unknown address".to_owned(), |from| from.to_string());
        match event {
            Event::Refused { node, from, reason, ours } => {
                let node = node.map(|node| node.to_string()).unwrap_or_default();
                let from = from_text(from);
                if ours {
                    tracing::warn!(group = name, node, from, reason, "another member refuses us");
                    group.concern(Concern::Refused, Some(format!("another member refuses this node: {reason}")));
                } else {
                    tracing::warn!(group = name, node, from, reason, "refused a peer");
                }
            }
            Event::Strangers { count, from } => {
                tracing::warn!(group = name, count, %from, "datagrams of strangers: not made under the key of this group")
            }
            Event::DuplicateIdentity { from } => {
                let text = format!(
                    "another daemon runs with this node's identity at {}; have a certificate issued for one of them and end the other",
                    from_text(from)
                );
                tracing::error!(group = name, "{text}");
                group.concern(Concern::Duplicate, Some(text));
            }
            Event::ClockBehind(behind) => {
                let text = behind.then(|| "this host's clock lies behind the latest time seen signed; set it".to_owned());
                if group.concern(Concern::Clock, text) && behind {
                    tracing::warn!(group = name, "this host's clock lies behind the latest time seen signed");
                }
            }
            _ => {}
        }
    }

    fn answer_event(&mut self, realm: RealmSlot, event: Event, now: Instant) {
        match event {
            Event::Resolved { token, node: Some((node, addresses)) } => {
                if let Some((realm, command)) = self.requests.found(token, node, addresses) {
                    self.plane.command(realm, command, now);
                }
            }
            Event::Resolved { token, node: None } => {
                let connected = self.plane.view(realm, now).is_some_and(|view| view.group.connected);
                if let Some(pending) = self.requests.end(token) {
                    let error = if connected {
                        ControlError::new(
                            ErrorCode::UnknownNode,
                            format!(
                                "nobody in group `{}` is known as `{}`; see `annulus hosts` for names",
                                self.name_of(realm),
                                pending.node
                            ),
                        )
                    } else {
                        ControlError::new(
                            ErrorCode::NotConnected,
                            format!(
                                "group `{}` is not connected to its ring, so `{}` cannot be looked up",
                                self.name_of(realm),
                                pending.node
                            ),
                        )
                    };
                    self.answer(pending.ticket, Err(error));
                }
            }
            Event::Echo { token, result } => {
                if let Some(pending) = self.requests.end(token) {
                    let (node, addresses) = pending.found.unwrap_or_default();
                    let answer = PingAnswer {
                        group: self.name_of(realm),
                        node_id: node.to_string(),
                        addresses,
                        rtt_ms: result.as_ref().map(|result| micros_to_ms(result.rtt_us)),
                        path: result.as_ref().map(|result| result.path.to_owned()),
                        remote: result.and_then(|result| result.remote),
                    };
                    self.answer_with(pending.ticket, &answer);
                }
            }
            Event::Trace { token, hops, reached } => {
                if let Some(pending) = self.requests.end(token) {
                    let (node, _) = pending.found.unwrap_or_default();
                    let hops = hops
                        .into_iter()
                        .map(|(node, name, micros)| TraceHop { node_id: node.to_string(), name, rtt_ms: micros_to_ms(micros) })
                        .collect();
                    self.answer_with(pending.ticket, &TraceAnswer { group: self.name_of(realm), node_id: node.to_string(), hops, reached });
                }
            }
            _ => {}
        }
    }

    /// A question took too long: a ping without an answer is a result, the rest an error.
    pub(super) fn time_out(&mut self, pending: &super::requests::Pending) {
        let group = self.name_of(pending.realm);
        match (&pending.found, pending.about) {
            (Some((node, addresses)), About::Ping) => {
                let answer = PingAnswer { group, node_id: node.to_string(), addresses: addresses.clone(), ..PingAnswer::default() };
                self.answer_with(pending.ticket, &answer);
            }
            (Some(_), About::Trace) => self.answer(
                pending.ticket,
                Err(ControlError::new(ErrorCode::Timeout, format!("no node on the way to `{}` has answered", pending.node))),
            ),
            (None, _) => self.answer(
                pending.ticket,
                Err(ControlError::new(ErrorCode::Timeout, format!("`{}` could not be looked up in time", pending.node))),
            ),
        }
    }

    fn name_of(&self, realm: RealmSlot) -> String {
        self.groups.iter().find(|group| group.realm == realm).map(|group| group.name.clone()).unwrap_or_default()
    }

    /// What a look-up of names has brought.
    pub(super) fn take_found_names(&mut self, now: Instant) {
        while let Some(found) = self.resolver.next() {
            let realm = RealmSlot(found.realm);
            let Some(group) = self.group_of(realm) else { continue };
            let failed: Vec<String> = found.failed.iter().map(|(name, why)| format!("{name} ({why})")).collect();
            let text = (!failed.is_empty()).then(|| format!("bootstrap names that cannot be resolved: {}", failed.join(", ")));
            if group.concern(Concern::Dns, text.clone())
                && let Some(text) = text
            {
                tracing::warn!(group = group.name, "{text}");
            }
            if !found.addresses.is_empty() {
                self.plane.command(realm, Command::Bootstrap(found.addresses), now);
            }
        }
    }
}
