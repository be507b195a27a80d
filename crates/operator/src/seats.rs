//! Who may run a Snapshot now. Decided in memory under one lock, because two reconciles that both see one free seat in the
//! caches would both take it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
};

use jiff::{SignedDuration, Timestamp};
use kube::runtime::reflector::ObjectRef;
use kubedb_api::Snapshot;
use kubedb_core::turns::{Limits, Refusal, may_start};

/// A seat that was taken counts this long although the caches do not show its Snapshot as Running yet.
const CACHE_LAG_MAX: SignedDuration = SignedDuration::from_secs(30);
/// One that waits is called when its turn comes, and asks again in between; one that did not ask for so long wants no seat now.
const ASKING: SignedDuration = SignedDuration::from_secs(45);

/// A Snapshot and what it would take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seat {
    /// The Snapshot.
    pub(crate) snapshot: ObjectRef<Snapshot>,
    /// Its UID.
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
    seat: Seat,
    asked: SignedDuration,
}

#[derive(Debug, Default)]
struct Inner {
    taken: BTreeMap<String, (Seat, SignedDuration)>,
    /// By when they came, and their UIDs.
    waiting: BTreeMap<(Timestamp, String), Waiter>,
}

impl Inner {
    /// Forgets seats that the caches show as taken, or whose Snapshot vanished without a word, and who does not ask any more.
    fn sweep(&mut self, running: &[Seat], uptime: SignedDuration) {
        let shown: BTreeSet<&str> = running.iter().map(|seat| seat.uid.as_str()).collect();
        self.taken.retain(|uid, (_, since)| {
            !shown.contains(uid.as_str()) && uptime - *since < CACHE_LAG_MAX
        });
        self.waiting
            .retain(|_, waiter| uptime - waiter.asked < ASKING);
    }
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
        inner.sweep(&running, uptime);
        let Inner { taken, waiting } = &mut *inner;
        taken.remove(&seat.uid);
        waiting.retain(|(_, uid), _| *uid != seat.uid);
        let others: Vec<&Seat> = running
            .iter()
            .chain(taken.values().map(|(seat, _)| seat))
            .filter(|other| other.uid != seat.uid)
            .collect();
        if others.iter().any(|other| other.database == seat.database) {
            return Err(Taken::Database);
        }
        let order = (created, seat.uid.clone());
        let before = waiting.range(..order.clone());
        let line = before.map(|(_, waiter)| waiter.seat.store.as_str());
        let line = line.chain([seat.store.as_str()]);
        let stores = others.iter().map(|seat| seat.store.as_str());
        match may_start(stores, line, self.limits).pop() {
            Some(Err(refusal)) => {
                let asked = uptime;
                waiting.insert(order, Waiter { seat, asked });
                Err(Taken::Limit(refusal))
            }
            _ => {
                taken.insert(seat.uid.clone(), (seat, uptime));
                Ok(())
            }
        }
    }

    /// Those of whom wait that may run now, beside those that `running` shows. A seat stays free until whoever is next asks for it, so that it has to be told.
    pub(crate) fn next(
        &self,
        running: &[Seat],
        uptime: SignedDuration,
    ) -> Vec<ObjectRef<Snapshot>> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.sweep(running, uptime);
        let taken = inner.taken.values().map(|(seat, _)| seat);
        let stores = running.iter().chain(taken);
        let stores = stores.map(|seat| seat.store.as_str());
        let waiting = || inner.waiting.values().map(|waiter| &waiter.seat);
        let line = waiting().map(|seat| seat.store.as_str());
        let may = may_start(stores, line, self.limits).into_iter();
        let next = waiting().zip(may).filter(|(_, may)| may.is_ok());
        next.map(|(seat, _)| seat.snapshot.clone()).collect()
    }

    /// Whether a Snapshot waits for one, and will be called.
    pub(crate) fn waits(&self, uid: &str) -> bool {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.waiting.keys().any(|(_, waiting)| waiting == uid)
    }

    /// Whether anybody waits.
    pub(crate) fn is_awaited(&self) -> bool {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        !inner.waiting.is_empty()
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
            snapshot: ObjectRef::new(uid).within("d"),
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
        assert_eq!(seats.take(younger(), created(2), vec![], at(46)), Ok(()));
    }

    #[test]
    fn who_waits_is_called_when_a_seat_is_free_and_not_before() {
        let limits = Limits {
            running_max: 2,
            running_per_store_max: 2,
        };
        let seats = Seats::new(limits);
        let created = |seconds| Timestamp::UNIX_EPOCH + at(seconds);
        let busy = [seat("a", "d/1"), seat("b", "d/2")];
        for (number, uid) in [(3, "e"), (1, "c"), (2, "d")] {
            let asks = seat(uid, &format!("d/{uid}"));
            let taken = seats.take(asks, created(number), busy.to_vec(), at(0));
            assert_eq!(taken, Err(Taken::Limit(Refusal::Total { running_max: 2 })));
        }
        let next = |running: &[Seat]| {
            let next = seats.next(running, at(1)).into_iter();
            next.map(|snapshot| snapshot.name).collect::<Vec<_>>()
        };
        assert!(next(&busy).is_empty());
        assert_eq!(next(&busy[..1]), ["c"]);
        assert_eq!(next(&[]), ["c", "d"]);
        // It has taken one.
        let first = seat("c", "d/c");
        let taken = seats.take(first, created(1), busy[..1].to_vec(), at(1));
        assert_eq!(taken, Ok(()));
        assert!(next(&busy[..1]).is_empty());
        seats.leave("d");
        assert_eq!(next(&[]), ["e"]);
        assert!(seats.is_awaited());
        assert!(seats.next(&[], at(46)).is_empty());
        assert!(!seats.is_awaited());
    }
}
