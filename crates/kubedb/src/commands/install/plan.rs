//! What an installation will do, object by object. A dry run prints it, a run does it.

use kubedb_api::crd::{REVISION, REVISION_ANNOTATION};
use serde_json::Value;

use super::cluster::Name;

/// What becomes of one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Create,
    Update,
    /// It is so already.
    Keep,
}

impl Change {
    /// kubectl's word for it.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Create => "created",
            Self::Update => "configured",
            Self::Keep => "unchanged",
        }
    }
}

/// One step.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Step {
    pub(super) object: Value,
    pub(super) change: Change,
}

/// What is there, and what an object would be after it was applied.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Seen {
    pub(super) now: Option<Value>,
    pub(super) then: Option<Value>,
}

/// Why nothing may be installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Definitions of these names belong to somebody else.
    Foreign(Vec<String>),
    /// Definitions of these names are of a later kubedb.
    Later(Vec<String>),
}

/// Decides what becomes of each object.
pub(super) fn plan(objects: Vec<(Value, Seen)>) -> Result<Vec<Step>, Refusal> {
    let found = objects.iter().filter_map(|(_, seen)| seen.now.as_ref());
    may_take(found)?;
    let steps = objects.into_iter().map(|(object, seen)| {
        let change = match (seen.now, seen.then) {
            (None, _) => Change::Create,
            (Some(now), Some(then)) if essence(now.clone()) == essence(then.clone()) => {
                Change::Keep
            }
            _ => Change::Update,
        };
        Step { object, change }
    });
    Ok(steps.collect())
}

/// Whether these definitions are ours to change; other kinds of objects are.
pub(super) fn may_take<'a>(found: impl Iterator<Item = &'a Value>) -> Result<(), Refusal> {
    let (mut foreign, mut later) = (Vec::new(), Vec::new());
    for object in found.filter(|object| object["kind"] == "CustomResourceDefinition") {
        let revision = object["metadata"]["annotations"][REVISION_ANNOTATION].as_str();
        match revision.map(str::parse::<u32>) {
            Some(Ok(revision)) if revision <= REVISION => {}
            Some(Ok(_)) => later.push(Name::of(object).name),
            Some(Err(_)) | None => foreign.push(Name::of(object).name),
        }
    }
    if !foreign.is_empty() {
        Err(Refusal::Foreign(foreign))
    } else if !later.is_empty() {
        Err(Refusal::Later(later))
    } else {
        Ok(())
    }
}

/// An object without what a write changes though nothing changed.
fn essence(mut object: Value) -> Value {
    if let Some(metadata) = object["metadata"].as_object_mut() {
        for field in ["managedFields", "resourceVersion", "generation"] {
            metadata.remove(field);
        }
    }
    object
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(kind: &str, revision: Option<&str>, version: &str) -> Value {
        let annotations = revision.map(|revision| json!({ REVISION_ANNOTATION: revision }));
        json!({"kind": kind, "metadata": {"name": "postgreses.kubedb.com", "annotations": annotations, "resourceVersion": version}})
    }

    fn steps(now: Option<Value>, then: Option<Value>) -> Result<Vec<Change>, Refusal> {
        let wanted = object("CustomResourceDefinition", Some("1"), "");
        plan(vec![(wanted, Seen { now, then })])
            .map(|steps| steps.iter().map(|step| step.change).collect())
    }

    #[test]
    fn what_is_so_already_stays() {
        let kind = "CustomResourceDefinition";
        assert_eq!(steps(None, None), Ok(vec![Change::Create]));
        let (now, then) = (object(kind, Some("1"), "5"), object(kind, Some("1"), "6"));
        assert_eq!(steps(Some(now.clone()), Some(then)), Ok(vec![Change::Keep]));
        let mut then = now.clone();
        then["spec"] = json!({});
        assert_eq!(steps(Some(now), Some(then)), Ok(vec![Change::Update]));
    }

    #[test]
    fn definitions_of_others_are_refused_by_name() {
        let kind = "CustomResourceDefinition";
        let name = "postgreses.kubedb.com".to_owned();
        for revision in [None, Some("theirs")] {
            let refusal = steps(Some(object(kind, revision, "5")), None);
            assert_eq!(refusal, Err(Refusal::Foreign(vec![name.clone()])));
        }
        let refusal = steps(Some(object(kind, Some("2"), "5")), None);
        assert_eq!(refusal, Err(Refusal::Later(vec![name])));
        // The revision is a matter of definitions alone.
        assert!(steps(Some(object("ClusterRole", None, "5")), None).is_ok());
    }
}
