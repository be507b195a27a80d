//! Base backups and WAL of wal-g's layout, as wal-rus 0.4.1 has made them: `tests/fixtures/walg/make.sh` is how.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use kubedb_e2e::{
    wait::eventually,
    world::{World, postgres},
};

use crate::source::ROWS;

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/walg/archive")
}

/// Copies objects to where a database can read them.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// Names of the base backups: the full one, and the delta that builds on it.
fn backups(archive: &Path) -> (String, String) {
    let folder = fs::read_dir(archive.join("basebackups_005")).unwrap();
    let names = folder.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let names: Vec<String> = names.filter(|name| !name.ends_with(".json")).collect();
    let of = |is_delta| names.iter().find(|name| name.contains("_D_") == is_delta);
    (of(false).unwrap().clone(), of(true).unwrap().clone())
}

fn from(archive: &Path, more: &str) -> String {
    format!(
        "  init:\n    postgresWAL:\n      layout: wal-g\n      local:\n        mountPath: {}\n{more}",
        archive.display()
    )
}

/// What comes back is what was planned.
fn recovered(world: &World, archive: &Path, more: &str) -> String {
    let manifest = postgres("moved", "15", 1, &from(archive, more));
    let planned = world.plan(&["-f", "-"], &manifest);
    assert_eq!(planned.code, 0, "{}", planned.stderr);
    let place = format!("local:{} (wal-g) comes back", archive.display());
    assert!(planned.stderr.contains(&place), "{}", planned.stderr);
    world.create(&manifest);
    world.status("pg", "moved", "Running", 120);
    let rows = world.sql("moved", ROWS).unwrap();
    // A page of each kind: of the full backup, of the delta, and of the WAL behind it.
    let bulk = "SELECT count(*) FILTER (WHERE n < 0) || ' ' || count(*) FROM bulk";
    let bulk = world.sql("moved", bulk).unwrap();
    assert!(["0 5000", "10 5000"].contains(&bulk.as_str()), "{bulk}");
    assert_eq!(bulk.starts_with("10"), rows.contains('2'), "{bulk} {rows}");
    world.sql("moved", "INSERT INTO step VALUES (0)").unwrap();
    world.delete_for_good("moved");
    rows
}

fn refused(world: &World, version: &str, archive: &Path, more: &str) -> String {
    world.create(&postgres("moved", version, 1, &from(archive, more)));
    let why = eventually("a refusal", Duration::from_secs(120), || {
        let object = world.server.object("pg", "moved", "demo")?;
        let report = &object["status"]["instances"]["moved-0"];
        let reason = report["reason"].as_str().unwrap_or_default();
        let is_told = reason.contains("failed to");
        let told = || object["status"].to_string();
        is_told.then(|| reason.to_owned()).ok_or_else(told)
    });
    let folder = world.instance("moved", 0);
    assert!(!folder.join("data").exists(), "{why}");
    let left = fs::read_dir(folder.join("data.new")).into_iter().flatten();
    assert_eq!(left.count(), 0, "{why}");
    world.delete_for_good("moved");
    why
}

#[test]
fn t36_what_wal_rus_has_stored_comes_back_to_any_moment_or_is_refused_by_name() {
    let world = World::new();
    let archive = world.folder().join("wal-g");
    copy(&fixture(), &archive);
    let (full, delta) = backups(&archive);
    let pitr = |target: &str| format!("      pitr: {{{target}}}\n");
    let begin = |backup: &str| format!("      backupName: {backup}\n");

    // From the delta, which is the latest, and from the full one with more WAL.
    assert_eq!(recovered(&world, &archive, ""), "1 2 3 4");
    let named = begin(&full) + &pitr("targetName: three");
    assert_eq!(recovered(&world, &archive, &named), "1 2 3");
    let alone = begin(&full) + &pitr("targetImmediate: true");
    assert_eq!(recovered(&world, &archive, &alone), "1");
    let alone = begin(&delta) + &pitr("targetImmediate: true");
    assert_eq!(recovered(&world, &archive, &alone), "1 2");

    // As the first versions of KubeDB named it.
    let first = world.folder().join("first/kubedb/demo/old/archive");
    copy(&fixture(), &first);
    let spec = from(&first, "").replace("      layout: wal-g\n", "");
    world.create(&postgres("first", "15", 1, &spec));
    world.status("pg", "first", "Running", 120);
    assert_eq!(world.sql("first", ROWS).unwrap(), "1 2 3 4");
    world.delete_for_good("first");

    let never = refused(&world, "15", &archive, &pitr("targetName: never"));
    assert!(never.contains("restore point \"never\""), "{never}");
    let other = refused(&world, "18", &archive, "");
    assert!(other.contains("it holds PostgreSQL 15"), "{other}");
    let wrong = begin("base_000000010000000000000099");
    let unknown = refused(&world, "15", &archive, &wrong);
    assert!(unknown.contains(&full), "{unknown}");
    let planned = world.plan(
        &["-f", "-"],
        &postgres("moved", "15", 1, &from(&archive, &wrong)),
    );
    assert!(
        planned.code == 1 && planned.stderr.contains(&full),
        "{}",
        planned.stderr
    );

    // What is missing is named before anything is written.
    let spoilt = |change: &dyn Fn(&Path)| {
        let spoilt = world.folder().join("spoilt");
        let _ = fs::remove_dir_all(&spoilt);
        copy(&fixture(), &spoilt);
        change(&spoilt);
        refused(&world, "15", &spoilt, "")
    };
    let parts = |archive: &Path, backup: &str| {
        let folder = archive
            .join("basebackups_005")
            .join(backup)
            .join("tar_partitions");
        let parts = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path());
        let mut parts: Vec<PathBuf> = parts.collect();
        parts.sort();
        parts
    };
    let first_part = |archive: &Path| {
        let parts = parts(archive, &full);
        let is_data = |path: &&PathBuf| path.to_string_lossy().contains("part_");
        parts.iter().find(is_data).unwrap().clone()
    };
    let missing = spoilt(&|archive| fs::remove_file(first_part(archive)).unwrap());
    assert!(missing.contains(".tar is missing"), "{missing}");
    let base = spoilt(&|archive| {
        let name = format!("basebackups_005/{full}_backup_stop_sentinel.json");
        fs::remove_file(archive.join(name)).unwrap();
    });
    assert!(
        base.contains(&format!("builds on {full}, which is not there")),
        "{base}"
    );
    let lzma = spoilt(&|archive| {
        let part = first_part(archive);
        fs::rename(&part, part.with_extension("lzma")).unwrap();
    });
    assert!(lzma.contains("packed with lzma"), "{lzma}");
    let cut = spoilt(&|archive| {
        let part = first_part(archive);
        let bytes = fs::read(&part).unwrap();
        fs::write(&part, &bytes[..bytes.len() / 2]).unwrap();
    });
    assert!(cut.contains("is damaged"), "{cut}");
    let gap = spoilt(&|archive| {
        let segment = delta.get(5..29).unwrap();
        let wal = fs::read_dir(archive.join("wal_005")).unwrap();
        let wal = wal.map(|entry| entry.unwrap().path());
        let meant = wal.filter(|path| path.to_string_lossy().contains(segment));
        meant.for_each(|path| fs::remove_file(path).unwrap());
    });
    assert!(
        gap.contains("of the WAL until there is not in the archive"),
        "{gap}"
    );
}
