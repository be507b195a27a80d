//! What of a data folder belongs into a Snapshot.

use std::{
    collections::{BTreeSet, HashSet},
    fs, io,
    path::{Path, PathBuf},
};

use super::error::BackupError;
use crate::{
    postgres::{control::CONTROL_FILE, dialect::PgDialect},
    repository::{manifest::Tablespace, map::is_safe_path},
};

/// Folders within folders; PostgreSQL nests four deep, a tablespace within included.
const DEPTH: usize = 16;

/// Files and folders of one cluster: fifty databases of ten thousand relations with three files each, and as much again.
const ENTRIES: usize = 4_000_000;

/// Folders whose content a server makes anew when it starts; the folders themselves must be there.
pub(crate) const EMPTIED: [&str; 7] = [
    "pg_dynshmem",
    "pg_notify",
    "pg_replslot",
    "pg_serial",
    "pg_snapshots",
    "pg_stat_tmp",
    "pg_subtrans",
];

/// Files of the running server, of an earlier backup or recovery, of this very walk, or of the agent. At the top only.
const LEFT_OUT: [&str; 17] = [
    "backup_label",
    "backup_label.old",
    "backup_manifest",
    "current_logfiles.tmp",
    "kubedb-instance.json",
    "kubedb-wal-reset",
    "kubedb-wal-reset.new",
    "postgresql.auto.conf.tmp",
    "postmaster.opts",
    "postmaster.pid",
    "recovery.conf",
    "recovery.done",
    "recovery.signal",
    "standby.signal",
    "tablespace_map",
    "tablespace_map.old",
    "promote",
];

/// One entry that is backed up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Path in the Snapshot, relative to the data folder.
    pub(super) path: String,
    /// Where it is read.
    pub(super) source: PathBuf,
    pub(super) kind: Kind,
}

impl Entry {
    /// Bytes to be read.
    pub(super) fn bytes(&self) -> u64 {
        match self.kind {
            Kind::File { bytes, .. } => bytes,
            Kind::Folder => 0,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Folder,
    /// A file, its size now, and what pages it holds, if any.
    File {
        bytes: u64,
        pages: Option<Pages>,
    },
}

/// What a file of a relation holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pages {
    /// Which file of its fork it is.
    pub(super) segment: u32,
    /// Whether each change of a page moves its LSN, as in main forks.
    pub(super) is_main: bool,
}

/// All that is backed up, but `pg_control`, which is read last, and the WAL.
#[derive(Debug, Default)]
pub(super) struct Walked {
    pub(super) entries: Vec<Entry>,
    pub(super) tablespaces: Vec<Tablespace>,
}

/// Walks a data folder. Blocks. What vanishes meanwhile is left out: the WAL says that it went.
pub(super) fn walk(
    data_folder: &Path,
    dialect: PgDialect,
    catalog_version: u32,
) -> Result<Walked, BackupError> {
    let mut walk = Walk {
        wal_folder: dialect.wal_folder(),
        tablespace_version: format!("PG_{dialect}_{catalog_version}"),
        walked: Walked::default(),
    };
    walk.folder(data_folder, "", 0)?;
    let found = &walk.walked.entries;
    match found.iter().any(|entry| entry.path == "PG_VERSION") {
        true => Ok(walk.walked),
        false => Err(BackupError::ReadFile {
            path: data_folder.join("PG_VERSION").display().to_string(),
            source: io::ErrorKind::NotFound.into(),
        }),
    }
}

/// Numbers of the tablespaces that a data folder links to. Blocks.
pub(super) fn linked_tablespaces(data_folder: &Path) -> Result<BTreeSet<u32>, BackupError> {
    let folder = data_folder.join("pg_tblspc");
    let fail = |source| BackupError::ReadFile {
        path: folder.display().to_string(),
        source,
    };
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(&folder).map_err(fail)? {
        let name = entry.map_err(fail)?.file_name();
        found.extend(name.to_str().and_then(|name| name.parse::<u32>().ok()));
    }
    Ok(found)
}

struct Walk {
    wal_folder: &'static str,
    tablespace_version: String,
    walked: Walked,
}

impl Walk {
    fn folder(&mut self, source: &Path, path: &str, depth: usize) -> Result<(), BackupError> {
        let fail = |reason: io::Error| BackupError::ReadFile {
            path: source.display().to_string(),
            source: reason,
        };
        if depth > DEPTH || self.walked.entries.len() > ENTRIES {
            return Err(fail(io::Error::other("too many files or folders")));
        }
        let listing = match fs::read_dir(source) {
            Ok(listing) => listing,
            Err(error) if depth > 0 && error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(fail(error)),
        };
        let mut names = Vec::new();
        for entry in listing {
            match entry.map_err(fail)?.file_name().into_string() {
                Ok(name) => names.push(name),
                Err(name) => tracing::warn!(?name, folder = path, "left out: no UTF-8 name"),
            }
        }
        names.sort_unstable();
        let unlogged: HashSet<&str> = names
            .iter()
            .filter_map(|name| name.strip_suffix("_init"))
            .collect();
        let is_relations = holds_relations(path);
        for name in &names {
            let relation = is_relations.then(|| Relation::read(name)).flatten();
            let is_gone = relation
                .as_ref()
                .is_some_and(|relation| relation.is_reset(&unlogged));
            if !is_gone && !is_left_out(path, name) {
                let pages = relation.map(|relation| Pages {
                    segment: relation.segment,
                    is_main: relation.fork.is_none(),
                });
                self.entry(&source.join(name), &join(path, name), pages, depth)?;
            }
        }
        Ok(())
    }

