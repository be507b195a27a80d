//! What our own adapters of `object_store`'s trait have in common.

use std::ops::Range;

use ::http::{StatusCode, header};
use bytes::Bytes;
use futures::{StreamExt as _, stream::BoxStream};
use object_store::{
    Attributes, Error, GetResult, GetResultPayload, ObjectMeta, Result, path::Path,
};
use reqwest::Response;

/// Deletions under way at once.
const DELETIONS: usize = 8;

/// Deletes object by object, several at once, and gives the names in their order.
pub(super) fn delete_each<F, D>(
    locations: BoxStream<'static, Result<Path>>,
    delete: F,
) -> BoxStream<'static, Result<Path>>
where
    F: Fn(Path) -> D + Clone + Send + 'static,
    D: Future<Output = Result<()>> + Send,
{
    locations
        .map(move |location| {
            let delete = delete.clone();
            async move {
                let location = location?;
                delete(location.clone()).await?;
                Ok(location)
            }
        })
        .buffered(DELETIONS)
        .boxed()
}

/// An error that `object_store` has no class for.
pub(super) fn generic(
    store: &'static str,
    source: impl std::error::Error + Send + Sync + 'static,
) -> Error {
    Error::Generic {
        store,
        source: Box::new(source),
    }
}

/// An operation of the trait that nobody here asks for.
pub(super) fn not_implemented(store: &str, operation: &str) -> Error {
    Error::NotImplemented {
        operation: operation.to_owned(),
        implementer: store.to_owned(),
    }
}

/// An answer as `object_store` wants it.
pub(super) fn result(
    meta: ObjectMeta,
    range: Range<u64>,
    body: BoxStream<'static, object_store::Result<Bytes>>,
) -> GetResult {
    GetResult {
        payload: GetResultPayload::Stream(body),
        meta,
        range,
        attributes: Attributes::new(),
        extensions: ::http::Extensions::new(),
    }
}

/// The range that an answer carries, and the size of the whole object.
pub(super) fn extent(response: &Response) -> Option<(Range<u64>, u64)> {
    if response.status() != StatusCode::PARTIAL_CONTENT {
        // The header, since the answer to HEAD has no content to measure.
        let told = response.headers().get(header::CONTENT_LENGTH)?;
        let size = told.to_str().ok()?.parse().ok()?;
        return Some((0..size, size));
    }
    let value = response.headers().get(header::CONTENT_RANGE)?;
    let (range, size) = value
        .to_str()
        .ok()?
        .strip_prefix("bytes ")?
        .split_once('/')?;
    let (start, last) = range.split_once('-')?;
    let end = last.parse::<u64>().ok()?.checked_add(1)?;
    Some((start.parse().ok()?..end, size.parse().ok()?))
}
