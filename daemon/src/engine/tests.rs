use super::*;
use crate::control::ErrorCode;
use crate::control::Request;
use crate::control::client::{ClientError, ControlClient};
use crate::group_file::GroupText;
use crate::settings::Flags;
use annulus_core::batch::Slot;
use annulus_core::group::{Authority, Parameters, Profile};
use annulus_core::id::NodeId;
use annulus_core::io::{Event, Path, TimerKind};
use annulus_core::pump::{Driver, Received};
use annulus_core::rng::Rng;
use annulus_core::shard::table::Prefix;
use annulus_core::time::UnixTime;
use annulus_core::worker::Report;
use annulus_tun_bridge::mem::{self, MemHost};
use std::net::UdpSocket as StdUdpSocket;
use std::os::fd::AsFd;
use std::path::PathBuf;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// A protocol without cryptography: packets of the host leave to a fixed address, datagrams are packets for the host.
#[derive(Debug)]
struct Echoing {
    remote: std::net::SocketAddr,
    events: Vec<Event>,
    commands: Vec<Command>,
    answers_leave: bool,
}

impl Plane for Echoing {
    fn datagrams(&mut self, buf: &mut [u8], received: &[Received], driver: &mut impl Driver, _now: Instant) {
        for batch in received {
            let slot = Slot { start: batch.start as u32, len: batch.len as u16, from: Path::NONE, ..Slot::default() };
            driver.deliver(RealmSlot(0), buf, &[slot]);
        }
    }

    fn packets(&mut self, _realm: RealmSlot, buf: &mut [u8], slots: &mut [Slot], driver: &mut impl Driver, _now: Instant) {
        let to = annulus_core::io::Endpoint::Udp { socket: 0, remote: self.remote };
        for slot in slots.iter() {
            driver.transmit(to, buf, &[*slot]);
        }
    }

    fn command(&mut self, _realm: RealmSlot, command: Command, _now: Instant) {
        match &command {
            Command::Resolve { token, name } => {
                let node = (name == "b").then(|| (NodeId([7; 20]), vec!["10.200.0.2".parse().unwrap()]));
                self.events.push(Event::Resolved { token: *token, node });
            }
            Command::Ping { token, .. } => {
                let result = Some(annulus_core::events::EchoResult { rtt_us: 1500, path: "direct", remote: None });
                self.events.push(Event::Echo { token: *token, result });
            }
            Command::Trace { token, node } => {
                self.events.push(Event::Trace { token: *token, hops: vec![(*node, "b".into(), 900)], reached: true })
            }
            Command::Leave if self.answers_leave => self.events.push(Event::Left),
            _ => {}
        }
        self.commands.push(command);
    }

    fn report(&mut self, _: ShardId, _: RealmSlot, _: Report, _: Instant) {}

    fn settle(&mut self, driver: &mut impl Driver, _now: Instant) -> Option<(Instant, TimerKind)> {
        for event in self.events.drain(..) {
            driver.event(RealmSlot(0), event);
        }
        None
    }

    fn view(&self, realm: RealmSlot, _now: Instant) -> Option<View> {
        let mut view = View::default();
        view.group.connected = true;
        let path = crate::status::PathStatus { kind: "direct".into(), remote: Some(self.remote), active: true, ..Default::default() };
        view.peers = vec![crate::status::PeerStatus { paths: vec![path], ..Default::default() }];
        (realm == RealmSlot(0)).then_some(view)
    }
}

struct Daemon {
    engine: Engine<Echoing>,
    host: MemHost,
    remote: StdUdpSocket,
    socket: PathBuf,
    state: PathBuf,
    _dir: tempfile::TempDir,
}

fn daemon(answers_leave: bool) -> Daemon {
    daemon_with(answers_leave, &Flags::default(), poll_loop)
}

/// The simplest event loop: poll(2).
fn poll_loop(driven: &mut dyn Driven) -> anyhow::Result<Exit> {
    let sources = driven.sources()?;
    loop {
        let timeout = match driven.turn() {
            Wait::Again => PollTimeout::ZERO,
            Wait::Until(None) => PollTimeout::NONE,
            Wait::Until(Some(timeout)) => PollTimeout::from(timeout.as_millis().clamp(1, 60_000) as u16),
            Wait::Ended(exit) => return Ok(exit),
        };
        look(&sources, timeout, driven);
    }
}

