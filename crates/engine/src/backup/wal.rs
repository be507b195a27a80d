//! The WAL that makes a backup consistent, copied out of the server's own folder.

use std::{fs::File, path::Path};

use kubedb_core::lsn::{Lsn, TimelineId};

use super::{
    error::BackupError,
    read::{Content, Encoder, UNIT, read_at},
};

/// Bytes of a WAL page in every build we run.
const PAGE: usize = 8_192;

/// Offset of the page's own position in its header.
const POSITION: usize = 8;

/// Offset of the system identifier in the longer header of a segment's first page.
const IDENTIFIER: usize = 24;

/// What is to be copied.
#[derive(Clone, Copy, Debug)]
pub(super) struct Range {
    pub(super) start: Lsn,
    pub(super) stop: Lsn,
    pub(super) timeline: TimelineId,
    pub(super) segment_bytes: u64,
    pub(super) system_identifier: u64,
}

impl Range {
    /// Numbers and names of the segments.
    pub(super) fn segments(self) -> impl Iterator<Item = (u64, String)> {
        let name = move |number| {
            let name = self.timeline.segment_name(number, self.segment_bytes);
            (number, name)
        };
        self.start
            .segments_until(self.stop, self.segment_bytes)
            .map(name)
    }

    /// Reads one stretch of a segment from `at` on, and checks it. What lies behind the stop is not of this backup and becomes zero, which is
    /// where a recovery stops reading. Blocks.
    pub(super) fn read(
        self,
        folder: &Path,
        number: u64,
        name: &str,
        at: u64,
    ) -> Result<(usize, Option<Content>), BackupError> {
        let fail = |reason: String| BackupError::Wal {
            segment: name.to_owned(),
            reason,
        };
        let file = File::open(folder.join(name)).map_err(|error| fail(error.to_string()))?;
        let length = file
            .metadata()
            .map_err(|error| fail(error.to_string()))?
            .len();
        if length != self.segment_bytes {
            return Err(fail(format!(
                "it has {length} bytes instead of {}",
                self.segment_bytes
            )));
        }
        let wanted = (self.segment_bytes - at).min(UNIT as u64);
        let mut buffer = vec![0; usize::try_from(wanted).unwrap_or(UNIT)];
        let read = read_at(&file, &mut buffer, at).map_err(|error| fail(error.to_string()))?;
        if read != buffer.len() {
            return Err(fail("it became shorter meanwhile".to_owned()));
        }
        let begin = number * self.segment_bytes + at;
        let kept = usize::try_from(self.stop.0.saturating_sub(begin)).unwrap_or(usize::MAX);
        buffer.iter_mut().skip(kept).for_each(|byte| *byte = 0);
        self.check(&buffer, begin, kept).map_err(fail)?;
        let content = Encoder::new().and_then(|mut encoder| encoder.encode(&buffer));
        let content = content.map_err(|source| BackupError::Compress {
            path: name.to_owned(),
            source,
        })?;
        Ok((read, content))
    }

    /// Every page up to the stop says where it belongs, which one of a recycled segment would not. Behind the switch to another segment pages are
    /// zero, headers included (from 11 on), and so are all that follow; the page that the stop is in never is.
    fn check(self, buffer: &[u8], begin: u64, kept: usize) -> Result<(), String> {
        let mut is_switched = false;
        for (number, page) in (0_u64..).zip(buffer.chunks(PAGE)) {
            let position = begin + number * PAGE as u64;
            let end = position + PAGE as u64;
            let is_header = position.is_multiple_of(self.segment_bytes);
            // Pages before the start are not read by a recovery, but for the header of the segment.
            let is_early = end <= self.start.0 && !is_header;
            if number * (PAGE as u64) >= kept as u64 || is_early {
                continue;
            }
            let is_last = end > self.stop.0;
            let is_zero = page.iter().all(|byte| *byte == 0);
            if is_zero && !is_header && !is_last {
                is_switched = true;
                continue;
            }
            let found = Lsn(u64_at(page, POSITION).unwrap_or_default());
            if found.0 != position || is_switched {
                return Err(format!("page {} says that it is {found}", Lsn(position)));
            }
            if is_header && u64_at(page, IDENTIFIER) != Some(self.system_identifier) {
                return Err("it belongs to another cluster".to_owned());
            }
        }
        Ok(())
    }
}

/// Checks pages of a segment of 1 MiB, as of timeline 1 of system 7.
pub(crate) fn check(pages: &[u8], begin: u64, start: u64, stop: u64) -> Result<(), String> {
    let range = Range {
        start: Lsn(start),
        stop: Lsn(stop),
        timeline: TimelineId(1),
        segment_bytes: 1 << 20,
        system_identifier: 7,
    };
    let kept = usize::try_from(stop.saturating_sub(begin)).unwrap_or(usize::MAX);
    range.check(pages, begin, kept)
}

fn u64_at(page: &[u8], at: usize) -> Option<u64> {
    let bytes = page.get(at..at + 8)?;
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT: u64 = 1 << 20;

    fn range(stop: u64) -> Range {
        Range {
            start: Lsn(SEGMENT + 40),
            stop: Lsn(stop),
            timeline: TimelineId(1),
            segment_bytes: SEGMENT,
            system_identifier: 7,
        }
    }

    /// Pages 0 to `written` of segment 1, the rest zero.
    fn segment(written: usize) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(SEGMENT).unwrap()];
        for (number, page) in bytes.chunks_mut(PAGE).enumerate().take(written) {
            let position = SEGMENT + (number * PAGE) as u64;
            page[POSITION..POSITION + 8].copy_from_slice(&position.to_le_bytes());
            page[IDENTIFIER] = 7;
        }
        bytes
    }

    fn check(stop: u64, bytes: &[u8]) -> Result<(), String> {
        let kept = usize::try_from(stop - SEGMENT).unwrap();
        range(stop).check(bytes, SEGMENT, kept)
    }

    #[test]
    fn wal_is_whole_up_to_the_stop_or_to_a_switch() {
        let page = PAGE as u64;
        assert_eq!(check(SEGMENT + 3 * page + 100, &segment(4)), Ok(()));
        assert_eq!(check(SEGMENT + 3 * page, &segment(3)), Ok(()));
        // The stop lies in a page that is not there.
        assert!(check(SEGMENT + 3 * page + 100, &segment(3)).is_err());
        // A switch: zero up to the next segment, which is the stop.
        assert_eq!(check(2 * SEGMENT, &segment(3)), Ok(()));
        // A hole is no switch.
        let mut hole = segment(5);
        hole[2 * PAGE..3 * PAGE].fill(0);
        assert!(check(SEGMENT + 5 * page, &hole).is_err());
        // Recycled, and of another cluster.
        let mut old = segment(3);
        old[PAGE + POSITION] ^= 1;
        assert!(check(SEGMENT + 3 * page, &old).is_err());
        let mut other = segment(3);
        other[IDENTIFIER] = 8;
        assert!(check(SEGMENT + 3 * page, &other).is_err());
    }
}
