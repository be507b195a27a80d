//! Real object-store servers on free ports of loopback.

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use crate::process::{HelperError, Running};

/// A port that was free a moment ago.
pub fn free_port() -> Result<u16, HelperError> {
    TcpListener::bind(("127.0.0.1", 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(|source| HelperError::Prepare {
            what: "a free port".to_owned(),
            source,
        })
}

/// fake-gcs-server with its objects in a folder, so that a test can damage them.
#[derive(Debug)]
pub struct FakeGcs {
    running: Running,
    port: u16,
    objects: PathBuf,
}

impl FakeGcs {
    /// Starts a server below `folder` that has the given buckets.
    pub fn start(folder: &Path, buckets: &[&str]) -> Result<Self, HelperError> {
        let objects = folder.join("gcs");
        for bucket in buckets {
            fs::create_dir_all(objects.join(bucket)).map_err(|source| HelperError::Prepare {
                what: format!("bucket {bucket}"),
                source,
            })?;
        }
        Self::start_at(objects, free_port()?)
    }

    fn start_at(objects: PathBuf, port: u16) -> Result<Self, HelperError> {
        let running = Running::start(
            Command::new("fake-gcs-server")
                .args([
                    "-scheme",
                    "http",
                    "-host",
                    "127.0.0.1",
                    "-backend",
                    "filesystem",
                ])
                .args(["-port", &port.to_string()])
                .args(["-public-host", &format!("127.0.0.1:{port}")])
                .arg("-filesystem-root")
                .arg(&objects)
                .stderr(Stdio::null()),
        )?;
        let server = Self {
            running,
            port,
            objects,
        };
        server.wait_until_ready(Duration::from_secs(20))?;
        Ok(server)
    }

    /// Where it answers, as `STORAGE_EMULATOR_HOST` or `gcs.endpoint` want it.
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
        self.running.kill();
        *self = Self::start_at(self.objects.clone(), self.port)?;
        Ok(())
    }

    fn wait_until_ready(&self, within: Duration) -> Result<(), HelperError> {
        let end = Instant::now() + within;
        while Instant::now() < end {
            if get(self.port, "/storage/v1/b").is_some_and(|reply| reply.contains(" 200 ")) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(30));
        }
        Err(HelperError::NotReady {
            what: "fake-gcs-server".to_owned(),
            seconds: within.as_secs(),
        })
    }
}

/// A plain HTTP/1.0 GET; enough to ask whether a server is up.
#[must_use]
pub fn get(port: u16, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    write!(
        stream,
        "GET {path} HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\n\r\n"
    )
    .ok()?;
    let mut reply = String::new();
    stream.take(1 << 20).read_to_string(&mut reply).ok()?;
    Some(reply)
}
