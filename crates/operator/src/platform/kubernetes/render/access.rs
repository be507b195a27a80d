//! What a database's agents may do: no more than to their own, and to nobody else's.

use std::collections::BTreeMap;

use kubedb_api::agent_config::volume_secret;
use serde_json::{Value, json};

use super::{Kind, Object, object, outside};
use crate::platform::DesiredDatabase;

/// Account, Role and binding; and for Secrets of other namespaces, those there.
pub(super) fn objects(desired: &DesiredDatabase) -> Vec<Object> {
    let name = &desired.key.name;
    let mut all = vec![
        object(desired, Kind::ServiceAccount, name, json!({})),
        object(
            desired,
            Kind::Role,
            name,
            json!({ "rules": rules(desired) }),
        ),
        object(desired, Kind::RoleBinding, name, binding(desired, name)),
    ];
    for (namespace, secrets) in others(desired) {
        // Databases of several namespaces may read the same one.
        let name = format!("kubedb.{}.{name}", desired.key.namespace);
        let rule = json!({ "rules": [rule("", "secrets", &["get"], &secrets)] });
        all.push(outside(desired, Kind::Role, &namespace, &name, rule));
        let bound = binding(desired, &name);
        all.push(outside(
            desired,
            Kind::RoleBinding,
            &namespace,
            &name,
            bound,
        ));
    }
    all
}

fn binding(desired: &DesiredDatabase, role: &str) -> Value {
    json!({
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": role },
        "subjects": [{ "kind": "ServiceAccount", "name": desired.key.name, "namespace": desired.key.namespace }],
    })
}

fn rule(group: &str, resource: &str, verbs: &[&str], names: &[String]) -> Value {
    json!({ "apiGroups": [group], "resources": [resource], "verbs": verbs, "resourceNames": names })
}

fn rules(desired: &DesiredDatabase) -> Vec<Value> {
    let own = std::slice::from_ref(&desired.key.name);
    let pods: Vec<String> = (0..desired.replicas)
        .map(|ordinal| format!("{}-{ordinal}", desired.key.name))
        .collect();
    let secrets: Vec<String> = desired
        .secrets
        .iter()
        .filter(|(namespace, _)| *namespace == desired.key.namespace)
        .map(|(_, name)| name.clone())
        .chain((!desired.volumes.is_empty()).then(|| volume_secret(&desired.key.name)))
        .collect();
    let mut rules = vec![
        rule("kubedb.com", "postgreses", &["get", "list", "watch"], own),
        rule("kubedb.com", "postgreses/status", &["get", "patch"], own),
        // Made by the operator, since nobody can be allowed to create one of a certain name.
        rule("coordination.k8s.io", "leases", &["get", "update"], own),
        rule("", "pods", &["get", "patch"], &pods),
        rule("", "secrets", &["get"], &secrets),
    ];
    // A rule without names would allow all.
    if !desired.config_maps.is_empty() {
        rules.push(rule("", "configmaps", &["get"], &desired.config_maps));
    }
    rules
}

/// Secrets of other namespaces.
fn others(desired: &DesiredDatabase) -> BTreeMap<String, Vec<String>> {
    let mut others = BTreeMap::<String, Vec<String>>::new();
    for (namespace, name) in &desired.secrets {
        if *namespace != desired.key.namespace {
            others
                .entry(namespace.clone())
                .or_default()
                .push(name.clone());
        }
    }
    others
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is given here is in the table that the operator's own rights are checked against.
    #[test]
    fn every_rule_is_in_the_table_of_rights() {
        for rule in rules(&super::super::tests::desired()) {
            let verbs = rule["verbs"].as_array().unwrap();
            let is_known = crate::rights::AGENT.iter().any(|right| {
                rule["apiGroups"][0] == right.group
                    && right
                        .resources
                        .iter()
                        .any(|known| rule["resources"][0] == *known)
                    && verbs
                        .iter()
                        .all(|verb| right.verbs.iter().any(|known| verb == known))
            });
            assert!(is_known, "{rule}");
        }
    }

    #[test]
    fn no_rule_is_for_all_names() {
        let mut desired = super::super::tests::desired();
        desired
            .secrets
            .push(("other".to_owned(), "storage".to_owned()));
        let rendered = objects(&desired);
        for role in rendered
            .iter()
            .filter(|object| object.place.kind == Kind::Role)
        {
            for rule in role.body["rules"].as_array().unwrap() {
                assert!(
                    !rule["resourceNames"].as_array().unwrap().is_empty(),
                    "{rule}"
                );
            }
        }
        let there: Vec<_> = rendered
            .iter()
            .filter(|object| object.place.namespace == "other")
            .collect();
        assert_eq!(there.len(), 2);
        assert!(
            there
                .iter()
                .all(|object| object.body["metadata"]["ownerReferences"].is_null())
        );
    }
}
