//! Creating an object: in one request, or in parts when it is large. Either way only where none of that name exists.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::{Bytes, BytesMut};
use http::{StatusCode, header};
use md5::{Digest as _, Md5};
use object_store::{PutPayload, PutResult};
use reqwest::Response;
use serde::Deserialize;
use url::Url;

use super::{Gcs, http::Failure};

/// Largest body of one request. A multiple of 256 KiB, as parts must be; larger objects go in parts.
const PART: usize = 8 << 20;

/// Upload sessions that are begun for one object: a session that the server forgot is begun anew.
const SESSIONS: u32 = 3;

const JSON: &str = "application/json";
const BINARY: &str = "application/octet-stream";

/// What the server says about an object.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Resource {
    pub(super) name: String,
    #[serde(default)]
    pub(super) size: Option<String>,
    #[serde(default)]
    pub(super) updated: Option<String>,
    #[serde(default)]
    pub(super) etag: Option<String>,
    #[serde(default)]
    pub(super) generation: Option<String>,
    #[serde(default)]
    md5_hash: Option<String>,
}

impl Gcs {
    /// Creates (`is_create`) or overwrites an object, and checks that the server holds the bytes we sent.
    pub(super) async fn upload(
        &self,
        name: &str,
        content: &PutPayload,
        is_create: bool,
    ) -> Result<PutResult, Failure> {
        let resource = if content.content_length() <= PART {
            self.upload_at_once(name, content, is_create).await?
        } else {
            self.upload_in_parts(name, content, is_create).await?
        };
        if let Some(told) = resource.md5_hash.as_deref()
            && told != BASE64_STANDARD.encode(md5(content))
        {
            // Nobody refers to it yet, and under this name it would be in our way.
            self.remove(name).await?;
            return Err(Failure::Unreachable {
                reason: "the store received other bytes than were sent".to_owned(),
            });
        }
        Ok(PutResult {
            e_tag: resource.etag,
            version: resource.generation,
            extensions: http::Extensions::new(),
        })
    }

    fn upload_url(&self, kind: &str, name: &str, is_create: bool) -> Url {
        let mut url = self.url(&["upload", "storage", "v1", "b", &self.bucket, "o"]);
        url.query_pairs_mut()
            .append_pair("uploadType", kind)
            .append_pair("name", name);
        if is_create {
            url.query_pairs_mut().append_pair("ifGenerationMatch", "0");
        }
        url
    }

    async fn upload_at_once(
        &self,
        name: &str,
        content: &PutPayload,
        is_create: bool,
    ) -> Result<Resource, Failure> {
        let url = self.upload_url("media", name, is_create);
        let body = part(content, 0, content.content_length());
        let send = |client: &reqwest::Client| {
            client
                .post(url.clone())
                .header(header::CONTENT_TYPE, BINARY)
                .body(body.clone())
        };
        self.read_resource(self.api.send(send).await?).await
    }

    async fn upload_in_parts(
        &self,
        name: &str,
        content: &PutPayload,
        is_create: bool,
    ) -> Result<Resource, Failure> {
        let mut last = Failure::Unreachable {
            reason: "no upload session".to_owned(),
        };
        for _ in 0..SESSIONS {
            let session = self.begin_session(name, is_create).await?;
            match self.fill_session(&session, content).await {
                // The session is gone; what it may have finished shows when the next one is begun.
                Err(Failure::Status { status, message })
                    if matches!(status, StatusCode::NOT_FOUND | StatusCode::GONE) =>
                {
                    last = Failure::Unreachable {
                        reason: format!("the upload session ended early: {status} {message}"),
                    };
                }
                other => return other,
            }
        }
        Err(last)
    }

    async fn begin_session(&self, name: &str, is_create: bool) -> Result<Url, Failure> {
        let url = self.upload_url("resumable", name, is_create);
        let body = serde_json::json!({ "name": name }).to_string();
        let send = |client: &reqwest::Client| {
            client
                .post(url.clone())
                .header(header::CONTENT_TYPE, JSON)
                .header("x-upload-content-type", BINARY)
                .body(body.clone())
        };
        let response = self.api.send(send).await?;
        let given = response
            .headers()
            .get(header::LOCATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| url.join(value).ok());
        let mut session = given.ok_or_else(|| Failure::Unreachable {
            reason: "the store began an upload and did not say where".to_owned(),
        })?;
        // An emulator names itself as it sees itself, which through a forwarded port is not where we reach it.
        let ours = &self.base;
        let moved = session.set_scheme(ours.scheme()).is_ok()
            && session.set_host(ours.host_str()).is_ok()
            && session.set_port(ours.port()).is_ok();
        if moved {
            Ok(session)
        } else {
            Err(Failure::Unreachable {
                reason: format!("the store began an upload at an unusable place, {session}"),
            })
        }
    }

    async fn read_resource(&self, response: Response) -> Result<Resource, Failure> {
        let read = self.api.json(response).await;
        read.map_err(|error| Failure::Unreachable {
            reason: format!("the store's answer to an upload is cut short: {error}"),
        })
    }

    async fn fill_session(&self, session: &Url, content: &PutPayload) -> Result<Resource, Failure> {
        let total = content.content_length();
        let mut offset = 0;
        // Every part may be taken in two pieces; a server that takes less makes no progress worth waiting for.
        for _ in 0..2 * total.div_ceil(PART) {
            let end = (offset + PART).min(total);
            let body = part(content, offset, end);
            let range = format!("bytes {offset}-{}/{total}", end - 1);
            let send = |client: &reqwest::Client| {
                client
                    .put(session.clone())
                    .header(header::CONTENT_TYPE, BINARY)
                    .header(header::CONTENT_RANGE, &range)
                    .body(body.clone())
            };
            let response = self.api.send(send).await?;
            if response.status() != StatusCode::PERMANENT_REDIRECT {
                return self.read_resource(response).await;
            }
            offset = taken(&response).min(total - 1);
        }
        Err(Failure::Unreachable {
            reason: format!("the store took {offset} of {total} bytes and no more"),
        })
    }
}

/// Bytes that a session holds: one more than the end of its `Range` header.
fn taken(response: &Response) -> usize {
    response
        .headers()
        .get(header::RANGE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.rsplit_once('-'))
        .and_then(|(_, end)| end.parse::<usize>().ok())
        .map_or(0, |end| end + 1)
}

fn part(content: &PutPayload, start: usize, end: usize) -> Bytes {
    let mut gathered = BytesMut::with_capacity(end - start);
    let mut at = 0;
    for piece in content {
        let (from, to) = (start.max(at), end.min(at + piece.len()));
        if from < to {
            gathered.extend_from_slice(&piece[from - at..to - at]);
        }
        at += piece.len();
    }
    gathered.freeze()
}

fn md5(content: &PutPayload) -> [u8; 16] {
    let mut sum = Md5::new();
    content.iter().for_each(|piece| sum.update(piece));
    sum.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_cut_across_pieces() {
        let content: PutPayload = ["abc", "", "defg", "h"]
            .map(Bytes::from)
            .into_iter()
            .collect();
        assert_eq!(part(&content, 0, 8), "abcdefgh");
        assert_eq!(part(&content, 2, 5), "cde");
        assert_eq!(part(&content, 7, 8), "h");
        assert_eq!(
            hex::encode(md5(&content)),
            "e8dc4081b13434b45189a720b77b6818"
        );
    }
}
