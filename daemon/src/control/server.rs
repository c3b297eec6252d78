//! The daemon's end of the control socket: one thread, bounded clients, lines and waits.

use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::{Gid, Group, Uid, User};

use super::{Answer, ControlError, ErrorCode, MAX_LINE, Request, parse};

/// Connections at one time at most; a further one is told that the daemon is busy and closed.
pub const MAX_CLIENTS: usize = 32;

/// Requests that wait for the event loop at most, one per connection; a further one is answered with `busy`.
const QUEUE: usize = MAX_CLIENTS;

/// How long a client may be silent or slow to read before its connection is closed.
const IDLE: Duration = Duration::from_secs(60);

/// How long the event loop may take for an answer; pings and traces end by themselves before.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long the thread goes on writing answers when the daemon ends.
const LAST_WORDS: Duration = Duration::from_millis(300);

/// Why the socket could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ControlStartError {
    /// Somebody answers there.
    #[error("{}: another daemon answers on this control socket; end it with `annulus down`, or use --instance NAME", .0.display())]
    Running(PathBuf),
    /// No such Unix group.
    #[error("control_group: there is no Unix group `{0}`; make it with: groupadd --system {0}")]
    NoGroup(String),
    /// The system refused.
    #[error("{}: cannot make the control socket: {source}", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

/// Names one request; its answer carries it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

/// The event loop's end: requests out, answers in.
#[derive(Debug)]
pub struct ControlServer {
    path: PathBuf,
    requests: Receiver<(Ticket, Request)>,
    readable: Arc<EventFd>,
    answers: Option<SyncSender<(Ticket, Answer)>>,
    wake: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl ControlServer {
    /// Makes the socket (0660, owned by `group` if one is named) and starts the thread.
    ///
    /// The socket is made beside its place and moved there, so that at no time others can open it, and what a killed daemon left is replaced.
    ///
    /// # Errors
    /// [`ControlStartError`].
    pub fn start(path: &Path, group: Option<&str>) -> Result<Self, ControlStartError> {
        let io = |source: io::Error| ControlStartError::Io { path: path.to_owned(), source };
        let gid = match group {
            None => None,
            Some(name) => Some(Group::from_name(name).ok().flatten().ok_or_else(|| ControlStartError::NoGroup(name.to_owned()))?.gid),
        };
        if UnixStream::connect(path).is_ok() {
            return Err(ControlStartError::Running(path.to_owned()));
        }
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(io)?;
        }
        let mut beside = path.as_os_str().to_owned();
        beside.push(".new");
        let beside = PathBuf::from(beside);
        let _ = fs::remove_file(&beside);
        let listener = UnixListener::bind(&beside).map_err(io)?;
        fs::set_permissions(&beside, fs::Permissions::from_mode(0o660)).map_err(io)?;
        if let Some(gid) = gid {
            chown(&beside, None, Some(gid.as_raw())).map_err(io)?;
        }
        fs::rename(&beside, path).map_err(io)?;
        listener.set_nonblocking(true).map_err(io)?;
        Self::serve(path, listener, gid).map_err(io)
    }

    fn serve(path: &Path, listener: UnixListener, group: Option<Gid>) -> io::Result<Self> {
        let event = || EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC).map(Arc::new);
        let (request_sender, requests) = sync_channel(QUEUE);
        let (answers, answer_receiver) = sync_channel(QUEUE);
        let (readable, wake) = (event()?, event()?);
        let server = Server {
            listener,
            group,
            clients: Vec::new(),
            next: 0,
            requests: request_sender,
            readable: readable.clone(),
            answers: answer_receiver,
            wake: wake.clone(),
        };
        let thread = std::thread::Builder::new().name("control".into()).spawn(move || server.run())?;
        Ok(Self { path: path.to_owned(), requests, readable, answers: Some(answers), wake, thread: Some(thread) })
    }

    /// The next request; the descriptor is quiet again after the first `None`.
    pub fn next_request(&mut self) -> Option<(Ticket, Request)> {
        let _ = self.readable.read();
        self.requests.try_recv().ok()
    }

    /// Something with which other threads wake the event loop through the same descriptor.
    pub fn waker(&self) -> impl Fn() + Send + use<> {
        let readable = self.readable.clone();
        move || {
            let _ = readable.write(1);
        }
    }

    /// Answers a request; what the client is gone for is dropped.
    pub fn answer(&self, ticket: Ticket, answer: impl Into<Answer>) {
        if let Some(answers) = &self.answers {
            // Full is impossible while each client has one request; were it so, the client is answered with `timeout`.
            let _ = answers.try_send((ticket, answer.into()));
            let _ = self.wake.write(1);
        }
    }
}

