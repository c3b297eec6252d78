//! Short rests during a flood of small packets, so that the programs which make and take them get the CPU as well.
//!
//! A flood that fills each pass keeps the daemon runnable for ever. With fewer CPUs than busy programs it then carries packets that their receiver has no
//! time to take: they are lost at the very end, after all the work (receive livelock; Mogul and Ramakrishnan, 1997). So while others wait for the CPU that
//! this thread runs on, it rests after each full pass; what comes meanwhile lies in the queues of device and socket, which hold far more, and the next pass
//! is a full one again. Where nobody waits there is no rest.

use std::time::Duration;

use annulus_core::time::Instant;
use nix::sys::resource::{UsageWho, getrusage};

/// The rest after a pass that a device has filled with single packets: about what the pass took. Its queue holds 500 packets, what 2 million a second bring meanwhile.
const REST_SENDING: Duration = Duration::from_micros(200);

/// The rest after a receive call that brought a flood: the receiving program's buffer holds some 270 small packets by default, and it needs the CPU to
/// empty it.
const REST_RECEIVING: Duration = Duration::from_micros(50);

/// Reads of one pass over a device from which on they are a flood of single packets: a pass takes some 220 of full size or 256 small ones, but only four of the
/// super-packets of a bulk transfer.
const FLOOD_READS: u64 = 200;

/// Datagrams of one receive call from which on it counts as a flood, if they are small.
const FLOOD_DATAGRAMS: usize = 100;

/// Mean length in bytes below which they are: with larger ones the copying takes the time, not their number.
const SMALL: usize = 512;

/// For how long the CPU then counts as contended. Resting hides the contention, so it must be looked for again; the less often, the less is lost by looking.
const HOLD: Duration = Duration::from_millis(100);

/// Decides on rests.
#[derive(Debug, Default)]
pub(super) struct Moderation {
    /// The rest that the pass under way has earned.
    earned: Duration,
    /// How often another program had taken the CPU away when last looked at.
    preemptions: i64,
    /// Until when the CPU counts as contended.
    contended_until: Instant,
}

impl Moderation {
    /// Notes how many reads one pass over a device took.
    pub(super) fn taken(&mut self, reads: u64) {
        if reads >= FLOOD_READS {
            self.earned = self.earned.max(REST_SENDING);
        }
    }

    /// Notes what one receive call brought.
    pub(super) fn received(&mut self, datagrams: usize, bytes: usize) {
        if datagrams >= FLOOD_DATAGRAMS && bytes < datagrams * SMALL {
            self.earned = self.earned.max(REST_RECEIVING);
        }
    }

    /// Ends a pass: how long to rest now. Costs a system call during floods only.
    pub(super) fn end_pass(&mut self, now: Instant) -> Option<Duration> {
        let rest = std::mem::take(&mut self.earned);
        if rest.is_zero() { None } else { self.decide(rest, now, preemptions()) }
    }

    fn decide(&mut self, rest: Duration, now: Instant, preemptions: i64) -> Option<Duration> {
        if std::mem::replace(&mut self.preemptions, preemptions) != preemptions {
            self.contended_until = now + HOLD;
        }
        (now < self.contended_until).then_some(rest)
    }
}

/// How often the scheduler took the CPU away from this thread although it could have gone on.
fn preemptions() -> i64 {
    // Refused only by a filter of system calls; then it stands still and nothing ever rests.
    getrusage(UsageWho::RUSAGE_THREAD).map_or(0, |usage| usage.involuntary_context_switches())
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
            assert_eq!(moderation.decide(REST_SENDING, at(pass * 310), 0), None);
        }
    }

    #[test]
    fn after_a_preemption_each_full_pass_is_followed_by_a_rest_for_a_while() {
        let mut moderation = Moderation::default();
        assert_eq!(moderation.decide(REST_SENDING, at(3_300), 1), Some(REST_SENDING));
        assert_eq!(moderation.decide(REST_RECEIVING, at(3_900), 1), Some(REST_RECEIVING));
        assert_eq!(moderation.decide(REST_SENDING, at(3_300) + HOLD, 1), None);
        assert_eq!(moderation.decide(REST_SENDING, at(3_600) + HOLD, 2), Some(REST_SENDING));
    }

    #[test]
    fn only_full_passes_of_small_packets_are_a_flood() {
        let mut moderation = Moderation { contended_until: Instant::from_secs(u64::MAX >> 30), ..Moderation::default() };
        assert_eq!(moderation.end_pass(at(0)), None);
        moderation.received(FLOOD_DATAGRAMS - 1, 64);
        moderation.received(45, 65_000);
        moderation.taken(FLOOD_READS - 1);
        moderation.received(1_440, 1_440 * 1_400);
        assert_eq!(moderation.end_pass(at(0)), None);
        moderation.received(FLOOD_DATAGRAMS, FLOOD_DATAGRAMS * 88);
        assert_eq!(moderation.end_pass(at(0)), Some(REST_RECEIVING));
        moderation.taken(FLOOD_READS);
        moderation.received(FLOOD_DATAGRAMS, FLOOD_DATAGRAMS * 88);
        assert_eq!(moderation.end_pass(at(0)), Some(REST_SENDING));
        assert_eq!(moderation.end_pass(at(0)), None);
    }
}
