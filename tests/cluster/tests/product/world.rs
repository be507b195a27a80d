//! kubedb in the tests' cluster, and what people ask of it.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use kubedb_cluster::{Cluster, Kubectl};
use kubedb_e2e::{
    kubedb::{Ran, binary, run, scratch},
    wait::eventually,
};
use kubedb_stores::{gcs::FakeGcs, net::free_port};
use serde_json::{Value, json};

/// A database of three instances comes up on a cluster of few processors.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
/// Namespace of the operator.
pub(crate) const SYSTEM: &str = "kubedb";

/// What one test does to a node or to the operator would be another's surprise.
static ALONE: Mutex<()> = Mutex::new(());
/// Port of the store, which the operator was told when kubedb was installed.
static INSTALLED: OnceLock<u16> = OnceLock::new();

/// The cluster with kubedb in it, for one test at a time.
pub(crate) struct World {
    pub(crate) cluster: Cluster,
    pub(crate) kubectl: Kubectl,
    gcs: FakeGcs,
    _alone: MutexGuard<'static, ()>,
}

impl World {
    /// None where no cluster is up and nobody insists on one.
    pub(crate) fn begin() -> Option<Self> {
        let (cluster, port, alone) = begin()?;
        let gcs = FakeGcs::start_at(objects(), cluster.host(), port).unwrap();
        Some(Self {
            kubectl: cluster.kubectl(),
            cluster,
            gcs,
            _alone: alone,
        })
    }

    /// Objects in the store, by the end of their names.
    pub(crate) fn stored(&self, below: &str) -> usize {
        let folder = self.gcs.objects().join("kubedb").join(below);
        walk(&folder)
    }

    /// The command line, as its users have it.
    pub(crate) fn kubedb(&self, arguments: &[&str], stdin: &str) -> Ran {
        kubedb(&self.cluster, arguments, stdin)
    }

    /// Runs it, and insists that it does well.
    pub(crate) fn does(&self, arguments: &[&str], stdin: &str) -> String {
        let ran = self.kubedb(arguments, stdin);
        assert!(ran.code == 0, "kubedb {arguments:?}: {}", ran.stderr);
        ran.stdout
    }

    /// `kubedb edit` of one object, with sed for an editor.
    pub(crate) fn edit(&self, namespace: &str, what: [&str; 2], script: &str) -> Ran {
        let folder = scratch().unwrap();
        let editor = folder.path().join("editor");
        fs::write(&editor, format!("#!/bin/sh\nsed -i '{script}' \"$1\"\n")).unwrap();
        fs::set_permissions(&editor, fs::Permissions::from_mode(0o755)).unwrap();
        let mut command = Command::new(binary());
        command
            .arg("edit")
            .args(what)
            .args(["-n", namespace])
            .env("KUBECONFIG", self.cluster.kubeconfig())
            .env("EDITOR", &editor)
            .env_remove("KUBE_EDITOR");
        run(&mut command, "").unwrap()
    }

    /// A namespace with the Secret of the guides.
    pub(crate) fn namespace(&self, name: &str) -> String {
        namespace(&self.kubectl, name)
    }

    /// Makes a database of the small kind that the guides have.
    pub(crate) fn create(&self, namespace: &str, name: &str, spec: &Value) {
        let mut object = json!({
            "apiVersion": "kubedb.com/v1alpha1", "kind": "Postgres",
            "metadata": { "name": name, "namespace": namespace },
            "spec": {
                "version": "15",
                "storage": {
                    "storageClassName": "standard", "accessModes": ["ReadWriteOnce"],
                    "resources": { "requests": { "storage": "50Mi" } },
                },
            },
        });
        for (field, value) in spec.as_object().unwrap() {
            object["spec"][field] = value.clone();
        }
        self.does(&["create", "-f", "-"], &object.to_string());
    }

    pub(crate) fn get(&self, namespace: &str, kind: &str, name: &str) -> Result<Value, String> {
        self.kubectl
            .get(&["-n", namespace, kind, name])
            .map_err(|error| error.to_string())
    }

    /// Waits until a database runs with all its instances.
    pub(crate) fn wait_for(&self, namespace: &str, name: &str) -> Value {
        eventually(&format!("database {name}"), PATIENCE, || {
            let found = self.get(namespace, "pg", name)?;
            let status = &found["status"];
            let replicas = found["spec"]["replicas"].as_i64().unwrap_or(1);
            if status["phase"] == "Running" && status["readyReplicas"] == replicas {
                Ok(found)
            } else {
                Err(format!("{} {}", status["phase"], status["reason"]))
            }
        })
    }

    /// Waits until a Snapshot is over, and insists that it is well.
    pub(crate) fn wait_for_snapshot(&self, namespace: &str, name: &str) {
        eventually(&format!("Snapshot {name}"), PATIENCE, || {
            let found = self.get(namespace, "snap", name)?;
            match found["status"]["phase"].as_str() {
                Some("Succeeded") => Ok(()),
                other => Err(format!("{other:?} {}", found["status"]["reason"])),
            }
        });
    }

