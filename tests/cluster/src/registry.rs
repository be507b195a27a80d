//! A private registry of images, which nodes reach: Debian's docker-registry with TLS by an authority of its own, and with one user.

use std::{
    fs,
    io::Write as _,
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use kubedb_stores::{
    certificates::Signed,
    net::free_port,
    process::{HelperError, Running},
};

use crate::{
    cluster::Cluster,
    error::StartError,
    images::{archives, ctr, on_top},
    layout::kept,
    machine::remove,
    node::registries,
    tools::run,
};

/// It opens a port and reads a file.
const PATIENCE: Duration = Duration::from_secs(30);
/// Who may pull and push.
pub const USER: &str = "reader";
/// File in `/` of what is published, which no other image has.
pub const MARK: &str = "published";
/// Certificate of the authority, in every folder that has one.
const AUTHORITY: &str = "ca.crt";
/// Containerd's word for a list of images of its own: what is published from a node is none of Kubernetes' there.
const PUBLISHING: &str = "publishing";

/// A registry. It ends with this, and no node trusts it any more.
#[derive(Debug)]
pub struct Registry {
    // Ended before its folder may go.
    _running: Running,
    address: String,
    password: String,
    folder: PathBuf,
    trusting: Vec<PathBuf>,
}

impl Drop for Registry {
    fn drop(&mut self) {
        for folder in &self.trusting {
            let _ = remove(folder);
        }
    }
}

impl Registry {
    /// Starts one with its files below `folder`, at the cluster's own address of this machine alone, and has all nodes trust its authority. They
    /// know nobody whom it lets in.
    ///
    /// # Errors
    /// When it is not installed, or does not answer.
    pub fn start(cluster: &Cluster, folder: &Path) -> Result<Self, StartError> {
        let program = kept("registry").join("usr/bin/docker-registry");
        if !program.exists() {
            return Err(StartError::Missing {
                what: "docker-registry".to_owned(),
                command: "cluster install",
            });
        }
        let host = cluster.host().to_string();
        let address = format!("{host}:{}", free_port().map_err(unfit)?);
        let password = format!("password-{}", std::process::id());
        let signed = Signed::of(&[host.as_str()]).map_err(unfit)?;
        signed.write(folder, "tls.crt", "tls.key").map_err(unfit)?;
        let file = |name: &str| folder.join(name).display().to_string();
        let users = format!("{USER}:{}\n", hashed(&password)?);
        let settings = format!(
            "version: 0.1\nlog: {{level: warn}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http: {{addr: \"{address}\", tls: {{certificate: {}, key: {}}}}}\n\
             auth: {{htpasswd: {{realm: tests, path: {}}}}}\n",
            file("images"),
            file("tls.crt"),
            file("tls.key"),
            file("users"),
        );
        for (name, text) in [
            ("users", &users),
            ("settings.yml", &settings),
            (AUTHORITY, &signed.authority),
        ] {
            fs::write(folder.join(name), text).map_err(StartError::prepare(folder.join(name)))?;
        }
        let log = folder.join("log");
        let told = fs::File::create(&log).map_err(StartError::prepare(&log))?;
        let mut command = Command::new(program);
        command.arg("serve").arg(folder.join("settings.yml"));
        let running = Running::start(command.stderr(told)).map_err(unfit)?;
        let mut registry = Self {
            _running: running,
            address,
            password,
            folder: folder.to_owned(),
            trusting: Vec::new(),
        };
        registry.wait(&log)?;
        registry.have_trusted(cluster)?;
        Ok(registry)
    }

    fn wait(&self, log: &Path) -> Result<(), StartError> {
        let end = Instant::now() + PATIENCE;
        while TcpStream::connect(&self.address).is_err() {
            if Instant::now() > end {
                let why = format!("it does not answer within {PATIENCE:?}");
                return Err(StartError::not_ready("docker-registry", why, log));
            }
            thread::sleep(Duration::from_millis(30));
        }
        Ok(())
    }

    /// As an administrator of nodes does: containerd looks here whenever it is to pull. A `hosts.toml` would say the same, but of a registry that has
    /// no such image containerd 1.6 then asks once more, without the authority, and tells that it is not trusted.
    fn have_trusted(&mut self, cluster: &Cluster) -> Result<(), StartError> {
        let authority = self.folder.join(AUTHORITY);
        for machine in cluster.nodes() {
            let folder = registries(machine).join(&self.address);
            fs::create_dir_all(&folder)
                .and_then(|()| fs::copy(&authority, folder.join(AUTHORITY)))
                .map_err(StartError::prepare(&folder))?;
            self.trusting.push(folder);
        }
        Ok(())
    }

    /// Host and port: how images and Secrets name it.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The password of [`USER`].
    #[must_use]
    pub fn password(&self) -> &str {
        &self.password
    }

    /// Pushes one of the cluster's images, by the file of its archive, under a name of `team/postgres:15`'s kind, with a file [`MARK`] on top. Returns
    /// the whole name, which no node has anything of.
    ///
    /// # Errors
    /// When it is refused.
    pub fn publish(
        &self,
        cluster: &Cluster,
        archive: &str,
        name: &str,
    ) -> Result<String, StartError> {
        let image = format!("{}/{name}", self.address);
        let whole = self.folder.join("published.tar");
        on_top(&archives().join(archive), &image, (MARK, name), &whole)?;
        let from = cluster.nodes().first();
        let from = from.ok_or_else(|| StartError::Unfit("there is no node".to_owned()))?;
        let images = |words: &[&str]| {
            let mut command = ctr(from)?;
            command.args(["--namespace", PUBLISHING, "images"]);
            run(command.args(words)).map(drop)
        };
        let who = format!("{USER}:{}", self.password);
        let hosts = registries(from).display().to_string();
        let archive = whole.display().to_string();
        images(&["import", "--no-unpack", &archive])?;
        images(&["push", "--user", &who, "--hosts-dir", &hosts, &image])?;
        // At once, with all that only it had.
        images(&["remove", "--sync", &image])?;
        fs::remove_file(&whole).map_err(StartError::prepare(&whole))?;
        Ok(image)
    }
}

/// A password as the registry's list of users has it; the C library knows the method.
fn hashed(password: &str) -> Result<String, StartError> {
    const SCRIPT: &str = "local $/; my $password = <STDIN>; print crypt($password, q($2y$05$ofthetestsofkubedb4567u));";
    let started = |source| StartError::Start {
        program: "perl".to_owned(),
        source,
    };
    let mut child = Command::new("perl")
        .args(["-e", SCRIPT])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(started)?;
    if let Some(mut pipe) = child.stdin.take() {
        pipe.write_all(password.as_bytes()).map_err(started)?;
    }
    let output = child.wait_with_output().map_err(started)?;
    let hash = String::from_utf8_lossy(&output.stdout).into_owned();
    if hash.starts_with("$2y$05$") {
        Ok(hash)
    } else {
        let why = format!("crypt(3) does not know bcrypt: {hash}");
        Err(StartError::Unfit(why))
    }
}

fn unfit(error: HelperError) -> StartError {
    StartError::Unfit(error.to_string())
}
