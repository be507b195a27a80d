//! New keys: old tokens and certificates are refused, and databases go on.

#![allow(clippy::unwrap_used)]

use std::{fs, process::Command, time::Duration};

use kubedb_e2e::{
    kubedb::{Ran, Server, binary, run},
    machine::Machine,
    wait::eventually,
};

const POSTGRES: &str = "apiVersion: kubedb.com/v1alpha1\nkind: Postgres\nmetadata:\n  name: pg\nspec:\n  version: \"15\"\n  storage:\n    resources:\n      requests:\n        storage: 50Mi\n";

fn rotate(machine: &Machine) -> Ran {
    let mut command = Command::new(binary());
    command
        .args(["server", "rotate", "--data-dir"])
        .arg(machine.data());
    run(&mut command, "").unwrap()
}

fn get_with(kubeconfig: &std::path::Path) -> Ran {
    let mut command = Command::new(binary());
    command
        .args(["get", "pg", "--kubeconfig"])
        .arg(kubeconfig)
        .env_remove("KUBECONFIG");
    run(&mut command, "").unwrap()
}

fn is_ready(server: &Server) {
    eventually("a ready instance", Duration::from_secs(60), || {
        let status = server.object("pg", "pg", "default")?["status"].take();
        if status["phase"] == "Running" && status["readyReplicas"] == 1 {
            Ok(())
        } else {
            Err(status.to_string())
        }
    });
}

fn line<'a>(text: &'a str, key: &str) -> &'a str {
    text.lines()
        .find(|line| line.trim_start().starts_with(key))
        .unwrap()
}

#[test]
fn old_keys_are_refused_after_a_rotation_and_databases_go_on() {
    let machine = Machine::new().unwrap();
    let never = rotate(&machine);
    assert_eq!(never.code, 1);
    assert!(
        never.stderr.contains("no server was ever started on"),
        "{}",
        never.stderr
    );
    let mut server = machine.start().unwrap();
    let created = server.kubedb(&["create", "-f", "-"], POSTGRES).unwrap();
    assert_eq!(created.code, 0, "{}", created.stderr);
    is_ready(&server);
    let old = fs::read_to_string(server.kubeconfig()).unwrap();
    let early = rotate(&machine);
    assert_eq!(early.code, 1);
    assert!(
        early.stderr.contains("another kubedb server (process "),
        "{}",
        early.stderr
    );
    is_ready(&server);

    assert!(server.stop());
    let rotated = rotate(&machine);
    assert_eq!(rotated.code, 0, "{}", rotated.stderr);
    let server = machine.start().unwrap();
    // The agent has a token of the new ones, or it could report nothing.
    is_ready(&server);
    let new = fs::read_to_string(server.kubeconfig()).unwrap();
    let file = machine.scratch().join("kubeconfig");

    let address = line(&new, "server:");
    fs::write(&file, old.replace(line(&old, "server:"), address)).unwrap();
    let stranger = get_with(&file);
    assert!(
        stranger.stderr.contains("failed to trust the server"),
        "{}",
        stranger.stderr
    );
    fs::write(
        &file,
        new.replace(line(&new, "token:"), line(&old, "token:")),
    )
    .unwrap();
    let unknown = get_with(&file);
    assert!(
        unknown.stderr.contains("Unauthorized"),
        "{}",
        unknown.stderr
    );
    fs::write(&file, &new).unwrap();
    assert_eq!(get_with(&file).code, 0);
}
