//! One database on this machine: its pinned build and ports, its endpoints, its agents.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use kubedb_api::{agent_config::AgentConfig, monitor::Discovery, reasons::text};
use kubedb_operator::platform::{DesiredDatabase, ObservedDatabase, ObservedInstance};

use super::{
    agent::{AgentProcess, Launch},
    layout::Layout,
    pinned::Pinned,
    platform::{BoxError, Machine},
    ports,
    processes::{self, Kind},
    proxy::Proxy,
    retire::Retiring,
    user::ServiceUser,
};

/// Pause before the data of an instance that was scaled away is tried to be removed again.
const REMOVE_RETRY: Duration = Duration::from_secs(30);
/// Between an instance's name and a unique end: its data is going away.
pub(super) const REMOVED: &str = ".removed-";

/// An open database.
#[derive(Debug)]
pub(super) struct Database {
    folder: PathBuf,
    pinned: Pinned,
    primary: Proxy,
    standbys: Proxy,
    agents: BTreeMap<String, AgentProcess>,
    desired: DesiredDatabase,
    remove_due: Instant,
    opened: Instant,
}

impl Database {
    /// Finds or chooses build and ports, and opens the endpoints.
    pub(super) async fn open(
        machine: &Machine,
        desired: &DesiredDatabase,
    ) -> Result<Self, BoxError> {
        let folder = machine.layout.database(&desired.key, &desired.data_uid);
        ServiceUser::passage(&machine.layout.databases())?;
        ServiceUser::passage(folder.parent().unwrap_or(&folder))?;
        ServiceUser::passage(&folder)?;
        ServiceUser::passage(&folder.join("agents"))?;
        let pinned = match Pinned::read(&folder)? {
            Some(pinned) => {
                let build = super::build::Build {
                    bin_directory: pinned.bin_directory.clone(),
                    version: pinned.postgres_version.clone(),
                };
                let build = machine.builds.pinned(build).await?;
                Pinned {
                    bin_directory: build.bin_directory,
                    postgres_version: build.version,
                    ..pinned
                }
            }
            None => {
                let configured = desired.bin_directory.as_deref().map(Path::new);
                let build = machine.builds.resolve(&desired.version, configured).await?;
                Pinned {
                    uid: desired.data_uid.clone(),
                    bin_directory: build.bin_directory,
                    postgres_version: build.version,
                    primary_port: machine.ports.choose()?,
                    standbys_port: machine.ports.choose()?,
                    instance_ports: BTreeMap::new(),
                    metrics_ports: BTreeMap::new(),
                }
            }
        };
        let (namespace, name) = (&desired.key.namespace, &desired.key.name);
        let absent = |what: &str| {
            format!(
                "{what} of {namespace}/{name} takes connections now: `kubedb describe pg {name} -n {namespace}` says why"
            )
        };
        let primary = listen(machine, pinned.primary_port, absent("no primary")).await?;
        let standbys = listen(machine, pinned.standbys_port, absent("no standby")).await?;
        let pinned = Pinned {
            primary_port: primary.address().port(),
            standbys_port: standbys.address().port(),
            ..pinned
        };
        pinned.write(&folder)?;
        let database = Self {
            folder,
            pinned,
            primary,
            standbys,
            agents: BTreeMap::new(),
            desired: desired.clone(),
            remove_due: Instant::now(),
            opened: Instant::now(),
        };
        database.clear_removed();
        Ok(database)
    }

    /// When it was opened.
    pub(super) fn opened(&self) -> Instant {
        self.opened
    }

    /// Its folder.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether it has taken over, or started, this instance.
    pub(super) fn has(&self, instance: &str) -> bool {
        self.agents.contains_key(instance)
    }

    /// Makes it so: starts or adopts what is missing, stops what is too much, leads the endpoints.
    pub(super) fn fit(
        &mut self,
        machine: &Machine,
        desired: &DesiredDatabase,
    ) -> Result<(), BoxError> {
        self.desired = desired.clone();
        let wanted: Vec<String> = (0..desired.replicas)
            .map(|ordinal| format!("{}-{ordinal}", desired.key.name))
            .collect();
        for (ordinal, instance) in (0..).zip(&wanted) {
            self.write_access(machine, instance)?;
            if self.agents.contains_key(instance) {
                continue;
            }
            let mut agent = AgentProcess::adopt(self.launch(machine, instance));
            if !agent.is_running() {
                let ports = (
                    self.port(machine, instance)?,
                    self.metrics_port(machine, instance)?,
                );
                self.prepare(machine, instance, ordinal, ports)?;
            }
            agent.tick();
            self.agents.insert(instance.clone(), agent);
        }
        // Also those that an earlier server had not done with.
        let known: Vec<String> = self.pinned.instance_ports.keys().cloned().collect();
        for instance in known {
            if wanted.contains(&instance) {
                continue;
            }
            let launch = self.launch(machine, &instance);
            let agent = self
                .agents
                .entry(instance)
                .or_insert_with(|| AgentProcess::adopt(launch));
            agent.is_surplus = true;
            agent.terminate();
        }
        self.lead();
        Ok(())
    }