    /// The one Snapshot that a schedule made at once.
    pub(crate) fn first_snapshot(&self, namespace: &str, database: &str) -> String {
        let selector = format!("kubedb.com/kind=Postgres,kubedb.com/name={database}");
        eventually("the first Snapshot", PATIENCE, || {
            let found = self
                .kubectl
                .get(&["-n", namespace, "snap", "-l", &selector]);
            let found = found.map_err(|error| error.to_string())?;
            let name = found["items"][0]["metadata"]["name"].as_str();
            name.map(str::to_owned).ok_or_else(|| "none".to_owned())
        })
    }

    /// Asks a database from within a pod, through a Service or a pod's own name.
    pub(crate) fn sql(
        &self,
        namespace: &str,
        database: &str,
        host: &str,
        query: &str,
    ) -> Result<String, String> {
        let secret = self.get(namespace, "secret", &format!("{database}-auth"))?;
        let encoded = secret["data"]["POSTGRES_PASSWORD"]
            .as_str()
            .unwrap_or_default();
        let script = format!(
            "export PGPASSWORD=$(printf %s {encoded} | base64 -d) PGCONNECT_TIMEOUT=5; exec psql -h {host} -U postgres -AtX -v ON_ERROR_STOP=1 -c \"$1\""
        );
        let pod = format!("{database}-0");
        let words = [
            "-n", namespace, "exec", &pod, "-c", "postgres", "--", "bash", "-c", &script, "sql",
            query,
        ];
        let printed = self.kubectl.run(&words);
        printed
            .map(|text| text.trim().to_owned())
            .map_err(|error| error.to_string())
    }

    /// Asks until it is answered: after a fault a Service takes a moment to lead again.
    pub(crate) fn answer(&self, namespace: &str, database: &str, query: &str) -> String {
        let host = format!("{database}.{namespace}.svc");
        eventually("an answer of the database", PATIENCE, || {
            self.sql(namespace, database, &host, query)
        })
    }
}

/// The cluster with kubedb in it, the port at which its store is to be, and the right to do anything to it.
pub(crate) fn begin() -> Option<(Cluster, u16, MutexGuard<'static, ()>)> {
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let cluster = Cluster::of_tests()?;
    let port = *INSTALLED.get_or_init(|| install(&cluster));
    Some((cluster, port, alone))
}

/// Makes a namespace in which every pod must do without privileges, with the Secret of the guides.
pub(crate) fn namespace(kubectl: &Kubectl, name: &str) -> String {
    let name = format!("{name}-{}", std::process::id());
    let namespace = json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": { "name": name, "labels": { "pod-security.kubernetes.io/enforce": "restricted" } },
    });
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "gcs-secret", "namespace": name },
        "stringData": { "GOOGLE_PROJECT_ID": "p", "GOOGLE_SERVICE_ACCOUNT_JSON_KEY": "{\"type\": \"service_account\"}" },
    });
    kubectl.apply(&[namespace]).unwrap();
    kubectl.apply(&[secret]).unwrap();
    name
}

/// Where the store keeps what it has, from test to test.
pub(crate) fn objects() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("product-gcs")
}

fn kubedb(cluster: &Cluster, arguments: &[&str], stdin: &str) -> Ran {
    run(&mut command(cluster, arguments), stdin).unwrap()
}

/// A command of kubedb's to the cluster.
pub(crate) fn command(cluster: &Cluster, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command
        .args(arguments)
        .env("KUBECONFIG", cluster.kubeconfig())
        .env_remove("STORAGE_EMULATOR_HOST");
    command
}

/// Installs kubedb as a platform engineer does, with a store of the tests' in the place of Google's. Returns the port of that.
fn install(cluster: &Cluster) -> u16 {
    let _ = fs::remove_dir_all(objects());
    fs::create_dir_all(objects().join("kubedb")).unwrap();
    let port = free_port().unwrap();
    let said = kubedb(cluster, &["install"], "");
    assert_eq!(said.code, 0, "{}", said.stderr);
    let address = format!("http://{}:{port}", cluster.host());
    let store = format!("STORAGE_EMULATOR_HOST={address}");
    let operator = "deployment/kubedb-operator";
    for words in [
        &["set", "env", operator, &store][..],
        &["rollout", "status", operator, "--timeout=120s"],
    ] {
        let arguments = [&["-n", SYSTEM], words].concat();
        cluster.kubectl().run(&arguments).unwrap();
    }
    // Who leads until then knows nothing of the store, and makes databases that do not either.
    eventually("an operator that knows the store", PATIENCE, || {
        let get = |words: &[&str]| {
            let found = cluster.kubectl().get(&[&["-n", SYSTEM], words].concat());
            found.map_err(|error| error.to_string())
        };
        let pods = get(&["pods"])?["items"].take();
        let pods = pods.as_array().cloned().unwrap_or_default();
        let lease = get(&["lease", "kubedb-operator"])?;
        let leads = |pod: &Value| pod["metadata"]["name"] == lease["spec"]["holderIdentity"];
        let knows = |pod: &Value| pod["spec"].to_string().contains(&address);
        if pods.iter().all(knows) && pods.iter().any(leads) {
            Ok(())
        } else {
            Err(lease["spec"].to_string())
        }
    });
    port
}

fn walk(folder: &std::path::Path) -> usize {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| {
            if entry.path().is_dir() {
                walk(&entry.path())
            } else {
                1
            }
        })
        .sum()
}
