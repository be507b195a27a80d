//! A real kube-apiserver with etcd and the two controllers that the contract needs, on loopback.

use std::{
    fs::{self, File},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use kubedb_e2e::process::signal;
use serde_json::json;

use crate::certificates;

/// The user that may do everything.
pub const ADMIN_TOKEN: &str = "admin-of-the-contract";
/// A user who may do what an agent of ours may; see `engine`.
pub const AGENT_TOKEN: &str = "agent-of-the-contract";

/// Etcd has one client and one disk that nobody flushes: it is ready in a second on an idle machine.
const READY: Duration = Duration::from_secs(90);
/// kube-apiserver ends its watches before it ends.
const END: Duration = Duration::from_secs(20);
/// Somebody may take a port between our look and the server's bind.
const ATTEMPTS: usize = 3;

const APISERVER: &str = "kube-apiserver";

/// Why there is no control plane.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// It is not installed.
    #[error("failed to find {0}: run cargo xtask apiserver install")]
    Missing(String),
    /// A file.
    #[error("failed to write {what}")]
    Prepare {
        /// Which.
        what: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A certificate.
    #[error("failed to make certificates")]
    Certificates(#[from] rcgen::Error),
    /// A process.
    #[error("failed to start {program}")]
    Start {
        /// Which.
        program: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It ended or did not answer.
    #[error("failed to reach {program}: {why}; the end of its log:\n{log}")]
    NotReady {
        /// Which.
        program: &'static str,
        /// What happened.
        why: String,
        /// Last lines.
        log: String,
    },
}

/// Whether the processes end with the one that starts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// Also when that one is killed.
    OfStarter,
    /// They are ended by `down`.
    UntilDown,
}

/// A running control plane; ends on drop, unless it was detached.
#[derive(Debug)]
pub struct ControlPlane {
    /// Files, logs, certificates.
    pub folder: PathBuf,
    /// For kubectl and `kube::Client`.
    pub kubeconfig: PathBuf,
    /// For `kube::Client`, which can speak to etcd's gateway too.
    pub etcd_kubeconfig: PathBuf,
    apiserver: Vec<String>,
    /// In the order they were started.
    children: Vec<(&'static str, Child)>,
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        while let Some((_, mut child)) = self.children.pop() {
            end(&mut child);
        }
    }
}

/// The folder of the tests' programs.
#[must_use]
pub fn tools() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").map_or_else(
        || {
            let home = std::env::var_os("HOME").map(PathBuf::from);
            home.unwrap_or_default().join(".cache")
        },
        PathBuf::from,
    );
    cache.join("kubedb-test/bin")
}

fn program(name: &str) -> Result<PathBuf, StartError> {
    let path = tools().join(name);
    if path.exists() {
        Ok(path)
    } else {
        Err(StartError::Missing(name.to_owned()))
    }
}

impl ControlPlane {
    /// Starts everything and waits until kube-apiserver is ready.
    ///
    /// # Errors
    /// When something is not installed, or does not become ready.
    pub fn start(folder: &Path, lifetime: Lifetime) -> Result<Self, StartError> {
        let mut attempt = 1;
        loop {
            match Self::try_start(folder, lifetime) {
                Err(StartError::NotReady { .. }) if attempt < ATTEMPTS => attempt += 1,
                outcome => return outcome,
            }
        }
    }

