//! Metrics on a Kubernetes: who finds them, and what becomes of ServiceMonitors.

use kubedb_e2e::wait::eventually;
use serde_json::{Value, json};

use crate::world::{PATIENCE, SYSTEM, World};

/// As much of the kind of CoreOS' operator as an API server must know.
fn service_monitors() -> Value {
    let schema = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "servicemonitors.monitoring.coreos.com"},
        "spec": {"group": "monitoring.coreos.com", "scope": "Namespaced",
            "names": {"kind": "ServiceMonitor", "listKind": "ServiceMonitorList", "plural": "servicemonitors", "singular": "servicemonitor"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": schema}]}})
}

/// Takes the kind away again, also when a test panics: others count on its absence.
struct Kind<'a>(&'a World);

impl Drop for Kind<'_> {
    fn drop(&mut self) {
        let crd = "servicemonitors.monitoring.coreos.com";
        let _ = self
            .0
            .kubectl
            .run(&["delete", "crd", crd, "--ignore-not-found"]);
    }
}

impl World {
    fn patch_monitor(&self, namespace: &str, monitor: &Value) {
        let patch = json!({"spec": {"monitor": monitor}}).to_string();
        let words = [
            "-n",
            namespace,
            "patch",
            "pg",
            "pg",
            "--type=merge",
            "-p",
            &patch,
        ];
        self.kubectl.run(&words).unwrap();
    }

    /// Asks from within a pod of the database.
    fn scrape(&self, namespace: &str, host: &str, port: u16, path: &str) -> Result<String, String> {
        let script = format!(
            "exec 3<>/dev/tcp/{host}/{port} && printf 'GET {path} HTTP/1.0\\r\\nHost: {host}\\r\\n\\r\\n' >&3 && timeout 15 cat <&3"
        );
        let words = [
            "-n", namespace, "exec", "pg-0", "-c", "postgres", "--", "bash", "-c", &script,
        ];
        self.kubectl.run(&words).map_err(|error| error.to_string())
    }

