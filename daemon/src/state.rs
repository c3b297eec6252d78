//! What a daemon remembers from one start to the next: its port, and per group the addresses, times and leases that it learned.
//!
//! State belongs to one machine and to one running daemon. It is written as a whole or not at all, carries a version, and is migrated forward with a copy kept.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::files::{self, FileError};

/// The version of [`HostState`] and [`GroupState`] that this daemon writes.
pub const STATE_VERSION: u64 = 1;

/// Known addresses that are kept at most, as many as the node itself remembers (design, section 7).
pub const MAX_KNOWN_ADDRESSES: usize = 64;

/// Files that wait to be written at most. Each place in the queue is a later version of one of three files per group; when the disk is
/// so slow that it is full, the write is tried again at the next turn.
const WRITER_QUEUE: usize = 64;

/// How a file of version n becomes one of version n + 1; the first step begins at version 0.
pub type Migration = fn(&mut serde_json::Value);

/// The steps from version 0 on. Version 0 was never released: a file without a version is one that was made by hand, and is complete as it is.
const MIGRATIONS: [Migration; STATE_VERSION as usize] = [|_| {}];

/// What the daemon as a whole remembers (`daemon.json`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostState {
    /// The format's version.
    pub version: u64,
    /// Which machine it belongs to: a hash of its machine ID.
    pub machine: Option<String>,
    /// The UDP port that was drawn at the first start.
    pub udp_port: Option<u16>,
}

/// What is remembered of one group (`groups/GROUP/state.json`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GroupState {
    /// The format's version.
    pub version: u64,
    /// Which machine it belongs to: a hash of its machine ID.
    pub machine: Option<String>,
    /// The node that learned it. Leases of another one are worthless.
    pub node_id: Option<String>,
    /// Addresses that answered lately.
    pub known_addresses: Vec<SocketAddr>,
    /// The latest time seen signed, in s since 1970.
    pub signed_time: u64,
    /// The IPv4 lease, in hexadecimal digits.
    pub lease: Option<String>,
}

