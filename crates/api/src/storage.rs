//! Where Snapshots go: the five stores of `SnapshotStorage`, inline in several specs.

use k8s_openapi::api::core::v1::{
    EmptyDirVolumeSource, HostPathVolumeSource, NFSVolumeSource, PersistentVolumeClaimVolumeSource,
};
use kubedb_core::names::volume_store;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::encryption::Encryption;

/// A destination. Exactly one store is meant to be set; `validate` says so when it is not. Each is in a box, since an operator keeps tens of thousands of
/// destinations in memory, and all but one of the stores are absent in each.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotStorage {
    /// Secret, in the same namespace, that holds the store's credentials.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_secret_name: Option<String>,
    /// A folder of the machine, or a volume on Kubernetes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local: Option<Box<LocalStorage>>,
    /// Amazon S3 or a store that speaks its protocol.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub s3: Option<Box<S3Storage>>,
    /// Google Cloud Storage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gcs: Option<Box<GcsStorage>>,
    /// Azure Blob Storage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub azure: Option<Box<AzureStorage>>,
    /// OpenStack Swift.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swift: Option<Box<SwiftStorage>>,
    /// How what goes there is encrypted; not at all when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encryption: Option<Box<Encryption>>,
}

/// A folder. `mountPath` is where Snapshots lie; the volume source says what is mounted there on Kubernetes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LocalStorage {
    /// The folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mount_path: Option<String>,
    /// A folder below it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sub_path: Option<String>,
    /// A folder of the machine, mounted at `mountPath`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_path: Option<HostPathVolumeSource>,
    /// An NFS share, mounted at `mountPath`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nfs: Option<NFSVolumeSource>,
    /// A volume claim, mounted at `mountPath`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub persistent_volume_claim: Option<PersistentVolumeClaimVolumeSource>,
    /// Scratch space, gone with the pod: for trials only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub empty_dir: Option<EmptyDirVolumeSource>,
}

/// A bucket of S3.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct S3Storage {
    /// Address of a store other than Amazon's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// The bucket.
    #[serde(default)]
    pub bucket: String,
    /// Folder within the bucket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
}

/// A bucket of Google Cloud Storage.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GcsStorage {
    /// Address of an emulator; requests are then unsigned and the key is not read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// The bucket.
    #[serde(default)]
    pub bucket: String,
    /// Folder within the bucket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
}

/// A container of Azure Blob Storage.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AzureStorage {
    /// Address of an emulator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// The container.
    #[serde(default)]
    pub container: String,
    /// Folder within the container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
}

/// A container of OpenStack Swift.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SwiftStorage {
    /// The container.
    #[serde(default)]
    pub container: String,
    /// Folder within the container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
}

impl LocalStorage {
    /// What is mounted, as a pod names it; none where nothing is.
    #[must_use]
    pub fn volume(&self) -> Option<Value> {
        let sources = [
            ("hostPath", json!(self.host_path)),
            ("nfs", json!(self.nfs)),
            ("persistentVolumeClaim", json!(self.persistent_volume_claim)),
            ("emptyDir", json!(self.empty_dir)),
        ];
        let mut said = sources.into_iter().filter(|(_, source)| !source.is_null());
        said.next().map(|(kind, source)| json!({ kind: source }))
    }

    /// Name of what serves this volume to the agents of a database in a cluster, where a running pod gains no volume.
    #[must_use]
    pub fn served_by(&self, database: &str) -> String {
        let place = json!([self.volume(), self.mount_path, self.sub_path]);
        volume_store(database, &place.to_string())
    }

    /// The same folder for a pod that has the volume mounted.
    #[must_use]
    pub fn mounted(&self) -> Self {
        Self {
            mount_path: self.mount_path.clone(),
            sub_path: self.sub_path.clone(),
            ..Self::default()
        }
    }
}

impl SnapshotStorage {
    /// Secrets that it names: the store's, and the one that opens what is encrypted.
    pub fn secrets(&self) -> impl Iterator<Item = &String> {
        let keys = self.encryption.as_ref().map(|keys| &keys.secret_name);
        let all = self.storage_secret_name.iter().chain(keys);
        all.filter(|name| !name.is_empty())
    }

    /// The store as tables print it: `gs:kubedb`, `local:/backup`, `Unknown`.
    #[must_use]
    pub fn bucket_label(&self) -> String {
        if let Some(s3) = &self.s3 {
            format!("s3:{}", s3.bucket)
        } else if let Some(gcs) = &self.gcs {
            format!("gs:{}", gcs.bucket)
        } else if let Some(azure) = &self.azure {
            format!("azure:{}", azure.container)
        } else if let Some(local) = &self.local {
            format!("local:{}", local.mount_path.as_deref().unwrap_or_default())
        } else if let Some(swift) = &self.swift {
            format!("swift:{}", swift.container)
        } else {
            "Unknown".to_owned()
        }
    }
}
