//! A database that archives, and what comes back of it.

use std::{path::PathBuf, time::Duration};

use kubedb_e2e::{
    wait::eventually,
    world::{World, postgres, snapshot},
};
use serde_json::Value;

/// Archives into the bucket of the Snapshots.
pub(crate) const ARCHIVER: &str = "  archiver:\n    storage:\n      storageSecretName: gcs-secret\n      gcs:\n        bucket: kubedb\n";

pub(crate) const ROWS: &str =
    "SELECT coalesce(string_agg(i::text, ' ' ORDER BY i), 'none') FROM step";

/// A database with an archive, a Snapshot, and steps after it.
pub(crate) struct Source<'a> {
    pub(crate) world: &'a World,
    pub(crate) name: String,
    pub(crate) version: &'a str,
}

impl<'a> Source<'a> {
    /// A Snapshot `<name>-base` with no step in it.
    pub(crate) fn begin(world: &'a World, name: &str, version: &'a str) -> Self {
        world.create(&postgres(name, version, 1, ARCHIVER));
        world.status("pg", name, "Running", 120);
        let source = Self {
            world,
            name: name.to_owned(),
            version,
        };
        source.sql("CREATE TABLE step (i int)");
        source.snapshot("base");
        source
    }

    pub(crate) fn snapshot(&self, name: &str) {
        let name = format!("{}-{name}", self.name);
        self.world.create(&snapshot(&name, &self.name));
        self.world.status("snap", &name, "Succeeded", 120);
    }

    pub(crate) fn sql(&self, statement: &str) -> String {
        self.world.sql(&self.name, statement).unwrap()
    }

    pub(crate) fn step(&self, number: u32) {
        self.sql(&format!("INSERT INTO step VALUES ({number})"));
    }

    /// `wal` and `lsn` as functions of this major are called.
    pub(crate) fn function(&self, name: &str) -> String {
        if self.version == "9.6" {
            name.replace("wal", "xlog").replace("lsn", "location")
        } else {
            name.to_owned()
        }
    }

    /// Ends the segment in work and waits until everything written so far is archived.
    pub(crate) fn archive(&self) {
        // A segment in which nothing stands is not ended.
        self.sql("SELECT pg_create_restore_point('archived')");
        let current = self.function("pg_walfile_name(pg_current_wal_lsn())");
        let last = self.sql(&format!("SELECT {current}"));
        self.sql(&format!("SELECT {}()", self.function("pg_switch_wal")));
        eventually(&format!("{last} archived"), Duration::from_secs(60), || {
            let archive = self.archive_status();
            let done = archive["lastSegment"].as_str().unwrap_or_default();
            if done >= last.as_str() {
                Ok(())
            } else {
                Err(archive.to_string())
            }
        });
    }

    pub(crate) fn archive_status(&self) -> Value {
        let object = self.world.server.object("pg", &self.name, "demo").unwrap();
        object["status"]["instances"][format!("{}-0", self.name)]["archive"].clone()
    }

    /// A database recovered from the Snapshot to a target.
    pub(crate) fn recover(&self, name: &str, base: &str, target: &str) {
        let init = format!(
            "  init:\n    snapshotSource:\n      name: {}-{base}\n      target: {target}\n",
            self.name
        );
        self.world.create(&postgres(name, self.version, 1, &init));
    }

    /// Rows of a database that was recovered so; it goes afterwards.
    pub(crate) fn recovered(&self, base: &str, target: &str) -> String {
        let name = format!("{}-back", self.name);
        self.recover(&name, base, target);
        self.world.status("pg", &name, "Running", 120);
        let rows = self.world.sql(&name, ROWS).unwrap();
        self.world
            .sql(&name, "INSERT INTO step VALUES (0)")
            .unwrap();
        self.world.delete_for_good(&name);
        rows
    }

    /// Why a database cannot be recovered so.
    pub(crate) fn refused(&self, base: &str, target: &str) -> String {
        let name = format!("{}-back", self.name);
        self.recover(&name, base, target);
        let why = eventually("a refusal", Duration::from_secs(150), || {
            let object = self.world.server.object("pg", &name, "demo")?;
            let report = &object["status"]["instances"][format!("{name}-0")];
            let reason = report["reason"].as_str().unwrap_or_default();
            let is_told = reason.contains("recover") && reason.contains("failed to");
            if is_told {
                Ok(reason.to_owned())
            } else {
                Err(object["status"].to_string())
            }
        });
        let data = self.world.instance(&name, 0).join("data");
        assert!(!data.exists(), "{why}");
        self.world.delete_for_good(&name);
        why
    }

    /// The time, as a status shows it.
    pub(crate) fn now(&self) -> String {
        self.sql(
            "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')",
        )
    }

    /// Waits until everything that was committed by then is archived.
    pub(crate) fn covered(&self, time: &str) {
        eventually("coverage", Duration::from_secs(90), || {
            let status = self.archive_status();
            let covered = status["coveredTime"].as_str().unwrap_or_default();
            if covered > time {
                Ok(())
            } else {
                Err(status.to_string())
            }
        });
    }

    /// Pieces of segments in work.
    pub(crate) fn begun(&self) -> Vec<PathBuf> {
        let all = self.world.stored(&self.name);
        let is_begun = |path: &PathBuf| path.to_string_lossy().contains("/tail/");
        all.into_iter().filter(is_begun).collect()
    }

    /// Objects of the archive.
    pub(crate) fn archived(&self) -> Vec<PathBuf> {
        let all = self.world.stored(&self.name);
        let is_wal = |path: &PathBuf| path.to_string_lossy().contains("/wal_005/");
        all.into_iter().filter(is_wal).collect()
    }
}
