//! Reconciles that failed: tried again further and further apart, and told once per reason.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// First pause after a failure; it doubles.
const PAUSE: Duration = Duration::from_secs(1);
/// Longest pause: what came back is noticed within this.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// First pause after somebody else was faster, which happens all the time; it doubles.
const CONFLICT_PAUSE: Duration = Duration::from_millis(50);
/// Longest pause then.
const CONFLICT_PAUSE_MAX: Duration = Duration::from_secs(2);

#[derive(Clone, Debug, Default)]
struct Failure {
    conflicts: u32,
    failures: u32,
    reason: String,
}

/// What failed last, by object. An object that goes well is forgotten.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    known: Mutex<HashMap<String, Failure>>,
}

/// What to do about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Advice {
    /// When to try again.
    pub(crate) pause: Duration,
    /// Whether to tell of it: this reason was not the last one.
    pub(crate) is_news: bool,
}

impl Failures {
    /// Somebody changed the object meanwhile. Nothing to tell.
    pub(crate) fn conflict(&self, key: &str) -> Advice {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let failure = known.entry(key.to_owned()).or_default();
        let pause = CONFLICT_PAUSE * (1 << failure.conflicts.min(8));
        failure.conflicts += 1;
        Advice {
            pause: pause.min(CONFLICT_PAUSE_MAX),
            is_news: false,
        }
    }

    /// Whether somebody else was faster the last time.
    pub(crate) fn met_a_change(&self, key: &str) -> bool {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(key).is_some_and(|failure| failure.conflicts > 0)
    }

    /// It failed.
    pub(crate) fn failure(&self, key: &str, reason: &str) -> Advice {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let failure = known.entry(key.to_owned()).or_default();
        let is_news = failure.reason != reason;
        if is_news {
            reason.clone_into(&mut failure.reason);
        }
        let pause = PAUSE * (1 << failure.failures.min(8));
        failure.failures += 1;
        Advice {
            pause: pause.min(PAUSE_MAX),
            is_news,
        }
    }

    /// Objects whose last reconcile failed, those that met another's change not counted.
    pub(crate) fn len(&self) -> usize {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known
            .values()
            .filter(|failure| failure.failures > 0)
            .count()
    }

    /// Only these are of interest any more.
    pub(crate) fn keep(&self, is_there: impl Fn(&str) -> bool) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|key, _| is_there(key));
    }

    /// It went well.
    pub(crate) fn forget(&self, key: &str) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_told_once_and_tried_further_and_further_apart_up_to_a_minute() {
        let failures = Failures::default();
        let advices: Vec<_> = (0..10).map(|_| failures.failure("a", "down")).collect();
        let seconds: Vec<_> = advices
            .iter()
            .map(|advice| advice.pause.as_secs())
            .collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 60, 60, 60, 60]);
        let told = advices.iter().filter(|advice| advice.is_news).count();
        assert_eq!(told, 1);
        assert!(failures.failure("a", "refused").is_news);
        assert!(failures.failure("b", "down").is_news);
        failures.forget("a");
        let again = failures.failure("a", "refused");
        assert_eq!(failures.len(), 2);
        failures.keep(|key| key == "b");
        assert_eq!(failures.len(), 1);
        assert_eq!((again.pause, again.is_news), (PAUSE, true));
    }

    #[test]
    fn a_conflict_is_no_news_and_soon_over() {
        let failures = Failures::default();
        let first = failures.conflict("a");
        assert_eq!((first.pause, first.is_news), (CONFLICT_PAUSE, false));
        let last = (0..20).map(|_| failures.conflict("a").pause).last();
        assert_eq!(last, Some(CONFLICT_PAUSE_MAX));
        assert_eq!(failures.failure("a", "down").pause, PAUSE);
    }
}
