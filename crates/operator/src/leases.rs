//! Leases of databases: who is primary, and that it lives. What a primary tells by renewing its Lease, it need not tell in the status of its database, which
//! costs an API server many times as much (ADR 14).

use std::sync::Arc;

use futures::TryStreamExt as _;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{
    Api, ResourceExt as _,
    runtime::{WatchStreamExt as _, reflector::ObjectRef, watcher},
};
use kubedb_api::{Postgres, lease};
use kubedb_core::pulse::Pulse;

use crate::{
    context::{Filler, ReconcileError, logged, request},
    namespaces::Events,
    operator::{INSTANCE_SILENCE_LIMIT, Operator},
};

/// Those of databases.
pub(crate) fn selected() -> watcher::Config {
    watcher::Config::default().labels(&lease::selector())
}

/// Keeps them in their cache, and calls for a look at each database of which one is news.
pub(crate) async fn follow(
    operator: Arc<Operator>,
    events: Events<Lease>,
    (writer, told): Filler<Lease>,
    call: impl Fn(ObjectRef<Postgres>),
) {
    // Of a list, until all of it is told: before that the cache has none of it.
    let mut listed = Vec::new();
    let heard = logged(events)
        .modify(trim)
        .reflect(writer)
        .try_for_each(|event| {
            match &event {
                watcher::Event::Init => listed.clear(),
                watcher::Event::InitApply(lease) => listed.push(lease.clone()),
                watcher::Event::InitDone => {
                    let listed = std::mem::take(&mut listed);
                    let concerned = listed.iter().filter_map(|lease| operator.hear_lease(lease));
                    concerned.for_each(&call);
                    told.send_replace(true);
                }
                watcher::Event::Apply(lease) => {
                    operator.hear_lease(lease).into_iter().for_each(&call);
                }
                watcher::Event::Delete(lease) => {
                    operator.lose_lease(lease).into_iter().for_each(&call);
                }
            }
            std::future::ready(Ok(()))
        });
    // A failure was logged, and the watch began anew.
    drop(heard.await);
}

fn trim(lease: &mut Lease) {
    let metadata = &mut lease.metadata;
    (
        metadata.managed_fields,
        metadata.labels,
        metadata.annotations,
    ) = (None, None, None);
}

/// The database that a Lease is of, and its UID.
fn database_of(lease: &Lease) -> Option<(ObjectRef<Postgres>, &str)> {
    let (name, uid) = lease::database_of(lease)?;
    Some((ObjectRef::new(name).within(&lease.namespace()?), uid))
}

/// Who is primary, and when it last said so.
fn renewal(lease: &Lease) -> Option<(&str, Timestamp)> {
    let spec = lease.spec.as_ref()?;
    let holder = spec.holder_identity.as_deref()?;
    Some((holder, spec.renew_time.as_ref()?.0))
}

fn source(uid: &str, holder: &str) -> String {
    format!("{uid}/{holder}/lease")
}

/// Whether a source that goes on was no sign of life until now.
fn was_silent(before: &Pulse) -> bool {
    !before.is_alive || before.silence >= INSTANCE_SILENCE_LIMIT
}

impl Operator {
    /// The Lease of a database. That there is none has the API said, and not the cache.
    pub(crate) async fn lease(
        &self,
        postgres: &Postgres,
    ) -> Result<Option<Arc<Lease>>, ReconcileError> {
        if let Some(lease) = self.cached_lease(postgres) {
            return Ok(Some(lease));
        }
        let namespace = postgres.namespace().unwrap_or_default();
        let found = Api::<Lease>::namespaced(self.client.clone(), &namespace)
            .get_opt(&postgres.name_any())
            .await;
        Ok(found.map_err(request("get the Lease"))?.map(Arc::new))
    }

    /// One of an earlier database of the name is none of this one.
    fn cached_lease(&self, postgres: &Postgres) -> Option<Arc<Lease>> {
        let namespace = postgres.namespace()?;
        let lease = ObjectRef::new(&postgres.name_any()).within(&namespace);
        let lease = self.leases.get(&lease)?;
        let is_its = database_of(&lease).map(|(_, uid)| uid) == postgres.metadata.uid.as_deref();
        is_its.then_some(lease)
    }

    /// Who is primary, as far as the cache knows.
    pub(crate) fn holder(&self, postgres: &Postgres) -> Option<String> {
        let lease = self.cached_lease(postgres)?;
        lease.spec.as_ref()?.holder_identity.clone()
    }

    /// What the primary says of itself by its Lease: who it is, when, and how that source is named.
    pub(crate) fn renewed(&self, postgres: &Postgres) -> Option<(String, Timestamp, String)> {
        let lease = self.cached_lease(postgres)?;
        let (holder, time) = renewal(&lease)?;
        let uid = postgres.metadata.uid.as_deref()?;
        Some((holder.to_owned(), time, source(uid, holder)))
    }

    /// Listens to a Lease. Gives its database if that has to be looked at: another instance holds it, or one that had been silent.
    fn hear_lease(&self, lease: &Lease) -> Option<ObjectRef<Postgres>> {
        let (database, uid) = database_of(lease)?;
        let Some((holder, time)) = renewal(lease) else {
            return Some(self.opened(database));
        };
        let source = source(uid, holder);
        let before = self.heard(&source);
        self.hear(source, time);
        match before {
            None => Some(self.opened(database)),
            // Whether that makes a difference is the gate's to say.
            Some(before) => {
                let is_news = was_silent(&before) || !self.is_primary(&database, holder);
                is_news.then_some(database)
            }
        }
    }

    /// Whether the status of a database says so.
    fn is_primary(&self, database: &ObjectRef<Postgres>, instance: &str) -> bool {
        let known = self.databases.get(database);
        let status = known.as_ref().and_then(|known| known.status.as_ref());
        status.and_then(|status| status.primary.as_deref()) == Some(instance)
    }

    fn lose_lease(&self, lease: &Lease) -> Option<ObjectRef<Postgres>> {
        database_of(lease).map(|(database, _)| self.opened(database))
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;
    use serde_json::json;

    use super::*;

    fn lease(spec: serde_json::Value) -> Lease {
        serde_json::from_value(json!({
            "metadata": {"name": "pg", "namespace": "demo", "ownerReferences": [
                {"apiVersion": "kubedb.com/v1alpha1", "kind": "Postgres", "name": "pg", "uid": "u"}]},
            "spec": spec,
        }))
        .unwrap()
    }

    #[test]
    fn a_lease_says_whose_it_is_and_who_holds_it_since_when() {
        let made = lease(json!({}));
        let (database, uid) = database_of(&made).unwrap();
        assert_eq!((database.name.as_str(), uid), ("pg", "u"));
        assert_eq!(renewal(&made), None);
        let held =
            lease(json!({"holderIdentity": "pg-0", "renewTime": "2030-01-01T00:00:00.000000Z"}));
        let (holder, time) = renewal(&held).unwrap();
        assert_eq!(
            (holder, time.to_string().as_str()),
            ("pg-0", "2030-01-01T00:00:00Z")
        );
        let mut of_others = held.clone();
        of_others.metadata.owner_references = None;
        assert_eq!(database_of(&of_others), None);
    }

    #[test]
    fn who_goes_on_after_silence_is_news() {
        let pulse = |seconds, is_alive| Pulse {
            silence: SignedDuration::from_secs(seconds),
            is_alive,
        };
        assert!(!was_silent(&pulse(10, true)));
        assert!(was_silent(&pulse(35, true)));
        // Until now nobody could tell when it had said that.
        assert!(was_silent(&pulse(0, false)));
    }
}
