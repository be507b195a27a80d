//! A whole Kubernetes, and what can be done to it.

use std::{
    fs::{self, File},
    net::Ipv4Addr,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use crate::{
    control, disk,
    error::StartError,
    images,
    kubectl::Kubectl,
    layout::{Layout, kept},
    machine::{self, Machine},
    manifests, network, node,
};

/// A control plane is ready in three seconds and nodes ten later, on an idle machine; others build at the same time.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);
const PAUSE_BETWEEN: Duration = Duration::from_millis(100);

/// How many nodes it has, in its folder: written when everything has been started.
const WHOLE: &str = "nodes";

/// Says to tests that there is a cluster, and its number.
const OF_TESTS: &str = "KUBEDB_CLUSTER";

/// A cluster that is up, or was.
#[derive(Clone, Debug)]
pub struct Cluster {
    pub(crate) layout: Layout,
    switch: Machine,
    pub(crate) control: Machine,
    pub(crate) nodes: Vec<Machine>,
}

impl Cluster {
    fn of(layout: Layout) -> Self {
        let machine = |name: &str| Machine::of(&layout, name);
        let nodes = (1..=layout.nodes).map(|node| machine(&Layout::node_name(node)));
        Self {
            switch: machine("switch"),
            control: machine("control"),
            nodes: nodes.collect(),
            layout,
        }
    }

    /// The cluster of that number that was brought up; some of it may have been killed since.
    #[must_use]
    pub fn known(number: u8) -> Option<Self> {
        let folder = Layout::new(number, 1)?.folder;
        let nodes = fs::read_to_string(folder.join(WHOLE)).ok()?;
        Some(Self::of(Layout::new(number, nodes.trim().parse().ok()?)?))
    }

    /// The cluster that tests share, whole: what a test before has killed is started again. None where there is none, which is said; where one was promised
    /// there must be one.
    ///
    /// # Panics
    /// When one was promised and is not there, or does not become whole.
    #[must_use]
    pub fn of_tests() -> Option<Self> {
        let promised = std::env::var(OF_TESTS).ok();
        let number = promised.as_deref().map(str::parse);
        let cluster = Self::known(number.and_then(Result::ok).unwrap_or(0));
        let Some(cluster) = cluster else {
            assert!(promised.is_none(), "there is no cluster");
            tell_nothing_is_tried();
            return None;
        };
        if let Some(lacking) = cluster.lacking() {
            let healed = cluster.heal();
            assert!(healed.is_ok(), "{lacking} does not run: {healed:?}");
        }
        Some(cluster)
    }

    /// Brings a cluster up, from whatever is there. `tell` hears of what takes a while.
    ///
    /// # Errors
    /// When something is missing or does not become ready.
    pub fn up(
        layout: Layout,
        program: &Path,
        tell: impl Fn(&str) + Sync,
    ) -> Result<Self, StartError> {
        let _alone = alone()?;
        if let Some(cluster) =
            Self::known(layout.number).filter(|cluster| cluster.lacking().is_none())
        {
            if cluster.layout.nodes == layout.nodes {
                return Ok(cluster);
            }
            return Err(StartError::Unfit(format!(
                "a cluster with {} nodes is up: end it first, with cargo xtask cluster down",
                cluster.layout.nodes
            )));
        }
        remove(&layout)?;
        images::make(&tell)?;
        images::renew(&layout, &tell)?;
        tell("starting the cluster");
        let cluster = Self::of(layout);
        cluster.begin(program)?;
        Ok(cluster)
    }

    fn begin(&self, program: &Path) -> Result<(), StartError> {
        let layout = &self.layout;
        kubedb_stores::left::private(&layout.folder)
            .map_err(StartError::prepare(&layout.folder))?;
        control::write_keys(layout)?;
        let provisioner = control::provisioner(layout);
        std::os::unix::fs::symlink(program, &provisioner)
            .map_err(StartError::prepare(&provisioner))?;
        network::begin(layout, &self.switch)?;
        // The nodes' images are given while the control plane starts.
        thread::scope(|scope| {
            let nodes = scope.spawn(|| {
                let mut done = self.numbered().map(|(node, machine)| {
                    node::prepare(layout, machine, node)?;
                    self.power(machine)?;
                    node::start(layout, machine, node::CONTAINERD)
                });
                done.try_for_each(|one| one)
            });
            self.start_control()?;
            nodes
                .join()
                .unwrap_or_else(|_| Err(StartError::Unfit("failed to start the nodes".to_owned())))
        })?;
        self.kubectl().apply(&manifests::all())?;
        for machine in &self.nodes {
            self.start_node(machine)?;
        }
        for machine in &self.nodes {
            self.wait_until_ready(&machine.name, true)?;
        }
        let whole = layout.folder.join(WHOLE);
        fs::write(&whole, layout.nodes.to_string()).map_err(StartError::prepare(whole))
    }

    /// Ends the cluster of that number, whatever of it is there; nothing of it stays.
    ///
    /// # Errors
    /// When something cannot be ended or removed.
    pub fn down(number: u8) -> Result<(), StartError> {
        let _alone = alone()?;
        let layout = Layout::new(number, crate::layout::NODES_MAX);
        layout.map_or(Ok(()), |layout| remove(&layout))
    }

    /// The administrator's kubeconfig.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.layout.kubeconfig()
    }

    /// kubectl, as the administrator.
    #[must_use]
    pub fn kubectl(&self) -> Kubectl {
        Kubectl::new(self.kubeconfig())
    }

    /// This machine's address that pods reach: for servers of tests.
    #[must_use]
    pub fn host(&self) -> Ipv4Addr {
        self.layout.host()
    }

    /// The nodes' machines.
    #[must_use]
    pub fn nodes(&self) -> &[Machine] {
        &self.nodes
    }

    /// A node's machine, by name.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn node(&self, name: &str) -> Result<&Machine, StartError> {
        let found = self.nodes.iter().find(|machine| machine.name == name);
        found.ok_or_else(|| StartError::Unfit(format!("there is no node {name}")))
    }

    /// The control plane's machine.
    #[must_use]
    pub fn control(&self) -> &Machine {
        &self.control
    }

    /// Who read or changed a Secret or an object of our kinds, a line of JSON each.
    #[must_use]
    pub fn audit_log(&self) -> PathBuf {
        control::audit_log(&self.control)
    }

    pub(crate) fn start_control(&self) -> Result<(), StartError> {
        self.power(&self.control)?;
        for name in [control::ETCD, control::APISERVER] {
            control::start(&self.layout, &self.control, name)?;
        }
        self.wait_for_api()?;
        control::PROGRAMS
            .into_iter()
            .try_for_each(|name| control::start(&self.layout, &self.control, name))
    }

    pub(crate) fn start_node(&self, machine: &Machine) -> Result<(), StartError> {
        self.power(machine)?;
        disk::mount_all(machine)?;
        for name in node::PROGRAMS {
            node::start(&self.layout, machine, name)?;
            if name == node::CONTAINERD {
                // A kubelet that finds nobody there ends.
                images::wait(machine)?;
            }
        }
        Ok(())
    }

    fn wait_for_api(&self) -> Result<(), StartError> {
        let end = Instant::now() + PATIENCE;
        loop {
            if self.kubectl().raw("/readyz").is_ok() {
                return Ok(());
            }
            for name in [control::ETCD, control::APISERVER] {
                if self.control.running(name).is_empty() {
                    let log = self.control.log(name);
                    return Err(StartError::not_ready(name, "it ended".to_owned(), &log));
                }
            }
            if Instant::now() > end {
                let why = format!("not ready within {PATIENCE:?}");
                let log = self.control.log(control::APISERVER);
                return Err(StartError::not_ready(control::APISERVER, why, &log));
            }
            thread::sleep(PAUSE_BETWEEN);
        }
    }

    fn power(&self, machine: &Machine) -> Result<(), StartError> {
        let node = self.numbered().find(|(_, node)| node.name == machine.name);
        machine.begin()?;
        network::plug(
            &self.layout,
            &self.switch,
            machine,
            node.map(|(node, _)| node),
        )
    }

    fn numbered(&self) -> impl Iterator<Item = (u8, &Machine)> {
        (1..=self.layout.nodes).zip(&self.nodes)
    }

    /// The machines with the programs of each.
    pub(crate) fn parts(&self) -> Vec<(&Machine, &'static [&'static str])> {
        let mut parts: Vec<(&Machine, &[&str])> =
            vec![(&self.switch, &[]), (&self.control, &control::PROGRAMS)];
        parts.extend(self.nodes.iter().map(|node| (node, &node::PROGRAMS[..])));
        parts
    }

    /// What should run and does not; none in a whole cluster.
    pub(crate) fn lacking(&self) -> Option<String> {
        self.parts().into_iter().find_map(|(machine, programs)| {
            if machine.id().is_none() {
                return Some(machine.name.clone());
            }
            let gone = programs
                .iter()
                .find(|name| machine.running(name).is_empty())?;
            Some(format!("{gone} of {}", machine.name))
        })
    }
}

#[expect(clippy::print_stderr, reason = "who runs tests must see it")]
fn tell_nothing_is_tried() {
    eprintln!("NOTHING IS TRIED ON A REAL KUBERNETES: there is none; run cargo xtask cluster up");
}

/// One that begins or ends clusters at a time: they share the store of images.
fn alone() -> Result<File, StartError> {
    let path = kept("lock");
    let folder = kept("");
    fs::create_dir_all(&folder).map_err(StartError::prepare(&folder))?;
    let file = File::create(&path).map_err(StartError::prepare(&path))?;
    file.lock().map_err(StartError::prepare(&path))?;
    Ok(file)
}

/// Ends whatever lives of a cluster, and removes what it has left.
fn remove(layout: &Layout) -> Result<(), StartError> {
    machine::end_all(&layout.folder)?;
    crate::cgroup::remove_all(&layout.prefix())?;
    network::end(layout)?;
    machine::remove(&layout.folder)
}
