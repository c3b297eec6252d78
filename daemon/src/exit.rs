//! How programs of Annulus end: the same numbers everywhere.

use std::fmt;
use std::process::ExitCode;

/// An exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 0: done.
    Done,
    /// 1: failed.
    Failed,
    /// 2: wrong use: flags, configuration, no group yet.
    WrongUse,
    /// 3: timed out, or not connected.
    NotConnected,
    /// 77: not possible on this machine; the reason is said.
    NotPossible,
}

impl Exit {
    /// The number.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::WrongUse => 2,
            Self::NotConnected => 3,
            Self::NotPossible => 77,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Why a program ends early: what is wrong, what to do, and with which code.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// What is wrong and what to do.
    pub message: String,
}

impl Failure {
    /// Puts both together.
    pub fn new(exit: Exit, message: impl fmt::Display) -> Self {
        Self { exit, message: message.to_string() }
    }

    /// Wrong use (exit code 2).
    pub fn usage(message: impl fmt::Display) -> Self {
        Self::new(Exit::WrongUse, message)
    }

    /// Failed (exit code 1).
    pub fn failed(message: impl fmt::Display) -> Self {
        Self::new(Exit::Failed, message)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// The exit code of an error that may be a [`Failure`] in the clothes of another type; 1 for all others.
#[must_use]
pub fn code_of(error: &anyhow::Error) -> Exit {
    error.downcast_ref::<Failure>().map_or(Exit::Failed, |failure| failure.exit)
}

/// The end of a binary's `main`: a failure goes to standard error, its code to the system.
#[must_use]
pub fn conclude(ended: anyhow::Result<Exit>) -> ExitCode {
    match ended {
        Ok(exit) => exit.into(),
        Err(error) => {
            use std::io::Write;
            let _ = writeln!(std::io::stderr(), "annulus: {error:#}");
            code_of(&error).into()
        }
    }
}
