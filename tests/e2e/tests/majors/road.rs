//! The road of one major: a database by a script, a Snapshot of its primary amid writes, a standby, a Snapshot of that at rest, and
//! databases from both.

use std::{fs, os::unix::fs::MetadataExt as _, process::Command, time::Duration};

use kubedb_e2e::{
    instance::Instance,
    metrics::{one, port_of, scrape_at, unanswered},
    process::signal,
    wait::eventually,
    world::{World, from_snapshot, postgres, snapshot},
};
use serde_json::json;

use crate::{
    content::{self, number},
    matrix::Column,
    proof, rows,
};

/// More than the packs that may wait for the store: the Snapshot stays amid its work until the store takes them.
const NOISE: usize = 112 << 20;
/// Slow enough to keep it there.
const SLOW: u64 = 1 << 20;

/// Patience with what takes seconds, on a machine that does other things too.
const SOON: Duration = Duration::from_secs(120);

/// One major on its way.
pub(crate) struct Road<'a> {
    pub(crate) world: &'a World,
    pub(crate) column: Column<'a>,
    /// Name of the database; those from its Snapshots add a word.
    pub(crate) name: String,
    /// What comparisons found. All of them are made before the first of it fails the test.
    differences: Vec<String>,
}

/// The whole of it.
pub(crate) fn walk(world: &World, column: Column<'_>) {
    let name = format!("m{}", column.major.replace('.', ""));
    let mut road = Road {
        world,
        column,
        name,
        differences: Vec::new(),
    };
    let primary = road.begin();
    road.snapshot_amid_writes(&primary);
    let standby = road.follow(&primary);
    road.monitor();
    road.raise_settings(&primary, &standby);
    proof::prove(&mut road, &primary, &standby);
    assert!(road.differences.is_empty(), "{:#?}", road.differences);
    road.end();
}

