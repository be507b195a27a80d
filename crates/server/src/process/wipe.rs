//! Folders of databases that are wiped out: set aside by one rename, then removed, however long that takes.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use tokio::task::JoinHandle;

use super::{database::REMOVED, layout::Layout, pinned::Pinned, platform::BoxError, ports::Ports};

/// Removals under way, by the folder that was wiped out.
#[derive(Debug, Default)]
pub(super) struct Wipes {
    running: BTreeMap<PathBuf, JoinHandle<io::Result<()>>>,
}

impl Wipes {
    /// Removes a folder of a database that nothing runs in. Returns whether nothing is left of it; call again until then.
    pub(super) async fn wipe(
        &mut self,
        layout: &Layout,
        ports: &Ports,
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
        // What a wipe that was cut short left there goes first.
        if !aside.exists() {
            if !folder.exists() {
                return Ok(true);
            }
            forget_ports(layout, ports, folder, data_uid)?;
            fs::rename(folder, &aside)?;
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
fn forget_ports(
    layout: &Layout,
    ports: &Ports,
    folder: &Path,
    data_uid: &str,
) -> Result<(), BoxError> {
    let Some(pinned) = Pinned::read(folder)? else {
        return Ok(());
    };
    if pinned.uid != data_uid {
        let folder = folder.display();
        let other = pinned.uid;
        return Err(format!("{folder} holds data of another database ({other})").into());
    }
    for port in pinned.instance_ports.values() {
        let (_, socket) = layout.socket(*port);
        let _ = fs::remove_dir_all(socket);
    }
    let its: Vec<u16> = pinned.ports().collect();
    ports.release(its);
    Ok(())
}

fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const UID: &str = "0a1b2c3d-4e5f";

    struct Scene {
        _folder: tempfile::TempDir,
        layout: Layout,
        ports: Ports,
        database: PathBuf,
    }

    /// A database's folder, with the UID that it holds.
    fn scene(uid: &str) -> Scene {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path());
        let key = kubedb_operator::platform::DatabaseKey {
            namespace: "demo".to_owned(),
            name: "pg".to_owned(),
        };
        let database = layout.database(&key, UID);
        fs::create_dir_all(database.join("pg-0/data")).unwrap();
        let pinned = Pinned {
            uid: uid.to_owned(),
            bin_directory: "/bin".into(),
            postgres_version: "15.18".to_owned(),
            primary_port: 21_000,
            standbys_port: 21_001,
            instance_ports: BTreeMap::new(),
            metrics_ports: BTreeMap::new(),
        };
        pinned.write(&database).unwrap();
        Scene {
            _folder: folder,
            layout,
            ports: Ports::default(),
            database,
        }
    }

    async fn wipe(scene: &Scene) -> Result<(), BoxError> {
        let mut wipes = Wipes::default();
        while !wipes
            .wipe(&scene.layout, &scene.ports, &scene.database, UID)
            .await?
        {
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    fn left(scene: &Scene) -> usize {
        fs::read_dir(scene.database.parent().unwrap())
            .unwrap()
            .count()
    }

    #[tokio::test]
    async fn a_wipe_goes_on_where_a_kill_left_it() {
        let scene = scene(UID);
        // Killed between the rename and the removal, and once more when a folder of the name was there again.
        let aside = aside(&scene.database, UID).unwrap();
        fs::rename(&scene.database, &aside).unwrap();
        wipe(&scene).await.unwrap();
        assert_eq!(left(&scene), 0);
        fs::create_dir_all(aside.join("pg-0")).unwrap();
        fs::create_dir_all(scene.database.join("pg-0")).unwrap();
        wipe(&scene).await.unwrap();
        assert_eq!(left(&scene), 0);
        wipe(&scene).await.unwrap();
    }

    #[tokio::test]
    async fn data_of_another_database_is_not_wiped_out() {
        // The beginning of both UIDs is the same, and with it the folder's name.
        let scene = scene("0a1b2c3d-other");
        let refused = wipe(&scene).await.unwrap_err().to_string();
        assert!(
            refused.contains("holds data of another database"),
            "{refused}"
        );
        assert!(scene.database.join("pg-0/data").exists());
        assert!(aside(&scene.database, "").is_err());
    }
}
