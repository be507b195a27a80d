//! The S3 server that all tools write to: MinIO with TLS, which pgBackRest insists on.

use std::{
    fs,
    path::{Path, PathBuf},
};

pub(crate) use kubedb_stores::minio::KEYS;
use kubedb_stores::{
    certificates::Signed,
    minio::{Minio, Settings},
};

pub(crate) const BUCKET: &str = "bench";

/// A running server.
#[derive(Debug)]
pub(crate) struct S3 {
    minio: Minio,
    /// Certificate of its authority.
    pub(crate) authority: String,
    /// Whether our engine encrypts what it stores there.
    pub(crate) encrypts: bool,
}

impl S3 {
    /// Starts one below `folder`.
    pub(crate) fn start(folder: &Path, encrypts: bool) -> Result<Self, String> {
        let signed = Signed::of(&["127.0.0.1"]).map_err(|error| error.to_string())?;
        let authority = signed.authority.clone();
        let settings = Settings {
            signed: Some(signed),
            ..Settings::default()
        };
        let minio = Minio::start_with(folder, &[BUCKET], settings);
        let minio = minio.map_err(|error| error.to_string())?;
        Ok(Self {
            minio,
            authority,
            encrypts,
        })
    }

    /// Its port.
    pub(crate) fn port(&self) -> u16 {
        self.minio.port()
    }

    fn below(&self, prefix: &str) -> PathBuf {
        self.minio.objects().join(BUCKET).join(prefix)
    }

    /// Bytes that it holds under a prefix, with its own of each object.
    pub(crate) fn stored(&self, prefix: &str) -> u64 {
        crate::cluster::size(&self.below(prefix))
    }

    /// Forgets what lies under a prefix, so that the disk does not fill.
    pub(crate) fn forget(&self, prefix: &str) -> Result<(), String> {
        let path = self.below(prefix);
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(format!("failed to empty {}: {error}", path.display()))
            }
            _ => Ok(()),
        }
    }
}
