//! A folder that holds something already: what it must be before a restore changes anything in it. Everything here blocks.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use super::{
    RestoreRequest,
    error::RestoreError,
    living::server_of,
    plan::Plan,
    write::{MARKER, Site, Space, Unfinished, fail},
};
use crate::postgres::control::{CONTROL_FILE, ControlFile};

/// What may lie where a Snapshot is restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ground {
    /// Nothing. What a restore that fails has written is removed again.
    Empty,
    /// A data folder, of which what is as in the Snapshot stays. One that was left unfinished goes on by the same call.
    Existing(Terms),
}

/// What is permitted on a ground that holds something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// The folder may be another cluster's, which then is lost.
    pub other_cluster: bool,
    /// Tablespaces stay where links of the folder lead, and no other server uses those places.
    pub keep_tablespaces: bool,
}

/// Neighbours that are asked whether they have the same tablespace.
const NEIGHBOURS: usize = 10_000;

impl Site {
    /// Looks at the folder and refuses what must not be overwritten; nothing is changed. Gives the bytes on the disk that the restore uses again.
    pub(super) fn survey(
        &mut self,
        plan: &Plan,
        request: &RestoreRequest,
        terms: Terms,
    ) -> Result<u64, RestoreError> {
        let data = self.data_folder.clone();
        match fs::metadata(&data) {
            Ok(found) if found.is_dir() => self.owner = new_owner(&found),
            Ok(_) => return Err(no_cluster(&data, "it is no folder")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.check_empty()?;
                return Ok(0);
            }
            Err(error) => return Err(read(&data)(error)),
        }
        let is_empty = fs::read_dir(&data).map_err(read(&data))?.next().is_none();
        if is_empty {
            self.check_empty()?;
            return Ok(0);
        }
        if let Some(pid) = server_of(&data).map_err(read(&data))? {
            return Err(RestoreError::Living {
                folder: data.display().to_string(),
                pid,
            });
        }
        check_identity(&data, plan, terms)?;
        for oid in self.spaces.keys().copied().collect::<Vec<_>>() {
            let space = self.space(oid, terms)?;
            self.spaces.insert(oid, space);
        }
        let mut spared = 0;
        self.visit(&request.dialect, &mut |found| {
            spared += found.metadata.blocks() * 512;
            Ok(true)
        })?;
        Ok(spared)
    }

    /// Where a tablespace of the Snapshot goes.
    fn space(&self, oid: u32, terms: Terms) -> Result<Space, RestoreError> {
        let beside = self.tablespaces.join(oid.to_string());
        let link = self.data_folder.join("pg_tblspc").join(oid.to_string());
        // A link that leads nowhere endangers nobody.
        let target = fs::read_link(&link)
            .ok()
            .and_then(|_| fs::canonicalize(&link).ok());
        let Some(target) = target else {
            let holds = fs::read_dir(&beside).is_ok_and(|mut entries| entries.next().is_some());
            if holds {
                return Err(RestoreError::NotEmpty {
                    folder: beside.display().to_string(),
                });
            }
            return Ok(Space {
                folder: beside,
                is_foreign: false,
            });
        };
        if let Some(other) = self.neighbour_with(oid, &target) {
            return Err(RestoreError::SharedTablespace {
                folder: target.display().to_string(),
                other: other.display().to_string(),
            });
        }
        if fs::canonicalize(&beside).is_ok_and(|beside| beside == target) {
            return Ok(Space {
                folder: beside,
                is_foreign: false,
            });
        }
        if !terms.keep_tablespaces {
            return Err(RestoreError::ForeignTablespace {
                oid,
                folder: target.display().to_string(),
            });
        }
        Ok(Space {
            folder: target,
            is_foreign: true,
        })
    }

    /// Another data folder beside this one that has the same tablespace: one of the two was copied without it.
    fn neighbour_with(&self, oid: u32, target: &Path) -> Option<PathBuf> {
        let own = fs::canonicalize(&self.data_folder).ok()?;
        let neighbours = fs::read_dir(own.parent()?).ok()?;
        neighbours
            .filter_map(Result::ok)
            .take(NEIGHBOURS)
            .map(|entry| entry.path())
            .filter(|path| fs::canonicalize(path).is_ok_and(|path| path != own))
            .find(|path| {
                let link = path.join("pg_tblspc").join(oid.to_string());
                fs::canonicalize(link).is_ok_and(|found| found == target)
            })
    }
}

/// Files that root makes go to the owner of the folder.
fn new_owner(folder: &fs::Metadata) -> Option<(u32, u32)> {
    let is_root = nix::unistd::geteuid().is_root();
    (is_root && folder.uid() != 0).then(|| (folder.uid(), folder.gid()))
}

