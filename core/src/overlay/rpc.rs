//! Requests on their way, and replies that are kept for those who ask twice.

use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::types::{Mode, Roles};
use crate::id::NodeId;
use crate::shard::table::PeerId;
use crate::time::Instant;
use crate::timers::TimerHeap;

/// Requests that may be on their way at once; a further one fails as unroutable at once.
pub const MAX_PENDING: usize = 512;
/// Replies that are kept for retransmitted requests; beyond it the oldest is dropped, and that request would be done twice.
pub const MAX_ANSWERED: usize = 256;
/// How long a reply is kept: longer than anybody repeats a request.
const ANSWER_LIFE: Duration = Duration::from_secs(10);
/// A request ends after this time, however often it could be sent.
pub const REQUEST_LIFE: Duration = Duration::from_secs(5);
/// How often a request is sent at most.
pub const MAX_TRIES: u8 = 5;
/// Wait for a reply where no round trip was measured yet.
const RTO_START: Duration = Duration::from_millis(500);
/// Shortest wait for a reply: below it schedulers and timers of hosts are heard, not the network.
const RTO_FLOOR: Duration = Duration::from_millis(50);
/// Longest first wait.
const RTO_CEILING: Duration = Duration::from_secs(2);
/// From the second try on waits are at least this, doubling: the tries then span [`REQUEST_LIFE`] and outlive a repair of the ring.
const RETRY_FLOOR: Duration = Duration::from_millis(160);

/// How a message of ours begins its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// By the geometry.
    Ring,
    /// Over the link with this peer, which is also our agent.
    Through(PeerId),
    /// Handed to the destination by this node.
    Via(NodeId),
}

/// What a request is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The overlay's user waits for it.
    User,
    /// A trace, with the answers so far.
    Trace(Vec<(u8, NodeId)>),
    /// A connect request for the own position.
    Join,
    /// A connect request for a shortcut.
    Shortcut,
    /// A connect request to a known node.
    Connect(Roles),
}

/// A request on its way.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    pub(super) to: NodeId,
    pub(super) mode: Mode,
    pub(super) method: u8,
    pub(super) body: Bytes,
    pub(super) route: Route,
    pub(super) purpose: Purpose,
    pub(super) class: RttClass,
    pub(super) started: Instant,
    pub(super) tries: u8,
    pub(super) due: Instant,
    pub(super) answers: u8,
    /// Whether the latest try found no way.
    pub(super) unroutable: bool,
}

/// Round-trip times are estimated for destinations of one kind together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RttClass {
    /// A linked node.
    Linked = 0,
    /// A node somewhere on the ring.
    Routed = 1,
    /// Whoever is at a point.
    Point = 2,
}

/// Smoothed round-trip time and its variation (RFC 6298, with integers).
#[derive(Clone, Copy, Debug, Default)]
struct Rtt {
    smoothed: Option<(u64, u64)>,
}

impl Rtt {
    fn sample(&mut self, sample: Duration) {
        let sample = u64::try_from(sample.as_micros()).unwrap_or(u64::MAX / 8).min(u64::MAX / 8);
        self.smoothed = Some(match self.smoothed {
            None => (sample, sample / 2),
            Some((mean, variation)) => ((7 * mean + sample) / 8, (3 * variation + mean.abs_diff(sample)) / 4),
        });
    }

    fn timeout(&self) -> Duration {
        self.smoothed
            .map_or(RTO_START, |(mean, variation)| Duration::from_micros(mean.saturating_add(4 * variation)).clamp(RTO_FLOOR, RTO_CEILING))
    }
}

/// The state of one received request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Not seen before: now it is.
    New,
    /// Seen, not answered yet.
    InProgress,
    /// Answered like this.
    Done(Result<Bytes, u8>),
}

#[derive(Debug)]
struct Answered {
    source: NodeId,
    id: u32,
    answer: Option<Result<Bytes, u8>>,
    expires: Instant,
}

/// Both ends of request and reply.
#[derive(Debug)]
pub(super) struct Rpc {
    next_id: u32,
    pending: BTreeMap<u32, Pending>,
    timers: TimerHeap<u32>,
    answered: VecDeque<Answered>,
    rtt: [Rtt; 3],
}

impl Rpc {
    /// `first_id` is random: a restarted node must not meet replies kept for its former life.
    pub(super) fn new(first_id: u32) -> Self {
        Self {
            next_id: first_id,
            pending: BTreeMap::new(),
            timers: TimerHeap::default(),
            answered: VecDeque::new(),
            rtt: [Rtt::default(); 3],
        }
    }

    /// A number for a new request.
    pub(super) const fn next_id(&mut self) -> u32 {
        self.next_id = self.next_id.wrapping_add(1);
        self.next_id
    }

    pub(super) fn is_full(&self) -> bool {
        self.pending.len() >= MAX_PENDING
    }

    pub(super) fn insert(&mut self, id: u32, pending: Pending) {
        self.pending.insert(id, pending);
    }

    pub(super) fn get_mut(&mut self, id: u32) -> Option<&mut Pending> {
        self.pending.get_mut(&id)
    }

    pub(super) fn remove(&mut self, id: u32) -> Option<Pending> {
        let pending = self.pending.remove(&id);
        if self.timers.len() > 64 && self.timers.len() > 4 * self.pending.len() {
            let live = &self.pending;
            self.timers.compact(|id, deadline| live.get(&id).is_some_and(|pending| pending.due == deadline));
        }
        pending
    }

    pub(super) fn any(&self, test: impl FnMut(&Pending) -> bool) -> bool {
        self.pending.values().any(test)
    }

