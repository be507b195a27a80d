//! Many schedules, of which only the next due one is looked at.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

/// Keys ordered by when they are due. Insert, remove and pop cost O(log n).
#[derive(Clone, Debug)]
pub struct ScheduleQueue<K> {
    by_time: BTreeSet<(Timestamp, K)>,
    by_key: BTreeMap<K, Timestamp>,
}

impl<K: Ord + Clone> Default for ScheduleQueue<K> {
    fn default() -> Self {
        Self {
            by_time: BTreeSet::new(),
            by_key: BTreeMap::new(),
        }
    }
}

impl<K: Ord + Clone> ScheduleQueue<K> {
    /// An empty queue.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets when a key is due, in place of what was set before.
    pub fn insert(&mut self, key: K, due: Timestamp) {
        self.remove(&key);
        self.by_time.insert((due, key.clone()));
        self.by_key.insert(key, due);
    }

    /// Forgets a key.
    pub fn remove(&mut self, key: &K) -> Option<Timestamp> {
        let due = self.by_key.remove(key)?;
        self.by_time.remove(&(due, key.clone()));
        Some(due)
    }

    /// The key that is due next.
    #[must_use]
    pub fn peek(&self) -> Option<(&K, Timestamp)> {
        self.by_time.first().map(|(due, key)| (key, *due))
    }

    /// Takes the key that is due next, if it is due at `now`.
    pub fn pop_due(&mut self, now: Timestamp) -> Option<(K, Timestamp)> {
        if self.by_time.first()?.0 > now {
            return None;
        }
        let (due, key) = self.by_time.pop_first()?;
        self.by_key.remove(&key);
        Some((key, due))
    }

    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }
}
