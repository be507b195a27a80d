//! What is killed comes back, and what is cut off is missed.

use kubedb_cluster::{control, node};
use kubedb_e2e::wait::eventually;
use serde_json::Value;

use crate::world::{PATIENCE, World, script};

fn node_of(pod: &Value) -> String {
    pod["spec"]["nodeName"].as_str().unwrap().to_owned()
}

/// When the server that answers was started, and whether it knows a row.
const STARTED: &str = "select pg_postmaster_start_time()";

#[test]
fn a_killed_node_comes_back_with_its_pods_and_their_data() {
    let Some(world) = World::begin() else { return };
    let namespace = world.databases();
    let name = node_of(&world.pod(namespace, "pg15-1"));
    world
        .sql(
            "pg15-1",
            "localhost",
            "create table if not exists kept (x int); insert into kept values (7)",
        )
        .unwrap();
    let before = world.sql("pg15-1", "localhost", STARTED).unwrap();
    let other = world.sql("pg15-0", "localhost", STARTED).unwrap();
    world.cluster.kill_node(&name).unwrap();
    assert!(
        world.sql("pg15-0", "pg15-1.pg15", "select 1").is_err(),
        "it was killed"
    );
    world.cluster.restart_node(&name).unwrap();
    let after = eventually("database", PATIENCE, || {
        world.sql("pg15-1", "localhost", STARTED)
    });
    assert_ne!(before, after);
    assert_eq!(
        world
            .sql("pg15-1", "localhost", "select max(x) from kept")
            .unwrap(),
        "7"
    );
    assert_eq!(
        world.sql("pg15-0", "localhost", STARTED).unwrap(),
        other,
        "others live on"
    );
    world.cluster.wait_until_ready(&name, true).unwrap();
    world.databases();
}

#[test]
fn pods_do_not_notice_that_kubelet_or_containerd_crash() {
    let Some(world) = World::begin() else { return };
    let namespace = world.databases();
    let name = node_of(&world.pod(namespace, "pg15-2"));
    let machine = world.cluster.node(&name).unwrap();
    let before = world.sql("pg15-2", "localhost", STARTED).unwrap();
    for program in [node::KUBELET, node::CONTAINERD] {
        let id = machine.running(program);
        machine.kill(program).unwrap();
        // Its pods serve meanwhile, to those on other nodes.
        assert_eq!(world.sql("pg15-0", "pg15-2.pg15", STARTED).unwrap(), before);
        world.cluster.restart_node(&name).unwrap();
        assert_ne!(machine.running(program), id);
        let after = eventually("exec", PATIENCE, || {
            world.sql("pg15-2", "localhost", STARTED)
        });
        assert_eq!(after, before, "{program}");
    }
}

#[test]
fn a_killed_control_plane_forgets_nothing() {
    let Some(world) = World::begin() else { return };
    let namespace = world.databases();
    let before = world.sql("pg15-0", "localhost", STARTED).unwrap();
    let uid = world.pod(namespace, "pg15-0")["metadata"]["uid"].clone();
    let control_plane = world.cluster.control();
    for (ordinal, programs) in [
        &[control::APISERVER][..],
        &[control::ETCD],
        &[
            control::ETCD,
            control::APISERVER,
            "kube-controller-manager",
            "kube-scheduler",
        ],
    ]
    .into_iter()
    .enumerate()
    {
        for program in programs {
            control_plane.kill(program).unwrap();
        }
        world.cluster.restart_control().unwrap();
        assert_eq!(world.pod(namespace, "pg15-0")["metadata"]["uid"], uid);
        // Whoever watched watches again: a pod is scheduled, started and ended.
        let name = format!("after-{ordinal}");
        eventually("pod", PATIENCE, || {
            world
                .kubectl
                .apply(&[script(namespace, &name, "echo done", None)])
                .map_err(|error| error.to_string())
        });
        assert_eq!(world.printed(namespace, &name), "done");
    }
    let after = eventually("exec", PATIENCE, || {
        world.sql("pg15-0", "localhost", STARTED)
    });
    assert_eq!(after, before);
}

#[test]
fn a_node_that_is_cut_off_is_missed_and_taken_back() {
    let Some(world) = World::begin() else { return };
    let namespace = world.databases();
    let name = node_of(&world.pod(namespace, "pg15-1"));
    let before = world.sql("pg15-1", "localhost", STARTED).unwrap();
    let cut_off = world.cluster.cut_off(&name).unwrap();
    let query = [
        "psql",
        "-h",
        "pg15-1.pg15",
        "-U",
        "postgres",
        "-c",
        "select 1",
    ];
    let command = [&["env", "PGCONNECT_TIMEOUT=2"], &query[..]].concat();
    assert!(
        world.exec(namespace, "pg15-0", &command).is_err(),
        "nothing comes through"
    );
    world.cluster.wait_until_ready(&name, false).unwrap();
    drop(cut_off);
    world.cluster.wait_until_ready(&name, true).unwrap();
    // It lived on, alone.
    let after = eventually("answer", PATIENCE, || {
        world.sql("pg15-0", "pg15-1.pg15", STARTED)
    });
    assert_eq!(after, before);
}
