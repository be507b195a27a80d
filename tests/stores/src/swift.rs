//! OpenStack Swift: proxy, account, container and object server with one replica of everything, and TempAuth or Keystone.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use crate::{
    keystone::{self, Keystone},
    net::{free_port, header, send, tool, wait_until},
    process::{HelperError, Running},
};

/// Account and user, and the user's key.
pub const USER: (&str, &str) = ("trial:keeper", "open-sesame");

/// Settings of a cluster.
#[derive(Clone, Copy, Debug)]
pub struct Settings<'a> {
    /// Who knows the users; TempAuth where there is none.
    pub keystone: Option<&'a Keystone>,
    /// How long a token of TempAuth lives.
    pub token_seconds: u32,
}

impl Default for Settings<'_> {
    fn default() -> Self {
        Self {
            keystone: None,
            token_seconds: 3_600,
        }
    }
}

/// A cluster of one machine.
#[derive(Debug)]
pub struct Swift {
    folder: PathBuf,
    port: u16,
    // The proxy goes first when the value is dropped.
    running: Vec<Running>,
}

impl Swift {
    /// Starts a cluster below `folder` that has the given containers.
    pub fn start(
        folder: &Path,
        containers: &[&str],
        settings: Settings<'_>,
    ) -> Result<Self, HelperError> {
        let folder = folder.join("swift");
        let prepare = |source| HelperError::Prepare {
            what: "a folder for Swift".to_owned(),
            source,
        };
        fs::create_dir_all(folder.join("devices/disk")).map_err(prepare)?;
        let ports = Ports::pick()?;
        for (name, text) in ports.files(&folder, settings) {
            fs::write(folder.join(name), text).map_err(prepare)?;
        }
        ports.build_rings(&folder)?;
        let mut cluster = Self {
            folder,
            port: ports.proxy,
            running: Vec::new(),
        };
        cluster.launch(&ports)?;
        let (storage, token) = match settings.keystone {
            None => cluster.log_in()?,
            Some(keystone) => {
                keystone.enter_swift(&cluster.address())?;
                (format!("/v1/{}", keystone.account()?), keystone.token()?)
            }
        };
        for container in containers {
            let path = format!("{storage}/{container}");
            let reply = send(
                cluster.port,
                "PUT",
                &path,
                &format!("X-Auth-Token: {token}\r\n"),
            );
            let reply = reply.unwrap_or_default();
            if !reply.contains(" 201 ") {
                let what = format!("container {container}");
                return Err(HelperError::Refused { what, reply });
            }
        }
        Ok(cluster)
    }

    /// Where users log in, as `ST_AUTH` wants it.
    #[must_use]
    pub fn auth_address(&self) -> String {
        format!("http://127.0.0.1:{}/auth/v1.0", self.port)
    }

    /// Path of the account's storage, and a token.
    pub fn log_in(&self) -> Result<(String, String), HelperError> {
        let headers = format!("X-Auth-User: {}\r\nX-Auth-Key: {}\r\n", USER.0, USER.1);
        let reply = send(self.port, "GET", "/auth/v1.0", &headers).unwrap_or_default();
        let base = format!("http://127.0.0.1:{}", self.port);
        let storage = header(&reply, "x-storage-url");
        let path = storage.and_then(|url| url.strip_prefix(&base).map(str::to_owned));
        match (path, header(&reply, "x-auth-token")) {
            (Some(path), Some(token)) => Ok((path, token)),
            _ => Err(HelperError::Refused {
                what: "a login".to_owned(),
                reply,
            }),
        }
    }

    /// Lets a container of the user of TempAuth hold so many bytes and no more.
    pub fn limit(&self, container: &str, bytes: u64) -> Result<(), HelperError> {
        let (storage, token) = self.log_in()?;
        let headers = format!("X-Auth-Token: {token}\r\nX-Container-Meta-Quota-Bytes: {bytes}\r\n");
        let path = format!("{storage}/{container}");
        let reply = send(self.port, "POST", &path, &headers).unwrap_or_default();
        if reply.contains(" 204 ") {
            Ok(())
        } else {
            Err(HelperError::Refused {
                what: "a quota".to_owned(),
                reply,
            })
        }
    }

    /// Port of the proxy.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Base address of the proxy.
    #[must_use]
    pub fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Stops the proxy and all behind it at once.
    pub fn kill(&mut self) {
        self.running.iter_mut().for_each(Running::kill);
    }

    fn launch(&mut self, ports: &Ports) -> Result<(), HelperError> {
        let memcached = tool("memcached/usr/bin/memcached");
        let libraries = tool("memcached/usr/lib/x86_64-linux-gnu");
        let mut command = Command::new(memcached);
        command
            .args(["-u", "root", "-l", "127.0.0.1", "-m", "16"])
            .args(["-p", &ports.memory.to_string()])
            .env("LD_LIBRARY_PATH", libraries)
            .stderr(Stdio::null());
        self.running.push(Running::start(&mut command)?);
        for server in ["account", "container", "object", "proxy"] {
            let mut command = Command::new(program(&format!("swift-{server}-server")));
            command
                .arg(self.folder.join(format!("{server}-server.conf")))
                .current_dir(&self.folder)
                .stderr(Stdio::null());
            self.running.push(Running::start(&mut command)?);
        }
        self.running.reverse();
        wait_until("Swift", Duration::from_secs(60), || {
            let is_up = |port| send(port, "GET", "/healthcheck", "").is_some();
            let behind = [ports.account, ports.container, ports.object];
            behind.into_iter().all(is_up)
                && send(ports.proxy, "GET", "/info", "")
                    .is_some_and(|reply| reply.contains("HTTP/1"))
        })
    }
}