    fn lead(&self) {
        let address = |instance: &String| {
            let port = self.pinned.instance_ports.get(instance)?;
            Some(format!("127.0.0.1:{port}"))
        };
        self.primary
            .lead_to(self.desired.primary.iter().filter_map(address).collect());
        self.standbys
            .lead_to(self.desired.standbys.iter().filter_map(address).collect());
    }

    fn launch(&self, machine: &Machine, instance: &str) -> Launch {
        let folder = Layout::agent(&self.folder, instance);
        Launch {
            program: machine.options.program.clone(),
            config: folder.join("agent.json"),
            log: folder.join("agent.log"),
            folder: self.folder.join(instance),
            user: machine.options.user,
        }
    }

    /// The instance's port. One that somebody else took while the instance was down is given up; one that its own server still
    /// holds is not.
    fn port(&mut self, machine: &Machine, instance: &str) -> Result<u16, BoxError> {
        let folder = self.folder.join(instance);
        if let Some(port) = self.pinned.instance_ports.get(instance).copied() {
            let serves = || {
                processes::left_behind(&folder, machine.options.user)
                    .iter()
                    .any(|left| left.kind == Kind::Server)
            };
            if ports::is_free(port) || serves() {
                return Ok(port);
            }
            tracing::warn!(
                instance,
                port,
                "an instance's port is taken, so it moves to another"
            );
        }
        let port = machine.ports.choose()?;
        self.pinned.instance_ports.insert(instance.to_owned(), port);
        self.pinned.write(&self.folder)?;
        Ok(port)
    }

    /// The port that the instance keeps for metrics; another one if somebody else has taken it while its agent was down.
    fn metrics_port(&mut self, machine: &Machine, instance: &str) -> Result<u16, BoxError> {
        let known = self.pinned.metrics_ports.get(instance).copied();
        if let Some(port) = known.filter(|port| ports::is_free(*port)) {
            return Ok(port);
        }
        let port = machine.ports.choose()?;
        let before = self.pinned.metrics_ports.insert(instance.to_owned(), port);
        machine.ports.release(before);
        self.pinned.write(&self.folder)?;
        Ok(port)
    }

    /// Kubeconfig with the rights of today; agents read it anew when the API does not answer.
    fn write_access(&self, machine: &Machine, instance: &str) -> Result<(), BoxError> {
        let folder = Layout::agent(&self.folder, instance);
        if !folder.exists() {
            ServiceUser::passage(&folder)?;
        }
        let mut readable = self.desired.secrets.clone();
        let own = &self.desired.key.namespace;
        let maps = self.desired.config_maps.iter();
        readable.extend(maps.map(|map| (own.clone(), map.clone())));
        let text = (machine.options.access)(&self.desired.key, instance, &readable)?;
        let file = folder.join("kubeconfig");
        if fs::read(&file).ok().as_deref() != Some(text.as_bytes()) {
            machine.options.user.private_file(&file, text.as_bytes())?;
        }
        Ok(())
    }

    fn prepare(
        &self,
        machine: &Machine,
        instance: &str,
        ordinal: u32,
        (port, metrics_port): (u16, u16),
    ) -> Result<(), BoxError> {
        let user = machine.options.user;
        let folder = self.folder.join(instance);
        let agent = Layout::agent(&self.folder, instance);
        user.private_folder(&folder)?;
        let (above, socket) = machine.layout.socket(port);
        if above.parent() == Some(&machine.options.data) {
            ServiceUser::passage(&above)?;
        } else {
            ServiceUser::passage_among_strangers(&above)?;
        }
        user.private_folder(&socket)?;
        let config = AgentConfig {
            namespace: self.desired.key.namespace.clone(),
            database: self.desired.key.name.clone(),
            database_uid: self.desired.uid.clone(),
            data_uid: (self.desired.data_uid != self.desired.uid)
                .then(|| self.desired.data_uid.clone()),
            instance: instance.to_owned(),
            ordinal,
            directory: folder,
            socket_directory: socket,
            bin_directory: self.pinned.bin_directory.clone(),
            postgres_version: self.pinned.postgres_version.clone(),
            listen_address: "127.0.0.1".to_owned(),
            advertised_host: None,
            port,
            kubeconfig: Some(agent.join("kubeconfig")),
            health_port: None,
            metrics_port: Some(metrics_port),
        };
        user.private_file(
            &agent.join("agent.json"),
            &serde_json::to_vec_pretty(&config)?,
        )?;
        Ok(())
    }

