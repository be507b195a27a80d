//! Databases from both Snapshots, and everything in them against where it came from.

use std::{collections::BTreeMap, fs, path::Path};

use kubedb_e2e::instance::Instance;

use crate::{
    content::{self, number},
    pages::{self, Mask},
    road::{Road, assert_own_tablespace},
    rows, tools,
};

/// Relations that a new database changes as it begins: roles have passwords of its own.
const OF_ROLES: [&str; 1] = ["global/1260"];

fn is_of_roles(path: &str) -> bool {
    OF_ROLES.iter().any(|of| {
        path.strip_prefix(of)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
    })
}

/// Takes a Snapshot of the standby at rest, makes databases of it and of the one taken amid writes, and compares.
pub(crate) fn prove(road: &mut Road<'_>, primary: &Instance, standby: &Instance) {
    rest(road, primary, standby);
    road.column.begin();
    let wanted = rows::digest(primary);
    // A standby does not list transactions that are prepared.
    let mut different = rows::differences(&wanted, &rows::digest(standby));
    different.retain(|line| !line.contains(".prepared transactions:"));
    road.found("rows of the standby", different);
    rest(road, primary, standby);
    let of_wal = pages::differences(&primary.data(), &standby.data(), Mask::Unlogged, |_| false);
    road.found("pages of the standby", of_wal);
    let manifest = (number(road.major()) >= 13).then(|| tools::own_manifest(standby, road.major()));

    road.column.begin();
    let quiet = road.named("quiet");
    road.world
        .create(&kubedb_e2e::world::snapshot(&quiet, &road.name));
    let status = road.world.status("snap", &quiet, "Succeeded", 120);
    assert_eq!(status["instance"], format!("{}-1", road.name), "{status}");
    road.column.proved("snapshot of standby");

    let (rest, amid) = (
        road.restore("rest", &quiet),
        road.restore("amid", &road.named("busy")),
    );
    road.world.status("pg", &rest, "Running", 240);
    road.world.status("pg", &amid, "Running", 240);
    let (rest, amid) = (
        Instance::of(road.world, &rest, 0),
        Instance::of(road.world, &amid, 0),
    );
    road.column.proved("restore");

    // Before anybody reads rows there, which leaves hints on their pages.
    rest.sql("CHECKPOINT").unwrap();
    let different = pages::differences(&standby.data(), &rest.data(), Mask::Nothing, is_of_roles);
    road.found("pages of the copy at rest", different);
    road.column.proved("pages");
    against_manifest(road, manifest.as_deref(), &rest);
    is_same(road, &wanted, &rest);
    is_sound(road, &wanted, &amid);
    road.column.proved("rows");
    for copy in [&rest, &amid] {
        assert_eq!(copy.sql(&content::commit_prepared()).unwrap(), "2");
    }
    let by = tools::amcheck(&rest, road.major()).unwrap();
    tools::amcheck(&amid, road.major()).unwrap();
    road.column.proved_by("amcheck", by);
    checks_can_fail(road, &wanted, standby, &rest, manifest.as_deref());
}

/// Reads every row of the catalogs and of the table that is written to, also those that were replaced.
const READ_ALL: &str = "
CHECKPOINT;
SET enable_indexscan = off; SET enable_indexonlyscan = off; SET enable_bitmapscan = off;
DO $do$ DECLARE name regclass; BEGIN
    FOR name IN SELECT oid FROM pg_class WHERE relkind = 'r' AND relnamespace = 'pg_catalog'::regnamespace LOOP
        EXECUTE 'SELECT count(*) FROM ' || name;
    END LOOP;
END $do$;
SELECT count(*) FROM followed;
CHECKPOINT;";

/// Waits until both instances have nothing to write.
fn rest(road: &Road<'_>, primary: &Instance, standby: &Instance) {
    road.mark(primary, standby);
    // The first reader of new rows notes on their pages that they are there for good. Right after a checkpoint that goes into the WAL.
    primary.sql(READ_ALL).unwrap();
    let word = if number(road.major()) >= 10 {
        ("wal", "lsn")
    } else {
        ("xlog", "location")
    };
    let end = primary.sql(&format!("SELECT pg_current_{}_{}()", word.0, word.1));
    let reached = format!(
        "SELECT pg_last_{}_replay_{}() >= '{}'::pg_lsn",
        word.0,
        word.1,
        end.unwrap()
    );
    standby.becomes(&reached, "t");
    standby.sql("CHECKPOINT").unwrap();
}

