//! A Snapshot in OpenStack Swift: taken, restored, deleted.

#![allow(clippy::unwrap_used)]

use kubedb_e2e::world::{World, from_snapshot, postgres};
use kubedb_stores::{
    net::send,
    swift::{Settings, Swift, USER},
};

#[test]
fn a_snapshot_in_swift_is_taken_restored_and_deleted() {
    let world = World::new();
    let swift = Swift::start(world.folder(), &["backups"], Settings::default()).unwrap();
    let (address, (user, key)) = (swift.auth_address(), USER);
    world.create(&format!(
        "apiVersion: v1\nkind: Secret\nmetadata:\n  name: swift-secret\n  namespace: demo\nstringData:\n  ST_AUTH: {address}\n  ST_USER: {user}\n  ST_KEY: {key}\n"
    ));
    world.create(&postgres("one", "15", 1, ""));
    world.status("pg", "one", "Running", 120);
    world
        .sql(
            "one",
            "CREATE TABLE kept AS SELECT n FROM generate_series(1, 1000) n",
        )
        .unwrap();
    world.create(
        "apiVersion: kubedb.com/v1alpha1\nkind: Snapshot\nmetadata:\n  name: far\n  namespace: demo\nspec:\n  databaseName: one\n  storageSecretName: swift-secret\n  swift:\n    container: backups\n    prefix: nightly\n",
    );
    world.status("snap", "far", "Succeeded", 90);
    let table = world.run(&["get", "snap", "-n", "demo", "-o", "wide"], "");
    assert!(table.contains("swift:backups"), "{table}");
    let (storage, token) = swift.log_in().unwrap();
    let listed = || {
        let headers = format!("X-Auth-Token: {token}\r\n");
        send(swift.port(), "GET", &format!("{storage}/backups"), &headers).unwrap()
    };
    assert!(
        listed().contains("nightly/kubedb/demo/one/snapshots/far/"),
        "{}",
        listed()
    );

    world.create(&postgres("two", "15", 1, &from_snapshot("far")));
    world.status("pg", "two", "Running", 120);
    world.sql_becomes("two", "SELECT sum(n) FROM kept", "500500");

    world.delete("snap", "far");
    assert!(!listed().contains("nightly/"), "{}", listed());
}