fn look(sources: &[(Token, OwnedFd)], timeout: PollTimeout, driven: &mut dyn Driven) {
    let mut fds: Vec<PollFd<'_>> = sources.iter().map(|(_, fd)| PollFd::new(fd.as_fd(), PollFlags::POLLIN)).collect();
    let _ = poll(&mut fds, timeout);
    for (_, (token, _)) in fds.iter().zip(sources).filter(|(fd, _)| fd.any() == Some(true)) {
        driven.readable(*token);
    }
}

fn daemon_with(answers_leave: bool, flags: &Flags, drive: Drive) -> Daemon {
    let dir = tempfile::tempdir().unwrap();
    let now = clock::wall();
    let mut rng = Rng::new([1; 32]);
    let authority = Authority::init(&Parameters::new("lab"), &mut rng, now).unwrap();
    let keys = annulus_core::group::NodeKeys::generate(&mut rng);
    let certificate = authority.issue(&keys.request(), &Profile::new("ada", "a", now), &mut rng).unwrap();
    let text = GroupText {
        name: "lab".into(),
        ipv6_network: "fd00::/64".into(),
        bootstrap: vec!["localhost:9".into()],
        has_addresses: Some(false),
        realm_key: "00".repeat(32),
        ca_certificates: authority.certificate().to_pem(),
        key: "node.key".into(),
        certificate_pem: Some(certificate.to_pem()),
        ..GroupText::default()
    };
    std::fs::create_dir(dir.path().join("groups.d")).unwrap();
    let write = |name: &str, text: &str| crate::files::write_fresh(&dir.path().join(name), text.as_bytes(), 0o600).unwrap();
    write("annulus.toml", "listen = \"127.0.0.1:0\"\nstate_dir = \"state\"\ncontrol_socket = \"annulus.sock\"\n");
    write("groups.d/lab.toml", &toml::to_string(&text).unwrap());
    write("groups.d/node.key", &keys.to_pem());
    let settings = Settings::new(&Flags { config: Some(dir.path().join("annulus.toml")), ..flags.clone() }).unwrap();
    let mut parts = gather(settings).unwrap();
    parts.hire(drive).unwrap();
    // In place of a device of the kernel, which takes a privilege.
    let (tun, host) = mem::pair("mem", 1400).unwrap();
    parts.host.devices.push(Device { realm: RealmSlot(0), tun: Box::new(tun) });
    let remote = StdUdpSocket::bind("127.0.0.1:0").unwrap();
    remote.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let plane = Echoing { remote: remote.local_addr().unwrap(), events: Vec::new(), commands: Vec::new(), answers_leave };
    let engine = Engine::new(parts, plane, Signals::block().unwrap(), "test").unwrap();
    Daemon { engine, host, remote, socket: dir.path().join("annulus.sock"), state: dir.path().join("state"), _dir: dir }
}

impl Daemon {
    fn run_until(&mut self, mut done: impl FnMut(&mut Self) -> bool) -> Option<Exit> {
        let sources = self.engine.sources().unwrap();
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while std::time::Instant::now() < deadline {
            let timeout = match self.engine.turn() {
                Wait::Again => 0,
                Wait::Until(timeout) => timeout.map_or(20, |timeout| timeout.as_millis().clamp(1, 20) as u16),
                Wait::Ended(exit) => return Some(exit),
            };
            if done(self) {
                return None;
            }
            look(&sources, PollTimeout::from(timeout), &mut self.engine);
        }
        panic!("not done after 20 s");
    }

    fn ask(&mut self, request: Request) -> Result<serde_json::Value, ClientError> {
        let path = self.socket.clone();
        let asking = std::thread::spawn(move || ControlClient::connect(&path)?.request(&request, Duration::from_secs(10)));
        self.run_until(|_| asking.is_finished());
        asking.join().unwrap()
    }
}

fn packet(marker: u8) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 40, 0, 0, 0, 0, 64, 99, 0, 0, 10, 200, 0, 1, 10, 200, 0, 2];
    packet.resize(40, marker);
    packet
}

#[test]
fn packets_of_the_host_leave_and_datagrams_arrive() {
    let mut daemon = daemon(true);
    for marker in 0..100 {
        assert!(daemon.host.send(&packet(marker)));
    }
    let remote = daemon.remote.try_clone().unwrap();
    let receiving = std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        (0..100).map(|_| remote.recv(&mut buffer).map(|len| buffer[len - 1]).unwrap()).collect::<Vec<u8>>()
    });
    daemon.run_until(|_| receiving.is_finished());
    assert_eq!(receiving.join().unwrap(), (0..100).collect::<Vec<u8>>());

    let to = daemon.engine.host.sockets[0].local_address();
    daemon.remote.send_to(&packet(7), to).unwrap();
    // An empty datagram takes a place in the receive call and must not hide what comes behind it.
    daemon.remote.send_to(&[], to).unwrap();
    daemon.remote.send_to(&packet(8), to).unwrap();
    let mut got = Vec::new();
    daemon.run_until(|daemon| {
        got.extend(core::iter::from_fn(|| daemon.host.receive()));
        got.len() == 2
    });
    assert_eq!(got, [packet(7), packet(8)]);
}

