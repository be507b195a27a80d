//! What runs of a cluster, in words.

use crate::{cluster::Cluster, processes};

impl Cluster {
    /// A line for each machine and program, and what Kubernetes says of its nodes.
    #[must_use]
    pub fn status(&self) -> String {
        let mut lines = Vec::new();
        for (machine, programs) in self.parts() {
            let state = match machine.id() {
                Some(id) => format!("process {id}"),
                None => "does not run".to_owned(),
            };
            lines.push(format!("{:<10} {state}", machine.name));
            for name in programs {
                let running = machine.running(name);
                let memory: u64 = running.iter().copied().map(processes::memory).sum();
                let state = match running.first() {
                    Some(id) => format!("process {id}, {} MB", memory / 1024),
                    None => "does not run".to_owned(),
                };
                lines.push(format!("  {name:<24} {state}"));
            }
        }
        let nodes = self.kubectl().run(&["get", "nodes", "-o", "wide"]);
        lines.push(nodes.unwrap_or_else(|error| error.to_string()));
        lines.push(format!("kubeconfig: {}", self.kubeconfig().display()));
        lines.join("\n")
    }
}
