//! Writes to objects that many hands change: each carries the version that it was decided on, so that a decision taken on an old copy does not undo a
//! newer one, and is refused where that has gone.

use std::{fmt::Debug, sync::Arc, time::Duration};

use kube::{
    Api, Resource, ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
    core::NamespaceResourceScope,
    runtime::controller::Action,
};
use kubedb_api::labels;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::{
    context::{ReconcileError, key_of, request},
    operator::Operator,
};

/// Look again this soon where the cache is behind our own write; the watch usually comes first.
const BEHIND: Duration = Duration::from_secs(1);

/// A kind in a namespace.
pub(crate) trait Guarded:
    Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned
{
}

impl<K> Guarded for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
{
}

fn api<K: Guarded>(operator: &Operator, object: &K) -> Api<K> {
    Api::namespaced(
        operator.client.clone(),
        &object.namespace().unwrap_or_default(),
    )
}

/// The object that a reconcile decides on, or what to do instead: a change to it is on its way.
pub(crate) async fn decided_on<K: Guarded>(
    operator: &Operator,
    cached: Arc<K>,
) -> Result<Result<Arc<K>, Action>, ReconcileError> {
    operator.caches().await?;
    let Some(newest) = newest(operator, cached).await? else {
        return Ok(Err(Action::await_change()));
    };
    if operator.superseded.holds(&*newest) {
        return Ok(Err(Action::requeue(BEHIND)));
    }
    Ok(Ok(newest))
}

/// That of the cache, unless the last try met another's change. A cache that is further behind than others take between two changes, as of an API server
/// under load, would have every try meet one, and the tries would add to that load. None where it is gone.
async fn newest<K: Guarded>(
    operator: &Operator,
    cached: Arc<K>,
) -> Result<Option<Arc<K>>, ReconcileError> {
    let key = key_of(&*cached);
    if !operator.failures.met_a_change(&key) {
        return Ok(Some(cached));
    }
    let newest = api(operator, &*cached).get_opt(&cached.name_any()).await;
    let newest = newest.map_err(request("read an object anew"))?;
    let newest = newest.filter(|newest| newest.uid() == cached.uid());
    match &newest {
        Some(newest) => operator.superseded.see(newest),
        None => operator.failures.forget(&key),
    }
    Ok(newest.map(Arc::new))
}

/// Changes an object unless somebody else did since it was read.
pub(crate) async fn patch_main<K: Guarded>(
    operator: &Operator,
    object: &K,
    mut patch: Value,
    action: &'static str,
) -> Result<K, ReconcileError> {
    patch["metadata"]["resourceVersion"] = json!(object.resource_version());
    let params = PatchParams::default();
    let patched = api(operator, object)
        .patch(&object.name_any(), &params, &Patch::Merge(patch))
        .await
        .map_err(refused(action))?;
    operator.superseded.note(object, &patched);
    Ok(patched)
}

/// The same for its status.
pub(crate) async fn patch_status<K: Guarded>(
    operator: &Operator,
    object: &K,
    status: Value,
    action: &'static str,
) -> Result<K, ReconcileError> {
    let version = object.resource_version();
    let patch = json!({ "metadata": { "resourceVersion": version }, "status": status });
    let params = PatchParams::default();
    let patched = api(operator, object)
        .patch_status(&object.name_any(), &params, &Patch::Merge(patch))
        .await
        .map_err(refused(action))?;
    operator.superseded.note(object, &patched);
    Ok(patched)
}

/// Whether an object waits for us before it goes.
pub(crate) fn has_finalizer<K: Resource>(object: &K) -> bool {
    let mut finalizers = object.finalizers().iter();
    finalizers.any(|finalizer| finalizer == labels::FINALIZER)
}

/// Has an object wait for us before it goes, or lets it go. Others' finalizers stay.
pub(crate) async fn set_finalizer<K: Guarded>(
    operator: &Operator,
    object: &K,
    is_wanted: bool,
) -> Result<K, ReconcileError> {
    let mut finalizers = object.finalizers().to_vec();
    finalizers.retain(|finalizer| finalizer != labels::FINALIZER);
    if is_wanted {
        finalizers.push(labels::FINALIZER.to_owned());
    }
    let patch = json!({ "metadata": { "finalizers": finalizers } });
    patch_main(operator, object, patch, "set the finalizer").await
}

/// Why a write to an object was refused: one that is not found was deleted since it was read.
fn refused(action: &'static str) -> impl FnOnce(kube::Error) -> ReconcileError {
    move |error| match error {
        kube::Error::Api(status) if status.reason == "NotFound" => ReconcileError::Gone(action),
        error => request(action)(error),
    }
}

/// Deletes the object that was read, and not one that was changed since.
#[must_use]
pub fn as_read<K: Resource>(object: &K) -> DeleteParams {
    DeleteParams::background().preconditions(Preconditions {
        resource_version: object.resource_version(),
        uid: object.uid(),
    })
}

/// Deletes the object of this UID, whatever was changed of it, and not one that was made anew under its name.
#[must_use]
pub fn of_uid(uid: Option<String>) -> DeleteParams {
    DeleteParams::background().preconditions(Preconditions {
        resource_version: None,
        uid,
    })
}