/// What was at rest is the same to the last row.
fn is_same(road: &mut Road<'_>, wanted: &BTreeMap<String, String>, copy: &Instance) {
    // The one table that was written to in between.
    let is_expected = |line: &String| line.starts_with("postgres.followed:");
    let mut different = rows::differences(wanted, &rows::digest(copy));
    different.retain(|line| !is_expected(line));
    road.found("rows of the copy at rest", different);
    assert_own_tablespace(copy);
    assert_eq!(copy.sql("SELECT count(*) FROM scratch").unwrap(), "0");
    assert_eq!(
        copy.sql("SELECT last_value >= 1693 FROM steps").unwrap(),
        "t"
    );
    if content::has_giant(road.major()) {
        let size = copy
            .sql("SELECT pg_relation_size('giant') > 1::bigint << 30")
            .unwrap();
        assert_eq!(size, "t");
        let file = copy.sql("SELECT pg_relation_filepath('giant')").unwrap();
        let second = fs::metadata(copy.data().join(file + ".1")).unwrap();
        assert!(second.len() > 0);
    }
}

/// What was taken amid writes is of one moment.
fn is_sound(road: &mut Road<'_>, wanted: &BTreeMap<String, String>, copy: &Instance) {
    let sound = copy.sql(content::IS_SOUND).unwrap();
    assert!(sound.split('|').all(|found| found == "t"), "{sound}");
    let changed = ["postgres.log:", "postgres.account:", "postgres.followed:"];
    let mut different = rows::differences(wanted, &rows::digest(copy));
    different.retain(|line| !changed.iter().any(|name| line.starts_with(name)));
    road.found("rows of the copy amid writes", different);
    let rows = copy.sql_in("meanwhile", "SELECT count(*) FROM of_new_database");
    assert_eq!(rows.unwrap(), "1000");
    assert_own_tablespace(copy);
    copy.sql("INSERT INTO scratch VALUES (1); INSERT INTO log (text) VALUES ('after'); CREATE DATABASE after").unwrap();
}

fn against_manifest(road: &mut Road<'_>, manifest: Option<&Path>, copy: &Instance) {
    let Some(manifest) = manifest else {
        let reason = "BASE_BACKUP lists no hashes before 13";
        road.column.absent("backup_manifest", reason);
        road.column.absent("pg_verifybackup", reason);
        return;
    };
    let wrong = tools::against_manifest(manifest, &copy.data());
    let wrong = wrong.into_iter().filter(|path| !is_of_roles(path));
    road.found("hashes of the server's own copy", wrong.collect());
    road.column.proved("backup_manifest");
    if number(road.major()) >= 17 {
        let reason =
            "Debian's pg_verifybackup is of 15 and does not read the lists of 17 and later";
        road.column.absent("pg_verifybackup", reason);
        return;
    }
    let verified = tools::verify_backup(manifest, &copy.data(), &OF_ROLES);
    road.found("pg_verifybackup", verified.err().into_iter().collect());
    road.column.proved("pg_verifybackup");
}

/// Each check finds what it is there for: a byte that was flipped, a row that is gone, an index that is out of order.
fn checks_can_fail(
    road: &mut Road<'_>,
    wanted: &BTreeMap<String, String>,
    source: &Instance,
    copy: &Instance,
    manifest: Option<&Path>,
) {
    let file = copy
        .sql("SELECT pg_relation_filepath('toasted_pkey')")
        .unwrap();
    let place = copy.data().join(&file);
    let whole = fs::read(&place).unwrap();
    let mut damaged = whole.clone();
    damaged[8_192 + 8_000] ^= 1;
    fs::write(&place, damaged).unwrap();
    let of_others = |path: &str| path != file;
    let found = pages::differences(&source.data(), &copy.data(), Mask::Nothing, of_others);
    assert_eq!(found, [format!("{file} block 1 at [8000], 1 bytes")]);
    if let Some(manifest) = manifest {
        assert!(tools::against_manifest(manifest, &copy.data()).contains(&file));
        if number(road.major()) < 17 {
            let found = tools::verify_backup(manifest, &copy.data(), &OF_ROLES).unwrap_err();
            assert!(found.contains(&file), "{found}");
        }
    }
    fs::write(&place, whole).unwrap();

    copy.sql("DELETE FROM fixed WHERE i = 777").unwrap();
    let found = rows::differences(wanted, &rows::digest(copy));
    let is_found = found.iter().any(|line| line.starts_with("postgres.fixed:"));
    assert!(is_found, "{found:?}");

    // 9.6 has no amcheck; its other check is of files that a running server would have to be robbed of.
    if number(road.major()) >= 10 {
        copy.sql(tools::BREAK_AN_INDEX).unwrap();
        let found = tools::amcheck(copy, road.major()).unwrap_err();
        assert!(found.contains("turned_i"), "{found}");
    }
    road.column.proved("checks can fail");
}
