//! Requests and replies over the ring, and traces.

use bytes::Bytes;

use super::Overlay;
use super::links::find;
use super::routing::{HOP_LIMIT, Outgoing};
use super::rpc::{Answer, Pending, Purpose, Route, RttClass};
use super::types::{Mode, OverlayAction, ReplyTo, RequestError, RequestId};
use crate::id::NodeId;
use crate::io::DropReason;
use crate::time::Instant;
use crate::wire::overlay::{MAX_ECHO, METHOD_CONNECT, METHOD_ECHO, METHOD_NEIGHBOURS, METHOD_TRACE, Status, TraceAnswer};
use crate::wire::routed::{Content, MAX_BODY_LEN, RouteMode, RoutedHeader};
use crate::wire::rpc::{ERROR_MALFORMED, ERROR_NO_HANDLER, ErrorReply, METHODS_DHT, METHODS_END, REQUEST_HEADER_LEN, Reply, Request};

/// Nodes of which a trace keeps answers.
const MAX_TRACE_ANSWERS: usize = HOP_LIMIT as usize + 1;

impl Overlay {
    /// Asks whoever `mode` chooses. [`OverlayAction::Reply`] follows in any case: after at most [`REQUEST_LIFE`](super::REQUEST_LIFE) as an
    /// error. A request for which this node itself is the right one comes out as [`OverlayAction::Request`] like any other.
    pub fn request(&mut self, to: NodeId, mode: Mode, method: u8, body: Bytes, now: Instant) -> RequestId {
        let to = if matches!(mode, Mode::Directional { .. }) { self.local } else { to };
        match self.start_request(to, mode, method, body, Route::Ring, Purpose::User, now) {
            Some(id) => id,
            None => {
                let id = RequestId(self.rpc.next_id());
                self.actions.push_back(OverlayAction::Reply { id, from: to, body: Err(RequestError::Unroutable) });
                id
            }
        }
    }

    /// Asks every node on the way to `to` for a sign: [`OverlayAction::TraceHop`] for each, then [`OverlayAction::TraceDone`].
    pub fn trace(&mut self, to: NodeId, now: Instant) -> RequestId {
        match self.start_request(to, Mode::Exact, METHOD_TRACE, Bytes::new(), Route::Ring, Purpose::Trace(Vec::new()), now) {
            Some(id) => id,
            None => {
                let id = RequestId(self.rpc.next_id());
                self.actions.push_back(OverlayAction::TraceDone { id, reached: false });
                id
            }
        }
    }

    /// Answers a request that came as [`OverlayAction::Request`]; the error is one of the codes of [`wire::rpc`](crate::wire::rpc).
    pub fn reply(&mut self, to: ReplyTo, body: Result<Bytes, u8>, now: Instant) {
        let body = match body {
            // 4 bytes of request number go in front.
            Ok(bytes) if bytes.len() + 4 > MAX_BODY_LEN => Err(crate::wire::rpc::ERROR_REFUSED),
            other => other,
        };
        self.rpc.answer(to.node, to.id, &body);
        self.send_reply(to, &body, now);
    }

    pub(super) fn start_request(
        &mut self,
        to: NodeId,
        mode: Mode,
        method: u8,
        body: Bytes,
        route: Route,
        purpose: Purpose,
        now: Instant,
    ) -> Option<RequestId> {
        if self.rpc.is_full() || body.len() + REQUEST_HEADER_LEN > MAX_BODY_LEN {
            return None;
        }
        let id = self.rpc.next_id();
        let class = match mode {
            Mode::Exact if find(&self.links, &to).is_ok() => RttClass::Linked,
            Mode::Exact => RttClass::Routed,
            _ => RttClass::Point,
        };
        let pending =
            Pending { to, mode, method, body, route, purpose, class, started: now, tries: 0, due: now, answers: 0, unroutable: false };
        self.rpc.insert(id, pending);
        self.try_request(id, now);
        Some(RequestId(id))
    }

    /// Repeats or ends requests whose wait is over.
    pub(super) fn requests_due(&mut self, now: Instant) {
        while let Some(id) = self.rpc.pop_due(now) {
            self.try_request(id, now);
        }
    }

    fn try_request(&mut self, id: u32, now: Instant) {
        if !self.rpc.try_again(id, now) {
            if let Some(pending) = self.rpc.remove(id) {
                self.request_ended(id, &pending);
            }
            return;
        }
        let Some(pending) = self.rpc.get_mut(id) else { return };
        let mut body = Vec::with_capacity(pending.body.len() + REQUEST_HEADER_LEN);
        Request { id, method: pending.method, body: &pending.body }.write(&mut body);
        let limit = match pending.mode {
            Mode::Directional { hops, .. } => hops.max(1),
            _ => HOP_LIMIT,
        };
        let (to, mode, route) = (pending.to, pending.mode.route(), pending.route);
        let trace = matches!(pending.purpose, Purpose::Trace(_));
        let message = Outgoing { to, mode, limit, trace, content: Content::Request, body: &body, route };
        let unroutable = self.originate(message, now).is_err();
        if let Some(pending) = self.rpc.get_mut(id) {
            pending.unroutable = unroutable;
        }
    }

