//! Files on disk: atomic replacement, private modes, and messages that say what to do about wrong ones.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Bytes of a configuration, key or state file at most. Larger ones are refused unread: nothing that we write comes near it.
pub const MAX_FILE: u64 = 8 << 20;

/// Something is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The operating system refused.
    #[error("{}: cannot {what}: {source}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// A secret can be read by others.
    #[error("{}: mode {mode:04o} lets others read a secret; do: chmod {want:04o} {}", path.display(), path.display())]
    TooOpen {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// What they should be.
        want: u32,
    },
    /// A secret belongs to somebody who is neither root nor the daemon's user.
    #[error("{}: belongs to user {owner}, who could change it; do: chown {own} {}", path.display(), path.display())]
    ForeignOwner {
        /// Which file.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// Who runs this.
        own: u32,
    },
    /// Not a regular file, or too large.
    #[error("{}: is not a regular file of at most {MAX_FILE} bytes", path.display())]
    NotAFile {
        /// Which file.
        path: PathBuf,
    },
}

impl FileError {
    pub(crate) fn io(path: &Path, what: &'static str, source: io::Error) -> Self {
        Self::Io { path: path.to_owned(), what, source }
    }

    /// Whether the file does not exist.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// Reads a whole regular file of at most [`MAX_FILE`] bytes.
///
/// # Errors
/// [`FileError`] when it is missing, no regular file, or too large.
pub fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    let file = File::open(path).map_err(|source| FileError::io(path, "open it", source))?;
    read_open(path, file)
}

/// Reads a secret: it must belong to root or to the daemon's user and nobody else may read it.
///
/// The permissions are those of the opened file, so that nobody can swap it between look and read.
///
/// # Errors
/// [`FileError`], with the command that mends it.
pub fn read_secret(path: &Path) -> Result<Vec<u8>, FileError> {
    let file = File::open(path).map_err(|source| FileError::io(path, "open it", source))?;
    let meta = file.metadata().map_err(|source| FileError::io(path, "look at it", source))?;
    check_private(path, &meta, 0o600)?;
    read_open(path, file)
}

/// Reads a text file.
///
/// # Errors
/// [`FileError`]; text that is not UTF-8 is an I/O error of kind `InvalidData`.
pub fn read_text(path: &Path) -> Result<String, FileError> {
    into_text(path, read(path)?)
}

pub(crate) fn into_text(path: &Path, bytes: Vec<u8>) -> Result<String, FileError> {
    String::from_utf8(bytes).map_err(|_| FileError::io(path, "read it", io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8 text")))
}

fn read_open(path: &Path, file: File) -> Result<Vec<u8>, FileError> {
    let meta = file.metadata().map_err(|source| FileError::io(path, "look at it", source))?;
    if !meta.is_file() || meta.len() > MAX_FILE {
        return Err(FileError::NotAFile { path: path.to_owned() });
    }
    let mut out = Vec::with_capacity(meta.len() as usize + 1);
    file.take(MAX_FILE).read_to_end(&mut out).map_err(|source| FileError::io(path, "read it", source))?;
    Ok(out)
}

/// Checks that only root or the daemon's user owns `meta` and nobody else may read or write it.
///
/// # Errors
/// [`FileError::TooOpen`] or [`FileError::ForeignOwner`].
pub fn check_private(path: &Path, meta: &fs::Metadata, want: u32) -> Result<(), FileError> {
    let own = nix::unistd::geteuid().as_raw();
    if meta.uid() != own && meta.uid() != 0 {
        return Err(FileError::ForeignOwner { path: path.to_owned(), owner: meta.uid(), own });
    }
    let mode = meta.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(FileError::TooOpen { path: path.to_owned(), mode, want });
    }
    Ok(())
}

/// Makes a directory and its parents; the last one is private (0700) and checked to be so if it exists.
///
/// # Errors
/// [`FileError`].
pub fn private_dir(path: &Path) -> Result<(), FileError> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(|source| FileError::io(parent, "make the directory", source))?;
    }
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(source) => return Err(FileError::io(path, "make the directory", source)),
    }
    let meta = fs::metadata(path).map_err(|source| FileError::io(path, "look at it", source))?;
    check_private(path, &meta, 0o700)
}

/// Replaces `path` as a whole: a reader, or the next start after a power cut, sees the old bytes or the new ones, never a part.
///
/// The new file is written beside the old one with `mode`, synchronised, renamed over it, and the directory is synchronised.
///
/// # Errors
/// [`FileError`]; the old file is untouched then.
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}.new", std::process::id()));
    let temporary = directory.join(name);
    // A file of a killed process with our number may lie there; it must not lend us its mode or be a link to elsewhere.
    let _ = fs::remove_file(&temporary);
    let result = write_new(&temporary, bytes, mode).and_then(|()| fs::rename(&temporary, path));
    if let Err(source) = result {
        let _ = fs::remove_file(&temporary);
        return Err(FileError::io(path, "write it", source));
    }
    File::open(directory).and_then(|dir| dir.sync_all()).map_err(|source| FileError::io(directory, "synchronise it", source))
}

/// Writes a file that must not exist yet.
///
/// # Errors
/// [`FileError`] of kind `AlreadyExists` when it does.
pub fn write_fresh(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    write_new(path, bytes, mode).map_err(|source| FileError::io(path, "write it", source))
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    // The process mask may have cut the mode.
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_file_is_whole_private_and_leaves_nothing_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        write_atomic(&path, b"one", 0o600).unwrap();
        write_atomic(&path, b"two, longer", 0o600).unwrap();
        assert_eq!(read(&path).unwrap(), b"two, longer");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failed_replacement_leaves_the_old_file_and_no_leftover() {
        let dir = tempfile::tempdir().unwrap();
        // The target is a directory with a file in it: the rename must fail after the temporary file was written.
        let path = dir.path().join("state.json");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("kept"), b"old").unwrap();
        assert!(write_atomic(&path, b"new", 0o600).is_err());
        assert_eq!(fs::read(path.join("kept")).unwrap(), b"old");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_key_that_others_can_read_is_refused_with_the_command_that_mends_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.key");
        fs::write(&path, b"secret").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let message = read_secret(&path).unwrap_err().to_string();
        assert!(message.contains("mode 0640") && message.contains("chmod 0600"), "{message}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(read_secret(&path).unwrap(), b"secret");
    }

    #[test]
    fn an_open_state_directory_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/er");
        private_dir(&path).unwrap();
        private_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(private_dir(&path).unwrap_err().to_string().contains("chmod 0700"));
    }
}
