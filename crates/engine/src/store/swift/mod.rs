//! OpenStack Swift, behind `object_store`'s trait.
//!
//! An object goes in one request: nothing that is kept here comes near Swift's limit of 5 GiB.

mod auth;

use std::{fmt, sync::Arc, time::SystemTime};

use ::http::{StatusCode, header};
use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream, stream::BoxStream};
use jiff::Timestamp;
use md5::{Digest as _, Md5};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
    path::Path,
};
use reqwest::{Client, Response};
use serde::Deserialize;
use url::Url;

use self::auth::{Login, Pass};
use super::{
    Credentials, StoreError,
    adapter::{self, answered, asked, delete_each, not_implemented, text},
    error::AdapterFailure,
    http::{Api, Failure, below},
};

/// Largest object of one request.
const OBJECT: usize = 5 << 30;

/// Names asked for at once. A server may give fewer; only an empty page ends a listing.
const PAGE: &str = "1000";

/// Pages of one listing with a delimiter: ten million names.
const LISTED_PAGES: usize = 10_000;

/// How errors name this adapter.
const STORE: &str = "swift";

/// A container. Cloning is cheap.
#[derive(Clone, Debug)]
pub(super) struct Swift {
    api: Arc<Api<Login>>,
    container: String,
}

impl fmt::Display for Swift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "swift:{}", self.container)
    }
}

/// One line of a listing: an object, or a folder of them.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Entry {
    Folder {
        subdir: String,
    },
    Object {
        name: String,
        bytes: u64,
        hash: Option<String>,
        last_modified: Option<String>,
    },
}

impl Entry {
    fn name(&self) -> &str {
        match self {
            Self::Folder { subdir } => subdir,
            Self::Object { name, .. } => name,
        }
    }
}

impl Swift {
    /// Opens a container; nobody is asked yet.
    pub(super) fn open(
        container: &str,
        credentials: &Credentials,
        label: &str,
    ) -> std::result::Result<Self, StoreError> {
        let configure = |reason: String| StoreError::Configure {
            label: label.to_owned(),
            reason,
        };
        if container.is_empty() || container.contains('/') {
            return Err(configure(format!(
                "{container:?} is no name of a container"
            )));
        }
        let login = Login::read(credentials).map_err(configure)?;
        let is_plain = login.is_plain();
        let roots = credentials.get("CA_CERT_DATA").map(Vec::as_slice);
        let api = Api::new(login, is_plain, roots).map_err(configure)?;
        Ok(Self {
            api: Arc::new(api),
            container: container.to_owned(),
        })
    }

    fn container_url(&self, pass: &Pass) -> Url {
        below(&pass.storage, &[&self.container])
    }

    fn object_url(&self, pass: &Pass, name: &str) -> Url {
        let mut segments = vec![self.container.as_str()];
        segments.extend(name.split('/'));
        below(&pass.storage, &segments)
    }

    async fn remove(&self, name: &str) -> std::result::Result<(), Failure> {
        let send = |client: &Client, pass: &Pass| client.delete(self.object_url(pass, name));
        match self.api.send(send).await {
            Ok(_) => Ok(()),
            Err(Failure::Status { status, .. }) if status == StatusCode::NOT_FOUND => Ok(()),
            Err(failure) => Err(failure),
        }
    }

    /// Names after `marker`, in order.
    async fn page(
        &self,
        prefix: Option<&Path>,
        delimiter: Option<&str>,
        marker: &str,
    ) -> Result<Vec<Entry>> {
        let send = |client: &Client, pass: &Pass| {
            let mut url = self.container_url(pass);
            {
                let mut query = url.query_pairs_mut();
                query.append_pair("format", "json");
                query.append_pair("limit", PAGE);
                query.append_pair("marker", marker);
                // A folder's own objects: `a/b/` and not `a/bc`.
                if let Some(prefix) = prefix.filter(|prefix| !prefix.as_ref().is_empty()) {
                    query.append_pair("prefix", &format!("{prefix}/"));
                }
                delimiter.map(|delimiter| query.append_pair("delimiter", delimiter));
            }
            client.get(url)
        };
        let folder = prefix.map(Path::as_ref).unwrap_or_default();
        let response = match self.api.send(send).await {
            Ok(response) => response,
            Err(Failure::Status { status, .. }) if status == StatusCode::NOT_FOUND => {
                return Err(generic(AdapterFailure::MissingBucket));
            }
            Err(failure) => return Err(failure.into_error(STORE, folder)),
        };
        if response.status() == StatusCode::NO_CONTENT {
            return Ok(Vec::new());
        }
        let read = self.api.json::<Vec<Entry>>(response).await;
        let entries = read.map_err(|reason| generic(AdapterFailure::Unreachable { reason }))?;
        // A listing that does not go forward would never end.
        match entries.last() {
            Some(last) if last.name() <= marker => Err(generic(AdapterFailure::Unreachable {
                reason: format!("the store lists {:?} after {marker:?}", last.name()),
            })),
            _ => Ok(entries),
        }
    }

    /// An absent object and an absent container are both 404; only a listing tells them apart.
    async fn not_found(&self, failure: Failure, location: &Path) -> Error {
        let error = failure.into_error(STORE, location.as_ref());
        if matches!(error, Error::NotFound { .. })
            && let Err(missing @ Error::Generic { .. }) = self.page(Some(location), None, "").await
        {
            return missing;
        }
        error
    }

