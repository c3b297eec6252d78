//! The search for the largest packet that a path carries whole (RFC 8899), without a socket: rounds of padded pings in, a size out.
//!
//! Sizes are inner packets in bytes: a ping of that much payload makes a control packet exactly as long as the data packet around an inner packet of
//! that size.
//!
//! | state | what data may use | what is probed |
//! | --- | --- | --- |
//! | hopeful: nothing has failed yet | the tunnel's MTU | the tunnel's MTU |
//! | searching: a size has failed | the largest size that has passed, [`BASE`] at least | the next size that paths are known to have, then halves of what is left |
//! | settled | the same | that size every [`CONFIRM`] while data is sent; a little more [`RAISE`] after the last change |
//!
//! Data begins with the tunnel's MTU although nothing has proven it: of a hundred paths some ninety-five carry it, and there the other choice would send
//! the first seconds of each flow in two parts, by way of the control plane. Where it does not pass, the host's first large packets are lost for about a
//! second, a TCP retransmission, unless the system refuses them, which is known at once.
//!
//! While it searches, larger packets go in two parts and nobody is told of anything: a host that is told keeps to it for ten minutes (RFC 1191), and would
//! keep to the base on a path that carries nearly everything. Only what is settled is told.
//!
//! A size fails when it stayed unanswered again and again while a small ping of the same moment was answered: then it is the size and not the path. One
//! lost probe says nothing; the number that does grows with the loss of the path ([`needed`]).

use core::time::Duration;

use smallvec::SmallVec;

use crate::time::Instant;

/// Bytes of the outer IP packet that every path is taken to carry: the least that IPv6 allows (RFC 8200, section 5). Nothing lowers a size below it: an
/// ICMP message that claims less may come from anybody.
const BASE: u16 = 1_280;
/// Outer sizes that paths are known to have: IPv6 over tunnels, WireGuard, PPPoE over tunnels, IPv4 and IPv6 in 1,500, 6in4, PPPoE, Ethernet.
const KNOWN: [u16; 7] = [1_400, 1_420, 1_452, 1_472, 1_480, 1_492, 1_500];
/// What is found is at most this much too small: 0.6 % of a packet, for four probed sizes less than by the byte.
const STEP: u16 = 8;
/// How often the size in use is confirmed while data is sent. A black hole is noticed within this time and the probes that prove it, about 5 s; it costs
/// 0.5 kB/s on a path in use.
const CONFIRM: Duration = Duration::from_secs(3);
/// The first attempt at more after the last change (RFC 8899, section 5.1.1, `PMTU_RAISE_TIMER`).
const RAISE: Duration = Duration::from_secs(600);
/// Probes go on for this long after the last data: the gaps of a TCP connection that retransmits into a black hole are shorter.
const HOLD: Duration = Duration::from_secs(10);
/// A round on a path that answers nothing at all waits up to this many times as long, doubling: whether the path lives is found out by others.
const MAX_BACKOFF: u32 = 8;
/// Large probes of the size being tried whose answers are still understood. The oldest makes room; its answer would be seconds late.
const MAX_OUT: usize = 8;

/// How many rounds must miss the large answer and have the small one, after the first miss, at a loss of `permille` of round trips. Below one size in a
/// million fails for loss alone: `q^(n + 1) <= 1e-6`; a path in use for a day is confirmed 28,800 times.
const fn needed(permille: u16) -> u8 {
    match permille {
        0..=100 => 5,
        101..=200 => 8,
        201..=300 => 11,
        301..=400 => 15,
        _ => 20,
    }
}

/// A padded ping to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SizeProbe {
    /// What its answer brings back.
    pub(super) token: u64,
    /// Bytes of its payload; 0: no padding.
    pub(super) size: u16,
}

/// Probes of one moment: the large one and, when it was missed before, a small one.
pub(super) type SizeProbes = SmallVec<[SizeProbe; 2]>;

/// A probe on its way.
#[derive(Clone, Copy, Debug)]
struct Round {
    size: u16,
    /// When its answer is overdue.
    due: Instant,
    /// Token of the small ping sent with it.
    small: Option<u64>,
    small_answered: bool,
}

/// What is known of one path's size.
#[derive(Clone, Debug)]
pub(super) struct Search {
    /// What the tunnel's MTU needs; nothing larger is probed.
    full: u16,
    /// Bytes around an inner packet on this path.
    overhead: u16,
    /// The largest size known to pass.
    works: u16,
    /// The smallest size known not to pass; beyond `full` while there is none.
    fails: u16,
    /// Nothing has failed yet, and `full` has not passed yet.
    hopeful: bool,
    /// `works` must be confirmed.
    doubt: bool,
    /// A size has passed since the search began anew.
    grown: bool,
    /// The size in use has changed and may soon change again.
    searching: bool,
    round: Option<Round>,
    /// Rounds with the same size.
    tries: u8,
    /// Rounds in which only the small ping was answered.
    missed: u8,
    /// Rounds in a row in which nothing was answered.
    dumb: u8,
    out: SmallVec<[u64; MAX_OUT]>,
    /// When the size in use last passed.
    confirmed: Instant,
    /// When data of ours was last sent on the path.
    used: Instant,
    /// When `works` or `fails` last changed.
    changed: Instant,
}

impl Search {
    /// A path of which nothing is known. `overhead` is what stands around an inner packet on it, the outer IP header included.
    pub(super) fn new(full: u16, overhead: u16, now: Instant) -> Self {
        Self {
            full,
            overhead,
            works: full.min(BASE - overhead),
            fails: full + 1,
            hopeful: true,
            doubt: false,
            grown: false,
            searching: false,
            round: None,
            tries: 0,
            missed: 0,
            dumb: 0,
            out: SmallVec::new(),
            confirmed: now,
            used: now,
            changed: now,
        }
    }

