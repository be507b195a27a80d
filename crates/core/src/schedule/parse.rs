//! From text to a schedule, or to the field that is wrong and why.

use std::fmt;

use jiff::tz::TimeZone;

use super::{Fields, Kind, Schedule, Set, every};

/// A field of an expression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// 0 to 59.
    Second,
    /// 0 to 59.
    Minute,
    /// 0 to 23.
    Hour,
    /// 1 to 31.
    DayOfMonth,
    /// 1 to 12, or JAN to DEC.
    Month,
    /// 0 (Sunday) to 6, or SUN to SAT.
    DayOfWeek,
}

const MONTHS: [&str; 12] = [
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// Days of each month in a leap year: what can ever be.
const DAYS_IN_MONTH: [u32; 12] = [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];

impl Field {
    fn bounds(self) -> (u32, u32) {
        match self {
            Self::Second | Self::Minute => (0, 59),
            Self::Hour => (0, 23),
            Self::DayOfMonth => (1, 31),
            Self::Month => (1, 12),
            Self::DayOfWeek => (0, 6),
        }
    }

    fn named(self, text: &str) -> Option<u32> {
        let (names, first): (&[&str], u32) = match self {
            Self::Month => (&MONTHS, 1),
            Self::DayOfWeek => (&DAYS, 0),
            _ => return None,
        };
        let lower = text.to_lowercase();
        (first..)
            .zip(names)
            .find(|(_, name)| **name == lower)
            .map(|(value, _)| value)
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Second => "second",
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::DayOfMonth => "day of month",
            Self::Month => "month",
            Self::DayOfWeek => "day of week",
        })
    }
}

/// Why an expression is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// Nothing there.
    #[error(
        "the expression is empty: give five fields (minute hour day-of-month month day-of-week), six with seconds first, or a descriptor such as @daily or @every 6h"
    )]
    Empty,
    /// Neither five nor six fields.
    #[error(
        "the expression has {found} fields: give five (minute hour day-of-month month day-of-week), or six with seconds first"
    )]
    CountFields {
        /// How many there are.
        found: usize,
    },
    /// One field is wrong.
    #[error("{field} {text:?}: {reason}")]
    ReadField {
        /// Which one.
        field: Field,
        /// What stands there.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No such descriptor.
    #[error(
        "descriptor {text:?} is not known: one of @yearly, @annually, @monthly, @weekly, @daily, @midnight, @hourly, @every DURATION (in lower case, nothing around it)"
    )]
    ReadDescriptor {
        /// What stands there.
        text: String,
    },
    /// `@every` with an interval that is none.
    #[error("interval {text:?}: {reason}")]
    ReadInterval {
        /// What stands there.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No such zone.
    #[error("time zone {text:?}: {reason}")]
    ReadZone {
        /// What stands there.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Both the field and the prefix.
    #[error("time zone: give either timeZone or a TZ= prefix, not both")]
    ChooseZone,
    /// No such day in any year.
    #[error(
        "day of month: no month that is chosen has such a day, so the schedule would never fire"
    )]
    NeverFires,
}

pub(super) fn parse(expression: &str, zone: Option<&str>) -> Result<Schedule, ScheduleError> {
    if expression.trim().is_empty() {
        return Err(ScheduleError::Empty);
    }
    let (prefix, rest) = split_zone(expression)?;
    let given = zone.filter(|name| !name.is_empty());
    let zone = match (prefix, given) {
        (Some(_), Some(_)) => return Err(ScheduleError::ChooseZone),
        (Some(name), None) | (None, Some(name)) => find_zone(name)?,
        (None, None) => TimeZone::UTC,
    };
    let kind = if rest.starts_with('@') {
        descriptor(rest)?
    } else {
        Kind::Cron(fields(rest)?)
    };
    Ok(Schedule {
        identity: match given {
            Some(given) => format!("TZ={given} {expression}"),
            None => expression.to_owned(),
        },
        kind,
        zone,
        text: expression.to_owned(),
    })
}

/// Splits `TZ=Asia/Tokyo 0 5 * * *` into zone and rest.
fn split_zone(expression: &str) -> Result<(Option<&str>, &str), ScheduleError> {
    let Some(after) = expression.strip_prefix("TZ=") else {
        return Ok((None, expression));
    };
    let Some((name, rest)) = after.split_once(' ') else {
        return Err(ScheduleError::ReadZone {
            text: after.to_owned(),
            reason: "a space and the schedule must follow it".to_owned(),
        });
    };
    let rest = rest.trim();
    if rest.is_empty() {
        return Err(ScheduleError::Empty);
    }
    Ok((Some(name), rest))
}

/// Names are matched exactly, as the time-zone database spells them.
fn find_zone(name: &str) -> Result<TimeZone, ScheduleError> {
    if matches!(name, "" | "UTC" | "Local") {
        return Ok(TimeZone::UTC);
    }
    let unknown = |reason: String| ScheduleError::ReadZone {
        text: name.to_owned(),
        reason,
    };
    let zone = TimeZone::get(name).map_err(|_| {
        unknown("not in the time-zone database (write it as Europe/Berlin)".to_owned())
    })?;
    match zone.iana_name() {
        Some(exact) if exact != name => Err(unknown(format!("write it as {exact}"))),
        _ => Ok(zone),
    }
}