#[test]
fn questions_of_the_control_socket_are_answered() {
    let mut daemon = daemon(true);
    let status = daemon.ask(Request::Status { group: None }).unwrap();
    assert_eq!(
        (status["runtime"].as_str(), status["groups"][0]["name"].as_str(), status["peers"][0]["group"].as_str()),
        (Some("test"), Some("lab"), Some("lab"))
    );
    let ping = daemon.ask(Request::Ping { group: None, node: "b".into() }).unwrap();
    assert_eq!((ping["rtt_ms"].as_f64(), ping["addresses"][0].as_str()), (Some(1.5), Some("10.200.0.2")));
    let trace = daemon.ask(Request::Trace { group: Some("lab".into()), node: "b".into() }).unwrap();
    assert_eq!((trace["hops"][0]["name"].as_str(), trace["reached"].as_bool()), (Some("b"), Some(true)));
    let unknown = daemon.ask(Request::Ping { group: None, node: "nobody".into() }).unwrap_err();
    assert!(matches!(unknown, ClientError::Refused(error) if error.code == ErrorCode::UnknownNode));
    let group = daemon.ask(Request::Status { group: Some("other".into()) }).unwrap_err();
    assert!(matches!(group, ClientError::Refused(error) if error.code == ErrorCode::Group && error.message.contains("lab")));
}

#[test]
fn nodes_are_told_time_addresses_and_resolved_names() {
    let mut daemon = daemon(true);
    let told = |daemon: &Daemon, what: fn(&Command) -> bool| daemon.engine.plane.commands.iter().any(what);
    daemon.run_until(|daemon| {
        told(daemon, |command| matches!(command, Command::WallClock(wall) if wall.0 > 1_700_000_000))
            && told(daemon, |command| matches!(command, Command::LocalAddresses(addresses) if addresses.len() == 1))
            && told(
                daemon,
                |command| matches!(command, Command::Bootstrap(addresses) if addresses.iter().all(|address| address.port() == 9)),
            )
    });
}

#[test]
fn a_revocation_list_beside_the_group_file_is_handed_on_once() {
    let mut daemon = daemon(true);
    let dir = daemon.state.parent().unwrap().join("groups.d/lab");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("revocations"), b"signed list").unwrap();
    for _ in 0..2 {
        daemon.engine.tell_time(clock::now());
    }
    let lists: Vec<&Command> =
        daemon.engine.plane.commands.iter().filter(|command| matches!(command, Command::RevocationList(_))).collect();
    assert_eq!(lists, [&Command::RevocationList(b"signed list".as_slice().into())]);
}

#[test]
fn stop_says_good_bye_writes_what_was_learned_and_removes_the_socket() {
    let mut daemon = daemon(true);
    daemon.engine.plane.events.push(Event::KnownAddresses(vec!["192.0.2.1:7".parse().unwrap()]));
    daemon.engine.plane.events.push(Event::Lease(vec![0xab, 0xcd].into()));
    daemon.engine.plane.events.push(Event::RevocationList(vec![1, 2, 3].into()));
    daemon.engine.due = Some(Instant::ZERO);
    let path = daemon.socket.clone();
    let asking = std::thread::spawn(move || ControlClient::connect(&path)?.request(&Request::Stop {}, Duration::from_secs(10)));
    assert_eq!(daemon.run_until(|_| false), Some(Exit::Done));
    assert_eq!(asking.join().unwrap().unwrap()["pid"].as_u64(), Some(u64::from(std::process::id())));
    assert!(daemon.engine.plane.commands.contains(&Command::Leave) && !daemon.socket.exists());
    let text = std::fs::read_to_string(daemon.state.join("groups/lab/state.json")).unwrap();
    assert!(text.contains("192.0.2.1:7") && text.contains("\"abcd\""), "{text}");
    assert_eq!(std::fs::read(daemon.state.join("groups/lab/revocations")).unwrap(), [1, 2, 3]);
}

#[test]
fn a_node_that_does_not_say_good_bye_is_waited_for_one_second() {
    let mut daemon = daemon(false);
    let begun = std::time::Instant::now();
    nix::sys::signal::raise(nix::sys::signal::Signal::SIGTERM).unwrap();
    assert_eq!(daemon.run_until(|_| false), Some(Exit::Done));
    let took = begun.elapsed();
    assert!(took >= FAREWELL && took < FAREWELL + Duration::from_secs(2), "{took:?}");
}

