//! `kubedb restore plan -f`: what a Postgres would begin with, said before it is made.

use kubedb_e2e::world::{World, from_snapshot, postgres, snapshot};

fn told(world: &World, manifest: &str, code: i32, words: &[&str]) {
    let ran = world.plan(&["-f", "-"], manifest);
    assert_eq!(ran.code, code, "{}", ran.stderr);
    for words in words {
        assert!(ran.stderr.contains(words), "{words}: {}", ran.stderr);
    }
}

#[test]
fn a_plan_of_a_manifest_says_what_it_begins_with_or_why_it_would_not() {
    let world = World::new();
    world.create(&postgres("one", "15", 1, ""));
    world.status("pg", "one", "Running", 120);
    world
        .sql("one", "CREATE TABLE t AS SELECT generate_series(1, 10) i")
        .unwrap();
    world.create(&snapshot("whole", "one"));
    world.status("snap", "whole", "Succeeded", 120);
    let rows = snapshot("rows", "one") + "  method: Logical\n";
    world.create(&rows);
    world.status("snap", "rows", "Succeeded", 120);

    let whole = postgres("two", "15", 1, &from_snapshot("whole"));
    let begins = [
        "demo/one comes back as Snapshot whole holds it",
        "of PostgreSQL 15",
        "never verified: kubedb verify snap whole -n demo does it",
    ];
    told(&world, &whole, 0, &begins);
    told(
        &world,
        &whole,
        0,
        &["fetches ", "kubedb create -f - makes a database of it"],
    );
    world.run(
        &["verify", "snap", "whole", "-n", "demo", "--level", "pages"],
        "",
    );
    told(&world, &whole, 0, &["verified (Pages)"]);
    let rows = postgres("two", "17", 1, &from_snapshot("rows"));
    told(
        &world,
        &rows,
        0,
        &["as SQL of PostgreSQL 15", "2 databases, 1 tables, 10 rows"],
    );

    // What would never be, or not yet, is said, and no database is made by that.
    let other = postgres("two", "9.6", 1, &from_snapshot("whole"));
    told(
        &world,
        &other,
        1,
        &[
            "Snapshot whole holds PostgreSQL 15",
            "give spec.version: 15",
        ],
    );
    let older = postgres("two", "9.6", 1, &from_snapshot("rows"));
    told(
        &world,
        &older,
        1,
        &["Snapshot rows holds PostgreSQL 15", "or a later one"],
    );
    let absent = postgres("two", "15", 1, &from_snapshot("absent"));
    told(
        &world,
        &absent,
        1,
        &[
            "Snapshot absent to restore does not exist",
            "waits until that is so",
        ],
    );
    let target = from_snapshot("whole") + "      target:\n        xid: 700\n";
    told(
        &world,
        &postgres("two", "15", 1, &target),
        1,
        &["has no spec.archiver"],
    );
    let elsewhere =
        whole.replace("namespace: demo\n", "namespace: other\n") + "      namespace: demo\n";
    told(&world, &elsewhere, 1, &["does not allow namespace other"]);
    told(
        &world,
        &postgres("two", "15", 1, ""),
        0,
        &["it begins empty"],
    );
    told(
        &world,
        &postgres("two", "15", 1, "  replicaz: 3\n"),
        1,
        &["would be refused", "replicaz"],
    );
    told(
        &world,
        &format!("{whole}---\n{other}"),
        1,
        &["several Postgres (two, two)"],
    );
    told(&world, &snapshot("alone", "one"), 1, &["no Postgres in it"]);
    let both = world.plan(&["one", "-f", "-"], &whole);
    assert_eq!(both.code, 2, "{}", both.stderr);
    let neither = world.plan(&["-n", "demo"], "");
    assert_eq!(neither.code, 2, "{}", neither.stderr);
    assert!(world.server.object("pg", "two", "demo").is_err());
}
