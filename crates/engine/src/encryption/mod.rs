//! Encryption of what lies in a bucket. See ADR 8 and `docs/reference/repository-format.md`.
//!
//! A data key encrypts; it lies beside the data, wrapped for recipients of age. Whoever has the identity of one of them reads everything, and other
//! recipients are a matter of one small object.

pub(crate) mod age;
pub(crate) mod fixed;
mod ring;
mod sealed;
mod wrapped;

use std::{
    collections::HashMap,
    fmt,
    sync::{Mutex, PoisonError},
};

use aws_lc_rs::error::Unspecified;
use kubedb_core::age::RECIPIENTS_MAX;
pub use kubedb_core::age::{Identity, Recipient};

pub use self::{
    age::{OpenAgeError, new_identity, recipient_of},
    ring::{Rotated, rotate},
    sealed::{DataKey, KeyId, OpenError},
};
pub(crate) use self::{
    ring::{reading_key, writing_key},
    sealed::{CHUNK, PackKey, TAG, sealed_length, sealed_with},
};
use crate::{repository::keys::NameError, store::StoreError};

/// What a store was opened with to read what is encrypted there, and perhaps to encrypt what is written.
pub struct Keys {
    identities: Vec<Identity>,
    /// Recipients of the identities.
    own: Vec<Recipient>,
    /// Whom what is written is encrypted for; nobody where nothing is written.
    recipients: Vec<Recipient>,
    /// Data keys that were opened before.
    opened: Mutex<HashMap<KeyId, DataKey>>,
}

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Nobody said how to open it.
    #[error(
        "failed to read what {label} holds of {what}: it is encrypted with key {key}, for {recipients}, and no identity was given; {HOW}"
    )]
    NoIdentity {
        /// Which key.
        key: KeyId,
        /// Folder of the database.
        what: String,
        /// The store.
        label: String,
        /// Whom it is wrapped for.
        recipients: String,
    },
    /// Nobody who was named may open it.
    #[error(
        "failed to open key {key} of {what} in {label}: it is encrypted for {recipients}, and the identities given are those of {given}; {HOW}"
    )]
    WrongIdentity {
        /// Which key.
        key: KeyId,
        /// Folder of the database.
        what: String,
        /// The store.
        label: String,
        /// Whom it is wrapped for.
        recipients: String,
        /// Recipients of the identities that were given.
        given: String,
    },
    /// Its object is gone.
    #[error(
        "failed to find key {key} in {label}: {folder} holds it no more, and what is encrypted with it cannot be read without; a copy of that folder brings it back"
    )]
    Missing {
        /// Which key.
        key: KeyId,
        /// Where it was.
        folder: String,
        /// The store.
        label: String,
    },
    /// What lies there is no key.
    #[error("failed to use {object} in {label}: {reason}")]
    Damaged {
        /// Key of the object.
        object: String,
        /// The store.
        label: String,
        /// What is wrong.
        reason: String,
    },
    /// What is encrypted could not be read by whoever encrypts.
    #[error(
        "failed to encrypt: none of the recipients ({recipients}) is one of the identities', which are those of {given}. Nobody could refer to what was written before, nor verify it; add one of these to the recipients, or its identity to the Secret"
    )]
    Unreadable {
        /// Whom it would be encrypted for.
        recipients: String,
        /// Recipients of the identities.
        given: String,
    },
    /// More recipients than anybody has.
    #[error("failed to encrypt for {count} recipients: at most {RECIPIENTS_MAX} are possible")]
    TooMany {
        /// How many.
        count: usize,
    },
    /// A lineage that is none.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The store did not do its part.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The system has no random numbers, or the library failed.
    #[error("failed to encrypt or to decrypt: the system's cryptography failed")]
    System,
}

/// What helps against a key that does not open.
const HOW: &str = "kubedb repo takes identities by --identity FILE, and a storage names the Secret that holds them in encryption.secretName, under AGE_IDENTITY";

impl From<Unspecified> for KeyError {
    fn from(_: Unspecified) -> Self {
        Self::System
    }
}

impl KeyError {
    /// Whether trying again may succeed without anybody changing anything.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Store(error) if error.is_retryable())
    }

    /// Whether somebody may make the same work: by another Secret.
    #[must_use]
    pub fn is_mendable(&self) -> bool {
        matches!(
            self,
            Self::NoIdentity { .. }
                | Self::WrongIdentity { .. }
                | Self::Missing { .. }
                | Self::Unreadable { .. }
        )
    }

    /// Whether it proves that nobody can read what is encrypted with it.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Missing { .. } | Self::Damaged { .. })
    }
}

impl Keys {
    /// For who reads.
    pub fn reading(identities: Vec<Identity>) -> Result<Self, KeyError> {
        let own: Result<_, _> = identities.iter().map(recipient_of).collect();
        Ok(Self {
            own: own?,
            identities,
            recipients: Vec::new(),
            opened: Mutex::default(),
        })
    }

    /// For who writes too: for these recipients, or those of the identities where there are none.
    pub fn writing(
        identities: Vec<Identity>,
        recipients: Vec<Recipient>,
    ) -> Result<Self, KeyError> {
        let keys = Self::rotating(identities, recipients)?;
        if !keys.own.iter().any(|own| keys.recipients.contains(own)) {
            return Err(KeyError::Unreadable {
                recipients: names(&keys.recipients),
                given: names(&keys.own),
            });
        }
        Ok(keys)
    }

    /// For who wraps keys anew, perhaps for others than himself.
    pub fn rotating(
        identities: Vec<Identity>,
        recipients: Vec<Recipient>,
    ) -> Result<Self, KeyError> {
        let mut keys = Self::reading(identities)?;
        keys.recipients = if recipients.is_empty() {
            keys.own.clone()
        } else {
            recipients
        };
        keys.recipients.sort_unstable();
        keys.recipients.dedup();
        match keys.recipients.len() {
            count if count > RECIPIENTS_MAX => Err(KeyError::TooMany { count }),
            _ => Ok(keys),
        }
    }

    /// Whether what is written is encrypted.
    #[must_use]
    pub fn encrypts(&self) -> bool {
        !self.recipients.is_empty()
    }

    /// A key that was opened before.
    pub(crate) fn remembered(&self, id: KeyId) -> Option<DataKey> {
        let opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        opened.get(&id).cloned()
    }

    fn remember(&self, key: &DataKey) {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        opened.insert(key.id(), key.clone());
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys")
            .field("own", &names(&self.own))
            .field("recipients", &names(&self.recipients))
            .finish_non_exhaustive()
    }
}

/// Recipients for people.
fn names(recipients: &[Recipient]) -> String {
    if recipients.is_empty() {
        return "nobody".to_owned();
    }
    let names: Vec<String> = recipients.iter().map(Recipient::to_string).collect();
    names.join(", ")
}
