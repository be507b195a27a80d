//! A restore into a folder that holds something already: what is as in the Snapshot stays, by the hashes that the manifest's maps record. Nothing is
//! believed of sizes, times, or of a run before this one.

use std::{
    fs::File,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    sync::{Arc, atomic::Ordering},
};

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};

use super::{
    AHEAD, Restore, RestoreError, blocking,
    disks::Disks,
    existing::{read, remove},
    plan::{Fetch, Frame, Part, ranges},
    write::{MARKER, WAITING, fail, open_file},
};
use crate::repository::map::FileEntry;

/// Bytes compared with zero at once.
const STRETCH: usize = 1 << 20;

/// What a restore found to be in its place, and what it had to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spared {
    /// Bytes of files that were as in the Snapshot.
    pub kept_bytes: u64,
    /// Bytes of files that were written.
    pub written_bytes: u64,
    /// Bytes read of the store for that.
    pub fetched_bytes: u64,
    /// Files, links and folders that the Snapshot does not have, each folder counted with what is in it.
    pub removed: u64,
}

/// A stretch of a file that is zero in the Snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Gap {
    file: usize,
    at: u64,
    length: u64,
}

impl Restore {
    pub(super) async fn write_what_differs(self: Arc<Self>) -> Result<(), RestoreError> {
        let this = self.clone();
        let (disks, fresh) = blocking(move || this.clear()).await?;
        let (disks, fresh) = (Arc::new(disks), Arc::from(fresh));
        let threads = self.request.threads.clamp(1, 64);
        stream::iter(0..self.plan.fetches.len())
            .map(|number| self.clone().mend(number, Arc::clone(&fresh), disks.clone()))
            .buffer_unordered(threads + AHEAD)
            .try_for_each(|()| std::future::ready(Ok(())))
            .await?;
        let gaps = gaps(&self.plan.files, &self.plan.fetches, &fresh);
        stream::iter(gaps)
            .map(|gap| {
                let this = self.clone();
                blocking(move || this.empty(gap))
            })
            .buffer_unordered(threads)
            .try_for_each(|()| std::future::ready(Ok(())))
            .await?;
        blocking(move || disks.sync()).await
    }

    /// From here on the folder is unfinished: what the Snapshot does not have goes, and what is missing is made, empty. Tells which files were.
    fn clear(&self) -> Result<(Disks, Vec<bool>), RestoreError> {
        // It may have waited for a thread for long.
        if self.cancel.is_cancelled() {
            return Err(RestoreError::Cancelled);
        }
        let disks = self.site.begin(&self.plan.manifest)?;
        let files = &self.plan.files;
        self.site.visit(&self.request.dialect, &mut |found| {
            if self.cancel.is_cancelled() {
                return Err(RestoreError::Cancelled);
            }
            let known = found.path.map_or(Known::Not, |path| Known::of(files, path));
            let stays = match known {
                _ if found.leads_on => true,
                Known::Folder => found.metadata.is_dir(),
                // What lies under a second name is somebody else's too.
                Known::File => found.metadata.is_file() && found.metadata.nlink() == 1,
                Known::Not => found.is_beside_foreign,
            };
            if !stays {
                remove(found.place, found.metadata)?;
                self.told.removed.fetch_add(1, Ordering::Relaxed);
            }
            Ok(stays && known != Known::Not)
        })?;
        Ok((disks, self.site.prepare(files, &self.cancel)?))
    }

    /// Compares what a range of a pack holds with what lies in its place, and fetches what differs.
    async fn mend(
        self: Arc<Self>,
        number: usize,
        fresh: Arc<[bool]>,
        disks: Arc<Disks>,
    ) -> Result<(), RestoreError> {
        let this = self.clone();
        let differing = blocking(move || this.compare(&this.plan.fetches[number], &fresh)).await?;
        let Fetch { key, pack, .. } = &self.plan.fetches[number];
        for fetch in ranges(key, pack.clone(), differing.into_iter()) {
            let (this, fetch, disks) = (self.clone(), Arc::new(fetch), disks.clone());
            let wanted = fetch.clone();
            let work =
                move |bytes: &Bytes| this.site.write(&this.plan.files, &fetch, bytes, &disks);
            let done = self.plan.fetch(&wanted, self.source(), work).await?;
            self.tell(done);
        }
        Ok(())
    }