fn descriptor(text: &str) -> Result<Kind, ScheduleError> {
    let line = match text {
        "@yearly" | "@annually" => "0 0 0 1 1 *",
        "@monthly" => "0 0 0 1 * *",
        "@weekly" => "0 0 0 * * 0",
        "@daily" | "@midnight" => "0 0 0 * * *",
        "@hourly" => "0 0 * * * *",
        _ => {
            let Some(interval) = text.strip_prefix("@every ") else {
                return Err(ScheduleError::ReadDescriptor {
                    text: text.to_owned(),
                });
            };
            return every::parse(interval).map(Kind::Every).map_err(|reason| {
                ScheduleError::ReadInterval {
                    text: interval.to_owned(),
                    reason,
                }
            });
        }
    };
    fields(line).map(Kind::Cron)
}

fn fields(text: &str) -> Result<Fields, ScheduleError> {
    let mut words: Vec<&str> = text.split_whitespace().collect();
    match words.len() {
        5 => words.insert(0, "0"),
        6 => {}
        found => return Err(ScheduleError::CountFields { found }),
    }
    let fields = Fields {
        second: field(Field::Second, words[0])?,
        minute: field(Field::Minute, words[1])?,
        hour: field(Field::Hour, words[2])?,
        day_of_month: field(Field::DayOfMonth, words[3])?,
        month: field(Field::Month, words[4])?,
        day_of_week: field(Field::DayOfWeek, words[5])?,
    };
    if can_fire(&fields) {
        Ok(fields)
    } else {
        Err(ScheduleError::NeverFires)
    }
}

/// Two restricted day fields combine by "or", and a weekday always comes; otherwise the day must exist in a chosen month.
fn can_fire(fields: &Fields) -> bool {
    let either = !fields.day_of_month.star && !fields.day_of_week.star;
    let first_day = fields.day_of_month.at_or_after(1).unwrap_or(u32::MAX);
    either
        || (1..)
            .zip(DAYS_IN_MONTH)
            .any(|(month, days)| fields.month.contains(month) && first_day <= days)
}

fn field(field: Field, text: &str) -> Result<Set, ScheduleError> {
    let wrong = |reason: String| ScheduleError::ReadField {
        field,
        text: text.to_owned(),
        reason,
    };
    let mut set = Set::default();
    for item in text.split(',').filter(|item| !item.is_empty()) {
        let part = item_set(field, item).map_err(wrong)?;
        set.bits |= part.bits;
        set.star |= part.star;
    }
    if set.bits == 0 {
        return Err(wrong(
            "it names no value, so the schedule would never fire".to_owned(),
        ));
    }
    Ok(set)
}

/// One item: `*`, `?`, a value or a range, each with an optional step.
fn item_set(field: Field, item: &str) -> Result<Set, String> {
    let (minimum, maximum) = field.bounds();
    let parts: Vec<&str> = item.split('/').collect();
    let (range, step) = match parts.as_slice() {
        [range] => (*range, None),
        [range, step] => (
            *range,
            Some(number(step).map_err(|e| format!("step {step:?} {e}"))?),
        ),
        _ => return Err("more than one slash".to_owned()),
    };
    if step == Some(0) {
        return Err("a step of 0 would never end".to_owned());
    }
    let ends: Vec<&str> = range.split('-').collect();
    let star = matches!(ends.first(), Some(&("*" | "?")));
    let (low, high) = match ends.as_slice() {
        _ if star => (minimum, maximum),
        [one] => {
            let low = value(field, one)?;
            (low, if step.is_some() { maximum } else { low })
        }
        [low, high] => (value(field, low)?, value(field, high)?),
        _ => return Err("more than one hyphen".to_owned()),
    };
    if low < minimum {
        return Err(format!("{low} is below {minimum}"));
    }
    if high > maximum {
        return Err(format!("{high} is above {maximum}"));
    }
    if low > high {
        return Err(format!(
            "the range begins at {low}, after its end {high}; ranges do not wrap"
        ));
    }
    let step = usize::try_from(step.unwrap_or(1)).unwrap_or(usize::MAX);
    let bits = (low..=high)
        .step_by(step)
        .fold(0, |bits, value| bits | 1 << value);
    Ok(Set { bits, star })
}

fn value(field: Field, text: &str) -> Result<u32, String> {
    match field.named(text) {
        Some(value) => Ok(value),
        None => number(text).map_err(|e| format!("{text:?} {e}")),
    }
}

/// A whole number, with an optional plus sign and leading zeros, as Go reads it.
fn number(text: &str) -> Result<u32, String> {
    let digits = text.strip_prefix('+').unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("is not a whole number".to_owned());
    }
    // A step may be as large as Go's int; beyond every field's end they are all the same.
    digits
        .parse::<i64>()
        .map(|number| u32::try_from(number).unwrap_or(u32::MAX))
        .map_err(|_| "is too large".to_owned())
}
