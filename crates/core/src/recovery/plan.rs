//! Where a recovery begins and how far it can come, found out before anything is written.

use jiff::{SignedDuration, Timestamp};

use super::target::{Goal, Target};
use crate::{
    archive::{Holdings, Segment, Switch},
    lsn::{Lsn, TimelineId},
    tail::Tail,
};

/// How far the clocks of a store and of a database may be apart before a time counts as out of reach.
const CLOCKS_APART: SignedDuration = SignedDuration::from_mins(5);

/// A Snapshot that a recovery can begin from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    /// Name of the Snapshot.
    pub snapshot: String,
    /// Key of its manifest.
    pub manifest: String,
    /// When all that it holds had been committed.
    pub created: Timestamp,
    /// Timeline it was taken on.
    pub timeline: TimelineId,
    /// Where its replay begins.
    pub start: Lsn,
    /// Where it is consistent.
    pub stop: Lsn,
    /// From here on WAL is needed of the archive: a Snapshot brings along what it needs until it is consistent, other backups bring nothing.
    pub archived_from: Lsn,
    /// Size of the database.
    pub bytes: u64,
}

/// A recovery that can be tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveryPlan {
    /// Where it begins.
    pub base: Base,
    /// Timeline that is followed.
    pub timeline: TimelineId,
    /// The last segment that is archived without a gap; none where the Snapshot is all there is.
    pub last: Option<Segment>,
    /// Where the archived WAL ends, if only the beginning of the last segment is there.
    pub tail: Option<Lsn>,
    /// Segments to fetch until there.
    pub segments: u64,
    /// Timelines on the way, each with the position at which it begins.
    pub path: Vec<Switch>,
    /// Replay must come here at least: the Snapshot is consistent, and every segment but the last is whole.
    pub at_least: Lsn,
    /// When the last segment was stored: nothing later can come back.
    pub latest: Timestamp,
    /// Why this Snapshot.
    pub reason: String,
}

impl RecoveryPlan {
    fn no_wal(&self, target: &Target) -> PlanError {
        PlanError::NoWal {
            target: target.to_string(),
            snapshot: self.base.snapshot.clone(),
            stop: self.base.stop,
        }
    }

    /// The segments behind the Snapshot, in order.
    pub fn needed(&self, segment_bytes: u64) -> impl Iterator<Item = Segment> + '_ {
        let first = self.base.archived_from.segment(segment_bytes);
        let numbers = self.last.map(|last| first..=last.number);
        numbers
            .into_iter()
            .flatten()
            .filter_map(move |number| segment_of(&self.path, number, segment_bytes))
    }
}

/// Why there is no plan. Each says what can be done instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// No Snapshot at all.
    #[error("no Snapshot of this database lies in {place}, and recovery begins from one")]
    NoBase {
        /// Where was looked.
        place: String,
    },
    /// The Snapshot that was named is not there.
    #[error("Snapshot {name} is not there; there are: {}", known.join(", "))]
    UnknownBase {
        /// The name.
        name: String,
        /// Those that are.
        known: Vec<String>,
    },
    /// The Snapshot that was named holds rows.
    #[error(
        "Snapshot {name} is logical, so no WAL can be replayed behind it; name one of method Physical"
    )]
    LogicalBase {
        /// The name.
        name: String,
    },
    /// The target lies before every Snapshot.
    #[error(
        "{target} lies before the Snapshot that recovery would begin from ({snapshot}, complete at {created}, LSN {stop}): the earliest that can come back is that"
    )]
    TooEarly {
        /// The target.
        target: String,
        /// The earliest Snapshot.
        snapshot: String,
        /// When it was complete.
        created: Timestamp,
        /// Where it was consistent.
        stop: Lsn,
    },
    /// The target lies behind everything archived.
    #[error(
        "{target} lies behind what is archived: the last segment, {last}, was stored at {latest}"
    )]
    TooLate {
        /// The target.
        target: String,
        /// Name of the last segment.
        last: String,
        /// When it was stored.
        latest: Timestamp,
    },
    /// Nothing is archived behind the Snapshot.
    #[error(
        "{target} lies behind what is archived: there is no WAL behind Snapshot {snapshot} (LSN {stop}). Without a target the Snapshot itself comes back"
    )]
    NoWal {
        /// The target.
        target: String,
        /// The Snapshot.
        snapshot: String,
        /// Where it ends.
        stop: Lsn,
    },
    /// A segment is missing in between.
    #[error(
        "segment {missing} is missing in the archive, and later ones are there: without it nothing behind LSN {reachable} can come back. Aim at that LSN or before, or begin from a later Snapshot"
    )]
    Gap {
        /// Its name.
        missing: String,
        /// Where the WAL ends before it.
        reachable: Lsn,
    },
    /// A backup brings no WAL along, and the archive does not have what it needs.
    #[error(
        "base backup {snapshot} is consistent at LSN {stop}, and segment {missing} of the WAL until there is not in the archive: without it the backup is of no use. Begin from another one"
    )]
    NotConsistent {
        /// The backup.
        snapshot: String,
        /// Where it would be consistent.
        stop: Lsn,
        /// The first segment that is missing.
        missing: String,
    },
    /// A timeline has no history.
    #[error(
        "the archive has WAL of timeline {timeline} and no history of it ({name}), so that nobody can tell where it began; name a timeline to follow another one"
    )]
    NoHistory {
        /// The timeline.
        timeline: u32,
        /// Name of the missing file.
        name: String,
    },
    /// The timeline that was asked for does not come from the Snapshot.
    #[error(
        "timeline {timeline} is not one that Snapshot {snapshot} (timeline {own}, LSN {stop}) leads to{}",
        others(known)
    )]
    Timeline {
        /// What was asked for.
        timeline: u32,
        /// The Snapshot.
        snapshot: String,
        /// Its timeline.
        own: u32,
        /// Where it ends.
        stop: Lsn,
        /// Those that it does lead to.
        known: Vec<u32>,
    },
}

