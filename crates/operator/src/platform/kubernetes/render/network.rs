//! How clients reach a database, and how disturbances are kept from all of it at once.

use kubedb_api::{agent_config::POSTGRES_PORT, labels};
use serde_json::{Value, json};

use super::{Kind, Object, object, pods_service, replicas_service, selector, value};
use crate::platform::DesiredDatabase;

/// Services, and for more than one instance a budget.
pub(super) fn objects(desired: &DesiredDatabase) -> Vec<Object> {
    let name = &desired.key.name;
    let mut all = vec![
        object(desired, Kind::Service, &pods_service(name), pods(desired)),
        object(
            desired,
            Kind::Service,
            name,
            led(desired, &[(labels::ROLE, "primary")]),
        ),
        // Warm standbys refuse users, so this leads to none of them.
        object(
            desired,
            Kind::Service,
            &replicas_service(name),
            led(
                desired,
                &[(labels::ROLE, "replica"), (labels::STANDBY_MODE, "hot")],
            ),
        ),
    ];
    // With one instance it would keep a node from ever being drained.
    if desired.replicas > 1 {
        let budget = json!({ "spec": {
            "maxUnavailable": 1, "selector": { "matchLabels": selector(&desired.key) },
        } });
        all.push(object(desired, Kind::PodDisruptionBudget, name, budget));
    }
    all
}

fn port() -> Value {
    json!([{ "name": "api", "port": POSTGRES_PORT, "protocol": "TCP", "targetPort": "api" }])
}

/// Each pod by its name, ready or not: a standby copies a primary that is not in its Service yet.
fn pods(desired: &DesiredDatabase) -> Value {
    json!({ "spec": {
        "type": "ClusterIP", "clusterIP": "None", "publishNotReadyAddresses": true,
        "selector": selector(&desired.key), "ports": port(),
    } })
}

/// The pods of a role, as the agents label them.
fn led(desired: &DesiredDatabase, role: &[(&str, &str)]) -> Value {
    let mut selector = value(selector(&desired.key));
    for (label, is) in role {
        selector[*label] = json!(is);
    }
    json!({ "spec": { "type": "ClusterIP", "selector": selector, "ports": port() } })
}
