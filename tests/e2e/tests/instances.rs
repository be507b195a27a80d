//! Instances: standbys that stream, modes, scaling, endpoints, and clean stops.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use kubedb_e2e::{
    kubedb::{Server, binary, scratch},
    wait::eventually,
};

fn postgres(mode: &str) -> String {
    format!(
        "apiVersion: kubedb.com/v1alpha1\nkind: Postgres\nmetadata:\n  name: pg\nspec:\n  version: \"15\"\n  replicas: 3\n  standbyMode: {mode}\n  storage:\n    resources:\n      requests:\n        storage: 50Mi\n"
    )
}

fn ready(server: &Server, count: u64) {
    eventually(
        &format!("{count} ready instances"),
        Duration::from_secs(120),
        || {
            let object = server.object("pg", "pg", "default")?;
            let status = &object["status"];
            let instances = status["instances"]
                .as_object()
                .map_or(0, |instances| instances.len() as u64);
            if status["phase"] == "Running"
                && status["readyReplicas"] == count
                && instances == count
            {
                Ok(())
            } else {
                Err(status.to_string())
            }
        },
    );
}

fn sql(server: &Server, standby: bool, statement: &str) -> Result<String, String> {
    let mut arguments = vec!["connect", "pg", "pg"];
    if standby {
        arguments.push("--standby");
    }
    arguments.extend(["--", "-AtXc", statement]);
    let ran = server
        .kubedb(&arguments, "")
        .map_err(|error| error.to_string())?;
    if ran.code == 0 {
        Ok(ran.stdout.trim().to_owned())
    } else {
        Err(ran.stderr)
    }
}

#[test]
fn hot_standbys_answer_reads_follow_and_scale() {
    let folder = scratch().unwrap();
    let mut server = Server::start(&binary(), &folder.path().join("data"), &[]).unwrap();
    let created = server
        .kubedb(&["create", "-f", "-"], &postgres("hot"))
        .unwrap();
    assert_eq!(created.code, 0, "{}", created.stderr);
    ready(&server, 3);
    sql(&server, false, "CREATE TABLE t AS SELECT 42 AS n").unwrap();
    eventually("the row on a standby", Duration::from_secs(20), || {
        let found = sql(&server, true, "SELECT n, pg_is_in_recovery() FROM t")?;
        if found == "42|t" { Ok(()) } else { Err(found) }
    });
    let refused = sql(&server, true, "CREATE TABLE u ()").unwrap_err();
    assert!(refused.contains("read-only"), "{refused}");
    let streaming = sql(
        &server,
        false,
        "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'",
    )
    .unwrap();
    assert_eq!(streaming, "2");

    for (replicas, slots) in [("1", "0"), ("2", "1")] {
        let editor = folder.path().join("scale.sh");
        let script =
            format!("#!/bin/sh\nsed -i 's/^  replicas: .*/  replicas: {replicas}/' \"$1\"\n");
        std::fs::write(&editor, script).unwrap();
        std::fs::set_permissions(&editor, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .unwrap();
        let edited = server.kubedb_edit(&["edit", "pg", "pg"], &editor).unwrap();
        assert_eq!(edited.code, 0, "{}", edited.stderr);
        ready(&server, replicas.parse().unwrap());
        eventually(
            "slots of the present standbys only",
            Duration::from_secs(30),
            || {
                let found = sql(&server, false, "SELECT count(*) FROM pg_replication_slots")?;
                if found == slots { Ok(()) } else { Err(found) }
            },
        );
    }

    // A clean stop, and everything comes back with its rows.
    assert!(server.stop());
    let server = Server::start(&binary(), &folder.path().join("data"), &[]).unwrap();
    ready(&server, 2);
    eventually("the row after a restart", Duration::from_secs(20), || {
        let found = sql(&server, false, "SELECT n FROM t")?;
        if found == "42" { Ok(()) } else { Err(found) }
    });
    let deleted = server.kubedb(&["delete", "pg", "pg"], "").unwrap();
    assert_eq!(
        deleted.stdout, "postgres \"pg\" deleted\n",
        "{}",
        deleted.stderr
    );
    assert!(sql(&server, false, "SELECT 1").is_err());
}

#[test]
fn warm_standbys_stream_and_refuse_users() {
    let folder = scratch().unwrap();
    let server = Server::start(&binary(), &folder.path().join("data"), &[]).unwrap();
    let created = server
        .kubedb(&["create", "-f", "-"], &postgres("warm"))
        .unwrap();
    assert_eq!(created.code, 0, "{}", created.stderr);
    ready(&server, 3);
    let streaming = sql(
        &server,
        false,
        "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'",
    )
    .unwrap();
    assert_eq!(streaming, "2");
    let endpoint =
        server.object("pg", "pg", "default").unwrap()["status"]["instances"]["pg-1"]["endpoint"]
            .clone();
    let (host, port) = endpoint.as_str().unwrap().split_once(':').unwrap();
    let psql = std::process::Command::new("/usr/lib/postgresql/15/bin/psql")
        .args([
            "-h", host, "-p", port, "-U", "postgres", "-w", "-c", "SELECT 1",
        ])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&psql.stderr);
    assert!(said.contains("pg_hba.conf rejects connection"), "{said}");
}
