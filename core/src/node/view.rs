//! What a node shows: to its operator, and to whoever checks the ring from outside.

use crate::config::GeometryKind;
use crate::events::Event;
use crate::id::NodeId;
use crate::io::Endpoint;
use crate::overlay::{LinkView, RingView};
use crate::peer::PeerView;
use crate::stats::Stats;
use crate::time::Instant;

use super::status::{KnownHost, NodeStatus, PathStatus, PeerStatus};
use super::{Node, OTHER_GEOMETRY_LIFE, OTHER_GEOMETRY_REPORT};

impl Node {
    /// Whether the ring position is consistent (a lone node's is).
    #[must_use]
    pub const fn is_joined(&self) -> bool {
        self.joined.is_some()
    }

    /// By which rule this node links and routes.
    #[must_use]
    pub const fn geometry(&self) -> GeometryKind {
        self.config.geometry
    }

    /// The nearest linked nodes clockwise and counter-clockwise (with the XOR metric the closest one, and nobody).
    #[must_use]
    pub fn ring_neighbours(&self) -> (Option<NodeId>, Option<NodeId>) {
        let RingView { successors, predecessors, .. } = self.overlay.view();
        (successors.first().copied(), predecessors.first().copied())
    }

    /// The node's place on the ring as it sees it.
    #[must_use]
    pub fn ring(&self) -> RingView {
        self.overlay.view()
    }

    /// The links that the overlay routes over, in the order of their node IDs.
    pub fn links(&self, now: Instant) -> impl Iterator<Item = LinkView> {
        self.overlay.links(now)
    }

    /// To whom a message for `target` would go next.
    #[must_use]
    pub fn next_hop(&self, target: &NodeId) -> Option<NodeId> {
        self.overlay.next_hop(target)
    }

    /// Everything that `status` and `peers` show.
    #[must_use]
    pub fn status(&self, now: Instant) -> NodeStatus {
        let certificate = self.sessions.identity().certificate();
        let size = self.overlay.size_estimate();
        let known = self.known_hosts();
        NodeStatus {
            node_id: self.local,
            name: certificate.node_name().to_owned(),
            user: certificate.user().to_owned(),
            group: certificate.group_name().to_owned(),
            addresses: self.own_addresses(),
            connected: self.is_joined() && !self.is_cut_off(),
            ring_size_estimate: size,
            certificate_ends: certificate.not_after().0,
            warnings: self.warnings(now),
            peers: self.peers.iter(now).map(|peer| self.peer_status(&peer, &known, now)).collect(),
            known,
            stats: self.total_stats(),
        }
    }

    /// Counters of the control plane, those of the VPN included.
    fn total_stats(&self) -> Stats {
        let mut stats = self.stats.clone();
        stats.add(self.vpn.stats());
        stats
    }

    fn peer_status(&self, peer: &PeerView, known: &[KnownHost], now: Instant) -> PeerStatus {
        let info = self.sessions.info(peer.session);
        let link = self.overlay.link(&peer.node, now);
        PeerStatus {
            node_id: peer.node,
            name: info.map(|info| info.certificate.node_name().to_owned()).unwrap_or_default(),
            user: info.map(|info| info.certificate.user().to_owned()).unwrap_or_default(),
            addresses: known.iter().find(|host| host.node_id == peer.node).map(|host| host.addresses.clone()).unwrap_or_default(),
            roles: link.map(|link| vec![link.roles.name()]).unwrap_or_default(),
            cipher: info.map(|info| info.cipher.name()).unwrap_or_default(),
            paths: peer
                .paths
                .iter()
                .map(|path| PathStatus {
                    kind: path.kind.name(),
                    via: self.via(path.path, &peer.node),
                    remote: self.remote_of(path.path),
                    rtt_us: path.rtt.map(|rtt| rtt.as_micros() as u64),
                    loss_permille: u32::from(path.loss_permille),
                    active: path.active,
                    reason: path.reason,
                    mtu: path.size.map_or(self.config.tunnel_mtu, |size| size.min(self.config.tunnel_mtu)),
                })
                .collect(),
            rx_bytes: peer.rx_bytes,
            tx_bytes: peer.tx_bytes,
        }
    }

    /// The first node on the way, when the path is not direct.
    fn via(&self, path: crate::io::Path, node: &NodeId) -> Option<NodeId> {
        match self.paths.resolve(path)? {
            Endpoint::Routed(_) => self.overlay.next_hop(node),
            Endpoint::Circuit { via, .. } => {
                self.peers.iter(self.latest).find(|peer| peer.paths.iter().any(|known| known.path == via)).map(|peer| peer.node)
            }
            Endpoint::Udp { .. } | Endpoint::Stream { .. } => None,
        }
    }

    /// Whether others are to be found by a bootstrap address that is not our own, and nobody was.
    fn is_cut_off(&self) -> bool {
        self.peers.is_empty() && self.bootstrap.iter().any(|address| !self.local_addresses.contains(address))
    }

    /// What an operator should look at.
    fn warnings(&self, now: Instant) -> Vec<String> {
        let mut warnings = Vec::new();
        let lately = |met: &Instant| now.saturating_since(*met) < OTHER_GEOMETRY_LIFE;
        warnings.extend(self.other_geometry.as_ref().filter(|(_, met, _)| lately(met)).map(|(text, ..)| text.clone()));
        if self.is_joined() && self.is_cut_off() {
            warnings.push("alone: no bootstrap address has answered; this node goes on trying".to_owned());
        }
        if self.clock.is_behind(now) {
            warnings.push("the host's clock is behind the latest time signed by the group: set it".to_owned());
        }
        let certificate = self.sessions.identity().certificate();
        if let Err(error) = self.sessions.trust().check(certificate, self.clock.now(now)) {
            warnings.push(format!("this node's certificate is refused by others: {error}"));
        }
        warnings
    }

    /// A member routes by another geometry than this node: nothing can be sent through it, and one of both was set up wrongly.
    pub(super) fn other_geometry(&mut self, node: NodeId, theirs: GeometryKind, now: Instant) {
        let name = self.name_of(&node);
        let text = format!(
            "node {name} ({node}) routes by {theirs}, this node by {}: no link between them; `geometry` must be the same in the group file of all nodes",
            self.config.geometry
        );
        let told = self.other_geometry.as_ref().map(|(_, _, told)| *told);
        let told = told.filter(|&told| now.saturating_since(told) < OTHER_GEOMETRY_REPORT);
        if told.is_none() {
            self.warn(text.clone());
        }
        self.other_geometry = Some((text, now, told.unwrap_or(now)));
    }

    /// Reports a warning once, as an event.
    pub(super) fn warn(&mut self, text: String) {
        self.event(Event::Warning(text));
    }
}
