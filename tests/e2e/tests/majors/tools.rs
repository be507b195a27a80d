//! PostgreSQL's own checks of a copy.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
};

use kubedb_e2e::{instance::Instance, kubedb::run};
use serde_json::Value;

use crate::{content::number, pages, rows::databases};

/// Debian's programs; those of the archive's builds are without clients.
const DEBIAN: &str = "/usr/lib/postgresql/15/bin";

/// Has the server itself copy its files, and list them with hashes: to what PostgreSQL's own tools see of it, our copies are held.
/// The list is there since 13.
pub(crate) fn own_manifest(instance: &Instance, major: &str) -> PathBuf {
    let folder = instance.folder().join("independent");
    let mut command = if number(major) >= 15 {
        let target = folder.display();
        let text = format!(
            "BASE_BACKUP (LABEL 'independent', CHECKPOINT 'fast', WAL false, WAIT false, TARGET 'server', TARGET_DETAIL '{target}', MANIFEST 'yes', MANIFEST_CHECKSUMS 'SHA256')"
        );
        let mut command = instance.client("psql");
        command
            .env("PGOPTIONS", "")
            .args(["-XAtq", "-d", "replication=true", "-c", &text]);
        command
    } else {
        let mut command = instance.client(Path::new(DEBIAN).join("pg_basebackup"));
        command
            .env_remove("PGDATABASE")
            .args(["-F", "tar", "-X", "none", "-c", "fast", "--no-sync"])
            .args(["--manifest-checksums=SHA256", "-D"])
            .arg(&folder);
        command
    };
    // psql knows no command that answers so, and calls it a failure without a word. The list is what is written last.
    let ran = run(&mut command, "").unwrap();
    let list = folder.join("backup_manifest");
    assert!(list.exists(), "{}", ran.stderr);
    list
}

/// Files of relations in a copy that are not what the server's own list says, by path.
pub(crate) fn against_manifest(manifest: &Path, data: &Path) -> Vec<String> {
    let text = std::fs::read(manifest).unwrap();
    let list: Value = serde_json::from_slice(&text).unwrap();
    let files = list["Files"].as_array().unwrap();
    let listed: BTreeMap<&str, &Value> = files
        .iter()
        .filter_map(|file| Some((file["Path"].as_str()?, file)))
        .collect();
    let relations = pages::relations(data);
    let mut command = Command::new("sha256sum");
    command.current_dir(data).args(relations.keys());
    let hashes = run(&mut command, "").unwrap().stdout;
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for line in hashes.lines() {
        let (hash, path) = line.split_once("  ").unwrap();
        let known = listed.get(path);
        seen += usize::from(known.is_some());
        if known.is_none_or(|file| file["Checksum"] != hash) {
            wrong.push(path.to_owned());
        }
    }
    assert_eq!(hashes.lines().count(), relations.len());
    assert!(
        seen + 20 > relations.len(),
        "{seen} of {} are listed",
        relations.len()
    );
    wrong
}

/// What `pg_verifybackup` says of a copy that has lived on, without the files that a living server changes.
pub(crate) fn verify_backup(
    manifest: &Path,
    data: &Path,
    leaves_out: &[&str],
) -> Result<(), String> {
    let mut command = Command::new(Path::new(DEBIAN).join("pg_verifybackup"));
    command
        .args(["--no-parse-wal", "--quiet", "-m"])
        .arg(manifest);
    let relations = pages::relations(data);
    for entry in every_file(data) {
        let is_left_out = leaves_out.iter().any(|path| entry.starts_with(path));
        if is_left_out || !relations.contains_key(&entry) {
            command.args(["-i", &entry]);
        }
    }
    // Of those that come and go, some are in the list alone.
    for path in [
        "pg_wal",
        "backup_label",
        "tablespace_map",
        "pg_stat",
        "pg_logical",
        "pg_xact",
        "pg_multixact",
    ] {
        command.args(["-i", path]);
    }
    let ran = run(command.arg(data), "").unwrap();
    if ran.code == 0 {
        Ok(())
    } else {
        Err(ran.stderr)
    }
}

fn every_file(data: &Path) -> Vec<String> {
    let mut command = Command::new("find");
    command
        .args(["-L", ".", "-type", "f", "-printf", "%P\\n"])
        .current_dir(data);
    let found = run(&mut command, "").unwrap();
    found.stdout.lines().map(str::to_owned).collect()
}

/// Checks tables and indexes of every database by amcheck; says by what.
pub(crate) fn amcheck(instance: &Instance, major: &str) -> Result<&'static str, String> {
    match number(major) {
        14.. => {
            let mut command = instance.client(Path::new(DEBIAN).join("pg_amcheck"));
            command.args([
                "--all",
                "--install-missing",
                "--heapallindexed",
                "--parent-check",
                "--jobs=2",
            ]);
            let ran = run(&mut command, "").map_err(|error| error.to_string())?;
            if ran.code == 0 {
                Ok("pg_amcheck")
            } else {
                Err(ran.stdout + &ran.stderr)
            }
        }
        10..=13 => {
            let more = if number(major) >= 11 { ", true" } else { "" };
            let check = format!(
                "CREATE EXTENSION IF NOT EXISTS amcheck; SELECT count(bt_index_parent_check(c.oid{more})) > 50 FROM pg_index JOIN pg_class c ON c.oid = indexrelid JOIN pg_am a ON a.oid = relam WHERE amname = 'btree' AND relpersistence = 'p' AND indisvalid"
            );
            for database in databases(instance) {
                let ran = instance.sql_in(&database, &check)?;
                assert_eq!(ran, "t", "{database}");
            }
            Ok("bt_index_parent_check")
        }
        _ => {
            // amcheck came with 10. What 9.6 has looks at the maps of what is visible.
            let check = "SELECT count(*) FROM pg_class c, LATERAL (SELECT * FROM pg_check_visible(c.oid) UNION ALL SELECT * FROM pg_check_frozen(c.oid)) wrong WHERE relkind IN ('r', 't', 'm') AND relpersistence = 'p'";
            let wrong = instance.sql(check)?;
            if wrong == "0" {
                Ok("pg_visibility")
            } else {
                Err(wrong)
            }
        }
    }
}

/// Breaks an index without a word: its order is turned around under it.
pub(crate) const BREAK_AN_INDEX: &str = "
CREATE FUNCTION order_of(int, int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT btint4cmp($1, $2)';
CREATE OPERATOR CLASS turning FOR TYPE int USING btree AS OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =, OPERATOR 4 >=, OPERATOR 5 >, FUNCTION 1 order_of(int, int);
CREATE TABLE turned AS SELECT i FROM generate_series(1, 1000) i;
CREATE INDEX turned_i ON turned (i turning);
CREATE OR REPLACE FUNCTION order_of(int, int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT -btint4cmp($1, $2)';
";
