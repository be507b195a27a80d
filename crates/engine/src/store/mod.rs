//! Where Snapshots are kept: one small set of operations over every kind of object store.
//!
//! Objects are created and never overwritten. Keys are relative to the store's root, which is the bucket or folder and the
//! prefix the user chose.

mod adapter;
mod checked;
mod cloud;
mod error;
mod gcs;
mod http;
mod local;
mod s3;
pub mod served;
mod swift;

use std::{collections::BTreeMap, fmt, ops::Range, path::PathBuf, sync::Arc};

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
pub use object_store::PutPayload;
use object_store::{
    GetOptions, ObjectMeta, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, path::Path,
};

pub use error::StoreError;
use error::{Named, classify};

use crate::encryption::Keys;

/// Objects that one listing may give: a terabyte in packs of 16 MiB is 65 536, and a database keeps some dozens of Snapshots.
const LISTED_OBJECTS: usize = 4_000_000;

/// Times that an answer may break off half way.
const BODIES: u32 = 3;

/// Where a store is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// A folder of this machine.
    Local {
        /// Absolute path; made when absent.
        folder: PathBuf,
    },
    /// Google Cloud Storage, or an emulator of it.
    Gcs {
        /// Base URL; absent means `STORAGE_EMULATOR_HOST`, and without that Google. An endpoint is asked without credentials.
        endpoint: Option<String>,
        /// Name of the bucket.
        bucket: String,
        /// Folder within the bucket.
        prefix: Option<String>,
    },
    /// Amazon S3 or what speaks like it.
    S3 {
        /// Base URL; absent means Amazon.
        endpoint: Option<String>,
        /// Name of the bucket.
        bucket: String,
        /// Folder within the bucket.
        prefix: Option<String>,
    },
    /// Azure Blob Storage or an emulator of it.
    Azure {
        /// Base URL of the account; absent means Azure.
        endpoint: Option<String>,
        /// Name of the container.
        container: String,
        /// Folder within the container.
        prefix: Option<String>,
    },
    /// OpenStack Swift. The Secret says where to log in.
    Swift {
        /// Name of the container.
        container: String,
        /// Folder within the container.
        prefix: Option<String>,
    },
    /// A folder that only another process sees, which serves it with mutual TLS. Its certificates are the credentials, under the keys that `served` names.
    Served {
        /// Base URL.
        endpoint: String,
        /// How users know the folder.
        label: String,
    },
}

/// The data of the Secret that the user named, under the original's keys, such as `GOOGLE_SERVICE_ACCOUNT_JSON_KEY`.
pub type Credentials = BTreeMap<String, Vec<u8>>;

/// An opened store. Cloning is cheap.
#[derive(Clone)]
pub struct Store {
    objects: Arc<dyn ObjectStore>,
    root: Path,
    label: Arc<str>,
    bucket: Arc<str>,
    /// Where what killed writers left half written is seen, which listings do not show.
    left: Option<Left>,
    /// What opens what is encrypted there.
    keys: Option<Arc<Keys>>,
}

/// Who sees what killed writers left half written.
#[derive(Clone)]
enum Left {
    Folder(Arc<std::path::Path>),
    Served(served::Served),
}

/// An object found by listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Key relative to the store's root.
    pub key: String,
    /// Size in bytes.
    pub bytes: u64,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Store").field(&self.label).finish()
    }
}

