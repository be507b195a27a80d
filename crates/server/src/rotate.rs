//! New certificates and tokens: whoever has an old one is a stranger from the next start on.

use std::{io, path::Path};

use crate::keys::{self, KeyError};
use crate::storage::{OpenError, Store};
use crate::tokens::{self, TokenError};

/// Why the keys are still the old ones, or some of them.
#[derive(Debug, thiserror::Error)]
pub enum RotateError {
    /// The database file.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The tokens.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The certificates.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The file that tells clients.
    #[error("failed to remove the kubeconfig")]
    Kubeconfig(#[source] io::Error),
}

/// Forgets every token of the database file and every certificate in `folder`; a server that starts makes new ones. None may run.
///
/// # Errors
/// When a file cannot be read or removed. It can be called again.
pub fn rotate(database: &Path, folder: &Path) -> Result<(), RotateError> {
    tokens::discard(&Store::open(database)?)?;
    keys::discard(folder)?;
    match std::fs::remove_file(folder.join("kubeconfig")) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(RotateError::Kubeconfig(source))
        }
        _ => Ok(()),
    }
}
