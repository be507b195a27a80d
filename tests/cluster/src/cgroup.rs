//! The groups of processes that a node's kubelet counts its pods in. Each kubelet has a group of its own for all: with one for everybody they would
//! end each other's pods.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use crate::error::StartError;

const ROOT: &str = "/sys/fs/cgroup";

/// A group can be removed some milliseconds after its last process has ended.
const PATIENCE: Duration = Duration::from_secs(10);

/// The hierarchies: one since version 2, one for each controller before; a machine between the two has both.
fn hierarchies() -> Vec<PathBuf> {
    let root = Path::new(ROOT);
    if root.join("cgroup.controllers").exists() {
        return vec![root.to_owned()];
    }
    let mounted = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut found: Vec<PathBuf> = mounted
        .lines()
        .filter(|line| line.contains(" - cgroup"))
        .filter_map(|line| line.split(' ').nth(4))
        .map(PathBuf::from)
        .filter(|path| path.starts_with(root))
        .collect();
    found.sort();
    found.dedup();
    found
}

/// Makes a group in each hierarchy.
pub(crate) fn make(name: &str) -> Result<(), StartError> {
    for hierarchy in hierarchies() {
        let group = hierarchy.join(name);
        match fs::create_dir(&group) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(StartError::prepare(&group)(error));
            }
            _ => {}
        }
        // No process may enter a group of this controller before it was told where it may run.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let (from, to) = (hierarchy.join(file), group.join(file));
            if from.exists() && to.exists() {
                fs::copy(&from, &to).map_err(StartError::prepare(&to))?;
            }
        }
    }
    Ok(())
}

/// Removes a group with those within, whose processes have ended.
pub(crate) fn remove(name: &str) -> Result<(), StartError> {
    let end = Instant::now() + PATIENCE;
    for hierarchy in hierarchies() {
        let group = hierarchy.join(name);
        while let Err(error) = remove_tree(&group) {
            if Instant::now() > end {
                return Err(StartError::prepare(&group)(error));
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
    Ok(())
}

fn remove_tree(group: &Path) -> io::Result<()> {
    let gone = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    };
    let entries = match fs::read_dir(group) {
        Ok(entries) => entries,
        Err(error) => return gone(error),
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(group).or_else(gone)
}

/// Removes the groups of a cluster: also those of machines that nobody knows any more.
pub(crate) fn remove_all(prefix: &str) -> Result<(), StartError> {
    let begin = format!("{prefix}-");
    for hierarchy in hierarchies() {
        for entry in fs::read_dir(&hierarchy).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with(&begin) {
                remove(&name)?;
            }
        }
    }
    Ok(())
}
