//! Who shall be looked at because of something else: whoever is called again before that is called once.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use futures::{Stream, stream};
use kube::{Resource, runtime::reflector::ObjectRef};
use tokio::sync::Notify;

/// Objects of a kind. There are never more than there are objects. Clones are the same.
pub(crate) struct Calls<K: Resource<DynamicType = ()>>(Arc<Inner<K>>);

struct Inner<K: Resource<DynamicType = ()>> {
    waiting: Mutex<HashSet<ObjectRef<K>>>,
    news: Notify,
}

impl<K: Resource<DynamicType = ()>> Clone for Calls<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K: Resource<DynamicType = ()>> Default for Calls<K> {
    fn default() -> Self {
        Self(Arc::new(Inner {
            waiting: Mutex::default(),
            news: Notify::new(),
        }))
    }
}

impl<K: Resource<DynamicType = ()> + 'static> Calls<K> {
    /// Calls them.
    pub(crate) fn add(&self, objects: impl IntoIterator<Item = ObjectRef<K>>) {
        let mut waiting = self
            .0
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let before = waiting.len();
        waiting.extend(objects);
        if waiting.len() > before {
            self.0.news.notify_one();
        }
    }

    fn take(&self) -> HashSet<ObjectRef<K>> {
        let mut waiting = self
            .0
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *waiting)
    }

    /// Everybody who is called, for one listener.
    pub(crate) fn follow(&self) -> impl Stream<Item = ObjectRef<K>> + Send + 'static
    where
        K: Send + Sync,
    {
        let next = |(calls, mut taken): (Self, Vec<ObjectRef<K>>)| async move {
            loop {
                if let Some(next) = taken.pop() {
                    return Some((next, (calls, taken)));
                }
                // A word that came since the last look is kept for this one.
                calls.0.news.notified().await;
                taken.extend(calls.take());
            }
        };
        stream::unfold((self.clone(), Vec::new()), next)
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt as _, StreamExt as _};
    use kubedb_api::Postgres;

    use super::*;

    #[test]
    fn each_is_heard_once_and_again_when_called_again() {
        let calls = Calls::<Postgres>::default();
        let mut heard = std::pin::pin!(calls.follow());
        let mut all = || {
            let mut names = Vec::new();
            while let Some(Some(next)) = heard.next().now_or_never() {
                names.push(next.name);
            }
            names.sort();
            names
        };
        assert!(all().is_empty());
        for name in ["a", "b", "a"] {
            calls.add([ObjectRef::new(name)]);
        }
        assert_eq!(all(), ["a", "b"]);
        assert!(all().is_empty());
        calls.add([ObjectRef::new("a")]);
        assert_eq!(all(), ["a"]);
    }
}
