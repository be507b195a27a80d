//! Which earlier Snapshot a new one may refer to, instead of storing again what has not changed since.
//!
//! A page that says it was last changed before the earlier Snapshot began is taken from there. That holds where both were taken on one history: every
//! change that either holds is part of what this server has replayed or written, and each of them moved the page's LSN.

use crate::lsn::{Lsn, ReadLsnError};

/// Most lines of a history that are read: nobody promotes more often.
const SWITCHES: usize = 10_000;

/// Where a history left one of its earlier timelines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Switch {
    /// The timeline that was left.
    pub timeline: u32,
    /// What lies before this position is common.
    pub at: Lsn,
}

/// Why a history file says nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadHistoryError {
    /// A line does not begin with a number and a position.
    #[error("failed to read the history of timelines: line {line:?}")]
    Line {
        /// The line.
        line: String,
    },
    /// A position is none.
    #[error("failed to read the history of timelines")]
    Position(#[from] ReadLsnError),
    /// More than anybody writes.
    #[error("failed to read the history of timelines: it has more than {SWITCHES} lines")]
    Long,
}

/// What decides whether pages of two Snapshots can be exchanged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Make {
    /// Identifier of the cluster.
    pub system_identifier: String,
    /// Lineage of the database.
    pub lineage: String,
    /// Layout of the catalogs: another one is another major.
    pub catalog_version: u32,
    /// Bytes of a page.
    pub page_bytes: u32,
    /// Pages in one file of a relation.
    pub segment_pages: u32,
    /// Bytes of a WAL segment; only pg_resetwal changes it.
    pub wal_segment_bytes: u32,
    /// Whether pages carry checksums.
    pub data_checksums: bool,
}

/// An earlier Snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Earlier {
    /// Its cluster.
    pub make: Make,
    /// Its timeline.
    pub timeline: u32,
    /// Where its recovery begins: all changes before are in its pages.
    pub start: Lsn,
    /// Changes up to here may be in its pages.
    pub stop: Lsn,
}

/// The server that is being backed up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Now {
    /// Its cluster.
    pub make: Make,
    /// Its timeline.
    pub timeline: u32,
    /// Where that came from, in the order of the history file.
    pub history: Vec<Switch>,
    /// What it has written or replayed at least.
    pub reached: Lsn,
    /// Where its WAL began anew after the last pg_resetwal that is known of.
    pub reset: Option<Lsn>,
}

/// Why an earlier Snapshot cannot be referred to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// It is of another cluster.
    #[error("it is of another cluster")]
    System,
    /// The database was made anew.
    #[error("it is of an earlier database of this name")]
    Lineage,
    /// Another major or build.
    #[error("it is of another major version or build")]
    Build,
    /// Checksums were switched.
    #[error("data checksums were switched on or off since")]
    Checksums,
    /// The WAL was begun anew.
    #[error("pg_resetwal was run since")]
    Reset,
    /// Its timeline is none of ours.
    #[error("its timeline {timeline} is not among those that this server came by")]
    Foreign {
        /// Its timeline.
        timeline: u32,
    },
    /// Ours left its timeline before its end.
    #[error("this server left its timeline at {left}, before its end at {stop}")]
    Left {
        /// Where ours left.
        left: Lsn,
        /// Its end.
        stop: Lsn,
    },
    /// It holds what this server does not have yet.
    #[error("it ends at {stop}, this server is only at {reached}")]
    Ahead {
        /// Its end.
        stop: Lsn,
        /// Where this server is.
        reached: Lsn,
    },
}

/// Reads a history file: a line for each timeline that was left, with comments and empty lines between.
pub fn read_history(text: &str) -> Result<Vec<Switch>, ReadHistoryError> {
    let mut switches = Vec::new();
    for line in text.lines().map(str::trim) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if switches.len() == SWITCHES {
            return Err(ReadHistoryError::Long);
        }
        let mut words = line.split_whitespace();
        let timeline = words.next().and_then(|word| word.parse().ok());
        let (Some(timeline), Some(at)) = (timeline, words.next()) else {
            return Err(ReadHistoryError::Line {
                line: line.chars().take(100).collect(),
            });
        };
        let at = at.parse()?;
        switches.push(Switch { timeline, at });
    }
    Ok(switches)
}

/// Whether pages of `earlier` stand for those of this server that have not changed since its start.
///
/// Its *stop* and not its start must lie before the point where our history left its timeline: its pages may hold everything up to there, and
/// what was written after that point on a timeline that we did not follow is in no WAL of ours that would put it right.
pub fn judge(earlier: &Earlier, now: &Now) -> Result<(), Unusable> {
    let (theirs, ours) = (&earlier.make, &now.make);
    if theirs.system_identifier != ours.system_identifier {
        return Err(Unusable::System);
    }
    if theirs.lineage != ours.lineage {
        return Err(Unusable::Lineage);
    }
    let is_same_build = theirs.catalog_version == ours.catalog_version
        && theirs.page_bytes == ours.page_bytes
        && theirs.segment_pages == ours.segment_pages;
    if !is_same_build {
        return Err(Unusable::Build);
    }
    if theirs.data_checksums != ours.data_checksums {
        return Err(Unusable::Checksums);
    }
    let is_reset = theirs.wal_segment_bytes != ours.wal_segment_bytes
        || now.reset.is_some_and(|reset| earlier.start < reset);
    if is_reset {
        return Err(Unusable::Reset);
    }
    follows(earlier, now)?;
    let (stop, reached) = (earlier.stop, now.reached);
    if stop > reached {
        return Err(Unusable::Ahead { stop, reached });
    }
    Ok(())
}

