//! What tests do to a cluster: they kill, cut off, fill up, and bring back.

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    cluster::{Cluster, PATIENCE},
    disk,
    error::StartError,
    images,
    machine::Machine,
    manifests, network, node,
};

const PAUSE_BETWEEN: Duration = Duration::from_millis(100);

/// A node that nothing reaches. It is taken back when this is dropped, also by a test that fails.
#[derive(Debug)]
pub struct CutOff {
    machine: Machine,
}

impl Drop for CutOff {
    fn drop(&mut self) {
        // A machine whose power was cut meanwhile has forgotten the rule.
        let _ = network::rejoin(&self.machine);
    }
}

impl Cluster {
    /// kill -9 of a node: of its kubelet, its containerd and all of its pods, at once.
    ///
    /// # Errors
    /// When there is no such node, or something lives on.
    pub fn kill_node(&self, name: &str) -> Result<(), StartError> {
        self.node(name)?.cut_power()
    }

    /// Starts what does not run of a node: all of it after [`Self::kill_node`], a program after [`Machine::kill`].
    ///
    /// # Errors
    /// When something does not start.
    pub fn restart_node(&self, name: &str) -> Result<(), StartError> {
        self.start_node(self.node(name)?)
    }

    /// Starts what does not run of the control plane, after [`Machine::kill`] of one of its programs or a cut of its power.
    ///
    /// # Errors
    /// When something does not start, or the API does not become ready.
    pub fn restart_control(&self) -> Result<(), StartError> {
        self.start_control()
    }

    /// Starts whatever does not run, and waits until all nodes are ready.
    ///
    /// # Errors
    /// When something does not start.
    pub fn heal(&self) -> Result<(), StartError> {
        self.start_control()?;
        self.nodes
            .iter()
            .try_for_each(|machine| self.start_node(machine))?;
        self.nodes
            .iter()
            .try_for_each(|machine| self.wait_until_ready(&machine.name, true))
    }

    /// Cuts a node off from everybody, until the value is dropped; its pods live on.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn cut_off(&self, name: &str) -> Result<CutOff, StartError> {
        let machine = self.node(name)?.clone();
        network::cut_off(&machine)?;
        Ok(CutOff { machine })
    }

    /// Gives all nodes the image in an archive as `docker save` writes it.
    ///
    /// # Errors
    /// When one of them refuses.
    pub fn import_image(&self, archive: &Path) -> Result<(), StartError> {
        self.nodes
            .iter()
            .try_for_each(|machine| images::import(machine, archive))
    }

    /// Gives a node a disk of so many bytes, which fills up as one: a volume for the one claim that asks for the StorageClass of its name.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn add_disk(&self, node: &str, name: &str, bytes: u64) -> Result<(), StartError> {
        let path = disk::add(self.node(node)?, name, bytes)?;
        self.kubectl()
            .apply(&manifests::disk(node, name, &path, bytes))
    }

    /// Waits until a node is ready, or is not.
    ///
    /// # Errors
    /// When that takes too long.
    pub fn wait_until_ready(&self, node: &str, ready: bool) -> Result<(), StartError> {
        let end = Instant::now() + PATIENCE;
        loop {
            let status = self.kubectl().get(&["node", node]).unwrap_or_default();
            if is_ready(&status) == Some(ready) {
                return Ok(());
            }
            if Instant::now() > end {
                let why = format!(
                    "ready is not {ready} within {PATIENCE:?}: {}",
                    status["status"]["conditions"]
                );
                let log = self.node(node)?.log(node::KUBELET);
                return Err(StartError::not_ready(node, why, &log));
            }
            thread::sleep(PAUSE_BETWEEN);
        }
    }
}

fn is_ready(node: &Value) -> Option<bool> {
    let conditions = node["status"]["conditions"].as_array()?;
    let ready = conditions.iter().find(|one| one["type"] == "Ready")?;
    Some(ready["status"] == "True")
}
