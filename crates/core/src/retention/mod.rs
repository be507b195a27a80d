//! Which Snapshots are kept and which may go, each with its reasons.
//!
//! One pure function serves the operator, which deletes, and the dry run, which only prints. Rules only ever add reasons to keep:
//! a Snapshot goes when no rule speaks for it. The newest good Snapshot is kept whatever the rules say, and an empty policy
//! deletes nothing, so no typing error can empty a store.

mod calendar;
mod plan;
mod within;

use std::fmt;

use jiff::{SignedDuration, Timestamp};

pub use plan::plan;
pub use within::{WithinError, parse_within};

/// How many Snapshots each rule keeps. Zero switches a rule off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// The newest ones.
    pub last: u32,
    /// The newest of each of the newest hours that have one.
    pub hourly: u32,
    /// The same by day.
    pub daily: u32,
    /// The same by ISO week.
    pub weekly: u32,
    /// The same by month.
    pub monthly: u32,
    /// The same by year.
    pub yearly: u32,
    /// All that are at most this much older than the newest good one: while backups fail, the ones there are do not run out.
    pub within: Option<SignedDuration>,
    /// Failed ones, the newest first; they hold no data, only the reason of the failure.
    pub failed: Option<u32>,
}

impl Policy {
    /// Whether no rule says what is kept of the good ones; then all are.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let counts = [
            self.last,
            self.hourly,
            self.daily,
            self.weekly,
            self.monthly,
            self.yearly,
        ];
        counts.iter().all(|count| *count == 0) && self.within.is_none()
    }
}

/// What retention knows of a Snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its name.
    pub name: String,
    /// The time that it stands for: its tick, or when it was made.
    pub time: Timestamp,
    /// How it ended.
    pub outcome: Outcome,
    /// Made by the schedule. What a person made, a person deletes.
    pub is_scheduled: bool,
    /// A person said that it stays.
    pub is_pinned: bool,
    /// A database is being restored from it.
    pub is_in_use: bool,
    /// A verification has proven that it is not what it should be. It counts for no good one, and stays until somebody has looked.
    pub is_refuted: bool,
    /// Known to hold the data of this database, and not of another one that had its name.
    pub is_own: bool,
}

/// How a Snapshot ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It can be restored.
    Good,
    /// It failed.
    Failed,
    /// It is Pending, Running, or nobody knows.
    Unfinished,
}

/// A reason to keep a Snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keep {
    /// The schedule did not make it.
    MadeByHand,
    /// It is pinned.
    Pinned,
    /// A restore reads it.
    InUse,
    /// Nobody knows that it holds this database's data.
    Foreign,
    /// It has not ended.
    Unfinished,
    /// Its verification failed.
    Refuted,
    /// No rule says what is kept.
    NoRule,
    /// The newest good one.
    NewestGood,
    /// One of the newest.
    Last {
        /// Counted from 1.
        rank: u32,
    },
    /// The newest of its period.
    Period {
        /// Which rule.
        rule: Period,
        /// The period, as a person writes it.
        label: String,
        /// Counted from 1.
        rank: u32,
    },
    /// Not older than the policy says.
    Within,
    /// One of the newest failed ones.
    FailedHistory {
        /// Counted from 1.
        rank: u32,
    },
}

/// Periods of the calendar, in the schedule's time zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Period {
    /// An hour.
    Hour,
    /// A day.
    Day,
    /// An ISO week.
    Week,
    /// A month.
    Month,
    /// A year.
    Year,
}

/// What becomes of one Snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Its name.
    pub name: String,
    /// The time that it stands for.
    pub time: Timestamp,
    /// Why it is kept; empty when it may go.
    pub keep: Vec<Keep>,
    /// Whether it failed, which decides the words for why it goes.
    pub outcome: Outcome,
}

impl Verdict {
    /// Whether it may go.
    #[must_use]
    pub fn is_expired(&self) -> bool {
        self.keep.is_empty()
    }

    /// Why, in words.
    #[must_use]
    pub fn reason(&self) -> String {
        if self.keep.is_empty() {
            return match self.outcome {
                Outcome::Failed => "more recent failures are on record".to_owned(),
                _ => "no rule keeps it".to_owned(),
            };
        }
        let words: Vec<String> = self.keep.iter().map(ToString::to_string).collect();
        words.join(", ")
    }
}

impl fmt::Display for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MadeByHand => f.write_str("made by hand"),
            Self::Pinned => f.write_str("pinned"),
            Self::InUse => f.write_str("a restore reads it"),
            Self::Foreign => f.write_str("not known to be of this database's data"),
            Self::Unfinished => f.write_str("not finished"),
            Self::Refuted => f.write_str("its verification failed: for a person to judge"),
            Self::NoRule => f.write_str("no rule is set"),
            Self::NewestGood => f.write_str("the newest good one"),
            Self::Last { rank } => write!(f, "last #{rank}"),
            Self::Period { rule, label, rank } => write!(f, "{rule} #{rank} ({label})"),
            Self::Within => f.write_str("recent enough"),
            Self::FailedHistory { rank } => write!(f, "failure #{rank}"),
        }
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hour => "hourly",
            Self::Day => "daily",
            Self::Week => "weekly",
            Self::Month => "monthly",
            Self::Year => "yearly",
        })
    }
}
