//! Why a certificate is refused.

use super::validity::utc;
use crate::time::UnixTime;

/// A certificate is refused.
///
/// The order of the checks is that of the variants' causes: form and profile, node ID, group, issuer, signature, and only then validity and revocation.
/// So [`is_authentic`](Self::is_authentic) errors are about a certificate that a CA of the group really signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// It is not the canonical DER of an X.509 certificate, or it is too long.
    #[error("not a certificate in canonical DER: {0}")]
    Malformed(der::Error),
    /// A field is missing, twice or other than the profile wants it.
    #[error("not a certificate of this profile: {0}")]
    BadProfile(&'static str),
    /// Its node ID does not follow from group ID, key and salt.
    #[error("its node ID does not follow from its group, key and salt")]
    WrongNodeId,
    /// It is one of another group.
    #[error("it belongs to another group")]
    WrongGroup,
    /// None of the group's CAs issued it.
    #[error("none of the group's certificate authorities issued it")]
    UnknownIssuer,
    /// The signature is not the issuer's.
    #[error("its signature is not that of its issuer")]
    BadSignature,
    /// Its time has not come yet.
    #[error("it is not valid before {}; is a clock wrong?", utc(.from))]
    NotYetValid {
        /// Its first second.
        from: UnixTime,
    },
    /// Its time is over.
    #[error("it expired at {} and was not renewed", utc(.since))]
    Expired {
        /// Its last second.
        since: UnixTime,
    },
    /// The group's revocation list names it or its key.
    #[error("it was revoked by the group's certificate authority")]
    Revoked,
}

impl CertificateError {
    /// Whether the certificate was signed by a CA of the group and is refused for its time or its revocation only: its holder may be told so.
    #[must_use]
    pub const fn is_authentic(&self) -> bool {
        matches!(self, Self::NotYetValid { .. } | Self::Expired { .. } | Self::Revoked)
    }
}

impl From<der::Error> for CertificateError {
    fn from(error: der::Error) -> Self {
        Self::Malformed(error)
    }
}
