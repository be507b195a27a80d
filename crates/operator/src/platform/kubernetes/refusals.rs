//! Pods and volumes that a StatefulSet cannot make. Kubernetes tells of it in Events alone, so they are read, but only while something is missing.

use std::{
    sync::PoisonError,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::{
    Api, ResourceExt as _,
    api::{ListParams, Patch, PatchParams},
};
use kubedb_api::labels;
use serde_json::json;

use super::{KubernetesPlatform, act, render};
use crate::platform::{DatabaseKey, PlatformError};

/// Reason of the Events by which Kubernetes says that it cannot make something.
const FAILED_CREATE: &str = "FailedCreate";
/// And that it has.
const SUCCESSFUL_CREATE: &str = "SuccessfulCreate";
/// How often a StatefulSet is asked to try again.
const NUDGE_EVERY: Duration = Duration::from_secs(60);
/// Events that are read at most; each kind of refusal is one, with a count.
const EVENTS_MAX: u32 = 100;

impl KubernetesPlatform {
    /// Why pods that there should be are not there; none where all are, or where nobody says why.
    pub(super) async fn missing(
        &self,
        key: &DatabaseKey,
        pods: &[Pod],
    ) -> Result<Option<String>, PlatformError> {
        let wanted = self.expected(key).map_or(0, |expected| expected.replicas);
        let Some(set) = self.known.get(&render::workload(key)) else {
            return Ok(None);
        };
        let names: Vec<String> = pods.iter().map(|pod| pod.name_any()).collect();
        let is_missing = |ordinal| !names.contains(&format!("{}-{ordinal}", key.name));
        if !(0..wanted).any(is_missing) {
            return Ok(None);
        }
        let events: Api<Event> = Api::namespaced(self.client.clone(), &key.namespace);
        let fields = format!(
            "involvedObject.kind=StatefulSet,involvedObject.name={}",
            key.name
        );
        let doing = || {
            format!(
                "read why pods of {}/{} are missing",
                key.namespace, key.name
            )
        };
        let found = events
            .list(&ListParams::default().fields(&fields).limit(EVENTS_MAX))
            .await
            .map_err(|error| act(doing(), error))?;
        let Some(refusal) = last_refusal(found.items, &set.uid) else {
            return Ok(None);
        };
        self.nudge(key).await;
        Ok(Some(refusal))
    }

    /// After a refusal a StatefulSet tries again further and further apart, up to a quarter of an hour. A change of it has it try at once.
    async fn nudge(&self, key: &DatabaseKey) {
        let now = Instant::now();
        {
            let mut all = self.expected.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(expected) = all.get_mut(key) else {
                return;
            };
            // The first refusals are followed by tries of its own.
            let last = *expected.nudged.get_or_insert(now);
            if now.saturating_duration_since(last) < NUDGE_EVERY {
                return;
            }
            expected.nudged = Some(now);
        }
        let place = render::workload(key);
        let patch = json!({ "metadata": { "annotations": { labels::RETRIED: Timestamp::now().to_string() } } });
        let api = self.api(place.kind, &place.namespace);
        let params = PatchParams::default();
        let patch = Patch::Merge(patch);
        let patched = api.patch_metadata(&place.name, &params, &patch).await;
        if let Err(error) = patched {
            tracing::debug!(%error, "a StatefulSet was not asked to try again");
        }
    }
}

/// What was said last of a StatefulSet's pods and claims, if that is a refusal.
fn last_refusal(events: Vec<Event>, uid: &str) -> Option<String> {
    let of_this = events.into_iter().filter(|event| {
        let reason = event.reason.as_deref();
        event.involved_object.uid.as_deref() == Some(uid)
            && matches!(reason, Some(FAILED_CREATE | SUCCESSFUL_CREATE))
    });
    let last = of_this.max_by_key(|event| event.last_timestamp.as_ref().map(|time| time.0))?;
    let message = last
        .message
        .filter(|_| last.reason.as_deref() == Some(FAILED_CREATE))?;
    Some(words(&message).to_owned())
}

/// The server's own words: what the StatefulSet tried is put before them.
fn words(message: &str) -> &str {
    let told = message
        .split_once(" failed error: ")
        .or_else(|| message.split_once(" failed: "));
    told.map_or(message, |(_, words)| words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_last_counts() {
        let event = |reason: &str, at: &str| -> Event {
            serde_json::from_value(json!({
                "metadata": {}, "involvedObject": { "uid": "s-1" }, "reason": reason, "lastTimestamp": at,
                "message": format!("create Pod pg-0 in StatefulSet pg failed error: {reason} at {at}"),
            }))
            .unwrap()
        };
        let failed = event("FailedCreate", "2026-01-01T00:00:10Z");
        let told = last_refusal(
            vec![
                event("SuccessfulCreate", "2026-01-01T00:00:05Z"),
                failed.clone(),
            ],
            "s-1",
        );
        assert_eq!(
            told.as_deref(),
            Some("FailedCreate at 2026-01-01T00:00:10Z")
        );
        assert_eq!(last_refusal(vec![failed.clone()], "s-2"), None);
        let later = event("SuccessfulCreate", "2026-01-01T00:00:15Z");
        assert_eq!(last_refusal(vec![failed, later], "s-1"), None);
    }

    #[test]
    fn the_servers_words_are_what_is_told() {
        let message = "create Pod pg-0 in StatefulSet pg failed error: pods \"pg-0\" is forbidden: exceeded quota: small, requested: memory=1Gi, used: memory=0, limited: memory=512Mi";
        assert!(words(message).starts_with("pods \"pg-0\" is forbidden: exceeded quota: small"));
        assert_eq!(words("something else"), "something else");
    }
}
