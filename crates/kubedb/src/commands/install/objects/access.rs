//! Who may do what, from the table in `kubedb_operator::rights`.

use kubedb_operator::rights::{self, Scope};
use serde_json::{Value, json};

use super::{OPERATOR, Settings};

const GROUP: &str = "rbac.authorization.k8s.io";
const VERSION: &str = "rbac.authorization.k8s.io/v1";
/// Role of what it does in the namespaces of databases.
const DATABASES: &str = "kubedb-operator-databases";

pub(super) fn objects(settings: &Settings) -> Vec<Value> {
    let rules = |scope| {
        rights::operator(scope)
            .map(|right| right.rule())
            .collect::<Vec<_>>()
    };
    let cluster_role = |name: &str, rules: Vec<Value>| json!({"apiVersion": VERSION, "kind": "ClusterRole", "metadata": {"name": name}, "rules": rules});
    let mut all = vec![
        json!({"apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"name": settings.account, "namespace": settings.namespace}, "automountServiceAccountToken": false}),
        cluster_role(OPERATOR, rules(Scope::Cluster)),
        cluster_role(DATABASES, rules(Scope::Databases)),
        cluster_binding(settings, OPERATOR),
    ];
    if settings.watch.is_empty() {
        all.push(cluster_binding(settings, DATABASES));
    }
    let watched = settings.watch.iter();
    all.extend(watched.map(|namespace| binding(settings, DATABASES, namespace, "ClusterRole")));
    all.push(json!({"apiVersion": VERSION, "kind": "Role",
        "metadata": {"name": OPERATOR, "namespace": settings.namespace}, "rules": rules(Scope::Own)}));
    all.push(binding(settings, OPERATOR, &settings.namespace, "Role"));
    all.extend(rights::USERS.iter().map(user_role));
    all
}

fn user_role(role: &rights::UserRole) -> Value {
    let aggregate = format!("rbac.authorization.k8s.io/aggregate-to-{}", role.name);
    json!({"apiVersion": VERSION, "kind": "ClusterRole",
        "metadata": {"name": format!("kubedb:core:{}", role.name), "labels": {aggregate: "true"}}, "rules": role.rules()})
}

fn subject(settings: &Settings) -> Value {
    json!([{"kind": "ServiceAccount", "name": settings.account, "namespace": settings.namespace}])
}

fn cluster_binding(settings: &Settings, name: &str) -> Value {
    json!({"apiVersion": VERSION, "kind": "ClusterRoleBinding", "metadata": {"name": name},
        "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": name}, "subjects": subject(settings)})
}

fn binding(settings: &Settings, role: &str, namespace: &str, kind: &str) -> Value {
    json!({"apiVersion": VERSION, "kind": "RoleBinding", "metadata": {"name": role, "namespace": namespace},
        "roleRef": {"apiGroup": GROUP, "kind": kind, "name": role}, "subjects": subject(settings)})
}
