//! S3 by `object_store`'s own adapter. A bucket has a region that requests are signed for; where nobody gave it, it is asked for, once.

use std::{env, fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::{StreamExt as _, TryStreamExt as _, stream, stream::BoxStream};
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt as _, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
    aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut},
    path::Path,
};
use tokio::sync::OnceCell;

use super::{
    Credentials, StoreError,
    adapter::not_implemented,
    cloud::{client, configure, retry, roots, text, web_client},
    error::{chain, region_in},
};

/// Where requests are signed for until something else is known; many other stores want exactly this.
const REGION: &str = "us-east-1";

/// The answer that tells a region has no content; it comes within this or is done without.
const LOOKUP: Duration = Duration::from_secs(10);

/// How errors name this adapter.
const STORE: &str = "S3";

/// What the platform says of the machine's own role, in the words of Amazon's programs.
const ROLE: [(&str, AmazonS3ConfigKey); 8] = [
    (
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        AmazonS3ConfigKey::WebIdentityTokenFile,
    ),
    ("AWS_ROLE_ARN", AmazonS3ConfigKey::RoleArn),
    ("AWS_ROLE_SESSION_NAME", AmazonS3ConfigKey::RoleSessionName),
    ("AWS_ENDPOINT_URL_STS", AmazonS3ConfigKey::StsEndpoint),
    (
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        AmazonS3ConfigKey::ContainerCredentialsRelativeUri,
    ),
    (
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        AmazonS3ConfigKey::ContainerCredentialsFullUri,
    ),
    (
        "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
        AmazonS3ConfigKey::ContainerAuthorizationTokenFile,
    ),
    (
        "AWS_EC2_METADATA_SERVICE_ENDPOINT",
        AmazonS3ConfigKey::MetadataEndpoint,
    ),
];

/// A bucket. Cloning is cheap.
#[derive(Clone)]
pub(super) struct S3 {
    shared: Arc<Shared>,
}

struct Shared {
    builder: AmazonS3Builder,
    bucket: String,
    /// Client and address to ask for the region; none where it was given.
    lookup: Option<(reqwest::Client, String)>,
    opened: OnceCell<AmazonS3>,
}

impl fmt::Debug for S3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("S3").field(&self.shared.bucket).finish()
    }
}

impl fmt::Display for S3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3:{}", self.shared.bucket)
    }
}

impl S3 {
    /// Reads the credentials; nothing is sent yet. Without both keys the machine's role is used.
    pub(super) fn open(
        endpoint: Option<&str>,
        bucket: &str,
        credentials: &Credentials,
        label: &str,
    ) -> std::result::Result<Self, StoreError> {
        let read = |key| text(credentials, key, label);
        let mut options = client(endpoint);
        let trusted = roots(credentials, label)?;
        for root in &trusted {
            options = options.with_root_certificate(root.clone());
        }
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(bucket)
            .with_region(REGION)
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            .with_client_options(options)
            .with_retry(retry());
        builder = match (read("AWS_ACCESS_KEY_ID")?, read("AWS_SECRET_ACCESS_KEY")?) {
            (Some(id), Some(secret)) => builder
                .with_access_key_id(id)
                .with_secret_access_key(secret),
            (None, None) => with_role(builder),
            _ => {
                return Err(configure(
                    label,
                    "the storage Secret has one of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY without the other",
                ));
            }
        };
        let own = endpoint
            .map(|endpoint| endpoint.trim_end_matches('/'))
            .filter(|endpoint| !is_amazons(endpoint));
        if let Some(endpoint) = own {
            builder = builder.with_endpoint(endpoint);
        }
        let lookup = match read("AWS_REGION")? {
            Some(region) => {
                builder = builder.with_region(region);
                None
            }
            None => {
                let base = own.unwrap_or("https://s3.amazonaws.com");
                let client = web_client(credentials, label)?;
                Some((client, format!("{base}/{bucket}")))
            }
        };
        // Whatever is wrong with it is said now.
        let failed = |source: object_store::Error| configure(label, &chain(&source));
        builder.clone().build().map_err(failed)?;
        Ok(Self {
            shared: Arc::new(Shared {
                builder,
                bucket: bucket.to_owned(),
                lookup,
                opened: OnceCell::new(),
            }),
        })
    }

