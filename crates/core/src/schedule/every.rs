//! `@every`: Go's durations, and counting from an anchor.

use jiff::{SignedDuration, Timestamp};

/// Units of Go's durations in nanoseconds; longer names first, so that `ms` is not read as `m`.
const UNITS: [(&str, f64); 8] = [
    ("ns", 1.0),
    ("us", 1e3),
    ("µs", 1e3),
    ("μs", 1e3),
    ("ms", 1e6),
    ("s", 1e9),
    ("m", 60e9),
    ("h", 3600e9),
];

/// Go's durations end here: 2^63 nanoseconds.
const NANOSECONDS_MAX: f64 = 9_223_372_036_854_775_807.0;

/// Reads a duration such as `1h30m`, cut to whole seconds, at least one.
pub(super) fn parse(text: &str) -> Result<SignedDuration, String> {
    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Err("it must be longer than zero".to_owned());
    }
    if rest.is_empty() {
        return Err("a duration such as 6h or 1h30m must stand here".to_owned());
    }
    let mut total = 0.0;
    while !rest.is_empty() {
        let (part, tail) = part(rest)?;
        total += part;
        rest = tail;
    }
    if total > NANOSECONDS_MAX {
        return Err("it is longer than 292 years".to_owned());
    }
    if negative || total <= 0.0 {
        return Err("it must be longer than zero".to_owned());
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "checked against 2^63 above"
    )]
    let seconds = (total / 1e9 + 1e-9) as i64;
    Ok(SignedDuration::from_secs(seconds.max(1)))
}

/// One number with its unit, in nanoseconds, and what follows.
fn part(text: &str) -> Result<(f64, &str), String> {
    let end = text
        .find(|c: char| !(c.is_ascii_digit() || c == '.'))
        .ok_or_else(|| format!("a unit (h, m, s) is missing after {text:?}"))?;
    let (digits, tail) = text.split_at(end);
    let has_digit = digits.bytes().any(|byte| byte.is_ascii_digit());
    let number = digits.parse::<f64>().ok().filter(|_| has_digit);
    let number = number.ok_or_else(|| format!("{digits:?} is not a number"))?;
    let unit_end = tail
        .find(|c: char| c.is_ascii_digit() || c == '.')
        .unwrap_or(tail.len());
    let (unit, rest) = tail.split_at(unit_end);
    let (_, size) = UNITS
        .into_iter()
        .find(|(name, _)| *name == unit)
        .ok_or_else(|| format!("{unit:?} is not a unit: one of h, m, s, ms, us, ns"))?;
    Ok((number * size, rest))
}

/// As cron v2: whole seconds, one interval after `after`.
pub(super) fn next_unanchored(interval: SignedDuration, after: Timestamp) -> Option<Timestamp> {
    let whole = Timestamp::from_second(after.as_second()).ok()?;
    whole.checked_add(interval).ok()
}

/// The first anchor + k × interval that is after `after`, k ≥ 1, without walking there.
pub(super) fn next_anchored(
    interval: SignedDuration,
    anchor: Timestamp,
    after: Timestamp,
) -> Option<Timestamp> {
    let step = interval.as_secs().max(1);
    let start = anchor.as_second();
    let passed = after.as_second().checked_sub(start)?;
    let count = passed.div_euclid(step).checked_add(1)?.max(1);
    Timestamp::from_second(start.checked_add(step.checked_mul(count)?)?).ok()
}
