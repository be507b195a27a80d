//! Who may run a Snapshot now. Decided in memory under one lock, because two reconciles that both see one free seat in the
//! caches would both take it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
};

use jiff::{SignedDuration, Timestamp};
use kubedb_core::turns::{Limits, Refusal, last_may_start};

/// A seat that was taken counts this long although the caches do not show its Snapshot as Running yet.
const CACHE_LAG_MAX: SignedDuration = SignedDuration::from_secs(30);
/// One that waits asks again within seconds; one that did not ask for so long wants no seat now.
const ASKING: SignedDuration = SignedDuration::from_secs(30);

/// A Snapshot and what it would take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seat {
    /// UID of the Snapshot.
    pub(crate) uid: String,
    /// Its database, `namespace/name`.
    pub(crate) database: String,
    /// Its store.
    pub(crate) store: String,
}

/// Why there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// Another Snapshot of the same database is about to run.
    Database,
    /// A limit is reached.
    Limit(Refusal),
}

#[derive(Debug)]
struct Waiter {
    store: String,
    asked: SignedDuration,
}

#[derive(Debug, Default)]
struct Inner {
    taken: BTreeMap<String, (Seat, SignedDuration)>,
    waiting: BTreeMap<(Timestamp, String), Waiter>,
}

/// The seats.
#[derive(Debug)]
pub(crate) struct Seats {
    limits: Limits,
    inner: Mutex<Inner>,
}

impl Seats {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            inner: Mutex::default(),
        }
    }

    pub(crate) fn limits(&self) -> Limits {
        self.limits
    }

    /// Takes a seat for a Snapshot created at `created`, beside those that `running` shows. Taking it twice is taking it once.
    pub(crate) fn take(
        &self,
        seat: Seat,
        created: Timestamp,
        running: Vec<Seat>,
        uptime: SignedDuration,
    ) -> Result<(), Taken> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let Inner { taken, waiting } = &mut *inner;
        let shown: BTreeSet<&str> = running.iter().map(|seat| seat.uid.as_str()).collect();
        taken.retain(|uid, (_, since)| {
            *uid != seat.uid && !shown.contains(uid.as_str()) && uptime - *since < CACHE_LAG_MAX
        });
        waiting.retain(|(_, uid), waiter| *uid != seat.uid && uptime - waiter.asked < ASKING);
        let others: Vec<&Seat> = running
            .iter()
            .chain(taken.values().map(|(seat, _)| seat))
            .filter(|other| other.uid != seat.uid)
            .collect();
        if others.iter().any(|other| other.database == seat.database) {
            return Err(Taken::Database);
        }
        let order = (created, seat.uid.clone());
        let mut line: Vec<&str> = waiting
            .range(..order.clone())
            .map(|(_, waiter)| waiter.store.as_str())
            .collect();
        line.push(&seat.store);
        let stores = others.iter().map(|seat| seat.store.as_str());
        match last_may_start(stores, &line, self.limits) {
            Ok(()) => {
                taken.insert(seat.uid.clone(), (seat, uptime));
                Ok(())
            }
            Err(refusal) => {
                let asked = uptime;
                let store = seat.store;
                waiting.insert(order, Waiter { store, asked });
                Err(Taken::Limit(refusal))
            }
        }
    }

    /// Gives a seat, or the wish for one, back.
    pub(crate) fn leave(&self, uid: &str) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.taken.remove(uid);
        inner.waiting.retain(|(_, waiter), _| waiter != uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Limits = Limits {
        running_max: 1,
        running_per_store_max: 1,
    };

    fn seat(uid: &str, database: &str) -> Seat {
        Seat {
            uid: uid.to_owned(),
            database: database.to_owned(),
            store: "gs:kubedb".to_owned(),
        }
    }

    fn at(seconds: i64) -> SignedDuration {
        SignedDuration::from_secs(seconds)
    }

    fn full() -> Result<(), Taken> {
        Err(Taken::Limit(Refusal::Total { running_max: 1 }))
    }

    #[test]
    fn a_seat_counts_before_the_caches_show_it_and_until_it_is_left() {
        let (seats, now) = (Seats::new(ONE), Timestamp::UNIX_EPOCH);
        assert_eq!(seats.take(seat("a", "d/1"), now, vec![], at(0)), Ok(()));
        assert_eq!(seats.take(seat("a", "d/1"), now, vec![], at(1)), Ok(()));
        assert_eq!(seats.take(seat("b", "d/2"), now, vec![], at(2)), full());
        let shown = vec![seat("a", "d/1")];
        assert_eq!(seats.take(seat("b", "d/2"), now, shown, at(3)), full());
        assert_eq!(seats.take(seat("b", "d/2"), now, vec![], at(4)), Ok(()));
        seats.leave("b");
        assert_eq!(seats.take(seat("c", "d/3"), now, vec![], at(5)), Ok(()));
        // Its Snapshot vanished without a word.
        assert_eq!(seats.take(seat("d", "d/4"), now, vec![], at(36)), Ok(()));
    }

    #[test]
    fn two_of_one_database_never_meet() {
        let limits = Limits {
            running_max: 9,
            running_per_store_max: 9,
        };
        let (seats, now) = (Seats::new(limits), Timestamp::UNIX_EPOCH);
        assert_eq!(seats.take(seat("a", "d/1"), now, vec![], at(0)), Ok(()));
        let second = seats.take(seat("b", "d/1"), now, vec![], at(0));
        assert_eq!(second, Err(Taken::Database));
        assert_eq!(seats.take(seat("c", "d/2"), now, vec![], at(0)), Ok(()));
    }

    #[test]
    fn the_older_one_is_first_as_long_as_it_asks() {
        let seats = Seats::new(ONE);
        let created = |seconds| Timestamp::UNIX_EPOCH + at(seconds);
        let busy = || vec![seat("a", "d/1")];
        let older = || seat("b", "d/2");
        let younger = || seat("c", "d/3");
        assert_eq!(seats.take(older(), created(1), busy(), at(0)), full());
        assert_eq!(seats.take(younger(), created(2), busy(), at(0)), full());
        assert_eq!(seats.take(younger(), created(2), vec![], at(1)), full());
        assert_eq!(seats.take(younger(), created(2), vec![], at(31)), Ok(()));
    }
}
