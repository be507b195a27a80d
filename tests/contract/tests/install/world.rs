//! A kube-apiserver, and the real programs against it.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use kubedb_cluster::{
    StartError,
    loopback::{ControlPlane, Lifetime},
    tools::tools,
};
use kubedb_e2e::kubedb;
use kubedb_operator::webhook;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

/// The operator's account.
pub(crate) const OPERATOR: &str = "system:serviceaccount:kubedb:kubedb-operator";
/// Longest time for anything that is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a program printed and how it ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) code: i32,
}

impl From<kubedb::Ran> for Ran {
    fn from(ran: kubedb::Ran) -> Self {
        let kubedb::Ran {
            stdout,
            stderr,
            code,
        } = ran;
        Self {
            stdout,
            stderr,
            code,
        }
    }
}

impl Ran {
    pub(crate) fn lines(&self) -> Vec<&str> {
        self.stdout.lines().collect()
    }

    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{}\n{}", self.stdout, self.stderr);
        self
    }
}

/// Runs a program with standard input.
pub(crate) fn run(program: &Path, arguments: &[&str], kubeconfig: &Path, input: &str) -> Ran {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env("KUBECONFIG", kubeconfig)
        .env("HOME", kubeconfig.parent().unwrap());
    kubedb::run(&mut command, input).unwrap().into()
}

/// A control plane. It ends with this value, or with the thread that started it.
pub(crate) struct World {
    pub(crate) runtime: Runtime,
    pub(crate) kubeconfig: PathBuf,
    pub(crate) client: Client,
    plane: ControlPlane,
    folder: tempfile::TempDir,
}

impl World {
    /// `None`, said loudly, where kube-apiserver is not installed and nobody insists.
    pub(crate) fn start() -> Option<Self> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        let plane = match ControlPlane::start(folder.path(), Lifetime::OfStarter) {
            Err(error @ StartError::Missing { .. })
                if std::env::var_os("KUBEDB_CONTRACT_BOTH").is_none() =>
            {
                say(&format!(
                    "NOTHING IS TRIED ON A REAL kube-apiserver: {error}"
                ));
                return None;
            }
            other => other.unwrap(),
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(4)
            .enable_all()
            .build()
            .unwrap();
        let kubeconfig = plane.kubeconfig.clone();
        let client = runtime.block_on(client(&kubeconfig, None));
        Some(Self {
            runtime,
            kubeconfig,
            client,
            plane,
            folder,
        })
    }

