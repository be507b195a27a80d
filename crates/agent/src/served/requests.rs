//! What the agents of one database may ask of its volume: to read what its namespace keeps there, and to write below its own folder.

use std::{ops::Range, sync::Arc};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{DefaultBodyLimit, Path, Query, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use futures::stream;
use kubedb_engine::{
    repository::keys::DatabaseFolder,
    store::{
        PutPayload, Store, StoreError,
        served::{LINE_OBJECTS, Line, ServedObject},
    },
};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::Semaphore;

/// Largest object, larger than any that is written: packs have 16 MiB, manifests up to 64.
const OBJECT_MAX: usize = 80 << 20;
/// Bodies in memory at once, of objects that are written or read.
const BODIES: usize = 4;

/// The volume, and what may be seen and changed of it.
#[derive(Clone)]
pub(super) struct Doors {
    store: Store,
    seen: Arc<str>,
    own: Arc<str>,
    bodies: Arc<Semaphore>,
}

/// Why a request is not served.
enum Refusal {
    Store(StoreError),
    Forbidden(String),
    Malformed(&'static str),
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, message) = match self {
            Self::Forbidden(message) => (StatusCode::FORBIDDEN, message),
            Self::Malformed(message) => (StatusCode::BAD_REQUEST, message.to_owned()),
            Self::Store(error) => said(error),
        };
        (
            status,
            json!({ "error": { "message": message } }).to_string(),
        )
            .into_response()
    }
}

/// The other side puts the store and the object before it.
fn said(error: StoreError) -> (StatusCode, String) {
    match error {
        StoreError::NotFound { .. } => (StatusCode::NOT_FOUND, "no such object".to_owned()),
        StoreError::Conflict { .. } => (StatusCode::PRECONDITION_FAILED, "it exists".to_owned()),
        StoreError::Denied { reason, .. } => (StatusCode::FORBIDDEN, reason),
        StoreError::Forbidden { reason, user, .. } => {
            (StatusCode::FORBIDDEN, format!("{reason} for {user}"))
        }
        StoreError::Full { .. } => (
            StatusCode::INSUFFICIENT_STORAGE,
            "no space is left".to_owned(),
        ),
        StoreError::Unreachable { reason, .. } => (StatusCode::SERVICE_UNAVAILABLE, reason),
        StoreError::Refused { reason, .. } => (StatusCode::BAD_REQUEST, reason),
        other => (StatusCode::BAD_REQUEST, other.to_string()),
    }
}

impl Doors {
    pub(super) fn new(store: Store, namespace: &str, own: &DatabaseFolder) -> Self {
        Self {
            store,
            seen: format!("kubedb/{namespace}/").into(),
            own: own.key("").into(),
            bodies: Arc::new(Semaphore::new(BODIES)),
        }
    }

    fn may_see(&self, key: &str) -> Result<(), Refusal> {
        let within = format!("{key}/").starts_with(&*self.seen);
        (within && is_plain(key)).then_some(()).ok_or_else(|| {
            Refusal::Forbidden(format!(
                "nothing but {} is shown to this database",
                self.seen
            ))
        })
    }

    fn may_change(&self, key: &str) -> Result<(), Refusal> {
        (key.starts_with(&*self.own) && is_plain(key))
            .then_some(())
            .ok_or_else(|| {
                Refusal::Forbidden(format!("this database writes to {} alone", self.own))
            })
    }
}

/// Whether no part of a key leads elsewhere.
fn is_plain(key: &str) -> bool {
    key.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

pub(super) fn router(doors: Doors) -> Router {
    Router::new()
        .route("/ready", get(|| async { "ok\n" }))
        .route("/list", get(list))
        .route("/objects/{*key}", get(read).put(create).delete(delete))
        .route("/unfinished/{*key}", get(unfinished).delete(discard))
        .layer(DefaultBodyLimit::max(OBJECT_MAX))
        .with_state(doors)
}

async fn create(
    State(doors): State<Doors>,
    Path(key): Path<String>,
    body: Body,
) -> Result<StatusCode, Refusal> {
    doors.may_change(&key)?;
    let _place = doors.bodies.acquire().await;
    let content = axum::body::to_bytes(body, OBJECT_MAX).await;
    // Cut off, mostly: nothing of it was stored.
    let content = content.map_err(|_| Refusal::Malformed("the body is cut off, or too long"))?;
    doors.store.create(&key, PutPayload::from(content)).await?;
    Ok(StatusCode::CREATED)
}

async fn read(
    State(doors): State<Doors>,
    Path(key): Path<String>,
    method: axum::http::Method,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    doors.may_see(&key)?;
    let size = doors.store.size(&key).await?;
    if method == axum::http::Method::HEAD {
        return Ok(([(header::CONTENT_LENGTH, size)], Body::empty()).into_response());
    }
    let asked = headers.get(header::RANGE).map(|value| {
        let range = value.to_str().ok().and_then(|text| range(text, size));
        range.ok_or(Refusal::Malformed("the range is none of the object's"))
    });
    let asked = asked.transpose()?;
    let range = asked.clone().unwrap_or(0..size);
    if range.end - range.start > OBJECT_MAX as u64 {
        return Err(Refusal::Malformed("more than is given at once"));
    }
    let place = doors.bodies.clone().acquire_owned().await;
    let content = if range.is_empty() {
        Bytes::new()
    } else {
        doors.store.read_range(&key, range.clone()).await?
    };
    // The place is free again when the answer was sent.
    let content = stream::once(async move {
        let _place = place;
        Ok::<_, std::convert::Infallible>(content)
    });
    let length = [(header::CONTENT_LENGTH, range.end - range.start)];
    let body = Body::from_stream(content);
    Ok(match asked {
        None => (length, body).into_response(),
        Some(range) => {
            let told = format!(
                "bytes {}-{}/{size}",
                range.start,
                range.end.saturating_sub(1)
            );
            let head = [(header::CONTENT_RANGE, told)];
            (StatusCode::PARTIAL_CONTENT, length, head, body).into_response()
        }
    })
}

/// `bytes=FIRST-LAST`, `bytes=FIRST-` or `bytes=-COUNT` of an object of that size; what goes beyond it is cut.
fn range(text: &str, size: u64) -> Option<Range<u64>> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let range = match (first, last) {
        ("", count) => size.saturating_sub(count.parse().ok()?)..size,
        (first, "") => first.parse().ok()?..size,
        (first, last) => first.parse().ok()?..last.parse::<u64>().ok()?.checked_add(1)?.min(size),
    };
    (range.start < range.end).then_some(range)
}

