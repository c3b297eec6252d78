//! Messages on their way over the ring: begun here, passed on, or delivered.

use core::time::Duration;

use super::Overlay;
use super::halves::{Joined, cut};
use super::links::find;
use super::rpc::Route;
use super::types::OverlayAction;
use crate::id::NodeId;
use crate::io::DropReason;
use crate::shard::table::PeerId;
use crate::time::Instant;
use crate::wire::overlay::{METHOD_TRACE, TraceAnswer};
use crate::wire::routed::{Content, MAX_BODY_LEN, MAX_ROUTED_HEADER_LEN, Part, RouteMode, RoutedHeader, parse_forward, wrap_forward};
use crate::wire::rpc::{Reply, Request};

/// Hops that a message may take: a ring of a million nodes needs at most 25 (99.9 %), a ring that is being repaired some more.
pub const HOP_LIMIT: u8 = 64;
/// Agents that are remembered at most; beyond it the oldest is forgotten, and messages to its node go by the ring.
const MAX_AGENTS: usize = 32;
/// How long an agent is remembered: a node that joins has a place of its own by then.
const AGENT_LIFE: Duration = Duration::from_secs(30);
/// Answers to passing traces, per second and at once: a trace must not make the ring work more than its asker.
const TRACE_RATE: u32 = 32;

/// What routing remembers.
#[derive(Debug)]
pub(super) struct Router {
    /// Number of the next message that is cut.
    next_part: u32,
    /// Nodes that the ring does not know yet, with the node that hands messages on to them, oldest first.
    agents: Vec<(NodeId, NodeId, Instant)>,
    trace_tokens: u32,
    trace_filled: Instant,
}

impl Router {
    pub(super) const fn new(first_part: u32, now: Instant) -> Self {
        Self { next_part: first_part, agents: Vec::new(), trace_tokens: TRACE_RATE, trace_filled: now }
    }

    fn learn_agent(&mut self, node: NodeId, agent: Option<NodeId>, now: Instant) {
        self.agents.retain(|(known, _, expires)| *known != node && *expires > now);
        if let Some(agent) = agent {
            if self.agents.len() >= MAX_AGENTS {
                self.agents.remove(0);
            }
            self.agents.push((node, agent, now + AGENT_LIFE));
        }
    }

    fn agent(&self, node: &NodeId, now: Instant) -> Option<NodeId> {
        self.agents.iter().find(|(known, _, expires)| known == node && *expires > now).map(|(_, agent, _)| *agent)
    }

    fn take_trace_token(&mut self, now: Instant) -> bool {
        let seconds = now.saturating_since(self.trace_filled).as_secs();
        if seconds > 0 {
            self.trace_tokens = TRACE_RATE;
            self.trace_filled = now;
        }
        self.trace_tokens = match self.trace_tokens.checked_sub(1) {
            Some(left) => left,
            None => return false,
        };
        true
    }
}

/// What a message of ours is and where it goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outgoing<'a> {
    pub(super) to: NodeId,
    pub(super) mode: RouteMode,
    pub(super) limit: u8,
    pub(super) trace: bool,
    pub(super) content: Content,
    pub(super) body: &'a [u8],
    pub(super) route: Route,
}

impl Overlay {
    /// Sends an end-to-end datagram to `to` over the ring, in at most two parts.
    ///
    /// # Errors
    /// [`DropReason::TooBig`] beyond [`MAX_BODY_LEN`], [`DropReason::Unroutable`] when no link leads there, [`DropReason::QueueFull`].
    pub fn send_datagram(&mut self, to: NodeId, datagram: &[u8], now: Instant) -> Result<(), DropReason> {
        let route = Route::Ring;
        let message =
            Outgoing { to, mode: RouteMode::Exact, limit: HOP_LIMIT, trace: false, content: Content::Datagram, body: datagram, route };
        self.originate(message, now)
    }

