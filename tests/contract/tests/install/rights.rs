//! Who may do what, asked of a real API server, line by line of the table.

use kubedb_operator::rights::{AGENT, OPERATOR as TABLE, Right, Scope};
use serde_json::{Value, json};

use crate::world::{OPERATOR, World, call};

/// Asks whether somebody may; by the account itself.
fn may(world: &World, client: &kube::Client, attributes: Value) -> bool {
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let body = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes}});
    let (_, answer) = world.runtime.block_on(call(client, "POST", path, &body));
    answer["status"]["allowed"]
        .as_bool()
        .unwrap_or_else(|| panic!("{answer}"))
}

fn attributes(namespace: &str, group: &str, resource: &str, verb: &str, name: &str) -> Value {
    let (resource, sub) = resource.split_once('/').unwrap_or((resource, ""));
    json!({"namespace": namespace, "group": group, "resource": resource, "subresource": sub, "verb": verb, "name": name})
}

fn each(right: &Right) -> Vec<(&'static str, &'static str)> {
    let verbs = |resource: &'static str| right.verbs.iter().map(move |verb| (resource, *verb));
    right
        .resources
        .iter()
        .flat_map(|resource| verbs(resource))
        .collect()
}

#[test]
fn the_operator_may_what_the_table_says_and_no_more() {
    let Some(world) = World::start() else { return };
    world.install_with_kubectl();
    let operator = world.client_as(OPERATOR);
    for right in TABLE {
        let namespace = match right.scope {
            Scope::Cluster => "",
            Scope::Databases => "anywhere",
            Scope::Own => "kubedb",
        };
        for (resource, verb) in each(right) {
            let name = right.names.first().copied().unwrap_or_default();
            let asked = attributes(namespace, right.group, resource, verb, name);
            assert!(may(&world, &operator, asked.clone()), "{asked}");
        }
    }
    for (namespace, group, resource, verb, name) in [
        ("anywhere", "", "secrets", "list", ""),
        ("anywhere", "", "secrets", "watch", ""),
        ("anywhere", "", "secrets", "update", "gcs-secret"),
        ("anywhere", "", "secrets", "patch", "gcs-secret"),
        ("anywhere", "", "pods/exec", "create", "pg-0"),
        ("anywhere", "", "pods", "create", ""),
        ("anywhere", "kubedb.com", "postgreses", "create", ""),
        ("anywhere", "kubedb.com", "postgreses", "delete", "pg"),
        (
            "anywhere",
            "rbac.authorization.k8s.io",
            "roles",
            "escalate",
            "r",
        ),
        (
            "anywhere",
            "rbac.authorization.k8s.io",
            "roles",
            "bind",
            "r",
        ),
        ("kubedb", "", "secrets", "update", "other"),
        ("", "", "namespaces", "delete", "demo"),
        ("", "", "nodes", "get", "n"),
        (
            "",
            "rbac.authorization.k8s.io",
            "clusterroles",
            "create",
            "",
        ),
        (
            "",
            "admissionregistration.k8s.io",
            "validatingwebhookconfigurations",
            "patch",
            "others",
        ),
        (
            "",
            "apiextensions.k8s.io",
            "customresourcedefinitions",
            "get",
            "postgreses.kubedb.com",
        ),
    ] {
        let asked = attributes(namespace, group, resource, verb, name);
        assert!(!may(&world, &operator, asked.clone()), "{asked}");
    }
    gives(&world, &operator);
}

/// What it gives to agents it has, and what it has not it cannot give.
fn gives(world: &World, operator: &kube::Client) {
    let path = "/apis/rbac.authorization.k8s.io/v1/namespaces/demo/roles";
    let role = |name: &str, rules: Vec<Value>| json!({"metadata": {"name": name}, "rules": rules});
    let named = |right: &Right| {
        let mut rule = right.rule();
        if !right.verbs.contains(&"create") {
            rule["resourceNames"] = json!(["pg"]);
        }
        rule
    };
    let agent = role("pg", AGENT.iter().map(named).collect());
    let (code, answer) = world.runtime.block_on(call(operator, "POST", path, &agent));
    assert!(code.is_success(), "{answer}");
    let list = json!({"apiGroups": [""], "resources": ["secrets"], "verbs": ["list"]});
    let (code, answer) =
        world
            .runtime
            .block_on(call(operator, "POST", path, &role("more", vec![list])));
    assert_eq!(code, http::StatusCode::FORBIDDEN, "{answer}");
}

/// Within `--watch-namespace` it may nothing elsewhere.
#[test]
fn an_operator_of_one_namespace_stays_within_it() {
    let Some(world) = World::start() else { return };
    world.kubectl(&["create", "namespace", "demo"]).ok();
    world
        .kubedb(&["install", "--wait=false", "--watch-namespace", "demo"])
        .ok();
    let operator = world.client_as(OPERATOR);
    for (namespace, expected) in [("demo", true), ("other", false)] {
        for (group, resource, verb) in [
            ("kubedb.com", "postgreses", "list"),
            ("", "secrets", "get"),
            ("apps", "statefulsets", "create"),
        ] {
            let asked = attributes(namespace, group, resource, verb, "");
            assert_eq!(may(&world, &operator, asked.clone()), expected, "{asked}");
        }
    }
    assert!(may(
        &world,
        &operator,
        attributes("", "catalog.kubedb.com", "postgresversions", "list", "")
    ));
}

/// Users get theirs with Kubernetes' own roles.
#[test]
fn users_have_what_their_role_says() {
    let Some(world) = World::start() else { return };
    world.install_with_kubectl();
    // Aggregation is a controller's: here the roles themselves are bound.
    for role in ["admin", "edit", "view"] {
        let name = format!("kubedb:core:{role}");
        world
            .kubectl(&[
                "create",
                "rolebinding",
                role,
                &format!("--clusterrole={name}"),
                &format!("--user={role}"),
                "-n",
                "demo",
            ])
            .ok();
        let (_, found) = world.get(&format!(
            "/apis/rbac.authorization.k8s.io/v1/clusterroles/{name}"
        ));
        let aggregated =
            &found["metadata"]["labels"][format!("rbac.authorization.k8s.io/aggregate-to-{role}")];
        assert_eq!(aggregated, "true");
    }
    let wanted = [
        ("postgreses", "create", [true, true, false]),
        ("postgreses/scale", "patch", [true, true, false]),
        ("snapshots", "delete", [true, true, false]),
        ("dormantdatabases", "delete", [true, false, false]),
        ("dormantdatabases", "get", [true, true, true]),
        ("snapshots", "list", [true, true, true]),
        ("postgreses/status", "patch", [false, false, false]),
    ];
    for (place, role) in ["admin", "edit", "view"].into_iter().enumerate() {
        let client = world.client_as(role);
        for (resource, verb, expected) in wanted {
            let asked = attributes("demo", "kubedb.com", resource, verb, "");
            assert_eq!(
                may(&world, &client, asked),
                expected[place],
                "{role}: {verb} {resource}"
            );
            let elsewhere = attributes("other", "kubedb.com", resource, verb, "");
            assert!(
                !may(&world, &client, elsewhere),
                "{role}: {verb} {resource}"
            );
        }
    }
}
