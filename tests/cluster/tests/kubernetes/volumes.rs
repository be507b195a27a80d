//! Volumes: made where they are needed, gone when nobody wants them, and full when they are full.

use std::path::PathBuf;

use kubedb_e2e::wait::eventually;
use serde_json::Value;

use crate::world::{PATIENCE, World, claim, script};

/// The volume of a claim.
fn volume(world: &World, namespace: &str, name: &str) -> Value {
    let claim = world.kubectl.get(&["-n", namespace, "pvc", name]).unwrap();
    let volume = claim["spec"]["volumeName"].as_str().unwrap();
    world.kubectl.get(&["pv", volume]).unwrap()
}

#[test]
fn a_claim_takes_its_folder_along() {
    let Some(world) = World::begin() else { return };
    let namespace = world.namespace("claims");
    let mut mine = claim("mine", Some("standard"), "10Mi");
    mine["metadata"]["namespace"] = namespace.clone().into();
    let pod = script(
        &namespace,
        "writer",
        "echo kept >/data/file; stat -c %g /data/file",
        Some("mine"),
    );
    world.kubectl.apply(&[mine, pod]).unwrap();
    assert_eq!(world.printed(&namespace, "writer"), "999");
    let volume = volume(&world, &namespace, "mine");
    let folder = PathBuf::from(volume["spec"]["local"]["path"].as_str().unwrap());
    assert_eq!(
        std::fs::read_to_string(folder.join("file")).unwrap(),
        "kept\n"
    );
    let node = world.pod(&namespace, "writer")["spec"]["nodeName"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(
        folder.starts_with(&world.cluster.node(&node).unwrap().folder),
        "{folder:?} on {node}"
    );

    world
        .kubectl
        .run(&["-n", &namespace, "delete", "pod", "writer"])
        .unwrap();
    assert!(folder.exists(), "the pod was not its owner");
    world
        .kubectl
        .run(&["-n", &namespace, "delete", "pvc", "mine"])
        .unwrap();
    let name = volume["metadata"]["name"].as_str().unwrap();
    eventually("end of the folder", PATIENCE, || {
        let gone = world
            .kubectl
            .get(&["pv", name])
            .is_err_and(|error| error.to_string().contains("NotFound"));
        match (folder.exists(), gone) {
            (false, true) => Ok(()),
            state => Err(format!("folder and volume: {state:?}")),
        }
    });
    world
        .kubectl
        .run(&["delete", "namespace", &namespace, "--wait=false"])
        .unwrap();
}

#[test]
fn a_disk_is_full_when_it_is_full_and_survives_its_node() {
    let Some(world) = World::begin() else { return };
    let namespace = world.namespace("disks");
    let class = format!("disk-{}", std::process::id());
    world.cluster.add_disk("node2", &class, 32 << 20).unwrap();
    let mut mine = claim("full", Some(&class), "32Mi");
    mine["metadata"]["namespace"] = namespace.clone().into();
    let text = "head -c 20M /dev/zero >/data/first; head -c 20M /dev/zero 2>/dev/null >/data/second || echo full";
    let pod = script(&namespace, "filler", text, Some("full"));
    world.kubectl.apply(&[mine, pod]).unwrap();
    assert_eq!(world.printed(&namespace, "filler"), "full");
    assert_eq!(world.pod(&namespace, "filler")["spec"]["nodeName"], "node2");

    world.cluster.kill_node("node2").unwrap();
    world.cluster.restart_node("node2").unwrap();
    let pod = script(&namespace, "reader", "stat -c %s /data/first", Some("full"));
    world.kubectl.apply(&[pod]).unwrap();
    assert_eq!(world.printed(&namespace, "reader"), (20 << 20).to_string());
    world
        .kubectl
        .run(&["delete", "namespace", &namespace, "--wait=false"])
        .unwrap();
}