    fn entry(
        &mut self,
        source: &Path,
        path: &str,
        pages: Option<Pages>,
        depth: usize,
    ) -> Result<(), BackupError> {
        if !is_safe_path(path) {
            tracing::warn!(path, "left out: no usable name");
            return Ok(());
        }
        // Links are followed: a configuration file may live elsewhere, and so may the WAL and the tablespaces.
        let meta = match fs::metadata(source) {
            Ok(meta) => meta,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => {
                return Err(BackupError::ReadFile {
                    path: source.display().to_string(),
                    source: error,
                });
            }
        };
        let is_link = fs::symlink_metadata(source).is_ok_and(|meta| meta.is_symlink());
        if meta.is_file() {
            let kind = Kind::File {
                bytes: meta.len(),
                pages,
            };
            self.push(path, source, kind);
            return Ok(());
        }
        if !meta.is_dir() {
            return Ok(());
        }
        let oid = path.strip_prefix("pg_tblspc/").map(str::parse::<u32>);
        if let (true, Some(Ok(oid))) = (is_link, oid) {
            return self.tablespace(source, path, oid, depth);
        }
        let is_foreign = is_link && path != self.wal_folder;
        if is_foreign {
            tracing::warn!(path, "left out: a folder that only a link points to");
            return Ok(());
        }
        self.push(path, source, Kind::Folder);
        if path == self.wal_folder {
            self.push(&join(path, "archive_status"), source, Kind::Folder);
            return Ok(());
        }
        if EMPTIED.contains(&path) {
            return Ok(());
        }
        self.folder(source, path, depth + 1)
    }

    /// Of a tablespace's folder only what is of this server's version: others may share it.
    fn tablespace(
        &mut self,
        source: &Path,
        path: &str,
        oid: u32,
        depth: usize,
    ) -> Result<(), BackupError> {
        let folder = fs::read_link(source).map_err(|error| BackupError::ReadFile {
            path: source.display().to_string(),
            source: error,
        })?;
        self.walked.tablespaces.push(Tablespace {
            oid,
            folder: folder.display().to_string(),
        });
        self.push(path, source, Kind::Folder);
        let ours = source.join(&self.tablespace_version);
        let ours_path = join(path, &self.tablespace_version);
        self.push(&ours_path, &ours, Kind::Folder);
        self.folder(&ours, &ours_path, depth + 2)
    }

    fn push(&mut self, path: &str, source: &Path, kind: Kind) {
        self.walked.entries.push(Entry {
            path: path.to_owned(),
            source: source.to_owned(),
            kind,
        });
    }
}

fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() {
        name.to_owned()
    } else {
        format!("{folder}/{name}")
    }
}

/// Whether a file of this path is none of a backup, whoever made it: of the running server, or of an earlier backup or recovery. The labels of this very one are.
pub(crate) fn leaves_out(path: &str) -> bool {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    let top = path.split('/').next().unwrap_or_default();
    let is_made_anew = !folder.is_empty() && (EMPTIED.contains(&top) || is_wal(top));
    let is_label = matches!(path, "backup_label" | "tablespace_map");
    path != CONTROL_FILE && !is_label && (is_made_anew || is_left_out(folder, name))
}

/// Whether WAL lies in a folder of this name, on whichever major.
fn is_wal(name: &str) -> bool {
    matches!(name, "pg_wal" | "pg_xlog")
}

fn is_left_out(folder: &str, name: &str) -> bool {
    let is_top = folder.is_empty();
    name.starts_with("pgsql_tmp")
        || name.starts_with("pg_internal.init")
        || (is_top && (LEFT_OUT.contains(&name) || name.starts_with(".s.PGSQL.")))
        || join(folder, name) == CONTROL_FILE
}

