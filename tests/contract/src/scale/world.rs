//! A kube-apiserver on which kubedb is installed, that writes down what an operator changes, and nodes whose kubelets are a kwok.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use k8s_openapi::api::core::v1::{Namespace, Node, Secret};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use kubedb_cluster::{
    loopback::{Beside, ControlPlane, Lifetime},
    tools::tools,
};
use serde::{Deserialize as _, de::DeserializeOwned};
use serde_json::{Value, json};

use super::Failure;
use crate::deploy;

const OPERATOR: &str = "system:serviceaccount:kubedb:kubedb-operator";
const OPERATOR_TOKEN: &str = "operator-of-the-bench";
/// Namespaces that databases are in.
pub(super) const NAMESPACES: usize = 10;
/// Where Snapshots lie, and who may write there.
pub(super) const BUCKETS: usize = 10;
pub(super) const SECRET: &str = "bucket";
/// The node of all pods.
pub(super) const NODE: &str = "kwok";
/// A kind is served a moment after it was defined.
const ATTEMPTS: usize = 100;
const PAUSE: Duration = Duration::from_millis(100);

/// The control plane. It ends with this value.
pub(super) struct World {
    pub(super) client: Client,
    /// For the operator.
    pub(super) kubeconfig: PathBuf,
    /// What an installation sets for it.
    pub(super) environment: BTreeMap<String, String>,
    pub(super) folder: PathBuf,
    _plane: ControlPlane,
}

/// Writes of the operator, by what they are to: `patch snapshots/status`.
pub(super) type Writes = BTreeMap<String, usize>;

/// How many there are of all, but for Leases: those are how operators agree who leads.
pub(super) fn count(writes: &Writes) -> usize {
    let of_others = writes.iter().filter(|(what, _)| !what.ends_with(" leases"));
    of_others.map(|(_, count)| count).sum()
}

impl World {
    pub(super) async fn start(folder: &Path) -> Result<Self, Failure> {
        let policy = folder.join("audit-policy.yaml");
        fs::write(&policy, audit_policy().to_string())?;
        let beside = Beside {
            users: vec![format!(
                "{OPERATOR_TOKEN},{OPERATOR},operator,\"system:serviceaccounts,system:serviceaccounts:kubedb\""
            )],
            apiserver: vec![
                format!("--audit-policy-file={}", policy.display()),
                format!("--audit-log-path={}", audit_log(folder).display()),
                // In one file, however long.
                "--audit-log-maxsize=4096".to_owned(),
                // Each database has Services.
                "--service-cluster-ip-range=10.0.0.0/16".to_owned(),
            ],
        };
        let mut plane = ControlPlane::start_with(folder, Lifetime::OfStarter, &beside)?;
        install(&plane.kubeconfig)?;
        plane.start_kwok(Lifetime::OfStarter)?;
        let client = crate::engine::client_of(&plane.kubeconfig).await?;
        let kubeconfig = plane.kubeconfig_of("operator-kubeconfig", OPERATOR_TOKEN)?;
        let world = Self {
            client,
            kubeconfig,
            environment: environment()?,
            folder: folder.to_owned(),
            _plane: plane,
        };
        world.furnish().await?;
        Ok(world)
    }