impl<'a> Road<'a> {
    pub(crate) fn major(&self) -> &'static str {
        self.column.major
    }

    /// Notes what a comparison found, which should be nothing.
    pub(crate) fn found(&mut self, by: &str, different: Vec<String>) {
        let told = different.into_iter().map(|line| format!("{by}: {line}"));
        self.differences.extend(told);
    }

    /// Name of a database or Snapshot beside the first.
    pub(crate) fn named(&self, word: &str) -> String {
        format!("{}-{word}", self.name)
    }

    /// Every question about PostgreSQL is one that this major can answer, as primary and as standby.
    fn monitor(&mut self) {
        for (ordinal, replica) in [(0, 0.0), (1, 1.0)] {
            let port = port_of(self.world, &self.name, ordinal);
            eventually("metrics of an instance", SOON, || {
                let (text, told) = scrape_at(port, "/metrics")?;
                let is_up = one(&told, "pg_up", "") == Some(1.0);
                let is_replica = one(&told, "pg_replication_is_replica", "") == Some(replica);
                let sizes = one(&told, "pg_database_size_bytes", "datname=\"postgres\"");
                if is_up && is_replica && unanswered(&told).is_empty() && sizes > Some(1e6) {
                    Ok(())
                } else {
                    Err(text)
                }
            });
        }
        self.column.proved("metrics");
    }

    /// A database of one instance, filled by its script, with a tablespace and a prepared transaction.
    fn begin(&mut self) -> Instance {
        self.column.begin();
        let script = self.named("script");
        let map = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": script, "namespace": "demo"},
            "data": {"10-content.sql": content::script(self.major()), "README": "passed over"},
        });
        self.world.create(&map.to_string());
        let init = format!(
            "  monitor:\n    agent: prometheus.io/builtin\n  init:\n    scriptSource:\n      configMap:\n        name: {script}\n"
        );
        self.world
            .create(&postgres(&self.name, self.major(), 1, &init));
        self.world.status("pg", &self.name, "Running", 240);
        let primary = Instance::of(self.world, &self.name, 0);
        let made = "SELECT count(*) FROM fixed; SELECT count(*) FROM scratch";
        assert_eq!(primary.sql(made).unwrap(), "20000\n20000");
        let odd = primary.sql_in(content::ODD_DATABASE, "SELECT count(*) FROM fixed");
        assert_eq!(odd.unwrap(), "3000");
        self.column.proved("script init");

        let space = self.world.folder().join(format!("{} spåce", self.name));
        let owner = fs::metadata(primary.data()).unwrap();
        fs::create_dir(&space).unwrap();
        std::os::unix::fs::chown(&space, Some(owner.uid()), Some(owner.gid())).unwrap();
        let space = space.display();
        primary
            .sql(&format!(
                "CREATE TABLESPACE \"odd space\" LOCATION '{space}'"
            ))
            .unwrap();
        primary
            .sql("CREATE TABLE aside TABLESPACE \"odd space\" AS SELECT i, md5(i::text) AS text FROM generate_series(1, 5000) i; CREATE INDEX aside_text ON aside (text) TABLESPACE \"odd space\"")
            .unwrap();
        primary
            .sql(&content::prepare("5001, 0", content::PREPARED))
            .unwrap();
        primary
    }

    /// A Snapshot of the primary. While it is being taken rows come and change, a table goes, one is emptied, one rewritten, databases
    /// come, and a transaction with many parts is open.
    fn snapshot_amid_writes(&mut self, primary: &Instance) {
        self.column.begin();
        let (world, busy) = (self.world, self.named("busy"));
        world.add_noise(&self.name, 0, NOISE);
        // Files are read by name: where the noise lies decides whether the tables are read before or after what happens to them.
        let noise = if number(self.major()).is_multiple_of(2) {
            primary.data().join("noise")
        } else {
            let first = primary.data().join("a noise");
            fs::rename(primary.data().join("noise"), &first).unwrap();
            first
        };
        {
            let _open = primary.open(&content::many_subtransactions());
            primary.becomes(content::IS_OPEN, "1");
            let _load = primary.open(&content::transfers());
            world.line.limit(SLOW);
            world.create(&snapshot(&busy, &self.name));
            eventually("a Snapshot amid its work", SOON, || {
                let status = world.server.object("snap", &busy, "demo")?["status"].take();
                let done = status["progress"]["doneBytes"].as_i64().unwrap_or_default();
                if status["phase"] == "Running" && done > 20 << 20 {
                    Ok(())
                } else {
                    Err(status.to_string())
                }
            });
            let mut statements = content::MEANWHILE.to_owned();
            if number(self.major()) >= 15 {
                statements += content::MEANWHILE_SINCE_15;
            }
            statements += &content::prepare("5002, 0", "meanwhile");
            primary.sql(&statements).unwrap();
            let rows = "CREATE TABLE of_new_database AS SELECT i FROM generate_series(1, 1000) i";
            primary.sql_in("meanwhile", rows).unwrap();
            let status = world.server.object("snap", &busy, "demo").unwrap()["status"].take();
            assert_eq!(
                status["phase"], "Running",
                "all of it was to happen meanwhile: {status}"
            );
            world.line.limit(0);
            let status = world.status("snap", &busy, "Succeeded", 400);
            assert_eq!(status["instance"], format!("{}-0", self.name), "{status}");
            assert_eq!(status["attempt"], 1, "{status}");
        }
        fs::remove_file(noise).unwrap();
        self.column.proved("snapshot of primary");
    }

    /// A second instance, copied from the first.
    fn follow(&mut self, primary: &Instance) -> Instance {
        self.column.begin();
        self.scale(2);
        let standby = Instance::of(self.world, &self.name, 1);
        assert_eq!(standby.sql("SELECT pg_is_in_recovery()").unwrap(), "t");
        assert_own_tablespace(&standby);
        self.column.proved("clone");

        self.mark(primary, &standby);
        primary.becomes(
            "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'",
            "1",
        );
        self.column.proved("stream");

        let other = self.world.folder().join(format!("{} other", self.name));
        let owner = fs::metadata(primary.data()).unwrap();
        fs::create_dir(&other).unwrap();
        std::os::unix::fs::chown(&other, Some(owner.uid()), Some(owner.gid())).unwrap();
        let create = format!("CREATE TABLESPACE shared LOCATION '{}'", other.display());
        let refused = primary.sql(&create).unwrap_err();
        assert!(refused.contains("Permission denied"), "{refused}");
        self.column.proved("no tablespace on two");
        standby
    }

    /// Writes a row, and waits until the standby has it.
    pub(crate) fn mark(&self, primary: &Instance, standby: &Instance) {
        let written = "INSERT INTO followed SELECT count(*) FROM followed RETURNING i";
        let row = primary.sql(written).unwrap();
        standby.becomes("SELECT max(i) FROM followed", &row);
    }

    /// A standby must have at least as many connections and the like as its primary.
    fn raise_settings(&mut self, primary: &Instance, standby: &Instance) {
        self.column.begin();
        primary
            .sql("ALTER SYSTEM SET max_connections = 130; ALTER SYSTEM SET max_locks_per_transaction = 90;")
            .unwrap();
        signal(self.world.postmaster(&self.name, 0).unwrap(), libc_sigint());
        primary.becomes("SHOW max_connections", "130");
        standby.becomes("SHOW max_connections", "130");
        standby.becomes("SHOW max_locks_per_transaction", "90");
        self.mark(primary, standby);
        self.column.proved("raised settings");
    }

    pub(crate) fn scale(&self, replicas: u32) {
        let patch = json!({"spec": {"replicas": replicas}}).to_string();
        let patched = Command::new("kubectl")
            .args(["--kubeconfig", self.world.server.kubeconfig(), "-n", "demo"])
            .args([
                "patch",
                "postgres.kubedb.com",
                &self.name,
                "--type=merge",
                "-p",
                &patch,
            ])
            .output()
            .unwrap();
        assert!(patched.status.success(), "{patched:?}");
        eventually("all instances", SOON, || {
            let status = self.world.server.object("pg", &self.name, "demo")?["status"].take();
            if status["phase"] == "Running" && status["readyReplicas"] == replicas {
                Ok(())
            } else {
                Err(status.to_string())
            }
        });
    }

    /// Begins to make a database from a Snapshot.
    pub(crate) fn restore(&self, word: &str, snapshot: &str) -> String {
        let name = self.named(word);
        self.world
            .create(&postgres(&name, self.major(), 1, &from_snapshot(snapshot)));
        name
    }

    /// Makes room for the next major.
    fn end(self) {
        let names = [self.name.clone(), self.named("rest"), self.named("amid")];
        for name in names {
            let folder = self.world.instance(&name, 0).parent().unwrap().to_owned();
            self.world.delete_for_good(&name);
            eventually("the end of its processes", SOON, || {
                let left = kubedb_e2e::world::processes(&["postgres", &folder.to_string_lossy()]);
                if left.is_empty() {
                    Ok(())
                } else {
                    Err(format!("{left:?}"))
                }
            });
            fs::remove_dir_all(folder).unwrap();
        }
    }
}

/// SIGINT: PostgreSQL's own fast shutdown.
fn libc_sigint() -> i32 {
    2
}

/// Its tablespace lies in its own folder, not where that of its source does.
pub(crate) fn assert_own_tablespace(instance: &Instance) {
    let place = "SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'odd space'";
    let place = instance.sql(place).unwrap();
    let own = instance.folder().join("tablespaces");
    assert!(place.starts_with(&*own.to_string_lossy()), "{place}");
    assert_eq!(instance.sql("SELECT count(*) FROM aside").unwrap(), "5000");
    assert!(rows::databases(instance).contains(&content::ODD_DATABASE.to_owned()));
}
