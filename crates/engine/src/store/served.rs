//! A folder that only another process sees: it serves the folder, and we ask it with mutual TLS. `kubedb-agent` has the other side.
//!
//! `PUT /objects/KEY` creates and never overwrites, `GET` gives ranges, `DELETE` removes; `GET /list?below=FOLDER` gives lines of JSON, of
//! which the last says how many objects there were, so that a listing that breaks off is noticed; `/unfinished` is what killed writers left.

use std::{fmt, io, sync::Arc, time::SystemTime};

use ::http::header;
use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream, stream::BoxStream};
use jiff::Timestamp;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
    path::Path,
};
use reqwest::{Certificate, Client, Identity, RequestBuilder};
use serde::{Deserialize, Serialize};
use tokio_util::{
    codec::{FramedRead, LinesCodec},
    io::StreamReader,
};
use url::Url;

use super::{
    Credentials, StoreError,
    adapter::{self, answered, asked, delete_each, not_implemented},
    error::{AdapterFailure, chain},
    http::{Access, Api, Failure, below},
};

/// Certificate of who signed both sides' certificates.
pub const AUTHORITY_KEY: &str = "ca.crt";
/// Our certificate, which the other side wants to see.
pub const CERTIFICATE_KEY: &str = "client.crt";
/// Its key.
pub const PRIVATE_KEY: &str = "client.key";

/// Objects that one line of a listing holds.
pub const LINE_OBJECTS: usize = 500;
/// Longest line: names are of 1024 bytes at most, of which JSON makes six times as many at worst.
const LINE_BYTES: usize = LINE_OBJECTS * 8 * 1024;
/// How errors name this adapter.
const STORE: &str = "local";

/// One line of a listing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Line {
    /// Some of it.
    Objects(Vec<ServedObject>),
    /// The last: how many objects there were.
    End(u64),
}

/// An object, in a listing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServedObject {
    /// Its key.
    pub key: String,
    /// Its size.
    pub bytes: u64,
    /// When it was written, in milliseconds since 1970.
    pub modified: i64,
}

/// The folder. Cloning is cheap.
#[derive(Clone, Debug)]
pub(super) struct Served {
    api: Arc<Api<Door>>,
}

/// Certificates say who we are, so that requests have nothing to be signed with.
#[derive(Debug)]
struct Door {
    base: Url,
}

#[async_trait]
impl Access for Door {
    type Pass = Url;

    async fn pass(&self, _client: &Client) -> std::result::Result<Url, Failure> {
        Ok(self.base.clone())
    }

    async fn forget(&self) -> bool {
        false
    }

    fn sign(request: RequestBuilder, _pass: &Url) -> RequestBuilder {
        request
    }
}

impl fmt::Display for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(STORE)
    }
}

impl Served {
    /// Nobody is asked yet.
    pub(super) fn open(
        endpoint: &str,
        credentials: &Credentials,
        label: &str,
    ) -> std::result::Result<Self, StoreError> {
        let configure = |reason: String| StoreError::Configure {
            label: label.to_owned(),
            reason,
        };
        let base = Url::parse(endpoint).ok();
        let base = base
            .filter(|url| url.scheme() == "https" && url.has_host())
            .ok_or_else(|| configure(format!("{endpoint:?} is no https URL")))?;
        let of = |key: &str| {
            let value = credentials.get(key);
            value.ok_or_else(|| configure(format!("the Secret of its certificates lacks {key}")))
        };
        let authorities = Certificate::from_pem_bundle(of(AUTHORITY_KEY)?)
            .map_err(|error| configure(chain(&error)))?;
        let pair = [of(CERTIFICATE_KEY)?.as_slice(), b"\n", of(PRIVATE_KEY)?].concat();
        let identity = Identity::from_pem(&pair).map_err(|error| configure(chain(&error)))?;
        let builder = Client::builder()
            .tls_certs_only(authorities)
            .identity(identity)
            // A way out of the cluster is none to a neighbour.
            .no_proxy();
        let api = Api::over(builder, Door { base }).map_err(configure)?;
        Ok(Self { api: Arc::new(api) })
    }

    /// Whether anybody serves it.
    pub(super) async fn knock(&self) -> Result<()> {
        let send = |client: &Client, base: &Url| client.get(below(base, &["ready"]));
        let answered = self.api.send(send).await;
        answered
            .map(drop)
            .map_err(|failure| failure.into_error(STORE, "ready"))
    }

    /// Names of what killed writers left half written in a folder.
    pub(super) async fn unfinished(&self, folder: &Path) -> Result<Vec<String>> {
        let send = |client: &Client, base: &Url| client.get(place(base, "unfinished", folder));
        let response = self.api.send(send).await;
        let response = response.map_err(|failure| failure.into_error(STORE, folder.as_ref()))?;
        let read = self.api.json(response).await;
        read.map_err(|reason| generic(AdapterFailure::Unreachable { reason }))
    }

