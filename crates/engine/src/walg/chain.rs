//! A base backup and those that it builds on, as the store has them: everything that is known before anything is written.

use std::{collections::BTreeSet, io::Read as _, path::Path, sync::Arc};

use super::{
    BACKUPS, FILES, PARTS, SENTINEL, WalgError, WalgRequest,
    backups::SENTINEL_BYTES,
    below,
    codec::Codec,
    sentinel::{Files, Sentinel},
};
use crate::{
    postgres::control::{CONTROL_FILE, ControlFile},
    store::Store,
    tar::{Entry, Sink, TarError, TarReader},
};

/// Backups that one may build on.
const CHAIN: usize = 64;
/// Longest list of files: some million of them.
const FILES_BYTES: u64 = 1 << 30;
/// Archives of one backup.
const PARTS_MAX: usize = 100_000;
/// Archives without anything but a control file are as small as this.
const CONTROL_BYTES: u64 = 1 << 20;

/// One backup of a chain.
pub(super) struct Link {
    pub(super) backup: String,
    pub(super) sentinel: Sentinel,
    pub(super) files: Files,
    pub(super) parts: Vec<Part>,
}

/// One of its archives.
#[derive(Clone)]
pub(super) struct Part {
    pub(super) key: String,
    pub(super) bytes: u64,
    pub(super) codec: Codec,
    is_control: bool,
}

/// The backup, after those that it builds on.
pub(super) async fn chain(request: &WalgRequest) -> Result<Vec<Arc<Link>>, WalgError> {
    let mut chain: Vec<Arc<Link>> = Vec::new();
    let mut next = Some(request.backup.clone());
    while let Some(name) = next {
        let is_known = chain.iter().any(|link| link.backup == name);
        if is_known || chain.len() == CHAIN {
            return Err(WalgError::Incomplete {
                backup: request.backup.clone(),
                reason: format!("it builds on more than {CHAIN} backups, or on itself"),
            });
        }
        let link = link(request, name).await?;
        next = link.sentinel.parent.clone();
        chain.push(Arc::new(link));
    }
    chain.reverse();
    // Of one that stands alone the list of files only proves that it is whole.
    let is_alone = chain.len() == 1;
    if let Some(link) = chain.iter().find(|link| link.files.is_empty() && !is_alone) {
        return Err(WalgError::Refused {
            backup: request.backup.clone(),
            reason: format!(
                "it builds on others, and {} has no list of its files (it was made without {FILES}); restore it with wal-g, or a full one here",
                link.backup
            ),
        });
    }
    Ok(chain)
}

