//! Folders of databases that are wiped out: set aside by one rename, then removed, however long that takes.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use tokio::task::JoinHandle;

use super::{
    database::REMOVED,
    layout::Layout,
    pinned::Pinned,
    platform::{BoxError, Machine},
};

/// Removals under way, by the folder that was wiped out.
#[derive(Debug, Default)]
pub(super) struct Wipes {
    running: BTreeMap<PathBuf, JoinHandle<io::Result<()>>>,
}

impl Wipes {
    /// Removes a folder of a database that nothing runs in. Returns whether nothing is left of it; call again until then.
    pub(super) async fn wipe(
        &mut self,
        machine: &Machine,
        folder: &Path,
        data_uid: &str,
    ) -> Result<bool, BoxError> {
        if let Some(running) = self.running.get_mut(folder) {
            if !running.is_finished() {
                return Ok(false);
            }
            let ended = running.await;
            self.running.remove(folder);
            ended??;
        }
        let aside = aside(folder, data_uid)?;
        if folder.exists() {
            forget_ports(machine, folder, data_uid)?;
            // What a wipe that was cut short left there goes first.
            remove(&aside)?;
            fs::rename(folder, &aside)?;
        } else if !aside.exists() {
            return Ok(true);
        }
        let running = tokio::task::spawn_blocking(move || remove(&aside));
        self.running.insert(folder.to_owned(), running);
        Ok(false)
    }
}

/// Where a folder lies while it is being removed: the same place after a crash.
fn aside(folder: &Path, data_uid: &str) -> Result<PathBuf, BoxError> {
    if data_uid.is_empty() || data_uid.contains('/') {
        return Err("it is unknown whose data it is".into());
    }
    let mut aside = folder.as_os_str().to_owned();
    aside.push(format!("{REMOVED}{data_uid}"));
    Ok(aside.into())
}

/// The name of a folder has the beginning of a UID alone; what lies in it has all of it.
fn forget_ports(machine: &Machine, folder: &Path, data_uid: &str) -> Result<(), BoxError> {
    let Some(pinned) = Pinned::read(folder)? else {
        return Ok(());
    };
    if pinned.uid != data_uid {
        let folder = folder.display();
        return Err(format!("{folder} holds data of another database ({})", pinned.uid).into());
    }
    let ports: Vec<u16> = pinned.ports().collect();
    for port in pinned.instance_ports.values() {
        let (_, socket) = Layout::socket(&machine.layout, *port);
        let _ = fs::remove_dir_all(socket);
    }
    machine.ports.release(ports);
    Ok(())
}

fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
