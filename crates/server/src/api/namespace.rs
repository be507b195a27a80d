//! The end of a namespace: its content goes first, and what holds it back is told in its conditions.

use std::collections::{BTreeMap, BTreeSet};

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
    let (_, all) = store.all();
    let left = all
        .iter()
        .filter(|(key, _)| key.namespace == namespace.name);
    let content = Content::of(left.map(|(key, object)| (key, object.as_ref())));
    edit(store, namespace, |object| {
        if content.kinds.is_empty() {
            object["spec"]["finalizers"] = json!([]);
        } else {
            tell(object, content.conditions(&failures));
        }
    })
}

/// What is left in a namespace.
#[derive(Default)]
struct Content {
    /// Resource with its group, and how many there are.
    kinds: BTreeMap<String, usize>,
    /// How many objects each finalizer holds.
    finalizers: BTreeMap<String, usize>,
}

/// Type, whether it holds, reason, message.
type Condition = (&'static str, bool, &'static str, String);

impl Content {
    fn of<'a>(objects: impl Iterator<Item = (&'a Key, &'a Value)>) -> Self {
        let mut content = Self::default();
        for (key, object) in objects {
            let kind = format!("{}.{}", key.resource, key.group);
            *content.kinds.entry(kind).or_default() += 1;
            for finalizer in object::finalizers(object) {
                *content.finalizers.entry(finalizer.to_owned()).or_default() += 1;
            }
        }
        content
    }

    /// In the words of the controller that empties namespaces of a kube-apiserver.
    fn conditions(&self, failures: &BTreeSet<String>) -> [Condition; 5] {
        let list = |counts: &BTreeMap<String, usize>, verb: &str| {
            let texts: Vec<String> = counts
                .iter()
                .map(|(what, count)| format!("{what} {verb} {count} resource instances"))
                .collect();
            texts.join(", ")
        };
        let content_fails = if failures.is_empty() {
            let message = "All content successfully deleted, may be waiting on finalization";
            (false, "ContentDeleted", message.to_owned())
        } else {
            let failures: Vec<&str> = failures.iter().map(String::as_str).collect();
            (true, "ContentDeletionFailed", failures.join("; "))
        };
        let held = if self.finalizers.is_empty() {
            let message = "All content-preserving finalizers finished";
            (false, "ContentHasNoFinalizers", message.to_owned())
        } else {
            let list = list(&self.finalizers, "in");
            let message = format!("Some content in the namespace has finalizers remaining: {list}");
            (true, "SomeFinalizersRemain", message)
        };
        [
            (
                "NamespaceDeletionDiscoveryFailure",
                false,
                "ResourcesDiscovered",
                "All resources successfully discovered".to_owned(),
            ),
            (
                "NamespaceDeletionGroupVersionParsingFailure",
                false,
                "ParsedGroupVersions",
                "All legacy kube types successfully parsed".to_owned(),
            ),
            (
                "NamespaceDeletionContentFailure",
                content_fails.0,
                content_fails.1,
                content_fails.2,
            ),
            (
                "NamespaceContentRemaining",
                true,
                "SomeResourcesRemain",
                format!("Some resources are remaining: {}", list(&self.kinds, "has")),
            ),
            ("NamespaceFinalizersRemaining", held.0, held.1, held.2),
        ]
    }
}

/// Conditions of a namespace that does not go yet, so that `kubectl get ns -o yaml` says why.
fn tell(namespace: &mut Value, wanted: [Condition; 5]) {
    let old = namespace["status"]["conditions"].take();
    let conditions = wanted.map(|(kind, holds, reason, message)| {
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
        json!({
            "type": kind, "status": status, "reason": reason, "message": message,
            "lastTransitionTime": since,
        })
    });
    namespace["status"]["conditions"] = conditions.to_vec().into();
}