/// Why state cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A file is wrong.
    #[error(transparent)]
    File(#[from] FileError),
    /// Another daemon runs on it.
    #[error("{}: in use by process {pid}; end it with `annulus down`, or give this daemon a state directory of its own (--instance NAME or --state-dir DIR)", path.display())]
    Busy {
        /// The lock file.
        path: PathBuf,
        /// The other daemon's process number as it wrote it down.
        pid: String,
    },
    /// Made on another machine.
    #[error(
        "{}: was made on another machine (a cloned disk, or a new machine ID). Two machines must not share one identity. \
         If this is the copy: have a certificate issued for it (`annulus ca issue NODE`), install it and remove {}. \
         If this is the same machine after a reinstallation, or the other one is gone for ever: start once with --adopt-state", path.display(), dir.display())]
    Cloned {
        /// The state file.
        path: PathBuf,
        /// The directory to remove.
        dir: PathBuf,
    },
    /// Made by a newer version.
    #[error("{}: has version {found}, this program knows up to {STATE_VERSION}; install a newer one, or put back {}.v{STATE_VERSION}", path.display(), path.display())]
    Newer {
        /// The state file.
        path: PathBuf,
        /// Its version.
        found: u64,
    },
    /// Not what we write.
    #[error("{}: is damaged ({why}); move it away to begin anew: only the port and learned addresses are lost", path.display())]
    Damaged {
        /// The state file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

/// The state directory of a running daemon, locked.
#[derive(Debug)]
pub struct StateDir {
    root: PathBuf,
    machine: Option<String>,
    adopt: bool,
    // Held, not read: the lock goes with it.
    _lock: File,
}

impl StateDir {
    /// Locks `root` (made with mode 0700 when new) for this process.
    ///
    /// # Errors
    /// [`StateError::Busy`] with the other daemon's process number, or a file error.
    pub fn open(root: &Path, adopt: bool) -> Result<Self, StateError> {
        Self::open_with(root, adopt, Path::new("/etc/machine-id"))
    }

    fn open_with(root: &Path, adopt: bool, machine_id: &Path) -> Result<Self, StateError> {
        files::private_dir(root)?;
        let path = root.join("lock");
        let lock = lock(&path)?;
        Ok(Self { root: root.to_owned(), machine: machine(machine_id), adopt, _lock: lock })
    }

    /// The directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The daemon's own state; empty at the first start.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn host(&self) -> Result<HostState, StateError> {
        let path = self.root.join("daemon.json");
        let mut state: HostState = load(&path, &MIGRATIONS)?;
        self.bind(&path, &self.root, &mut state.machine)?;
        state.version = STATE_VERSION;
        Ok(state)
    }

    /// Stores the daemon's own state at once.
    ///
    /// # Errors
    /// [`StateError::File`].
    pub fn store_host(&self, state: &HostState) -> Result<(), StateError> {
        Ok(files::write_atomic(&self.root.join("daemon.json"), &to_json(state), 0o600)?)
    }

    /// The directory of a group, made with mode 0700 when new.
    ///
    /// # Errors
    /// [`StateError::File`].
    pub fn group_dir(&self, group: &str) -> Result<PathBuf, StateError> {
        let parent = self.root.join("groups");
        files::private_dir(&parent)?;
        let dir = parent.join(group);
        files::private_dir(&dir)?;
        Ok(dir)
    }

    /// What is remembered of `group` for the node with this ID. What another node learned is forgotten, the signed time excepted.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn group(&self, group: &str, node_id: &str) -> Result<GroupState, StateError> {
        let dir = self.group_dir(group)?;
        let path = dir.join("state.json");
        let mut state: GroupState = load(&path, &MIGRATIONS)?;
        self.bind(&path, &dir, &mut state.machine)?;
        if state.node_id.as_deref() != Some(node_id) {
            state = GroupState {
                machine: state.machine,
                signed_time: state.signed_time,
                known_addresses: state.known_addresses,
                ..GroupState::default()
            };
            state.node_id = Some(node_id.to_owned());
        }
        state.known_addresses.truncate(MAX_KNOWN_ADDRESSES);
        state.version = STATE_VERSION;
        Ok(state)
    }

    /// The stored revocation list of `group`, as it was received.
    ///
    /// # Errors
    /// [`StateError::File`] when there is one that cannot be read.
    pub fn revocations(&self, group: &str) -> Result<Option<Vec<u8>>, StateError> {
        match files::read(&self.group_dir(group)?.join("revocations")) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn bind(&self, path: &Path, dir: &Path, stored: &mut Option<String>) -> Result<(), StateError> {
        match (&*stored, &self.machine) {
            (Some(old), Some(new)) if old != new && !self.adopt => Err(StateError::Cloned { path: path.to_owned(), dir: dir.to_owned() }),
            (_, None) => {
                tracing::warn!("this machine has no ID (/etc/machine-id): a cloned disk would not be noticed");
                Ok(())
            }
            (_, Some(new)) => {
                *stored = Some(new.clone());
                Ok(())
            }
        }
    }
}

fn lock(path: &Path) -> Result<File, StateError> {
    let open = || OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
    let mut file = open().map_err(|source| FileError::io(path, "open it", source))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            let _ = file.take(20).read_to_string(&mut pid);
            let pid = if pid.trim().is_empty() { "(unknown)".to_owned() } else { pid.trim().to_owned() };
            return Err(StateError::Busy { path: path.to_owned(), pid });
        }
        Err(TryLockError::Error(source)) => return Err(FileError::io(path, "lock it", source).into()),
    }
    let write = |file: &mut File| -> io::Result<()> {
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())
    };
    write(&mut file).map_err(|source| FileError::io(path, "write it", source))?;
    Ok(file)
}

