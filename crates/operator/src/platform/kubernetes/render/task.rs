//! The Job that deletes a Snapshot's data where no agent can.

use kubedb_api::{
    agent_config::{DataTask, TASK, TASK_SECRET},
    labels,
    storage::LocalStorage,
};
use kubedb_core::names::deletion_job;
use serde_json::{Value, json};

use super::{
    super::KubernetesOptions,
    value,
    workload::{confined, unprivileged},
};

/// The user it runs as where nothing is mounted that belongs to another: any that is not root.
pub(super) const USER: i64 = 65_532;
/// A store that takes longer is tried again.
const DEADLINE_SECONDS: i64 = 3600;
/// A finished Job that nobody took away goes by itself.
const KEPT_SECONDS: i32 = 600;
/// Container of the work.
pub(in super::super) const CONTAINER: &str = "task";

/// Name of a task's Job.
pub(in super::super) fn job_name(task: &DataTask) -> String {
    deletion_job(&task.snapshot, &task.snapshot_uid)
}

/// The Job. It has neither an account nor rights: the one Secret that it needs is mounted.
pub(in super::super) fn job(
    task: &DataTask,
    image_pull_secrets: &[String],
    options: &KubernetesOptions,
) -> Value {
    let (volumes, mounts) = volumes(task);
    let told = DataTask {
        storage: within(task),
        ..task.clone()
    };
    let mut environment = vec![json!({ "name": TASK, "value": value(told).to_string() })];
    let handed = options.environment.iter();
    environment.extend(handed.map(|(name, value)| json!({ "name": name, "value": value })));
    let pulls: Vec<Value> = image_pull_secrets
        .iter()
        .map(|name| json!({ "name": name }))
        .collect();
    // Not the labels by which a database's pods are found.
    let labels = json!({ labels::TASK: "delete" });
    // An archive is no object that could own it.
    let owners = task.archive.is_none().then(|| {
        json!([{
            "apiVersion": "kubedb.com/v1alpha1", "kind": "Snapshot", "name": task.snapshot, "uid": task.snapshot_uid,
        }])
    });
    json!({
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": {
            "name": job_name(task), "namespace": task.namespace, "labels": labels, "ownerReferences": owners,
        },
        "spec": {
            // Tried again by whoever knows why it failed.
            "backoffLimit": 0,
            "activeDeadlineSeconds": DEADLINE_SECONDS,
            "ttlSecondsAfterFinished": KEPT_SECONDS,
            "template": {
                "metadata": { "labels": labels },
                "spec": {
                    "restartPolicy": "Never",
                    "automountServiceAccountToken": false,
                    "enableServiceLinks": false,
                    "imagePullSecrets": pulls,
                    "securityContext": unprivileged(USER, USER),
                    "containers": [{
                        "name": CONTAINER,
                        "image": options.image,
                        "imagePullPolicy": "IfNotPresent",
                        "args": ["task", "delete-data", "--pod"],
                        "env": environment,
                        "securityContext": confined(),
                        "resources": {
                            "requests": { "cpu": "10m", "memory": "32Mi" }, "limits": { "memory": "256Mi" },
                        },
                        "terminationMessagePolicy": "FallbackToLogsOnError",
                        "volumeMounts": mounts,
                    }],
                    "volumes": volumes,
                },
            },
        },
    })
}

/// The storage as the pod has it: what is a volume lies at its mount path.
fn within(task: &DataTask) -> kubedb_api::storage::SnapshotStorage {
    let mut storage = task.storage.clone();
    storage.local = storage
        .local
        .as_deref()
        .map(LocalStorage::mounted)
        .map(Box::new);
    storage
}

fn volumes(task: &DataTask) -> (Vec<Value>, Vec<Value>) {
    let (mut volumes, mut mounts) = (Vec::new(), Vec::new());
    let mut mount = |name: &str, source: Value, path: &str, is_read_only: bool| {
        let mut volume = source;
        volume["name"] = json!(name);
        volumes.push(volume);
        mounts.push(json!({ "name": name, "mountPath": path, "readOnly": is_read_only }));
    };
    if let Some(local) = &task.storage.local {
        if let (Some(path), Some(source)) = (&local.mount_path, local.volume()) {
            mount("store", source, path, false);
        }
    } else if let Some(name) = &task.storage.storage_secret_name {
        let source = json!({ "secret": { "secretName": name, "defaultMode": 0o440 } });
        mount("secret", source, TASK_SECRET, true);
    }
    (volumes, mounts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> KubernetesOptions {
        KubernetesOptions {
            image: "kubedb:1".to_owned(),
            namespaces: crate::Namespaces::default(),
            environment: vec![("NO_PROXY".to_owned(), ".svc".to_owned())],
        }
    }

    fn task(storage: Value) -> DataTask {
        DataTask {
            namespace: "demo".to_owned(),
            database: "pg".to_owned(),
            archive: None,
            snapshot: "snap".to_owned(),
            snapshot_uid: "u-1".to_owned(),
            storage: serde_json::from_value(storage).unwrap(),
        }
    }

    #[test]
    fn it_has_no_account_and_its_one_secret_is_mounted() {
        let task =
            task(json!({ "storageSecretName": "gcs-secret", "gcs": { "bucket": "kubedb" } }));
        let job = job(&task, &["registry".to_owned()], &options());
        let pod = &job["spec"]["template"]["spec"];
        assert_eq!(pod["automountServiceAccountToken"], false);
        assert_eq!(pod["volumes"][0]["secret"]["secretName"], "gcs-secret");
        assert_eq!(pod["imagePullSecrets"], json!([{ "name": "registry" }]));
        let variable = &pod["containers"][0]["env"][0];
        let told: DataTask = serde_json::from_str(variable["value"].as_str().unwrap()).unwrap();
        assert_eq!(told, task);
        // A database's Services and its operator would take it for an instance.
        let labels = job["spec"]["template"]["metadata"]["labels"].to_string();
        assert!(!labels.contains(labels::NAME) && !labels.contains(labels::KIND));
    }

    #[test]
    fn the_job_of_an_archive_belongs_to_no_snapshot() {
        let mut task = task(json!({ "gcs": { "bucket": "kubedb" } }));
        assert_eq!(
            job(&task, &[], &options())["metadata"]["ownerReferences"][0]["uid"],
            "u-1"
        );
        task.archive = Some("l".to_owned());
        let job = job(&task, &[], &options());
        // One that names what is not there would take the Job away.
        assert!(job["metadata"]["ownerReferences"].is_null());
    }

    #[test]
    fn a_folder_of_a_node_is_looked_for_where_it_is_mounted() {
        let task = task(json!({ "storageSecretName": "unused", "local": {
            "mountPath": "/backup", "subPath": "a", "hostPath": { "path": "/srv" },
        } }));
        let job = job(&task, &[], &options());
        let pod = &job["spec"]["template"]["spec"];
        assert_eq!(
            pod["volumes"],
            json!([{ "name": "store", "hostPath": { "path": "/srv" } }])
        );
        let variable = pod["containers"][0]["env"][0]["value"].as_str().unwrap();
        assert!(
            !variable.contains("/srv") && variable.contains("/backup"),
            "{variable}"
        );
    }
}