    /// What is not in its place, of a range.
    fn compare(&self, fetch: &Fetch, fresh: &[bool]) -> Result<Vec<Frame>, RestoreError> {
        let mut reader = Reader {
            restore: self,
            open: None,
            whole: Vec::new(),
            part: Vec::new(),
        };
        let mut differing = Vec::new();
        for frame in &fetch.frames {
            if self.cancel.is_cancelled() {
                return Err(RestoreError::Cancelled);
            }
            let is_new = frame.parts.iter().any(|part| fresh[part.file]);
            let lacking = if is_new || !reader.is_there(frame)? {
                reader.lacking(frame, fresh)?
            } else {
                Vec::new()
            };
            let bytes = |parts: &[Part]| parts.iter().map(|part| part.raw as u64).sum::<u64>();
            let kept = bytes(&frame.parts) - bytes(&lacking);
            self.told.kept.fetch_add(kept, Ordering::Relaxed);
            if !lacking.is_empty() {
                differing.push(Frame {
                    parts: lacking,
                    ..frame.clone()
                });
            }
        }
        self.told.say(self.plan.manifest.sizes.database_bytes);
        Ok(differing)
    }

    /// Makes a stretch zero where it is not.
    fn empty(&self, gap: Gap) -> Result<(), RestoreError> {
        let path = self.site.place(&self.plan.files[gap.file].path);
        let file = open_file(&path).map_err(fail(&path))?;
        let mut buffer = vec![0; STRETCH];
        let zeros = vec![0; STRETCH];
        let end = gap.at + gap.length;
        let mut at = gap.at;
        while at < end {
            if self.cancel.is_cancelled() {
                return Err(RestoreError::Cancelled);
            }
            let length = usize::try_from(end - at).map_or(STRETCH, |left| left.min(STRETCH));
            let stretch = &mut buffer[..length];
            file.read_exact_at(stretch, at).map_err(read(&path))?;
            if *stretch == zeros[..length] {
                self.told.kept.fetch_add(length as u64, Ordering::Relaxed);
            } else {
                file.write_all_at(&zeros[..length], at)
                    .map_err(fail(&path))?;
                self.told
                    .written
                    .fetch_add(length as u64, Ordering::Relaxed);
            }
            at += length as u64;
        }
        Ok(())
    }
}

/// What a Snapshot has under a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    File,
    Folder,
    Not,
}

impl Known {
    /// Files are in the order of their paths; a folder may be named by what is in it alone.
    fn of(files: &[FileEntry], path: &str) -> Self {
        if path == MARKER || path == WAITING {
            return Self::File;
        }
        if let Ok(found) = files.binary_search_by(|file| file.path.as_str().cmp(path)) {
            return if files[found].is_folder {
                Self::Folder
            } else {
                Self::File
            };
        }
        let within = format!("{path}/");
        let next = files.partition_point(|file| file.path < within);
        match files.get(next) {
            Some(file) if file.path.starts_with(&within) => Self::Folder,
            _ => Self::Not,
        }
    }
}

/// Reads what lies in the place of what was stored.
struct Reader<'a> {
    restore: &'a Restore,
    /// Neighbours in a pack mostly belong to one file.
    open: Option<(usize, File)>,
    whole: Vec<u8>,
    part: Vec<u8>,
}