fn others(known: &[u32]) -> String {
    if known.is_empty() {
        return String::new();
    }
    let known: Vec<String> = known.iter().map(u32::to_string).collect();
    format!("; it leads to {}", known.join(", "))
}

/// Chooses the Snapshot and the timeline, and follows the WAL as far as it goes. `bases` and `holdings` are of one lineage; `wanted` names a Snapshot;
/// until `covered` everything is archived, as somebody knows; `place` is where was looked, in words.
pub fn plan(
    bases: &[Base],
    holdings: &Holdings,
    target: &Target,
    wanted: Option<&str>,
    covered: Option<Timestamp>,
    segment_bytes: u64,
    place: &str,
) -> Result<RecoveryPlan, PlanError> {
    let (base, reason) = choose(bases, holdings, target, wanted, place)?;
    let timeline = follow(base, holdings, target)?;
    let path = path(base, holdings, timeline);
    let reach = reach(base, holdings, &path, segment_bytes);
    let plan = RecoveryPlan {
        timeline,
        last: reach.last,
        tail: reach
            .tail
            .map(|tail| tail.end_lsn(reach.start(segment_bytes))),
        segments: reach.segments,
        at_least: reach
            .last
            .map_or(base.stop, |last| base.stop.max(last.start(segment_bytes))),
        latest: reach
            .last
            .and_then(|last| holdings.segments.get(&last).copied())
            .or(reach.tail.map(|tail| tail.stored))
            .unwrap_or(base.created)
            .max(base.created),
        base: base.clone(),
        path,
        reason,
    };
    check_consistent(&plan, &reach, segment_bytes)?;
    // An archive in which nothing ever was is no proof that nothing came behind the Snapshot.
    if target.goal == Goal::Latest && holdings.is_empty() {
        return Err(plan.no_wal(target));
    }
    check_reach(&plan, &reach, target, covered, segment_bytes)?;
    Ok(plan)
}

/// The Snapshot to begin from.
fn choose<'a>(
    bases: &'a [Base],
    holdings: &Holdings,
    target: &Target,
    wanted: Option<&str>,
    place: &str,
) -> Result<(&'a Base, String), PlanError> {
    let mut bases: Vec<&Base> = bases.iter().collect();
    bases.sort_by_key(|base| (base.stop, base.created));
    if let Some(name) = wanted {
        let found = bases.iter().rfind(|base| base.snapshot == name);
        let base = found.ok_or_else(|| PlanError::UnknownBase {
            name: name.to_owned(),
            known: bases.iter().map(|base| base.snapshot.clone()).collect(),
        })?;
        check_early(base, target)?;
        return Ok((base, "it was asked for".to_owned()));
    }
    let Some(first) = bases.first().copied() else {
        return Err(PlanError::NoBase {
            place: place.to_owned(),
        });
    };
    let leads = |base: &&&Base| {
        target
            .timeline
            .is_none_or(|timeline| descends(base, holdings, timeline))
    };
    let suited: Vec<&Base> = bases.iter().filter(leads).copied().collect();
    let Some(earliest) = suited.first().copied() else {
        follow(bases.last().copied().unwrap_or(first), holdings, target)?;
        return Ok((first, String::new()));
    };
    match &target.goal {
        // Where a transaction or a restore point lies is known to replay alone, so that it begins as early as it can.
        Goal::Xid(_) | Goal::Name(_) => Ok((
            earliest,
            "it is the earliest, and where the target lies is found by replay alone".to_owned(),
        )),
        _ => {
            let before = suited
                .iter()
                .rfind(|base| check_early(base, target).is_ok());
            match before {
                Some(base) => Ok((base, "it is the latest before the target".to_owned())),
                None => check_early(earliest, target).map(|()| (earliest, String::new())),
            }
        }
    }
}

