//! A company's proxy in the environment: stores are reached through it, with an authority of the company's own, and the server on this machine is not.

#![allow(clippy::unwrap_used)]

use std::{process::Command, time::Duration};

use kubedb_e2e::{
    kubedb::{Server, binary, run, scratch},
    wait::eventually,
    world::{BASICS, postgres},
};
use kubedb_stores::{
    certificates::Signed,
    minio::{KEYS, Minio, Settings},
    proxy::Proxy,
};

#[test]
fn a_snapshot_goes_through_the_proxy_and_nothing_of_the_api_does() {
    let folder = scratch().unwrap();
    let signed = Signed::of(&["store.invalid"]).unwrap();
    let settings = Settings {
        signed: Some(signed.clone()),
        ..Settings::default()
    };
    let store = Minio::start_with(folder.path(), &["backups"], settings).unwrap();
    let proxy = Proxy::start(store.port()).unwrap();
    let address = proxy.address();
    let environment = [("HTTPS_PROXY", &*address), ("HTTP_PROXY", &*address)];
    let server = Server::start(&binary(), &folder.path().join("data"), &environment).unwrap();
    let kubedb = |arguments: &[&str], input: &str| {
        let mut command = Command::new(binary());
        command
            .args(arguments)
            .env("KUBECONFIG", server.kubeconfig())
            .envs(environment);
        let ran = run(&mut command, input).unwrap();
        assert_eq!(ran.code, 0, "{arguments:?}: {}", ran.stderr);
        ran.stdout
    };
    let authority = signed.authority.replace('\n', "\n    ");
    let secret = format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: s3-secret, namespace: demo}}\nstringData:\n  AWS_ACCESS_KEY_ID: {}\n  AWS_SECRET_ACCESS_KEY: {}\n  CA_CERT_DATA: |\n    {authority}\n",
        KEYS.0, KEYS.1
    );
    let snapshot = "apiVersion: kubedb.com/v1alpha1\nkind: Snapshot\nmetadata: {name: far, namespace: demo}\nspec:\n  databaseName: one\n  storageSecretName: s3-secret\n  s3: {bucket: backups, endpoint: \"https://store.invalid:9443\"}\n";
    kubedb(&["create", "-f", "-"], BASICS);
    kubedb(&["create", "-f", "-"], &secret);
    kubedb(&["create", "-f", "-"], &postgres("one", "15", 1, ""));
    let becomes = |kind: &str, name: &str, wanted: &str| {
        let what = format!("{kind} {name} {wanted}");
        eventually(&what, Duration::from_secs(120), || {
            let object = server.object(kind, name, "demo")?;
            if object["status"]["phase"] == wanted {
                Ok(())
            } else {
                Err(object["status"].to_string())
            }
        });
    };
    becomes("pg", "one", "Running");
    kubedb(&["create", "-f", "-"], snapshot);
    becomes("snap", "far", "Succeeded");
    let asked = proxy.asked();
    assert!(!asked.is_empty());
    assert!(
        asked
            .iter()
            .all(|line| line.starts_with("CONNECT store.invalid:9443 ")),
        "{asked:?}"
    );
}
