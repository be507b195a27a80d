//! kubectl of the control plane's own version.

use std::{
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use serde_json::Value;

use crate::{
    error::StartError,
    machine::feed,
    tools::{run, tools},
};

/// kubectl with one user's kubeconfig.
#[derive(Clone, Debug)]
pub struct Kubectl {
    kubeconfig: PathBuf,
}

impl Kubectl {
    /// With this kubeconfig.
    #[must_use]
    pub fn new(kubeconfig: PathBuf) -> Self {
        Self { kubeconfig }
    }

    /// A command, to be given more.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(tools().join("kubectl"));
        command
            .args(["--request-timeout=30s"])
            .args(arguments)
            .env("KUBECONFIG", &self.kubeconfig);
        if let Some(folder) = self.kubeconfig.parent() {
            command.env("KUBECACHEDIR", folder.join("kubectl-cache"));
        }
        command
    }

    /// Runs it; returns what it printed.
    ///
    /// # Errors
    /// When it fails.
    pub fn run(&self, arguments: &[&str]) -> Result<String, StartError> {
        run(&mut self.command(arguments))
    }

    /// Runs it to its end, whatever that is.
    ///
    /// # Errors
    /// When it does not start.
    pub fn output(&self, arguments: &[&str]) -> Result<Output, StartError> {
        let mut command = self.command(arguments);
        command
            .stdin(Stdio::null())
            .output()
            .map_err(|source| StartError::Start {
                program: "kubectl".to_owned(),
                source,
            })
    }

    /// What is there, as JSON.
    ///
    /// # Errors
    /// When it is not there or cannot be read.
    pub fn get(&self, arguments: &[&str]) -> Result<Value, StartError> {
        let text = self.run(&[&["get", "-o", "json"], arguments].concat())?;
        serde_json::from_str(&text).map_err(|error| StartError::Refused {
            command: format!("kubectl get {arguments:?}"),
            said: error.to_string(),
        })
    }

    /// What the API answers at a path.
    ///
    /// # Errors
    /// When it refuses or does not answer at once.
    pub fn raw(&self, path: &str) -> Result<String, StartError> {
        run(Command::new(tools().join("kubectl"))
            .args(["get", "--raw", path, "--request-timeout=2s"])
            .env("KUBECONFIG", &self.kubeconfig))
    }

    /// Applies objects, on the server's side.
    ///
    /// # Errors
    /// When one of them is refused.
    pub fn apply(&self, objects: &[Value]) -> Result<(), StartError> {
        let list = serde_json::json!({"apiVersion": "v1", "kind": "List", "items": objects});
        let mut command = self.command(&["apply", "--server-side", "--force-conflicts", "-f", "-"]);
        feed(&mut command, &list.to_string())
    }
}
