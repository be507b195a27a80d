//! A server over TLS, and kubectl to reach it. Without kubectl in PATH or in the test cache its users fail, and say so.

// Each test program uses a part of it.
#![allow(dead_code, unreachable_pub)]

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use kubedb_server::{ApiServer, Serving};
use tokio_util::sync::CancellationToken;

pub struct World {
    pub server: ApiServer,
    pub serving: Serving,
    pub shutdown: CancellationToken,
    pub folder: tempfile::TempDir,
}

pub async fn world() -> World {
    // A build of the whole workspace holds two providers of cryptography, and kube's client asks for a choice.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let folder = tempfile::tempdir().unwrap();
    let server = ApiServer::open(&folder.path().join("kubedb.sqlite")).unwrap();
    let shutdown = CancellationToken::new();
    let listen: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let serving = server
        .serve(listen, folder.path(), shutdown.clone())
        .await
        .unwrap();
    World {
        server,
        serving,
        shutdown,
        folder,
    }
}

/// `KUBEDB_TEST_KUBECTL` names another kubectl, to try other versions.
pub fn program() -> PathBuf {
    if let Some(named) = std::env::var_os("KUBEDB_TEST_KUBECTL") {
        return PathBuf::from(named);
    }
    let home = std::env::var_os("HOME")
        .map(PathBuf::from)
        .unwrap_or_default();
    let cached = home.join(".cache/kubedb-test/bin/kubectl");
    if cached.exists() {
        return cached;
    }
    PathBuf::from("kubectl")
}

impl World {
    pub fn run(&self, arguments: &[&str], input: &str) -> Output {
        let mut child = Command::new(program())
            .args(arguments)
            .env("KUBECONFIG", &self.serving.kubeconfig)
            .env("KUBECACHEDIR", self.folder.path().join("cache"))
            .env("HOME", self.folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kubectl must be installed for this test");
        child
            .stdin
            .take()
            .unwrap()
            .write_all(input.as_bytes())
            .unwrap();
        child.wait_with_output().unwrap()
    }

    /// Standard output of a command that must succeed.
    pub fn kubectl(&self, arguments: &[&str]) -> String {
        self.kubectl_with(arguments, "")
    }

    pub fn kubectl_with(&self, arguments: &[&str], input: &str) -> String {
        let output = self.run(arguments, input);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "kubectl {arguments:?}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Standard error of a command that must fail.
    pub fn refused(&self, arguments: &[&str], input: &str) -> String {
        let output = self.run(arguments, input);
        assert!(
            !output.status.success(),
            "kubectl {arguments:?} must be refused"
        );
        String::from_utf8(output.stderr).unwrap()
    }
}

pub const POSTGRES: &str = r#"
apiVersion: kubedb.com/v1alpha1
kind: Postgres
metadata:
  name: script-postgres
  namespace: demo
spec:
  version: 9.6
  replicas: 1
  storage:
    storageClassName: "standard"
    accessModes:
    - ReadWriteOnce
    resources:
      requests:
        storage: 50Mi
"#;
