//! A server, a GCS server behind a line that can be made slow, and what tests ask of databases in namespace `demo`.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

use serde_json::Value;

use crate::{
    kubedb::{Ran, Server, binary, run, scratch},
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
pub struct World {
    /// The server.
    pub server: Server,
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
        let world = Self {
            server: server.expect("a server"),
            gcs,
            line,
            folder,
        };
        world.create(BASICS);
        world
    }

    /// The folder of everything.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Runs a command that must succeed, and gives what it printed.
    pub fn run(&self, arguments: &[&str], stdin: &str) -> String {
        let ran = self.server.kubedb(arguments, stdin).expect("kubedb runs");
        assert_eq!(ran.code, 0, "{arguments:?}: {}", ran.stderr);
        ran.stdout
    }

    /// `kubedb restore plan`, which reads the store from here.
    pub fn plan(&self, arguments: &[&str], stdin: &str) -> Ran {
        let mut command = Command::new(binary());
        command
            .args(["restore", "plan"])
            .args(arguments)
            .env("KUBECONFIG", self.server.kubeconfig())
            .env("STORAGE_EMULATOR_HOST", self.gcs.endpoint());
        run(&mut command, stdin).expect("kubedb runs")
    }

    /// Creates what the manifest says.
    pub fn create(&self, manifest: &str) {
        self.run(&["create", "-f", "-"], manifest);
    }

    /// Deletes an object and waits until it is gone.
    pub fn delete(&self, kind: &str, name: &str) {
        self.run(&["delete", kind, name, "-n", "demo"], "");
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
                "demo",
                "--ignore-not-found",
            ],
            "",
        );
    }

    /// Waits for a phase, and gives the status.
    pub fn status(&self, kind: &str, name: &str, phase: &str, seconds: u64) -> Value {
        let what = format!("{kind} {name} {phase}");
        eventually(&what, Duration::from_secs(seconds), || {
            let status = self.server.object(kind, name, "demo")?["status"].take();
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
        let mut arguments = vec!["connect", "pg", database, "-n", "demo"];
        arguments.extend(more);
        arguments.extend(["--", "-AtXqc", statement]);
        let ran = self
            .server
            .kubedb(&arguments, "")
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

    /// Folder of an instance.
    #[must_use]
    pub fn instance(&self, database: &str, ordinal: u32) -> PathBuf {
        self.folder_of(database)
            .join(format!("{database}-{ordinal}"))
    }

    /// Folder of a database, which its UID is part of; the server makes it soon after the object.
    fn folder_of(&self, database: &str) -> PathBuf {
        let object = self.server.object("pg", database, "demo");
        let object = object.expect("the database");
        let resumed = &object["status"]["resumed"]["uid"];
        let own = &object["metadata"]["uid"];
        let uid = if resumed.is_string() { resumed } else { own };
        let short: String = uid.as_str().unwrap_or_default().chars().take(8).collect();
        let folder = self
            .server
            .data_folder()
            .join("databases/demo")
            .join(format!("{database}-{short}"));
        eventually("the database's folder", Duration::from_secs(60), || {
            if folder.is_dir() {
                Ok(())
            } else {
                Err(folder.display().to_string())
            }
        });
        folder
    }

    /// Puts a file of bytes that do not compress, other ones each time, into an instance's data folder; Snapshots hold it as they hold any
    /// file there, and no earlier one has it.
    pub fn add_noise(&self, database: &str, ordinal: u32, bytes: usize) {
        let data = self.instance(database, ordinal).join("data");
        let owner = fs::metadata(&data).expect("the data folder");
        let path = data.join("noise");
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.expect("a time after 1970").subsec_nanos();
        let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ u64::from(now);
        let noise: Vec<u8> = (0..bytes / 8)
            .flat_map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state.to_le_bytes()
            })
            .collect();
        fs::write(&path, noise).expect("room for noise");
        std::os::unix::fs::chown(&path, Some(owner.uid()), Some(owner.gid()))
            .expect("to hand it over");
    }

    /// Objects in the bucket below a database's folder.
    #[must_use]
    pub fn stored(&self, database: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut folders = vec![self.gcs.objects().join("kubedb/kubedb/demo").join(database)];
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

    /// What the server keeps of an instance's agent: its configuration and its log.
    #[must_use]
    pub fn agent_folder(&self, database: &str, ordinal: u32) -> PathBuf {
        let instance = format!("{database}-{ordinal}");
        self.folder_of(database).join("agents").join(instance)
    }

    /// Process ids of an instance's agents, of which there is one at most.
    #[must_use]
    pub fn agents(&self, database: &str, ordinal: u32) -> Vec<u32> {
        let config = self.agent_folder(database, ordinal).join("agent.json");
        processes(&["agent", "run", &config.to_string_lossy()])
    }

    /// Process id of an instance's agent.
    #[must_use]
    pub fn agent(&self, database: &str, ordinal: u32) -> Option<u32> {
        self.agents(database, ordinal).into_iter().next()
    }

    /// Process id of an instance's PostgreSQL, by its lock file.
    #[must_use]
    pub fn postmaster(&self, database: &str, ordinal: u32) -> Option<u32> {
        let lock = self.instance(database, ordinal).join("data/postmaster.pid");
        fs::read_to_string(lock).ok()?.lines().next()?.parse().ok()
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