    fn try_start(folder: &Path, lifetime: Lifetime) -> Result<Self, StartError> {
        // Of an attempt before.
        let _ = fs::remove_dir_all(folder.join("etcd"));
        certificates::write(folder)?;
        let tokens = format!(
            "{ADMIN_TOKEN},admin,admin,system:masters\n{AGENT_TOKEN},kubedb:agent:agents:pg-0,agent\n"
        );
        write(folder, "tokens.csv", &tokens)?;
        let (etcd_port, api_port) = (free_port("etcd")?, free_port("kube-apiserver")?);
        write(
            folder,
            "kubeconfig",
            &kubeconfig_text(folder, api_port, &json!({"token": ADMIN_TOKEN})),
        )?;
        let certificate = json!({"client-certificate": folder.join("tls.crt"), "client-key": folder.join("tls.key")});
        write(
            folder,
            "etcd-kubeconfig",
            &kubeconfig_text(folder, etcd_port, &certificate),
        )?;
        let mut plane = Self {
            folder: folder.to_path_buf(),
            kubeconfig: folder.join("kubeconfig"),
            etcd_kubeconfig: folder.join("etcd-kubeconfig"),
            apiserver: apiserver_arguments(folder, etcd_port, api_port),
            children: Vec::new(),
        };
        plane.spawn("etcd", &etcd_arguments(folder, etcd_port)?, lifetime)?;
        plane.start_apiserver(lifetime)?;
        Ok(plane)
    }

    fn start_apiserver(&mut self, lifetime: Lifetime) -> Result<(), StartError> {
        let arguments = self.apiserver.clone();
        self.spawn(APISERVER, &arguments, lifetime)?;
        self.wait_until_ready()
    }

    /// Ends kube-apiserver and starts it again, at the same address and without anything it remembers.
    ///
    /// # Errors
    /// When it does not become ready again.
    pub fn restart_apiserver(&mut self, lifetime: Lifetime) -> Result<(), StartError> {
        while let Some(place) = self
            .children
            .iter()
            .position(|(name, _)| *name == APISERVER)
        {
            end(&mut self.children.remove(place).1);
        }
        self.start_apiserver(lifetime)
    }

    /// Starts the controllers that empty namespaces and collect what nobody owns. They learn of kinds when they start
    /// and every half minute then: definitions should be in place before.
    ///
    /// # Errors
    /// When the program does not start.
    pub fn start_controllers(&mut self, lifetime: Lifetime) -> Result<(), StartError> {
        let arguments = [
            format!("--kubeconfig={}", self.kubeconfig.display()),
            "--controllers=namespace-controller,garbage-collector-controller".to_owned(),
            "--leader-elect=false".to_owned(),
            "--bind-address=127.0.0.1".to_owned(),
            format!("--secure-port={}", free_port("kube-controller-manager")?),
            format!("--cert-dir={}", self.folder.join("controllers").display()),
        ];
        self.spawn("kube-controller-manager", &arguments, lifetime)
    }

    /// Process ids, in the order of starting.
    #[must_use]
    pub fn processes(&self) -> Vec<(&'static str, u32)> {
        self.children
            .iter()
            .map(|(name, child)| (*name, child.id()))
            .collect()
    }

    /// Lets the processes live on.
    pub fn detach(mut self) {
        self.children.clear();
    }

    fn spawn(
        &mut self,
        name: &'static str,
        arguments: &[String],
        lifetime: Lifetime,
    ) -> Result<(), StartError> {
        let path = program(name)?;
        let failed = |source| StartError::Start {
            program: name,
            source,
        };
        let log = File::create(self.log(name)).map_err(failed)?;
        let errors = log.try_clone().map_err(failed)?;
        let mut command = match lifetime {
            Lifetime::UntilDown => Command::new(path),
            Lifetime::OfStarter => {
                let mut command = Command::new("setpriv");
                command.args(["--pdeathsig", "KILL", "--"]).arg(path);
                command
            }
        };
        // etcd reads variables of its own, and a proxy has no place on loopback.
        let child = command
            .args(arguments)
            .env_clear()
            .env("HOME", &self.folder)
            .env("PATH", "/usr/bin:/bin")
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .spawn()
            .map_err(failed)?;
        self.children.push((name, child));
        Ok(())
    }

    fn log(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.log"))
    }