/// Whether the target lies behind the Snapshot: PostgreSQL would pass over one that does not, and say nothing.
fn check_early(base: &Base, target: &Target) -> Result<(), PlanError> {
    let is_early = match target.goal {
        Goal::Time(time) => time < base.created,
        Goal::Lsn(lsn) => lsn < base.stop,
        _ => false,
    };
    if is_early {
        return Err(PlanError::TooEarly {
            target: target.to_string(),
            snapshot: base.snapshot.clone(),
            created: base.created,
            stop: base.stop,
        });
    }
    Ok(())
}

/// Whether a timeline goes on from the Snapshot.
fn descends(base: &Base, holdings: &Holdings, timeline: TimelineId) -> bool {
    timeline == base.timeline
        || holdings.histories.get(&timeline).is_some_and(|history| {
            history
                .iter()
                .any(|switch| switch.timeline == base.timeline && switch.at >= base.stop)
        })
}

/// The timeline to follow: the one that was asked for, else the latest that goes on from the Snapshot.
fn follow(base: &Base, holdings: &Holdings, target: &Target) -> Result<TimelineId, PlanError> {
    let timelines = holdings.timelines();
    let known: Vec<TimelineId> = timelines
        .iter()
        .copied()
        .filter(|timeline| descends(base, holdings, *timeline))
        .collect();
    if let Some(timeline) = target.timeline {
        if descends(base, holdings, timeline) {
            return Ok(timeline);
        }
        return Err(PlanError::Timeline {
            timeline: timeline.0,
            snapshot: base.snapshot.clone(),
            own: base.timeline.0,
            stop: base.stop,
            known: known.iter().map(|timeline| timeline.0).collect(),
        });
    }
    // It may be the one that everybody went on with.
    let unknown = timelines
        .iter()
        .find(|timeline| **timeline > base.timeline && !holdings.histories.contains_key(timeline));
    if let Some(timeline) = unknown
        && !matches!(target.goal, Goal::Immediate)
    {
        return Err(PlanError::NoHistory {
            timeline: timeline.0,
            name: timeline.history_name(),
        });
    }
    Ok(known.last().copied().unwrap_or(base.timeline))
}

/// Timelines from the Snapshot's to the followed one, each with the position at which it begins.
fn path(base: &Base, holdings: &Holdings, timeline: TimelineId) -> Vec<Switch> {
    let mut path = vec![Switch {
        timeline: base.timeline,
        at: Lsn(0),
    }];
    let history = holdings.histories.get(&timeline).into_iter().flatten();
    let later: Vec<&Switch> = history
        .filter(|switch| switch.timeline >= base.timeline)
        .collect();
    for (number, switch) in later.iter().enumerate() {
        path.push(Switch {
            timeline: later.get(number + 1).map_or(timeline, |next| next.timeline),
            at: switch.at,
        });
    }
    path
}

/// How far the archive goes on from a Snapshot.
struct Reach<'a> {
    last: Option<Segment>,
    /// What there is of the last segment, if it is not whole.
    tail: Option<&'a Tail>,
    segments: u64,
    /// A segment that is missing although a later one is there.
    missing: Option<Segment>,
}

impl Reach<'_> {
    /// Where the last segment begins.
    fn start(&self, segment_bytes: u64) -> Lsn {
        self.last.map_or(Lsn(0), |last| last.start(segment_bytes))
    }
}

