//! From the API's storage to the engine's location.

use std::path::PathBuf;

use kubedb_api::{
    encryption::{Encryption, IDENTITY_KEY},
    storage::SnapshotStorage,
};
use kubedb_core::age::read_identities;
use kubedb_engine::{
    encryption::Keys,
    store::{Credentials, Location, Store, StoreError},
};

use crate::api::{ApiError, OwnApi};

/// Where a storage is; an error says what is missing.
pub fn location(storage: &SnapshotStorage) -> Result<Location, &'static str> {
    if let Some(s3) = &storage.s3 {
        Ok(Location::S3 {
            endpoint: s3.endpoint.clone(),
            bucket: s3.bucket.clone(),
            prefix: s3.prefix.clone(),
        })
    } else if let Some(gcs) = &storage.gcs {
        Ok(Location::Gcs {
            endpoint: gcs.endpoint.clone(),
            bucket: gcs.bucket.clone(),
            prefix: gcs.prefix.clone(),
        })
    } else if let Some(azure) = &storage.azure {
        Ok(Location::Azure {
            endpoint: azure.endpoint.clone(),
            container: azure.container.clone(),
            prefix: azure.prefix.clone(),
        })
    } else if let Some(local) = &storage.local {
        // On one machine nothing is mounted: the folder of the machine is where the data lies.
        let host = local.host_path.as_ref().map(|host| host.path.as_str());
        let base = host
            .or(local.mount_path.as_deref())
            .ok_or("local.mountPath is missing")?;
        let mut folder = PathBuf::from(base);
        if let Some(below) = &local.sub_path {
            folder.push(below.trim_start_matches('/'));
        }
        Ok(Location::Local { folder })
    } else if let Some(swift) = &storage.swift {
        Ok(Location::Swift {
            container: swift.container.clone(),
            prefix: swift.prefix.clone(),
        })
    } else {
        Err("no storage provider is configured")
    }
}

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenStoreError {
    /// The storage names none.
    #[error("{0}")]
    Find(&'static str),
    /// Its Secret could not be read.
    #[error(transparent)]
    ReadSecret(#[from] ApiError),
    /// It cannot be used as it is.
    #[error(transparent)]
    Open(#[from] StoreError),
    /// What would open what is encrypted there is no key.
    #[error("failed to use Secret {name} for encryption: {reason}")]
    Keys {
        /// Name of the Secret.
        name: String,
        /// What is wrong, without what is in it.
        reason: String,
    },
}

/// Opens a store with the Secret of that namespace, as it is now.
pub(crate) async fn open(
    api: &OwnApi,
    namespace: &str,
    storage: &SnapshotStorage,
) -> Result<Store, OpenStoreError> {
    let place = location(storage).map_err(OpenStoreError::Find)?;
    let credentials = match &storage.storage_secret_name {
        Some(name) if !reads_no_secret(storage) => api.secret(namespace, name).await?,
        _ => Credentials::new(),
    };
    let store = Store::open(&place, &credentials)?;
    let Some(encryption) = &storage.encryption else {
        return Ok(store);
    };
    let name = &encryption.secret_name;
    let secret = api.secret(namespace, name).await?;
    let keys = keys(encryption, &secret).map_err(|reason| OpenStoreError::Keys {
        name: name.clone(),
        reason,
    });
    Ok(store.with_keys(keys?))
}

/// Keys to what is encrypted, by the Secret that holds the identities. What is wrong is said without quoting it.
pub fn keys(encryption: &Encryption, secret: &Credentials) -> Result<Keys, String> {
    let text = secret
        .get(IDENTITY_KEY)
        .ok_or_else(|| format!("it has no key {IDENTITY_KEY}"))?;
    let text = std::str::from_utf8(text).map_err(|_| format!("{IDENTITY_KEY} is no text"))?;
    let identities = read_identities(text).map_err(|error| format!("{IDENTITY_KEY} {error}"))?;
    let recipients = encryption
        .read_recipients()
        .map_err(|(number, error)| format!("encryption.recipients[{number}] {error}"))?;
    Keys::writing(identities, recipients).map_err(|error| error.to_string())
}

/// Whether credentials are not looked at: an emulator is asked unsigned.
#[must_use]
pub fn reads_no_secret(storage: &SnapshotStorage) -> bool {
    storage.local.is_some()
}
