//! A server or what is in its place, a GCS server behind a line that can be made slow, and what tests ask of databases in namespace `demo`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::Value;

use crate::{
    kubedb::{Ran, Server, binary, run, scratch},
    platform::{Part, Platform},
    slow::SlowProxy,
    stores::FakeGcs,
    wait::eventually,
};

/// Namespace `demo`, and in it the Secret that manifests of tests name.
pub const BASICS: &str = "\
apiVersion: v1
kind: Namespace
metadata:
  name: demo
---
apiVersion: v1
kind: Secret
metadata:
  name: gcs-secret
  namespace: demo
stringData:
  GOOGLE_PROJECT_ID: trial
  GOOGLE_SERVICE_ACCOUNT_JSON_KEY: '{}'
";

/// Everything a test needs; all of it ends with it.
#[derive(Debug)]
pub struct World<P = Server> {
    /// The server, or what is in its place.
    pub server: P,
    /// The bucket's server.
    pub gcs: FakeGcs,
    /// The line to it.
    pub line: SlowProxy,
    folder: tempfile::TempDir,
}

/// A manifest of a Postgres; `more` is added to its spec.
#[must_use]
pub fn postgres(name: &str, version: &str, replicas: u32, more: &str) -> String {
    format!(
        "apiVersion: kubedb.com/v1alpha1\nkind: Postgres\nmetadata:\n  name: {name}\n  namespace: demo\nspec:\n  version: \"{version}\"\n  replicas: {replicas}\n  standbyMode: hot\n  storage:\n    resources:\n      requests:\n        storage: 50Mi\n{more}"
    )
}

/// What is added to restore a Snapshot.
#[must_use]
pub fn from_snapshot(name: &str) -> String {
    format!("  init:\n    snapshotSource:\n      name: {name}\n")
}

/// A manifest of a Snapshot in bucket `kubedb`.
#[must_use]
pub fn snapshot(name: &str, database: &str) -> String {
    format!(
        "apiVersion: kubedb.com/v1alpha1\nkind: Snapshot\nmetadata:\n  name: {name}\n  namespace: demo\nspec:\n  databaseName: {database}\n  storageSecretName: gcs-secret\n  gcs:\n    bucket: kubedb\n"
    )
}

#[expect(
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "a helper that fails is a failed test"
)]
impl World {
    /// A new world.
    #[must_use]
    pub fn new() -> Self {
        let folder = scratch().expect("a scratch folder");
        Self::within(folder)
    }

    /// A new world in a folder of the test's.
    #[must_use]
    pub fn within(folder: tempfile::TempDir) -> Self {
        Self::with(folder, &[])
    }

    /// The same, with more in the server's environment.
    #[must_use]
    pub fn with(folder: tempfile::TempDir, more: &[(&str, &str)]) -> Self {
        let gcs = FakeGcs::start(folder.path(), &["kubedb"]).expect("a GCS server");
        let port = gcs
            .endpoint()
            .rsplit(':')
            .next()
            .and_then(|port| port.parse().ok());
        let line = SlowProxy::start(port.expect("a port")).expect("a proxy");
        let endpoint = line.endpoint();
        let mut environment = vec![("STORAGE_EMULATOR_HOST", endpoint.as_str())];
        environment.extend(more);
        let server = Server::start(&binary(), &folder.path().join("data"), &environment);
        let world = Self::of(server.expect("a server"), gcs, line, folder);
        world.create(BASICS);
        world
    }

    /// `kubedb restore plan`.
    pub fn plan(&self, arguments: &[&str], stdin: &str) -> Ran {
        self.read_store(&[&["restore", "plan"], arguments].concat(), stdin)
    }

    /// A command that reads the store from here.
    pub fn read_store(&self, arguments: &[&str], stdin: &str) -> Ran {
        let mut command = Command::new(binary());
        command
            .args(arguments)
            .env("KUBECONFIG", self.server.kubeconfig())
            .env("STORAGE_EMULATOR_HOST", self.gcs.endpoint());
        run(&mut command, stdin).expect("kubedb runs")
    }

    /// Folder of an instance.
    #[must_use]
    pub fn instance(&self, database: &str, ordinal: u32) -> PathBuf {
        self.server.instance(database, ordinal)
    }

    /// Puts noise into an instance's data folder.
    pub fn add_noise(&self, database: &str, ordinal: u32, bytes: usize) {
        self.server.write_noise(database, ordinal, bytes);
    }

    /// What the server keeps of an instance's agent: its configuration and its log.
    #[must_use]
    pub fn agent_folder(&self, database: &str, ordinal: u32) -> PathBuf {
        self.server.agent_folder(database, ordinal)
    }

    /// Process ids of an instance's agents, of which there is one at most.
    #[must_use]
    pub fn agents(&self, database: &str, ordinal: u32) -> Vec<u32> {
        self.server.agents(database, ordinal)
    }

    /// Process id of an instance's agent.
    #[must_use]
    pub fn agent(&self, database: &str, ordinal: u32) -> Option<u32> {
        self.agents(database, ordinal).into_iter().next()
    }

    /// Process id of an instance's PostgreSQL, by its lock file.
    #[must_use]
    pub fn postmaster(&self, database: &str, ordinal: u32) -> Option<u32> {
        self.server.postmaster(database, ordinal)
    }
}

