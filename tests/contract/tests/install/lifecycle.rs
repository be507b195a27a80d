//! From nothing to installed and back.

use std::collections::BTreeMap;

use http::StatusCode;
use serde_json::{Value, json};

use crate::world::{self, World, deploy, postgres, wait};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// Versions of everything that an installation consists of, by the name that it prints.
fn versions(world: &World) -> BTreeMap<String, String> {
    let manifests = world.kubedb(&["install", "-o", "yaml"]).ok().stdout;
    let ran = world.kubectl_with(&["get", "-f", "-", "-o", "json"], &manifests);
    let list: Value = serde_json::from_str(&ran.ok().stdout).unwrap();
    let items = list["items"].as_array().unwrap().iter();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let versions = items.map(|item| {
        let (kind, metadata) = (text(&item["kind"]), &item["metadata"]);
        let name = format!(
            "{kind}/{}/{}",
            text(&metadata["namespace"]),
            text(&metadata["name"])
        );
        (name, text(&metadata["resourceVersion"]))
    });
    versions.collect()
}

fn install(world: &World, more: &[&str]) -> world::Ran {
    world.kubedb(&[&["install", "--wait=false"], more].concat())
}

#[test]
fn definitions_of_others_are_refused_by_name() {
    let Some(world) = World::start() else { return };
    let theirs = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "postgreses.kubedb.com", "labels": {"app": "kubedb"}},
        "spec": {"group": "kubedb.com", "scope": "Namespaced",
            "names": {"kind": "Postgres", "plural": "postgreses", "singular": "postgres", "listKind": "PostgresList"},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]}});
    let (code, before) = world.call("POST", DEFINITIONS, &theirs);
    assert_eq!(code, StatusCode::CREATED);
    for arguments in [
        &["install"][..],
        &["install", "--dry-run"],
        &["uninstall", "--purge"],
    ] {
        let ran = world.kubedb(arguments);
        assert_eq!((ran.code, &*ran.stdout), (1, ""), "{arguments:?}");
        let wanted = "error: definitions of the same names belong to something else: postgreses.kubedb.com\n\nhint: AppsCode's KubeDB";
        assert!(ran.stderr.starts_with(wanted), "{}", ran.stderr);
    }
    let (_, after) = world.get(&format!("{DEFINITIONS}/postgreses.kubedb.com"));
    assert_eq!(after["spec"], before["spec"]);
    assert_eq!(
        world.get("/api/v1/namespaces/kubedb").0,
        StatusCode::NOT_FOUND
    );
}

#[test]
fn install_upgrade_uninstall_purge() {
    let Some(mut world) = World::start() else {
        return;
    };
    world.start_controllers();
    let planned = world.kubedb(&["install", "--dry-run"]).ok();
    assert!(
        planned
            .lines()
            .iter()
            .all(|line| line.ends_with(" created (dry run)")),
        "{}",
        planned.stdout
    );
    assert_eq!(
        world.get("/api/v1/namespaces/kubedb").0,
        StatusCode::NOT_FOUND
    );
    let done = install(&world, &[]).ok();
    assert_eq!(done.stdout, planned.stdout.replace(" (dry run)", ""));

    // What is so already is left alone, to the version of each object.
    let before = versions(&world);
    assert_eq!(before.len(), done.lines().len());
    let again = install(&world, &[]).ok();
    assert!(
        again
            .lines()
            .iter()
            .all(|line| line.ends_with(" unchanged")),
        "{}",
        again.stdout
    );
    assert_eq!(versions(&world), before);

    // What somebody changed is put right, and nothing else is touched.
    let role = ["clusterrole", "kubedb-operator-databases"];
    world
        .kubectl(
            &[
                &["patch"],
                &role[..],
                &[
                    "--type=json",
                    "-p",
                    r#"[{"op": "remove", "path": "/rules/0"}]"#,
                ],
            ]
            .concat(),
        )
        .ok();
    assert_eq!(
        changed(&world, &["--dry-run"]),
        ["clusterrole.rbac.authorization.k8s.io/kubedb-operator-databases configured (dry run)"]
    );
    assert_eq!(
        changed(&world, &[]),
        ["clusterrole.rbac.authorization.k8s.io/kubedb-operator-databases configured"]
    );
    assert_eq!(
        changed(&world, &["--image", "other:2"]),
        ["deployment.apps/kubedb-operator configured"]
    );
    let (_, deployment) = world.get("/apis/apps/v1/namespaces/kubedb/deployments/kubedb-operator");
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(
        (&container["image"], &container["args"][1]),
        (&json!("other:2"), &json!("--image=other:2"))
    );

    // No operator runs, so waiting ends with what is missing.
    let ran = world.kubedb(&["install", "--timeout", "1s"]);
    assert_eq!(ran.code, 1);
    assert!(
        ran.stderr
            .contains("timed out waiting for the operator: 0 of 2 replicas are ready"),
        "{}",
        ran.stderr
    );

    uninstall(&world);
    purge(&world);
}

