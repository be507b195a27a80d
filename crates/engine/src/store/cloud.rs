//! Azure by `object_store`'s own adapter, and what it has in common with that of S3.

use std::{env, time::Duration};

use object_store::{
    BackoffConfig, Certificate, ClientOptions, RetryConfig,
    azure::{AzureConfigKey, MicrosoftAzure, MicrosoftAzureBuilder},
};

use super::{Credentials, StoreError, checked::Checking, error::chain, http::check_authorities};

/// Retries of one request, as for GCS, and how late the last one may begin.
const RETRIES: usize = 5;
const RETRY_SPAN: Duration = Duration::from_secs(30);

/// A pack in one request, at 4 Mbit/s.
const REQUEST: Duration = Duration::from_secs(90);

/// A connection is made within this or not at all.
const CONNECT: Duration = Duration::from_secs(5);

/// What the platform says of the machine's own identity, in the words of Azure's programs.
const IDENTITY: [(&str, AzureConfigKey); 5] = [
    ("AZURE_CLIENT_ID", AzureConfigKey::ClientId),
    ("AZURE_TENANT_ID", AzureConfigKey::AuthorityId),
    ("AZURE_AUTHORITY_HOST", AzureConfigKey::AuthorityHost),
    (
        "AZURE_FEDERATED_TOKEN_FILE",
        AzureConfigKey::FederatedTokenFile,
    ),
    ("IDENTITY_ENDPOINT", AzureConfigKey::MsiEndpoint),
];

/// Opens an Azure container. Without a key the machine's identity is used.
pub(super) fn azure(
    endpoint: Option<&str>,
    container: &str,
    credentials: &Credentials,
    label: &str,
) -> Result<MicrosoftAzure, StoreError> {
    let account = text(credentials, "AZURE_ACCOUNT_NAME", label)?
        .ok_or_else(|| configure(label, "the storage Secret has no key AZURE_ACCOUNT_NAME"))?;
    let mut options = client(endpoint);
    for root in roots(credentials, label)? {
        options = options.with_root_certificate(root);
    }
    let mut builder = MicrosoftAzureBuilder::new()
        .with_container_name(container)
        .with_account(account)
        .with_client_options(options)
        .with_http_connector(Checking)
        .with_retry(retry());
    builder = match text(credentials, "AZURE_ACCOUNT_KEY", label)? {
        Some(key) => builder.with_access_key(key),
        None => with_identity(builder),
    };
    if let Some(endpoint) = endpoint {
        builder = builder.with_endpoint(endpoint.trim_end_matches('/').to_owned());
    }
    builder
        .build()
        .map_err(|source| configure(label, &chain(&source)))
}

/// Takes over what the environment says of the machine's identity.
fn with_identity(builder: MicrosoftAzureBuilder) -> MicrosoftAzureBuilder {
    IDENTITY.into_iter().fold(builder, |builder, (name, key)| {
        match env::var(name).ok().filter(|value| !value.is_empty()) {
            Some(value) => builder.with_config(key, value),
            None => builder,
        }
    })
}

/// What a client of a store needs, whoever's it is. Proxies are those of the environment.
pub(super) fn client(endpoint: Option<&str>) -> ClientOptions {
    ClientOptions::new()
        .with_allow_http(endpoint.is_some_and(|endpoint| endpoint.starts_with("http://")))
        .with_connect_timeout(CONNECT)
        .with_timeout(REQUEST)
}

/// Certificates of the Secret that are trusted on top of the usual ones.
pub(super) fn roots(
    credentials: &Credentials,
    label: &str,
) -> Result<Vec<Certificate>, StoreError> {
    let Some(bundle) = credentials.get("CA_CERT_DATA") else {
        return Ok(Vec::new());
    };
    check_authorities(bundle).map_err(|reason| configure(label, &reason))?;
    Certificate::from_pem_bundle(bundle).map_err(|error| configure(label, &chain(&error)))
}

/// A client for a question to a store that the adapters do not ask. It follows nobody elsewhere.
pub(super) fn web_client(
    credentials: &Credentials,
    label: &str,
) -> Result<reqwest::Client, StoreError> {
    let mut builder = reqwest::Client::builder()
        .connect_timeout(CONNECT)
        .redirect(reqwest::redirect::Policy::none());
    if let Some(bundle) = credentials.get("CA_CERT_DATA") {
        let roots = reqwest::Certificate::from_pem_bundle(bundle)
            .map_err(|error| configure(label, &chain(&error)))?;
        builder = builder.tls_certs_merge(roots);
    }
    builder
        .build()
        .map_err(|source| configure(label, &chain(&source)))
}

pub(super) fn retry() -> RetryConfig {
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
pub(super) fn text(
    credentials: &Credentials,
    key: &str,
    label: &str,
) -> Result<Option<String>, StoreError> {
    let Some(bytes) = credentials.get(key) else {
        return Ok(None);
    };
    let text =
        std::str::from_utf8(bytes).map_err(|_| configure(label, &format!("{key} is no text")))?;
    Ok(Some(text.trim().to_owned()).filter(|text| !text.is_empty()))
}

pub(super) fn configure(label: &str, reason: &str) -> StoreError {
    StoreError::Configure {
        label: label.to_owned(),
        reason: reason.to_owned(),
    }
}
