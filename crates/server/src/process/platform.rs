//! The platform port on one machine.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use kube::Client;
use kubedb_api::agent_config::DataTask;
use kubedb_operator::platform::{
    DatabaseKey, DesiredDatabase, ObservedDatabase, Platform, PlatformError, TaskState,
};
use tokio::{sync::Mutex, time::Instant};

use super::{
    build::{Builds, ResolveBuildError},
    database::Database,
    layout::Layout,
    pinned::{Pinned, ReadPinnedError},
    ports::Ports,
    processes,
    retire::{self, Retiring},
    task::Tasks,
    user::ServiceUser,
    wipe::Wipes,
};

/// How often agents are looked at.
const TICK: Duration = Duration::from_millis(300);
/// How long a stop may take: longer than an agent and what it leaves behind get before they are ended by force.
const STOP_LIMIT: Duration = Duration::from_secs(160);
/// How often a stop looks whether it is over.
const STOP_LOOK: Duration = Duration::from_millis(30);

pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

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
    /// The API itself, for the storage Secrets of tasks.
    pub client: Client,
}

/// What databases share.
pub(super) struct Machine {
    pub(super) options: ProcessPlatformOptions,
    pub(super) layout: Layout,
    pub(super) ports: Ports,
    pub(super) builds: Builds,
}

#[derive(Default)]
struct State {
    databases: BTreeMap<DatabaseKey, Database>,
    retiring: BTreeMap<PathBuf, Retiring>,
    /// Nothing is started any more.
    is_closing: bool,
}

/// Instances as processes.
#[derive(Clone)]
pub struct ProcessPlatform {
    machine: Arc<Machine>,
    state: Arc<Mutex<State>>,
    tasks: Arc<Tasks>,
    wipes: Arc<Mutex<Wipes>>,
}

fn act(action: String) -> impl FnOnce(BoxError) -> PlatformError {
    move |source| PlatformError::Act { action, source }
}

impl ProcessPlatform {
    /// Makes the platform, and watches over its agents from then on.
    #[must_use]
    pub fn new(options: ProcessPlatformOptions) -> Self {
        let layout = Layout::new(&options.data);
        let ports = Ports::default();
        for folder in retire::folders(&layout) {
            // One that cannot be read is told when its database is opened.
            if let Ok(Some(pinned)) = Pinned::read(&folder) {
                ports.pin(pinned.ports());
            }
        }
        let builds = Builds::new(&options.cache, &layout.programs(), options.user);
        let platform = Self {
            machine: Arc::new(Machine {
                options,
                layout,
                ports,
                builds,
            }),
            state: Arc::default(),
            tasks: Arc::default(),
            wipes: Arc::default(),
        };
        let (machine, state) = (
            Arc::clone(&platform.machine),
            Arc::downgrade(&platform.state),
        );
        tokio::spawn(async move {
            while let Some(state) = state.upgrade() {
                state.lock().await.tick(&machine);
                drop(state);
                tokio::time::sleep(TICK).await;
            }
        });
        platform
    }

    /// Stops every instance cleanly, side by side, and starts none any more; those too that an earlier server left running and this one had
    /// no time to take over. Returns whether all of them are down; who is not is left to the next start.
    pub async fn stop_all(&self) -> bool {
        let end = Instant::now() + STOP_LIMIT;
        self.tasks.end();
        loop {
            if self.state.lock().await.stop(&self.machine) {
                return true;
            }
            if Instant::now() >= end {
                return false;
            }
            tokio::time::sleep(STOP_LOOK).await;
        }
    }

    /// Folders of databases on this machine, to compare with what the API has afterwards.
    #[must_use]
    pub fn folders(&self) -> BTreeSet<PathBuf> {
        retire::folders(&self.machine.layout).into_iter().collect()
    }

    /// The folder of a database.
    #[must_use]
    pub fn folder(&self, key: &DatabaseKey, uid: &str) -> PathBuf {
        self.machine.layout.database(key, uid)
    }

    /// Stops what still runs in folders of databases that were no more when it was looked. Their data stays.
    pub async fn retire(&self, folders: &BTreeSet<PathBuf>, looked: std::time::Instant) {
        let mut state = self.state.lock().await;
        // One that was opened since then is a database again: it was paused before.
        let mut folders = folders.clone();
        for database in state.databases.values() {
            if database.opened() >= looked {
                folders.remove(database.folder());
            }
        }
        let open: Vec<DatabaseKey> = state
            .databases
            .iter()
            .filter(|(_, database)| folders.contains(database.folder()))
            .map(|(key, _)| key.clone())
            .collect();
        for key in open {
            state.retire(&self.machine, &key);
        }
        let named =
            processes::named_below(&self.machine.layout.databases(), self.machine.options.user);
        for folder in &folders {
            if named.iter().any(|path| path.starts_with(folder)) {
                state.find(&self.machine, folder);
            }
        }
    }
}

impl State {
    fn tick(&mut self, machine: &Machine) {
        if self.is_closing {
            return;
        }
        for database in self.databases.values_mut() {
            database.tick(machine);
        }
        self.retiring.retain(|_, retiring| !retiring.is_down());
    }