    /// Counts a try and sets when the next one is due; `false` when there is none.
    pub(super) fn try_again(&mut self, id: u32, now: Instant) -> bool {
        let Some(pending) = self.pending.get_mut(&id) else { return false };
        let end = pending.started + REQUEST_LIFE;
        if pending.answers > 0 || pending.tries >= MAX_TRIES || now >= end {
            return false;
        }
        let first = self.rtt[pending.class as usize].timeout();
        let doubled = first.saturating_mul(1 << pending.tries);
        let wait = if pending.tries == 0 { doubled } else { doubled.max(RETRY_FLOOR.saturating_mul(1 << pending.tries)) };
        pending.tries += 1;
        pending.due = (now + wait).min(end);
        self.timers.arm(pending.due, id);
        true
    }

    /// The next request whose wait is over.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<u32> {
        let pending = &self.pending;
        self.timers.pop_due(now, |id, deadline| pending.get(&id).is_some_and(|pending| pending.due == deadline))
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        self.timers.next().map(|(deadline, _)| deadline)
    }

    /// Learns the round-trip time of a first try (a repeated one does not tell which of them was answered: Karn's rule).
    pub(super) fn measured(&mut self, id: u32, now: Instant) {
        if let Some(pending) = self.pending.get(&id)
            && pending.tries == 1
            && pending.answers == 0
        {
            self.rtt[pending.class as usize].sample(now.saturating_since(pending.started));
        }
    }

    /// Looks up a received request; a new one is noted as in progress.
    pub(super) fn received(&mut self, source: NodeId, id: u32, now: Instant) -> Answer {
        while self.answered.front().is_some_and(|answered| answered.expires <= now) || self.answered.len() >= MAX_ANSWERED {
            self.answered.pop_front();
        }
        if let Some(found) = self.answered.iter().find(|answered| answered.id == id && answered.source == source) {
            return found.answer.clone().map_or(Answer::InProgress, Answer::Done);
        }
        self.answered.push_back(Answered { source, id, answer: None, expires: now + ANSWER_LIFE });
        Answer::New
    }

    /// Keeps the answer to a request.
    pub(super) fn answer(&mut self, source: NodeId, id: u32, answer: &Result<Bytes, u8>) {
        if let Some(found) = self.answered.iter_mut().find(|answered| answered.id == id && answered.source == source) {
            found.answer = Some(answer.clone());
        }
    }

    /// Forgets answers that nobody will ask for.
    pub(super) fn expire(&mut self, now: Instant) {
        while self.answered.front().is_some_and(|answered| answered.expires <= now) {
            self.answered.pop_front();
        }
        if self.answered.is_empty() {
            self.answered.shrink_to(4);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending(now: Instant) -> Pending {
        Pending {
            to: NodeId([9; 20]),
            mode: Mode::Exact,
            method: 0x20,
            body: Bytes::new(),
            route: Route::Ring,
            purpose: Purpose::User,
            class: RttClass::Routed,
            started: now,
            tries: 0,
            due: now,
            answers: 0,
            unroutable: false,
        }
    }

    #[test]
    fn an_unanswered_request_is_sent_at_most_five_times_and_ends_after_five_seconds() {
        let mut rpc = Rpc::new(0);
        for sample in [None, Some(Duration::from_millis(2)), Some(Duration::from_millis(400))] {
            if let Some(sample) = sample {
                rpc.rtt[1] = Rtt::default();
                rpc.rtt[1].sample(sample);
            }
            let start = Instant::from_secs(10);
            let id = rpc.next_id();
            rpc.insert(id, pending(start));
            let (mut now, mut sent) = (start, 0);
            while rpc.try_again(id, now) {
                sent += 1;
                now = rpc.next_due().expect("armed");
                assert_eq!(rpc.pop_due(now), Some(id));
            }
            assert!((3..=MAX_TRIES).contains(&sent), "sent {sent} times");
            let lasted = now.saturating_since(start);
            assert!((Duration::from_millis(4800)..=REQUEST_LIFE).contains(&lasted), "{lasted:?}");
            rpc.remove(id);
        }
    }

    #[test]
    fn the_first_wait_follows_the_measured_round_trip() {
        let mut rpc = Rpc::new(0);
        assert_eq!(rpc.rtt[1].timeout(), RTO_START);
        for _ in 0..50 {
            let id = rpc.next_id();
            rpc.insert(id, pending(Instant::ZERO));
            assert!(rpc.try_again(id, Instant::ZERO));
            rpc.measured(id, Instant::from_millis(100));
            rpc.remove(id);
        }
        let wait = rpc.rtt[1].timeout();
        assert!((Duration::from_millis(99)..Duration::from_millis(120)).contains(&wait), "{wait:?}");
        assert!(rpc.timers.len() < 70, "stale deadlines are dropped");
    }

    #[test]
    fn a_repeated_request_meets_its_kept_answer_and_another_asker_does_not() {
        let mut rpc = Rpc::new(0);
        let (a, b, now) = (NodeId([1; 20]), NodeId([2; 20]), Instant::ZERO);
        assert_eq!(rpc.received(a, 5, now), Answer::New);
        assert_eq!(rpc.received(a, 5, now), Answer::InProgress);
        let answer = Ok(Bytes::from_static(b"x"));
        rpc.answer(a, 5, &answer);
        assert_eq!(rpc.received(a, 5, now), Answer::Done(answer));
        assert_eq!(rpc.received(b, 5, now), Answer::New);
        assert_eq!(rpc.received(a, 5, now + ANSWER_LIFE), Answer::New);
        for id in 0..1000 {
            let _ = rpc.received(b, 100 + id, now + ANSWER_LIFE);
        }
        assert!(rpc.answered.len() <= MAX_ANSWERED);
    }
}
