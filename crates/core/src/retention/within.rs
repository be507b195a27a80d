//! Ages such as `36h`, `30d` or `1y6w`.

use jiff::SignedDuration;

/// Ages beyond this are a typing error: PostgreSQL itself is younger.
const YEARS_MAX: i64 = 100;
const HOUR: i64 = 3_600;
const DAY: i64 = 24 * HOUR;

/// Why an age is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WithinError {
    /// Nothing is there.
    #[error("is empty: write an age such as 36h, 30d, 8w or 1y")]
    ReadEmpty,
    /// A number is missing or is not one.
    #[error("{0:?} is not a whole number before a unit: write an age such as 36h, 30d, 8w or 1y")]
    ReadNumber(String),
    /// A unit is missing or unknown. Months have no fixed length, and `m` means minutes elsewhere.
    #[error(
        "unknown unit {0:?}: one of h (hours), d (days of 24 h), w (weeks), y (years of 365 days)"
    )]
    ReadUnit(String),
    /// Zero, or more than a century.
    #[error("must be more than nothing and at most {YEARS_MAX} years")]
    Bound,
}

/// Reads an age.
pub fn parse_within(text: &str) -> Result<SignedDuration, WithinError> {
    if text.is_empty() {
        return Err(WithinError::ReadEmpty);
    }
    let mut seconds: i64 = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(rest.len());
        let (number, tail) = rest.split_at(digits);
        let letters = tail
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        if number.is_empty() {
            return Err(WithinError::ReadNumber(rest.to_owned()));
        }
        let length = match unit {
            "h" => HOUR,
            "d" => DAY,
            "w" => 7 * DAY,
            "y" => 365 * DAY,
            _ => return Err(WithinError::ReadUnit(unit.to_owned())),
        };
        let count: i64 = number.parse().map_err(|_| WithinError::Bound)?;
        seconds = count
            .checked_mul(length)
            .and_then(|part| seconds.checked_add(part))
            .ok_or(WithinError::Bound)?;
        rest = tail;
    }
    if seconds == 0 || seconds > YEARS_MAX * 365 * DAY {
        return Err(WithinError::Bound);
    }
    Ok(SignedDuration::from_secs(seconds))
}