impl Store {
    /// Opens a store. Remote stores are not contacted yet; a local folder is made, for its owner alone.
    pub fn open(location: &Location, credentials: &Credentials) -> Result<Self, StoreError> {
        match location {
            Location::Local { folder } => {
                let label = format!("local:{}", folder.display());
                let objects = local::open(folder, &label)?;
                let store = Self::over(Arc::new(objects), &label, &folder.to_string_lossy(), None)?;
                Ok(Self {
                    left: Some(Left::Folder(folder.as_path().into())),
                    ..store
                })
            }
            Location::Gcs {
                endpoint,
                bucket,
                prefix,
            } => {
                let label = label("gs", bucket, prefix.as_deref());
                let objects = gcs::Gcs::open(endpoint.as_deref(), bucket, credentials, &label)?;
                Self::over(Arc::new(objects), &label, bucket, prefix.as_deref())
            }
            Location::S3 {
                endpoint,
                bucket,
                prefix,
            } => {
                let label = label("s3", bucket, prefix.as_deref());
                let objects = s3::S3::open(endpoint.as_deref(), bucket, credentials, &label)?;
                Self::over(Arc::new(objects), &label, bucket, prefix.as_deref())
            }
            Location::Azure {
                endpoint,
                container,
                prefix,
            } => {
                let label = label("azure", container, prefix.as_deref());
                let objects = cloud::azure(endpoint.as_deref(), container, credentials, &label)?;
                Self::over(Arc::new(objects), &label, container, prefix.as_deref())
            }
            Location::Swift { container, prefix } => {
                let label = label("swift", container, prefix.as_deref());
                let objects = swift::Swift::open(container, credentials, &label)?;
                Self::over(Arc::new(objects), &label, container, prefix.as_deref())
            }
            Location::Served { endpoint, label } => {
                let objects = served::Served::open(endpoint, credentials, label)?;
                let store = Self::over(Arc::new(objects.clone()), label, label, None)?;
                Ok(Self {
                    left: Some(Left::Served(objects)),
                    ..store
                })
            }
        }
    }

    /// A store over any implementation of `object_store`'s trait; tests put faults between.
    pub fn over(
        objects: Arc<dyn ObjectStore>,
        label: &str,
        bucket: &str,
        prefix: Option<&str>,
    ) -> Result<Self, StoreError> {
        let trimmed = prefix.unwrap_or_default().trim_matches('/');
        let root = Path::parse(trimmed).map_err(|source| StoreError::Configure {
            label: label.to_owned(),
            reason: format!("prefix {trimmed:?} is not usable: {source}"),
        })?;
        Ok(Self {
            objects,
            root,
            label: label.into(),
            bucket: bucket.into(),
            left: None,
            keys: None,
        })
    }

    /// The same store, for who has these keys to what is encrypted there.
    #[must_use]
    pub fn with_keys(self, keys: Keys) -> Self {
        Self {
            keys: Some(Arc::new(keys)),
            ..self
        }
    }

    /// What opens what is encrypted there.
    #[must_use]
    pub fn keys(&self) -> Option<&Keys> {
        self.keys.as_deref()
    }

    /// How users know this store: `gs:kubedb/prefix`, `local:/backups`.
    #[must_use]
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Creates an object. If one of this name exists with the same content, an earlier try of ours arrived and all is well;
    /// with other content it is a [`StoreError::Conflict`].
    pub async fn create(&self, key: &str, content: PutPayload) -> Result<(), StoreError> {
        let path = self.path(key)?;
        let options = PutOptions {
            mode: PutMode::Create,
            ..PutOptions::default()
        };
        match self.objects.put_opts(&path, content.clone(), options).await {
            Ok(_) => Ok(()),
            Err(object_store::Error::AlreadyExists { .. }) => {
                let limit = u64::try_from(content.content_length()).unwrap_or(u64::MAX);
                match self.read(key, limit).await {
                    Ok(existing) if same(&existing, &content) => Ok(()),
                    Ok(_) | Err(StoreError::TooLarge { .. }) => {
                        Err(classify_conflict(&self.label, key))
                    }
                    Err(error) => Err(error),
                }
            }
            Err(error) => Err(classify(self.named(key, true), error)),
        }
    }

    /// Reads a whole object of at most `limit` bytes.
    pub async fn read(&self, key: &str, limit: u64) -> Result<Bytes, StoreError> {
        self.fetch(key, None, limit).await
    }

