//! Keys that are wrong, taken back or replaced, and a bucket that somebody empties: each is told, and mending it is all it takes.

#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use kubedb_e2e::{
    process::signal,
    wait::eventually,
    world::{World, from_snapshot, postgres},
};
use kubedb_stores::{
    fault::{Act, Fault, FaultProxy},
    minio::{KEYS, Minio},
};
use serde_json::Value;

/// What the server takes after it was told to take nothing else.
const LATER: (&str, &str) = ("later-access", "later-secret-key");

struct Scene {
    world: World,
    store: Arc<Mutex<Minio>>,
    proxy: FaultProxy,
}

impl Scene {
    fn new() -> Self {
        let world = World::new();
        let store = Minio::start(world.folder(), &["backups"]).unwrap();
        let proxy = FaultProxy::before(&store.endpoint()).unwrap();
        world.create(&format!(
            "apiVersion: v1\nkind: Secret\nmetadata:\n  name: s3-secret\n  namespace: demo\nstringData:\n  AWS_ACCESS_KEY_ID: {}\n  AWS_SECRET_ACCESS_KEY: {}\n",
            KEYS.0, KEYS.1
        ));
        world.create(&postgres("one", "15", 1, ""));
        world.status("pg", "one", "Running", 120);
        let fill = "CREATE TABLE kept AS SELECT n FROM generate_series(1, 1000) n";
        world.sql("one", fill).unwrap();
        Self {
            world,
            store: Arc::new(Mutex::new(store)),
            proxy,
        }
    }

    fn take(&self, name: &str) {
        let endpoint = format!("http://127.0.0.1:{}", self.proxy.port());
        self.world.create(&format!(
            "apiVersion: kubedb.com/v1alpha1\nkind: Snapshot\nmetadata:\n  name: {name}\n  namespace: demo\nspec:\n  databaseName: one\n  storageSecretName: s3-secret\n  s3:\n    bucket: backups\n    endpoint: {endpoint}\n"
        ));
    }

    fn restore(&self, name: &str, snapshot: &str) {
        self.world
            .create(&postgres(name, "15", 1, &from_snapshot(snapshot)));
    }

    /// Waits until a database's status says these words, and gives it.
    fn told(&self, database: &str, words: &str) -> Value {
        eventually(words, Duration::from_secs(60), || {
            let status = self.world.server.object("pg", database, "demo")?["status"].take();
            if status["reason"]
                .as_str()
                .is_some_and(|reason| reason.contains(words))
            {
                Ok(status)
            } else {
                Err(status.to_string())
            }
        })
    }

    fn patch_secret(&self, (id, key): (&str, &str)) {
        let patch = format!(
            "{{\"stringData\":{{\"AWS_ACCESS_KEY_ID\":\"{id}\",\"AWS_SECRET_ACCESS_KEY\":\"{key}\"}}}}"
        );
        let patched = Command::new("kubectl")
            .args(["--kubeconfig", self.world.server.kubeconfig(), "-n", "demo"])
            .args(["patch", "secret", "s3-secret", "-p", &patch])
            .stdout(Stdio::null())
            .status();
        assert!(patched.unwrap().success());
    }

    fn bucket(&self) -> PathBuf {
        let store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        store.objects().join("backups")
    }

    /// Files that hold the bucket's objects.
    fn stored(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut found = BTreeMap::new();
        collect(&self.bucket(), &mut found);
        found
    }
}

fn collect(folder: &Path, found: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, found);
        } else {
            found.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
}

/// What a store that refuses our keys has users told.
const REFUSED: [&str; 2] = [
    "permission denied",
    "check the keys in the storage Secret and what they may do",
];

