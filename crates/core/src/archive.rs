//! An archive of WAL: what its files are called, and what their names tell.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use crate::{
    lsn::{Lsn, TimelineId},
    tail::Tail,
};

/// A file that PostgreSQL gives to its archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WalFile {
    /// A whole segment.
    Segment(Segment),
    /// The beginning of a segment that a promotion broke off.
    Partial(Segment),
    /// Where a timeline came from.
    History(TimelineId),
    /// What a backup left for people to read.
    Label(Segment),
}

/// A segment of WAL: its timeline, and its number on all timelines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Segment {
    /// Timeline it was written on.
    pub timeline: TimelineId,
    /// Number, counted from the beginning of all WAL.
    pub number: u64,
}

impl Segment {
    /// Name of its file.
    #[must_use]
    pub fn name(self, segment_bytes: u64) -> String {
        self.timeline.segment_name(self.number, segment_bytes)
    }

    /// First byte.
    #[must_use]
    pub fn start(self, segment_bytes: u64) -> Lsn {
        Lsn(self.number.saturating_mul(segment_bytes))
    }

    /// The byte behind its last one.
    #[must_use]
    pub fn end(self, segment_bytes: u64) -> Lsn {
        Lsn(self.number.saturating_add(1).saturating_mul(segment_bytes))
    }
}

/// First missing segment of each hole between segments of the same timeline, as far as they end at `before`: what is newer may be on its way. `waits` has
/// what is known to wait; it will come.
#[must_use]
pub fn gaps(
    there: &BTreeSet<Segment>,
    waits: &BTreeSet<Segment>,
    before: Lsn,
    segment_bytes: u64,
) -> Vec<Segment> {
    let settled = there
        .iter()
        .filter(|segment| segment.end(segment_bytes) <= before);
    let mut last: Option<Segment> = None;
    let mut gaps = Vec::new();
    for segment in settled {
        if let Some(last) = last.filter(|last| last.timeline == segment.timeline)
            && last.number + 1 < segment.number
        {
            let missing = Segment {
                number: last.number + 1,
                ..last
            };
            if !waits.contains(&missing) {
                gaps.push(missing);
            }
        }
        last = Some(*segment);
    }
    gaps
}

impl WalFile {
    /// Reads a name as PostgreSQL writes it; anything else is none of its files. Timelines and numbers are hexadecimal.
    #[must_use]
    pub fn read(name: &str, segment_bytes: u64) -> Option<Self> {
        let (stem, end) = match name.split_once('.') {
            Some((stem, end)) => (stem, Some(end)),
            None => (name, None),
        };
        if end == Some("history") {
            let timeline = hex(stem, 8).filter(|timeline| *timeline > 0)?;
            return Some(Self::History(TimelineId(timeline)));
        }
        let segment = segment(stem, segment_bytes)?;
        match end {
            None => Some(Self::Segment(segment)),
            Some("partial") => Some(Self::Partial(segment)),
            Some(rest) => {
                hex(rest.strip_suffix(".backup")?, 8)?;
                Some(Self::Label(segment))
            }
        }
    }
}

fn segment(stem: &str, segment_bytes: u64) -> Option<Segment> {
    let (timeline, rest) = stem.split_at_checked(8)?;
    let (log, part) = rest.split_at_checked(8)?;
    let (timeline, log, part) = (hex(timeline, 8)?, hex(log, 8)?, hex(part, 8)?);
    let per_log = 0x1_0000_0000_u64.checked_div(segment_bytes)?;
    let is_valid = timeline > 0 && u64::from(part) < per_log;
    is_valid.then(|| Segment {
        timeline: TimelineId(timeline),
        number: u64::from(log) * per_log + u64::from(part),
    })
}

/// Exactly so many hexadecimal digits, in capitals as PostgreSQL writes them.
fn hex(text: &str, digits: usize) -> Option<u32> {
    let is_hex = text.len() == digits
        && text
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'A'..=b'F'));
    is_hex.then(|| u32::from_str_radix(text, 16).ok()).flatten()
}

/// A line of a history: the timeline that was left, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Switch {
    /// The timeline.
    pub timeline: TimelineId,
    /// Where the next one began.
    pub at: Lsn,
}

/// Reads a history file. A line that cannot be read makes all of it worthless.
#[must_use]
pub fn read_history(text: &str) -> Option<Vec<Switch>> {
    let lines = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    let switches: Option<Vec<Switch>> = lines
        .map(|line| {
            let mut words = line.split_whitespace();
            let timeline = words.next()?.parse().ok().filter(|number| *number > 0)?;
            Some(Switch {
                timeline: TimelineId(timeline),
                at: words.next()?.parse().ok()?,
            })
        })
        .collect();
    // As PostgreSQL demands it: in rising order.
    switches.filter(|switches| {
        switches
            .windows(2)
            .all(|pair| pair[0].timeline < pair[1].timeline && pair[0].at <= pair[1].at)
    })
}

/// What an archive holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holdings {
    /// Whole segments, and when each was stored, by the store's clock.
    pub segments: BTreeMap<Segment, Timestamp>,
    /// Segments of which the beginning is there.
    pub tails: BTreeMap<Segment, Tail>,
    /// Histories, by the timeline that each leads to.
    pub histories: BTreeMap<TimelineId, Vec<Switch>>,
}

impl Holdings {
    /// Timelines of which there is anything, in order.
    #[must_use]
    pub fn timelines(&self) -> Vec<TimelineId> {
        let mut timelines: Vec<TimelineId> = self
            .segments
            .keys()
            .chain(self.tails.keys())
            .map(|segment| segment.timeline)
            .chain(self.histories.keys().copied())
            .collect();
        timelines.sort_unstable();
        timelines.dedup();
        timelines
    }

