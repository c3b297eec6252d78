//! The data plane of one session in one shard.

use core::time::Duration;

use sha2::{Digest, Sha256};

use super::ShardSettings;
use super::table::{Install, PeerId, SessionId, Way};
use super::window::ReplayWindow;
use crate::crypto::AeadKey;
use crate::io::Path;
use crate::time::Instant;

/// Lanes of a session: 4 bits.
pub const LANES: u8 = 16;
/// Packets on one lane after which the session's rekey is due: 2^28 over all lanes (design, section 4).
pub const REKEY_PACKETS: u64 = (1 << 28) / LANES as u64;
/// Packets on one lane after which nothing more is sealed on it.
pub const MAX_PACKETS: u64 = 1 << 30;
/// How long a session still seals after its rekey was due.
pub const REKEY_GRACE: Duration = Duration::from_secs(60);
/// The least gap in a flow at which it moves to a newer way.
pub const MIN_FLOW_GAP: Duration = Duration::from_millis(20);
/// How long flows may stay on an older way: longer than the gaps of anything interactive, short enough that a bulk transfer without gaps
/// gets the better way for the price of one reordering, and that nobody relies on a path that is looked after no more.
pub const MAX_LINGER: Duration = Duration::from_secs(3);

/// A way with the lane that it is sealed on.
#[derive(Clone, Debug)]
pub(super) struct LaneWay {
    pub(super) way: Way,
    pub(super) lane: u8,
    /// Numbers the session's ways, for the flow table.
    epoch: u32,
}

/// The key may not be used any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Exhausted;

/// The sealing side: counters of this shard's lanes, and the ways.
#[derive(Debug)]
pub(super) struct Sender {
    counters: [u64; LANES as usize],
    pub(super) current: LaneWay,
    /// The way before, for flows that have not paused since, and until when.
    previous: Option<(LaneWay, Instant)>,
    /// From when on nothing is sealed.
    seal_until: Instant,
    /// Whether a lane has used up its share.
    rekey_due: bool,
    id: u8,
    workers: u8,
    /// The last counter that was sealed on each lane.
    #[cfg(debug_assertions)]
    sealed: [Option<u64>; LANES as usize],
}

impl Sender {
    fn new(settings: &ShardSettings, way: Way, rekey_at: Instant) -> Self {
        let (id, way) = (settings.id.0, normal(way));
        Self {
            counters: [0; LANES as usize],
            current: LaneWay { way, lane: id, epoch: 1 },
            previous: None,
            seal_until: rekey_at + REKEY_GRACE,
            rekey_due: false,
            id,
            workers: settings.workers.get(),
            #[cfg(debug_assertions)]
            sealed: [None; LANES as usize],
        }
    }

    /// Takes another way, on a fresh lane. With `at_once` the old one is dead and no flow stays on it.
    pub(super) fn set_way(&mut self, way: Way, at_once: bool, now: Instant) {
        let (old, way) = (&self.current.way, normal(way));
        if (old.path, old.circuit, old.routed) == (way.path, way.circuit, way.routed) {
            self.current.way = way;
        } else {
            let next = LaneWay { way, lane: self.fresh_lane(), epoch: self.current.epoch.wrapping_add(1).max(1) };
            self.previous = Some((core::mem::replace(&mut self.current, next), now + MAX_LINGER));
        }
        if at_once {
            self.previous = None;
        }
    }

    /// The next of this shard's lanes that still has numbers: the one that rested longest. With more than 8 workers a shard may have one only.
    fn fresh_lane(&self) -> u8 {
        let current = self.current.lane;
        let mine = || (self.id..LANES).step_by(usize::from(self.workers));
        let usable = |lane: &u8| self.counters[usize::from(*lane)] < REKEY_PACKETS;
        let later = mine().filter(|&lane| lane > current).find(usable);
        later.or_else(|| mine().filter(|&lane| lane < current).find(usable)).unwrap_or(current)
    }

    /// The way for a packet of `len` bytes of a flow whose last packet took the way of `epoch` and lies `gap` back, and its epoch.
    #[inline]
    pub(super) fn choose(&mut self, epoch: u32, gap: Option<Duration>, len: u16, now: Instant) -> u32 {
        if self.previous.as_ref().is_some_and(|(_, until)| now >= *until) {
            self.previous = None;
        }
        if let (Some((old, _)), Some(gap)) = (&self.previous, gap)
            && old.epoch == epoch
        {
            let pause = old.way.rtt.unwrap_or_default().max(MIN_FLOW_GAP);
            if gap <= pause && len <= old.way.whole {
                return epoch;
            }
        }
        self.current.epoch
    }

    /// The way with this epoch if it carries `len` bytes, or the current one.
    #[inline]
    pub(super) fn way(&self, epoch: u32, len: u16) -> &LaneWay {
        match &self.previous {
            Some((old, _)) if old.epoch == epoch && len <= old.way.whole => old,
            _ => &self.current,
        }
    }