/// By its control file; one that was left unfinished has none, and says itself what it was to be.
fn check_identity(data: &Path, plan: &Plan, terms: Terms) -> Result<(), RestoreError> {
    let wanted = &plan.manifest.cluster.system_identifier;
    let control = data.join(CONTROL_FILE);
    let found = match fs::read(&control) {
        Ok(bytes) => ControlFile::parse(&bytes)
            .map(|control| control.system_identifier.to_string())
            .map_err(|error| error.to_string()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => unfinished(data)
            .map(|unfinished| unfinished.system_identifier)
            .ok_or_else(|| format!("it has no {CONTROL_FILE}")),
        Err(error) => return Err(read(&control)(error)),
    };
    let is_cluster = data.join("PG_VERSION").is_file() || unfinished(data).is_some();
    match found {
        Ok(found) if found == *wanted => Ok(()),
        // What is no data folder at all is not to be emptied by a word too much.
        _ if !is_cluster => Err(no_cluster(data, "it has no PG_VERSION")),
        _ if terms.other_cluster => Ok(()),
        Ok(found) => Err(RestoreError::OtherCluster {
            folder: data.display().to_string(),
            theirs: wanted.clone(),
            ours: found,
        }),
        Err(reason) => Err(RestoreError::UnknownCluster {
            folder: data.display().to_string(),
            reason,
        }),
    }
}

fn unfinished(data: &Path) -> Option<Unfinished> {
    /// Ours has some hundred bytes.
    const LIMIT: u64 = 64 << 10;
    let marker = data.join(MARKER);
    let found = fs::symlink_metadata(&marker).ok()?;
    if !found.is_file() || found.len() > LIMIT {
        return None;
    }
    serde_json::from_slice(&fs::read(marker).ok()?).ok()
}

fn no_cluster(data: &Path, reason: &str) -> RestoreError {
    RestoreError::NoCluster {
        folder: data.display().to_string(),
        reason: reason.to_owned(),
    }
}

pub(super) fn read(path: &Path) -> impl FnOnce(io::Error) -> RestoreError {
    let path = path.display().to_string();
    move |source| RestoreError::Read { path, source }
}

/// Something that lies in a folder.
pub(super) struct Entry<'a> {
    /// Its path in a Snapshot, if its name can stand there.
    pub(super) path: Option<&'a str>,
    pub(super) place: &'a Path,
    pub(super) metadata: &'a fs::Metadata,
    /// A link of ours to a tablespace, or of the user's to the WAL: what lies there is looked at in place of it.
    pub(super) leads_on: bool,
    /// In a tablespace's own folder, and that is of the user's choice.
    pub(super) is_beside_foreign: bool,
}

impl Site {
    /// Shows everything in the data folder and in its tablespaces, folders before what is in them. Where `show` says no, what is in a folder is not looked at.
    pub(super) fn visit(
        &self,
        dialect: &crate::postgres::dialect::PgDialect,
        show: &mut dyn FnMut(&Entry<'_>) -> Result<bool, RestoreError>,
    ) -> Result<(), RestoreError> {
        let mut folders = vec![(self.data_folder.clone(), String::new(), false)];
        while let Some((place, path, is_foreign)) = folders.pop() {
            for entry in fs::read_dir(&place).map_err(read(&place))? {
                let entry = entry.map_err(read(&place))?;
                let place = entry.path();
                let name = entry.file_name();
                let path = name.to_str().map(|name| match path.as_str() {
                    "" => name.to_owned(),
                    path => format!("{path}/{name}"),
                });
                let metadata = fs::symlink_metadata(&place).map_err(read(&place))?;
                let space = path
                    .as_deref()
                    .and_then(|path| path.strip_prefix("pg_tblspc/"))
                    .and_then(|oid| self.spaces.get(&oid.parse().ok()?));
                let leads_to = match (space, path.as_deref()) {
                    _ if !metadata.is_symlink() => None,
                    (Some(space), _) => {
                        is_same_place(&place, &space.folder).then(|| space.folder.clone())
                    }
                    (None, Some(path)) if path == dialect.wal_folder() && place.is_dir() => {
                        Some(place.clone())
                    }
                    _ => None,
                };
                let goes_on = show(&Entry {
                    path: path.as_deref(),
                    place: &place,
                    metadata: &metadata,
                    leads_on: leads_to.is_some(),
                    is_beside_foreign: is_foreign,
                })?;
                let is_foreign = space.is_some_and(|space| space.is_foreign);
                let folder = leads_to.or_else(|| metadata.is_dir().then_some(place));
                if let (true, Some(folder), Some(path)) = (goes_on, folder, path) {
                    folders.push((folder, path, is_foreign));
                }
            }
        }
        Ok(())
    }
}

fn is_same_place(one: &Path, other: &Path) -> bool {
    match (fs::canonicalize(one), fs::canonicalize(other)) {
        (Ok(one), Ok(other)) => one == other,
        _ => false,
    }
}

pub(super) fn remove(place: &Path, metadata: &fs::Metadata) -> Result<(), RestoreError> {
    let removed = if metadata.is_dir() {
        fs::remove_dir_all(place)
    } else {
        fs::remove_file(place)
    };
    removed.map_err(fail(place))
}
