//! A store of containerd's with all images unpacked, which no containerd runs on. What was unpacked lies beside it, and the store has links to it: nobody
//! writes into an image. So a node's copy of the store is some files, and there is one of each image on the disk and in memory for all nodes.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant, SystemTime},
};

use kubedb_stores::process::signal;

use super::archives;
use crate::{
    error::StartError,
    layout::{Layout, kept},
    machine::{Machine, name_of, remove},
    node::{packages, path},
    tools::{mortal, run},
};

/// It opens two small databases.
const PATIENCE: Duration = Duration::from_secs(30);
const TERMINATE: i32 = 15;

fn store() -> PathBuf {
    kept("store")
}

/// An archive, and what tells that it was made anew.
type Archive = (PathBuf, String);

fn known_archives() -> Result<Vec<Archive>, StartError> {
    let mut found = Vec::new();
    for path in entries(&archives()) {
        if path.extension().is_some_and(|extension| extension == "tar") {
            let data = fs::metadata(&path).map_err(StartError::prepare(&path))?;
            let modified = data.modified().map_err(StartError::prepare(&path))?;
            let state = format!("{} {} {modified:?}", path.display(), data.len());
            found.push((path, state));
        }
    }
    found.sort();
    Ok(found)
}

/// Brings the store up to what the archives hold.
pub(crate) fn renew(layout: &Layout, tell: impl Fn(&str)) -> Result<(), StartError> {
    let wanted = known_archives()?;
    let stamp = kept("store.source");
    let known = fs::read_to_string(&stamp).unwrap_or_default();
    let missing: Vec<&Archive> = wanted
        .iter()
        .filter(|(_, state)| !known.lines().any(|line| line == state))
        .collect();
    if missing.is_empty() && store().exists() {
        return Ok(());
    }
    tell("unpacking images");
    let making = kept("store.making");
    remove(&making)?;
    if store().exists() {
        link(&store(), &making)?;
    }
    // A machine of its own: what it mounts, and what becomes of that when it is killed, is nobody else's.
    let machine = Machine::of(layout, "images");
    machine.begin()?;
    let imported = import_all(&machine, &making, &missing);
    machine.cut_power()?;
    imported?;
    settle(&making)?;
    remove(&store())?;
    let states: Vec<&str> = wanted.iter().map(|(_, state)| state.as_str()).collect();
    fs::rename(&making, store())
        .and_then(|()| fs::write(&stamp, states.join("\n")))
        .map_err(StartError::prepare(&stamp))?;
    sweep()
}

/// Where a store has what was unpacked, or links to it.
fn snapshots(store: &Path) -> PathBuf {
    store.join("io.containerd.snapshotter.v1.overlayfs/snapshots")
}

/// Where that lies.
fn layers() -> PathBuf {
    kept("layers")
}

/// Moves what was unpacked to where it stays, and leaves links.
fn settle(store: &Path) -> Result<(), StartError> {
    let layers = layers();
    fs::create_dir_all(&layers).map_err(StartError::prepare(&layers))?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = now.unwrap_or_default().as_nanos();
    for place in entries(&snapshots(store)) {
        if place.is_symlink() {
            continue;
        }
        let layer = layers.join(format!("{now}-{}", name_of(&place)));
        fs::rename(&place, &layer)
            .and_then(|()| symlink(&layer, &place))
            .map_err(StartError::prepare(&layer))?;
    }
    Ok(())
}

/// Removes what neither the store has nor a node of any cluster.
fn sweep() -> Result<(), StartError> {
    let runs = entries(&kept("")).into_iter().filter(|path| {
        let name = name_of(path);
        name.starts_with("run-")
    });
    let nodes = runs.flat_map(|run| entries(&run));
    let stores = nodes.map(|node| node.join("containerd")).chain([store()]);
    let used: BTreeSet<PathBuf> = stores
        .flat_map(|store| entries(&snapshots(&store)))
        .filter_map(|place| fs::read_link(place).ok())
        .collect();
    let layers = entries(&layers()).into_iter();
    layers
        .filter(|layer| !used.contains(layer))
        .try_for_each(|layer| remove(&layer))
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

fn import_all(machine: &Machine, root: &Path, missing: &[&Archive]) -> Result<(), StartError> {
    let configuration = machine.folder.join("containerd.toml");
    let text = format!(
        "version = 2\nroot = \"{}\"\nstate = \"/run/containerd\"\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[plugins.\"io.containerd.internal.v1.opt\"]\npath = \"{}\"\n",
        root.display(),
        machine.folder.join("plugins").display(),
    );
    fs::write(&configuration, text).map_err(StartError::prepare(&configuration))?;
    let containerd = packages().join("usr/bin/containerd");
    let arguments = ["--config".to_owned(), configuration.display().to_string()];
    machine.start(&containerd, &arguments, &path())?;
    wait(machine)?;
    for (archive, _) in missing {
        import(machine, archive)?;
    }
    // In good order, so that its databases are whole.
    let end = Instant::now() + PATIENCE;
    loop {
        let running = machine.running("containerd");
        if running.is_empty() {
            return Ok(());
        }
        running.into_iter().for_each(|id| signal(id, TERMINATE));
        if Instant::now() > end {
            let why = format!("it does not end within {PATIENCE:?}");
            let log = machine.log("containerd");
            return Err(StartError::not_ready("containerd", why, &log));
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until a machine's containerd answers.
pub(crate) fn wait(machine: &Machine) -> Result<(), StartError> {
    let end = Instant::now() + PATIENCE;
    while run(ctr(machine)?.arg("version")).is_err() {
        if Instant::now() > end {
            let why = format!("it does not answer within {PATIENCE:?}");
            let log = machine.log("containerd");
            return Err(StartError::not_ready("containerd", why, &log));
        }
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Imports an archive into a machine's containerd.
pub(crate) fn import(machine: &Machine, archive: &Path) -> Result<(), StartError> {
    run(ctr(machine)?
        .args(["--namespace", "k8s.io", "images", "import"])
        .arg(archive))
    .map(drop)
}

/// Containerd's own client, on a machine.
pub(crate) fn ctr(machine: &Machine) -> Result<Command, StartError> {
    machine.command(packages().join("usr/bin/ctr"))
}

/// Gives a node its copy.
pub(crate) fn give(root: &Path) -> Result<(), StartError> {
    if root.exists() {
        return Ok(());
    }
    link(&store(), root)
}

/// Copies a store by links, except for its databases, which are written to.
fn link(from: &Path, to: &Path) -> Result<(), StartError> {
    let making = to.with_extension("copy");
    remove(&making)?;
    run(mortal("cp")
        .args(["--archive", "--link", "--no-target-directory"])
        .args([from, &making]))?;
    for folder in entries(from) {
        for path in entries(&folder) {
            if path.extension().is_some_and(|extension| extension == "db") {
                let copy = making.join(name_of(&folder)).join(name_of(&path));
                fs::remove_file(&copy)
                    .and_then(|()| fs::copy(&path, &copy))
                    .map_err(StartError::prepare(&copy))?;
            }
        }
    }
    fs::rename(&making, to).map_err(StartError::prepare(to))
}
