//! One request to a store that speaks HTTP, with its retries.

use std::{
    fmt, io,
    time::{Duration, Instant},
};

use ::http::StatusCode;
use async_trait::async_trait;
use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream};
use reqwest::{Certificate, Client, ClientBuilder, RequestBuilder, Response};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use serde::{Deserialize, de::DeserializeOwned};
use tokio::time::timeout;
use url::Url;

use super::error::{AdapterFailure, chain, untrusted};

/// Retries of one request.
const RETRIES: u32 = 5;

/// No retry begins later than this after the first try.
const RETRY_SPAN: Duration = Duration::from_secs(30);

/// The pauses are 0.25, 0.5, 1, 2 and 4 seconds, and up to a quarter more so that many writers do not march in step.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// A connection is made within this or not at all.
const CONNECT: Duration = Duration::from_secs(5);

/// Silence before and within an answer.
const SILENCE: Duration = Duration::from_secs(20);

/// A body is given the time that 1 Mbit/s takes, on top: 67 s for 8 MiB, the largest.
const BODY_BYTES_PER_SECOND: u64 = 125_000;

/// What Swift says instead of 429.
const SWIFT_TOO_MANY: u16 = 498;

/// Bytes of an error's body that are read.
const ERROR_BODY: usize = 16 << 10;

/// Bytes of an answer in JSON: a page of a thousand objects has one MiB.
const JSON_BODY: usize = 32 << 20;

/// How a request ended when it did not succeed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The server answered, and trying again will not help.
    Status { status: StatusCode, message: String },
    /// No answer, or "later" until the retries were used up.
    Unreachable { reason: String },
    /// We could not prove who we are.
    Credential { reason: String },
}

/// A URL below another one; a slash within a segment is escaped.
pub(super) fn below(base: &Url, segments: &[&str]) -> Url {
    let mut url = base.clone();
    // An http URL always has segments.
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(segments);
    }
    url
}

/// What requests are signed with.
#[async_trait]
pub(super) trait Access: fmt::Debug + Send + Sync {
    /// What one request is signed with, and what its address may depend on.
    type Pass: Send + Sync;

    /// A pass that lasts for a while, fetched where there is none.
    async fn pass(&self, client: &Client) -> Result<Self::Pass, Failure>;

    /// Keeps no pass: the next request fetches one. False where none can be fetched.
    async fn forget(&self) -> bool;

    /// Signs.
    fn sign(request: RequestBuilder, pass: &Self::Pass) -> RequestBuilder;
}

/// The client, and what it signs with.
#[derive(Debug)]
pub(super) struct Api<A> {
    client: Client,
    access: A,
    silence: Duration,
}

impl<A: Access> Api<A> {
    /// `is_plain` leaves out certificates, which take a while to load and are not on every machine. `roots`, in PEM form, are trusted on
    /// top of the usual ones.
    pub(super) fn new(access: A, is_plain: bool, roots: Option<&[u8]>) -> Result<Self, String> {
        let mut builder = Client::builder();
        if is_plain {
            builder = builder.tls_certs_only(std::iter::empty());
        }
        if let Some(roots) = roots {
            check_authorities(roots)?;
            let roots = Certificate::from_pem_bundle(roots).map_err(|error| chain(&error))?;
            builder = builder.tls_certs_merge(roots);
        }
        Self::over(builder, access)
    }