    /// Watches over the agents.
    pub(super) fn tick(&mut self, machine: &Machine) {
        self.agents.values_mut().for_each(AgentProcess::tick);
        if Instant::now() < self.remove_due || !self.remove_surplus(machine) {
            return;
        }
        // It may be wanted again by now, and nobody else says so again.
        let desired = self.desired.clone();
        if let Err(error) = self.fit(machine, &desired) {
            tracing::warn!(error, "the instances of a database could not be fitted");
        }
    }

    /// Forgets instances that were scaled away, once they are down. Their data goes too: it is a copy, and an old one could not be
    /// followed on from. Returns whether there were any.
    fn remove_surplus(&mut self, machine: &Machine) -> bool {
        let down: Vec<String> = self
            .agents
            .iter_mut()
            .filter_map(|(name, agent)| (agent.is_surplus && agent.is_down()).then(|| name.clone()))
            .collect();
        for instance in &down {
            if let Err(error) = self.remove(machine, instance) {
                tracing::warn!(instance, %error, "the data of an instance that was scaled away was not removed");
                self.remove_due = Instant::now() + REMOVE_RETRY;
                return false;
            }
            self.agents.remove(instance);
        }
        if down.is_empty() {
            return false;
        }
        self.clear_removed();
        true
    }

    fn remove(&mut self, machine: &Machine, instance: &str) -> std::io::Result<()> {
        let unique = uuid::Uuid::new_v4();
        for place in [
            self.folder.join(instance),
            Layout::agent(&self.folder, instance),
        ] {
            let mut aside = place.as_os_str().to_owned();
            aside.push(format!("{REMOVED}{unique}"));
            match fs::rename(&place, aside) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        // The port last: while it is pinned, the instance is known to be there.
        if let Some(port) = self.pinned.instance_ports.remove(instance) {
            machine.ports.release([port]);
            let metrics = self.pinned.metrics_ports.remove(instance);
            machine.ports.release(metrics);
            let _ = fs::remove_dir_all(machine.layout.socket(port).1);
        }
        self.pinned.write(&self.folder)
    }

    /// Removes what was set aside, in the background: it may be large.
    fn clear_removed(&self) {
        let places = [self.folder.clone(), self.folder.join("agents")];
        tokio::task::spawn_blocking(move || {
            let entries = places.iter().filter_map(|place| fs::read_dir(place).ok());
            for entry in entries.flatten().flatten() {
                if !entry.file_name().to_string_lossy().contains(REMOVED) {
                    continue;
                }
                if let Err(error) = fs::remove_dir_all(entry.path()) {
                    tracing::warn!(path = %entry.path().display(), %error, "old data was not removed; the next start tries again");
                }
            }
        });
    }

    /// What is there now.
    pub(super) fn observe(&mut self) -> ObservedDatabase {
        let instances = self
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
        ObservedDatabase {
            primary_endpoint: Some(self.primary.address().to_string()),
            standbys_endpoint: Some(self.standbys.address().to_string()),
            refusal: None,
            // One machine has no ServiceMonitors; the metrics are there all the same.
            monitor_refusal: self
                .desired
                .monitor
                .as_ref()
                .filter(|monitor| monitor.discovery() == Some(Discovery::ServiceMonitor))
                .map(|_| text::NO_PROMETHEUS_OPERATOR.to_owned()),
            postgres_version: Some(self.pinned.postgres_version.clone()),
            instances,
        }
    }

    /// Asks every instance to stop; the endpoints stay until the end.
    pub(super) fn terminate(&mut self) {
        self.agents.values_mut().for_each(AgentProcess::terminate);
    }

    /// Whether every instance is down, after `terminate`.
    pub(super) fn is_down(&mut self) -> bool {
        self.agents
            .values_mut()
            .filter_map(|agent| (!agent.is_down()).then_some(()))
            .count()
            == 0
    }

    /// Closes the endpoints and stops the instances for good.
    pub(super) fn retire(self) -> Retiring {
        Retiring::new(self.agents.into_values())
    }

    /// UID that its data bears.
    pub(super) fn uid(&self) -> &str {
        &self.pinned.uid
    }

    /// Ports that it needs no longer once it is gone.
    pub(super) fn ports(&self) -> Vec<u16> {
        self.pinned.ports().collect()
    }
}

/// The pinned port, or another when somebody else has taken it.
async fn listen(machine: &Machine, port: u16, absent: String) -> Result<Proxy, BoxError> {
    match Proxy::listen(port, absent.clone()).await {
        Ok(proxy) => Ok(proxy),
        Err(error) => {
            tracing::warn!(port, %error, "an endpoint's port is taken, so it moves to another");
            Ok(Proxy::listen(machine.ports.choose()?, absent).await?)
        }
    }
}
