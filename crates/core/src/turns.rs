//! Whose turn it is when many Snapshots want to start: limits over all and per store, first come first served.

use std::collections::BTreeMap;

use jiff::SignedDuration;

/// How many Snapshots may run at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Over all databases.
    pub running_max: usize,
    /// Into one store.
    pub running_per_store_max: usize,
}

/// Each Snapshot reads a disk and compresses on up to four threads, and each operator's cluster has machines to match; a
/// store takes half of them, so that one slow store leaves room for others.
pub const LIMITS: Limits = Limits {
    running_max: 16,
    running_per_store_max: 8,
};

/// Longest delay of a scheduled Snapshot's start.
pub const JITTER_MAX: SignedDuration = SignedDuration::from_mins(5);
/// Each database with a schedule beyond the limit widens the window of starts by this much: a start costs the operator and
/// the API a handful of requests.
const JITTER_PER_DATABASE: SignedDuration = SignedDuration::from_millis(500);

/// Why a Snapshot waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// As many run as may.
    Total {
        /// The limit.
        running_max: usize,
    },
    /// As many run into its store as may.
    Store {
        /// The limit.
        running_max: usize,
    },
}

/// Which of `waiting` may start beside `running`. Both name stores; `waiting` stands in the order of arrival.
///
/// Those before one take their seats first; one that its own store holds back does not hold back the others.
pub fn may_start<'a>(
    running: impl IntoIterator<Item = &'a str>,
    waiting: impl IntoIterator<Item = &'a str>,
    limits: Limits,
) -> Vec<Result<(), Refusal>> {
    let mut by_store: BTreeMap<&str, usize> = BTreeMap::new();
    let mut total = 0;
    for store in running {
        *by_store.entry(store).or_default() += 1;
        total += 1;
    }
    let seat = |store| {
        let in_store = by_store.entry(store).or_default();
        if total >= limits.running_max {
            return Err(Refusal::Total {
                running_max: limits.running_max,
            });
        }
        if *in_store >= limits.running_per_store_max {
            return Err(Refusal::Store {
                running_max: limits.running_per_store_max,
            });
        }
        *in_store += 1;
        total += 1;
        Ok(())
    };
    waiting.into_iter().map(seat).collect()
}

/// How much later than its tick a scheduled Snapshot starts, so that a thousand `@daily` do not start in one second. Nothing
/// where as many may run at once as there are schedules; else the same for a database at every tick, so that its Snapshots
/// keep their distance.
#[must_use]
pub fn jitter(database: &str, schedules: usize, limits: Limits) -> SignedDuration {
    let beyond = schedules.saturating_sub(limits.running_max);
    let beyond = i32::try_from(beyond).unwrap_or(i32::MAX);
    let window = JITTER_PER_DATABASE
        .checked_mul(beyond)
        .unwrap_or(JITTER_MAX)
        .min(JITTER_MAX);
    // 24 bits of the hash as a fraction of the window, which is at most 300,000 ms. FNV alone leaves names that differ in
    // their last letters close together.
    let hash = crate::names::fnv1a(database.as_bytes());
    let mixed = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let part = i64::try_from(mixed >> 40).unwrap_or(0);
    let window = i64::try_from(window.as_millis()).unwrap_or(0);
    SignedDuration::from_millis((window * part) >> 24)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Limits = Limits {
        running_max: 3,
        running_per_store_max: 2,
    };

    #[test]
    fn the_limit_over_all_and_that_of_a_store_hold() {
        assert_eq!(may_start(["a", "b"], ["b"], SMALL), [Ok(())]);
        let full = Err(Refusal::Total { running_max: 3 });
        assert_eq!(may_start(["a", "b", "c"], ["d"], SMALL), [full]);
        let store = Err(Refusal::Store { running_max: 2 });
        assert_eq!(may_start(["a", "a"], ["a"], SMALL), [store]);
    }

    #[test]
    fn first_come_first_served_but_a_full_store_holds_back_only_its_own() {
        // The one before takes the last seat.
        let full = Err(Refusal::Total { running_max: 3 });
        assert_eq!(may_start(["a", "b"], ["c", "d"], SMALL), [Ok(()), full]);
        // It cannot, for its store is full: the next one takes it.
        let store = Err(Refusal::Store { running_max: 2 });
        assert_eq!(may_start(["a", "a"], ["a", "b"], SMALL), [store, Ok(())]);
    }

    #[test]
    fn few_schedules_start_on_the_tick_and_many_spread() {
        for schedules in 0..=LIMITS.running_max {
            assert_eq!(jitter("demo/pg", schedules, LIMITS), SignedDuration::ZERO);
        }
        let delays: Vec<_> = (0..1_000)
            .map(|i| jitter(&format!("demo/pg-{i}"), 1_000, LIMITS))
            .collect();
        let minutes = |delay: &SignedDuration| delay.as_secs() / 60;
        for minute in 0..5 {
            let here = delays.iter().filter(|delay| minutes(delay) == minute);
            let count = here.count();
            assert!((150..250).contains(&count), "{count} in minute {minute}");
        }
        assert!(delays.iter().all(|delay| *delay < JITTER_MAX));
        assert_eq!(delays[7], jitter("demo/pg-7", 1_000, LIMITS));
    }
}
