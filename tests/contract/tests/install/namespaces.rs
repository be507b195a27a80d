//! An operator of several namespaces: the real program, with rights there alone.

use std::{
    fs::{self, File},
    process::{Child, Command, Stdio},
};

use http::StatusCode;
use serde_json::{Value, json};

use crate::world::{OPERATOR, World, postgres, wait};

/// Killed when the test ends.
struct Operator(Child);

impl Drop for Operator {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(world: &World, arguments: &[&str], variable: Option<&str>) -> Operator {
    let text = fs::read_to_string(&world.kubeconfig).unwrap();
    let mut config: Value = serde_json::from_str(&text).unwrap();
    config["users"][0]["user"]["as"] = json!(OPERATOR);
    let kubeconfig = world.folder().join("operator-kubeconfig");
    fs::write(&kubeconfig, config.to_string()).unwrap();
    let mut command = Command::new(kubedb_e2e::kubedb::binary());
    command
        .args([
            "operator",
            "--image",
            "kubedb:test",
            "--health",
            "127.0.0.1:0",
        ])
        .args(arguments)
        .env("KUBECONFIG", kubeconfig)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(world.folder().join("operator.log")).unwrap());
    if let Some(names) = variable {
        command.env("KUBEDB_WATCH_NAMESPACE", names);
    }
    Operator(command.spawn().unwrap())
}

fn path(namespace: &str, rest: &str) -> String {
    format!("/apis/kubedb.com/v1alpha1/namespaces/{namespace}/{rest}")
}

fn create(world: &World, namespace: &str, name: &str) {
    // With what the webhook would fill in.
    let spec = json!({
        "version": 15, "replicas": 1, "standbyMode": "warm", "streamingMode": "asynchronous",
        "storage": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    });
    let mut database = postgres(name, &spec);
    database["metadata"]["namespace"] = json!(namespace);
    let (code, answer) = world.call("POST", &path(namespace, "postgreses"), &database);
    assert_eq!(code, StatusCode::CREATED, "{answer}");
}

fn has_workload(world: &World, namespace: &str, name: &str) -> bool {
    let path = format!("/apis/apps/v1/namespaces/{namespace}/statefulsets/{name}");
    world.get(&path).0 == StatusCode::OK
}

#[test]
fn it_runs_the_databases_of_each_and_of_no_other() {
    let Some(world) = World::start() else { return };
    for namespace in ["demo", "prod", "other"] {
        world.kubectl(&["create", "namespace", namespace]).ok();
    }
    let watched = ["--watch-namespace", "demo", "--watch-namespace", "prod"];
    world
        .kubedb(&[&["install", "--wait=false"][..], &watched].concat())
        .ok();
    // Nobody answers the webhook here.
    for kind in [
        "mutatingwebhookconfigurations",
        "validatingwebhookconfigurations",
    ] {
        world.kubectl(&["delete", kind, "--all"]).ok();
    }
    for namespace in ["demo", "prod", "other"] {
        create(&world, namespace, "before");
    }
    let operator = start(&world, &watched, None);
    let both = |name: &str| {
        ["demo", "prod"]
            .iter()
            .all(|namespace| has_workload(&world, namespace, name))
    };
    wait("workloads of what was there", || both("before"));
    for namespace in ["demo", "prod", "other"] {
        create(&world, namespace, "after");
    }
    wait("workloads of what came", || both("after"));
    // What happens in the second is heard as well: somebody takes a workload away, and a database goes.
    let workload = "/apis/apps/v1/namespaces/prod/statefulsets/before";
    let (_, lost) = world.get(workload);
    world.call("DELETE", workload, &Value::Null);
    wait("the workload to be made anew", || {
        let (code, found) = world.get(workload);
        code == StatusCode::OK && found["metadata"]["uid"] != lost["metadata"]["uid"]
    });
    world.call("DELETE", &path("prod", "postgreses/after"), &Value::Null);
    wait("the database to be gone", || {
        world.get(&path("prod", "postgreses/after")).0 == StatusCode::NOT_FOUND
    });
    for name in ["before", "after"] {
        assert!(!has_workload(&world, "other", name));
        let (_, untouched) = world.get(&path("other", &format!("postgreses/{name}")));
        assert_eq!(untouched["metadata"]["finalizers"], Value::Null);
    }
    drop(operator);
    let log = fs::read_to_string(world.folder().join("operator.log")).unwrap();
    let trouble = log
        .lines()
        .find(|line| line.contains(" WARN ") || line.contains(" ERROR "));
    assert_eq!(trouble, None);

    // The same with a variable, and one of them taken away.
    create(&world, "prod", "left");
    create(&world, "demo", "by-variable");
    let operator = start(&world, &[], Some("demo"));
    wait("a workload in the one that is watched", || {
        has_workload(&world, "demo", "by-variable")
    });
    assert!(!has_workload(&world, "prod", "left"));
    drop(operator);
    let _operator = start(&world, &[], Some("demo,prod"));
    wait("a workload in the other", || {
        has_workload(&world, "prod", "left")
    });
}
