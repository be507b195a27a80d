//! What makes the volumes of class `standard`: a folder on the node that the scheduler has chosen, which goes with its claim.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    pin::pin,
    time::Duration,
};

use futures::{StreamExt as _, stream};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::{
    Api, Client, Config, ResourceExt as _,
    api::{DeleteParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
    runtime::{WatchStreamExt as _, watcher},
};
use serde_json::json;

use crate::{error::words, manifests};

/// Where the scheduler writes which node it has chosen.
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// Where Kubernetes writes who is to make a claim's volume.
const ASKED: &str = "volume.kubernetes.io/storage-provisioner";
/// Where we write that we have made a volume.
const MADE_BY: &str = "pv.kubernetes.io/provisioned-by";

/// Before everything is looked at again after a failure: the API restarts in a second or two.
const PAUSE: Duration = Duration::from_millis(500);

/// Why a volume was not made or removed.
#[derive(Debug, thiserror::Error)]
pub enum ProvisionError {
    /// The API.
    #[error("failed to ask the API")]
    Ask(#[from] kube::Error),
    /// A watch.
    #[error("failed to watch")]
    Watch(#[from] watcher::Error),
    /// The kubeconfig.
    #[error("failed to read the kubeconfig")]
    Kubeconfig(#[from] kube::config::KubeconfigError),
    /// A folder.
    #[error("failed to make or remove {folder}")]
    Folder {
        /// Which.
        folder: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The object that we made.
    #[error("failed to write a volume")]
    Volume(#[from] serde_json::Error),
}

/// What is to be done about an object.
#[derive(Debug, PartialEq, Eq)]
enum Deed {
    /// A folder on this node, for this claim.
    Make {
        node: String,
        name: String,
        class: String,
        capacity: String,
    },
    /// This folder, and the volume of this name.
    Remove { folder: PathBuf, name: String },
}

/// Makes and removes folders below `cluster` until it is killed. `tell` hears what failed; everything is tried again.
///
/// # Errors
/// When there is no kubeconfig to begin with.
pub async fn run(
    kubeconfig: &Path,
    cluster: &Path,
    tell: impl Fn(&str),
) -> Result<(), ProvisionError> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    let client = Client::try_from(config)?;
    loop {
        if let Err(error) = watch(&client, cluster).await {
            tell(&words(&error));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn watch(client: &Client, cluster: &Path) -> Result<(), ProvisionError> {
    let claims: Api<PersistentVolumeClaim> = Api::all(client.clone());
    let volumes: Api<PersistentVolume> = Api::all(client.clone());
    let config = watcher::Config::default;
    let asked = watcher(claims, config()).applied_objects();
    let left = watcher(volumes.clone(), config()).applied_objects();
    let deeds = stream::select(
        asked.map(|claim| claim.map(|claim| Some((of_claim(&claim)?, Some(claim))))),
        left.map(|volume| volume.map(|volume| Some((of_volume(&volume)?, None)))),
    );
    let mut deeds = pin!(deeds);
    while let Some(deed) = deeds.next().await {
        if let Some((deed, claim)) = deed? {
            act(&volumes, cluster, deed, claim.as_ref()).await?;
        }
    }
    Ok(())
}

/// A claim without a volume, whose node is known, that asks for us.
fn of_claim(claim: &PersistentVolumeClaim) -> Option<Deed> {
    let notes = claim.annotations();
    let spec = claim.spec.as_ref()?;
    let is_ours = notes
        .get(ASKED)
        .is_some_and(|who| who == manifests::PROVISIONER);
    if !is_ours || spec.volume_name.is_some() || claim.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let requests = spec.resources.as_ref()?.requests.as_ref()?;
    Some(Deed::Make {
        node: notes.get(SELECTED_NODE)?.clone(),
        name: format!("pvc-{}", claim.uid()?),
        class: spec.storage_class_name.clone()?,
        capacity: requests.get("storage")?.0.clone(),
    })
}

/// A volume of ours whose claim is gone.
fn of_volume(volume: &PersistentVolume) -> Option<Deed> {
    let is_ours = volume
        .annotations()
        .get(MADE_BY)
        .is_some_and(|who| who == manifests::PROVISIONER);
    let spec = volume.spec.as_ref()?;
    let phase = volume.status.as_ref()?.phase.as_deref();
    let goes = spec.persistent_volume_reclaim_policy.as_deref() == Some("Delete");
    (is_ours && goes && phase == Some("Released")).then_some(())?;
    Some(Deed::Remove {
        folder: spec.local.as_ref()?.path.clone().into(),
        name: volume.name_any(),
    })
}

async fn act(
    volumes: &Api<PersistentVolume>,
    cluster: &Path,
    deed: Deed,
    claim: Option<&PersistentVolumeClaim>,
) -> Result<(), ProvisionError> {
    let failed = |folder: &Path| {
        let folder = folder.display().to_string();
        move |source| ProvisionError::Folder { folder, source }
    };
    match deed {
        Deed::Make {
            node,
            name,
            class,
            capacity,
        } => {
            let folder = cluster.join(&node).join("volumes").join(&name);
            fs::create_dir_all(&folder)
                // As of a volume without a group: whoever runs in the pod may write.
                .and_then(|()| fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)))
                .map_err(failed(&folder))?;
            let mut volume =
                manifests::volume(&name, &node, &folder, (&class, &capacity, "Delete"));
            volume["metadata"]["annotations"] = json!({MADE_BY: manifests::PROVISIONER});
            if let Some(claim) = claim {
                volume["spec"]["claimRef"] = json!({
                    "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": claim.namespace(),
                    "name": claim.name_any(), "uid": claim.uid(),
                });
            }
            let made = volumes
                .create(&PostParams::default(), &serde_json::from_value(volume)?)
                .await;
            ignore(made.map(drop), 409)
        }
        Deed::Remove { folder, name } => {
            match fs::remove_dir_all(&folder) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(failed(&folder)(error));
                }
                _ => {}
            }
            let removed = volumes.delete(&name, &DeleteParams::default()).await;
            ignore(removed.map(drop), 404)
        }
    }
}

/// What is done already was told twice.
fn ignore(outcome: Result<(), kube::Error>, code: u16) -> Result<(), ProvisionError> {
    match outcome {
        Err(kube::Error::Api(answer)) if answer.code == code => Ok(()),
        outcome => Ok(outcome?),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn claim() -> Value {
        json!({
            "metadata": {"name": "data", "namespace": "demo", "uid": "7", "annotations": {
                SELECTED_NODE: "node2", ASKED: manifests::PROVISIONER,
            }},
            "spec": {"storageClassName": "standard", "resources": {"requests": {"storage": "50Mi"}}},
        })
    }

    fn asked(claim: Value) -> Option<Deed> {
        of_claim(&serde_json::from_value(claim).unwrap())
    }

    #[test]
    fn a_folder_is_made_once_the_scheduler_has_chosen() {
        let made = Deed::Make {
            node: "node2".to_owned(),
            name: "pvc-7".to_owned(),
            class: "standard".to_owned(),
            capacity: "50Mi".to_owned(),
        };
        assert_eq!(asked(claim()), Some(made));
        let mut waiting = claim();
        waiting["metadata"]["annotations"] = json!({ASKED: manifests::PROVISIONER});
        assert_eq!(asked(waiting), None);
        let mut bound = claim();
        bound["spec"]["volumeName"] = "pvc-7".into();
        assert_eq!(asked(bound), None);
        let mut others = claim();
        others["metadata"]["annotations"][ASKED] = "another.example".into();
        assert_eq!(asked(others), None);
    }

    #[test]
    fn a_folder_goes_when_its_claim_is_gone_and_not_before() {
        let mut volume = manifests::volume(
            "pvc-7",
            "node2",
            Path::new("/x/pvc-7"),
            ("standard", "50Mi", "Delete"),
        );
        volume["metadata"]["annotations"] = json!({MADE_BY: manifests::PROVISIONER});
        let left = |volume: &Value, phase: &str| {
            let mut volume = volume.clone();
            volume["status"] = json!({"phase": phase});
            of_volume(&serde_json::from_value(volume).unwrap())
        };
        let removed = Deed::Remove {
            folder: "/x/pvc-7".into(),
            name: "pvc-7".to_owned(),
        };
        assert_eq!(left(&volume, "Released"), Some(removed));
        assert_eq!(left(&volume, "Bound"), None);
        volume["spec"]["persistentVolumeReclaimPolicy"] = "Retain".into();
        assert_eq!(left(&volume, "Released"), None);
    }
}
