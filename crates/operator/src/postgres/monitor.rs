//! Whether the metrics of a database can be scraped, and whoever is to scrape them was told where.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kubedb_api::{
    Postgres, PostgresStatus,
    reasons::{MONITORED, component, event, text},
};

use super::{conditions::made, dereference::Found};
use crate::events::Note;

/// The condition, of a database with `spec.monitor`.
pub(super) fn condition(postgres: &Postgres, found: &Found, now: Timestamp) -> Option<Condition> {
    postgres.spec.monitor.as_ref()?;
    let status = postgres.status.as_ref();
    let instances = status.map(|status| &status.instances).into_iter().flatten();
    let mut reports = instances.filter_map(|(name, report)| Some((name, report.metrics.as_ref()?)));
    let refusal = found.observed.as_ref();
    let refusal = refusal.and_then(|observed| observed.monitor_refusal.clone());
    let is_told = reports.clone().next().is_some();
    let silent = reports.find_map(|(name, metrics)| {
        let reason = metrics.reason.as_ref()?;
        Some(format!("{name}: {reason}"))
    });
    let (is, reason, message) = match (refusal, silent) {
        (Some(why), _) if why == text::NO_PROMETHEUS_OPERATOR => ("False", "Unsupported", why),
        (Some(why), _) => ("False", "Refused", why),
        (None, Some(why)) => ("False", "NotListening", why),
        (None, None) if is_told => {
            let message = "each instance answers with its metrics";
            ("True", "Monitored", message.to_owned())
        }
        (None, None) => {
            let message = "no instance has said where it answers yet";
            ("Unknown", "NotReported", message.to_owned())
        }
    };
    let old = status.map_or(&[][..], |status| &status.conditions);
    Some(made(postgres, old, (MONITORED, is, reason), message, now))
}

/// The Event of a condition that turned False, or is False for another reason.
pub(super) fn note(postgres: &Postgres, new: &PostgresStatus) -> Option<Note> {
    let is_ours = |known: &&Condition| known.type_ == MONITORED;
    let known = new.conditions.iter().find(is_ours)?;
    let old = postgres.status.iter().flat_map(|status| &status.conditions);
    let old = old.clone().find(is_ours);
    let is_news =
        old.is_none_or(|old| (&old.status, &old.message) != (&known.status, &known.message));
    (known.status == "False" && is_news).then(|| {
        let message = format!("{}{}", text::MONITORING_FAILED, known.message);
        let note = Note::warning(component::POSTGRES_OPERATOR, event::FAILED, message);
        note.of(old.map_or_else(String::new, |old| old.last_transition_time.0.to_string()))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::platform::ObservedDatabase;

    const NOW: &str = "2026-11-26T12:00:00Z";

    fn told(
        monitor: Value,
        instances: Value,
        refusal: Option<&str>,
        old: &[Condition],
    ) -> Option<(Condition, Option<String>)> {
        let postgres: Postgres = serde_json::from_value(json!({
            "apiVersion": "kubedb.com/v1alpha1", "kind": "Postgres", "metadata": {"name": "pg"},
            "spec": {"version": "15", "monitor": monitor}, "status": {"conditions": old, "instances": instances},
        }))
        .unwrap();
        let found = Found {
            observed: Some(ObservedDatabase {
                monitor_refusal: refusal.map(str::to_owned),
                ..ObservedDatabase::default()
            }),
            ..Found::default()
        };
        let known = condition(&postgres, &found, NOW.parse().unwrap())?;
        let status = PostgresStatus {
            conditions: vec![known.clone()],
            ..PostgresStatus::default()
        };
        let note = note(&postgres, &status).map(|note| note.message);
        Some((known, note))
    }

    #[test]
    fn what_keeps_it_from_being_scraped_is_told_once() {
        let monitor = || json!({"agent": "prometheus.io/coreos-operator"});
        let instance = |metrics: Value| json!({"pg-0": {"phase": "Running", "ready": true, "session": "s", "metrics": metrics}});
        assert_eq!(told(Value::Null, json!({}), None, &[]), None);
        let (unknown, note) = told(monitor(), json!({}), None, &[]).unwrap();
        assert_eq!((unknown.status.as_str(), note), ("Unknown", None));
        let well = instance(json!({"endpoint": "pg-0:56790"}));
        let (good, note) = told(monitor(), well.clone(), None, &[]).unwrap();
        assert_eq!((good.status.as_str(), note), ("True", None));
        let none = Some(text::NO_PROMETHEUS_OPERATOR);
        let (bad, note) = told(monitor(), well.clone(), none, &[good]).unwrap();
        assert_eq!(
            (bad.status.as_str(), bad.reason.as_str()),
            ("False", "Unsupported")
        );
        let words = "Failed to manage monitoring system. Reason: cluster does not support CoreOS Prometheus operator";
        assert_eq!(note.as_deref(), Some(words));
        let (bad, note) = told(monitor(), well, none, &[bad]).unwrap();
        assert_eq!(note, None, "once");
        let taken = instance(json!({"reason": "failed to listen on port 56790: in use"}));
        let (other, note) = told(monitor(), taken, None, &[bad]).unwrap();
        assert_eq!(
            other.message,
            "pg-0: failed to listen on port 56790: in use"
        );
        assert!(note.is_some());
    }
}
