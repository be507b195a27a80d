//! Who may call what.

use kubedb_contract::{
    engine::User,
    talk::{Call, Talk},
};
use serde_json::json;

use crate::things::{config_map, postgres, secret, with};

pub(crate) async fn strangers(talk: &mut Talk) {
    let paths = [
        "/api/v1/namespaces",
        "/api",
        "/apis",
        "/openapi/v3",
        "/nothing",
    ];
    for (index, path) in paths.into_iter().enumerate() {
        let title = format!("nobody asks {index}");
        talk.step(&title, Call::get(path).by(User::Nobody)).await;
        let title = format!("somebody unknown asks {index}");
        talk.step(&title, Call::get(path).by(User::Liar)).await;
    }
    let path = talk.core("secrets");
    let call = Call::post(&path, &secret("s")).by(User::Liar);
    talk.step("somebody unknown writes", call).await;
    let health = Call::get("/healthz").by(User::Liar);
    talk.step("somebody unknown asks for health", health).await;
}

/// The agent of `pg` in the namespace `agents`.
pub(crate) async fn agents(talk: &mut Talk) {
    let ours = "/apis/kubedb.com/v1alpha1/namespaces/agents/postgreses";
    let core = "/api/v1/namespaces/agents";
    let leases = "/apis/coordination.k8s.io/v1/namespaces/agents/leases";
    for name in ["pg", "other"] {
        talk.ask(&Call::post(ours, &postgres(name))).await;
        talk.ask(&Call::post(leases, &json!({"metadata": {"name": name}})))
            .await;
    }
    for name in ["auth", "other"] {
        talk.ask(&Call::post(&format!("{core}/secrets"), &secret(name)))
            .await;
    }
    let status = json!({"status": {"phase": "Running"}});
    let calls = [
        ("reads its own", Call::get(&format!("{ours}/pg"))),
        (
            "writes its own status",
            Call::patch(&format!("{ours}/pg/status"), "merge", &status),
        ),
        (
            "writes its own spec",
            Call::patch(
                &format!("{ours}/pg"),
                "merge",
                &json!({"spec": {"replicas": 2}}),
            ),
        ),
        ("reads another", Call::get(&format!("{ours}/other"))),
        (
            "writes another's status",
            Call::patch(&format!("{ours}/other/status"), "merge", &status),
        ),
        ("lists all", Call::get(ours)),
        (
            "lists the cluster",
            Call::get("/apis/kubedb.com/v1alpha1/postgreses"),
        ),
        (
            "lists its own by name",
            Call::get(&format!("{ours}?fieldSelector=metadata.name%3Dpg")),
        ),
        (
            "watches another by name",
            Call::get(&format!(
                "{ours}?watch=1&fieldSelector=metadata.name%3Dother"
            )),
        ),
        ("deletes its own", Call::delete(&format!("{ours}/pg"))),
        ("deletes all", Call::delete(ours)),
        (
            "reads its Secret",
            Call::get(&format!("{core}/secrets/auth")),
        ),
        (
            "reads another Secret",
            Call::get(&format!("{core}/secrets/other")),
        ),
        (
            "reads a Secret that is not there",
            Call::get(&format!("{core}/secrets/none")),
        ),
        ("lists Secrets", Call::get(&format!("{core}/secrets"))),
        (
            "creates a ConfigMap",
            Call::post(&format!("{core}/configmaps"), &config_map("c")),
        ),
        (
            "creates in another namespace",
            Call::post(
                "/apis/coordination.k8s.io/v1/namespaces/default/leases",
                &json!({"metadata": {"name": "pg"}}),
            ),
        ),
        ("reads its Lease", Call::get(&format!("{leases}/pg"))),
        (
            "patches its Lease",
            Call::patch(
                &format!("{leases}/pg"),
                "merge",
                &json!({"spec": {"holderIdentity": "pg-0"}}),
            ),
        ),
        ("reads another Lease", Call::get(&format!("{leases}/other"))),
        ("reads a namespace", Call::get("/api/v1/namespaces/agents")),
        ("lists namespaces", Call::get("/api/v1/namespaces")),
        (
            "creates a namespace",
            Call::post("/api/v1/namespaces", &json!({"metadata": {"name": "x"}})),
        ),
        (
            "puts its own",
            Call::put(
                &format!("{ours}/pg"),
                &with(postgres("pg"), "spec.replicas", json!(5)),
            ),
        ),
    ];
    for (title, call) in calls {
        talk.step_of(title, call.by(User::Agent), |body| {
            let mut body = body.clone();
            // Versions depend on what others write.
            if let Some(metadata) = body.get_mut("metadata").and_then(|one| one.as_object_mut()) {
                metadata.remove("resourceVersion");
            }
            body
        })
        .await;
    }
}
