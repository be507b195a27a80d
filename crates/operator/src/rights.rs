//! The one table of rights: what the operator may do, what it may give to agents, and what users are given. RBAC manifests are made of it, and tests
//! try each line.

use serde_json::{Value, json};

/// Where a right of the operator holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// In the whole cluster, whatever namespaces are watched: things outside namespaces.
    Cluster,
    /// In the namespaces whose databases it runs.
    Databases,
    /// In its own namespace.
    Own,
}

/// One line.
#[derive(Clone, Copy, Debug)]
pub struct Right {
    /// API group; empty for core.
    pub group: &'static str,
    /// Plurals.
    pub resources: &'static [&'static str],
    /// The only objects; all of them when empty.
    pub names: &'static [&'static str],
    /// What may be done.
    pub verbs: &'static [&'static str],
    /// Where.
    pub scope: Scope,
    /// What for.
    pub why: &'static str,
}

impl Right {
    /// The rule of a Role or ClusterRole.
    #[must_use]
    pub fn rule(&self) -> Value {
        let mut rule =
            json!({"apiGroups": [self.group], "resources": self.resources, "verbs": self.verbs});
        if !self.names.is_empty() {
            rule["resourceNames"] = json!(self.names);
        }
        rule
    }
}

/// Secret with the webhook's authority, certificate and keys.
pub const WEBHOOK_SECRET: &str = "kubedb-webhook";
/// Lease of the operator that acts; the others wait.
pub const LEADER_LEASE: &str = "kubedb-operator";
/// Configuration of the validating webhooks, named as in the original.
pub const VALIDATING: &str = "validators.kubedb.com";
/// Configuration of the mutating webhooks, named as in the original.
pub const MUTATING: &str = "mutators.kubedb.com";

const READ: &[&str] = &["get", "list", "watch"];
const MANAGE: &[&str] = &["get", "list", "watch", "create", "patch", "delete"];

const fn right(
    group: &'static str,
    resources: &'static [&'static str],
    verbs: &'static [&'static str],
    scope: Scope,
    why: &'static str,
) -> Right {
    Right {
        group,
        resources,
        names: &[],
        verbs,
        scope,
        why,
    }
}

/// The operator's own. It does not list Secrets and does not open a shell in a pod.
pub const OPERATOR: &[Right] = &[
    right(
        "kubedb.com",
        &["postgreses"],
        &["get", "list", "watch", "patch"],
        Scope::Databases,
        "reads databases, sets finalizers and writes back the names of Secrets",
    ),
    right(
        "kubedb.com",
        &["snapshots"],
        MANAGE,
        Scope::Databases,
        "makes the Snapshots of schedules",
    ),
    right(
        "kubedb.com",
        &["dormantdatabases"],
        MANAGE,
        Scope::Databases,
        "records paused databases",
    ),
    right(
        "kubedb.com",
        &[
            "postgreses/status",
            "snapshots/status",
            "dormantdatabases/status",
        ],
        &["get", "patch", "update"],
        Scope::Databases,
        "tells what it sees",
    ),
    right(
        "kubedb.com",
        &[
            "postgreses/finalizers",
            "snapshots/finalizers",
            "dormantdatabases/finalizers",
        ],
        &["update"],
        Scope::Databases,
        "owns what it makes, where an API server asks for this before it takes an owner that holds up deletion",
    ),
    right(
        "apps",
        &["statefulsets"],
        MANAGE,
        Scope::Databases,
        "instances",
    ),
    right(
        "batch",
        &["jobs"],
        MANAGE,
        Scope::Databases,
        "deletes the data of Snapshots whose database is gone",
    ),
    right(
        "policy",
        &["poddisruptionbudgets"],
        MANAGE,
        Scope::Databases,
        "keeps a drain from taking too many instances",
    ),
    right(
        "monitoring.coreos.com",
        &["servicemonitors"],
        MANAGE,
        Scope::Databases,
        "tells a Prometheus of CoreOS' operator where metrics are, where `spec.monitor` asks for it",
    ),
    right(
        "",
        &["services", "serviceaccounts"],
        MANAGE,
        Scope::Databases,
        "addresses and accounts of databases",
    ),
    right(
        "",
        &["persistentvolumeclaims"],
        &["get", "list", "watch", "patch", "delete"],
        Scope::Databases,
        "volumes of databases that are wiped out; the StatefulSet makes them",
    ),
    right(
        "",
        &["configmaps"],
        &["get"],
        Scope::Databases,
        "reads none, but can give only what it has",
    ),
    right(
        "",
        &["pods"],
        &["get", "list", "watch", "patch", "delete"],
        Scope::Databases,
        "looks at instances, names their roles, restarts them",
    ),
    right(
        "",
        &["secrets"],
        &["get", "create", "delete"],
        Scope::Databases,
        "makes databases' passwords, and takes those of databases that are wiped out away; reads none, but can give only what it has",
    ),
    right(
        "",
        &["events"],
        &["get", "list", "create", "patch"],
        Scope::Databases,
        "tells what happens, and looks why pods cannot be made",
    ),
    right(
        "events.k8s.io",
        &["events"],
        &["get", "create", "patch"],
        Scope::Databases,
        "tells what happens",
    ),
    right(
        "rbac.authorization.k8s.io",
        &["roles", "rolebindings"],
        MANAGE,
        Scope::Databases,
        "gives each database's agents their rights",
    ),
    right(
        "coordination.k8s.io",
        &["leases"],
        &[
            "get", "list", "watch", "create", "patch", "update", "delete",
        ],
        Scope::Databases,
        "reads who is primary, takes the Leases of deleted databases away",
    ),
    right(
        "catalog.kubedb.com",
        &["postgresversions"],
        READ,
        Scope::Cluster,
        "the PostgreSQL versions there are",
    ),
    right(
        "",
        &["namespaces"],
        READ,
        Scope::Cluster,
        "whether a namespace is going away",
    ),
    right(
        "storage.k8s.io",
        &["storageclasses"],
        &["get"],
        Scope::Cluster,
        "says of a class that is not there that it is not",
    ),
    Right {
        group: "admissionregistration.k8s.io",
        resources: &[
            "validatingwebhookconfigurations",
            "mutatingwebhookconfigurations",
        ],
        names: &[VALIDATING, MUTATING],
        verbs: &["get", "patch"],
        scope: Scope::Cluster,
        why: "tells API servers which certificate to trust",
    },
    Right {
        group: "",
        resources: &["secrets"],
        names: &[WEBHOOK_SECRET],
        verbs: &["get", "update"],
        scope: Scope::Own,
        why: "the webhook's certificate",
    },
    right(
        "",
        &["secrets"],
        &["create"],
        Scope::Own,
        "the webhook's certificate, the first time",
    ),
    Right {
        group: "coordination.k8s.io",
        resources: &["leases"],
        names: &[LEADER_LEASE],
        verbs: &["get", "patch", "update"],
        scope: Scope::Own,
        why: "which replica acts",
    },
    right(
        "coordination.k8s.io",
        &["leases"],
        &["create"],
        Scope::Own,
        "which replica acts, the first time",
    ),
    right("", &["pods"], &["get"], Scope::Own, "its own pod"),
    right(
        "",
        &["events"],
        &["get", "create", "patch"],
        Scope::Own,
        "tells what happens",
    ),
];

