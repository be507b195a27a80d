//! fake-gcs-server: Google Cloud Storage by its JSON API.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use crate::{
    net::{free_port, get_at, tool, wait_until},
    process::{HelperError, Running},
};

/// fake-gcs-server with its objects in a folder, so that a test can damage them.
#[derive(Debug)]
pub struct FakeGcs {
    running: Running,
    host: Ipv4Addr,
    port: u16,
    objects: PathBuf,
}

impl FakeGcs {
    /// Starts a server below `folder` that has the given buckets.
    pub fn start(folder: &Path, buckets: &[&str]) -> Result<Self, HelperError> {
        Self::start_on(Ipv4Addr::LOCALHOST, folder, buckets)
    }

    /// The same at another address of this machine, such as one that a test's own networks reach.
    pub fn start_on(host: Ipv4Addr, folder: &Path, buckets: &[&str]) -> Result<Self, HelperError> {
        let objects = folder.join("gcs");
        for bucket in buckets {
            fs::create_dir_all(objects.join(bucket)).map_err(|source| HelperError::Prepare {
                what: format!("bucket {bucket}"),
                source,
            })?;
        }
        Self::start_at(objects, host, free_port()?)
    }

    /// The same with these objects and this port, where a server ran before.
    pub fn start_at(objects: PathBuf, host: Ipv4Addr, port: u16) -> Result<Self, HelperError> {
        let running = Running::start(
            Command::new(tool("bin/fake-gcs-server"))
                .args(["-scheme", "http", "-host", &host.to_string()])
                .args(["-backend", "filesystem"])
                .args(["-port", &port.to_string()])
                .args(["-public-host", &format!("{host}:{port}")])
                .arg("-filesystem-root")
                .arg(&objects)
                .stderr(Stdio::null()),
        )?;
        wait_until("fake-gcs-server", Duration::from_secs(20), || {
            get_at(host, port, "/storage/v1/b").is_some_and(|reply| reply.contains(" 200 "))
        })?;
        Ok(Self {
            running,
            host,
            port,
            objects,
        })
    }

    /// Where it answers, as `STORAGE_EMULATOR_HOST` or `gcs.endpoint` want it.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}:{}", self.host, self.port)
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
        self.running.kill();
        *self = Self::start_at(self.objects.clone(), self.host, self.port)?;
        Ok(())
    }
}
