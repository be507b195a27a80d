//! What a restore has to do, and how fast a part of it goes: ranges of the Snapshot are fetched and unpacked as a restore would, and nothing is written.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use kubedb_core::estimate::Measured;
use tokio_util::sync::CancellationToken;

use super::{
    AHEAD, RestoreError,
    plan::{Fetch, Plan, plan_of},
    source::Source,
    write::{Decoder, UnitError},
};
use crate::{repository::manifest, store::Store};

/// Bytes that are fetched to see how fast it goes, at most; less than a thousandth of what makes somebody ask.
const FETCHED: u64 = 32 << 20;

/// No further range is asked for when this time is over.
const TIME: Duration = Duration::from_secs(2);

/// A store that has not answered by then is not measured.
const PATIENCE: Duration = Duration::from_secs(10);

/// Bytes written to see how fast a disk is.
const WRITTEN: usize = 64 << 20;

/// What a restore would do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outlook {
    /// Bytes to fetch, into an empty folder.
    pub fetch_bytes: u64,
    /// Bytes of files that are not zero, which these unpack to.
    pub unpacked_bytes: u64,
    /// Bytes unpacked, and the time that fetching and unpacking them took; none where the store did not answer in time.
    pub unpacked: Option<Measured>,
}

/// Finds out what a restore would do, as closely as a restore does before it writes anything, and how fast a part of it goes.
pub async fn outlook(store: &Store, key: &str, threads: usize) -> Result<Outlook, RestoreError> {
    let (manifest, data_key) = manifest::open(store, key).await?;
    let plan = plan_of(store, key, manifest, data_key).await?;
    let fetch_bytes = plan
        .fetches
        .iter()
        .map(|fetch| fetch.end - fetch.start)
        .sum();
    let unpacked_bytes = plan.fetches.iter().map(unpacked_of).sum();
    let probe = probe(store, Arc::new(plan), threads);
    let unpacked = match tokio::time::timeout(PATIENCE, probe).await {
        Ok(measured) => Some(measured?),
        Err(_) => None,
    };
    Ok(Outlook {
        fetch_bytes,
        unpacked_bytes,
        unpacked,
    })
}

fn unpacked_of(fetch: &Fetch) -> u64 {
    let parts = fetch.frames.iter().flat_map(|frame| &frame.parts);
    parts.map(|part| part.raw as u64).sum()
}

/// Ranges from all over the Snapshot, as many as the limit allows.
fn sample(plan: &Plan) -> Vec<usize> {
    let count = plan.fetches.len();
    let total: u64 = plan
        .fetches
        .iter()
        .map(|fetch| fetch.end - fetch.start)
        .sum();
    let average = (total / count.max(1) as u64).max(1);
    let wanted = usize::try_from(FETCHED / average)
        .unwrap_or(count)
        .clamp(1, count.max(1));
    (0..wanted)
        .map(|number| number * count / wanted)
        .filter(|number| *number < count)
        .collect()
}

async fn probe(store: &Store, plan: Arc<Plan>, threads: usize) -> Result<Measured, RestoreError> {
    let begun = Instant::now();
    let (cancel, fetched) = (CancellationToken::new(), AtomicU64::new(0));
    let source = Source {
        store,
        cancel: &cancel,
        fetched: &fetched,
    };
    let mut ranges = stream::iter(sample(&plan))
        .take_while(|_| std::future::ready(begun.elapsed() < TIME))
        .map(|number| {
            let (plan, held) = (plan.clone(), plan.clone());
            async move {
                let work = move |bytes: &Bytes| unpack(&held.fetches[number], bytes);
                plan.fetch(&plan.fetches[number], source, work).await
            }
        })
        .buffer_unordered(threads.clamp(1, 64) + AHEAD);
    let mut bytes = 0;
    while let Some(unpacked) = ranges.next().await {
        bytes += unpacked?;
    }
    Ok(Measured {
        bytes,
        time: begun.elapsed(),
    })
}

fn unpack(fetch: &Fetch, bytes: &[u8]) -> Result<u64, UnitError> {
    let mut decoder = Decoder::default();
    for frame in &fetch.frames {
        decoder.frame(fetch, frame, bytes)?;
    }
    Ok(unpacked_of(fetch))
}

/// How fast a disk takes what is written where `folder` is or will be. The file has no name, so that nothing of it stays, whatever happens; none where the
/// file system has no such files, or has no room. Blocks.
#[must_use]
pub fn disk(folder: &Path) -> Option<Measured> {
    let existing = folder.ancestors().find(|folder| folder.is_dir())?;
    match write_unnamed(existing) {
        Ok(measured) => Some(measured),
        Err(error) => {
            tracing::debug!(%error, "the disk is not measured");
            None
        }
    }
}

fn write_unnamed(folder: &Path) -> io::Result<Measured> {
    let mut file: File = OpenOptions::new()
        .write(true)
        .custom_flags(nix::libc::O_TMPFILE)
        .mode(0o600)
        .open(folder)?;
    // What a file system may not press together, or take for zeros.
    let mut stretch = vec![0_u8; 1 << 20];
    let mut seed = 0x9E37_79B9_7F4A_7C15_u64;
    for bytes in stretch.chunks_exact_mut(8) {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        bytes.copy_from_slice(&seed.to_le_bytes());
    }
    let begun = Instant::now();
    let mut written = 0;
    while written < WRITTEN && begun.elapsed() < TIME {
        file.write_all(&stretch)?;
        written += stretch.len();
    }
    file.sync_data()?;
    Ok(Measured {
        bytes: written as u64,
        time: begun.elapsed(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_measured_and_nothing_stays_on_it() {
        let folder = tempfile::tempdir().unwrap();
        let measured = disk(&folder.path().join("data/that/will/be")).unwrap();
        assert!(measured.bytes > 0 && measured.rate().is_some());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        assert_eq!(disk(Path::new("/proc/self/none")), None);
    }
}
