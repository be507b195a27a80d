//! Who may do what, over TLS.

#![allow(clippy::unwrap_used)]

mod world;

use std::net::SocketAddr;

use kube::api::{Api, DeleteParams, Patch, PatchParams};
use kubedb_api::Postgres;
use kubedb_server::AgentGrant;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use world::{POSTGRES, world};

#[tokio::test(flavor = "multi_thread")]
async fn without_a_token_nothing_is_told() {
    let world = world().await;
    let kubeconfig = std::fs::read_to_string(&world.serving.kubeconfig).unwrap();
    let broken = world.folder.path().join("broken");
    let line = kubeconfig
        .lines()
        .find(|line| line.contains("token:"))
        .unwrap();
    std::fs::write(&broken, kubeconfig.replace(line, "    token: nobody")).unwrap();
    let output = world.run(
        &[
            "--kubeconfig",
            broken.to_str().unwrap(),
            "get",
            "secrets",
            "-A",
        ],
        "",
    );
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        error.contains("You must be logged in to the server"),
        "{error}"
    );
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(&world.serving.kubeconfig)
            .unwrap()
            .permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
    let elsewhere: SocketAddr = "0.0.0.0:0".parse().unwrap();
    let refused = world
        .server
        .serve(elsewhere, world.folder.path(), CancellationToken::new())
        .await;
    assert!(refused.unwrap_err().to_string().contains("loopback only"));
    world.shutdown.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_reaches_its_own_objects_alone() {
    let world = world().await;
    world.kubectl(&["create", "ns", "demo"]);
    world.kubectl_with(&["create", "-f", "-"], POSTGRES);
    world.kubectl_with(
        &["create", "-f", "-"],
        &POSTGRES.replace("script-postgres", "other"),
    );
    for secret in ["mine", "yours"] {
        world.kubectl(&[
            "create",
            "secret",
            "generic",
            secret,
            "-n",
            "demo",
            "--from-literal=a=b",
        ]);
    }
    let mut grant = AgentGrant {
        namespace: "demo".to_owned(),
        database: "script-postgres".to_owned(),
        instance: "script-postgres-0".to_owned(),
        secrets: vec![("demo".to_owned(), "mine".to_owned())],
    };
    let kubeconfig = world
        .server
        .agent_kubeconfig(grant.clone(), &world.serving)
        .unwrap();
    let path = world.folder.path().join("agent");
    std::fs::write(&path, &kubeconfig).unwrap();
    let path = path.to_str().unwrap();
    let agent = |arguments: &[&str]| -> Vec<String> {
        ["--kubeconfig", path]
            .iter()
            .chain(arguments)
            .map(|text| (*text).to_owned())
            .collect()
    };
    let run = |arguments: &[&str]| {
        let all = agent(arguments);
        world.run(&all.iter().map(String::as_str).collect::<Vec<_>>(), "")
    };
    let status = r#"{"status":{"instances":{}}}"#;
    for allowed in [
        &["get", "pg", "script-postgres"][..],
        &[
            "get",
            "pg",
            "--field-selector=metadata.name=script-postgres",
        ],
        &["get", "secret", "mine"],
        &[
            "patch",
            "pg",
            "script-postgres",
            "--subresource=status",
            "--type=merge",
            "-p",
            status,
        ],
    ] {
        let output = run(allowed);
        assert!(
            output.status.success(),
            "{allowed:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    for refused in [
        &["get", "pg", "other"][..],
        &["get", "pg"],
        &["get", "secret", "yours"],
        &["get", "secrets"],
        &["get", "pg", "script-postgres", "-n", "default"],
        &[
            "get",
            "pg",
            "--field-selector=metadata.name!=script-postgres",
        ],
        &[
            "patch",
            "pg",
            "other",
            "--subresource=status",
            "--type=merge",
            "-p",
            status,
        ],
        &["label", "pg", "script-postgres", "a=b"],
        &["delete", "pg", "script-postgres"],
        &["create", "secret", "generic", "new", "--from-literal=a=b"],
        &["create", "ns", "new"],
    ] {
        let output = run(refused);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && error.contains("forbidden: User"),
            "{refused:?}: {error}"
        );
    }
    let error = run(&["get", "pg", "other"]);
    assert_eq!(
        String::from_utf8_lossy(&error.stderr),
        "Error from server (Forbidden): postgreses.kubedb.com \"other\" is forbidden: User \
         \"kubedb:agent:demo:script-postgres-0\" cannot get resource \"postgreses\" in API group \"kubedb.com\" in the \
         namespace \"demo\"\n"
    );
    grant.secrets = vec![("demo".to_owned(), "yours".to_owned())];
    let again = world
        .server
        .agent_kubeconfig(grant, &world.serving)
        .unwrap();
    assert_eq!(again, kubeconfig, "the same agent keeps its token");
    assert!(run(&["get", "secret", "yours"]).status.success());
    assert!(!run(&["get", "secret", "mine"]).status.success());
    world.shutdown.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agent_of_a_deleted_database_sees_that_it_is_gone() {
    let world = world().await;
    world.kubectl(&["create", "ns", "demo"]);
    world.kubectl_with(&["create", "-f", "-"], POSTGRES);
    world.kubectl(&[
        "create",
        "secret",
        "generic",
        "mine",
        "-n",
        "demo",
        "--from-literal=a=b",
    ]);
    let grant = AgentGrant {
        namespace: "demo".to_owned(),
        database: "script-postgres".to_owned(),
        instance: "script-postgres-0".to_owned(),
        secrets: vec![("demo".to_owned(), "mine".to_owned())],
    };
    let kubeconfig = world
        .server
        .agent_kubeconfig(grant.clone(), &world.serving)
        .unwrap();
    let path = world.folder.path().join("agent");
    std::fs::write(&path, &kubeconfig).unwrap();
    let agent = |what: &str, name: &str| {
        let output = world.run(
            &["--kubeconfig", path.to_str().unwrap(), "get", what, name],
            "",
        );
        (
            output.status.success(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    assert!(agent("secret", "mine").0);
    world.kubectl(&["delete", "pg", "script-postgres", "-n", "demo"]);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while agent("secret", "mine").0 {
        assert!(std::time::Instant::now() < deadline, "its rights must go");
    }
    let (_, error) = agent("pg", "script-postgres");
    assert!(
        error.contains("postgreses.kubedb.com \"script-postgres\" not found"),
        "{error}"
    );
    world.kubectl_with(&["create", "-f", "-"], POSTGRES);
    let again = world
        .server
        .agent_kubeconfig(grant, &world.serving)
        .unwrap();
    assert_ne!(again, kubeconfig, "a new database, a new token");
    world.shutdown.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_and_keys_outlive_the_server() {
    let world = world().await;
    let grant = AgentGrant {
        namespace: "demo".to_owned(),
        database: "pg".to_owned(),
        instance: "pg-0".to_owned(),
        secrets: Vec::new(),
    };
    let token = |kubeconfig: &str| {
        kubeconfig
            .lines()
            .find(|line| line.contains("token:"))
            .unwrap()
            .to_owned()
    };
    let before = token(
        &world
            .server
            .agent_kubeconfig(grant.clone(), &world.serving)
            .unwrap(),
    );
    let authority = std::fs::read(world.folder.path().join("ca.crt")).unwrap();
    let admin = token(&std::fs::read_to_string(&world.serving.kubeconfig).unwrap());
    world.shutdown.cancel();
    world.serving.task.await.unwrap();
    drop(world.server);

    let server =
        kubedb_server::ApiServer::open(&world.folder.path().join("kubedb.sqlite")).unwrap();
    let listen: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let shutdown = CancellationToken::new();
    let serving = server
        .serve(listen, world.folder.path(), shutdown.clone())
        .await
        .unwrap();
    assert_eq!(
        token(&server.agent_kubeconfig(grant, &serving).unwrap()),
        before
    );
    assert_eq!(
        std::fs::read(world.folder.path().join("ca.crt")).unwrap(),
        authority
    );
    assert_eq!(
        token(&std::fs::read_to_string(&serving.kubeconfig).unwrap()),
        admin
    );
    // kube's own TLS accepts the certificate too.
    let file = kube::config::Kubeconfig::read_from(&serving.kubeconfig).unwrap();
    let config =
        kube::Config::from_custom_kubeconfig(file, &kube::config::KubeConfigOptions::default())
            .await
            .unwrap();
    let client = kube::Client::try_from(config).unwrap();
    assert_eq!(client.apiserver_version().await.unwrap().major, "1");
    let api: Api<Postgres> = Api::default_namespaced(client);
    let made = serde_json::from_value(json!({"apiVersion": "kubedb.com/v1alpha1", "kind": "Postgres",
        "metadata": {"name": "pg"}, "spec": {"version": "9.6", "storage": {"resources": {"requests": {"storage": "50Mi"}}}}}))
    .unwrap();
    api.create(&kube::api::PostParams::default(), &made)
        .await
        .unwrap();
    let patch = Patch::Merge(json!({"status": {"phase": "Running"}}));
    api.patch_status("pg", &PatchParams::default(), &patch)
        .await
        .unwrap();
    api.delete("pg", &DeleteParams::default()).await.unwrap();
    shutdown.cancel();
    serving.task.await.unwrap();
}
