//! What a database holds, before a Snapshot and after its restore.

#![allow(clippy::unwrap_used)]

use std::{fs, path::Path};

use kubedb_e2e::world::{World, from_snapshot, postgres, snapshot};
use serde_json::{Value, json};

/// Summarizes a database; returns the report's path and what is in it.
fn summarize(world: &World, name: &str, folder: &Path) -> (String, Value) {
    let folder = folder.join(name);
    fs::create_dir_all(&folder).unwrap();
    let arguments = [
        "summarize",
        "pg",
        name,
        "-n",
        "demo",
        "--output",
        folder.to_str().unwrap(),
    ];
    let ran = world.server.kubedb(&arguments, "").unwrap();
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let start = format!("Summary report for \"postgreses/{name}\" has been stored in '");
    let path = ran
        .stdout
        .strip_prefix(&start)
        .unwrap_or_else(|| panic!("{}", ran.stdout));
    let path = path.trim_end().strip_suffix('\'').unwrap().to_owned();
    let report = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    (path, report)
}

#[test]
fn a_restored_database_holds_what_its_source_held() {
    let world = World::new();
    world.create(&postgres("one", "9.6", 1, ""));
    world.status("pg", "one", "Running", 120);
    for statement in [
        "CREATE TABLE plain (text text); INSERT INTO plain SELECT 'x' FROM generate_series(1, 12)",
        "CREATE TABLE counted (id serial PRIMARY KEY, n int); INSERT INTO counted (n) SELECT 1 FROM generate_series(1, 30); DELETE FROM counted WHERE id > 20",
        "CREATE SCHEMA \"odd \"\"name\"; CREATE TABLE \"odd \"\"name\".\"a.b 'c'\" (id bigint)",
    ] {
        world.sql("one", statement).unwrap();
    }
    world.sql("one", "CREATE DATABASE \"other db\"").unwrap();
    world.create(&snapshot("snap", "one"));
    world.status("snap", "snap", "Succeeded", 60);
    let folder = tempfile::tempdir().unwrap();
    let (before, report) = summarize(&world, "one", folder.path());
    assert_eq!(report["kind"], "Postgres");
    assert_eq!(report["metadata"]["name"], "one");
    let schemas = &report["summary"]["postgres"]["postgres"]["schema"];
    let table = |rows: i64, largest: i64, next: i64| json!({"totalRow": rows, "maxId": largest, "nextId": next});
    assert_eq!(schemas["public"]["table"]["plain"], table(12, -1, -1));
    assert_eq!(schemas["public"]["table"]["counted"], table(20, 20, 31));
    assert_eq!(schemas["odd \"name"]["table"]["a.b 'c'"], table(0, 0, -1));
    assert_eq!(
        report["summary"]["postgres"]["other db"]["schema"],
        json!({})
    );

    world.create(&postgres("copy", "9.6", 1, &from_snapshot("snap")));
    world.status("pg", "copy", "Running", 120);
    let compare = |after: &str| {
        let arguments = [
            "compare",
            &before,
            after,
            "--output",
            folder.path().to_str().unwrap(),
        ];
        let ran = world.server.kubedb(&arguments, "").unwrap();
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        let (said, shown) = ran.stdout.split_once("\n\n").unwrap();
        assert!(
            said.starts_with("Comparison result has been stored in '"),
            "{said}"
        );
        let marked = shown.lines().filter(|line| !line.starts_with(' '));
        marked.map(str::to_owned).collect::<Vec<_>>()
    };
    let (after, _) = summarize(&world, "copy", folder.path());
    assert!(compare(&after).is_empty());
    world
        .sql("copy", "DELETE FROM plain WHERE ctid = '(0,1)'")
        .unwrap();
    let (later, _) = summarize(&world, "copy", folder.path());
    let marked = compare(&later);
    let words: Vec<String> = marked.iter().map(|line| line.replace(' ', "")).collect();
    assert_eq!(words, ["-\"totalRow\":12", "+\"totalRow\":11"]);

    let ran = world
        .server
        .kubedb(
            &["summarize", "pg/one", "-n", "demo", "--index", "nowhere"],
            "",
        )
        .unwrap();
    assert_eq!(ran.code, 1);
    assert!(
        ran.stderr.contains("there is no database \"nowhere\""),
        "{}",
        ran.stderr
    );
    assert!(ran.stderr.contains("other db"), "{}", ran.stderr);
}
