//! Questions of the control socket that take several steps: a name is resolved, then a node is pinged or the way to it traced.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use annulus_core::id::NodeId;
use annulus_core::io::{Command, RealmSlot};
use annulus_core::time::Instant;

use crate::control::server::Ticket;
use crate::control::{ControlError, ErrorCode};

/// Questions under way at most: one per control connection.
const MAX_PENDING: usize = crate::control::server::MAX_CLIENTS;

/// How long all steps of a question may take; the control socket itself waits longer.
const PATIENCE: Duration = Duration::from_secs(20);

/// What is asked about a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum About {
    /// An echo.
    Ping,
    /// The way.
    Trace,
}

/// A question under way.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    /// Whom to answer.
    pub(super) ticket: Ticket,
    /// In which realm.
    pub(super) realm: RealmSlot,
    /// What is asked.
    pub(super) about: About,
    /// About whom, as it was written.
    pub(super) node: String,
    /// About whom, once that is known.
    pub(super) found: Option<(NodeId, Vec<IpAddr>)>,
    deadline: Instant,
}

/// All questions under way, by the token that their commands carry.
#[derive(Debug, Default)]
pub(super) struct Requests {
    pending: BTreeMap<u64, Pending>,
    next: u64,
}

impl Requests {
    /// Begins a question with its first command.
    ///
    /// # Errors
    /// [`ErrorCode::Busy`] when too many are under way.
    pub(super) fn begin(
        &mut self,
        ticket: Ticket,
        realm: RealmSlot,
        about: About,
        node: String,
        now: Instant,
    ) -> Result<Command, ControlError> {
        if self.pending.len() >= MAX_PENDING {
            return Err(ControlError::new(ErrorCode::Busy, "too many questions are under way; try again"));
        }
        let token = self.next;
        self.next += 1;
        let command = Command::Resolve { token, name: node.clone() };
        self.pending.insert(token, Pending { ticket, realm, about, node, found: None, deadline: now + PATIENCE });
        Ok(command)
    }

    /// The node was found: the second command. `None` when nobody waits for it any more.
    pub(super) fn found(&mut self, token: u64, node: NodeId, addresses: Vec<IpAddr>) -> Option<(RealmSlot, Command)> {
        let pending = self.pending.get_mut(&token)?;
        pending.found = Some((node, addresses));
        let command = match pending.about {
            About::Ping => Command::Ping { token, node },
            About::Trace => Command::Trace { token, node },
        };
        Some((pending.realm, command))
    }

    /// Takes a question out, to be answered.
    pub(super) fn end(&mut self, token: u64) -> Option<Pending> {
        self.pending.remove(&token)
    }

    /// Takes out a question whose time is over.
    pub(super) fn expired(&mut self, now: Instant) -> Option<Pending> {
        let token = *self.pending.iter().find(|(_, pending)| pending.deadline <= now)?.0;
        self.pending.remove(&token)
    }

    /// When [`Self::expired`] is next needed.
    #[must_use]
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.pending.values().map(|pending| pending.deadline).min()
    }
}