#[expect(
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "a helper that fails is a failed test"
)]
impl<P: Platform> World<P> {
    /// A world of these parts. The namespace is there, and the Secret of [`BASICS`] in it.
    #[must_use]
    pub fn of(server: P, gcs: FakeGcs, line: SlowProxy, folder: tempfile::TempDir) -> Self {
        Self {
            server,
            gcs,
            line,
            folder,
        }
    }

    /// The folder of everything.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Runs a command that must succeed, and gives what it printed.
    pub fn run(&self, arguments: &[&str], stdin: &str) -> String {
        let ran = self
            .server
            .command(arguments, stdin, None)
            .expect("kubedb runs");
        assert_eq!(ran.code, 0, "{arguments:?}: {}", ran.stderr);
        ran.stdout
    }

    /// Creates what the manifest says.
    pub fn create(&self, manifest: &str) {
        let own = format!("namespace: {}", self.server.namespace());
        let manifest = manifest.replace("namespace: demo", &own);
        self.run(&["create", "-f", "-"], &manifest);
    }

    /// One object as JSON.
    pub fn object(&self, kind: &str, name: &str) -> Result<Value, String> {
        self.json(&[
            "get",
            kind,
            name,
            "-n",
            self.server.namespace(),
            "-o",
            "json",
        ])
    }

    /// Objects of a kind as JSON.
    pub fn objects(&self, kind: &str) -> Result<Vec<Value>, String> {
        let list = self.json(&["get", kind, "-n", self.server.namespace(), "-o", "json"])?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }

    fn json(&self, arguments: &[&str]) -> Result<Value, String> {
        let ran = self.server.command(arguments, "", None);
        let ran = ran.map_err(|error| error.to_string())?;
        if ran.code != 0 {
            return Err(ran.stderr);
        }
        serde_json::from_str(&ran.stdout).map_err(|error| error.to_string())
    }

    /// Deletes an object and waits until it is gone.
    pub fn delete(&self, kind: &str, name: &str) {
        self.run(&["delete", kind, name, "-n", self.server.namespace()], "");
    }

    /// Deletes a database, and the record by which one of its name would resume it. Its data stays.
    pub fn delete_for_good(&self, database: &str) {
        self.delete("pg", database);
        self.run(
            &[
                "delete",
                "drmn",
                database,
                "-n",
                self.server.namespace(),
                "--ignore-not-found",
            ],
            "",
        );
    }

    /// Waits for a phase, and gives the status.
    pub fn status(&self, kind: &str, name: &str, phase: &str, seconds: u64) -> Value {
        let what = format!("{kind} {name} {phase}");
        eventually(&what, Duration::from_secs(seconds), || {
            let status = self.object(kind, name)?["status"].take();
            let is_over = status["phase"] == "Failed" || status["phase"] == "Succeeded";
            assert!(
                status["phase"] == phase || !is_over || kind == "pg",
                "{what}: {status}"
            );
            if status["phase"] == phase {
                Ok(status)
            } else {
                Err(status.to_string())
            }
        })
    }

    /// Runs SQL on the primary.
    pub fn sql(&self, database: &str, statement: &str) -> Result<String, String> {
        self.sql_at(database, &[], statement)
    }

    /// Runs SQL, with options of `kubedb connect` such as `--standby`.
    pub fn sql_at(&self, database: &str, more: &[&str], statement: &str) -> Result<String, String> {
        let mut arguments = vec!["connect", "pg", database, "-n", self.server.namespace()];
        arguments.extend(more);
        arguments.extend(["--", "-AtXqc", statement]);
        let ran = self
            .server
            .command(&arguments, "", None)
            .map_err(|error| error.to_string())?;
        if ran.code == 0 {
            Ok(ran.stdout.trim().to_owned())
        } else {
            Err(ran.stderr)
        }
    }

    /// Waits until a query on the primary gives this.
    pub fn sql_becomes(&self, database: &str, statement: &str, wanted: &str) {
        eventually(
            &format!("{statement} = {wanted}"),
            Duration::from_secs(40),
            || {
                let found = self.sql(database, statement)?;
                if found == wanted { Ok(()) } else { Err(found) }
            },
        );
    }

    /// Objects in the bucket below a database's folder.
    #[must_use]
    pub fn stored(&self, database: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut folders = vec![self.folder_in_bucket(database)];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder)
                .into_iter()
                .flatten()
                .filter_map(Result::ok)
            {
                let path = entry.path();
                if path.is_dir() {
                    folders.push(path)
                } else {
                    found.push(path)
                }
            }
        }
        found
    }

    /// Folder of a database in the bucket.
    #[must_use]
    pub fn folder_in_bucket(&self, database: &str) -> PathBuf {
        let below = self.gcs.objects().join("kubedb/kubedb");
        below.join(self.server.namespace()).join(database)
    }

    /// Process id of a part of an instance.
    #[must_use]
    pub fn part(&self, database: &str, ordinal: u32, part: Part) -> u32 {
        let found = self.server.part(database, ordinal, part);
        *found.first().expect("a process")
    }
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

/// Processes whose command line holds all these words.
#[must_use]
pub fn processes(words: &[&str]) -> Vec<u32> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| *pid != std::process::id())
        .filter(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            !line.is_empty() && words.iter().all(|word| line.contains(word))
        })
        .collect()
}
