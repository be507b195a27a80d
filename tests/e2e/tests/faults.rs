//! What goes wrong is told, and nothing stays stuck.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use kubedb_e2e::{
    kubedb::{Server, binary, scratch},
    process::signal,
    stores::FakeGcs,
    wait::eventually,
};
use serde_json::Value;

const NAMESPACE: &str = "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: demo\n";
const SECRET: &str = "\
apiVersion: v1
kind: Secret
metadata:
  name: gcs-secret
  namespace: demo
stringData:
  GOOGLE_PROJECT_ID: trial
  GOOGLE_SERVICE_ACCOUNT_JSON_KEY: '{}'
";

fn postgres(name: &str, more: &str) -> String {
    format!(
        "apiVersion: kubedb.com/v1alpha1\nkind: Postgres\nmetadata:\n  name: {name}\n  namespace: demo\nspec:\n  version: \"15\"\n  storage:\n    resources:\n      requests:\n        storage: 50Mi\n{more}"
    )
}

fn snapshot(name: &str, database: &str, bucket: &str) -> String {
    format!(
        "apiVersion: kubedb.com/v1alpha1\nkind: Snapshot\nmetadata:\n  name: {name}\n  namespace: demo\nspec:\n  databaseName: {database}\n  storageSecretName: gcs-secret\n  gcs:\n    bucket: {bucket}\n"
    )
}

struct World {
    server: Server,
    gcs: FakeGcs,
    _folder: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let folder = scratch().unwrap();
        let gcs = FakeGcs::start(folder.path(), &["kubedb"]).unwrap();
        let endpoint = gcs.endpoint();
        let environment = [("STORAGE_EMULATOR_HOST", endpoint.as_str())];
        let server = Server::start(&binary(), &folder.path().join("data"), &environment).unwrap();
        let world = Self {
            server,
            gcs,
            _folder: folder,
        };
        world.create(NAMESPACE);
        world
    }

    /// One with a database that runs, and the Secret of its store.
    fn with_one() -> Self {
        let world = Self::new();
        world.create(SECRET);
        world.create(&postgres("one", ""));
        world.status("pg", "one", "Running", 90);
        world
    }

    fn create(&self, manifest: &str) {
        let ran = self
            .server
            .kubedb(&["create", "-f", "-"], manifest)
            .unwrap();
        assert_eq!(ran.code, 0, "{}", ran.stderr);
    }

    fn refused(&self, manifest: &str) -> String {
        let ran = self
            .server
            .kubedb(&["create", "-f", "-"], manifest)
            .unwrap();
        assert_eq!(ran.code, 1, "{}", ran.stdout);
        ran.stderr
    }

    fn status(&self, kind: &str, name: &str, phase: &str, seconds: u64) -> Value {
        let what = format!("{kind} {name} {phase}");
        eventually(&what, Duration::from_secs(seconds), || {
            let status = self.server.object(kind, name, "demo")?["status"].take();
            if status["phase"] == phase {
                Ok(status)
            } else {
                Err(status.to_string())
            }
        })
    }

    /// Process id of the PostgreSQL of an instance, by its lock file in the data folder. There is none between a crash and
    /// the next start.
    fn postmaster(&self, database: &str) -> Option<u32> {
        let folder = self.server.data_folder().join("databases/demo");
        let database = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .find(|path| {
                path.file_name()
                    .unwrap()
                    .to_string_lossy()
                    .starts_with(&format!("{database}-"))
            })
            .unwrap();
        std::fs::read_dir(database).unwrap().find_map(|entry| {
            let lock = entry.unwrap().path().join("data/postmaster.pid");
            let text = std::fs::read_to_string(lock).ok()?;
            text.lines().next()?.parse().ok()
        })
    }
}

#[test]
fn a_missing_secret_is_named_and_the_snapshot_goes_on_when_it_comes() {
    let world = World::new();
    let schedule = "  backupSchedule:\n    cronExpression: \"@every 6h\"\n    storageSecretName: gcs-secret\n    gcs:\n      bucket: kubedb\n";
    world.create(&postgres("one", schedule));
    world.status("pg", "one", "Running", 90);
    let name = eventually("the first Snapshot", Duration::from_secs(20), || {
        let snapshots = world.server.objects("snap", "demo")?;
        let first = snapshots.first().ok_or("none")?;
        match first["status"]["reason"].as_str() {
            Some("secrets \"gcs-secret\" not found") => {
                Ok(first["metadata"]["name"].as_str().unwrap().to_owned())
            }
            _ => Err(first["status"].to_string()),
        }
    });
    world.create(SECRET);
    world.status("snap", &name, "Succeeded", 40);
}

