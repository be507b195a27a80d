//! How long the disk lasts while WAL cannot be archived: PostgreSQL keeps all of it, and stops when there is no room.

use jiff::{SignedDuration, Timestamp};
use kubedb_core::lsn::Lsn;

/// Before this nobody knows how much is written.
const SETTLED: SignedDuration = SignedDuration::from_mins(1);
/// What is further away than this is no news.
const FAR: SignedDuration = SignedDuration::from_hours(30 * 24);
/// The moment is a guess, and told no closer than this.
const STEP_SECONDS: i64 = 300;
/// A guess that moves by less than this part of what is left is the same guess: each that is told is written by the agent and by the operator.
const NEWS: u32 = 10;

/// How the WAL has grown since archiving fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Growth {
    since: Option<(Timestamp, Lsn)>,
    now: Option<(Timestamp, Lsn)>,
    told: Option<Timestamp>,
}

impl Growth {
    /// Notes where the primary is.
    pub(crate) fn note(&mut self, is_failing: bool, at: Timestamp, lsn: Lsn) {
        if is_failing {
            self.since.get_or_insert((at, lsn));
            self.now = Some((at, lsn));
        } else {
            *self = Self::default();
        }
    }

    /// When the bytes that are free are full, if it goes on like that. They are asked for where that matters.
    pub(crate) fn full_time(
        &mut self,
        free_bytes: impl FnOnce() -> Option<u64>,
    ) -> Option<Timestamp> {
        let guess = self.guess(free_bytes);
        let is_news = match (self.told, guess, self.now) {
            (Some(told), Some(guess), Some((now, _))) => {
                let left = guess.duration_since(now).unsigned_abs();
                told.duration_since(guess).unsigned_abs() > left / NEWS
            }
            _ => true,
        };
        if is_news {
            self.told = guess;
        }
        self.told
    }

    fn guess(&self, free_bytes: impl FnOnce() -> Option<u64>) -> Option<Timestamp> {
        let ((begun, from), (now, to)) = (self.since?, self.now?);
        let elapsed = now.duration_since(begun);
        let written = to.0.checked_sub(from.0).filter(|written| *written > 0)?;
        if elapsed < SETTLED {
            return None;
        }
        let seconds = u128::from(free_bytes()?) * elapsed.as_millis().unsigned_abs()
            / (u128::from(written) * 1_000);
        let left = SignedDuration::from_secs(i64::try_from(seconds).ok()?);
        let full = now
            .checked_add(left)
            .ok()
            .filter(|_| left <= FAR)?
            .as_second();
        Timestamp::from_second(full - full.rem_euclid(STEP_SECONDS)).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1 << 20;

    fn at(minutes: i64) -> Timestamp {
        Timestamp::from_second(1_795_000_200 + 60 * minutes).unwrap()
    }

    #[test]
    fn a_guess_that_hardly_moves_is_told_once() {
        let mut growth = Growth::default();
        growth.note(true, at(0), Lsn(0));
        growth.note(true, at(100), Lsn(1_000 * MB));
        let first = growth.full_time(|| Some(6_000 * MB)).unwrap();
        // Nothing more is written, so that the moment moves away: ten hours were left.
        for minute in 101..106 {
            growth.note(true, at(minute), Lsn(1_000 * MB));
            assert_eq!(growth.full_time(|| Some(6_000 * MB)), Some(first));
        }
        growth.note(true, at(120), Lsn(1_000 * MB));
        let later = growth.full_time(|| Some(6_000 * MB)).unwrap();
        assert!(later > first, "{later}");
        // Room that is used up is news at once.
        growth.note(true, at(121), Lsn(1_000 * MB));
        assert!(growth.full_time(|| Some(100 * MB)).unwrap() < first);
    }

    #[test]
    fn the_room_that_is_left_is_told_in_time() {
        let mut growth = Growth::default();
        assert_eq!(growth.full_time(|| Some(MB)), None);
        growth.note(true, at(0), Lsn(100 * MB));
        assert_eq!(growth.full_time(|| Some(MB)), None);
        // 100 MB in ten minutes, and 600 MB are left.
        growth.note(true, at(10), Lsn(200 * MB));
        let full = growth.full_time(|| Some(600 * MB)).unwrap();
        assert!(
            full <= at(70) && full > at(65),
            "told early rather than late: {full}"
        );
        assert_eq!(full.as_second() % STEP_SECONDS, 0);
        assert!(growth.full_time(|| Some(0)).unwrap() <= at(10));
        // Decades are nobody's worry.
        assert_eq!(growth.full_time(|| Some(u64::MAX)), None);
        // What works again begins anew.
        growth.note(false, at(11), Lsn(210 * MB));
        growth.note(true, at(12), Lsn(210 * MB));
        assert_eq!(growth.full_time(|| Some(600 * MB)), None);
        growth.note(true, at(20), Lsn(210 * MB));
        assert_eq!(
            growth.full_time(|| Some(600 * MB)),
            None,
            "where nothing is written it lasts"
        );
    }
}
