//! What waits to be told to the control plane.

use std::collections::VecDeque;

use super::table::ShardEvent;

/// Hints that wait at most: several for each session that one batch can touch. Beyond it a hint is lost and comes again with a later packet.
/// [`ShardEvent::Applied`] does not count: there is one for each barrier, and the control plane sends few.
pub const MAX_HINTS: usize = 256;

/// A queue that is allocated once and loses hints, but never a barrier.
#[derive(Debug, Default)]
pub(super) struct Hints {
    queue: VecDeque<ShardEvent>,
    /// Events in the queue that are not [`ShardEvent::Applied`].
    hints: usize,
}

impl Hints {
    /// Allocates the room for all hints and some barriers, once.
    pub(super) fn reserve(&mut self) {
        self.queue.reserve(MAX_HINTS + 64);
    }

    /// Queues a hint; false when it was lost.
    #[inline]
    pub(super) fn push(&mut self, event: ShardEvent) -> bool {
        if self.hints >= MAX_HINTS {
            return false;
        }
        self.hints += 1;
        self.queue.push_back(event);
        true
    }

    /// Queues the answer to a barrier, behind all hints about what was in force before it.
    pub(super) fn applied(&mut self, barrier: u64) {
        self.queue.push_back(ShardEvent::Applied(barrier));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) fn pop(&mut self) -> Option<ShardEvent> {
        let event = self.queue.pop_front()?;
        if !matches!(event, ShardEvent::Applied(_)) {
            self.hints -= 1;
        }
        Some(event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::table::SessionId;

    #[test]
    fn hints_are_bounded_and_barriers_are_not_lost() {
        let mut hints = Hints::default();
        hints.reserve();
        let capacity = hints.queue.capacity();
        for n in 0..1_000 {
            assert_eq!(hints.push(ShardEvent::RekeyDue { session: SessionId(n) }), (n as usize) < MAX_HINTS);
        }
        hints.applied(1);
        hints.applied(2);
        assert_eq!(hints.queue.capacity(), capacity);
        let events: Vec<_> = core::iter::from_fn(|| hints.pop()).collect();
        assert_eq!(events.len(), MAX_HINTS + 2);
        assert_eq!(events[MAX_HINTS..], [ShardEvent::Applied(1), ShardEvent::Applied(2)]);
        assert!(hints.push(ShardEvent::RekeyDue { session: SessionId(0) }));
    }
}
