//! Makes one object so, if it is not.

use jiff::Timestamp;
use kube::{
    ResourceExt as _,
    api::{Patch, PatchParams},
    core::DynamicObject,
};
use kubedb_api::{
    Postgres, labels,
    postgres::PostgresSpec,
    reasons::{component, event, text},
};
use serde_json::{Value, json};

use super::{
    KubernetesPlatform, act, refused,
    render::{Kind, Object, pods_service},
};
use crate::{
    events::{Note, publish},
    platform::{DesiredDatabase, PlatformError},
};

/// Who the server notes as the one that says these fields.
const MANAGER: &str = "kubedb-operator";

impl KubernetesPlatform {
    pub(super) async fn apply_one(
        &self,
        desired: &DesiredDatabase,
        object: &Object,
    ) -> Result<(), PlatformError> {
        let place = &object.place;
        let digest = digest(&object.body);
        let seen = self.known.get(place);
        if let (Some(seen), Some(settled)) = (&seen, self.known.settled(place))
            && settled.digest == digest
            && settled.resource_version == seen.resource_version
        {
            return Ok(());
        }
        let api = self.api(place.kind, &place.namespace);
        let doing =
            |verb: &str| format!("{verb} {} {}/{}", place.kind, place.namespace, place.name);
        let found = api
            .get_opt(&place.name)
            .await
            .map_err(|error| act(doing("get"), error))?;
        if let Some(found) = &found {
            whose(found, desired).map_err(|reason| PlatformError::Refuse {
                action: doing("apply"),
                reason,
            })?;
            if is_as_wanted(found, &object.body, &digest) {
                self.known.settle(place, &found.metadata, digest);
                return Ok(());
            }
        }
        let mut body = object.body.clone();
        body["metadata"]["annotations"][labels::APPLIED] = json!(digest);
        let parameters = PatchParams::apply(MANAGER).force();
        let applied = api
            .patch(&place.name, &parameters, &Patch::Apply(&body))
            .await
            .map_err(|error| refused(doing("apply"), error))?;
        tracing::info!(kind = %place.kind, namespace = place.namespace, name = place.name, "applied");
        self.known.settle(place, &applied.metadata, digest);
        self.tell_of(desired, object, found.is_none(), &applied)
            .await;
        Ok(())
    }

    /// Tells of the workload and of the Services that clients use, as people look for them in the database's Events.
    async fn tell_of(
        &self,
        desired: &DesiredDatabase,
        object: &Object,
        is_new: bool,
        applied: &DynamicObject,
    ) {
        let message = match (object.place.kind, is_new) {
            (Kind::StatefulSet, true) => text::CREATED_STATEFUL_SET,
            (Kind::StatefulSet, false) => text::PATCHED_STATEFUL_SET,
            (Kind::Service, _) if object.place.name == pods_service(&desired.key.name) => return,
            (Kind::Service, true) => text::CREATED_SERVICE,
            (Kind::Service, false) => text::PATCHED_SERVICE,
            _ => return,
        };
        let mut database = Postgres::new(&desired.key.name, PostgresSpec::default());
        database.metadata.namespace = Some(desired.key.namespace.clone());
        database.metadata.uid = Some(desired.uid.clone());
        let version = applied.resource_version().unwrap_or_default();
        let note = Note::normal(component::POSTGRES_OPERATOR, event::SUCCESSFUL, message);
        let note = note.of(format!("{} {version}", object.place.name));
        publish(&self.client, &database, &note, Timestamp::now()).await;
    }

    /// The Lease that the first instance takes. Nobody can be allowed to create one of a certain name alone, so agents do not.
    pub(super) async fn make_lease(&self, desired: &DesiredDatabase) -> Result<(), PlatformError> {
        let (namespace, name) = (&desired.key.namespace, &desired.key.name);
        let body = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {
                "name": name, "namespace": namespace,
                "labels": { labels::KIND: "Postgres", labels::NAME: name, labels::DATABASE_UID: desired.uid },
                "ownerReferences": [{
                    "apiVersion": "kubedb.com/v1alpha1", "kind": "Postgres", "name": name, "uid": desired.uid,
                }],
            },
        });
        let resource =
            kube::core::ApiResource::erase::<k8s_openapi::api::coordination::v1::Lease>(&());
        let api: kube::Api<DynamicObject> =
            kube::Api::namespaced_with(self.client.clone(), namespace, &resource);
        let parameters = PatchParams::apply(MANAGER).force();
        api.patch(name, &parameters, &Patch::Apply(&body))
            .await
            .map(drop)
            .map_err(|error| act(format!("make Lease {namespace}/{name}"), error))
    }
}

