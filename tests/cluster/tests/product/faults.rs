//! What goes wrong on a Kubernetes: pods, operators, nodes, and what people delete by hand.

use kubedb_e2e::wait::eventually;
use serde_json::json;

use crate::world::{PATIENCE, SYSTEM, World};

#[test]
fn what_is_deleted_or_changed_by_hand_is_put_right() {
    let Some(world) = World::begin() else { return };
    let namespace = world.namespace("repair");
    world.create(&namespace, "pg", &json!({ "replicas": 2 }));
    world.wait_for(&namespace, "pg");
    world.answer(&namespace, "pg", "create table kept as select 42 as answer");
    for (kind, name) in [
        ("service", "pg"),
        ("service", "pg-replicas"),
        ("service", "pg-pods"),
        ("role", "pg"),
        ("rolebinding", "pg"),
        ("serviceaccount", "pg"),
        ("poddisruptionbudget", "pg"),
        ("lease", "pg"),
        ("statefulset", "pg"),
    ] {
        let uid = || {
            world
                .get(&namespace, kind, name)
                .map(|found| found["metadata"]["uid"].clone())
        };
        let before = uid().unwrap();
        world
            .kubectl
            .run(&["-n", &namespace, "delete", kind, name])
            .unwrap();
        eventually(&format!("{kind} {name} again"), PATIENCE, || match uid()? {
            same if same == before => Err("the old one is still there".to_owned()),
            _ => Ok(()),
        });
    }
    let change = r#"{"spec": {"replicas": 1}}"#;
    world
        .kubectl
        .run(&["-n", &namespace, "patch", "statefulset", "pg", "-p", change])
        .unwrap();
    eventually("two replicas again", PATIENCE, || {
        match &world.get(&namespace, "statefulset", "pg")?["spec"]["replicas"] {
            replicas if *replicas == 2 => Ok(()),
            other => Err(other.to_string()),
        }
    });
    world.wait_for(&namespace, "pg");
    assert_eq!(
        world.answer(&namespace, "pg", "select answer from kept"),
        "42"
    );
}

#[test]
fn a_primary_that_is_killed_comes_back_with_its_rows_and_its_role() {
    let Some(world) = World::begin() else { return };
    let namespace = world.namespace("killed");
    world.create(&namespace, "pg", &json!({ "replicas": 2 }));
    world.wait_for(&namespace, "pg");
    world.answer(
        &namespace,
        "pg",
        "create table kept as select generate_series(1, 500) as id",
    );
    let uid = || {
        world
            .get(&namespace, "pod", "pg-0")
            .map(|pod| pod["metadata"]["uid"].clone())
    };
    let before = uid().unwrap();
    world
        .kubectl
        .run(&[
            "-n",
            &namespace,
            "delete",
            "pod",
            "pg-0",
            "--force",
            "--grace-period=0",
        ])
        .unwrap();
    eventually("another pod", PATIENCE, || match uid()? {
        same if same == before => Err("the old one is still there".to_owned()),
        _ => Ok(()),
    });
    world.wait_for(&namespace, "pg");
    assert_eq!(
        world.answer(&namespace, "pg", "select count(*) from kept"),
        "500"
    );
    let streams = "select count(*) from pg_stat_replication where state = 'streaming'";
    eventually("a standby that follows again", PATIENCE, || {
        match world.answer(&namespace, "pg", streams).as_str() {
            "1" => Ok(()),
            other => Err(other.to_owned()),
        }
    });
}

#[test]
fn another_operator_leads_when_the_leader_is_killed() {
    let Some(world) = World::begin() else { return };
    let namespace = world.namespace("leader");
    let leader = || {
        let lease = world.get(SYSTEM, "lease", "kubedb-operator")?;
        let holder = lease["spec"]["holderIdentity"].as_str().map(str::to_owned);
        holder.ok_or_else(|| "nobody leads".to_owned())
    };
    let before = eventually("a leader", PATIENCE, leader);
    world
        .kubectl
        .run(&[
            "-n",
            SYSTEM,
            "delete",
            "pod",
            &before,
            "--force",
            "--grace-period=0",
        ])
        .unwrap();
    world.create(&namespace, "pg", &json!({}));
    eventually("another leader", PATIENCE, || match leader()? {
        same if same == before => Err("still the old one".to_owned()),
        _ => Ok(()),
    });
    world.wait_for(&namespace, "pg");
}

#[test]
fn a_node_that_dies_and_comes_back_brings_its_primary_back() {
    let Some(world) = World::begin() else { return };
    let namespace = world.namespace("node");
    world.create(&namespace, "pg", &json!({ "replicas": 2 }));
    world.wait_for(&namespace, "pg");
    world.answer(&namespace, "pg", "create table kept as select 7 as id");
    let pod = world.get(&namespace, "pod", "pg-0").unwrap();
    let node = pod["spec"]["nodeName"].as_str().unwrap().to_owned();
    world.cluster.kill_node(&node).unwrap();
    world.cluster.restart_node(&node).unwrap();
    world.cluster.wait_until_ready(&node, true).unwrap();
    world.wait_for(&namespace, "pg");
    assert_eq!(world.answer(&namespace, "pg", "select id from kept"), "7");
    let pod = world.get(&namespace, "pod", "pg-0").unwrap();
    assert_eq!(pod["metadata"]["labels"]["kubedb.com/role"], "primary");
}

#[test]
fn databases_serve_while_the_control_plane_is_away() {
    let Some(world) = World::begin() else { return };
    let namespace = world.namespace("control");
    world.create(&namespace, "pg", &json!({}));
    world.wait_for(&namespace, "pg");
    let restarts = || {
        let pod = world.get(&namespace, "pod", "pg-0")?;
        Ok::<_, String>(pod["status"]["containerStatuses"][0]["restartCount"].clone())
    };
    let before = restarts().unwrap();
    world.cluster.restart_control().unwrap();
    world.wait_for(&namespace, "pg");
    assert_eq!(world.answer(&namespace, "pg", "select 1"), "1");
    assert_eq!(restarts().unwrap(), before);
}
