//! The programs that `cargo xtask` has installed, and running them.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use kubedb_stores::net::cache;
use serde_json::{Value, json};

use crate::error::StartError;

/// The folder of the tests' programs.
#[must_use]
pub fn tools() -> PathBuf {
    cache("bin")
}

/// One of them.
pub(crate) fn program(name: &str) -> Result<PathBuf, StartError> {
    let path = tools().join(name);
    if path.exists() {
        Ok(path)
    } else {
        Err(StartError::Missing {
            what: name.to_owned(),
            command: "apiserver install",
        })
    }
}

/// Runs a command to its end, and returns what it printed.
pub(crate) fn run(command: &mut Command) -> Result<String, StartError> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|source| StartError::Start {
            program: command.get_program().to_string_lossy().into_owned(),
            source,
        })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(StartError::Refused {
        command: format!("{command:?}"),
        said: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}

/// A command that takes a while, and that ends with whoever waits for it.
pub(crate) fn mortal(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", program]);
    command
}

/// A kubeconfig for one user, who is `{"token": …}` or names a certificate.
pub(crate) fn kubeconfig(server: &str, authority: &Path, user: &Value) -> String {
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "tests",
        "clusters": [{"name": "tests", "cluster": {"server": server, "certificate-authority": authority}}],
        "users": [{"name": "user", "user": user}],
        "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": "user", "namespace": "default"}}],
    })
    .to_string()
}

/// What both kinds of control plane tell their etcd. Clients and peers show certificates of the authority in `folder`.
pub(crate) fn etcd_arguments(folder: &Path, data: &Path, clients: u16, peers: u16) -> Vec<String> {
    let file = |name: &str| folder.join(name).display().to_string();
    let (clients, peers) = (
        format!("https://127.0.0.1:{clients}"),
        format!("https://127.0.0.1:{peers}"),
    );
    vec![
        format!("--data-dir={}", data.display()),
        format!("--listen-client-urls={clients}"),
        format!("--advertise-client-urls={clients}"),
        format!("--listen-peer-urls={peers}"),
        format!("--initial-advertise-peer-urls={peers}"),
        format!("--initial-cluster=default={peers}"),
        format!("--cert-file={}", file("tls.crt")),
        format!("--key-file={}", file("tls.key")),
        format!("--trusted-ca-file={}", file("ca.crt")),
        "--client-cert-auth".to_owned(),
        format!("--peer-cert-file={}", file("tls.crt")),
        format!("--peer-key-file={}", file("tls.key")),
        format!("--peer-trusted-ca-file={}", file("ca.crt")),
        "--peer-client-cert-auth".to_owned(),
        // Nothing of it outlives the run, and what is killed is the process, not the machine.
        "--unsafe-no-fsync".to_owned(),
        "--log-level=warn".to_owned(),
    ]
}

/// What both kinds of control plane tell their kube-apiserver: where etcd is, and whose certificates and accounts count.
pub(crate) fn apiserver_arguments(folder: &Path, etcd: u16, port: u16) -> Vec<String> {
    let file = |name: &str| folder.join(name).display().to_string();
    vec![
        format!("--secure-port={port}"),
        format!("--etcd-servers=https://127.0.0.1:{etcd}"),
        format!("--etcd-cafile={}", file("ca.crt")),
        format!("--etcd-certfile={}", file("tls.crt")),
        format!("--etcd-keyfile={}", file("tls.key")),
        format!("--tls-cert-file={}", file("tls.crt")),
        format!("--tls-private-key-file={}", file("tls.key")),
        format!("--client-ca-file={}", file("ca.crt")),
        "--anonymous-auth=false".to_owned(),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        format!("--service-account-key-file={}", file("sa.pub")),
        format!("--service-account-signing-key-file={}", file("sa.key")),
        format!("--cert-dir={}", file("apiserver")),
    ]
}