impl AsFd for ControlServer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.readable.as_fd()
    }
}

impl Drop for ControlServer {
    fn drop(&mut self) {
        self.answers = None;
        let _ = self.wake.write(1);
        let _ = fs::remove_file(&self.path);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Client {
    stream: UnixStream,
    input: Vec<u8>,
    output: Vec<u8>,
    waiting: Option<Ticket>,
    /// When the client last did something, or its request began to wait.
    since: Instant,
    /// It writes no more.
    ended: bool,
    /// Closed when all is written.
    leaving: bool,
}

impl Client {
    fn say(&mut self, answer: &Answer) {
        serde_json::to_writer(&mut self.output, answer).expect("plain data with text keys always becomes JSON");
        self.output.push(b'\n');
        self.since = Instant::now();
    }

    fn is_done(&self) -> bool {
        self.output.is_empty() && self.waiting.is_none() && (self.leaving || self.ended)
    }
}

struct Server {
    listener: UnixListener,
    group: Option<Gid>,
    clients: Vec<Client>,
    next: u64,
    requests: SyncSender<(Ticket, Request)>,
    readable: Arc<EventFd>,
    answers: Receiver<(Ticket, Answer)>,
    wake: Arc<EventFd>,
}

impl Server {
    fn run(mut self) {
        while self.turn() {}
        // The daemon ends: what is answered already shall arrive.
        let deadline = Instant::now() + LAST_WORDS;
        for client in &mut self.clients {
            if client.waiting.take().is_some() {
                client.say(&Answer::Error(ControlError::new(ErrorCode::Ending, "the daemon is ending")));
            }
            let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            let _ = client.stream.set_nonblocking(false);
            let _ = client.stream.set_write_timeout(Some(left));
            let _ = client.stream.write_all(&client.output);
        }
    }

    /// Waits for something and handles it; `false` when the daemon ends.
    fn turn(&mut self) -> bool {
        let ready = self.wait();
        let _ = self.wake.read();
        loop {
            match self.answers.try_recv() {
                Ok((ticket, answer)) => {
                    if let Some(client) = self.clients.iter_mut().find(|client| client.waiting == Some(ticket)) {
                        client.waiting = None;
                        client.say(&answer);
                    }
                }
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
        for (index, flags) in ready {
            if flags.intersects(PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL) {
                self.clients[index].output.clear();
                self.clients[index].waiting = None;
                self.clients[index].ended = true;
            } else if flags.contains(PollFlags::POLLIN) {
                self.read(index);
            }
        }
        for index in 0..self.clients.len() {
            // An answer that waits to be written holds back the line behind it; what needs no event loop is answered at once.
            write(&mut self.clients[index]);
            while self.next_line(index) {
                write(&mut self.clients[index]);
            }
            self.expire(index);
        }
        self.clients.retain(|client| !client.is_done());
        self.accept();
        true
    }

    fn wait(&self) -> Vec<(usize, PollFlags)> {
        let mut fds = vec![PollFd::new(self.wake.as_fd(), PollFlags::POLLIN), PollFd::new(self.listener.as_fd(), PollFlags::POLLIN)];
        for client in &self.clients {
            let mut flags = PollFlags::empty();
            if !client.ended && client.waiting.is_none() && client.output.is_empty() {
                flags |= PollFlags::POLLIN;
            }
            if !client.output.is_empty() {
                flags |= PollFlags::POLLOUT;
            }
            fds.push(PollFd::new(client.stream.as_fd(), flags));
        }
        // Time limits are looked at once a second; without clients there is none.
        let timeout = if self.clients.is_empty() { PollTimeout::NONE } else { PollTimeout::from(1000u16) };
        if poll(&mut fds, timeout).is_err() {
            return Vec::new();
        }
        fds[2..].iter().enumerate().filter_map(|(index, fd)| Some((index, fd.revents()?))).filter(|(_, flags)| !flags.is_empty()).collect()
    }

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            if stream.set_nonblocking(true).is_err() {
                continue;
            }
            let mut client = Client {
                stream,
                input: Vec::new(),
                output: Vec::new(),
                waiting: None,
                since: Instant::now(),
                ended: false,
                leaving: false,
            };
            if let Err(error) = self.admit(&client.stream) {
                client.say(&Answer::Error(error));
                client.leaving = true;
            }
            if self.clients.len() >= MAX_CLIENTS {
                client.output.clear();
                client.say(&Answer::Error(ControlError::new(ErrorCode::Busy, "too many connections; try again")));
                write(&mut client);
                continue;
            }
            self.clients.push(client);
        }
    }

    /// Root, the daemon's own user and the members of the socket's group may ask; others only get here where the directory lets them.
    fn admit(&self, stream: &UnixStream) -> Result<(), ControlError> {
        let denied = |message: String| Err(ControlError::new(ErrorCode::Denied, message));
        let Ok(peer) = getsockopt(stream, PeerCredentials) else { return denied("the kernel does not tell who asks".into()) };
        let uid = Uid::from_raw(peer.uid());
        if uid.is_root() || uid == Uid::effective() {
            return Ok(());
        }
        match self.group {
            Some(group) if peer.gid() == group.as_raw() || groups_of(uid).contains(&group) => Ok(()),
            _ => denied("only root and the members of control_group may use this socket".into()),
        }
    }

    fn read(&mut self, index: usize) {
        let client = &mut self.clients[index];
        let mut chunk = [0; 1024];
        while client.input.len() <= MAX_LINE {
            match client.stream.read(&mut chunk) {
                Ok(0) => client.ended = true,
                Ok(count) => {
                    client.input.extend_from_slice(&chunk[..count]);
                    client.since = Instant::now();
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock || error.kind() == ErrorKind::Interrupted => {}
                Err(_) => client.ended = true,
            }
            return;
        }
    }

    /// Hands the next whole line on, if the client has no request under way. `false` when there is none.
    fn next_line(&mut self, index: usize) -> bool {
        let client = &mut self.clients[index];
        if client.leaving || client.waiting.is_some() || !client.output.is_empty() {
            return false;
        }
        let Some(end) = client.input.iter().position(|&byte| byte == b'\n') else {
            if client.input.len() > MAX_LINE {
                client.say(&Answer::Error(ControlError::new(ErrorCode::BadRequest, format!("a line has at most {MAX_LINE} bytes"))));
                client.leaving = true;
                write(client);
            }
            return false;
        };
        let line: Vec<u8> = client.input.drain(..=end).collect();
        if line.iter().all(u8::is_ascii_whitespace) {
            return true;
        }
        let request = match parse(&line) {
            Ok(request) => request,
            Err(error) => {
                client.say(&Answer::Error(error));
                return true;
            }
        };
        let ticket = Ticket(self.next);
        self.next += 1;
        match self.requests.try_send((ticket, request)) {
            Ok(()) => {
                client.waiting = Some(ticket);
                client.since = Instant::now();
                let _ = self.readable.write(1);
            }
            Err(TrySendError::Full(_)) => client.say(&Answer::Error(ControlError::new(ErrorCode::Busy, "too many requests; try again"))),
            Err(TrySendError::Disconnected(_)) => client.say(&Answer::Error(ControlError::new(ErrorCode::Ending, "the daemon is ending"))),
        }
        true
    }

    fn expire(&mut self, index: usize) {
        let client = &mut self.clients[index];
        let quiet = client.since.elapsed();
        if client.waiting.is_some() && quiet > PATIENCE {
            client.waiting = None;
            client.say(&Answer::Error(ControlError::new(ErrorCode::Timeout, "the daemon did not answer in time")));
        } else if client.waiting.is_none() && quiet > IDLE {
            client.output.clear();
            client.leaving = true;
        }
    }
}

fn write(client: &mut Client) {
    while !client.output.is_empty() {
        match client.stream.write(&client.output) {
            Ok(count) => {
                client.output.drain(..count);
                client.since = Instant::now();
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => {
                client.output.clear();
                client.ended = true;
            }
        }
    }
}

fn groups_of(uid: Uid) -> Vec<Gid> {
    let Ok(Some(user)) = User::from_uid(uid) else { return Vec::new() };
    let Ok(name) = std::ffi::CString::new(user.name) else { return Vec::new() };
    nix::unistd::getgrouplist(&name, user.gid).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::client::{ClientError, ControlClient};
    use std::io::{BufRead, BufReader};

    /// A daemon that answers `status` with a number, `stop` never, and the rest with an error.
    fn daemon(dir: &Path) -> (PathBuf, JoinHandle<ControlServer>, std::sync::mpsc::Sender<()>) {
        let path = dir.join("run/annulus.sock");
        let mut server = ControlServer::start(&path, None).unwrap();
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            while stopped.try_recv() == Err(TryRecvError::Empty) {
                let mut fds = [PollFd::new(server.as_fd(), PollFlags::POLLIN)];
                let _ = poll(&mut fds, PollTimeout::from(20u16));
                while let Some((ticket, request)) = server.next_request() {
                    match request {
                        Request::Status { .. } => server.answer(ticket, Ok(serde_json::json!({"n": 7}))),
                        Request::Stop {} => {}
                        _ => server.answer(ticket, Err(ControlError::new(ErrorCode::UnknownNode, "nobody"))),
                    }
                }
            }
            server
        });
        (path, thread, stop)
    }

    #[test]
    fn requests_are_answered_one_after_the_other_and_the_socket_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let (path, thread, stop) = daemon(dir.path());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        let mut client = ControlClient::connect(&path).unwrap();
        for _ in 0..3 {
            assert_eq!(client.request(&Request::Status { group: None }, Duration::from_secs(5)).unwrap()["n"], 7);
        }
        let refused = client.request(&Request::Hosts { group: None }, Duration::from_secs(5)).unwrap_err();
        assert!(matches!(refused, ClientError::Refused(error) if error.code == ErrorCode::UnknownNode));
        stop.send(()).unwrap();
        drop(thread.join().unwrap());
        assert!(!path.exists());
        assert!(matches!(ControlClient::connect(&path), Err(ClientError::NotRunning(_))));
    }

    #[test]
    fn lines_come_in_pieces_or_several_at_once_and_after_the_last_the_answer_still_arrives() {
        let dir = tempfile::tempdir().unwrap();
        let (path, thread, stop) = daemon(dir.path());
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.write_all(b"{\"verb\":\"sta").unwrap();
        std::thread::sleep(Duration::from_millis(30));
        stream.write_all(b"tus\"}\n\n{\"verb\":\"status\"}\nnonsense\n{\"verb\":\"status\"}\n").unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let lines: Vec<String> = BufReader::new(stream).lines().map(Result::unwrap).collect();
        assert_eq!(lines.len(), 4, "{lines:?}");
        assert!(lines[2].contains("bad_request") && lines[3] == r#"{"ok":{"n":7}}"#);
        stop.send(()).unwrap();
        drop(thread.join().unwrap());
    }

    #[test]
    fn an_endless_line_is_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let (path, thread, stop) = daemon(dir.path());
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.write_all(&[b'x'; MAX_LINE + 100]).unwrap();
        let mut answer = String::new();
        // The rest of the line may reset the connection after the answer; what counts is that it ends.
        let _ = stream.read_to_string(&mut answer);
        assert!(answer.contains("a line has at most"), "{answer}");
        stop.send(()).unwrap();
        drop(thread.join().unwrap());
    }

    #[test]
    fn one_connection_too_many_is_told_so_and_the_others_go_on() {
        let dir = tempfile::tempdir().unwrap();
        let (path, thread, stop) = daemon(dir.path());
        let mut held: Vec<ControlClient> = (0..MAX_CLIENTS).map(|_| ControlClient::connect(&path).unwrap()).collect();
        for client in &mut held {
            client.request(&Request::Status { group: None }, Duration::from_secs(5)).unwrap();
        }
        let refused = ControlClient::connect(&path).unwrap().request(&Request::Status { group: None }, Duration::from_secs(5));
        assert!(refused.is_err());
        held[0].request(&Request::Status { group: None }, Duration::from_secs(5)).unwrap();
        stop.send(()).unwrap();
        drop(thread.join().unwrap());
    }

    #[test]
    fn a_request_under_way_is_answered_when_the_daemon_ends() {
        let dir = tempfile::tempdir().unwrap();
        let (path, thread, stop) = daemon(dir.path());
        let mut client = ControlClient::connect(&path).unwrap();
        let asking = std::thread::spawn(move || client.request(&Request::Stop {}, Duration::from_secs(5)));
        std::thread::sleep(Duration::from_millis(100));
        stop.send(()).unwrap();
        drop(thread.join().unwrap());
        assert!(matches!(asking.join().unwrap(), Err(ClientError::Refused(error)) if error.code == ErrorCode::Ending));
    }

    #[test]
    fn a_second_daemon_does_not_take_the_socket_away_and_a_dead_ones_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        drop(UnixListener::bind(&path).unwrap());
        let server = ControlServer::start(&path, None).unwrap();
        assert!(matches!(ControlServer::start(&path, None), Err(ControlStartError::Running(_))));
        drop(server);
        assert!(matches!(ControlServer::start(&path, Some("no-such-group-here")), Err(ControlStartError::NoGroup(_))));
    }
}