    /// Begins a message's way.
    pub(super) fn originate(&mut self, message: Outgoing<'_>, now: Instant) -> Result<(), DropReason> {
        if message.body.len() > MAX_BODY_LEN {
            return Err(DropReason::TooBig);
        }
        let mut header = RoutedHeader {
            mode: message.mode,
            trace: message.trace,
            hops: 0,
            limit: message.limit,
            content: message.content,
            part: Part::Whole,
            source: self.local,
            destination: message.to,
            agent: None,
        };
        let via = match message.route {
            Route::Via(node) => Some(node).filter(|_| find(&self.links, &message.to).is_err()),
            Route::Ring if message.mode == RouteMode::Exact && find(&self.links, &message.to).is_err() => {
                self.router.agent(&message.to, now)
            }
            _ => None,
        };
        let first = match (message.route, via) {
            (Route::Through(peer), _) => Some((self.link_index(peer).ok_or(DropReason::NoPath)?, message.mode)),
            (_, Some(via)) if via == self.local => None,
            (_, Some(via)) => Some(self.first_hop(&via, RouteMode::Exact)?.1.ok_or(DropReason::Unroutable)?),
            (_, None) => {
                let (deliver, next) = self.first_hop(&message.to, message.mode)?;
                if deliver {
                    self.deliver(&header, message.body, now)?;
                }
                if deliver && next.is_none() {
                    return Ok(());
                }
                next
            }
        };
        let (index, mode) = first.ok_or(DropReason::Unroutable)?;
        let through = matches!(message.route, Route::Through(_));
        header.agent = (through || !self.joined).then_some(self.links[index].node);
        if via.is_none() {
            header.mode = mode;
        }
        header.hops = 1;
        self.send_parts(self.links[index].peer, header, via, message.body)
    }

    /// Sends a message of ours to the first node on its way, in one part or two.
    fn send_parts(&mut self, peer: PeerId, mut header: RoutedHeader, via: Option<NodeId>, body: &[u8]) -> Result<(), DropReason> {
        self.router.next_part = self.router.next_part.wrapping_add(1);
        for (part, bytes) in cut(body, self.router.next_part) {
            header.part = part;
            let mut out = Vec::with_capacity(bytes.len() + MAX_ROUTED_HEADER_LEN);
            header.write(&mut out);
            out.extend_from_slice(bytes);
            let payload = match via {
                Some(via) => wrap_forward(&via, &out),
                None => out,
            };
            self.send(peer, payload)?;
        }
        Ok(())
    }

    /// To whom a message for `target` would go next.
    #[must_use]
    pub fn next_hop(&self, target: &NodeId) -> Option<NodeId> {
        let (_, next) = self.first_hop(target, RouteMode::Exact).ok()?;
        next.map(|(index, _)| self.links[index].node)
    }

    /// Whether a message of ours ends here, and the link that it takes. Who has no place on the ring yet lets the nearest linked node decide.
    fn first_hop(&self, to: &NodeId, mode: RouteMode) -> Result<(bool, Option<(usize, RouteMode)>), DropReason> {
        let step = self.geometry.step(&self.geometry_view(), to, mode, [None, None]);
        if self.joined || step.next.is_some() || *to == self.local && mode == RouteMode::Exact {
            return if step.deliver || step.next.is_some() { Ok((step.deliver, step.next)) } else { Err(DropReason::Unroutable) };
        }
        let live = self.links.iter().enumerate().filter(|(_, link)| !link.leaving);
        match live.min_by(|(_, a), (_, b)| self.geometry.closer(to, &a.node, &b.node)) {
            Some((index, _)) if !mode.is_directional() => Ok((false, Some((index, mode)))),
            _ if step.deliver => Ok((true, None)),
            _ => Err(DropReason::Unroutable),
        }
    }

    /// A routed message came over a link.
    pub(super) fn handle_routed(&mut self, from: PeerId, payload: &[u8], now: Instant) -> Result<(), DropReason> {
        let (header, body) = RoutedHeader::parse(payload)?;
        if header.source == self.local {
            return Err(DropReason::NotOurs);
        }
        let sender = self.link_index(from).map(|index| self.links[index].node);
        if sender.is_some_and(|sender| self.is_refused(&sender, now)) {
            return Err(DropReason::Unroutable);
        }
        if header.mode.is_directional() && header.hops >= header.limit {
            return self.deliver(&header, body, now);
        }
        let step = self.geometry.step(&self.geometry_view(), &header.destination, header.mode, [sender, Some(header.source)]);
        let mut result = Ok(());
        if let Some((index, mode)) = step.next {
            result = self.pass_on(index, RoutedHeader { mode, ..header }, payload);
            if result.is_ok() && header.trace {
                self.answer_trace(&header, body, false, now);
            }
        }
        if step.deliver {
            return self.deliver(&header, body, now);
        }
        if step.next.is_none() { Err(DropReason::Unroutable) } else { result }
    }

