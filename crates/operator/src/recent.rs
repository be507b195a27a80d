//! What was learned of the API a moment ago and is not told by any watch: to ask again at each of the looks that one change causes would only cost requests.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::context::ReconcileError;

/// After this long it is asked again. A database at which nothing happens is looked at less often, so what is changed by hand is seen at its next look.
const FRESH: Duration = Duration::from_secs(25);

/// Values by key. A restart may lose them.
#[derive(Debug)]
pub(crate) struct Recent<V>(Mutex<HashMap<String, (V, Instant)>>);

impl<V> Default for Recent<V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<V: Clone> Recent<V> {
    fn known(&self) -> MutexGuard<'_, HashMap<String, (V, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was learned of it a moment ago, or what is learned now. That there is nothing is asked again.
    pub(crate) async fn or_learn(
        &self,
        key: String,
        learn: impl Future<Output = Result<Option<V>, ReconcileError>>,
    ) -> Result<Option<V>, ReconcileError> {
        if let Some(known) = self.get(&key, Instant::now()) {
            return Ok(Some(known));
        }
        let learned = learn.await?;
        if let Some(value) = &learned {
            self.note(key, value.clone(), Instant::now());
        }
        Ok(learned)
    }

    /// This was learned now.
    pub(crate) fn note(&self, key: String, value: V, now: Instant) {
        let mut known = self.known();
        known.retain(|_, (_, since)| now.saturating_duration_since(*since) < FRESH);
        known.insert(key, (value, now));
    }

    /// What was learned a moment ago.
    pub(crate) fn get(&self, key: &str, now: Instant) -> Option<V> {
        let known = self.known();
        let (value, since) = known.get(key)?;
        (now.saturating_duration_since(*since) < FRESH).then(|| value.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_known_for_a_while_and_forgotten_after_it() {
        let recent = Recent::default();
        let begin = Instant::now();
        recent.note("a".to_owned(), 1, begin);
        assert_eq!(recent.get("a", begin), Some(1));
        assert_eq!(recent.get("b", begin), None);
        let later = begin + FRESH;
        assert_eq!(recent.get("a", later), None);
        recent.note("b".to_owned(), 2, later);
        assert_eq!(recent.known().len(), 1);
        recent.note("b".to_owned(), 3, later);
        assert_eq!(recent.get("b", later), Some(3));
    }
}