    /// The same with a client that trusts, and shows, what its builder was told.
    pub(super) fn over(builder: ClientBuilder, access: A) -> Result<Self, String> {
        let client = builder
            .connect_timeout(CONNECT)
            .user_agent(concat!("kubedb/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| chain(&error))?;
        Ok(Self {
            client,
            access,
            silence: SILENCE,
        })
    }

    /// Sends what `build` makes until it is answered for good. 308 counts as an answer: resumable uploads use it.
    pub(super) async fn send(
        &self,
        build: impl Fn(&Client, &A::Pass) -> RequestBuilder + Send + Sync,
    ) -> Result<Response, Failure> {
        let begun = Instant::now();
        let mut reason = String::new();
        let mut is_pass_new = false;
        for attempt in 0..=RETRIES {
            if attempt > 0 {
                // One that took long is tried again once all the same.
                if attempt > 1 && begun.elapsed() > RETRY_SPAN {
                    break;
                }
                tracing::debug!(attempt, reason, "asking the store again");
                tokio::time::sleep(pause(attempt)).await;
            }
            let pass = match self.access.pass(&self.client).await {
                Ok(pass) => pass,
                Err(Failure::Unreachable { reason: told }) => {
                    reason = told;
                    continue;
                }
                Err(failure) => return Err(failure),
            };
            let request = A::sign(build(&self.client, &pass), &pass);
            match self.ask(request).await {
                // A token may be taken back before its time; the next one shows whether it was that.
                Ok(response)
                    if response.status() == StatusCode::UNAUTHORIZED
                        && !std::mem::replace(&mut is_pass_new, true)
                        && self.access.forget().await =>
                {
                    reason = "the store does not know the access token any more".to_owned();
                }
                Ok(response) if is_final(response.status()) => {
                    return answer(response, self.silence).await;
                }
                Ok(response) => reason = format!("the store answers {}", response.status()),
                Err(Asked::Malformed(message)) => {
                    return Err(Failure::Status {
                        status: StatusCode::BAD_REQUEST,
                        message,
                    });
                }
                // No retry makes a certificate trusted.
                Err(Asked::InVain(told)) if untrusted(&told).is_some() => {
                    return Err(Failure::Unreachable { reason: told });
                }
                Err(Asked::InVain(told)) => reason = told,
            }
        }
        Err(Failure::Unreachable { reason })
    }

    /// Sends one request and waits for the head of its answer.
    async fn ask(&self, request: RequestBuilder) -> Result<Response, Asked> {
        let request = request
            .build()
            .map_err(|error| Asked::Malformed(chain(&error)))?;
        let body = request.body().and_then(reqwest::Body::as_bytes);
        let bytes = body.map_or(0, |body| body.len() as u64);
        let limit = self.silence + Duration::from_secs(bytes / BODY_BYTES_PER_SECOND);
        match timeout(limit, self.client.execute(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(Asked::InVain(chain(&error.without_url()))),
            Err(_) => {
                let seconds = limit.as_secs();
                Err(Asked::InVain(format!("no answer within {seconds} s")))
            }
        }
    }

    /// The content of an answer; one that stands still breaks off.
    pub(super) fn content(
        &self,
        response: Response,
    ) -> impl Stream<Item = Result<Bytes, String>> + Send + 'static {
        let (pieces, silence) = (response.bytes_stream().boxed(), self.silence);
        stream::unfold(Some(pieces), move |pieces| async move {
            let mut pieces = pieces?;
            match timeout(silence, pieces.next()).await {
                Ok(None) => None,
                Ok(Some(Ok(piece))) => Some((Ok(piece), Some(pieces))),
                Ok(Some(Err(error))) => Some((Err(chain(&error.without_url())), None)),
                Err(_) => {
                    let seconds = silence.as_secs();
                    let stalled = format!("the answer stands still for {seconds} s");
                    Some((Err(stalled), None))
                }
            }
        })
        .fuse()
    }

    /// An answer as JSON, of at most [`JSON_BODY`] bytes.
    pub(super) async fn json<T: DeserializeOwned>(&self, response: Response) -> Result<T, String> {
        let mut content = std::pin::pin!(self.content(response));
        let mut body = Vec::new();
        while let Some(piece) = content.next().await {
            body.extend_from_slice(&piece?);
            if body.len() > JSON_BODY {
                return Err(format!("the answer is longer than {JSON_BODY} bytes"));
            }
        }
        serde_json::from_slice(&body).map_err(|error| error.to_string())
    }
}

/// Whether a Secret's authorities are some, each of which can be trusted.
pub(super) fn check_authorities(bundle: &[u8]) -> Result<(), String> {
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(bundle) {
        let added = certificate.is_ok_and(|certificate| store.add(certificate).is_ok());
        if !added {
            return Err("CA_CERT_DATA holds a certificate that cannot be read".to_owned());
        }
    }
    if store.is_empty() {
        return Err("CA_CERT_DATA holds no certificates in PEM form".to_owned());
    }
    Ok(())
}

/// A request without an answer.
enum Asked {
    /// It makes no sense.
    Malformed(String),
    /// Nobody answered.
    InVain(String),
}

impl Failure {
    /// The same as an error of `object_store`.
    pub(super) fn into_error(self, store: &'static str, path: &str) -> object_store::Error {
        let path = path.to_owned();
        let generic = |failure| object_store::Error::Generic {
            store,
            source: Box::new(failure),
        };
        match self {
            Self::Unreachable { reason } => generic(AdapterFailure::Unreachable { reason }),
            Self::Credential { reason } => object_store::Error::Unauthenticated {
                path,
                source: reason.into(),
            },
            Self::Status { status, message } => match status {
                StatusCode::NOT_FOUND => object_store::Error::NotFound {
                    path,
                    source: message.into(),
                },
                StatusCode::PRECONDITION_FAILED => object_store::Error::AlreadyExists {
                    path,
                    source: message.into(),
                },
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                    object_store::Error::PermissionDenied {
                        path,
                        source: message.into(),
                    }
                }
                StatusCode::INSUFFICIENT_STORAGE => object_store::Error::Generic {
                    store,
                    source: Box::new(io::Error::from(io::ErrorKind::StorageFull)),
                },
                _ => generic(AdapterFailure::Refused {
                    reason: format!("the store answers {status}: {message}"),
                }),
            },
        }
    }
}

fn pause(attempt: u32) -> Duration {
    let base = FIRST_PAUSE * 2_u32.pow(attempt.saturating_sub(1));
    let dice = u32::from(uuid::Uuid::new_v4().as_bytes()[0]);
    base + base * dice / 1_024
}

fn is_final(status: StatusCode) -> bool {
    // A disk that is full stays so while we wait.
    status == StatusCode::INSUFFICIENT_STORAGE
        || !(status == StatusCode::REQUEST_TIMEOUT
            || status == StatusCode::TOO_MANY_REQUESTS
            || status.as_u16() == SWIFT_TOO_MANY
            || status.is_server_error())
}

async fn answer(response: Response, silence: Duration) -> Result<Response, Failure> {
    let status = response.status();
    if status.is_success() || status == StatusCode::PERMANENT_REDIRECT {
        return Ok(response);
    }
    Err(Failure::Status {
        status,
        message: timeout(silence, message(response))
            .await
            .unwrap_or_default(),
    })
}

/// The words of an error answer, cut short.
pub(super) async fn message(mut response: Response) -> String {
    #[derive(Deserialize)]
    struct Envelope {
        error: Words,
    }
    #[derive(Deserialize)]
    struct Words {
        message: String,
    }
    let mut body = Vec::new();
    while let Ok(Some(part)) = response.chunk().await {
        body.extend_from_slice(&part);
        if body.len() > ERROR_BODY {
            break;
        }
    }
    serde_json::from_slice::<Envelope>(&body).map_or_else(
        |_| without_tags(&String::from_utf8_lossy(&body)),
        |envelope| envelope.error.message.chars().take(400).collect(),
    )
}

/// Text of a page, as people read it.
fn without_tags(page: &str) -> String {
    let mut text = String::new();
    let mut is_tag = false;
    for letter in page.chars() {
        match letter {
            '<' => is_tag = true,
            '>' => {
                is_tag = false;
                text.push(' ');
            }
            _ if !is_tag => text.push(letter),
            _ => {}
        }
    }
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").chars().take(200).collect()
}

#[cfg(test)]
mod tests;
