//! Logical Snapshots: pg_dump is that of the database's own image.

use serde_json::{Value, json};

use crate::world::World;

#[test]
fn rows_roles_and_a_part_of_the_databases_come_back_from_a_logical_snapshot() {
    let Some(world) = World::begin() else { return };
    let namespace = world.namespace("logical");
    let schedule = json!({
        "cronExpression": "@every 6h", "method": "Logical", "maxRate": "16Mi",
        "resources": { "requests": { "memory": "64Mi", "cpu": "100m" }, "limits": { "memory": "128Mi", "cpu": "500m" } },
        "storageSecretName": "gcs-secret", "gcs": { "bucket": "kubedb" },
    });
    world.create(&namespace, "pg", &json!({}));
    world.wait_for(&namespace, "pg");
    for statement in [
        "create role reader login",
        "create database app",
        "create database scratch",
        "create table kept as select generate_series(1, 1000) as id",
        "alter table kept add primary key (id)",
        "grant select on kept to reader",
    ] {
        world.answer(&namespace, "pg", statement);
    }
    let patch = json!({ "spec": { "backupSchedule": schedule } }).to_string();
    let words = [
        "-n", &namespace, "patch", "pg", "pg", "--type", "merge", "-p", &patch,
    ];
    world.kubectl.run(&words).unwrap();
    let name = world.first_snapshot(&namespace, "pg");
    world.wait_for_snapshot(&namespace, &name);
    let found = world.get(&namespace, "snap", &name).unwrap();
    // template1 is one: it may hold what new databases shall have.
    let held = &found["status"]["result"]["logical"]["databases"];
    assert_eq!(*held, 4, "{found}");
    assert_eq!(found["spec"]["maxRate"], "16Mi");
    let source = |databases: Value| {
        let mut source = json!({ "name": name, "namespace": namespace });
        if !databases.is_null() {
            source["databases"] = databases;
        }
        json!({ "init": { "snapshotSource": source } })
    };
    world.create(&namespace, "copy", &source(Value::Null));
    world.create(&namespace, "part", &source(json!(["postgres", "app"])));
    let query =
        "select count(*), max(id), has_table_privilege('reader', 'kept', 'select') from kept";
    let databases =
        "select string_agg(datname, ',' order by datname) from pg_database where not datistemplate";
    for (database, expected) in [("copy", "app,postgres,scratch"), ("part", "app,postgres")] {
        world.wait_for(&namespace, database);
        assert_eq!(world.answer(&namespace, database, query), "1000|1000|t");
        assert_eq!(world.answer(&namespace, database, databases), expected);
    }
}
