//! The tests' cluster as a place where what is tried with `kubedb server` is tried, too.

use std::{fs, net::SocketAddrV4, path::Path, sync::MutexGuard};

use kubedb_cluster::{Cluster, Kubectl};
use kubedb_e2e::{
    kubedb::{Ran, run, scratch},
    platform::{Part, Platform},
    process::{HelperError, signal},
    slow::SlowProxy,
    stores::{FakeGcs, free_port},
    wait::eventually,
    world::{World, processes},
};
use serde_json::Value;

use crate::world::{PATIENCE, SYSTEM, begin, command, objects};

/// What the agents are started with, in every pod.
const AGENT: &str = "/opt/kubedb/kubedb agent run --pod";
/// And the operators.
const OPERATOR: &str = "/kubedb operator";
/// Goes to an instance's data folder, which lies in one that its database's UID names.
const GO: &str = "cd /var/pv/*/data";

/// kubedb in the tests' cluster, with a namespace for one test.
pub(crate) struct OnCluster {
    cluster: Cluster,
    kubectl: Kubectl,
    namespace: String,
    _alone: MutexGuard<'static, ()>,
}

/// Tries something in a world of its own on the cluster; nothing where no cluster is up and nobody insists on one.
pub(crate) fn on_cluster(name: &str, tried: impl FnOnce(World<OnCluster>)) {
    let Some((cluster, port, alone)) = begin() else {
        return;
    };
    let gcs = FakeGcs::start_at(objects(), cluster.host(), free_port().unwrap()).unwrap();
    let behind = gcs.endpoint();
    let behind = behind.rsplit(':').next().unwrap().parse().unwrap();
    let at = |port| SocketAddrV4::new(cluster.host(), port);
    let line = SlowProxy::start_at(at(port), at(behind)).unwrap();
    let kubectl = cluster.kubectl();
    let namespace = crate::world::namespace(&kubectl, name);
    let server = OnCluster {
        cluster,
        kubectl,
        namespace,
        _alone: alone,
    };
    tried(World::of(server, gcs, line, scratch().unwrap()));
}

impl OnCluster {
    /// Processes with these words in the containers of a pod, as this machine counts them.
    fn of_pod(&self, namespace: &str, pod: &str, words: &str) -> Vec<u32> {
        let found = self.kubectl.get(&["-n", namespace, "pod", pod]);
        let found = found.unwrap_or_default();
        let Some(uid) = found["metadata"]["uid"].as_str() else {
            return Vec::new();
        };
        let is_its = |id: &u32| {
            let groups = fs::read_to_string(format!("/proc/{id}/cgroup")).unwrap_or_default();
            groups.contains(uid)
        };
        processes(&[words]).into_iter().filter(is_its).collect()
    }

    fn within(&self, database: &str, ordinal: u32, script: &str) -> Result<String, String> {
        let pod = format!("{database}-{ordinal}");
        let words = [
            "-n",
            &self.namespace,
            "exec",
            &pod,
            "-c",
            "postgres",
            "--",
            "bash",
            "-c",
            script,
        ];
        self.kubectl.run(&words).map_err(|error| error.to_string())
    }
}

/// The first of PostgreSQL's processes has a command line; the others say what they do.
fn is_postmaster(id: u32) -> bool {
    let line = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
    let program = line.split(|byte| *byte == 0).next().unwrap_or_default();
    program == b"postgres" || program.ends_with(b"/postgres")
}

impl Platform for OnCluster {
    fn namespace(&self) -> &str {
        &self.namespace
    }

    fn command(
        &self,
        arguments: &[&str],
        stdin: &str,
        editor: Option<&Path>,
    ) -> Result<Ran, HelperError> {
        let mut command = command(&self.cluster, arguments);
        if let Some(editor) = editor {
            command.env("KUBEDB_EDITOR", editor);
        }
        run(&mut command, stdin)
    }

    fn part(&self, database: &str, ordinal: u32, part: Part) -> Vec<u32> {
        let pod = format!("{database}-{ordinal}");
        match part {
            Part::Agent => self.of_pod(&self.namespace, &pod, AGENT),
            Part::Postmaster => {
                let all = self.of_pod(&self.namespace, &pod, "postgres");
                all.into_iter().filter(|id| is_postmaster(*id)).collect()
            }
        }
    }

    fn kill_session(&self, database: &str, ordinal: u32, pid: u32) {
        let killed = self.within(database, ordinal, &format!("kill -9 {pid}"));
        killed.unwrap();
    }

    fn kill_operator(&mut self) {
        let id = eventually("an operator that leads", PATIENCE, || {
            let lease = self
                .kubectl
                .get(&["-n", SYSTEM, "lease", "kubedb-operator"]);
            let lease = lease.map_err(|error| error.to_string())?;
            let leads = lease["spec"]["holderIdentity"].as_str().unwrap_or_default();
            let found = self.of_pod(SYSTEM, leads, OPERATOR);
            found
                .first()
                .copied()
                .ok_or_else(|| lease["spec"].to_string())
        });
        signal(id, 9);
    }

    fn add_noise(&self, database: &str, ordinal: u32, bytes: usize) {
        let script = format!("{GO} && head -c {bytes} /dev/urandom >noise");
        self.within(database, ordinal, &script).unwrap();
    }

    fn has_noise(&self, database: &str, ordinal: u32) -> bool {
        let looked = self.within(database, ordinal, &format!("{GO} && test -e noise"));
        looked.is_ok()
    }

    fn left(&self, database: &str) -> Vec<String> {
        let label = format!("kubedb.com/kind=Postgres,kubedb.com/name={database}");
        let found = self
            .kubectl
            .get(&["-n", &self.namespace, "pods", "-l", &label]);
        let found = found.unwrap_or_else(|error| Value::String(error.to_string()));
        let Some(pods) = found["items"].as_array() else {
            return vec![found.to_string()];
        };
        let names = pods.iter().map(|pod| pod["metadata"]["name"].to_string());
        names.collect()
    }

    /// The cluster stays for other tests; what this one made goes.
    fn stop(&mut self) -> bool {
        let words = ["delete", "namespace", &self.namespace, "--wait=false"];
        self.kubectl.run(&words).is_ok()
    }
}