/// A hash of the machine's ID: the ID itself is meant to stay on the machine.
fn machine(path: &Path) -> Option<String> {
    let id = fs::read_to_string(path).ok()?;
    let id = id.trim();
    (!id.is_empty() && id != "uninitialized")
        .then(|| hex(&Sha256::new().chain_update(b"annulus state\0").chain_update(id).finalize()[..16]))
}

fn load<T: DeserializeOwned + Default>(path: &Path, migrations: &[Migration]) -> Result<T, StateError> {
    let bytes = match files::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.is_missing() => return Ok(T::default()),
        Err(error) => return Err(error.into()),
    };
    let damaged = |error: serde_json::Error| StateError::Damaged { path: path.to_owned(), why: error.to_string() };
    let mut value: serde_json::Value = serde_json::from_slice(&bytes).map_err(damaged)?;
    let found = value.get("version").and_then(serde_json::Value::as_u64).unwrap_or(0);
    let known = migrations.len() as u64;
    if found > known {
        return Err(StateError::Newer { path: path.to_owned(), found });
    }
    if found < known {
        let mut copy = path.as_os_str().to_owned();
        copy.push(format!(".v{found}"));
        files::write_atomic(Path::new(&copy), &bytes, 0o600)?;
        for step in &migrations[found as usize..] {
            step(&mut value);
        }
        value["version"] = known.into();
        files::write_atomic(path, &to_json(&value), 0o600)?;
    }
    serde_json::from_value(value).map_err(damaged)
}

fn to_json<T: Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(value).expect("plain data with text keys always becomes JSON");
    bytes.push(b'\n');
    bytes
}

/// Lower-case hexadecimal digits of `bytes`.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes of `text` in hexadecimal digits of either case.
#[must_use]
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

/// Writes state files in a thread of its own: synchronising a disk takes long, and packets do not wait for it.
#[derive(Debug)]
pub struct StateWriter {
    sender: Option<SyncSender<(PathBuf, Vec<u8>)>>,
    thread: Option<JoinHandle<()>>,
}

impl StateWriter {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system's.
    pub fn start() -> io::Result<Self> {
        let (sender, receiver) = sync_channel(WRITER_QUEUE);
        let thread = std::thread::Builder::new().name("state".into()).spawn(move || write_all(&receiver))?;
        Ok(Self { sender: Some(sender), thread: Some(thread) })
    }

    /// Has the state of a group written; `false` when the queue is full and it must be tried again.
    #[must_use]
    pub fn group(&self, dir: &Path, state: &GroupState) -> bool {
        self.send(dir.join("state.json"), to_json(state))
    }

    /// Has a revocation list written; `false` when the queue is full and it must be tried again.
    #[must_use]
    pub fn revocations(&self, dir: &Path, list: &[u8]) -> bool {
        self.send(dir.join("revocations"), list.to_vec())
    }

    fn send(&self, path: PathBuf, bytes: Vec<u8>) -> bool {
        self.sender.as_ref().is_some_and(|sender| !matches!(sender.try_send((path, bytes)), Err(TrySendError::Full(_))))
    }
}

