//! A real fake-gcs-server for tests, with its objects in a folder so that a test can damage them.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::{
    env, fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use kubedb_engine::store::{Credentials, Location, Store};

/// Longest wait for the server; it starts within a tenth of a second.
const PATIENCE: Duration = Duration::from_secs(20);

/// The bucket that every server has.
pub(crate) const BUCKET: &str = "kubedb";

/// A server. Dropping it ends it and removes its objects.
pub(crate) struct FakeGcs {
    port: u16,
    folder: tempfile::TempDir,
    child: Child,
}

impl FakeGcs {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join(BUCKET)).unwrap();
        let port = TcpListener::bind(("127.0.0.1", 0))
            .and_then(|listener| listener.local_addr())
            .unwrap()
            .port();
        let child = launch(port, folder.path());
        let server = Self {
            port,
            folder,
            child,
        };
        server.wait_until_ready();
        server
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(crate) fn location(&self, bucket: &str, prefix: &str) -> Location {
        Location::Gcs {
            endpoint: Some(self.endpoint()),
            bucket: bucket.to_owned(),
            prefix: Some(prefix.to_owned()),
        }
    }

    pub(crate) fn store(&self, prefix: &str) -> Store {
        Store::open(&self.location(BUCKET, prefix), &Credentials::new()).unwrap()
    }

    /// The end of it, as a power cut would be.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Begins again with the same port and objects.
    pub(crate) fn restart(&mut self) {
        self.kill();
        self.child = launch(self.port, self.folder.path());
        self.wait_until_ready();
    }

    fn wait_until_ready(&self) {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if get(self.port, "/storage/v1/b").is_some_and(|reply| reply.contains(" 200 ")) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("fake-gcs-server did not answer within {PATIENCE:?}");
    }
}

impl Drop for FakeGcs {
    fn drop(&mut self) {
        self.kill();
    }
}

fn launch(port: u16, objects: &Path) -> Child {
    Command::new(program())
        .args(["-scheme", "http", "-host", "127.0.0.1"])
        .args(["-backend", "filesystem", "-filesystem-root"])
        .arg(objects)
        .args(["-port", &port.to_string()])
        .args(["-public-host", &format!("127.0.0.1:{port}")])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("fake-gcs-server is missing; run: cargo xtask tools")
}

/// On the path, or where `cargo xtask tools` puts it.
fn program() -> PathBuf {
    let cache = env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cache")));
    let fetched = cache.map(|cache| cache.join("kubedb-test/bin/fake-gcs-server"));
    fetched
        .filter(|file| file.exists())
        .unwrap_or_else(|| PathBuf::from("fake-gcs-server"))
}

fn get(port: u16, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n").ok()?;
    let mut reply = String::new();
    stream.take(1 << 20).read_to_string(&mut reply).ok()?;
    Some(reply)
}