#[test]
fn what_went_wrong_is_shown_as_a_warning() {
    let mut daemon = daemon(true);
    daemon.engine.plane.events.push(Event::Refused { node: None, from: None, reason: "certificate expired".into(), ours: true });
    daemon.engine.plane.events.push(Event::DuplicateIdentity { from: None });
    daemon.engine.plane.events.push(Event::SignedTime(UnixTime(clock::wall().0 + 10_000)));
    daemon.engine.turn();
    daemon.engine.tell_time(clock::now());
    let warnings = daemon.ask(Request::Status { group: None }).unwrap()["groups"][0]["warnings"].to_string();
    for words in ["certificate expired", "this node's identity", "clock is 10000 s behind"] {
        assert!(warnings.contains(words), "{words} is missing in {warnings}");
    }
}

#[test]
fn an_address_event_without_a_device_changes_nothing() {
    let mut daemon = daemon(true);
    let network = Prefix::new("10.200.0.0".parse().unwrap(), 16);
    daemon.engine.plane.events.push(Event::Addresses { addresses: vec![network], hosts: vec!["10.200.0.1".parse().unwrap()] });
    daemon.engine.turn();
    assert!(daemon.engine.groups[0].addresses.is_empty());
}

const TWO: Option<crate::settings::Workers> = Some(crate::settings::Workers::Count(std::num::NonZeroU8::new(2).unwrap()));

#[test]
fn a_daemon_with_two_workers_serves_and_ends_with_both_threads_done() {
    let mut daemon = daemon_with(true, &Flags { workers: TWO, ..Flags::default() }, poll_loop);
    assert_eq!(daemon.ask(Request::Status { group: None }).unwrap()["workers"], 2);
    let path = daemon.socket.clone();
    let asking = std::thread::spawn(move || ControlClient::connect(&path)?.request(&Request::Stop {}, Duration::from_secs(10)));
    assert_eq!(daemon.run_until(|_| false), Some(Exit::Done));
    asking.join().unwrap().unwrap();
    // The port is free again at once: nobody holds the worker's socket any more.
    let port = daemon.engine.host.sockets[0].local_address();
    daemon.engine.host.sockets.clear();
    StdUdpSocket::bind(port).unwrap();
}

#[test]
fn a_worker_that_fails_or_panics_ends_the_daemon() {
    for drive in [|_: &mut dyn Driven| Err(anyhow::anyhow!("no more")), |_: &mut dyn Driven| panic!("on purpose")] {
        let mut daemon = daemon_with(true, &Flags { workers: TWO, ..Flags::default() }, drive);
        assert_eq!(daemon.run_until(|_| false), Some(Exit::Failed));
    }
}

#[test]
fn a_path_shows_what_its_socket_does_for_it() {
    let path = |daemon: &mut Daemon| daemon.ask(Request::Status { group: None }).unwrap()["peers"][0]["paths"][0].clone();
    let mut plain = daemon_with(true, &Flags { offload: Some(false), ..Flags::default() }, poll_loop);
    assert_eq!((path(&mut plain)["gso"].as_bool(), path(&mut plain)["gro"].as_bool()), (Some(false), Some(false)));
    let fallbacks = plain.ask(Request::Status { group: None }).unwrap()["fallbacks"].to_string();
    assert!(fallbacks.contains("offload = false"), "{fallbacks}");

    let mut daemon = daemon(true);
    let socket = &daemon.engine.host.sockets[0];
    if !socket.segments() || !socket.gro() {
        eprintln!("SKIPPED: this kernel has no UDP_SEGMENT or UDP_GRO");
        return;
    }
    assert_eq!((path(&mut daemon)["gso"].as_bool(), path(&mut daemon)["gro"].as_bool()), (Some(true), Some(true)));
    // Without checksums the kernel refuses to segment.
    sys::set_option(daemon.engine.host.sockets[0].as_fd(), nix::libc::SOL_SOCKET, nix::libc::SO_NO_CHECK, 1).unwrap();
    let slots = [0, 100].map(|start| Slot { start, len: 100, ..Slot::default() });
    let to = annulus_core::io::Endpoint::Udp { socket: 0, remote: daemon.remote.local_addr().unwrap() };
    daemon.engine.host.transmit(to, &[7; 200], &slots);
    assert_eq!((path(&mut daemon)["gso"].as_bool(), path(&mut daemon)["gro"].as_bool()), (Some(false), Some(true)));
}
