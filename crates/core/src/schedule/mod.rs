//! When a Snapshot is due: the robfig/cron v2 dialect.
//!
//! Departures from v2 are on purpose: what would hang or never fire is refused, and zones whose offset is not
//! a whole number of hours are computed rightly. Daylight saving is as in v2: a time in the gap is skipped,
//! a time in the overlap fires twice.

mod every;
mod explain;
mod next;
mod parse;
pub mod plan;
mod queue;

use jiff::{SignedDuration, Timestamp, tz::TimeZone};

pub use parse::{Field, ScheduleError};
pub use queue::ScheduleQueue;

/// A parsed schedule.
#[derive(Clone, Debug)]
pub struct Schedule {
    kind: Kind,
    zone: TimeZone,
    text: String,
    identity: String,
}

#[derive(Clone, Debug)]
enum Kind {
    Cron(Fields),
    Every(SignedDuration),
}

/// The allowed values of each field, a bit each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fields {
    second: Set,
    minute: Set,
    hour: Set,
    day_of_month: Set,
    month: Set,
    day_of_week: Set,
}

/// Allowed values of one field. `star` says that the field held `*` or `?`, which decides how days combine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Set {
    bits: u64,
    star: bool,
}

impl Set {
    fn contains(self, value: u32) -> bool {
        self.bits & (1 << value) != 0
    }

    /// The smallest allowed value that is at least `from`.
    fn at_or_after(self, from: u32) -> Option<u32> {
        let rest = self.bits.checked_shr(from)?;
        (rest != 0).then(|| from + rest.trailing_zeros())
    }

    fn values(self) -> impl Iterator<Item = u32> {
        (0..64).filter(move |value| self.contains(*value))
    }
}

impl Schedule {
    /// Reads an expression. `zone` is an IANA name that applies unless the expression names one itself; default UTC.
    pub fn parse(expression: &str, zone: Option<&str>) -> Result<Self, ScheduleError> {
        parse::parse(expression, zone)
    }

    /// The first time strictly after `after`. `None` where none comes within five years.
    #[must_use]
    pub fn next_after(&self, after: Timestamp) -> Option<Timestamp> {
        match &self.kind {
            Kind::Cron(fields) => next::next_after(fields, &self.zone, after),
            Kind::Every(interval) => every::next_unanchored(*interval, after),
        }
    }

    /// Like `next_after`, but an interval is counted from `anchor`: the first anchor + k × interval after `after`, k ≥ 1.
    #[must_use]
    pub fn next_anchored(&self, anchor: Timestamp, after: Timestamp) -> Option<Timestamp> {
        match &self.kind {
            Kind::Cron(_) => self.next_after(after),
            Kind::Every(interval) => every::next_anchored(*interval, anchor, after),
        }
    }

    /// The interval of an `@every` expression.
    #[must_use]
    pub fn interval(&self) -> Option<SignedDuration> {
        match self.kind {
            Kind::Cron(_) => None,
            Kind::Every(interval) => Some(interval),
        }
    }

    /// The expression in words.
    #[must_use]
    pub fn explain(&self) -> String {
        explain::explain(self)
    }

    /// Expression and zone in one, with the zone as a prefix: what is equal fires at the same times.
    #[must_use]
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// The zone that its fields, and the days of a calendar, are those of.
    #[must_use]
    pub fn zone(&self) -> &TimeZone {
        &self.zone
    }

    /// The expression as it was given.
    #[must_use]
    pub fn expression(&self) -> &str {
        &self.text
    }
}