impl Reader<'_> {
    /// Whether all parts of a frame are in their places. One of which a part is needed by nobody any more cannot be told by its hash.
    fn is_there(&mut self, frame: &Frame) -> Result<bool, RestoreError> {
        let parts = frame.parts.iter().map(|part| part.raw);
        if parts.fold(0, usize::saturating_add) < frame.whole {
            return Ok(false);
        }
        let mut parts: Vec<_> = frame.parts.iter().collect();
        parts.sort_by_key(|part| part.from);
        self.whole.clear();
        for part in parts {
            if part.from > self.whole.len() {
                return Ok(false);
            }
            self.read(part.file, part.at, part.raw)?;
            // Two files may have the same.
            let again = &self.whole[part.from..];
            let common = again.len().min(part.raw);
            if again[..common] != self.part[..common] {
                return Ok(false);
            }
            self.whole.extend_from_slice(&self.part[common..]);
        }
        let is_whole = self.whole.len() == frame.whole;
        Ok(is_whole && blake3::hash(&self.whole).to_hex().as_str() == frame.blake3)
    }

    /// The parts of a frame that are not in their places, or that do not say by themselves what they are.
    fn lacking(&mut self, frame: &Frame, fresh: &[bool]) -> Result<Vec<Part>, RestoreError> {
        let mut lacking = Vec::new();
        for part in &frame.parts {
            let is_there = match &part.blake3 {
                Some(wanted) if !fresh[part.file] => {
                    self.read(part.file, part.at, part.raw)?;
                    blake3::hash(&self.part).to_hex().as_str() == wanted
                }
                _ => false,
            };
            if !is_there {
                lacking.push(part.clone());
            }
        }
        Ok(lacking)
    }

    fn read(&mut self, number: usize, at: u64, length: usize) -> Result<(), RestoreError> {
        let path = || {
            self.restore
                .site
                .place(&self.restore.plan.files[number].path)
        };
        let file = match self.open.take() {
            Some((open, file)) if open == number => file,
            _ => open_file(&path()).map_err(|error| read(&path())(error))?,
        };
        self.part.resize(length, 0);
        let done = file.read_exact_at(&mut self.part, at);
        done.map_err(|error| read(&path())(error))?;
        self.open = Some((number, file));
        Ok(())
    }
}

/// What no part covers is zero. Files that were made a moment ago are so already.
fn gaps(files: &[FileEntry], fetches: &[Fetch], fresh: &[bool]) -> Vec<Gap> {
    let parts = fetches
        .iter()
        .flat_map(|fetch| &fetch.frames)
        .flat_map(|frame| &frame.parts);
    let mut covered: Vec<(usize, u64, u64)> = parts
        .filter(|part| !fresh[part.file])
        .map(|part| (part.file, part.at, part.raw as u64))
        .collect();
    covered.sort_unstable();
    let mut gaps = Vec::new();
    let mut next = covered.into_iter().peekable();
    for (number, file) in files.iter().enumerate() {
        let mut at = 0;
        while let Some((_, begin, length)) = next.next_if(|(file, _, _)| *file == number) {
            if begin > at {
                gaps.push(Gap {
                    file: number,
                    at,
                    length: begin - at,
                });
            }
            at = at.max(begin + length);
        }
        if at < file.bytes && !fresh[number] && !file.is_folder {
            gaps.push(Gap {
                file: number,
                at,
                length: file.bytes - at,
            });
        }
    }
    gaps
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::map::Codec;

    fn file(path: &str, bytes: u64) -> FileEntry {
        FileEntry {
            path: path.to_owned(),
            is_folder: bytes == 0,
            bytes,
            units: Vec::new(),
        }
    }

    #[test]
    fn what_nothing_covers_is_zero() {
        let files = [
            file("a", 10),
            file("b", 0),
            file("c", 7),
            file("d", 5),
            file("e", 3),
        ];
        let part = |file, at, raw| Part {
            file,
            at,
            raw,
            from: 0,
            blake3: None,
        };
        let frame = Frame {
            offset: 0,
            stored: 1,
            whole: 1,
            codec: Codec::Plain,
            blake3: String::new(),
            parts: vec![part(2, 3, 4), part(0, 6, 2), part(0, 1, 2), part(3, 0, 1)],
        };
        let fetch = Fetch {
            pack: None,
            key: String::new(),
            start: 0,
            end: 1,
            frames: vec![frame],
        };
        let fresh = [false, false, false, true, false];
        let found = gaps(&files, &[fetch], &fresh);
        let found: Vec<_> = found.iter().map(|g| (g.file, g.at, g.length)).collect();
        let expected = [(0, 0, 1), (0, 3, 3), (0, 8, 2), (2, 0, 3), (4, 0, 3)];
        assert_eq!(found, expected);
    }

    #[test]
    fn t19_what_is_not_in_the_snapshot_is_known() {
        let files = [file("a", 1), file("b", 0), file("b-c", 1), file("d/e", 1)];
        let expected = [
            ("a", Known::File),
            ("b", Known::Folder),
            ("b/x", Known::Not),
            ("b-c", Known::File),
            ("d", Known::Folder),
            ("d/e", Known::File),
            ("d/f", Known::Not),
            ("", Known::Not),
            ("z", Known::Not),
            (MARKER, Known::File),
        ];
        for (path, known) in expected {
            assert_eq!(Known::of(&files, path), known, "{path}");
        }
    }
}