#[test]
fn an_absent_bucket_fails_the_snapshot_with_its_name() {
    let world = World::with_one();
    world.create(&snapshot("lost", "one", "nowhere"));
    let status = world.status("snap", "lost", "Failed", 90);
    let reason = status["reason"].as_str().unwrap();
    assert!(reason.contains("nowhere"), "{reason}");
    // The next one works.
    world.create(&snapshot("good", "one", "kubedb"));
    world.status("snap", "good", "Succeeded", 40);
}

#[test]
fn two_snapshots_take_turns_and_a_crashed_postgres_comes_back() {
    let world = World::new();
    world.create(SECRET);
    // Sixty characters: sockets, slots and labels all have shorter limits of their own.
    let long = "a".repeat(60);
    world.create(&postgres(&long, ""));
    world.status("pg", &long, "Running", 90);
    world.create(&format!(
        "{}---\n{}",
        snapshot("one", &long, "kubedb"),
        snapshot("two", &long, "kubedb")
    ));
    let one = world.status("snap", "one", "Succeeded", 60);
    let two = world.status("snap", "two", "Succeeded", 60);
    assert!(
        one["completionTime"].as_str() <= two["startTime"].as_str(),
        "{one} {two}"
    );
    let before = world.postmaster(&long).unwrap();
    signal(before, 9);
    eventually(
        "another postmaster",
        Duration::from_secs(40),
        || match world.postmaster(&long) {
            Some(now) if now != before => Ok(()),
            Some(_) => Err("the old one".to_owned()),
            None => Err("none".to_owned()),
        },
    );
    world.create(&snapshot("three", &long, "kubedb"));
    world.status("snap", "three", "Succeeded", 90);
}

#[test]
fn a_damaged_snapshot_is_refused_at_restore_naming_the_object() {
    let world = World::with_one();
    world.create(&snapshot("whole", "one", "kubedb"));
    world.status("snap", "whole", "Succeeded", 60);
    let packs = world.gcs.objects().join("kubedb/kubedb/demo/one/packs");
    let pack = first_file(&packs).unwrap();
    let name = pack.file_name().unwrap().to_string_lossy().into_owned();
    std::fs::remove_file(&pack).unwrap();
    world.create(&postgres(
        "copy",
        "  init:\n    snapshotSource:\n      name: whole\n",
    ));
    let status = world.status("pg", "copy", "Failed", 60);
    let reason = status["reason"].as_str().unwrap();
    assert!(reason.contains(&name), "{reason} does not name {name}");
}

fn first_file(folder: &std::path::Path) -> Option<std::path::PathBuf> {
    for entry in std::fs::read_dir(folder).ok()? {
        let path = entry.ok()?.path();
        let found = if path.is_dir() {
            first_file(&path)
        } else {
            Some(path)
        };
        if found.is_some() {
            return found;
        }
    }
    None
}

#[test]
fn wrong_manifests_are_refused_by_field_and_reason() {
    let world = World::new();
    let unknown = world.refused(&postgres("one", "  replica: 3\n"));
    assert!(
        unknown.contains("unknown field \"spec.replica\""),
        "{unknown}"
    );
    let unbuilt = world.refused(&postgres(
        "one",
        "  configSource:\n    configMap:\n      name: settings\n",
    ));
    assert!(unbuilt.contains("spec.configSource"), "{unbuilt}");
    let version = world.refused(&postgres("one", "").replace("\"15\"", "\"8.4\""));
    assert!(
        version.contains("KubeDB doesn't support Postgres version: 8.4"),
        "{version}"
    );
    let lonely = world.refused(&snapshot("one", "nobody", "kubedb"));
    assert!(
        lonely.contains("postgreses.kubedb.com \"nobody\" not found"),
        "{lonely}"
    );
    assert!(world.server.objects("pg", "demo").unwrap().is_empty());
}

#[test]
fn a_store_that_is_away_fails_the_snapshot_after_its_attempts_and_the_next_one_works() {
    let mut world = World::with_one();
    world.gcs.kill();
    world.create(&snapshot("early", "one", "kubedb"));
    let status = world.status("snap", "early", "Failed", 200);
    let reason = status["reason"].as_str().unwrap();
    assert!(reason.contains("attempt 3 of 3"), "{reason}");
    world.gcs.restart().unwrap();
    world.create(&snapshot("late", "one", "kubedb"));
    world.status("snap", "late", "Succeeded", 40);
}

