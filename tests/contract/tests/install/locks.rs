//! What a webhook that nobody answers stops, and what it does not.

use http::StatusCode;
use serde_json::{Value, json};

use crate::world::{
    OPERATOR, POSTGRESES, SNAPSHOTS, World, call, options, postgres, snapshot, wait,
};

/// Everything in turn, on one control plane: with the webhook, then without.
#[test]
fn a_dead_webhook_stops_users_changes_and_nothing_else() {
    let Some(mut world) = World::start() else {
        return;
    };
    world.install_with_kubectl();
    world.start_controllers();
    let hook = world.serve_webhook(options());
    world.wait_until_it_answers();

    let good = postgres("pg", &json!({"version": "9.6", "doNotPause": true}));
    let (code, made) = world.call("POST", POSTGRESES, &good);
    assert_eq!(code, StatusCode::CREATED, "{made}");
    let (code, made) = world.call("POST", SNAPSHOTS, &snapshot("snap", "pg"));
    assert_eq!(code, StatusCode::CREATED, "{made}");
    assert_eq!(made["metadata"]["labels"]["kubedb.com/name"], "pg");
    let path = format!("{POSTGRESES}/pg");
    let (code, _) = world.call("PATCH", &path, &json!({"spec": {"replicas": 2}}));
    assert_eq!(code, StatusCode::OK);
    locked(&world, &path);

    hook.end(&world);
    // Users' changes of what they want are judged by nobody, and so not taken.
    for (method, path, body) in [
        (
            "POST",
            POSTGRESES,
            postgres("other", &json!({"version": "9.6"})),
        ),
        ("PATCH", &*path, json!({"spec": {"replicas": 3}})),
        ("POST", SNAPSHOTS, snapshot("other", "pg")),
    ] {
        let (code, answer) = world.call(method, path, &body);
        let message = answer["message"].as_str().unwrap_or_default();
        assert_eq!(
            code,
            StatusCode::INTERNAL_SERVER_ERROR,
            "{method} {path} {answer}"
        );
        assert!(message.contains("failed calling webhook"), "{message}");
    }
    // Everything that leaves it alone is.
    let metadata = json!({"metadata": {"labels": {"a": "b"}, "finalizers": ["kubedb.com"]}});
    assert_eq!(world.call("PATCH", &path, &metadata).0, StatusCode::OK);
    let status = json!({"status": {"phase": "Running"}});
    assert_eq!(
        world.call("PATCH", &format!("{path}/status"), &status).0,
        StatusCode::OK
    );
    locked(&world, &path);
    operator_goes_on(&world, &path);
    namespaces_end(&world, &path);
}

/// Deletion of a locked database, alone, as one of many, and with `kubedb`.
fn locked(world: &World, path: &str) {
    let words =
        "postgres \"pg\" can't be paused. To continue delete, unset spec.doNotPause and retry";
    for path in [path, POSTGRESES] {
        let (code, answer) = world.call("DELETE", path, &Value::Null);
        let message = answer["message"].as_str().unwrap_or_default();
        assert_eq!(code, StatusCode::FORBIDDEN, "{answer}");
        assert!(message.ends_with(words), "{message}");
    }
    let ran = world.kubectl(&["delete", "postgres", "pg", "-n", "demo"]);
    assert!(
        ran.code == 1 && ran.stderr.contains(words),
        "{}",
        ran.stderr
    );
    assert_eq!(
        world.get(path).1["metadata"]["deletionTimestamp"],
        Value::Null
    );
}

/// What the operator writes is asked about by nobody.
fn operator_goes_on(world: &World, path: &str) {
    let operator = world.client_as(OPERATOR);
    let call = |method, path: &str, body: &Value| {
        world.runtime.block_on(call(&operator, method, path, body))
    };
    let secret = json!({"spec": {"databaseSecret": {"secretName": "pg-auth"}}});
    assert_eq!(call("PATCH", path, &secret).0, StatusCode::OK);
    let (code, answer) = call("POST", SNAPSHOTS, &snapshot("scheduled", "pg"));
    assert_eq!(code, StatusCode::CREATED, "{answer}");
    let deletion = format!("{SNAPSHOTS}/scheduled");
    assert_eq!(call("DELETE", &deletion, &Value::Null).0, StatusCode::OK);
}

/// A namespace goes, once its locked database is unlocked; until then it says why it does not.
fn namespaces_end(world: &World, path: &str) {
    assert_eq!(
        world
            .call("DELETE", "/api/v1/namespaces/demo", &Value::Null)
            .0,
        StatusCode::OK
    );
    wait("the namespace to say why it stays", || {
        let (_, namespace) = world.get("/api/v1/namespaces/demo");
        namespace["status"]["conditions"]
            .to_string()
            .contains("unset spec.doNotPause and retry")
    });
    // Unlocking changes the spec, which nobody judges while the webhook is down; the operator's account stands for the webhook that is back.
    let operator = world.client_as(OPERATOR);
    let patch = json!({"spec": {"doNotPause": false}, "metadata": {"finalizers": null}});
    let (code, _) = world
        .runtime
        .block_on(call(&operator, "PATCH", path, &patch));
    assert_eq!(code, StatusCode::OK);
    wait("the namespace to go", || {
        world.get("/api/v1/namespaces/demo").0 == StatusCode::NOT_FOUND
    });
}