/// Refuses what belongs to somebody else: it would be taken from them.
fn whose(found: &DynamicObject, desired: &DesiredDatabase) -> Result<(), String> {
    let name = found.labels().get(labels::NAME);
    if name != Some(&desired.key.name) {
        let kind = found.types.as_ref().map_or("object", |types| &types.kind);
        return Err(format!(
            "intended {} \"{}\" already exists",
            lower_first(kind),
            found.name_any()
        ));
    }
    match found.labels().get(labels::DATABASE_UID) {
        Some(uid) if *uid != desired.uid => Err(
            "it belongs to an earlier database of this name, which is still being deleted"
                .to_owned(),
        ),
        _ => Ok(()),
    }
}

fn lower_first(word: &str) -> String {
    let mut letters = word.chars();
    let first = letters.next().map(|first| first.to_ascii_lowercase());
    first.into_iter().chain(letters).collect()
}

/// Whether all that was applied last is all that is wanted, and is still there.
fn is_as_wanted(found: &DynamicObject, wanted: &Value, digest: &str) -> bool {
    let applied = found.annotations().get(labels::APPLIED);
    let live = serde_json::to_value(found).unwrap_or_default();
    applied.is_some_and(|applied| applied == digest) && holds(&live, wanted)
}

/// Whether `live` has everything of `wanted`; what a server fills in beside it does not count.
fn holds(live: &Value, wanted: &Value) -> bool {
    match (live, wanted) {
        (Value::Object(live), Value::Object(wanted)) => {
            wanted.iter().all(|(key, value)| match live.get(key) {
                Some(live) => holds(live, value),
                // A server leaves out what says nothing.
                None => is_nothing(value),
            })
        }
        (Value::Array(live), Value::Array(wanted)) => {
            live.len() == wanted.len()
                && live
                    .iter()
                    .zip(wanted)
                    .all(|(live, wanted)| holds(live, wanted))
        }
        (live, wanted) => live == wanted,
    }
}

fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(map) => map.values().all(is_nothing),
        Value::Array(list) => list.is_empty(),
        _ => false,
    }
}

/// Of everything that is wanted: what is not wanted any more is noticed by it.
fn digest(body: &Value) -> String {
    use std::hash::{Hash as _, Hasher as _};
    // The same in every build of this version of the standard library; another costs one needless apply.
    let mut hasher = std::hash::DefaultHasher::new();
    body.to_string().hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_fills_in_is_no_difference_and_what_somebody_changed_is() {
        let wanted =
            json!({ "spec": { "replicas": 3, "ports": [{ "port": 5432 }], "affinity": {} } });
        let mut live = json!({ "spec": { "replicas": 3, "ports": [{ "port": 5432, "protocol": "TCP" }], "type": "ClusterIP" } });
        assert!(holds(&live, &wanted));
        live["spec"]["replicas"] = json!(2);
        assert!(!holds(&live, &wanted));
        live["spec"]["replicas"] = json!(3);
        live["spec"]["ports"] = json!([]);
        assert!(!holds(&live, &wanted));
    }

    #[test]
    fn another_wish_has_another_digest() {
        assert_ne!(digest(&json!({ "a": 1 })), digest(&json!({ "a": 2 })));
        assert_eq!(
            digest(&json!({ "a": 1, "b": 2 })),
            digest(&json!({ "b": 2, "a": 1 }))
        );
    }

    #[test]
    fn what_is_somebody_elses_is_not_taken() {
        let desired = super::super::render::tests::desired();
        let found = |labels: Value| -> DynamicObject {
            serde_json::from_value(json!({
                "apiVersion": "v1", "kind": "Service", "metadata": { "name": "pg", "labels": labels },
            }))
            .unwrap()
        };
        let foreign = whose(&found(json!({})), &desired).unwrap_err();
        assert_eq!(foreign, "intended service \"pg\" already exists");
        let older = json!({ labels::NAME: "pg", labels::DATABASE_UID: "u-0" });
        assert!(whose(&found(older), &desired).is_err());
        let own = json!({ labels::NAME: "pg", labels::DATABASE_UID: "u-1" });
        assert!(whose(&found(own), &desired).is_ok());
    }
}
