//! PostgreSQL builds that are fetched: no network, an interrupted fetch, damage.

#![allow(clippy::unwrap_used)]

use std::{fs, path::Path, time::Duration};

use kubedb_e2e::{
    kubedb::{Server, binary},
    machine::Machine,
    wait::eventually,
};

const SOON: Duration = Duration::from_secs(120);

fn status(server: &Server) -> Result<serde_json::Value, String> {
    Ok(server.object("pg", "pg", "default")?["status"].clone())
}

/// Session of the one instance, once it is ready and is not `before`.
#[track_caller]
fn ready(server: &Server, before: &str) -> String {
    eventually("a ready database", SOON, || {
        let status = status(server)?;
        let instance = &status["instances"]["pg-0"];
        match instance["session"].as_str() {
            Some(session) if session != before && instance["ready"] == true => {
                Ok(session.to_owned())
            }
            _ => Err(status.to_string()),
        }
    })
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

#[test]
fn a_fetch_recovers_from_no_network_from_a_kill_and_from_damage() {
    let machine = Machine::new().unwrap();
    let cache = machine.scratch().join("cache");
    let builds = cache.join("kubedb/postgres");
    let cached = ("XDG_CACHE_HOME", cache.to_str().unwrap());
    let start = |environment: &[(&str, &str)]| {
        Server::start(&binary(), machine.data(), environment).unwrap()
    };

    // Nothing listens at port 1: the status says what to do.
    let mut server = start(&[cached, ("HTTPS_PROXY", "http://127.0.0.1:1")]);
    let manifest = "{apiVersion: kubedb.com/v1alpha1, kind: Postgres, metadata: {name: pg}, spec: {version: 9.6, storage: {resources: {requests: {storage: 50Mi}}}}}";
    let created = server.kubedb(&["create", "-f", "-"], manifest).unwrap();
    assert_eq!(created.code, 0, "{}", created.stderr);
    eventually("the reason", SOON, || {
        let status = status(&server)?;
        let reason = status["reason"].as_str().unwrap_or_default();
        let words = [
            "fetching it failed",
            "install postgresql-9.6",
            "tried again",
        ];
        if status["phase"] == "Failed" && words.iter().all(|word| reason.contains(word)) {
            Ok(())
        } else {
            Err(status.to_string())
        }
    });
    assert!(server.stop());

    // The network is back, and the server dies while it unpacks.
    let mut server = start(&[cached]);
    eventually("a build in the making", SOON, || {
        let names = names(&builds);
        if names.is_empty() {
            Err("nothing".to_owned())
        } else {
            Ok(())
        }
    });
    server.kill();
    let mut server = start(&[cached]);
    let session = ready(&server, "");
    assert_eq!(status(&server).unwrap()["postgresVersion"], "9.6.24");
    assert!(server.stop());

    // Files vanish, of the cache and of the copy that the databases' user runs, if there is one.
    let folder = builds.join("9.6.24");
    fs::remove_file(folder.join("bin/initdb")).unwrap();
    let copy = machine.data().join("bin/postgres-9.6.24");
    if copy.exists() {
        fs::remove_dir_all(copy.join("share")).unwrap();
    }
    let mut server = start(&[cached]);
    ready(&server, &session);
    assert!(folder.join("bin/initdb").exists());
    assert!(!copy.exists() || copy.join("share").exists());
    // What is still in the making is of the killed fetch, and too young to be swept.
    eventually("a tidy cache", SOON, || {
        let made: Vec<_> = names(&builds)
            .into_iter()
            .filter(|name| !name.starts_with('.'))
            .collect();
        if made == ["9.6.24"] {
            Ok(())
        } else {
            Err(format!("{made:?}"))
        }
    });
    assert!(server.stop());
}
