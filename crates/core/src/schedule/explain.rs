//! A schedule in words.

use super::{Fields, Kind, Schedule, Set};

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = [
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
];

/// More values than this are counted, not listed.
const LISTED_MAX: usize = 8;

pub(super) fn explain(schedule: &Schedule) -> String {
    let zone = schedule.zone.iana_name().unwrap_or("UTC");
    match &schedule.kind {
        Kind::Every(interval) => format!(
            "every {} after the run before",
            duration(interval.as_secs())
        ),
        Kind::Cron(fields) => format!("{}{} ({zone})", times(fields), days(fields)),
    }
}

fn duration(seconds: i64) -> String {
    let parts = [
        (seconds / 3600, "hour"),
        (seconds / 60 % 60, "minute"),
        (seconds % 60, "second"),
    ];
    let words: Vec<String> = parts
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, unit)| format!("{count} {unit}{}", if count == 1 { "" } else { "s" }))
        .collect();
    words.join(" ")
}

fn times(fields: &Fields) -> String {
    let (hours, minutes, seconds) = (list(fields.hour), list(fields.minute), list(fields.second));
    if hours.len() * minutes.len() * seconds.len() <= LISTED_MAX {
        let mut clock = Vec::new();
        for hour in &hours {
            for minute in &minutes {
                for second in &seconds {
                    clock.push(match second {
                        0 => format!("{hour:02}:{minute:02}"),
                        _ => format!("{hour:02}:{minute:02}:{second:02}"),
                    });
                }
            }
        }
        return format!("at {}", clock.join(", "));
    }
    let mut words = Vec::new();
    if seconds != [0] {
        words.push(part(&seconds, 60, "second"));
    }
    words.push(part(&minutes, 60, "minute"));
    words.push(part(&hours, 24, "hour"));
    words.join(" of ")
}

fn part(values: &[u32], whole: usize, unit: &str) -> String {
    if values.len() == whole {
        return format!("every {unit}");
    }
    let (first, step) = match values {
        [first, second, ..] => (*first, second - first),
        [one] => return format!("{unit} {one}"),
        [] => return format!("no {unit}"),
    };
    let is_even = values.windows(2).all(|pair| pair[1] - pair[0] == step);
    let last = values.last().copied().unwrap_or(first);
    if is_even && step == 1 {
        format!("each {unit} from {first} to {last}")
    } else if is_even && values.len() > 2 {
        format!("every {step} {unit}s from {first} to {last}")
    } else {
        let texts: Vec<String> = values.iter().map(u32::to_string).collect();
        format!("{unit}s {}", texts.join(", "))
    }
}

fn days(fields: &Fields) -> String {
    let all_dates = list(fields.day_of_month).len() == 31;
    let all_days = list(fields.day_of_week).len() == 7;
    let dates = format!(
        "on {}",
        part(&list(fields.day_of_month), 31, "day of the month")
    );
    let weekdays = format!("on {}", names(fields.day_of_week, &DAYS, 0));
    let and = fields.day_of_month.star || fields.day_of_week.star;
    let day = match (all_dates, all_days) {
        (true, true) => ", every day".to_owned(),
        (true, false) if and => format!(", {weekdays}"),
        (false, true) if and => format!(", {dates}"),
        (false, false) if and => format!(", {dates} that is also {weekdays}"),
        // Two restricted fields: either suffices, and one of them is every day.
        (true, _) | (_, true) => ", every day".to_owned(),
        (false, false) => format!(", {dates} and also {weekdays}"),
    };
    if list(fields.month).len() == 12 {
        day
    } else {
        format!("{day}, in {}", names(fields.month, &MONTHS, 1))
    }
}

fn names(set: Set, names: &[&str], first: u32) -> String {
    let chosen: Vec<&str> = (first..)
        .zip(names)
        .filter(|(value, _)| set.contains(*value))
        .map(|(_, name)| *name)
        .collect();
    chosen.join(", ")
}

fn list(set: Set) -> Vec<u32> {
    set.values().collect()
}