/// The segment of a number that recovery would read: of the latest timeline that has begun by then, as PostgreSQL chooses it.
fn segment_of(path: &[Switch], number: u64, segment_bytes: u64) -> Option<Segment> {
    let entry = path
        .iter()
        .rfind(|switch| switch.at.segment(segment_bytes) <= number)?;
    Some(Segment {
        timeline: entry.timeline,
        number,
    })
}

fn reach<'a>(
    base: &Base,
    holdings: &'a Holdings,
    path: &[Switch],
    segment_bytes: u64,
) -> Reach<'a> {
    // The byte behind the stop is the first that the Snapshot lacks.
    let first = base.archived_from.segment(segment_bytes);
    let on_path =
        |segment: &Segment| segment_of(path, segment.number, segment_bytes) == Some(*segment);
    // The Snapshot's own WAL goes further than one that ends before it.
    let goes_on =
        |segment: &Segment, tail: &Tail| tail.end_lsn(segment.start(segment_bytes)) > base.stop;
    let tails = holdings
        .tails
        .iter()
        .filter(|(segment, tail)| goes_on(segment, tail));
    let end = holdings
        .segments
        .keys()
        .chain(tails.map(|(segment, _)| segment))
        .filter(|segment| segment.number >= first && on_path(segment))
        .map(|segment| segment.number)
        .max();
    let mut reach = Reach {
        last: None,
        tail: None,
        segments: 0,
        missing: None,
    };
    let Some(end) = end else { return reach };
    for number in first..=end {
        let Some(segment) = segment_of(path, number, segment_bytes) else {
            break;
        };
        let is_whole = holdings.segments.contains_key(&segment);
        let tail = holdings.tails.get(&segment);
        let tail = tail.filter(|tail| !is_whole && goes_on(&segment, tail));
        if is_whole || tail.is_some() {
            (reach.last, reach.tail) = (Some(segment), tail);
            reach.segments += 1;
        }
        // Behind a beginning nothing can come back either.
        if !is_whole && (tail.is_none() || number < end) {
            reach.missing = Some(segment);
            break;
        }
    }
    reach
}

/// Whether the archive has what a backup needs that brings no WAL along.
fn check_consistent(
    plan: &RecoveryPlan,
    reach: &Reach<'_>,
    segment_bytes: u64,
) -> Result<(), PlanError> {
    let base = &plan.base;
    if base.archived_from >= base.stop {
        return Ok(());
    }
    let end = plan.last.map(|last| last.end(segment_bytes));
    if end.is_some_and(|end| end >= base.stop) {
        return Ok(());
    }
    let next = match plan.last {
        Some(last) => last.number + 1,
        None => base.archived_from.segment(segment_bytes),
    };
    let missing = reach
        .missing
        .or_else(|| segment_of(&plan.path, next, segment_bytes));
    Err(PlanError::NotConsistent {
        snapshot: base.snapshot.clone(),
        stop: base.stop,
        missing: missing.map_or_else(String::new, |missing| missing.name(segment_bytes)),
    })
}

fn check_reach(
    plan: &RecoveryPlan,
    reach: &Reach<'_>,
    target: &Target,
    covered: Option<Timestamp>,
    segment_bytes: u64,
) -> Result<(), PlanError> {
    let latest = covered.map_or(plan.latest, |covered| covered.max(plan.latest));
    let whole = plan
        .last
        .map_or(plan.base.stop, |last| last.end(segment_bytes));
    let end = plan.tail.unwrap_or(whole);
    let is_within = match target.goal {
        Goal::Immediate => return Ok(()),
        Goal::Lsn(lsn) => lsn <= end,
        Goal::Time(time) => {
            time <= latest
                .saturating_add(CLOCKS_APART)
                .unwrap_or(Timestamp::MAX)
        }
        Goal::Latest | Goal::Xid(_) | Goal::Name(_) => true,
    };
    // A transaction or a restore point may lie before the gap; replay finds out. The end of the archive does not.
    let needs_all = matches!(target.goal, Goal::Latest) || !is_within;
    if let Some(missing) = reach.missing.filter(|_| needs_all) {
        return Err(PlanError::Gap {
            missing: missing.name(segment_bytes),
            reachable: end,
        });
    }
    match (is_within, plan.last) {
        (true, _) => Ok(()),
        (false, Some(last)) => Err(PlanError::TooLate {
            target: target.to_string(),
            last: last.name(segment_bytes),
            latest: plan.latest,
        }),
        (false, None) => Err(plan.no_wal(target)),
    }
}

#[cfg(test)]
mod tests;
