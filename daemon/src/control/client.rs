//! A client of the control socket, as `annulus` uses it.

use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Answer, ControlError, ErrorCode, Request};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("no daemon answers on {}; start it with `annulus up`", .0.display())]
    NotRunning(PathBuf),
    /// The socket may not be opened.
    #[error("{}: permission denied; run this as root, or as a member of the Unix group named by control_group", .0.display())]
    Denied(PathBuf),
    /// The daemon refused or failed.
    #[error(transparent)]
    Refused(ControlError),
    /// It took too long.
    #[error("the daemon did not answer within {} s", .0.as_secs())]
    Timeout(Duration),
    /// The connection broke, or this is no daemon of ours.
    #[error("{}: {source}", path.display())]
    Broken {
        /// The socket.
        path: PathBuf,
        /// What happened.
        source: io::Error,
    },
}

/// A connection to a daemon.
#[derive(Debug)]
pub struct ControlClient {
    path: PathBuf,
    stream: BufReader<UnixStream>,
}

impl ControlClient {
    /// Connects.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        match UnixStream::connect(path) {
            Ok(stream) => Ok(Self { path: path.to_owned(), stream: BufReader::new(stream) }),
            Err(error) => Err(match error.kind() {
                ErrorKind::NotFound | ErrorKind::ConnectionRefused => ClientError::NotRunning(path.to_owned()),
                ErrorKind::PermissionDenied => ClientError::Denied(path.to_owned()),
                _ => ClientError::Broken { path: path.to_owned(), source: error },
            }),
        }
    }

    /// Asks and waits for the answer.
    ///
    /// # Errors
    /// [`ClientError`]. After one other than [`ClientError::Refused`] the connection is of no use any more.
    pub fn request(&mut self, request: &Request, timeout: Duration) -> Result<serde_json::Value, ClientError> {
        let mut line = serde_json::to_vec(request).expect("plain data with text keys always becomes JSON");
        line.push(b'\n');
        let mut answer = String::new();
        let mut exchange = |stream: &mut BufReader<UnixStream>| -> io::Result<usize> {
            stream.get_ref().set_read_timeout(Some(timeout))?;
            stream.get_ref().set_write_timeout(Some(timeout))?;
            // A daemon that refuses us has said so already and may have closed: its words count more than our broken pipe.
            let written = stream.get_mut().write_all(&line);
            let read = stream.read_line(&mut answer)?;
            if read == 0 {
                written?;
            }
            Ok(read)
        };
        let read = match exchange(&mut self.stream) {
            Ok(read) => read,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return Err(ClientError::Timeout(timeout)),
            Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
                return Err(ClientError::NotRunning(self.path.clone()));
            }
            Err(source) => return Err(ClientError::Broken { path: self.path.clone(), source }),
        };
        if read == 0 {
            return Err(ClientError::NotRunning(self.path.clone()));
        }
        match serde_json::from_str(&answer) {
            Ok(Answer::Ok(value)) => Ok(value),
            Ok(Answer::Error(error)) if error.code == ErrorCode::Denied => Err(ClientError::Denied(self.path.clone())),
            Ok(Answer::Error(error)) => Err(ClientError::Refused(error)),
            Err(error) => Err(ClientError::Broken { path: self.path.clone(), source: io::Error::new(ErrorKind::InvalidData, error) }),
        }
    }
}
