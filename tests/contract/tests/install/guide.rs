//! `docs/guides/install.md`, command for command.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::StatusCode;
use kubedb_cluster::tools::tools;
use serde_json::json;

use crate::world::{World, call, options, run};

const GUIDE: &str = include_str!("../../../../docs/guides/install.md");

/// A command and the lines that its output shall have in this order; `...` stands for any.
fn commands() -> Vec<(&'static str, Vec<&'static str>)> {
    let mut commands: Vec<(&str, Vec<&str>)> = Vec::new();
    let mut is_inside = false;
    for line in GUIDE.lines() {
        if line.starts_with("```") {
            is_inside = line == "```console";
        } else if let Some(command) = line.strip_prefix("$ ").filter(|_| is_inside) {
            commands.push((command, Vec::new()));
        } else if is_inside && let Some((_, lines)) = commands.last_mut() {
            lines.push(line);
        }
    }
    commands
}

/// Whether the output is what the guide shows.
fn fits(shown: &[&str], output: &[&str]) -> bool {
    match (shown, output) {
        ([], rest) => rest.is_empty(),
        (["...", shown @ ..], output) => {
            (0..=output.len()).any(|skipped| fits(shown, &output[skipped..]))
        }
        ([one, shown @ ..], [line, output @ ..]) => *one == line.trim_end() && fits(shown, output),
        _ => false,
    }
}

#[test]
fn the_guide_is_true() {
    let Some(mut world) = World::start() else {
        return;
    };
    world.start_controllers();
    let pods = play_pods(&world);
    let hook = world.start_webhook_without_waiting(options());
    let commands = commands();
    assert!(commands.len() > 5);
    for (command, shown) in commands {
        let mut words = command.split_whitespace();
        let program = match words.next() {
            Some("kubedb") => kubedb_e2e::kubedb::binary(),
            other => tools().join(other.unwrap()),
        };
        let arguments: Vec<&str> = words.collect();
        let ran = run(&program, &arguments, &world.kubeconfig, "").ok();
        assert!(
            fits(&shown, &ran.lines()),
            "$ {command}\n{}{}",
            ran.stdout,
            ran.stderr
        );
    }
    pods.store(true, Ordering::Relaxed);
    hook.end(&world);
}

/// Says of the Deployment what its controller would, were there nodes.
fn play_pods(world: &World) -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    let (client, stopped) = (world.client.clone(), stop.clone());
    world.runtime.spawn(async move {
        let path = "/apis/apps/v1/namespaces/kubedb/deployments/kubedb-operator";
        while !stopped.load(Ordering::Relaxed) {
            let (code, found) = call(&client, "GET", path, &json!(null)).await;
            if code == StatusCode::OK {
                let status = json!({"status": {"observedGeneration": found["metadata"]["generation"],
                    "replicas": 2, "updatedReplicas": 2, "readyReplicas": 2, "availableReplicas": 2}});
                call(&client, "PATCH", &format!("{path}/status"), &status).await;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
    stop
}

#[test]
fn a_guide_that_lies_is_found() {
    assert!(fits(&["a", "...", "c"], &["a", "b", "c"]));
    assert!(fits(&["...", "c", "..."], &["c"]));
    assert!(!fits(&["a", "c"], &["a", "b", "c"]));
    assert!(!fits(&["...", "d"], &["a", "b", "c"]));
    assert!(Path::new(&crate::world::deploy("kustomization.yaml")).exists());
}