fn follows(earlier: &Earlier, now: &Now) -> Result<(), Unusable> {
    if earlier.timeline == now.timeline {
        return Ok(());
    }
    let timeline = earlier.timeline;
    let since = now
        .history
        .iter()
        .position(|left| left.timeline == timeline);
    let since = since.ok_or(Unusable::Foreign { timeline })?;
    let stop = earlier.stop;
    match now.history[since..].iter().find(|left| left.at < stop) {
        Some(left) => Err(Unusable::Left {
            left: left.at,
            stop,
        }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make() -> Make {
        Make {
            system_identifier: "7".to_owned(),
            lineage: "l".to_owned(),
            catalog_version: 1,
            page_bytes: 8_192,
            segment_pages: 131_072,
            wal_segment_bytes: 16 << 20,
            data_checksums: true,
        }
    }

    fn earlier(timeline: u32, start: u64, stop: u64) -> Earlier {
        Earlier {
            make: make(),
            timeline,
            start: Lsn(start),
            stop: Lsn(stop),
        }
    }

    fn now(timeline: u32, history: &str, reached: u64) -> Now {
        Now {
            make: make(),
            timeline,
            history: read_history(history).unwrap(),
            reached: Lsn(reached),
            reset: None,
        }
    }

    #[test]
    fn t16_only_a_snapshot_of_the_same_history_is_a_base() {
        assert_eq!(judge(&earlier(1, 10, 20), &now(1, "", 20)), Ok(()));
        let history = "1\t0/20\tno recovery target specified\n\n# two\n2\t0/40\tx\n";
        let here = now(3, history, 0x60);
        assert_eq!(judge(&earlier(1, 0x10, 0x20), &here), Ok(()));
        assert_eq!(judge(&earlier(2, 0x30, 0x40), &here), Ok(()));
        assert_eq!(judge(&earlier(3, 0x50, 0x60), &here), Ok(()));
        // Begun before the switch, ended after it: its pages may hold what we never had.
        let left = judge(&earlier(1, 0x10, 0x21), &here).unwrap_err();
        assert_eq!(
            left,
            Unusable::Left {
                left: Lsn(0x20),
                stop: Lsn(0x21)
            }
        );
        assert_eq!(
            judge(&earlier(4, 0x50, 0x55), &here),
            Err(Unusable::Foreign { timeline: 4 })
        );
        // A switchpoint further on that lies lower: our history went back behind it.
        let back = now(3, "1\t0/40\n2\t0/20\n", 0x60);
        assert!(matches!(
            judge(&earlier(1, 0x10, 0x30), &back),
            Err(Unusable::Left { .. })
        ));
        assert!(matches!(
            judge(&earlier(1, 10, 21), &now(1, "", 20)),
            Err(Unusable::Ahead { .. })
        ));
    }

    #[test]
    fn t16_another_cluster_build_setting_or_wal_is_no_base() {
        type Change = fn(&mut Make);
        let changes: [(Change, Unusable); 7] = [
            (|make| make.system_identifier += "0", Unusable::System),
            (|make| make.lineage += "0", Unusable::Lineage),
            (|make| make.catalog_version += 1, Unusable::Build),
            (|make| make.page_bytes *= 2, Unusable::Build),
            (|make| make.segment_pages *= 2, Unusable::Build),
            (|make| make.data_checksums = false, Unusable::Checksums),
            (|make| make.wal_segment_bytes *= 2, Unusable::Reset),
        ];
        for (change, why) in changes {
            let mut other = earlier(1, 10, 20);
            change(&mut other.make);
            assert_eq!(judge(&other, &now(1, "", 20)), Err(why));
        }
        let mut reset = now(1, "", 20);
        reset.reset = Some(Lsn(11));
        assert_eq!(judge(&earlier(1, 10, 20), &reset), Err(Unusable::Reset));
        reset.reset = Some(Lsn(10));
        assert_eq!(judge(&earlier(1, 10, 20), &reset), Ok(()));
    }

    #[test]
    fn what_is_no_history_is_refused() {
        for bad in ["one 0/1", "1", "1 x", "-1 0/1"] {
            assert!(read_history(bad).is_err(), "{bad}");
        }
        assert!(read_history(&"1 0/1\n".repeat(SWITCHES + 1)).is_err());
    }
}
