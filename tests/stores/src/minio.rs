//! MinIO: S3.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use crate::{
    net::{free_port, get, tool, wait_until},
    process::{HelperError, Running},
};

/// What the server takes as access key and as secret key.
pub const KEYS: (&str, &str) = ("trial-access", "trial-secret-key");

/// A server. Its buckets are folders that are there when it starts.
#[derive(Debug)]
pub struct Minio {
    running: Running,
    port: u16,
    objects: PathBuf,
}

impl Minio {
    /// Starts a server below `folder` that has the given buckets.
    pub fn start(folder: &Path, buckets: &[&str]) -> Result<Self, HelperError> {
        let objects = folder.join("minio");
        for bucket in buckets {
            fs::create_dir_all(objects.join(bucket)).map_err(|source| HelperError::Prepare {
                what: format!("bucket {bucket}"),
                source,
            })?;
        }
        Self::start_at(objects, free_port()?, KEYS)
    }

    fn start_at(objects: PathBuf, port: u16, keys: (&str, &str)) -> Result<Self, HelperError> {
        let address = format!("127.0.0.1:{port}");
        let running = Running::start(
            Command::new(tool("bin/minio"))
                .args(["server", "--quiet", "--address", &address])
                .args(["--console-address", &format!("127.0.0.1:{}", free_port()?)])
                .arg(&objects)
                .env("MINIO_ROOT_USER", keys.0)
                .env("MINIO_ROOT_PASSWORD", keys.1)
                .env("MINIO_BROWSER", "off")
                .env("MINIO_UPDATE", "off")
                .env("HOME", objects.parent().unwrap_or(&objects))
                .stderr(Stdio::null()),
        )?;
        wait_until("MinIO", Duration::from_secs(30), || {
            get(port, "/minio/health/ready").is_some_and(|reply| reply.contains(" 200 "))
        })?;
        Ok(Self {
            running,
            port,
            objects,
        })
    }

    /// Where it answers, as `s3.endpoint` wants it.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Folder of the objects of all buckets.
    #[must_use]
    pub fn objects(&self) -> &Path {
        &self.objects
    }

    /// Stops the server at once, as a power cut would.
    pub fn kill(&mut self) {
        self.running.kill();
    }

    /// Starts it again with the same port and objects.
    pub fn restart(&mut self) -> Result<(), HelperError> {
        self.rotate(KEYS)
    }

    /// Starts it again with other keys; the former ones are refused from then on.
    pub fn rotate(&mut self, keys: (&str, &str)) -> Result<(), HelperError> {
        self.running.kill();
        *self = Self::start_at(self.objects.clone(), self.port, keys)?;
        Ok(())
    }
}