    /// Reads exactly the bytes of `range`, or fails.
    pub async fn read_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        let wanted = range.end.saturating_sub(range.start);
        self.fetch(key, Some((range, wanted)), u64::MAX).await
    }

    /// An adapter repeats a request that gets no answer; an answer that breaks off half way, or has less than was asked for, is
    /// repeated here.
    async fn fetch(
        &self,
        key: &str,
        range: Option<(Range<u64>, u64)>,
        limit: u64,
    ) -> Result<Bytes, StoreError> {
        let path = self.path(key)?;
        let fail = |error| classify(self.named(key, false), error);
        let mut tried = 0;
        loop {
            tried += 1;
            let options = GetOptions {
                range: range.as_ref().map(|(range, _)| range.clone().into()),
                ..GetOptions::default()
            };
            let got = match self.objects.get_opts(&path, options).await.map_err(fail) {
                // An answer to something else than a range was asked for is no answer either.
                Err(error) if range.is_some() && error.is_retryable() && tried < BODIES => {
                    tracing::debug!(%error, "reading a part of an object again");
                    continue;
                }
                other => other?,
            };
            let told = got.range.end - got.range.start;
            if told > limit {
                return Err(StoreError::TooLarge {
                    label: self.label.to_string(),
                    object: key.to_owned(),
                    limit,
                });
            }
            let wanted = range.as_ref().map_or(told, |(_, wanted)| *wanted);
            let read = match got.bytes().await.map_err(fail) {
                Ok(bytes) if bytes.len() as u64 != wanted => {
                    Err(self.cut_short(key, bytes.len(), wanted))
                }
                other => other,
            };
            match read {
                Err(error) if error.is_retryable() && tried < BODIES => {
                    tracing::debug!(%error, "reading an object again");
                }
                other => return other,
            }
        }
    }

    fn cut_short(&self, key: &str, got: usize, wanted: u64) -> StoreError {
        let reason = format!("the answer has {got} of {wanted} bytes");
        StoreError::Unreachable {
            label: self.label.to_string(),
            object: key.to_owned(),
            source: reason.clone().into(),
            reason,
        }
    }

    /// Size of an object in bytes.
    pub async fn size(&self, key: &str) -> Result<u64, StoreError> {
        let path = self.path(key)?;
        let meta = self.objects.head(&path).await;
        meta.map(|meta| meta.size)
            .map_err(|error| classify(self.named(key, false), error))
    }

    /// Whether there is an object of this key.
    pub async fn exists(&self, key: &str) -> Result<bool, StoreError> {
        match self.size(key).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// All objects below a folder, sorted by key. A folder that does not exist is empty.
    pub async fn list(&self, folder: &str) -> Result<Vec<Listed>, StoreError> {
        let mut all = Vec::new();
        self.visit(folder, |listed, _| all.push(listed)).await?;
        all.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(all)
    }

    /// At most so many objects below a folder, and not always the same ones: enough to know most of it by few requests.
    pub(crate) async fn list_some(
        &self,
        folder: &str,
        most: usize,
    ) -> Result<Vec<Listed>, StoreError> {
        let path = self.path(folder)?;
        let found = self.objects.list(Some(&path)).take(most);
        let found: Vec<_> = found
            .try_collect()
            .await
            .map_err(|error| classify(self.named(folder, false), error))?;
        Ok(found.iter().filter_map(|meta| self.listed(meta)).collect())
    }

    /// An object of a listing, by its key here.
    fn listed(&self, meta: &ObjectMeta) -> Option<Listed> {
        let root: &str = self.root.as_ref();
        let key = meta.location.as_ref().strip_prefix(root)?;
        Some(Listed {
            key: key.trim_start_matches('/').to_owned(),
            bytes: meta.size,
        })
    }

    /// Shows all objects below a folder, in any order, without keeping them, and when each was written by the store's clock, in milliseconds.
    pub async fn visit(
        &self,
        folder: &str,
        mut show: impl FnMut(Listed, i64),
    ) -> Result<(), StoreError> {
        let path = self.path(folder)?;
        let mut found = self.objects.list(Some(&path));
        let mut shown = 0;
        let fail = |error| classify(self.named(folder, false), error);
        while let Some(meta) = found.try_next().await.map_err(fail)? {
            if shown == LISTED_OBJECTS {
                return Err(StoreError::TooLarge {
                    label: self.label.to_string(),
                    object: folder.to_owned(),
                    limit: LISTED_OBJECTS as u64,
                });
            }
            shown += 1;
            if let Some(listed) = self.listed(&meta) {
                show(listed, meta.last_modified.timestamp_millis());
            }
        }
        Ok(())
    }

    /// Deletes an object; one that is absent is deleted already.
    pub async fn delete(&self, key: &str) -> Result<(), StoreError> {
        let path = self.path(key)?;
        match self.objects.delete(&path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(classify(self.named(key, false), error)),
        }
    }

    /// Removes what a killed writer left half written in a folder, of the objects that `is_ours` names. Other stores than folders
    /// show nothing of it, and forget it by themselves.
    pub(crate) async fn discard_unfinished(
        &self,
        folder: &str,
        is_ours: impl Fn(&str) -> bool,
    ) -> Result<(), StoreError> {
        for name in self.unfinished(folder).await? {
            if local::object_of(&name).is_some_and(&is_ours) {
                self.discard(folder, &name).await?;
            }
        }
        Ok(())
    }

    /// Names of what killed writers left half written in a folder: that of the object, and more.
    pub async fn unfinished(&self, folder: &str) -> Result<Vec<String>, StoreError> {
        let path = self.path(folder)?;
        match &self.left {
            None => Ok(Vec::new()),
            Some(Left::Folder(base)) => {
                local::unfinished(&base.join(path.as_ref())).map_err(|error| self.io(folder, error))
            }
            Some(Left::Served(served)) => {
                let found = served.unfinished(&path).await;
                found.map_err(|error| classify(self.named(folder, false), error))
            }
        }
    }

    /// Removes one of them; what is no name of such is refused.
    pub async fn discard(&self, folder: &str, name: &str) -> Result<(), StoreError> {
        let path = self.path(&format!("{folder}/{name}"))?;
        let is_left = local::object_of(name).is_some() && path.filename() == Some(name);
        match &self.left {
            Some(Left::Folder(base)) if is_left => {
                let folder_path = base.join(self.path(folder)?.as_ref());
                local::discard(&folder_path, name).map_err(|error| self.io(folder, error))
            }
            Some(Left::Served(served)) if is_left => {
                let done = served.discard(&path).await;
                done.map_err(|error| classify(self.named(folder, false), error))
            }
            _ => Err(StoreError::Refused {
                label: self.label.to_string(),
                object: format!("{folder}/{name}"),
                reason: "nothing that is half written is called so".to_owned(),
                source: "not a name of a half written object".into(),
            }),
        }
    }

    fn io(&self, object: &str, source: std::io::Error) -> StoreError {
        StoreError::Unreachable {
            label: self.label.to_string(),
            object: object.to_owned(),
            reason: source.to_string(),
            source: source.into(),
        }
    }

    /// Asks whether whoever serves the folder is there; every other store is asked with its first request.
    pub async fn knock(&self) -> Result<(), StoreError> {
        match &self.left {
            Some(Left::Served(served)) => {
                let answered = served.knock().await;
                answered.map_err(|error| classify(self.named("its folder", false), error))
            }
            _ => Ok(()),
        }
    }

    fn path(&self, key: &str) -> Result<Path, StoreError> {
        let whole = if self.root.as_ref().is_empty() {
            key.to_owned()
        } else {
            format!("{}/{key}", self.root)
        };
        Path::parse(&whole).map_err(|source| StoreError::Refused {
            label: self.label.to_string(),
            object: key.to_owned(),
            reason: "no object can be called so".to_owned(),
            source: Box::new(source),
        })
    }

    fn named<'a>(&'a self, object: &'a str, is_write: bool) -> Named<'a> {
        Named {
            label: &self.label,
            bucket: &self.bucket,
            object,
            is_write,
        }
    }
}

fn label(kind: &str, bucket: &str, prefix: Option<&str>) -> String {
    match prefix.map(|prefix| prefix.trim_matches('/')) {
        None | Some("") => format!("{kind}:{bucket}"),
        Some(prefix) => format!("{kind}:{bucket}/{prefix}"),
    }
}

fn classify_conflict(label: &str, object: &str) -> StoreError {
    StoreError::Conflict {
        label: label.to_owned(),
        object: object.to_owned(),
    }
}

fn same(existing: &Bytes, content: &PutPayload) -> bool {
    let mut rest = existing.as_ref();
    existing.len() == content.content_length()
        && content.iter().all(|part| {
            let (head, tail) = rest.split_at(part.len().min(rest.len()));
            rest = tail;
            head == part.as_ref()
        })
}
