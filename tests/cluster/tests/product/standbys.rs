//! Streaming replication, as Services and labels show it.

use kubedb_e2e::wait::eventually;
use serde_json::json;

use crate::world::{PATIENCE, World};

#[test]
fn hot_standbys_answer_through_their_service_and_refuse_to_write() {
    let Some(world) = World::begin() else { return };
    let namespace = world.namespace("hot");
    world.create(
        &namespace,
        "hot",
        &json!({ "replicas": 3, "standbyMode": "hot" }),
    );
    world.wait_for(&namespace, "hot");
    let mut roles = Vec::new();
    for ordinal in 0..3 {
        let pod = world
            .get(&namespace, "pod", &format!("hot-{ordinal}"))
            .unwrap();
        roles.push(pod["metadata"]["labels"]["kubedb.com/role"].clone());
    }
    assert_eq!(roles, ["primary", "replica", "replica"]);
    world.answer(
        &namespace,
        "hot",
        "create table t as select generate_series(1, 100) as id",
    );
    let states = "select string_agg(application_name || ' ' || state, ', ' order by application_name) from pg_stat_replication";
    assert_eq!(
        world.answer(&namespace, "hot", states),
        "hot-1 streaming, hot-2 streaming"
    );
    let replicas = format!("hot-replicas.{namespace}.svc");
    let ask = |query: &str| world.sql(&namespace, "hot", &replicas, query);
    eventually("rows on a standby", PATIENCE, || {
        match ask("select count(*), pg_is_in_recovery() from t")?.as_str() {
            "100|t" => Ok(()),
            other => Err(other.to_owned()),
        }
    });
    let refused = ask("insert into t values (101)").unwrap_err();
    assert!(refused.contains("read-only transaction"), "{refused}");
}

#[test]
fn warm_standbys_are_in_no_service_and_take_no_users() {
    let Some(world) = World::begin() else { return };
    let namespace = world.namespace("warm");
    world.create(&namespace, "warm", &json!({ "replicas": 2 }));
    world.wait_for(&namespace, "warm");
    let slices = world
        .kubectl
        .get(&[
            "-n",
            &namespace,
            "endpointslices",
            "-l",
            "kubernetes.io/service-name=warm-replicas",
        ])
        .unwrap();
    let slices = slices["items"].as_array().unwrap();
    let addresses = slices
        .iter()
        .filter_map(|slice| slice["endpoints"].as_array());
    assert_eq!(addresses.map(Vec::len).sum::<usize>(), 0);
    let host = format!("warm-1.warm-pods.{namespace}.svc");
    let refused = world
        .sql(&namespace, "warm", &host, "select 1")
        .unwrap_err();
    assert!(refused.contains("pg_hba.conf rejects"), "{refused}");
}
