//! Disks of a node that are full when they are full: a file system in a file, mounted among the node's mounts.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{error::StartError, machine::Machine, tools::run};

fn folder(machine: &Machine) -> PathBuf {
    machine.folder.join("disks")
}

/// Makes one and mounts it; returns where.
pub(crate) fn add(machine: &Machine, name: &str, bytes: u64) -> Result<PathBuf, StartError> {
    let folder = folder(machine);
    fs::create_dir_all(&folder).map_err(StartError::prepare(&folder))?;
    let image = folder.join(format!("{name}.img"));
    let made = fs::File::create_new(&image).and_then(|file| file.set_len(bytes));
    made.map_err(StartError::prepare(&image))?;
    run(Command::new("mkfs.ext4")
        .args(["-q", "-m", "0"])
        .arg(&image))?;
    mount(machine, &image)
}

/// Mounts them again after the machine's power was cut.
pub(crate) fn mount_all(machine: &Machine) -> Result<(), StartError> {
    let entries = fs::read_dir(folder(machine))
        .into_iter()
        .flatten()
        .flatten();
    for path in entries.map(|entry| entry.path()) {
        if path.extension().is_some_and(|extension| extension == "img") {
            mount(machine, &path)?;
        }
    }
    Ok(())
}

fn mount(machine: &Machine, image: &Path) -> Result<PathBuf, StartError> {
    let place = image.with_extension("");
    fs::create_dir_all(&place).map_err(StartError::prepare(&place))?;
    if run(machine.command("mountpoint")?.arg(&place)).is_ok() {
        return Ok(place);
    }
    // The device goes with the mount, and the mount with the machine.
    run(machine
        .command("mount")?
        .args(["-o", "loop"])
        .args([image, &place]))?;
    Ok(place)
}
