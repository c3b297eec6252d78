//! A peer's paths and the [`Search`] for the size of the one that carries data.

use super::action::PeerAction;
use super::path::{PathKind, PathState};
use super::record::{Desk, Peer};
use super::search::Search;
use crate::io::Path;
use crate::time::Instant;
use crate::wire::link::LinkMessage;
use crate::wire::packet::{RELAY_HEADER_LEN, SEALED_OVERHEAD};

/// Bytes of a ping's payload without padding: kind and token.
const BARE_PING: usize = 9;
/// Bytes of UDP and IPv4 header.
const OUTER_V4: usize = 28;
/// Bytes of UDP and IPv6 header.
const OUTER_V6: usize = 48;

impl Peer {
    /// Data of ours took the active path: its size matters from now on. A path that is routed over the ring cuts for itself.
    pub(super) fn note_data(&mut self, desk: &Desk<'_>) {
        let (full, now) = (desk.full, desk.now);
        let state = self.active_mut();
        if state.kind == PathKind::Routed {
            return;
        }
        let overhead = overhead(state);
        state.search.get_or_insert_with(|| Box::new(Search::new(full, overhead, now))).note_use(now);
    }

    /// The active path has changed from `old`: where data flows, the size of the new one is found out at once.
    pub(super) fn move_data(&mut self, old: Path, desk: &Desk<'_>) {
        let carried = self.path(old).and_then(|state| state.search.as_ref()).is_some_and(|search| search.is_used(desk.now));
        if let Some(search) = &mut self.active_mut().search {
            search.begin_anew();
        }
        if carried {
            self.note_data(desk);
        }
    }

    /// When the search of the active path has something to do.
    pub(super) fn search_at(&self, now: Instant) -> Option<Instant> {
        self.active().search.as_ref().and_then(|search| search.due(now))
    }

    /// Does what the search of the active path wants.
    pub(super) fn run_search(&mut self, desk: &mut Desk<'_>) {
        let (session, now) = (self.sessions[0].id, desk.now);
        let state = self.active_mut();
        let (path, timeout, permille) = (state.path, state.rtt.timeout(), state.loss.permille());
        let Some(search) = &mut state.search else { return };
        let before = shown(search);
        let probes = search.run(timeout, permille, || desk.rng.next_u64(), now);
        let changed = shown(search) != before;
        if !probes.is_empty() {
            state.sent = now;
        }
        for probe in probes {
            let padding = usize::from(probe.size).saturating_sub(BARE_PING);
            desk.send(session, path, LinkMessage::Ping { token: probe.token, padding });
        }
        if changed {
            desk.actions.push_back(PeerAction::SizeChanged { peer: desk.id, path });
        }
    }

    /// Takes in the answer to a probe of the search; whether it was one.
    pub(super) fn size_answered(&mut self, from: Path, token: u64, desk: &mut Desk<'_>) -> bool {
        let Some(search) = self.path_mut(from).and_then(|state| state.search.as_mut()) else { return false };
        let before = shown(search);
        let known = search.answered(token, desk.now);
        if shown(search) != before {
            desk.actions.push_back(PeerAction::SizeChanged { peer: desk.id, path: from });
        }
        known
    }

    /// The system refused a datagram around an inner packet of `size` bytes on `path`.
    pub(super) fn size_refused(&mut self, path: Path, size: u16, desk: &mut Desk<'_>) {
        let Some(search) = self.path_mut(path).and_then(|state| state.search.as_mut()) else { return };
        let before = shown(search);
        search.refused(size, desk.now);
        if shown(search) != before {
            desk.actions.push_back(PeerAction::SizeChanged { peer: desk.id, path });
        }
    }

    /// The network has changed under all paths.
    pub(super) fn sizes_anew(&mut self) {
        for search in self.paths.iter_mut().filter_map(|state| state.search.as_mut()) {
            search.begin_anew();
        }
    }
}

/// What others see of a search.
const fn shown(search: &Search) -> (u16, bool) {
    (search.size(), search.is_settled())
}

/// Bytes around an inner packet on a path. Behind a relay, and where the family is not known yet, it is taken for the larger one: that costs up to 24
/// bytes of a packet, on a path that is too small for the tunnel's MTU anyway.
fn overhead(state: &PathState) -> u16 {
    let outer = match (state.kind, state.ipv6) {
        (PathKind::Direct, Some(false)) => OUTER_V4,
        (PathKind::Direct, _) => OUTER_V6,
        (PathKind::Relay | PathKind::Routed, _) => OUTER_V6 + RELAY_HEADER_LEN,
    };
    (outer + SEALED_OVERHEAD) as u16
}
