//! How a Prometheus finds a database's metrics. One Service leads to all of its pods, ready or not, so that each is scraped once, and those that hang are, too.

use kubedb_api::{
    labels,
    monitor::{Discovery, Monitor, PORT_NAME, STATS_ROLE, path},
};
use serde_json::{Value, json};

use super::{Kind, Object, Place, object, outside, selector, stats_service};
use crate::platform::DesiredDatabase;

/// Says who scrapes, as the original says it.
const AGENT: &str = "monitoring.appscode.com/agent";

/// The Service, and where it is asked for a ServiceMonitor.
pub(super) fn objects(desired: &DesiredDatabase) -> Vec<Object> {
    let Some(monitor) = &desired.monitor else {
        return Vec::new();
    };
    let mut all = vec![service(desired, monitor)];
    if monitor.discovery() == Some(Discovery::ServiceMonitor) {
        all.push(service_monitor(desired, monitor));
    }
    all
}

fn service(desired: &DesiredDatabase, monitor: &Monitor) -> Object {
    let (key, port) = (&desired.key, monitor.port());
    let mut annotations = json!({ AGENT: monitor.agent });
    if monitor.discovery() == Some(Discovery::Annotations) {
        annotations["prometheus.io/scrape"] = json!("true");
        annotations["prometheus.io/path"] = json!(path(&key.namespace, &key.name));
        annotations["prometheus.io/port"] = json!(port.to_string());
    }
    let body = json!({
        "metadata": { "annotations": annotations },
        "spec": {
            "type": "ClusterIP", "clusterIP": "None", "publishNotReadyAddresses": true, "selector": selector(key),
            "ports": [{ "name": PORT_NAME, "port": port, "protocol": "TCP", "targetPort": port }],
        },
    });
    let mut service = object(desired, Kind::Service, &stats_service(&key.name), body);
    service.body["metadata"]["labels"][labels::ROLE] = json!(STATS_ROLE);
    service
}