impl Drop for StateWriter {
    fn drop(&mut self) {
        // The thread ends when it has written what is queued.
        self.sender = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn write_all(receiver: &Receiver<(PathBuf, Vec<u8>)>) {
    for (path, bytes) in receiver {
        if let Err(error) = files::write_atomic(&path, &bytes, 0o600) {
            tracing::warn!(%error, "what was learned is lost at the next start");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Machine {
        dir: tempfile::TempDir,
    }

    impl Machine {
        fn new() -> Self {
            let machine = Self { dir: tempfile::tempdir().unwrap() };
            machine.set_id("0123456789abcdef");
            machine
        }
        fn set_id(&self, id: &str) {
            fs::write(self.dir.path().join("machine-id"), format!("{id}\n")).unwrap();
        }
        fn root(&self) -> PathBuf {
            self.dir.path().join("state")
        }
        fn open(&self, adopt: bool) -> Result<StateDir, StateError> {
            StateDir::open_with(&self.root(), adopt, &self.dir.path().join("machine-id"))
        }
    }

    #[test]
    fn a_second_daemon_is_refused_with_the_number_of_the_first() {
        let machine = Machine::new();
        let first = machine.open(false).unwrap();
        let message = machine.open(false).unwrap_err().to_string();
        assert!(message.contains(&format!("in use by process {}", std::process::id())), "{message}");
        drop(first);
        machine.open(false).unwrap();
    }

    #[test]
    fn a_cloned_disk_is_refused_with_the_ways_out_and_adopted_on_demand() {
        let machine = Machine::new();
        let state = machine.open(false).unwrap();
        let mut host = state.host().unwrap();
        host.udp_port = Some(40_000);
        state.store_host(&host).unwrap();
        drop(state);

        machine.set_id("another machine");
        let message = machine.open(false).unwrap().host().unwrap_err().to_string();
        assert!(message.contains("annulus ca issue") && message.contains("--adopt-state"), "{message}");

        let adopting = machine.open(true).unwrap();
        let adopted = adopting.host().unwrap();
        assert_eq!(adopted.udp_port, Some(40_000));
        adopting.store_host(&adopted).unwrap();
        drop(adopting);
        machine.open(false).unwrap().host().unwrap();
    }

    #[test]
    fn the_state_of_a_group_survives_and_a_lease_only_for_its_node() {
        let machine = Machine::new();
        let state = machine.open(false).unwrap();
        let mut group = state.group("lab", "aa").unwrap();
        group.known_addresses = vec!["192.0.2.1:7".parse().unwrap()];
        group.signed_time = 77;
        group.lease = Some("00ff".into());
        let dir = state.group_dir("lab").unwrap();
        let writer = StateWriter::start().unwrap();
        assert!(writer.group(&dir, &group) && writer.revocations(&dir, b"list"));
        drop(writer);
        assert_eq!(state.group("lab", "aa").unwrap(), group);
        assert_eq!(state.revocations("lab").unwrap().as_deref(), Some(&b"list"[..]));
        let other = state.group("lab", "bb").unwrap();
        assert_eq!((other.lease, other.signed_time), (None, 77));
    }

    #[test]
    fn an_older_file_is_migrated_and_a_copy_kept() {
        let machine = Machine::new();
        fs::create_dir(machine.root()).unwrap();
        let path = machine.root().join("daemon.json");
        fs::write(&path, br#"{"port": 5}"#).unwrap();
        let migrations: [Migration; 2] = [
            |value| value["udp_port"] = value["port"].clone(),
            |value| value["udp_port"] = (value["udp_port"].as_u64().unwrap() + 1).into(),
        ];
        let state: HostState = load(&path, &migrations).unwrap();
        assert_eq!((state.udp_port, state.version), (Some(6), 2));
        assert_eq!(fs::read(machine.root().join("daemon.json.v0")).unwrap(), br#"{"port": 5}"#);
        let again: HostState = load(&path, &migrations).unwrap();
        assert_eq!(again, state);
    }

    #[test]
    fn a_newer_or_damaged_file_is_refused_and_left_alone() {
        let machine = Machine::new();
        fs::create_dir(machine.root()).unwrap();
        let path = machine.root().join("daemon.json");
        fs::write(&path, br#"{"version": 99}"#).unwrap();
        assert!(matches!(load::<HostState>(&path, &MIGRATIONS), Err(StateError::Newer { found: 99, .. })));
        fs::write(&path, b"{").unwrap();
        assert!(matches!(load::<HostState>(&path, &MIGRATIONS), Err(StateError::Damaged { .. })));
        assert_eq!(fs::read(&path).unwrap(), b"{");
    }

    #[test]
    fn hexadecimal_digits_round_trip() {
        assert_eq!(unhex(&hex(&[0, 1, 0xfe])).unwrap(), [0, 1, 0xfe]);
        assert_eq!(unhex("0"), None);
        assert_eq!(unhex("zz"), None);
    }
}
