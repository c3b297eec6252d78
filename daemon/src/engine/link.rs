//! What joins the engine and a worker: a bounded ring in each direction, and a bell for who sleeps.
//!
//! A bell is an eventfd that the other side writes only when its owner has said that it goes to sleep, or waits for room in a full ring. Who goes to sleep
//! says so first and looks into its rings after that; who fills a ring looks for sleepers after that: one of the two sees the other (each side has a full
//! fence between its own write and its read of what the other wrote).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use nix::sys::eventfd::{EfdFlags, EventFd};
use rtrb::{Consumer, Producer, PushError, RingBuffer};

/// Wakes one thread.
#[derive(Debug)]
pub(crate) struct Bell {
    event: EventFd,
    asleep: AtomicBool,
}

impl Bell {
    /// # Errors
    /// When the process has no descriptor left.
    pub(crate) fn new() -> io::Result<Arc<Self>> {
        let event = EventFd::from_value_and_flags(0, EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
        Ok(Arc::new(Self { event, asleep: AtomicBool::new(false) }))
    }

    /// By the owner: from now on it may be asleep. It must look into its rings once more before it sleeps.
    pub(crate) fn sleep(&self) {
        self.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// By the owner: it is awake and will look into its rings.
    pub(crate) fn wake(&self) {
        if self.asleep.load(Ordering::Relaxed) {
            self.asleep.store(false, Ordering::Relaxed);
        }
    }

    /// By the owner: takes the ringing off.
    pub(crate) fn silence(&self) {
        // Nothing there is an answer too.
        let _ = self.event.read();
    }

    fn ring(&self) {
        self.asleep.store(false, Ordering::Relaxed);
        // The counter saturates at 2^64 - 2: it cannot fail here.
        let _ = self.event.write(1);
    }

    fn ring_if_asleep(&self) {
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) {
            self.ring();
        }
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

impl AsRawFd for Bell {
    fn as_raw_fd(&self) -> RawFd {
        self.event.as_fd().as_raw_fd()
    }
}

/// Rings when it is dropped: behind the rings of an [`End`], so that who is woken sees them closed.
#[derive(Debug)]
struct LastRing(Arc<Bell>);

impl Drop for LastRing {
    fn drop(&mut self) {
        self.0.ring();
    }
}

/// One side's end: sends `T`, receives `U`. When it is dropped, by a panic too, the other side is woken and sees that it is gone.
#[derive(Debug)]
pub(crate) struct End<T, U> {
    outgoing: Producer<T>,
    incoming: Consumer<U>,
    /// Whether this side found `outgoing` full and waits for room.
    full: Arc<AtomicBool>,
    /// The same of the other side and `incoming`.
    their_full: Arc<AtomicBool>,
    pushed: bool,
    popped: bool,
    theirs: LastRing,
}

/// Joins two sides by rings of these lengths; each side's bell is rung for it.
pub(crate) fn join<T, U>(here: &Arc<Bell>, there: &Arc<Bell>, out: usize, back: usize) -> (End<T, U>, End<U, T>) {
    let (out_producer, out_consumer) = RingBuffer::new(out);
    let (back_producer, back_consumer) = RingBuffer::new(back);
    let (out_full, back_full) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let end = End {
        outgoing: out_producer,
        incoming: back_consumer,
        full: Arc::clone(&out_full),
        their_full: Arc::clone(&back_full),
        pushed: false,
        popped: false,
        theirs: LastRing(Arc::clone(there)),
    };
    let other = End {
        outgoing: back_producer,
        incoming: out_consumer,
        full: back_full,
        their_full: out_full,
        pushed: false,
        popped: false,
        theirs: LastRing(Arc::clone(here)),
    };
    (end, other)
}

impl<T, U> End<T, U> {
    /// Sends something, or gives it back when the ring is full; the bell of this side is rung once there is room again.
    pub(crate) fn push(&mut self, item: T) -> Result<(), T> {
        if !self.has_room() {
            return Err(item);
        }
        self.outgoing.push(item).map_err(|PushError::Full(item)| item)?;
        self.pushed = true;
        Ok(())
    }

    /// Whether something can be sent; if not, the bell of this side is rung once it can.
    pub(crate) fn has_room(&mut self) -> bool {
        if !self.outgoing.is_full() {
            return true;
        }
        self.full.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        !self.outgoing.is_full()
    }

    /// The next thing that the other side sent.
    pub(crate) fn pop(&mut self) -> Option<U> {
        let item = self.incoming.pop().ok();
        self.popped |= item.is_some();
        item
    }

    /// Whether there is something to [`pop`](Self::pop).
    pub(crate) fn has_news(&self) -> bool {
        !self.incoming.is_empty()
    }

    /// Wakes the other side if it sleeps and something was sent, or if it waits for room and there is some. Once per batch.
    pub(crate) fn flush(&mut self) {
        if core::mem::take(&mut self.popped) {
            fence(Ordering::SeqCst);
            if self.their_full.load(Ordering::Relaxed) {
                self.their_full.store(false, Ordering::Relaxed);
                self.theirs.0.ring();
            }
        }
        if core::mem::take(&mut self.pushed) {
            self.theirs.0.ring_if_asleep();
        }
    }

    /// Whether the other side is still there.
    pub(crate) fn is_joined(&self) -> bool {
        !self.outgoing.is_abandoned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::time::{Duration, Instant};

    fn rings(bell: &Bell) -> bool {
        poll(&mut [PollFd::new(bell.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO).unwrap() == 1
    }

    #[test]
    fn a_bell_is_rung_once_for_a_sleeper_and_never_for_who_is_awake() {
        let (here, there) = (Bell::new().unwrap(), Bell::new().unwrap());
        let (mut end, mut other) = join::<u32, u32>(&here, &there, 4, 4);
        end.push(1).unwrap();
        end.flush();
        assert!(!rings(&there) && other.pop() == Some(1));
        there.sleep();
        end.push(2).unwrap();
        end.push(3).unwrap();
        assert!(!rings(&there), "not before the batch is complete");
        end.flush();
        assert!(rings(&there));
        there.silence();
        end.push(4).unwrap();
        end.flush();
        assert!(!rings(&there), "it was woken already");
        assert_eq!([other.pop(), other.pop(), other.pop(), other.pop()], [Some(2), Some(3), Some(4), None]);
    }

    #[test]
    fn who_found_the_ring_full_is_woken_when_there_is_room() {
        let (here, there) = (Bell::new().unwrap(), Bell::new().unwrap());
        let (mut end, mut other) = join::<u32, u32>(&here, &there, 2, 2);
        for item in 0..2 {
            end.push(item).unwrap();
        }
        other.flush();
        assert!(!rings(&here));
        assert_eq!(end.push(2), Err(2));
        other.flush();
        assert!(!rings(&here), "nothing was taken out");
        assert_eq!(other.pop(), Some(0));
        other.flush();
        assert!(rings(&here) && end.has_room());
        here.silence();
        assert_eq!(other.pop(), Some(1));
        other.flush();
        assert!(!rings(&here), "nobody waits any more");
    }

    #[test]
    fn an_end_that_goes_is_noticed_by_the_other_and_what_it_sent_is_not_lost() {
        let (here, there) = (Bell::new().unwrap(), Bell::new().unwrap());
        let (mut end, mut other) = join::<u32, u32>(&here, &there, 2, 2);
        end.push(7).unwrap();
        assert!(other.is_joined());
        drop(end);
        assert!(rings(&there) && !other.is_joined());
        assert_eq!(other.pop(), Some(7));
    }

    #[test]
    fn two_threads_exchange_everything_in_order_and_none_sleeps_for_ever() {
        const COUNT: u32 = 200_000;
        let (here, there) = (Bell::new().unwrap(), Bell::new().unwrap());
        let (mut end, mut other) = join::<u32, u32>(&here, &there, 8, 8);
        let wait = |bell: &Bell, end: &End<u32, u32>, blocked: bool| {
            bell.sleep();
            let patience = if end.has_news() && !blocked { 0u16 } else { 10_000 };
            let begun = Instant::now();
            poll(&mut [PollFd::new(bell.as_fd(), PollFlags::POLLIN)], PollTimeout::from(patience)).unwrap();
            assert!(begun.elapsed() < Duration::from_secs(9), "nobody rang");
            bell.wake();
            bell.silence();
        };
        // Sends back what it gets; waits for room where it must.
        let echo = std::thread::spawn(move || {
            let mut seen = 0;
            while seen < COUNT {
                while let Some(item) = other.pop() {
                    assert_eq!(item, seen);
                    seen += 1;
                    while other.push(item).is_err() {
                        other.flush();
                        wait(&there, &other, true);
                    }
                }
                other.flush();
                if seen < COUNT {
                    wait(&there, &other, false);
                }
            }
        });
        let (mut sent, mut back) = (0, 0);
        while back < COUNT {
            while sent < COUNT && end.push(sent).is_ok() {
                sent += 1;
            }
            while let Some(item) = end.pop() {
                assert_eq!(item, back);
                back += 1;
            }
            end.flush();
            if back < COUNT {
                wait(&here, &end, false);
            }
        }
        echo.join().unwrap();
    }
}