    fn request_ended(&mut self, id: u32, pending: &Pending) {
        let id = RequestId(id);
        match pending.purpose {
            Purpose::User if pending.answers == 0 => {
                let error = if pending.unroutable { RequestError::Unroutable } else { RequestError::Timeout };
                self.actions.push_back(OverlayAction::Reply { id, from: pending.to, body: Err(error) });
            }
            Purpose::Trace(_) => self.actions.push_back(OverlayAction::TraceDone { id, reached: false }),
            _ => {}
        }
    }

    /// A request has arrived.
    pub(super) fn handle_request(&mut self, header: &RoutedHeader, body: &[u8], now: Instant) -> Result<(), DropReason> {
        let request = Request::parse(body)?;
        let to = ReplyTo { node: header.source, agent: header.agent, id: request.id };
        match self.rpc.received(header.source, request.id, now) {
            Answer::New => {}
            Answer::InProgress => return Ok(()),
            Answer::Done(answer) => {
                self.send_reply(to, &answer, now);
                return Ok(());
            }
        }
        let answer = match request.method {
            METHOD_CONNECT => self.handle_connect(header.source, request.body, now),
            METHOD_TRACE => Ok(TraceAnswer { hops: header.hops, reached: true }.body().to_vec()),
            METHOD_ECHO if request.body.len() <= MAX_ECHO => Ok(request.body.to_vec()),
            METHOD_ECHO => Err(ERROR_MALFORMED),
            METHOD_NEIGHBOURS => Ok(self.describe_neighbours()),
            METHODS_DHT..METHODS_END => {
                let body = Bytes::copy_from_slice(request.body);
                self.actions.push_back(OverlayAction::Request { from: header.source, method: request.method, body, reply: to });
                return Ok(());
            }
            _ => Err(ERROR_NO_HANDLER),
        };
        self.reply(to, answer.map(Bytes::from), now);
        Ok(())
    }

    fn send_reply(&mut self, to: ReplyTo, answer: &Result<Bytes, u8>, now: Instant) {
        if to.node == self.local {
            // A reply to ourselves that nobody waits for any more is gone, as it would be from others.
            let _ = self.handle_reply(self.local, to.id, answer.as_deref().map_err(|code| *code), now);
            return;
        }
        let mut body = Vec::new();
        let content = match answer {
            Ok(bytes) => {
                Reply { id: to.id, body: bytes }.write(&mut body);
                Content::Reply
            }
            Err(code) => {
                ErrorReply { id: to.id, code: *code }.write(&mut body);
                Content::Error
            }
        };
        let route = to.agent.filter(|agent| *agent != self.local).map_or(Route::Ring, Route::Via);
        let reply = Outgoing { to: to.node, mode: RouteMode::Exact, limit: HOP_LIMIT, trace: false, content, body: &body, route };
        // What finds no way is asked for again, and then answered from the kept replies.
        let _ = self.originate(reply, now);
    }

    /// A reply or an error has arrived.
    pub(super) fn handle_reply(&mut self, from: NodeId, id: u32, body: Result<&[u8], u8>, now: Instant) -> Result<(), DropReason> {
        let pending = self.rpc.get_mut(id).ok_or(DropReason::Expired)?;
        if pending.mode == Mode::Exact && !matches!(pending.purpose, Purpose::Trace(_)) && pending.to != from {
            return Err(DropReason::NotOurs);
        }
        if let Purpose::Trace(answers) = &mut pending.purpose {
            let answer = TraceAnswer::parse(body.map_err(|_| DropReason::Malformed)?)?;
            let reached = answer.reached && from == pending.to;
            let after = now.saturating_since(pending.started);
            if answers.len() < MAX_TRACE_ANSWERS && !answers.contains(&(answer.hops, from)) {
                answers.push((answer.hops, from));
                self.actions.push_back(OverlayAction::TraceHop { id: RequestId(id), node: from, hops: answer.hops, reached, after });
            }
            if reached {
                self.rpc.remove(id);
                self.actions.push_back(OverlayAction::TraceDone { id: RequestId(id), reached: true });
            }
            return Ok(());
        }
        self.rpc.measured(id, now);
        let Some(pending) = self.rpc.get_mut(id) else { return Ok(()) };
        pending.answers += 1;
        let expected = if pending.mode == Mode::Bracket { 2 } else { 1 };
        let purpose = pending.purpose.clone();
        if pending.answers >= expected {
            self.rpc.remove(id);
        }
        match purpose {
            Purpose::User => {
                let body = body.map(Bytes::copy_from_slice).map_err(RequestError::Remote);
                self.actions.push_back(OverlayAction::Reply { id: RequestId(id), from, body });
            }
            other => {
                if let Ok(bytes) = body {
                    self.connect_answered(from, bytes, &other, now);
                }
            }
        }
        Ok(())
    }

    /// Our neighbours, in the form of a status that is meant for nobody in particular.
    fn describe_neighbours(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.status_about_us().write(&mut out);
        out
    }

    fn status_about_us(&self) -> Status {
        let placeholder = super::Link::new(crate::shard::table::PeerId(u32::MAX), self.local, Instant::ZERO);
        self.status_to(&placeholder)
    }
}