    async fn fetch(&self, location: &Path, options: &GetOptions) -> Result<Response> {
        let range = asked(STORE, options)?;
        let send = |client: &Client, pass: &Pass| {
            let url = self.object_url(pass, location.as_ref());
            match (options.head, &range) {
                (true, _) => client.head(url),
                (false, None) => client.get(url),
                (false, Some(range)) => client.get(url).header(header::RANGE, range),
            }
        };
        match self.api.send(send).await {
            Ok(response) => Ok(response),
            Err(failure) => Err(self.not_found(failure, location).await),
        }
    }
}

#[async_trait]
impl ObjectStore for Swift {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let is_create = match options.mode {
            PutMode::Overwrite => false,
            PutMode::Create => true,
            PutMode::Update(_) => return Err(not_implemented(STORE, "put with mode Update")),
        };
        if payload.content_length() > OBJECT {
            let reason = format!("an object of more than {OBJECT} bytes");
            return Err(generic(AdapterFailure::Refused { reason }));
        }
        let body = Bytes::from(payload);
        // The server refuses a body that does not match, so a damaged one is never stored.
        let sum = hex::encode(Md5::digest(&body));
        let send = |client: &Client, pass: &Pass| {
            let request = client
                .put(self.object_url(pass, location.as_ref()))
                .header(header::CONTENT_TYPE, "application/octet-stream")
                .header(header::ETAG, &sum)
                // An empty body would go without, which Swift refuses.
                .header(header::CONTENT_LENGTH, body.len())
                .body(body.clone());
            if is_create {
                request.header(header::IF_NONE_MATCH, "*")
            } else {
                request
            }
        };
        match self.api.send(send).await {
            Ok(_) => Ok(PutResult {
                e_tag: Some(sum),
                version: None,
                extensions: ::http::Extensions::new(),
            }),
            Err(failure) => Err(refused_upload(failure, location)),
        }
    }

    async fn put_multipart_opts(
        &self,
        _location: &Path,
        _options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        Err(not_implemented(STORE, "put_multipart"))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let response = self.fetch(location, &options).await?;
        let names = (text(&response, header::ETAG.as_str()), None);
        answered(STORE, &self.api, response, (location, &options), names)
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let this = self.clone();
        delete_each(locations, move |location| {
            let this = this.clone();
            async move {
                let removed = this.remove(location.as_ref()).await;
                removed.map_err(|failure| failure.into_error(STORE, location.as_ref()))
            }
        })
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (this, prefix) = (self.clone(), prefix.cloned());
        let pages = stream::try_unfold(String::new(), move |marker| {
            let (this, prefix) = (this.clone(), prefix.clone());
            async move {
                let page = this.page(prefix.as_ref(), None, &marker).await?;
                let last = page.last().map(|entry| entry.name().to_owned());
                Ok::<_, Error>(last.map(|last| (page, last)))
            }
        });
        pages
            .map_ok(|entries| stream::iter(entries.into_iter().filter_map(meta)))
            .try_flatten()
            .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let (mut objects, mut common_prefixes) = (Vec::new(), Vec::new());
        let mut marker = String::new();
        for _ in 0..LISTED_PAGES {
            let page = self.page(prefix, Some("/"), &marker).await?;
            let Some(last) = page.last() else { break };
            marker = last.name().to_owned();
            for entry in page {
                match entry {
                    Entry::Folder { subdir } => {
                        common_prefixes.push(Path::parse(subdir.trim_end_matches('/'))?);
                    }
                    object => objects.extend(meta(object).transpose()?),
                }
            }
        }
        Ok(ListResult {
            common_prefixes,
            objects,
            extensions: ::http::Extensions::new(),
        })
    }

    async fn copy_opts(&self, _from: &Path, _to: &Path, _options: CopyOptions) -> Result<()> {
        Err(not_implemented(STORE, "copy"))
    }
}

/// A line of a listing as an object; folders are none.
fn meta(entry: Entry) -> Option<Result<ObjectMeta>> {
    let Entry::Object {
        name,
        bytes,
        hash,
        last_modified,
    } = entry
    else {
        return None;
    };
    // Swift leaves the zone out, which is always UTC.
    let modified = last_modified.and_then(|text| format!("{text}Z").parse::<Timestamp>().ok());
    let location = Path::parse(&name).map_err(Error::from);
    Some(location.map(|location| {
        ObjectMeta {
            location,
            last_modified: modified
                .map_or(SystemTime::UNIX_EPOCH, SystemTime::from)
                .into(),
            size: bytes,
            e_tag: hash,
            version: None,
        }
    }))
}

/// Words for what Swift says about an upload in its own way.
fn refused_upload(failure: Failure, location: &Path) -> Error {
    match failure {
        Failure::Status { status, .. } if status == StatusCode::UNPROCESSABLE_ENTITY => {
            generic(AdapterFailure::Unreachable {
                reason: "the store received other bytes than were sent".to_owned(),
            })
        }
        // A quota that is used up.
        Failure::Status { status, .. } if status == StatusCode::PAYLOAD_TOO_LARGE => {
            generic(std::io::Error::from(std::io::ErrorKind::QuotaExceeded))
        }
        other => other.into_error(STORE, location.as_ref()),
    }
}

fn generic(source: impl std::error::Error + Send + Sync + 'static) -> Error {
    adapter::generic(STORE, source)
}
