//! Whether what a Snapshot would restore is what PostgreSQL wrote: every stored part against its hash, every page against its checksum.

use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use kubedb_core::lsn::Lsn;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    AHEAD, RestoreError,
    plan::{Fetch, Plan, plan_of},
    source::Source,
    write::{Decoder, UnitError},
};
use crate::{
    backup::{BackupProgress, relation_segment},
    postgres::page::{self, PAGE_BYTES, PageState, SEGMENT_PAGES},
    repository::{
        check::Finding,
        manifest::{self, Manifest},
        map::FileEntry,
    },
    store::Store,
};

/// Findings that are told; with so many wrong the rest tells nothing new.
const FINDINGS_MAX: usize = 20;

/// What was looked at, and what is wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pages {
    /// Pages whose checksum was computed.
    pub pages: u64,
    /// Whether pages carry checksums at all.
    pub has_checksums: bool,
    /// Bytes of files that were unpacked and compared with their hashes.
    pub bytes: u64,
    /// Bytes read of the store.
    pub fetched: u64,
    /// Pages whose checksum does not fit: file and what is wrong.
    pub findings: Vec<Finding>,
}

/// Which pages a backup may hold half written: replay puts them right. Others carry no LSN of its time.
#[derive(Clone, Copy, Debug)]
struct Torn {
    start: Lsn,
    stop: Lsn,
}

impl Torn {
    fn of(manifest: &Manifest) -> Self {
        Self {
            start: manifest.start_lsn,
            stop: manifest.stop_lsn,
        }
    }

    fn may_hold(self, page: &[u8; PAGE_BYTES]) -> bool {
        let lsn = page::lsn(page);
        lsn >= self.start && lsn <= self.stop
    }
}

/// Reads all that a restore would read, and writes nothing. An error is damage too, where it says so: see [`RestoreError::is_damage`].
pub async fn verify_pages(
    store: &Store,
    key: &str,
    threads: usize,
    progress: watch::Sender<BackupProgress>,
    cancel: CancellationToken,
) -> Result<Pages, RestoreError> {
    let look = async {
        let (manifest, data_key) = manifest::open(store, key).await?;
        plan_of(store, key, manifest, data_key).await
    };
    let plan = tokio::select! {
        biased;
        () = cancel.cancelled() => return Err(RestoreError::Cancelled),
        plan = look => plan?,
    };
    let verify = Verify {
        store: store.clone(),
        torn: Torn::of(&plan.manifest),
        has_checksums: plan.manifest.cluster.data_checksums,
        plan,
        cancel,
        progress,
        pages: AtomicU64::new(0),
        bytes: AtomicU64::new(0),
        fetched: AtomicU64::new(0),
        findings: Mutex::default(),
    };
    let verify = Arc::new(verify);
    stream::iter(0..verify.plan.fetches.len())
        .map(|number| verify.clone().fetch(number))
        .buffer_unordered(threads.clamp(1, 64) + AHEAD)
        .try_for_each(|()| std::future::ready(Ok(())))
        .await?;
    let findings = verify
        .findings
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    Ok(Pages {
        pages: verify.pages.load(Ordering::Relaxed),
        has_checksums: verify.has_checksums,
        bytes: verify.bytes.load(Ordering::Relaxed),
        fetched: verify.fetched.load(Ordering::Relaxed),
        findings: findings.clone(),
    })
}

struct Verify {
    store: Store,
    plan: Plan,
    torn: Torn,
    has_checksums: bool,
    cancel: CancellationToken,
    progress: watch::Sender<BackupProgress>,
    pages: AtomicU64,
    bytes: AtomicU64,
    fetched: AtomicU64,
    findings: Mutex<Vec<Finding>>,
}

impl Verify {
    async fn fetch(self: Arc<Self>, number: usize) -> Result<(), RestoreError> {
        let source = Source {
            store: &self.store,
            cancel: &self.cancel,
            fetched: &self.fetched,
        };
        let this = self.clone();
        let work = move |bytes: &Bytes| this.unpack(&this.plan.fetches[number], bytes);
        let fetch = &self.plan.fetches[number];
        let done = self.plan.fetch(fetch, source, work).await?;
        self.tell(done);
        Ok(())
    }

    fn unpack(&self, fetch: &Fetch, bytes: &[u8]) -> Result<u64, UnitError> {
        let mut unpacked = 0;
        let mut decoder = Decoder::default();
        for frame in &fetch.frames {
            let Some(raw) = decoder.frame(fetch, frame, bytes)? else {
                continue;
            };
            for part in &frame.parts {
                let content = raw.get(part.from..part.from + part.raw).unwrap_or_default();
                self.look(&self.plan.files[part.file], part.at, content);
                unpacked += content.len() as u64;
            }
        }
        Ok(unpacked)
    }

