//! Retention with real Snapshots: what is said is what is done, in the store too.

#![allow(clippy::unwrap_used)]

use std::{collections::BTreeSet, path::Path, process::Command, time::Duration};

use kubedb_e2e::{
    kubedb::{Server, binary, run, scratch},
    stores::FakeGcs,
    wait::eventually,
    world::BASICS,
};
use serde_json::Value;

const DATABASE: &str = r#"apiVersion: kubedb.com/v1alpha1
kind: Postgres
metadata: {name: pg, namespace: demo}
spec:
  version: "15"
  storage: {resources: {requests: {storage: 50Mi}}}
  backupSchedule:
    cronExpression: "@every 2s"
    storageSecretName: gcs-secret
    gcs: {bucket: kubedb}
"#;

/// Snapshots that have Succeeded, the newest first.
fn good(server: &Server) -> Result<Vec<String>, String> {
    let all = server.objects("snap", "demo")?;
    let is_good = |snapshot: &&Value| snapshot["status"]["phase"] == "Succeeded";
    let names = all
        .iter()
        .filter(is_good)
        .filter_map(|snapshot| snapshot["metadata"]["name"].as_str());
    let mut names: Vec<String> = names.map(str::to_owned).collect();
    names.sort_by(|a, b| b.cmp(a));
    Ok(names)
}

fn say(server: &Server, arguments: &[&str]) -> String {
    let ran = server.kubedb(arguments, "").unwrap();
    assert_eq!(ran.code, 0, "{arguments:?}: {}", ran.stderr);
    ran.stdout
}

fn patch(server: &Server, text: &str) {
    let mut kubectl = Command::new("kubectl");
    kubectl
        .args(["--kubeconfig", server.kubeconfig(), "-n", "demo"])
        .args(["patch", "pg", "pg", "--type=merge", "-p", text]);
    let ran = run(&mut kubectl, "").unwrap();
    assert_eq!(ran.code, 0, "{}", ran.stderr);
}

/// Snapshots of which the bucket holds anything; the server of the tests leaves empty folders behind.
fn stored(bucket: &Path) -> BTreeSet<String> {
    let folder = bucket.join("kubedb/kubedb/demo/pg/snapshots");
    let entries = std::fs::read_dir(folder).unwrap();
    entries
        .map(Result::unwrap)
        .filter(|entry| std::fs::read_dir(entry.path()).unwrap().next().is_some())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect()
}

#[test]
fn i06_i09_retention_says_what_it_would_do_and_does_that() {
    let folder = scratch().unwrap();
    let gcs = FakeGcs::start(folder.path(), &["kubedb"]).unwrap();
    let endpoint = gcs.endpoint();
    let environment = [("STORAGE_EMULATOR_HOST", endpoint.as_str())];
    let mut server = Server::start(&binary(), &folder.path().join("data"), &environment).unwrap();
    for manifest in [BASICS, DATABASE] {
        let ran = server.kubedb(&["create", "-f", "-"], manifest).unwrap();
        assert_eq!(ran.code, 0, "{}", ran.stderr);
    }
    let snapshots = eventually("four Snapshots", Duration::from_secs(120), || {
        let names = good(&server)?;
        if names.len() >= 4 {
            Ok(names)
        } else {
            Err(format!("{names:?}"))
        }
    });
    patch(&server, r#"{"spec":{"backupSchedule":{"suspend":true}}}"#);
    let snapshots = eventually("an end of Snapshots", Duration::from_secs(60), || {
        let all = server.objects("snap", "demo")?;
        let names = good(&server)?;
        let is_quiet = all.len() == names.len() && names.len() >= snapshots.len();
        if is_quiet {
            Ok(names)
        } else {
            Err(format!("{names:?}"))
        }
    });
    let oldest = snapshots.last().unwrap();

    // Without rules nothing is deleted, and that is said.
    let ran = server
        .kubedb(&["snapshot", "retention", "pg", "-n", "demo"], "")
        .unwrap();
    assert_eq!(ran.code, 1, "{}", ran.stdout);
    assert!(
        ran.stderr.contains("all its Snapshots are kept"),
        "{}",
        ran.stderr
    );
    // Rules on the command line are tried and not applied.
    let arguments = [
        "snapshot",
        "retention",
        "pg",
        "-n",
        "demo",
        "--keep-last",
        "2",
    ];
    let ran = server.kubedb(&arguments, "").unwrap();
    assert_eq!(ran.code, 2, "{} {}", ran.stdout, ran.stderr);
    say(&server, &["snapshot", "pin", oldest, "-n", "demo"]);
    let told = say(
        &server,
        &[&arguments[..], &["--dry-run", "-o", "json"]].concat(),
    );
    let told: Vec<Value> = serde_json::from_str(&told).unwrap();
    let kept = |told: &[Value]| -> BTreeSet<String> {
        let kept = told.iter().filter(|one| one["kept"] == true);
        kept.map(|one| one["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let wanted: BTreeSet<String> = [&snapshots[0], &snapshots[1], oldest]
        .into_iter()
        .cloned()
        .collect();
    assert_eq!(kept(&told), wanted, "{told:?}");
    let table = say(&server, &[&arguments[..], &["--dry-run"]].concat());
    let line = table.lines().last().unwrap();
    assert!(
        line.starts_with(oldest.as_str()) && line.ends_with(" pinned"),
        "{table}"
    );
    assert_eq!(good(&server).unwrap(), snapshots);

    // The operator does what was said, and the store holds no more than that.
    patch(
        &server,
        r#"{"spec":{"backupSchedule":{"retention":{"keepLast":2}}}}"#,
    );
    eventually("retention", Duration::from_secs(120), || {
        let names: BTreeSet<String> = good(&server)?.into_iter().collect();
        let all = server.objects("snap", "demo")?.len();
        if names == wanted && all == names.len() {
            Ok(())
        } else {
            Err(format!("{names:?} of {all}"))
        }
    });
    assert_eq!(stored(gcs.objects()), wanted);
    // By hand, the same rules delete nothing more.
    let again = say(&server, &["snapshot", "retention", "pg", "-n", "demo"]);
    assert!(!again.contains("deleted"), "{again}");
    // The oldest is as good as it was.
    let restored = DATABASE
        .replace("name: pg,", "name: again,")
        .split("  backupSchedule")
        .next()
        .unwrap()
        .to_owned()
        + &format!("  init: {{snapshotSource: {{name: {oldest}}}}}\n");
    let ran = server.kubedb(&["create", "-f", "-"], &restored).unwrap();
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    eventually("a restore", Duration::from_secs(120), || {
        let object = server.object("pg", "again", "demo")?;
        let phase = object["status"]["phase"].as_str().unwrap_or_default();
        if phase == "Running" {
            Ok(())
        } else {
            Err(format!("{}", object["status"]))
        }
    });
    assert!(server.stop(), "the server must stop cleanly");
}