async fn delete(
    State(doors): State<Doors>,
    Path(key): Path<String>,
) -> Result<StatusCode, Refusal> {
    doors.may_change(&key)?;
    doors.store.delete(&key).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
struct Listing {
    below: String,
}

async fn list(
    State(doors): State<Doors>,
    Query(Listing { below }): Query<Listing>,
) -> Result<Response, Refusal> {
    doors.may_see(&below)?;
    let (mut lines, mut line, mut count) = (Vec::new(), Vec::new(), 0_u64);
    let mut end = |line: Line| {
        let text = serde_json::to_string(&line).unwrap_or_default() + "\n";
        lines.push(Ok::<_, std::convert::Infallible>(Bytes::from(text)));
    };
    doors
        .store
        .visit(&below, |object, modified| {
            count += 1;
            line.push(ServedObject {
                key: object.key,
                bytes: object.bytes,
                modified,
            });
            if line.len() == LINE_OBJECTS {
                end(Line::Objects(std::mem::take(&mut line)));
            }
        })
        .await?;
    end(Line::Objects(line));
    end(Line::End(count));
    Ok(Body::from_stream(stream::iter(lines)).into_response())
}

async fn unfinished(
    State(doors): State<Doors>,
    Path(folder): Path<String>,
) -> Result<String, Refusal> {
    doors.may_change(&format!("{folder}/x"))?;
    let found = doors.store.unfinished(&folder).await?;
    Ok(json!(found).to_string())
}

async fn discard(
    State(doors): State<Doors>,
    Path(key): Path<String>,
) -> Result<StatusCode, Refusal> {
    doors.may_change(&key)?;
    let (folder, name) = key.rsplit_once('/').unwrap_or_default();
    doors.store.discard(folder, name).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_cut_at_the_end_and_empty_ones_are_none() {
        assert_eq!(range("bytes=0-9", 100), Some(0..10));
        assert_eq!(range("bytes=90-200", 100), Some(90..100));
        assert_eq!(range("bytes=90-", 100), Some(90..100));
        assert_eq!(range("bytes=-10", 100), Some(90..100));
        for none in [
            "bytes=100-",
            "bytes=9-8",
            "bytes=-",
            "bytes=0-1,3-4",
            "0-9",
            "bytes=-0",
        ] {
            assert_eq!(range(none, 100), None, "{none}");
        }
        assert_eq!(range("bytes=0-", 0), None);
    }

    #[test]
    fn a_database_sees_its_namespace_and_writes_to_its_own_folder() {
        let folder = tempfile::tempdir().unwrap();
        let place = kubedb_engine::store::Location::Local {
            folder: folder.path().to_owned(),
        };
        let store = Store::open(&place, &Default::default()).unwrap();
        let own = DatabaseFolder::new("demo", "pg").unwrap();
        let doors = Doors::new(store, "demo", &own);
        for seen in [
            "kubedb/demo/pg/snapshots",
            "kubedb/demo/other/packs/u/00",
            "kubedb/demo",
        ] {
            assert!(doors.may_see(seen).is_ok(), "{seen}");
        }
        for hidden in [
            "kubedb/demo2/pg",
            "kubedb",
            "",
            "kubedb/demo/../x",
            "kubedb/demo//x",
            "x",
        ] {
            assert!(doors.may_see(hidden).is_err(), "{hidden}");
        }
        assert!(doors.may_change("kubedb/demo/pg/packs/u/00").is_ok());
        for refused in [
            "kubedb/demo/pg",
            "kubedb/demo/pg2/x",
            "kubedb/demo/pg/../pg2/x",
            "kubedb/demo/pg/",
        ] {
            assert!(doors.may_change(refused).is_err(), "{refused}");
        }
    }
}
