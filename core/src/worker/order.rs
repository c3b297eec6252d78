//! Keeps flows in order that begin before their session exists.
//!
//! The first packets to a destination go to the control plane, wait there, and leave by worker 0. Once this shard may seal for the destination itself, the
//! next packets would overtake those. So with the update that makes it possible the worker sets up a fence: a report behind all punts, answered when the
//! control plane has dealt with them. Until then packets to the destinations concerned are held; others are not touched.

use core::net::IpAddr;
use std::collections::VecDeque;

use crate::batch::Slot;
use crate::io::{DropReason, Punt, Verdict};
use crate::shard::table::TableUpdate;
use crate::wire::ip::IpHeader;

/// Destinations told apart while their packets are with the control plane; with more of them at once a fence concerns all destinations.
const MAX_DETOURS: usize = 64;

/// Packets held at a fence at most: what a host sends to new destinations in the time of two wake-ups. Beyond it the newest are dropped and counted as
/// [`DropReason::QueueFull`].
const MAX_HELD: usize = 64;

/// The fence of one shard.
#[derive(Debug, Default)]
pub(super) struct Order {
    /// Where packets went that are with the control plane, or were when the last fence ended.
    detours: Vec<IpAddr>,
    /// Whether there are more than `detours` has room for.
    all: bool,
    /// Whether a fence is up.
    up: bool,
    /// Its number, or the last one's.
    number: u64,
    held: VecDeque<Vec<u8>>,
}

impl Order {
    /// A packet of the host goes to the control plane.
    pub(super) fn detour(&mut self, packet: &[u8]) {
        let Some(destination) = destination(packet) else { return };
        if self.all || self.detours.contains(&destination) {
            return;
        }
        if self.detours.len() < MAX_DETOURS {
            self.detours.push(destination);
        } else {
            self.all = true;
        }
    }

    /// Sets up a fence with the update that makes the shard seal for more destinations, if packets are on a detour; its number is to be reported.
    pub(super) fn set_up(&mut self, update: &TableUpdate) -> Option<u64> {
        let opens = matches!(update, TableUpdate::Route { .. } | TableUpdate::Promote { .. });
        if !opens || self.up || self.detours.is_empty() {
            return None;
        }
        self.up = true;
        self.number += 1;
        Some(self.number)
    }

    /// Whether a fence is up.
    #[inline]
    pub(super) const fn is_up(&self) -> bool {
        self.up
    }

    /// Holds the packets that must not overtake others, and those among the sealed slots that would have to go to the control plane only now;
    /// their slots are done with. Answers how many were lost.
    pub(super) fn hold(&mut self, slots: &mut [Slot], buf: &[u8]) -> usize {
        let mut lost = 0;
        for slot in slots {
            let Some(packet) = buf.get(slot.range()) else { continue };
            let concerned = match slot.verdict {
                Verdict::Pending => self.all || destination(packet).is_some_and(|to| self.detours.contains(&to)),
                Verdict::Punt(Punt::NoSession | Punt::NoAddress) => {
                    self.detour(packet);
                    true
                }
                _ => false,
            };
            if concerned {
                slot.verdict = Verdict::Drop(DropReason::QueueFull);
                if self.held.len() < MAX_HELD {
                    self.held.push_back(packet.to_vec());
                } else {
                    lost += 1;
                }
            }
        }
        lost
    }

    /// Takes the fence with this number down and answers what was held.
    pub(super) fn take_down(&mut self, number: u64) -> VecDeque<Vec<u8>> {
        if !self.up || number != self.number {
            return VecDeque::new();
        }
        self.up = false;
        self.all = false;
        self.detours.clear();
        core::mem::take(&mut self.held)
    }
}

fn destination(packet: &[u8]) -> Option<IpAddr> {
    IpHeader::parse(packet).ok().map(|header| header.destination)
}
