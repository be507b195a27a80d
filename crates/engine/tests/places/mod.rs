//! Every kind of store behind a proxy that spoils requests, and the same store without it.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::{any::Any, collections::BTreeMap};

use kubedb_engine::store::{Credentials, Location, Store};
use kubedb_stores::{
    azurite::{self, Azurite},
    fault::FaultProxy,
    gcs::FakeGcs,
    minio::{self, Minio},
    swift::{self, Settings, Swift},
};

/// The bucket or container of every store.
pub(crate) const BUCKET: &str = "kubedb";

/// A folder within it.
const PREFIX: &str = "nightly";

/// Kinds of stores that are reached over a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Gcs,
    S3,
    Azure,
    Swift,
}

/// A store and the way to it.
pub(crate) struct Place {
    pub(crate) kind: Kind,
    pub(crate) proxy: FaultProxy,
    /// Through the proxy.
    pub(crate) store: Store,
    /// Past it.
    pub(crate) plain: Store,
    _server: Box<dyn Any + Send>,
    _folder: tempfile::TempDir,
}

impl Place {
    pub(crate) fn start(kind: Kind) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (server, endpoint): (Box<dyn Any + Send>, String) = match kind {
            Kind::Gcs => {
                let server = FakeGcs::start(folder.path(), &[BUCKET]).unwrap();
                let endpoint = server.endpoint();
                (Box::new(server), endpoint)
            }
            Kind::S3 => {
                let server = Minio::start(folder.path(), &[BUCKET]).unwrap();
                let endpoint = server.endpoint();
                (Box::new(server), endpoint)
            }
            Kind::Azure => {
                let server = Azurite::start(folder.path(), &[BUCKET]).unwrap();
                let endpoint = server.endpoint();
                (Box::new(server), endpoint)
            }
            Kind::Swift => {
                let server = Swift::start(folder.path(), &[BUCKET], Settings::default()).unwrap();
                let endpoint = server.auth_address();
                (Box::new(server), endpoint)
            }
        };
        let proxy = FaultProxy::before(&endpoint).unwrap();
        let through = proxy.through(&endpoint);
        Self {
            kind,
            store: open(kind, &through),
            plain: open(kind, &endpoint),
            proxy,
            _server: server,
            _folder: folder,
        }
    }

    /// Digests of all objects by key.
    pub(crate) async fn digests(&self) -> BTreeMap<String, blake3::Hash> {
        let mut digests = BTreeMap::new();
        for found in self.plain.list("").await.unwrap() {
            let content = self.plain.read(&found.key, found.bytes).await.unwrap();
            digests.insert(found.key, blake3::hash(&content));
        }
        digests
    }
}

/// A store of the server that answers at this endpoint.
fn open(kind: Kind, endpoint: &str) -> Store {
    let prefix = Some(PREFIX.to_owned());
    let (endpoint, bucket) = (Some(endpoint.to_owned()), BUCKET.to_owned());
    let (location, pairs): (Location, Vec<(&str, String)>) = match kind {
        Kind::Gcs => {
            let location = Location::Gcs {
                endpoint,
                bucket,
                prefix,
            };
            (location, Vec::new())
        }
        Kind::S3 => {
            let location = Location::S3 {
                endpoint,
                bucket,
                prefix,
            };
            let (id, secret) = minio::KEYS;
            let keys = vec![
                ("AWS_ACCESS_KEY_ID", id.to_owned()),
                ("AWS_SECRET_ACCESS_KEY", secret.to_owned()),
            ];
            (location, keys)
        }
        Kind::Azure => {
            let location = Location::Azure {
                endpoint,
                container: bucket,
                prefix,
            };
            let (account, key) = azurite::ACCOUNT;
            let keys = vec![
                ("AZURE_ACCOUNT_NAME", account.to_owned()),
                ("AZURE_ACCOUNT_KEY", key.to_owned()),
            ];
            (location, keys)
        }
        Kind::Swift => {
            let location = Location::Swift {
                container: bucket,
                prefix,
            };
            let (user, key) = swift::USER;
            let keys = vec![
                ("ST_AUTH", endpoint.unwrap_or_default()),
                ("ST_USER", user.to_owned()),
                ("ST_KEY", key.to_owned()),
            ];
            (location, keys)
        }
    };
    let credentials: Credentials = pairs
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.into_bytes()))
        .collect();
    Store::open(&location, &credentials).unwrap()
}
