//! Both clocks of the protocol on Linux, and what happens to them: steps of the wall clock, suspend and resume.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use annulus_core::time::{Instant, UnixTime};
use nix::errno::Errno;
use nix::sys::time::{TimeSpec, TimeValLike};
use nix::sys::timerfd::{ClockId as TimerClock, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::time::{ClockId, clock_gettime};

/// A difference between the clock that counts through suspend and the one that does not, above which the host was suspended.
/// Reading both takes far less than a millisecond, and shorter naps do no harm to the protocol.
const SUSPEND_THRESHOLD: Duration = Duration::from_secs(2);

/// How often the wall clock is told to the protocol when nothing happens: bounds the error of a host without the timer's cancellation.
pub const WALL_INTERVAL: Duration = Duration::from_secs(60);

/// The monotonic clock that counts through suspend (`CLOCK_BOOTTIME`), in µs since the boot.
#[must_use]
pub fn now() -> Instant {
    Instant::from_micros(u64::try_from(read(ClockId::CLOCK_BOOTTIME).as_micros()).unwrap_or(u64::MAX))
}

/// The wall clock.
#[must_use]
pub fn wall() -> UnixTime {
    UnixTime(read(ClockId::CLOCK_REALTIME).as_secs())
}

fn read(clock: ClockId) -> Duration {
    // Both clocks exist on every Linux that we run on; a refusal would be a seccomp filter, which reads as "time stands still".
    clock_gettime(clock).map_or(Duration::ZERO, Duration::from)
}

/// Watches for steps of the wall clock and for suspend.
#[derive(Debug)]
pub struct ClockWatch {
    timer: TimerFd,
    /// By how much the suspend-aware clock was ahead of the other one when last looked at.
    ahead: Duration,
}

/// What happened to the clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClockNews {
    /// The wall clock was set.
    pub stepped: bool,
    /// The host was suspended and is back.
    pub resumed: bool,
}

impl ClockWatch {
    /// Starts watching. The descriptor becomes readable when the wall clock is set.
    ///
    /// # Errors
    /// The system's, when it has no timer to give.
    pub fn new() -> std::io::Result<Self> {
        let timer = TimerFd::new(TimerClock::CLOCK_REALTIME, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
        let watch = Self { timer, ahead: ahead() };
        watch.arm()?;
        Ok(watch)
    }

    /// Asks the kernel to tell when the clock is set: a timer in the far future that a step cancels.
    fn arm(&self) -> std::io::Result<()> {
        let far = TimeSpec::seconds(i64::try_from(wall().0).unwrap_or(i64::MAX / 4).saturating_add(10 * 365 * 86_400));
        self.timer
            .set(Expiration::OneShot(far), TimerSetTimeFlags::TFD_TIMER_ABSTIME | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET)
            .map_err(Into::into)
    }

    /// What happened since the last call; called when the descriptor is readable and on every wake-up by timer.
    pub fn check(&mut self) -> ClockNews {
        // A descriptor that does not block: a plain read tells a cancelled timer (ECANCELED) from a quiet one (EAGAIN).
        let stepped = matches!(nix::unistd::read(&self.timer, &mut [0; 8]), Err(Errno::ECANCELED) | Ok(_));
        if stepped && let Err(error) = self.arm() {
            tracing::warn!(%error, "steps of the wall clock will be noticed within a minute only");
        }
        let ahead = ahead();
        let resumed = ahead > self.ahead + SUSPEND_THRESHOLD;
        self.ahead = ahead;
        ClockNews { stepped, resumed }
    }
}

impl AsFd for ClockWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }
}

fn ahead() -> Duration {
    read(ClockId::CLOCK_BOOTTIME).saturating_sub(read(ClockId::CLOCK_MONOTONIC))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_protocol_clock_goes_forward_and_the_wall_clock_is_this_century() {
        let first = now();
        std::thread::sleep(Duration::from_millis(2));
        assert!(now().saturating_since(first) >= Duration::from_millis(2));
        assert!(wall().0 > 1_700_000_000);
    }

    #[test]
    fn a_quiet_clock_has_no_news() {
        let mut watch = ClockWatch::new().unwrap();
        assert_eq!(watch.check(), ClockNews::default());
        assert_eq!(watch.check(), ClockNews::default());
    }

    #[test]
    fn time_in_suspend_is_noticed_once() {
        let mut watch = ClockWatch::new().unwrap();
        // As if the last look had been before a suspend of an hour; hosts that never slept have no such past, so that is when it saturates.
        let past = ahead();
        watch.ahead = past.saturating_sub(Duration::from_secs(3600));
        assert_eq!(watch.check().resumed, past > SUSPEND_THRESHOLD);
        assert!(!watch.check().resumed);
    }
}