/// Its place: in a namespace of a Prometheus perhaps, under a name that no other database has.
fn service_monitor(desired: &DesiredDatabase, monitor: &Monitor) -> Object {
    let key = &desired.key;
    let said = monitor.prometheus.clone().unwrap_or_default();
    let namespace = said.namespace.as_ref().unwrap_or(&key.namespace);
    let name = format!("kubedb-{}-{}", key.namespace, key.name);
    let mut endpoint = json!({
        "port": PORT_NAME, "path": path(&key.namespace, &key.name),
        // The metrics say themselves whose they are.
        "honorLabels": true,
    });
    if let Some(interval) = &said.interval {
        endpoint["interval"] = json!(interval);
    }
    let mut labels = json!(selector(key));
    labels[labels::ROLE] = json!(STATS_ROLE);
    let body = json!({ "spec": {
        "endpoints": [endpoint],
        "namespaceSelector": { "matchNames": [key.namespace] },
        "selector": { "matchLabels": labels },
    } });
    let mut made = if *namespace == key.namespace {
        object(desired, Kind::ServiceMonitor, &name, body)
    } else {
        outside(desired, Kind::ServiceMonitor, namespace, &name, body)
    };
    for (label, value) in said.labels.iter().flatten() {
        let labels: &mut Value = &mut made.body["metadata"]["labels"];
        // Ours say whose it is.
        if labels[label].is_null() {
            labels[label] = json!(value);
        }
    }
    debug_assert_eq!(
        made.place,
        Place::new(Kind::ServiceMonitor, namespace, &name)
    );
    made
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(monitor: Value) -> Vec<Object> {
        let mut desired = super::super::tests::desired();
        desired.monitor = serde_json::from_value(monitor).unwrap();
        objects(&desired)
    }

    #[test]
    fn a_prometheus_that_reads_annotations_finds_every_pod_once() {
        let all =
            rendered(json!({ "agent": "prometheus.io/builtin", "prometheus": { "port": 9187 } }));
        let [service] = all.as_slice() else {
            panic!("{all:?}")
        };
        let body = &service.body;
        assert_eq!(service.place.name, "pg-stats");
        assert_eq!(
            body["metadata"]["annotations"],
            json!({
                "monitoring.appscode.com/agent": "prometheus.io/builtin", "prometheus.io/scrape": "true", "prometheus.io/port": "9187",
                "prometheus.io/path": "/kubedb.com/v1alpha1/namespaces/demo/postgreses/pg/metrics",
            })
        );
        assert_eq!(body["metadata"]["labels"]["kubedb.com/role"], "stats");
        // Whatever their role: the primary and the standbys, each one time.
        let wanted = json!({ "kubedb.com/kind": "Postgres", "kubedb.com/name": "pg" });
        assert_eq!(body["spec"]["selector"], wanted);
        assert_eq!(body["spec"]["ports"][0]["name"], "prom-http");
        assert_eq!(body["spec"]["ports"][0]["targetPort"], 9187);
        assert_eq!(body["spec"]["publishNotReadyAddresses"], true);
    }

    #[test]
    fn a_service_monitor_lies_where_its_prometheus_looks() {
        for agent in [
            "prometheus.io/coreos-operator",
            "coreos-prometheus-operator",
        ] {
            let said = json!({ "namespace": "monitoring", "labels": { "app": "kubedb" }, "interval": "10s" });
            let all = rendered(json!({ "agent": agent, "prometheus": said }));
            let [service, monitor] = all.as_slice() else {
                panic!("{all:?}")
            };
            assert_eq!(
                service.body["metadata"]["annotations"],
                json!({ "monitoring.appscode.com/agent": agent })
            );
            assert_eq!(service.body["spec"]["ports"][0]["port"], 56790);
            let (body, labels) = (&monitor.body, &monitor.body["metadata"]["labels"]);
            assert_eq!(
                (
                    monitor.place.namespace.as_str(),
                    monitor.place.name.as_str()
                ),
                ("monitoring", "kubedb-demo-pg")
            );
            assert_eq!(body["apiVersion"], "monitoring.coreos.com/v1");
            assert_eq!(
                (&labels["app"], &labels["kubedb.com/namespace"]),
                (&json!("kubedb"), &json!("demo"))
            );
            assert!(body["metadata"]["ownerReferences"].is_null());
            let endpoint = &body["spec"]["endpoints"][0];
            assert_eq!(
                (&endpoint["port"], &endpoint["interval"]),
                (&json!("prom-http"), &json!("10s"))
            );
            // What it selects is the one Service that leads to each pod once.
            let selected = body["spec"]["selector"]["matchLabels"].as_object().unwrap();
            let has = |labels: &Value| {
                selected
                    .iter()
                    .all(|(label, value)| labels[label] == *value)
            };
            assert!(has(&service.body["metadata"]["labels"]));
            for other in super::super::network::objects(&super::super::tests::desired()) {
                assert!(!has(&other.body["metadata"]["labels"]), "{:?}", other.place);
            }
        }
    }

    #[test]
    fn beside_its_database_a_service_monitor_goes_with_it() {
        let all = rendered(json!({ "agent": "prometheus.io/coreos-operator" }));
        assert_eq!(all[1].place.namespace, "demo");
        assert_eq!(all[1].body["metadata"]["ownerReferences"][0]["uid"], "u-1");
        assert!(all[1].body["spec"]["endpoints"][0]["interval"].is_null());
        // Labels that say whose a thing is are not the user's to change, also past admission.
        let forged = json!({ "labels": { "kubedb.com/name": "other" } });
        let all =
            rendered(json!({ "agent": "prometheus.io/coreos-operator", "prometheus": forged }));
        assert_eq!(all[1].body["metadata"]["labels"]["kubedb.com/name"], "pg");
    }

    #[test]
    fn without_a_monitor_nothing_is_made() {
        assert_eq!(rendered(Value::Null), []);
        // Whatever lies in an API server is read; who it names is nobody.
        assert_eq!(rendered(json!({})).len(), 1);
    }
}
