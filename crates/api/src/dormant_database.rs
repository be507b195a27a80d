//! `DormantDatabase`: the record of a paused database, by which it is resumed or wiped out.

use std::borrow::Cow;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{CustomResource, ResourceExt as _};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize};

use crate::{Postgres, PostgresSpec, labels};

/// What was paused.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "kubedb.com",
    version = "v1alpha1",
    kind = "DormantDatabase",
    plural = "dormantdatabases",
    singular = "dormantdatabase",
    shortname = "drmn",
    namespaced,
    status = "DormantDatabaseStatus",
    derive = "PartialEq",
    printcolumn = r#"{"name":"Status","type":"string","jsonPath":".status.phase"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct DormantDatabaseSpec {
    /// Deletes all data when this object is deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wipe_out: Option<bool>,
    /// Copy of the paused object.
    #[serde(default, deserialize_with = "lenient")]
    pub origin: Origin,
}

/// Copy of a paused object. It is kept as it was, and never changed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Origin {
    /// Its metadata: name, namespace, UID, labels, annotations, time of creation.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// Its spec, by kind.
    #[serde(default)]
    pub spec: OriginSpec,
    /// What there is of its data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<KeptData>,
}

/// The spec of a paused object.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OriginSpec {
    /// A Postgres.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postgres: Option<PostgresSpec>,
}

/// Data that outlived the object it was made for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeptData {
    /// UID that the data bears: of the first of the objects that were resumed from one another.
    pub uid: String,
    /// Whether the database was ever begun, so that there is data.
    pub begun: bool,
    /// Which data it is, as the primary said; an archive bears it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lineage: Option<String>,
}

/// An origin that is none, of a record that was written by hand past admission, is an empty one: whoever reads all records must not stop at it.
fn lenient<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Origin, D::Error> {
    let value = serde_json::Value::deserialize(deserializer)?;
    Ok(serde_json::from_value(value).unwrap_or_default())
}

impl JsonSchema for Origin {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Origin".into()
    }
    // A copy of what was admitted once: rules that came later do not judge it.
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
    }
}

/// Where a paused database stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DormantPhase {
    /// Its instances are being stopped.
    Pausing,
    /// Nothing of it runs; its data stays.
    Paused,
    /// A Postgres takes its data over.
    Resuming,
    /// Its data is being deleted.
    WipingOut,
    /// Its data is gone.
    WipedOut,
}

/// What is known of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DormantDatabaseStatus {
    /// When the operator first saw it.
    #[schemars(with = "Option<String>")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub creation_time: Option<Timestamp>,
    /// When nothing of it ran any more.
    #[schemars(with = "Option<String>")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pausing_time: Option<Timestamp>,
    /// When its data was gone.
    #[schemars(with = "Option<String>")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wipe_out_time: Option<Timestamp>,
    /// Where it stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<DormantPhase>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Generation this status speaks of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

impl DormantDatabase {
    /// The record of a Postgres that is being paused.
    #[must_use]
    pub fn of(postgres: &Postgres) -> Self {
        let origin = Origin {
            metadata: ObjectMeta {
                name: Some(postgres.name_any()),
                namespace: postgres.namespace(),
                uid: postgres.uid(),
                labels: postgres.metadata.labels.clone(),
                annotations: annotations(postgres),
                creation_timestamp: postgres.metadata.creation_timestamp.clone(),
                ..ObjectMeta::default()
            },
            spec: OriginSpec {
                postgres: Some(postgres.spec.clone()),
            },
            data: Some(postgres.kept_data()),
        };
        let spec = DormantDatabaseSpec {
            wipe_out: None,
            origin,
        };
        let mut dormant = Self::new(&postgres.name_any(), spec);
        let labels = [(labels::KIND, "Postgres".to_owned())];
        dormant.metadata.labels = Some(labels.map(|(key, value)| (key.to_owned(), value)).into());
        dormant.metadata.namespace = postgres.namespace();
        dormant.metadata.finalizers = Some(vec![labels::FINALIZER.to_owned()]);
        dormant
    }

    /// What there is of its data. A record that says nothing of it, as one that was written by hand, is of the object's own.
    #[must_use]
    pub fn kept_data(&self) -> KeptData {
        let origin = &self.spec.origin;
        origin.data.clone().unwrap_or_else(|| KeptData {
            uid: origin.metadata.uid.clone().unwrap_or_default(),
            ..KeptData::default()
        })
    }

    /// Where it stands.
    #[must_use]
    pub fn phase(&self) -> Option<DormantPhase> {
        self.status.as_ref().and_then(|status| status.phase)
    }

    /// Whether somebody asked for its deletion.
    #[must_use]
    pub fn is_going(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }
}

/// What an applier keeps there is as large as the object, and speaks of one that is no more.
fn annotations(postgres: &Postgres) -> Option<std::collections::BTreeMap<String, String>> {
    let annotations = postgres.metadata.annotations.clone()?;
    let kept = annotations
        .into_iter()
        .filter(|(key, _)| key != "kubectl.kubernetes.io/last-applied-configuration");
    Some(kept.collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn postgres(status: serde_json::Value) -> Postgres {
        serde_json::from_value(json!({
            "apiVersion": "kubedb.com/v1alpha1", "kind": "Postgres",
            "metadata": {"name": "pg", "namespace": "demo", "uid": "u-2", "annotations": {
                "kubectl.kubernetes.io/last-applied-configuration": "{}", "kubedb.com/initialized": "" }},
            "spec": {"version": 9.6}, "status": status,
        }))
        .unwrap()
    }

    #[test]
    fn a_record_has_what_it_takes_to_resume() {
        let dormant = DormantDatabase::of(&postgres(json!({})));
        let value = serde_json::to_value(&dormant).unwrap();
        let origin = &value["spec"]["origin"];
        assert_eq!(origin["spec"]["postgres"]["version"], json!(9.6));
        assert_eq!(
            origin["metadata"]["annotations"],
            json!({ "kubedb.com/initialized": "" })
        );
        assert_eq!(origin["data"], json!({ "uid": "u-2", "begun": false }));
        assert_eq!(
            value["metadata"]["labels"],
            json!({ "kubedb.com/kind": "Postgres" })
        );
        let back: DormantDatabase = serde_json::from_value(value).unwrap();
        assert_eq!(back, dormant);
    }

    #[test]
    fn a_record_that_makes_no_sense_is_read_all_the_same() {
        let wrong = json!({"spec": {"postgres": {"replicas": "three"}}});
        for origin in [json!(null), json!(7), wrong] {
            let dormant: DormantDatabase = serde_json::from_value(json!({
                "apiVersion": "kubedb.com/v1alpha1", "kind": "DormantDatabase", "metadata": {"name": "pg"},
                "spec": {"origin": origin},
            }))
            .unwrap();
            assert_eq!(dormant.kept_data(), KeptData::default());
        }
    }

    #[test]
    fn data_bears_the_uid_of_the_first() {
        let begun = json!({"instances": {"pg-0": {"phase": "Running", "ready": true, "session": "s", "lineage": "l"}}});
        let kept = DormantDatabase::of(&postgres(begun)).kept_data();
        let first = KeptData {
            uid: "u-2".to_owned(),
            begun: true,
            lineage: Some("l".to_owned()),
        };
        assert_eq!(kept, first);
        let resumed = json!({"resumed": {"uid": "u-1", "begun": true}});
        let kept = DormantDatabase::of(&postgres(resumed)).kept_data();
        assert_eq!(
            kept,
            KeptData {
                uid: "u-1".to_owned(),
                begun: true,
                lineage: None,
            }
        );
    }
}
