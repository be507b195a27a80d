//! A real fake-gcs-server for tests, as a location and a store.
#![allow(dead_code, reason = "each test file uses a part of it")]

use kubedb_engine::store::{Credentials, Location, Store};
use kubedb_stores::gcs;

/// The bucket that every server has.
pub(crate) const BUCKET: &str = "kubedb";

/// A server. Dropping it ends it and removes its objects.
pub(crate) struct FakeGcs {
    server: gcs::FakeGcs,
    _folder: tempfile::TempDir,
}

impl FakeGcs {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let server = gcs::FakeGcs::start(folder.path(), &[BUCKET]).unwrap();
        Self {
            server,
            _folder: folder,
        }
    }

    pub(crate) fn endpoint(&self) -> String {
        self.server.endpoint()
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
        self.server.kill();
    }

    /// Begins again with the same port and objects.
    pub(crate) fn restart(&mut self) {
        self.server.restart().unwrap();
    }
}
