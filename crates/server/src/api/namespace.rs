//! The end of a namespace: its content goes first, and what holds it back is told in its conditions.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::collect::{delete, edit};
use super::object;
use super::status::ApiError;
use crate::storage::{Key, Objects, Store};

/// Deletes what is in a namespace; without content and finalizers it goes itself.
pub(super) fn empty(store: &Store, namespace: &Key, objects: &Objects) -> Result<(), ApiError> {
    let mut failures = BTreeSet::new();
    for (key, object) in objects
        .iter()
        .filter(|(key, _)| key.namespace == namespace.name)
    {
        if let Err(error) = delete(store, key, Some(object))
            && error.code != http::StatusCode::NOT_FOUND
        {
            failures.insert(error.message);
        }
    }
    let left = store
        .all()
        .1
        .iter()
        .filter(|(key, _)| key.namespace == namespace.name)
        .count();
    edit(store, namespace, |object| {
        if left == 0 {
            object["spec"]["finalizers"] = json!([]);
        } else {
            tell_content(object, left, &failures);
        }
    })
}

/// Conditions of a namespace that does not go yet, so that `kubectl get ns -o yaml` says why.
fn tell_content(namespace: &mut Value, left: usize, failures: &BTreeSet<String>) {
    let failed = failures.iter().cloned().collect::<Vec<_>>().join("; ");
    let wanted = [
        (
            "NamespaceDeletionContentFailure",
            !failures.is_empty(),
            "ContentDeletionFailed",
            "ContentDeleted",
            failed,
        ),
        (
            "NamespaceContentRemaining",
            true,
            "SomeResourcesRemain",
            "ContentRemoved",
            format!("{left} objects remain"),
        ),
    ];
    let old = namespace["status"]["conditions"].take();
    let mut conditions = Vec::new();
    for (kind, holds, yes, no, message) in wanted {
        let status = if holds { "True" } else { "False" };
        let before = old
            .as_array()
            .into_iter()
            .flatten()
            .find(|one| one["type"] == kind && one["status"] == status);
        let since = before.map_or_else(object::now, |one| {
            one["lastTransitionTime"]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        });
        conditions.push(json!({
            "type": kind, "status": status, "reason": if holds { yes } else { no }, "message": message,
            "lastTransitionTime": since,
        }));
    }
    namespace["status"]["conditions"] = conditions.into();
}
