//! What users say of pods, and what a cluster says against them.

use kubedb_e2e::wait::eventually;
use serde_json::json;

use crate::world::{PATIENCE, World};

#[test]
fn what_is_said_of_pods_is_in_them() {
    let Some(world) = World::begin() else { return };
    let namespace = world.namespace("pods");
    let nodes = world.kubectl.get(&["nodes"]).unwrap();
    let node = nodes["items"][0]["metadata"]["name"].as_str().unwrap();
    let spec = json!({
        "nodeSelector": { "kubernetes.io/hostname": node },
        "tolerations": [{ "key": "databases", "operator": "Exists" }],
        "resources": { "requests": { "cpu": "50m", "memory": "64Mi" }, "limits": { "memory": "512Mi" } },
        "podTemplate": {
            "metadata": { "annotations": { "example.com/team": "a" } },
            "spec": { "env": [{ "name": "EXAMPLE", "value": "x" }] },
        },
    });
    world.create(&namespace, "pg", &spec);
    world.wait_for(&namespace, "pg");
    assert_eq!(world.answer(&namespace, "pg", "select 1"), "1");
    let pod = world.get(&namespace, "pod", "pg-0").unwrap();
    assert_eq!(pod["spec"]["nodeName"], node);
    assert_eq!(pod["metadata"]["annotations"]["example.com/team"], "a");
    let container = &pod["spec"]["containers"][0];
    assert_eq!(container["resources"]["limits"]["memory"], "512Mi");
    let variables = container["env"].as_array().unwrap();
    assert!(
        variables
            .iter()
            .any(|variable| variable["name"] == "EXAMPLE")
    );
    let tolerations = pod["spec"]["tolerations"].as_array().unwrap();
    assert!(
        tolerations
            .iter()
            .any(|toleration| toleration["key"] == "databases")
    );
    // Kept apart as ever.
    let apart = &pod["spec"]["affinity"]["podAntiAffinity"];
    assert!(apart.is_object(), "{apart}");
    let fixed = r#"{"spec":{"nodeSelector":{"a":"b"}}}"#;
    let refused = world.kubectl.run(&[
        "-n",
        &namespace,
        "patch",
        "pg",
        "pg",
        "--type=merge",
        "-p",
        fixed,
    ]);
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("spec.nodeSelector"), "{refused}");
}

#[test]
fn a_quota_is_told_in_its_own_words_and_a_database_comes_when_it_has_room() {
    let Some(world) = World::begin() else { return };
    let namespace = world.namespace("quota");
    let quota = json!({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": { "name": "small", "namespace": namespace },
        "spec": { "hard": { "pods": "0" } },
    });
    world.kubectl.apply(&[quota]).unwrap();
    world.create(&namespace, "pg", &json!({}));
    let told = eventually("a condition", PATIENCE, || {
        let found = world.get(&namespace, "pg", "pg")?;
        let conditions = found["status"]["conditions"].as_array();
        let applied = conditions
            .into_iter()
            .flatten()
            .find(|condition| condition["type"] == "Applied");
        applied.cloned().ok_or_else(|| found["status"].to_string())
    });
    let message = told["message"].as_str().unwrap().to_owned();
    assert!(message.contains("exceeded quota: small"), "{message}");
    let described = world.does(&["describe", "pg", "pg", "-n", &namespace], "");
    assert!(described.contains(&message), "{described}");
    world
        .kubectl
        .run(&["-n", &namespace, "delete", "resourcequota", "small"])
        .unwrap();
    let found = world.wait_for(&namespace, "pg");
    let conditions = found["status"]["conditions"].as_array().unwrap();
    assert!(
        conditions
            .iter()
            .all(|condition| condition["type"] != "Applied")
    );
}
