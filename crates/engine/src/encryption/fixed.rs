//! Keys that everybody knows, for those who try the readers with anything at all.

use jiff::Timestamp;
use kubedb_core::age::Identity;

use super::{recipient_of, sealed::DataKey, wrapped::Wrapped};

const LINEAGE: &str = "b5ad6a0e-6f1c-4b0c-9a7c-2c4f7c7f0a11";

pub(crate) fn key() -> DataKey {
    DataKey::zero()
}

fn identity() -> Identity {
    Identity([1; 32])
}

/// Reads the object of a key, and opens it.
pub(crate) fn open(bytes: &[u8]) -> Result<bool, String> {
    let wrapped = Wrapped::decode(bytes)?;
    let identities = [identity()];
    let _ = (wrapped.recipients(), wrapped.is_witnessed(&identities));
    Ok(wrapped.open(key().id(), &identities)?.is_some())
}

/// One that opens.
pub(crate) fn wrapped() -> Option<Vec<u8>> {
    let recipient = recipient_of(&identity()).ok()?;
    let made = Wrapped::new(
        &key(),
        LINEAGE,
        Timestamp::UNIX_EPOCH,
        &[recipient],
        &[identity()],
    );
    made.ok()?.encode().ok()
}
