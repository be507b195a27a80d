//! Who may do what: agents no more than to their own, the operator nothing that it need not.

use serde_json::json;

use crate::world::{SYSTEM, World};

#[test]
fn an_agent_touches_its_own_database_alone() {
    let Some(world) = World::begin() else { return };
    let namespace = world.namespace("own");
    for name in ["one", "other"] {
        world.create(&namespace, name, &json!({}));
    }
    for name in ["one", "other"] {
        world.wait_for(&namespace, name);
    }
    let account = format!("--as=system:serviceaccount:{namespace}:one");
    let may = |words: &[&str]| {
        let arguments = [&["-n", &namespace, "auth", "can-i", &account], words].concat();
        let output = world.kubectl.output(&arguments).unwrap();
        String::from_utf8_lossy(&output.stdout).trim() == "yes"
    };
    for allowed in [
        &["get", "postgreses.kubedb.com/one"][..],
        &["patch", "postgreses.kubedb.com/one", "--subresource=status"],
        &["update", "leases.coordination.k8s.io/one"],
        &["get", "secrets/one-auth"],
        &["patch", "pods/one-0"],
    ] {
        assert!(may(allowed), "may not {allowed:?}");
    }
    for refused in [
        &["get", "postgreses.kubedb.com/other"][..],
        &["patch", "postgreses.kubedb.com/one"],
        &[
            "patch",
            "postgreses.kubedb.com/other",
            "--subresource=status",
        ],
        &["list", "postgreses.kubedb.com"],
        &["get", "secrets/other-auth"],
        &["get", "secrets/gcs-secret"],
        &["list", "secrets"],
        &["update", "leases.coordination.k8s.io/other"],
        &["create", "leases.coordination.k8s.io"],
        &["patch", "pods/other-0"],
        &["delete", "pods/one-0"],
        &["get", "snapshots.kubedb.com"],
        &["get", "configmaps"],
        &["get", "secrets/one-auth", "-n", SYSTEM],
    ] {
        assert!(!may(refused), "may {refused:?}");
    }
}