    /// A node, namespaces, and what opens the stores.
    async fn furnish(&self) -> Result<(), Failure> {
        let limits = json!({ "cpu": "4000", "memory": "40Ti", "pods": "100000" });
        let node: Node = parsed(json!({
            "metadata": { "name": NODE, "annotations": { "kwok.x-k8s.io/node": "fake" } },
            "status": { "allocatable": limits, "capacity": limits },
        }))?;
        let nodes: Api<Node> = Api::all(self.client.clone());
        nodes.create(&PostParams::default(), &node).await?;
        for number in 0..NAMESPACES {
            let name = namespace(number);
            let made: Namespace = parsed(json!({ "metadata": { "name": name } }))?;
            let namespaces: Api<Namespace> = Api::all(self.client.clone());
            namespaces.create(&PostParams::default(), &made).await?;
            let secret: Secret = parsed(json!({
                "metadata": { "name": SECRET },
                "stringData": { "AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing" },
            }))?;
            let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &name);
            secrets.create(&PostParams::default(), &secret).await?;
        }
        Ok(())
    }

    /// What the operator has written since it was installed.
    pub(super) fn writes(&self) -> Result<Writes, Failure> {
        let path = audit_log(&self.folder);
        // Nothing was written where it is not there yet.
        let text = fs::read_to_string(path).unwrap_or_default();
        let mut writes = Writes::new();
        // The last line may be half written.
        for line in text
            .split_inclusive('\n')
            .filter(|line| line.ends_with('\n'))
        {
            let event: Value = serde_json::from_str(line)?;
            let said = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let object = &event["objectRef"];
            let mut what = format!("{} {}", said(&event["verb"]), said(&object["resource"]));
            if let Some(part) = object["subresource"].as_str() {
                what += &format!("/{part}");
            }
            *writes.entry(what).or_default() += 1;
        }
        Ok(writes)
    }
}

/// What was written after `before`.
pub(super) fn since(before: &Writes, after: &Writes) -> Writes {
    let more = |(what, count): (&String, &usize)| {
        let more = count - before.get(what).copied().unwrap_or(0);
        (more > 0).then(|| (what.clone(), more))
    };
    after.iter().filter_map(more).collect()
}

pub(super) fn namespace(number: usize) -> String {
    format!("scale-{}", number % NAMESPACES)
}

/// Merges a patch into a status.
pub(super) async fn patch_status<K>(
    api: &Api<K>,
    name: &str,
    status: Value,
) -> Result<K, kube::Error>
where
    K: Clone + DeserializeOwned + std::fmt::Debug,
{
    let patch = Patch::Merge(json!({ "status": status }));
    api.patch_status(name, &PatchParams::default(), &patch)
        .await
}

pub(super) fn parsed<T: DeserializeOwned>(value: Value) -> Result<T, Failure> {
    Ok(serde_json::from_value(value)?)
}

fn audit_log(folder: &Path) -> PathBuf {
    folder.join("audit.log")
}

fn audit_policy() -> Value {
    json!({
        "apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"],
        "rules": [
            { "level": "Metadata", "users": [OPERATOR], "verbs": ["create", "update", "patch", "delete", "deletecollection"] },
            { "level": "None" },
        ],
    })
}

/// The variables that the installed operator has, but for those that name its pod.
fn environment() -> Result<BTreeMap<String, String>, Failure> {
    let text = fs::read_to_string(deploy("operator.yaml"))?;
    let mut found = BTreeMap::new();
    for document in serde_yaml_ng::Deserializer::from_str(&text) {
        let object = Value::deserialize(document)?;
        let containers = &object["spec"]["template"]["spec"]["containers"];
        for variable in containers[0]["env"].as_array().into_iter().flatten() {
            if let (Some(name), Some(value)) =
                (variable["name"].as_str(), variable["value"].as_str())
            {
                found.insert(name.to_owned(), value.to_owned());
            }
        }
    }
    Ok(found)
}

/// What an installation consists of, but for the operator's own pod and what asks it before objects are stored.
fn install(kubeconfig: &Path) -> Result<(), Failure> {
    for part in [
        "namespace.yaml",
        "crds",
        "access.yaml",
        "catalogue/versions.yaml",
    ] {
        let mut attempt = 1;
        loop {
            let applied = Command::new(tools().join("kubectl"))
                .args(["apply", "--server-side", "-f"])
                .arg(deploy(part))
                .env("KUBECONFIG", kubeconfig)
                .output()?;
            if applied.status.success() {
                break;
            }
            if attempt == ATTEMPTS {
                let said = String::from_utf8_lossy(&applied.stderr).into_owned();
                return Err(format!("failed to install {part}: {said}").into());
            }
            attempt += 1;
            std::thread::sleep(PAUSE);
        }
    }
    Ok(())
}
