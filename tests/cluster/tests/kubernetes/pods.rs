//! Nodes, pods, their names and their roads.

use std::{collections::BTreeSet, io::Write as _, net::TcpListener, thread};

use kubedb_e2e::wait::eventually;
use serde_json::json;

use crate::world::{PATIENCE, World, container_security, pod_security, script};

#[test]
fn the_nodes_are_ready_and_run_the_pinned_kubernetes() {
    let Some(world) = World::begin() else { return };
    let nodes = world.kubectl.get(&["nodes"]).unwrap();
    let nodes = nodes["items"].as_array().unwrap();
    assert_eq!(nodes.len(), world.cluster.nodes().len());
    for node in nodes {
        let conditions = node["status"]["conditions"].as_array().unwrap();
        for condition in conditions {
            let expected = if condition["type"] == "Ready" {
                "True"
            } else {
                "False"
            };
            assert_eq!(condition["status"], expected, "{condition}");
        }
        assert_eq!(node["status"]["nodeInfo"]["kubeletVersion"], "v1.34.4");
    }
}

#[test]
fn databases_spread_over_the_nodes_and_run_without_privileges() {
    let Some(world) = World::begin() else { return };
    let namespace = world.databases();
    for name in ["pg15", "pg96"] {
        let pods = (0..3).map(|ordinal| world.pod(namespace, &format!("{name}-{ordinal}")));
        let nodes: BTreeSet<String> = pods
            .map(|pod| pod["spec"]["nodeName"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(nodes.len(), 3, "{name} is on {nodes:?}");
        let pod = format!("{name}-0");
        let exec = |command: &[&str]| world.exec(namespace, &pod, command).unwrap();
        assert_eq!(exec(&["id", "-u"]), "999");
        assert_eq!(exec(&["stat", "-c", "%u:%g", "/data/pg"]), "999:999");
        // The volume was given to the pod's group, with all that comes into it.
        assert_eq!(exec(&["stat", "-c", "%a %g", "/data"]), "2777 999");
        let claim = world
            .kubectl
            .get(&["-n", namespace, "pvc", &format!("data-{pod}")])
            .unwrap();
        assert_eq!(claim["status"]["phase"], "Bound");
        assert_eq!(claim["spec"]["storageClassName"], "standard");
    }
    assert!(
        world
            .exec(namespace, "pg96-0", &["postgres", "--version"])
            .unwrap()
            .contains(" 9.6.")
    );
}

#[test]
fn a_privileged_pod_is_refused_where_pods_must_do_without() {
    let Some(world) = World::begin() else { return };
    let namespace = world.databases();
    let mut pod = script(namespace, "privileged", "true", None);
    pod["spec"]["securityContext"] = json!({});
    let refused = world.kubectl.apply(&[pod]).unwrap_err().to_string();
    assert!(refused.contains("violates PodSecurity"), "{refused}");
}

#[test]
fn instances_reach_each_other_by_name_across_nodes() {
    let Some(world) = World::begin() else { return };
    let namespace = world.databases();
    for (host, version) in [("pg15-1.pg15", "15."), ("pg96-2.pg96", "9.6.")] {
        let query = "select current_setting('server_version') || ' ' || host(inet_client_addr())";
        for host in [
            host.to_owned(),
            format!("{host}.{namespace}.svc.cluster.local"),
        ] {
            let answer = world.sql("pg15-0", &host, query).unwrap();
            assert!(answer.starts_with(version), "{answer}");
            let from = &world.pod(namespace, "pg15-0")["status"]["podIP"];
            assert!(
                answer.ends_with(from.as_str().unwrap()),
                "{answer}: from {from}"
            );
        }
    }
    let unknown = world.sql("pg15-0", "pg15-9.pg15", "select 1").unwrap_err();
    assert!(
        unknown.contains("could not translate host name"),
        "{unknown}"
    );
}

#[test]
fn a_service_leads_to_its_pods_also_from_the_same_node() {
    let Some(world) = World::begin() else { return };
    let namespace = world.databases();
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "one", "namespace": namespace},
        "spec": {"selector": {"statefulset.kubernetes.io/pod-name": "pg15-0"}, "ports": [{"port": 5432}]},
    });
    world.kubectl.apply(&[service]).unwrap();
    // From itself, and from another node.
    for from in ["pg15-0", "pg15-1"] {
        eventually("answer of a Service", PATIENCE, || {
            world.sql(from, "one", "select 1")
        });
    }
    // The API's own Service is one like others.
    let text = "exec 3<>/dev/tcp/kubernetes.default.svc/443 && echo open";
    let open = eventually("the API's Service", PATIENCE, || {
        world.exec(namespace, "pg15-2", &["bash", "-c", text])
    });
    assert_eq!(open, "open");
}

#[test]
fn pods_reach_a_server_on_this_machine() {
    let Some(world) = World::begin() else { return };
    let namespace = world.databases();
    let listener = TcpListener::bind((world.host(), 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let server = thread::spawn(move || {
        let (mut stream, from) = listener.accept().unwrap();
        stream.write_all(b"from the host").unwrap();
        from.ip().to_string()
    });
    let text = format!(
        "exec 3<>/dev/tcp/{}/{} && cat <&3",
        address.ip(),
        address.port()
    );
    let answer = world
        .exec(namespace, "pg15-0", &["bash", "-c", &text])
        .unwrap();
    assert_eq!(answer, "from the host");
    // As itself: an object store that keeps a log tells pods apart.
    let pod = world.pod(namespace, "pg15-0");
    assert_eq!(pod["status"]["podIP"], server.join().unwrap());
}

#[test]
fn our_image_runs_without_privileges() {
    let Some(world) = World::begin() else { return };
    let namespace = world.databases();
    let mut pod = script(namespace, "kubedb", "", None);
    pod["spec"]["securityContext"] = pod_security(65_532);
    pod["spec"]["containers"][0] = json!({
        "name": "kubedb", "image": concat!("kubedb:", env!("CARGO_PKG_VERSION")), "imagePullPolicy": "IfNotPresent",
        "args": ["schedule", "next", "@daily"], "securityContext": container_security(),
    });
    world.kubectl.apply(&[pod]).unwrap();
    let printed = world.printed(namespace, "kubedb");
    assert!(printed.contains("00:00"), "{printed}");
}