    /// Asks with kubectl, which the same binary is: this crate's client is asynchronous, and this is not.
    fn wait_until_ready(&mut self) -> Result<(), StartError> {
        let kubectl = program("kubectl")?;
        let end = Instant::now() + READY;
        loop {
            let ended = self
                .children
                .iter_mut()
                .find_map(|(name, child)| Some((*name, child.try_wait().ok()??)));
            if let Some((name, status)) = ended {
                return Err(self.not_ready_text(name, format!("it ended with {status}")));
            }
            let asked = Command::new(&kubectl)
                .args(["get", "--raw", "/readyz", "--request-timeout=2s"])
                .env("KUBECONFIG", &self.kubeconfig)
                .stdin(Stdio::null())
                .output();
            if asked.is_ok_and(|output| output.status.success()) {
                return Ok(());
            }
            if Instant::now() > end {
                let why = format!("not ready within {READY:?}");
                return Err(self.not_ready_text(APISERVER, why));
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    fn not_ready_text(&self, program: &'static str, why: String) -> StartError {
        let text = fs::read_to_string(self.log(program)).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        StartError::NotReady {
            program,
            why,
            log: lines[lines.len().saturating_sub(15)..].join("\n"),
        }
    }
}

/// SIGTERM, then patience, then SIGKILL.
fn end(child: &mut Child) {
    signal(child.id(), 15);
    let limit = Instant::now() + END;
    while Instant::now() < limit {
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        thread::sleep(Duration::from_millis(20));
    }
    let _ = child.kill();
    let _ = child.wait();
}

fn write(folder: &Path, name: &'static str, text: &str) -> Result<(), StartError> {
    fs::write(folder.join(name), text).map_err(|source| StartError::Prepare { what: name, source })
}

fn free_port(program: &'static str) -> Result<u16, StartError> {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(|source| StartError::Start { program, source })
}

fn etcd_arguments(folder: &Path, port: u16) -> Result<Vec<String>, StartError> {
    let file = |name: &str| folder.join(name).display().to_string();
    let peers = format!("https://127.0.0.1:{}", free_port("etcd")?);
    let clients = format!("https://127.0.0.1:{port}");
    Ok(vec![
        format!("--data-dir={}", file("etcd")),
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
        // Nothing of it outlives the run.
        "--unsafe-no-fsync".to_owned(),
        "--log-level=warn".to_owned(),
    ])
}

fn apiserver_arguments(folder: &Path, etcd: u16, port: u16) -> Vec<String> {
    let file = |name: &str| folder.join(name).display().to_string();
    vec![
        "--bind-address=127.0.0.1".to_owned(),
        format!("--secure-port={port}"),
        "--advertise-address=127.0.0.1".to_owned(),
        // Loopback is no address for a Service's endpoints, and nobody asks for them.
        "--endpoint-reconciler-type=none".to_owned(),
        format!("--etcd-servers=https://127.0.0.1:{etcd}"),
        format!("--etcd-cafile={}", file("ca.crt")),
        format!("--etcd-certfile={}", file("tls.crt")),
        format!("--etcd-keyfile={}", file("tls.key")),
        format!("--tls-cert-file={}", file("tls.crt")),
        format!("--tls-private-key-file={}", file("tls.key")),
        format!("--client-ca-file={}", file("ca.crt")),
        format!("--token-auth-file={}", file("tokens.csv")),
        "--anonymous-auth=false".to_owned(),
        "--authorization-mode=RBAC".to_owned(),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        format!("--service-account-key-file={}", file("sa.pub")),
        format!("--service-account-signing-key-file={}", file("sa.key")),
        "--disable-admission-plugins=ServiceAccount".to_owned(),
        "--service-cluster-ip-range=10.0.0.0/24".to_owned(),
        format!("--cert-dir={}", file("apiserver")),
    ]
}

fn kubeconfig_text(folder: &Path, port: u16, user: &serde_json::Value) -> String {
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "contract",
        "clusters": [{"name": "contract", "cluster": {
            "server": format!("https://127.0.0.1:{port}"), "certificate-authority": folder.join("ca.crt"),
        }}],
        "users": [{"name": "admin", "user": user}],
        "contexts": [{"name": "contract", "context": {"cluster": "contract", "user": "admin", "namespace": "default"}}],
    })
    .to_string()
}
