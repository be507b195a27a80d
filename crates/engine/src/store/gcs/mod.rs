//! Google Cloud Storage by its JSON API, behind `object_store`'s trait. (`object_store`'s own adapter writes by the XML API, which
//! emulators do not speak.)

pub(super) mod auth;
mod upload;

use std::{fmt, sync::Arc, time::SystemTime};

use ::http::{StatusCode, header};
use async_trait::async_trait;
use futures::{StreamExt as _, TryStreamExt as _, stream, stream::BoxStream};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
    path::Path,
};
use reqwest::Response;
use serde::Deserialize;
use url::Url;

use self::{auth::TokenSource, upload::Resource};
use super::{
    Credentials, StoreError,
    adapter::{self, answered, asked, delete_each, not_implemented, result, text},
    error::AdapterFailure,
    http::{Api, Failure},
};

/// Where Google answers.
const GOOGLE: &str = "https://storage.googleapis.com";

/// The Secret's key that holds a service account's JSON key.
const KEY: &str = "GOOGLE_SERVICE_ACCOUNT_JSON_KEY";

/// How errors name this adapter.
const STORE: &str = "gcs";

/// Pages of one listing with a delimiter: ten million names.
const LISTED_PAGES: usize = 10_000;

/// A bucket. Cloning is cheap.
#[derive(Clone, Debug)]
pub(super) struct Gcs {
    api: Arc<Api<Option<TokenSource>>>,
    base: Url,
    bucket: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Page {
    items: Vec<Resource>,
    prefixes: Vec<String>,
    next_page_token: Option<String>,
}

impl fmt::Display for Gcs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "gs:{}", self.bucket)
    }
}

impl Gcs {
    /// With an endpoint, given or in `STORAGE_EMULATOR_HOST`, requests are unsigned and the key is not read.
    pub(super) fn open(
        endpoint: Option<&str>,
        bucket: &str,
        credentials: &Credentials,
        label: &str,
    ) -> Result<Self, StoreError> {
        let configure = |reason: String| StoreError::Configure {
            label: label.to_owned(),
            reason,
        };
        if bucket.is_empty() {
            return Err(configure("the bucket has no name".to_owned()));
        }
        let emulator = std::env::var("STORAGE_EMULATOR_HOST").ok();
        let given = endpoint.map(str::to_owned).or(emulator);
        let given = given.filter(|endpoint| !endpoint.is_empty());
        let is_signed = given.is_none();
        let mut address = given.unwrap_or_else(|| GOOGLE.to_owned());
        if !address.contains("://") {
            address.insert_str(0, "http://");
        }
        let base = Url::parse(&address)
            .map_err(|source| configure(format!("endpoint {address:?} is no URL: {source}")))?;
        if !matches!(base.scheme(), "http" | "https") || base.host_str().is_none() {
            return Err(configure(format!("endpoint {address:?} is no http URL")));
        }
        let tokens = if is_signed {
            let tokens = match credentials.get(KEY) {
                Some(key) => {
                    TokenSource::read(key).map_err(|why| configure(format!("{KEY}: {why}")))?
                }
                None => TokenSource::of_the_machine(),
            };
            Some(tokens)
        } else {
            None
        };
        let roots = credentials.get("CA_CERT_DATA").map(Vec::as_slice);
        let api = Api::new(tokens, base.scheme() == "http", roots).map_err(configure)?;
        Ok(Self {
            api: Arc::new(api),
            base,
            bucket: bucket.to_owned(),
        })
    }

    /// A URL below the endpoint; a slash within a segment is escaped.
    fn url(&self, segments: &[&str]) -> Url {
        let mut url = self.base.clone();
        // An http URL always has segments.
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        url
    }

    fn object_url(&self, name: &str) -> Url {
        self.url(&["storage", "v1", "b", &self.bucket, "o", name])
    }

    async fn remove(&self, name: &str) -> std::result::Result<(), Failure> {
        let url = self.object_url(name);
        match self.api.send(|client, _| client.delete(url.clone())).await {
            Ok(_) => Ok(()),
            Err(Failure::Status { status, .. }) if status == StatusCode::NOT_FOUND => Ok(()),
            Err(failure) => Err(failure),
        }
    }

    async fn read_json<T: serde::de::DeserializeOwned>(&self, response: Response) -> Result<T> {
        let read = self.api.json(response).await;
        read.map_err(|reason| generic(AdapterFailure::Unreachable { reason }))
    }