    /// Removes one of them.
    pub(super) async fn discard(&self, path: &Path) -> Result<()> {
        let send = |client: &Client, base: &Url| client.delete(place(base, "unfinished", path));
        let done = self.api.send(send).await;
        done.map(drop)
            .map_err(|failure| failure.into_error(STORE, path.as_ref()))
    }

    async fn listing(
        &self,
        folder: Option<Path>,
    ) -> Result<BoxStream<'static, Result<ObjectMeta>>> {
        let folder = folder.unwrap_or_default();
        let send = |client: &Client, base: &Url| {
            let mut url = below(base, &["list"]);
            url.query_pairs_mut().append_pair("below", folder.as_ref());
            client.get(url)
        };
        let response = self.api.send(send).await;
        let response = response.map_err(|failure| failure.into_error(STORE, folder.as_ref()))?;
        let content = self.api.content(response).map_err(io::Error::other);
        let codec = LinesCodec::new_with_max_length(LINE_BYTES);
        let lines = FramedRead::new(StreamReader::new(content.boxed()), codec);
        let objects = stream::try_unfold((lines, 0), |(mut lines, before)| async move {
            let broken = |reason: String| generic(AdapterFailure::Unreachable { reason });
            let line = match lines.next().await {
                None => return Err(broken("the listing breaks off".to_owned())),
                Some(line) => line.map_err(|error| broken(error.to_string()))?,
            };
            match serde_json::from_str(&line).map_err(|error| broken(error.to_string()))? {
                Line::End(count) if count == before => Ok(None),
                Line::End(count) => Err(broken(format!(
                    "the listing has {before} of {count} objects"
                ))),
                Line::Objects(objects) => {
                    let seen = before + objects.len() as u64;
                    Ok(Some((objects, (lines, seen))))
                }
            }
        });
        Ok(objects
            .map_ok(|objects| stream::iter(objects.into_iter().map(meta)))
            .try_flatten()
            .boxed())
    }
}

/// Address of what `kind` knows under a key.
fn place(base: &Url, kind: &str, path: &Path) -> Url {
    let segments: Vec<&str> = [kind].into_iter().chain(path.as_ref().split('/')).collect();
    below(base, &segments)
}

fn meta(object: ServedObject) -> Result<ObjectMeta> {
    let modified = Timestamp::from_millisecond(object.modified);
    let modified = modified.map_or(SystemTime::UNIX_EPOCH, SystemTime::from);
    Ok(ObjectMeta {
        location: Path::parse(&object.key)?,
        last_modified: modified.into(),
        size: object.bytes,
        e_tag: None,
        version: None,
    })
}

#[async_trait]
impl ObjectStore for Served {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        if !matches!(options.mode, PutMode::Create) {
            return Err(not_implemented(STORE, "put but to create"));
        }
        let body = Bytes::from(payload);
        let send = |client: &Client, base: &Url| {
            client
                .put(place(base, "objects", location))
                .header(header::IF_NONE_MATCH, "*")
                .body(body.clone())
        };
        let done = self.api.send(send).await;
        done.map_err(|failure| failure.into_error(STORE, location.as_ref()))?;
        Ok(PutResult {
            e_tag: None,
            version: None,
            extensions: ::http::Extensions::new(),
        })
    }

    async fn put_multipart_opts(
        &self,
        _location: &Path,
        _options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        Err(not_implemented(STORE, "put_multipart"))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let range = asked(STORE, &options)?;
        let send = |client: &Client, base: &Url| {
            let url = place(base, "objects", location);
            match (options.head, &range) {
                (true, _) => client.head(url),
                (false, None) => client.get(url),
                (false, Some(range)) => client.get(url).header(header::RANGE, range),
            }
        };
        let response = self.api.send(send).await;
        let response = response.map_err(|failure| failure.into_error(STORE, location.as_ref()))?;
        let place = (location, &options);
        answered(STORE, &self.api, response, place, (None, None))
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let this = self.clone();
        delete_each(locations, move |location| {
            let this = this.clone();
            async move {
                let send =
                    |client: &Client, base: &Url| client.delete(place(base, "objects", &location));
                let done = this.api.send(send).await;
                done.map(drop)
                    .map_err(|failure| failure.into_error(STORE, location.as_ref()))
            }
        })
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (this, prefix) = (self.clone(), prefix.cloned());
        stream::once(async move { this.listing(prefix).await })
            .try_flatten()
            .boxed()
    }

    async fn list_with_delimiter(&self, _prefix: Option<&Path>) -> Result<ListResult> {
        Err(not_implemented(STORE, "list_with_delimiter"))
    }

    async fn copy_opts(&self, _from: &Path, _to: &Path, _options: CopyOptions) -> Result<()> {
        Err(not_implemented(STORE, "copy"))
    }
}

fn generic(source: impl std::error::Error + Send + Sync + 'static) -> Error {
    adapter::generic(STORE, source)
}
