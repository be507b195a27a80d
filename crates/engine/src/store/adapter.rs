//! What our own adapters of `object_store`'s trait have in common.

use std::{ops::Range, time::SystemTime};

use ::http::{StatusCode, header};
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream, stream::BoxStream};
use object_store::{
    Attributes, Error, GetOptions, GetResult, GetResultPayload, ObjectMeta, Result, path::Path,
};
use reqwest::Response;

use super::{
    error::AdapterFailure,
    http::{Access, Api},
};

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

/// The range that a request asks for, as its header says it; none of one for the head alone.
pub(super) fn asked(store: &'static str, options: &GetOptions) -> Result<Option<String>> {
    let range = options.range.as_ref().filter(|_| !options.head);
    let text = range.map(|range| range.is_valid().map(|()| range.to_string()));
    text.transpose().map_err(|error| generic(store, error))
}

/// An answer to a request for an object, or for its head alone. The store's own names of what it gives come from its headers.
pub(super) fn answered<A: Access>(
    store: &'static str,
    api: &Api<A>,
    response: Response,
    (location, options): (&Path, &GetOptions),
    (e_tag, version): (Option<String>, Option<String>),
) -> Result<GetResult> {
    let unreachable = move |reason| generic(store, AdapterFailure::Unreachable { reason });
    let (range, size) = extent(&response)
        .ok_or_else(|| unreachable("the store did not say how long the object is".to_owned()))?;
    let meta = ObjectMeta {
        location: location.clone(),
        last_modified: SystemTime::UNIX_EPOCH.into(),
        size,
        e_tag,
        version,
    };
    options.check_preconditions(&meta)?;
    if options.head {
        return Ok(result(meta, 0..size, stream::empty().boxed()));
    }
    let body = api.content(response).map_err(unreachable);
    Ok(result(meta, range, body.boxed()))
}

/// Text of a header.
pub(super) fn text(response: &Response, name: &str) -> Option<String> {
    let value = response.headers().get(name)?;
    value.to_str().ok().map(str::to_owned)
}

/// The range that an answer carries, and the size of the whole object.
fn extent(response: &Response) -> Option<(Range<u64>, u64)> {
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