async fn link(request: &WalgRequest, backup: String) -> Result<Link, WalgError> {
    let (store, folder) = (&request.store, &request.folder);
    let is_name = backup
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if !is_name {
        return Err(WalgError::Incomplete {
            backup: request.backup.clone(),
            reason: format!("{backup:?} is no name of a backup"),
        });
    }
    let key = below(folder, &format!("{BACKUPS}/{backup}{SENTINEL}"));
    let damaged = |object: &str, reason: String| WalgError::Damaged {
        backup: request.backup.clone(),
        object: object.to_owned(),
        label: store.label().to_owned(),
        reason,
    };
    let bytes = match store.read(&key, SENTINEL_BYTES).await {
        Err(error) if error.is_not_found() && backup != request.backup => {
            return Err(WalgError::Incomplete {
                backup: request.backup.clone(),
                reason: format!("it builds on {backup}, which is not there"),
            });
        }
        other => other?,
    };
    let sentinel = Sentinel::read(&bytes).map_err(|reason| damaged(&key, reason))?;
    check(request, &backup, &sentinel)?;
    // Before there was a list of its own, it stood in the sentinel.
    let mut files = Files::read(&bytes).unwrap_or_default();
    if files.is_empty() && !sentinel.lists_no_files {
        let key = below(folder, &format!("{BACKUPS}/{backup}/{FILES}"));
        match store.read(&key, FILES_BYTES).await {
            Ok(bytes) => files = Files::read(&bytes).map_err(|reason| damaged(&key, reason))?,
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
    }
    let parts = parts(request, &backup, &files).await?;
    Ok(Link {
        backup,
        sentinel,
        files,
        parts,
    })
}

/// Refuses what cannot run here, or is not read here.
fn check(request: &WalgRequest, backup: &str, sentinel: &Sentinel) -> Result<(), WalgError> {
    let refused = |reason| {
        Err(WalgError::Refused {
            backup: backup.to_owned(),
            reason,
        })
    };
    let (theirs, ours) = (sentinel.major(), request.dialect.to_string());
    if theirs != ours {
        return refused(format!(
            "it holds PostgreSQL {theirs}, this database runs PostgreSQL {}; give a new database a spec.version of the same major",
            request.postgres_version
        ));
    }
    let tablespaces = sentinel.tablespaces();
    if !tablespaces.is_empty() {
        return refused(format!(
            "it has tablespaces ({}), which are not read here; restore it with wal-g, and take a Snapshot",
            tablespaces.join(", ")
        ));
    }
    let theirs = sentinel.system_identifier;
    if theirs.is_some_and(|theirs| theirs != request.system_identifier) {
        return refused(format!(
            "it is of cluster {}, not of {}",
            theirs.unwrap_or_default(),
            request.system_identifier
        ));
    }
    Ok(())
}

/// The archives of a backup, the control file's last. One that the list of files names and that is not there is missing.
async fn parts(request: &WalgRequest, backup: &str, files: &Files) -> Result<Vec<Part>, WalgError> {
    let folder = below(&request.folder, &format!("{BACKUPS}/{backup}/{PARTS}"));
    let listed = request.store.list(&folder).await?;
    let mut parts = Vec::new();
    let mut names = BTreeSet::new();
    for listed in listed.into_iter().take(PARTS_MAX) {
        let name = listed.key.rsplit('/').next().unwrap_or_default();
        let (stem, codec) = Codec::of(name);
        if !stem.ends_with(".tar") {
            continue;
        }
        if let Codec::Other(codec) = codec {
            return Err(WalgError::Refused {
                backup: backup.to_owned(),
                reason: format!("{name} is packed with {codec}, which is not read here"),
            });
        }
        names.insert(stem.to_owned());
        parts.push(Part {
            is_control: stem.starts_with("pg_control"),
            bytes: listed.bytes,
            codec,
            key: listed.key,
        });
    }
    parts.sort_by(|a, b| (a.is_control, &a.key).cmp(&(b.is_control, &b.key)));
    let incomplete = |reason| {
        Err(WalgError::Incomplete {
            backup: backup.to_owned(),
            reason,
        })
    };
    if let Some(missing) = files
        .parts()
        .into_iter()
        .find(|part| !names.contains(*part))
    {
        return incomplete(format!("{missing} is missing in it"));
    }
    if !parts.iter().any(|part| part.is_control) {
        return incomplete("pg_control.tar is missing in it".to_owned());
    }
    Ok(parts)
}

/// The control file of a backup.
pub(super) async fn control(
    store: &Store,
    folder: &str,
    backup: &str,
) -> Result<ControlFile, WalgError> {
    let parts = below(folder, &format!("{BACKUPS}/{backup}/{PARTS}"));
    let listed = store.list(&parts).await?;
    let found = listed.into_iter().find_map(|listed| {
        let name = listed.key.rsplit('/').next().unwrap_or_default();
        let (stem, codec) = Codec::of(name);
        stem.starts_with("pg_control")
            .then(|| (codec, listed.key.clone()))
    });
    let Some((codec, key)) = found else {
        return Err(WalgError::Incomplete {
            backup: backup.to_owned(),
            reason: "pg_control.tar is missing in it".to_owned(),
        });
    };
    let packed = store.read(&key, CONTROL_BYTES).await?;
    let read = || -> Result<ControlFile, String> {
        let mut tar = Vec::new();
        let reader = codec
            .reader(&packed[..])
            .map_err(|error| error.to_string())?;
        let read = reader.take(CONTROL_BYTES).read_to_end(&mut tar);
        read.map_err(|error| format!("{error}; encrypted backups of wal-g are not read here"))?;
        let mut sink = OneFile::default();
        let mut reader = TarReader::of_others();
        let fed = reader.feed(&tar, &mut sink).and_then(|()| reader.finish());
        fed.map_err(|error| error.to_string())?;
        let file = sink.content.ok_or("it holds no control file")?;
        ControlFile::parse(&file).map_err(|error| error.to_string())
    };
    read().map_err(|reason| WalgError::Damaged {
        backup: backup.to_owned(),
        object: key.clone(),
        label: store.label().to_owned(),
        reason,
    })
}

/// Keeps the control file.
#[derive(Default)]
struct OneFile {
    content: Option<Vec<u8>>,
    is_meant: bool,
}

impl Sink for OneFile {
    type Error = TarError;

    fn begin(&mut self, entry: Entry) -> Result<(), TarError> {
        self.is_meant =
            matches!(&entry, Entry::File { path, .. } if path == Path::new(CONTROL_FILE));
        if self.is_meant {
            self.content = Some(Vec::new());
        }
        Ok(())
    }

    fn data(&mut self, bytes: &[u8]) -> Result<(), TarError> {
        if let Some(content) = self.content.as_mut().filter(|_| self.is_meant) {
            content.extend_from_slice(bytes);
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), TarError> {
        Ok(())
    }
}
