//! `DormantDatabase`: the record of a paused database. Type only.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::untyped::Unbuilt;

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
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<Unbuilt>,
}

/// What is known of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DormantDatabaseStatus {
    /// Where it stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}
