//! Uploads to Azure, compared with what the service received.
//!
//! The service tells the MD5 of each body that it took, and `object_store` neither sends one nor looks at that. Signatures do not cover the
//! body, so without TLS nothing else would notice a byte that changed on its way.

use async_trait::async_trait;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use http::Method;
use http_body_util::BodyExt as _;
use md5::{Digest as _, Md5};
use object_store::{
    ClientOptions, Result,
    client::{
        HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody,
        HttpResponse, HttpService, ReqwestConnector,
    },
};

/// Where the service says what it received.
const RECEIVED: &str = "content-md5";

/// Makes clients that compare.
#[derive(Debug)]
pub(super) struct Checking;

#[derive(Debug)]
struct Checked(HttpClient);

/// The object has other content than it should. Trying again finds it there, which is a conflict: nobody refers to it yet, and the next attempt
/// of a backup uses another name.
#[derive(Debug, thiserror::Error)]
#[error("the store received other bytes than were sent")]
struct Differs;

impl HttpConnector for Checking {
    fn connect(&self, options: &ClientOptions) -> Result<HttpClient> {
        let client = ReqwestConnector::default().connect(options)?;
        Ok(HttpClient::new(Checked(client)))
    }
}

#[async_trait]
impl HttpService for Checked {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let sent = match *request.method() {
            Method::PUT => Some(sum(request.body().clone()).await?),
            _ => None,
        };
        let response = self.0.execute(request).await?;
        let received = response.headers().get(RECEIVED);
        match (sent, received) {
            (Some(sent), Some(received)) if received.as_bytes() != sent.as_bytes() => {
                Err(HttpError::new(HttpErrorKind::Interrupted, Differs))
            }
            _ => Ok(response),
        }
    }
}

/// MD5 of a body, which lies in memory and is shared rather than copied.
async fn sum(mut body: HttpRequestBody) -> Result<String, HttpError> {
    let mut sum = Md5::new();
    while let Some(frame) = body.frame().await {
        if let Ok(bytes) = frame?.into_data() {
            sum.update(&bytes);
        }
    }
    Ok(BASE64_STANDARD.encode(sum.finalize()))
}
