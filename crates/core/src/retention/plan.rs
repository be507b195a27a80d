//! The decision itself.

use jiff::{Timestamp, tz::TimeZone};

use super::{Candidate, Keep, Outcome, Period, Policy, Verdict, calendar};

/// Decides about all Snapshots of one database, newest first. The order of `candidates` does not matter.
///
/// Periods without a Snapshot are not counted: three daily ones are kept also when the database rested for a year. So applying
/// the plan twice deletes nothing more. No clock is read: only a newer good Snapshot makes an older one go.
#[must_use]
pub fn plan(policy: &Policy, zone: &TimeZone, candidates: &[Candidate]) -> Vec<Verdict> {
    let mut sorted: Vec<&Candidate> = candidates.iter().collect();
    // The name decides between two of one second, so that the same input gives the same answer everywhere.
    sorted.sort_by(|a, b| (b.time, &b.name).cmp(&(a.time, &a.name)));
    let mut counters = Counters::new(policy, zone);
    let mut newest_good = None;
    let mut failures = 0;
    sorted
        .into_iter()
        .map(|candidate| {
            let mut keep = standing(candidate);
            match candidate.outcome {
                // It neither goes nor keeps one of our own from counting.
                Outcome::Good if !candidate.is_own => keep.push(Keep::Foreign),
                // It keeps no sound one from counting, and is for a person to judge.
                Outcome::Good if candidate.is_refuted => keep.push(Keep::Refuted),
                Outcome::Good => {
                    if newest_good.is_none() {
                        keep.push(Keep::NewestGood);
                    }
                    let newest = *newest_good.get_or_insert(candidate.time);
                    if policy.is_empty() {
                        keep.push(Keep::NoRule);
                    } else if candidate.is_scheduled {
                        keep.extend(counters.count(candidate.time));
                        keep.extend(within(policy, newest, candidate.time));
                    }
                }
                Outcome::Failed => {
                    failures += u32::from(candidate.is_scheduled);
                    keep.extend(failed(policy, failures));
                }
                Outcome::Unfinished => keep.push(Keep::Unfinished),
            }
            Verdict {
                name: candidate.name.clone(),
                time: candidate.time,
                keep,
                outcome: candidate.outcome,
            }
        })
        .collect()
}

/// Reasons that no policy takes away.
fn standing(candidate: &Candidate) -> Vec<Keep> {
    let mut keep = Vec::new();
    if !candidate.is_scheduled {
        keep.push(Keep::MadeByHand);
    }
    if candidate.is_pinned {
        keep.push(Keep::Pinned);
    }
    if candidate.is_in_use {
        keep.push(Keep::InUse);
    }
    keep
}

fn within(policy: &Policy, newest: Timestamp, time: Timestamp) -> Option<Keep> {
    let age = newest.duration_since(time);
    policy
        .within
        .is_some_and(|limit| age <= limit)
        .then_some(Keep::Within)
}

fn failed(policy: &Policy, rank: u32) -> Option<Keep> {
    match policy.failed {
        None => Some(Keep::NoRule),
        Some(limit) if rank <= limit => Some(Keep::FailedHistory { rank }),
        Some(_) => None,
    }
}

/// What each counting rule has kept so far, going from the newest to the oldest.
struct Counters<'a> {
    zone: &'a TimeZone,
    last: (u32, u32),
    periods: [Counter; 5],
}

struct Counter {
    rule: Period,
    limit: u32,
    kept: u32,
    current: Option<String>,
}

impl<'a> Counters<'a> {
    fn new(policy: &Policy, zone: &'a TimeZone) -> Self {
        let counter = |rule, limit| Counter {
            rule,
            limit,
            kept: 0,
            current: None,
        };
        Self {
            zone,
            last: (0, policy.last),
            periods: [
                counter(Period::Hour, policy.hourly),
                counter(Period::Day, policy.daily),
                counter(Period::Week, policy.weekly),
                counter(Period::Month, policy.monthly),
                counter(Period::Year, policy.yearly),
            ],
        }
    }

    fn count(&mut self, time: Timestamp) -> Vec<Keep> {
        let mut keep = Vec::new();
        let (kept, limit) = &mut self.last;
        if *kept < *limit {
            *kept += 1;
            keep.push(Keep::Last { rank: *kept });
        }
        for counter in &mut self.periods {
            keep.extend(counter.count(time, self.zone));
        }
        keep
    }
}

impl Counter {
    /// The newest of a period comes first, so a period that is already current has its Snapshot.
    fn count(&mut self, time: Timestamp, zone: &TimeZone) -> Option<Keep> {
        if self.kept >= self.limit {
            return None;
        }
        let label = calendar::label(self.rule, time, zone);
        if self.current.as_deref() == Some(&label) {
            return None;
        }
        self.current = Some(label.clone());
        self.kept += 1;
        Some(Keep::Period {
            rule: self.rule,
            label,
            rank: self.kept,
        })
    }
}