    /// The controllers that empty namespaces and collect what nobody owns.
    pub(crate) fn start_controllers(&mut self) {
        self.plane.start_controllers(Lifetime::OfStarter).unwrap();
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn kubedb(&self, arguments: &[&str]) -> Ran {
        run(
            &kubedb_e2e::kubedb::binary(),
            arguments,
            &self.kubeconfig,
            "",
        )
    }

    pub(crate) fn kubectl(&self, arguments: &[&str]) -> Ran {
        self.kubectl_with(arguments, "")
    }

    pub(crate) fn kubectl_with(&self, arguments: &[&str], input: &str) -> Ran {
        run(&tools().join("kubectl"), arguments, &self.kubeconfig, input)
    }

    /// Installs as the guide does with kubectl, without an operator, and a namespace `demo`.
    pub(crate) fn install_with_kubectl(&self) {
        for folder in ["", "catalogue"] {
            let path = deploy(folder);
            // The catalogue's kind is served a moment after it was defined.
            wait("the manifests to be taken", || {
                let ran = self.kubectl(&["apply", "--server-side", "-k", &path]);
                ran.code == 0 || {
                    assert!(folder == "catalogue", "{}", ran.stderr);
                    false
                }
            });
        }
        self.kubectl(&["create", "namespace", "demo"]).ok();
    }

    /// A client that is somebody.
    pub(crate) fn client_as(&self, user: &str) -> Client {
        self.runtime.block_on(client(&self.kubeconfig, Some(user)))
    }

    pub(crate) fn call(&self, method: &str, path: &str, body: &Value) -> (StatusCode, Value) {
        self.runtime
            .block_on(call(&self.client, method, path, body))
    }

    pub(crate) fn get(&self, path: &str) -> (StatusCode, Value) {
        self.call("GET", path, &Value::Null)
    }

    /// A control plane on which kubedb is installed, and whose API server asks a webhook.
    pub(crate) fn start_with_webhook() -> Option<(Self, Hook)> {
        let world = Self::start()?;
        world.install_with_kubectl();
        let hook = world.serve_webhook(options());
        world.wait_until_it_answers();
        Some((world, hook))
    }

    /// Starts a webhook with the operator's rights, and leads the API server to it.
    pub(crate) fn serve_webhook(&self, options: webhook::Options) -> Hook {
        let hook = self.start_webhook(options);
        self.lead_to(hook.address);
        hook
    }

    /// Starts a webhook with the operator's rights.
    pub(crate) fn start_webhook(&self, options: webhook::Options) -> Hook {
        let hook = self.start_webhook_without_waiting(options);
        let serving = hook.serving.as_ref().unwrap();
        wait("a certificate", || serving.is_ready());
        hook
    }

    /// The same before the rights are there: it waits for them.
    pub(crate) fn start_webhook_without_waiting(&self, options: webhook::Options) -> Hook {
        let stop = CancellationToken::new();
        let client = self.client_as(OPERATOR);
        let started = webhook::start(client, options, stop.clone());
        let serving = self.runtime.block_on(started).unwrap();
        Hook {
            address: serving.address,
            stop,
            serving: Some(serving),
        }
    }

    /// The Service leads to this machine, since no pod stands behind it.
    pub(crate) fn lead_to(&self, address: SocketAddr) {
        let service = json!({"spec": {"type": "ExternalName", "externalName": "localhost", "selector": null, "clusterIP": null, "clusterIPs": null}});
        let patch = service.to_string();
        let port = address.port();
        self.kubectl(&[
            "-n",
            "kubedb",
            "patch",
            "service",
            "kubedb-webhook",
            "--type=merge",
            "-p",
            &patch,
        ])
        .ok();
        for (kind, name, ending) in [
            (
                "mutatingwebhookconfiguration",
                "mutators.kubedb.com",
                "mutators",
            ),
            (
                "validatingwebhookconfiguration",
                "validators.kubedb.com",
                "validators",
            ),
        ] {
            let hook = |singular: &str| json!({"name": format!("{singular}.{ending}.kubedb.com"), "clientConfig": {"service": {"port": port}}});
            let patch = json!({"webhooks": [hook("postgres"), hook("snapshot")]}).to_string();
            self.kubectl(&["patch", kind, name, "--type=strategic", "-p", &patch])
                .ok();
        }
    }

    /// Until a good database would be taken, with its defaults: kube-apiserver learns of configurations a moment later.
    pub(crate) fn wait_until_it_answers(&self) {
        let good = postgres("trial", &json!({"version": 9.6}));
        wait("the webhook to answer", || {
            let (code, answer) = self.call("POST", &format!("{POSTGRESES}?dryRun=All"), &good);
            code == StatusCode::CREATED && answer["spec"]["replicas"] == 1
        });
    }
}

/// A webhook at work.
pub(crate) struct Hook {
    pub(crate) address: SocketAddr,
    stop: CancellationToken,
    serving: Option<webhook::Serving>,
}

impl Hook {
    /// Ends it as a pod is ended.
    pub(crate) fn end(mut self, world: &World) {
        self.stop.cancel();
        if let Some(serving) = self.serving.take() {
            world.runtime.block_on(serving.ended());
        }
    }
}

pub(crate) const POSTGRESES: &str = "/apis/kubedb.com/v1alpha1/namespaces/demo/postgreses";
pub(crate) const SNAPSHOTS: &str = "/apis/kubedb.com/v1alpha1/namespaces/demo/snapshots";

pub(crate) fn postgres(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "kubedb.com/v1alpha1", "kind": "Postgres", "metadata": {"name": name, "namespace": "demo"}, "spec": spec})
}

pub(crate) fn snapshot(name: &str, database: &str) -> Value {
    json!({"apiVersion": "kubedb.com/v1alpha1", "kind": "Snapshot", "metadata": {"name": name, "namespace": "demo"},
        "spec": {"databaseName": database, "gcs": {"bucket": "b"}}})
}

/// A folder of `deploy/`.
pub(crate) fn deploy(folder: &str) -> String {
    kubedb_contract::deploy(folder).display().to_string()
}

/// As in a cluster, but on loopback.
pub(crate) fn options() -> webhook::Options {
    webhook::Options {
        listen: "127.0.0.1:0".parse().unwrap(),
        look_every: Duration::from_millis(200),
        ..webhook::Options::new("kubedb")
    }
}

async fn client(kubeconfig: &Path, user: Option<&str>) -> Client {
    let mut read = Kubeconfig::read_from(kubeconfig).unwrap();
    for named in &mut read.auth_infos {
        if let Some(info) = &mut named.auth_info {
            info.impersonate = user.map(str::to_owned);
        }
    }
    let all = KubeConfigOptions::default();
    let mut config = Config::from_custom_kubeconfig(read, &all).await.unwrap();
    config.default_retry = false;
    Client::try_from(config).unwrap()
}

/// One request; PATCH is a merge patch.
pub(crate) async fn call(
    client: &Client,
    method: &str,
    path: &str,
    body: &Value,
) -> (StatusCode, Value) {
    let media = match method {
        "PATCH" => "application/merge-patch+json",
        _ => "application/json",
    };
    let bytes = if body.is_null() {
        Vec::new()
    } else {
        body.to_string().into_bytes()
    };
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", media)
        .body(kube::client::Body::from(bytes))
        .unwrap();
    let response = client.send(request).await.unwrap();
    let code = response.status();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (code, serde_json::from_slice(&bytes).unwrap_or_default())
}

/// Waits for a condition, with a limit.
#[track_caller]
pub(crate) fn wait(what: &str, condition: impl Fn() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < until, "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[expect(clippy::print_stderr, reason = "what was not tried has to be said")]
fn say(line: &str) {
    eprintln!("{line}");
}
