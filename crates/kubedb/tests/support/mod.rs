//! A real API server for one test, and the real binary beside it.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::{
    io::Write as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use kubedb_server::ApiServer;
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio_util::sync::{CancellationToken, DropGuard};

/// What a command printed and how it ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub stdout: String,
    pub stderr: String,
    pub code: Option<i32>,
}

/// The server. It ends with this value.
pub(crate) struct Server {
    pub kubeconfig: PathBuf,
    pub folder: TempDir,
    client: Client,
    _stop: DropGuard,
    runtime: Runtime,
}

impl Server {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let stop = CancellationToken::new();
        let (server, serving) = runtime.block_on(async {
            let server = ApiServer::open(&folder.path().join("state.sqlite")).unwrap();
            let listen = "127.0.0.1:0".parse().unwrap();
            let api = folder.path().join("api");
            std::fs::create_dir(&api).unwrap();
            let serving = server.serve(listen, &api, stop.clone()).await.unwrap();
            (server, serving)
        });
        let client = runtime.block_on(async { server.client() });
        Self {
            kubeconfig: serving.kubeconfig,
            folder,
            client,
            _stop: stop.drop_guard(),
            runtime,
        }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kubedb"));
        command
            .args(arguments)
            .env("KUBECONFIG", &self.kubeconfig)
            .env("TZ", "UTC")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Starts the binary and does not wait for its end.
    pub(crate) fn start_kubedb(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Child {
        let mut command = self.command(arguments);
        command.envs(environment.iter().copied()).spawn().unwrap()
    }

    pub(crate) fn kubedb(&self, arguments: &[&str]) -> Ran {
        self.kubedb_with(arguments, "", &[])
    }

    /// With standard input and more environment.
    pub(crate) fn kubedb_with(
        &self,
        arguments: &[&str],
        input: &str,
        environment: &[(&str, &str)],
    ) -> Ran {
        let mut child = self.start_kubedb(arguments, environment);
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let output = child.wait_with_output().unwrap();
        Ran {
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
            code: output.status.code(),
        }
    }

    /// Creates what the text says; the test goes on only when all of it was created.
    pub(crate) fn create(&self, manifests: &str) {
        let ran = self.kubedb_with(&["create", "-f", "-"], manifests, &[]);
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    }

    /// Plays the operator: sets the status of an object in `demo`.
    pub(crate) fn set_status<K>(&self, name: &str, status: &Value)
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + serde::de::DeserializeOwned,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), "demo");
        let patch = Patch::Merge(serde_json::json!({ "status": status }));
        let patched =
            self.runtime
                .block_on(api.patch_status(name, &PatchParams::default(), &patch));
        patched.unwrap();
    }

    /// Sends an object of kubedb as it is, and gives the body of the answer.
    pub(crate) fn post(&self, plural: &str, object: &Value) -> Value {
        // Another test of this process may have chosen already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        self.runtime.block_on(async {
            let kubeconfig = kube::config::Kubeconfig::read_from(&self.kubeconfig).unwrap();
            let options = kube::config::KubeConfigOptions::default();
            let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await;
            let client = Client::try_from(config.unwrap()).unwrap();
            let path = format!("/apis/kubedb.com/v1alpha1/namespaces/demo/{plural}");
            let body = object.to_string().into_bytes();
            let mut request = kube::core::Request::new(path)
                .create(&kube::api::PostParams::default(), body)
                .unwrap();
            let uri = request.uri().to_string();
            let uri = format!("{}?fieldValidation=Strict", uri.trim_end_matches('?'));
            *request.uri_mut() = uri.parse().unwrap();
            match client.request::<Value>(request).await {
                Ok(object) => object,
                Err(kube::Error::Api(status)) => serde_json::to_value(status).unwrap(),
                Err(error) => panic!("{error}"),
            }
        })
    }

    /// Databases and Snapshots that there are, with their versions.
    pub(crate) fn objects(&self) -> Vec<String> {
        let mut all = Vec::new();
        for kinds in ["pg", "snap"] {
            let ran = self.kubedb(&["get", kinds, "-A", "-o", "json"]);
            let list: Value = serde_json::from_str(&ran.stdout).unwrap();
            let items = list["items"].as_array().unwrap();
            all.extend(items.iter().map(Value::to_string));
        }
        all
    }

    /// Changes an object in `demo` behind the command's back.
    pub(crate) fn patch_postgres(&self, name: &str, patch: &Value) {
        let api: Api<kubedb_api::Postgres> = Api::namespaced(self.client.clone(), "demo");
        let patch = Patch::Merge(patch);
        self.runtime
            .block_on(api.patch(name, &PatchParams::default(), &patch))
            .unwrap();
    }
}

/// The guide's namespace, Secret and database.
pub(crate) const GUIDE: &str = include_str!("guide.yaml");

/// Waits for a condition, with a limit.
pub(crate) fn wait_until(condition: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < until, "waited too long");
        std::thread::sleep(Duration::from_millis(20));
    }
}