/// The database whose files lie here: `base/<oid>/…`, `pg_tblspc/<oid>/PG_…/<oid>/…`. What all databases share has none.
pub(super) fn database_of(path: &str) -> Option<&str> {
    let parts: Vec<&str> = path.split('/').collect();
    match parts.as_slice() {
        ["base", oid, _] | ["pg_tblspc", _, _, oid, _] => Some(oid),
        _ => None,
    }
}

/// Whether files of relations lie here: `global`, `base/<oid>`, `pg_tblspc/<oid>/PG_…/<oid>`.
fn holds_relations(path: &str) -> bool {
    let parts: Vec<&str> = path.split('/').collect();
    match parts.as_slice() {
        ["global"] | ["base", _] => true,
        ["pg_tblspc", _, version, _] => version.starts_with("PG_"),
        _ => false,
    }
}

/// Which file of its relation this is, counted from 0; none of what holds no pages of a relation.
pub(crate) fn relation_segment(path: &str) -> Option<u32> {
    let (folder, name) = path.rsplit_once('/')?;
    let relation = holds_relations(folder).then(|| Relation::read(name))?;
    relation.map(|relation| relation.segment)
}

/// A relation's file by its name: `16384`, `16384_fsm`, `16384.1`, `t3_16384`.
#[derive(Debug, PartialEq, Eq)]
struct Relation<'a> {
    number: &'a str,
    fork: Option<&'a str>,
    segment: u32,
    is_temporary: bool,
}

impl<'a> Relation<'a> {
    fn read(name: &'a str) -> Option<Self> {
        let is_digits =
            |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let (stem, segment) = match name.split_once('.') {
            Some((stem, segment)) if is_digits(segment) => (stem, segment.parse().ok()?),
            Some(_) => return None,
            None => (name, 0),
        };
        let (is_temporary, stem) = match stem.strip_prefix('t') {
            Some(rest) => {
                let (session, rest) = rest.split_once('_')?;
                (is_digits(session), rest)
            }
            None => (false, stem),
        };
        let (number, fork) = match stem.split_once('_') {
            Some((number, fork @ ("fsm" | "vm" | "init"))) => (number, Some(fork)),
            Some(_) => return None,
            None => (stem, None),
        };
        is_digits(number).then_some(Self {
            number,
            fork,
            segment,
            is_temporary,
        })
    }

    /// Whether a server would throw it away when it starts after a crash.
    fn is_reset(&self, unlogged: &HashSet<&str>) -> bool {
        self.is_temporary || (self.fork != Some("init") && unlogged.contains(self.number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relations_are_told_by_their_names() {
        let read = |name| {
            Relation::read(name).map(|found| {
                (
                    found.number.to_owned(),
                    found.fork,
                    found.segment,
                    found.is_temporary,
                )
            })
        };
        let plain = |number: &str, fork, segment| Some((number.to_owned(), fork, segment, false));
        assert_eq!(read("16384"), plain("16384", None, 0));
        assert_eq!(read("16384.12"), plain("16384", None, 12));
        assert_eq!(read("16384_fsm.1"), plain("16384", Some("fsm"), 1));
        assert_eq!(read("1_init"), plain("1", Some("init"), 0));
        assert_eq!(
            read("t3_16384_vm"),
            Some(("16384".into(), Some("vm"), 0, true))
        );
        for other in [
            "pg_filenode.map",
            "PG_VERSION",
            "16384.x",
            "16384_other",
            "",
            "t3",
            ".",
        ] {
            assert_eq!(read(other), None, "{other}");
        }
    }

    #[test]
    fn an_unlogged_relation_keeps_its_init_fork_alone() {
        let unlogged = HashSet::from(["7"]);
        let is_reset = |name| Relation::read(name).unwrap().is_reset(&unlogged);
        assert!(is_reset("7") && is_reset("7.1") && is_reset("7_vm") && is_reset("t1_8"));
        assert!(!is_reset("7_init") && !is_reset("8") && !is_reset("77"));
    }

    #[test]
    fn only_what_is_at_the_top_is_left_out_by_name() {
        assert!(is_left_out("", "postmaster.pid") && is_left_out("", ".s.PGSQL.5432.lock"));
        assert!(
            is_left_out("base/1", "pg_internal.init.77") && is_left_out("global", "pg_control")
        );
        assert!(!is_left_out("mine", "postmaster.pid") && !is_left_out("base/1", "pg_control"));
        assert!(holds_relations("pg_tblspc/5/PG_15_202209061/5") && !holds_relations("base"));
        assert_eq!(database_of("base/5/1259"), Some("5"));
        assert_eq!(database_of("pg_tblspc/9/PG_15_202209061/5/1259"), Some("5"));
        assert_eq!(database_of("global/1262"), None);
    }
}
