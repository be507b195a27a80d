//! A restored folder as a base backup that PostgreSQL's own tools know: with `backup_manifest`.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    path::Path,
    sync::Arc,
};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use sha2::{Digest as _, Sha256};

use super::{Restore, RestoreError, Written, blocking, existing::read, write::fail};
use crate::postgres::backup_manifest::{
    BACKUP_MANIFEST, BackupFacts, FIRST_MAJOR, ManifestFile, backup_manifest,
};

/// Bytes read at once.
const BUFFER: usize = 1 << 20;

impl Written {
    /// Reads everything back and writes `backup_manifest`, by which `pg_verifybackup` verifies the folder. Tells whether it did: PostgreSQL has such
    /// manifests since 13.
    pub async fn add_backup_manifest(&self) -> Result<bool, RestoreError> {
        let restore = self.restore.clone();
        let manifest = &restore.plan.manifest;
        let major: u32 = manifest.cluster.major.parse().unwrap_or(0);
        if major < FIRST_MAJOR {
            return Ok(false);
        }
        let facts = BackupFacts {
            major,
            system_identifier: self.cluster.system_identifier,
            timeline: manifest.timeline,
            start: manifest.start_lsn,
            stop: manifest.stop_lsn,
            created: manifest.created,
        };
        let wal = format!("{}/", restore.request.dialect.wal_folder());
        let files = restore.plan.files.iter().enumerate();
        let wanted: Vec<usize> = files
            .filter(|(_, file)| !file.is_folder && file.path != BACKUP_MANIFEST)
            .filter(|(_, file)| !file.path.starts_with(&wal))
            .map(|(number, _)| number)
            .collect();
        let threads = restore.request.threads.clamp(1, 64);
        let files: Vec<ManifestFile> = stream::iter(wanted)
            .map(|number| {
                let restore = restore.clone();
                blocking(move || restore.sum(number))
            })
            .buffered(threads)
            .try_collect()
            .await?;
        blocking(move || restore.write_beside(&backup_manifest(&facts, &files))).await?;
        Ok(true)
    }
}

impl Restore {
    fn sum(self: Arc<Self>, number: usize) -> Result<ManifestFile, RestoreError> {
        let file = &self.plan.files[number];
        let place = self.site.place(&file.path);
        let (bytes, sha256) = sum(&place).map_err(read(&place))?;
        Ok(ManifestFile {
            path: file.path.clone(),
            bytes,
            sha256,
        })
    }

    fn write_beside(&self, text: &str) -> Result<(), RestoreError> {
        let place = self.site.data_folder.join(BACKUP_MANIFEST);
        match fs::remove_file(&place) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(fail(&place)(error));
            }
            _ => {}
        }
        let made = File::create_new(&place);
        made.and_then(|mut made| {
            made.write_all(text.as_bytes())?;
            made.sync_all()
        })
        .map_err(fail(&place))
    }
}

fn sum(place: &Path) -> io::Result<(u64, [u8; 32])> {
    let mut file = File::open(place)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; BUFFER];
    let mut bytes = 0;
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok((bytes, hash.finalize().into())),
            length => {
                hash.update(&buffer[..length]);
                bytes += length as u64;
            }
        }
    }
}