    async fn page(
        &self,
        prefix: Option<&Path>,
        delimiter: Option<&str>,
        token: Option<&str>,
    ) -> Result<Page> {
        let mut url = self.url(&["storage", "v1", "b", &self.bucket, "o"]);
        {
            let mut query = url.query_pairs_mut();
            query.append_pair("maxResults", "1000");
            // A folder's own objects: `a/b/` and not `a/bc`.
            if let Some(prefix) = prefix.filter(|prefix| !prefix.as_ref().is_empty()) {
                query.append_pair("prefix", &format!("{prefix}/"));
            }
            delimiter.map(|delimiter| query.append_pair("delimiter", delimiter));
            token.map(|token| query.append_pair("pageToken", token));
        }
        let folder = prefix.map(Path::as_ref).unwrap_or_default();
        match self.api.send(|client, _| client.get(url.clone())).await {
            Ok(response) => self.read_json(response).await,
            Err(Failure::Status { status, .. }) if status == StatusCode::NOT_FOUND => {
                Err(generic(AdapterFailure::MissingBucket))
            }
            Err(failure) => Err(failure.into_error(STORE, folder)),
        }
    }

    /// An absent object and an absent bucket are both 404; only a listing tells them apart.
    async fn not_found(&self, failure: Failure, location: &Path) -> Error {
        let error = failure.into_error(STORE, location.as_ref());
        if matches!(error, Error::NotFound { .. })
            && let Err(missing @ Error::Generic { .. }) =
                self.page(Some(location), None, None).await
        {
            return missing;
        }
        error
    }

    async fn fetch(&self, location: &Path, options: &GetOptions) -> Result<Response> {
        let mut url = self.object_url(location.as_ref());
        let range = asked(STORE, options)?;
        if !options.head {
            url.query_pairs_mut().append_pair("alt", "media");
        }
        let send = |client: &reqwest::Client, _: &_| match &range {
            Some(range) => client.get(url.clone()).header(header::RANGE, range),
            None => client.get(url.clone()),
        };
        match self.api.send(send).await {
            Ok(response) => Ok(response),
            Err(failure) => Err(self.not_found(failure, location).await),
        }
    }
}

#[async_trait]
impl ObjectStore for Gcs {
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
        self.upload(location.as_ref(), &payload, is_create)
            .await
            .map_err(|failure| failure.into_error(STORE, location.as_ref()))
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
        if options.head {
            let meta = meta(self.read_json(response).await?)?;
            options.check_preconditions(&meta)?;
            return Ok(result(meta.clone(), 0..meta.size, stream::empty().boxed()));
        }
        let names = (
            text(&response, "etag"),
            text(&response, "x-goog-generation"),
        );
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
        let pages = stream::try_unfold(Some(None::<String>), move |state| {
            let (this, prefix) = (this.clone(), prefix.clone());
            async move {
                let Some(token) = state else {
                    return Ok::<_, Error>(None);
                };
                let page = this.page(prefix.as_ref(), None, token.as_deref()).await?;
                let next = page.next_page_token.clone().map(Some);
                Ok(Some((page.items, next)))
            }
        });
        pages
            .map_ok(|items| stream::iter(items).map(meta))
            .try_flatten()
            .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let (mut objects, mut common_prefixes) = (Vec::new(), Vec::new());
        let mut token = None;
        for _ in 0..LISTED_PAGES {
            let page = self.page(prefix, Some("/"), token.as_deref()).await?;
            for item in page.items {
                objects.push(meta(item)?);
            }
            for folder in page.prefixes {
                common_prefixes.push(Path::parse(folder.trim_end_matches('/'))?);
            }
            token = page.next_page_token;
            if token.is_none() {
                break;
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

fn meta(item: Resource) -> Result<ObjectMeta> {
    let updated = item
        .updated
        .and_then(|text| text.parse::<jiff::Timestamp>().ok());
    Ok(ObjectMeta {
        location: Path::parse(&item.name)?,
        last_modified: updated
            .map_or(SystemTime::UNIX_EPOCH, SystemTime::from)
            .into(),
        size: item
            .size
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| {
                generic(AdapterFailure::Refused {
                    reason: format!("the store did not give the size of {}", item.name),
                })
            })?,
        e_tag: item.etag,
        version: item.generation,
    })
}

fn generic(source: impl std::error::Error + Send + Sync + 'static) -> Error {
    adapter::generic(STORE, source)
}