    /// Whether no WAL is there at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty() && self.tails.is_empty()
    }
}

/// From where on WAL is kept: what the earliest Snapshot needs that recovery can begin from. `begins` are the starts of those in the archive's store,
/// `told` the earliest of those in any store, where somebody knows. Without any Snapshot all is kept: one may be on its way.
#[must_use]
pub fn keep_from(begins: impl IntoIterator<Item = Lsn>, told: Option<Lsn>) -> Option<Lsn> {
    begins.into_iter().chain(told).min()
}

impl WalFile {
    /// Whether nothing from `keep` on is in it. Histories are kept for ever: they are small, and without one nothing of its timeline can come back.
    #[must_use]
    pub fn is_before(self, keep: Lsn, segment_bytes: u64) -> bool {
        match self {
            Self::Segment(segment) | Self::Partial(segment) | Self::Label(segment) => {
                segment.end(segment_bytes) <= keep
            }
            Self::History(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: u64 = 16 << 20;

    fn at(timeline: u32, number: u64) -> Segment {
        Segment {
            timeline: TimelineId(timeline),
            number,
        }
    }

    #[test]
    fn only_what_will_not_come_any_more_is_a_gap() {
        const BYTES: u64 = 16 << 20;
        let of = |all: &[(u32, u64)]| -> BTreeSet<Segment> {
            let segments = all.iter().map(|(timeline, number)| Segment {
                timeline: TimelineId(*timeline),
                number: *number,
            });
            segments.collect()
        };
        let there = of(&[(1, 3), (1, 4), (1, 7), (2, 7), (2, 9), (2, 11)]);
        let found = |waits: &[(u32, u64)], before: u64| {
            let gaps = gaps(&there, &of(waits), Lsn(before * BYTES), BYTES);
            gaps.iter()
                .map(|gap| (gap.timeline.0, gap.number))
                .collect::<Vec<_>>()
        };
        // A new timeline begins anywhere.
        assert_eq!(found(&[], 99), [(1, 5), (2, 8), (2, 10)]);
        assert_eq!(found(&[(2, 8), (2, 10)], 99), [(1, 5)]);
        // The eleventh may have overtaken the tenth.
        assert_eq!(found(&[], 11), [(1, 5), (2, 8)]);
        assert_eq!(gaps(&BTreeSet::new(), &BTreeSet::new(), Lsn(0), BYTES), []);
    }

    #[test]
    fn t10_names_are_read_as_the_hexadecimal_numbers_that_they_are() {
        let read = |name: &str| WalFile::read(name, BYTES);
        assert_eq!(
            read("0000000A00000001000000FF"),
            Some(WalFile::Segment(at(10, 511)))
        );
        assert_eq!(at(10, 511).name(BYTES), "0000000A00000001000000FF");
        assert_eq!(
            read("00000002000000000000000B.partial"),
            Some(WalFile::Partial(at(2, 11)))
        );
        assert_eq!(
            read("0000001A.history"),
            Some(WalFile::History(TimelineId(26)))
        );
        assert_eq!(
            read("000000010000000000000003.00000028.backup"),
            Some(WalFile::Label(at(1, 3)))
        );
    }

    #[test]
    fn what_postgresql_never_writes_is_none_of_its_files() {
        for name in [
            "",
            "000000010000000000000003.gz",
            "000000010000000000000003.",
            "00000001000000000000003",
            "0000000100000000000000030",
            "000000010000000000000100",
            "000000000000000000000003",
            "0000000a0000000000000003",
            "+00000010000000000000003",
            "../../../../../../etc/shadow",
            "00000000.history",
            "1A.history",
            "000000010000000000000003.zz.backup",
            "00000001000000000000000é",
        ] {
            assert_eq!(WalFile::read(name, BYTES), None, "{name}");
        }
        assert_eq!(WalFile::read("000000010000000000000003", 0), None);
    }

    #[test]
    fn t13_i08_wal_is_kept_for_the_earliest_snapshot_and_histories_for_ever() {
        let keep = keep_from([Lsn(7 * BYTES + 40), Lsn(5 * BYTES + 40)], None).unwrap();
        let goes = |name: &str| WalFile::read(name, BYTES).unwrap().is_before(keep, BYTES);
        assert!(goes("000000010000000000000004"));
        assert!(goes("000000030000000000000004.partial"));
        assert!(goes("000000010000000000000004.00000028.backup"));
        assert!(!goes("000000010000000000000005"));
        assert!(!goes("00000002.history"));
        // One that lies in another store counts too.
        assert_eq!(keep_from([Lsn(9)], Some(Lsn(3))), Some(Lsn(3)));
        assert_eq!(keep_from([], Some(Lsn(3))), Some(Lsn(3)));
        assert_eq!(keep_from([], None), None);
    }

    #[test]
    fn a_history_is_read_whole_or_not_at_all() {
        let text =
            "1\t0/3000060\tno recovery target specified\n\n2\t1/5000098\tbefore 2026-11-26\n";
        let switches = read_history(text).unwrap();
        assert_eq!(switches.len(), 2);
        assert_eq!(switches[1].at.to_string(), "1/5000098");
        assert_eq!(read_history(""), Some(Vec::new()));
        for bad in [
            "x\t0/1\t",
            "1\n",
            "0\t0/1\n",
            "2\t0/2\n1\t0/3\n",
            "1\t0/9\n2\t0/3\n",
        ] {
            assert_eq!(read_history(bad), None, "{bad:?}");
        }
    }
}
