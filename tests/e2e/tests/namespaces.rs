//! Databases of the same name in two namespaces do not meet.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use kubedb_e2e::{
    wait::eventually,
    world::{World, postgres, snapshot},
};

/// Runs SQL on the primary of `one` in namespace `default`.
fn sql_in_default(world: &World, statement: &str) -> Result<String, String> {
    let arguments = ["connect", "pg", "one", "--", "-AtXqc", statement];
    let ran = world.server.kubedb(&arguments, "").unwrap();
    if ran.code == 0 {
        Ok(ran.stdout.trim().to_owned())
    } else {
        Err(ran.stderr)
    }
}

#[test]
fn databases_of_one_name_in_two_namespaces_do_not_meet() {
    let world = World::new();
    world.create(&postgres("one", "15", 1, ""));
    world.create(&postgres("one", "15", 1, "").replace("namespace: demo", "namespace: default"));
    world.status("pg", "one", "Running", 120);
    eventually("the other one", Duration::from_secs(120), || {
        let status = world.server.object("pg", "one", "default")?["status"].take();
        if status["phase"] == "Running" {
            Ok(())
        } else {
            Err(status.to_string())
        }
    });
    world
        .sql("one", "CREATE TABLE place AS SELECT 'demo' AS name")
        .unwrap();
    sql_in_default(&world, "CREATE TABLE place AS SELECT 'default' AS name").unwrap();
    let endpoint = |namespace: &str| {
        let object = world.server.object("pg", "one", namespace).unwrap();
        object["status"]["endpoints"]["primary"].clone()
    };
    assert_ne!(endpoint("demo"), endpoint("default"));

    world.create(&snapshot("kept", "one"));
    world.status("snap", "kept", "Succeeded", 60);
    assert!(world.server.objects("snap", "default").unwrap().is_empty());
    // Its password is another one, so nobody reaches the wrong database by a mistaken port.
    let password = |namespace: &str| {
        let secret = world.server.object("secret", "one-auth", namespace);
        secret.unwrap()["data"]["POSTGRES_PASSWORD"].clone()
    };
    assert_ne!(password("demo"), password("default"));

    world.delete("pg", "one");
    let select = "SELECT name FROM place";
    assert_eq!(sql_in_default(&world, select).as_deref(), Ok("default"));
    assert!(world.sql("one", select).is_err());
}