#[test]
fn i10_keys_that_are_wrong_or_taken_back_are_named_and_a_rotated_secret_is_all_it_takes() {
    let scene = Scene::new();
    let world = &scene.world;
    let agent = world.agent("one", 0);
    scene.take("first");
    world.status("snap", "first", "Succeeded", 90);
    let first = scene.stored();

    scene.patch_secret((KEYS.0, "no-such-secret-key"));
    scene.take("wrong");
    let status = world.status("snap", "wrong", "Failed", 90);
    let reason = status["reason"].as_str().unwrap();
    assert!(
        REFUSED.iter().all(|words| reason.contains(words)),
        "{reason}"
    );
    assert!(
        !reason.contains("no-such-secret-key") && !reason.contains(KEYS.1),
        "{reason}"
    );
    // A store that knows us not is not asked three times.
    assert_eq!(status["attempt"], 1, "{status}");
    scene.patch_secret(KEYS);
    scene.take("right");
    world.status("snap", "right", "Succeeded", 90);

    // The store takes other keys from the first pack of a Snapshot on.
    let kept = scene.stored();
    let store = Arc::clone(&scene.store);
    let rotate: Act = Arc::new(move || {
        let mut store = store.lock().unwrap_or_else(PoisonError::into_inner);
        store.rotate(LATER).unwrap();
    });
    scene.proxy.strike("/packs/", 0, Fault::Before(rotate));
    scene.take("revoked");
    let status = world.status("snap", "revoked", "Failed", 120);
    let reason = status["reason"].as_str().unwrap();
    assert!(
        REFUSED.iter().all(|words| reason.contains(words)),
        "{reason}"
    );
    assert_eq!(scene.proxy.relent(), 1);

    // A restore waits for keys, and says so; with the Secret's new ones everything goes on without a restart.
    scene.restore("copy", "first");
    let status = scene.told("copy", REFUSED[0]);
    assert_ne!(status["phase"], "Failed", "{status}");
    scene.patch_secret(LATER);
    world.status("pg", "copy", "Running", 150);
    world.sql_becomes("copy", "SELECT sum(n) FROM kept", "500500");
    scene.take("after");
    world.status("snap", "after", "Succeeded", 90);
    for name in ["after", "revoked", "wrong"] {
        world.delete("snap", name);
    }
    assert!(scene.stored() == kept, "objects of others changed");
    world.delete("snap", "right");
    assert!(scene.stored() == first, "objects of others changed");
    assert_eq!(world.agent("one", 0), agent, "the agent was restarted");
}

#[test]
fn a_bucket_emptied_behind_our_back_is_told_once_and_for_all_and_the_next_snapshot_is_whole() {
    let scene = Scene::new();
    let world = &scene.world;
    scene.take("gone");
    let status = world.status("snap", "gone", "Succeeded", 90);
    let manifest = status["result"]["manifest"].as_str().unwrap().to_owned();
    fs::remove_dir_all(scene.bucket().join("kubedb")).unwrap();
    let _ = scene.proxy.take_seen();
    scene.restore("copy", "gone");
    let status = world.status("pg", "copy", "Failed", 90);
    let reason = status["reason"].as_str().unwrap().to_owned();
    assert!(
        reason.contains(&manifest) && reason.contains("failed to find"),
        "{reason}"
    );
    let described = world.run(&["describe", "pg", "copy", "-n", "demo"], "");
    assert!(described.contains(&manifest), "{described}");
    // Refused before anything is fetched.
    let seen = scene.proxy.take_seen();
    assert!(
        seen.len() <= 4 && seen.iter().all(|(method, _)| method != "PUT"),
        "{seen:?}"
    );

    // The next agent does not try again what is known to fail.
    let report = || {
        world.server.object("pg", "copy", "demo").unwrap()["status"]["instances"]["copy-0"].take()
    };
    let former = report()["session"].take();
    signal(world.agent("copy", 0).unwrap(), 9);
    eventually("another agent", Duration::from_secs(60), || {
        let report = report();
        if report["session"] != former && report["phase"] == "Failed" {
            Ok(())
        } else {
            Err(report.to_string())
        }
    });
    assert_eq!(report()["reason"], *reason, "{}", report());
    assert_eq!(scene.proxy.take_seen(), []);

    scene.take("next");
    world.status("snap", "next", "Succeeded", 90);
    let kept = scene.stored();
    // What is gone can be deleted, and nothing else goes with it.
    world.delete("snap", "gone");
    assert!(scene.stored() == kept);
    world.delete_for_good("copy");
    scene.restore("copy", "next");
    world.status("pg", "copy", "Running", 150);
    world.sql_becomes("copy", "SELECT sum(n) FROM kept", "500500");
}
