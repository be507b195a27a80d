//! The next time of a cron expression.
//!
//! Between two changes of the zone's offset, local time runs evenly. So the search goes from one such
//! stretch to the next: a local time that a stretch does not contain is skipped (the gap in spring), one
//! that two stretches contain is found in both (the overlap in autumn).

use jiff::{
    Timestamp,
    civil::{Date, DateTime},
    tz::TimeZone,
};

use super::{Fields, Set};

/// How far ahead a time is looked for, as in cron v2.
const YEARS_MAX: i16 = 5;

/// Stretches of even local time looked through: a zone changes its offset a few times a year at most, also in odd years.
const STRETCHES_MAX: usize = 100;

pub(super) fn next_after(fields: &Fields, zone: &TimeZone, after: Timestamp) -> Option<Timestamp> {
    let mut from = Timestamp::from_second(after.as_second().checked_add(1)?).ok()?;
    if after.subsec_nanosecond() < 0 {
        // Before 1970 the whole seconds are rounded up.
        from = Timestamp::from_second(after.as_second()).ok()?;
    }
    let last_year = zone.to_datetime(after).year().checked_add(YEARS_MAX)?;
    for _ in 0..STRETCHES_MAX {
        let offset = zone.to_offset(from);
        let end = zone
            .following(from)
            .next()
            .map(|transition| transition.timestamp());
        let found = next_local(fields, offset.to_datetime(from), last_year)
            .and_then(|local| offset.to_timestamp(local).ok());
        match (found, end) {
            (Some(found), Some(end)) if found >= end => from = end,
            (Some(found), _) => return Some(found),
            (None, Some(end)) if zone.to_datetime(end).year() <= last_year => from = end,
            (None, _) => return None,
        }
    }
    None
}

/// The first matching local time at or after `from`, until the end of `last_year`.
fn next_local(fields: &Fields, from: DateTime, last_year: i16) -> Option<DateTime> {
    let mut date = from.date();
    let mut start = (
        u32_of(from.hour()),
        u32_of(from.minute()),
        u32_of(from.second()),
    );
    while date.year() <= last_year {
        let is_month = fields.month.contains(u32_of(date.month()));
        if is_month
            && day_matches(fields, date)
            && let Some((hour, minute, second)) = next_time(fields, start)
        {
            return Some(date.at(i8_of(hour), i8_of(minute), i8_of(second), 0));
        }
        date = if is_month {
            date.tomorrow()
        } else {
            date.last_of_month().tomorrow()
        }
        .ok()?;
        start = (0, 0, 0);
    }
    None
}

/// Both day fields must match when one of them is a star, else one of them suffices.
fn day_matches(fields: &Fields, date: Date) -> bool {
    let by_date = fields.day_of_month.contains(u32_of(date.day()));
    let by_weekday = fields
        .day_of_week
        .contains(u32_of(date.weekday().to_sunday_zero_offset()));
    if fields.day_of_month.star || fields.day_of_week.star {
        by_date && by_weekday
    } else {
        by_date || by_weekday
    }
}

/// The first matching time of day at or after `start`.
fn next_time(fields: &Fields, start: (u32, u32, u32)) -> Option<(u32, u32, u32)> {
    let hour = fields.hour.at_or_after(start.0)?;
    if hour == start.0 {
        if let Some((minute, second)) = next_pair(fields.minute, fields.second, start.1, start.2) {
            return Some((hour, minute, second));
        }
        let hour = fields.hour.at_or_after(hour + 1)?;
        return next_pair(fields.minute, fields.second, 0, 0).map(|(m, s)| (hour, m, s));
    }
    next_pair(fields.minute, fields.second, 0, 0).map(|(m, s)| (hour, m, s))
}

fn next_pair(high: Set, low: Set, from_high: u32, from_low: u32) -> Option<(u32, u32)> {
    let first = high.at_or_after(from_high)?;
    if first == from_high {
        if let Some(second) = low.at_or_after(from_low) {
            return Some((first, second));
        }
        return Some((high.at_or_after(first + 1)?, low.at_or_after(0)?));
    }
    Some((first, low.at_or_after(0)?))
}

/// Parts of a civil time are never negative.
fn u32_of(part: i8) -> u32 {
    u32::try_from(part).unwrap_or_default()
}

/// Bits of a field are below 60.
fn i8_of(value: u32) -> i8 {
    i8::try_from(value).unwrap_or_default()
}