    /// The counter of the next packet on `lane`, and whether the rekey became due with it.
    #[inline]
    pub(super) fn count(&mut self, lane: u8, now: Instant) -> Result<(u64, bool), Exhausted> {
        debug_assert!(lane < LANES && lane % self.workers == self.id, "another shard's lane: its nonces would repeat");
        let counter = self.counters[usize::from(lane)];
        if counter >= MAX_PACKETS || now >= self.seal_until {
            return Err(Exhausted);
        }
        self.counters[usize::from(lane)] = counter + 1;
        self.assert_unused(lane, counter);
        let due = counter + 1 >= REKEY_PACKETS && !self.rekey_due;
        if due {
            self.rekey_due = true;
            self.seal_until = self.seal_until.min(now + REKEY_GRACE);
        }
        Ok((counter, due))
    }

    /// A second account of what was sealed, in debug builds: a counter that steps back for whatever reason is caught before its nonce repeats.
    #[inline]
    fn assert_unused(&mut self, _lane: u8, _counter: u64) {
        #[cfg(debug_assertions)]
        {
            let last = self.sealed[usize::from(_lane)].replace(_counter);
            assert!(last < Some(_counter), "lane {_lane} would seal number {_counter} after {last:?}");
        }
    }

    /// Ends sealing no later than it would by `rekey_at`.
    fn limit(&mut self, rekey_at: Instant) {
        self.seal_until = self.seal_until.min(rekey_at + REKEY_GRACE);
    }

    #[cfg(test)]
    pub(super) fn set_counter(&mut self, lane: u8, counter: u64) {
        self.counters[usize::from(lane)] = counter;
    }
}

/// The way with `whole` at most `mtu`: then one comparison tells a packet that needs nothing special.
fn normal(way: Way) -> Way {
    Way { whole: way.whole.min(way.mtu), ..way }
}

/// The opening side. Only the shard that the receiver index belongs to opens anything.
#[derive(Debug)]
pub(super) struct Receiver {
    /// The window of each lane that an authentic packet has come on, 264 bytes each: of 16 lanes a session uses one, and one more per move to another path.
    pub(super) windows: [Option<Box<ReplayWindow>>; LANES as usize],
    /// Where the session's packets come from, as far as the control plane was told.
    pub(super) seen: Path,
    /// Before this time no move is reported.
    pub(super) quiet_until: Instant,
    /// Whether [`ShardEvent::Confirmed`](super::table::ShardEvent::Confirmed) was queued.
    pub(super) confirmed: bool,
}

impl Receiver {
    /// The window of `lane`, below [`LANES`], to look at.
    #[inline]
    pub(super) fn window(&self, lane: u8) -> &ReplayWindow {
        static FRESH: ReplayWindow = ReplayWindow::new();
        self.windows[usize::from(lane)].as_deref().unwrap_or(&FRESH)
    }

    /// The window of `lane` for an authentic packet: made at the first one, which is the only allocation that a lane ever meets.
    #[inline]
    pub(super) fn window_mut(&mut self, lane: u8) -> &mut ReplayWindow {
        self.windows[usize::from(lane)].get_or_insert_with(|| Box::new(ReplayWindow::new()))
    }
}

/// Traffic that the control plane was not told of yet.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Traffic {
    pub(super) rx_bytes: u64,
    pub(super) tx_bytes: u64,
    /// When it may be told next.
    pub(super) due: Instant,
    /// Whether the session stands in the shard's list of those with news.
    pub(super) listed: bool,
}

/// A session.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) id: SessionId,
    pub(super) peer: PeerId,
    pub(super) remote_index: u32,
    pub(super) seal_key: AeadKey,
    pub(super) open_key: AeadKey,
    pub(super) sender: Sender,
    pub(super) receiver: Receiver,
    pub(super) traffic: Traffic,
    /// Before this time no further [`ShardEvent::RekeyDue`](super::table::ShardEvent::RekeyDue) is queued.
    pub(super) rekey_quiet_until: Instant,
    /// Whether a [`ShardEvent::RekeyDue`](super::table::ShardEvent::RekeyDue) was lost and must come again.
    pub(super) rekey_untold: bool,
    /// Tells whether an install brings the same keys again: counting must then go on.
    fingerprint: [u8; 32],
}

impl Session {
    pub(super) fn new(settings: &ShardSettings, install: &Install) -> Self {
        Self {
            id: install.session,
            peer: install.peer,
            remote_index: install.remote_index,
            seal_key: AeadKey::new(install.cipher, &install.keys.send),
            open_key: AeadKey::new(install.cipher, &install.keys.receive),
            sender: Sender::new(settings, install.way, install.rekey_at),
            receiver: Receiver { windows: Default::default(), seen: install.way.path, quiet_until: Instant::ZERO, confirmed: false },
            traffic: Traffic::default(),
            rekey_quiet_until: Instant::ZERO,
            rekey_untold: false,
            fingerprint: fingerprint(install),
        }
    }

    /// Whether `install` brings the keys that are in use already.
    pub(super) fn has_keys_of(&self, install: &Install) -> bool {
        self.fingerprint == fingerprint(install)
    }

    /// Takes over what an install with the same keys may change: the way; the keys live no longer by it.
    pub(super) fn reinstall(&mut self, install: &Install, now: Instant) {
        self.peer = install.peer;
        self.remote_index = install.remote_index;
        self.sender.set_way(install.way, true, now);
        self.sender.limit(install.rekey_at);
    }
}

fn fingerprint(install: &Install) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update([install.cipher as u8]);
    hash.update(install.keys.send);
    hash.update(install.keys.receive);
    hash.finalize().into()
}
