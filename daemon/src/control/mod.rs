//! The control socket: newline-delimited JSON, one object per line and direction.
//!
//! A request is `{"verb": "status"}`; verbs take further fields. The answer is `{"ok": {..}}` or `{"error": {"code": "..", "message": ".."}}`.
//! A client asks again on the same connection after it has its answer. The socket is served by one small thread that talks with the
//! event loop through bounded channels, so that no runtime needs to know of it more than one readable descriptor.

pub mod client;
pub mod server;

use serde::{Deserialize, Serialize};

/// Bytes of a request line at most; the longest verb needs a small part of it.
pub const MAX_LINE: usize = 4096;

/// What a client wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Groups, peers and their paths; answered by [`Status`](crate::status::Status).
    Status {
        /// Only this group.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        group: Option<String>,
    },
    /// One echo over the overlay; answered by [`PingAnswer`](crate::status::PingAnswer).
    Ping {
        /// The group, if there are several.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        group: Option<String>,
        /// Node name, address or node ID.
        node: String,
    },
    /// The nodes on the way; answered by [`TraceAnswer`](crate::status::TraceAnswer).
    Trace {
        /// The group, if there are several.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        group: Option<String>,
        /// Node name, address or node ID.
        node: String,
    },
    /// Names and addresses of known members; answered by [`HostsAnswer`](crate::status::HostsAnswer).
    Hosts {
        /// Only this group.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        group: Option<String>,
    },
    /// Say good-bye to the neighbours and end; answered with `{"pid": ..}` before the daemon ends.
    Stop {},
}

/// The verbs, for error messages.
const VERBS: [&str; 5] = ["status", "ping", "trace", "hosts", "stop"];

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ControlError {
    /// For programs.
    pub code: ErrorCode,
    /// For people: what is wrong and what to do.
    pub message: String,
}

/// Kinds of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// Not a request.
    BadRequest,
    /// No such group, or several and none named.
    Group,
    /// Nobody is known by that name or address.
    UnknownNode,
    /// Not connected to the group's ring yet.
    NotConnected,
    /// No answer in time.
    Timeout,
    /// Too many requests at once.
    Busy,
    /// The caller may not use the socket.
    Denied,
    /// The daemon is ending.
    Ending,
}

impl ControlError {
    /// Puts both together.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// One line of the daemon.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It worked.
    Ok(serde_json::Value),
    /// It did not.
    Error(ControlError),
}

impl From<Result<serde_json::Value, ControlError>> for Answer {
    fn from(result: Result<serde_json::Value, ControlError>) -> Self {
        match result {
            Ok(value) => Self::Ok(value),
            Err(error) => Self::Error(error),
        }
    }
}

/// Parses a request line.
///
/// # Errors
/// [`ErrorCode::BadRequest`] with what is wrong.
pub fn parse(line: &[u8]) -> Result<Request, ControlError> {
    serde_json::from_slice(line)
        .map_err(|error| ControlError::new(ErrorCode::BadRequest, format!("not a request: {error}; verbs: {}", VERBS.join(", "))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_the_documented_form() {
        assert_eq!(parse(br#"{"verb":"status"}"#).unwrap(), Request::Status { group: None });
        assert_eq!(
            parse(br#"{"verb":"ping","node":"b","group":"lab"}"#).unwrap(),
            Request::Ping { group: Some("lab".into()), node: "b".into() }
        );
        assert_eq!(serde_json::to_string(&Request::Stop {}).unwrap(), r#"{"verb":"stop"}"#);
        for verb in VERBS {
            let text = format!(r#"{{"verb":"{verb}","node":"x"}}"#);
            let known = !matches!(parse(text.as_bytes()), Err(error) if error.message.contains("unknown variant"));
            assert!(known, "{verb}");
        }
    }

    #[test]
    fn what_is_no_request_is_told_so() {
        for line in [&b"{"[..], b"[]", br#"{"verb":"dance"}"#, br#"{"verb":"ping"}"#, br#"{"verb":"stop","now":1}"#, b"\xff"] {
            let error = parse(line).unwrap_err();
            assert_eq!(error.code, ErrorCode::BadRequest, "{line:?}");
        }
    }

    #[test]
    fn answers_have_the_documented_form() {
        let error = Answer::from(Err(ControlError::new(ErrorCode::UnknownNode, "nobody")));
        assert_eq!(serde_json::to_string(&error).unwrap(), r#"{"error":{"code":"unknown_node","message":"nobody"}}"#);
        assert_eq!(serde_json::to_string(&Answer::Ok(serde_json::json!({"a": 1}))).unwrap(), r#"{"ok":{"a":1}}"#);
    }
}
