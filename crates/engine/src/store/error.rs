//! What can go wrong with a store, in the classes that callers act on.

use std::{error::Error as StdError, io};

/// Why a store could not do what was asked. The messages name the bucket and the object.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The location or a credential makes no sense; nothing was sent.
    #[error("failed to set up store {label}: {reason}")]
    Configure {
        /// The store, such as `gs:kubedb`.
        label: String,
        /// What is wrong, without any secret value.
        reason: String,
    },
    /// No answer, or an answer that says "later". Trying again may help.
    #[error("failed to reach store {label} for {object}: {reason}")]
    Unreachable {
        /// The store.
        label: String,
        /// Key of the object, or what was listed.
        object: String,
        /// What was heard last.
        reason: String,
        /// The store's own error.
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },
    /// The bucket is not there.
    #[error("failed to use store {label}: bucket {bucket:?} does not exist in {label}")]
    MissingBucket {
        /// The store.
        label: String,
        /// Name of the bucket or container.
        bucket: String,
    },
    /// The store knows us and refuses, or does not know us.
    #[error("failed to access {object} in store {label}: permission denied: {reason}")]
    Denied {
        /// The store.
        label: String,
        /// Key of the object.
        object: String,
        /// What the store said.
        reason: String,
    },
    /// The object is proven absent.
    #[error("failed to find object {object} in store {label}")]
    NotFound {
        /// The store.
        label: String,
        /// Key of the object.
        object: String,
    },
    /// An object of this name exists and holds something else. Objects are never overwritten.
    #[error("failed to create object {object} in store {label}: it exists with other content")]
    Conflict {
        /// The store.
        label: String,
        /// Key of the object.
        object: String,
    },
    /// No room is left.
    #[error("failed to write object {object} to store {label}: no space is left")]
    Full {
        /// The store.
        label: String,
        /// Key of the object.
        object: String,
    },
    /// An object, or a listing, is larger than anything we write.
    #[error("failed to read {object} from store {label}: larger than the limit of {limit}")]
    TooLarge {
        /// The store.
        label: String,
        /// Key of the object or prefix.
        object: String,
        /// Bytes of an object, or objects of a listing.
        limit: u64,
    },
    /// The request itself was refused; trying again will not help.
    #[error("failed to use object {object} in store {label}: {reason}")]
    Refused {
        /// The store.
        label: String,
        /// Key of the object.
        object: String,
        /// What the store said.
        reason: String,
        /// The store's own error.
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },
}

impl StoreError {
    /// Whether the same request may succeed later without anybody changing anything.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }

    /// Whether the object is proven absent.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }
}

/// What an adapter of ours knows beyond `object_store::Error`; it travels as the source of `Generic`.
#[derive(Debug, thiserror::Error)]
pub(super) enum AdapterFailure {
    #[error("the bucket does not exist")]
    MissingBucket,
    #[error("{reason}")]
    Unreachable { reason: String },
    #[error("{reason}")]
    Refused { reason: String },
}

/// Names of a store that its errors carry.
#[derive(Clone, Copy, Debug)]
pub(super) struct Named<'a> {
    pub(super) label: &'a str,
    pub(super) bucket: &'a str,
    pub(super) object: &'a str,
    pub(super) is_write: bool,
}

/// Gives an error of `object_store` its class.
pub(super) fn classify(named: Named<'_>, error: object_store::Error) -> StoreError {
    use object_store::Error;
    let label = named.label.to_owned();
    let object = named.object.to_owned();
    match error {
        // Creating an object needs nothing but its bucket.
        Error::NotFound { .. } if named.is_write => StoreError::MissingBucket {
            label,
            bucket: named.bucket.to_owned(),
        },
        Error::NotFound { .. } => StoreError::NotFound { label, object },
        Error::AlreadyExists { .. } | Error::Precondition { .. } => {
            StoreError::Conflict { label, object }
        }
        Error::PermissionDenied { source, .. } | Error::Unauthenticated { source, .. } => {
            StoreError::Denied {
                label,
                object,
                reason: source.to_string(),
            }
        }
        Error::Generic { source, .. } => classify_generic(named, source),
        other => StoreError::Refused {
            label,
            object,
            reason: other.to_string(),
            source: Box::new(other),
        },
    }
}

fn classify_generic(named: Named<'_>, source: Box<dyn StdError + Send + Sync>) -> StoreError {
    let label = named.label.to_owned();
    let object = named.object.to_owned();
    let reason = chain(source.as_ref());
    match source.downcast_ref::<AdapterFailure>() {
        Some(AdapterFailure::MissingBucket) => {
            return StoreError::MissingBucket {
                label,
                bucket: named.bucket.to_owned(),
            };
        }
        Some(AdapterFailure::Refused { .. }) => {
            return StoreError::Refused {
                label,
                object,
                reason,
                source,
            };
        }
        Some(AdapterFailure::Unreachable { .. }) | None => {}
    }
    match io_kind(source.as_ref()) {
        Some(io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem) => {
            StoreError::Denied {
                label,
                object,
                reason,
            }
        }
        Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {
            StoreError::Full { label, object }
        }
        _ => StoreError::Unreachable {
            label,
            object,
            reason,
            source,
        },
    }
}

/// Kind of the innermost operating-system error, when there is one.
fn io_kind(error: &(dyn StdError + 'static)) -> Option<io::ErrorKind> {
    let mut next = Some(error);
    let mut kind = None;
    while let Some(error) = next {
        kind = error
            .downcast_ref::<io::Error>()
            .map_or(kind, |io| Some(io.kind()));
        next = error.source();
    }
    kind
}

/// An error and what it came from, each said once.
pub(super) fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let part = error.to_string();
        if !text.contains(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        next = error.source();
    }
    text
}