    /// The largest inner packet that shall be sent whole.
    pub(super) const fn size(&self) -> u16 {
        if self.hopeful { self.full } else { self.works }
    }

    /// Whether senders of larger packets may be told of [`Self::size`].
    pub(super) const fn is_settled(&self) -> bool {
        !self.searching
    }

    /// Data of ours took the path.
    pub(super) fn note_use(&mut self, now: Instant) {
        self.used = now;
    }

    /// Whether data of ours took the path lately.
    pub(super) fn is_used(&self, now: Instant) -> bool {
        now < self.used + HOLD
    }

    /// The network has changed: what was found is confirmed and the search for more begins at once.
    pub(super) fn begin_anew(&mut self) {
        self.doubt = true;
        self.fails = self.full + 1;
        self.grown = true;
        self.forget_round();
    }

    /// When [`Self::run`] is next needed.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        if let Some(round) = &self.round {
            return Some(round.due);
        }
        if !self.is_used(now) {
            return None;
        }
        if self.candidate().is_some() {
            return Some(now);
        }
        let confirm = (self.works > self.base() && self.used > self.confirmed).then_some(self.confirmed + CONFIRM);
        let raise = (self.works < self.full).then_some(self.changed + RAISE);
        confirm.into_iter().chain(raise).min()
    }

    /// Judges the round that is over and begins the next, if there is something to find out. `timeout` is how long an answer may take, `permille` the
    /// share of probes that the path loses.
    pub(super) fn run(&mut self, timeout: Duration, permille: u16, mut token: impl FnMut() -> u64, now: Instant) -> SizeProbes {
        let mut probes = SizeProbes::new();
        if let Some(round) = self.round {
            if round.due > now {
                return probes;
            }
            self.round = None;
            self.judge(&round, permille, now);
        }
        if !self.is_used(now) {
            return probes;
        }
        if self.candidate().is_none() {
            self.doubt = self.used > self.confirmed && self.confirmed + CONFIRM <= now;
            if self.works < self.full && self.changed + RAISE <= now {
                (self.fails, self.grown, self.changed) = (self.full + 1, false, now);
            }
        }
        let Some(size) = self.candidate() else { return probes };
        let large = SizeProbe { token: token(), size };
        if self.out.len() == MAX_OUT {
            self.out.remove(0);
        }
        self.out.push(large.token);
        probes.push(large);
        let small = (self.tries > 0).then(&mut token);
        probes.extend(small.map(|token| SizeProbe { token, size: 0 }));
        self.tries = self.tries.saturating_add(1);
        let wait = timeout * (1 << u32::from(self.dumb).min(MAX_BACKOFF.ilog2()));
        self.round = Some(Round { size, due: now + wait, small, small_answered: false });
        probes
    }

    /// Takes in the answer to one of its probes; whether it was one.
    pub(super) fn answered(&mut self, token: u64, now: Instant) -> bool {
        let Some(round) = &mut self.round else { return false };
        if round.small == Some(token) {
            round.small_answered = true;
            return true;
        }
        if !self.out.contains(&token) {
            return false;
        }
        let size = round.size;
        self.passed(size, now);
        true
    }

    /// The system refused to send a datagram around an inner packet of `size` bytes.
    pub(super) fn refused(&mut self, size: u16, now: Instant) {
        if size <= self.base() || size > self.full {
            return;
        }
        self.fall(self.fails.min(size), now);
    }

    fn base(&self) -> u16 {
        self.full.min(BASE - self.overhead)
    }

    /// The size to be tried now; `None` when nothing is left to find out.
    fn candidate(&self) -> Option<u16> {
        let Self { full, works, fails, .. } = *self;
        if self.hopeful {
            return Some(full);
        }
        if self.doubt && works > self.base() {
            return Some(works);
        }
        if works >= full {
            return None;
        }
        if fails > full {
            // First a little more: if that fails, nothing has changed, and a single size was tried.
            return Some(if self.grown { full } else { full.min(works + STEP) });
        }
        if fails - works <= STEP {
            return None;
        }
        let known = || KNOWN.iter().map(|outer| outer - self.overhead);
        if let Some(next) = known().find(|size| (works + 1..fails).contains(size)) {
            return Some(next);
        }
        // A path whose size has a name has mostly just this size.
        let named = works == self.base() || known().any(|size| size == works);
        Some(if named { works + STEP } else { works + (fails - works) / 2 })
    }

    fn judge(&mut self, round: &Round, permille: u16, now: Instant) {
        if round.small_answered {
            self.dumb = 0;
            self.missed += 1;
            if self.missed >= needed(permille) {
                self.fall(round.size, now);
            }
        } else if round.small.is_some() {
            self.dumb = self.dumb.saturating_add(1);
        }
    }

    fn passed(&mut self, size: u16, now: Instant) {
        if size > self.works {
            (self.works, self.grown, self.searching, self.changed) = (size, true, true, now);
        }
        if size >= self.full {
            (self.hopeful, self.fails) = (false, self.full + 1);
        }
        (self.confirmed, self.doubt) = (now, false);
        self.forget_round();
        self.searching &= self.candidate().is_some();
    }

    /// Sizes from `fails` on do not pass.
    fn fall(&mut self, fails: u16, now: Instant) {
        self.fails = fails;
        if self.hopeful || self.works >= fails {
            (self.works, self.hopeful, self.searching) = (self.base(), false, true);
        }
        (self.doubt, self.changed) = (false, now);
        self.forget_round();
        self.searching &= self.candidate().is_some();
    }

    /// Another size is to be tried.
    fn forget_round(&mut self) {
        self.round = None;
        (self.tries, self.missed, self.dumb) = (0, 0, 0);
        self.out.clear();
    }
}
