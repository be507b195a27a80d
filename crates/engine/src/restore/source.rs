//! Ranges of packs on their way from a store to whoever unpacks them.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use super::{
    FETCHES, RestoreError,
    plan::{Fetch, Plan},
    write::UnitError,
};
use crate::store::Store;

/// Where ranges come from, and what counts them.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) store: &'a Store,
    pub(super) cancel: &'a CancellationToken,
    pub(super) fetched: &'a AtomicU64,
}

impl Plan {
    /// Fetches a range and has it worked on where it may block; one that arrives damaged is fetched again. Gives what the work gives.
    pub(super) async fn fetch(
        &self,
        fetch: &Fetch,
        source: Source<'_>,
        work: impl Fn(&Bytes) -> Result<u64, UnitError> + Clone + Send + 'static,
    ) -> Result<u64, RestoreError> {
        let range = fetch.start..fetch.end;
        let mut tried = 0;
        loop {
            tried += 1;
            let bytes = tokio::select! {
                biased;
                () = source.cancel.cancelled() => return Err(RestoreError::Cancelled),
                bytes = source.store.read_range(&fetch.key, range.clone()) => bytes,
            };
            let bytes = bytes.map_err(|error| self.explain(fetch, error, source.store))?;
            let read = bytes.len() as u64;
            source.fetched.fetch_add(read, Ordering::Relaxed);
            let work = work.clone();
            let worked = spawn_blocking(move || work(&bytes)).await;
            match worked.map_err(|_| RestoreError::Worker)? {
                Ok(done) => return Ok(done),
                Err(UnitError::Write(error)) => return Err(error),
                Err(UnitError::Damaged { .. }) if tried < FETCHES => {}
                Err(UnitError::Damaged { file, reason }) => {
                    return Err(self.damaged(fetch, file, &reason, source.store));
                }
            }
        }
    }
}
