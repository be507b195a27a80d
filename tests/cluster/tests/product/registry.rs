//! The guide "private registry": images that no node has, from a registry that gives them to whoever it knows.

use std::time::Duration;

use kubedb_cluster::registry::{MARK, Registry, USER};
use kubedb_e2e::{kubedb::scratch, wait::eventually};
use serde_json::{Value, json};

use crate::world::World;

/// A kubelet tries again after ten seconds, and each time after twice as long.
const NEXT_TRIES: Duration = Duration::from_secs(200);
const SECRET: &str = "myregistrykey";

/// A version of the catalogue whose image is this; it goes with the test.
struct Version<'a> {
    world: &'a World,
    name: String,
}

impl<'a> Version<'a> {
    fn of(world: &'a World, name: &str, image: &str) -> Self {
        let name = format!("{name}-{}", std::process::id());
        let version = json!({
            "apiVersion": "catalog.kubedb.com/v1alpha1", "kind": "PostgresVersion", "metadata": { "name": name },
            "spec": { "version": "15", "db": { "image": image } },
        });
        world.kubectl.apply(&[version]).unwrap();
        Self { world, name }
    }

    fn spec(&self) -> Value {
        json!({ "version": self.name, "imagePullSecrets": [{ "name": SECRET }] })
    }
}

impl Drop for Version<'_> {
    fn drop(&mut self) {
        let words = ["delete", "postgresversion", &self.name];
        let _ = self.world.kubectl.run(&words);
    }
}

/// Waits until the database says this of what it waits for, in its status and in what a person is shown of it.
fn wait_for_words(world: &World, namespace: &str, database: &str, words: &[&str]) -> String {
    let reason = eventually(&format!("{words:?}"), NEXT_TRIES, || {
        let status = world.get(namespace, "pg", database)?["status"].take();
        let reason = status["reason"].as_str().unwrap_or_default().to_owned();
        let conditions = status["conditions"].as_array().into_iter().flatten();
        let mut ready = conditions.filter(|condition| condition["type"] == "Ready");
        let ready = ready.next().cloned().unwrap_or_default();
        let is_told = ready["status"] == "False" && ready["message"] == reason.as_str();
        if is_told && words.iter().all(|word| reason.contains(word)) {
            assert_eq!(status["phase"], "Creating", "{status}");
            Ok(reason)
        } else {
            Err(status.to_string())
        }
    });
    let described = world.does(&["describe", "pg", database, "-n", namespace], "");
    let first = reason.split(" (").next().unwrap_or_default();
    assert!(described.contains(first), "{described}");
    reason
}

/// As the words of a database that waits tell to.
fn make_secret(world: &World, namespace: &str, registry: &Registry, password: &str) {
    let gone = [
        "-n",
        namespace,
        "delete",
        "secret",
        SECRET,
        "--ignore-not-found",
    ];
    world.kubectl.run(&gone).unwrap();
    let server = format!("--docker-server={}", registry.address());
    let password = format!("--docker-password={password}");
    let user = format!("--docker-username={USER}");
    let create = [
        "create",
        "secret",
        "docker-registry",
        SECRET,
        "-n",
        namespace,
        &server,
        &user,
        &password,
    ];
    world.kubectl.run(&create).unwrap();
}

#[test]
fn a_database_from_a_private_registry_says_what_it_lacks_until_it_has_it() {
    let Some(world) = World::begin() else { return };
    let folder = scratch().unwrap();
    let registry = Registry::start(&world.cluster, folder.path()).unwrap();
    let image = registry.publish(&world.cluster, "postgres-15.tar", "team/postgres:15");
    let image = image.unwrap();
    let namespace = world.namespace("registry");
    let version = Version::of(&world, "private", &image);

    world.create(&namespace, "pvt", &version.spec());
    let server = format!("--docker-server={}", registry.address());
    let make = format!("kubectl create secret docker-registry {SECRET} -n {namespace} {server}");
    let lacks = format!("there is no Secret {SECRET}; {make}");
    wait_for_words(&world, &namespace, "pvt", &[&image, &lacks]);
    let pod = world.get(&namespace, "pod", "pvt-0").unwrap();
    assert_eq!(pod["spec"]["imagePullSecrets"], json!([{ "name": SECRET }]));
    assert_eq!(pod["spec"]["containers"][0]["image"], image.as_str());

    make_secret(&world, &namespace, &registry, "wrong");
    let refused = format!("the registry does not take what Secret {SECRET} holds");
    let said = wait_for_words(&world, &namespace, "pvt", &[&image, &refused, &make]);
    assert!(!said.contains("wrong"), "a password is told: {said}");

    make_secret(&world, &namespace, &registry, registry.password());
    // By itself, with the kubelet's next try.
    eventually("database pvt", NEXT_TRIES, || {
        let status = world.get(&namespace, "pg", "pvt")?["status"].take();
        if status["phase"] == "Running" {
            Ok(())
        } else {
            Err(status["reason"].to_string())
        }
    });
    let mark = format!("/{MARK}");
    let read = [
        "-n", &namespace, "exec", "pvt-0", "-c", "postgres", "--", "cat", &mark,
    ];
    assert_eq!(world.kubectl.run(&read).unwrap(), "team/postgres:15");

    let query = "create table kept as select generate_series(1, 1000) as id";
    world.answer(&namespace, "pvt", query);
    let snapshot = json!({
        "apiVersion": "kubedb.com/v1alpha1", "kind": "Snapshot",
        "metadata": { "name": "private", "namespace": namespace, "labels": { "kubedb.com/kind": "Postgres" } },
        "spec": { "databaseName": "pvt", "storageSecretName": "gcs-secret", "gcs": { "bucket": "kubedb" } },
    });
    world.kubectl.apply(&[snapshot]).unwrap();
    world.wait_for_snapshot(&namespace, "private");
    let mut copy = version.spec();
    copy["init"] = json!({ "snapshotSource": { "name": "private", "namespace": namespace } });
    world.create(&namespace, "copy", &copy);
    world.wait_for(&namespace, "copy");
    let query = "select count(*), max(id) from kept";
    assert_eq!(world.answer(&namespace, "copy", query), "1000|1000");
}

#[test]
fn an_image_that_nobody_has_and_a_registry_that_nobody_reaches_are_told_apart() {
    let Some(world) = World::begin() else { return };
    let folder = scratch().unwrap();
    let registry = Registry::start(&world.cluster, folder.path()).unwrap();
    let namespace = world.namespace("absent");
    make_secret(&world, &namespace, &registry, registry.password());
    let absent = format!("{}/team/nothing:15", registry.address());
    // A port that no server of tests gets.
    let closed = format!("{}:1/team/postgres:15", world.cluster.host());
    for (name, image, words) in [
        ("absent", &absent, "the registry has no such image"),
        ("closed", &closed, "the node does not reach"),
    ] {
        let version = Version::of(&world, name, image);
        world.create(&namespace, name, &version.spec());
        let names = "spec.db.image of its PostgresVersion names it";
        wait_for_words(&world, &namespace, name, &[image, words, names]);
    }
}
