//! Periods of the calendar. Days begin at midnight of the schedule's zone, weeks on Monday.

use jiff::{Timestamp, tz::TimeZone};

use super::Period;

/// The period that a time lies in, as a person writes it. Two times share a period exactly when they share this text.
pub(super) fn label(period: Period, time: Timestamp, zone: &TimeZone) -> String {
    let local = time.to_zoned(zone.clone());
    match period {
        // The offset tells the two hours of one name apart when clocks go back.
        Period::Hour => local.strftime("%Y-%m-%d %H:00%:z").to_string(),
        Period::Day => local.strftime("%Y-%m-%d").to_string(),
        Period::Week => {
            let week = local.date().iso_week_date();
            format!("{}-W{:02}", week.year(), week.week())
        }
        Period::Month => local.strftime("%Y-%m").to_string(),
        Period::Year => local.strftime("%Y").to_string(),
    }
}
