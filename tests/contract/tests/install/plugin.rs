//! `kubectl kubedb`: the program under the name by which kubectl finds it.

use std::{os::unix::fs::symlink, process::Command};

use kubedb_cluster::tools::tools;
use kubedb_e2e::kubedb::{binary, run};
use serde_json::json;

use crate::world::{Ran, World, postgres};

fn kubectl(world: &World, arguments: &[&str], input: &str) -> Ran {
    let mut command = Command::new(tools().join("kubectl"));
    command
        .args(arguments)
        .env("KUBECONFIG", &world.kubeconfig)
        .env("HOME", world.folder())
        .env("PATH", world.folder().join("plugins"));
    run(&mut command, input).unwrap().into()
}

#[test]
fn kubectl_finds_it_and_it_speaks_as_a_part_of_kubectl() {
    let Some((world, hook)) = World::start_with_webhook() else {
        return;
    };
    let plugins = world.folder().join("plugins");
    std::fs::create_dir(&plugins).unwrap();
    symlink(binary(), plugins.join("kubectl-kubedb")).unwrap();

    let found = kubectl(&world, &["plugin", "list", "--name-only"], "").ok();
    assert!(
        found.lines().contains(&"kubectl-kubedb"),
        "{}",
        found.stdout
    );
    let help = kubectl(&world, &["kubedb", "get", "--help"], "").ok();
    assert!(
        help.stdout.contains("Usage: kubectl kubedb get "),
        "{}",
        help.stdout
    );
    let example = help
        .lines()
        .into_iter()
        .find(|line| line.starts_with("  kubedb"));
    assert_eq!(example, None, "examples are what users of it type");

    let manifest = postgres(
        "pg",
        &json!({"version": 15, "storage": {"resources": {"requests": {"storage": "1Gi"}}}}),
    );
    let created = kubectl(
        &world,
        &["kubedb", "create", "-f", "-"],
        &manifest.to_string(),
    );
    let created = created.ok();
    assert!(
        created.lines().contains(&"postgres \"pg\" created"),
        "{}",
        created.stdout
    );
    let got = kubectl(&world, &["kubedb", "get", "pg", "-n", "demo"], "").ok();
    assert_eq!(got.lines().len(), 2, "{}", got.stdout);
    assert!(got.lines()[1].starts_with("pg "), "{}", got.stdout);
    let described = kubectl(
        &world,
        &["kubedb", "describe", "pg", "pg", "-n", "demo"],
        "",
    )
    .ok();
    assert!(
        described.stdout.contains("Namespace:"),
        "{}",
        described.stdout
    );
    // What is not there is an exit code of ours, which kubectl hands on.
    let missing = kubectl(&world, &["kubedb", "get", "pg", "other", "-n", "demo"], "");
    assert_eq!(missing.code, 3, "{}", missing.stderr);
    hook.end(&world);
}
