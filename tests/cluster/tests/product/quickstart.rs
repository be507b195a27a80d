//! The guides for who begins: a first database, what it may do, and images of a registry of one's own.

use kubedb_e2e::wait::eventually;
use serde_json::json;

use crate::world::{PATIENCE, World};

fn wait_for_record(world: &World, namespace: &str, phase: &str) {
    eventually(phase, PATIENCE, || {
        let found = world.get(namespace, "drmn", "quick-postgres")?;
        match found["status"]["phase"].as_str() {
            Some(is) if is == phase => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
}

#[test]
fn a_first_database_from_its_creation_to_its_end() {
    let Some(world) = World::begin() else { return };
    let namespace = world.namespace("quickstart");
    let lock = json!({ "doNotPause": true });
    world.create(&namespace, "quick-postgres", &lock);
    let pg = world.wait_for(&namespace, "quick-postgres");
    let table = world.does(
        &[
            "get",
            "pg",
            "-n",
            &namespace,
            "quick-postgres",
            "-o",
            "wide",
        ],
        "",
    );
    let mut lines = table.lines();
    let head: Vec<&str> = lines.next().unwrap().split_whitespace().collect();
    assert_eq!(head, ["NAME", "VERSION", "STATUS", "AGE"]);
    let row: Vec<&str> = lines.next().unwrap().split_whitespace().collect();
    assert_eq!(row[..3], ["quick-postgres", "15", "Running"]);
    let told = world.does(&["describe", "pg", "-n", &namespace, "quick-postgres"], "");
    for words in [
        "Endpoints:",
        "refused while spec.doNotPause is true",
        "Successfully created StatefulSet",
        "Successfully created Service",
        "Database Secret:",
        "Successfully created Postgres",
    ] {
        assert!(told.contains(words), "no {words} in {told}");
    }
    let secret = pg["spec"]["databaseSecret"]["secretName"].as_str().unwrap();
    assert_eq!(secret, "quick-postgres-auth");
    let password = [
        "-n",
        &namespace,
        "get",
        "secret",
        secret,
        "-o",
        "jsonpath={.data.POSTGRES_PASSWORD}",
    ];
    assert!(!world.kubectl.run(&password).unwrap().is_empty());
    for service in ["quick-postgres", "quick-postgres-replicas"] {
        world.get(&namespace, "service", service).unwrap();
    }
    world.answer(
        &namespace,
        "quick-postgres",
        "create table kept as select 42 as answer",
    );

    let refused = world.kubedb(&["delete", "pg", "quick-postgres", "-n", &namespace], "");
    assert_eq!(refused.code, 1);
    let words = "error: postgres \"quick-postgres\" can't be paused. To continue delete, unset spec.doNotPause and retry";
    assert!(refused.stderr.contains(words), "{}", refused.stderr);
    // Neither does kubectl get around it.
    let words = ["-n", &namespace, "delete", "pg", "quick-postgres"];
    let refused = world.kubectl.run(&words).unwrap_err().to_string();
    assert!(refused.contains("can't be paused"), "{refused}");
    let ran = world.edit(
        &namespace,
        ["pg", "quick-postgres"],
        "s/doNotPause: true/doNotPause: false/",
    );
    assert!(
        ran.stdout.contains("postgres \"quick-postgres\" edited"),
        "{} {}",
        ran.stdout,
        ran.stderr
    );
    let said = world.does(&["delete", "pg", "quick-postgres", "-n", &namespace], "");
    assert!(
        said.contains("postgres \"quick-postgres\" deleted"),
        "{said}"
    );
    wait_for_record(&world, &namespace, "Paused");
    let record = world.get(&namespace, "drmn", "quick-postgres").unwrap();
    assert_eq!(
        record["spec"]["origin"]["metadata"]["name"],
        "quick-postgres"
    );
    assert_eq!(
        record["spec"]["origin"]["spec"]["postgres"]["version"],
        "15"
    );

    world.create(&namespace, "quick-postgres", &json!({}));
    world.wait_for(&namespace, "quick-postgres");
    let query = "select answer from kept";
    assert_eq!(world.answer(&namespace, "quick-postgres", query), "42");

    world.does(&["delete", "pg", "quick-postgres", "-n", &namespace], "");
    wait_for_record(&world, &namespace, "Paused");
    let script = "/^spec:/a\\  wipeOut: true";
    let ran = world.edit(&namespace, ["drmn", "quick-postgres"], script);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    world.does(&["delete", "drmn", "quick-postgres", "-n", &namespace], "");
    let left = [
        "-n",
        &namespace,
        "get",
        "pvc,secret,statefulset",
        "-l",
        "kubedb.com/name=quick-postgres",
        "-o",
        "name",
    ];
    eventually("nothing of it", PATIENCE, || {
        match world
            .kubectl
            .run(&left)
            .map_err(|error| error.to_string())?
            .trim()
        {
            "" => Ok(()),
            some => Err(some.to_owned()),
        }
    });
}

#[test]
fn a_database_runs_under_an_account_of_its_own() {
    let Some(world) = World::begin() else { return };
    let namespace = world.namespace("rbac");
    world.create(&namespace, "quick-postgres", &json!({}));
    world.wait_for(&namespace, "quick-postgres");
    for kind in ["serviceaccount", "role", "rolebinding"] {
        let found = world.get(&namespace, kind, "quick-postgres").unwrap();
        assert_eq!(
            found["metadata"]["ownerReferences"][0]["name"], "quick-postgres",
            "{kind}"
        );
    }
    let binding = world
        .get(&namespace, "rolebinding", "quick-postgres")
        .unwrap();
    assert_eq!(binding["roleRef"]["name"], "quick-postgres");
    assert_eq!(binding["subjects"][0]["name"], "quick-postgres");
    let role = world.get(&namespace, "role", "quick-postgres").unwrap();
    for rule in role["rules"].as_array().unwrap() {
        assert!(
            !rule["resourceNames"].as_array().unwrap().is_empty(),
            "{rule}"
        );
    }
    let pod = world.get(&namespace, "pod", "quick-postgres-0").unwrap();
    assert_eq!(pod["spec"]["serviceAccountName"], "quick-postgres");
}