    fn monitored(&self, namespace: &str) -> Result<Value, String> {
        let found = self.get(namespace, "pg", "pg")?;
        let conditions = found["status"]["conditions"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let known = conditions
            .into_iter()
            .find(|known| known["type"] == "Monitored");
        known.ok_or_else(|| "no condition".to_owned())
    }

    fn is_gone(&self, namespace: &str, kind: &str, name: &str) {
        eventually(&format!("{kind} {name} gone"), PATIENCE, || {
            match self.get(namespace, kind, name) {
                Err(error) if error.contains("NotFound") || error.contains("not found") => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
    }
}

#[test]
fn every_pod_is_scraped_once_and_nothing_is_left_behind() {
    let Some(world) = World::begin() else { return };
    let (namespace, elsewhere) = (world.namespace("monitored"), world.namespace("prometheus"));
    world.create(
        &namespace,
        "pg",
        &json!({"replicas": 2, "standbyMode": "hot"}),
    );
    world.wait_for(&namespace, "pg");
    let uids = || {
        let pods = world
            .kubectl
            .get(&["-n", &namespace, "pods", "-l", "kubedb.com/name=pg"])
            .unwrap();
        let pods = pods["items"].as_array().cloned().unwrap_or_default();
        let uids = pods.iter().map(|pod| pod["metadata"]["uid"].to_string());
        uids.collect::<Vec<_>>()
    };
    let before = uids();

    // By annotations.
    world.patch_monitor(&namespace, &json!({"agent": "prometheus.io/builtin"}));
    let service = eventually("the Service", PATIENCE, || {
        world.get(&namespace, "svc", "pg-stats")
    });
    let annotations = &service["metadata"]["annotations"];
    assert_eq!(annotations["prometheus.io/scrape"], "true");
    assert_eq!(annotations["prometheus.io/port"], "56790");
    let path = format!("/kubedb.com/v1alpha1/namespaces/{namespace}/postgreses/pg/metrics");
    assert_eq!(annotations["prometheus.io/path"], path.as_str());
    eventually("both pods behind it", PATIENCE, || {
        let found = world.get(&namespace, "endpoints", "pg-stats")?;
        let count = found["subsets"][0]["addresses"].as_array().map(Vec::len);
        (count == Some(2))
            .then_some(())
            .ok_or_else(|| found.to_string())
    });
    for (instance, replica) in [("pg-0", "0"), ("pg-1", "1")] {
        let host = format!("{instance}.pg-pods.{namespace}.svc");
        for (port, path) in [
            (56_790, path.as_str()),
            (56_790, "/metrics"),
            (8_008, "/metrics"),
        ] {
            let told = eventually("metrics", PATIENCE, || {
                world.scrape(&namespace, &host, port, path)
            });
            assert!(told.contains("\npg_up 1\n"), "{told}");
            assert!(
                told.contains(&format!("\npg_replication_is_replica {replica}\n")),
                "{told}"
            );
        }
    }
    eventually("the condition", PATIENCE, || {
        let known = world.monitored(&namespace)?;
        (known["status"] == "True")
            .then_some(())
            .ok_or_else(|| known.to_string())
    });

    // By a kind that the cluster does not have, and then has.
    let wanted = |place: &str| {
        let said = json!({"namespace": place, "labels": {"app": "kubedb"}, "interval": "10s", "port": 9187});
        json!({"agent": "prometheus.io/coreos-operator", "prometheus": said})
    };
    world.patch_monitor(&namespace, &wanted(&elsewhere));
    let words = "cluster does not support CoreOS Prometheus operator";
    eventually("the original's words", PATIENCE, || {
        let known = world.monitored(&namespace)?;
        let is_told = known["status"] == "False" && known["message"] == words;
        is_told.then_some(()).ok_or_else(|| known.to_string())
    });
    let described = world.does(&["describe", "pg", "pg", "-n", &namespace], "");
    assert!(
        described.contains(&format!(
            "Failed to manage monitoring system. Reason: {words}"
        )),
        "{described}"
    );
    world.wait_for(&namespace, "pg");
    let _kind = Kind(&world);
    world.kubectl.apply(&[service_monitors()]).unwrap();
    let name = format!("kubedb-{namespace}-pg");
    let made = eventually("the ServiceMonitor", PATIENCE, || {
        world.get(&elsewhere, "servicemonitors.monitoring.coreos.com", &name)
    });
    assert_eq!(made["metadata"]["labels"]["app"], "kubedb");
    assert_eq!(made["spec"]["endpoints"][0]["interval"], "10s");
    let service = world.get(&namespace, "svc", "pg-stats").unwrap();
    assert_eq!(
        service["metadata"]["annotations"]["prometheus.io/scrape"],
        Value::Null
    );
    let host = format!("pg-1.pg-pods.{namespace}.svc");
    let told = eventually("the other port", PATIENCE, || {
        world.scrape(&namespace, &host, 9_187, "/metrics")
    });
    assert!(told.contains("\npg_up 1\n"), "{told}");

    // It moves, goes, and goes with its database.
    let kind = "servicemonitors.monitoring.coreos.com";
    world.patch_monitor(&namespace, &wanted(&namespace));
    eventually("it is elsewhere now", PATIENCE, || {
        world.get(&namespace, kind, &name)
    });
    world.is_gone(&elsewhere, kind, &name);
    world.patch_monitor(&namespace, &Value::Null);
    world.is_gone(&namespace, kind, &name);
    world.is_gone(&namespace, "svc", "pg-stats");
    assert_eq!(uids(), before, "no pod was made anew");
    world.patch_monitor(&namespace, &wanted(&elsewhere));
    eventually("it is back", PATIENCE, || {
        world.get(&elsewhere, kind, &name)
    });

    // The operator tells of it, too.
    let pods = world.kubectl.get(&[
        "-n",
        SYSTEM,
        "pods",
        "-l",
        "app.kubernetes.io/component=operator",
    ]);
    let addresses: Vec<String> = pods.unwrap()["items"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|pod| pod["status"]["podIP"].as_str().map(str::to_owned))
        .collect();
    let told: Vec<String> = addresses
        .iter()
        .map(|address| {
            eventually("the operator's metrics", PATIENCE, || {
                world.scrape(&namespace, address, 8_080, "/metrics")
            })
        })
        .collect();
    let leaders: Vec<&String> = told
        .iter()
        .filter(|text| text.contains("\nkubedb_operator_leader 1\n"))
        .collect();
    assert_eq!(leaders.len(), 1, "{} operators", told.len());
    let ready =
        format!("kubedb_database_ready_replicas{{namespace=\"{namespace}\",database=\"pg\"}} 2\n");
    assert!(leaders[0].contains(&ready), "{}", leaders[0]);

    world.does(&["delete", "pg", "pg", "-n", &namespace], "");
    world.is_gone(&elsewhere, kind, &name);
}