#[test]
fn a_folder_that_may_not_be_written_names_who_would_have_to() {
    let world = World::new();
    world.create(&postgres("one", ""));
    world.status("pg", "one", "Running", 90);
    let folder = scratch().unwrap();
    let only_ours = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(folder.path(), only_ours).unwrap();
    let local = format!("  local:\n    mountPath: {}\n", folder.path().display());
    let manifest = snapshot("one", "one", "kubedb")
        .replace("  storageSecretName: gcs-secret\n", "")
        .replace("  gcs:\n    bucket: kubedb\n", &local);
    world.create(&manifest);
    let status = world.status("snap", "one", "Failed", 60);
    let reason = status["reason"].as_str().unwrap();
    let postmaster = world.postmaster("one").unwrap();
    let owner = std::fs::metadata(format!("/proc/{postmaster}")).unwrap();
    let uid = std::os::unix::fs::MetadataExt::uid(&owner);
    let who = format!("({uid}); give the folder to that user");
    assert!(
        reason.contains(&who) && reason.contains("Permission denied for user"),
        "{reason}"
    );
}

#[test]
fn a_snapshot_whose_store_is_gone_is_deleted_without_its_data_by_the_command_that_it_names() {
    let mut world = World::with_one();
    world.create(&snapshot("kept", "one", "kubedb"));
    world.status("snap", "kept", "Succeeded", 60);
    let stored = world.gcs.objects().join("kubedb/kubedb/demo/one");
    let before = objects(&stored);
    assert!(before > 0);
    world.gcs.kill();
    let delete = |arguments: &[&str]| {
        let arguments = [&["delete", "snap", "kept", "-n", "demo"], arguments].concat();
        world.server.kubedb(&arguments, "").unwrap()
    };
    assert_eq!(delete(&["--wait=false"]).code, 0);
    eventually("way out", Duration::from_secs(120), || {
        let status = world.server.object("snap", "kept", "demo")?["status"].take();
        let reason = status["reason"].as_str().unwrap_or_default();
        if reason.contains("kubedb delete snap NAME --keep-data") {
            Ok(())
        } else {
            Err(status.to_string())
        }
    });
    let tried = delete(&["--keep-data", "--dry-run"]);
    assert_eq!(tried.code, 0, "{}", tried.stderr);
    let object = world.server.object("snap", "kept", "demo").unwrap();
    assert_eq!(object["spec"]["deletionPolicy"], Value::Null);
    let deleted = delete(&["--keep-data"]);
    assert_eq!(deleted.code, 0, "{}", deleted.stderr);
    assert!(
        deleted.stderr.contains("kubedb repo list"),
        "{}",
        deleted.stderr
    );
    assert!(world.server.objects("snap", "demo").unwrap().is_empty());
    assert_eq!(objects(&stored), before);
    let no_snapshot = ["delete", "pg", "one", "-n", "demo", "--keep-data"];
    let refused = world.server.kubedb(&no_snapshot, "").unwrap();
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    assert_eq!(world.server.objects("pg", "demo").unwrap().len(), 1);
}

#[test]
fn deleting_a_database_ends_its_snapshots_and_they_can_be_deleted_without_it() {
    let world = World::with_one();
    world.create(&snapshot("done", "one", "kubedb"));
    world.status("snap", "done", "Succeeded", 60);
    world.create(&snapshot("waits", "one", "kubedb").replace("gcs-secret", "later"));
    world.status("snap", "waits", "Pending", 20);
    let deleted = world
        .server
        .kubedb(&["delete", "pg", "one", "-n", "demo"], "")
        .unwrap();
    assert_eq!(deleted.code, 0, "{}", deleted.stderr);
    let status = world.status("snap", "waits", "Failed", 20);
    assert_eq!(status["reason"], "the database was deleted");
    assert_eq!(
        world.status("snap", "done", "Succeeded", 5)["phase"],
        "Succeeded"
    );
    // No instance is left to reach the store: a process of its own does.
    let stored = world.gcs.objects().join("kubedb/kubedb/demo/one");
    assert!(objects(&stored) > 0);
    let deleted = world
        .server
        .kubedb(&["delete", "snap", "done", "-n", "demo"], "")
        .unwrap();
    assert_eq!(deleted.code, 0, "{}", deleted.stderr);
    assert_eq!(objects(&stored), 0);
}

/// Files below a folder.
fn objects(folder: &std::path::Path) -> usize {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.path() {
            path if path.is_dir() => objects(&path),
            _ => 1,
        })
        .sum()
}
