//! Short rests during a flood of small packets, so that the programs which make and take them get the CPU as well.
//!
//! A flood that fills each pass keeps the daemon runnable for ever. With fewer CPUs than busy programs it then carries packets that their receiver has no
//! time to take: they are lost at the very end, after all the work (receive livelock; Mogul and Ramakrishnan, 1997). So while others wait for the CPU that
//! this thread runs on, it rests after each full pass; what comes meanwhile lies in the queues of device and socket, which hold far more, and the next pass
//! is a full one again. Where nobody waits there is no rest.

use std::time::Duration;

use annulus_core::time::Instant;
use nix::time::{ClockId, clock_gettime};

/// The rest after a pass that a device has filled: about what the pass took. Its queue holds 500 packets, what 2 million a second bring meanwhile.
const REST_SENDING: Duration = Duration::from_micros(200);

/// The rest after a receive call that brought a flood: the receiving program's buffer holds some 270 small packets by default, and it needs the CPU to
/// empty it.
const REST_RECEIVING: Duration = Duration::from_micros(50);

/// Datagrams of one receive call from which on it counts as a flood, if they are small.
const FLOOD_DATAGRAMS: usize = 100;

/// Mean length in bytes below which they are: with larger ones the copying takes the time, not their number.
const SMALL: usize = 512;

/// A pause within a pass that means that another program ran: longer than any interrupt, shorter than any turn of a scheduler.
const PREEMPTED: Duration = Duration::from_micros(200);

/// For how long the CPU then counts as contended. Resting hides the contention, so it must be looked for again; the less often, the less is lost by looking.
const HOLD: Duration = Duration::from_millis(100);

/// Decides on rests.
#[derive(Debug, Default)]
pub(super) struct Moderation {
    /// The rest that the pass under way has earned.
    earned: Duration,
    /// Wall and CPU time when the pass before ended, if that was part of a flood as well.
    mark: Option<(Instant, Duration)>,
    /// Until when the CPU counts as contended.
    contended_until: Instant,
}

impl Moderation {
    /// Notes that a device had at least as many packets as one pass takes.
    pub(super) fn filled_by_device(&mut self) {
        self.earned = self.earned.max(REST_SENDING);
    }

    /// Notes what one receive call brought.
    pub(super) fn received(&mut self, datagrams: usize, bytes: usize) {
        if datagrams >= FLOOD_DATAGRAMS && bytes < datagrams * SMALL {
            self.earned = self.earned.max(REST_RECEIVING);
        }
    }

    /// Ends a pass: how long to rest now. The thread's CPU clock is read during floods only.
    pub(super) fn end_pass(&mut self, now: Instant) -> Option<Duration> {
        let rest = std::mem::take(&mut self.earned);
        if rest.is_zero() {
            self.mark = None;
            return None;
        }
        let used = cpu_time();
        let rest = self.decide(rest, now, used);
        // Time spent resting is no preemption: the next pass cannot be measured from here.
        self.mark = rest.is_none().then_some((now, used));
        rest
    }

    fn decide(&mut self, rest: Duration, now: Instant, used: Duration) -> Option<Duration> {
        if let Some((then, used_then)) = self.mark
            && now.saturating_since(then).saturating_sub(used.saturating_sub(used_then)) > PREEMPTED
        {
            self.contended_until = now + HOLD;
        }
        (now < self.contended_until).then_some(rest)
    }
}

/// CPU time that this thread has used.
fn cpu_time() -> Duration {
    // Refused only by a filter of system calls; then it stands still, the CPU counts as contended, and a flood is carried a little slower.
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(micros: u64) -> Instant {
        Instant::from_micros(1_000_000 + micros)
    }

    #[test]
    fn a_flood_on_a_cpu_of_its_own_is_carried_without_rest() {
        let mut moderation = Moderation::default();
        for pass in 1..100 {
            let used = Duration::from_micros(pass * 300);
            assert_eq!(moderation.decide(REST_SENDING, at(pass * 310), used), None);
            moderation.mark = Some((at(pass * 310), used));
        }
    }

    #[test]
    fn after_a_preemption_each_full_pass_is_followed_by_a_rest_for_a_while() {
        let mut moderation = Moderation { mark: Some((at(0), Duration::ZERO)), ..Moderation::default() };
        assert_eq!(moderation.decide(REST_SENDING, at(3_300), Duration::from_micros(300)), Some(REST_SENDING));
        moderation.mark = None;
        assert_eq!(moderation.decide(REST_RECEIVING, at(3_900), Duration::from_micros(600)), Some(REST_RECEIVING));
        assert_eq!(moderation.decide(REST_SENDING, at(3_300) + HOLD, Duration::from_micros(900)), None);
    }

    #[test]
    fn only_full_passes_of_small_packets_are_a_flood() {
        let mut moderation = Moderation { contended_until: Instant::from_secs(u64::MAX >> 30), ..Moderation::default() };
        assert_eq!(moderation.end_pass(at(0)), None);
        moderation.received(FLOOD_DATAGRAMS - 1, 64);
        moderation.received(45, 65_000);
        moderation.received(1_440, 1_440 * 1_400);
        assert_eq!(moderation.end_pass(at(0)), None);
        moderation.received(FLOOD_DATAGRAMS, FLOOD_DATAGRAMS * 88);
        assert_eq!(moderation.end_pass(at(0)), Some(REST_RECEIVING));
        moderation.filled_by_device();
        moderation.received(FLOOD_DATAGRAMS, FLOOD_DATAGRAMS * 88);
        assert_eq!(moderation.end_pass(at(0)), Some(REST_SENDING));
        assert_eq!(moderation.end_pass(at(0)), None);
    }
}
