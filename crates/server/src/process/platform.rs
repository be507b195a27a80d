//! The platform port on one machine.

use std::{
    collections::BTreeMap,
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use kubedb_api::agent_config::AgentConfig;
use kubedb_operator::platform::{
    DatabaseKey, DesiredDatabase, ObservedDatabase, ObservedInstance, Platform, PlatformError,
};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use super::{
    agent::{AgentProcess, Launch},
    build,
    layout::Layout,
    proxy::Proxy,
    user::ServiceUser,
};

/// Ports below the range that systems give to outgoing connections, so that a restart finds them free.
const PORTS: std::ops::Range<u16> = 21_000..31_000;
/// How often agents are looked at.
const TICK: Duration = Duration::from_millis(300);
/// How long a stop may take: an agent's own limit for PostgreSQL and some seconds.
const STOP_LIMIT: Duration = Duration::from_secs(150);

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Gives an agent its way to the API: a kubeconfig with a token of its own.
pub type AgentAccess =
    Arc<dyn Fn(&DatabaseKey, &str, &[(String, String)]) -> Result<String, BoxError> + Send + Sync>;

/// What a process platform is made of.
#[derive(Clone)]
pub struct ProcessPlatformOptions {
    /// The server's data directory.
    pub data: PathBuf,
    /// Where fetched builds are kept.
    pub cache: PathBuf,
    /// The binary that agents run; a path that the service user can run.
    pub program: PathBuf,
    /// Whom agents run as.
    pub user: ServiceUser,
    /// Access to the API.
    pub access: AgentAccess,
}

/// What must be the same after a restart (`platform.json`).
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Pinned {
    uid: String,
    bin_directory: PathBuf,
    postgres_version: String,
    primary_port: u16,
    standbys_port: u16,
    instance_ports: BTreeMap<String, u16>,
}

struct Database {
    folder: PathBuf,
    pinned: Pinned,
    primary: Proxy,
    standbys: Proxy,
    agents: BTreeMap<String, AgentProcess>,
}

/// Instances as processes.
#[derive(Clone)]
pub struct ProcessPlatform {
    options: Arc<ProcessPlatformOptions>,
    layout: Layout,
    databases: Arc<Mutex<BTreeMap<DatabaseKey, Database>>>,
}

fn act(action: String) -> impl FnOnce(BoxError) -> PlatformError {
    move |source| PlatformError::Act { action, source }
}

impl ProcessPlatform {
    /// Makes the platform, and watches over its agents from then on.
    #[must_use]
    pub fn new(options: ProcessPlatformOptions) -> Self {
        let platform = Self {
            layout: Layout::new(&options.data),
            options: Arc::new(options),
            databases: Arc::default(),
        };
        let databases = Arc::downgrade(&platform.databases);
        tokio::spawn(async move {
            while let Some(databases) = databases.upgrade() {
                for database in databases.lock().await.values_mut() {
                    database.agents.values_mut().for_each(AgentProcess::tick);
                    database.drop_removed();
                }
                drop(databases);
                tokio::time::sleep(TICK).await;
            }
        });
        platform
    }

    /// Stops every instance cleanly. Whoever does not end in time is left to the next start.
    pub async fn stop_all(&self) {
        let mut databases = std::mem::take(&mut *self.databases.lock().await);
        let end = tokio::time::Instant::now() + STOP_LIMIT;
        for database in databases.values_mut() {
            database
                .agents
                .values_mut()
                .for_each(AgentProcess::terminate);
        }
        let mut runs = true;
        while runs && tokio::time::Instant::now() < end {
            runs = databases
                .values_mut()
                .flat_map(|database| database.agents.values_mut())
                .any(AgentProcess::is_running);
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
        if runs {
            tracing::error!("some instances did not stop in time; the next start takes them over");
        }
    }

    async fn open(&self, desired: &DesiredDatabase) -> Result<Database, BoxError> {
        let folder = self.layout.database(&desired.key, &desired.uid);
        ServiceUser::passage(&self.layout.databases())?;
        ServiceUser::passage(folder.parent().unwrap_or(&folder))?;
        ServiceUser::passage(&folder)?;
        let file = folder.join("platform.json");
        let known: Option<Pinned> = fs::read(&file)
            .ok()
            .map(|bytes| serde_json::from_slice(&bytes))
            .transpose()?;
        let (wanted_primary, wanted_standbys) = match &known {
            Some(pinned) => (pinned.primary_port, pinned.standbys_port),
            None => (free_port()?, free_port()?),
        };
        let primary = listen(wanted_primary).await?;
        let standbys = listen(wanted_standbys).await?;
        let mut pinned = match known {
            Some(pinned) => pinned,
            None => {
                let build = build::resolve(
                    &desired.version,
                    desired.bin_directory.as_deref().map(Path::new),
                    &self.options.cache,
                    &self.layout.programs(),
                    self.options.user,
                )
                .await?;
                Pinned {
                    uid: desired.uid.clone(),
                    bin_directory: build.bin_directory,
                    postgres_version: build.version,
                    primary_port: 0,
                    standbys_port: 0,
                    instance_ports: BTreeMap::new(),
                }
            }
        };
        pinned.primary_port = primary.address().port();
        pinned.standbys_port = standbys.address().port();
        let database = Database {
            folder,
            pinned,
            primary,
            standbys,
            agents: BTreeMap::new(),
        };
        database.save()?;
        Ok(database)
    }

    /// Starts or adopts what is missing, and stops what is too much.
    fn fit(&self, database: &mut Database, desired: &DesiredDatabase) -> Result<(), BoxError> {
        let wanted: Vec<String> = (0..desired.replicas)
            .map(|ordinal| format!("{}-{ordinal}", desired.key.name))
            .collect();
        for (ordinal, instance) in (0..).zip(&wanted) {
            let folder = database.folder.join(instance);
            self.write_access(&folder, desired, instance)?;
            if database.agents.contains_key(instance) {
                continue;
            }
            let port = match database.pinned.instance_ports.get(instance) {
                Some(port) => *port,
                None => {
                    let port = free_port()?;
                    database
                        .pinned
                        .instance_ports
                        .insert(instance.clone(), port);
                    database.save()?;
                    port
                }
            };
            let launch = self.prepare(database, desired, instance, ordinal, port)?;
            let mut agent = AgentProcess::adopt(launch);
            agent.tick();
            database.agents.insert(instance.clone(), agent);
        }
        for (instance, agent) in &mut database.agents {
            if !wanted.contains(instance) && !agent.is_surplus {
                agent.is_surplus = true;
                agent.terminate();
            }
        }
        Ok(())
    }

    /// Kubeconfig with the rights of today; agents read it anew when the API does not answer.
    fn write_access(
        &self,
        folder: &Path,
        desired: &DesiredDatabase,
        instance: &str,
    ) -> Result<(), BoxError> {
        self.options.user.private_folder(folder)?;
        let text = (self.options.access)(&desired.key, instance, &desired.secrets)?;
        let file = folder.join("kubeconfig");
        if fs::read(&file).ok().as_deref() != Some(text.as_bytes()) {
            self.options.user.private_file(&file, text.as_bytes())?;
        }
        Ok(())
    }

    fn prepare(
        &self,
        database: &Database,
        desired: &DesiredDatabase,
        instance: &str,
        ordinal: u32,
        port: u16,
    ) -> Result<Launch, BoxError> {
        let folder = database.folder.join(instance);
        let socket = self.layout.socket(port);
        if let Some(parent) = socket
            .parent()
            .filter(|parent| *parent != std::env::temp_dir())
        {
            ServiceUser::passage(parent)?;
        }
        self.options.user.private_folder(&socket)?;
        let config = AgentConfig {
            namespace: desired.key.namespace.clone(),
            database: desired.key.name.clone(),
            database_uid: desired.uid.clone(),
            instance: instance.to_owned(),
            ordinal,
            directory: folder.clone(),
            socket_directory: socket,
            bin_directory: database.pinned.bin_directory.clone(),
            postgres_version: database.pinned.postgres_version.clone(),
            listen_address: "127.0.0.1".to_owned(),
            port,
            kubeconfig: folder.join("kubeconfig"),
        };
        let file = folder.join("agent.json");
        self.options
            .user
            .private_file(&file, &serde_json::to_vec_pretty(&config)?)?;
        Ok(Launch {
            program: self.options.program.clone(),
            config: file,
            log: folder.join("agent.log"),
            user: self.options.user,
        })
    }
}

impl Database {
    fn save(&self) -> Result<(), BoxError> {
        let file = self.folder.join("platform.json");
        let temporary = file.with_extension("new");
        fs::write(&temporary, serde_json::to_vec_pretty(&self.pinned)?)?;
        fs::File::open(&temporary)?.sync_all()?;
        fs::rename(&temporary, &file)?;
        Ok(())
    }

    /// Forgets instances that were scaled away, once they are down. Their data goes too: it is a copy, and an old one could not be
    /// followed on from.
    fn drop_removed(&mut self) {
        let folder = self.folder.clone();
        self.agents.retain(|instance, agent| {
            if !agent.is_surplus || agent.is_running() {
                return true;
            }
            let (data, removed) = (folder.join(instance), folder.join(format!("{instance}.removed")));
            let done = fs::rename(&data, &removed).and_then(|()| fs::remove_dir_all(&removed));
            if let Err(error) = done {
                tracing::warn!(instance, %error, "the data of an instance that was scaled away was not removed");
            }
            false
        });
    }

    fn lead(&self, desired: &DesiredDatabase) {
        let address = |instance: &String| {
            let port = self.pinned.instance_ports.get(instance)?;
            Some(format!("127.0.0.1:{port}"))
        };
        self.primary
            .lead_to(desired.primary.iter().filter_map(address).collect());
        self.standbys
            .lead_to(desired.standbys.iter().filter_map(address).collect());
    }
}

#[async_trait]
impl Platform for ProcessPlatform {
    async fn apply(&self, desired: &DesiredDatabase) -> Result<(), PlatformError> {
        let failed = || {
            act(format!(
                "run database {}/{}",
                desired.key.namespace, desired.key.name
            ))
        };
        let is_open = self.databases.lock().await.contains_key(&desired.key);
        if !is_open {
            // A first fetch of PostgreSQL takes a while; other databases must not wait for it.
            let database = self.open(desired).await.map_err(|error| match error
                .downcast::<build::ResolveBuildError>(
            ) {
                Ok(error) => PlatformError::ResolveVersion {
                    version: desired.version.clone(),
                    reason: error.to_string(),
                },
                Err(error) => failed()(error),
            })?;
            self.databases
                .lock()
                .await
                .entry(desired.key.clone())
                .or_insert(database);
        }
        let mut databases = self.databases.lock().await;
        let Some(database) = databases.get_mut(&desired.key) else {
            return Ok(());
        };
        self.fit(database, desired).map_err(failed())?;
        database.lead(desired);
        Ok(())
    }

    async fn observe(&self, key: &DatabaseKey) -> Result<Option<ObservedDatabase>, PlatformError> {
        let mut databases = self.databases.lock().await;
        let Some(database) = databases.get_mut(key) else {
            return Ok(None);
        };
        let instances = database
            .agents
            .iter_mut()
            .map(|(name, agent)| {
                let observed = ObservedInstance {
                    running: agent.is_running(),
                    restarts: agent.restarts,
                    reason: agent.reason.clone(),
                };
                (name.clone(), observed)
            })
            .collect();
        Ok(Some(ObservedDatabase {
            primary_endpoint: Some(database.primary.address().to_string()),
            standbys_endpoint: Some(database.standbys.address().to_string()),
            postgres_version: Some(database.pinned.postgres_version.clone()),
            instances,
        }))
    }

    async fn remove(&self, key: &DatabaseKey) -> Result<bool, PlatformError> {
        let mut databases = self.databases.lock().await;
        let Some(database) = databases.get_mut(key) else {
            return Ok(true);
        };
        let mut runs = false;
        for agent in database.agents.values_mut() {
            agent.terminate();
            runs |= agent.is_running();
        }
        if !runs {
            databases.remove(key);
        }
        Ok(!runs)
    }
}

/// The pinned port, or another when somebody else has taken it.
async fn listen(port: u16) -> Result<Proxy, BoxError> {
    match Proxy::listen(port).await {
        Ok(proxy) => Ok(proxy),
        Err(error) => {
            tracing::warn!(port, %error, "an endpoint's port is taken, so it moves to another");
            Ok(Proxy::listen(free_port()?).await?)
        }
    }
}

fn free_port() -> Result<u16, BoxError> {
    for _ in 0..200 {
        let port = rand::random_range(PORTS);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    Err("no free port between 21000 and 31000 was found".into())
}
