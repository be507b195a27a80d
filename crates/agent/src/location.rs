//! From the API's storage to the engine's location.

use std::{path::PathBuf, time::Duration};

use kubedb_api::{
    agent_config::{volume_endpoint, volume_secret},
    encryption::{Encryption, IDENTITY_KEY},
    storage::{LocalStorage, SnapshotStorage},
};
use kubedb_core::age::read_identities;
use kubedb_engine::{
    encryption::Keys,
    store::{Credentials, Location, Store, StoreError},
};

use tokio::time::Instant;

use crate::api::{ApiError, OwnApi};

/// How long a pod may take to start, its volume and its image included.
const START: Duration = Duration::from_secs(240);
/// Between two looks whether it has.
const PAUSE: Duration = Duration::from_secs(1);
/// Why a volume cannot be had.
const ELSEWHERE: &str = "a volume of another namespace cannot be mounted here: restore from a Snapshot in a bucket, or in the namespace of the volume";

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
    /// Nobody serves the volume.
    #[error(
        "failed to reach the volume through pod {pod}, which serves it (kubectl describe pod {pod} says more)"
    )]
    Serve {
        /// The pod.
        pod: String,
        /// What was tried last.
        #[source]
        source: Box<OpenStoreError>,
    },
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
    let store = match &storage.local {
        Some(local) if api.is_in_pod() => served(api, namespace, local).await?,
        _ => {
            let place = location(storage).map_err(OpenStoreError::Find)?;
            let credentials = match &storage.storage_secret_name {
                Some(name) if !reads_no_secret(storage) => api.secret(namespace, name).await?,
                _ => Credentials::new(),
            };
            Store::open(&place, &credentials)?
        }
    };
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

/// A volume that another pod serves: it is started for us, so it is waited for.
async fn served(
    api: &OwnApi,
    namespace: &str,
    local: &LocalStorage,
) -> Result<Store, OpenStoreError> {
    if namespace != api.namespace() {
        return Err(OpenStoreError::Find(ELSEWHERE));
    }
    let name = local.served_by(api.database());
    let until = Instant::now() + START;
    loop {
        let refused = match knock(api, &name, local).await {
            Ok(store) => return Ok(store),
            Err(error) => error,
        };
        if Instant::now() >= until {
            return Err(OpenStoreError::Serve {
                pod: format!("{name}-0"),
                source: Box::new(refused),
            });
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn knock(api: &OwnApi, name: &str, local: &LocalStorage) -> Result<Store, OpenStoreError> {
    let secret = volume_secret(api.database());
    let credentials = api.secret(api.namespace(), &secret).await?;
    let place = Location::Served {
        endpoint: volume_endpoint(name, api.namespace()),
        label: format!("local:{}", local.mount_path.as_deref().unwrap_or_default()),
    };
    let store = Store::open(&place, &credentials)?;
    store.knock().await?;
    Ok(store)
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