/// What an agent is given, each line for named objects alone. The operator has all of it, since nobody can give what he has not.
pub const AGENT: &[Right] = &[
    right(
        "kubedb.com",
        &["postgreses"],
        READ,
        Scope::Databases,
        "its own database",
    ),
    right(
        "kubedb.com",
        &["postgreses/status"],
        &["get", "patch"],
        Scope::Databases,
        "tells what it does",
    ),
    right(
        "coordination.k8s.io",
        &["leases"],
        &["get", "update"],
        Scope::Databases,
        "who is primary",
    ),
    right(
        "",
        &["pods"],
        &["get", "patch"],
        Scope::Databases,
        "names its role",
    ),
    right(
        "",
        &["secrets", "configmaps"],
        &["get"],
        Scope::Databases,
        "passwords, credentials of its store, scripts",
    ),
];

/// A role for users, aggregated to Kubernetes' own of the same name.
#[derive(Clone, Copy, Debug)]
pub struct UserRole {
    /// `admin`, `edit` or `view`.
    pub name: &'static str,
    /// Its rules: resources and verbs in `kubedb.com`.
    pub rules: &'static [(&'static [&'static str], &'static [&'static str])],
}

const ALL: &[&str] = &[
    "get",
    "list",
    "watch",
    "create",
    "update",
    "patch",
    "delete",
    "deletecollection",
];

/// As in the original: who edits does not touch the records of paused databases, whose deletion can wipe out data.
pub const USERS: &[UserRole] = &[
    UserRole {
        name: "admin",
        rules: &[
            (
                &[
                    "postgreses",
                    "postgreses/scale",
                    "snapshots",
                    "dormantdatabases",
                ],
                ALL,
            ),
            (STATUSES, &["get"]),
        ],
    },
    UserRole {
        name: "edit",
        rules: &[
            (&["postgreses", "postgreses/scale", "snapshots"], ALL),
            (&["dormantdatabases"], READ),
            (STATUSES, &["get"]),
        ],
    },
    UserRole {
        name: "view",
        rules: &[
            (&["postgreses", "snapshots", "dormantdatabases"], READ),
            (STATUSES, &["get"]),
        ],
    },
];
const STATUSES: &[&str] = &[
    "postgreses/status",
    "snapshots/status",
    "dormantdatabases/status",
];

impl UserRole {
    /// The rules of its ClusterRole.
    #[must_use]
    pub fn rules(&self) -> Vec<Value> {
        let own = self.rules.iter().map(|(resources, verbs)| {
            json!({"apiGroups": ["kubedb.com"], "resources": resources, "verbs": verbs})
        });
        let versions = json!({"apiGroups": ["catalog.kubedb.com"], "resources": ["postgresversions"], "verbs": READ});
        own.chain([versions]).collect()
    }
}

/// The operator's lines that hold in a scope.
pub fn operator(scope: Scope) -> impl Iterator<Item = &'static Right> {
    OPERATOR.iter().filter(move |right| right.scope == scope)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operator_has_what_it_gives() {
        for given in AGENT {
            for resource in given.resources {
                for verb in given.verbs {
                    let has = operator(Scope::Databases).any(|own| {
                        own.group == given.group
                            && own.names.is_empty()
                            && own.resources.contains(resource)
                            && own.verbs.contains(verb)
                    });
                    assert!(has, "{verb} {resource} can be given by nobody");
                }
            }
        }
    }

    #[test]
    fn nobody_lists_secrets_or_enters_pods() {
        for right in OPERATOR.iter().chain(AGENT) {
            assert!(!right.verbs.contains(&"*") && !right.resources.contains(&"*"));
            assert!(!right.resources.contains(&"pods/exec"));
            if right.resources.contains(&"secrets") {
                assert!(!right.verbs.contains(&"list") && !right.verbs.contains(&"watch"));
            }
        }
    }
}
