//! Questions to the running daemon.

use std::time::Duration;

use annulus_daemon::control::client::{ClientError, ControlClient};
use annulus_daemon::control::{ErrorCode, Request};
use annulus_daemon::exit::{Exit, Failure};
use annulus_daemon::settings::Settings;
use serde::de::DeserializeOwned;

/// How long an answer may take; the daemon itself gives up earlier.
const PATIENCE: Duration = Duration::from_secs(35);

/// Connects to the daemon of these settings.
pub(crate) fn connect(settings: &Settings) -> Result<ControlClient, Failure> {
    ControlClient::connect(&settings.control_socket).map_err(|error| explain(&error))
}

/// Asks and waits for an answer of the expected type.
pub(crate) fn ask<T: DeserializeOwned>(client: &mut ControlClient, request: &Request) -> Result<T, Failure> {
    let value = client.request(request, PATIENCE).map_err(|error| explain(&error))?;
    serde_json::from_value(value).map_err(|error| {
        Failure::failed(format!(
            "the daemon answers in another form than expected ({error}); is it of another version? Restart it: annulus down, annulus up"
        ))
    })
}

/// The exit code that belongs to a failed question.
pub(crate) fn explain(error: &ClientError) -> Failure {
    let exit = match error {
        ClientError::NotRunning(_) | ClientError::Timeout(_) => Exit::NotConnected,
        ClientError::Refused(refused) => match refused.code {
            ErrorCode::NotConnected | ErrorCode::Timeout | ErrorCode::Ending => Exit::NotConnected,
            ErrorCode::Group | ErrorCode::BadRequest => Exit::WrongUse,
            ErrorCode::UnknownNode | ErrorCode::Busy | ErrorCode::Denied => Exit::Failed,
        },
        ClientError::Denied(_) | ClientError::Broken { .. } => Exit::Failed,
    };
    Failure::new(exit, error)
}