fn program(name: &str) -> PathBuf {
    tool("swift/bin").join(name)
}

struct Ports {
    proxy: u16,
    account: u16,
    container: u16,
    object: u16,
    memory: u16,
}

impl Ports {
    fn pick() -> Result<Self, HelperError> {
        Ok(Self {
            proxy: free_port()?,
            account: free_port()?,
            container: free_port()?,
            object: free_port()?,
            memory: free_port()?,
        })
    }

    /// The configuration files by name.
    fn files(&self, folder: &Path, settings: Settings<'_>) -> Vec<(String, String)> {
        let common = |port: u16| {
            let folder = folder.display();
            format!(
                "[DEFAULT]\nbind_ip = 127.0.0.1\nbind_port = {port}\nuser = root\nswift_dir = {folder}\ndevices = {folder}/devices\nmount_check = false\nworkers = 0\n"
            )
        };
        let mut files = vec![(
            "swift.conf".to_owned(),
            "[swift-hash]\nswift_hash_path_suffix = trial\nswift_hash_path_prefix = trial\n[storage-policy:0]\nname = one\ndefault = yes\n".to_owned(),
        )];
        for (server, port) in self.servers() {
            let pipeline = format!(
                "[pipeline:main]\npipeline = {server}-server\n[app:{server}-server]\nuse = egg:swift#{server}\n"
            );
            files.push((format!("{server}-server.conf"), common(port) + &pipeline));
        }
        let proxy = self.proxy_pipeline(settings);
        files.push(("proxy-server.conf".to_owned(), common(self.proxy) + &proxy));
        files
    }

    fn proxy_pipeline(&self, settings: Settings<'_>) -> String {
        let (names, filters) = match settings.keystone {
            None => {
                let (user, key) = (USER.0.replace(':', "_"), USER.1);
                let life = settings.token_seconds;
                let filter = format!(
                    "[filter:tempauth]\nuse = egg:swift#tempauth\nuser_{user} = {key} .admin\ntoken_life = {life}\n"
                );
                ("tempauth", filter)
            }
            Some(server) => {
                let (address, user, password) =
                    (server.auth_address(), keystone::USER, keystone::PASSWORD);
                let project = keystone::PROJECT;
                let filters = format!(
                    "[filter:authtoken]\npaste.filter_factory = keystonemiddleware.auth_token:filter_factory\nwww_authenticate_uri = {address}\nauth_url = {address}\nauth_type = password\nproject_domain_id = default\nuser_domain_id = default\nproject_name = {project}\nusername = {user}\npassword = {password}\ninterface = public\ntoken_cache_time = -1\n[filter:keystoneauth]\nuse = egg:swift#keystoneauth\noperator_roles = admin\n"
                );
                ("authtoken keystoneauth", filters)
            }
        };
        format!(
            "[pipeline:main]\npipeline = catch_errors cache {names} container_quotas proxy-server\n[app:proxy-server]\nuse = egg:swift#proxy\naccount_autocreate = true\n[filter:container_quotas]\nuse = egg:swift#container_quotas\n[filter:catch_errors]\nuse = egg:swift#catch_errors\n[filter:cache]\nuse = egg:swift#memcache\nmemcache_servers = 127.0.0.1:{}\n{filters}",
            self.memory
        )
    }

    fn servers(&self) -> [(&'static str, u16); 3] {
        [
            ("account", self.account),
            ("container", self.container),
            ("object", self.object),
        ]
    }

    fn build_rings(&self, folder: &Path) -> Result<(), HelperError> {
        for (server, port) in self.servers() {
            let port = port.to_string();
            let device = [
                "add",
                "--region",
                "1",
                "--zone",
                "1",
                "--ip",
                "127.0.0.1",
                "--port",
                &port,
                "--device",
                "disk",
                "--weight",
                "1",
            ];
            for arguments in [&["create", "4", "1", "0"][..], &device, &["rebalance"]] {
                let program = program("swift-ring-builder");
                let mut command = Command::new(&program);
                command
                    .arg(folder.join(format!("{server}.builder")))
                    .args(arguments);
                let ended = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
                let ended = ended.map_err(|source| HelperError::Start {
                    program: program.display().to_string(),
                    source,
                })?;
                if !ended.success() {
                    let what = format!("Swift's ring {server}");
                    let reply = ended.to_string();
                    return Err(HelperError::Refused { what, reply });
                }
            }
        }
        Ok(())
    }
}