    /// Asks everything to stop; whether all of it has.
    fn stop(&mut self, machine: &Machine) -> bool {
        if !self.is_closing {
            self.is_closing = true;
            self.databases.values_mut().for_each(Database::terminate);
            self.find_left(machine);
        }
        self.retiring.retain(|_, retiring| !retiring.is_down());
        let down = self
            .databases
            .values_mut()
            .filter_map(|database| (!database.is_down()).then_some(()))
            .count()
            == 0;
        down && self.retiring.is_empty()
    }

    /// Closes a database for good.
    fn retire(&mut self, machine: &Machine, key: &DatabaseKey) {
        if let Some(database) = self.databases.remove(key) {
            machine.ports.release(database.ports());
            let folder = database.folder().to_owned();
            self.retiring.insert(folder, database.retire());
        }
    }

    /// Looks for instances of an earlier server that no database here has taken over yet.
    fn find_left(&mut self, machine: &Machine) {
        let user = machine.options.user;
        let named = processes::named_below(&machine.layout.databases(), user);
        for folder in retire::folders(&machine.layout) {
            let is_open = |database: &&Database| database.folder() == folder;
            let open = self.databases.values().find(is_open);
            let is_ours = |instance: &str| open.is_some_and(|database| database.has(instance));
            if self.retiring.contains_key(&folder)
                || !named.iter().any(|path| path.starts_with(&folder))
            {
                continue;
            }
            let mut found = Retiring::find(&folder, user, |instance| !is_ours(instance));
            if !found.is_down() {
                tracing::info!(folder = %folder.display(), "stops instances that were not taken over yet");
                self.retiring.insert(folder, found);
            }
        }
    }

    /// Looks for what runs in a folder that is nobody's.
    fn find(&mut self, machine: &Machine, folder: &std::path::Path) {
        if self.retiring.contains_key(folder) {
            return;
        }
        let mut found = Retiring::find(folder, machine.options.user, |_| true);
        if !found.is_down() {
            tracing::warn!(folder = %folder.display(), "stops instances of a database that is no more");
            self.retiring.insert(folder.to_owned(), found);
        }
    }
}

#[async_trait]
impl Platform for ProcessPlatform {
    async fn apply(&self, desired: &DesiredDatabase) -> Result<(), PlatformError> {
        let key = &desired.key;
        let failed = || act(format!("run database {}/{}", key.namespace, key.name));
        let is_open = {
            let mut state = self.state.lock().await;
            let other = |database: &Database| database.uid() != desired.data_uid;
            if state.databases.get(key).is_some_and(other) {
                state.retire(&self.machine, key);
            }
            state.databases.contains_key(key)
        };
        if !is_open {
            // A first fetch of PostgreSQL takes a while; other databases must not wait for it.
            let opened = Database::open(&self.machine, desired).await;
            let database = opened.map_err(|error| match told(&error) {
                Some(reason) => PlatformError::ResolveVersion {
                    version: desired.version.clone(),
                    reason,
                },
                None => failed()(error),
            })?;
            let mut state = self.state.lock().await;
            state.databases.entry(key.clone()).or_insert(database);
        }
        let mut state = self.state.lock().await;
        if state.is_closing {
            return Err(failed()("the server stops".into()));
        }
        let Some(database) = state.databases.get_mut(key) else {
            return Ok(());
        };
        database.fit(&self.machine, desired).map_err(failed())
    }

    async fn observe(&self, key: &DatabaseKey) -> Result<Option<ObservedDatabase>, PlatformError> {
        let mut state = self.state.lock().await;
        Ok(state.databases.get_mut(key).map(Database::observe))
    }

    async fn remove(&self, key: &DatabaseKey) -> Result<bool, PlatformError> {
        let mut state = self.state.lock().await;
        state.retire(&self.machine, key);
        let layout = &self.machine.layout;
        // Also what an earlier server left: this one may never have opened the database.
        for folder in retire::folders(layout) {
            if layout.is_of(&folder, key) {
                state.find(&self.machine, &folder);
            }
        }
        state.retiring.retain(|_, retiring| !retiring.is_down());
        Ok(!state
            .retiring
            .keys()
            .any(|folder| layout.is_of(folder, key)))
    }

    async fn wipe(&self, key: &DatabaseKey, data_uid: &str) -> Result<bool, PlatformError> {
        // Nothing may run there, whoever asks.
        if !self.remove(key).await? {
            return Ok(false);
        }
        let folder = self.machine.layout.database(key, data_uid);
        let mut wipes = self.wipes.lock().await;
        wipes
            .wipe(&self.machine.layout, &self.machine.ports, &folder, data_uid)
            .await
            .map_err(act(format!(
                "wipe out database {}/{}",
                key.namespace, key.name
            )))
    }

    async fn delete_data(
        &self,
        task: &DataTask,
        _image_pull_secrets: &[String],
    ) -> Result<TaskState, PlatformError> {
        let options = &self.machine.options;
        let client = &options.client;
        Ok(self
            .tasks
            .look(task, &options.program, options.user, client))
    }

    async fn forget_data(&self, task: &DataTask) -> Result<(), PlatformError> {
        self.tasks.forget(task);
        Ok(())
    }
}

/// What the user can do something about, and so must read in the database's status.
fn told(error: &BoxError) -> Option<String> {
    let build = error.downcast_ref::<ResolveBuildError>();
    let pinned = error.downcast_ref::<ReadPinnedError>();
    build
        .map(ToString::to_string)
        .or_else(|| pinned.map(ToString::to_string))
}