    fn look(&self, file: &FileEntry, at: u64, content: &[u8]) {
        if !self.has_checksums {
            return;
        }
        let Some(segment) = relation_segment(&file.path) else {
            return;
        };
        let looked = look(segment, at, content, self.torn, |block, what| {
            let mut findings = self.findings.lock().unwrap_or_else(PoisonError::into_inner);
            add(&mut findings, &file.path, block, what);
        });
        self.pages.fetch_add(looked, Ordering::Relaxed);
    }

    fn tell(&self, unpacked: u64) {
        let done = self.bytes.fetch_add(unpacked, Ordering::Relaxed) + unpacked;
        self.progress.send_replace(BackupProgress {
            done_bytes: done,
            total_bytes: self.plan.manifest.sizes.database_bytes,
            uploaded_bytes: 0,
        });
    }
}

/// Looks at the pages of a stretch of a file. What does not begin with a page, or end with one, is none of PostgreSQL's.
fn look(
    segment: u32,
    at: u64,
    content: &[u8],
    torn: Torn,
    mut found: impl FnMut(u64, PageState),
) -> u64 {
    let skip = usize::try_from(at.next_multiple_of(PAGE_BYTES as u64) - at).unwrap_or(0);
    let first = (at + skip as u64) / PAGE_BYTES as u64;
    let (pages, _) = content
        .get(skip..)
        .unwrap_or_default()
        .as_chunks::<PAGE_BYTES>();
    for (number, page) in (first..).zip(pages) {
        let block = u64::from(segment) * u64::from(SEGMENT_PAGES) + number;
        let state = page::verify(page, u32::try_from(block).unwrap_or(u32::MAX));
        if matches!(state, PageState::Bad { .. }) && !torn.may_hold(page) {
            found(block, state);
        }
    }
    pages.len() as u64
}

fn add(findings: &mut Vec<Finding>, path: &str, block: u64, state: PageState) {
    let PageState::Bad { stored, computed } = state else {
        return;
    };
    if findings.len() < FINDINGS_MAX {
        findings.push(Finding {
            object: path.to_owned(),
            what: format!(
                "block {block} has checksum {stored:04x}, its content gives {computed:04x}"
            ),
        });
    }
}

/// The same of a data folder that was restored a moment ago and that nobody has started: what lies there was compared with its hashes as it
/// was written. Blocks.
pub fn verify_folder(
    data: &Path,
    (start, stop): (Lsn, Lsn),
    cancel: &CancellationToken,
) -> Result<Pages, RestoreError> {
    let mut pages = Pages {
        has_checksums: true,
        ..Pages::default()
    };
    let torn = Torn { start, stop };
    let mut folders = vec![String::new()];
    while let Some(folder) = folders.pop() {
        let place = data.join(&folder);
        let entries = std::fs::read_dir(&place).map_err(fail(&place))?;
        for entry in entries {
            let entry = entry.map_err(fail(&place))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = if folder.is_empty() {
                name
            } else {
                format!("{folder}/{name}")
            };
            // Links lead to tablespaces, which are folders too.
            let found = std::fs::metadata(entry.path()).map_err(fail(&entry.path()))?;
            if found.is_dir() {
                folders.push(path);
            } else if let Some(segment) = relation_segment(&path) {
                verify_file(&entry.path(), &path, segment, torn, cancel, &mut pages)?;
            }
        }
    }
    Ok(pages)
}

fn verify_file(
    place: &Path,
    path: &str,
    segment: u32,
    torn: Torn,
    cancel: &CancellationToken,
    into: &mut Pages,
) -> Result<(), RestoreError> {
    let mut file = File::open(place).map_err(fail(place))?;
    let mut buffer = vec![0; 128 * PAGE_BYTES];
    let mut at = 0;
    loop {
        if cancel.is_cancelled() {
            return Err(RestoreError::Cancelled);
        }
        let length = fill(&mut file, &mut buffer).map_err(fail(place))?;
        if length == 0 {
            return Ok(());
        }
        into.pages += look(segment, at, &buffer[..length], torn, |block, state| {
            add(&mut into.findings, path, block, state);
        });
        at += length as u64;
        into.bytes += length as u64;
    }
}

/// Reads as much as there is, up to the buffer's end.
fn fill(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match file.read(&mut buffer[length..])? {
            0 => break,
            more => length += more,
        }
    }
    Ok(length)
}

fn fail(path: &Path) -> impl FnOnce(io::Error) -> RestoreError {
    let path = path.display().to_string();
    move |source| RestoreError::Read { path, source }
}
