//! One cluster for all tests, and databases in it that they share.

use std::{
    net::Ipv4Addr,
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use kubedb_cluster::{Cluster, Kubectl};
use kubedb_e2e::wait::eventually;
use serde_json::{Value, json};

/// Six databases are made at the same time on few processors.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// What is started in a database's container, as the user of the image.
const SERVE: &str = r#"
if ! [ -s "$PGDATA/PG_VERSION" ]; then
  initdb --auth=trust --encoding=UTF8 --locale=C.UTF-8 --nosync "$PGDATA"
  echo host all all all trust >>"$PGDATA/pg_hba.conf"
fi
exec postgres -D "$PGDATA" -c listen_addresses='*' -c unix_socket_directories=/tmp
"#;

/// Failures of one test would be those of others at the same time.
static ALONE: Mutex<()> = Mutex::new(());
static DATABASES: OnceLock<String> = OnceLock::new();

/// The cluster, for one test at a time.
pub(crate) struct World {
    pub(crate) cluster: Cluster,
    pub(crate) kubectl: Kubectl,
    _alone: MutexGuard<'static, ()>,
}

impl World {
    /// None where no cluster is up and nobody insists on one.
    pub(crate) fn begin() -> Option<Self> {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let cluster = Cluster::of_tests()?;
        Some(Self {
            kubectl: cluster.kubectl(),
            cluster,
            _alone: alone,
        })
    }

    /// A namespace in which every pod must do without privileges.
    pub(crate) fn namespace(&self, name: &str) -> String {
        let name = format!("{name}-{}", std::process::id());
        let object = json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": name, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
        });
        self.kubectl.apply(&[object]).unwrap();
        let account = ["-n", &name, "serviceaccount", "default"];
        eventually("service account", PATIENCE, || {
            self.kubectl
                .get(&account)
                .map(drop)
                .map_err(|error| error.to_string())
        });
        name
    }

    /// The namespace of the databases `pg15` and `pg96`, three instances each; made for the first test that asks.
    pub(crate) fn databases(&self) -> &'static str {
        let namespace = DATABASES.get_or_init(|| {
            let namespace = self.namespace("databases");
            let objects: Vec<Value> = [("pg15", "postgres:15"), ("pg96", "postgres:9.6.24")]
                .into_iter()
                .flat_map(|(name, image)| database(&namespace, name, image))
                .collect();
            self.kubectl.apply(&objects).unwrap();
            namespace
        });
        for name in ["pg15", "pg96"] {
            self.wait_for_set(namespace, name);
        }
        namespace
    }

    /// Waits until all instances of a set are ready.
    pub(crate) fn wait_for_set(&self, namespace: &str, name: &str) {
        eventually(name, PATIENCE, || {
            let set = self.kubectl.get(&["-n", namespace, "statefulset", name]);
            let set = set.map_err(|error| error.to_string())?;
            if set["status"]["readyReplicas"] == set["spec"]["replicas"] {
                Ok(())
            } else {
                Err(set["status"].to_string())
            }
        });
    }

    pub(crate) fn pod(&self, namespace: &str, name: &str) -> Value {
        self.kubectl.get(&["-n", namespace, "pod", name]).unwrap()
    }

    /// Runs a command in a pod.
    pub(crate) fn exec(
        &self,
        namespace: &str,
        pod: &str,
        command: &[&str],
    ) -> Result<String, String> {
        let arguments = [&["-n", namespace, "exec", pod, "--"], command].concat();
        let printed = self.kubectl.run(&arguments);
        printed
            .map(|text| text.trim().to_owned())
            .map_err(|error| error.to_string())
    }

    /// Asks a database, from a pod of `pg15`: only that image has psql.
    pub(crate) fn sql(&self, from: &str, host: &str, query: &str) -> Result<String, String> {
        let command = ["psql", "-h", host, "-U", "postgres", "-AtX", "-c", query];
        self.exec(self.databases_made(), from, &command)
    }

    fn databases_made(&self) -> &'static str {
        DATABASES.get().expect("the databases are made")
    }

    pub(crate) fn host(&self) -> Ipv4Addr {
        self.cluster.host()
    }

    /// Waits until a pod has ended well, and returns what it printed.
    pub(crate) fn printed(&self, namespace: &str, name: &str) -> String {
        eventually(&format!("end of {name}"), PATIENCE, || {
            let pod = self.kubectl.get(&["-n", namespace, "pod", name]);
            let pod = pod.map_err(|error| error.to_string())?;
            match pod["status"]["phase"].as_str() {
                Some("Succeeded") => Ok(()),
                _ => Err(pod["status"].to_string()),
            }
        });
        self.kubectl
            .run(&["-n", namespace, "logs", name])
            .unwrap()
            .trim()
            .to_owned()
    }
}

/// What `restricted` asks of a pod, for a user.
pub(crate) fn pod_security(id: u32) -> Value {
    json!({
        "runAsNonRoot": true, "runAsUser": id, "runAsGroup": id, "fsGroup": id,
        // A volume is given to the group once: each time, PostgreSQL would find its folder open to the group, and refuse it.
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    })
}

/// The same for its container.
pub(crate) fn container_security() -> Value {
    json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}})
}

/// A claim of so much.
pub(crate) fn claim(name: &str, class: Option<&str>, size: &str) -> Value {
    let mut claim = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}},
    });
    if let Some(class) = class {
        claim["spec"]["storageClassName"] = class.into();
    }
    claim
}

/// A pod of the PostgreSQL image that runs a script once, with a claim at `/data` if it has one.
pub(crate) fn script(namespace: &str, name: &str, text: &str, claim: Option<&str>) -> Value {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "restartPolicy": "Never", "securityContext": pod_security(999), "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": "script", "image": "postgres:15", "imagePullPolicy": "IfNotPresent",
                "command": ["bash", "-ec", text], "securityContext": container_security(),
            }],
        },
    });
    if let Some(claim) = claim {
        pod["spec"]["volumes"] =
            json!([{"name": "data", "persistentVolumeClaim": {"claimName": claim}}]);
        pod["spec"]["containers"][0]["volumeMounts"] =
            json!([{"name": "data", "mountPath": "/data"}]);
    }
    pod
}

fn database(namespace: &str, name: &str, image: &str) -> [Value; 2] {
    let labels = json!({"app": name});
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace},
        "spec": {"clusterIP": "None", "selector": labels, "ports": [{"port": 5432}]},
    });
    let apart = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"labelSelector": {"matchLabels": labels}, "topologyKey": "kubernetes.io/hostname"},
    ]}});
    let set = json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "replicas": 3, "serviceName": name, "podManagementPolicy": "Parallel", "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {
                "affinity": apart, "securityContext": pod_security(999), "terminationGracePeriodSeconds": 10,
                "containers": [{
                    "name": "postgres", "image": image, "imagePullPolicy": "IfNotPresent",
                    "command": ["sh", "-ec", SERVE], "securityContext": container_security(),
                    "env": [{"name": "PGDATA", "value": "/data/pg"}],
                    "volumeMounts": [{"name": "data", "mountPath": "/data"}],
                    "readinessProbe": {"tcpSocket": {"port": 5432}, "periodSeconds": 1},
                }],
            }},
            "volumeClaimTemplates": [claim("data", None, "100Mi")],
        },
    });
    [service, set]
}