    async fn opened(&self) -> Result<&AmazonS3> {
        let shared = &self.shared;
        let open = || async {
            let Some((client, address)) = &shared.lookup else {
                return shared.builder.clone().build();
            };
            let region = match told_by_head(client, address).await {
                Some(region) => Some(region),
                None => self.told_by_refusal().await?,
            };
            let builder = shared.builder.clone();
            match region {
                Some(region) => {
                    tracing::debug!(region, bucket = shared.bucket, "the bucket's region");
                    builder.with_region(region).build()
                }
                None => builder.build(),
            }
        };
        shared.opened.get_or_try_init(open).await
    }

    /// A store that wants another region refuses the signature, and says which one it wants.
    async fn told_by_refusal(&self) -> Result<Option<String>> {
        let guess = self.shared.builder.clone().build()?;
        match guess.head(&Path::from(".kubedb")).await {
            Ok(_) | Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(_) => match guess.get(&Path::from(".kubedb")).await {
                Ok(_) => Ok(None),
                Err(error) => Ok(region_in(&chain(&error))),
            },
        }
    }
}

/// Amazon tells anybody in which region a bucket is, also those whom it tells nothing else.
async fn told_by_head(client: &reqwest::Client, address: &str) -> Option<String> {
    let asked = client.head(address).timeout(LOOKUP).send().await;
    let answer = asked.ok()?;
    let region = answer.headers().get("x-amz-bucket-region")?;
    let region = region.to_str().ok()?.trim();
    (!region.is_empty()).then(|| region.to_owned())
}

/// Whether this is an address of Amazon's own for a region or for all of them. Its adapter then makes the address from the region.
fn is_amazons(endpoint: &str) -> bool {
    let host = endpoint.strip_prefix("https://").unwrap_or_default();
    let middle = match host.strip_suffix(".amazonaws.com") {
        Some("s3") => return true,
        Some(middle) => middle.strip_prefix("s3.").or(middle.strip_prefix("s3-")),
        None => None,
    };
    // Further parts name other kinds of address: dualstack, accelerate, those of private networks.
    middle
        .is_some_and(|region| !region.is_empty() && !region.contains('.') && region != "accelerate")
}

/// Takes over what the environment says of the machine's role.
fn with_role(builder: AmazonS3Builder) -> AmazonS3Builder {
    ROLE.into_iter().fold(builder, |builder, (name, key)| {
        match env::var(name).ok().filter(|value| !value.is_empty()) {
            Some(value) => builder.with_config(key, value),
            None => builder,
        }
    })
}

#[async_trait]
impl ObjectStore for S3 {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let opened = self.opened().await?;
        opened.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        _location: &Path,
        _options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        Err(not_implemented(STORE, "put_multipart"))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.opened().await?.get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let this = self.clone();
        let deletions = async move {
            let opened = this.opened().await?;
            Ok::<_, object_store::Error>(opened.delete_stream(locations))
        };
        stream::once(deletions).try_flatten().boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (this, prefix) = (self.clone(), prefix.cloned());
        let listing = async move {
            let opened = this.opened().await?;
            Ok::<_, object_store::Error>(opened.list(prefix.as_ref()))
        };
        stream::once(listing).try_flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.opened().await?.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, _from: &Path, _to: &Path, _options: CopyOptions) -> Result<()> {
        Err(not_implemented(STORE, "copy"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_amazon_makes_of_a_region_are_known() {
        for own in [
            "https://s3.amazonaws.com",
            "https://s3.eu-central-1.amazonaws.com",
            "https://s3-eu-west-1.amazonaws.com",
        ] {
            assert!(is_amazons(own), "{own}");
        }
        for other in [
            "https://s3.dualstack.eu-west-1.amazonaws.com",
            "https://bucket.vpce-1a2b.s3.eu-west-1.vpce.amazonaws.com",
            "https://s3-accelerate.amazonaws.com",
            "https://s3.cn-north-1.amazonaws.com.cn",
            "https://amazonaws.com",
            "https://s3.example.com",
            "http://s3.amazonaws.com",
            "http://127.0.0.1:9000",
        ] {
            assert!(!is_amazons(other), "{other}");
        }
    }
}
