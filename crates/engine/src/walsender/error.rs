//! What can go wrong on a replication connection.

use std::{io, time::Duration};

use super::unpack::UnpackError;

/// Why a replication connection or a command on it failed.
#[derive(Debug, thiserror::Error)]
pub enum WalSenderError {
    /// Nobody answered there.
    #[error("failed to connect to {address}")]
    Connect {
        /// Host and port.
        address: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Connecting and authenticating took too long.
    #[error("failed to connect to {address} within {limit:?}")]
    ConnectTimeout {
        /// Host and port.
        address: String,
        /// The limit.
        limit: Duration,
    },
    /// The server wants to know us in a way that is not built, or would let a listener read the password.
    #[error(
        "failed to authenticate: the server asks for {method}; trust, md5 and scram-sha-256 are built"
    )]
    UnsupportedAuthentication {
        /// What it asks for.
        method: &'static str,
    },
    /// The exchange of proofs did not work out: the server does not know the password, or is not the one.
    #[error("failed to authenticate by scram-sha-256")]
    Scram {
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The server says no.
    #[error("failed to run {command}: {severity} {code}: {message}{}", detail.as_ref().map(|detail| format!(" ({detail})")).unwrap_or_default())]
    Server {
        /// What was being done, without secrets.
        command: &'static str,
        /// ERROR or FATAL.
        severity: String,
        /// SQLSTATE, five characters.
        code: String,
        /// Its words.
        message: String,
        /// More of its words.
        detail: Option<String>,
    },
    /// The connection ended before the answer did.
    #[error("failed to read the answer to {command}: the connection was cut")]
    Cut {
        /// What was being done.
        command: &'static str,
    },
    /// Not a byte came for too long.
    #[error("failed to read the answer to {command}: nothing came for {limit:?}")]
    Silent {
        /// What was being done.
        command: &'static str,
        /// The limit.
        limit: Duration,
    },
    /// The connection broke.
    #[error("failed to exchange messages with the server during {command}")]
    Exchange {
        /// What was being done.
        command: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The server said what the protocol does not allow there.
    #[error("failed to understand the answer to {command}: {what}")]
    Protocol {
        /// What was being done.
        command: &'static str,
        /// What came, or what was expected.
        what: String,
    },
    /// A name or label that would not mean itself in a replication command.
    #[error("failed to use {what} {value:?}: {rule}")]
    Argument {
        /// Which argument.
        what: &'static str,
        /// Its value.
        value: String,
        /// What is allowed.
        rule: &'static str,
    },
    /// The copy could not be written.
    #[error("failed to write the copy")]
    Unpack {
        /// Why.
        #[source]
        source: UnpackError,
    },
}

impl WalSenderError {
    /// SQLSTATE, when it was the server that refused.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Server { code, .. } => Some(code),
            _ => None,
        }
    }
}
