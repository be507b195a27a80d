//! S3 and Azure by `object_store`'s own adapters.

use std::time::Duration;

use object_store::{
    BackoffConfig, Certificate, ClientOptions, RetryConfig,
    aws::{AmazonS3, AmazonS3Builder, S3ConditionalPut},
    azure::{MicrosoftAzure, MicrosoftAzureBuilder},
};

use super::{Credentials, StoreError, checked::Checking};

/// Retries of one request, as for GCS, and how late the last one may begin.
const RETRIES: usize = 5;
const RETRY_SPAN: Duration = Duration::from_secs(30);

/// A pack in one request, at 4 Mbit/s.
const REQUEST: Duration = Duration::from_secs(90);

/// A connection is made within this or not at all.
const CONNECT: Duration = Duration::from_secs(5);

/// Amazon's own region where an endpoint of somebody else is given; they ignore it or want exactly this.
const REGION: &str = "us-east-1";

/// Opens an S3 bucket. Without both keys the machine's role is used.
pub(super) fn s3(
    endpoint: Option<&str>,
    bucket: &str,
    credentials: &Credentials,
    label: &str,
) -> Result<AmazonS3, StoreError> {
    let read = |key| text(credentials, key, label);
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(bucket)
        .with_region(read("AWS_REGION")?.unwrap_or_else(|| REGION.to_owned()))
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .with_retry(retry());
    match (read("AWS_ACCESS_KEY_ID")?, read("AWS_SECRET_ACCESS_KEY")?) {
        (Some(id), Some(secret)) => {
            builder = builder
                .with_access_key_id(id)
                .with_secret_access_key(secret);
        }
        (None, None) => {}
        _ => {
            return Err(configure(
                label,
                "the storage Secret has one of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY without the other",
            ));
        }
    }
    let mut options = client(endpoint);
    if let Some(bundle) = credentials.get("CA_CERT_DATA") {
        let roots = Certificate::from_pem_bundle(bundle)
            .map_err(|_| configure(label, "CA_CERT_DATA holds no certificates in PEM form"))?;
        for root in roots {
            options = options.with_root_certificate(root);
        }
    }
    if let Some(endpoint) = endpoint {
        builder = builder.with_endpoint(endpoint.trim_end_matches('/'));
    }
    builder
        .with_client_options(options)
        .build()
        .map_err(|source| configure(label, &source.to_string()))
}

/// Opens an Azure container.
pub(super) fn azure(
    endpoint: Option<&str>,
    container: &str,
    credentials: &Credentials,
    label: &str,
) -> Result<MicrosoftAzure, StoreError> {
    let required = |key: &'static str| {
        text(credentials, key, label)?
            .ok_or_else(|| configure(label, &format!("the storage Secret has no key {key}")))
    };
    let mut builder = MicrosoftAzureBuilder::new()
        .with_container_name(container)
        .with_account(required("AZURE_ACCOUNT_NAME")?)
        .with_access_key(required("AZURE_ACCOUNT_KEY")?)
        .with_client_options(client(endpoint))
        .with_http_connector(Checking)
        .with_retry(retry());
    if let Some(endpoint) = endpoint {
        builder = builder.with_endpoint(endpoint.trim_end_matches('/').to_owned());
    }
    builder
        .build()
        .map_err(|source| configure(label, &source.to_string()))
}

fn client(endpoint: Option<&str>) -> ClientOptions {
    ClientOptions::new()
        .with_allow_http(endpoint.is_some_and(|endpoint| endpoint.starts_with("http://")))
        .with_connect_timeout(CONNECT)
        .with_timeout(REQUEST)
}

fn retry() -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(250),
            max_backoff: Duration::from_secs(4),
            base: 2.0,
        },
        max_retries: RETRIES,
        retry_timeout: RETRY_SPAN,
    }
}

/// A credential as text. Files often end in a newline that is not part of it.
fn text(credentials: &Credentials, key: &str, label: &str) -> Result<Option<String>, StoreError> {
    let Some(bytes) = credentials.get(key) else {
        return Ok(None);
    };
    let text =
        std::str::from_utf8(bytes).map_err(|_| configure(label, &format!("{key} is no text")))?;
    Ok(Some(text.trim().to_owned()).filter(|text| !text.is_empty()))
}

fn configure(label: &str, reason: &str) -> StoreError {
    StoreError::Configure {
        label: label.to_owned(),
        reason: reason.to_owned(),
    }
}