fn changed(world: &World, more: &[&str]) -> Vec<String> {
    let ran = install(world, more).ok();
    let lines = ran.lines().into_iter();
    lines
        .filter(|line| !line.contains(" unchanged"))
        .map(str::to_owned)
        .collect()
}

fn uninstall(world: &World) {
    world.kubectl(&["create", "namespace", "demo"]).ok();
    // Nobody answers the webhook, so nobody may create: what is to be kept is made when it is gone.
    let planned = world.kubedb(&["uninstall", "--dry-run"]).ok();
    let done = world.kubedb(&["uninstall"]).ok();
    assert_eq!(done.stdout, planned.stdout.replace(" (dry run)", ""));
    assert!(
        done.stderr
            .contains("databases, Snapshots and their definitions stay"),
        "{}",
        done.stderr
    );
    let mut pg = postgres("pg", &json!({"version": "9.6", "doNotPause": true}));
    pg["metadata"]["finalizers"] = json!(["kubedb.com"]);
    assert_eq!(
        world.call("POST", world::POSTGRESES, &pg).0,
        StatusCode::CREATED
    );
    // Locked databases stay locked, whoever runs.
    let path = format!("{}/pg", world::POSTGRESES);
    assert_eq!(
        world.call("DELETE", &path, &Value::Null).0,
        StatusCode::FORBIDDEN
    );
    let gone = "/apis/apps/v1/namespaces/kubedb/deployments/kubedb-operator";
    assert_eq!(world.get(gone).0, StatusCode::NOT_FOUND);
    for kept in [
        &format!("{DEFINITIONS}/snapshots.kubedb.com"),
        "/api/v1/namespaces/kubedb",
        "/apis/rbac.authorization.k8s.io/v1/clusterroles/kubedb:core:view",
    ] {
        assert_eq!(world.get(kept).0, StatusCode::OK, "{kept}");
    }
    assert_eq!(world.kubedb(&["uninstall"]).ok().stdout, "");
}

fn purge(world: &World) {
    let ran = world.kubedb(&["uninstall", "--purge"]);
    assert_eq!(ran.code, 1);
    assert!(
        ran.stderr
            .starts_with("error: databases refuse to be deleted: demo/pg\n"),
        "{}",
        ran.stderr
    );
    let path = format!("{}/pg", world::POSTGRESES);
    let patch = json!({"spec": {"doNotPause": false}});
    assert_eq!(world.call("PATCH", &path, &patch).0, StatusCode::OK);
    let ran = world.kubedb(&["uninstall", "--purge"]).ok();
    assert!(
        ran.stdout
            .contains("postgres.kubedb.com/pg of namespace demo deleted with its definition"),
        "{}",
        ran.stdout
    );
    let (_, left) = world.get(DEFINITIONS);
    assert_eq!(left["items"], json!([]));
    for gone in [
        "/api/v1/namespaces/kubedb",
        "/apis/rbac.authorization.k8s.io/v1/clusterroles/kubedb:core:view",
        "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/kubedb-deletion-lock",
    ] {
        assert_eq!(world.get(gone).0, StatusCode::NOT_FOUND, "{gone}");
    }
    assert_eq!(world.get("/api/v1/namespaces/demo").0, StatusCode::OK);
}

/// `kubectl apply --server-side -k deploy/`, twice, and then the program finds nothing to do.
#[test]
fn kubectl_makes_the_same_of_deploy() {
    let Some(world) = World::start() else { return };
    world.install_with_kubectl();
    let before = versions(&world);
    for folder in ["", "catalogue"] {
        world
            .kubectl(&["apply", "--server-side", "-k", &deploy(folder)])
            .ok();
    }
    assert_eq!(versions(&world), before);
    assert_eq!(changed(&world, &[]), [""; 0]);
    assert_eq!(versions(&world), before);
    wait("the columns", || {
        let ran = world.kubectl(&["get", "pgversion", "9.6"]).ok();
        ran.stdout.starts_with("NAME   VERSION   DB_IMAGE")
    });
}
