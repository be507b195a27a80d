//! Every target is reached exactly, or refused.

use kubedb_e2e::{instance::Instance, world::World};
use serde_json::Value;

use crate::source::Source;

/// All of them, or those whose carrying out differs most between majors.
fn targets(world: &World, version: &str, is_whole: bool) {
    let name = format!("src-{}", version.replace('.', "-"));
    let source = Source::begin(world, &name, version);
    source.step(1);
    let time = source.sql("SELECT clock_timestamp()");
    source.sql("SELECT pg_sleep(0.1)");
    let xid = source.sql("WITH x AS (INSERT INTO step VALUES (2)) SELECT txid_current()");
    source.step(3);
    source.sql("SELECT pg_create_restore_point('three')");
    source.step(4);
    let lsn = source.sql(&format!(
        "SELECT {}()",
        source.function("pg_current_wal_insert_lsn")
    ));
    source.step(5);
    let quiet = source.now();
    source.archive();
    source.covered(&quiet);

    let back = |target: &str| source.recovered("base", target);
    assert_eq!(
        back(&format!("{{time: \"{time}\"}}")),
        "1",
        "{version} {time}"
    );
    if is_whole {
        assert_eq!(back(&format!("{{xid: \"{xid}\"}}")), "1 2", "{version}");
        let before = format!("{{xid: \"{xid}\", inclusive: false}}");
        assert_eq!(back(&before), "1", "{version}");
        assert_eq!(back("{name: three}"), "1 2 3", "{version}");
        assert_eq!(back("{immediate: true}"), "none", "{version}");
    }
    if version != "9.6" {
        assert_eq!(back(&format!("{{lsn: {lsn}}}")), "1 2 3 4", "{version}");
    }
    // Nothing was committed between then and now, and all of it is archived.
    assert_eq!(
        back(&format!("{{time: \"{quiet}\"}}")),
        "1 2 3 4 5",
        "{version}"
    );
    // Its segment is far from full.
    source.step(6);
    source.covered(&source.now());
    assert_eq!(back("{timeline: \"1\"}"), "1 2 3 4 5 6", "{version}");

    // What cannot be had is not had by half.
    let never = source.refused("base", "{name: four}");
    assert!(never.contains("restore point \"four\""), "{never}");
    if !is_whole {
        world.delete_for_good(&name);
        return;
    }
    let early = source.refused("base", "{time: \"2020-01-01T00:00:00Z\"}");
    assert!(early.contains("lies before the Snapshot"), "{early}");
    let other = source.refused("base", "{timeline: \"7\"}");
    assert!(other.contains("timeline 7"), "{other}");
    world.delete_for_good(&name);
}

#[test]
fn t11_t12_every_target_of_9_6_and_15_is_reached_exactly_or_refused() {
    let world = World::new();
    for version in ["9.6", "15"] {
        targets(&world, version, true);
    }
}

#[test]
fn t11_t12_targets_of_12_and_18_are_reached_exactly_or_refused() {
    let world = World::new();
    for version in ["12", "18"] {
        targets(&world, version, false);
    }
}

#[test]
fn t12_a_transaction_within_the_snapshots_own_window_is_refused_for_good() {
    let world = World::new();
    let source = Source::begin(&world, "src", "15");
    source.sql("CREATE TABLE beat (xid text, lsn pg_lsn)");
    let instance = Instance::of(&world, "src", 0);
    let beat = "INSERT INTO beat VALUES (txid_current(), pg_current_wal_insert_lsn());\n";
    let session = instance.open(&beat.repeat(20_000));
    source.snapshot("busy");
    drop(session);
    source.archive();
    let snapshot = world.server.object("snap", "src-busy", "demo").unwrap();
    let (start, stop) = (
        &snapshot["status"]["result"]["startLsn"],
        &snapshot["status"]["result"]["stopLsn"],
    );
    let within = format!("lsn > '{}' AND lsn < '{}'", text(start), text(stop));
    let xid = source.sql(&format!(
        "SELECT xid FROM beat WHERE {within} ORDER BY lsn LIMIT 1 OFFSET 3"
    ));
    assert!(!xid.is_empty(), "{snapshot}");
    let early = source.refused("busy", &format!("{{xid: \"{xid}\"}}"));
    assert!(early.contains("Begin from an earlier Snapshot"), "{early}");
    // From the earlier one it comes back.
    assert_eq!(
        source.recovered("base", &format!("{{xid: \"{xid}\"}}")),
        "none"
    );
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value}"))
}
