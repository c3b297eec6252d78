//! What the engine does by the clock: time and addresses for the nodes, look-ups, writing, and signs of life.

use annulus_core::io::Command;
use annulus_core::time::{Instant, UnixTime};
use annulus_tun_bridge::sys;

use super::groups::Concern;
use super::{CLOCK_CHECK, Engine, Plane, STARTING, start};
use crate::clock::{self, WALL_INTERVAL};
use crate::resolver::LOOK_UP_INTERVAL;

impl<P: Plane> Engine<P> {
    pub(super) fn timers(&mut self, now: Instant) {
        if now >= self.next_clock {
            self.check_clock(now);
        }
        if self.next_release.is_some_and(|due| now >= due) {
            if let Err(error) = sys::release_code() {
                tracing::debug!(%error, "cannot give back memory");
            }
            let age = now.saturating_since(self.started);
            self.next_release = (age < STARTING).then(|| now + age);
        }
        if now >= self.next_wall {
            self.tell_time(now);
        }
        if self.next_addresses.is_some_and(|due| now >= due) {
            self.next_addresses = None;
            let addresses = start::candidates(&self.host.sockets, &self.host.devices);
            tracing::debug!(?addresses, "this host's addresses");
            for group in &self.groups {
                self.plane.command(group.realm, Command::LocalAddresses(addresses.clone()), now);
            }
            // A changed network is also the moment at which a name may resolve again.
            self.next_names = now;
        }
        if now >= self.next_names {
            self.next_names = now + LOOK_UP_INTERVAL;
            for group in self.groups.iter().filter(|group| !group.names.is_empty()) {
                let _ = self.resolver.ask(group.realm.0, group.names.clone());
            }
        }
        while let Some(pending) = self.requests.expired(now) {
            self.time_out(&pending);
        }
        if let Some(writer) = &self.writer {
            for group in &mut self.groups {
                group.write(writer, Some(now));
            }
        }
        self.supervision.alive(now);
    }

    pub(super) fn check_clock(&mut self, now: Instant) {
        self.next_clock = now + CLOCK_CHECK;
        let news = self.clock.check();
        if news.resumed {
            tracing::info!("this host was suspended; paths are looked after");
            for group in &self.groups {
                self.plane.command(group.realm, Command::Resumed, now);
            }
            self.next_addresses = Some(now);
        }
        if news.stepped || news.resumed {
            if news.stepped {
                tracing::info!(wall = %clock::wall(), "the clock of this host was set");
            }
            self.tell_time(now);
        }
    }

    /// Tells the nodes the wall clock, never before the latest time that was seen signed, and what the operator has put beside their files.
    pub(super) fn tell_time(&mut self, now: Instant) {
        self.next_wall = now + WALL_INTERVAL;
        let wall = clock::wall();
        for group in &mut self.groups {
            let signed = UnixTime(group.state().signed_time);
            self.plane.command(group.realm, Command::WallClock(wall.max(signed)), now);
            let behind = (wall < signed)
                .then(|| format!("this host's clock is {} s behind the latest time seen signed; set it", signed.saturating_since(wall)));
            if group.concern(Concern::Clock, behind.clone())
                && let Some(text) = behind
            {
                tracing::warn!(group = group.name, "{text}");
            }
            group.check_certificate(wall.max(signed));
            if let Some(list) = group.dropped_in_list() {
                self.plane.command(group.realm, Command::RevocationList(list), now);
            }
        }
    }
}
