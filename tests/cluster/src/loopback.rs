//! A control plane alone: kube-apiserver with etcd, and the two controllers that the contract needs, on loopback.

use std::{
    fs::{self, File},
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use kubedb_stores::{
    net,
    process::{HelperError, signal},
};
use serde_json::{Value, json};

use crate::{
    certificates::{Authority, Holder},
    error::StartError,
    tools::{self, program},
};

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

/// Whether the processes end with the one that starts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// Also when that one is killed.
    OfStarter,
    /// They are ended by `down`.
    UntilDown,
}

/// What a control plane has beside what all of them have.
#[derive(Clone, Debug, Default)]
pub struct Beside {
    /// More users: lines of a token file, `token,user,uid,"group,group"`.
    pub users: Vec<String>,
    /// What else kube-apiserver is told.
    pub apiserver: Vec<String>,
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

impl ControlPlane {
    /// Starts everything and waits until kube-apiserver is ready.
    ///
    /// # Errors
    /// When something is not installed, or does not become ready.
    pub fn start(folder: &Path, lifetime: Lifetime) -> Result<Self, StartError> {
        Self::start_with(folder, lifetime, &Beside::default())
    }

    /// The same with more users and settings.
    ///
    /// # Errors
    /// When something is not installed, or does not become ready.
    pub fn start_with(
        folder: &Path,
        lifetime: Lifetime,
        beside: &Beside,
    ) -> Result<Self, StartError> {
        let mut attempt = 1;
        loop {
            match Self::try_start(folder, lifetime, beside) {
                Err(StartError::NotReady { .. }) if attempt < ATTEMPTS => attempt += 1,
                outcome => return outcome,
            }
        }
    }

    fn try_start(folder: &Path, lifetime: Lifetime, beside: &Beside) -> Result<Self, StartError> {
        // Of an attempt before.
        let _ = fs::remove_dir_all(folder.join("etcd"));
        write_certificates(folder)?;
        let mut tokens = format!(
            "{ADMIN_TOKEN},admin,admin,system:masters\n{AGENT_TOKEN},kubedb:agent:agents:pg-0,agent\n"
        );
        for user in &beside.users {
            tokens += &format!("{user}\n");
        }
        write(folder, "tokens.csv", &tokens)?;
        let (etcd_port, api_port) = (free_port()?, free_port()?);
        let certificate = json!({"client-certificate": folder.join("tls.crt"), "client-key": folder.join("tls.key")});
        for (name, port, user) in [
            ("kubeconfig", api_port, &json!({"token": ADMIN_TOKEN})),
            ("etcd-kubeconfig", etcd_port, &certificate),
        ] {
            write(folder, name, &kubeconfig(folder, port, user))?;
        }
        let mut plane = Self {
            folder: folder.to_path_buf(),
            kubeconfig: folder.join("kubeconfig"),
            etcd_kubeconfig: folder.join("etcd-kubeconfig"),
            apiserver: [
                apiserver_arguments(folder, etcd_port, api_port),
                beside.apiserver.clone(),
            ]
            .concat(),
            children: Vec::new(),
        };
        let etcd = tools::etcd_arguments(folder, &folder.join("etcd"), etcd_port, free_port()?);
        plane.spawn("etcd", &etcd, lifetime)?;
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
            format!("--secure-port={}", free_port()?),
            format!("--cert-dir={}", self.folder.join("controllers").display()),
        ];
        self.spawn("kube-controller-manager", &arguments, lifetime)
    }

    /// Starts a kwok, which plays the kubelets of all nodes: their pods run without anything that runs.
    ///
    /// # Errors
    /// When the program does not start.
    pub fn start_kwok(&mut self, lifetime: Lifetime) -> Result<(), StartError> {
        write(&self.folder, "stages.yaml", include_str!("stages.yaml"))?;
        let arguments = [
            format!("--kubeconfig={}", self.kubeconfig.display()),
            format!("--config={}", self.folder.join("stages.yaml").display()),
            "--manage-all-nodes=true".to_owned(),
            format!("--server-address=127.0.0.1:{}", free_port()?),
        ];
        self.spawn("kwok", &arguments, lifetime)
    }

    /// A kubeconfig for somebody of the token file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn kubeconfig_of(&self, name: &str, token: &str) -> Result<PathBuf, StartError> {
        let path = self.folder.join(name);
        let text = fs::read_to_string(&self.kubeconfig)
            .map_err(StartError::prepare(&self.kubeconfig))?
            .replace(ADMIN_TOKEN, token);
        fs::write(&path, text).map_err(StartError::prepare(&path))?;
        Ok(path)
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
            program: name.to_owned(),
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
                let why = format!("it ended with {status}");
                return Err(StartError::not_ready(name, why, &self.log(name)));
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
                return Err(StartError::not_ready(APISERVER, why, &self.log(APISERVER)));
            }
            thread::sleep(Duration::from_millis(100));
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

/// One certificate serves and calls.
fn write_certificates(folder: &Path) -> Result<(), StartError> {
    let holder = Holder {
        name: "localhost",
        group: None,
        names: &["localhost"],
        addresses: &[Ipv4Addr::LOCALHOST.into()],
    };
    Authority::write(folder, "kubedb-contract")?.issue(folder, "tls", holder)
}

fn write(folder: &Path, name: &str, text: &str) -> Result<(), StartError> {
    let path = folder.join(name);
    fs::write(&path, text).map_err(StartError::prepare(path))
}

fn free_port() -> Result<u16, StartError> {
    net::free_port().map_err(|error: HelperError| StartError::Unfit(error.to_string()))
}

fn kubeconfig(folder: &Path, port: u16, user: &Value) -> String {
    let server = format!("https://127.0.0.1:{port}");
    tools::kubeconfig(&server, &folder.join("ca.crt"), user)
}

fn apiserver_arguments(folder: &Path, etcd: u16, port: u16) -> Vec<String> {
    let mut arguments = tools::apiserver_arguments(folder, etcd, port);
    arguments.extend([
        "--bind-address=127.0.0.1".to_owned(),
        "--advertise-address=127.0.0.1".to_owned(),
        // Loopback is no address for a Service's endpoints, and nobody asks for them.
        "--endpoint-reconciler-type=none".to_owned(),
        format!("--token-auth-file={}", folder.join("tokens.csv").display()),
        "--authorization-mode=RBAC".to_owned(),
        "--disable-admission-plugins=ServiceAccount".to_owned(),
        "--service-cluster-ip-range=10.0.0.0/24".to_owned(),
    ]);
    arguments
}
