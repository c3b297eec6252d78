//! DNS names of bootstrap endpoints, looked up in a thread of its own: the event loop never waits for a name server.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

/// Look-ups that wait at most: one per group, asked again only after the last answer.
const QUEUE: usize = 16;

/// Addresses that are taken from one answer at most.
const MAX_PER_NAME: usize = 8;

/// How long a name is left alone after it was looked up; the caller's timer.
pub const LOOK_UP_INTERVAL: Duration = Duration::from_secs(300);

/// Names of one group to look up.
#[derive(Clone, Debug)]
struct Question {
    realm: u8,
    names: Vec<(String, u16)>,
}

/// What was found for one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The number of the realm that asked.
    pub realm: u8,
    /// The addresses of all its names.
    pub addresses: Vec<SocketAddr>,
    /// Names without an answer, with the reason.
    pub failed: Vec<(String, String)>,
}

/// The thread that asks.
#[derive(Debug)]
pub struct Resolver {
    questions: SyncSender<Question>,
    answers: Receiver<Found>,
}

impl Resolver {
    /// Starts the thread; `wake` is called after each answer. It ends when this is dropped and the last look-up is through.
    ///
    /// # Errors
    /// The system's.
    pub fn start(wake: impl Fn() + Send + 'static) -> std::io::Result<Self> {
        let (questions, incoming) = sync_channel::<Question>(QUEUE);
        let (outgoing, answers) = sync_channel(QUEUE);
        std::thread::Builder::new().name("resolver".into()).spawn(move || {
            for question in incoming {
                if outgoing.send(look_up(question)).is_err() {
                    return;
                }
                wake();
            }
        })?;
        Ok(Self { questions, answers })
    }

    /// Asks for the addresses of these names; `false` when too many questions wait already.
    pub fn ask(&self, realm: u8, names: Vec<(String, u16)>) -> bool {
        self.questions.try_send(Question { realm, names }).is_ok()
    }

    /// The next answer, if there is one.
    #[must_use]
    pub fn next(&self) -> Option<Found> {
        self.answers.try_recv().ok()
    }
}

fn look_up(question: Question) -> Found {
    let mut found = Found { realm: question.realm, addresses: Vec::new(), failed: Vec::new() };
    for (name, port) in question.names {
        match (name.as_str(), port).to_socket_addrs() {
            Ok(addresses) => found.addresses.extend(addresses.take(MAX_PER_NAME)),
            Err(error) => found.failed.push((name, error.to_string())),
        }
    }
    found.addresses.sort();
    found.addresses.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_answered_by_another_thread() {
        let (woken, wakes) = sync_channel(1);
        let resolver = Resolver::start(move || woken.send(()).unwrap()).unwrap();
        assert!(resolver.ask(3, vec![("localhost".into(), 9), ("does-not-exist.invalid".into(), 9)]));
        wakes.recv_timeout(Duration::from_secs(30)).unwrap();
        let found = resolver.next().unwrap();
        assert_eq!(found.realm, 3);
        assert!(found.addresses.iter().all(|address| address.ip().is_loopback() && address.port() == 9));
        assert_eq!(found.failed.len(), 1);
    }
}