    /// A message came that one node shall hand on to another.
    pub(super) fn handle_forward(&mut self, from: PeerId, payload: &[u8], now: Instant) -> Result<(), DropReason> {
        let (via, message) = parse_forward(payload)?;
        let (header, body) = RoutedHeader::parse(message)?;
        if header.source == self.local {
            return Err(DropReason::NotOurs);
        }
        if via == self.local {
            let target = find(&self.links, &header.destination).ok().filter(|&index| self.links[index].peer != from);
            return match target {
                Some(index) => {
                    let result = self.pass_on(index, header, message);
                    if result.is_ok() && header.trace {
                        self.answer_trace(&header, body, false, now);
                    }
                    result
                }
                None => self.handle_routed(from, message, now),
            };
        }
        if header.hops >= header.limit {
            return Err(DropReason::HopLimit);
        }
        let sender = self.link_index(from).map(|index| self.links[index].node);
        let step = self.geometry.step(&self.geometry_view(), &via, RouteMode::Exact, [sender, Some(header.source)]);
        let (index, _) = step.next.ok_or(DropReason::Unroutable)?;
        let mut message = message.to_vec();
        RoutedHeader { hops: header.hops + 1, ..header }.rewrite(&mut message);
        self.send(self.links[index].peer, wrap_forward(&via, &message))
    }

    /// Sends a message on, one hop more on its count.
    fn pass_on(&mut self, index: usize, header: RoutedHeader, message: &[u8]) -> Result<(), DropReason> {
        if header.hops >= header.limit {
            return Err(DropReason::HopLimit);
        }
        let mut message = message.to_vec();
        RoutedHeader { hops: header.hops + 1, ..header }.rewrite(&mut message);
        self.send(self.links[index].peer, message)
    }

    /// A message has arrived.
    fn deliver(&mut self, header: &RoutedHeader, body: &[u8], now: Instant) -> Result<(), DropReason> {
        if header.source != self.local {
            let agent = header.agent.filter(|agent| *agent != self.local && find(&self.links, &header.source).is_err());
            self.router.learn_agent(header.source, agent, now);
        }
        let whole;
        let body = if header.part == Part::Whole {
            body
        } else {
            match self.halves.join(header.source, header.content, header.part, body, now) {
                Joined::Complete(bytes) => {
                    whole = bytes;
                    &whole[..]
                }
                Joined::Waiting(0) => return Ok(()),
                Joined::Waiting(_) => return Err(DropReason::Expired),
            }
        };
        match header.content {
            Content::Datagram if self.actions.len() >= super::MAX_ACTIONS => Err(DropReason::QueueFull),
            Content::Datagram => {
                self.actions.push_back(OverlayAction::Datagram { from: header.source, bytes: body.to_vec() });
                Ok(())
            }
            Content::Request => self.handle_request(header, body, now),
            Content::Reply => {
                let reply = Reply::parse(body)?;
                self.handle_reply(header.source, reply.id, Ok(reply.body), now)
            }
            Content::Error => {
                let error = crate::wire::rpc::ErrorReply::parse(body)?;
                self.handle_reply(header.source, error.id, Err(error.code), now)
            }
            Content::Unknown(_) => Err(DropReason::UnknownType),
        }
    }

    /// Tells the source of a passing trace that it came by here.
    fn answer_trace(&mut self, header: &RoutedHeader, body: &[u8], reached: bool, now: Instant) {
        let is_trace = header.content == Content::Request && header.part == Part::Whole;
        let Some(request) = Request::parse(body).ok().filter(|request| is_trace && request.method == METHOD_TRACE) else { return };
        if !self.router.take_trace_token(now) {
            return;
        }
        let answer = TraceAnswer { hops: header.hops, reached }.body();
        let mut body = Vec::new();
        Reply { id: request.id, body: &answer }.write(&mut body);
        let route = header.agent.filter(|agent| *agent != self.local).map_or(Route::Ring, Route::Via);
        let reply = Outgoing {
            to: header.source,
            mode: RouteMode::Exact,
            limit: HOP_LIMIT,
            trace: false,
            content: Content::Reply,
            body: &body,
            route,
        };
        // An answer that finds no way is missing in the trace, which shows as a gap.
        let _ = self.originate(reply, now);
    }
}
