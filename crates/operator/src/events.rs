//! Events, under core/v1. The same thing happening again raises a count instead of adding an object, and telling of the same
//! occurrence again, after a crash between Event and status, raises nothing.

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use kube::{
    Api, Client, Resource, ResourceExt as _,
    api::{Patch, PatchParams, PostParams},
};
use kubedb_api::labels;
use serde_json::json;

/// An Event to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Note {
    /// Whether something went wrong.
    pub(crate) is_warning: bool,
    /// Reason, one of `kubedb_api::reasons::event`.
    pub(crate) reason: &'static str,
    /// For people.
    pub(crate) message: String,
    /// Who says so, one of `kubedb_api::reasons::component`.
    pub(crate) component: &'static str,
    /// What makes this occurrence another one than the last: a tick, a Snapshot, a change of phase.
    pub(crate) occurrence: String,
}

impl Note {
    /// Something went as it should.
    #[must_use]
    pub(crate) fn normal(
        component: &'static str,
        reason: &'static str,
        message: impl Into<String>,
    ) -> Self {
        Self {
            is_warning: false,
            reason,
            message: message.into(),
            component,
            occurrence: String::new(),
        }
    }

    /// Something went wrong.
    #[must_use]
    pub(crate) fn warning(
        component: &'static str,
        reason: &'static str,
        message: impl Into<String>,
    ) -> Self {
        Self {
            is_warning: true,
            ..Self::normal(component, reason, message)
        }
    }

    /// Names the occurrence. Without a name it happens once only.
    #[must_use]
    pub(crate) fn of(self, occurrence: impl Into<String>) -> Self {
        Self {
            occurrence: occurrence.into(),
            ..self
        }
    }
}

/// Publishes an Event about an object. Events are a courtesy: a failure is logged, and stops nothing.
pub(crate) async fn publish<K>(client: &Client, object: &K, note: &Note, now: Timestamp)
where
    K: Resource<DynamicType = ()>,
{
    if let Err(error) = try_publish(client, object, note, now).await {
        tracing::warn!(%error, reason = note.reason, "an Event was not taken");
    }
}

async fn try_publish<K>(
    client: &Client,
    object: &K,
    note: &Note,
    now: Timestamp,
) -> Result<(), kube::Error>
where
    K: Resource<DynamicType = ()>,
{
    let (name, namespace) = (object.name_any(), object.namespace().unwrap_or_default());
    let about = ObjectReference {
        api_version: Some(K::api_version(&()).into_owned()),
        kind: Some(K::kind(&()).into_owned()),
        name: Some(name.clone()),
        namespace: Some(namespace.clone()),
        uid: object.uid(),
        ..ObjectReference::default()
    };
    let text = format!("{:?}{}{}", object.uid(), note.reason, note.message);
    let event_name = format!("{name}.{:016x}", fnv1a(text.as_bytes()));
    let events: Api<Event> = Api::namespaced(client.clone(), &namespace);
    if let Some(known) = events.get_opt(&event_name).await? {
        let told = known.annotations().get(labels::OCCURRENCE);
        if told.map_or("", String::as_str) == note.occurrence {
            return Ok(());
        }
        let patch = json!({
            "metadata": { "annotations": { labels::OCCURRENCE: note.occurrence } },
            "count": known.count.unwrap_or(1) + 1, "lastTimestamp": Time(now),
        });
        events
            .patch(&event_name, &PatchParams::default(), &Patch::Merge(patch))
            .await?;
        return Ok(());
    }
    let event = Event {
        metadata: ObjectMeta {
            name: Some(event_name),
            namespace: Some(namespace),
            annotations: Some([(labels::OCCURRENCE.to_owned(), note.occurrence.clone())].into()),
            ..ObjectMeta::default()
        },
        involved_object: about,
        reason: Some(note.reason.to_owned()),
        message: Some(note.message.clone()),
        type_: Some(if note.is_warning { "Warning" } else { "Normal" }.to_owned()),
        source: Some(EventSource {
            component: Some(note.component.to_owned()),
            ..EventSource::default()
        }),
        reporting_component: Some(note.component.to_owned()),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        count: Some(1),
        ..Event::default()
    };
    events.create(&PostParams::default(), &event).await?;
    Ok(())
}

fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
